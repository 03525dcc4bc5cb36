//! A worker whose container was given another directory under the under store's path is found out, named, and not used
//! for that mount; for others it is.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use larder_client::{CreateOptions, FileSystem, WorkerReport, WriteType};
use larder_tests::{Cluster, skip, trees};

const FILES: u64 = 24;

/// What the second worker sees in place of the under store: a copy of some time ago, with everything that is private to the
/// cluster, and other bytes of the same length in the files.
fn forgotten(cluster: &Cluster) -> Result<PathBuf> {
    for file in 0..FILES {
        fs::write(cluster.under().join(format!("file{file}")), trees::bytes(file, 30_000))?;
    }
    let other = cluster.under().with_extension("forgotten");
    let copied = Command::new("cp").arg("-a").args([cluster.under(), other.clone()]).status()?;
    ensure!(copied.success() && other.join(".larder").is_dir(), "the under store is not copied");
    for file in 0..FILES {
        fs::write(other.join(format!("file{file}")), trees::bytes(9_000 + file, 30_000))?;
    }
    Ok(other)
}

/// Waits until the master names a worker that sees something else, and gives its report.
async fn found_out(client: &FileSystem) -> Result<WorkerReport> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let (mounts, report) = (client.mounts().await?, client.report().await?);
        let root = mounts.iter().find(|mount| mount.path.as_bytes() == b"/").context("a root")?;
        if let [worker] = root.unproven_workers[..] {
            let cause: String =
                report.findings.iter().map(|found| format!("{} {}\n", found.what, found.cause)).collect();
            ensure!(cause.contains("is not used for mount") && cause.contains("sees another directory"), "{cause}");
            ensure!(cause.contains("mount the volume of"), "{cause}");
            return report.workers.into_iter().find(|w| w.id == worker).context("it is in the report");
        }
        ensure!(Instant::now() < until, "nobody finds out: {report:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// All files below the forgotten directory, those that are private to the cluster included.
fn everything(other: &Path) -> Result<[BTreeMap<PathBuf, Vec<u8>>; 2]> {
    Ok([trees::files(other)?, trees::files(&other.join(".larder"))?])
}

/// What a worker has fetched, or tried to, and holds.
fn used(worker: &WorkerReport) -> BTreeMap<&str, u64> {
    let fetched = worker.counters.iter().filter(|(name, count)| name.starts_with("larder_fetch") && **count > 0);
    fetched
        .map(|(name, count)| (name.as_str(), *count))
        .chain((worker.blocks > 0).then_some(("blocks", worker.blocks)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_a_forgotten_volume_is_found_and_never_used_for_that_mount() -> Result<()> {
    if !skip::needs_root("a_worker_with_a_forgotten_volume_is_found_and_never_used_for_that_mount") {
        return Ok(());
    }
    let mut cluster = Cluster::start(1)?;
    let other = forgotten(&cluster)?;
    let before = everything(&other)?;
    cluster.start_worker_seeing(1, &other)?;
    let client = cluster.connect().await?;
    let wrong = found_out(&client).await?;
    for file in 0..FILES {
        let content = client.read(format!("/file{file}")).await?;
        ensure!(content == trees::bytes(file, 30_000), "/file{file} has the forgotten directory's bytes");
        let content = trees::bytes(100 + file, 30_000);
        client.write(format!("/new{file}"), content.clone(), CreateOptions::default()).await?;
        ensure!(fs::read(cluster.under().join(format!("new{file}")))? == content, "/new{file} went elsewhere");
    }
    let asynchronous = CreateOptions { write_type: Some(WriteType::AsyncThrough), ..CreateOptions::default() };
    client.write("/later", "later", asynchronous).await?;
    let until = Instant::now() + Duration::from_secs(20);
    while fs::read(cluster.under().join("later")).ok().as_deref() != Some(b"later") {
        ensure!(Instant::now() < until, "what waits is not persisted by the right worker");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let report = client.report().await?;
    let worker = report.workers.iter().find(|worker| worker.id == wrong.id).context("it is still there")?;
    ensure!(worker.live && used(worker).is_empty(), "the wrong worker was used: {:?}", used(worker));
    ensure!(everything(&other)? == before, "something was written into the forgotten directory");

    // Alone it serves nothing of that mount, and says so; of a mount that it does see, everything.
    let elsewhere = cluster.under().with_extension("elsewhere");
    fs::create_dir(&elsewhere)?;
    fs::write(elsewhere.join("file"), "seen by both")?;
    cluster.ok(&["fs", "mount", "/elsewhere", &elsewhere.to_string_lossy()])?;
    cluster.kill_worker(0);
    fs::write(cluster.under().join("cold"), "cold content")?;
    let client = cluster.connect().await?;
    ensure!(client.read("/elsewhere/file").await? == "seen by both");
    let until = Instant::now() + Duration::from_secs(20);
    while client.report().await?.workers.iter().any(|worker| worker.live && worker.id != wrong.id) {
        ensure!(Instant::now() < until, "the worker that was killed still counts");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let client = FileSystem::connect(cluster.client()?.timeout(Duration::from_secs(4)).build()).await?;
    let began = Instant::now();
    let read = client.read("/cold").await.err().context("the wrong worker has served a mount that it does not see")?;
    let written = client.write("/refused", "content", CreateOptions::default()).await;
    let written = written.err().context("the wrong worker has taken content of that mount")?;
    ensure!(began.elapsed() < Duration::from_secs(20), "it took {:?}: {read}; {written}", began.elapsed());
    for error in [read, written] {
        ensure!(error.to_string().contains("larder fsadmin report"), "it does not say where to look: {error}");
    }
    ensure!(!cluster.under().join("refused").exists() && everything(&other)? == before);
    Ok(())
}
