//! Writes: what is committed is read back, what is not leaves the old file, whatever is dropped or dies.

use std::{io::Write, sync::atomic::Ordering::SeqCst, time::Duration};

use larder_common::ErrorKind;
use larder_proto::GrantKey;
use tokio::io::AsyncWriteExt;

use super::until;
use crate::{
    CreateOptions, FileSystem,
    fake::{Cluster, pattern},
};

fn overwrite() -> CreateOptions {
    CreateOptions { overwrite: true, ..CreateOptions::default() }
}

#[tokio::test]
async fn what_is_committed_is_read_back() {
    for local in [0, 1] {
        let cluster = Cluster::start(1, local).await;
        let fs = cluster.connect().await;
        for length in [0, 1, 5000, 1 << 20, (1 << 20) + 1, 23_000_000] {
            let path = format!("/f{length}");
            let bytes = pattern(length);
            let status = fs.write(&path, bytes.clone(), CreateOptions::default()).await.unwrap();
            assert_eq!(status.length, length as u64);
            assert!(fs.read(&path).await.unwrap()[..] == bytes[..], "{length} local {local}");
        }
        let error = fs.write("/f1", "x", CreateOptions::default()).await.unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::AlreadyExists, Some(&b"/f1"[..])));
        fs.write("/f1", "yz", overwrite()).await.unwrap();
        assert_eq!(fs.read("/f1").await.unwrap(), "yz");
        assert!(cluster.master.state.lock().leases.is_empty());
    }
}

#[tokio::test]
async fn tokio_s_traits_write_too() {
    for local in [0, 1] {
        let cluster = Cluster::start(1, local).await;
        let fs = cluster.connect().await;
        let bytes = pattern(12_345_678);
        let mut writer = fs.create("/a", CreateOptions::default()).await.unwrap();
        for part in bytes.chunks(77_777) {
            writer.write_all(part).await.unwrap();
        }
        writer.flush().await.unwrap();
        assert!(!fs.exists("/a").await.unwrap(), "not before the commit");
        writer.shutdown().await.unwrap();
        assert!(writer.write_all(b"more").await.is_err());
        assert_eq!(writer.commit().await.unwrap().length, bytes.len() as u64);
        assert!(fs.read("/a").await.unwrap()[..] == bytes[..], "local {local}");
    }
}

#[tokio::test]
async fn a_writer_that_is_dropped_leaves_the_old_file_and_nothing_else() {
    let cluster = Cluster::start(1, 1).await;
    let fs = cluster.connect().await;
    fs.write("/a", "old", CreateOptions::default()).await.unwrap();
    for length in [10, 3_000_000] {
        let mut writer = fs.create("/a", overwrite()).await.unwrap();
        writer.write(pattern(length)).await.unwrap();
        drop(writer);
        assert_eq!(fs.read("/a").await.unwrap(), "old");
    }
    until("leases and tickets are back", || {
        cluster.master.state.lock().leases.is_empty() && cluster.workers[0].tickets.lock().is_empty()
    })
    .await;
}

#[tokio::test]
async fn dropped_futures_of_writes_leak_nothing() {
    let cluster = Cluster::start(1, 1).await;
    let fs = cluster.connect().await;
    let bytes = bytes::Bytes::from(pattern(3_000_000));
    for i in 0..60u64 {
        let (fs, bytes) = (fs.clone(), bytes.clone());
        let write = async move { fs.write(format!("/f{i}"), bytes, CreateOptions::default()).await };
        drop(tokio::time::timeout(Duration::from_micros(i * 120), write).await);
    }
    fs.write("/last", "x", CreateOptions::default()).await.unwrap();
    until("leases and tickets are back", || {
        cluster.master.state.lock().leases.is_empty() && cluster.workers[0].tickets.lock().is_empty()
    })
    .await;
    assert_eq!(cluster.master.numbers_wrong.load(SeqCst), 0);
}

#[tokio::test]
async fn a_cancelled_write_makes_the_writer_useless() {
    let cluster = Cluster::start(1, 1).await;
    let fs = cluster.connect().await;
    let mut writer = fs.create("/a", CreateOptions::default()).await.unwrap();
    {
        let write = writer.write(pattern(30_000_000));
        tokio::pin!(write);
        assert!(futures_util::poll!(&mut write).is_pending());
    }
    assert!(writer.write("x").await.unwrap_err().message().contains("half-way"));
    assert_eq!(writer.commit().await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_small_file_goes_to_another_worker_when_the_first_fails() {
    for local in [0, 1] {
        let cluster = Cluster::start(2, local).await;
        let fs = cluster.connect().await;
        let mut writer = fs.create("/a", CreateOptions::default()).await.unwrap();
        writer.write(pattern(1000)).await.unwrap();
        cluster.workers[0].broken.store(true, SeqCst);
        cluster.master.hidden.lock().push(0);
        writer.commit().await.unwrap();
        assert!(!cluster.workers[1].whole(cluster.master.add("/x", 0)).is_empty() || fs.exists("/a").await.unwrap());
        assert!(fs.read("/a").await.unwrap()[..] == pattern(1000)[..]);
    }
}

#[tokio::test]
async fn a_worker_that_dies_ends_a_large_write_and_the_old_file_stays() {
    let mut cluster = Cluster::start(1, 1).await;
    let config = cluster.config().timeout(Duration::from_millis(800)).build();
    let fs = FileSystem::connect(config).await.unwrap();
    fs.write("/a", "old", CreateOptions::default()).await.unwrap();
    let mut writer = fs.create("/a", overwrite()).await.unwrap();
    writer.write(pattern(3_000_000)).await.unwrap();
    cluster.servers.remove(1).shutdown().await;
    cluster.workers[0].cut();
    let result = async {
        writer.write(pattern(20_000_000)).await?;
        writer.commit().await
    };
    let error = result.await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Deadline), "{error}");
    assert_eq!(fs.status("/a").await.unwrap().length, 3);
    until("the lease is back", || cluster.master.state.lock().leases.is_empty()).await;
}

#[tokio::test]
async fn a_right_that_the_worker_does_not_know_is_no_answer_to_an_application() {
    for local in [0, 1] {
        let cluster = Cluster::start(1, local).await;
        let fs = cluster.connect().await;
        for length in [1000, 3_000_000] {
            let path = format!("/f{length}");
            let mut writer = fs.create(&path, CreateOptions::default()).await.unwrap();
            *cluster.keys.lock() = GrantKey { id: length as u64, secret: [9; 32] };
            let bytes = pattern(length);
            let written = writer.write(bytes.clone()).await;
            let committed = writer.commit().await;
            match written.and(committed) {
                Ok(status) => assert_eq!(status.length, length as u64, "a small one got a new right"),
                Err(error) => {
                    assert!(error.kind() == ErrorKind::Unavailable && length > 1 << 20, "{error}");
                    assert!(error.advice().is_some() && error.path().is_some(), "{error}");
                    fs.write(&path, bytes, CreateOptions::default()).await.unwrap();
                }
            }
        }
    }
}

#[tokio::test]
async fn what_goes_to_the_under_store_needs_no_room_in_the_tier() {
    let cluster = Cluster::start(1, 1).await;
    let fs = cluster.connect().await;
    cluster.workers[0].full.store(true, SeqCst);
    let status = fs.write("/a", pattern(10_000_000), CreateOptions::default()).await.unwrap();
    assert_eq!(status.length, 10_000_000);
}

#[test]
fn programs_without_a_runtime_read_and_write() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cluster = runtime.block_on(Cluster::start(1, 1));
    let fs = crate::blocking::FileSystem::connect(cluster.config().build()).unwrap();
    let mut writer = fs.create("/a", CreateOptions::default()).unwrap();
    writer.write_all(b"hello\nworld\n").unwrap();
    assert_eq!(writer.commit().unwrap().length, 12);
    let mut file = fs.open("/a", crate::OpenOptions::default()).unwrap();
    assert_eq!(std::io::read_to_string(&mut file).unwrap(), "hello\nworld\n");
    let mut buffer = [0; 5];
    assert_eq!(file.read_at(6, &mut buffer).unwrap(), 5);
    assert_eq!(&buffer, b"world");
    assert_eq!(fs.list("/", crate::ListOptions::default()).filter_map(Result::ok).count(), 1);
    assert_eq!(fs.wait(|fs| async move { fs.ping().await }), Ok(()));
    assert!(fs.load("/", crate::LoadOptions::default()).last().unwrap().unwrap().failures.is_empty());
}
