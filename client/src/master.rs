//! The way to the master: one channel, the session on it, and calls that only ask.
//!
//! Questions are asked again until the deadline while the master cannot be reached; what it answers is passed on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use larder_common::{ClusterId, Error, ErrorKind, Result, SessionId};
use larder_proto::{
    Channel, Greeting, dial, from_status,
    greeting::Token,
    v1::{admin_client::AdminClient, file_system_client::FileSystemClient},
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::{Response, Status};

use crate::{
    calls::Calls,
    config::Config,
    fork::Born,
    retry::{Backoff, Deadline},
    watch::Watchers,
};

/// How the session is.
#[derive(Clone, Debug)]
pub(crate) enum LinkState {
    /// Not connected now; why, if an attempt failed already.
    Down(Option<Error>),
    /// Connected.
    Up,
    /// The master does not want us; trying again will not help without a change.
    Refused(Error),
}

/// Until when answers may be used that hold "while the session lives".
///
/// Counted from the moment of sending the last message that was answered, so that the master's count ends later than
/// ours; and trusted for 70 % of the lease only, so that a pause of this process between looking and using is covered.
#[derive(Debug)]
pub(crate) struct Trust {
    base: Instant,
    until: AtomicU64,
}

impl Trust {
    fn new() -> Self {
        Self { base: Instant::now(), until: AtomicU64::new(0) }
    }

    #[inline]
    pub(crate) fn holds(&self, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.base).as_nanos();
        now < u128::from(self.until.load(Ordering::Acquire))
    }

    /// A message that was sent at `sent` was answered.
    pub(crate) fn extend(&self, sent: Instant, lease: Duration) {
        let until = sent.saturating_duration_since(self.base) + lease.mul_f64(0.7);
        self.until.fetch_max(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX), Ordering::AcqRel);
    }

    /// Until when; in the past where nothing is trusted.
    pub(crate) fn until(&self) -> Instant {
        self.base + Duration::from_nanos(self.until.load(Ordering::Acquire))
    }

    pub(crate) fn end(&self) {
        self.until.store(0, Ordering::Release);
    }
}

/// The way to the master.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) config: Arc<Config>,
    pub(crate) channel: Channel,
    pub(crate) calls: Arc<Calls>,
    pub(crate) trust: Arc<Trust>,
    pub(crate) state: watch::Sender<LinkState>,
    pub(crate) watchers: Watchers,
    pub(crate) edits: crate::edit::Edits,
    pub(crate) greeting: Mutex<Greeting>,
    born: Born,
}

impl Link {
    pub(crate) fn new(config: Arc<Config>) -> Result<Arc<Self>> {
        let channel = Channel::to(&config.master.host, config.master.port)?;
        let greeting = Greeting {
            cluster: None,
            caller: config.caller.clone(),
            token: config.token.as_ref().map(|token| Token::new(token.expose())).unwrap_or_default(),
            session: SessionId(0),
            hostname: config.hostname.clone(),
            locality: config.locality.clone(),
        };
        channel.greet(&greeting);
        Ok(Arc::new(Self {
            config,
            channel,
            calls: Calls::new(),
            trust: Arc::new(Trust::new()),
            state: watch::Sender::new(LinkState::Down(None)),
            watchers: Watchers::default(),
            edits: crate::edit::Edits::default(),
            greeting: Mutex::new(greeting),
            born: Born::here(),
        }))
    }

    pub(crate) fn client(&self) -> FileSystemClient<Channel> {
        FileSystemClient::new(self.channel.clone()).max_decoding_message_size(dial::MESSAGE_MAX)
    }

    /// Says from now on in which session and cluster we are.
    pub(crate) fn greet(&self, session: SessionId, cluster: Option<ClusterId>) {
        let mut greeting = self.greeting.lock();
        (greeting.session, greeting.cluster) = (session, cluster);
        self.channel.greet(&greeting);
    }

    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.config.timeout)
    }

    /// # Errors
    /// `Invalid` in a forked child.
    pub(crate) fn check_process(&self) -> Result<()> {
        self.born.check()
    }

    /// Waits until the session is open.
    ///
    /// # Errors
    /// What the master refuses it with; `Unavailable` with the last reason at the deadline.
    pub(crate) async fn up(&self, deadline: Deadline) -> Result<()> {
        self.born.check()?;
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| !matches!(state, LinkState::Down(_)));
        let settled = deadline.bound("the master", settled).await.map(|state| state.map(|state| state.clone()));
        match settled {
            Ok(Ok(LinkState::Refused(error))) => Err(error),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_closed)) => Err(Error::new(ErrorKind::Unavailable, "the file system was closed")),
            Err(_late) => Err(self.not_reached()),
        }
    }

    fn not_reached(&self) -> Error {
        let reason = match &*self.state.borrow() {
            LinkState::Down(Some(error)) | LinkState::Refused(error) => error.message().to_owned(),
            _ => "no answer in time".to_owned(),
        };
        Error::new(ErrorKind::Unavailable, format!("the master at {} cannot be reached: {reason}", self.config.master))
            .advise("is it running, and are master.hostname and master.rpc.port right?")
    }

    /// Asks, and asks again while the master cannot be reached.
    ///
    /// # Errors
    /// What the master answers; `Unavailable` or `Deadline` at the deadline.
    pub(crate) async fn ask<T, F, A>(&self, deadline: Deadline, question: F) -> Result<T>
    where
        F: Fn(FileSystemClient<Channel>) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask_any(deadline, || question(self.client())).await
    }

    /// The same of the service for administrators.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) async fn ask_admin<T, F, A>(&self, deadline: Deadline, question: F) -> Result<T>
    where
        F: Fn(AdminClient<Channel>) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let client = || AdminClient::new(self.channel.clone()).max_decoding_message_size(dial::MESSAGE_MAX);
        self.ask_any(deadline, || question(client())).await
    }

    /// The same of any service.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) async fn ask_any<T, A>(&self, deadline: Deadline, question: impl Fn() -> A) -> Result<T>
    where
        A: Future<Output = Result<Response<T>, Status>>,
    {
        self.born.check()?;
        let mut backoff = Backoff::new();
        loop {
            let error = match deadline.bound("the master", question()).await? {
                Ok(reply) => return Ok(reply.into_inner()),
                Err(status) => from_status(&status),
            };
            if error.kind() != ErrorKind::Unavailable {
                return Err(error);
            }
            if let LinkState::Refused(refused) = &*self.state.borrow() {
                return Err(refused.clone());
            }
            deadline.pause(&mut backoff, error).await?;
        }
    }
}

/// Trust without a session, for tests of what relies on it.
#[cfg(test)]
pub(crate) fn tests_trust() -> Arc<Trust> {
    Arc::new(Trust::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_ends_before_the_lease_and_counts_from_sending() {
        let trust = Trust::new();
        let (sent, lease) = (Instant::now(), Duration::from_secs(10));
        assert!(!trust.holds(sent));
        trust.extend(sent, lease);
        assert!(trust.holds(sent + Duration::from_millis(6900)));
        assert!(!trust.holds(sent + Duration::from_millis(7100)));
        trust.extend(sent - Duration::from_millis(5), lease);
        assert!(trust.holds(sent + Duration::from_millis(6999)), "an older answer takes nothing away");
        trust.end();
        assert!(!trust.holds(sent));
    }
}
