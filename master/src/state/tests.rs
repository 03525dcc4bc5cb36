//! The state machine as a whole: any commands, replay, checkpoints, retries; and the rules one by one.

use std::time::Duration;

use larder_common::{
    BlockIndex, BlockSize, Caller, ClusterId, Error, ErrorKind, FileId, FileKind, Fingerprint, FsPath, Generation,
    LeaseId, MountId, Name, Persistence, Position, Result, SessionId, Times, Timestamp, WorkerId, WriteType,
    file::{Ttl, TtlAction},
};

use super::{
    AbandonFile, Applied, ByteRange, Command, CommitEdit, CompleteFile, Context, Covered, CreateComplete,
    CreateDirectory, CreateFile, Done, EditBytes, EditFile, Effect, Entry, Foreign, Format, HeldContent, HoldFiles,
    IntentId, Link, LoadChildren, Look, Mount, NeedsLoad, OpenSession, Operation, Outcome, Owner, PersistStarted,
    Persisted, Place, Planned, Receipt, Reclaim, Refresh, Remove, RemoveKind, Rename, RenameMode, Request, ReserveIds,
    RetryEdit, Seen, SetAttributes, SetPin, SetTime, SetTtl, SetXattr, State, Symlink, Target, TtlExpired, UnderResult,
    Unmount, XattrMode,
};

mod edits;
mod frozen;
mod golden;
mod jobs;
mod random;
mod rules;
mod speed;

const SECOND: i64 = 1_000_000_000;

/// A state with its journal, and an under store that says yes.
struct Machine {
    state: State,
    entries: Vec<Entry>,
    now: Timestamp,
    caller: Caller,
    session: SessionId,
    request: Option<Request>,
    effects: Vec<Effect>,
    actions: Vec<Operation>,
}

fn path(text: &str) -> FsPath {
    FsPath::parse(text).unwrap()
}

fn place(text: &str) -> Place {
    path(text).into()
}

fn fingerprint(number: u64) -> Fingerprint {
    let time = Timestamp(1_000 * SECOND + number as i64);
    Fingerprint { inode: number, size: 7, modified: time, changed: time, born: time, etag: String::new() }
}

fn seen(name: &str, kind: FileKind, number: u64) -> Seen {
    let fingerprint = fingerprint(number);
    let time = fingerprint.modified;
    Seen {
        name: Name::new(name).unwrap(),
        length: if kind.is_directory() { 0 } else { fingerprint.size },
        kind,
        mode: 0o755,
        uid: 1000,
        gid: 1000,
        times: Times { accessed: time, modified: time, changed: time },
        links: 1,
        fingerprint,
    }
}

impl Machine {
    fn new() -> Self {
        let session = SessionId(0);
        let (now, caller) = (Timestamp(1_700_000_000 * SECOND), Caller::root());
        let (entries, effects, actions) = (Vec::new(), Vec::new(), Vec::new());
        let mut machine = Self { state: State::new(), entries, now, caller, session, request: None, effects, actions };
        machine.run(ReserveIds { count: 1 << 20, start: true }).unwrap();
        let owner = Owner { mode: 0o777, uid: 0, gid: 0 };
        let (cluster, options) = (ClusterId([7; 16]), [("a".to_owned(), "b".to_owned())].into());
        machine.run(Format { cluster, uri: "/under".into(), read_only: false, options, owner }).unwrap();
        let Ok(Outcome::Session(session)) =
            machine.run(OpenSession { name: "test".into(), lease: Duration::from_secs(10) })
        else {
            panic!("no session")
        };
        machine.session = session;
        machine
    }

    fn context(&self) -> Context {
        Context {
            caller: self.caller.clone(),
            now: self.now,
            request: self.request,
            durable: Position(u64::MAX),
            absent: Vec::new(),
        }
    }

    fn apply(&mut self, entry: Entry) -> Outcome {
        let decoded = Entry::decode(&entry.encode()).unwrap();
        assert_eq!(decoded, entry);
        self.entries.push(decoded);
        let Applied { outcome, effects } = self.state.apply(Position(self.entries.len() as u64), &entry);
        self.effects.extend(effects);
        outcome
    }

    fn plan(&mut self, command: impl Into<Command>) -> Result<Planned> {
        self.now = self.now.plus(Duration::from_nanos(1_000));
        let command = command.into();
        let mut context = self.context();
        loop {
            match self.state.plan(&command, &context)? {
                Planned::Load(needs) => self.nothing_there(*needs, &mut context),
                planned => return Ok(planned),
            }
        }
    }

    /// The under store is empty.
    fn nothing_there(&mut self, needs: NeedsLoad, context: &mut Context) {
        match needs.name {
            Some(name) => context.absent.push((needs.directory, name)),
            None => {
                let load = LoadChildren {
                    directory: needs.directory,
                    entries: Vec::new(),
                    covered: Covered::Shown,
                    complete: true,
                };
                let server = Context::server(self.now, Position(u64::MAX));
                let Ok(Planned::Apply(entry)) = self.state.plan(&load.into(), &server) else {
                    panic!("a load is applied")
                };
                self.apply(entry);
            }
        }
    }

    fn begin(&mut self, command: impl Into<Command>) -> (IntentId, Operation) {
        match self.plan(command).unwrap() {
            Planned::Intent { entry, intent, action } => {
                self.apply(entry);
                (intent, action.operation)
            }
            other => panic!("not an intent: {other:?}"),
        }
    }

    fn conclude(&mut self, intent: IntentId, result: &UnderResult) -> Outcome {
        let entry = self.state.plan_outcome(intent, result, self.now);
        self.apply(entry)
    }

    /// Carries a command out; the under store does what it is told.
    fn run(&mut self, command: impl Into<Command>) -> Result<Outcome> {
        match self.plan(command)? {
            Planned::Apply(entry) => Ok(self.apply(entry)),
            Planned::Again(outcome) | Planned::Done(outcome) => Ok(outcome),
            Planned::Wait(intent) => Err(Error::new(ErrorKind::Busy, format!("{intent:?}"))),
            Planned::Load(_) => panic!("loads are answered"),
            Planned::Intent { entry, intent, action } => {
                self.apply(entry);
                self.actions.push(action.operation);
                let print = fingerprint(self.entries.len() as u64);
                Ok(self.conclude(intent, &UnderResult::Done(Done { fingerprint: Some(print), aside: None })))
            }
        }
    }

    fn refused(&mut self, command: impl Into<Command>) -> ErrorKind {
        self.run(command).unwrap_err().kind()
    }

    fn id(&self, text: &str) -> FileId {
        let absent = Vec::new();
        match self.state.resolve(&path(text), &Caller::root(), &absent).unwrap() {
            super::Resolve::Found(id) => id,
            super::Resolve::NeedsLoad(needs) => panic!("{text} needs {needs:?}"),
        }
    }

    fn create(&self, text: &str, write_type: WriteType) -> CreateFile {
        CreateFile {
            place: place(text),
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
        }
    }

    fn complete(&self, lease: LeaseId, length: u64) -> CompleteFile {
        let receipts = if length == 0 { Vec::new() } else { vec![receipt(length)] };
        CompleteFile { lease, length, receipts, persisted: true, sync: false, holders: Vec::new() }
    }

    /// Writes a file of 7 bytes.
    fn write(&mut self, text: &str, write_type: WriteType) -> FileId {
        let Ok(Outcome::Writing { file, lease, .. }) = self.run(self.create(text, write_type)) else {
            panic!("{text} is not created")
        };
        self.run(self.complete(lease, 7)).unwrap();
        file
    }

    fn mkdir(&mut self, text: &str, write_type: WriteType) -> Result<Outcome> {
        let (recursive, allow_exists) = (true, true);
        self.run(CreateDirectory { place: place(text), mode: 0o755, recursive, allow_exists, write_type })
    }

    fn remove(&self, text: &str, recursive: bool) -> Remove {
        let (kind, cache_only, expected) = (RemoveKind::Any, false, None);
        Remove { place: place(text), recursive, kind, cache_only, expected, holders: Vec::new() }
    }

    fn rename(&self, from: &str, to: &str, mode: RenameMode) -> Rename {
        let (expected, replaced, holders) = (None, None, Vec::new());
        Rename { from: place(from), to: place(to), mode, expected, replaced, holders }
    }

    /// Takes this into `directory` as what the under store shows.
    fn load(&mut self, directory: &str, entries: Vec<Seen>, complete: bool) -> Outcome {
        let covered = if complete { Covered::Range { after: None, through: None } } else { Covered::Shown };
        self.run(LoadChildren { directory: self.id(directory), entries, covered, complete }).unwrap()
    }

    fn knows(&self, text: &str) -> bool {
        let found = self.state.resolve(&path(text), &Caller::root(), &[]);
        matches!(found, Ok(super::Resolve::Found(_)))
    }
}

fn receipt(length: u64) -> Receipt {
    Receipt { worker: WorkerId([3; 16]), index: BlockIndex(0), length: length as u32, crc: 0 }
}

/// All that a state holds, in one order.
fn dump(state: &State) -> Vec<Vec<u8>> {
    state.checkpoint().collect()
}

/// The states that entries lead to, and that a checkpoint at `cut` and the rest lead to.
fn check_replay(machine: &Machine, cut: usize) {
    let mut replayed = State::new();
    let mut restored = None;
    for (index, entry) in machine.entries.iter().enumerate() {
        let position = Position(index as u64 + 1);
        if index == cut {
            let other = State::restore(dump(&replayed)).unwrap();
            assert_eq!(dump(&other), dump(&replayed), "a restored state is the same");
            restored = Some(other);
        }
        let first = replayed.apply(position, entry);
        if let Some(other) = &mut restored {
            assert_eq!(other.apply(position, entry), first, "a restored state goes on in the same way");
        }
    }
    assert_eq!(dump(&replayed), dump(&machine.state), "replay leads to the same state");
    if let Some(other) = restored {
        assert_eq!(dump(&other), dump(&machine.state));
    }
    assert_eq!(dump(&State::restore(dump(&machine.state)).unwrap()), dump(&machine.state));
}
