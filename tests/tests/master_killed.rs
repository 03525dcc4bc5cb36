//! kill -9 of the master in the middle of a stream of creates, renames and deletes: after the restart the namespace is
//! exactly what was acknowledged, and each call that was under way has happened once or not at all.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Result;
use larder_client::{CreateOptions, ErrorKind, FileSystem, MkdirOptions, RemoveOptions, RenameOptions, WriteType};
use larder_tests::{Cluster, processes::list_all};

/// What may be at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    There,
    Absent,
    /// A call about it was under way.
    Either,
}

type Oracle = Arc<Mutex<BTreeMap<String, Known>>>;

fn empty() -> CreateOptions {
    CreateOptions { write_type: Some(WriteType::MustCache), ..CreateOptions::default() }
}

/// Changes names of its own directory until told to stop. Before each call the names are uncertain, after its
/// acknowledgement they are known.
async fn change(fs: FileSystem, directory: String, oracle: Oracle, until: Instant) {
    let note = |path: &str, known: Known| {
        oracle.lock().expect("no test thread panicked").insert(path.to_owned(), known);
    };
    let mut number = 0u64;
    while Instant::now() < until {
        let (a, b) = (format!("{directory}/a{number}"), format!("{directory}/b{number}"));
        number += 1;
        note(&a, Known::Either);
        match fs.write(&a, "", empty()).await {
            Ok(_) => note(&a, Known::There),
            Err(_) => continue,
        }
        if number.is_multiple_of(2) {
            note(&a, Known::Either);
            note(&b, Known::Either);
            if fs.rename(&a, &b, RenameOptions::default()).await.is_ok() {
                note(&a, Known::Absent);
                note(&b, Known::There);
            }
        }
        if number.is_multiple_of(3) {
            let target = if number.is_multiple_of(2) { &b } else { &a };
            note(target, Known::Either);
            if fs.remove(target, RemoveOptions::default()).await.is_ok() {
                note(target, Known::Absent);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_namespace_after_a_kill_is_what_was_acknowledged() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    let oracle: Oracle = Arc::default();
    let until = Instant::now() + Duration::from_secs(8);
    let mut tasks = Vec::new();
    for task in 0..4 {
        let directory = format!("/dir{task}");
        let options = MkdirOptions { write_type: Some(WriteType::MustCache), ..MkdirOptions::default() };
        client.mkdir(&directory, options).await?;
        tasks.push(tokio::spawn(change(cluster.connect().await?, directory, Arc::clone(&oracle), until)));
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        cluster.kill_master();
        cluster.start_master()?;
    }
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(60), task).await.expect("nobody hangs")?;
    }
    cluster.kill_master();
    cluster.start_master()?;
    let after = cluster.connect().await?;
    let mut there = Vec::new();
    for task in 0..4 {
        let directory = format!("/dir{task}");
        for entry in list_all(&after, &directory).await? {
            there.push(format!("{directory}/{}", entry.status.name.expect("an entry has a name")));
        }
    }
    let oracle = oracle.lock().expect("no test thread panicked");
    assert!(oracle.len() > 20, "hardly anything happened: {} names", oracle.len());
    for (path, known) in &*oracle {
        let found = there.contains(path);
        match known {
            Known::There => assert!(found, "{path} was acknowledged and is gone"),
            Known::Absent => assert!(!found, "{path} was removed and is back"),
            Known::Either => {}
        }
    }
    let strangers: Vec<_> = there.iter().filter(|path| !oracle.contains_key(*path)).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_the_journal_stops_the_start_and_names_it() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    for number in 0..50 {
        client.write(format!("/f{number}"), "", empty()).await?;
    }
    cluster.kill_worker(0);
    cluster.kill_master();
    let segment = newest(&cluster.journal())?;
    let mut bytes = std::fs::read(&segment)?;
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("a journal has bytes");
    bytes[end / 2] ^= 0x10;
    std::fs::write(&segment, &bytes)?;
    let error = cluster.start_master().expect_err("damage is not passed over").to_string();
    let name = segment.file_name().expect("a file").to_string_lossy().into_owned();
    assert!(error.contains(&name), "the message names the file: {error}");
    bytes[end / 2] ^= 0x10;
    std::fs::write(&segment, &bytes)?;
    cluster.start_master()?;
    let client = cluster.connect().await?;
    assert!(client.status("/f49").await.is_ok());
    assert_eq!(client.status("/f50").await.expect_err("never made").kind(), ErrorKind::NotFound);
    Ok(())
}

fn newest(journal: &std::path::Path) -> Result<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(journal)? {
        let entry = entry?;
        if entry.metadata()?.is_file() && entry.metadata()?.len() > 4096 {
            let written = std::fs::read(entry.path())?.iter().filter(|byte| **byte != 0).count();
            files.push((written, entry.path()));
        }
    }
    files.sort();
    Ok(files.pop().expect("a journal has a segment").1)
}
