//! Writing: by stream and by descriptor, into the cache, the under store, or both; copies; persisting later.

use std::{os::unix::fs::FileExt, sync::atomic::Ordering, time::Duration};

use larder_common::{ErrorKind, WriteType, checksum::crc32c};
use larder_proto::{
    Grant,
    v1::{self, order, short_reply, short_request::What as Ask},
};
use rstest::rstest;

use crate::{
    master::eventually,
    site::{By, MIB, Short, Site, content},
};

/// A grant to read what was written under a grant to write.
fn to_read(grant: &Grant, length: u64) -> Grant {
    Grant { length, write: None, ..grant.clone() }
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_type_by_stream(#[case] by: By) {
    let site = Site::new("64MB").await.by(by);
    let bytes = content(3 * MIB + 5, 1);
    for (n, write_type) in WriteType::ALL.iter().enumerate() {
        let grant = site.to_write(100 * (n as u64 + 1), *write_type);
        let reply = site.write(&grant, &bytes, vec![]).await.unwrap();
        let receipt = &reply.receipts[0];
        let (cached, uploaded) = match write_type {
            WriteType::MustCache | WriteType::AsyncThrough => (true, false),
            WriteType::CacheThrough => (true, true),
            WriteType::Through => (false, true),
        };
        assert_eq!((receipt.cached, receipt.uploaded), (cached, uploaded), "{write_type}");
        assert_eq!((receipt.length, receipt.crc32c), (bytes.len() as u64, crc32c(&bytes)));
        let temporary = String::from_utf8(grant.write.as_ref().unwrap().temporary.to_vec()).unwrap();
        if uploaded {
            assert!(site.temporary(&temporary).unwrap() == bytes, "{write_type}");
            assert_eq!(receipt.upload.as_ref().unwrap().size, bytes.len() as u64);
        }
        if cached {
            let read = to_read(&grant, bytes.len() as u64);
            assert!(site.read(&read, 0, read.length).await.unwrap() == bytes, "{write_type}");
            let held = (grant.file.0, grant.generation.0);
            eventually("the master hears of it", || site.master.held(held.0, held.1).len() == 4).await;
        }
    }
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_file(#[case] by: By) {
    let site = Site::new("32MB").await.by(by);
    for write_type in [WriteType::CacheThrough, WriteType::Through, WriteType::MustCache] {
        let grant = site.to_write(write_type as u64 * 10 + 10, write_type);
        let reply = site.write(&grant, b"", vec![]).await.unwrap();
        assert_eq!((reply.receipts[0].length, reply.receipts[0].crc32c), (0, 0));
    }
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_sum_a_wrong_length_or_no_end_keep_nothing(#[case] by: By) {
    let site = Site::new("32MB").await.by(by);
    let grant = site.to_write(100, WriteType::CacheThrough);
    let begin = || {
        let begin = v1::WriteBegin { grant: site.master.sign(&grant), copies: vec![] };
        v1::write_frame::What::Begin(begin)
    };
    let data = || v1::write_frame::What::Data("content".into());
    let end = |length, crc32c| v1::write_frame::What::End(v1::WriteEnd { length, crc32c });
    let cases = [
        (vec![begin(), data(), end(7, 1)], ErrorKind::Corrupt),
        (vec![begin(), data()], ErrorKind::Unavailable),
        (vec![data()], ErrorKind::Invalid),
        (vec![begin(), begin()], ErrorKind::Invalid),
    ];
    for (frames, kind) in cases {
        let frames: Vec<_> = frames.into_iter().map(|what| v1::WriteFrame { what: Some(what) }).collect();
        let status = site.blocks().write(tokio_stream::iter(frames)).await.unwrap_err();
        assert_eq!(larder_proto::from_status(&status).kind(), kind);
        eventually("nothing is left", || {
            site.worker().store().uncommitted().is_empty() && site.temporary("tmp-100").is_none()
        })
        .await;
    }
    assert!(site.write(&grant, b"content", vec![]).await.is_ok(), "and the lease can be used again");
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_larger_than_the_tier_goes_on_in_the_under_store(#[case] by: By) {
    let site = Site::new("8MB").await.by(by);
    let bytes = content(20 * MIB, 2);
    let grant = site.to_write(100, WriteType::CacheThrough);
    let receipt = site.write(&grant, &bytes, vec![]).await.unwrap().receipts.remove(0);
    assert_eq!((receipt.cached, receipt.uploaded, receipt.crc32c), (false, true, crc32c(&bytes)));
    assert!(site.temporary("tmp-100").unwrap() == bytes);
    let only_cache = site.to_write(200, WriteType::MustCache);
    assert_eq!(site.write(&only_cache, &bytes, vec![]).await.unwrap_err().kind(), ErrorKind::NoSpace);
    assert!(site.worker().store().uncommitted().is_empty());
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_passed_on(#[case] by: By) {
    let (first, second) = (Site::new("32MB").await.by(by), Site::new("32MB").await.by(by));
    let address = second.blocks().get_info(v1::Empty {}).await.unwrap().into_inner().address.unwrap();
    let address = v1::WorkerAddress { host: "127.0.0.1".into(), ..address };
    let bytes = content(2 * MIB + 1, 3);
    let grant = first.to_write(100, WriteType::AsyncThrough);
    let receipts = first.write(&grant, &bytes, vec![address.clone()]).await.unwrap().receipts;
    assert_eq!(receipts.len(), 2);
    assert_ne!(receipts[0].worker, receipts[1].worker);
    assert!(receipts.iter().all(|r| r.cached && r.crc32c == crc32c(&bytes)));
    let read = to_read(&grant, bytes.len() as u64);
    assert!(second.read(&read, 0, read.length).await.unwrap() == bytes);
    let gone = v1::WorkerAddress { port: 1, ..address };
    let grant = first.to_write(200, WriteType::AsyncThrough);
    let receipts = first.write(&grant, &bytes, vec![gone]).await.unwrap().receipts;
    assert_eq!(receipts.len(), 1, "a copy that fails costs its receipt only");
}

async fn begin(short: &Short, site: &Site, grant: &Grant, reserve: u64) -> (v1::ShortWritable, std::fs::File) {
    let ask = v1::ShortWrite { grant: site.master.sign(grant), reserve, ..Default::default() };
    let mut received = short.ask(Ask::Write(ask)).await.unwrap();
    match received.message.what {
        Some(short_reply::What::Writable(writable)) => (writable, received.descriptors.remove(0).into()),
        other => panic!("{other:?}"),
    }
}

async fn seal(short: &Short, ticket: u64, length: u64) -> larder_common::Result<v1::Receipt> {
    match short.ask(Ask::Seal(v1::ShortSeal { ticket, length })).await?.message.what {
        Some(short_reply::What::Sealed(receipt)) => Ok(receipt),
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_written_through_a_descriptor(#[case] by: By) {
    let site = Site::new("64MB").await.by(by);
    let short = site.short().await;
    let bytes = content(5 * MIB + 3, 4);
    for (n, write_type) in [WriteType::CacheThrough, WriteType::MustCache, WriteType::Through].into_iter().enumerate() {
        let grant = site.to_write(100 * (n as u64 + 1), write_type);
        let (writable, file) = begin(&short, &site, &grant, MIB).await;
        assert!(writable.reserved >= MIB);
        let (mut at, mut reserved) = (0, writable.reserved);
        while at < bytes.len() as u64 {
            let end = (at + 2 * MIB).min(bytes.len() as u64);
            if end > reserved {
                let extend = v1::ShortExtend { ticket: writable.ticket, written: at, reserve: end };
                match short.ask(Ask::Extend(extend)).await.unwrap().message.what {
                    Some(short_reply::What::Extended(extended)) => reserved = extended.reserved,
                    other => panic!("{other:?}"),
                }
                assert!(reserved >= end);
            }
            file.write_all_at(&bytes[at as usize..end as usize], at).unwrap();
            at = end;
        }
        assert_eq!(seal(&short, writable.ticket, at).await.unwrap_err().kind(), ErrorKind::Busy, "still open");
        drop(file);
        let receipt = seal(&short, writable.ticket, at).await.unwrap();
        assert_eq!(receipt.crc32c, crc32c(&bytes), "{write_type}");
        assert_eq!(receipt.cached, write_type != WriteType::Through);
        if write_type != WriteType::MustCache {
            assert!(site.temporary(&format!("tmp-{}", grant.file.0)).unwrap() == bytes, "{write_type}");
        }
        if receipt.cached {
            let read = to_read(&grant, at);
            assert!(site.read(&read, 0, at).await.unwrap() == bytes);
        }
        assert_eq!(seal(&short, writable.ticket, at).await.unwrap_err().kind(), ErrorKind::Invalid, "it has ended");
    }
    assert_eq!(site.counter("larder_persist_pending_bytes"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_uploaded_while_they_are_written() {
    let site = Site::new("64MB").await;
    let short = site.short().await;
    let grant = site.to_write(100, WriteType::CacheThrough);
    let (writable, file) = begin(&short, &site, &grant, 8 * MIB).await;
    let bytes = content(8 * MIB, 5);
    file.write_all_at(&bytes, 0).unwrap();
    let extend = v1::ShortExtend { ticket: writable.ticket, written: 8 * MIB, reserve: 8 * MIB };
    short.ask(Ask::Extend(extend)).await.unwrap();
    eventually("they are in the temporary before the end", || site.temporary("tmp-100").is_some_and(|t| t == bytes))
        .await;
    eventually("and counted", || site.counter("larder_uploaded_bytes_total") == 8 * MIB).await;
    short.tell(Ask::Drop(v1::ShortDrop { ticket: writable.ticket })).await;
    eventually("a dropped file leaves no temporary", || site.temporary("tmp-100").is_none()).await;
    assert!(site.worker().store().uncommitted().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_over_is_ended_from_outside() {
    let site = Site::new("64MB").await;
    let short = site.short().await;
    let grant = site.to_write(100, WriteType::MustCache);
    let (writable, _file) = begin(&short, &site, &grant, MIB).await;
    let free = v1::OrderFree { file: grant.file.0, generation: grant.generation.0, forced: true };
    assert_eq!(site.master.order(order::What::Free(free)).await.failure, None);
    eventually("it is gone", || site.worker().store().uncommitted().is_empty()).await;
    assert!(seal(&short, writable.ticket, 0).await.is_err());
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_to_read_gives_no_right_to_write_and_the_reverse(#[case] by: By) {
    let site = Site::new("64MB").await.by(by);
    let write = site.to_write(100, WriteType::MustCache);
    assert_eq!(site.read(&write, 0, 0).await.unwrap_err().kind(), ErrorKind::Denied);
    let read = to_read(&write, 0);
    assert_eq!(site.write(&read, b"x", vec![]).await.unwrap_err().kind(), ErrorKind::Denied);
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_is_persisted_by_order_marked_and_then_freed(#[case] by: By) {
    let site = Site::new("64MB").await.by(by);
    let bytes = content(3 * MIB + 9, 6);
    let grant = site.to_write(100, WriteType::AsyncThrough);
    site.write(&grant, &bytes, vec![]).await.unwrap();
    let (file, generation) = (grant.file.0, grant.generation.0);
    let free = || order::What::Free(v1::OrderFree { file, generation, forced: false });
    let forget = || order::What::Forget(v1::OrderForget { file, generation, lease: 0 });
    assert_eq!(site.master.order(free()).await.bytes, 0, "what is nowhere else stays");
    assert!(site.master.order(forget()).await.failure.is_some(), "even if it is said to be over");
    let mut right = grant.write.clone().unwrap();
    (right.lease.0, right.temporary) = (0, "attempt-1".into());
    let persist = Grant { length: bytes.len() as u64, write: Some(right), ..grant.clone() };
    let persist = v1::OrderPersist { grant: site.master.sign(&persist) };
    let done = site.master.order(order::What::Persist(persist)).await;
    assert_eq!(done.failure, None);
    let receipt = done.receipt.unwrap();
    assert!(receipt.uploaded && receipt.crc32c == crc32c(&bytes));
    assert_eq!(done.fingerprint.unwrap().size, bytes.len() as u64);
    assert!(site.temporary("attempt-1").unwrap() == bytes);
    site.master.order(order::What::Mark(v1::OrderMark { file, generation })).await;
    eventually("the master hears that it counts as persisted", || {
        site.worker()
            .store()
            .describe(larder_worker::store::FileKey { file: grant.file, generation: grant.generation })
            .is_some_and(|report| report.persisted)
    })
    .await;
    assert!(site.master.order(free()).await.bytes > 0);
    eventually("and that it is gone", || site.master.held(file, generation).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn persisting_what_is_not_here_leaves_nothing() {
    let site = Site::new("64MB").await;
    let grant = site.to_write(100, WriteType::AsyncThrough);
    let mut right = grant.write.clone().unwrap();
    right.temporary = "attempt-2".into();
    let persist = Grant { length: 10, write: Some(right), ..grant };
    let persist = v1::OrderPersist { grant: site.master.sign(&persist) };
    let done = site.master.order(order::What::Persist(persist)).await;
    assert_eq!(done.failure.unwrap().kind, ErrorKind::NotFound as u32);
    eventually("no temporary is left", || site.temporary("attempt-2").is_none()).await;
}

#[rstest]
#[case(By::Grpc)]
#[case(By::Data)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_cannot_be_opened_fails_its_writers_by_name(#[case] by: By) {
    let site = Site::new("64MB").await.by(by);
    let grant = Grant { mount: larder_common::MountId(9), ..site.to_write(100, WriteType::CacheThrough) };
    let begun = tokio::time::Instant::now();
    assert_eq!(site.write(&grant, b"x", vec![]).await.unwrap_err().kind(), ErrorKind::Regrant);
    assert!(begun.elapsed() < Duration::from_secs(6));
    assert_eq!(site.faults.fetches.load(Ordering::SeqCst), 0);
}
