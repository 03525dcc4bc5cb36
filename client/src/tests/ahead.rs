//! Walks: files leased before they are asked for, how many of them, and what is told all the same.

use std::sync::atomic::Ordering::SeqCst;

use super::until;
use crate::{
    FileSystem,
    fake::{Cluster, pattern},
};

const COUNT: usize = 100;
const LENGTH: usize = 20_000;

fn path(n: usize) -> String {
    format!("/d/{n:03}")
}

/// File n begins with the byte n.
fn bytes(n: usize) -> Vec<u8> {
    let mut bytes = pattern(LENGTH);
    bytes[0] = n as u8;
    bytes
}

async fn cluster() -> (Cluster, FileSystem) {
    let cluster = Cluster::start(1, 1).await;
    cluster.workers[0].ahead.store(true, SeqCst);
    cluster.master.directory("/d");
    for n in 0..COUNT {
        cluster.put(&path(n), &bytes(n), &[]);
    }
    let fs = cluster.connect().await;
    (cluster, fs)
}

async fn read(fs: &FileSystem, n: usize) {
    assert!(fs.read(path(n)).await.unwrap() == bytes(n), "file {n}");
}

/// Waits until everything that was asked for ahead has come.
async fn quiet(fs: &FileSystem) {
    until("the siblings are known and leased", || fs.0.ahead.is_busy() == (false, 0)).await;
}

fn leases(cluster: &Cluster) -> usize {
    cluster.workers[0].leases.lock().len()
}

fn messages(cluster: &Cluster) -> (u64, u64) {
    (cluster.master.asked.load(SeqCst), cluster.workers[0].requests.load(SeqCst))
}

#[tokio::test]
async fn a_walked_directory_is_leased_ahead_in_any_order() {
    let (cluster, fs) = cluster().await;
    // 37 and 100 have no common divisor: each file once, in no order.
    let order: Vec<usize> = (0..COUNT).map(|i| (i * 37 + 11) % COUNT).collect();
    for n in &order[..10] {
        read(&fs, *n).await;
        quiet(&fs).await;
    }
    until("all are leased", || leases(&cluster) == COUNT).await;
    let before = messages(&cluster);
    for n in &order {
        read(&fs, *n).await;
    }
    assert_eq!(messages(&cluster), before, "the rest costs no message");
    assert!(before.0 < 20 && before.1 < 30, "{before:?}");
    assert_eq!(fs.0.ahead.unread(), (0, 0), "all was read");
}

#[tokio::test]
async fn a_walk_that_is_abandoned_has_leased_a_window() {
    let (cluster, fs) = cluster().await;
    for (n, window) in [(50, 0), (20, 8), (70, 16), (3, 32)] {
        read(&fs, n).await;
        quiet(&fs).await;
        let unread = fs.0.ahead.unread().0;
        assert!(unread <= window, "{unread} leased ahead, the window is {window}");
    }
    assert!(leases(&cluster) >= 8 && leases(&cluster) <= 36, "{}", leases(&cluster));
    let off = FileSystem::connect(cluster.config().read_ahead(larder_common::ByteSize(0)).build()).await.unwrap();
    let before = leases(&cluster);
    for n in 90..95 {
        read(&off, n).await;
    }
    assert_eq!(leases(&cluster), before + 5, "without read-ahead only what is read");
}

#[tokio::test]
async fn what_is_leased_ahead_is_never_stale() {
    let (cluster, fs) = cluster().await;
    for n in 0..6 {
        read(&fs, n).await;
        quiet(&fs).await;
    }
    until("all are leased", || leases(&cluster) == COUNT).await;
    let new = pattern(LENGTH / 2);
    let version = cluster.put(&path(99), &new, &[]);
    cluster.master.invalidate(1, &[version.0], &[], false);
    until("it is acknowledged", || !cluster.master.acknowledged.lock().is_empty()).await;
    assert!(fs.read(path(99)).await.unwrap() == new);
    until("the old lease is given back", || leases(&cluster) == COUNT).await;
    assert_eq!(fs.0.ahead.unread().0, COUNT - 7);
}

#[tokio::test]
async fn a_file_that_is_wanted_waits_for_no_packet() {
    let (cluster, fs) = cluster().await;
    cluster.workers[0].mute_ahead.store(true, SeqCst);
    for n in 0..20 {
        read(&fs, n).await;
        until("the siblings are known", || !fs.0.ahead.is_busy().0).await;
    }
    assert!(cluster.workers[0].ahead_packets.load(SeqCst) <= 2, "few packets at a time");
    assert_eq!(leases(&cluster), 20);
    cluster.workers[0].mute_ahead.store(false, SeqCst);
    cluster.workers[0].cut();
    until("nothing is expected any more", || fs.0.ahead.is_busy() == (false, 0)).await;
    for n in 0..COUNT {
        read(&fs, n).await;
    }
    assert_eq!(fs.0.ahead.unread(), (0, 0));
}

#[tokio::test]
async fn what_is_leased_ahead_is_given_back_when_asked() {
    let (cluster, fs) = cluster().await;
    for n in 0..6 {
        read(&fs, n).await;
        quiet(&fs).await;
    }
    until("all are leased", || leases(&cluster) == COUNT).await;
    let all: Vec<u64> = cluster.workers[0].leases.lock().iter().copied().collect();
    cluster.workers[0].recall(&all).await;
    until("all are given back", || leases(&cluster) == 0).await;
    assert_eq!(fs.0.ahead.unread(), (0, 0));
    read(&fs, 77).await;
}
