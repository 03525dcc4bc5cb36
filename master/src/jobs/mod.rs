//! Jobs: work over trees that the master does by itself, with the workers, and goes on with after a restart of either side.
//!
//! What is to be done, and how far it is, is in the state ([`crate::state::jobs`]); what has no life of its own is here. Each
//! running job has one task ([`runner`]): it walks the tree ([`walk`]), has several steps under way at the same time
//! ([`steps`], [`copying`]) and writes down what is done ([`window`], [`crate::state::job_progress`]). A step that fails for
//! a reason that may pass is tried again for a while; then it is a failure of the job, and the job goes on.
//!
//! Files are written under the leases of one session that no client has. It ends with the master: what was being copied
//! then goes, and is copied anew.
//!
//! Lock order: `live` is a leaf.

pub mod copying;
pub mod loading;
pub mod runner;
pub mod status;
pub mod steps;
pub mod walk;
pub mod window;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use larder_common::{Error, ErrorKind, JobId, JobState, Result, SessionId};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    master::Master,
    state::{OpenSession, Outcome},
};

use self::walk::Found;

/// Jobs that are worked on at the same time; more wait.
const JOBS_AT_ONCE: usize = 4;

/// The name of the session that files are written in.
const SESSION: &str = "jobs of the master";

/// The jobs that are worked on.
#[derive(Debug, Default)]
pub struct Jobs {
    /// Wakes the task that begins them.
    pub wake: Arc<Notify>,
    live: Mutex<FxHashMap<JobId, Arc<Live>>>,
    session: tokio::sync::Mutex<Option<SessionId>>,
    stop: CancellationToken,
}

/// A job that is worked on.
#[derive(Debug)]
pub struct Live {
    /// Ends it.
    pub stop: CancellationToken,
    /// Since when.
    pub since: Instant,
    /// How many files and bytes had been done then.
    pub before: (u64, u64),
    /// Bytes that are done of steps which are not.
    pub moving: AtomicU64,
    /// What there is to do from where it was then.
    pub found: Mutex<Found>,
}

impl Live {
    /// Ends what is done when the job is ended.
    ///
    /// # Errors
    /// Those of the work; `Unavailable` when it was ended.
    pub async fn unless_over<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            result = work => result,
            () = self.stop.cancelled() => Err(Error::new(ErrorKind::Unavailable, "the job is over")),
        }
    }

    /// Counts bytes until the answer is dropped.
    #[must_use]
    pub fn moving(&self) -> Moving<'_> {
        Moving(self, 0)
    }
}

/// Bytes that are done of a step which is not.
#[derive(Debug)]
pub struct Moving<'a>(&'a Live, u64);

impl Moving<'_> {
    /// So many more.
    pub fn add(&mut self, bytes: u64) {
        self.1 += bytes;
        self.0.moving.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.0.moving.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Jobs {
    /// A job that is worked on now.
    #[must_use]
    pub fn live(&self, job: JobId) -> Option<Arc<Live>> {
        self.live.lock().get(&job).cloned()
    }

    /// A job is over, whoever has ended it.
    pub fn over(&self, job: JobId) {
        if let Some(live) = self.live.lock().get(&job) {
            live.stop.cancel();
        }
    }

    /// The master stops: all of them go on at its next start.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// The session that files are written in.
    ///
    /// # Errors
    /// Those of the journal.
    pub async fn session(&self, master: &Master) -> Result<SessionId> {
        let mut session = self.session.lock().await;
        if let Some(session) = *session {
            return Ok(session);
        }
        let open = OpenSession { name: SESSION.into(), lease: master.sessions.lease() };
        match master.execute(open).await?.outcome {
            Outcome::Session(opened) => Ok(*session.insert(opened)),
            other => Err(Error::new(ErrorKind::Unavailable, format!("opening a session came to {other:?}"))),
        }
    }

    /// Ends what the master before this one had under way.
    async fn end_old_sessions(&self, master: &Master) -> Result<()> {
        let session = self.session.lock().await;
        if session.is_some() {
            return Ok(());
        }
        let old: Vec<SessionId> =
            master.core.read().sessions().filter(|(_, name, _)| *name == SESSION).map(|(id, ..)| id).collect();
        for id in old {
            master.end_session(id).await?;
        }
        Ok(())
    }
}

/// Begins what is to be done and has no task.
///
/// # Errors
/// Those of the journal.
pub async fn round(master: Arc<Master>) -> Result<()> {
    // A statement of its own: the state is read until the end of one.
    let idle = master.core.read().jobs().all(|(_, job)| job.state != JobState::Running);
    if idle || master.in_safe_mode() {
        return Ok(());
    }
    master.jobs.end_old_sessions(&master).await?;
    master.jobs.session(&master).await?;
    let due: Vec<JobId> = {
        let (state, live) = (master.core.read(), master.jobs.live.lock());
        let waits = state.jobs().filter(|(id, job)| job.state == JobState::Running && !live.contains_key(id));
        waits.map(|(id, _)| id).take(JOBS_AT_ONCE.saturating_sub(live.len())).collect()
    };
    for id in due {
        begin(&master, id);
    }
    Ok(())
}

fn begin(master: &Arc<Master>, id: JobId) {
    let Some(job) = master.core.read().job(id).cloned() else { return };
    let live = Arc::new(Live {
        stop: master.jobs.stop.child_token(),
        since: Instant::now(),
        before: (job.progress.files, job.progress.bytes),
        moving: AtomicU64::new(0),
        found: Mutex::default(),
    });
    master.jobs.live.lock().insert(id, Arc::clone(&live));
    let master = Arc::clone(master);
    tokio::spawn(async move {
        if let Err(error) = runner::run(&master, id, &job, &live).await {
            tracing::warn!(%error, job = id.0, "a job could not go on; it is begun again");
        }
        master.jobs.live.lock().remove(&id);
        master.jobs.wake.notify_one();
    });
}
