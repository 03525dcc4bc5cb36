//! What happens when others change a name between the look and the swap: the moments are set up by hand.

use std::{fs, path::Path};

use larder_common::ClusterId;
use nix::fcntl::open;
use nix::sys::stat::Mode;

use super::*;
use crate::OrphanName;

struct Scene {
    dir: tempfile::TempDir,
    root: Root,
}

/// All in `orphans`, by content.
fn orphans(root: &Root) -> Vec<String> {
    let mut found = Vec::new();
    for (_, directory) in root.privates(Private::Orphans) {
        let mut entries = nix::dir::Dir::from_fd(directory).unwrap();
        let names: Vec<_> = entries.iter().map(|e| e.unwrap().file_name().to_owned()).collect();
        for name in names.into_iter().filter(|n| !n.to_bytes().starts_with(b".")) {
            let fd = nix::fcntl::openat(&entries, name.as_c_str(), OFlag::O_RDONLY, Mode::empty()).unwrap();
            found.push(std::io::read_to_string(fs::File::from(fd)).unwrap());
        }
    }
    found.sort();
    found
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path(), ClusterId::default()).unwrap();
        Self { dir, root }
    }

    fn path(&self) -> ObjectPath {
        ObjectPath::new("f").unwrap()
    }

    fn put(&self, content: &str) -> Fingerprint {
        put(&self.dir.path().join("f"), content);
        self.root.place(&self.path()).unwrap().stat().unwrap().status.fingerprint
    }

    fn content(&self) -> Option<String> {
        fs::read_to_string(self.dir.path().join("f")).ok()
    }

    /// A temporary of ours.
    fn ours(&self, content: &str) -> (Place, OwnedFd) {
        let place = private_place(&self.root, Private::Temporaries, &self.path(), &Name::new("ours").unwrap()).unwrap();
        let name = self.dir.path().join(format!(".larder/{}/tmp/ours", ClusterId::default()));
        put(&name, content);
        (place, open(&name, OFlag::O_RDONLY, Mode::empty()).unwrap())
    }

    fn temporary(&self) -> TemporaryName {
        TemporaryName::new(self.path(), Name::new("ours").unwrap())
    }
}

/// Replaces a file by another inode, as an editor does.
fn put(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(&new, path).unwrap();
}

#[test]
fn what_came_meanwhile_is_put_back() {
    let scene = Scene::new();
    let known = scene.put("known");
    scene.put("foreign");
    let (ours, file) = scene.ours("ours");
    let target = scene.root.place(&scene.path()).unwrap();
    let error = replace(&scene.root, &ours, &target, &file, &known, &Displaced::Unlink).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Changed);
    assert_eq!(scene.content().unwrap(), "foreign");
    assert!(ours.look().unwrap().is_some(), "our own is still there for another attempt");
    assert!(orphans(&scene.root).is_empty());
}

#[test]
fn the_second_foreign_file_gets_the_name_and_the_first_is_kept() {
    let scene = Scene::new();
    scene.put("second");
    let (slot, _) = scene.ours("first");
    let other = tempfile::tempfile().unwrap();
    let target = scene.root.place(&scene.path()).unwrap();
    // Our exchange brought `first` out, and `second` was renamed over ours before we put it back.
    let error = put_back(&scene.root, &slot, &target, &other.into(), changed(&target, "was replaced meanwhile"));
    assert_eq!(scene.content().unwrap(), "second");
    assert_eq!(orphans(&scene.root), ["first"]);
    assert!(error.to_string().contains("foreign-"), "{error}");
}

#[test]
fn a_foreign_file_comes_back_although_the_name_was_removed() {
    let scene = Scene::new();
    let (slot, _) = scene.ours("foreign");
    let other = tempfile::tempfile().unwrap();
    let target = scene.root.place(&scene.path()).unwrap();
    put_back(&scene.root, &slot, &target, &other.into(), changed(&target, "was replaced meanwhile"));
    assert_eq!(scene.content().unwrap(), "foreign");
}

#[test]
fn without_exchange_the_old_file_is_linked_first() {
    let scene = Scene::new();
    let known = scene.put("known");
    let (ours, _) = scene.ours("ours");
    let target = scene.root.place(&scene.path()).unwrap();
    let wrong = Fingerprint { size: 77, ..known.clone() };
    let error = replace_by_link(&scene.root, &ours, &target, &wrong, &Displaced::Unlink).unwrap_err();
    assert_eq!((error.kind(), scene.content().unwrap()), (ErrorKind::Changed, "known".into()));
    let orphan = OrphanName::new(scene.path(), Name::new("kept").unwrap());
    replace_by_link(&scene.root, &ours, &target, &known, &Displaced::Keep(orphan)).unwrap();
    assert_eq!(scene.content().unwrap(), "ours");
    assert_eq!(orphans(&scene.root), ["known"]);
}

#[test]
fn a_removal_whose_name_was_taken_again_keeps_both() {
    let scene = Scene::new();
    let known = scene.put("foreign");
    let orphan = OrphanName::new(scene.path(), Name::new("o").unwrap());
    let out = private_place(&scene.root, Private::Orphans, &scene.path(), &orphan.name).unwrap();
    move_to_free(&scene.root.place(&scene.path()).unwrap(), &out).unwrap();
    scene.put("newer");
    let removal = Removal { expected: known, orphan, keep: false, sync: false };
    assert!(remove(&scene.root, &scene.path(), &removal).is_err());
    assert_eq!((scene.content().unwrap(), orphans(&scene.root)), ("newer".into(), vec!["foreign".into()]));
}

#[test]
fn attributes_are_there_before_the_name_is() {
    let scene = Scene::new();
    scene.ours("ours");
    let asked = Attributes { mode: Some(0o600), xattrs: Some(Vec::new()), ..Attributes::default() };
    let asked = Publish { attributes: asked, ..Publish::new_file() };
    publish(&scene.root, &scene.temporary(), &scene.path(), &asked).unwrap();
    let place = scene.root.place(&scene.path()).unwrap();
    assert_eq!(place.stat().unwrap().status.mode, 0o600);
    for private in [Private::Temporaries, Private::Orphans] {
        let directory = scene.root.private(&scene.path(), private, true).unwrap();
        assert_eq!(syscalls::stat(directory.as_fd(), b"").unwrap().status.mode, 0o700);
    }
}
