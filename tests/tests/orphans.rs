//! A file that is deleted or replaced while somebody reads it: the reader reads to the end, and nothing is left behind.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use larder_client::{CreateOptions, File, RemoveOptions};
use larder_tests::{Cluster, trees};

const MIB: u64 = 1 << 20;
const LENGTH: u64 = 1024 * MIB;

/// What is at an offset of the file.
fn word(offset: u64) -> [u8; 8] {
    (offset ^ 0x5bd1_e995_97f4_a7c1).to_le_bytes()
}

/// A file of 1 GiB with a word at the beginning of each MiB, sparse between.
fn big(path: &Path) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(path)?;
    file.set_len(LENGTH)?;
    for at in (0..LENGTH).step_by(MIB as usize) {
        file.write_all_at(&word(at), at)?;
    }
    Ok(())
}

async fn check(file: &File, from: u64, to: u64) -> Result<()> {
    let mut buffer = vec![0; MIB as usize];
    for at in (from..to).step_by(MIB as usize) {
        let mut done = 0;
        while done < buffer.len() {
            let read = file.read_at(at + done as u64, &mut buffer[done..]).await?;
            ensure!(read > 0, "the file ends at {}", at + done as u64);
            done += read;
        }
        ensure!(buffer[..8] == word(at) && buffer[8..].iter().all(|byte| *byte == 0), "other bytes at {at}");
    }
    Ok(())
}

fn orphans(under: &Path) -> Vec<PathBuf> {
    let Ok(clusters) = fs::read_dir(under.join(".larder")) else { return Vec::new() };
    let folders = clusters.flatten().filter_map(|cluster| fs::read_dir(cluster.path().join("orphans")).ok());
    folders.flat_map(|folder| folder.flatten().map(|entry| entry.path())).collect()
}

async fn gone(under: &Path, what: &str) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(30);
    while !orphans(under).is_empty() {
        ensure!(Instant::now() < until, "{what}: {:?} stay", orphans(under));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partly_cached_file_is_read_to_its_end_after_it_was_deleted() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    // Before anybody looks: a file that is seen while it is made is another one when it is done.
    ["deleted", "again"].iter().try_for_each(|name| big(&cluster.under().join(name)))?;
    let (reader, other) = (cluster.connect().await?, cluster.connect().await?);
    let deleted = reader.open("/deleted").await?;
    check(&deleted, 0, 8 * MIB).await?;
    other.remove("/deleted", RemoveOptions::default()).await?;
    ensure!(!cluster.under().join("deleted").exists());
    check(&deleted, 0, LENGTH).await?;
    drop(deleted);
    gone(&cluster.under(), "after the last close").await?;

    let open = reader.open("/again").await?;
    check(&open, 0, MIB).await?;
    other.remove("/again", RemoveOptions::default()).await?;
    cluster.kill_master();
    drop((open, reader, other));
    cluster.start_master()?;
    let _client = cluster.connect().await?;
    gone(&cluster.under(), "after a restart").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partly_cached_file_is_read_to_its_end_after_it_was_written_anew() -> Result<()> {
    let cluster = Cluster::start(1)?;
    ["by-another", "by-itself"].iter().try_for_each(|name| big(&cluster.under().join(name)))?;
    let (reader, other) = (cluster.connect().await?, cluster.connect().await?);
    for (name, writer) in [("by-another", &other), ("by-itself", &reader)] {
        let path = format!("/{name}");
        let open = reader.open(&path).await?;
        check(&open, 0, 8 * MIB).await?;
        writer.write(&path, &b"new"[..], CreateOptions { overwrite: true, ..CreateOptions::default() }).await?;
        ensure!(fs::read(cluster.under().join(name))? == b"new", "{name}");
        let new = reader.read(&path).await?;
        ensure!(new[..] == *b"new", "{name}: whoever opens it now has what is new");
        check(&open, 0, LENGTH).await?;
        drop(open);
        gone(&cluster.under(), name).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wholly_cached_file_is_read_again_after_it_was_deleted_or_written_anew() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let content = trees::bytes(3, 3 * MIB as usize);
    let (reader, other) = (cluster.connect().await?, cluster.connect().await?);
    for name in ["deleted", "replaced"] {
        let path = format!("/{name}");
        fs::write(cluster.under().join(name), &content)?;
        let open = reader.open(&path).await?;
        ensure!(open.read_range(0..open.length()).await?[..] == content[..], "{name}");
        match name {
            "deleted" => drop(other.remove(&path, RemoveOptions::default()).await?),
            _ => {
                let how = CreateOptions { overwrite: true, ..CreateOptions::default() };
                drop(other.write(&path, &b"new"[..], how).await?);
            }
        }
        // By then the worker has been told that the content is over, and has asked for it back.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        ensure!(open.read_range(0..open.length()).await?[..] == content[..], "{name}, after that");
    }
    Ok(())
}
