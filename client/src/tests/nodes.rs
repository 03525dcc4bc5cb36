//! Calls by id against the fake master: what costs a message and what does not, and the way of an invalidation through a
//! subscriber and back.

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use larder_common::{Caller, ErrorKind, FileId, Generation, Name};
use larder_proto::v1;

use super::until;
use crate::{
    NodeCreate, Trust,
    fake::{Cluster, pattern},
};

const ROOT: FileId = FileId(1);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

#[tokio::test]
async fn what_is_known_by_name_or_id_costs_no_message() {
    let cluster = Cluster::start(1, 1).await;
    let version = cluster.put("/f", &pattern(1000), &[0]);
    let fs = cluster.connect().await;
    let (nodes, who) = (fs.nodes(), Caller::root());
    let found = nodes.lookup(&who, ROOT, &name("f")).await.unwrap();
    assert_eq!((found.status.id.0, found.trusted), (version.0, Trust::Session));
    let file = nodes.open(&who, found.status.id, Generation(version.1)).await.unwrap();
    assert_eq!(&file.read_range(0..1000).await.unwrap()[..], &pattern(1000)[..]);
    let asked = cluster.master.asked.load(SeqCst);
    for _ in 0..3 {
        assert_eq!(nodes.lookup(&who, ROOT, &name("f")).await.unwrap(), found);
        assert_eq!(nodes.status(found.status.id).await.unwrap().status, found.status);
        nodes.open(&who, found.status.id, Generation(0)).await.unwrap();
    }
    assert_eq!(cluster.master.asked.load(SeqCst), asked, "all of it was known");
    let other = Caller { uid: 7, gids: vec![7], name: String::new() };
    nodes.open(&other, found.status.id, Generation(0)).await.unwrap();
    let error = nodes.open(&who, found.status.id, Generation(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Changed, "another version than was seen");
}

#[tokio::test]
async fn an_invalidation_is_acknowledged_after_the_subscriber_has_dropped_its_own() {
    let cluster = Cluster::start(0, 0).await;
    let version = cluster.put("/f", &pattern(10), &[]);
    let fs = cluster.connect().await;
    let (nodes, who) = (fs.nodes(), Caller::root());
    let mut watcher = nodes.invalidations();
    nodes.lookup(&who, ROOT, &name("f")).await.unwrap();
    let names = vec![v1::Child { parent: 1, name: "f".into() }];
    cluster.master.send(v1::Invalidations { sequence: 1, position: 99, names, ..v1::Invalidations::default() });
    let event = watcher.next().await.unwrap();
    assert_eq!(event.names, [(ROOT, name("f"))]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(cluster.master.acknowledged.lock().is_empty(), "the subscriber has not said so yet");
    event.acknowledge([FileId(version.0)]);
    until("the acknowledgement", || !cluster.master.acknowledged.lock().is_empty()).await;
    let sent = cluster.master.acknowledged.lock().clone();
    assert_eq!((sent[0].sequence, &sent[0].still_open[..]), (1, &[version.0][..]));
    let late = nodes.lookup(&who, ROOT, &name("f")).await.unwrap();
    assert_eq!(late.trusted, Trust::No, "the answer is of an earlier state than the invalidation");
}

#[tokio::test]
async fn a_broken_connection_ends_all_trust() {
    let cluster = Cluster::start(0, 0).await;
    let fs = cluster.connect().await;
    let nodes = fs.nodes();
    let trusted = nodes.trusted_until().saturating_duration_since(Instant::now());
    let lease = Duration::from_millis(3000);
    assert!(trusted > lease / 2 && trusted <= lease.mul_f64(0.7), "{trusted:?}");
    let mut watcher = nodes.invalidations();
    cluster.master.cut_streams();
    let lost = watcher.next().await.unwrap();
    assert!(lost.lost && lost.everything);
    lost.acknowledge([]);
    until("trust is back", || nodes.trusted_until() > Instant::now()).await;
}

#[tokio::test]
async fn pages_and_new_files_fill_the_cache() {
    let cluster = Cluster::start(0, 0).await;
    for i in 0..5 {
        cluster.put(&format!("/{i}"), b"x", &[]);
    }
    let fs = cluster.connect().await;
    let (nodes, who) = (fs.nodes(), Caller::root());
    let page = nodes.list(&who, ROOT, None, 100).await.unwrap();
    assert_eq!((page.entries.len(), page.more, page.trusted), (5, false, Trust::Session));
    let made = nodes.make_file(&who, ROOT, &name("new"), &NodeCreate::default()).await.unwrap();
    assert_eq!(made.trusted, Trust::Session);
    let asked = cluster.master.asked.load(SeqCst);
    nodes.lookup(&who, ROOT, &name("3")).await.unwrap();
    assert_eq!(nodes.lookup(&who, ROOT, &name("new")).await.unwrap().status.id, made.status.id);
    assert_eq!(nodes.status(ROOT).await.unwrap().status.id, ROOT, "it came with what was made in it");
    assert_eq!(cluster.master.asked.load(SeqCst), asked);
}
