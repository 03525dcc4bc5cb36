//! A client's stream: its session, its changing calls, keep-alive, invalidations.
//!
//! All calls of one message are stepped through one after the other without waiting; those that have their outcome at
//! once share one wait for the disk and one reply, the others are carried out each in a task of its own. Outcomes go out
//! in any order: the slot and the number say whose each is. What a call's change makes old in this client's own caches is
//! sent before its outcome, on the same stream.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_core::Stream;
use larder_common::{Error, ErrorKind, FileId, LeaseId, Position, Result, SessionId, WorkerId};
use larder_proto::{
    Greeting, greeting,
    v1::{self, session_reply::What as Reply, session_request::What},
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{
    answer,
    command::{self, Asked, Defaults},
    filesystem::Finder,
    tree, volatile,
};
use crate::{
    cluster::placement::Preference,
    core::{Asker, Finished},
    edits,
    master::Master,
    sessions::{Acknowledgements, Replies, reply},
    state::{Command, OpenSession, Outcome, Request, SLOTS},
};

/// The stream of replies.
pub type ReplyStream = Pin<Box<dyn Stream<Item = Result<v1::SessionReply, Status>> + Send>>;

/// A client that says nothing after connecting is let go after this time.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// Serves one stream to its end.
pub async fn serve(
    master: Arc<Master>,
    greeting: Greeting,
    mut requests: Streaming<v1::SessionRequest>,
    replies: Replies,
) {
    let first = tokio::time::timeout(FIRST_WORD, requests.message()).await;
    let Ok(Ok(Some(v1::SessionRequest { what: Some(What::Open(open)) }))) = first else {
        refuse(&replies, &Error::new(ErrorKind::Mismatch, "a session must be opened first"));
        return;
    };
    let connection = match connect(&master, &greeting, open, &replies).await {
        Ok(connection) => Arc::new(connection),
        Err(error) => return refuse(&replies, &error),
    };
    while let Ok(Some(request)) = requests.message().await {
        connection.master.sessions.heard(connection.session);
        if !connection.take(request.what).await {
            break;
        }
    }
    connection.master.sessions.detach(connection.session, connection.number);
}

fn refuse(replies: &Replies, error: &Error) {
    // Whoever is gone needs no answer.
    let _ = replies.send(Ok(reply(Reply::Refused(error.into()))));
}

struct Connection {
    master: Arc<Master>,
    session: SessionId,
    number: u64,
    greeting: Greeting,
    replies: Replies,
}

async fn connect(
    master: &Arc<Master>,
    greeting: &Greeting,
    open: v1::SessionOpen,
    replies: &Replies,
) -> Result<Connection> {
    let resumed = open.resume != 0 && master.core.read().has_session(SessionId(open.resume));
    let session = if resumed { SessionId(open.resume) } else { new_session(master, open.program).await? };
    let opened = v1::SessionOpened {
        session: session.0,
        resumed,
        lease_ms: u64::try_from(master.sessions.lease().as_millis()).unwrap_or(u64::MAX),
        cluster: master.cluster.to_bytes().into(),
        slots: SLOTS,
        version: greeting::VERSION.to_owned(),
    };
    // The greeting goes first on the stream, and nothing that is told from now on is missed.
    let number = master.sessions.attach(session, replies.clone(), reply(Reply::Opened(opened)));
    Ok(Connection {
        master: Arc::clone(master),
        session,
        number,
        greeting: Greeting { session, ..greeting.clone() },
        replies: replies.clone(),
    })
}

async fn new_session(master: &Arc<Master>, program: String) -> Result<SessionId> {
    let finished = master.execute(OpenSession { name: program, lease: master.sessions.lease() }).await?;
    match finished.outcome {
        Outcome::Session(session) => Ok(session),
        other => Err(Error::new(ErrorKind::Unavailable, format!("opening a session came to {other:?}"))),
    }
}

impl Connection {
    /// False when the stream is to end.
    async fn take(self: &Arc<Self>, what: Option<What>) -> bool {
        match what {
            Some(What::Calls(calls)) => self.calls(calls.calls),
            Some(What::Alive(alive)) => self.send(Reply::Alive(alive)),
            Some(What::Acknowledge(acknowledge)) => {
                let open = acknowledge.still_open.into_iter().map(FileId);
                self.master.sessions.acknowledge(self.session, acknowledge.sequence, open);
            }
            Some(What::Close(_)) => {
                self.close().await;
                return false;
            }
            Some(What::Open(_)) | None => {}
        }
        true
    }

    fn send(&self, what: Reply) {
        // The stream may have ended; the client asks again with the same numbers.
        let _ = self.replies.send(Ok(reply(what)));
    }

    async fn close(&self) {
        if let Err(error) = self.master.end_session(self.session).await {
            tracing::warn!(%error, session = self.session.0, "a session could not be ended; it ends with its lease");
        }
    }

    fn calls(self: &Arc<Self>, calls: Vec<v1::Call>) {
        let mut batch = Batch::default();
        for call in calls {
            let mut ticket = Ticket::of(&call, &self.master);
            match self.begin(call, &mut ticket) {
                Ok(Begun::Finished(finished)) if ticket.volatile => {
                    tokio::spawn(Arc::clone(self).conclude(ticket, Ok(*finished)));
                }
                Ok(Begun::Finished(finished)) => batch.add(self, &ticket, *finished),
                Ok(Begun::Commit(complete, asker)) => {
                    tokio::spawn(Arc::clone(self).commit(ticket, *complete, asker));
                }
                Ok(Begun::Later(asked, asker)) => {
                    tokio::spawn(Arc::clone(self).later(ticket, asked, asker));
                }
                Err(error) => batch.outcomes.push(ticket.failed(&error)),
            }
        }
        if !batch.outcomes.is_empty() {
            tokio::spawn(Arc::clone(self).finish(batch));
        }
    }

    /// Takes the first step of a call.
    fn begin(&self, call: v1::Call, ticket: &mut Ticket) -> Result<Begun> {
        let asker = self.asker(&call)?;
        let defaults =
            Defaults { block_size: self.master.config.block_size, session: self.session, sync: call.durable };
        let core = &self.master.core;
        let block_size = |lease| {
            let state = core.read();
            state.lease(lease).and_then(|lease| state.status(lease.file)).map(|status| status.block_size)
        };
        if let Some(v1::command::What::CompleteFile(complete)) =
            call.command.as_ref().and_then(|command| command.what.as_ref())
            && core.read().lease(LeaseId(complete.lease)).is_some_and(|lease| lease.edit)
        {
            return Ok(Begun::Commit(Box::new(complete.clone()), asker));
        }
        let asked = command::from_wire(call.command.unwrap_or_default(), defaults, block_size)?;
        let Asked::One(command) = asked else { return Ok(Begun::Later(asked, asker)) };
        // Before the state is read for the answer, so that no later change is missed.
        if let Some(directory) = ticket.directory {
            ticket.known = self.finder().interest(directory);
            ticket.before = self.master.stores.before();
        }
        if self.master.must_look_first(&command) {
            return Ok(Begun::Later(Asked::One(command), asker));
        }
        if self.is_known_elsewhere(&command, &asker) {
            return Ok(Begun::Later(Asked::One(command), asker));
        }
        match self.master.core.step_or_later(&command, &self.master.core.context(&asker)) {
            Ok(Some(finished)) => Ok(Begun::Finished(Box::new(finished))),
            Ok(None) => Ok(Begun::Later(Asked::One(command), asker)),
            // Whoever is in the way may be asked to give way.
            Err(error) if error.kind() == ErrorKind::Busy => Ok(Begun::Later(Asked::One(command), asker)),
            Err(error) => Err(error),
        }
    }

    /// Whether a command takes away a file that another session may have open.
    fn is_known_elsewhere(&self, command: &Command, asker: &Asker) -> bool {
        let state = self.master.core.read();
        let Some(file) = edits::going(&state, command, asker) else { return false };
        let directories = state.parents(file).into_iter().chain([file]).collect();
        drop(state);
        self.master.sessions.others_know(&directories, Some(self.session))
    }

    fn asker(&self, call: &v1::Call) -> Result<Asker> {
        if call.slot >= SLOTS || call.number == 0 {
            return Err(Error::new(ErrorKind::Invalid, format!("slot {} number {}", call.slot, call.number)));
        }
        let request = Request { session: self.session, slot: call.slot, number: call.number };
        let caller = self.master.caller(&self.greeting, call.caller.as_ref())?;
        Ok(Asker { caller, request: Some(request), durable: call.durable })
    }

    fn finder(&self) -> Finder<'_> {
        Finder { master: &self.master, greeting: &self.greeting }
    }

    async fn later(self: Arc<Self>, ticket: Ticket, asked: Asked, asker: Asker) {
        let result = match asked {
            Asked::One(command) => self.carry_out(*command, &asker).await,
            Asked::Tree(tree) => return self.tree(&ticket, tree, asker).await,
        };
        self.conclude(ticket, result).await;
    }

    /// Answers one call.
    async fn conclude(self: Arc<Self>, ticket: Ticket, result: Result<Finished>) {
        let mut batch = Batch::default();
        match result {
            Ok(finished) => {
                let kept = Some(finished.outcome.clone()).filter(|_| ticket.volatile);
                batch.add(&self, &ticket, finished);
                if let Some(Outcome::Committed { file, generation }) = kept
                    && let Err(error) = volatile::stored(&self.master, file, generation).await
                {
                    batch.outcomes = vec![ticket.failed(&error)];
                }
            }
            Err(error) => batch.outcomes.push(ticket.failed(&error)),
        }
        self.finish(batch).await;
    }

    async fn carry_out(&self, command: Command, asker: &Asker) -> Result<Finished> {
        let mut command = self.master.look_first(command).await?;
        let going = edits::going(&self.master.core.read(), &command, asker);
        if let Some(file) = going {
            let holders = edits::open_elsewhere(&self.master, file, Some(self.session)).await;
            command = edits::with_holders(command, holders);
        }
        loop {
            let error = match self.master.core.execute(&self.master.under, command.clone(), asker).await {
                Err(error) if error.kind() == ErrorKind::Busy => error,
                result => return result,
            };
            if !edits::give_way(&self.master, &command, asker, self.session).await? {
                return Err(error);
            }
        }
    }

    async fn commit(self: Arc<Self>, ticket: Ticket, complete: v1::CompleteFile, asker: Asker) {
        let result = edits::commit(&self.master, &asker, self.session, complete).await;
        self.conclude(ticket, result).await;
    }

    async fn tree(&self, ticket: &Ticket, tree: command::Tree, asker: Asker) {
        let result = match tree::carry_out(&self.master, &tree, &asker).await {
            Ok(counted) => v1::outcome::Result::Counted(counted),
            Err(error) => v1::outcome::Result::Failure((&error).into()),
        };
        self.send(Reply::Outcomes(v1::Outcomes { outcomes: vec![ticket.outcome(Position(0), result)] }));
    }

    /// Answers when caches are clean and, where that was asked for, when the entries are on disk.
    async fn finish(self: Arc<Self>, batch: Batch) {
        let Batch { mut outcomes, acknowledgements, durable } = batch;
        for wait in acknowledgements {
            wait.all().await;
        }
        if let Some(position) = durable
            && let Err(error) = self.master.core.wait_durable(position, self.master.core.deadline()).await
        {
            for outcome in &mut outcomes {
                outcome.result = Some(v1::outcome::Result::Failure((&error).into()));
            }
        }
        self.send(Reply::Outcomes(v1::Outcomes { outcomes }));
    }
}

enum Begun {
    Finished(Box<Finished>),
    Commit(Box<v1::CompleteFile>, Asker),
    Later(Asked, Asker),
}

/// Whose outcome it is, and what it is to contain.
struct Ticket {
    slot: u32,
    number: u64,
    durable: bool,
    /// What the client says of workers, for a file that it is about to write.
    preference: Preference,
    /// Whether what the call commits goes with the container of one worker.
    volatile: bool,
    /// Workers that hold what the call commits.
    holders: Vec<WorkerId>,
    /// The directory that the caller names by its id, or has named the file in that it names by id.
    directory: Option<FileId>,
    /// Whether the session's interest in that directory is recorded.
    known: bool,
    /// The file whose attributes change: its status is the answer.
    about: Option<FileId>,
    /// The time before it was begun.
    before: Duration,
    /// Whether it makes something under a free name.
    is_new: bool,
}

impl Ticket {
    fn of(call: &v1::Call, master: &Master) -> Self {
        let (preference, holders) = (Preference::default(), Vec::new());
        let (directory, known, about, before) = (None, false, None, Duration::ZERO);
        let v1::Call { slot, number, durable, .. } = *call;
        let mut ticket = Self {
            slot,
            number,
            durable,
            preference,
            volatile: false,
            holders,
            directory,
            known,
            about,
            before,
            is_new: false,
        };
        if let Some(what) = call.command.as_ref().and_then(|command| command.what.as_ref()) {
            ticket.about = command::about(what);
            ticket.is_new = command::is_new(what);
            let parent = |file| master.core.read().parents(file).first().copied().unwrap_or(file);
            ticket.directory = command::directory(what).or_else(|| ticket.about.map(parent));
        }
        match call.command.as_ref().and_then(|command| command.what.as_ref()) {
            Some(v1::command::What::CreateFile(create)) => {
                ticket.preference = Preference::of(&create.prefer_worker, &create.without);
            }
            Some(v1::command::What::EditFile(edit)) => {
                ticket.preference = Preference::of(&edit.prefer_worker, &edit.without);
            }
            Some(v1::command::What::CompleteFile(complete)) => {
                ticket.durable |= complete.sync;
                ticket.volatile = volatile::is_volatile(&complete.receipts);
                let cached = complete.receipts.iter().filter(|receipt| receipt.cached && receipt.held.is_empty());
                ticket.holders = cached.filter_map(|receipt| WorkerId::try_from(&receipt.worker[..]).ok()).collect();
            }
            _ => {}
        }
        ticket
    }

    fn outcome(&self, position: Position, result: v1::outcome::Result) -> v1::Outcome {
        let (slot, number, position, result) = (self.slot, self.number, position.0, Some(result));
        v1::Outcome { slot, number, position, result, validity: None, parent: 0, directory: None }
    }

    fn failed(&self, error: &Error) -> v1::Outcome {
        self.outcome(Position(0), v1::outcome::Result::Failure(error.into()))
    }

    /// How long a status in the answer may be kept, and the directory that it is under.
    fn validity(&self, connection: &Connection, outcome: &v1::outcome::Result) -> (Option<v1::Validity>, u64) {
        let status = match outcome {
            v1::outcome::Result::Status(status) => Some(status),
            v1::outcome::Result::Created(created) => created.status.as_ref(),
            _ => None,
        };
        let Some((directory, status)) = self.directory.filter(|_| self.known).zip(status) else { return (None, 0) };
        if self.is_new {
            connection.master.stores.made(FileId(status.id), self.before);
        }
        (Some(connection.finder().kept(directory, FileId(status.id))), directory.0)
    }
}

impl Ticket {
    /// The directory in which something was made, as a question for its status would be answered.
    fn above(&self, connection: &Connection) -> Option<v1::StatusReply> {
        let directory = self.directory.filter(|_| self.is_new && self.known)?;
        // First the interest, then the state.
        let found = connection.finder().know(directory);
        let state = connection.master.core.read();
        let status = answer::status(&connection.master, &state, directory).ok()?;
        let (status, position) = (Some((&status).into()), state.position().0);
        Some(v1::StatusReply { status, position, parent: found.parent.0, validity: Some(found.validity) })
    }
}

/// Calls that have their outcome and are answered together.
#[derive(Default)]
struct Batch {
    outcomes: Vec<v1::Outcome>,
    acknowledgements: Vec<Acknowledgements>,
    durable: Option<Position>,
}

impl Batch {
    fn add(&mut self, connection: &Connection, ticket: &Ticket, mut finished: Finished) {
        let acknowledgements = connection.master.follow(&mut finished, Some(connection.session));
        if !acknowledgements.is_empty() {
            self.acknowledgements.push(acknowledgements);
        }
        if ticket.durable {
            self.durable = self.durable.max(Some(finished.position));
        }
        if let Outcome::Committed { file, generation } = &finished.outcome {
            connection.master.committed(*file, *generation, &ticket.holders);
        }
        let (outcome, master) = (finished.outcome, &connection.master);
        let result = match (ticket.about, &outcome) {
            (Some(file), Outcome::Done) => answer::made(master, file),
            _ => answer::outcome(master, &connection.greeting, &ticket.preference, outcome),
        };
        let result = result.unwrap_or_else(|error| v1::outcome::Result::Failure((&error).into()));
        let (validity, parent) = ticket.validity(connection, &result);
        let directory = ticket.above(connection);
        let outcome = ticket.outcome(finished.position, result);
        self.outcomes.push(v1::Outcome { validity, parent, directory, ..outcome });
    }
}

/// A stream of replies and where they are put in.
#[must_use]
pub fn channel() -> (Replies, ReplyStream) {
    let (replies, stream) = mpsc::unbounded_channel();
    (replies, Box::pin(tokio_stream::wrappers::UnboundedReceiverStream::new(stream)))
}
