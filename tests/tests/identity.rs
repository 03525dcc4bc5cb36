//! Numbers are never given twice, whatever was lost, and nobody takes another cluster's content for its own.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use larder_client::{CreateOptions, FileSystem, WriteType};
use larder_tests::{Cluster, trees};

fn must_cache() -> CreateOptions {
    CreateOptions { write_type: Some(WriteType::MustCache), relaxed: true, ..CreateOptions::default() }
}

/// Files whose content says which one they are; answers every number that they were given.
async fn write_files(fs: &FileSystem, name: &str, seed: u64) -> Result<BTreeSet<u64>> {
    let mut numbers = BTreeSet::new();
    for number in 0..40 {
        let content = trees::bytes(seed + number, 20_000);
        let status = fs.write(format!("/{name}{number}"), content, must_cache()).await?;
        numbers.extend([status.id.0, status.generation.0]);
    }
    Ok(numbers)
}

/// Overwrites the end of what was written of the journal with zeros, as if it had never reached the disk.
fn cut_tail(journal: &Path, bytes: usize) -> Result<()> {
    let mut fullest: Option<(usize, PathBuf, Vec<u8>)> = None;
    for entry in fs::read_dir(journal)? {
        let path = entry?.path();
        if path.is_file() {
            let content = fs::read(&path)?;
            let end = content.iter().rposition(|byte| *byte != 0).unwrap_or_default();
            if fullest.as_ref().is_none_or(|(most, ..)| *most < end) {
                fullest = Some((end, path, content));
            }
        }
    }
    let (end, path, mut content) = fullest.context("a journal has a segment")?;
    content[end.saturating_sub(bytes)..=end].fill(0);
    Ok(fs::write(path, content)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_not_given_twice_when_the_journal_lost_its_tail() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    let before = write_files(&client, "old", 1000).await?;
    cluster.kill_master();
    cut_tail(&cluster.journal(), 3000)?;
    cluster.start_master()?;
    let client = cluster.connect().await?;
    let lost = client.status("/old39").await.is_err();
    assert!(lost, "the tail was cut, or this test proves nothing");
    let after = write_files(&client, "new", 2000).await.with_context(|| cluster.logs())?;
    let twice: Vec<_> = before.intersection(&after).collect();
    assert!(twice.is_empty(), "given twice: {twice:?}");
    for number in 0..40 {
        let content = client.read(format!("/new{number}")).await?;
        assert!(content[..] == trees::bytes(2000 + number, 20_000)[..], "/new{number} has another file's bytes");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_lost_its_volume_is_another_cluster_and_gets_no_old_bytes() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    fs::write(cluster.under().join("shared"), "first content")?;
    assert_eq!(&client.read("/shared").await?[..], b"first content");
    let before = write_files(&client, "old", 1000).await?;
    let old = client.report().await?.cluster;
    cluster.kill_master();
    fs::remove_dir_all(cluster.journal())?;
    fs::write(cluster.under().join("shared"), "other content")?;
    cluster.start_master()?;
    // The worker that runs is not of this cluster; it is started again as an operator would, when its log says so.
    cluster.kill_worker(0);
    cluster.start_worker(0)?;
    let client = cluster.connect().await?;
    assert_ne!(client.report().await?.cluster, old, "a cluster without a journal is a new one");
    assert_eq!(&client.read("/shared").await?[..], b"other content");
    assert!(client.status("/old0").await.is_err());
    let after = write_files(&client, "new", 2000).await?;
    assert!(before.is_disjoint(&after));
    for number in 0..40 {
        let content = client.read(format!("/new{number}")).await?;
        assert!(content[..] == trees::bytes(2000 + number, 20_000)[..], "/new{number} has another file's bytes");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_with_an_older_journal_makes_no_worker_drop_what_is_nowhere_else() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    client.write("/first", "1", must_cache()).await?;
    cluster.kill_master();
    let copy = cluster.journal().with_extension("copy");
    copy_files(&cluster.journal(), &copy)?;
    cluster.start_master()?;
    let client = cluster.connect().await?;
    let content = trees::bytes(7, 300_000);
    client.write("/second", content.clone(), must_cache()).await?;
    cluster.kill_master();
    fs::remove_dir_all(cluster.journal())?;
    fs::rename(&copy, cluster.journal())?;
    cluster.start_master()?;
    let client = cluster.connect().await?;
    assert!(client.status("/second").await.is_err(), "the older journal knows nothing of it");
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let report = client.report().await?;
        if report.workers.iter().any(|worker| worker.unknown_files == 1 && worker.unknown_bytes == 300_000) {
            break;
        }
        assert!(Instant::now() < until, "the report never names it: {report:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let said = cluster.ok(&["fsadmin", "report"])?;
    assert!(said.contains("larder fsadmin unknown ls"), "{said}");
    assert!(holds(&cluster.memory(0), &content)?, "the worker dropped what was nowhere else");
    let listed = cluster.ok(&["fsadmin", "unknown", "ls"])?;
    assert_eq!(listed.lines().count(), 1, "{listed}");
    let saved = tempfile::tempdir()?;
    let into = saved.path().join("saved");
    let into = into.to_str().context("a temporary directory is UTF-8")?;
    cluster.ok(&["fsadmin", "unknown", "save", into])?;
    let files = trees::files(Path::new(into))?;
    assert!(files.len() == 1 && files.values().all(|bytes| *bytes == content), "what was saved differs");
    cluster.ok(&["fsadmin", "unknown", "drop", "--all"])?;
    assert_eq!(cluster.ok(&["fsadmin", "unknown", "ls"])?, "");
    assert!(!holds(&cluster.memory(0), &content)?, "it was dropped by order");
    assert_eq!(&client.read("/first").await?[..], b"1", "nothing else was");
    Ok(())
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            copy_files(&entry.path(), &to.join(entry.file_name()))?;
        } else {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Whether some file below has this content.
fn holds(directory: &Path, content: &[u8]) -> Result<bool> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let found = kind.is_dir() && holds(&entry.path(), content)?
            || kind.is_file() && fs::read(entry.path())?.starts_with(content);
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}
