//! The process of a mount is killed in the middle of writing into a file in place. What was there before the open stays, nobody is
//! served a mix as the old content, and who has the old content in view keeps it.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use larder_client::{CreateOptions, FileSystem, View, WriteType};
use larder_tests::{Cluster, mounts::Mount, skip::needs_fuse, trees};
use nix::sys::signal::Signal;

const LENGTH: usize = 3 << 20;
/// What is written over the old content.
const NEW: u8 = b'x';

/// What becomes of a dead session takes its lease of 10 s, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that writes into a file in place, until it is told that nobody answers any more.
fn write(path: &Path, begun: &std::sync::mpsc::Sender<()>) -> Result<u64> {
    let file: File = OpenOptions::new().read(true).write(true).open(path)?;
    let mut written = 0;
    loop {
        let at = written * 37_000 % (LENGTH as u64 - 10_000);
        if file.write_all_at(&[NEW; 10_000], at).is_err() {
            return Ok(written);
        }
        written += 1;
        if written == 20 {
            // Somebody may not listen any more.
            let _ = begun.send(());
        }
    }
}

/// A file with its old content, as it is written with a type, and whether somebody has that content in view.
struct Case {
    name: &'static str,
    write_type: WriteType,
    old: Vec<u8>,
    view: Option<View>,
}

impl Case {
    async fn new(client: &FileSystem, name: &'static str, write_type: WriteType, is_viewed: bool) -> Result<Self> {
        let path = format!("/{name}");
        let old = trees::bytes(name.len() as u64, LENGTH);
        let how = CreateOptions { write_type: Some(write_type), ..CreateOptions::default() };
        client.write(&path, old.clone(), how).await?;
        let view = match is_viewed {
            true => Some(client.open(&path).await?.view(0..LENGTH as u64).await?),
            false => None,
        };
        ensure!(view.as_ref().is_none_or(View::is_mapped), "the view of {name} is a copy");
        Ok(Self { name, write_type, old, view })
    }

    /// What it may be when nobody writes it any more.
    fn may_be(&self, bytes: &[u8]) -> bool {
        match self.write_type {
            WriteType::CacheThrough => bytes == self.old,
            // As a disk keeps it: each byte is the old or the new one.
            _ => bytes.len() == LENGTH && bytes.iter().zip(&self.old).all(|(is, was)| is == was || *is == NEW),
        }
    }

    fn check_view(&self) -> Result<()> {
        ensure!(
            self.view.as_ref().is_none_or(|view| view[..] == self.old[..]),
            "the view of {} has changed",
            self.name
        );
        Ok(())
    }

    /// Reads it until the session of the dead is over and it can be written again: each time it is what it may be.
    async fn comes_back(&self, client: &FileSystem) -> Result<()> {
        let path = format!("/{}", self.name);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(bytes) = client.read(&path).await {
                ensure!(self.may_be(&bytes), "{path} is {} other bytes", bytes.len());
            }
            self.check_view()?;
            match client.append(&path, "!").await {
                Ok(_) => break,
                Err(error) => ensure!(Instant::now() < deadline, "{path}: {error}"),
            }
        }
        let bytes = client.read(&path).await?;
        ensure!(bytes.ends_with(b"!") && self.may_be(&bytes[..bytes.len() - 1]), "{path} after it came back");
        self.check_view()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_killed_while_it_writes_in_place_loses_nothing_that_was_there() -> Result<()> {
    if !needs_fuse("a_mount_killed_while_it_writes_in_place_loses_nothing_that_was_there") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    let (kept, nowhere_else) = (WriteType::CacheThrough, WriteType::MustCache);
    let cases = [("persisted", kept, false), ("persisted-viewed", kept, true)];
    let others = [("cached", nowhere_else, false), ("cached-viewed", nowhere_else, true)];
    let mut all = Vec::new();
    for (name, write_type, is_viewed) in cases.into_iter().chain(others) {
        all.push(Case::new(&client, name, write_type, is_viewed).await?);
    }
    let through = Mount::start(&cluster, &[])?;
    let cached = Mount::start(&cluster, &[("LARDER_USER_FILE_WRITETYPE_DEFAULT", "MUST_CACHE")])?;
    let (sender, begun) = std::sync::mpsc::channel();
    let writers: Vec<_> = all
        .iter()
        .map(|case| {
            let mount = if case.write_type == kept { &through } else { &cached };
            let (path, sender) = (mount.at(case.name), sender.clone());
            std::thread::spawn(move || write(&path, &sender))
        })
        .collect();
    for _ in &all {
        begun.recv_timeout(PATIENCE).context("a writer did not begin")?;
    }
    for case in &all {
        case.check_view().context("while it is written")?;
    }
    through.signal(Signal::SIGKILL)?;
    cached.signal(Signal::SIGKILL)?;
    for writer in writers {
        ensure!(writer.join().expect("no panic")? >= 20, "it was written");
    }
    for case in &all {
        let under = std::fs::read(cluster.under().join(case.name)).ok();
        let expected = (case.write_type == kept).then(|| case.old.clone());
        ensure!(under == expected, "{} in the under store", case.name);
        case.comes_back(&client).await?;
    }
    Ok(())
}
