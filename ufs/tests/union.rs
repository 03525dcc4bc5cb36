//! Unions: several directories as one tree, of which only the first is changed.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use larder_common::{ClusterId, ErrorKind, Fingerprint, Name, Result};
use larder_ufs::{
    Attributes, Content, Displaced, Expected, ObjectPath, OpenOptions, OrphanName, Publish, Removal, Rename,
    TemporaryName, UnderStore, contract, open, union::UnionStore,
};

struct Site {
    dir: tempfile::TempDir,
    union: UnionStore,
}

fn path(text: &str) -> ObjectPath {
    ObjectPath::new(text).unwrap()
}

/// All files below a directory with their content, but for what stores keep for themselves.
fn files(directory: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        match entry.file_type().unwrap().is_dir() {
            true if name == ".larder" => {}
            true => all.extend(files(&entry.path()).into_iter().map(|(below, text)| (format!("{name}/{below}"), text))),
            false => drop(all.insert(name, fs::read_to_string(entry.path()).unwrap())),
        }
    }
    all
}

impl Site {
    async fn new(base: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for branch in ["patch", "base"] {
            fs::create_dir(dir.path().join(branch)).unwrap();
        }
        for (name, text) in base {
            let file = dir.path().join("base").join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let at = |branch: &str| dir.path().join(branch).to_str().unwrap().to_owned();
        let text = format!("{}:rw,{}:ro", at("patch"), at("base"));
        let union = UnionStore::open(&text, OpenOptions::new(ClusterId::random().unwrap())).await.unwrap();
        Self { union, dir }
    }

    fn branch(&self, name: &str) -> BTreeMap<String, String> {
        files(&self.dir.path().join(name))
    }

    async fn print(&self, name: &str) -> Fingerprint {
        self.union.status(&path(name)).await.unwrap().fingerprint
    }

    async fn write(&self, name: &str, text: &'static str, publish: Publish) -> Result<Fingerprint> {
        let temporary = TemporaryName::new(path(name), Name::new(format!("t-{}", name.replace('/', "-"))).unwrap());
        self.union.upload_whole(&temporary, Content::Bytes(text.into()), false).await?;
        let published = self.union.publish(&temporary, &path(name), publish).await;
        self.union.destroy_temporary(&temporary).await?;
        published
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let orphan = OrphanName::new(path(name), Name::new("o").unwrap());
        let expected = self.union.status(&path(name)).await?.fingerprint;
        self.union.remove(&path(name), Removal { expected, orphan, keep: false, sync: false }).await
    }

    async fn read(&self, name: &str) -> Result<String> {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&kept);
        let sink = move |_: u64, bytes: &[u8]| {
            into.lock().unwrap().extend_from_slice(bytes);
            Ok(())
        };
        self.union.fetch(&path(name), None, 0..u64::MAX, Box::new(sink)).await?;
        let bytes = kept.lock().unwrap().clone();
        Ok(String::from_utf8(bytes).unwrap())
    }

    async fn names(&self, directory: &str, limit: usize) -> Vec<String> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.union.list(&path(directory), after.as_ref(), limit).await.unwrap();
            after = page.entries.last().map(|(name, _)| name.clone()).or(after);
            all.extend(page.entries.iter().map(|(name, _)| name.to_string()));
            if !page.more {
                return all;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_union_holds_to_the_contract() {
    let site = Site::new(&[("there", "x")]).await;
    let report = contract::run(Arc::new(site.union)).await;
    println!("{report}");
    assert!(report.broken.is_empty(), "{report}");
    let dir = tempfile::tempdir().unwrap();
    let text = format!("union://memory://union-a:rw,{}:ro", dir.path().display());
    let report = contract::run(open(&text, OpenOptions::new(ClusterId::random().unwrap())).await.unwrap()).await;
    assert!(report.broken.is_empty(), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_branch_wins_and_takes_every_change() {
    let site = Site::new(&[("a", "base a"), ("d/b", "base b"), ("d/c", "base c"), ("e/f/g", "base g")]).await;
    let before = site.branch("base");
    assert_eq!(site.names("", 10).await, ["a", "d", "e"]);
    let known = site.print("d/b").await;
    site.write("d/b", "ours", Publish::replacing(known.clone())).await.unwrap();
    assert_eq!(site.read("d/b").await.unwrap(), "ours");
    let late = site.write("d/b", "late", Publish::replacing(known)).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Changed);
    let taken = site.write("d/c", "new", Publish::new_file()).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    site.write("e/f/new", "new", Publish::new_file()).await.unwrap();
    for limit in 1..4 {
        assert_eq!(site.names("d", limit).await, ["b", "c"]);
        assert_eq!(site.names("e/f", limit).await, ["g", "new"]);
    }
    assert!(site.union.which(&path("d/b")).await.unwrap().ends_with("/patch/d/b"));
    assert!(site.union.which(&path("d/c")).await.unwrap().ends_with("/base/d/c"));
    assert_eq!(site.branch("base"), before);
    let patch = site.branch("patch");
    assert_eq!(
        patch.into_iter().collect::<Vec<_>>(),
        [("d/b".into(), "ours".into()), ("e/f/new".into(), "new".into())]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_removed_is_hidden_and_does_not_come_back() {
    let site = Site::new(&[("a", "base a"), ("d/b", "base b"), ("d/c", "base c")]).await;
    let before = site.branch("base");
    site.remove("a").await.unwrap();
    assert_eq!(site.union.status(&path("a")).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(site.names("", 1).await, ["d"]);
    site.write("a", "again", Publish::new_file()).await.unwrap();
    site.remove("a").await.unwrap();
    assert_eq!(site.read("a").await.unwrap_err().kind(), ErrorKind::NotFound);
    let full = site.union.remove_directory(&path("d")).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::NotEmpty);
    site.remove("d/b").await.unwrap();
    site.remove("d/c").await.unwrap();
    site.union.remove_directory(&path("d")).await.unwrap();
    assert!(site.names("", 5).await.is_empty());
    site.union.make_directory(&path("d"), Attributes::default()).await.unwrap();
    assert!(site.names("d", 5).await.is_empty(), "what was removed with the old directory stays so");
    assert_eq!(site.read("d/b").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(site.union.status(&path("d/.wh.b")).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(site.branch("base"), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renames_stay_in_the_first_branch() {
    let site = Site::new(&[("a", "base a"), ("d/b", "base b")]).await;
    let rename = |source| Rename { source, target: Expected::Absent, displaced: Displaced::Unlink, sync: false };
    for name in ["a", "d"] {
        let crosses = site.union.rename(&path(name), &path("new"), rename(site.print(name).await)).await.unwrap_err();
        assert_eq!(crosses.kind(), ErrorKind::CrossesMounts, "{name}");
    }
    let known = site.print("a").await;
    let ours = site.write("a", "ours", Publish::replacing(known)).await.unwrap();
    site.union.rename(&path("a"), &path("new"), rename(ours)).await.unwrap();
    assert_eq!(site.names("", 5).await, ["d", "new"]);
    assert_eq!(site.read("new").await.unwrap(), "ours");
    let over = Rename { target: Expected::Fingerprint(site.print("d/b").await), ..rename(site.print("new").await) };
    site.union.rename(&path("new"), &path("d/b"), over).await.unwrap();
    assert_eq!(site.read("d/b").await.unwrap(), "ours");
    let refused =
        site.union.set_attributes(&path("d"), Attributes { mode: Some(0o700), ..Attributes::default() }).await;
    assert_eq!(refused.unwrap().mode, 0o700);
}

#[tokio::test]
async fn only_the_first_branch_can_take_changes() {
    for (text, why) in [
        ("/a", "rw nor"),
        ("/a:rw", "2 to"),
        ("/a:ro,/b:rw", "only the first"),
        ("/a:rw,:ro", "no store"),
        ("/a:rw,/b", "neither"),
    ] {
        let error = UnionStore::open(text, OpenOptions::new(ClusterId::default())).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.message().contains(why), "{text}: {error}");
    }
}
