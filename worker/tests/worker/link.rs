//! The link to the master: registration, resync, restarts of either side, other clusters, stopping.

use std::{sync::atomic::Ordering, time::Duration};

use larder_common::{ClusterId, ErrorKind, WriteType};
use larder_proto::v1::{self, order};
use tokio_util::sync::CancellationToken;

use crate::{
    master::eventually,
    site::{MIB, Site, content, start_worker},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_in_the_reports_is_mended() {
    let site = Site::new("32MB").await;
    let first = site.file("a", &content(MIB, 1)).await;
    site.master.state.drop_next_changes.store(true, Ordering::SeqCst);
    site.read(&first, 0, MIB).await.unwrap();
    let key = first.file.0;
    eventually("the lost change is told by the pages", || site.master.held(key, 1) == [0]).await;
    assert!(site.master.state.seen.lock().full_reports >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_restarts_is_found_again() {
    let mut site = Site::new("32MB").await;
    let grant = site.file("a", &content(2 * MIB, 2)).await;
    site.read(&grant, 0, grant.length).await.unwrap();
    let registrations = site.counter("larder_registrations_total");
    let old = std::mem::replace(&mut site.master, crate::master::Master::start("/").await);
    old.state.seen.lock().held.clear();
    site.master = old.restart(Duration::from_millis(300)).await;
    assert!(site.read(&grant, 0, grant.length).await.is_ok(), "readers go on while it is away");
    eventually("it registers again", || site.counter("larder_registrations_total") > registrations).await;
    eventually("and reports again", || site.master.held(grant.file.0, 1) == [0, 1]).await;
    let pin = v1::OrderPin { file: grant.file.0, generation: 1, pinned: true };
    assert_eq!(site.master.order(order::What::Pin(pin)).await.failure, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_restarts_keeps_its_id_and_its_content() {
    let mut site = Site::new("32MB").await;
    let grant = site.to_write(100, WriteType::MustCache);
    let bytes = content(MIB + 3, 3);
    site.write(&grant, &bytes, vec![]).await.unwrap();
    let id = site.worker().id();
    drop(site.worker.take());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let incarnation = |site: &Site| site.master.state.seen.lock().registers.last().unwrap().address.clone().unwrap();
    let before = incarnation(&site).incarnation;
    site.master.state.seen.lock().held.clear();
    site.start().await;
    assert_eq!(site.worker().id(), id);
    assert!(incarnation(&site).incarnation > before);
    eventually("its content is told", || site.master.held(100, 101) == [0, 1]).await;
    let read = larder_proto::Grant { length: bytes.len() as u64, write: None, ..grant };
    assert!(site.read(&read, 0, read.length).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_worker_does_not_follow_a_master_of_another_cluster() {
    let mut site = Site::new("32MB").await;
    let grant = site.to_write(100, WriteType::MustCache);
    site.write(&grant, &content(1000, 4), vec![]).await.unwrap();
    let worker = site.worker.take().unwrap();
    let running = tokio::spawn(worker.run());
    let old = std::mem::replace(&mut site.master, crate::master::Master::start("/").await);
    *old.state.cluster.lock() = ClusterId([8; 16]);
    site.master = old.restart(Duration::from_millis(50)).await;
    let ended = tokio::time::timeout(Duration::from_secs(15), running).await.unwrap().unwrap();
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    let (ours, theirs) = (ClusterId([7; 16]).to_string(), ClusterId([8; 16]).to_string());
    assert!(error.message().contains(&ours) && error.message().contains(&theirs), "{error}");
    // Started again, it begins a new directory and keeps what the old one has nowhere else.
    let worker = start_worker(site.config.clone(), &site.faults, &site.master, CancellationToken::new()).await.unwrap();
    assert_eq!(worker.cluster(), ClusterId([8; 16]));
    assert_eq!(worker.open_report().left.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_knows_its_cluster_starts_without_the_master() {
    let mut site = Site::new("32MB").await;
    drop(site.worker.take());
    let old = std::mem::replace(&mut site.master, crate::master::Master::start("/").await);
    let address = old.address;
    let state = old.state.clone();
    drop(old);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = larder_proto::Channel::to("127.0.0.1", address.port()).unwrap();
    let (config, stop) = (site.config.clone(), CancellationToken::new());
    let worker = larder_worker::Worker::start(config, Default::default(), listener, channel, stop).await.unwrap();
    assert_eq!(worker.cluster(), ClusterId([7; 16]));
    assert!(!*worker.linked().borrow());
    let _ = state;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_waits_for_an_absent_master_until_it_is_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let spec = format!("MEM:{}:8MB", directory.path().display()).parse().unwrap();
    let config = larder_worker::WorkerConfig::new(directory.path().join("state"), vec![spec]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stop = CancellationToken::new();
    let nobody = larder_proto::Channel::to("127.0.0.1", 1).unwrap();
    let serving = tokio::spawn(larder_worker::serve(config, listener, nobody, stop.clone()));
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!serving.is_finished());
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_proves_what_it_sees() {
    let site = Site::new("32MB").await;
    let name = larder_common::Name::new("proof").unwrap();
    site.store().plant_proof(&name, b"random").await.unwrap();
    let mount = site.master.state.mounts.lock().mounts[0].clone();
    let prove = |name: &'static str, content: &'static str, mount: v1::MountInfo, sample| {
        let (name, content, mount) = (name.into(), content.into(), Some(mount));
        site.master.order(order::What::Prove(v1::OrderProve { mount, name, content, sample }))
    };
    let kind = |done: v1::OrderDone| done.failure.map(|failure| larder_common::Error::from(failure).kind());
    assert_eq!(kind(prove("proof", "random", mount.clone(), vec![]).await), None);
    assert_eq!(kind(prove("proof", "other", mount.clone(), vec![]).await), Some(ErrorKind::Mismatch));
    let elsewhere = tempfile::tempdir().unwrap();
    let other = v1::MountInfo { uri: elsewhere.path().to_str().unwrap().into(), ..mount.clone() };
    assert_eq!(kind(prove("proof", "random", other.clone(), vec![]).await), Some(ErrorKind::Mismatch));
    std::fs::write(site.under.path().join("seen"), "x").unwrap();
    let entry = |e: larder_ufs::SampleEntry| v1::ProofEntry {
        name: e.name.as_bytes().to_vec().into(),
        inode: e.inode,
        size: e.size,
        modified: e.modified.0,
    };
    let sample: Vec<_> = site.store().sample(8).await.unwrap().into_iter().map(entry).collect();
    assert_eq!(kind(prove("", "", mount, sample.clone()).await), None);
    assert_eq!(kind(prove("", "", other, sample).await), Some(ErrorKind::Mismatch));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_content_is_measured_and_dropped_only_when_asked() {
    let site = Site::new("32MB").await;
    let grant = site.to_write(100, WriteType::MustCache);
    site.write(&grant, &content(MIB, 5), vec![]).await.unwrap();
    let unknown = |drop| order::What::Unknown(v1::OrderUnknown { file: 100, generation: 101, drop });
    assert_eq!(site.master.order(unknown(false)).await.bytes, MIB);
    assert!(site.master.order(unknown(true)).await.bytes > 0);
    assert!(site.master.order(unknown(false)).await.failure.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_waits_for_what_can_be_saved_and_no_longer() {
    let mut site = Site::new("32MB").await;
    let grant = site.to_write(100, WriteType::MustCache);
    site.write(&grant, &content(1000, 6), vec![]).await.unwrap();
    let shutdown = CancellationToken::new();
    drop(site.worker.take());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let worker = start_worker(site.config.clone(), &site.faults, &site.master, shutdown.clone()).await.unwrap();
    let socket = worker.sockets()[0].clone();
    let running = tokio::spawn(worker.run());
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(12), running).await.unwrap().unwrap().unwrap();
    assert!(!socket.exists(), "its socket goes with it");
}
