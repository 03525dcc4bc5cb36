//! `larder fs distributedLoad`, `distributedCp`, `distributedMv`: Alluxio's names for jobs. Unlike `larder job` they wait,
//! unless `--async` is said.

use clap::Args;
use larder_client::{JobKind, JobRequest};

use super::{
    Act, path,
    places::{Authority, Typed},
    shell::{Shell, authorities},
};
use crate::{
    commands::job::{How, all, submit, transfer},
    exit::Exit,
};

/// Bring files into the cache by a job of the cluster
#[derive(Args, Debug)]
pub(crate) struct DistributedLoad {
    /// What to load
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
    #[command(flatten)]
    options: Options,
}

/// Copy a file or a directory with everything below by a job of the cluster
#[derive(Args, Debug)]
pub(crate) struct DistributedCp {
    /// What to copy
    #[arg(value_name = "PATH", value_parser = path())]
    source: Typed,
    /// What it is to be called
    #[arg(value_name = "TARGET", value_parser = path())]
    target: Typed,
    /// Replace files that are there
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    overwrite: bool,
    #[command(flatten)]
    options: Options,
}

/// Move a file or a directory by a job of the cluster
#[derive(Args, Debug)]
pub(crate) struct DistributedMv {
    /// What to move
    #[arg(value_name = "PATH", value_parser = path())]
    source: Typed,
    /// What it is to be called
    #[arg(value_name = "TARGET", value_parser = path())]
    target: Typed,
    #[command(flatten)]
    options: Options,
}

#[derive(Args, Debug)]
struct Options {
    /// How many files are worked on at the same time
    #[arg(long, alias = "active-jobs", value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,
    /// Do not wait: print the job's number and leave it alone
    #[arg(long = "async")]
    leave: bool,
    /// Accepted for the sake of scripts: files need not be put together
    #[arg(long, hide = true, value_name = "N")]
    batch_size: Option<u32>,
}

impl Options {
    fn how(&self) -> How {
        How { wait: !self.leave, parallel: self.parallel }
    }
}

impl Act for DistributedLoad {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        all(shell, &self.paths, &self.options.how(), |path| JobRequest::new(JobKind::Load, path)).await
    }
}

impl Act for DistributedCp {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        vec![self.source.authority.as_ref(), self.target.authority.as_ref()]
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let (source, target) = (self.source.exact()?, self.target.exact()?);
        let request = transfer(JobKind::Copy, &source, &target, false)?;
        let request = JobRequest { overwrite: self.overwrite, ..request };
        shell.pass(&source, submit(shell, request, &self.options.how()).await)?;
        Ok(shell.exit())
    }
}

impl Act for DistributedMv {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        vec![self.source.authority.as_ref(), self.target.authority.as_ref()]
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let (source, target) = (self.source.exact()?, self.target.exact()?);
        let request = transfer(JobKind::Move, &source, &target, false)?;
        shell.pass(&source, submit(shell, request, &self.options.how()).await)?;
        Ok(shell.exit())
    }
}
