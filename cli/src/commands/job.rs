//! `larder job`: work over trees that the cluster does by itself. What is begun here goes on without this command, and over
//! restarts of the master and of workers; `--wait` looks on until it is over.

use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, Table, presets};
use larder_client::{Error, ErrorKind, FsPath, Job, JobId, JobKind, JobRequest, JobState, Name, WriteType};
use serde_json::{Value, json};

use super::fs::{
    path,
    places::{self, Authority, Typed},
    progress::Bar,
    rename::directory,
    rfc3339,
    rows::size,
    shell::{Shell, authorities},
    span,
};
use crate::{cluster, command::Run, context::Context, exit::Exit};

/// Between two looks at a job; it doubles up to [`LOOK_MAX`].
const LOOK: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_millis(500);

/// Work over trees that the cluster does by itself: begin it, look at it, end it
#[derive(Args, Debug)]
pub(crate) struct JobCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
#[command(rename_all = "camelCase")]
enum What {
    /// List jobs, the newest first; those that are over are known for a while
    Ls,
    /// All about jobs, with what failed and why
    #[command(visible_alias = "status")]
    Stat(Numbers),
    /// End jobs; what they have done stays done
    Cancel(Numbers),
    /// Look on until jobs are over
    Wait(Numbers),
    /// Bring files into the cache, and everything below directories
    Load(Simple),
    /// Copy files, and directories with everything below, inside of the cluster
    Cp(Transfer),
    /// Move files and directories: by renaming, and where that is not possible by copying
    Mv(Transfer),
    /// Put what is only in the cache into the under store
    Persist(Simple),
    /// Have so many copies in the cache
    SetReplication(Copies),
    /// Drop cached blocks; files and under store stay
    Free(Free),
}

#[derive(Args, Debug)]
struct Numbers {
    /// Which, by the numbers that `ls` shows
    #[arg(value_name = "JOB", required = true)]
    jobs: Vec<u64>,
}

#[derive(Args, Debug, Default)]
pub(crate) struct How {
    /// Look on until it is over
    #[arg(short, long)]
    pub(crate) wait: bool,
    /// How many files are worked on at the same time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) parallel: u16,
}

#[derive(Args, Debug)]
struct Simple {
    /// What
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
    #[command(flatten)]
    how: How,
}

#[derive(Args, Debug)]
struct Transfer {
    /// What, and where to; into the last if it is a directory
    #[arg(value_name = "PATH", required = true, num_args = 2.., value_parser = path())]
    paths: Vec<Typed>,
    /// Replace files that are there
    #[arg(short, long)]
    force: bool,
    /// How the new files are written: CACHE_THROUGH, THROUGH, ASYNC_THROUGH, MUST_CACHE
    #[arg(long, value_name = "TYPE", default_value = "CACHE_THROUGH")]
    write_type: WriteType,
    #[command(flatten)]
    how: How,
}

#[derive(Args, Debug)]
struct Copies {
    /// How many
    #[arg(value_name = "COPIES")]
    min: u32,
    /// Of what
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
    #[command(flatten)]
    how: How,
}

#[derive(Args, Debug)]
struct Free {
    /// What, with everything below
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
    /// Pinned files, too
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    how: How,
}

impl What {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        match self {
            What::Ls | What::Stat(_) | What::Cancel(_) | What::Wait(_) => Vec::new(),
            What::Load(asked) | What::Persist(asked) => authorities(&asked.paths),
            What::Cp(asked) | What::Mv(asked) => authorities(&asked.paths),
            What::SetReplication(asked) => authorities(&asked.paths),
            What::Free(asked) => authorities(&asked.paths),
        }
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        match self {
            What::Ls => list(shell).await,
            What::Stat(numbers) => each(shell, &numbers, async |id| stat(shell, &shell.fs.job(id).await?)).await,
            What::Cancel(numbers) => {
                each(shell, &numbers, async |id| said(shell, &shell.fs.cancel_job(id).await?)).await
            }
            What::Wait(numbers) => each(shell, &numbers, async |id| over(shell, &look_on(shell, id).await?)).await,
            What::Load(asked) => simple(shell, JobKind::Load, &asked).await,
            What::Persist(asked) => simple(shell, JobKind::Persist, &asked).await,
            What::SetReplication(asked) => {
                let request =
                    |path| JobRequest { replication: asked.min, ..JobRequest::new(JobKind::SetReplication, path) };
                all(shell, &asked.paths, &asked.how, request).await
            }
            What::Free(asked) => {
                let request = |path| JobRequest { forced: asked.force, ..JobRequest::new(JobKind::Free, path) };
                all(shell, &asked.paths, &asked.how, request).await
            }
            What::Cp(asked) => asked.act(shell, JobKind::Copy).await,
            What::Mv(asked) => asked.act(shell, JobKind::Move).await,
        }
    }
}

impl Run for JobCommand {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let flags = places::flags(self.what.authorities())?;
        cluster::run(context, flags, async |fs| {
            let shell = Shell::new(fs, context);
            self.what.act(&shell).await
        })
    }
}

impl Transfer {
    async fn act(self, shell: &Shell<'_>, kind: JobKind) -> anyhow::Result<Exit> {
        let Some((target, sources)) = self.paths.split_last() else { return Ok(Exit::Usage) };
        let sources = shell.expand(sources).await;
        let (into, to) = (directory(shell, target, sources.len()).await?, target.exact()?);
        for source in sources {
            let request = transfer(kind, &source, &to, into);
            let Some(request) = shell.ok(request) else { continue };
            let request = JobRequest { overwrite: self.force, write_type: self.write_type, ..request };
            shell.pass(&source, submit(shell, request, &self.how).await)?;
        }
        Ok(shell.exit())
    }
}

/// A copy or move to `to`, or into it.
///
/// # Errors
/// `Invalid` for the root, which has no name.
pub(crate) fn transfer(kind: JobKind, source: &FsPath, to: &FsPath, into: bool) -> Result<JobRequest, Error> {
    let target = match (into, source.name()) {
        (true, Some(name)) => to.join(&Name::new(name)?),
        (true, None) => return Err(Error::new(ErrorKind::Invalid, "the root has no name to be put under")),
        (false, _) => to.clone(),
    };
    Ok(JobRequest { target: Some(target), ..JobRequest::new(kind, source.clone()) })
}

async fn simple(shell: &Shell<'_>, kind: JobKind, asked: &Simple) -> anyhow::Result<Exit> {
    all(shell, &asked.paths, &asked.how, |path| JobRequest::new(kind, path)).await
}

/// A job for each path.
pub(crate) async fn all(
    shell: &Shell<'_>,
    paths: &[Typed],
    how: &How,
    request: impl Fn(FsPath) -> JobRequest,
) -> anyhow::Result<Exit> {
    shell.each(paths, async |path| submit(shell, request(path.clone()), how).await).await
}

/// Begins a job, and looks on if that is asked for.
pub(crate) async fn submit(shell: &Shell<'_>, request: JobRequest, how: &How) -> anyhow::Result<()> {
    let request = JobRequest { parallel: how.parallel.into(), ..request };
    let job = shell.fs.submit(&request).await?;
    match how.wait {
        true => over(shell, &look_on(shell, job.id).await?),
        false => said(shell, &job),
    }
}

async fn each(
    shell: &Shell<'_>,
    numbers: &Numbers,
    mut work: impl AsyncFnMut(JobId) -> anyhow::Result<()>,
) -> anyhow::Result<Exit> {
    for number in &numbers.jobs {
        shell.pass(&FsPath::root(), work(JobId(*number)).await)?;
    }
    Ok(shell.exit())
}

/// Waits until a job is over, and shows how far it is meanwhile.
async fn look_on(shell: &Shell<'_>, id: JobId) -> anyhow::Result<Job> {
    let (bar, mut pause) = (Bar::new(shell), LOOK);
    loop {
        let job = shell.fs.job(id).await.map_err(|error| error.context(format_args!("job {id} goes on by itself")))?;
        bar.set(job.bytes, job.bytes_found, beside(&job));
        if job.state != JobState::Running {
            return Ok(job);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_MAX);
    }
}

/// What stands before the bar.
fn beside(job: &Job) -> String {
    let failed = if job.failed == 0 { String::new() } else { format!(", {} failed", job.failed) };
    let more = if job.counted { "" } else { "+" };
    format!("{}/{}{more} files{failed}", job.files + job.failed, job.files_found)
}

/// Says what has come of a job that was waited for; what failed is named.
fn over(shell: &Shell<'_>, job: &Job) -> anyhow::Result<()> {
    for failure in &job.failures {
        shell.ok(Err::<(), _>(failure.error.clone().at(&failure.path)));
    }
    if let Some(more) = job.failed.checked_sub(job.failures.len() as u64).filter(|more| *more > 0) {
        shell.ok(Err::<(), _>(Error::new(ErrorKind::Unavailable, format!("{more} more files failed"))));
    }
    said(shell, job)?;
    match (&job.reason, job.state) {
        (Some(reason), _) => Err(reason.clone().into()),
        (None, JobState::Cancelled) => {
            Err(Error::new(ErrorKind::Changed, format!("job {} was cancelled", job.id)).into())
        }
        _ => Ok(()),
    }
}

fn said(shell: &Shell<'_>, job: &Job) -> anyhow::Result<()> {
    match shell.output.json {
        true => shell.output.object(&object(job)),
        false => shell.output.line(sentence(job)),
    }
}

/// A job in one sentence.
fn sentence(job: &Job) -> String {
    let Job { id, request, .. } = job;
    let to = request.target.as_ref().map(|to| format!(" to {to}")).unwrap_or_default();
    let failed = if job.failed == 0 { String::new() } else { format!(", {} failed", job.failed) };
    let done = format!("{} files, {}{failed}", job.files, size(job.bytes, true));
    format!("job {id}: {} {}{to}: {}, {done}", request.kind, request.path, job.state)
}

async fn list(shell: &Shell<'_>) -> anyhow::Result<Exit> {
    let jobs = shell.fs.jobs().await?;
    if shell.output.json {
        jobs.iter().try_for_each(|job| shell.output.object(&object(job)))?;
        return Ok(Exit::Done);
    }
    if !jobs.is_empty() {
        shell.output.line(table(&jobs))?;
    }
    Ok(Exit::Done)
}

fn table(jobs: &[Job]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["Job", "What", "State", "Files", "Bytes", "Failed", "Left", "Path"]);
    for column in [3, 4, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for job in jobs {
        table.add_row([
            job.id.to_string(),
            job.request.kind.to_string(),
            job.state.to_string(),
            share(job.files + job.failed, job.files_found, job),
            size(job.bytes, true),
            job.failed.to_string(),
            job.left.map_or_else(|| "-".to_owned(), span),
            job.request.path.to_string(),
        ]);
    }
    table.trim_fmt()
}

/// `3/5`, and a plus where more may be found.
fn share(done: u64, all: u64, job: &Job) -> String {
    match job.state {
        JobState::Running => format!("{done}/{all}{}", if job.counted { "" } else { "+" }),
        _ => done.to_string(),
    }
}

fn stat(shell: &Shell<'_>, job: &Job) -> anyhow::Result<()> {
    match shell.output.json {
        true => shell.output.object(&object(job)),
        false => shell.output.line(text(job)),
    }
}

fn text(job: &Job) -> String {
    let JobRequest { kind, path, target, .. } = &job.request;
    let mut rows = vec![
        ("Job", job.id.to_string()),
        ("What", kind.to_string()),
        ("Path", path.to_string()),
        ("State", job.state.to_string()),
        ("Owner", if job.user.is_empty() { job.uid.to_string() } else { job.user.clone() }),
        ("Begun", rfc3339(job.begun)),
        ("Files", share(job.files, job.files_found, job)),
        ("Directories", job.directories.to_string()),
        ("Bytes", format!("{} of {}", size(job.bytes, true), size(job.bytes_found.max(job.bytes), true))),
        ("Failed", job.failed.to_string()),
    ];
    rows.extend(target.as_ref().map(|target| ("Target", target.to_string())));
    rows.extend(job.ended.map(|ended| ("Ended", rfc3339(ended))));
    if job.state == JobState::Running {
        rows.push(("Rate", format!("{}/s", size(job.bytes_per_second, true))));
        rows.push(("Time left", job.left.map_or_else(|| "not known yet".to_owned(), span)));
    }
    rows.extend(job.reason.as_ref().map(|reason| ("Broken off", reason.to_string())));
    let mut text: String = rows.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect();
    for failure in &job.failures {
        text.push_str(&format!("  {}\n", failure.error.clone().at(&failure.path)));
    }
    text.trim_end().to_owned()
}

/// A job for programs.
fn object(job: &Job) -> Value {
    let failure = |error: &Error, path: Option<&FsPath>| {
        json!({
            "kind": format!("{:?}", error.kind()),
            "path": path.map(ToString::to_string),
            "message": error.message(),
            "advice": error.advice(),
        })
    };
    json!({
        "job": job.id.0,
        "what": job.request.kind.as_str(),
        "path": job.request.path.to_string(),
        "target": job.request.target.as_ref().map(ToString::to_string),
        "state": job.state.as_str(),
        "uid": job.uid,
        "begun": rfc3339(job.begun),
        "ended": job.ended.map(rfc3339),
        "files": job.files,
        "directories": job.directories,
        "bytes": job.bytes,
        "failed": job.failed,
        "files_found": job.files_found,
        "bytes_found": job.bytes_found,
        "counted": job.counted,
        "bytes_per_second": job.bytes_per_second,
        "seconds_left": job.left.map(|left| left.as_secs_f64()),
        "failures": job.failures.iter().map(|f| failure(&f.error, Some(&f.path))).collect::<Vec<_>>(),
        "reason": job.reason.as_ref().map(|reason| failure(reason, None)),
    })
}

#[cfg(test)]
mod tests {
    use larder_client::{JobFailure, Timestamp};

    use super::*;

    fn job() -> Job {
        let request = JobRequest::new(JobKind::Load, "/data".parse().unwrap());
        let error = Error::new(ErrorKind::Denied, "uid 7 may not do this");
        Job {
            id: JobId(7),
            request,
            uid: 0,
            user: "root".into(),
            state: JobState::Running,
            begun: Timestamp(0),
            ended: None,
            files: 3,
            directories: 1,
            bytes: 3 << 20,
            failed: 1,
            files_found: 9,
            bytes_found: 9 << 20,
            counted: true,
            bytes_per_second: 1 << 20,
            left: Some(Duration::from_secs(6)),
            failures: vec![JobFailure { path: "/data/x".parse().unwrap(), error }],
            reason: None,
        }
    }

    #[test]
    fn a_job_is_told_to_people() {
        let job = job();
        assert_eq!(beside(&job), "4/9 files, 1 failed");
        assert_eq!(sentence(&job), "job 7: load /data: running, 3 files, 3.00MB, 1 failed");
        let text = text(&job);
        for line in ["Files        3/9", "Time left    6s", "  /data/x: uid 7 may not do this"] {
            assert!(text.contains(line), "{text}");
        }
        assert!(table(&[job]).contains("4/9"));
    }

    #[test]
    fn a_job_is_told_to_programs() {
        let object = object(&job());
        assert_eq!(
            (&object["job"], &object["what"], &object["seconds_left"]),
            (&json!(7), &json!("load"), &json!(6.0))
        );
        assert_eq!(object["failures"][0]["path"], json!("/data/x"));
    }

    #[test]
    fn what_goes_into_a_directory_keeps_its_name() {
        let (source, to) = ("/a/b".parse().unwrap(), "/d".parse().unwrap());
        let request = transfer(JobKind::Copy, &source, &to, true).unwrap();
        assert_eq!(request.target, Some("/d/b".parse().unwrap()));
        assert_eq!(transfer(JobKind::Move, &source, &to, false).unwrap().target, Some(to.clone()));
        assert!(transfer(JobKind::Move, &FsPath::root(), &to, true).is_err());
    }
}
