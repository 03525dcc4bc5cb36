//! The session: exactly once across broken streams, invalidations, and an end to every wait.

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use larder_common::ErrorKind;

use super::until;
use crate::{
    FileSystem, MkdirOptions, RemoveOptions,
    fake::{Cluster, pattern},
    master::LinkState,
};

fn is_up(fs: &FileSystem) -> bool {
    matches!(&*fs.0.link.state.borrow(), LinkState::Up)
}

#[tokio::test]
async fn calls_at_the_same_time_share_messages() {
    let cluster = Cluster::start(0, 0).await;
    let fs = cluster.connect().await;
    let make = |i: usize| {
        let fs = fs.clone();
        async move { fs.mkdir(format!("/d{i}"), MkdirOptions::default()).await }
    };
    let made = futures_util::future::join_all((0..200).map(make)).await;
    assert!(made.iter().all(Result::is_ok));
    assert_eq!(cluster.master.executed.load(SeqCst), 200);
    let messages = cluster.master.messages.load(SeqCst);
    assert!(messages <= 100, "{messages} messages for 200 calls");
    assert_eq!(cluster.master.numbers_wrong.load(SeqCst), 0);
}

#[tokio::test]
async fn a_call_whose_answer_was_lost_happens_once() {
    let cluster = Cluster::start(0, 0).await;
    let fs = cluster.connect().await;
    cluster.master.cut_before_answer.store(true, SeqCst);
    fs.mkdir("/once", MkdirOptions::default()).await.unwrap();
    assert_eq!(cluster.master.executed.load(SeqCst), 1);
    cluster.master.cut_streams();
    until("the cut is seen", || !is_up(&fs)).await;
    fs.mkdir("/next", MkdirOptions::default()).await.unwrap();
    assert_eq!(cluster.master.numbers_wrong.load(SeqCst), 0);
}

#[tokio::test]
async fn a_call_of_a_lost_session_may_or_may_not_have_happened() {
    let cluster = Cluster::start(0, 0).await;
    let fs = cluster.connect().await;
    cluster.master.mute.store(true, SeqCst);
    let call = |allow_exists| {
        let (fs, options) = (fs.clone(), MkdirOptions { allow_exists, ..MkdirOptions::default() });
        tokio::spawn(async move { fs.mkdir(format!("/{allow_exists}"), options).await })
    };
    let (once, again) = (call(false), call(true));
    until("both are sent", || cluster.master.executed.load(SeqCst) == 2).await;
    cluster.master.mute.store(false, SeqCst);
    cluster.master.forget_sessions();
    cluster.master.cut_streams();
    let error = once.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("may or may not"), "{error}");
    again.await.unwrap().expect("what can be repeated is repeated");
}

#[tokio::test]
async fn a_silent_master_ends_in_an_error() {
    let cluster = Cluster::start(0, 0).await;
    let fs = FileSystem::connect(cluster.config().timeout(Duration::from_millis(300)).build()).await.unwrap();
    cluster.master.mute.store(true, SeqCst);
    let began = Instant::now();
    let error = fs.mkdir("/a", MkdirOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(error.advice().unwrap().contains("may or may not"));
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn no_master_is_an_error_that_says_where() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let config =
        crate::Config::builder().master("127.0.0.1", port).unwrap().timeout(Duration::from_millis(300)).build();
    let error = FileSystem::connect(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains(&port.to_string()) && error.message().contains("refused"), "{error}");
}

#[tokio::test]
async fn invalidations_are_carried_out_before_they_are_acknowledged() {
    let cluster = Cluster::start(1, 1).await;
    let (id, _) = cluster.put("/a", b"old", &[0]);
    cluster.put("/cold", &pattern(3_000_000), &[]);
    let fs = cluster.connect().await;
    assert_eq!(&fs.read("/a").await.unwrap()[..], b"old");
    let open = fs.open("/a").await.unwrap();
    let cold = fs.open("/cold").await.unwrap();
    let (cold_id, _) = (cold.status().id.0, ());
    cluster.put("/a", b"newer", &[0]);
    assert_eq!(&fs.read("/a").await.unwrap()[..], b"old", "nobody has said anything yet");
    cluster.master.invalidate(5, &[id, cold_id], &[], false);
    until("acknowledged", || !cluster.master.acknowledged.lock().is_empty()).await;
    let acknowledged = cluster.master.acknowledged.lock()[0].clone();
    assert_eq!((acknowledged.sequence, acknowledged.still_open), (5, vec![cold_id]), "the other one lies here whole");
    assert_eq!(&fs.read("/a").await.unwrap()[..], b"newer");
    assert_eq!(&open.read_range(0..3).await.unwrap()[..], b"old", "an open file is one version");
}

#[tokio::test]
async fn what_the_master_was_told_to_be_here_stays_until_it_is_closed() {
    let cluster = Cluster::start(1, 1).await;
    let bytes = pattern(50_000);
    let (id, _) = cluster.put("/a", &bytes, &[0]);
    let fs = cluster.connect().await;
    let open = fs.open("/a").await.unwrap();
    assert!(open.read_range(0..50_000).await.unwrap()[..] == bytes[..]);
    cluster.put("/a", b"newer", &[0]);
    cluster.master.invalidate(5, &[id], &[], false);
    until("acknowledged", || !cluster.master.acknowledged.lock().is_empty()).await;
    assert!(cluster.master.acknowledged.lock()[0].still_open.is_empty(), "it lies here whole");
    // The content is over: its worker wants it back, and nobody else has it.
    let lease = *cluster.workers[0].leases.lock().first().unwrap();
    cluster.workers[0].recall(&[lease]).await;
    fs.0.caches.residents.shrink();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(cluster.workers[0].leases.lock().contains(&lease), "somebody reads it");
    assert!(open.read_range(0..50_000).await.unwrap()[..] == bytes[..]);
    drop(open);
    until("given back", || !cluster.workers[0].leases.lock().contains(&lease)).await;
}

#[tokio::test]
async fn nothing_is_remembered_across_connections_and_leases_are() {
    let cluster = Cluster::start(1, 1).await;
    cluster.put("/a", &pattern(5000), &[0]);
    let fs = cluster.connect().await;
    fs.read("/a").await.unwrap();
    let before = (cluster.master.asked.load(SeqCst), cluster.workers[0].requests.load(SeqCst));
    cluster.master.cut_streams();
    until("the cut is seen", || !is_up(&fs)).await;
    until("connected again", || is_up(&fs)).await;
    fs.read("/a").await.unwrap();
    assert!(cluster.master.asked.load(SeqCst) > before.0, "asked again");
    assert_eq!(cluster.workers[0].requests.load(SeqCst), before.1, "and the descriptor was kept");
}

#[tokio::test]
async fn the_trust_is_kept_up_by_keep_alives() {
    let cluster = Cluster::start(0, 0).await;
    let fs = cluster.connect().await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(fs.0.link.trust.holds(Instant::now()), "the fake's lease is 3 s, and 70 % of it are over");
}

#[tokio::test]
async fn the_last_handle_closes_the_session() {
    let cluster = Cluster::start(1, 1).await;
    cluster.put("/a", &pattern(10), &[0]);
    let fs = cluster.connect().await;
    let file = fs.open("/a").await.unwrap();
    drop(fs);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(cluster.master.state.lock().sessions.len(), 1, "an open file keeps it");
    drop(file);
    until("closed", || cluster.master.state.lock().sessions.is_empty()).await;
}

#[tokio::test]
async fn a_close_is_heard_before_it_returns() {
    let cluster = Cluster::start(0, 0).await;
    let fs = cluster.connect().await;
    let clone = fs.clone();
    fs.close().await;
    assert!(cluster.master.state.lock().sessions.is_empty());
    let error = clone.mkdir("/late", MkdirOptions::default()).await.unwrap_err();
    assert!(error.message().contains("closed"), "{error}");
}

#[tokio::test]
async fn dropped_calls_corrupt_no_slot() {
    let cluster = Cluster::start(1, 1).await;
    let fs = cluster.connect().await;
    for i in 0..300u64 {
        let fs = fs.clone();
        let call = async move {
            fs.mkdir(format!("/d{i}"), MkdirOptions::default()).await.unwrap();
            fs.remove(format!("/d{i}"), RemoveOptions::default()).await.unwrap();
        };
        drop(tokio::time::timeout(Duration::from_micros(i * 5), call).await);
    }
    fs.mkdir("/last", MkdirOptions::default()).await.unwrap();
    assert_eq!(cluster.master.numbers_wrong.load(SeqCst), 0);
}

#[tokio::test]
async fn the_rest_of_the_calls_arrive() {
    use crate::{AttributeChanges, FreeOptions, MountOptions, RenameOptions, XattrMode};
    let cluster = Cluster::start(1, 0).await;
    cluster.put("/a", b"x", &[]);
    let fs = cluster.connect().await;
    fs.rename("/a", "/b", RenameOptions::default()).await.unwrap();
    fs.link("/b", "/c").await.unwrap();
    fs.symlink("../x", "/d").await.unwrap();
    fs.set_attributes("/b", AttributeChanges { mode: Some(0o600), ..AttributeChanges::default() }).await.unwrap();
    fs.set_xattr("/b", b"user.a", "b", XattrMode::Any).await.unwrap();
    fs.remove_xattr("/b", b"user.a").await.unwrap();
    assert_eq!(fs.xattr("/b", b"user.a").await.unwrap().unwrap(), "b");
    fs.free("/", FreeOptions { recursive: true, forced: false }).await.unwrap();
    fs.persist("/", true).await.unwrap();
    fs.pin("/b").await.unwrap();
    fs.unpin("/b").await.unwrap();
    fs.set_ttl("/b", None).await.unwrap();
    fs.set_replication("/b", 2, false).await.unwrap();
    fs.set_policy("/", Some("LRU")).await.unwrap();
    fs.mount("/m", "file:///x", MountOptions::default()).await.unwrap();
    fs.unmount("/m").await.unwrap();
    fs.ping().await.unwrap();
    assert_eq!(fs.mounts().await.unwrap()[0].uri, "file:///x");
    assert_eq!(fs.report().await.unwrap().workers.len(), 1);
    assert_eq!(fs.remove("/a", RemoveOptions::default()).await.unwrap().files, 1);
    assert_eq!(cluster.master.executed.load(SeqCst), 16);
}
