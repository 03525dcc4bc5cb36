//! What is particular to directories: foreign changes at bad moments, the page cache, further file systems, watching.
//! What all stores share is in the contract suite.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use larder_common::ClusterId;
use parking_lot::Mutex;

use super::*;
use crate::Event;

fn path(text: &str) -> ObjectPath {
    ObjectPath::new(text).unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

async fn store(dir: &Path) -> LocalStore {
    LocalStore::open(dir, OpenOptions::new(ClusterId::default())).await.unwrap()
}

fn ignore() -> Box<dyn Sink> {
    Box::new(|_: u64, _: &[u8]| Ok(()))
}

/// A sink that does something to a file when the first bytes come.
fn meddle(change: impl FnOnce() + Send + 'static) -> Box<dyn Sink> {
    let mut change = Some(change);
    Box::new(move |_: u64, _: &[u8]| {
        if let Some(change) = change.take() {
            change();
        }
        Ok(())
    })
}

#[tokio::test]
async fn a_change_while_it_is_read_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let file: PathBuf = dir.path().join("f");
    for size in [1_000, 5 << 20] {
        fs::write(&file, vec![1; size]).unwrap();
        let other = file.clone();
        let append = move || fs::File::options().append(true).open(&other).unwrap().write_all(b"x").unwrap();
        let error = store.fetch(&path("f"), None, 0..u64::MAX, meddle(append)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
        let other = file.clone();
        let cut = move || fs::File::options().write(true).open(&other).unwrap().set_len(10).unwrap();
        let error = store.fetch(&path("f"), None, 0..u64::MAX, meddle(cut)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
    }
}

#[tokio::test]
async fn what_is_not_in_memory_is_read_by_a_thread() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let content: Vec<u8> = (0..900_000u32).map(|i| (i % 253) as u8).collect();
    let file = dir.path().join("f");
    fs::write(&file, &content).unwrap();
    for cold in [false, true, false] {
        let open = fs::File::open(&file).unwrap();
        if cold {
            open.sync_all().unwrap();
            let none = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            nix::fcntl::posix_fadvise(&open, 0, 0, none).unwrap();
        }
        let kept = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&kept);
        let sink = move |_: u64, bytes: &[u8]| {
            into.lock().extend_from_slice(bytes);
            Ok(())
        };
        store.fetch(&path("f"), None, 5..u64::MAX, Box::new(sink)).await.unwrap();
        assert!(*kept.lock() == content[5..], "cold: {cold}");
    }
}

#[tokio::test]
async fn a_young_fingerprint_is_not_called_settled() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    fs::write(dir.path().join("f"), "x").unwrap();
    let young = store.fetch(&path("f"), None, 0..1, ignore()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    let old = store.fetch(&path("f"), None, 0..1, ignore()).await.unwrap();
    assert!(!young.settled && old.settled);
    assert_eq!(young.fingerprint, old.fingerprint);
}

#[tokio::test]
async fn a_root_that_is_missing_or_a_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let options = OpenOptions::new(ClusterId::default());
    let error = LocalStore::open(dir.path().join("none"), options.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("none") && error.to_string().contains("make it"), "{error}");
    fs::write(dir.path().join("file"), "").unwrap();
    let error = LocalStore::open(dir.path().join("file"), options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotDirectory);
}

#[tokio::test]
async fn another_cluster_s_temporaries_are_not_ours() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (store(dir.path()).await, OpenOptions::new(ClusterId([7; 16])));
    let theirs = LocalStore::open(dir.path(), theirs).await.unwrap();
    let temporary = TemporaryName::new(path("f"), name("t"));
    ours.upload_whole(&temporary, Content::Bytes(Bytes::from_static(b"x")), false).await.unwrap();
    assert!(theirs.list_temporaries().await.unwrap().is_empty());
    theirs.destroy_temporary(&temporary).await.unwrap();
    assert_eq!(ours.list_temporaries().await.unwrap().len(), 1);
}

/// Waits until an event names this, and gives all seen on the way.
async fn until(watch: &dyn Watch, wanted: &Event) -> Vec<Event> {
    let mut seen = Vec::new();
    let all = async {
        while !seen.contains(wanted) {
            seen.extend(watch.next_events().await.unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all).await.unwrap_or_else(|_| panic!("no {wanted:?}"));
    seen
}

fn event(directory: &str, name: Option<&str>) -> Event {
    Event::Changed { directory: path(directory), name: name.map(|n| Name::new(n).unwrap()) }
}

#[tokio::test]
async fn changes_of_others_are_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    let store = store(dir.path()).await;
    let watch = store.watch().unwrap();
    for directory in ["", "a", "a/b", "a"] {
        watch.add(&path(directory)).await.unwrap();
    }
    assert_eq!(watch.count(), 3);
    fs::write(dir.path().join("a/b/f"), "x").unwrap();
    until(&*watch, &event("a/b", Some("f"))).await;
    store.plant_proof(&name("p"), b"x").await.unwrap();
    fs::write(dir.path().join("g"), "x").unwrap();
    let seen = until(&*watch, &event("", Some("g"))).await;
    assert!(!seen.contains(&event("", Some(".larder"))), "{seen:?}");
    fs::rename(dir.path().join("a"), dir.path().join("c")).unwrap();
    let seen = until(&*watch, &event("", Some("a"))).await;
    assert!(seen.contains(&event("", Some("c"))) || watch.next_events().await.is_ok());
    assert_eq!(watch.count(), 1, "what moved is no longer watched");
    assert_eq!(watch.add(&path("none")).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(watch.add(&path("g")).await.unwrap_err().kind(), ErrorKind::NotDirectory);
}

#[tokio::test]
async fn a_directory_in_the_place_of_another_is_watched_or_said_not_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let watch = store.watch().unwrap();
    watch.add(&ObjectPath::root()).await.unwrap();
    for _ in 0..20 {
        let place = dir.path().join("d");
        fs::create_dir_all(&place).unwrap();
        watch.add(&path("d")).await.unwrap();
        // All of it is told only after the new one is watched.
        fs::remove_dir_all(&place).unwrap();
        fs::create_dir(&place).unwrap();
        watch.add(&path("d")).await.unwrap();
        fs::write(dir.path().join("mark"), "x").unwrap();
        let seen = until(&*watch, &event("", Some("mark"))).await;
        if seen.contains(&Event::Unwatched { directory: path("d") }) {
            watch.add(&path("d")).await.unwrap();
        }
        fs::write(place.join("f"), "x").unwrap();
        until(&*watch, &event("d", Some("f"))).await;
        fs::remove_file(dir.path().join("mark")).unwrap();
    }
}

#[tokio::test]
async fn lost_events_are_told() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap_or_default();
    let Ok(limit @ 1..=100_000) = limit.trim().parse::<usize>() else {
        println!("skipped: the queue of events is too long to fill");
        return;
    };
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let store = store(dir.path()).await;
    let watch = store.watch().unwrap();
    watch.add(&ObjectPath::root()).await.unwrap();
    for i in 0..=limit / 2 {
        let one = dir.path().join(format!("f{}", i % 2));
        fs::write(&one, "").unwrap();
        fs::remove_file(&one).unwrap();
    }
    until(&*watch, &Event::Overflow).await;
}

/// Mounts a tmpfs that only this thread and those it starts see; `false` where that is not allowed.
fn mount_tmpfs(at: &Path) -> bool {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let mounted = unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(None::<&str>, "/", None::<&str>, private, None::<&str>))
        .and_then(|()| mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>));
    if let Err(errno) = &mounted {
        println!("skipped: cannot mount ({errno})");
    }
    mounted.is_ok()
}

#[tokio::test]
async fn a_further_file_system_has_temporaries_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("sub dir/.larder")).unwrap();
    fs::create_dir(dir.path().join("plain")).unwrap();
    if !mount_tmpfs(&dir.path().join("sub dir")) {
        return;
    }
    fs::create_dir(dir.path().join("sub dir/deep")).unwrap();
    let store = store(dir.path()).await;
    let content = || Content::Bytes(Bytes::from_static(b"x"));
    let target = path("sub dir/deep/f");
    let there = TemporaryName::new(target.clone(), name("there"));
    store.upload_whole(&there, content(), false).await.unwrap();
    let own = dir.path().join(format!("sub dir/.larder/{}/tmp/there", ClusterId::default()));
    assert!(store.list_temporaries().await.unwrap().iter().any(|t| t.name == there.name));
    let listed = store.list(&path("sub dir"), None, 10).await.unwrap();
    let listed: Vec<_> = listed.entries.iter().map(|(n, _)| n.to_string()).collect();
    assert_eq!(listed, ["deep"], "its own directory is hidden there too, {}", own.display());
    assert_eq!(store.status(&path("sub dir/.larder")).await.unwrap_err().kind(), ErrorKind::NotFound);

    let wrong = store.publish(&there, &path("plain/f"), Publish::new_file()).await;
    assert_eq!(wrong.unwrap_err().kind(), ErrorKind::CrossesMounts);
    let print = store.publish(&there, &target, Publish::new_file()).await.unwrap();
    let rename =
        Rename { source: print, target: crate::Expected::Absent, displaced: crate::Displaced::Unlink, sync: false };
    let crossed = store.rename(&target, &path("plain/f"), rename).await;
    assert_eq!(crossed.unwrap_err().kind(), ErrorKind::CrossesMounts);
    let again = TemporaryName::new(path("plain/f"), name("again"));
    store.upload_whole(&TemporaryName::new(target, name("again")), content(), false).await.unwrap();
    store.destroy_temporary(&again).await.unwrap();
    assert!(store.list_temporaries().await.unwrap().is_empty(), "destroyed wherever it is");
}

/// An errand that writes down what happens to it.
#[derive(Debug)]
struct Note {
    object: ObjectPath,
    expected: Option<Fingerprint>,
    wanted: bool,
    bytes: Mutex<Vec<u8>>,
    ended: Mutex<Option<Result<Fetched>>>,
}

impl Note {
    fn new(object: &str, expected: Option<Fingerprint>, wanted: bool) -> Arc<Self> {
        let (object, bytes, ended) = (path(object), Mutex::default(), Mutex::default());
        Arc::new(Self { object, expected, wanted, bytes, ended })
    }

    fn kind(&self) -> Option<larder_common::ErrorKind> {
        self.ended.lock().as_ref().and_then(|ended| ended.as_ref().err()).map(Error::kind)
    }
}

impl Errand for Note {
    fn object(&self) -> &ObjectPath {
        &self.object
    }

    fn expected(&self) -> Option<&Fingerprint> {
        self.expected.as_ref()
    }

    fn range(&self) -> Range<u64> {
        0..u64::MAX
    }

    fn begin(&self) -> bool {
        self.wanted
    }

    fn accept(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        assert_eq!(offset, self.bytes.lock().len() as u64);
        self.bytes.lock().extend_from_slice(bytes);
        Ok(())
    }

    fn end(&self, fetched: Result<Fetched>) {
        assert!(self.ended.lock().replace(fetched).is_none(), "ended once");
    }
}

#[tokio::test]
async fn a_row_ends_each_by_itself_and_a_change_is_seen_in_it_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let content = vec![7; 1_300_000];
    fs::write(dir.path().join("large"), &content).unwrap();
    fs::write(dir.path().join("small"), "12345").unwrap();
    let was = store.status(&path("small")).await.unwrap().fingerprint;
    fs::write(dir.path().join("small"), "123456").unwrap();
    let row = [
        Note::new("large", None, true),
        Note::new("none", None, true),
        Note::new("small", Some(was), true),
        Note::new("small", None, false),
        Note::new("small", None, true),
    ];
    let errands: Vec<Arc<dyn Errand>> = row.iter().map(|note| Arc::clone(note) as _).collect();
    store.fetch_row(&errands).unwrap().await.unwrap();
    let fetched = row[0].ended.lock().take().unwrap().unwrap();
    assert_eq!((fetched.bytes, fetched.fingerprint.size), (1_300_000, 1_300_000));
    assert!(*row[0].bytes.lock() == content);
    assert_eq!(row[1].kind(), Some(larder_common::ErrorKind::NotFound));
    assert_eq!(row[2].kind(), Some(larder_common::ErrorKind::Changed), "another one than was expected");
    assert!(row[2].bytes.lock().is_empty() && row[3].ended.lock().is_none(), "left out");
    assert!(row[4].bytes.lock()[..] == *b"123456" && row[4].ended.lock().take().unwrap().is_ok());
}

#[tokio::test]
async fn rows_pass_by_layers_that_fetches_do_not_concern() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "12345").unwrap();
    let store: Arc<dyn UnderStore> = Arc::new(store(dir.path()).await);
    let note = Note::new("f", None, true);
    let read_only = crate::read_only::ReadOnly::around(Arc::clone(&store));
    read_only.fetch_row(&[Arc::clone(&note) as _]).unwrap().await.unwrap();
    assert_eq!(note.bytes.lock()[..], *b"12345");
    let throttled = crate::throttled::Throttled::around(store, 1, 1, Duration::from_secs(1));
    assert!(throttled.fetch_row(&[note as _]).is_none(), "it counts each fetch");
}
