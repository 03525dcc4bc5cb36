//! Short circuit: descriptors, leases, waits, recalls, and clients that misbehave.

use std::{os::unix::fs::FileExt, sync::atomic::Ordering, time::Duration};

use larder_common::{ErrorKind, FileId, Generation};
use larder_proto::v1::{self, short_reply, short_request::What as Ask};

use crate::{
    master::eventually,
    site::{CLUSTER, MIB, Short, Site, content, item},
};

fn bytes_of(file: &std::fs::File, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_are_fetched_whole_and_read_through_descriptors() {
    let site = Site::new("32MB").await;
    let bytes = content(100_000, 1);
    let grant = site.file("f", &bytes).await;
    let short = site.short().await;
    let cold = short.lease(vec![item(site.master.sign(&grant), false)]).await.unwrap();
    assert_eq!(cold.0[0].failure.as_ref().unwrap().kind, ErrorKind::NotFound as u32);
    assert!(cold.1.is_empty());
    let (answers, files) = short.lease(vec![item(site.master.sign(&grant), true)]).await.unwrap();
    assert_eq!(answers[0].failure, None);
    assert_eq!((answers[0].length, answers[0].file), (100_000, grant.file.0));
    assert_eq!(answers[0].whole, [v1::BlockRun { first: 0, count: 1 }]);
    assert!(bytes_of(&files[0], bytes.len()) == bytes);
    assert!(files[0].write_at(b"x", 0).is_err(), "the descriptor is for reading only");
    assert_eq!(site.counter("larder_leases"), 1);
    short.tell(Ask::Return(v1::ShortReturn { leases: vec![answers[0].lease] })).await;
    eventually("the lease is given back", || site.counter("larder_leases") == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_answered_in_order_with_a_descriptor_for_each() {
    let site = Site::new("64MB").await;
    let mut grants = Vec::new();
    for n in 0..253u64 {
        std::fs::write(site.under.path().join(format!("f{n}")), format!("content {n}")).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    for n in 0..253u64 {
        let name = format!("f{n}");
        let fingerprint = site.fingerprint(&name).await;
        let like = larder_proto::Grant {
            length: fingerprint.size,
            file: FileId(1000 + n),
            object: name.into(),
            fingerprint: Some(fingerprint),
            ..site_grant(&site)
        };
        grants.push(site.master.sign(&like));
    }
    let short = site.short().await;
    let mut items: Vec<_> = grants.iter().map(|grant| item(grant.clone(), true)).collect();
    items[7].grant = "forged".into();
    let (answers, files) = short.lease(items.clone()).await.unwrap();
    assert_eq!((answers.len(), files.len()), (253, 252));
    let mut files = files.into_iter();
    for (n, answer) in answers.iter().enumerate() {
        if n == 7 {
            assert_eq!(answer.failure.as_ref().unwrap().kind, ErrorKind::Invalid as u32);
            continue;
        }
        assert_eq!(answer.file, 1000 + n as u64);
        let text = format!("content {n}");
        assert_eq!(bytes_of(&files.next().unwrap(), text.len()), text.as_bytes());
    }
    items.push(item(grants[0].clone(), true));
    assert_eq!(short.lease(items).await.unwrap_err().kind(), ErrorKind::Invalid, "254 do not go in a packet");
}

fn site_grant(site: &Site) -> larder_proto::Grant {
    let grant = site.to_write(1, larder_common::WriteType::MustCache);
    larder_proto::Grant { write: None, persisted: true, ..grant }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_cold_file_is_read_as_it_arrives() {
    let site = Site::new("64MB").await;
    let bytes = content(6 * MIB, 2);
    let grant = site.file("f", &bytes).await;
    let signed = site.master.sign(&grant);
    let short = site.short().await;
    let first = v1::ShortLeaseItem { offset: Some(0), ..item(signed.clone(), false) };
    let (answers, files) = short.lease(vec![first]).await.unwrap();
    assert_eq!(answers[0].failure, None);
    let mut at = 0;
    while at < grant.length {
        let length = (MIB / 2).min(grant.length - at);
        let wait =
            v1::ShortWait { lease: answers[0].lease, grant: signed.clone(), offset: at, length, ..Default::default() };
        let ready = short.wait(wait).await.unwrap();
        assert!(ready.kept && !ready.elsewhere && ready.valid_to >= at + length, "{ready:?}");
        let mut part = vec![0; (ready.valid_to - at) as usize];
        files[0].read_exact_at(&mut part, at).unwrap();
        assert!(part == bytes[at as usize..ready.valid_to as usize]);
        at = ready.valid_to;
    }
    assert_eq!(site.fetches(), 6);
    let strange = v1::ShortWait { lease: 99, grant: signed, offset: 0, length: 1, ..Default::default() };
    assert_eq!(short.wait(strange).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_room_the_client_is_told_to_stream() {
    let site = Site::with("6MB", |config| config.policy = "LRU".into()).await;
    let pinned = site.file("pinned", &content(4 * MIB, 3)).await;
    site.read(&pinned, 0, pinned.length).await.unwrap();
    site.worker().store().pin(pinned.file);
    let grant = site.file("f", &content(2 * MIB, 4)).await;
    let short = site.short().await;
    let (answers, _) = short.lease(vec![item(site.master.sign(&grant), true)]).await.unwrap();
    assert_eq!(answers[0].failure.as_ref().unwrap().kind, ErrorKind::NoSpace as u32);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_held_is_released_when_it_goes() {
    let site = Site::new("32MB").await;
    let grant = site.file("f", &content(50_000, 5)).await;
    let short = site.short().await;
    let (_, files) = short.lease(vec![item(site.master.sign(&grant), true)]).await.unwrap();
    let write = site.to_write(500, larder_common::WriteType::MustCache);
    let ask = v1::ShortWrite { grant: site.master.sign(&write), reserve: 1000, ..Default::default() };
    let written = short.ask(Ask::Write(ask)).await.unwrap();
    assert_eq!(written.descriptors.len(), 1);
    assert_eq!(site.worker().store().uncommitted().len(), 1);
    assert_eq!(site.counter("larder_short_circuit_connections"), 1);
    drop((short, files, written));
    eventually("everything is released", || {
        site.counter("larder_leases") == 0
            && site.counter("larder_short_circuit_connections") == 0
            && site.worker().store().uncommitted().is_empty()
            && site.worker().store().leased(10).is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_of_content_that_is_over_are_asked_back() {
    let site = Site::new("32MB").await;
    let bytes = content(50_000, 6);
    let grant = site.file("f", &bytes).await;
    let short = site.short().await;
    let (answers, files) = short.lease(vec![item(site.master.sign(&grant), true)]).await.unwrap();
    let forget = v1::OrderForget { file: grant.file.0, generation: 1, lease: 0 };
    let done = site.master.order(v1::order::What::Forget(forget)).await;
    assert_eq!(done.failure, None);
    match short.next().await.message.what {
        Some(short_reply::What::Recall(recall)) => assert_eq!(recall.leases, [answers[0].lease]),
        other => panic!("{other:?}"),
    }
    assert!(bytes_of(&files[0], bytes.len()) == bytes, "the descriptor stays right as long as it is held");
    short.tell(Ask::Return(v1::ShortReturn { leases: vec![answers[0].lease] })).await;
    drop(files);
    eventually("its memory comes back", || {
        site.worker().store().usage()[0].directories.iter().all(|directory| directory.zombie == 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_asked_back_when_memory_is_short() {
    let site = Site::with("7MB", |config| {
        config.policy = "LRU".into();
        (config.watermark_low, config.watermark_high) = (65, 70);
    })
    .await;
    let short = site.short().await;
    let mut held = Vec::new();
    for n in 0..4 {
        let grant = site.file(&format!("f{n}"), &content(MIB, 20 + n)).await;
        let (_, files) = short.lease(vec![item(site.master.sign(&grant), true)]).await.unwrap();
        held.extend(files);
    }
    assert_eq!(held.len(), 4);
    let write = site.to_write(500, larder_common::WriteType::MustCache);
    site.write(&write, &content(MIB, 30), vec![]).await.unwrap();
    let pushed = short.pushed.lock().pop();
    let pushed = match pushed {
        Some(pushed) => pushed,
        None => short.next().await.message.what.unwrap(),
    };
    assert!(matches!(pushed, short_reply::What::Recall(recall) if !recall.leases.is_empty()));
    assert!(site.counter("larder_leases_recalled_total") > 0);
}

/// What is leased leaves less than the next file needs, and is below the mark.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_asked_back_when_a_miss_finds_no_room_below_the_mark() {
    let site = Site::with("8MB", |config| config.policy = "LRU".into()).await;
    let short = site.short().await;
    let mut held = std::collections::HashMap::new();
    for n in 0..4 {
        let grant = site.file(&format!("f{n}"), &content(3 * MIB / 2, 20 + n)).await;
        let (answers, files) = short.lease(vec![item(site.master.sign(&grant), true)]).await.unwrap();
        held.insert(answers[0].lease, files);
    }
    let used = site.worker().store().usage()[0].directories[0].used;
    assert!(used < 8 * MIB / 100 * 95, "{used} bytes are above the mark");
    let grant = site.file("more", &content(5 * MIB / 2, 30)).await;
    for _ in 0..100 {
        let (answers, _) = short.lease(vec![item(site.master.sign(&grant), true)]).await.unwrap();
        if answers[0].failure.is_none() {
            assert!(site.counter("larder_leases_recalled_total") > 0);
            return;
        }
        let pushed = std::mem::take(&mut *short.pushed.lock());
        for what in pushed {
            let short_reply::What::Recall(recall) = what else { continue };
            recall.leases.iter().for_each(|lease| drop(held.remove(lease)));
            short.tell(Ask::Return(v1::ShortReturn { leases: recall.leases })).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("what is leased is never asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_turned_away() {
    let site = Site::new("32MB").await;
    let path = &site.worker().sockets()[0];
    let other = larder_proto::shortcircuit::Socket::connect(path).unwrap();
    let hello = v1::ShortHello { format: 1, features: 0, cluster: vec![1; 16].into() };
    other.send(&v1::ShortRequest { tag: 3, what: Some(Ask::Hello(hello)) }, &[]).await.unwrap();
    let reply: v1::ShortReply = other.receive().await.unwrap().unwrap().message;
    match reply.what {
        Some(short_reply::What::Failure(failure)) => assert_eq!(failure.kind, ErrorKind::Mismatch as u32),
        other => panic!("{other:?}"),
    }
    assert!(other.receive::<v1::ShortReply>().await.unwrap().is_none(), "and disconnected");
    let rude = larder_proto::shortcircuit::Socket::connect(path).unwrap();
    rude.send(&v1::ShortRequest { tag: 1, what: Some(Ask::Lease(v1::ShortLease::default())) }, &[]).await.unwrap();
    let reply: v1::ShortReply = rude.receive().await.unwrap().unwrap().message;
    assert!(matches!(reply.what, Some(short_reply::What::Failure(_))));
    let _ = CLUSTER;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_no_answers_holds_up_nobody() {
    let site = Site::new("32MB").await;
    let grant = site.file("f", &content(10_000, 7)).await;
    let signed = site.master.sign(&grant);
    let stuck = site.short().await;
    // Answers nobody takes: the socket's buffer fills, and the worker stops reading from this client.
    let flood = async {
        for _ in 0..3000 {
            stuck.tell(Ask::Lease(v1::ShortLease { items: vec![item(signed.clone(), true)] })).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(700), flood).await;
    let other = site.short().await;
    let answered = tokio::time::timeout(Duration::from_secs(2), other.lease(vec![item(signed.clone(), true)])).await;
    assert_eq!(answered.expect("the other is answered").unwrap().1.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_requests_do_not_hold_up_others_of_the_same_client() {
    let site = Site::new("32MB").await;
    let warm = site.file("warm", &content(1000, 8)).await;
    let cold = site.file("cold", &content(1000, 9)).await;
    let short = site.short().await;
    short.lease(vec![item(site.master.sign(&warm), true)]).await.unwrap();
    site.faults.delay_ms.store(500, Ordering::SeqCst);
    let slow = short.tell(Ask::Lease(v1::ShortLease { items: vec![item(site.master.sign(&cold), true)] })).await;
    let fast = short.tell(Ask::Lease(v1::ShortLease { items: vec![item(site.master.sign(&warm), false)] })).await;
    assert_eq!(short.next().await.message.tag, fast);
    assert_eq!(short.next().await.message.tag, slow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn touches_are_taken_and_nonsense_in_them_is_ignored() {
    let site = Site::new("32MB").await;
    let short = site.short().await;
    let endless = v1::BlockRun { first: 0, count: u32::MAX };
    let touched = v1::Touched { file: 1, generation: Generation(1).0, runs: vec![endless], count: u32::MAX };
    short.tell(Ask::Touches(v1::Touches { files: vec![touched] })).await;
    let grant = site.file("f", &content(10, 1)).await;
    assert_eq!(short.lease(vec![item(site.master.sign(&grant), true)]).await.unwrap().1.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_places_of_the_socket_work() {
    let directory = tempfile::tempdir().unwrap();
    let named = directory.path().join("sockets");
    let site = Site::with("32MB", |config| {
        config.socket = Some(named.clone());
        config.socket_as_uuid = true;
    })
    .await;
    let sockets = site.worker().sockets();
    assert_eq!(sockets[0], named.join(site.worker().id().to_string()));
    assert!(sockets[1].starts_with(site.tier.path()));
    for path in sockets {
        Short::connect(path).await;
    }
    let told = site.master.state.seen.lock().registers.last().unwrap().address.clone().unwrap();
    assert_eq!(told.sockets.len(), 2);
}
