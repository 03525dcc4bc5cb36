//! Edits: what is committed is read back, clones see what is written, what is not committed is not seen by others.

use std::sync::atomic::Ordering::SeqCst;

use larder_common::ErrorKind;

use super::until;
use crate::{
    Allocate, CreateOptions, EditOptions,
    fake::{Cluster, pattern},
};

#[tokio::test]
async fn a_file_is_changed_in_place_and_committed_again_and_again() {
    for local in [0, 1] {
        let cluster = Cluster::start(1, local).await;
        let fs = cluster.connect().await;
        let mut bytes = pattern(2_500_000);
        fs.write("/a", bytes.clone(), CreateOptions::default()).await.unwrap();
        let edit = fs.edit("/a", EditOptions::default()).await.unwrap();
        assert_eq!(edit.length().await.unwrap(), 2_500_000);
        let mut generation = edit.status().generation;
        for (offset, part) in [(0, &b"begin"[..]), (1_234_567, b"middle"), (2_500_000, b"end"), (2_600_000, b"gap")] {
            edit.write_at(offset, part).await.unwrap();
            bytes.resize(bytes.len().max(offset as usize + part.len()), 0);
            bytes[offset as usize..offset as usize + part.len()].copy_from_slice(part);
            let mut seen = vec![0; bytes.len()];
            assert_eq!(edit.clone().read_at(0, &mut seen).await.unwrap(), bytes.len());
            assert!(seen == bytes, "a clone sees it at once");
            let status = edit.commit(false).await.unwrap();
            assert!(status.generation > generation && status.length == bytes.len() as u64);
            generation = status.generation;
            assert!(fs.read("/a").await.unwrap()[..] == bytes[..], "local {local}, after {part:?}");
        }
        assert_eq!(edit.append(b"more").await.unwrap(), bytes.len() as u64);
        bytes.extend_from_slice(b"more");
        edit.set_length(2_600_005).await.unwrap();
        bytes.resize(2_600_005, 0);
        edit.allocate(Allocate::Punch, 100, 50_000).await.unwrap();
        bytes[100..50_100].fill(0);
        edit.allocate(Allocate::Extend, 0, 2_700_000).await.unwrap();
        bytes.resize(2_700_000, 0);
        assert_eq!(edit.seek_data(0).await.unwrap(), Some(0));
        assert_eq!(edit.seek_hole(u64::MAX / 4).await.unwrap(), None);
        let status = edit.close().await.unwrap();
        assert_eq!(status.length, 2_700_000);
        assert!(fs.read("/a").await.unwrap()[..] == bytes[..], "local {local}");
        assert!(cluster.master.state.lock().leases.is_empty());
        assert!(cluster.workers[0].edits.lock().is_empty());
    }
}

#[tokio::test]
async fn appends_and_truncations_by_path() {
    for local in [0, 1] {
        let cluster = Cluster::start(1, local).await;
        let fs = cluster.connect().await;
        fs.write("/log", "one\n", CreateOptions::default()).await.unwrap();
        assert_eq!(fs.append("/log", "two\n").await.unwrap().length, 8);
        assert_eq!(fs.read("/log").await.unwrap(), "one\ntwo\n");
        fs.truncate("/log", 3).await.unwrap();
        assert_eq!(fs.read("/log").await.unwrap(), "one");
        fs.truncate("/log", 5).await.unwrap();
        assert_eq!(fs.read("/log").await.unwrap(), "one\0\0");
        fs.truncate("/log", 0).await.unwrap();
        assert_eq!(fs.read("/log").await.unwrap(), "");
        let error = fs.append("/none", "x").await.unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::NotFound, Some(&b"/none"[..])));
    }
}

#[tokio::test]
async fn warm_writes_send_no_message() {
    let cluster = Cluster::start(1, 1).await;
    let fs = cluster.connect().await;
    fs.write("/a", pattern(1_000_000), CreateOptions::default()).await.unwrap();
    let edit = fs.edit("/a", EditOptions::default()).await.unwrap();
    let count = || (cluster.workers[0].requests.load(SeqCst), cluster.master.executed.load(SeqCst));
    let before = count();
    for n in 0..1000 {
        edit.write_at(n * 900, b"bytes").await.unwrap();
    }
    assert_eq!(count(), before);
    edit.close().await.unwrap();
}

#[tokio::test]
async fn an_edit_that_is_dropped_gives_everything_back() {
    for local in [0, 1] {
        let cluster = Cluster::start(1, local).await;
        let fs = cluster.connect().await;
        fs.write("/a", "old", CreateOptions::default()).await.unwrap();
        let edit = fs.edit("/a", EditOptions::default()).await.unwrap();
        edit.write_at(0, b"new").await.unwrap();
        drop(edit);
        assert_eq!(fs.read("/a").await.unwrap(), "old");
        until("the lease is back", || cluster.master.state.lock().leases.is_empty()).await;
        until("the worker has it back", || cluster.workers[0].edits.lock().is_empty()).await;
    }
}

#[tokio::test]
async fn a_lease_that_another_asks_for_is_committed_and_given_up() {
    let cluster = Cluster::start(1, 1).await;
    let fs = cluster.connect().await;
    fs.write("/a", "old", CreateOptions::default()).await.unwrap();
    let edit = fs.edit("/a", EditOptions::default()).await.unwrap();
    edit.write_at(0, b"new").await.unwrap();
    let lease = *cluster.master.state.lock().leases.keys().next().unwrap();
    cluster.master.recall_leases(&[lease]);
    until("it is committed", || cluster.master.state.lock().leases.is_empty()).await;
    assert_eq!(fs.read("/a").await.unwrap(), "new");
    edit.append(b"er").await.unwrap();
    edit.close().await.unwrap();
    assert_eq!(fs.read("/a").await.unwrap(), "newer", "it goes on under another lease");
}

#[test]
fn a_program_without_a_runtime_edits_too() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cluster = runtime.block_on(Cluster::start(1, 1));
    let fs = crate::blocking::FileSystem::connect(cluster.config().build()).unwrap();
    fs.write("/a", "one", CreateOptions::default()).unwrap();
    let edit = fs.edit("/a", EditOptions::default()).unwrap();
    edit.write_at(3, b" two").unwrap();
    assert_eq!(edit.append(b" three").unwrap(), 7);
    edit.commit(true).unwrap();
    edit.close().unwrap();
    fs.append("/a", "!").unwrap();
    fs.truncate("/a", 3).unwrap();
    assert_eq!(fs.read("/a").unwrap(), "one");
}
