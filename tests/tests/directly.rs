//! Changes that are made directly in the under store's directory, by others than Larder.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use larder_client::{CreateOptions, FileSystem, ListOptions, WriteType};
use larder_tests::{Cluster, trees};
use rand::{RngExt, SeedableRng, rngs::StdRng};

fn with(write_type: WriteType) -> CreateOptions {
    CreateOptions { write_type: Some(write_type), overwrite: true, ..CreateOptions::default() }
}

/// Paths below, with `/` at the end of directories and the length of files.
fn on_disk(root: &Path, below: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(below)? {
        let path = entry?.path();
        let status = fs::symlink_metadata(&path)?;
        let name = format!("/{}", path.strip_prefix(root)?.display());
        if name == "/.larder" {
            continue;
        }
        if status.is_dir() {
            found.insert(name + "/");
            on_disk(root, &path, found)?;
        } else {
            found.insert(format!("{name} {}", status.size()));
        }
    }
    Ok(())
}

async fn in_larder(client: &FileSystem) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut entries = client.list("/", ListOptions { recursive: true, ..ListOptions::default() });
    while let Some(entry) = futures_util::StreamExt::next(&mut entries).await {
        let entry = entry?;
        let path = String::from_utf8_lossy(entry.path.as_bytes()).into_owned();
        found.insert(match entry.status.kind.is_directory() {
            true => path + "/",
            false => format!("{path} {}", entry.status.length),
        });
    }
    Ok(found)
}

/// One random change of the tree.
fn change(root: &Path, dice: &mut StdRng, step: u64) -> Result<()> {
    let directory = root.join(format!("d{}", dice.random_range(0..20)));
    let file = directory.join(format!("f{}", dice.random_range(0..30)));
    match dice.random_range(0..10) {
        0 => drop(fs::remove_file(&file)),
        1 => drop(fs::rename(&file, directory.join(format!("r{}", step % 10)))),
        2 => drop(fs::remove_dir_all(&directory)),
        3 => drop(fs::rename(&directory, root.join(format!("d{}", dice.random_range(0..20))))),
        4 => drop(fs::create_dir_all(directory.join(format!("sub{}", step % 3)))),
        _ => {
            fs::create_dir_all(&directory)?;
            let length = usize::try_from(step % 700)?;
            // A directory may have taken the name.
            drop(fs::write(&file, vec![b'x'; length]));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_direct_changes_end_in_the_same_tree() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    let under = cluster.under();
    ensure!(in_larder(&client).await?.is_empty());
    let mut dice = StdRng::seed_from_u64(11);
    for step in 0..10_000 {
        change(&under, &mut dice, step)?;
        if step % 2500 == 0 {
            // So that there is something known that must be found to be over.
            in_larder(&client).await?;
        }
    }
    let mut expected = BTreeSet::new();
    on_disk(&under, &under, &mut expected)?;
    ensure!(expected.len() > 100, "only {} names are left", expected.len());
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let found = in_larder(&client).await?;
        if found == expected {
            break;
        }
        if Instant::now() > until {
            let missing: Vec<_> = expected.difference(&found).take(5).collect();
            let stale: Vec<_> = found.difference(&expected).take(5).collect();
            anyhow::bail!("missing {missing:?}, stale {stale:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_change_shows_up_by_itself_and_soon() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    let file = cluster.under().join("file");
    fs::write(&file, "first")?;
    assert_eq!(&client.read("/file").await?[..], b"first");
    let mut delays = Vec::new();
    for round in 0..20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let content = format!("content of round {round}");
        fs::write(&file, &content)?;
        let changed = Instant::now();
        while client.read("/file").await?[..] != *content.as_bytes() {
            ensure!(changed.elapsed() < Duration::from_secs(5), "round {round} is never seen");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        delays.push(changed.elapsed());
    }
    delays.sort();
    let typical = delays[delays.len() / 2];
    ensure!(typical < Duration::from_secs(1), "typically seen after {typical:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_file_in_the_place_of_unpersisted_content_is_kept_beside_it() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    client.write("/f", "ours", with(WriteType::MustCache)).await?;
    fs::write(cluster.under().join("f"), "theirs")?;
    client.persist("/f", false).await?;
    let until = Instant::now() + Duration::from_secs(20);
    let conflict = loop {
        let names: Vec<_> = fs::read_dir(cluster.under())?.flatten().map(|entry| entry.file_name()).collect();
        let conflict = names.iter().find(|name| name.to_string_lossy().starts_with("f.larder-conflict-"));
        if let Some(conflict) = conflict
            && fs::read(cluster.under().join("f")).ok().as_deref() == Some(b"ours")
        {
            break conflict.clone();
        }
        ensure!(Instant::now() < until, "never: {names:?}{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(&client.read("/f").await?[..], b"ours");
    assert_eq!(fs::read(cluster.under().join(&conflict))?, b"theirs");
    let path = format!("/{}", conflict.to_str().context("the name is text")?);
    let until = Instant::now() + Duration::from_secs(10);
    while client.read(&path).await.ok().as_deref() != Some(b"theirs") {
        ensure!(Instant::now() < until, "{path} does not show up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_writes_are_never_taken_for_foreign_ones() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    for round in 0..100u64 {
        let content = trees::bytes(round, 2000);
        let status = client.write("/f", content.clone(), with(WriteType::CacheThrough)).await?;
        tokio::time::sleep(Duration::from_millis(round % 15)).await;
        let after = client.status("/f").await?;
        ensure!(after.generation == status.generation, "round {round}: our own write made a new version");
    }
    let names: Vec<_> = fs::read_dir(cluster.under())?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(!names.iter().any(|name| name.to_string_lossy().contains("conflict")), "{names:?}");
    Ok(())
}
