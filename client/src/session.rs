//! The session's stream: opened, kept alive, opened again when it breaks.
//!
//! One task owns the stream; one more only sends keep-alives, so that a busy stream does not make the master think that
//! we are gone. Before a connection is opened, new or resumed, every cache is dropped: the master counts what it had sent
//! on the old connection as acknowledged. Invalidations are carried out first and acknowledged then, by those who watch
//! for them too (`watch`).
//!
//! When the last handle of the file system goes, the stream says so and the session ends at once.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use larder_common::{ClusterId, Error, ErrorKind, Result, SessionId};
use larder_proto::{
    from_status,
    v1::{self, session_reply::What as Reply, session_request::What},
};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    content::Caches,
    master::{Link, LinkState},
    retry::{Backoff, late},
    watch::Acknowledgements,
};

/// Time for the master to answer the first message.
const OPENING: Duration = Duration::from_secs(10);
/// Time to say goodbye.
const CLOSING: Duration = Duration::from_millis(500);
/// So many keep-alives go out during one lease.
const BEATS: u32 = 5;

/// Keeps the session until `end`.
pub(crate) async fn run(link: Arc<Link>, caches: Arc<Caches>, end: CancellationToken) {
    let mut session = Session { link, caches, end, resume: SessionId(0) };
    let mut backoff = Backoff::new();
    while !session.end.is_cancelled() {
        let began = Instant::now();
        let error = match session.connect().await {
            Ok(()) => break,
            Err(error) => error,
        };
        session.broken(error);
        if began.elapsed() > Duration::from_secs(5) {
            backoff.reset();
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next()) => {}
            () = session.end.cancelled() => {}
        }
    }
    session.link.calls.close(&Error::new(ErrorKind::Unavailable, "the file system was closed"));
}

struct Session {
    link: Arc<Link>,
    caches: Arc<Caches>,
    end: CancellationToken,
    resume: SessionId,
}

type Requests = mpsc::Sender<v1::SessionRequest>;
pub(crate) type Control = mpsc::UnboundedSender<What>;
type Replies = tonic::Streaming<v1::SessionReply>;

impl Session {
    fn broken(&mut self, error: Error) {
        self.link.trust.end();
        self.caches.drop_everything();
        self.link.watchers.lost();
        let lasting = matches!(error.kind(), ErrorKind::Denied | ErrorKind::Mismatch | ErrorKind::Config);
        self.link.state.send_replace(match lasting {
            true => LinkState::Refused(error),
            false => LinkState::Down(Some(error)),
        });
    }

    /// One connection, from its opening to its end. `Ok` when the file system is closed.
    async fn connect(&mut self) -> Result<()> {
        let (requests, outgoing) = mpsc::channel(1);
        let sent = Instant::now();
        let program = self.link.config.program.clone();
        let open = What::Open(v1::SessionOpen { resume: self.resume.0, program });
        requests.send(request(open)).await.map_err(|_| gone())?;
        let mut client = self.link.client();
        let opening = client.session(ReceiverStream::new(outgoing));
        let stream = tokio::select! {
            stream = tokio::time::timeout(OPENING, opening) => stream.map_err(|_| late("the master"))?,
            () = self.end.cancelled() => return Ok(()),
        };
        let mut replies = stream.map_err(|status| from_status(&status))?.into_inner();
        let first = tokio::time::timeout(OPENING, next(&mut replies)).await.map_err(|_| late("the master"))??;
        let opened = match first {
            Reply::Opened(opened) => opened,
            Reply::Refused(failure) => {
                self.resume = SessionId(0);
                return Err(failure.into());
            }
            _ => return Err(Error::new(ErrorKind::Mismatch, "the master did not open the session")),
        };
        self.serve(&opened, sent, requests, replies).await
    }

    async fn serve(
        &mut self,
        opened: &v1::SessionOpened,
        sent: Instant,
        requests: Requests,
        mut replies: Replies,
    ) -> Result<()> {
        let lease = Duration::from_millis(opened.lease_ms).max(Duration::from_millis(100));
        self.resume = SessionId(opened.session);
        self.link.greet(self.resume, Some(ClusterId::try_from(&opened.cluster[..])?));
        let again = self.link.calls.opened(opened.resumed, opened.slots);
        // Once more: what was asked for before the master knew this connection could miss its invalidation.
        self.caches.drop_everything();
        self.link.watchers.lost();
        self.link.trust.extend(sent, lease);
        self.link.state.send_replace(LinkState::Up);
        let (control, controlled) = mpsc::unbounded_channel();
        let beats = Arc::new(Mutex::new(VecDeque::new()));
        let keeper = keep_alive(control.clone(), Arc::clone(&beats), lease);
        let keeper = AbortOnDropHandle::new(tokio::spawn(keeper));
        let acknowledgements = Acknowledgements::new(control.clone());
        let reader = Reader { session: self, beats, lease, acknowledgements }.read(&mut replies);
        let result = tokio::select! {
            error = reader => Err(error),
            error = write(&self.link, &requests, controlled, again) => Err(error),
            _ = keeper => Err(Error::new(ErrorKind::Unavailable, "the master does not answer keep-alives")),
            () = self.end.cancelled() => Ok(()),
        };
        if result.is_ok() {
            // The master may be gone; then the lease ends the session.
            let _ = tokio::time::timeout(CLOSING, close(&self.link, &requests, &mut replies)).await;
        }
        if matches!(&result, Err(error) if error.message().contains(REFUSED)) {
            self.resume = SessionId(0);
        }
        result
    }
}

/// Says goodbye, and stays until the master has heard it: dropping the stream at once would overtake the message. What
/// writers gave back on their way out goes first.
async fn close(link: &Link, requests: &Requests, replies: &mut Replies) {
    let calls = link.calls.batch();
    let calls = (!calls.is_empty()).then_some(What::Calls(v1::Calls { calls }));
    for what in calls.into_iter().chain([What::Close(v1::Empty {})]) {
        if requests.send(request(what)).await.is_err() {
            return;
        }
    }
    while let Ok(Some(_)) = replies.message().await {}
}

/// What marks the error of a session that the master has ended.
const REFUSED: &str = "the master ended the session";

fn request(what: What) -> v1::SessionRequest {
    v1::SessionRequest { what: Some(what) }
}

fn gone() -> Error {
    Error::new(ErrorKind::Unavailable, "the connection to the master broke")
}

async fn next(replies: &mut Replies) -> Result<Reply> {
    loop {
        match replies.message().await {
            Ok(Some(v1::SessionReply { what: Some(what) })) => return Ok(what),
            Ok(Some(_newer)) => {}
            Ok(None) => return Err(gone()),
            Err(status) => return Err(from_status(&status)),
        }
    }
}

/// Sends what is queued; all calls that came while the last message went out go together.
async fn write(
    link: &Link,
    requests: &Requests,
    mut control: mpsc::UnboundedReceiver<What>,
    again: Vec<v1::Call>,
) -> Error {
    if !again.is_empty() && requests.send(request(What::Calls(v1::Calls { calls: again }))).await.is_err() {
        return gone();
    }
    loop {
        let Ok(place) = requests.reserve().await else { return gone() };
        tokio::select! {
            biased;
            Some(what) = control.recv() => place.send(request(what)),
            () = link.calls.ready() => {
                let calls = link.calls.batch();
                if !calls.is_empty() {
                    place.send(request(What::Calls(v1::Calls { calls })));
                }
            }
        }
    }
}

type Beats = Arc<Mutex<VecDeque<(u64, Instant)>>>;

/// Sends keep-alives; ends when the oldest has not been answered for a whole lease.
async fn keep_alive(control: Control, beats: Beats, lease: Duration) {
    for number in 1.. {
        tokio::time::sleep(lease / BEATS).await;
        let now = Instant::now();
        {
            let mut beats = beats.lock();
            if beats.front().is_some_and(|(_, sent)| now.duration_since(*sent) > lease) {
                return;
            }
            beats.push_back((number, now));
        }
        if control.send(What::Alive(v1::KeepAlive { number })).is_err() {
            return;
        }
    }
}

struct Reader<'a> {
    session: &'a Session,
    beats: Beats,
    lease: Duration,
    acknowledgements: Arc<Acknowledgements>,
}

impl Reader<'_> {
    async fn read(self, replies: &mut Replies) -> Error {
        loop {
            let result = match next(replies).await {
                Ok(reply) => self.take(reply),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                return error;
            }
        }
    }

    fn take(&self, reply: Reply) -> Result<()> {
        let session = self.session;
        match reply {
            Reply::Outcomes(outcomes) => {
                for outcome in outcomes.outcomes {
                    session.link.calls.outcome(outcome);
                }
            }
            Reply::Alive(alive) => self.alive(alive.number),
            Reply::Invalidations(invalidations) => {
                session.link.edits.recall(&invalidations.leases);
                let still_open = session.caches.invalidate(&invalidations);
                session.link.watchers.tell(&invalidations, still_open, &self.acknowledgements);
            }
            Reply::Refused(failure) => return Err(Error::from(failure).context(REFUSED)),
            Reply::Opened(_) => {}
        }
        Ok(())
    }

    fn alive(&self, number: u64) {
        let mut beats = self.beats.lock();
        while let Some((beat, sent)) = beats.front().copied().filter(|(beat, _)| *beat <= number) {
            beats.pop_front();
            if beat == number {
                self.session.link.trust.extend(sent, self.lease);
            }
        }
    }
}
