//! The one writer: commands become entries, entries get their place in the journal, the state follows.
//!
//! Under the state's write lock: plan, append, apply. So an entry is applied as soon as it has its place, `plan` always
//! sees the newest state, and many entries share one sync, because nobody waits for a disk under the lock. What leaves
//! this module to the outside (a reply, an action in an under store, an invalidation) goes out only when its Position is
//! as durable as was promised.
//!
//! [`Core::step`] never waits. [`Core::execute`] takes the steps of one command until it has its outcome, waiting where a
//! step says so: for an intent that holds the name, for names from the under store, for the under store itself.
//!
//! Failure: when an append fails with `NoSpace` nothing has changed and the caller is told. When its outcome is unknown,
//! or a sync fails, the state may be ahead of the disk and nothing may be acknowledged any more: [`Core::failure`] ends,
//! and the server throws the state away and starts again from the journal.
//!
//! Lock order: the state's lock first; the journal's own locks below it. No lock is held across an await.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use larder_common::{Caller, Error, ErrorKind, FileId, Name, Position, Result, clock::Clock};
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::watch;

use crate::{
    journal::{Health, Journal},
    sessions::Touched,
    state::{
        Applied, Command, Context, Effect, Entry, IntentId, NeedsLoad, Outcome, Planned, Request, State, UnderAction,
        UnderResult,
    },
};

/// How long one command may take in all.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(25);

/// A future of one of the core's helpers.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the core needs done in under stores, without knowing how.
pub trait Under: fmt::Debug + Send + Sync + 'static {
    /// Does what an intent says. `None`: what has become of it is not known; whoever implements this goes on to find out,
    /// and ends it with [`Core::conclude`] when it does.
    fn act(&self, intent: IntentId, action: UnderAction, deadline: Instant) -> Boxed<'_, Option<UnderResult>>;

    /// Looks up names that the state does not know yet, and has them loaded into it. Gives the names that are not there.
    fn load(&self, needs: NeedsLoad, deadline: Instant) -> Boxed<'_, Result<Vec<(FileId, Name)>>>;
}

/// Who asks for a command, and how much he wants.
#[derive(Clone, Debug)]
pub struct Asker {
    /// In whose name.
    pub caller: Caller,
    /// Which execution it is.
    pub request: Option<Request>,
    /// Whether the reply waits for the disk.
    pub durable: bool,
}

impl Asker {
    /// The master itself, which waits for no disk.
    #[must_use]
    pub fn server() -> Self {
        Self { caller: Caller::root(), request: None, durable: false }
    }
}

/// A command that has its outcome.
#[derive(Debug)]
pub struct Finished {
    /// What the caller is told.
    pub outcome: Outcome,
    /// The entry that must be durable before that; the newest one for an outcome without an entry of its own.
    pub position: Position,
    /// What caches must drop before that.
    pub touched: Box<Touched>,
    /// What else follows from it.
    pub effects: Vec<Effect>,
}

/// What one step of a command came to.
#[derive(Debug)]
pub enum Step {
    /// It has its outcome.
    Finished(Finished),
    /// The under store must be changed first; the entry is in the journal.
    Act(IntentId, Box<UnderAction>, Position),
    /// The name is under this intent.
    Wait(IntentId),
    /// Names are missing.
    Load(Box<NeedsLoad>),
}

/// The state while it is read.
#[derive(Debug)]
pub struct Reading<'a> {
    state: RwLockReadGuard<'a, State>,
    #[cfg(debug_assertions)]
    of: usize,
}

#[cfg(debug_assertions)]
thread_local! {
    /// Whose state this thread is reading.
    static HELD: std::cell::RefCell<Vec<usize>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl<'a> Reading<'a> {
    #[cfg(debug_assertions)]
    fn of(core: &'a Core) -> Self {
        let of = std::ptr::from_ref(core) as usize;
        let held = HELD.with_borrow(|held| held.contains(&of));
        assert!(!held, "the state is read by who reads it already");
        let state = core.state.read();
        HELD.with_borrow_mut(|held| held.push(of));
        Self { state, of }
    }

    #[cfg(not(debug_assertions))]
    fn of(core: &'a Core) -> Self {
        Self { state: core.state.read() }
    }
}

impl std::ops::Deref for Reading<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

#[cfg(debug_assertions)]
impl Drop for Reading<'_> {
    fn drop(&mut self) {
        // A thread that ends has no list any more.
        let _ = HELD.try_with(|held| held.borrow_mut().retain(|of| *of != self.of));
    }
}

/// State and journal, and the one way to change them.
#[derive(Debug)]
pub struct Core {
    state: RwLock<State>,
    journal: Arc<dyn Journal>,
    clock: Arc<dyn Clock>,
    concluded: watch::Sender<u64>,
    failure: watch::Sender<Option<Error>>,
}

impl Core {
    /// A writer for a state that is at the end of the journal.
    #[must_use]
    pub fn new(state: State, journal: Arc<dyn Journal>, clock: Arc<dyn Clock>) -> Self {
        Self {
            state: RwLock::new(state),
            journal,
            clock,
            concluded: watch::Sender::new(0),
            failure: watch::Sender::new(None),
        }
    }

    /// The state, to read. Hold it shortly: writers wait. Take no other lock of the master's and ask nothing that reads the
    /// state while you hold it: who reads a second time waits behind a writer that waits for the first.
    ///
    /// # Panics
    /// In a debug build, if this thread holds it already.
    pub fn read(&self) -> Reading<'_> {
        Reading::of(self)
    }

    /// A frozen copy of the state, and the Position after which it is.
    #[must_use]
    pub fn freeze(&self) -> (State, Position) {
        let state = self.state.read();
        (state.clone(), self.journal.last())
    }

    /// The journal.
    #[must_use]
    pub fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Ends when nothing may be acknowledged any more, with the reason.
    pub async fn failure(&self) -> Error {
        let mut failed = self.failure.subscribe();
        let found = failed.wait_for(Option::is_some).await.ok().and_then(|error| error.clone());
        found.unwrap_or_else(|| Error::new(ErrorKind::Unavailable, "the master is stopping"))
    }

    /// The context of a command now.
    #[must_use]
    pub fn context(&self, asker: &Asker) -> Context {
        Context {
            caller: asker.caller.clone(),
            now: self.clock.now(),
            request: asker.request,
            durable: *self.journal.durable().borrow(),
            absent: Vec::new(),
        }
    }

    /// Plans, and where that is all, appends and applies. Never waits but for the lock and a `write`.
    ///
    /// # Errors
    /// What the plan is refused for; `NoSpace` of the journal's disk; `Unavailable` when the journal has failed.
    pub fn step(&self, command: &Command, context: &Context) -> Result<Step> {
        Ok(self.step_if(command, context, &|| true)?.expect("it is always allowed"))
    }

    /// The same, if `allowed` says so when nobody else can change the state; else `None`.
    ///
    /// # Errors
    /// As [`Core::step`].
    pub fn step_if(&self, command: &Command, context: &Context, allowed: &dyn Fn() -> bool) -> Result<Option<Step>> {
        let mut state = self.state.write();
        if !allowed() {
            return Ok(None);
        }
        self.step_in(&mut state, command, context).map(Some)
    }

    fn step_in(&self, state: &mut State, command: &Command, context: &Context) -> Result<Step> {
        match state.plan(command, context)? {
            Planned::Apply(entry) => self.commit(state, &entry).map(Step::Finished),
            Planned::Intent { entry, intent, action } => {
                let committed = self.commit(state, &entry)?;
                Ok(Step::Act(intent, action, committed.position))
            }
            Planned::Wait(intent) => Ok(Step::Wait(intent)),
            Planned::Load(needs) => Ok(Step::Load(needs)),
            Planned::Again(outcome) | Planned::Done(outcome) => Ok(Step::Finished(self.nothing_new(outcome))),
        }
    }

    /// As [`Core::step`], but `None` where something must be waited for and nothing has been done yet, so that the caller
    /// can go on with other commands and leave this one to [`Core::execute`].
    ///
    /// # Errors
    /// As [`Core::step`].
    pub fn step_or_later(&self, command: &Command, context: &Context) -> Result<Option<Finished>> {
        let mut state = self.state.write();
        match state.plan(command, context)? {
            Planned::Apply(entry) => self.commit(&mut state, &entry).map(Some),
            Planned::Again(outcome) | Planned::Done(outcome) => Ok(Some(self.nothing_new(outcome))),
            Planned::Intent { .. } | Planned::Wait(_) | Planned::Load(_) => Ok(None),
        }
    }

    fn nothing_new(&self, outcome: Outcome) -> Finished {
        Finished { outcome, position: self.journal.last(), touched: Box::default(), effects: Vec::new() }
    }

    fn commit(&self, state: &mut State, entry: &Entry) -> Result<Finished> {
        let position = self.journal.append(&[Bytes::from(entry.encode())]).map_err(|error| self.note(error))?;
        let Applied { outcome, effects } = state.apply(position, entry);
        let touched = Box::new(touched(state, &effects));
        Ok(Finished { outcome, position, touched, effects })
    }

    /// Takes note of a journal that has failed for good.
    fn note(&self, error: Error) -> Error {
        if matches!(self.journal.health(), Health::Failed(_)) {
            self.failure.send_replace(Some(error.clone()));
        }
        error
    }

    /// Ends when an intent has its outcome.
    ///
    /// # Errors
    /// `Deadline`.
    pub async fn settled(&self, intent: IntentId, deadline: Instant) -> Result<()> {
        let mut concluded = self.concluded.subscribe();
        loop {
            concluded.borrow_and_update();
            if !self.read().is_open(intent) {
                return Ok(());
            }
            let changed = tokio::time::timeout_at(deadline.into(), concluded.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                return Err(Error::new(ErrorKind::Deadline, "an earlier change of this name is not done yet")
                    .advise("see `larder fsadmin report`: its under store may be slow or away"));
            }
        }
    }

    /// Changes whenever an intent has got its outcome.
    #[must_use]
    pub fn concluded(&self) -> watch::Receiver<u64> {
        self.concluded.subscribe()
    }

    /// Gives an intent its outcome.
    ///
    /// # Errors
    /// Those of the journal; the intent then stays open.
    pub fn conclude(&self, intent: IntentId, result: &UnderResult) -> Result<Finished> {
        let mut state = self.state.write();
        let entry = state.plan_outcome(intent, result, self.clock.now());
        let finished = self.commit(&mut state, &entry);
        drop(state);
        self.concluded.send_modify(|count| *count += 1);
        finished
    }

    /// Carries a command out to its outcome. Once an intent is in the journal it is carried through also when this future
    /// is dropped.
    ///
    /// # Errors
    /// As [`Core::step`], those of the under store, and `Deadline`.
    pub async fn execute(
        self: &Arc<Self>,
        under: &Arc<dyn Under>,
        command: Command,
        asker: &Asker,
    ) -> Result<Finished> {
        let deadline = self.deadline();
        let mut context = self.context(asker);
        loop {
            match self.step(&command, &context)? {
                Step::Finished(finished) => return Ok(finished),
                Step::Wait(intent) => self.settled(intent, deadline).await?,
                Step::Load(needs) => context.absent.extend(under.load(*needs, deadline).await?),
                Step::Act(intent, action, position) => {
                    let act = Arc::clone(self).act(Arc::clone(under), intent, *action, position, asker.durable);
                    let done = tokio::spawn(act).await;
                    return done.unwrap_or_else(|_| Err(Error::new(ErrorKind::Unavailable, "the master is stopping")));
                }
            }
            context.durable = *self.journal.durable().borrow();
        }
    }

    async fn act(
        self: Arc<Self>,
        under: Arc<dyn Under>,
        intent: IntentId,
        action: UnderAction,
        position: Position,
        durable: bool,
    ) -> Result<Finished> {
        let deadline = self.deadline();
        if durable {
            self.wait_durable(position, deadline).await?;
        }
        let Some(result) = under.act(intent, action, deadline).await else {
            return Err(Error::new(
                ErrorKind::Deadline,
                "the under store did not answer in time; the change is settled when it does",
            )
            .advise("ask again; `larder fsadmin report` shows mounts in trouble"));
        };
        let finished = self.conclude(intent, &result)?;
        match result {
            UnderResult::Done(_) => Ok(finished),
            UnderResult::Failed(error) => Err(error),
        }
    }

    /// Ends when an entry is on disk.
    ///
    /// # Errors
    /// `Deadline`; `Unavailable` when the journal has failed.
    pub async fn wait_durable(&self, position: Position, deadline: Instant) -> Result<()> {
        self.journal.wait_durable(position, deadline).await.map_err(|error| self.note(error))
    }

    /// The deadline of a command that begins now.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        Instant::now() + COMMAND_DEADLINE
    }
}

/// What caches must drop for these effects. Whoever was told of an inode has an interest in a directory that it has a
/// name in; one with names in many directories touches everything.
fn touched(state: &State, effects: &[Effect]) -> Touched {
    let mut touched = Touched::default();
    for effect in effects {
        match effect {
            Effect::Invalidate(file) => {
                touched.files.insert(*file);
                touched.directories.insert(*file);
                touched.directories.extend(state.parents(*file));
            }
            Effect::InvalidateName { parent, name } => {
                touched.name(*parent, name);
                touched.directories.insert(*parent);
            }
            Effect::InvalidateAll => touched.everything = true,
            Effect::InvalidatePaths => touched.moved = true,
            _ => {}
        }
    }
    touched
}

#[cfg(test)]
mod tests {
    use larder_common::{BlockSize, ClusterId, ErrorKind, FsPath, SessionId, Timestamp, WriteType, clock::ManualClock};

    use super::*;
    use crate::{
        journal::MemoryJournal,
        state::{CreateComplete, CreateDirectory, CreateFile, Format, OpenSession, Owner, ReserveIds, Resolve},
    };

    /// Under stores that are never asked.
    #[derive(Debug)]
    struct Nothing;

    impl Under for Nothing {
        fn act(&self, _: IntentId, _: UnderAction, _: Instant) -> Boxed<'_, Option<UnderResult>> {
            Box::pin(async { None })
        }
        fn load(&self, needs: NeedsLoad, _: Instant) -> Boxed<'_, Result<Vec<(FileId, Name)>>> {
            Box::pin(async move { Ok(needs.name.map(|name| (needs.directory, name)).into_iter().collect()) })
        }
    }

    fn under() -> Arc<dyn Under> {
        Arc::new(Nothing)
    }

    fn path(text: &str) -> FsPath {
        FsPath::parse(text).unwrap()
    }

    async fn core() -> Arc<Core> {
        let journal = Arc::new(MemoryJournal::new(ClusterId([1; 16])));
        let clock = ManualClock::at(Timestamp(1_700_000_000_000_000_000));
        let core = Arc::new(Core::new(State::new(), journal, clock));
        let format = Format {
            cluster: ClusterId([1; 16]),
            uri: "/under".into(),
            read_only: false,
            options: Default::default(),
            owner: Owner { mode: 0o755, uid: 0, gid: 0 },
        };
        for command in [Command::from(format), ReserveIds { count: 1 << 20, start: true }.into()] {
            assert!(matches!(core.step(&command, &core.context(&Asker::server())).unwrap(), Step::Finished(_)));
        }
        core.wait_durable(core.journal().last(), core.deadline()).await.unwrap();
        core
    }

    async fn session(core: &Arc<Core>) -> SessionId {
        let open = OpenSession { name: "test".into(), lease: Duration::from_secs(10) };
        match core.execute(&under(), open.into(), &Asker::server()).await.unwrap().outcome {
            Outcome::Session(session) => session,
            other => panic!("{other:?}"),
        }
    }

    fn empty_file(name: &str, session: SessionId) -> Command {
        let create = CreateFile {
            place: path(name).into(),
            mode: 0o644,
            block_size: BlockSize::DEFAULT,
            write_type: WriteType::MustCache,
            overwrite: false,
            recursive: false,
            session,
            ttl: None,
            replication_min: 0,
            expected: None,
            edit: false,
        };
        CreateComplete { create, held: None, sync: false }.into()
    }

    fn asker(session: SessionId, number: u64) -> Asker {
        Asker { request: Some(Request { session, slot: 0, number }), ..Asker::server() }
    }

    #[tokio::test]
    async fn a_retry_gets_the_first_outcome_and_executes_nothing() {
        let core = core().await;
        let session = session(&core).await;
        let first = core.execute(&under(), empty_file("/f", session), &asker(session, 1)).await.unwrap();
        let last = core.journal().last();
        let again = core.execute(&under(), empty_file("/f", session), &asker(session, 1)).await.unwrap();
        assert_eq!(again.outcome, first.outcome);
        assert_eq!(core.journal().last(), last);
        let other = core.execute(&under(), empty_file("/f", session), &asker(session, 2)).await.unwrap_err();
        assert_eq!(other.kind(), ErrorKind::AlreadyExists);
    }

    #[tokio::test]
    async fn a_change_names_the_directory_that_caches_must_forget() {
        let core = core().await;
        let session = session(&core).await;
        let finished = core.execute(&under(), empty_file("/f", session), &asker(session, 1)).await.unwrap();
        let touched = finished.touched;
        assert_eq!(touched.names, [(FileId::ROOT, b"f".to_vec())].into_iter().collect(), "{touched:?}");
        assert!(touched.directories.contains(&FileId::ROOT), "{touched:?}");
    }

    #[tokio::test]
    async fn an_intent_of_unknown_outcome_holds_its_name_until_it_is_concluded() {
        let core = core().await;
        let make = CreateDirectory {
            place: path("/d").into(),
            mode: 0o755,
            recursive: false,
            allow_exists: false,
            write_type: WriteType::CacheThrough,
        };
        let error = core.execute(&under(), make.into(), &Asker::server()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Deadline, "{error}");
        let (intent, _) = core.read().open_intents().next().unwrap();
        assert!(!matches!(core.read().resolve(&path("/d"), &Caller::root(), &[]), Ok(Resolve::Found(_))));
        core.conclude(intent, &UnderResult::Done(Default::default())).unwrap();
        assert!(matches!(core.read().resolve(&path("/d"), &Caller::root(), &[]), Ok(Resolve::Found(_))));
    }
}
