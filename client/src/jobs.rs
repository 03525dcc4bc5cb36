//! Jobs: work over a tree that the cluster does by itself. A job outlives whoever asked for it, and restarts of the master
//! and of workers; it can be looked at and ended by anybody with the same user, and by root.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use larder_common::{Error, ErrorKind, FsPath, JobId, JobRequest, JobState, Result, Timestamp};
use larder_proto::v1::{self, jobs_client::JobsClient};

use crate::file_system::FileSystem;

/// A job, as it is at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// What it does.
    pub request: JobRequest,
    /// Whose it is, by number.
    pub uid: u32,
    /// The same by name, where that is known.
    pub user: String,
    /// How it is.
    pub state: JobState,
    /// When it was asked for.
    pub begun: Timestamp,
    /// When it was over.
    pub ended: Option<Timestamp>,
    /// Files done.
    pub files: u64,
    /// Directories done.
    pub directories: u64,
    /// Bytes done, with those of files that are under way.
    pub bytes: u64,
    /// Files that failed.
    pub failed: u64,
    /// Files that there are, as many as were found so far.
    pub files_found: u64,
    /// Bytes of these.
    pub bytes_found: u64,
    /// Whether that is all there is.
    pub counted: bool,
    /// How fast it is, since it was begun or gone on with.
    pub bytes_per_second: u64,
    /// How long it takes at this rate, where that is known.
    pub left: Option<Duration>,
    /// The first failures. [`FileSystem::jobs`] leaves them out.
    pub failures: Vec<JobFailure>,
    /// Why it was broken off.
    pub reason: Option<Error>,
}

/// What a job could not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFailure {
    /// With what.
    pub path: FsPath,
    /// Why.
    pub error: Error,
}

fn unknown(what: &str) -> Error {
    Error::new(ErrorKind::Mismatch, format!("a {what} of jobs that is not known")).advise("bring both to one version")
}

impl TryFrom<v1::JobStatus> for Job {
    type Error = Error;

    fn try_from(message: v1::JobStatus) -> Result<Self> {
        let failure = |failure: v1::JobFailure| {
            let error = failure.failure.map_or_else(|| Error::new(ErrorKind::Unavailable, "no reason"), Into::into);
            Ok(JobFailure { path: FsPath::parse(&failure.path)?, error })
        };
        Ok(Self {
            id: JobId(message.job),
            request: JobRequest::try_from(&message.request.unwrap_or_default())?,
            uid: message.uid,
            user: message.user,
            state: JobState::from_number(message.state).ok_or_else(|| unknown("state"))?,
            begun: Timestamp(message.begun),
            ended: (message.ended != 0).then_some(Timestamp(message.ended)),
            files: message.files,
            directories: message.directories,
            bytes: message.bytes,
            failed: message.failed,
            files_found: message.files_found,
            bytes_found: message.bytes_found,
            counted: message.counted,
            bytes_per_second: message.bytes_per_second,
            left: (message.left_ms != 0).then(|| Duration::from_millis(message.left_ms)),
            failures: message.failures.into_iter().map(failure).collect::<Result<_>>()?,
            reason: message.reason.map(Into::into),
        })
    }
}

/// A number that nobody else draws.
fn nonce() -> u64 {
    RandomState::new().build_hasher().finish() | 1
}

impl FileSystem {
    /// Begins a job. It is on disk when this answers, and goes on by itself.
    ///
    /// # Errors
    /// `NotFound` for its path; `Invalid` for a target below it; `Busy` with too many jobs; `Unavailable`.
    pub async fn submit(&self, request: &JobRequest) -> Result<Job> {
        let asked = v1::JobRequest { nonce: nonce(), ..request.into() };
        let link = &self.0.link;
        let told = link.ask_any(link.deadline(), || {
            let (mut jobs, asked) = (JobsClient::new(link.channel.clone()), asked.clone());
            async move { jobs.submit(asked).await }
        });
        told.await?.try_into()
    }

    /// The jobs of the caller, of root all; the newest first. Those that are over are known for a while.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn jobs(&self) -> Result<Vec<Job>> {
        let link = &self.0.link;
        let told = link.ask_any(link.deadline(), || {
            let mut jobs = JobsClient::new(link.channel.clone());
            async move { jobs.list(v1::Empty {}).await }
        });
        told.await?.jobs.into_iter().map(TryInto::try_into).collect()
    }

    /// One job.
    ///
    /// # Errors
    /// `NotFound`, also for somebody else's; `Unavailable`.
    pub async fn job(&self, id: JobId) -> Result<Job> {
        let link = &self.0.link;
        let told = link.ask_any(link.deadline(), || {
            let mut jobs = JobsClient::new(link.channel.clone());
            async move { jobs.get(v1::JobName { job: id.0 }).await }
        });
        told.await?.try_into()
    }

    /// Ends a job. What it has done stays done, and one that is over stays as it is.
    ///
    /// # Errors
    /// As [`FileSystem::job`].
    pub async fn cancel_job(&self, id: JobId) -> Result<Job> {
        let link = &self.0.link;
        let told = link.ask_any(link.deadline(), || {
            let mut jobs = JobsClient::new(link.channel.clone());
            async move { jobs.cancel(v1::JobName { job: id.0 }).await }
        });
        told.await?.try_into()
    }
}

#[cfg(test)]
mod tests {
    use larder_common::JobKind;

    use super::*;

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let request = Some(v1::JobRequest { kind: 1, path: "/a".into(), ..v1::JobRequest::default() });
        let message = v1::JobStatus { job: 3, state: 1, request, ..v1::JobStatus::default() };
        let job = Job::try_from(message.clone()).unwrap();
        assert_eq!(
            (job.id, job.request, job.ended),
            (JobId(3), JobRequest::new(JobKind::Load, "/a".parse().unwrap()), None)
        );
        let newer = Job::try_from(v1::JobStatus { state: 99, ..message }).unwrap_err();
        assert!(newer.to_string().contains("state"), "{newer}");
        assert_ne!(nonce(), nonce());
    }
}
