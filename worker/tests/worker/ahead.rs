//! Small files by one thread of the under store: alone, ahead of their readers, and what must not happen meanwhile.

use std::{collections::HashMap, os::unix::fs::FileExt, sync::atomic::Ordering};

use larder_common::{ErrorKind, FileId};
use larder_proto::{
    Grant,
    v1::{self, short_reply, short_request::What as Ask},
};

use crate::{
    master::eventually,
    site::{MIB, Short, Site, content, item},
};

const LENGTH: u64 = 50_000;

/// Files in the under store, with grants; file n has the content of seed n.
async fn files(site: &Site, count: u64) -> Vec<Grant> {
    let mut grants = Vec::new();
    for n in 0..count {
        std::fs::write(site.under.path().join(format!("f{n}")), content(LENGTH, n)).unwrap();
    }
    let like = site.file("last", &content(LENGTH, 0)).await;
    for n in 0..count {
        let object = format!("f{n}");
        let fingerprint = Some(site.fingerprint(&object).await);
        grants.push(Grant { file: FileId(1000 + n), object: object.into(), fingerprint, ..like.clone() });
    }
    grants
}

async fn in_rows(quota: &str) -> Site {
    let site = Site::with(quota, |config| config.policy = "LRU".into()).await;
    site.faults.rows.store(true, Ordering::SeqCst);
    site
}

fn ask(site: &Site, grants: &[Grant]) -> Ask {
    Ask::Ahead(v1::ShortAhead { items: grants.iter().map(|grant| item(site.master.sign(grant), true)).collect() })
}

/// All leases of a request, by file, with how many answers brought them.
async fn all(short: &Short, tag: u64) -> (HashMap<u64, (v1::ShortLeaseAnswer, std::fs::File)>, usize) {
    let (mut leases, mut answers) = (HashMap::new(), 0);
    loop {
        let received = short.next().await;
        assert_eq!(received.message.tag, tag);
        let Some(short_reply::What::Leased(leased)) = received.message.what else { panic!("not leased") };
        answers += 1;
        assert_eq!(leased.answers.len(), received.descriptors.len());
        for (answer, descriptor) in leased.answers.into_iter().zip(received.descriptors) {
            assert!(leases.insert(answer.file, (answer, descriptor.into())).is_none(), "leased once");
        }
        if !leased.more {
            return (leases, answers);
        }
    }
}

fn holds(file: &std::fs::File, seed: u64) -> bool {
    let mut bytes = vec![0; LENGTH as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes == content(LENGTH, seed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_leased_ahead_a_few_at_a_time() {
    let site = in_rows("64MB").await;
    let mut grants = files(&site, 60).await;
    let short = site.short().await;
    let warm = site.master.sign(&grants[5]);
    drop(short.lease(vec![item(warm, true)]).await.unwrap());
    grants[7].fingerprint = grants[8].fingerprint.clone();
    let mut asked = ask(&site, &grants);
    if let Ask::Ahead(ahead) = &mut asked {
        ahead.items[9].grant = "forged".into();
    }
    let tag = short.tell(asked).await;
    let (leases, answers) = all(&short, tag).await;
    assert_eq!(leases.len(), 58, "but for the one that has changed and the one that was forged");
    assert!(answers > 5, "the first do not wait for the last: {answers} answers");
    for n in (0..60).filter(|n| ![7, 9].contains(n)) {
        let (answer, file) = &leases[&(1000 + n)];
        assert_eq!((answer.length, &answer.whole[..]), (LENGTH, &[v1::BlockRun { first: 0, count: 1 }][..]));
        assert!(holds(file, n), "file {n}");
    }
    assert_eq!(site.fetches(), 59, "each once, but for the forged one");
    assert_eq!(site.counter("larder_read_ahead_blocks_total"), 57);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_dropped_for_what_is_fetched_ahead() {
    let site = in_rows("6MB").await;
    let kept = site.file("kept", &content(4 * MIB, 3)).await;
    site.read(&kept, 0, kept.length).await.unwrap();
    let grants = files(&site, 40).await;
    let short = site.short().await;
    let tag = short.tell(ask(&site, &grants)).await;
    let (leases, _) = all(&short, tag).await;
    assert!(!leases.is_empty() && leases.len() < 40, "{} of 40", leases.len());
    let fetches = site.fetches();
    site.read(&kept, 0, kept.length).await.unwrap();
    assert_eq!(site.fetches(), fetches, "what was here is here still");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_waits_for_no_row_and_every_file_is_fetched_once() {
    let site = in_rows("64MB").await;
    let grants = files(&site, 40).await;
    let (walker, reader) = (site.short().await, site.short().await);
    let gate = site.faults.gate.lock().await;
    let tag = walker.tell(ask(&site, &grants)).await;
    eventually("two rows are at the gate", || site.faults.waiting.load(Ordering::SeqCst) == 2).await;
    // The rows stand at their first file; the last one is fetched for its reader by yet another thread.
    let wanted =
        reader.tell(Ask::Lease(v1::ShortLease { items: vec![item(site.master.sign(&grants[39]), true)] })).await;
    eventually("the reader's is there too", || site.faults.waiting.load(Ordering::SeqCst) == 3).await;
    let joined = site.short().await;
    let same = joined.tell(Ask::Lease(v1::ShortLease { items: vec![item(site.master.sign(&grants[39]), true)] })).await;
    drop(gate);
    for (short, tag) in [(&reader, wanted), (&joined, same)] {
        let (leases, _) = all(short, tag).await;
        assert!(holds(&leases[&1039].1, 39));
    }
    let (leases, _) = all(&walker, tag).await;
    assert!((39..=40).contains(&leases.len()), "what another fetches may be left out");
    assert_eq!(site.fetches(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_ends_what_is_fetched_ahead_for_it() {
    let site = in_rows("64MB").await;
    let grants = files(&site, 100).await;
    let short = site.short().await;
    let gate = site.faults.gate.lock().await;
    short.tell(ask(&site, &grants)).await;
    eventually("two rows are at the gate", || site.faults.waiting.load(Ordering::SeqCst) == 2).await;
    drop(short);
    eventually("it is gone", || site.counter("larder_short_circuit_connections") == 0).await;
    drop(gate);
    // Two rows of another client are fetched when both of the first have ended.
    let other = site.short().await;
    let tag = other.tell(ask(&site, &grants[60..92])).await;
    assert_eq!(all(&other, tag).await.0.len(), 32);
    drop(other);
    eventually("nothing is leased", || site.counter("larder_leases") == 0).await;
    assert_eq!(site.worker().store().leased(10), []);
    assert_eq!(site.fetches(), 32 + 2, "but for the two that had begun, nothing was fetched for nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_file_that_changed_is_refused_and_a_thread_that_hangs_is_not_waited_for() {
    let site = in_rows("64MB").await;
    let mut grants = files(&site, 3).await;
    grants[1].fingerprint = grants[2].fingerprint.clone();
    let short = site.short().await;
    let (answers, _) = short.lease(vec![item(site.master.sign(&grants[1]), true)]).await.unwrap();
    assert_eq!(answers[0].failure.as_ref().unwrap().kind, ErrorKind::Regrant as u32);
    site.faults.stall.store(true, Ordering::SeqCst);
    let lone = vec![item(site.master.sign(&grants[0]), true)];
    let (answers, _) = short.lease(lone.clone()).await.unwrap();
    assert_eq!(answers[0].failure.as_ref().unwrap().kind, ErrorKind::Deadline as u32);
    site.faults.stall.store(false, Ordering::SeqCst);
    let (answers, files) = short.lease(lone).await.unwrap();
    assert_eq!(answers[0].failure, None, "the next to ask begins anew");
    assert!(holds(&files[0], 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_rows_is_fetched_from_all_the_same() {
    let site = Site::new("64MB").await;
    let grants = files(&site, 20).await;
    let short = site.short().await;
    let tag = short.tell(ask(&site, &grants)).await;
    let (leases, _) = all(&short, tag).await;
    assert!(leases.is_empty(), "each has a flight of its own, which nobody waits for");
    eventually("all are fetched", || site.counter("larder_read_ahead_blocks_total") == 20).await;
    let tag = short.tell(ask(&site, &grants)).await;
    assert_eq!(all(&short, tag).await.0.len(), 20);
}
