//! What is told of a job: what the journal has of it, and what is seen while it is worked on. Pure.

use std::{sync::atomic::Ordering, time::Duration};

use larder_common::{Error, FsPath, JobId, JobState, Name};
use larder_proto::v1;

use super::{Live, walk::Found};
use crate::state::{Job, StepKey};

/// How far a job is, at a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Files and bytes that are done.
    pub done: (u64, u64),
    /// Of these, before it was begun or gone on with.
    pub before: (u64, u64),
    /// How long it has been worked on.
    pub took: Duration,
    /// What there was to do then.
    pub found: Found,
}

impl Pace {
    /// Bytes in a second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        let moved = self.done.1.saturating_sub(self.before.1);
        (moved as f64 / self.took.as_secs_f64().max(0.001)) as u64
    }

    /// How long the rest takes at this rate, as far as it is known how much that is. By bytes; where there are none, by files.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let found = Some(self.found).filter(|found| found.all)?;
        let bytes = (self.done.1.saturating_sub(self.before.1), found.bytes);
        let files = (self.done.0.saturating_sub(self.before.0), found.files);
        let (done, all) = if bytes.0 > 0 { bytes } else { files };
        let left = all.saturating_sub(done) as f64;
        (done > 0).then(|| Duration::from_secs_f64((left / done as f64 * self.took.as_secs_f64()).min(1e9)))
    }
}

/// The path of a step.
fn path(job: &Job, key: &StepKey) -> Vec<u8> {
    let join = |path: FsPath, name: &[u8]| Name::new(name).map_or(path.clone(), |name| path.join(&name));
    key.names().fold(job.spec.path.clone(), join).as_bytes().to_vec()
}

/// A job as its owner is told.
#[must_use]
pub fn status(id: JobId, job: &Job, live: Option<&Live>) -> v1::JobStatus {
    let progress = &job.progress;
    let failure =
        |(key, error): &(StepKey, Error)| v1::JobFailure { path: path(job, key).into(), failure: Some(error.into()) };
    let mut status = v1::JobStatus {
        job: id.0,
        request: Some((&job.spec).into()),
        uid: job.caller.uid,
        user: job.caller.name.clone(),
        state: job.state.number(),
        begun: job.begun.0,
        ended: job.ended.map_or(0, |time| time.0),
        files: progress.files,
        directories: progress.directories,
        bytes: progress.bytes,
        failed: progress.failed,
        files_found: progress.files + progress.failed,
        bytes_found: progress.bytes,
        counted: job.state == JobState::Done,
        failures: progress.failures.iter().map(failure).collect(),
        reason: job.reason.as_ref().map(Into::into),
        ..v1::JobStatus::default()
    };
    if let Some(live) = live.filter(|_| job.state == JobState::Running) {
        let done = (progress.files, progress.bytes + live.moving.load(Ordering::Relaxed));
        let pace = Pace { done, before: live.before, took: live.since.elapsed(), found: *live.found.lock() };
        status.bytes = pace.done.1;
        status.files_found = pace.before.0 + pace.found.files;
        status.bytes_found = pace.before.1 + pace.found.bytes;
        status.counted = pace.found.all;
        status.bytes_per_second = pace.rate();
        status.left_ms = pace.left().map_or(0, |left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1));
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_when_it_is_counted() {
        let mut pace = Pace {
            done: (30, 300),
            before: (10, 100),
            took: Duration::from_secs(4),
            found: Found { files: 80, bytes: 800, all: false },
        };
        assert_eq!((pace.rate(), pace.left()), (50, None));
        pace.found.all = true;
        assert_eq!(pace.left(), Some(Duration::from_secs(12)));
        pace.done.1 = 100;
        assert_eq!(pace.left(), Some(Duration::from_secs(12)), "by files where no bytes move");
        pace.done = (10, 100);
        assert_eq!(pace.left(), None);
    }
}
