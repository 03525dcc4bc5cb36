//! The `Jobs` service: begin, look at and end work that the master does by itself.

use std::sync::Arc;

use larder_common::{Caller, Error, ErrorKind, JobId, JobKind, JobRequest, JobState, Result};
use larder_proto::{into_status, v1};
use tonic::{Request, Response, Status};

use super::filesystem::How;
use crate::{
    core::Asker,
    jobs::status::status,
    master::Master,
    state::{Command, EndJob, Outcome, SubmitJob},
};

/// The service.
#[derive(Clone, Debug)]
pub struct JobsService {
    master: Arc<Master>,
}

/// What is asked for, if it makes sense.
///
/// # Errors
/// `Invalid`, `Mismatch` for what is not known.
fn spec(asked: &v1::JobRequest) -> Result<JobRequest> {
    let request = JobRequest::try_from(asked)?;
    let copies = matches!(request.kind, JobKind::Copy | JobKind::Move);
    match &request.target {
        None if copies => {
            let error = Error::new(ErrorKind::Invalid, format!("a {} needs a target", request.kind));
            Err(error.at(&request.path).advise("say what the path is to be called there"))
        }
        Some(target) if copies && request.path.contains(target) => {
            let message = format!("{target} is {} itself, or below it", request.path);
            Err(Error::new(ErrorKind::Invalid, message).at(&request.path))
        }
        _ if copies => Ok(request),
        _ => Ok(JobRequest { target: None, ..request }),
    }
}

impl JobsService {
    /// Serves for this master.
    #[must_use]
    pub fn new(master: Arc<Master>) -> Self {
        Self { master }
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        self.master.greet(request.metadata()).map(|greeting| greeting.caller)
    }

    async fn execute(&self, command: impl Into<Command>, caller: Caller) -> Result<Outcome> {
        let asker = Asker { caller, request: None, durable: true };
        let mut finished = self.master.core.execute(&self.master.under, command.into(), &asker).await?;
        drop(self.master.follow(&mut finished, None));
        self.master.core.wait_durable(finished.position, self.master.core.deadline()).await?;
        Ok(finished.outcome)
    }

    fn told(&self, id: JobId, caller: &Caller) -> Result<v1::JobStatus> {
        let job = self.master.core.read().job(id).cloned();
        let job = job.filter(|job| caller.is_root() || caller.uid == job.caller.uid);
        let none = || Error::new(ErrorKind::NotFound, format!("there is no job {id}"));
        let job = job.ok_or_else(|| none().advise("`larder job ls` lists them"))?;
        Ok(status(id, &job, self.master.jobs.live(id).as_deref()))
    }

    async fn begin(&self, asked: &v1::JobRequest, caller: Caller) -> Result<v1::JobStatus> {
        let spec = spec(asked)?;
        let how = How { follow: spec.kind != JobKind::Move, fresh: false };
        let found = self.master.look_up(&spec.path, &caller, how).await;
        let known = |nonce: u64| self.master.core.read().jobs().any(|(_, job)| nonce != 0 && job.nonce == nonce);
        match found {
            // One that is asked for again may have moved it away.
            Err(error) if !known(asked.nonce) => return Err(error),
            _ => {}
        }
        match self.execute(SubmitJob { spec, nonce: asked.nonce }, caller.clone()).await? {
            Outcome::Submitted(id) => self.told(id, &caller),
            other => Err(Error::new(ErrorKind::Unavailable, format!("a job came to {other:?}"))),
        }
    }

    fn list(&self, caller: &Caller) -> v1::JobList {
        let state = self.master.core.read();
        let theirs: Vec<_> = state
            .jobs()
            .filter(|(_, job)| caller.is_root() || caller.uid == job.caller.uid)
            .map(|(id, job)| (id, Arc::clone(job)))
            .collect();
        drop(state);
        let told = |(id, job): &(JobId, Arc<crate::state::Job>)| {
            let mut told = status(*id, job, self.master.jobs.live(*id).as_deref());
            told.failures.clear();
            told
        };
        v1::JobList { jobs: theirs.iter().rev().map(told).collect() }
    }

    async fn end(&self, id: JobId, caller: Caller) -> Result<v1::JobStatus> {
        self.told(id, &caller)?;
        self.execute(EndJob { job: id, state: JobState::Cancelled, reason: None }, caller.clone()).await?;
        self.told(id, &caller)
    }
}

fn respond<T>(result: Result<T>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| into_status(&error))
}

#[tonic::async_trait]
impl v1::jobs_server::Jobs for JobsService {
    async fn submit(&self, request: Request<v1::JobRequest>) -> Result<Response<v1::JobStatus>, Status> {
        let caller = self.caller(&request)?;
        respond(self.begin(request.get_ref(), caller).await)
    }

    async fn list(&self, request: Request<v1::Empty>) -> Result<Response<v1::JobList>, Status> {
        let caller = self.caller(&request)?;
        Ok(Response::new(JobsService::list(self, &caller)))
    }

    async fn get(&self, request: Request<v1::JobName>) -> Result<Response<v1::JobStatus>, Status> {
        let caller = self.caller(&request)?;
        respond(self.told(JobId(request.get_ref().job), &caller))
    }

    async fn cancel(&self, request: Request<v1::JobName>) -> Result<Response<v1::JobStatus>, Status> {
        let caller = self.caller(&request)?;
        respond(self.end(JobId(request.get_ref().job), caller).await)
    }
}

#[cfg(test)]
mod tests {
    use larder_common::FsPath;

    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        let asked = |kind: JobKind, target: &str| v1::JobRequest {
            kind: kind.number(),
            path: "/a".into(),
            target: target.to_owned().into(),
            ..v1::JobRequest::default()
        };
        assert_eq!(spec(&asked(JobKind::Load, "")).unwrap().target, None);
        assert_eq!(spec(&asked(JobKind::Copy, "/ab")).unwrap().target, Some(FsPath::parse("/ab").unwrap()));
        for target in ["", "/a", "/a/b"] {
            assert_eq!(spec(&asked(JobKind::Move, target)).unwrap_err().kind(), ErrorKind::Invalid, "{target}");
        }
        assert_eq!(spec(&v1::JobRequest::default()).unwrap_err().kind(), ErrorKind::Mismatch);
    }
}
