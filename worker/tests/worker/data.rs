//! What is particular to the data protocol: connections that are used again, given up, silent, or speak nonsense.

use std::time::{Duration, Instant};

use larder_common::{ErrorKind, WriteType};
use larder_proto::{greeting::Token, v1};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    master::eventually,
    site::{By, MIB, Site, content, read, way},
};

const OPEN: &str = "larder_data_connections";

async fn site() -> Site {
    Site::new("32MB").await.by(By::Data)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_used_again_and_again() {
    let site = site().await;
    let bytes = content(3 * MIB + 5, 1);
    let grant = site.file("f", &bytes).await;
    let way = site.way();
    let request =
        |offset, length| v1::ReadRequest { grant: site.master.sign(&grant), offset, length, ..Default::default() };
    for (offset, length) in [(0, grant.length), (5, 0), (MIB - 1, 2), (0, grant.length)] {
        let expected = &bytes[offset as usize..(offset + length) as usize];
        assert!(read(&way, request(offset, length)).await.unwrap() == expected);
    }
    // A refusal leaves it whole.
    assert_eq!(read(&way, request(grant.length, 1)).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert!(read(&way, request(0, 10)).await.unwrap() == bytes[..10]);
    let write = site.to_write(100, WriteType::MustCache);
    let begin = v1::WriteBegin { grant: site.master.sign(&write), copies: vec![] };
    let mut stream = way.write(&begin).await.unwrap().unwrap();
    stream.send("content".into()).await.unwrap();
    assert_eq!(stream.finish().await.unwrap().receipts.len(), 1);
    assert_eq!(site.counter(OPEN), 1, "all of it went over one connection");
    let both = tokio::join!(read(&way, request(0, grant.length)), read(&way, request(0, grant.length)));
    assert!(both.0.unwrap() == bytes && both.1.unwrap() == bytes);
    drop(way);
    eventually("it is closed", || site.counter(OPEN) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_gives_up_holds_nothing() {
    let site = Site::new("64MB").await.by(By::Data);
    let grant = site.file("f", &content(40 * MIB, 2)).await;
    let way = site.way();
    let request = v1::ReadRequest { grant: site.master.sign(&grant), length: grant.length, ..Default::default() };
    read(&way, request.clone()).await.unwrap();
    let mut stream = way.read(request).await.unwrap();
    assert!(stream.next().await.unwrap().is_some());
    drop(stream);
    eventually("the worker has seen it", || site.counter(OPEN) == 0).await;
    assert!(site.read(&grant, 0, MIB).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_readers_than_connections_take_grpc() {
    let site = site().await;
    let bytes = content(8 * MIB, 3);
    let grant = site.file("f", &bytes).await;
    let way = site.way();
    let request = v1::ReadRequest { grant: site.master.sign(&grant), length: grant.length, ..Default::default() };
    let mut streams = Vec::new();
    for _ in 0..40 {
        streams.push(way.read(request.clone()).await.unwrap());
    }
    assert!(site.counter(OPEN) <= 16, "{}", site.counter(OPEN));
    let reads = streams.iter_mut().map(async |stream| {
        let mut read = 0;
        while let Some(frame) = stream.next().await.unwrap() {
            assert!(frame.data[..] == bytes[read..read + frame.data.len()]);
            read += frame.data.len();
        }
        assert_eq!(read, bytes.len());
    });
    futures_util::future::join_all(reads).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_writer_hears_why_while_it_sends() {
    let site = Site::new("8MB").await.by(By::Data);
    let grant = site.to_write(100, WriteType::MustCache);
    let begin = v1::WriteBegin { grant: site.master.sign(&grant), copies: vec![] };
    let mut stream = site.way().write(&begin).await.unwrap().unwrap();
    let part = bytes::Bytes::from(content(MIB, 4));
    let refused = loop {
        if let Err(error) = stream.send(part.clone()).await {
            break error;
        }
    };
    assert_eq!(refused.kind(), ErrorKind::NoSpace, "{refused}");
    drop(stream);
    eventually("nothing is left", || site.worker().store().uncommitted().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_dies_leaves_nothing() {
    let site = site().await;
    let grant = site.to_write(100, WriteType::CacheThrough);
    let begin = v1::WriteBegin { grant: site.master.sign(&grant), copies: vec![] };
    let mut stream = site.way().write(&begin).await.unwrap().unwrap();
    stream.send(content(MIB, 5).into()).await.unwrap();
    eventually("it is there", || site.temporary("tmp-100").is_some()).await;
    drop(stream);
    eventually("nothing is left", || {
        site.worker().store().uncommitted().is_empty() && site.temporary("tmp-100").is_none()
    })
    .await;
    assert!(site.write(&grant, b"content", vec![]).await.is_ok(), "and the lease can be used again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_closed_meanwhile_costs_nothing() {
    let mut site = site().await;
    let bytes = content(2 * MIB, 6);
    let grant = site.file("f", &bytes).await;
    let request = v1::ReadRequest { grant: site.master.sign(&grant), length: grant.length, ..Default::default() };
    let port = site.worker().address().port();
    let way = way(By::Data, port, Token::default());
    assert!(read(&way, request.clone()).await.unwrap() == bytes);
    site.stop().await;
    let error = read(&way, request.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    site.start_at(port).await;
    let again = v1::ReadRequest { grant: site.master.sign(&grant), ..request };
    assert!(read(&way, again).await.unwrap() == bytes, "the worker is back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_cut_and_harms_nobody() {
    let site = site().await;
    let address = ("127.0.0.1", site.worker().address().port());
    let magic = larder_proto::data::MAGIC;
    let (long, unknown) = ([&magic[..], &[1, 0, 0, 0, 255, 255, 255, 255]].concat(), [&magic[..], &[77; 24]].concat());
    for bytes in [&long[..], &unknown, b"LARDxxxx", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let begun = Instant::now();
        let mut rest = Vec::new();
        // Closed or reset: what matters is that it ends.
        let ended = tokio::time::timeout(Duration::from_secs(8), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{bytes:?} was not cut within {:?}", begun.elapsed());
    }
    let bytes = content(MIB, 7);
    let grant = site.file("f", &bytes).await;
    assert!(site.read(&grant, 0, MIB).await.unwrap() == bytes);
}
