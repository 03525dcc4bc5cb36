//! Reading through real processes: cold, warm, by short circuit and as a stream, and with workers killed in the middle.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use larder_client::{CreateOptions, ErrorKind, FileSystem, OpenOptions, WriteType};
use larder_tests::{Cluster, processes::list_all, trees};

const MIB: usize = 1 << 20;

async fn read_all(fs: &FileSystem, path: &str) -> larder_client::Result<Vec<u8>> {
    fs.read(path).await.map(|bytes| bytes.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_under_store_read_the_same_cold_and_warm() -> Result<()> {
    let cluster = Cluster::start(1)?;
    trees::write_files(&cluster.under(), 30, 50_000)?;
    fs::write(cluster.under().join("large"), trees::bytes(99, 70 * MIB))?;
    fs::write(cluster.under().join("empty"), b"")?;
    let client = cluster.connect().await?;
    for _ in 0..2 {
        for (path, content) in trees::files(&cluster.under())? {
            let path = format!("/{}", path.display());
            assert!(read_all(&client, &path).await? == content, "{path} differs");
        }
    }
    let file = client.open("/large").await?;
    let mut buffer = vec![0; MIB];
    assert_eq!(file.read_at(65 * MIB as u64, &mut buffer).await?, MIB);
    let served = file.served();
    assert!(served.local > 0, "not by short circuit: {served:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_shared_socket_the_bytes_come_as_a_stream() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let content = trees::bytes(1, 3 * MIB + 17);
    fs::write(cluster.under().join("f"), &content)?;
    let client = FileSystem::connect(cluster.client()?.short_circuit(false).build()).await?;
    assert!(read_all(&client, "/f").await? == content);
    let file = client.open("/f").await?;
    let mut byte = [0];
    assert_eq!(file.read_at(3 * MIB as u64, &mut byte).await?, 1);
    assert_eq!(byte[0], content[3 * MIB]);
    assert_eq!(file.served().local, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_finish_when_a_worker_is_killed() -> Result<()> {
    let mut cluster = Cluster::start(2)?;
    let content = trees::bytes(5, 40 * MIB);
    fs::write(cluster.under().join("f"), &content)?;
    let client = FileSystem::connect(cluster.client()?.short_circuit(false).build()).await?;
    let file = client.open("/f").await?;
    let mut buffer = vec![0; MIB];
    for chunk in 0..40 {
        if chunk == 10 {
            cluster.kill_worker(0);
        }
        assert_eq!(file.read_at((chunk * MIB) as u64, &mut buffer).await?, MIB);
        assert!(buffer == content[chunk * MIB..(chunk + 1) * MIB], "chunk {chunk} differs");
    }
    Ok(())
}

/// The master believes in the worker all the time: it may be cut off from this client alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_gives_nothing_is_left_out_by_who_noticed() -> Result<()> {
    let mut cluster = Cluster::new()?.with("LARDER_MASTER_WORKER_TIMEOUT", "600s");
    cluster.start_master()?;
    (0..2).try_for_each(|worker| cluster.start_worker(worker))?;
    let content = trees::bytes(5, MIB);
    (0..8).try_for_each(|n| fs::write(cluster.under().join(format!("f{n}")), &content))?;
    let config =
        || Ok::<_, anyhow::Error>(cluster.client()?.short_circuit(false).timeout(Duration::from_secs(8)).build());
    let before = FileSystem::connect(config()?).await?;
    for n in 0..8 {
        assert!(read_all(&before, &format!("/f{n}")).await? == content);
    }
    let client = FileSystem::connect(config()?).await?;
    let frozen = nix::unistd::Pid::from_raw(i32::try_from(cluster.workers[0].as_ref().context("a worker")?.id())?);
    nix::sys::signal::kill(frozen, nix::sys::signal::Signal::SIGSTOP)?;
    let started = std::time::Instant::now();
    for n in 0..8 {
        assert!(read_all(&client, &format!("/f{n}")).await? == content, "file {n} differs");
        client.write(format!("/new{n}"), content.clone(), CreateOptions::default()).await?;
    }
    // It was found out once, which takes half of the client's time: after that nobody waits for it, or it would be 8 times that.
    assert!(started.elapsed() < Duration::from_secs(20), "it took {:?}", started.elapsed());
    nix::sys::signal::kill(frozen, nix::sys::signal::Signal::SIGCONT)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_worker_left_reading_ends_in_an_error_that_says_so() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    fs::write(cluster.under().join("f"), trees::bytes(5, MIB))?;
    let client = FileSystem::connect(cluster.client()?.timeout(Duration::from_secs(6)).build()).await?;
    client.status("/f").await?;
    cluster.kill_worker(0);
    let started = std::time::Instant::now();
    let error = client.read("/f").await.expect_err("nobody can serve it");
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Deadline), "{error}");
    assert!(started.elapsed() < Duration::from_secs(15), "it took {:?}", started.elapsed());
    cluster.start_worker(0)?;
    assert_eq!(client.read("/f").await?.len(), MIB, "a worker that comes back serves again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_worker_adopts_what_it_had() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let client = cluster.connect().await?;
    let content = trees::bytes(8, 2 * MIB);
    let options = CreateOptions { write_type: Some(WriteType::MustCache), ..CreateOptions::default() };
    client.write("/only-cached", content.clone(), options).await?;
    cluster.kill_worker(0);
    cluster.start_worker(0)?;
    assert!(read_all(&client, "/only-cached").await? == content);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_changed_behind_the_cache_is_never_served_stale() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let path = cluster.under().join("f");
    fs::write(&path, trees::bytes(1, 100_000))?;
    let client = cluster.connect().await?;
    assert!(read_all(&client, "/f").await? == trees::bytes(1, 100_000));
    fs::write(&path, trees::bytes(2, 120_000))?;
    let fresh = trees::bytes(2, 120_000);
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        let seen = read_all(&client, "/f").await;
        match seen {
            Ok(bytes) if bytes == fresh => break,
            // In the middle of the change the file is as much of the new content as has been written.
            Ok(bytes) if fresh.starts_with(&bytes) => {}
            Ok(bytes) => assert!(bytes == trees::bytes(1, 100_000), "a mix of old and new was served"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Changed, "{error}"),
        }
        assert!(std::time::Instant::now() < deadline, "the change never showed");
        larder_tests::processes::pause();
    }
    fs::remove_file(&path)?;
    while client.status("/f").await.is_ok() {
        assert!(std::time::Instant::now() < deadline + Duration::from_secs(5), "the removal never showed");
        larder_tests::processes::pause();
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_any_bytes_are_read_and_listed() -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let cluster = Cluster::start(1)?;
    let long = [b'n'; 255];
    let strange = b"\xff\xfe strange\n";
    for name in [&long[..], &strange[..]] {
        fs::write(cluster.under().join(std::ffi::OsStr::from_bytes(name)), name)?;
    }
    let client = cluster.connect().await?;
    let mut listed = list_all(&client, "/").await?;
    listed.retain(|entry| entry.status.name.is_some());
    let names: Vec<Vec<u8>> =
        listed.iter().filter_map(|e| e.status.name.as_ref().map(|n| n.as_bytes().to_vec())).collect();
    assert_eq!(names, [long.to_vec(), strange.to_vec()]);
    for name in [&long[..], &strange[..]] {
        let path = [b"/", name].concat();
        assert_eq!(&client.read(&path[..]).await?[..], name);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_files_are_open_at_once() -> Result<()> {
    let cluster = Cluster::start(1)?;
    trees::write_files(&cluster.under(), 10_000, 64)?;
    let client = cluster.connect().await?;
    let mut open = Vec::new();
    for seed in 0..10_000u64 {
        open.push(client.open(format!("/d{:04}/f{seed:06}", seed / 10)).await?);
    }
    for (seed, file) in open.iter().enumerate() {
        let mut bytes = [0; 64];
        assert_eq!(file.read_at(0, &mut bytes).await?, 64);
        assert!(bytes[..] == trees::bytes(seed as u64, 64)[..], "file {seed} differs");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_in_any_order_reads_what_is_there() -> Result<()> {
    const COUNT: u64 = 400;
    let cluster = Cluster::start(1)?;
    let paths = trees::write_files(&cluster.under(), COUNT, 30_000)?;
    let client = cluster.connect().await?;
    let name = |seed: u64| format!("/d{:04}/f{seed:06}", seed / 10);
    // 173 and 400 have no common divisor: each file once, in no order.
    let order: Vec<u64> = (0..COUNT).map(|i| (i * 173 + 7) % COUNT).collect();
    let (before, after) = order.split_at(150);
    for seed in before {
        assert!(read_all(&client, &name(*seed)).await? == trees::bytes(*seed, 30_000), "file {seed} differs");
    }
    // By now most are leased ahead; some change before they are read.
    let (changed, others) = after.split_at(20);
    for seed in changed {
        fs::write(&paths[*seed as usize], trees::bytes(COUNT + seed, 20_000))?;
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    for seed in changed {
        let (old, new) = (trees::bytes(*seed, 30_000), trees::bytes(COUNT + seed, 20_000));
        loop {
            match read_all(&client, &name(*seed)).await {
                Ok(bytes) if bytes == new => break,
                // In the middle of the change.
                Ok(bytes) if new.starts_with(&bytes) => {}
                Ok(bytes) => assert!(bytes == old, "a mix of old and new was served"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Changed, "{error}"),
            }
            assert!(std::time::Instant::now() < deadline, "the change of file {seed} never showed");
            larder_tests::processes::pause();
        }
    }
    for seed in others {
        assert!(read_all(&client, &name(*seed)).await? == trees::bytes(*seed, 30_000), "file {seed} differs");
    }
    Ok(())
}

/// Most of these reads are served at once, from what was leased ahead: then nothing may need the caller's runtime, since
/// it has none.
#[test]
fn a_program_without_a_runtime_walks_a_directory() -> Result<()> {
    let cluster = Cluster::start(1)?;
    fs::create_dir(cluster.under().join("d"))?;
    let name = |seed: u64| format!("d/f{seed:06}");
    for seed in 0..1000 {
        fs::write(cluster.under().join(name(seed)), trees::bytes(seed, 300))?;
    }
    let client = larder_client::blocking::FileSystem::connect(cluster.client()?.build())?;
    let seeds: Vec<u64> = (0..1000).collect();
    for some in seeds.chunks(40) {
        let open = |seed: &u64| Ok((*seed, client.open(format!("/{}", name(*seed)), OpenOptions::default())?));
        let open: Vec<_> = some.iter().map(open).collect::<larder_client::Result<_>>()?;
        // They are leased meanwhile.
        larder_tests::processes::pause();
        for (seed, file) in open {
            let mut buffer = [0; 300];
            assert_eq!(file.read_at(0, &mut buffer)?, 300);
            assert!(buffer[..] == trees::bytes(seed, 300)[..], "file {seed} differs");
        }
    }
    Ok(())
}
