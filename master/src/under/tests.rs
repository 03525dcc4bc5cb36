//! All of it together, over a store and a namespace in memory: what an engineer needs to trust that the two agree, after
//! crashes at every step, stores that hang, and changes by others.

mod crash;
mod directory;
mod edits;
mod fresh;
mod namespace;
mod publish;
mod real;
mod store;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use larder_common::{FileId, Fingerprint, FsPath, MountId, Result, Timestamp, clock::SystemClock};
use larder_ufs::UnderStore;

use self::{namespace::Namespace, store::MemoryStore};
use super::{Boxed, MountRow, Opener, Settings, UnderStores};
use crate::state::{Expected, Foreign, Operation, Owner, Relative, Source, UnderAction, UnderResult};

/// Opens one store that is there already.
#[derive(Debug)]
struct Ready(Arc<MemoryStore>);

impl Opener for Ready {
    fn open(&self, _mount: &MountRow) -> Boxed<'static, Result<Arc<dyn UnderStore>>> {
        let store: Arc<dyn UnderStore> = Arc::clone(&self.0) as _;
        Box::pin(async move { Ok(store) })
    }
}

static NEXT: AtomicU64 = AtomicU64::new(1000);

struct Rig {
    store: Arc<MemoryStore>,
    namespace: Arc<Namespace>,
    under: UnderStores,
}

impl Rig {
    /// A mounted store with nothing in it.
    async fn new() -> Self {
        Self::on(MemoryStore::new(), Namespace::new(row()), settings()).await
    }

    async fn on(store: Arc<MemoryStore>, namespace: Arc<Namespace>, settings: Settings) -> Self {
        let opener = Arc::new(Ready(Arc::clone(&store)));
        let under = UnderStores::new(Arc::clone(&namespace) as _, opener, SystemClock::shared(), settings);
        under.start();
        let rig = Self { store, namespace, under };
        rig.mount().until_working(soon()).await.unwrap();
        rig
    }

    /// The next master on the same store and namespace, after this one has been killed.
    async fn restart(self) -> Self {
        let Self { store, namespace, under } = self;
        under.stop();
        store.revive();
        Self::on(store, namespace, settings()).await
    }

    fn mount(&self) -> Arc<super::LiveMount> {
        self.under.mounts().get(MountId::ROOT).unwrap()
    }

    /// Does an action as the core would.
    async fn act(&self, operation: Operation) -> Option<UnderResult> {
        self.act_all(action(operation)).await
    }

    async fn act_all(&self, action: UnderAction) -> Option<UnderResult> {
        let intent = self.namespace.open(&action);
        let result = self.under.act(intent, action, soon()).await;
        if let Some(result) = &result {
            super::Ledger::conclude(&*self.namespace, intent, result).unwrap();
        }
        result
    }

    async fn done(&self, operation: Operation) -> Option<Fingerprint> {
        match self.act(operation).await {
            Some(UnderResult::Done(done)) => done.fingerprint,
            other => panic!("{other:?}"),
        }
    }

    /// Publishes a file of a worker's.
    async fn publish(&self, path: &str, content: &str) {
        let temporary = self.store.temporary(content);
        self.done(publish(path, temporary, Expected::Absent, Foreign::Refuse)).await;
    }

    fn recorded(&self, path: &str) -> Fingerprint {
        self.namespace.at(path).and_then(|known| known.fingerprint).unwrap()
    }

    async fn list(&self) -> Result<()> {
        self.load(FileId::ROOT, "", None).await.map(drop)
    }

    async fn load(&self, directory: FileId, path: &str, name: Option<&str>) -> Result<Vec<larder_common::Name>> {
        let (path, name) = (rel(path), name.map(|name| larder_common::Name::new(name).unwrap()));
        let needs = crate::state::NeedsLoad { directory, mount: MountId::ROOT, path, name };
        Ok(self.under.load(needs, soon() + Duration::from_secs(30)).await?.into_iter().map(|(_, name)| name).collect())
    }

    async fn fresh(&self, path: &str) -> Result<super::Validity> {
        self.under.ensure_fresh(&FsPath::parse(path).unwrap(), soon()).await
    }
}

fn row() -> MountRow {
    row_with(&[])
}

fn row_with(options: &[(&str, &str)]) -> MountRow {
    let options: BTreeMap<_, _> = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let (id, path, root) = (MountId::ROOT, FsPath::root(), FileId::ROOT);
    MountRow { id, path, root, uri: "memory:test".into(), read_only: false, options }
}

fn settings() -> Settings {
    Settings { timeout: Duration::from_millis(300), ..Settings::default() }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn rel(path: &str) -> Relative {
    Relative(path.as_bytes().to_vec())
}

fn owner() -> Owner {
    Owner { mode: 0o640, uid: 7, gid: 8 }
}

fn action(operation: Operation) -> UnderAction {
    UnderAction { mount: MountId::ROOT, directories: Vec::new(), destroy: Vec::new(), operation, sync: false }
}

fn publish(path: &str, source: Source, expected: Expected, foreign: Foreign) -> Operation {
    let number = NEXT.fetch_add(2, Ordering::SeqCst);
    Operation::Publish {
        file: FileId(number),
        generation: larder_common::Generation(number + 1),
        source,
        target: rel(path),
        expected,
        foreign,
        owner: owner(),
        modified: Timestamp(1_700_000_000_000_000_000 + i64::try_from(number).unwrap()),
        xattrs: Vec::new(),
        orphan: None,
        links: Vec::new(),
    }
}

fn remove(path: &str, expected: Expected, directory: bool) -> Operation {
    Operation::Remove { target: rel(path), expected, directory, orphan: None }
}

fn rename(from: &str, to: &str, expected: Expected, replaced: Expected) -> Operation {
    Operation::Rename { from: rel(from), to: rel(to), expected, replaced, orphan: None }
}

/// Waits until something is so; fails after some seconds.
async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let limit = soon();
    while !is_so() {
        assert!(Instant::now() < limit, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether something ends within a time.
async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, future).await.expect("it hangs")
}
