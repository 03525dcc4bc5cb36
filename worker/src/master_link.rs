//! The stream to the master: registration, reports, beats, orders, keys, the mount table.
//!
//! One task owns a stream and everything that is sent on it, so messages are numbered in the order in which they are
//! true. A full report is a sequence of pages between which everything else goes on; what changes meanwhile follows as
//! changes. When the change feed overflowed, a number is left out: the master sees a gap and asks for the pages.
//!
//! A stream that breaks is opened again for ever, after a pause that doubles up to five seconds, and said so every ten.
//! Two things end the link for good: the master refuses this worker, or it belongs to another cluster. Orders that were
//! under way when a stream broke are given up; the master gives them anew.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use larder_common::{ClusterId, Error, ErrorKind, Result};
use larder_proto::{
    Channel, from_status, greeting,
    v1::{self, master_message::What, worker_message, workers_client::WorkersClient},
};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::{
    reports::{changed_files, held_file},
    route,
    services::Services,
    store::{Changes, ReportCursor},
};

/// Time for a stream to open, a registration to be answered, or a message to be taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first pause before a new try.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a master that cannot be reached is named in the log.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Changes are gathered for so long before they are sent.
const GATHER: Duration = Duration::from_millis(20);
/// Changes are looked for at least so often.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Generations on one page of a full report.
const PAGE: usize = 512;
/// Orders that are carried out at the same time.
const ORDERS: usize = 16;
/// Messages that wait to be sent.
const QUEUE: usize = 64;

/// Tries again, each time a little later, and says so now and then. Pure but for the clock.
#[derive(Debug)]
pub(crate) struct Backoff {
    pause: Duration,
    said: Option<Instant>,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { pause: PAUSE, said: None }
    }

    /// The pause before the next try: between half of it and all.
    fn next(&mut self, random: u8) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause / 2 + pause.mul_f64(f64::from(random) / 510.0)
    }

    /// Waits before the next try.
    pub(crate) async fn wait(&mut self, error: &Error) {
        if self.said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            self.said = Some(Instant::now());
            tracing::warn!(%error, "the master cannot be reached; trying again");
        }
        let mut random = [0];
        // Without randomness the pauses are only less spread.
        let _ = getrandom::fill(&mut random);
        tokio::time::sleep(self.next(random[0])).await;
    }
}

type Messages = mpsc::Sender<v1::WorkerMessage>;

/// What is sent on one stream, numbered.
struct Outgoing {
    messages: Messages,
    sequence: u64,
}

impl Outgoing {
    async fn send(&mut self, what: worker_message::What) -> Result<()> {
        self.sequence += 1;
        let message = v1::WorkerMessage { sequence: self.sequence, what: Some(what) };
        match tokio::time::timeout(PATIENCE, self.messages.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::new(ErrorKind::Unavailable, "the stream to the master ended")),
            Err(_) => Err(Error::new(ErrorKind::Deadline, "the master does not take messages")),
        }
    }

    /// Leaves a number out, so that the master asks for the pages.
    fn leave_gap(&mut self) {
        self.sequence += 1;
    }
}

/// An open stream on which the master has answered the registration.
struct Session {
    outgoing: Outgoing,
    incoming: Streaming<v1::MasterMessage>,
    registered: v1::Registered,
}

async fn open(master: &Channel, register: v1::Register) -> Result<Session> {
    let (messages, stream) = mpsc::channel(QUEUE);
    let mut outgoing = Outgoing { messages, sequence: 0 };
    outgoing.send(worker_message::What::Register(register)).await?;
    let mut client = WorkersClient::new(master.clone()).max_decoding_message_size(larder_proto::dial::MESSAGE_MAX);
    let silent = |_| Error::new(ErrorKind::Deadline, "the master did not answer the registration");
    let opened = tokio::time::timeout(PATIENCE, client.link(ReceiverStream::new(stream))).await.map_err(silent)?;
    let mut incoming = opened.map_err(|status| from_status(&status))?.into_inner();
    loop {
        let message = tokio::time::timeout(PATIENCE, incoming.message()).await.map_err(silent)?;
        let message = message.map_err(|status| from_status(&status))?;
        match message.and_then(|message| message.what) {
            Some(What::Registered(registered)) => return Ok(Session { outgoing, incoming, registered }),
            Some(What::Refused(failure)) => return Err(refused(failure)),
            Some(_) => {}
            None => return Err(Error::new(ErrorKind::Unavailable, "the master ended the stream")),
        }
    }
}

/// The master does not want this worker: an error that is not retried.
fn refused(failure: v1::Failure) -> Error {
    let error = Error::from(failure);
    let kind = if error.is_retryable() { ErrorKind::Denied } else { error.kind() };
    let refused = Error::new(kind, format!("the master refused this worker: {}", error.message()));
    match error.advice() {
        Some(advice) => refused.advise(advice),
        None => refused,
    }
}

/// Whether a new try can help.
fn may_pass(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Mismatch | ErrorKind::Denied | ErrorKind::Config | ErrorKind::Invalid)
}

/// Asks the master which cluster it is, by a registration that ends at once. `within`: gives up then, with the last
/// error.
pub(crate) async fn learn_cluster(
    master: &Channel,
    register: &v1::Register,
    within: Option<Duration>,
    stop: &CancellationToken,
) -> Result<ClusterId> {
    let deadline = within.map(|within| Instant::now() + within);
    let mut backoff = Backoff::new();
    loop {
        let tried = tokio::select! {
            tried = open(master, register.clone()) => tried,
            () = stop.cancelled() => return Err(Error::new(ErrorKind::Unavailable, "the worker was stopped")),
        };
        match tried {
            Ok(session) => return ClusterId::try_from(&session.registered.cluster[..]),
            Err(error) if !may_pass(&error) || deadline.is_some_and(|at| Instant::now() >= at) => return Err(error),
            Err(error) => tokio::select! {
                () = backoff.wait(&error) => {}
                () = stop.cancelled() => {}
            },
        }
    }
}

/// The link of a worker that serves.
#[derive(Debug)]
pub(crate) struct MasterLink {
    pub(crate) services: Arc<Services>,
    pub(crate) master: Channel,
    /// Rung when there is something in the change feed.
    pub(crate) changed: Arc<Notify>,
    /// Whether the worker is registered now.
    pub(crate) linked: watch::Sender<bool>,
    pub(crate) started: u64,
}

/// Where a full report is.
struct Paging {
    number: u32,
    from: Option<ReportCursor>,
}

impl MasterLink {
    /// Keeps the link until `stop`.
    ///
    /// # Errors
    /// When the master does not want this worker, or is of another cluster.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<()> {
        let mut backoff = Backoff::new();
        loop {
            let ended = tokio::select! {
                ended = self.session(&mut backoff) => ended,
                () = stop.cancelled() => return Ok(()),
            };
            let was_linked = self.linked.send_replace(false);
            let Err(error) = ended else { continue };
            if !may_pass(&error) {
                return Err(error);
            }
            tracing::debug!(%error, was_linked, "the stream to the master broke");
            tokio::select! {
                () = backoff.wait(&error) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    async fn register(&self) -> v1::Register {
        let source = match &self.services.config.master {
            Some(master) if self.services.config.hostname.is_empty() => {
                tokio::time::timeout(PATIENCE, route::source(master)).await.ok().flatten()
            }
            _ => None,
        };
        let own_host = source.map(|source| source.to_string()).unwrap_or_default();
        let address = (&*self.services.address.read()).into();
        v1::Register { own_host, ..registration(address, &self.services, self.started) }
    }

    async fn session(&self, backoff: &mut Backoff) -> Result<()> {
        let Session { mut outgoing, incoming, registered } = open(&self.master, self.register().await).await?;
        self.check_cluster(&registered)?;
        let beat = Duration::from_millis(registered.beat_ms.clamp(10, 60_000));
        self.services.keys.set_beat(beat);
        self.take_keys(registered.keys);
        self.services.metrics.registrations.one();
        self.linked.send_replace(true);
        *backoff = Backoff::new();
        tracing::info!(worker = %self.services.worker, "registered at the master");
        // What is in the feed is told by the pages.
        drop(self.services.store.changes());
        let (done, results) = mpsc::unbounded_channel();
        let orders = Orders { running: JoinSet::new(), room: Arc::new(Semaphore::new(ORDERS)), done };
        let mut talk = Talk {
            link: self,
            incoming,
            orders,
            results,
            paging: Some(Paging { number: 0, from: None }),
            heard: Instant::now(),
            silence: (3 * beat).max(Duration::from_secs(5)),
        };
        talk.run(&mut outgoing, beat).await
    }

    fn check_cluster(&self, registered: &v1::Registered) -> Result<()> {
        let theirs = ClusterId::try_from(&registered.cluster[..])?;
        let ours = self.services.cluster;
        if theirs == ours {
            return Ok(());
        }
        let message = format!("the master is of cluster {theirs} now; this worker holds content of cluster {ours}");
        Err(Error::new(ErrorKind::Mismatch, message).advise(
            "start the worker again: it begins a directory for the new cluster, and keeps and reports what the old one \
             has nowhere else",
        ))
    }

    fn take_keys(&self, keys: Option<v1::Keys>) {
        if let Some(keys) = keys {
            self.services.keys.listed(keys, self.services.now());
        }
    }
}

/// The first message of every stream.
fn registration(address: v1::WorkerAddress, services: &Services, started: u64) -> v1::Register {
    let tiers = services.tier_usage();
    v1::Register { tiers, ..bare_registration(address, u32::from(services.config.web_port), started) }
}

/// The same of a worker whose tiers are not open yet.
pub(crate) fn bare_registration(address: v1::WorkerAddress, web_port: u32, started: u64) -> v1::Register {
    v1::Register {
        address: Some(address),
        web_port,
        version: greeting::VERSION.to_owned(),
        format: greeting::FORMAT,
        features: greeting::FEATURES,
        started,
        tiers: Vec::new(),
        own_host: String::new(),
    }
}

/// The orders that are being carried out; dropping it ends them.
struct Orders {
    running: JoinSet<()>,
    room: Arc<Semaphore>,
    done: mpsc::UnboundedSender<v1::OrderDone>,
}

impl Orders {
    fn begin(&mut self, services: &Arc<Services>, order: v1::Order) {
        while self.running.try_join_next().is_some() {}
        let (services, room, done) = (services.clone(), self.room.clone(), self.done.clone());
        self.running.spawn(async move {
            let Ok(_permit) = room.acquire_owned().await else { return };
            // A stream that has ended meanwhile needs no answer.
            let _ = done.send(services.obey(order).await);
        });
    }
}

/// One stream, from its registration to its end.
struct Talk<'a> {
    link: &'a MasterLink,
    incoming: Streaming<v1::MasterMessage>,
    orders: Orders,
    results: mpsc::UnboundedReceiver<v1::OrderDone>,
    paging: Option<Paging>,
    heard: Instant,
    silence: Duration,
}

impl Talk<'_> {
    async fn run(&mut self, outgoing: &mut Outgoing, beat: Duration) -> Result<()> {
        let mut beats = tokio::time::interval(beat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut gathered = None;
        loop {
            tokio::select! {
                message = self.incoming.message() => self.take(message.map_err(|status| from_status(&status))?)?,
                _ = beats.tick() => self.beat(outgoing).await?,
                Some(done) = self.results.recv() => {
                    // Whoever hears that an order is done may ask what it changed.
                    self.tell_changes(outgoing).await?;
                    outgoing.send(worker_message::What::Done(done)).await?;
                }
                // Orders and their results do not wait for what is gathered.
                () = self.link.changed.notified(), if gathered.is_none() => {
                    gathered = Some(tokio::time::Instant::now() + GATHER);
                }
                () = tokio::time::sleep_until(gathered.unwrap_or_else(tokio::time::Instant::now)), if gathered.is_some() => {
                    gathered = None;
                    self.tell_changes(outgoing).await?;
                }
                _ = looks.tick() => self.tell_changes(outgoing).await?,
                () = std::future::ready(()), if self.paging.is_some() => self.send_page(outgoing).await?,
            }
        }
    }

    fn take(&mut self, message: Option<v1::MasterMessage>) -> Result<()> {
        let services = &self.link.services;
        let Some(message) = message else {
            return Err(Error::new(ErrorKind::Unavailable, "the master ended the stream"));
        };
        self.heard = Instant::now();
        match message.what {
            Some(What::Beat(reply)) => self.link.take_keys(reply.keys),
            Some(What::Order(order)) => self.orders.begin(services, order),
            Some(What::Resync(_)) => self.paging = Some(Paging { number: 0, from: None }),
            Some(What::Mounts(table)) => services.mounts.replace(table),
            Some(What::Refused(failure)) => return Err(refused(failure)),
            Some(What::Registered(registered)) => self.link.take_keys(registered.keys),
            None => tracing::warn!("the master sent a message that is not known here"),
        }
        Ok(())
    }

    async fn beat(&self, outgoing: &mut Outgoing) -> Result<()> {
        if self.heard.elapsed() > self.silence {
            return Err(Error::new(ErrorKind::Deadline, "the master is silent"));
        }
        let services = &self.link.services;
        let beat = v1::Beat { tiers: services.tier_usage(), counters: services.counters().into_iter().collect() };
        outgoing.send(worker_message::What::Beat(beat)).await
    }

    async fn tell_changes(&mut self, outgoing: &mut Outgoing) -> Result<()> {
        let services = &self.link.services;
        match services.store.changes() {
            Changes::Overflow => outgoing.leave_gap(),
            Changes::Delta(changes) => {
                for keys in changed_files(&changes).chunks(PAGE) {
                    outgoing.send(worker_message::What::Changes(services.held(keys))).await?;
                }
                return Ok(());
            }
        }
        // The next message, whatever it is, shows the gap.
        self.beat(outgoing).await
    }

    async fn send_page(&mut self, outgoing: &mut Outgoing) -> Result<()> {
        let Some(paging) = self.paging.take() else { return Ok(()) };
        let services = &self.link.services;
        let page = services.store.report(paging.from, PAGE);
        let files = page.files.iter().map(|file| held_file(file, |tier| services.medium(tier)));
        let mut files: Vec<_> = files.collect();
        let (number, last) = (paging.number, page.next.is_none());
        if last {
            files.extend(services.all_edited());
        }
        let held = Some(v1::Held { files });
        outgoing.send(worker_message::What::Page(v1::HeldPage { number, last, held })).await?;
        if !last {
            self.paging = Some(Paging { number: number + 1, from: page.next });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_spread() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.next(0), PAUSE / 2);
        assert_eq!(backoff.next(255), 2 * PAUSE);
        for _ in 0..20 {
            let _ = backoff.next(0);
        }
        assert_eq!(backoff.next(255), PAUSE_MAX);
    }

    #[test]
    fn a_refusal_is_final_whatever_its_kind() {
        let busy = Error::new(ErrorKind::Busy, "another worker has this id").advise("stop it");
        let error = refused((&busy).into());
        assert!(!may_pass(&error));
        assert!(error.to_string().contains("another worker has this id") && error.advice().is_some());
        assert!(may_pass(&Error::new(ErrorKind::Unavailable, "connection refused")));
    }
}
