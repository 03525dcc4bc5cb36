//! Files edited in place through real processes: append, write in the middle, truncate, for every write type; and parts that
//! are killed in the middle of that. What was there before is never lost.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use larder_client::{CreateOptions, EditOptions, ErrorKind, FileSystem, WriteType};
use larder_tests::{Cluster, trees};

const MIB: usize = 1 << 20;
/// What the child is told: the master's port and the file.
const CHILD: &str = "LARDER_EDITS_CHILD";

fn with(write_type: WriteType) -> CreateOptions {
    CreateOptions { write_type: Some(write_type), recursive: true, ..CreateOptions::default() }
}

/// Reads a file again and again until it is what it should be: what becomes of a dead session takes its lease.
async fn becomes(client: &FileSystem, path: &str, wanted: impl Fn(&[u8]) -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let last = match client.read(path).await {
            Ok(bytes) if wanted(&bytes) => return Ok(()),
            Ok(bytes) => format!("{} bytes, others than expected", bytes.len()),
            Err(error) => error.to_string(),
        };
        anyhow::ensure!(Instant::now() < deadline, "{path}: {last}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_appended_to_changed_and_cut_under_every_write_type() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    for write_type in WriteType::ALL.iter().copied() {
        let path = format!("/{write_type}/f");
        let mut content = trees::bytes(1, 5 * MIB + 3);
        client.write(&path, content.clone(), with(write_type)).await?;
        client.append(&path, b"appended").await.with_context(|| format!("append to {path}"))?;
        content.extend_from_slice(b"appended");
        assert!(client.read(&path).await?[..] == content[..], "{path} after the append");
        let edit = client.edit(&path, EditOptions::default()).await?;
        edit.write_at(MIB as u64 - 3, b"in the middle").await?;
        content[MIB - 3..MIB + 10].copy_from_slice(b"in the middle");
        edit.commit(false).await.with_context(|| format!("first commit of {path}"))?;
        edit.write_at(2, b"and again").await?;
        content[2..11].copy_from_slice(b"and again");
        edit.commit(true).await.with_context(|| format!("second commit of {path}"))?;
        assert!(cluster.connect().await?.read(&path).await?[..] == content[..], "{path} as others see it, still open");
        edit.close().await?;
        assert!(client.read(&path).await?[..] == content[..], "{path} after the edit");
        let status = client.truncate(&path, 2 * MIB as u64 + 1).await.with_context(|| format!("truncate {path}"))?;
        content.truncate(2 * MIB + 1);
        assert_eq!(status.length, content.len() as u64);
        assert!(client.read(&path).await?[..] == content[..], "{path} after it was cut");
        let under = cluster.under().join(&path[1..]);
        match write_type {
            WriteType::MustCache => assert!(!under.exists(), "{path} is in the under store"),
            WriteType::CacheThrough | WriteType::Through => {
                assert!(fs::read(&under)? == content, "{path} differs in the under store");
            }
            WriteType::AsyncThrough => {
                let deadline = Instant::now() + Duration::from_secs(20);
                while fs::read(&under).ok().as_deref() != Some(&content) {
                    assert!(Instant::now() < deadline, "{path} is never persisted");
                    larder_tests::processes::pause();
                }
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_file_is_edited_and_what_others_read_does_not_change() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let mut content = trees::bytes(3, 6 * MIB + 7);
    fs::write(cluster.under().join("cold"), &content)?;
    let (client, other) = (cluster.connect().await?, cluster.connect().await?);
    let old = other.open("/cold").await?;
    let before = old.view(0..old.length()).await?;
    let edit = client.edit("/cold", EditOptions::default()).await?;
    edit.write_at(3 * MIB as u64, b"changed").await?;
    assert!(before[..] == content[..], "the view of the old content");
    edit.close().await?;
    assert!(before[..] == content[..], "the view of the old content, after the commit");
    content[3 * MIB..3 * MIB + 7].copy_from_slice(b"changed");
    assert!(other.read("/cold").await?[..] == content[..]);
    assert!(fs::read(cluster.under().join("cold"))? == content);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_append_to_one_file_lose_nothing() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let (one, two) = (cluster.connect().await?, cluster.connect().await?);
    one.write("/log", "", with(WriteType::MustCache)).await?;
    for round in 0..5 {
        one.append("/log", format!("one {round}\n")).await?;
        two.append("/log", format!("two {round}\n")).await?;
    }
    let held = one.edit("/log", EditOptions::default()).await?;
    held.append(b"held\n").await?;
    two.append("/log", "after\n").await.context("another process asks for the lease")?;
    let text = String::from_utf8(two.read("/log").await?.to_vec())?;
    assert_eq!(text.lines().count(), 12, "{text}");
    assert!(text.ends_with("held\nafter\n"), "{text}");
    held.append(b"again\n").await?;
    held.close().await?;
    assert!(two.read("/log").await?.ends_with(b"after\nagain\n"));
    Ok(())
}

/// Runs only as a process of its own: writes into a file in place, without a commit, until it is killed.
#[tokio::test]
async fn child() -> Result<()> {
    let Ok(told) = std::env::var(CHILD) else { return Ok(()) };
    let (port, path) = told.split_once(' ').context("what the child is told")?;
    let config = larder_client::Config::builder().master("127.0.0.1", port.parse()?)?;
    let client = FileSystem::connect(config.build()).await?;
    let edit = match path {
        "/new" => create(&client).await?,
        _ => client.edit(path, EditOptions::default()).await?,
    };
    for round in 0u64.. {
        edit.write_at(round * 100_000 % (4 * MIB as u64), &[b'x'; 50_000]).await?;
        if round == 3 {
            writeln!(std::io::stdout(), "writing")?;
            std::io::stdout().flush()?;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Makes a file as a mount does: open at once, committed when it is closed.
async fn create(client: &FileSystem) -> Result<larder_client::Edit> {
    let (caller, name) = (larder_client::Caller::root(), larder_client::Name::new("new")?);
    let how = larder_client::NodeCreate { mode: 0o644, write_type: Some(WriteType::MustCache) };
    let root = client.status("/").await?.id;
    Ok(client.nodes().create(&caller, root, &name, &how).await?.1)
}

fn start_child(cluster: &Cluster, path: &str) -> Result<Child> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{} {path}", cluster.port()))
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    let begun = lines.map_while(Result::ok).any(|line| line.ends_with("writing"));
    anyhow::ensure!(begun, "the child ended: {:?}\n{}", child.wait()?, cluster.logs());
    Ok(child)
}

fn kill(mut child: Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_killed_in_the_middle_leaves_the_old_content_where_it_is_persisted() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    let content = trees::bytes(5, 4 * MIB);
    client.write("/f", content.clone(), with(WriteType::CacheThrough)).await?;
    kill(start_child(&cluster, "/f")?)?;
    assert!(fs::read(cluster.under().join("f"))? == content, "what was not committed is not in the under store");
    becomes(&client, "/f", |bytes| bytes == content).await?;
    client.append("/f", "!").await.context("the lease of the dead is over")?;
    // The worker dies at the same moment.
    let child = start_child(&cluster, "/f")?;
    cluster.kill_worker(0);
    kill(child)?;
    cluster.start_worker(0)?;
    let appended = [&content[..], b"!"].concat();
    becomes(&client, "/f", |bytes| bytes == appended).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_killed_in_the_middle_loses_nothing_that_is_only_in_the_cache() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    let content = trees::bytes(6, 4 * MIB + 100);
    client.write("/f", content.clone(), with(WriteType::MustCache)).await?;
    // As a disk keeps it: each byte is the old one or the new one.
    let kept = |bytes: &[u8]| {
        bytes.len() == content.len() && bytes.iter().zip(&content).all(|(now, old)| now == old || *now == b'x')
    };
    kill(start_child(&cluster, "/f")?)?;
    becomes(&client, "/f", |bytes| kept(bytes) && bytes.starts_with(b"xxxx")).await?;
    let deadline = Instant::now() + Duration::from_secs(40);
    while let Err(error) = client.append("/f", "!").await {
        let logs = cluster.logs();
        assert!(error.kind() == ErrorKind::Busy && Instant::now() < deadline, "{error}; {logs}");
    }
    client.truncate("/f", content.len() as u64).await?;
    let child = start_child(&cluster, "/f")?;
    cluster.kill_worker(0);
    kill(child)?;
    cluster.start_worker(0)?;
    becomes(&client, "/f", kept).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_whose_writer_was_killed_keeps_what_was_written() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    let child = start_child(&cluster, "/new")?;
    cluster.kill_worker(0);
    kill(child)?;
    cluster.start_worker(0)?;
    becomes(&client, "/new", |bytes| bytes.starts_with(&[b'x'; 50_000])).await
}
