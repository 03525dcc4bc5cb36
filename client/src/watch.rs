//! Who else caches what the master said: the kernel behind a mount. Invalidations reach it here, and the master is told that
//! they are carried out only when it has said so.
//!
//! The master takes an acknowledgement for all invalidations before it, too, so they go out in the order of the invalidations,
//! whoever is done first. An invalidation that was handed over and then dropped is *not* acknowledged: the master then ends
//! the session after its lease, which drops everything, and so nothing stale is left.
//!
//! Bounded by the master, which cuts the stream of a client that is too far behind. Lock order: `senders`, then `waiting`.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use larder_common::{FileId, Name, Position};
use larder_proto::v1::{self, session_request::What};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::session::Control;

/// What caches must drop. Nothing waits for the kernel in between: do what takes no kernel lock, then acknowledge.
#[derive(Debug)]
#[must_use = "whoever made the change waits until it is acknowledged"]
pub struct Invalidated {
    /// Everything that was ever said may be different.
    pub everything: bool,
    /// The session is lost, or was just opened anew: what was said before holds no more. There is nothing to acknowledge.
    pub lost: bool,
    /// It is by a call of this very session, which sees the outcome itself. There is nothing to acknowledge.
    pub own: bool,
    /// A directory got another name. What is known by ids, or by directory and name, is as the lists below say.
    pub moved: bool,
    /// Any name in these may mean something else.
    pub directories: Vec<FileId>,
    /// These names came, went, or mean something else.
    pub names: Vec<(FileId, Name)>,
    /// Attributes or content of these may be different.
    pub files: Vec<FileId>,
    /// The change that it is about: an answer with a lower Position may be older than it.
    pub position: Position,
    ticket: Option<Ticket>,
}

impl Invalidated {
    /// Says that everything named is dropped. `still_open` are the files among those named that are open here and whose bytes
    /// are still needed from elsewhere.
    pub fn acknowledge(mut self, still_open: impl IntoIterator<Item = FileId>) {
        if let Some(ticket) = self.ticket.take() {
            ticket.acknowledgements.done(ticket.sequence, still_open);
        }
    }

    fn lost() -> Self {
        Self {
            everything: true,
            lost: true,
            own: false,
            moved: false,
            directories: Vec::new(),
            names: Vec::new(),
            files: Vec::new(),
            position: Position(0),
            ticket: None,
        }
    }

    fn of(message: &v1::Invalidations, ticket: Option<Ticket>) -> Self {
        let ids = |ids: &[u64]| ids.iter().copied().map(FileId).collect();
        let name = |child: &v1::Child| Some((FileId(child.parent), Name::new(&child.name).ok()?));
        Self {
            everything: message.everything,
            lost: false,
            own: message.own,
            moved: message.moved,
            directories: ids(&message.directories),
            names: message.names.iter().filter_map(name).collect(),
            files: ids(&message.files),
            position: Position(message.position),
            ticket,
        }
    }
}

#[derive(Debug)]
struct Ticket {
    acknowledgements: Arc<Acknowledgements>,
    sequence: u64,
}

/// The invalidations of one subscriber, from its subscription on. When it is dropped, what it has not been given counts as
/// acknowledged.
#[derive(Debug)]
pub struct Invalidations(mpsc::UnboundedReceiver<Invalidated>);

impl Invalidations {
    /// The next one; `None` when the file system is closed. May be dropped at its await, nothing is lost.
    pub async fn next(&mut self) -> Option<Invalidated> {
        self.0.recv().await
    }

    /// The next one if it is here already.
    pub fn try_next(&mut self) -> Option<Invalidated> {
        self.0.try_recv().ok()
    }
}

impl Drop for Invalidations {
    fn drop(&mut self) {
        self.0.close();
        while let Ok(left) = self.0.try_recv() {
            left.acknowledge([]);
        }
    }
}

/// Everybody who subscribed.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    senders: Mutex<Vec<mpsc::UnboundedSender<Invalidated>>>,
}

impl Watchers {
    pub(crate) fn subscribe(&self) -> Invalidations {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.senders.lock().push(sender);
        Invalidations(receiver)
    }

    /// Hands an invalidation over that our own caches have carried out; `still_open` of our own files.
    pub(crate) fn tell(
        &self,
        message: &v1::Invalidations,
        still_open: Vec<u64>,
        acknowledgements: &Arc<Acknowledgements>,
    ) {
        let mut senders = self.senders.lock();
        senders.retain(|sender| !sender.is_closed());
        let sequence = message.sequence;
        let waited_for = if message.own { 0 } else { senders.len() };
        acknowledgements.begin(sequence, waited_for + 1);
        for sender in &*senders {
            let ticket = || Ticket { acknowledgements: Arc::clone(acknowledgements), sequence };
            let ticket = (!message.own).then(ticket);
            if let Err(refused) = sender.send(Invalidated::of(message, ticket)) {
                refused.0.acknowledge([]);
            }
        }
        drop(senders);
        acknowledgements.done(sequence, still_open.into_iter().map(FileId));
    }

    /// What was said on the connection before holds no more.
    pub(crate) fn lost(&self) {
        self.senders.lock().retain(|sender| sender.send(Invalidated::lost()).is_ok());
    }
}

#[derive(Debug)]
struct Waiting {
    sequence: u64,
    /// So many have not acknowledged.
    left: usize,
    still_open: BTreeSet<u64>,
}

/// The invalidations of one connection that somebody has still to acknowledge, the oldest first.
#[derive(Debug)]
pub(crate) struct Acknowledgements {
    waiting: Mutex<VecDeque<Waiting>>,
    control: Control,
}

impl Acknowledgements {
    pub(crate) fn new(control: Control) -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::default(), control })
    }

    fn begin(&self, sequence: u64, left: usize) {
        self.waiting.lock().push_back(Waiting { sequence, left, still_open: BTreeSet::new() });
    }

    fn done(&self, sequence: u64, still_open: impl IntoIterator<Item = FileId>) {
        let mut waiting = self.waiting.lock();
        if let Some(one) = waiting.iter_mut().find(|one| one.sequence == sequence) {
            one.left = one.left.saturating_sub(1);
            one.still_open.extend(still_open.into_iter().map(|file| file.0));
        }
        while waiting.front().is_some_and(|one| one.left == 0)
            && let Some(Waiting { sequence, still_open, .. }) = waiting.pop_front()
        {
            let still_open = still_open.into_iter().collect();
            // A connection that is gone needs none: its end has dropped everything.
            let _ = self.control.send(What::Acknowledge(v1::Acknowledge { sequence, still_open }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sequence: u64) -> v1::Invalidations {
        v1::Invalidations { sequence, files: vec![sequence], ..v1::Invalidations::default() }
    }

    struct Line {
        watchers: Watchers,
        acknowledgements: Arc<Acknowledgements>,
        sent: mpsc::UnboundedReceiver<What>,
    }

    fn line() -> Line {
        let (control, sent) = mpsc::unbounded_channel();
        Line { watchers: Watchers::default(), acknowledgements: Acknowledgements::new(control), sent }
    }

    impl Line {
        fn tell(&self, sequence: u64, still_open: &[u64]) {
            self.watchers.tell(&message(sequence), still_open.to_vec(), &self.acknowledgements);
        }

        fn sent(&mut self) -> Vec<(u64, Vec<u64>)> {
            let mut all = Vec::new();
            while let Ok(what) = self.sent.try_recv() {
                let What::Acknowledge(one) = what else { panic!("{what:?}") };
                all.push((one.sequence, one.still_open));
            }
            all
        }
    }

    #[test]
    fn without_subscribers_an_invalidation_is_acknowledged_at_once() {
        let mut line = line();
        line.tell(1, &[7]);
        assert_eq!(line.sent(), [(1, vec![7])]);
    }

    #[test]
    fn the_master_hears_when_all_have_dropped_theirs_and_in_its_order() {
        let mut line = line();
        let (mut one, mut other) = (line.watchers.subscribe(), line.watchers.subscribe());
        line.tell(1, &[7]);
        line.tell(2, &[]);
        let (first, second) = (one.try_next().unwrap(), one.try_next().unwrap());
        second.acknowledge([]);
        other.try_next().unwrap().acknowledge([FileId(5)]);
        other.try_next().unwrap().acknowledge([]);
        assert!(line.sent().is_empty(), "the second is done, but an acknowledgement is for all before it, too");
        first.acknowledge([FileId(7), FileId(9)]);
        assert_eq!(line.sent(), [(1, vec![5, 7, 9]), (2, vec![])]);
    }

    #[test]
    fn nobody_waits_for_what_this_session_did_itself() {
        let mut line = line();
        let mut watcher = line.watchers.subscribe();
        let own = v1::Invalidations { own: true, ..message(1) };
        line.watchers.tell(&own, Vec::new(), &line.acknowledgements);
        assert_eq!(line.sent(), [(1, vec![])]);
        drop(watcher.try_next().unwrap());
    }

    #[test]
    fn what_was_handed_over_and_dropped_is_not_acknowledged() {
        let mut line = line();
        let mut watcher = line.watchers.subscribe();
        line.tell(1, &[]);
        drop(watcher.try_next().unwrap());
        assert!(line.sent().is_empty());
    }

    #[test]
    fn a_subscriber_that_goes_is_not_waited_for() {
        let mut line = line();
        let watcher = line.watchers.subscribe();
        line.tell(1, &[]);
        assert!(line.sent().is_empty());
        drop(watcher);
        assert_eq!(line.sent(), [(1, vec![])]);
        line.tell(2, &[]);
        assert_eq!(line.sent(), [(2, vec![])]);
    }

    #[test]
    fn a_lost_session_is_everything_and_needs_no_answer() {
        let line = line();
        let mut watcher = line.watchers.subscribe();
        line.watchers.lost();
        let lost = watcher.try_next().unwrap();
        assert!(lost.everything && lost.lost);
        lost.acknowledge([]);
    }
}
