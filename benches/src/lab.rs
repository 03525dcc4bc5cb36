//! What benches and the demonstration run in: a runtime, the signals that end it, threads that start together.
//!
//! Everything is synchronous but the client's own calls, so that an interruption is an error that travels up, and every
//! cluster, directory and mount goes by `Drop` on its way. A first SIGINT, SIGTERM or SIGHUP sets the flag that all loops
//! ask; a second one ends the process at once.

use std::{
    fmt,
    future::Future,
    path::PathBuf,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use larder_common::{ByteSize, Error, ErrorKind, Result};
use tokio::{
    runtime::{EnterGuard, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{door::Door, statistics::Latencies};

/// Is told how far things are.
pub trait Watcher: Sync {
    /// What is being done; overwrites what was said before, and may be dropped.
    fn progress(&self, text: &str);
    /// Something that a reader of the results must know.
    fn note(&self, text: &str);
}

/// How benches are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `larder` binary, for the servers.
    pub binary: PathBuf,
    /// Small sizes, to see that it works: the numbers mean little.
    pub quick: bool,
    /// Rounds of each side, from 1.
    pub pairs: usize,
    /// A directory on the disk to measure, for under stores and journals; `None`: `/var/tmp`, else the usual one for
    /// temporary files.
    pub disk: Option<PathBuf>,
    /// The size of a large file; `None`: 1 GiB, or 64 MiB where it is to be quick.
    pub large: Option<ByteSize>,
    /// How many small files a bench of a mount has; `None`: its own number.
    pub files: Option<usize>,
    /// The cluster to measure, where it is not to be one of the bench's own.
    pub existing: Option<Door>,
}

/// How many pairs there are unless told otherwise.
pub const PAIRS: usize = 5;

#[derive(Debug, Default)]
struct Interruption {
    happened: AtomicBool,
    token: CancellationToken,
}

/// What benches run in.
pub struct Lab<'a> {
    options: Options,
    watcher: &'a dyn Watcher,
    interruption: Arc<Interruption>,
    runtime: Runtime,
}

impl fmt::Debug for Lab<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lab").field("options", &self.options).field("interruption", &self.interruption).finish()
    }
}

impl<'a> Lab<'a> {
    /// A lab; from now on signals end what it does and not the process.
    ///
    /// # Errors
    /// `Unavailable` where the system gives no threads or no signals; `Invalid` for no pairs.
    pub fn new(options: Options, watcher: &'a dyn Watcher) -> Result<Self> {
        if options.pairs == 0 {
            return Err(Error::new(ErrorKind::Invalid, "no pairs").advise("give at least 1; 5 or more mean something"));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("larder-bench").build();
        let runtime = runtime.map_err(|e| Error::from(e).context("no threads"))?;
        let interruption = Arc::<Interruption>::default();
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let inside = runtime.enter();
            let signals = signal(kind).map_err(|e| Error::from(e).context("no signals"))?;
            drop(inside);
            runtime.spawn(heed(signals, Arc::clone(&interruption)));
        }
        Ok(Self { options, watcher, interruption, runtime })
    }

    /// Within this guard's life, what is dropped on this thread can send its farewell.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    /// How benches are run.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// One of two sizes.
    #[must_use]
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.options.quick { quick } else { full }
    }

    /// The size of a large file.
    #[must_use]
    pub fn large(&self) -> ByteSize {
        let usual = self.pick(ByteSize::gib(1), ByteSize::mib(64));
        // Whole pieces, so that every read is a full one.
        self.options.large.map_or(usual, |size| ByteSize((size.0 >> 26).max(1) << 26))
    }

    /// How many small files there are, unless told otherwise.
    #[must_use]
    pub fn files(&self, full: usize, quick: usize) -> usize {
        self.options.files.unwrap_or_else(|| self.pick(full, quick)).max(1)
    }

    /// Whether a signal has ended it.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.interruption.happened.load(Ordering::Relaxed)
    }

    /// Goes on unless a signal has come.
    ///
    /// # Errors
    /// `Busy`, "interrupted".
    pub fn check(&self) -> Result<()> {
        if self.is_interrupted() { Err(interrupted()) } else { Ok(()) }
    }

    /// Says what is being done.
    pub fn progress(&self, text: &str) {
        self.watcher.progress(text);
    }

    /// Says what a reader of the results must know.
    pub fn note(&self, text: &str) {
        self.watcher.note(text);
    }

    /// Runs a future on this thread.
    ///
    /// # Errors
    /// Its own, and `Busy` when a signal comes.
    pub fn wait<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.interruption.token.cancelled() => Err(interrupted()),
                result = future => result,
            }
        })
    }

    /// Runs a future on this thread whether or not a signal has come: to tidy up.
    ///
    /// # Errors
    /// Its own, and `Deadline` after `limit`.
    pub fn tidy<T>(&self, limit: Duration, future: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(async {
            let late = |_| Error::new(ErrorKind::Deadline, format!("no answer within {} s", limit.as_secs()));
            tokio::time::timeout(limit, future).await.map_err(late)?
        })
    }

    /// Does nothing for a while.
    ///
    /// # Errors
    /// `Busy` when a signal comes.
    pub fn pause(&self, time: Duration) -> Result<()> {
        self.wait(async {
            tokio::time::sleep(time).await;
            Ok(())
        })
    }

    /// Runs `work` with each number below `threads`, each on a thread of its own, and takes the time from the moment when
    /// all have started. What `work` needs before that moment (buffers), `prepare` makes.
    ///
    /// # Errors
    /// The first of any.
    pub fn in_threads<P>(
        &self,
        threads: usize,
        prepare: impl Fn(usize) -> Result<P> + Sync,
        work: impl Fn(usize, P) -> Result<Latencies> + Sync,
    ) -> Result<(Duration, Latencies)> {
        let barrier = Barrier::new(threads + 1);
        let one = |index| {
            let _inside = self.enter();
            let prepared = prepare(index);
            barrier.wait();
            work(index, prepared?)
        };
        std::thread::scope(|scope| {
            let one = &one;
            let running: Vec<_> = (0..threads).map(|index| scope.spawn(move || one(index))).collect();
            barrier.wait();
            let start = Instant::now();
            let results: Vec<_> = running.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            let took = start.elapsed();
            let mut all = Latencies::default();
            for result in results {
                all.append(result.map_err(|_| Error::new(ErrorKind::Unavailable, "a thread of the bench panicked"))??);
            }
            Ok((took, all))
        })
    }

    /// Runs one future for each number below `count` at the same time, and takes the time until the last has ended.
    ///
    /// # Errors
    /// The first of any, and `Busy` when a signal comes.
    pub fn at_once<F>(&self, count: usize, work: impl Fn(usize) -> F) -> Result<(Duration, Latencies)>
    where
        F: Future<Output = Result<Latencies>> + Send + 'static,
    {
        let futures: Vec<_> = (0..count).map(work).collect();
        self.wait(async {
            let start = Instant::now();
            let mut running: JoinSet<Result<Latencies>> = futures.into_iter().collect();
            let mut all = Latencies::default();
            while let Some(ended) = running.join_next().await {
                all.append(ended.map_err(|_| Error::new(ErrorKind::Unavailable, "a task of the bench panicked"))??);
            }
            Ok((start.elapsed(), all))
        })
    }
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Busy, "interrupted; everything is cleaned up")
}

async fn heed(mut signal: Signal, interruption: Arc<Interruption>) {
    while signal.recv().await.is_some() {
        if interruption.happened.swap(true, Ordering::SeqCst) {
            std::process::exit(1);
        }
        interruption.token.cancel();
    }
}

#[cfg(test)]
pub(crate) mod quiet {
    //! A watcher that says nothing, and a lab for tests.

    use super::{Lab, Options, PAIRS, Watcher};

    pub(crate) struct Quiet;

    impl Watcher for Quiet {
        fn progress(&self, _: &str) {}
        fn note(&self, _: &str) {}
    }

    pub(crate) fn lab() -> Lab<'static> {
        let options = Options {
            binary: "/nowhere".into(),
            quick: true,
            pairs: PAIRS,
            disk: None,
            large: None,
            files: None,
            existing: None,
        };
        Lab::new(options, &Quiet).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_start_together_and_their_latencies_add_up() {
        let lab = quiet::lab();
        let work = |index: usize, prepared: usize| {
            assert_eq!(prepared, index * 2);
            let mut latencies = Latencies::default();
            latencies.add(Duration::from_micros(1));
            Ok(latencies)
        };
        let (_, all) = lab.in_threads(4, |index| Ok(index * 2), work).unwrap();
        assert_eq!(all.len(), 4);
        let failing = |_: usize, (): ()| Err(Error::new(ErrorKind::Lost, "gone"));
        assert_eq!(lab.in_threads(2, |_| Ok(()), failing).unwrap_err().kind(), ErrorKind::Lost);
        let unprepared = |_: usize| Err::<(), _>(Error::new(ErrorKind::NoSpace, "full"));
        let (work, kind) = (|_: usize, ()| Ok(Latencies::default()), ErrorKind::NoSpace);
        assert_eq!(lab.in_threads(2, unprepared, work).unwrap_err().kind(), kind, "nobody waits for ever");
    }

    #[test]
    fn an_interruption_ends_waits_and_checks() {
        let lab = quiet::lab();
        lab.check().unwrap();
        lab.interruption.happened.store(true, Ordering::SeqCst);
        lab.interruption.token.cancel();
        assert_eq!(lab.check().unwrap_err().message(), interrupted().message());
        assert!(lab.pause(Duration::from_secs(3600)).is_err());
    }

    #[test]
    fn no_pairs_are_refused() {
        let options = Options { pairs: 0, ..quiet::lab().options().clone() };
        assert_eq!(Lab::new(options, &quiet::Quiet).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
