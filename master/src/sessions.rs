//! The live side of sessions: who is connected, when each was last heard of, and the invalidations under way.
//!
//! What a session holds is in the state machine; this is what the leader keeps beside it. A change is answered only after
//! every session that may have cached what it touches has acknowledged the invalidation, or is over
//! ([`Sessions::invalidate`]). The one who made the change gets the invalidation too, before the outcome on the same
//! stream, and is not waited for. A session that does not acknowledge within its lease is over.
//!
//! Lock order: `live`, then `interest`. Neither is held across an await.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use larder_common::{FileId, LeaseId, Position, SessionId, clock::Clock};
use larder_proto::v1::{self, session_reply::What};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::{mpsc, watch};
use tonic::Status;

use crate::interest::Interest;

/// Where a session's replies go.
pub type Replies = mpsc::UnboundedSender<Result<v1::SessionReply, Status>>;

/// The most replies that wait for a client that does not read; beyond it the stream is cut.
const BACKLOG_MAX: usize = 100_000;

/// What a change touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Directories that have or had the names and inodes: who asked about these is told.
    pub directories: FxHashSet<FileId>,
    /// Directories in which so many names came or went that they are not told one by one.
    pub names_in: FxHashSet<FileId>,
    /// Names that came, went, or mean something else.
    pub names: FxHashSet<(FileId, Vec<u8>)>,
    /// Inodes whose attributes or content changed.
    pub files: FxHashSet<FileId>,
    /// Everything may be different: a mount came or went, an inode has names in many directories.
    pub everything: bool,
    /// Paths below a directory mean something else: it has another name. Everybody is told.
    pub moved: bool,
}

/// So many names are told one by one; of more, only the directories.
const NAMES_MAX: usize = 64;

impl Touched {
    /// Whether nothing is touched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let one = self.everything || self.moved;
        !one && self.files.is_empty() && self.names_in.is_empty() && self.names.is_empty()
    }

    /// A name of a directory means something else than before.
    pub fn name(&mut self, directory: FileId, name: &[u8]) {
        if self.names_in.contains(&directory) {
            return;
        }
        self.names.insert((directory, name.to_vec()));
        if self.names.len() > NAMES_MAX {
            self.names_in.extend(self.names.drain().map(|(directory, _)| directory));
        }
    }

    /// Takes another change in.
    pub fn extend(&mut self, other: Touched) {
        self.directories.extend(other.directories);
        self.names_in.extend(other.names_in);
        other.names.iter().for_each(|(directory, name)| self.name(*directory, name));
        self.files.extend(other.files);
        self.everything |= other.everything;
        self.moved |= other.moved;
    }

    fn message(&self, position: Position) -> v1::Invalidations {
        let name =
            |(parent, name): &(FileId, Vec<u8>)| v1::Child { parent: parent.0, name: Bytes::copy_from_slice(name) };
        v1::Invalidations {
            sequence: 0,
            position: position.0,
            everything: self.everything,
            directories: self.names_in.iter().map(|id| id.0).collect(),
            files: self.files.iter().map(|id| id.0).collect(),
            names: self.names.iter().map(name).collect(),
            own: false,
            moved: self.moved,
            ..v1::Invalidations::default()
        }
    }
}

#[derive(Debug)]
struct Live {
    /// Write leases that others ask for, so that they are asked for again on a new connection.
    recalled: Vec<LeaseId>,
    replies: Option<Replies>,
    /// Which connection `replies` belongs to: one that has been replaced must not detach its successor.
    connection: u64,
    heard: Duration,
    sent: u64,
    acknowledged: watch::Sender<u64>,
    /// Since when it owes an acknowledgement without having sent any.
    owes: Option<Duration>,
}

/// The live sessions.
#[derive(Debug)]
pub struct Sessions {
    clock: Arc<dyn Clock>,
    lease: Duration,
    live: Mutex<FxHashMap<SessionId, Live>>,
    interest: Mutex<Interest>,
    /// Files that sessions said they still need, of the last invalidations.
    still_open: Mutex<FxHashMap<FileId, FxHashSet<SessionId>>>,
}

impl Sessions {
    /// No session yet; each ends after `lease` of silence.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, lease: Duration) -> Self {
        Self { clock, lease, live: Mutex::default(), interest: Mutex::default(), still_open: Mutex::default() }
    }

    /// After so much silence a session ends.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Connects a session, in place of an older connection of it, and says `first` before anything else. The number names
    /// the connection for [`Self::detach`].
    pub fn attach(&self, session: SessionId, replies: Replies, first: v1::SessionReply) -> u64 {
        let now = self.clock.monotonic();
        let mut live = self.live.lock();
        // A client that is gone already is found out by its stream.
        let _ = replies.send(Ok(first));
        let entry = live.entry(session).or_insert_with(|| Live::silent_since(now));
        entry.replies = Some(replies);
        entry.connection += 1;
        entry.heard = now;
        // What was under way on the old connection is lost: the client drops everything when it resumes.
        let sent = entry.sent;
        entry.acknowledged.send_replace(sent);
        entry.owes = None;
        let leases: Vec<u64> = entry.recalled.iter().map(|lease| lease.0).collect();
        if !leases.is_empty() {
            entry.tell(v1::Invalidations { leases, ..v1::Invalidations::default() });
        }
        entry.connection
    }

    /// Asks a session to give up a write lease. It is asked once, and again when it comes back on a new connection, until
    /// [`Sessions::given_up`].
    pub fn recall(&self, session: SessionId, lease: LeaseId) {
        if let Some(live) = self.live.lock().get_mut(&session).filter(|live| !live.recalled.contains(&lease)) {
            live.recalled.push(lease);
            live.tell(v1::Invalidations { leases: vec![lease.0], ..v1::Invalidations::default() });
        }
    }

    /// Whether a session is to give up a write lease.
    #[must_use]
    pub fn is_recalled(&self, session: SessionId, lease: LeaseId) -> bool {
        self.live.lock().get(&session).is_some_and(|live| live.recalled.contains(&lease))
    }

    /// A write lease is over: nobody asks for it any more.
    pub fn given_up(&self, lease: LeaseId) {
        for live in self.live.lock().values_mut() {
            live.recalled.retain(|other| *other != lease);
        }
    }

    /// Whether another session than `by` may know something of these directories.
    #[must_use]
    pub fn others_know(&self, directories: &FxHashSet<FileId>, by: Option<SessionId>) -> bool {
        let live = self.live.lock();
        let know = self.interest.lock().of(directories);
        know.into_iter().any(|session| Some(session) != by && live.contains_key(&session))
    }

    /// A connection has ended. The session lives on until its lease is over.
    pub fn detach(&self, session: SessionId, connection: u64) {
        if let Some(live) = self.live.lock().get_mut(&session).filter(|live| live.connection == connection) {
            live.replies = None;
        }
    }

    /// Counts the lease of sessions that a restarted master found in its state from now.
    pub fn expect(&self, sessions: impl IntoIterator<Item = SessionId>) {
        let now = self.clock.monotonic();
        let mut live = self.live.lock();
        for session in sessions {
            live.entry(session).or_insert_with(|| Live::silent_since(now));
        }
    }

    /// A session was heard of.
    pub fn heard(&self, session: SessionId) {
        let now = self.clock.monotonic();
        if let Some(live) = self.live.lock().get_mut(&session) {
            live.heard = now;
        }
    }

    /// The sessions whose lease is over: nothing was heard of them, or they owe an acknowledgement, for so long. They stay
    /// until [`Self::end`].
    #[must_use]
    pub fn expired(&self) -> Vec<SessionId> {
        let now = self.clock.monotonic();
        let live = self.live.lock();
        let over = |since: Duration| now.saturating_sub(since) > self.lease;
        live.iter().filter(|(_, l)| over(l.heard) || l.owes.is_some_and(over)).map(|(id, _)| *id).collect()
    }

    /// A session is over: whoever waits for it waits no more.
    pub fn end(&self, session: SessionId) {
        if let Some(live) = self.live.lock().remove(&session)
            && let Some(replies) = live.replies
        {
            let over = larder_common::Error::new(larder_common::ErrorKind::Unavailable, "the session is over");
            // The client may be gone; then nobody needs to know.
            let _ = replies.send(Ok(reply(What::Refused((&over).into()))));
        }
        self.interest.lock().forget(session);
        for readers in self.still_open.lock().values_mut() {
            readers.remove(&session);
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.live.lock().len()
    }

    /// A session is about to be told something about a name in `directory`: call it before the state is read. False when
    /// the session is not live: then the answer must not be cached.
    pub fn will_know(&self, session: SessionId, directory: FileId) -> bool {
        let live = self.live.lock();
        let known = live.contains_key(&session);
        if known {
            self.interest.lock().add(session, directory);
        }
        known
    }

    /// A session has dropped what an invalidation named; `still_open` it has open and needs bytes of.
    pub fn acknowledge(&self, session: SessionId, sequence: u64, still_open: impl IntoIterator<Item = FileId>) {
        let mut open = self.still_open.lock();
        for file in still_open {
            open.entry(file).or_default().insert(session);
        }
        drop(open);
        let now = self.clock.monotonic();
        if let Some(live) = self.live.lock().get_mut(&session) {
            let newer = live.acknowledged.send_if_modified(|known| {
                let newer = sequence > *known && sequence <= live.sent;
                if newer {
                    *known = sequence;
                }
                newer
            });
            if newer {
                live.owes = (sequence < live.sent).then_some(now);
            }
        }
    }

    /// The sessions that said they still need bytes of a file, and forgets that they said it.
    #[must_use]
    pub fn take_still_open(&self, file: FileId) -> Vec<SessionId> {
        self.still_open.lock().remove(&file).unwrap_or_default().into_iter().collect()
    }

    /// Tells every session that may have cached what is touched. The future ends when all but `by` have acknowledged or
    /// are over; the messages are sent before this returns.
    pub fn invalidate(&self, touched: &Touched, position: Position, by: Option<SessionId>) -> Acknowledgements {
        let mut waits = Vec::new();
        if !touched.is_empty() {
            let message = touched.message(position);
            let now = self.clock.monotonic();
            let mut live = self.live.lock();
            let told = {
                let interest = self.interest.lock();
                let all = touched.everything || touched.moved;
                if all { interest.all() } else { interest.of(&touched.directories) }
            };
            for session in told {
                let Some(entry) = live.get_mut(&session) else { continue };
                let own = Some(session) == by;
                let sequence = entry.tell(v1::Invalidations { own, ..message.clone() });
                entry.owes.get_or_insert(now);
                if Some(session) != by {
                    waits.push((entry.acknowledged.subscribe(), sequence));
                }
            }
        }
        Acknowledgements { waits, limit: self.lease * 2 }
    }
}

impl Live {
    fn silent_since(now: Duration) -> Self {
        let acknowledged = watch::Sender::new(0);
        Self { recalled: Vec::new(), replies: None, connection: 0, heard: now, sent: 0, acknowledged, owes: None }
    }

    /// Sends an invalidation. A session without a connection is waited for until it resumes or ends.
    fn tell(&mut self, message: v1::Invalidations) -> u64 {
        self.sent += 1;
        let message = v1::Invalidations { sequence: self.sent, ..message };
        let backlog = self.sent - *self.acknowledged.borrow();
        let sent =
            self.replies.as_ref().is_some_and(|replies| replies.send(Ok(reply(What::Invalidations(message)))).is_ok());
        if !sent || backlog > BACKLOG_MAX as u64 {
            self.replies = None;
        }
        self.sent
    }
}

/// Acknowledgements that are waited for.
#[derive(Debug)]
#[must_use = "a change is answered only when the caches are clean"]
pub struct Acknowledgements {
    waits: Vec<(watch::Receiver<u64>, u64)>,
    limit: Duration,
}

impl Acknowledgements {
    /// Whether there is nothing to wait for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// Takes more in.
    pub fn extend(&mut self, other: Acknowledgements) {
        self.waits.extend(other.waits);
    }

    /// Ends when everybody has acknowledged or is over. Bounded: a session ends after its lease.
    pub async fn all(self) {
        let everybody = async {
            for (mut acknowledged, sequence) in self.waits {
                // An error means that the session is over.
                let _ = acknowledged.wait_for(|known| *known >= sequence).await;
            }
        };
        if tokio::time::timeout(self.limit, everybody).await.is_err() {
            tracing::warn!("a session neither acknowledged an invalidation nor ended within twice its lease");
        }
    }
}

/// A reply on the session's stream.
#[must_use]
pub fn reply(what: What) -> v1::SessionReply {
    v1::SessionReply { what: Some(what) }
}

#[cfg(test)]
mod tests {
    use larder_common::{Timestamp, clock::ManualClock};

    use super::*;

    const LEASE: Duration = Duration::from_secs(10);
    const D: FileId = FileId(5);

    fn touched() -> Touched {
        Touched {
            directories: [D].into_iter().collect(),
            files: [FileId(6)].into_iter().collect(),
            ..Touched::default()
        }
    }

    type Stream = mpsc::UnboundedReceiver<Result<v1::SessionReply, Status>>;

    fn connect(sessions: &Sessions, id: u64) -> Stream {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        sessions.attach(SessionId(id), sender, v1::SessionReply::default());
        assert_eq!(receiver.try_recv().unwrap().unwrap(), v1::SessionReply::default(), "the greeting comes first");
        assert!(sessions.will_know(SessionId(id), D));
        receiver
    }

    fn sequence(stream: &mut Stream) -> u64 {
        match stream.try_recv().unwrap().unwrap().what.unwrap() {
            What::Invalidations(message) => message.sequence,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_change_waits_for_everybody_but_its_maker() {
        let sessions = Sessions::new(ManualClock::at(Timestamp(0)), LEASE);
        let (mut maker, mut reader) = (connect(&sessions, 1), connect(&sessions, 2));
        let acknowledgements = sessions.invalidate(&touched(), Position(3), Some(SessionId(1)));
        assert_eq!(sequence(&mut maker), 1);
        let waiting = tokio::spawn(acknowledgements.all());
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let number = sequence(&mut reader);
        sessions.acknowledge(SessionId(2), number, [FileId(6)]);
        waiting.await.unwrap();
        assert_eq!(sessions.take_still_open(FileId(6)), [SessionId(2)]);
    }

    #[tokio::test]
    async fn a_session_that_ends_is_not_waited_for() {
        let clock = ManualClock::at(Timestamp(0));
        let sessions = Sessions::new(clock.clone(), LEASE);
        let _reader = connect(&sessions, 2);
        let waiting = tokio::spawn(sessions.invalidate(&touched(), Position(3), None).all());
        clock.advance(LEASE * 2);
        assert_eq!(sessions.expired(), [SessionId(2)]);
        sessions.end(SessionId(2));
        waiting.await.unwrap();
        assert!(!sessions.will_know(SessionId(2), D), "answers to a session that is over must not be cached");
    }

    #[tokio::test]
    async fn a_broken_connection_is_waited_for_until_it_resumes() {
        let sessions = Sessions::new(ManualClock::at(Timestamp(0)), LEASE);
        drop(connect(&sessions, 2));
        let waiting = tokio::spawn(sessions.invalidate(&touched(), Position(3), None).all());
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let _again = connect(&sessions, 2);
        waiting.await.unwrap();
    }

    #[test]
    fn many_names_become_their_directories() {
        let mut touched = Touched::default();
        (0..NAMES_MAX).for_each(|i| touched.name(D, format!("{i}").as_bytes()));
        assert_eq!((touched.names.len(), touched.names_in.len()), (NAMES_MAX, 0));
        touched.name(FileId(9), b"one more");
        assert!(touched.names.is_empty());
        assert_eq!(touched.names_in, [D, FileId(9)].into_iter().collect());
        touched.name(D, b"of a directory that is named already");
        assert!(touched.names.is_empty());
    }

    #[test]
    fn who_made_the_change_is_told_that_it_was_his_own() {
        let sessions = Sessions::new(ManualClock::at(Timestamp(0)), LEASE);
        let (mut maker, mut reader) = (connect(&sessions, 1), connect(&sessions, 2));
        let _wait = sessions.invalidate(&touched(), Position(3), Some(SessionId(1)));
        let own = |stream: &mut Stream| match stream.try_recv().unwrap().unwrap().what.unwrap() {
            What::Invalidations(message) => message.own,
            other => panic!("{other:?}"),
        };
        assert_eq!((own(&mut maker), own(&mut reader)), (true, false));
    }

    #[test]
    fn a_session_that_acknowledges_nothing_is_over_although_it_speaks() {
        let clock = ManualClock::at(Timestamp(0));
        let sessions = Sessions::new(clock.clone(), LEASE);
        let mut reader = connect(&sessions, 2);
        let _wait = [(); 2].map(|()| sessions.invalidate(&touched(), Position(3), None));
        let (first, second) = (sequence(&mut reader), sequence(&mut reader));
        let half_a_lease = || {
            clock.advance(LEASE * 2 / 3);
            sessions.heard(SessionId(2));
        };
        half_a_lease();
        sessions.acknowledge(SessionId(2), first, []);
        half_a_lease();
        assert!(sessions.expired().is_empty(), "it is slow, but it goes on");
        half_a_lease();
        assert_eq!(sessions.expired(), [SessionId(2)]);
        sessions.acknowledge(SessionId(2), second, []);
        half_a_lease();
        assert!(sessions.expired().is_empty(), "it owes nothing");
    }

    #[test]
    fn nobody_interested_is_nobody_waited_for() {
        let sessions = Sessions::new(ManualClock::at(Timestamp(0)), LEASE);
        let _reader = connect(&sessions, 2);
        let other = Touched { directories: [FileId(99)].into_iter().collect(), ..touched() };
        assert!(sessions.invalidate(&other, Position(1), None).is_empty());
        assert!(sessions.invalidate(&Touched::default(), Position(1), None).is_empty());
    }
}
