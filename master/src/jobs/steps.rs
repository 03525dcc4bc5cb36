//! The steps of jobs: what is done with one file. Each can be repeated, and is, for a while, when it fails for a reason
//! that may pass: a worker that is killed, an under store that is away, somebody who writes the file.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use larder_common::{
    BlockSize, Caller, Error, ErrorKind, FileId, FileKind, FileStatus, JobId, JobKind, Persistence, Result, WorkerId,
};
use larder_proto::{
    Greeting, convert,
    greeting::Token,
    v1::{self, order},
};
use parking_lot::Mutex;

use super::{Live, copying, loading::Room, walk::Item};
use crate::{
    cluster::WorkerSlot,
    cluster::placement::Preference,
    core::{Asker, Finished},
    edits,
    master::Master,
    rpc::answer,
    state::{Command, Job, JobStep, Persist, SetReplication, Stage, StepDone, StepKey, StepKind, Target},
    tasks::replicate,
};

/// How long a step is tried again after its first failure.
const PATIENCE: Duration = Duration::from_secs(120);
/// The first pause before that; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a worker may take for one order.
const ORDER: Duration = Duration::from_secs(300);
/// Blocks that one order loads: progress is seen by orders.
const BLOCKS: usize = 8;
/// Between two looks at whether content is persisted, beside what the journal tells.
const LOOK: Duration = Duration::from_millis(500);

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Did {
    /// With what.
    pub kind: StepKind,
    /// With how many bytes.
    pub bytes: u64,
    /// It is written down already, with its effect.
    pub told: bool,
}

impl Did {
    const NOTHING: Did = Did { kind: StepKind::Nothing, bytes: 0, told: false };

    fn file(bytes: u64) -> Self {
        Self { kind: StepKind::File, bytes, told: false }
    }
}

/// What the steps of one job share.
#[derive(Debug)]
pub struct Stepper {
    /// The master.
    pub master: Arc<Master>,
    /// Which job.
    pub id: JobId,
    /// As it was when it was begun or gone on with.
    pub job: Arc<Job>,
    /// What it shows while it is worked on.
    pub live: Arc<Live>,
    /// In whose name.
    pub asker: Asker,
    room: Mutex<Room>,
}

/// Tries again what fails for a reason that may pass.
///
/// # Errors
/// The last one.
pub async fn patiently<T, F: Future<Output = Result<T>>>(mut work: impl FnMut() -> F) -> Result<T> {
    let (mut since, mut pause) = (None, PAUSE);
    loop {
        let error = match work().await {
            Err(error) if may_pass(&error) => error,
            result => return result,
        };
        if since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether the same may succeed in a while.
fn may_pass(error: &Error) -> bool {
    error.is_retryable() || matches!(error.kind(), ErrorKind::Deadline | ErrorKind::Changed)
}

impl Stepper {
    /// For a job that is begun or gone on with.
    #[must_use]
    pub fn new(master: &Arc<Master>, id: JobId, job: &Arc<Job>, live: &Arc<Live>) -> Self {
        let workers: Vec<WorkerSlot> = master.registry.lock().live().map(|(slot, _)| slot).collect();
        let asker = Asker { caller: job.caller.clone(), request: None, durable: false };
        let room = Mutex::new(Room::resume(job.progress.bytes, &workers));
        Self { master: Arc::clone(master), id, job: Arc::clone(job), live: Arc::clone(live), asker, room }
    }

    fn caller(&self) -> &Caller {
        &self.asker.caller
    }

    /// A directory that the walk has come to, before what is in it.
    ///
    /// # Errors
    /// Why what is in it cannot be done.
    pub async fn directory(&self, item: &Item) -> Result<Did> {
        match self.job.spec.kind {
            JobKind::Copy | JobKind::Move => {
                let work = patiently(|| copying::directory(self, item));
                self.live.unless_over(work).await?;
                Ok(Did { kind: StepKind::Directory, bytes: 0, told: false })
            }
            _ => Ok(Did::NOTHING),
        }
    }

    /// Anything else. `copied`: of a move, and its copy is there.
    ///
    /// # Errors
    /// Why it was not done, with the path.
    pub async fn step(&self, item: &Item, copied: bool) -> Result<Did> {
        let done = match self.job.spec.kind {
            // What it has begun it cleans up by itself.
            JobKind::Copy | JobKind::Move => copying::one(self, item, copied).await,
            _ if !matches!(item.kind, FileKind::File) => Ok(Did::NOTHING),
            kind => self.live.unless_over(patiently(|| self.file(kind, item.file))).await,
        };
        match done {
            // It went away meanwhile.
            Err(_) if self.master.core.read().status(item.file).is_none() => Ok(Did::NOTHING),
            done => done,
        }
    }

    async fn file(&self, kind: JobKind, file: FileId) -> Result<Did> {
        let status = self.status(file).await?;
        if !status.complete {
            return Err(Error::new(ErrorKind::Busy, "somebody is writing the file"));
        }
        match kind {
            JobKind::Load => self.load(&status).await,
            JobKind::Persist => self.persist(&status).await,
            JobKind::SetReplication => self.replicate(&status).await,
            _ => self.free(&status).await,
        }
    }

    /// What a file is now, looked at in the under store where that is due.
    ///
    /// # Errors
    /// `NotFound`; those of the under store.
    pub async fn status(&self, file: FileId) -> Result<FileStatus> {
        let gone = || Error::new(ErrorKind::NotFound, format!("file {file} is no more"));
        self.master.stores.ensure_file_fresh(file, self.master.core.deadline()).await?;
        self.master.core.read().status(file).ok_or_else(gone)
    }

    /// Has what nobody holds fetched by those who are to have it.
    async fn load(&self, status: &FileStatus) -> Result<Did> {
        self.master.core.read().may(status.id, self.caller(), 4)?;
        let mut moving = self.live.moving();
        let reply = answer::open(&self.master, &nobody(), &Preference::default(), status.id)?;
        let slots: Vec<Option<WorkerSlot>> = reply.workers.iter().map(|worker| self.slot(worker)).collect();
        let slot = |at: u32| slots.get(at as usize).copied().flatten();
        let missing: u32 = reply.assignments.iter().flat_map(|assigned| &assigned.runs).map(|run| run.count).sum();
        let blocks = status.block_size.count(status.length);
        let held = reply.holders.iter().flat_map(|holder| &holder.runs).map(|run| run.count).sum::<u32>();
        if missing == 0 && held < blocks {
            return Err(Error::new(ErrorKind::Unavailable, "there is no worker that could load it"));
        }
        for assigned in &reply.assignments {
            let away = || Error::new(ErrorKind::Unavailable, "the worker that was to load it is away");
            let worker = slot(assigned.worker).ok_or_else(away)?;
            let all: Vec<u32> = convert::from_runs(&assigned.runs, blocks).collect();
            for some in all.chunks(BLOCKS) {
                let runs = convert::to_runs(some.iter().copied());
                let bytes = bytes_of(&runs, status.block_size, status.length);
                let tiers = self.master.registry.lock().get(worker).map(|record| record.tiers.clone());
                self.room.lock().take(worker, &tiers.unwrap_or_default(), bytes)?;
                let load = v1::OrderLoad { grant: reply.grant.clone(), runs, peers: reply.workers.clone() };
                let loaded = self.master.links.order(worker, order::What::Load(load), ORDER).await;
                loaded.inspect_err(|_| self.room.lock().give_back(worker, bytes))?;
                moving.add(bytes);
            }
        }
        for holder in &reply.holders {
            let bytes = bytes_of(&holder.runs, status.block_size, status.length);
            slot(holder.worker).into_iter().for_each(|worker| self.room.lock().found(worker, bytes));
        }
        Ok(Did::file(status.length))
    }

    /// The place in the registry of a worker that an answer names.
    ///
    #[must_use]
    pub fn slot(&self, worker: &v1::WorkerAddress) -> Option<WorkerSlot> {
        self.master.registry.lock().slot(WorkerId::try_from(&worker.id[..]).ok()?)
    }

    /// Asks for a file to be persisted, and waits for it.
    async fn persist(&self, status: &FileStatus) -> Result<Did> {
        if status.persistence == Persistence::Persisted {
            return Ok(Did::NOTHING);
        }
        self.execute(Persist { target: Target::Id(status.id) }.into()).await?;
        let since = Instant::now();
        let mut concluded = self.master.core.concluded();
        loop {
            concluded.borrow_and_update();
            let Some(now) = self.master.core.read().status(status.id) else { return Ok(Did::NOTHING) };
            if now.persistence == Persistence::Persisted {
                return Ok(Did::file(now.length));
            }
            if since.elapsed() > PATIENCE {
                let reason = self.master.attempts.lock().reason(status.id).cloned();
                let late = || Error::new(ErrorKind::Deadline, "it is not in the under store yet");
                // It is told, and not tried once more: it stays pending, and the master goes on with it by itself.
                let reason = reason.unwrap_or_else(late);
                let message = format!("not persisted for {PATIENCE:?}, and still tried: {}", reason.message());
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            // Either is a reason to look again.
            let _ = tokio::time::timeout(LOOK, concluded.changed()).await;
        }
    }

    /// Asks for copies, and has them made.
    async fn replicate(&self, status: &FileStatus) -> Result<Did> {
        let min = self.job.spec.replication;
        self.execute(SetReplication { target: Target::Id(status.id), min }.into()).await?;
        let mut bytes = 0;
        while let Some((worker, load)) = replicate::missing_copy(&self.master, status.id, min) {
            self.master.links.order(worker, load, ORDER).await?;
            self.master.holds(status.id, status.generation, worker, &[]);
            bytes += status.length;
        }
        let copies = replicate::copies(&self.master, status.id);
        if copies < min as usize && status.length > 0 {
            let message = format!("{min} copies are asked for, and {copies} is as many as can be had now");
            return Err(Error::new(ErrorKind::Invalid, message).advise("start more workers; the copies follow then"));
        }
        Ok(Did::file(bytes))
    }

    /// Drops what is cached of a file, and waits for that.
    async fn free(&self, status: &FileStatus) -> Result<Did> {
        let pinned = {
            let state = self.master.core.read();
            state.may(status.id, self.caller(), 4)?;
            state.is_pinned(status.id)
        };
        if status.persistence != Persistence::Persisted || (pinned && !self.job.spec.forced) {
            return Ok(Did::NOTHING);
        }
        let mut workers: Vec<WorkerSlot> = Vec::new();
        for holding in self.master.locations.holders((status.id, status.generation)) {
            if !workers.contains(&holding.worker) {
                workers.push(holding.worker);
            }
        }
        let free = v1::OrderFree { file: status.id.0, generation: status.generation.0, forced: false };
        let mut bytes = 0;
        for worker in workers {
            bytes += self.master.links.order(worker, order::What::Free(free), ORDER).await?.bytes;
        }
        Ok(if bytes == 0 { Did::NOTHING } else { Did::file(bytes) })
    }

    /// Carries a command out in the name of whose job it is.
    ///
    /// # Errors
    /// As [`crate::core::Core::execute`].
    pub async fn execute(&self, command: Command) -> Result<Finished> {
        let command = self.prepared(command).await?;
        self.carry_out(command).await
    }

    /// The same for the effect of a step: both are one entry.
    ///
    /// # Errors
    /// As [`Self::execute`]; `Changed` where the job is over.
    pub async fn execute_step(&self, item: &Item, stage: Stage, command: Command) -> Result<Finished> {
        let kind = if item.kind.is_directory() { StepKind::Directory } else { StepKind::File };
        let step = StepDone { key: item.key.clone(), stage, kind, bytes: item.length, failure: None };
        let command = Box::new(self.prepared(command).await?);
        self.carry_out(JobStep { job: self.id, step, command }.into()).await
    }

    async fn carry_out(&self, command: Command) -> Result<Finished> {
        let mut finished = self.master.core.execute(&self.master.under, command, &self.asker).await?;
        self.master.follow(&mut finished, None).all().await;
        Ok(finished)
    }

    /// Looks where that is due, and asks who has open what would go.
    async fn prepared(&self, command: Command) -> Result<Command> {
        let command = self.master.look_first(command).await?;
        let going = edits::going(&self.master.core.read(), &command, &self.asker);
        match going {
            None => Ok(command),
            Some(file) => {
                let holders = edits::open_elsewhere(&self.master, file, None).await;
                Ok(edits::with_holders(command, holders))
            }
        }
    }

    /// How far a step is, as it is written down now.
    #[must_use]
    pub fn stage(&self, key: &StepKey) -> Option<Stage> {
        self.master.core.read().job(self.id).and_then(|job| job.progress.stage(key))
    }
}

/// Nobody in particular asks: no place is nearer than another.
#[must_use]
pub fn nobody() -> Greeting {
    Greeting { locality: larder_common::Locality::default(), ..Greeting::of_server("", Token::default()) }
}

fn bytes_of(runs: &[v1::BlockRun], block_size: BlockSize, length: u64) -> u64 {
    let blocks = convert::from_runs(runs, block_size.count(length));
    blocks.map(|index| block_size.length(larder_common::BlockIndex(index), length)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_in_bytes() {
        let size = BlockSize::new(1 << 20).unwrap();
        let runs = [v1::BlockRun { first: 0, count: 1 }, v1::BlockRun { first: 2, count: 9 }];
        assert_eq!(bytes_of(&runs, size, (2 << 20) + 7), (1 << 20) + 7);
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again_and_the_rest_is_not() {
        let mut tries = 0;
        let result = patiently(|| {
            tries += 1;
            let kind = if tries < 4 { ErrorKind::Unavailable } else { ErrorKind::Denied };
            async move { Err::<(), _>(Error::new(kind, "no")) }
        });
        assert_eq!(result.await.unwrap_err().kind(), ErrorKind::Denied);
        assert_eq!(tries, 4);
    }
}
