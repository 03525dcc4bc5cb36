//! Jobs by real processes: trees are loaded, copied, moved, persisted, copied in the cache and freed by the cluster itself,
//! also when master and workers are killed in the middle; and they can be ended.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use futures_util::StreamExt;
use larder_client::{
    CreateOptions, ErrorKind, FileSystem, FsPath, Job, JobId, JobKind, JobRequest, JobState, ListOptions, Persistence,
    WriteType,
};
use larder_tests::Cluster;

fn path(text: &str) -> FsPath {
    FsPath::parse(text).expect("a path")
}

/// Bytes that no other file has.
fn content(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31) ^ number.wrapping_mul(131) ^ (at >> 8)) as u8).collect()
}

/// A tree of this many files in directories, and what is in it by path below `root`.
fn tree(root: &Path, files: usize, length: usize) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for number in 0..files {
        let name = format!("d{}/e{}/f{number}", number % 7, number % 3);
        let bytes = content(number, if number % 10 == 0 { 0 } else { length + number });
        fs::create_dir_all(root.join(&name).parent().expect("it has one"))?;
        fs::write(root.join(&name), &bytes)?;
        all.insert(name, bytes);
    }
    Ok(all)
}

/// The same of what is there.
fn found(root: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut all = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory)? {
            let at = entry?.path();
            if at.is_dir() {
                todo.push(at);
            } else {
                all.insert(at.strip_prefix(root)?.to_string_lossy().into_owned(), fs::read(&at)?);
            }
        }
    }
    Ok(all)
}

/// Looks at a job until `wanted` says yes; asks again while the master is away.
async fn until(client: &FileSystem, id: JobId, wanted: impl Fn(&Job) -> bool) -> Result<Job> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match client.job(id).await {
            Ok(job) if wanted(&job) => return Ok(job),
            Ok(job) if Instant::now() > deadline => bail!("{job:#?}"),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn over(client: &FileSystem, id: JobId) -> Result<Job> {
    until(client, id, |job| job.state != JobState::Running).await
}

async fn run(client: &FileSystem, request: JobRequest) -> Result<Job> {
    let job = client.submit(&request).await?;
    over(client, job.id).await
}

async fn cached(client: &FileSystem, below: &str) -> Result<Vec<u8>> {
    let mut entries = client.list(path(below), ListOptions { recursive: true, ..ListOptions::default() });
    let mut all = Vec::new();
    while let Some(entry) = entries.next().await {
        let status = entry?.status;
        if status.kind.is_file() && status.length > 0 {
            all.push(status.in_cache_percent);
        }
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_are_loaded_copied_moved_and_freed() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let data = tree(&cluster.under().join("data"), 60, 20_000)?;
    std::os::unix::fs::symlink("f1", cluster.under().join("data/link"))?;
    let total: usize = data.values().map(Vec::len).sum();
    let client = cluster.connect().await?;

    let loaded = run(&client, JobRequest::new(JobKind::Load, path("/data"))).await?;
    assert_eq!((loaded.state, loaded.files, loaded.bytes), (JobState::Done, 60, total as u64), "{loaded:#?}");
    assert!(cached(&client, "/data").await?.iter().all(|percent| *percent == 100));

    let copy = JobRequest { target: Some(path("/copy/of/data")), ..JobRequest::new(JobKind::Copy, path("/data")) };
    let copied = run(&client, copy.clone()).await?;
    assert_eq!((copied.state, copied.files, copied.failed), (JobState::Done, 61, 0), "{copied:#?}{}", cluster.logs());
    assert_eq!(fs::read_link(cluster.under().join("copy/of/data/link"))?, Path::new("f1"));
    fs::remove_file(cluster.under().join("copy/of/data/link"))?;
    assert_eq!(found(&cluster.under().join("copy/of/data"))?, data);

    let again = run(&client, copy.clone()).await?;
    assert_eq!((again.state, again.failed), (JobState::Failed, 60), "files that are there stay as they are");
    assert_eq!(again.failures[0].error.kind(), ErrorKind::AlreadyExists);
    let over_it = run(&client, JobRequest { overwrite: true, ..copy }).await?;
    assert_eq!((over_it.files, over_it.failed), (60, 1), "a link is not replaced: {:#?}", over_it.failures);

    let free = run(&client, JobRequest::new(JobKind::Free, path("/copy"))).await?;
    assert_eq!(free.state, JobState::Done, "{free:#?}");
    assert!(cached(&client, "/copy").await?.iter().all(|percent| *percent == 0));
    let listed = cluster.ok(&["job", "ls"])?;
    assert_eq!(listed.lines().count(), 6, "{listed}");
    assert!(listed.lines().nth(1).is_some_and(|line| line.contains("free")), "the newest first: {listed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_renames_where_it_can_and_copies_where_it_must() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let data = tree(&cluster.under().join("data"), 40, 5_000)?;
    let other = tempfile::tempdir()?;
    let client = cluster.connect().await?;
    cluster.ok(&["fs", "mount", "/other", &other.path().to_string_lossy()])?;

    let rename = JobRequest { target: Some(path("/named")), ..JobRequest::new(JobKind::Move, path("/data")) };
    assert_eq!(run(&client, rename).await?.state, JobState::Done);
    assert_eq!(found(&cluster.under().join("named"))?, data);
    assert!(!cluster.under().join("data").exists());

    let some = cluster.under().join("named/d1/e1/f1");
    let before = fs::metadata(&some)?.modified()?;
    let across = JobRequest { target: Some(path("/other/there")), ..JobRequest::new(JobKind::Move, path("/named")) };
    let moved = run(&client, across).await?;
    assert_eq!((moved.state, moved.files, moved.failed), (JobState::Done, 40, 0), "{moved:#?}{}", cluster.logs());
    assert_eq!(found(&other.path().join("there"))?, data);
    assert!(!cluster.under().join("named").exists(), "nothing stays behind");
    assert_eq!(fs::metadata(other.path().join("there/d1/e1/f1"))?.modified()?, before, "times are kept");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_in_the_cache_is_persisted_and_copied() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let client = cluster.connect().await?;
    let options = CreateOptions { write_type: Some(WriteType::MustCache), recursive: true, ..CreateOptions::default() };
    for number in 0..20 {
        client.write(format!("/only/f{number}"), content(number, 3_000), options.clone()).await?;
    }
    let copies = JobRequest { replication: 2, ..JobRequest::new(JobKind::SetReplication, path("/only")) };
    let copied = run(&client, copies).await?;
    assert_eq!((copied.state, copied.files), (JobState::Done, 20), "{copied:#?}{}", cluster.logs());
    for number in 0..20 {
        let status = client.status(format!("/only/f{number}")).await?;
        assert_eq!(status.replication_min, 2);
    }
    let too_many = JobRequest { replication: 3, ..JobRequest::new(JobKind::SetReplication, path("/only/f1")) };
    let too_many = run(&client, too_many).await?;
    assert!(too_many.failures[0].error.message().contains("2 is as many"), "{too_many:#?}");

    let persisted = run(&client, JobRequest::new(JobKind::Persist, path("/only"))).await?;
    assert_eq!((persisted.state, persisted.files), (JobState::Done, 20), "{persisted:#?}{}", cluster.logs());
    for number in 0..20 {
        assert_eq!(fs::read(cluster.under().join(format!("only/f{number}")))?, content(number, 3_000));
        let status = client.status(format!("/only/f{number}")).await?;
        assert_eq!(status.persistence, Persistence::Persisted);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_after_master_and_worker_were_killed() -> Result<()> {
    let mut cluster = Cluster::start(2)?;
    let data = tree(&cluster.under().join("data"), 600, 30_000)?;
    let client = cluster.connect().await?;
    let copy = JobRequest { target: Some(path("/copy")), parallel: 4, ..JobRequest::new(JobKind::Copy, path("/data")) };
    let id = client.submit(&copy).await?.id;
    for round in 1..=3u64 {
        let job = until(&client, id, |job| job.state != JobState::Running || job.files >= 100 * round).await?;
        assert_eq!(job.state, JobState::Running, "it is too fast for this test: {job:#?}");
        let worker = usize::from(round == 3);
        if round > 1 {
            cluster.kill_worker(worker);
        }
        if round < 3 {
            cluster.kill_master();
            cluster.start_master()?;
        }
        if round > 1 {
            cluster.start_worker(worker)?;
        }
    }
    let job = over(&client, id).await?;
    assert_eq!((job.state, job.files, job.failed), (JobState::Done, 600, 0), "{job:#?}{}", cluster.logs());
    assert_eq!(found(&cluster.under().join("copy"))?, data);
    assert_eq!(job.bytes as usize, data.values().map(Vec::len).sum::<usize>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_across_mounts_loses_nothing_when_the_master_is_killed() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let data = tree(&cluster.under().join("data"), 400, 10_000)?;
    let other = tempfile::tempdir()?;
    let client = cluster.connect().await?;
    cluster.ok(&["fs", "mount", "/other", &other.path().to_string_lossy()])?;
    let across =
        JobRequest { target: Some(path("/other/there")), parallel: 4, ..JobRequest::new(JobKind::Move, path("/data")) };
    let id = client.submit(&across).await?.id;
    for round in 1..=2u64 {
        until(&client, id, |job| job.state != JobState::Running || job.files >= 80 * round).await?;
        cluster.kill_master();
        cluster.start_master()?;
    }
    let job = over(&client, id).await?;
    assert_eq!((job.state, job.files, job.failed), (JobState::Done, 400, 0), "{job:#?}{}", cluster.logs());
    assert_eq!(found(&other.path().join("there"))?, data);
    assert!(!cluster.under().join("data").exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_ended_by_whoever_has_begun_it() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    tree(&cluster.under().join("data"), 1000, 10_000)?;
    let client = cluster.connect().await?;
    let copy = JobRequest { target: Some(path("/copy")), parallel: 2, ..JobRequest::new(JobKind::Copy, path("/data")) };
    let id = client.submit(&copy).await?.id;
    until(&client, id, |job| job.files > 20).await?;
    let ended = client.cancel_job(id).await?;
    assert_eq!(ended.state, JobState::Cancelled, "{ended:#?}");
    assert!(ended.files < 1000);
    // What was under way goes, and nothing more comes.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let there = found(&cluster.under().join("copy"))?;
    cluster.kill_master();
    cluster.start_master()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(found(&cluster.under().join("copy"))?.len(), there.len());
    assert!(
        there.iter().all(|(name, bytes)| fs::read(cluster.under().join("data").join(name)).is_ok_and(|b| b == *bytes))
    );
    assert_eq!(client.job(id).await?.state, JobState::Cancelled);
    let unknown = client.job(JobId(1)).await.expect_err("there is none");
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_ends_when_the_cache_is_full_of_it() -> Result<()> {
    let cluster = Cluster::new()?.with("LARDER_USER_BLOCK_SIZE_BYTES_DEFAULT", "1MiB");
    let tiers = format!("MEM:{}:16MB", cluster.memory(0).display());
    let mut cluster = cluster.with("LARDER_WORKER_TIERS", &tiers);
    cluster.start_master()?;
    cluster.start_worker(0)?;
    fs::create_dir(cluster.under().join("data"))?;
    for number in 0..40 {
        fs::write(cluster.under().join(format!("data/f{number:02}")), content(number, 1 << 20))?;
    }
    let client = cluster.connect().await?;
    let request = JobRequest { parallel: 1, ..JobRequest::new(JobKind::Load, path("/data")) };
    let job = run(&client, request).await?;
    assert_eq!(job.state, JobState::Failed, "{job:#?}");
    assert_eq!(job.reason.expect("it says why").kind(), ErrorKind::NoSpace);
    let resident = cached(&client, "/data").await?.iter().filter(|percent| **percent == 100).count();
    assert!(resident as u64 >= job.files && job.files >= 8, "{resident} of {}", job.files);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_begun_and_looked_at_by_commands() -> Result<()> {
    let cluster = Cluster::start(1)?;
    tree(&cluster.under().join("data"), 10, 1_000)?;
    let said = cluster.ok(&["job", "load", "--wait", "/data"])?;
    assert!(said.contains("load /data: done, 10 files"), "{said}");
    let copied = cluster.ok(&["fs", "distributedCp", "/data", "/copy"])?;
    assert!(copied.contains("cp /data to /copy: done"), "{copied}");
    let loaded = cluster.ok(&["fs", "distributedLoad", "--async", "/copy"])?;
    let number = loaded.split([' ', ':']).nth(1).expect("a number").to_owned();
    cluster.ok(&["job", "wait", &number])?;
    let stat = cluster.ok(&["job", "stat", &number])?;
    assert!(stat.contains("State        done"), "{stat}");
    let json: serde_json::Value = serde_json::from_str(cluster.ok(&["--json", "job", "stat", &number])?.trim())?;
    assert_eq!((json["what"].as_str(), json["files"].as_u64()), (Some("load"), Some(10)));
    let missing = cluster.run(&["job", "cp", "--wait", "/nothing", "/there"])?;
    assert_eq!(missing.status.code(), Some(3));
    let inside = cluster.run(&["job", "mv", "/data", "/data/below"])?;
    assert!(!inside.status.success() && String::from_utf8_lossy(&inside.stderr).contains("below it"));
    Ok(())
}
