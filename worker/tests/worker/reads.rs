//! Reading over gRPC and by the data protocol: cold, warm, shared, streamed, from peers, and when things go wrong.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use larder_common::{ErrorKind, Generation};
use larder_proto::{GrantKey, greeting::Token, v1};
use rstest::rstest;

use crate::{
    master::eventually,
    site::{By, MIB, Site, content, read, way},
};

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cold_and_then_warm(#[case] by: By) {
    let site = Site::new("32MB").await.by(by);
    let bytes = content(3 * MIB + 17, 1);
    let grant = site.file("f", &bytes).await;
    assert!(site.read(&grant, 0, grant.length).await.unwrap() == bytes);
    let cold = site.fetches();
    assert_eq!(cold, 4, "each block once");
    let (from, to) = (MIB - 3, 2 * MIB + 5);
    assert!(site.read(&grant, from, to - from).await.unwrap() == bytes[from as usize..to as usize]);
    assert!(site.read(&grant, grant.length, 0).await.unwrap().is_empty());
    assert_eq!(site.fetches(), cold, "warm reads fetch nothing");
    eventually("the master knows the blocks", || site.master.held(grant.file.0, 1) == [0, 1, 2, 3]).await;
    assert!(site.counter("larder_read_bytes_total{path=\"stream\"}") >= grant.length);
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_fetch_serves_all_who_wait(#[case] by: By) {
    let site = Site::new("32MB").await.by(by);
    let bytes = content(MIB, 2);
    let grant = site.file("f", &bytes).await;
    site.faults.delay_ms.store(200, Ordering::SeqCst);
    let reads = (0..40).map(|_| site.read(&grant, 0, MIB));
    for read in futures_util::future::join_all(reads).await {
        assert!(read.unwrap() == bytes);
    }
    assert_eq!(site.fetches(), 1);
    assert!(site.counter("larder_fetch_joined_total") >= 30);
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_room_it_is_streamed_and_not_kept(#[case] by: By) {
    let site = Site::with("6MB", |config| config.policy = "LRU".into()).await.by(by);
    // What is left has no room for a block.
    let pinned = site.file("pinned", &content(5 * MIB + MIB / 4, 3)).await;
    site.read(&pinned, 0, pinned.length).await.unwrap();
    site.worker().store().pin(pinned.file);
    let bytes = content(8 * MIB, 4);
    let grant = site.file("large", &bytes).await;
    assert!(site.read(&grant, 0, grant.length).await.unwrap() == bytes);
    assert!(site.counter("larder_unkept_total{reason=\"full\"}") > 0);
    assert!(site.counter("larder_read_bytes_total{path=\"ufs\"}") > 0);
    let before = site.fetches();
    assert!(site.read(&pinned, 0, pinned.length).await.is_ok());
    assert_eq!(site.fetches(), before, "what was pinned is still there");
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_to_be_kept_is_not(#[case] by: By) {
    let site = Site::new("32MB").await.by(by);
    let bytes = content(2 * MIB, 5);
    let grant = site.file("f", &bytes).await;
    let signed = site.master.sign(&grant);
    let seen = site.read_signed(signed, 0, grant.length, v1::ReadType::NoCache).await.unwrap();
    assert!(seen == bytes);
    assert_eq!(site.counter("larder_fetched_blocks_total"), 0);
    assert_eq!(site.counter("larder_unkept_total{reason=\"asked\"}"), 2);
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_are_checked(#[case] by: By) {
    let site = Site::new("32MB").await.by(by);
    let grant = site.file("f", &content(100, 6)).await;
    let forged = grant.sign(&GrantKey { id: 1, secret: [1; 32] });
    let outdated = grant.sign(&GrantKey { id: 5, secret: [1; 32] });
    let kind = |result: larder_common::Result<Vec<u8>>| result.unwrap_err().kind();
    assert_eq!(kind(site.read_signed(forged, 0, 1, v1::ReadType::Cache).await), ErrorKind::Denied);
    assert_eq!(kind(site.read_signed(outdated, 0, 1, v1::ReadType::Cache).await), ErrorKind::Regrant);
    assert_eq!(kind(site.read_signed("x".into(), 0, 1, v1::ReadType::Cache).await), ErrorKind::Invalid);
    assert_eq!(kind(site.read(&grant, 0, 101).await), ErrorKind::Invalid);
    assert_eq!(kind(site.read(&grant, u64::MAX, 2).await), ErrorKind::Invalid);
    assert_eq!(site.counter("larder_grants_refused_total{reason=\"forged\"}"), 2);
    site.master.state.keys_listed.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(kind(site.read(&grant, 0, 1).await), ErrorKind::Regrant, "the master has withdrawn the key");
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_changed_is_never_served_under_the_old_grant(#[case] by: By) {
    let site = Site::new("32MB").await.by(by);
    let old = site.file("f", &content(2 * MIB, 7)).await;
    let new = content(2 * MIB, 8);
    let fresh = larder_proto::Grant { generation: Generation(2), ..site.file("f", &new).await };
    assert_eq!(site.read(&old, 0, MIB).await.unwrap_err().kind(), ErrorKind::Regrant);
    assert!(site.read(&fresh, 0, fresh.length).await.unwrap() == new);
    std::fs::remove_file(site.under.path().join("f")).unwrap();
    let gone = larder_proto::Grant { generation: Generation(3), ..fresh.clone() };
    assert_eq!(site.read(&gone, 0, MIB).await.unwrap_err().kind(), ErrorKind::Regrant);
    assert!(site.read(&fresh, 0, fresh.length).await.unwrap() == new, "what is cached stays readable");
    assert!(site.counter("larder_fetch_changed_total") >= 2);
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_or_stuck_under_store_ends_in_bounded_time(#[case] by: By) {
    let site = Site::with("32MB", |config| config.patience = Duration::from_millis(1000)).await.by(by);
    let bytes = content(2 * MIB, 9);
    let grant = site.file("f", &bytes).await;
    site.faults.fail.store(true, Ordering::SeqCst);
    let error = site.read(&grant, 0, MIB).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("on fire"), "{error}");
    site.faults.fail.store(false, Ordering::SeqCst);
    site.faults.stall.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    assert_eq!(site.read(&grant, 0, MIB).await.unwrap_err().kind(), ErrorKind::Deadline);
    assert!(begun.elapsed() < Duration::from_secs(5));
    site.faults.stall.store(false, Ordering::SeqCst);
    assert!(site.read(&grant, 0, grant.length).await.unwrap() == bytes, "and works again after it");
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_at_once(#[case] by: By) {
    let site = Site::with("12MB", |config| config.policy = "LRU".into()).await.by(by);
    let mut files = Vec::new();
    for n in 0..12 {
        let bytes = content(MIB + n * 100_000, 100 + n);
        files.push((site.file(&format!("f{n}"), &bytes).await, bytes));
    }
    let reads = (0..120u64).map(|n| {
        let (site, (grant, bytes)) = (&site, &files[(n * 7 % 12) as usize]);
        async move {
            let from = n * 8123 % MIB;
            let seen = site.read(grant, from, grant.length - from).await.unwrap();
            assert!(seen == bytes[from as usize..], "reader {n}");
        }
    });
    futures_util::future::join_all(reads).await;
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greeting_is_asked_for_and_its_token_checked(#[case] by: By) {
    let site = Site::with("32MB", |config| config.token = Token::new("secret")).await;
    let port = site.worker().address().port();
    let grant = site.file("f", &content(10, 1)).await;
    let request = v1::ReadRequest { grant: site.master.sign(&grant), length: 10, ..Default::default() };
    let stranger = way(by, port, Token::new("wrong"));
    assert_eq!(read(&stranger, request.clone()).await.unwrap_err().kind(), ErrorKind::Denied);
    let info = stranger.grpc().get_info(v1::Empty {}).await.unwrap_err();
    assert_eq!(larder_proto::from_status(&info).kind(), ErrorKind::Denied);
    let friend = way(by, port, Token::new("secret"));
    assert_eq!(read(&friend, request).await.unwrap().len(), 10);
    let info = friend.grpc().get_info(v1::Empty {}).await.unwrap().into_inner();
    assert_eq!(info.tiers.len(), 1);
    assert!(info.counters["larder_greetings_refused_total"] >= 2);
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_are_loaded_from_a_peer(#[case] by: By) {
    let first = Site::new("32MB").await.by(by);
    let bytes = content(3 * MIB, 11);
    let grant = first.file("f", &bytes).await;
    first.read(&grant, 0, grant.length).await.unwrap();
    let second = Site::new("32MB").await.by(by);
    let peer = first.blocks().get_info(v1::Empty {}).await.unwrap().into_inner().address.unwrap();
    let peer = v1::WorkerAddress { host: "127.0.0.1".into(), ..peer };
    let runs = vec![v1::BlockRun { first: 0, count: 3 }];
    let order = v1::OrderLoad { grant: second.master.sign(&grant), runs: runs.clone(), peers: vec![peer] };
    let done = second.master.order(v1::order::What::Load(order)).await;
    assert_eq!((done.failure, done.bytes), (None, 3 * MIB));
    assert_eq!(second.fetches(), 0, "nothing came from the under store");
    assert!(second.read(&grant, 0, grant.length).await.unwrap() == bytes);
    let load = v1::LoadRequest { grant: second.master.sign(&grant), runs, peers: vec![] };
    let mut replies = second.blocks().load(load).await.unwrap().into_inner();
    let mut cached = 0;
    while let Some(reply) = replies.message().await.unwrap() {
        assert!(reply.failure.is_none());
        cached += u64::from(reply.was_cached);
    }
    assert_eq!(cached, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_gone_costs_a_detour() {
    let site = Site::new("32MB").await;
    let bytes = content(MIB, 12);
    let grant = site.file("f", &bytes).await;
    let gone = v1::WorkerAddress {
        id: vec![3; 16].into(),
        incarnation: 1,
        host: "127.0.0.1".into(),
        port: 1,
        ..Default::default()
    };
    let runs = vec![v1::BlockRun { first: 0, count: 1 }];
    let order = v1::OrderLoad { grant: site.master.sign(&grant), runs: runs.clone(), peers: vec![gone.clone()] };
    assert_eq!(site.master.order(v1::order::What::Load(order)).await.failure, None);
    assert_eq!(site.fetches(), 1);
    // Content that is nowhere else cannot come from anywhere then.
    let only_there = larder_proto::Grant { generation: Generation(9), fingerprint: None, persisted: false, ..grant };
    let order = v1::OrderLoad { grant: site.master.sign(&only_there), runs, peers: vec![gone] };
    assert!(site.master.order(v1::order::What::Load(order)).await.failure.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_stops_when_the_cache_is_full_of_it() {
    let site = Site::with("6MB", |config| config.policy = "LRU".into()).await;
    let grant = site.file("f", &content(12 * MIB, 13)).await;
    let runs = vec![v1::BlockRun { first: 0, count: 12 }];
    let load = v1::LoadRequest { grant: site.master.sign(&grant), runs, peers: vec![] };
    let mut replies = site.blocks().load(load).await.unwrap().into_inner();
    let (mut loaded, mut refused) = (0, 0);
    while let Some(reply) = replies.message().await.unwrap() {
        match reply.failure {
            None => loaded += 1,
            Some(failure) => {
                assert_eq!(larder_common::Error::from(failure).kind(), ErrorKind::NoSpace);
                refused += 1;
            }
        }
    }
    assert!(loaded >= 3 && refused >= 3, "{loaded} loaded, {refused} refused");
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_in_order_is_fetched_ahead(#[case] by: By) {
    let site = Site::new("64MB").await.by(by);
    let grant = site.file("f", &content(24 * MIB, 14)).await;
    site.read(&grant, 0, grant.length).await.unwrap();
    assert!(site.counter("larder_read_ahead_blocks_total") > 4);
    assert_eq!(site.fetches(), 24, "each block once");
}
