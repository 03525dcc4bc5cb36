//! The same over the real state, core and journal: what a user does through the namespace and what others do in the store
//! end in one picture, also across a kill.

use larder_common::{BlockSize, Caller, ClusterId, ErrorKind, FileKind, FileStatus, Name, SessionId, WriteType};

use super::{
    store::{Fault, MemoryStore},
    *,
};
use crate::{
    book::Book,
    core::{Asker, Core, Under},
    journal::{Journal, MemoryJournal, MemoryState},
    state::{
        Command, CreateComplete, CreateDirectory, CreateFile, Entry, Format, OpenSession, Outcome, Remove, RemoveKind,
        Rename, RenameMode, ReserveIds, Resolve, SetAttributes, State, Target,
    },
};

struct Whole {
    store: Arc<MemoryStore>,
    journal: Arc<MemoryJournal>,
    core: Arc<Core>,
    under: UnderStores,
    acting: Arc<dyn Under>,
    session: SessionId,
}

fn path(text: &str) -> FsPath {
    FsPath::parse(text).unwrap()
}

impl Whole {
    async fn new() -> Self {
        let cluster = ClusterId([7; 16]);
        Self::open(MemoryStore::new(), MemoryState { cluster, ..MemoryState::default() }).await
    }

    /// A master on this journal.
    async fn open(store: Arc<MemoryStore>, kept: MemoryState) -> Self {
        let journal = Arc::new(MemoryJournal::open(kept));
        let mut state = State::new();
        for entry in journal.entries(larder_common::Position(1)).unwrap() {
            let (position, bytes) = entry.unwrap();
            state.apply(position, &Entry::decode(&bytes).unwrap());
        }
        let core = Arc::new(Core::new(state, Arc::clone(&journal) as _, SystemClock::shared()));
        begin(&core).await;
        let book = Arc::new(Book::new(Arc::clone(&core)));
        let opener = Arc::new(Ready(Arc::clone(&store)));
        let under = UnderStores::new(book, opener, SystemClock::shared(), settings());
        under.start();
        under.mounts().get(MountId::ROOT).unwrap().until_working(soon()).await.unwrap();
        let acting: Arc<dyn Under> = Arc::new(under.clone());
        let mut whole = Self { store, journal, core, under, acting, session: SessionId(0) };
        let open = OpenSession { name: "test".into(), lease: Duration::from_secs(10) };
        let Outcome::Session(session) = whole.run(open).await.unwrap() else { panic!() };
        whole.session = session;
        whole
    }

    /// Killed, and started again.
    async fn restart(self) -> Self {
        let kept = self.journal.after_kill();
        self.under.stop();
        self.store.revive();
        Self::open(Arc::clone(&self.store), kept).await
    }

    async fn run(&self, command: impl Into<Command>) -> Result<Outcome> {
        let finished = self.core.execute(&self.acting, command.into(), &Asker::server()).await?;
        Ok(finished.outcome)
    }

    async fn create(&self, name: &str, write_type: WriteType) -> Result<Outcome> {
        let create = CreateFile {
            place: path(name).into(),
            mode: 0o644,
            block_size: BlockSize::DEFAULT,
            write_type,
            overwrite: true,
            recursive: true,
            session: self.session,
            ttl: None,
            replication_min: 0,
            expected: None,
            edit: false,
        };
        self.run(CreateComplete { create, held: None, sync: false }).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<Outcome> {
        let (from, to) = (path(from).into(), path(to).into());
        let mode = RenameMode::Replace;
        self.run(Rename { from, to, mode, expected: None, replaced: None, holders: Vec::new() }).await
    }

    async fn remove(&self, name: &str, recursive: bool) -> Result<Outcome> {
        let (kind, place) = (RemoveKind::Any, path(name).into());
        self.run(Remove { place, recursive, kind, cache_only: false, expected: None, holders: Vec::new() }).await
    }

    /// As a reader asks: look if due, resolve, load what is missing.
    async fn status(&self, name: &str) -> Result<FileStatus> {
        let name = path(name);
        self.under.ensure_fresh(&name, soon()).await?;
        let mut absent = Vec::new();
        loop {
            let resolved = self.core.read().resolve(&name, &Caller::root(), &absent)?;
            match resolved {
                Resolve::Found(file) => return Ok(self.core.read().status(file).unwrap()),
                Resolve::NeedsLoad(needs) => absent.extend(self.acting.load(*needs, soon()).await?),
            }
        }
    }

    async fn list(&self, name: &str) -> Vec<String> {
        let directory = self.status(name).await.unwrap().id;
        self.under.ensure_listing_fresh(directory, soon()).await.unwrap();
        let needs = self.core.read().needs_listing(directory);
        if let Some(needs) = needs {
            self.acting.load(needs, soon()).await.unwrap();
        }
        let state = self.core.read();
        let listed = state.list(directory, None, 100_000);
        listed.into_iter().map(|entry| Name::new(entry.name).unwrap().to_string()).collect()
    }

    fn intents(&self) -> usize {
        self.core.read().open_intents().count()
    }
}

async fn begin(core: &Arc<Core>) {
    let owner = Owner { mode: 0o755, uid: 0, gid: 0 };
    let (cluster, uri, options) = (ClusterId([7; 16]), "memory:test".to_owned(), BTreeMap::new());
    let format = Format { cluster, uri, read_only: false, options, owner };
    let mut commands = vec![Command::from(ReserveIds { count: 1 << 30, start: true })];
    if core.read().cluster().is_none() {
        commands.insert(0, format.into());
    }
    for command in commands {
        core.step(&command, &core.context(&Asker::server())).unwrap();
    }
    core.wait_durable(core.journal().last(), core.deadline()).await.unwrap();
}

#[tokio::test]
async fn names_made_moved_and_removed_are_in_the_store() {
    let whole = Whole::new().await;
    let make = CreateDirectory {
        place: path("/a/b").into(),
        mode: 0o750,
        recursive: true,
        allow_exists: false,
        write_type: WriteType::CacheThrough,
    };
    whole.run(make).await.unwrap();
    whole.create("/a/b/f", WriteType::CacheThrough).await.unwrap();
    whole.rename("/a/b/f", "/a/g").await.unwrap();
    assert_eq!(whole.store.names(), ["a", "a/b", "a/g"]);
    let chmod = SetAttributes { mode: Some(0o600), ..SetAttributes::of(Target::Path(path("/a/g"))) };
    whole.run(chmod).await.unwrap();
    assert_eq!(whole.store.node("a/g").unwrap().mode, 0o600);
    let before = whole.status("/a/g").await.unwrap();
    whole.rename("/a", "/c").await.unwrap();
    let after = whole.status("/c/g").await.unwrap();
    assert_eq!((before.id, before.generation), (after.id, after.generation));
    whole.remove("/c", true).await.unwrap();
    assert!(whole.store.names().is_empty());
    assert_eq!(whole.status("/c").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn direct_changes_show_up_and_our_own_do_not_twice() {
    let whole = Whole::new().await;
    whole.store.make("d", FileKind::Directory);
    whole.store.write("d/f", "one");
    assert_eq!(whole.list("/").await, ["d"]);
    assert_eq!(whole.list("/d").await, ["f"]);
    let one = whole.status("/d/f").await.unwrap();
    whole.store.write("d/f", "longer");
    eventually("the new content is seen", || whole.core.read().status(one.id).unwrap().length == 6).await;
    let two = whole.status("/d/f").await.unwrap();
    assert!(two.id == one.id && two.generation != one.generation);
    whole.store.delete("d/f");
    eventually("it is gone", || whole.core.read().status(one.id).is_none()).await;
    whole.create("/d/own", WriteType::CacheThrough).await.unwrap();
    let own = whole.status("/d/own").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let last = whole.journal.last();
    assert_eq!(whole.status("/d/own").await.unwrap().generation, own.generation);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(whole.journal.last(), last, "nothing has changed, so nothing is journaled");
}

#[tokio::test]
async fn something_foreign_under_the_name_of_unpersisted_content_is_kept_beside() {
    let whole = Whole::new().await;
    whole.list("/").await;
    whole.create("/f", WriteType::MustCache).await.unwrap();
    let ours = whole.status("/f").await.unwrap();
    whole.store.write("f", "theirs");
    let aside = |whole: &Whole| whole.store.names().into_iter().find(|name| name.starts_with("f.larder-conflict-"));
    eventually("theirs is beside ours", || aside(&whole).is_some()).await;
    eventually("that is concluded", || whole.intents() == 0).await;
    assert_eq!(whole.status("/f").await.unwrap().id, ours.id);
    let name = aside(&whole).unwrap();
    assert_eq!(whole.status(&format!("/{name}")).await.unwrap().length, 6);
    assert_eq!(whole.store.read(&name).unwrap(), "theirs");
}

#[tokio::test]
async fn a_kill_between_intent_and_outcome_is_settled_by_the_next_master() {
    for fault in [Fault::HangBefore, Fault::HangAfter] {
        for step in 0..3 {
            let whole = Whole::new().await;
            whole.create("/old", WriteType::CacheThrough).await.unwrap();
            whole.store.fail_at(step, fault);
            let all = async {
                let _ = whole.create("/new", WriteType::CacheThrough).await;
                let _ = whole.rename("/old", "/moved").await;
            };
            let _ = tokio::time::timeout(Duration::from_millis(60), all).await;
            let whole = whole.restart().await;
            eventually("all is settled", || whole.intents() == 0).await;
            let names: Vec<String> = whole.store.names();
            assert_eq!(whole.list("/").await, names, "step {step}, {fault:?}");
            whole.under.sweep(MountId::ROOT).await.unwrap();
            assert_eq!(whole.store.private(), (0, 0));
        }
    }
}

#[tokio::test]
async fn many_creates_beside_listings_lose_no_name() {
    let whole = Arc::new(Whole::new().await);
    whole.list("/").await;
    let listing = {
        let whole = Arc::clone(&whole);
        tokio::spawn(async move {
            for _ in 0..200 {
                whole
                    .acting
                    .load(
                        crate::state::NeedsLoad {
                            directory: FileId::ROOT,
                            mount: MountId::ROOT,
                            path: rel(""),
                            name: None,
                        },
                        soon(),
                    )
                    .await
                    .unwrap();
                tokio::task::yield_now().await;
            }
        })
    };
    for number in 0..100 {
        let name = format!("/{number:03}");
        whole.create(&name, WriteType::CacheThrough).await.unwrap();
        let made = whole.status(&name).await.unwrap();
        assert_eq!(whole.status(&name).await.unwrap().id, made.id);
    }
    listing.await.unwrap();
    assert_eq!(whole.list("/").await.len(), 100);
    assert_eq!(whole.store.names().len(), 100);
}
