//! An under store that hangs, as a network file system does whose server is away: here a mount whose process is stopped.
//! Whoever needs it is told in bounded time, and nobody else notices.

use std::{
    fs::{self, File},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use larder_client::{CreateOptions, FileSystem, MkdirOptions, RemoveOptions, RenameOptions, WriteType};
use larder_tests::{Cluster, mounts::Mount, processes::list_all, skip::needs_fuse, trees};
use nix::sys::signal::Signal;
use tokio::task::JoinSet;

const TEST: &str = "an_under_store_that_hangs_is_noticed_by_nobody_else";
/// How long a call of an under store may take in this test, and a call of a client in all.
const UNDER: Duration = Duration::from_secs(5);
const CLIENT: Duration = Duration::from_secs(10);
/// What a call may take that has nothing to do with the store that hangs. Generous, for a machine that has much to do.
const AT_ONCE: Duration = Duration::from_secs(4);
/// Calls of each kind that hang at the same time: more than an under store has threads, at the master and the worker.
const HANGING: usize = 24;
const LARGE: usize = 5 << 20;

/// What runs beside the hanging: everything that is done in a namespace, in mounts that work.
async fn everything_else(fs: &FileSystem, cluster: &Cluster, round: usize) -> Result<()> {
    let began = Instant::now();
    let step = |what: &str, began: &mut Instant| {
        let took = std::mem::replace(began, Instant::now()).elapsed();
        ensure!(took < AT_ONCE, "{what} took {took:?} beside a store that hangs (round {round})");
        Ok(())
    };
    let mut began_at = began;
    for top in ["", "/other"] {
        let name = |name: &str| format!("{top}/{name}{round}");
        let directory = if top.is_empty() { cluster.under() } else { cluster.under().with_extension("other") };
        let aside = directory.with_extension("aside");
        fs::write(&aside, trees::bytes(round as u64, 100_000))?;
        fs::rename(&aside, directory.join(format!("cold{round}")))?;
        // What is put there directly is seen a little later.
        while !fs.exists(name("cold")).await? && began_at.elapsed() < AT_ONCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ensure!(fs.read(name("cold")).await? == trees::bytes(round as u64, 100_000));
        step("seeing and reading what is cold", &mut began_at)?;
        for write_type in [WriteType::CacheThrough, WriteType::Through, WriteType::MustCache, WriteType::AsyncThrough] {
            let options = CreateOptions { write_type: Some(write_type), ..CreateOptions::default() };
            fs.write(name(&format!("{write_type:?}")), "content", options).await?;
            step("writing", &mut began_at)?;
        }
        ensure!(fs.status(name("missing")).await.is_err());
        step("asking for what is not there", &mut began_at)?;
        fs.mkdir(name("directory"), MkdirOptions::default()).await?;
        fs.rename(name("Through"), format!("{}/in", name("directory")), RenameOptions::default()).await?;
        fs.remove(name("CacheThrough"), RemoveOptions::default()).await?;
        step("making a directory, renaming and removing", &mut began_at)?;
    }
    let names = list_all(fs, "/").await?;
    ensure!(names.iter().any(|entry| entry.path.as_bytes() == b"/slow"), "{names:?}");
    step("listing what holds the mount that hangs", &mut began_at)?;
    let report = fs.report().await?;
    ensure!(report.workers.iter().all(|worker| worker.live), "{report:?}");
    step("the report", &mut began_at)
}

/// Begins everything that needs the store that hangs, and gives how each has ended and how long that took.
async fn beset(fs: &FileSystem, open: Vec<larder_client::File>) -> JoinSet<(String, Result<(), String>, Duration)> {
    let mut tasks = JoinSet::new();
    for (number, file) in open.into_iter().enumerate() {
        let began = Instant::now();
        let what = format!("reading large{number}, which was open");
        tasks.spawn(async move {
            let ended = file.read_at(0, &mut vec![0; LARGE]).await;
            (what, ended.map(drop).map_err(|error| error.to_string()), began.elapsed())
        });
    }
    for number in 0..HANGING {
        let fs = fs.clone();
        let began = Instant::now();
        tasks.spawn(async move {
            let path = format!("/slow/new{number}");
            let (what, ended) = match number % 6 {
                0 => ("writing", fs.write(&path, "content", CreateOptions::default()).await.map(drop)),
                1 => ("asking for", fs.status(&path).await.map(drop)),
                2 => ("making", fs.mkdir(&path, MkdirOptions::default()).await),
                3 => ("removing", fs.remove("/slow/file", RemoveOptions::default()).await.map(drop)),
                4 => ("renaming", fs.rename("/slow/file", &path, RenameOptions::default()).await),
                _ => ("listing", list_all(&fs, "/slow").await.map(drop)),
            };
            (format!("{what} {path}"), ended.map_err(|error| error.to_string()), began.elapsed())
        });
    }
    tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn an_under_store_that_hangs_is_noticed_by_nobody_else() -> Result<()> {
    if !needs_fuse(TEST) {
        return Ok(());
    }
    let behind = Cluster::start(1)?;
    let hangs = Mount::start(&behind, &[])?;
    // Below its top: what Larder keeps for itself in a store has a name that its own mounts do not show there.
    let under = behind.under().join("sub");
    fs::create_dir(&under)?;
    fs::write(under.join("file"), "content")?;
    for number in 0..HANGING {
        File::create(under.join(format!("large{number}")))?.set_len(LARGE as u64)?;
    }
    let timeout = format!("{}s", UNDER.as_secs());
    let mut cluster = Cluster::new()?.with("LARDER_UFS_TIMEOUT", &timeout);
    let other = cluster.under().with_extension("other");
    fs::create_dir(&other)?;
    cluster.start_master()?;
    cluster.start_worker(0)?;
    cluster.ok(&["fs", "mount", "/slow", &hangs.at("sub").to_string_lossy()])?;
    cluster.ok(&["fs", "mount", "/other", &other.to_string_lossy()])?;
    let fs = FileSystem::connect(cluster.client()?.timeout(CLIENT).build()).await?;
    ensure!(fs.read("/slow/file").await? == "content");
    fs.write("/slow/before", "it works", CreateOptions::default()).await?;
    let mut open = Vec::new();
    for number in 0..HANGING {
        open.push(fs.open(format!("/slow/large{number}")).await?);
    }
    everything_else(&fs, &cluster, 0).await.context("while nothing hangs")?;

    hangs.signal(Signal::SIGSTOP)?;
    let mut waiting = beset(&fs, open).await;
    for round in 1..4 {
        everything_else(&fs, &cluster, round).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut failed = 0;
    while let Some(ended) = waiting.join_next().await {
        let (what, ended, took) = ended?;
        ensure!(took < CLIENT + Duration::from_secs(5), "{what} took {took:?}: {ended:?}");
        failed += usize::from(ended.is_err());
    }
    ensure!(failed > HANGING, "only {failed} calls have failed: nothing hangs, and this test proves nothing");
    everything_else(&fs, &cluster, 4).await?;
    let began = Instant::now();
    let error = fs.status("/slow/unknown").await.err().context("it hangs, and an answer came")?;
    ensure!(began.elapsed() < CLIENT + Duration::from_secs(5), "{error}");
    let report = fs.report().await?;
    let said: Vec<String> = report.findings.iter().map(|found| found.what.clone()).collect();
    ensure!(said.iter().any(|what| what.contains("the mount /slow does not work")), "{said:?}");

    hangs.signal(Signal::SIGCONT)?;
    let until = Instant::now() + Duration::from_secs(40);
    while let Err(error) = fs.write("/slow/after", "it goes on", CreateOptions::default()).await {
        ensure!(Instant::now() < until, "it is back, and still: {error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ensure!(fs.read("/slow/large3").await? == vec![0; LARGE]);
    ensure!(fs::read(under.join("after"))? == b"it goes on");
    let entries = list_all(&fs, "/slow").await?;
    ensure!(entries.len() > HANGING, "{}", entries.len());
    Ok(())
}
