//! Writing through real processes: every write type, and parts killed in the middle. What was acknowledged is whole, what
//! was not is absent.

use std::{fs, time::Duration};

use anyhow::Result;
use larder_client::{CreateOptions, ErrorKind, RemoveOptions, WriteType};
use larder_tests::{Cluster, trees};

const MIB: usize = 1 << 20;

fn with(write_type: WriteType) -> CreateOptions {
    CreateOptions { write_type: Some(write_type), recursive: true, ..CreateOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_type_reads_back_and_goes_where_it_says() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    for (at, write_type) in WriteType::ALL.iter().enumerate() {
        for length in [0, 1, 100_000, 5 * MIB + 3] {
            let path = format!("/{write_type}/{length}");
            let content = trees::bytes(at as u64 + 1, length);
            client.write(&path, content.clone(), with(*write_type)).await?;
            assert!(client.read(&path).await?[..] == content[..], "{path} differs");
            let under = cluster.under().join(&path[1..]);
            match write_type {
                WriteType::MustCache => assert!(!under.exists(), "{path} is in the under store"),
                WriteType::CacheThrough | WriteType::Through => {
                    assert!(fs::read(&under)? == content, "{path} differs in the under store");
                }
                WriteType::AsyncThrough => {
                    let deadline = std::time::Instant::now() + Duration::from_secs(10);
                    while fs::read(&under).ok().as_deref() != Some(&content) {
                        assert!(std::time::Instant::now() < deadline, "{path} is never persisted");
                        larder_tests::processes::pause();
                    }
                }
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_is_dropped_leaves_the_old_file() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    client.write("/f", "old", with(WriteType::CacheThrough)).await?;
    let mut writer = client.create("/f", CreateOptions { overwrite: true, ..with(WriteType::CacheThrough) }).await?;
    writer.write(trees::bytes(1, 3 * MIB)).await?;
    drop(writer);
    assert_eq!(&client.read("/f").await?[..], b"old");
    assert_eq!(fs::read(cluster.under().join("f"))?, b"old");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_the_middle_of_writes_loses_nothing_acknowledged() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    let mut acknowledged = Vec::new();
    for seed in 0..20u64 {
        let path = format!("/f{seed}");
        client.write(&path, trees::bytes(seed, 200_000), with(WriteType::CacheThrough)).await?;
        acknowledged.push((path, seed));
    }
    let mut half = client.create("/half", with(WriteType::CacheThrough)).await?;
    half.write(trees::bytes(77, 9 * MIB)).await?;
    cluster.kill_worker(0);
    let result = async {
        half.write(trees::bytes(78, MIB)).await?;
        half.commit().await
    };
    let result = tokio::time::timeout(Duration::from_secs(40), result).await.expect("an end in bounded time");
    assert!(result.is_err(), "the worker was gone");
    cluster.start_worker(0)?;
    for (path, seed) in &acknowledged {
        assert!(client.read(path).await?[..] == trees::bytes(*seed, 200_000)[..], "{path} differs");
    }
    assert_eq!(client.read("/half").await.expect_err("half-written").kind(), ErrorKind::NotFound);
    assert!(!cluster.under().join("half").exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_dies_gives_back_what_it_held() -> Result<()> {
    let cluster = Cluster::start(1)?.with("LARDER_MASTER_SESSION_LEASE", "2s");
    let client = cluster.connect().await?;
    let config = cluster.client()?.build();
    let dead = tokio::runtime::Runtime::new()?;
    let held = dead.spawn(async move {
        let fs = larder_client::FileSystem::connect(config).await?;
        let mut writer = fs.create("/f", with(WriteType::CacheThrough)).await?;
        writer.write(trees::bytes(1, 2 * MIB)).await?;
        std::mem::forget(writer);
        Ok::<_, larder_client::Error>(())
    });
    held.await??;
    // Everything that the client had running is gone at once, and says nothing to anybody.
    dead.shutdown_background();
    let deadline = std::time::Instant::now() + Duration::from_secs(25);
    while let Err(error) =
        client.write("/f", "mine", CreateOptions { overwrite: true, ..with(WriteType::CacheThrough) }).await
    {
        assert!(std::time::Instant::now() < deadline, "the lease is never given back: {error}");
        larder_tests::processes::pause();
    }
    assert_eq!(&client.read("/f").await?[..], b"mine");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_memory_tier_streams_reads_and_refuses_what_must_be_cached() -> Result<()> {
    let mut cluster = Cluster::new()?;
    fs::create_dir_all(cluster.memory(0))?;
    let tier = format!("MEM:{}:16MB", cluster.memory(0).display());
    cluster = cluster.with("LARDER_WORKER_TIERS", &tier);
    cluster.start_master()?;
    cluster.start_worker(0)?;
    let client = cluster.connect().await?;
    let error = client.write("/big", trees::bytes(1, 40 * MIB), with(WriteType::MustCache)).await.expect_err("16 MB");
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    fs::write(cluster.under().join("cold"), trees::bytes(2, 40 * MIB))?;
    assert!(client.read("/cold").await?[..] == trees::bytes(2, 40 * MIB)[..]);
    client.write("/through", trees::bytes(3, 40 * MIB), with(WriteType::CacheThrough)).await?;
    assert!(fs::read(cluster.under().join("through"))? == trees::bytes(3, 40 * MIB));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_and_renaming_reach_the_under_store() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    client.write("/d/a", "one", with(WriteType::CacheThrough)).await?;
    client.write("/d/b", "two", with(WriteType::CacheThrough)).await?;
    client.rename("/d/a", "/d/c", larder_client::RenameOptions::default()).await?;
    assert_eq!(fs::read(cluster.under().join("d/c"))?, b"one");
    assert!(!cluster.under().join("d/a").exists());
    client.remove("/d/b", RemoveOptions::default()).await?;
    assert!(!cluster.under().join("d/b").exists());
    client.remove("/d", RemoveOptions { recursive: true, ..RemoveOptions::default() }).await?;
    assert!(!cluster.under().join("d").exists());
    assert_eq!(client.status("/d").await.expect_err("removed").kind(), ErrorKind::NotFound);
    Ok(())
}
