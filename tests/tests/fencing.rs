//! A worker that is frozen in the middle of persisting and wakes late publishes nothing: the under store holds what was
//! acknowledged last.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use larder_client::{CreateOptions, FileSystem, RemoveOptions, RenameOptions, WriteType};
use larder_tests::{Cluster, trees};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const LENGTH: usize = 100 << 20;

fn with(write_type: WriteType) -> CreateOptions {
    CreateOptions { write_type: Some(write_type), overwrite: true, ..CreateOptions::default() }
}

/// Attempts' temporaries in the under store, with their lengths.
fn temporaries(under: &Path) -> Vec<(PathBuf, u64)> {
    let Ok(clusters) = fs::read_dir(under.join(".larder")) else { return Vec::new() };
    let folders = clusters.flatten().filter_map(|cluster| fs::read_dir(cluster.path().join("tmp")).ok());
    let length = |entry: fs::DirEntry| Some((entry.path(), entry.metadata().ok()?.len()));
    folders.flat_map(|folder| folder.flatten().filter_map(length)).collect()
}

/// What happens to the file while its worker is frozen, and what must be in the under store then.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    Overwritten,
    Renamed,
    Deleted,
}

impl Meanwhile {
    async fn happen(self, fs: &FileSystem) -> Result<()> {
        match self {
            Self::Overwritten => drop(fs.write("/f", "newer", with(WriteType::CacheThrough)).await?),
            Self::Renamed => fs.rename("/f", "/g", RenameOptions::default()).await?,
            Self::Deleted => drop(fs.remove("/f", RemoveOptions::default()).await?),
        }
        Ok(())
    }

    fn check(self, under: &Path, content: &[u8]) -> Result<()> {
        let (f, g) = (fs::read(under.join("f")).ok(), fs::read(under.join("g")).ok());
        let old = |file: &Option<Vec<u8>>| file.as_deref() == Some(content);
        match self {
            Self::Overwritten => ensure!(f.as_deref() == Some(b"newer") && g.is_none(), "an older version came back"),
            // It is persisted under its new name, or not yet.
            Self::Renamed => ensure!(f.is_none() && (g.is_none() || old(&g)), "the old name came back"),
            Self::Deleted => ensure!(f.is_none() && g.is_none(), "a deleted file came back"),
        }
        Ok(())
    }
}

async fn frozen(meanwhile: Meanwhile) -> Result<()> {
    let mut cluster = Cluster::start(2)?;
    let client = cluster.connect().await?;
    let content = trees::bytes(5, LENGTH);
    client.write("/f", content.clone(), with(WriteType::MustCache)).await?;
    let persisting = cluster.connect().await?;
    let task = tokio::spawn(async move { persisting.persist("/f", false).await });
    let until = Instant::now() + Duration::from_secs(20);
    while !temporaries(&cluster.under()).iter().any(|(_, length)| *length > 0) {
        ensure!(Instant::now() < until, "nothing is ever persisted: {}", cluster.logs());
        tokio::task::yield_now().await;
    }
    let workers: Vec<_> = cluster.workers.iter().flatten().map(|worker| worker.id()).collect();
    let holder = holder(&cluster, &workers)?;
    kill(holder, Signal::SIGSTOP)?;
    let stopped = !cluster.under().join("f").exists();
    let happened = tokio::time::timeout(Duration::from_secs(60), meanwhile.happen(&client)).await;
    let before = meanwhile.check(&cluster.under(), &content);
    kill(holder, Signal::SIGCONT)?;
    happened.context("a change of a file whose worker is frozen ends in bounded time")??;
    ensure!(stopped, "the worker was faster than its freezing; the test proves nothing");
    before.context("while the worker is frozen")?;
    // Whether it went through or not is not the question; that it ends is.
    let _ = tokio::time::timeout(Duration::from_secs(60), task).await.context("persisting ends")??;
    tokio::time::sleep(Duration::from_secs(2)).await;
    meanwhile.check(&cluster.under(), &content).context("after the worker woke")?;
    cluster.kill_master();
    cluster.start_master()?;
    meanwhile.check(&cluster.under(), &content).context("after the master was started again")
}

/// The worker that has a temporary open.
fn holder(cluster: &Cluster, workers: &[u32]) -> Result<Pid> {
    let under = cluster.under();
    let has = |pid: &&u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).ok();
        let targets = open.into_iter().flatten().flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        targets.into_iter().any(|target| target.starts_with(under.join(".larder")))
    };
    let pid = workers.iter().find(has).context("no worker writes a temporary any more")?;
    Ok(Pid::from_raw(pid.cast_signed()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_late_does_not_undo_an_overwrite() -> Result<()> {
    frozen(Meanwhile::Overwritten).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_late_does_not_undo_a_rename() -> Result<()> {
    frozen(Meanwhile::Renamed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_late_does_not_undo_a_delete() -> Result<()> {
    frozen(Meanwhile::Deleted).await
}
