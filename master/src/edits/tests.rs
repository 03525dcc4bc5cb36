//! A whole master over a real directory, with a worker that does what it is told: what a client's calls come to.

use std::{
    collections::BTreeMap,
    os::unix::fs::{FileExt, MetadataExt},
};

use larder_common::{Caller, FsPath, Generation, Incarnation, Locality, Name, Timestamp};
use larder_proto::{Grant, convert::WorkerAddress};
use larder_ufs::{Content, ObjectPath, OpenOptions, Patch as Change, TemporaryName, UnderStore};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::*;
use crate::{
    cluster::{BlockSet, Holding, registry::Registration},
    config::MasterConfig,
    server::Server,
    sessions::Replies,
    state::{AbandonFile, CreateFile, EditFile, EndSession, OpenSession, Remove, RemoveKind},
};

const WORKER: WorkerId = WorkerId([9; 16]);
const MIB: u64 = 1 << 20;

/// What the worker does next instead of what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whim {
    /// Fails before it has done anything.
    Fail,
    /// Writes half of a patch and fails.
    Half,
    /// Never answers, and does nothing.
    Silent,
}

/// The bytes of versions, and what the worker was told.
#[derive(Debug, Default)]
struct Shelf {
    versions: Mutex<BTreeMap<u64, Vec<u8>>>,
    orders: Mutex<Vec<String>>,
    whim: Mutex<Option<Whim>>,
    /// Whether the last version was to be synced.
    synced: Mutex<Option<bool>>,
}

/// Journal and under store.
#[derive(Debug)]
struct Places {
    journal: tempfile::TempDir,
    root: tempfile::TempDir,
}

struct Site {
    places: Arc<Places>,
    _server: Server,
    master: Arc<Master>,
    shelf: Arc<Shelf>,
    _tasks: tokio::task::JoinSet<()>,
}

async fn obey(shelf: &Shelf, store: &dyn UnderStore, what: order::What) -> Result<v1::OrderDone> {
    let whim = shelf.whim.lock().take();
    let tell = |text: String| shelf.orders.lock().push(text);
    let bytes = |generation: u64| shelf.versions.lock().get(&generation).cloned().unwrap();
    match what {
        order::What::Persist(persist) => {
            let grant = Grant::peek(&persist.grant)?;
            tell(format!("persist {}", grant.generation));
            if whim == Some(Whim::Fail) {
                return Err(Error::new(ErrorKind::NoSpace, "the under store is full"));
            }
            let right = grant.write.unwrap();
            *shelf.synced.lock() = Some(right.sync);
            let name = Name::new(&right.temporary)?;
            let temporary = TemporaryName::new(ObjectPath::new(&grant.object)?, name);
            let content = Content::Bytes(bytes(grant.generation.0).into());
            store.upload_whole(&temporary, content, false).await?;
        }
        order::What::Patch(patch) => {
            let grant = Grant::peek(&patch.grant)?;
            tell(format!("patch {} {}", grant.generation, patch.ranges.len()));
            let file = tempfile::tempfile()?;
            file.write_all_at(&bytes(grant.generation.0), 0)?;
            let mut ranges: Vec<_> = patch.ranges.iter().map(|r| r.offset..r.offset + r.length).collect();
            match whim {
                Some(Whim::Silent) => std::future::pending::<()>().await,
                Some(Whim::Fail) => return Err(Error::new(ErrorKind::Unavailable, "no")),
                Some(Whim::Half) => ranges.truncate(1),
                None => {}
            }
            let change = Change { source: Arc::new(file), ranges, length: patch.length, sync: patch.sync };
            let print = store.patch(&ObjectPath::new(&grant.object)?, &grant.fingerprint.unwrap(), change).await?;
            if whim == Some(Whim::Half) {
                return Err(Error::new(ErrorKind::Unavailable, "the worker's connection ended"));
            }
            return Ok(v1::OrderDone { fingerprint: Some((&print).into()), ..Default::default() });
        }
        order::What::RollForward(roll) => {
            tell(format!("roll forward {}", roll.lease));
            return Ok(v1::OrderDone {
                receipt: Some(receipt(bytes(roll.generation).len() as u64)),
                ..Default::default()
            });
        }
        order::What::Forget(forget) if forget.lease != 0 => tell(format!("roll back {}", forget.lease)),
        _ => {}
    }
    Ok(v1::OrderDone::default())
}

fn receipt(length: u64) -> v1::Receipt {
    let worker = WORKER.to_bytes().into();
    v1::Receipt { worker, incarnation: 1, length, cached: true, ..Default::default() }
}

impl Site {
    async fn new() -> Self {
        Self::on(Arc::new(Places { journal: tempfile::tempdir().unwrap(), root: tempfile::tempdir().unwrap() })).await
    }

    async fn on(places: Arc<Places>) -> Self {
        let root = places.root.path().to_owned();
        let config = MasterConfig {
            journal: places.journal.path().join("journal"),
            root: root.display().to_string(),
            safe_mode: Duration::ZERO,
            ..MasterConfig::default()
        };
        let server = Server::start(config).await.unwrap();
        let master = Arc::clone(server.master());
        let uri = root.display().to_string();
        let store = larder_ufs::open(&uri, OpenOptions::new(master.cluster)).await.unwrap();
        let shelf = Arc::new(Shelf::default());
        let tasks = crate::tasks::start(&master);
        let site = Self { places, _server: server, master, shelf, _tasks: tasks };
        site.worker(store);
        site
    }

    /// Registers the worker and answers its orders.
    fn worker(&self, store: Arc<dyn UnderStore>) {
        let address = WorkerAddress {
            id: WORKER,
            incarnation: Incarnation(1),
            host: "worker".into(),
            port: 1,
            sockets: Vec::new(),
            locality: Locality::default(),
            features: 0,
        };
        let registration = Registration { address, version: "1".into(), started: Timestamp(0), tiers: Vec::new() };
        let slot = self.master.registry.lock().register(registration, self.master.core.clock().monotonic()).unwrap();
        self.master.registry.lock().get_mut(slot).unwrap().reported = true;
        let (sender, mut orders) = mpsc::unbounded_channel();
        self.master.links.attach(slot, sender);
        let (master, shelf) = (Arc::clone(&self.master), Arc::clone(&self.shelf));
        tokio::spawn(async move {
            while let Some(Ok(v1::MasterMessage { what: Some(v1::master_message::What::Order(order)) })) =
                orders.recv().await
            {
                let (master, shelf, store) = (Arc::clone(&master), Arc::clone(&shelf), Arc::clone(&store));
                tokio::spawn(async move {
                    let done = match obey(&shelf, &*store, order.what.unwrap()).await {
                        Ok(done) => done,
                        Err(error) => v1::OrderDone { failure: Some((&error).into()), ..Default::default() },
                    };
                    master.registry.lock().heard(slot, master.core.clock().monotonic());
                    master.links.done(slot, v1::OrderDone { order: order.id, ..done });
                });
            }
        });
    }

    fn slot(&self) -> WorkerSlot {
        self.master.registry.lock().slot(WORKER).unwrap()
    }

    async fn session(&self) -> (SessionId, mpsc::UnboundedReceiver<Result<v1::SessionReply, tonic::Status>>) {
        let opened =
            self.master.execute(OpenSession { name: "t".into(), lease: Duration::from_secs(60) }).await.unwrap();
        let Outcome::Session(session) = opened.outcome else { panic!("{opened:?}") };
        let (replies, mut stream): (Replies, _) = mpsc::unbounded_channel();
        self.master.sessions.attach(session, replies, v1::SessionReply::default());
        stream.try_recv().unwrap().unwrap();
        (session, stream)
    }

    /// A persisted file with this content.
    async fn file(&self, name: &str, bytes: &[u8]) -> FileId {
        std::fs::write(self.places.root.path().join(name), bytes).unwrap();
        tokio::time::sleep(Duration::from_millis(15)).await;
        let path = FsPath::parse(format!("/{name}")).unwrap();
        let how = crate::rpc::filesystem::How { follow: true, fresh: true };
        self.master.look_up(&path, &Caller::root(), how).await.unwrap()
    }

    async fn edit(&self, session: SessionId, file: FileId) -> Result<WriteLease> {
        let edit =
            EditFile { target: file.into(), generation: Generation(0), truncate: false, write_type: None, session };
        let finished = self.run(edit).await?;
        let Outcome::Writing { lease, .. } = finished.outcome else { panic!("{finished:?}") };
        Ok(self.lease(lease).unwrap())
    }

    fn lease(&self, lease: LeaseId) -> Option<WriteLease> {
        self.master.core.read().lease(lease)
    }

    async fn run(&self, command: impl Into<Command>) -> Result<Finished> {
        let mut finished = self.master.core.execute(&self.master.under, command.into(), &Asker::server()).await?;
        drop(self.master.follow(&mut finished, None));
        Ok(finished)
    }

    /// Commits these bytes, of which the ranges differ from the base.
    async fn commit(&self, edit: &WriteLease, bytes: &[u8], dirty: &[(u64, u64)], how: How) -> Result<Finished> {
        self.shelf.versions.lock().insert(edit.generation.0, bytes.to_vec());
        let range = |(offset, length): &(u64, u64)| v1::ByteRange { offset: *offset, length: *length };
        let complete = v1::CompleteFile {
            lease: edit.id.0,
            length: bytes.len() as u64,
            receipts: vec![receipt(bytes.len() as u64)],
            derived: true,
            dirty: dirty.iter().map(range).collect(),
            go_on: how.go_on,
            sync: how.sync,
            ..Default::default()
        };
        let mut finished = commit(&self.master, &Asker::server(), edit.session, complete).await?;
        drop(self.master.follow(&mut finished, Some(edit.session)));
        Ok(finished)
    }

    fn status(&self, file: FileId) -> larder_common::FileStatus {
        self.master.core.read().status(file).unwrap()
    }

    fn object(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.places.root.path().join(name)).unwrap()
    }

    fn inode(&self, name: &str) -> u64 {
        std::fs::metadata(self.places.root.path().join(name)).unwrap().ino()
    }

    fn orders(&self) -> Vec<String> {
        std::mem::take(&mut self.shelf.orders.lock())
    }

    /// The worker has bytes of an edit.
    fn written(&self, edit: &WriteLease) {
        let blocks = BlockSet::Run { first: 0, count: 1 };
        let (worker, medium, lease) = (self.slot(), larder_common::Medium::Mem, Some(edit.id));
        let holding = Holding { worker, medium, blocks, persisted: false, lease, round: 1 };
        self.master.locations.report(self.slot(), (edit.file, edit.generation), vec![holding]);
    }

    async fn eventually(&self, what: &str, is_so: impl Fn() -> bool) {
        let limit = Instant::now() + Duration::from_secs(10);
        while !is_so() {
            assert!(Instant::now() < limit, "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct How {
    go_on: bool,
    sync: bool,
}

const CLOSE: How = How { go_on: false, sync: false };
const FSYNC: How = How { go_on: true, sync: true };

#[tokio::test]
async fn a_small_file_is_replaced_at_close_and_patched_at_fsync() {
    let site = Site::new().await;
    let (session, _stream) = site.session().await;
    let file = site.file("f", b"0123456789").await;
    let (before, inode) = (site.status(file).generation, site.inode("f"));
    let edit = site.edit(session, file).await.unwrap();
    assert_eq!(edit.base, Some((before, 10)));
    let finished = site.commit(&edit, b"01234X6789", &[(5, 1)], FSYNC).await.unwrap();
    assert!(matches!(finished.outcome, Outcome::Writing { lease, .. } if lease == edit.id), "it goes on");
    assert_eq!((site.object("f"), site.inode("f")), (b"01234X6789".to_vec(), inode), "in place");
    let status = site.status(file);
    assert_eq!((status.generation, status.persistence), (edit.generation, Persistence::Persisted));
    let next = site.lease(edit.id).unwrap();
    assert_eq!(next.base, Some((edit.generation, 10)));
    site.commit(&next, b"longer than before", &[(0, 18)], CLOSE).await.unwrap();
    assert_eq!(site.object("f"), b"longer than before");
    assert_ne!(site.inode("f"), inode, "a reader sees the old file or the new one");
    assert_eq!(site.orders(), [format!("patch {} 1", edit.generation), format!("persist {}", next.generation)]);
    assert!(site.lease(edit.id).is_none());
    let generation = site.status(file).generation;
    tokio::time::sleep(Duration::from_millis(80)).await;
    site.master.stores.look_again(file, Instant::now() + Duration::from_secs(5)).await.unwrap();
    assert_eq!(site.status(file).generation, generation, "our own changes are no news");
    assert_eq!(std::fs::read_dir(site.places.root.path()).unwrap().count(), 2, "the file, and Larder's own directory");
}

#[tokio::test]
async fn what_replaces_content_is_synced_and_what_replaces_an_empty_file_is_not() {
    let site = Site::new().await;
    let (session, _stream) = site.session().await;
    let empty = site.file("empty", b"").await;
    let edit = site.edit(session, empty).await.unwrap();
    site.commit(&edit, b"first", &[(0, 5)], CLOSE).await.unwrap();
    assert_eq!(*site.shelf.synced.lock(), Some(false), "a power cut can take nothing that was there");
    let edit = site.edit(session, empty).await.unwrap();
    site.commit(&edit, b"other", &[(0, 5)], CLOSE).await.unwrap();
    assert_eq!(*site.shelf.synced.lock(), Some(true));
}

#[tokio::test]
async fn what_a_worker_has_uploaded_with_its_receipt_is_published_as_it_is() {
    let site = Site::new().await;
    let (session, _stream) = site.session().await;
    for (name, other) in [("mine", ""), ("old", "x")] {
        let file = site.file(name, b"").await;
        let edit = site.edit(session, file).await.unwrap();
        let named = edit.temporary.as_ref().unwrap().name.clone();
        let mount = site.master.core.read().mount_of(file).unwrap().id;
        let store = site.master.stores.mounts().get(mount).unwrap().store().unwrap();
        let temporary = TemporaryName::new(ObjectPath::new(name.as_bytes()).unwrap(), Name::new(&named).unwrap());
        store.upload_whole(&temporary, Content::Bytes(bytes::Bytes::from_static(b"early")), false).await.unwrap();
        site.shelf.versions.lock().insert(edit.generation.0, b"late!".to_vec());
        let uploaded = v1::Receipt { uploaded: true, temporary: (named + other).into(), ..receipt(5) };
        let dirty = vec![v1::ByteRange { offset: 0, length: 5 }];
        let complete =
            v1::CompleteFile { lease: edit.id.0, length: 5, receipts: vec![uploaded], dirty, ..Default::default() };
        commit(&site.master, &Asker::server(), session, complete).await.unwrap();
        let (orders, object) = (site.orders(), site.object(name));
        match other {
            "" => assert_eq!((orders, object), (vec![], b"early".to_vec()), "nothing more is asked of the worker"),
            _ => assert_eq!(
                (orders.len(), object),
                (2, b"late!".to_vec()),
                "of a temporary that is no more, nothing is taken"
            ),
        }
    }
}

#[tokio::test]
async fn a_patch_that_fails_is_followed_by_a_replace_of_that_inode() {
    let site = Site::new().await;
    let (session, _stream) = site.session().await;
    for (name, whim) in [("a", Whim::Fail), ("b", Whim::Half)] {
        let file = site.file(name, b"0123456789").await;
        let inode = site.inode(name);
        let edit = site.edit(session, file).await.unwrap();
        *site.shelf.whim.lock() = Some(whim);
        site.commit(&edit, b"X12345678Y", &[(0, 1), (9, 1)], FSYNC).await.unwrap();
        assert_eq!(site.object(name), b"X12345678Y", "{whim:?}");
        assert_ne!(site.inode(name), inode, "a late write goes to an inode without a name");
        let orders = site.orders();
        assert_eq!(orders, [format!("patch {} 2", edit.generation), format!("persist {}", edit.generation)]);
        assert_eq!(site.status(file).generation, edit.generation);
        let next = site.lease(edit.id).unwrap();
        site.commit(&next, b"X1234Z678Y", &[(5, 1)], FSYNC).await.unwrap();
        assert_eq!(site.orders(), [format!("patch {} 1", next.generation)], "the new inode may be patched");
        site.run(AbandonFile { lease: edit.id }).await.unwrap();
        site.orders();
    }
    let names = std::fs::read_dir(site.places.root.path()).unwrap().count();
    assert_eq!(names, 3, "what was half written is no conflict");
}

#[tokio::test]
async fn files_with_several_names_keep_them() {
    let site = Site::new().await;
    let (session, _stream) = site.session().await;
    std::fs::write(site.places.root.path().join("f"), b"0123456789").unwrap();
    std::fs::hard_link(site.places.root.path().join("f"), site.places.root.path().join("g")).unwrap();
    let file = site.file("f", b"0123456789").await;
    let link = crate::state::Link { target: file.into(), place: FsPath::parse("/h").unwrap().into() };
    site.run(link).await.unwrap();
    let edit = site.edit(session, file).await.unwrap();
    site.commit(&edit, b"0123X56789", &[(4, 1)], CLOSE).await.unwrap();
    for name in ["f", "g", "h"] {
        assert_eq!(site.object(name), b"0123X56789", "{name}: patched");
    }
    let edit = site.edit(session, file).await.unwrap();
    *site.shelf.whim.lock() = Some(Whim::Fail);
    site.commit(&edit, b"0123X5678Y", &[(9, 1)], CLOSE).await.unwrap();
    assert_eq!((site.object("f"), site.object("h")), (b"0123X5678Y".to_vec(), b"0123X5678Y".to_vec()));
    assert_eq!(site.inode("f"), site.inode("h"), "one file again under every name that is known");
}

#[tokio::test]
async fn a_worker_that_cannot_store_fails_the_commit_and_the_next_one_does_it() {
    let site = Site::new().await;
    let (session, _stream) = site.session().await;
    let file = site.file("f", b"0123456789").await;
    let edit = site.edit(session, file).await.unwrap();
    let first = edit.temporary.clone();
    *site.shelf.whim.lock() = Some(Whim::Fail);
    let error = site.commit(&edit, b"short", &[(0, 5)], CLOSE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(site.object("f"), b"0123456789");
    let edit = site.lease(edit.id).unwrap();
    assert_ne!(edit.temporary, first, "a late worker fills what nobody publishes");
    site.commit(&edit, b"short", &[(0, 5)], CLOSE).await.unwrap();
    assert_eq!(site.object("f"), b"short");
}

#[tokio::test]
async fn a_receipt_of_an_earlier_start_is_refused() {
    let site = Site::new().await;
    let (session, _stream) = site.session().await;
    let file = site.file("f", b"0123456789").await;
    let edit = site.edit(session, file).await.unwrap();
    let old = v1::Receipt { incarnation: 0, ..receipt(3) };
    let complete = v1::CompleteFile { lease: edit.id.0, length: 3, receipts: vec![old], ..Default::default() };
    let error = commit(&site.master, &Asker::server(), session, complete).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Changed);
}

#[tokio::test]
async fn another_session_s_edit_recalls_the_first_and_waits() {
    let site = Site::new().await;
    let ((one, mut stream), (other, _)) = (site.session().await, site.session().await);
    let file = site.file("f", b"0123456789").await;
    let edit = site.edit(one, file).await.unwrap();
    let theirs =
        EditFile { target: file.into(), generation: Generation(0), truncate: false, write_type: None, session: other };
    let (master, command) = (Arc::clone(&site.master), Command::from(theirs.clone()));
    let waiting = tokio::spawn(async move { give_way(&master, &command, &Asker::server(), other).await });
    let told = stream.recv().await.unwrap().unwrap().what;
    let Some(v1::session_reply::What::Invalidations(told)) = told else { panic!("{told:?}") };
    assert_eq!(told.leases, [edit.id.0]);
    assert!(site.master.sessions.is_recalled(one, edit.id) && !waiting.is_finished());
    // A commit that would go on does not.
    let finished = site.commit(&edit, b"0123456789", &[], How { go_on: true, sync: false }).await.unwrap();
    assert!(matches!(finished.outcome, Outcome::Committed { .. }), "{finished:?}");
    assert_eq!(waiting.await.unwrap(), Ok(true));
    site.edit(other, file).await.unwrap();
    assert!(!site.master.sessions.is_recalled(one, edit.id));
    let own = Command::from(EditFile { session: other, ..theirs });
    assert_eq!(give_way(&site.master, &own, &Asker::server(), other).await, Ok(false), "nobody waits for himself");
}

#[tokio::test]
async fn bytes_of_a_dead_session_go_back_where_the_under_store_has_the_file() {
    let site = Site::new().await;
    let (session, _stream) = site.session().await;
    let file = site.file("f", b"0123456789").await;
    let before = site.status(file).generation;
    let edit = site.edit(session, file).await.unwrap();
    site.written(&edit);
    site.run(EndSession { session }).await.unwrap();
    site.eventually("it is settled", || site.lease(edit.id).is_none()).await;
    assert_eq!(site.status(file).generation, before);
    site.eventually("the worker is told", || site.orders() == [format!("roll back {}", edit.id)]).await;
}

#[tokio::test]
async fn bytes_of_a_dead_session_are_kept_where_they_are_nowhere_else() {
    let site = Site::new().await;
    let (session, _stream) = site.session().await;
    let create = CreateFile {
        place: FsPath::parse("/new").unwrap().into(),
        mode: 0o644,
        block_size: BlockSize::new(MIB).unwrap(),
        write_type: WriteType::CacheThrough,
        overwrite: false,
        recursive: false,
        session,
        ttl: None,
        replication_min: 0,
        expected: None,
        edit: true,
    };
    let Outcome::Writing { file, lease, generation, .. } = site.run(create).await.unwrap().outcome else { panic!() };
    let edit = site.lease(lease).unwrap();
    site.shelf.versions.lock().insert(generation.0, b"what was written".to_vec());
    site.written(&edit);
    site.run(EndSession { session }).await.unwrap();
    site.eventually("it is committed", || site.lease(lease).is_none()).await;
    let status = site.status(file);
    assert_eq!((status.generation, status.length, status.complete), (generation, 16, true));
    site.eventually("it gets to the under store", || site.places.root.path().join("new").exists()).await;
    assert_eq!(site.object("new"), b"what was written");
}

#[tokio::test]
async fn a_removed_file_is_written_until_it_is_closed() {
    let site = Site::new().await;
    let (session, _stream) = site.session().await;
    let file = site.file("f", b"0123456789").await;
    let edit = site.edit(session, file).await.unwrap();
    let remove = Remove {
        place: FsPath::parse("/f").unwrap().into(),
        recursive: false,
        kind: RemoveKind::File,
        cache_only: false,
        expected: None,
        holders: Vec::new(),
    };
    site.run(remove).await.unwrap();
    assert!(!site.places.root.path().join("f").exists());
    site.commit(&edit, b"written without a name", &[(0, 22)], FSYNC).await.unwrap();
    assert_eq!(site.status(file).length, 22);
    assert!(site.orders().iter().all(|order| !order.starts_with("persist")), "it goes nowhere any more");
    let closed = crate::state::Closed { session, file, generation: Generation(0) };
    site.run(closed).await.unwrap();
    assert!(site.master.core.read().status(file).is_none());
}

#[tokio::test]
async fn who_has_a_file_open_elsewhere_is_asked_before_it_goes() {
    let site = Site::new().await;
    let ((one, _), (other, mut stream)) = (site.session().await, site.session().await);
    let file = site.file("f", b"0123456789").await;
    assert_eq!(open_elsewhere(&site.master, file, Some(one)).await, [], "nobody else knows it");
    assert!(site.master.sessions.will_know(other, FileId::ROOT));
    let master = Arc::clone(&site.master);
    let asking = tokio::spawn(async move { open_elsewhere(&master, file, Some(one)).await });
    let told = stream.recv().await.unwrap().unwrap().what;
    let Some(v1::session_reply::What::Invalidations(told)) = told else { panic!("{told:?}") };
    assert_eq!(told.files, [file.0]);
    site.master.sessions.acknowledge(other, told.sequence, [file]);
    assert_eq!(asking.await.unwrap(), [other]);
}

#[test]
fn a_master_that_is_killed_during_a_patch_replaces_the_file_next() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let first = runtime();
    let (places, edit, inode) = first.block_on(async {
        let site = Site::new().await;
        let (session, _stream) = site.session().await;
        let file = site.file("f", b"0123456789").await;
        let edit = site.edit(session, file).await.unwrap();
        *site.shelf.whim.lock() = Some(Whim::Silent);
        let committed = site.commit(&edit, b"X123456789", &[(0, 1)], FSYNC);
        assert!(tokio::time::timeout(Duration::from_millis(300), committed).await.is_err(), "the worker is silent");
        assert_eq!(site.orders(), [format!("patch {} 1", edit.generation)]);
        assert_eq!(site.master.core.read().open_intents().count(), 1);
        (Arc::clone(&site.places), edit, site.inode("f"))
    });
    // Everything that the master was doing stops where it is.
    drop(first);
    std::fs::write(places.root.path().join("f"), b"X123").unwrap();
    let second = runtime();
    second.block_on(async {
        let site = Site::on(places).await;
        site.eventually("the patch is settled", || site.master.core.read().open_intents().count() == 0).await;
        let edit = site.lease(edit.id).unwrap();
        assert!(edit.patched, "it is known what must not be patched again");
        site.eventually("the file counts as changed", || {
            site.status(edit.file).generation != edit.base.unwrap().0 && site.status(edit.file).length == 4
        })
        .await;
        site.commit(&edit, b"X123456789", &[(0, 1)], FSYNC).await.unwrap();
        assert_eq!(site.orders(), [format!("persist {}", edit.generation)]);
        assert_eq!(site.object("f"), b"X123456789");
        assert_ne!(site.inode("f"), inode, "what the worker may still write goes to an inode without a name");
        assert_eq!(site.status(edit.file).generation, edit.generation);
    });
}
