//! One mount that is alive: its store, and whether it works.
//!
//! A mount that does not answer is *in trouble*: every call then fails at once with the reason, and a task of its own
//! tries again with growing pauses until it answers. Other mounts do not notice. The store is opened by that same task,
//! so a mount whose store is away at the start is simply in trouble.
//!
//! Lock order: `inside` is a leaf; nothing is awaited or called under it.

use std::{
    fmt,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use larder_common::{Error, ErrorKind, Result, Timestamp, clock::Clock};
use larder_ufs::{ObjectPath, Space, UnderStore};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{
    Boxed,
    freshness::{Nature, Policy, Words},
    ledger::MountRow,
};

/// How long the first pause after a failure is, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));
/// How long a mount in trouble may take to show that it is not.
const PROBE: Duration = Duration::from_secs(5);

/// Opens under stores.
pub trait Opener: fmt::Debug + Send + Sync + 'static {
    /// Opens the store of a mount.
    fn open(&self, mount: &MountRow) -> Boxed<'static, Result<Arc<dyn UnderStore>>>;
}

/// What every mount is given.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Opens stores.
    pub opener: Arc<dyn Opener>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How long one call of a store may take.
    pub timeout: Duration,
    /// How many actions one mount does at a time.
    pub threads: usize,
}

/// Why a mount does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What happened first.
    pub error: Error,
    /// Since when.
    pub since: Timestamp,
}

#[derive(Debug)]
struct Inside {
    store: Option<Arc<dyn UnderStore>>,
    trouble: Option<Trouble>,
    probing: bool,
    nature: Nature,
    shortage: Option<String>,
    space: Space,
}

/// A mount that is alive.
#[derive(Debug)]
pub struct LiveMount {
    row: MountRow,
    policy: Policy,
    terms: Terms,
    permits: Arc<Semaphore>,
    inside: Mutex<Inside>,
    working: watch::Sender<bool>,
    changed: watch::Sender<u64>,
    over: watch::Sender<bool>,
}

impl LiveMount {
    pub(super) fn new(row: MountRow, policy: Policy, terms: Terms, changed: watch::Sender<u64>) -> Arc<Self> {
        let opening = Error::new(ErrorKind::Unavailable, format!("the under store {} is being opened", row.uri));
        let inside = Inside {
            store: None,
            trouble: Some(Trouble { error: opening, since: terms.clock.now() }),
            probing: false,
            nature: Nature::Remote,
            shortage: None,
            space: Space::default(),
        };
        Arc::new(Self {
            row,
            policy,
            permits: Arc::new(Semaphore::new(terms.threads.max(1))),
            terms,
            inside: Mutex::new(inside),
            working: watch::Sender::new(false),
            changed,
            over: watch::Sender::new(false),
        })
    }

    /// The mount as the state has it.
    #[must_use]
    pub fn row(&self) -> &MountRow {
        &self.row
    }

    /// How fresh it is to be kept.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// What its store offers for that.
    #[must_use]
    pub fn nature(&self) -> Nature {
        self.inside.lock().nature.clone()
    }

    /// How fresh it is kept, in words.
    #[must_use]
    pub fn freshness(&self) -> String {
        let inside = self.inside.lock();
        Words { policy: self.policy, nature: &inside.nature, shortage: inside.shortage.as_deref() }.to_string()
    }

    /// Its store, if it works.
    ///
    /// # Errors
    /// At once, with the reason and since when, while it is in trouble.
    pub fn store(&self) -> Result<Arc<dyn UnderStore>> {
        let inside = self.inside.lock();
        match (&inside.store, &inside.trouble) {
            (Some(store), None) => Ok(Arc::clone(store)),
            (_, trouble) => Err(self.away(trouble.as_ref())),
        }
    }

    fn away(&self, trouble: Option<&Trouble>) -> Error {
        let since = trouble.map_or(Duration::ZERO, |trouble| self.terms.clock.now().since(trouble.since));
        let reason = trouble.map_or("it is being opened", |trouble| trouble.error.message());
        Error::new(
            ErrorKind::Unavailable,
            format!("the under store of {} has been away for {}s: {reason}", self.row.path, since.as_secs()),
        )
        .advise("it is tried again by itself; see `larder fsadmin report`")
    }

    /// Why it does not work, if so.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.inside.lock().trouble.clone()
    }

    /// How much room its store has, as last seen.
    #[must_use]
    pub fn space(&self) -> Space {
        self.inside.lock().space
    }

    /// Ends when the mount works. Also ends, with an error, when it is taken away.
    ///
    /// # Errors
    /// `NotFound` when it is unmounted, `Deadline`.
    pub async fn until_working(&self, deadline: Instant) -> Result<()> {
        let mut working = self.working.subscribe();
        let mut over = self.over.subscribe();
        let gone = || Error::new(ErrorKind::NotFound, format!("{} is no mount any more", self.row.path));
        tokio::select! {
            _ = over.wait_for(|over| *over) => Err(gone()),
            _ = working.wait_for(|working| *working) => Ok(()),
            () = tokio::time::sleep_until(deadline.into()) => Err(self.away(self.trouble().as_ref())),
        }
    }

    /// A place in the mount's pool.
    ///
    /// # Errors
    /// `Deadline`.
    pub(super) async fn permit(&self, deadline: Instant) -> Result<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.permits).acquire_owned();
        match tokio::time::timeout_at(deadline.into(), permit).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => {
                Err(Error::new(ErrorKind::Deadline, format!("the under store of {} has too much to do", self.row.path))
                    .advise("see `larder fsadmin report`: it may be slow"))
            }
        }
    }

    /// Makes one call with a deadline, and takes note when the store does not answer.
    ///
    /// # Errors
    /// The store's, and `Deadline`.
    pub async fn call<T>(
        self: &Arc<Self>,
        deadline: Instant,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let longest = Instant::now() + self.terms.timeout;
        let result = tokio::time::timeout_at(deadline.min(longest).into(), call).await;
        match result {
            Ok(Err(error)) if is_unknown(&error) => {
                self.note(error.clone());
                Err(error)
            }
            Ok(result) => result,
            Err(_) => {
                let message = format!("the under store of {} did not answer in time", self.row.path);
                let error = Error::new(ErrorKind::Deadline, message).advise("see `larder fsadmin report`");
                // A caller who was nearly out of time says nothing about the store.
                if longest <= deadline {
                    self.note(error.clone());
                }
                Err(error)
            }
        }
    }

    /// Takes note of a store that does not answer.
    pub(super) fn note(self: &Arc<Self>, error: Error) {
        let mut inside = self.inside.lock();
        if inside.trouble.is_none() {
            tracing::warn!(mount = %self.row.path, uri = %self.row.uri, %error, "an under store does not answer");
            inside.trouble = Some(Trouble { error, since: self.terms.clock.now() });
        }
        drop(inside);
        self.working.send_replace(false);
        self.changed.send_modify(|count| *count += 1);
        self.start_probing();
    }

    /// Begins to try until the store answers; does nothing where that is under way.
    pub(super) fn start_probing(self: &Arc<Self>) {
        if !std::mem::replace(&mut self.inside.lock().probing, true) {
            tokio::spawn(Arc::clone(self).probe());
        }
    }

    async fn probe(self: Arc<Self>) {
        let mut over = self.over.subscribe();
        let mut pause = PAUSES.0;
        loop {
            let tried = tokio::select! {
                _ = over.wait_for(|over| *over) => return,
                tried = self.try_once() => tried,
            };
            match tried {
                Ok(()) => return,
                Err(error) => self.still_away(error),
            }
            tokio::select! {
                _ = over.wait_for(|over| *over) => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn try_once(&self) -> Result<()> {
        let store = self.inside.lock().store.clone();
        let trying = async {
            let store = match store {
                Some(store) => store,
                None => self.terms.opener.open(&self.row).await?,
            };
            let root = store.status(&ObjectPath::root()).await?;
            if !root.kind.is_directory() {
                return Err(Error::new(ErrorKind::NotDirectory, format!("{} is not a directory", store.describe())));
            }
            let space = store.space().await.unwrap_or_default();
            Ok((store, space))
        };
        let limit = PROBE.min(self.terms.timeout);
        let late = |_| Error::new(ErrorKind::Deadline, format!("{} did not answer within {limit:?}", self.row.uri));
        let (store, space) = tokio::time::timeout(limit, trying).await.map_err(late)??;
        self.works(store, space);
        Ok(())
    }

    fn works(&self, store: Arc<dyn UnderStore>, space: Space) {
        let mut inside = self.inside.lock();
        if inside.store.is_none() {
            inside.nature = nature(&*store);
        }
        inside.store = Some(store);
        inside.space = space;
        inside.trouble = None;
        inside.probing = false;
        drop(inside);
        tracing::info!(mount = %self.row.path, uri = %self.row.uri, freshness = self.freshness(), "an under store works");
        self.working.send_replace(true);
        self.changed.send_modify(|count| *count += 1);
    }

    fn still_away(&self, error: Error) {
        let mut inside = self.inside.lock();
        let known = inside.trouble.as_ref().is_some_and(|trouble| trouble.error == error);
        if !known {
            tracing::warn!(mount = %self.row.path, uri = %self.row.uri, %error, "an under store cannot be used");
            let since = inside.trouble.as_ref().map_or_else(|| self.terms.clock.now(), |trouble| trouble.since);
            inside.trouble = Some(Trouble { error, since });
        }
        drop(inside);
        if !known {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Watching turned out not to work as the store said.
    pub(super) fn cannot_watch(&self, reason: &Error) {
        let mut inside = self.inside.lock();
        match reason.kind() {
            ErrorKind::NoSpace => inside.shortage = Some(reason.to_string()),
            _ => inside.nature = Nature::Unwatchable(reason.to_string()),
        }
        drop(inside);
        tracing::warn!(mount = %self.row.path, %reason, "directories are looked at again instead of watched");
        self.changed.send_modify(|count| *count += 1);
    }

    pub(super) fn set_space(&self, space: Space) {
        self.inside.lock().space = space;
    }

    /// The mount is taken away: its tasks end.
    pub(super) fn end(&self) {
        self.over.send_replace(true);
    }

    /// Ends when the mount is taken away.
    pub(super) async fn ended(&self) {
        // The sender lives as long as `self`.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Whether the mount has been taken away.
    pub(super) fn is_over(&self) -> bool {
        *self.over.borrow()
    }
}

fn nature(store: &dyn UnderStore) -> Nature {
    let can = store.capabilities();
    match (can.watch, can.attributes) {
        (true, _) => Nature::Watchable,
        (false, true) => Nature::Unwatchable(format!("{} tells of no changes", store.describe())),
        (false, false) => Nature::Remote,
    }
}

/// Whether an error leaves open what has become of the call.
#[must_use]
pub fn is_unknown(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Deadline | ErrorKind::Unavailable)
}
