//! Patches and files with several names: what a worker wrote in place is recorded, what is not known counts as failed, and a
//! replaced file keeps its names, also when the master is killed on the way.

use std::os::unix::fs::MetadataExt;

use larder_common::{Error, ErrorKind, Generation, Name, WorkerId};
use larder_ufs::{Content, ObjectPath, TemporaryName};
use parking_lot::Mutex;

use super::{namespace::Patcher, store::Fault, *};
use crate::state::{ByteRange, Temporary};

const MODIFIED: Timestamp = Timestamp(1_700_000_000_123_456_789);

fn patch(path: &str, expected: Fingerprint) -> Operation {
    Operation::Patch {
        file: FileId(5),
        generation: Generation(6),
        worker: WorkerId([1; 16]),
        target: rel(path),
        expected,
        ranges: vec![ByteRange { offset: 1, length: 1 }],
        length: 3,
        mode: 0o600,
        modified: MODIFIED,
    }
}

fn failed(result: Option<UnderResult>) -> ErrorKind {
    match result {
        Some(UnderResult::Failed(error)) => error.kind(),
        other => panic!("{other:?}"),
    }
}

/// A real directory that is mounted, and what writes into it as a worker would.
struct Site {
    directory: tempfile::TempDir,
    namespace: Arc<Namespace>,
    under: UnderStores,
    store: Arc<dyn UnderStore>,
}

impl Site {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let namespace = Namespace::new(row());
        let opener = Arc::new(super::directory::Directory(directory.path().to_owned()));
        let settings = Settings { timeout: Duration::from_secs(5), ..settings() };
        let under = UnderStores::new(Arc::clone(&namespace) as _, opener, SystemClock::shared(), settings);
        under.start();
        let mount = under.mounts().get(MountId::ROOT).unwrap();
        mount.until_working(soon()).await.unwrap();
        let store = mount.store().unwrap();
        Self { directory, namespace, under, store }
    }

    async fn act(&self, operation: Operation) -> Option<UnderResult> {
        let action = action(operation);
        let intent = self.namespace.open(&action);
        let result = self.under.act(intent, action, soon()).await;
        super::super::Ledger::conclude(&*self.namespace, intent, result.as_ref().unwrap()).unwrap();
        result
    }

    async fn done(&self, operation: Operation) -> Fingerprint {
        match self.act(operation).await {
            Some(UnderResult::Done(done)) => done.fingerprint.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// A temporary that a worker has filled.
    async fn temporary(&self, name: &str, content: &'static str) -> Source {
        let temporary = TemporaryName::new(ObjectPath::new("f").unwrap(), Name::new(name).unwrap());
        self.store.upload_whole(&temporary, Content::Bytes(content.into()), false).await.unwrap();
        let attempt = larder_common::AttemptId(1);
        Source::Temporary(Temporary { attempt, mount: MountId::ROOT, name: name.into() })
    }

    async fn publish(&self, path: &str, content: &'static str) -> Fingerprint {
        let source = self.temporary(&format!("t-{path}"), content).await;
        self.done(publish(path, source, Expected::Absent, Foreign::Refuse)).await
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(path)).unwrap()
    }

    fn inode(&self, path: &str) -> (u64, u64) {
        let metadata = std::fs::metadata(self.directory.path().join(path)).unwrap();
        (metadata.ino(), metadata.nlink())
    }

    /// A worker that writes `content` into the file, and then `after` happens.
    fn worker(&self, path: &str, content: &'static str, after: impl Fn() + Send + Sync + 'static) {
        let (file, store) = (self.directory.path().join(path), Arc::clone(&self.store));
        let object = ObjectPath::new(path).unwrap();
        let after = Arc::new(after);
        let patcher: Patcher = Arc::new(move |_, _| {
            let (file, store, object, after) = (file.clone(), Arc::clone(&store), object.clone(), Arc::clone(&after));
            Box::pin(async move {
                std::fs::write(&file, content).unwrap();
                let status = store.status(&object).await?;
                after();
                Ok(status.fingerprint)
            })
        });
        self.namespace.patch_by(patcher);
    }
}

#[tokio::test]
async fn a_patch_is_recorded_with_the_time_and_mode_that_were_planned() {
    let site = Site::new().await;
    let before = site.publish("f", "old").await;
    site.worker("f", "oXd", || {});
    let after = site.done(patch("f", before.clone())).await;
    assert_eq!((after.inode, after.modified, after.size), (before.inode, MODIFIED, 3));
    assert_eq!(site.read("f"), "oXd");
    let metadata = std::fs::metadata(site.directory.path().join("f")).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o600);
    assert_eq!(site.namespace.at("f").unwrap().fingerprint, Some(after.clone()));
    tokio::time::sleep(Duration::from_millis(60)).await;
    let seen = site.store.status(&ObjectPath::new("f").unwrap()).await.unwrap();
    assert_eq!(seen.fingerprint, after, "a look finds what was recorded");
    site.under.stop();
}

#[tokio::test]
async fn a_patch_that_others_write_into_counts_as_failed() {
    let site = Site::new().await;
    let before = site.publish("f", "old").await;
    let file = site.directory.path().join("f");
    site.worker("f", "oXd", move || std::fs::write(&file, "foreign").unwrap());
    assert_eq!(failed(site.act(patch("f", before)).await), ErrorKind::Changed);
    site.under.stop();
}

#[tokio::test]
async fn a_worker_that_does_not_answer_fails_the_patch_at_once_and_not_the_mount() {
    let site = Site::new().await;
    let before = site.publish("f", "old").await;
    for kind in [ErrorKind::Deadline, ErrorKind::Unavailable, ErrorKind::Changed] {
        site.namespace.patch_by(Arc::new(move |_, _| Box::pin(async move { Err(Error::new(kind, "no")) })));
        assert_eq!(failed(site.act(patch("f", before.clone())).await), kind);
        assert_eq!(site.namespace.intents(), 0, "nothing is left to find out about");
    }
    site.publish("g", "works").await;
    site.under.stop();
}

#[tokio::test]
async fn a_patch_that_a_restart_finds_open_is_not_done_again() {
    let rig = Rig::new().await;
    rig.publish("f", "old").await;
    let calls = Arc::new(Mutex::new(0));
    let count = Arc::clone(&calls);
    rig.namespace.patch_by(Arc::new(move |_, _| {
        *count.lock() += 1;
        Box::pin(async { Err(Error::new(ErrorKind::Unavailable, "no")) })
    }));
    let intent = rig.namespace.open(&action(patch("f", rig.recorded("f"))));
    let rig = rig.restart().await;
    eventually("it has an outcome", || rig.namespace.intents() == 0).await;
    assert_eq!(failed(rig.namespace.result(intent)), ErrorKind::Changed);
    assert_eq!(*calls.lock(), 0);
    assert_eq!(rig.store.read("f").unwrap(), "old");
}

#[tokio::test]
async fn after_a_failed_patch_the_inode_is_replaced_whatever_is_in_it() {
    let site = Site::new().await;
    let before = site.publish("f", "old").await;
    std::fs::write(site.directory.path().join("f"), "half-written").unwrap();
    let source = site.temporary("t2", "whole").await;
    let keep = Foreign::KeepAside(rel("f.larder-conflict-1"));
    let after = site.done(publish("f", source, Expected::Inode(before.clone()), keep.clone())).await;
    assert_eq!(site.read("f"), "whole");
    assert_ne!(after.inode, before.inode, "a late write goes to an inode without a name");
    assert!(!site.directory.path().join("f.larder-conflict-1").exists(), "what was half-written was ours");
    // Another file under the name is somebody else's.
    std::fs::write(site.directory.path().join("new"), "theirs").unwrap();
    std::fs::rename(site.directory.path().join("new"), site.directory.path().join("f")).unwrap();
    let source = site.temporary("t3", "ours").await;
    site.done(publish("f", source, Expected::Inode(after), keep)).await;
    assert_eq!((site.read("f").as_str(), site.read("f.larder-conflict-1").as_str()), ("ours", "theirs"));
    site.under.stop();
}

fn with_links(operation: Operation, names: &[&str]) -> Operation {
    let Operation::Publish {
        file, generation, source, target, expected, foreign, owner, modified, xattrs, orphan, ..
    } = operation
    else {
        panic!("not a publication")
    };
    let links = names.iter().map(|name| rel(name)).collect();
    Operation::Publish { file, generation, source, target, expected, foreign, owner, modified, xattrs, orphan, links }
}

#[tokio::test]
async fn a_replaced_file_keeps_all_its_names() {
    let site = Site::new().await;
    site.publish("f", "old").await;
    std::fs::create_dir(site.directory.path().join("d")).unwrap();
    for name in ["g", "d/h"] {
        std::fs::hard_link(site.directory.path().join("f"), site.directory.path().join(name)).unwrap();
    }
    // Somebody gave one of the names to another file, and took one away.
    std::fs::write(site.directory.path().join("theirs"), "theirs").unwrap();
    let now = site.store.status(&ObjectPath::new("f").unwrap()).await.unwrap().fingerprint;
    let source = site.temporary("t2", "new").await;
    let operation = publish("f", source, Expected::Fingerprint(now), Foreign::Refuse);
    let print = site.done(with_links(operation, &["g", "d/h", "theirs", "gone"])).await;
    for name in ["f", "g", "d/h", "gone"] {
        assert_eq!(site.read(name), "new", "{name}");
        assert_eq!(site.inode(name), (print.inode, 4), "{name}");
    }
    assert_eq!(site.read("theirs"), "theirs");
    let seen = site.store.status(&ObjectPath::new("f").unwrap()).await.unwrap();
    assert_eq!(seen.fingerprint, print, "what is recorded is what it looks like with all its names");
    let hidden = std::fs::read_dir(site.directory.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".larder-"));
    assert_eq!(hidden.count(), 0, "nothing is left on the way");
    site.under.stop();
}

async fn crash(step: u64, fault: Fault) {
    let what = format!("step {step}, {fault:?}");
    let rig = Rig::new().await;
    rig.publish("f", "old").await;
    rig.done(Operation::Link { from: rel("f"), to: rel("g") }).await;
    let old = Expected::Fingerprint(rig.store.status_of("f"));
    let operation = publish("f", rig.store.temporary("new"), old, Foreign::Refuse);
    let action = action(with_links(operation, &["g"]));
    rig.store.fail_at(step, fault);
    let intent = rig.namespace.open(&action);
    if let Some(result) = rig.under.act(intent, action, Instant::now() + Duration::from_millis(40)).await {
        super::super::Ledger::conclude(&*rig.namespace, intent, &result).unwrap();
    }
    let rig = rig.restart().await;
    eventually(&what, || rig.namespace.intents() == 0).await;
    let content = match rig.namespace.result(intent).unwrap() {
        UnderResult::Done(_) => "new",
        UnderResult::Failed(_) => "old",
    };
    assert_eq!(rig.store.names(), ["f", "g"], "{what}");
    for name in ["f", "g"] {
        assert_eq!(rig.store.read(name).unwrap(), content, "{what}: {name}");
    }
    assert_eq!(rig.store.status_of("f").inode, rig.store.status_of("g").inode, "{what}: one file");
}

#[tokio::test]
async fn a_crash_on_the_way_leaves_all_names_old_or_all_new() {
    let steps = (0..7).flat_map(|step| [Fault::HangBefore, Fault::HangAfter].map(|fault| crash(step, fault)));
    futures_util::future::join_all(steps).await;
}
