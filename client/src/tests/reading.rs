//! Reads: warm without a message, cold by waiting, as streams, and past everything that fails.

use std::{
    io::SeekFrom,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use larder_common::ErrorKind;
use larder_proto::GrantKey;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt};

use super::until;
use crate::{
    ListOptions, LoadOptions,
    fake::{BLOCK, Cluster, pattern},
};

#[tokio::test]
async fn a_warm_read_costs_no_message() {
    let cluster = Cluster::start(1, 1).await;
    let (small, large) = (pattern(100_000), pattern(5_300_000));
    cluster.put("/small", &small, &[0]);
    cluster.put("/large", &large, &[0]);
    let fs = cluster.connect().await;
    for round in 0..3 {
        let before = (cluster.master.asked.load(SeqCst), cluster.workers[0].requests.load(SeqCst));
        for (path, bytes) in [("/small", &small), ("/large", &large)] {
            let file = fs.open(path).await.unwrap();
            let mut buffer = vec![0; bytes.len() + 10];
            assert_eq!(file.read_at(0, &mut buffer).await.unwrap(), bytes.len());
            assert_eq!(&buffer[..bytes.len()], &bytes[..]);
            assert_eq!(file.read_at(bytes.len() as u64, &mut buffer).await.unwrap(), 0);
            let view = file.view(1000..90_000).await.unwrap();
            assert!(view.is_mapped() && view[..] == bytes[1000..90_000]);
            let served = file.served();
            assert_eq!((served.stream, served.ufs, served.not_short_circuited), (0, 0, None));
            assert_eq!(served.local, bytes.len() as u64 + 89_000);
        }
        let after = (cluster.master.asked.load(SeqCst), cluster.workers[0].requests.load(SeqCst));
        assert!(round == 0 || before == after, "{before:?} {after:?}");
    }
    until("hints", || cluster.workers[0].touched.lock().iter().map(|t| t.count).sum::<u32>() >= 12).await;
}

#[tokio::test]
async fn a_cold_file_is_fetched_by_the_worker_and_then_read_here() {
    let cluster = Cluster::start(1, 1).await;
    let bytes = pattern(3_500_000);
    cluster.put("/cold", &bytes, &[]);
    cluster.put("/tiny", &bytes[..5000], &[]);
    let fs = cluster.connect().await;
    let file = fs.open("/cold").await.unwrap();
    let mut buffer = vec![0; 1000];
    assert_eq!(file.read_at(BLOCK - 500, &mut buffer).await.unwrap(), 1000);
    assert_eq!(buffer, bytes[BLOCK as usize - 500..BLOCK as usize + 500]);
    assert_eq!((file.served().ufs, file.served().local), (1000, 0));
    let view = file.view(100..3_400_000).await.unwrap();
    assert!(view.is_mapped() && view[..] == bytes[100..3_400_000]);
    assert_eq!(&fs.read("/cold").await.unwrap()[..], &bytes[..]);
    let tiny = fs.open("/tiny").await.unwrap();
    let before = cluster.workers[0].requests.load(SeqCst);
    assert_eq!(&tiny.read_range(0..5000).await.unwrap()[..], &bytes[..5000]);
    assert_eq!(cluster.workers[0].requests.load(SeqCst), before + 1, "one message leases and fetches a small file");
    assert_eq!(tiny.served().ufs, 5000);
}

#[tokio::test]
async fn a_view_is_of_one_cache_file_though_the_worker_moves_it_meanwhile() {
    let cluster = Cluster::start(1, 1).await;
    let bytes = pattern(4_500_000);
    for (block, length) in [(1, 4_500_000), (2, 2_500_000), (4, 4_500_000)] {
        let path = format!("/moved{block}");
        cluster.put(&path, &bytes[..length], &[]);
        let fs = cluster.connect().await;
        cluster.workers[0].moves_at.store(block, SeqCst);
        assert!(fs.open(&path).await.unwrap().read_range(0..length as u64).await.unwrap() == bytes[..length], "{path}");
        assert_eq!(cluster.workers[0].moves_at.load(SeqCst), u64::MAX, "it was moved");
    }
}

#[tokio::test]
async fn remote_bytes_come_as_a_stream() {
    let cluster = Cluster::start(2, 0).await;
    let bytes = pattern(4_500_000);
    cluster.put("/far", &bytes, &[1]);
    let fs = cluster.connect().await;
    let file = fs.open("/far").await.unwrap();
    let mut read = Vec::new();
    file.reader().read_to_end(&mut read).await.unwrap();
    assert!(read == bytes);
    let served = file.served();
    assert_eq!((served.stream, served.local, served.ufs), (bytes.len() as u64, 0, 0));
    assert!(served.not_short_circuited.unwrap().contains("no socket"), "the reason is told");
    assert_eq!(cluster.workers[1].requests.load(SeqCst), 1, "one stream for one reader");
    let mut at = 0;
    let mut buffer = vec![0; 700_000];
    while at < bytes.len() {
        let length = file.read_at(at as u64, &mut buffer).await.unwrap();
        assert!(buffer[..length] == bytes[at..at + length]);
        at += length;
    }
    assert!(cluster.workers[1].requests.load(SeqCst) <= 3, "reads one after the other go on in one stream");
    let locations = fs.locations("/far").await.unwrap();
    assert_eq!(locations.len(), 5);
    assert!(!locations[0].short_circuit && locations[0].reason.is_some());
    assert!(!file.view(5..10).await.unwrap().is_mapped());
}

#[tokio::test]
async fn short_circuit_can_be_turned_off() {
    let cluster = Cluster::start(1, 1).await;
    cluster.put("/a", &pattern(10), &[0]);
    let config = cluster.config().short_circuit(false).build();
    let fs = crate::FileSystem::connect(config).await.unwrap();
    let file = fs.open("/a").await.unwrap();
    assert_eq!(&file.read_range(0..10).await.unwrap()[..], &pattern(10)[..]);
    assert_eq!(file.served().stream, 10);
    assert!(file.served().not_short_circuited.unwrap().contains("user.short.circuit"));
}

#[tokio::test]
async fn a_worker_that_fails_or_lies_is_left_out() {
    for fault in ["broken", "corrupt"] {
        let cluster = Cluster::start(2, 0).await;
        let bytes = pattern(2_000_000);
        cluster.put("/a", &bytes, &[0, 1]);
        let flag = if fault == "broken" { &cluster.workers[0].broken } else { &cluster.workers[0].corrupt };
        flag.store(true, SeqCst);
        let fs = cluster.connect().await;
        assert!(fs.read("/a").await.unwrap()[..] == bytes[..], "{fault}");
    }
}

#[tokio::test]
async fn a_worker_that_dies_in_the_middle_is_replaced() {
    let mut cluster = Cluster::start(2, 1).await;
    let bytes = pattern(6_000_000);
    cluster.put("/a", &bytes, &[]);
    let fs = cluster.connect().await;
    let mut reader = fs.open("/a").await.unwrap().reader();
    let mut read = vec![0; 1_500_000];
    reader.read_exact(&mut read).await.unwrap();
    cluster.servers.remove(1).shutdown().await;
    cluster.workers[0].cut();
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).await.unwrap();
    read.extend(rest);
    assert!(read == bytes);
}

#[tokio::test]
async fn nobody_left_is_an_error_in_bounded_time() {
    let mut cluster = Cluster::start(1, 0).await;
    cluster.put("/a", &pattern(10), &[0]);
    let fs = crate::FileSystem::connect(cluster.config().timeout(Duration::from_millis(600)).build()).await.unwrap();
    let file = fs.open("/a").await.unwrap();
    cluster.servers.remove(1).shutdown().await;
    let began = std::time::Instant::now();
    let error = file.read_range(0..10).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Deadline), "{error}");
    assert_eq!(error.path(), Some(&b"/a"[..]));
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_grant_that_is_out_of_date_is_renewed_unseen() {
    let cluster = Cluster::start(1, 1).await;
    let bytes = pattern(3_000_000);
    cluster.put("/a", &bytes, &[]);
    let fs = cluster.connect().await;
    let file = fs.open("/a").await.unwrap();
    *cluster.keys.lock() = GrantKey { id: 2, secret: [9; 32] };
    assert!(file.read_range(0..3_000_000).await.unwrap()[..] == bytes[..]);
    *cluster.keys.lock() = GrantKey { id: 3, secret: [8; 32] };
    cluster.put("/a", &bytes, &[]);
    cluster.put("/b", &bytes, &[]);
    let gone = fs.open("/b").await.unwrap();
    cluster.put("/b", &bytes, &[]);
    *cluster.keys.lock() = GrantKey { id: 4, secret: [7; 32] };
    assert_eq!(gone.read_range(0..10).await.unwrap_err().kind(), ErrorKind::Changed, "another version is another file");
}

#[tokio::test]
async fn what_the_worker_cannot_keep_is_streamed() {
    let cluster = Cluster::start(1, 1).await;
    let bytes = pattern(2_500_000);
    cluster.put("/a", &bytes, &[]);
    cluster.workers[0].full.store(true, SeqCst);
    let fs = cluster.connect().await;
    let file = fs.open("/a").await.unwrap();
    assert!(file.read_range(0..2_500_000).await.unwrap()[..] == bytes[..]);
    assert_eq!(file.served().ufs, 2_500_000);
    assert!(file.served().not_short_circuited.unwrap().contains("no room"));
}

#[tokio::test]
async fn opens_at_the_same_time_share_packets() {
    let cluster = Cluster::start(1, 1).await;
    for i in 0..300 {
        cluster.put(&format!("/f{i}"), &pattern(3000 + i), &[0]);
    }
    let fs = cluster.connect().await;
    let read = |i: usize| {
        let fs = fs.clone();
        async move { fs.read(format!("/f{i}")).await.unwrap() }
    };
    let all: Vec<Bytes> = futures_util::future::join_all((0..300).map(read)).await;
    assert!(all.iter().enumerate().all(|(i, bytes)| bytes[..] == pattern(3000 + i)[..]));
    let packets = cluster.workers[0].lease_packets.load(SeqCst);
    assert!(packets < 200, "{packets} packets for 300 leases");
}

#[tokio::test]
async fn descriptors_and_mappings_stay_within_their_budget() {
    let cluster = Cluster::start(1, 1).await;
    for i in 0..40 {
        cluster.put(&format!("/large{i}"), &pattern(1_200_000), &[0]);
    }
    for i in 0..40 {
        cluster.put(&format!("/small{i}"), &pattern(2000), &[0]);
    }
    let config = cluster.config().descriptor_cache(8).mapping_cache((10, larder_common::ByteSize(1 << 20))).build();
    let fs = crate::FileSystem::connect(config).await.unwrap();
    for i in 0..80 {
        let path = if i < 40 { format!("/large{i}") } else { format!("/small{}", i - 40) };
        fs.read(path).await.unwrap();
    }
    let (descriptors, mappings, bytes) = fs.0.caches.residents.counted();
    assert!(descriptors <= 8 && mappings <= 10 && bytes <= 20_000, "{descriptors} {mappings} {bytes}");
    until("the others were given back", || cluster.workers[0].leases.lock().len() <= 18).await;
}

#[tokio::test]
async fn a_recall_takes_what_no_view_holds() {
    let cluster = Cluster::start(1, 1).await;
    let bytes = pattern(50_000);
    cluster.put("/a", &bytes, &[0]);
    let fs = cluster.connect().await;
    let file = fs.open("/a").await.unwrap();
    let view = file.view(0..50_000).await.unwrap();
    let lease = *cluster.workers[0].leases.lock().first().unwrap();
    cluster.workers[0].recall(&[lease]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(cluster.workers[0].leases.lock().contains(&lease), "a view is frozen");
    assert!(view[..] == bytes[..]);
    let copy = Bytes::from(view);
    assert!(cluster.workers[0].leases.lock().contains(&lease), "and so are its bytes");
    drop(copy);
    until("given back", || !cluster.workers[0].leases.lock().contains(&lease)).await;
    assert!(file.read_range(0..50_000).await.unwrap()[..] == bytes[..], "leased again");
    let again = *cluster.workers[0].leases.lock().first().unwrap();
    cluster.workers[0].recall(&[again]).await;
    until("a plain one goes at once", || cluster.workers[0].leases.lock().is_empty()).await;
}

#[tokio::test]
async fn dropped_futures_leak_no_lease() {
    let cluster = Cluster::start(1, 1).await;
    let bytes = pattern(2_000_000);
    for i in 0..60 {
        cluster.put(&format!("/f{i}"), &bytes, &[]);
    }
    let fs = cluster.connect().await;
    for i in 0..60u64 {
        let fs = fs.clone();
        let read = async move { fs.read(format!("/f{i}")).await };
        drop(tokio::time::timeout(Duration::from_micros(i * 60), read).await);
    }
    let file = fs.open("/f1").await.unwrap();
    assert!(file.read_range(0..2_000_000).await.unwrap()[..] == pattern(2_000_000)[..], "and break nothing");
    drop((file, fs));
    until("all leases are back", || cluster.workers[0].leases.lock().is_empty()).await;
}

#[tokio::test]
async fn readers_seek_and_give_lines() {
    let cluster = Cluster::start(1, 1).await;
    cluster.put("/text", b"one\ntwo\nthree\n", &[0]);
    let fs = cluster.connect().await;
    let mut reader = fs.open("/text").await.unwrap().reader();
    let mut line = String::new();
    reader.read_line(&mut line).await.unwrap();
    assert_eq!(line, "one\n");
    assert_eq!(reader.seek(SeekFrom::End(-6)).await.unwrap(), 8);
    let mut rest = String::new();
    reader.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "three\n");
    assert_eq!(reader.seek(SeekFrom::Start(4)).await.unwrap(), 4);
    assert_eq!(&reader.next().await.unwrap()[..], b"two\nthree\n");
    assert!(reader.seek(SeekFrom::Current(-100)).await.is_err());
}

#[tokio::test]
async fn listings_come_in_pages_and_feed_the_cache() {
    let cluster = Cluster::start(1, 1).await;
    for i in 0..5 {
        cluster.put(&format!("/f{i}"), &pattern(10), &[0]);
    }
    let fs = cluster.connect().await;
    let entries: Vec<_> = fs.list("/", ListOptions::default()).map(|entry| entry.unwrap()).collect().await;
    let paths: Vec<_> = entries.iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(paths, ["/f0", "/f1", "/f2", "/f3", "/f4"]);
    let before = cluster.master.asked.load(SeqCst);
    assert_eq!(fs.status("/f3").await.unwrap().length, 10);
    assert_eq!(cluster.master.asked.load(SeqCst), before, "known from the listing");
    assert!(!fs.exists("/nothing").await.unwrap());
    assert!(fs.list("/nothing", ListOptions::default()).next().await.unwrap().is_err());
}

#[tokio::test]
async fn loading_tells_how_far_it_is() {
    let cluster = Cluster::start(2, 1).await;
    for i in 0..30 {
        cluster.put(&format!("/f{i}"), &pattern(1_500_000), &[]);
    }
    cluster.put("/cached", &pattern(1_500_000), &[0]);
    let lost = cluster.put("/lost", &pattern(100), &[]);
    cluster.under.lock().remove(&lost);
    let fs = cluster.connect().await;
    let steps: Vec<_> = fs.load("/", LoadOptions::default()).map(|step| step.unwrap()).collect().await;
    let last = steps.last().unwrap();
    assert_eq!((last.files, last.files_done, last.blocks, last.blocks_done), (32, 32, 63, 62));
    assert_eq!((last.bytes, last.bytes_cached), (31 * 1_500_000 + 100, 1_500_000));
    assert_eq!(last.failures.len(), 1);
    assert_eq!((last.failures[0].path.to_string().as_str(), last.failures[0].block), ("/lost", Some(0)));
    assert!(steps.windows(2).all(|pair| pair[0].bytes_done <= pair[1].bytes_done));
}

#[tokio::test]
async fn many_tasks_read_the_same_cold_file() {
    let cluster = Cluster::start(1, 1).await;
    let bytes = Arc::new(pattern(4_000_000));
    cluster.put("/a", &bytes, &[]);
    let fs = cluster.connect().await;
    let read = |_| {
        let (fs, bytes) = (fs.clone(), Arc::clone(&bytes));
        tokio::spawn(async move { fs.read("/a").await.unwrap()[..] == bytes[..] })
    };
    for same in futures_util::future::join_all((0..20).map(read)).await {
        assert!(same.unwrap());
    }
    assert_eq!(cluster.workers[0].leases.lock().len(), 1, "one lease for all");
}
