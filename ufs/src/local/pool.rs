//! The threads that make a store's system calls: bounded, with a deadline per call, so that a mount that hangs blocks
//! only them.
//!
//! - A call that shows no progress for the deadline is answered `Deadline`; its thread stays where it hangs.
//! - When every thread has been without progress for that long, further calls are answered `Unavailable` at once.
//! - A caller that drops its future cancels a call that waits, and asks a running one to stop between two steps.
//!
//! One lock, held for a few instructions, never while a job runs. Threads are started when needed and end after
//! [`LINGER`] without work. A hand-over and its answer cost two wake-ups (30 to 50 µs each between processors), so
//! callers hand over whole operations, never single system calls.

use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use larder_common::{Error, ErrorKind, Result};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

/// How long a thread without work stays.
const LINGER: Duration = Duration::from_secs(10);
/// How many calls may wait for each thread.
const QUEUE_PER_THREAD: usize = 256;

/// How far one call is; shared by the thread that makes it and the task that waits.
#[derive(Debug)]
pub(super) struct Progress {
    start: Instant,
    last: AtomicU64,
    cancelled: AtomicBool,
}

impl Progress {
    fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), last: AtomicU64::new(0), cancelled: AtomicBool::new(false) })
    }

    /// Says that a step is done.
    ///
    /// # Errors
    /// When nobody waits for the call any more: it must end.
    pub(super) fn step(&self) -> Result<()> {
        self.touch();
        match self.cancelled.load(Ordering::Relaxed) {
            true => Err(Error::new(ErrorKind::Deadline, "given up by its caller")),
            false => Ok(()),
        }
    }

    fn touch(&self) {
        let elapsed = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.last.fetch_max(elapsed, Ordering::Relaxed);
    }

    fn idle(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_nanos(self.last.load(Ordering::Relaxed)))
    }
}

/// Cancels the call when the waiting future is dropped.
struct Waiting(Arc<Progress>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }
}

type Work = Box<dyn FnOnce(&Progress) + Send>;

struct Job {
    progress: Arc<Progress>,
    /// Runs even when cancelled: it tidies up.
    always: bool,
    work: Work,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    running: Vec<Arc<Progress>>,
    threads: usize,
    idle: usize,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    name: String,
    limit: usize,
    deadline: Duration,
}

/// The threads of one store. Dropping it lets them finish what is queued.
pub(super) struct Pool(Arc<Shared>);

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state.lock();
        write!(f, "Pool({} of {} threads, {} queued)", state.threads, self.0.limit, state.queue.len())
    }
}

impl Pool {
    /// Up to `limit` threads (at least 1) for the store of this name.
    pub(super) fn new(name: impl Into<String>, limit: usize, deadline: Duration) -> Self {
        let (state, wake) = (Mutex::new(State::default()), Condvar::new());
        Self(Arc::new(Shared { state, wake, name: name.into(), limit: limit.max(1), deadline }))
    }

    /// Runs `work` on a thread and waits for it, as long as it shows progress within each deadline.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Progress) -> Result<T> + Send + 'static,
    {
        self.begin(work)?.await
    }

    /// Hands `work` over at once; the future waits for it as [`Pool::run`] does.
    pub(super) fn begin<T, F>(&self, work: F) -> Result<impl Future<Output = Result<T>> + Send + 'static>
    where
        T: Send + 'static,
        F: FnOnce(&Progress) -> Result<T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let progress = Progress::new();
        let waiting = Waiting(Arc::clone(&progress));
        let work = Box::new(move |progress: &Progress| drop(sender.send(work(progress))));
        self.0.submit(Job { progress, always: false, work })?;
        Ok(wait(Arc::clone(&self.0), waiting, receiver))
    }

    /// Runs `work` some time later; nobody waits for it. Lost when the pool is full or hangs.
    pub(super) fn tidy(&self, work: impl FnOnce() + Send + 'static) {
        let job = Job { progress: Progress::new(), always: true, work: Box::new(move |_| work()) };
        if let Err(error) = self.0.submit(job) {
            tracing::warn!(%error, "a temporary stays behind until the master clears it");
        }
    }
}

/// Waits for a job, as long as it shows progress within each deadline.
async fn wait<T>(shared: Arc<Shared>, waiting: Waiting, mut receiver: oneshot::Receiver<Result<T>>) -> Result<T> {
    let deadline = shared.deadline;
    let mut patience = deadline;
    loop {
        match tokio::time::timeout(patience, &mut receiver).await {
            Ok(Ok(result)) => return result,
            Ok(Err(_)) => return Err(shared.error(ErrorKind::Unavailable, "an operation broke down")),
            Err(_) => match deadline.saturating_sub(waiting.0.idle()) {
                Duration::ZERO => return Err(shared.hangs(ErrorKind::Deadline)),
                left => patience = left,
            },
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.wake.notify_all();
    }
}

impl Shared {
    fn error(&self, kind: ErrorKind, reason: &str) -> Error {
        Error::new(kind, format!("{reason} in the under store {}", self.name))
    }

    fn hangs(&self, kind: ErrorKind) -> Error {
        let reason = format!("no progress for {:?}", self.deadline);
        self.error(kind, &reason).advise("look whether its server or disk answers")
    }

    fn submit(self: &Arc<Self>, job: Job) -> Result<()> {
        let mut state = self.state.lock();
        if state.idle <= state.queue.len() && state.threads < self.limit {
            match self.spawn() {
                Ok(()) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    return Err(self.error(ErrorKind::Unavailable, &format!("cannot start a thread ({error})")));
                }
                Err(error) => tracing::debug!(%error, "no further thread"),
            }
        } else if state.running.len() == self.limit && state.running.iter().all(|p| p.idle() >= self.deadline) {
            return Err(self.hangs(ErrorKind::Unavailable));
        }
        if state.queue.len() >= self.limit * QUEUE_PER_THREAD {
            return Err(self.error(ErrorKind::Unavailable, "too many operations wait"));
        }
        state.queue.push_back(job);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    fn spawn(self: &Arc<Self>) -> std::io::Result<()> {
        let shared = Arc::clone(self);
        std::thread::Builder::new().name("larder-ufs".into()).spawn(move || shared.work()).map(drop)
    }

    fn work(&self) {
        while let Some(Job { progress, always, work }) = self.next() {
            progress.touch();
            let wanted = always || !progress.cancelled.load(Ordering::Relaxed);
            if wanted && let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(&progress))) {
                tracing::error!(reason = text_of(&*panic), store = self.name, "an operation panicked");
            }
            self.state.lock().running.retain(|other| !Arc::ptr_eq(other, &progress));
        }
    }

    /// The next job, or `None` when this thread is to end.
    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                job.progress.touch();
                state.running.push(Arc::clone(&job.progress));
                return Some(job);
            }
            state.idle += 1;
            let late = !state.closed && self.wake.wait_for(&mut state, LINGER).timed_out();
            state.idle -= 1;
            if state.queue.is_empty() && (late || state.closed) {
                state.threads -= 1;
                return None;
            }
        }
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn pool(limit: usize, millis: u64) -> Pool {
        Pool::new("test", limit, Duration::from_millis(millis))
    }

    #[tokio::test]
    async fn a_hung_store_answers_and_then_fails_fast() {
        let pool = Arc::new(pool(2, 100));
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let hang = || {
            let (pool, gate) = (Arc::clone(&pool), Arc::clone(&gate));
            let wait = move |_: &Progress| {
                let _ = gate.lock().recv();
                Ok(())
            };
            async move { pool.run(wait).await }
        };
        let (first, second) = tokio::join!(hang(), hang());
        assert_eq!(first.unwrap_err().kind(), ErrorKind::Deadline);
        assert_eq!(second.unwrap_err().kind(), ErrorKind::Deadline);
        let start = Instant::now();
        let error = pool.run(|_| Ok(())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("test"), "{error}");
        assert!(start.elapsed() < Duration::from_millis(90));
        drop(release);
        for _ in 0..100 {
            if pool.run(|_| Ok(())).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("does not heal");
    }

    #[tokio::test]
    async fn progress_keeps_a_long_call_alive_and_a_dropped_one_ends() {
        let pool = pool(1, 200);
        let (never, wait) = mpsc::channel::<()>();
        let long = pool.run(move |progress| {
            for _ in 0..6 {
                let _ = wait.recv_timeout(Duration::from_millis(60));
                progress.step()?;
            }
            Ok(7)
        });
        assert_eq!(long.await.unwrap(), 7);
        let (told, ended) = oneshot::channel();
        let (never2, wait2) = mpsc::channel::<()>();
        let endless = pool.run(move |progress| {
            while progress.step().is_ok() {
                let _ = wait2.recv_timeout(Duration::from_millis(1));
            }
            let _ = told.send(());
            Ok(())
        });
        assert!(tokio::time::timeout(Duration::from_millis(50), endless).await.is_err());
        tokio::time::timeout(Duration::from_secs(5), ended).await.unwrap().unwrap();
        drop((never, never2));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_thread_goes_on() {
        let pool = pool(1, 1000);
        let error = pool.run(|_| -> Result<()> { panic!("on purpose") }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(pool.run(|_| Ok(1)).await.unwrap(), 1);
    }
}
