//! One job from where it is to its end: walks, has steps under way, writes down what is done.
//!
//! What is done is written down with the cursor every half second, and at the end. An entry that is lost with a crash
//! costs some work that is done twice and does no harm; what must not be done twice is written down with its effect.

use std::{sync::Arc, time::Duration};

use larder_common::{Error, ErrorKind, FileId, JobId, JobKind, JobState, Result};
use tokio::{task::JoinSet, time::MissedTickBehavior};

use super::{
    Live, copying,
    steps::{self, Did, Stepper},
    walk::{Found, Item, Walk},
    window::Window,
};
use crate::{
    core::Asker,
    master::Master,
    rpc::filesystem::How,
    state::{AdvanceJob, EndJob, Job, Stage, StepDone, StepKey, StepKind},
};

/// Files at the same time, unless the job says.
const PARALLEL: u32 = 16;
/// The most files at the same time.
const PARALLEL_MAX: u32 = 256;
/// How often it is written down what is done.
const TELL: Duration = Duration::from_millis(500);
/// So many steps are written down without waiting for that.
const UNTOLD_MAX: usize = 256;

/// Does a job, until it is over or the master stops.
///
/// # Errors
/// Those of the journal. The job goes on at the next try.
pub async fn run(master: &Arc<Master>, id: JobId, job: &Arc<Job>, live: &Arc<Live>) -> Result<()> {
    let stepper = Arc::new(Stepper::new(master, id, job, live));
    let mut runner = Runner {
        window: Window::resume(&job.progress),
        stepper,
        untold: Vec::new(),
        tasks: JoinSet::new(),
        broken: None,
    };
    let ended = runner.work().await;
    // Steps of a job that is over see that, and clean up what they have begun.
    while runner.tasks.join_next().await.is_some() {}
    ended
}

struct Runner {
    stepper: Arc<Stepper>,
    window: Window,
    untold: Vec<StepDone>,
    tasks: JoinSet<(Item, Result<Did>)>,
    /// What ends the job before all is done.
    broken: Option<Error>,
}

impl Runner {
    async fn work(&mut self) -> Result<()> {
        let stepper = Arc::clone(&self.stepper);
        if stepper.job.spec.kind == JobKind::Move && stepper.job.progress.is_untouched() {
            match copying::rename(&stepper).await {
                Ok(()) => return self.end(JobState::Done, None).await,
                Err(error) if error.kind() == ErrorKind::CrossesMounts => {}
                Err(error) => return self.end(JobState::Failed, Some(error)).await,
            }
        }
        let root = match self.root().await {
            Ok(root) => root,
            Err(error) if error.kind() == ErrorKind::NotFound && self.has_moved_all() => {
                return self.end(JobState::Done, None).await;
            }
            Err(error) => return self.end(JobState::Failed, Some(error)).await,
        };
        let counting = tokio::spawn(count(Arc::clone(&stepper), root));
        let done = self.all(root).await;
        counting.abort();
        done?;
        if stepper.job.spec.kind == JobKind::Move && self.broken.is_none() && !stepper.live.stop.is_cancelled() {
            copying::remove_directories(&stepper, root).await;
        }
        self.finish().await
    }

    fn has_moved_all(&self) -> bool {
        self.stepper.job.spec.kind == JobKind::Move && !self.stepper.job.progress.is_untouched()
    }

    async fn root(&self) -> Result<FileId> {
        let job = &self.stepper.job;
        let how = How { follow: job.spec.kind != JobKind::Move, fresh: false };
        let find = || self.stepper.master.look_up(&job.spec.path, &job.caller, how);
        self.stepper.live.unless_over(steps::patiently(find)).await
    }

    /// Takes all steps.
    async fn all(&mut self, root: FileId) -> Result<()> {
        let stepper = Arc::clone(&self.stepper);
        let Job { spec, caller, .. } = &*stepper.job;
        let mut walk = Walk::resume(&stepper.master, root, self.window.cursor(), caller);
        let parallel = match spec.parallel {
            0 => PARALLEL,
            asked => asked.min(PARALLEL_MAX),
        };
        let mut ticks = tokio::time::interval(TELL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut more = true;
        while (more || !self.tasks.is_empty()) && !stepper.live.stop.is_cancelled() {
            let room = self.tasks.len() < parallel as usize && self.window.has_room() && self.broken.is_none();
            tokio::select! {
                biased;
                () = stepper.live.stop.cancelled() => break,
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => self.ended(done),
                _ = ticks.tick() => self.tell().await?,
                step = walk.next(&stepper.master), if more && room => more = self.begin(step, &mut walk).await?,
            }
            if self.untold.len() >= UNTOLD_MAX {
                self.tell().await?;
            }
            more &= self.broken.is_none();
        }
        Ok(())
    }

    /// Begins a step. False when there is none left.
    async fn begin(&mut self, step: Result<Option<Item>, (StepKey, Error)>, walk: &mut Walk) -> Result<bool> {
        let item = match step {
            Ok(Some(item)) => item,
            Ok(None) => return Ok(false),
            Err((key, error)) => {
                // Its place has passed: the failure is one of a step of its own, right after it.
                let key = key.join(b".");
                self.window.begin(&key, None);
                self.note(key, Err(error));
                return Ok(true);
            }
        };
        let known = self.stepper.stage(&item.key);
        if !self.window.begin(&item.key, known) {
            return Ok(true);
        }
        let stepper = Arc::clone(&self.stepper);
        if item.kind.is_directory() {
            let done = stepper.directory(&item).await;
            if done.is_err() {
                walk.pass_over(&item.key);
            }
            self.note(item.key, done);
        } else {
            self.tasks.spawn(async move {
                let done = stepper.step(&item, known == Some(Stage::Copied)).await;
                (item, done)
            });
        }
        Ok(true)
    }

    fn ended(&mut self, done: Result<(Item, Result<Did>), tokio::task::JoinError>) {
        match done {
            Ok((item, done)) => self.note(item.key, done),
            Err(error) => self.broken = Some(Error::new(ErrorKind::Unavailable, format!("a step broke off: {error}"))),
        }
    }

    /// Takes note of what a step has come to.
    fn note(&mut self, key: StepKey, done: Result<Did>) {
        if self.stepper.live.stop.is_cancelled() {
            return;
        }
        let is_load = self.stepper.job.spec.kind == JobKind::Load;
        if let Some(full) = done.as_ref().err().filter(|error| is_load && error.kind() == ErrorKind::NoSpace) {
            // Whatever follows would find no room either.
            self.broken = Some(full.clone());
            return;
        }
        self.window.done(&key);
        let (stage, nothing) = (Stage::Done, StepKind::Nothing);
        match done {
            Ok(Did { told: true, .. }) => {}
            Ok(Did { kind, bytes, .. }) => self.untold.push(StepDone { key, stage, kind, bytes, failure: None }),
            Err(error) => {
                tracing::info!(job = self.stepper.id.0, %error, "a step of a job failed");
                self.untold.push(StepDone { key, stage, kind: nothing, bytes: 0, failure: Some(error) });
            }
        }
    }

    /// Writes down what is done.
    async fn tell(&mut self) -> Result<()> {
        let job = self.stepper.id;
        let known = self.stepper.master.core.read().job(job).and_then(|job| job.progress.cursor.clone());
        let cursor = self.window.cursor().filter(|cursor| known.as_ref() != Some(cursor)).cloned();
        if self.untold.is_empty() && cursor.is_none() {
            return Ok(());
        }
        let steps = std::mem::take(&mut self.untold);
        match self.stepper.master.execute(AdvanceJob { job, steps, cursor }).await {
            // It has been ended.
            Err(error) if error.kind() == ErrorKind::Changed => Ok(()),
            told => told.map(drop),
        }
    }

    async fn finish(&mut self) -> Result<()> {
        if self.stepper.live.stop.is_cancelled() {
            return Ok(());
        }
        while let Some(done) = self.tasks.join_next().await {
            self.ended(done);
        }
        self.tell().await?;
        let failed = self.stepper.master.core.read().job(self.stepper.id).map_or(0, |job| job.progress.failed);
        match self.broken.take() {
            Some(error) => self.end(JobState::Failed, Some(error)).await,
            None if failed > 0 => self.end(JobState::Failed, None).await,
            None => self.end(JobState::Done, None).await,
        }
    }

    async fn end(&self, state: JobState, reason: Option<Error>) -> Result<()> {
        if self.stepper.live.stop.is_cancelled() {
            return Ok(());
        }
        let (master, job) = (&self.stepper.master, self.stepper.id);
        tracing::info!(job = job.0, state = %state, reason = ?reason, "a job is over");
        let asker = Asker::server();
        let finished = master.core.execute(&master.under, EndJob { job, state, reason }.into(), &asker).await?;
        master.core.wait_durable(finished.position, master.core.deadline()).await
    }
}

/// Finds out how much there is to do, beside the work.
async fn count(stepper: Arc<Stepper>, root: FileId) {
    let job = &stepper.job;
    let mut walk = Walk::resume(&stepper.master, root, job.progress.cursor.as_ref(), &job.caller);
    let mut found = Found::default();
    loop {
        match walk.next(&stepper.master).await {
            Ok(Some(item)) if !item.kind.is_directory() && job.progress.stage(&item.key) != Some(Stage::Done) => {
                found.files += 1;
                found.bytes += item.length;
            }
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => break,
        }
        *stepper.live.found.lock() = found;
    }
    found.all = true;
    *stepper.live.found.lock() = found;
}
