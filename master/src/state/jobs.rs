//! Jobs in the state: who asked for what, how far it is, and how it ended. What is done for them is in [`crate::jobs`].

use std::{collections::BTreeMap, sync::Arc};

use larder_common::{Caller, Error, ErrorKind, FsPath, JobId, JobKind, JobRequest, JobState, Timestamp};

use super::{
    Command, State,
    encoding::{write_type, write_type_number},
    job_progress::{Progress, Stage, StepDone, StepKey, StepKind},
    job_records::{AheadRecord, FailureRecord, JobRecord, JobSteps, SetJob, StepRecord},
    outcome::{Effect, Outcome, Planned},
    planner::{Plan, Planner, Stop, refuse},
};

/// Jobs that are over are kept so that they can be looked at: so many of the last.
pub const ENDED_MAX: usize = 100;
/// Jobs that may be under way or wait.
pub const RUNNING_MAX: usize = 1000;

/// A job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// What it does.
    pub spec: JobRequest,
    /// Whose it is: each step is made in his name.
    pub caller: Caller,
    /// Drawn by who asked for it; 0 for none.
    pub nonce: u64,
    /// When it was asked for.
    pub begun: Timestamp,
    /// When it was over.
    pub ended: Option<Timestamp>,
    /// How it is.
    pub state: JobState,
    /// Why it was broken off.
    pub reason: Option<Error>,
    /// How far it is.
    pub progress: Progress,
}

/// Begin a job. Answers [`super::Outcome::Submitted`]; for a nonce that the caller has used, with the job that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubmitJob {
    /// What it is to do.
    pub spec: JobRequest,
    /// Drawn by who asks; 0 for none.
    pub nonce: u64,
}

/// Steps of a job are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdvanceJob {
    /// The job.
    pub job: JobId,
    /// What they came to.
    pub steps: Vec<StepDone>,
    /// All steps up to this one are done.
    pub cursor: Option<StepKey>,
}

/// Carry a command out that is the effect of a step: the step is done by the same entry. Refused where the job is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobStep {
    /// The job.
    pub job: JobId,
    /// What it comes to.
    pub step: StepDone,
    /// The effect.
    pub command: Box<Command>,
}

/// A job is over. Only its owner, root and the master may say so; one that is over stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndJob {
    /// The job.
    pub job: JobId,
    /// How.
    pub state: JobState,
    /// Why it was broken off.
    pub reason: Option<Error>,
}

impl Planner<'_> {
    fn job(&self, job: JobId) -> Result<&Arc<Job>, Stop> {
        match self.state.jobs.get(&job) {
            Some(found) => Ok(found),
            None => refuse(ErrorKind::NotFound, b"", &format!("there is no job {job}")),
        }
    }

    fn running(&self, job: JobId) -> Result<&Arc<Job>, Stop> {
        match self.job(job)? {
            found if found.state == JobState::Running => Ok(found),
            _ => refuse(ErrorKind::Changed, b"", &format!("job {job} is over")),
        }
    }
}

impl Plan for SubmitJob {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let (jobs, caller) = (&planner.state.jobs, &planner.context.caller);
        let same = |job: &Job| self.nonce != 0 && job.nonce == self.nonce && job.caller.uid == caller.uid;
        if let Some((id, _)) = jobs.iter().find(|(_, job)| same(job)) {
            return Ok(Planned::Done(Outcome::Submitted(*id)));
        }
        let ended: Vec<JobId> = jobs.iter().filter(|(_, job)| job.ended.is_some()).map(|(id, _)| *id).collect();
        if jobs.len() - ended.len() >= RUNNING_MAX {
            let error = Error::new(ErrorKind::Busy, format!("{RUNNING_MAX} jobs wait or are under way"));
            return Err(error.advise("`larder job ls` lists them, `larder job cancel` ends one").into());
        }
        let job = Job {
            spec: self.spec.clone(),
            caller: caller.clone(),
            nonce: self.nonce,
            begun: planner.now(),
            ended: None,
            state: JobState::Running,
            reason: None,
            progress: Progress::default(),
        };
        let id = JobId(planner.number()?);
        for old in &ended[..(ended.len() + 1).saturating_sub(ENDED_MAX)] {
            planner.push(SetJob { job: old.0, record: None });
        }
        planner.push(SetJob { job: id.0, record: Some((&job).into()) });
        Ok(planner.apply(&Outcome::Submitted(id)))
    }
}

impl Plan for AdvanceJob {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        planner.running(self.job)?;
        let cursor = self.cursor.as_ref().map(|cursor| cursor.0.clone());
        let steps = self.steps.iter().map(StepRecord::from).collect();
        planner.push(JobSteps { job: self.job.0, steps, cursor });
        Ok(planner.apply(&Outcome::Done))
    }
}

impl Plan for JobStep {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        planner.running(self.job)?;
        planner.push(JobSteps { job: self.job.0, steps: vec![(&self.step).into()], cursor: None });
        self.command.plan(planner)
    }
}

impl Plan for EndJob {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let job = planner.job(self.job)?;
        let caller = &planner.context.caller;
        if !caller.is_root() && caller.uid != job.caller.uid {
            let message = format!("job {} is of uid {}", self.job, job.caller.uid);
            return refuse(ErrorKind::NotPermitted, job.spec.path.as_bytes(), &message);
        }
        if job.state == JobState::Running {
            let (ended, reason) = (Some(planner.now()), self.reason.clone());
            // What is known to be done is of no use any more.
            let progress = Progress { ahead: BTreeMap::new(), cursor: None, ..job.progress.clone() };
            let over = Job { state: self.state, ended, reason, progress, ..(**job).clone() };
            planner.push(SetJob { job: self.job.0, record: Some((&over).into()) });
        }
        Ok(planner.apply(&Outcome::Done))
    }
}

impl State {
    /// A job.
    #[must_use]
    pub fn job(&self, id: JobId) -> Option<&Arc<Job>> {
        self.jobs.get(&id)
    }

    /// All jobs that are known, the oldest first.
    pub fn jobs(&self) -> impl Iterator<Item = (JobId, &Arc<Job>)> {
        self.jobs.iter().map(|(id, job)| (*id, job))
    }

    pub(super) fn set_job(&mut self, set: &SetJob, effects: &mut Vec<Effect>) {
        let id = JobId(set.job);
        match &set.record {
            None => drop(self.jobs.remove(&id)),
            Some(record) => {
                let job = Job::from(record);
                effects.push(if job.state == JobState::Running { Effect::JobPending } else { Effect::JobOver(id) });
                self.jobs.insert(id, Arc::new(job));
            }
        }
    }

    pub(super) fn job_steps(&mut self, steps: &JobSteps) {
        let Some(job) = self.jobs.get_mut(&JobId(steps.job)) else { return };
        let progress = &mut Arc::make_mut(job).progress;
        steps.steps.iter().for_each(|step| progress.take(&step.into()));
        if let Some(cursor) = &steps.cursor {
            progress.advance(&StepKey(cursor.clone()));
        }
    }
}

impl From<&StepDone> for StepRecord {
    fn from(step: &StepDone) -> Self {
        Self {
            key: step.key.0.clone(),
            half: step.stage == Stage::Copied,
            kind: match step.kind {
                StepKind::File => 0,
                StepKind::Directory => 1,
                StepKind::Nothing => 2,
            },
            bytes: step.bytes,
            failure: step.failure.as_ref().map(|error| FailureRecord::of(&step.key, error)),
        }
    }
}

impl From<&StepRecord> for StepDone {
    fn from(record: &StepRecord) -> Self {
        Self {
            key: StepKey(record.key.clone()),
            stage: if record.half { Stage::Copied } else { Stage::Done },
            kind: match record.kind {
                0 => StepKind::File,
                1 => StepKind::Directory,
                _ => StepKind::Nothing,
            },
            bytes: record.bytes,
            failure: record.failure.as_ref().map(FailureRecord::error),
        }
    }
}

impl FailureRecord {
    fn of(key: &StepKey, error: &Error) -> Self {
        Self {
            key: key.0.clone(),
            kind: error.kind() as u32,
            message: error.message().to_owned(),
            path: error.path().map(<[u8]>::to_vec),
            advice: error.advice().map(str::to_owned),
        }
    }

    fn error(&self) -> Error {
        let kind = ErrorKind::from_number(self.kind).unwrap_or(ErrorKind::Unavailable);
        let mut error = Error::new(kind, self.message.clone());
        if let Some(path) = &self.path {
            error = error.at(path);
        }
        match &self.advice {
            Some(advice) => error.advise(advice.clone()),
            None => error,
        }
    }
}

impl From<&Job> for JobRecord {
    fn from(job: &Job) -> Self {
        let (spec, progress) = (&job.spec, &job.progress);
        let ahead =
            |(key, stage): (&StepKey, &Stage)| AheadRecord { key: key.0.clone(), half: *stage == Stage::Copied };
        Self {
            kind: spec.kind.number(),
            path: spec.path.as_bytes().to_vec(),
            target: spec.target.as_ref().map(|path| path.as_bytes().to_vec()),
            forced: spec.forced,
            replication: spec.replication,
            overwrite: spec.overwrite,
            write_type: write_type_number(spec.write_type),
            parallel: spec.parallel,
            uid: job.caller.uid,
            gids: job.caller.gids.clone(),
            user: job.caller.name.clone(),
            nonce: job.nonce,
            begun: job.begun.0,
            ended: job.ended.map(|time| time.0),
            state: job.state.number(),
            reason: job.reason.as_ref().map(|error| FailureRecord::of(&StepKey::default(), error)),
            cursor: progress.cursor.as_ref().map(|key| key.0.clone()),
            ahead: progress.ahead.iter().map(ahead).collect(),
            files: progress.files,
            directories: progress.directories,
            bytes: progress.bytes,
            failed: progress.failed,
            failures: progress.failures.iter().map(|(key, error)| FailureRecord::of(key, error)).collect(),
        }
    }
}

impl From<&JobRecord> for Job {
    fn from(record: &JobRecord) -> Self {
        let path = |bytes: &[u8]| FsPath::parse(bytes).ok();
        let stage = |ahead: &AheadRecord| if ahead.half { Stage::Copied } else { Stage::Done };
        Self {
            spec: JobRequest {
                kind: JobKind::from_number(record.kind).unwrap_or(JobKind::Load),
                path: path(&record.path).unwrap_or_else(FsPath::root),
                target: record.target.as_deref().and_then(path),
                forced: record.forced,
                replication: record.replication,
                overwrite: record.overwrite,
                write_type: write_type(record.write_type),
                parallel: record.parallel,
            },
            caller: Caller { uid: record.uid, gids: record.gids.clone(), name: record.user.clone() },
            nonce: record.nonce,
            begun: Timestamp(record.begun),
            ended: record.ended.map(Timestamp),
            // What is not known is nothing that could go on.
            state: JobState::from_number(record.state).unwrap_or(JobState::Failed),
            reason: record.reason.as_ref().map(FailureRecord::error),
            progress: Progress {
                cursor: record.cursor.clone().map(StepKey),
                ahead: record.ahead.iter().map(|ahead| (StepKey(ahead.key.clone()), stage(ahead))).collect(),
                files: record.files,
                directories: record.directories,
                bytes: record.bytes,
                failed: record.failed,
                failures: record.failures.iter().map(|f| (StepKey(f.key.clone()), f.error())).collect(),
            },
        }
    }
}
