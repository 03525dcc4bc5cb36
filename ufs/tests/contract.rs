//! Every store, and stacks of decorators around them, hold to the contract.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use std::{sync::Arc, time::Duration};

use larder_common::ClusterId;
use larder_ufs::{
    OpenOptions, Operation, UnderStore, contract,
    faulty::Faulty,
    local::LocalStore,
    measured::{Measured, Meter},
    memory::MemoryStore,
    open,
    read_only::ReadOnly,
    throttled::Throttled,
};

fn options() -> OpenOptions {
    OpenOptions::new(ClusterId::random().unwrap())
}

async fn holds(store: Arc<dyn UnderStore>) -> contract::Report {
    let report = contract::run(store).await;
    println!("{report}");
    assert!(report.broken.is_empty(), "{report}");
    report
}

#[derive(Debug)]
struct Deaf;

impl Meter for Deaf {
    fn ended(&self, _: Operation, _: Duration, _: Option<larder_common::ErrorKind>) {}
    fn moved(&self, _: Operation, _: u64) {}
}

fn stacked(store: Arc<dyn UnderStore>) -> Arc<dyn UnderStore> {
    let (faulty, _) = Faulty::around(store);
    let throttled = Throttled::around(Arc::new(faulty), 3, 1000, Duration::from_secs(20));
    Arc::new(Measured::around(Arc::new(throttled), Arc::new(Deaf)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::open(dir.path(), options()).await.unwrap());
    let report = holds(store.clone()).await;
    assert_eq!(report.missing, ["conditional put", "multipart"]);
    assert!(store.list_temporaries().await.unwrap().is_empty());
    assert!(store.list_orphans().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_on_tmpfs() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        println!("skipped: no /dev/shm to write to");
        return;
    };
    holds(Arc::new(LocalStore::open(dir.path(), options()).await.unwrap())).await;
}

#[tokio::test]
async fn an_object_store() {
    let report = holds(Arc::new(MemoryStore::new("contract", options()))).await;
    assert!(report.missing.contains(&"rename") && !report.missing.contains(&"fences"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stacks_of_decorators() {
    let dir = tempfile::tempdir().unwrap();
    holds(stacked(open(dir.path().to_str().unwrap(), options()).await.unwrap())).await;
    holds(stacked(open("memory://stacked", options()).await.unwrap())).await;
}

#[tokio::test]
async fn read_only_stores() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), "x").unwrap();
    let store = LocalStore::open(dir.path(), options()).await.unwrap();
    let report = holds(stacked(Arc::new(ReadOnly::around(Arc::new(store))))).await;
    assert!(report.missing.contains(&"writable"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
