//! Stores behind services, on real servers: they hold to the contract, and to their word when the service does not.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod servers;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use larder_common::{ClusterId, ErrorKind, Name};
use larder_ufs::{
    Attributes, Content, Displaced, Expected, ObjectPath, OpenOptions, Publish, Rename, TemporaryName, UnderStore,
    contract, open,
};
use servers::{Bucket, Server};

struct Site {
    store: Arc<dyn UnderStore>,
    server: Server,
    bucket: Bucket,
    options: OpenOptions,
}

async fn s3_within(deadline: Duration) -> Site {
    let bucket = Bucket::default();
    let server = servers::s3(bucket.clone()).await;
    let options = OpenOptions {
        options: servers::s3_options(&server),
        credentials: servers::credentials(),
        deadline,
        ..OpenOptions::new(ClusterId::random().unwrap())
    };
    let store = open("s3://bucket/a/prefix", options.clone()).await.unwrap();
    Site { store, server, bucket, options }
}

async fn s3() -> Site {
    s3_within(Duration::from_secs(10)).await
}

fn path(text: &str) -> ObjectPath {
    ObjectPath::new(text).unwrap()
}

impl Site {
    async fn write(
        &self,
        target: &str,
        content: impl Into<Bytes>,
    ) -> larder_common::Result<larder_common::Fingerprint> {
        let temporary = TemporaryName::new(path(target), Name::new(format!("t-{}", target.replace('/', "-"))).unwrap());
        self.store.upload_whole(&temporary, Content::Bytes(content.into()), false).await?;
        self.store.publish(&temporary, &path(target), Publish::new_file()).await
    }

    async fn read(&self, target: &str) -> larder_common::Result<Vec<u8>> {
        let kept = Arc::new(std::sync::Mutex::new(Vec::new()));
        let into = Arc::clone(&kept);
        let sink = move |_: u64, bytes: &[u8]| {
            into.lock().unwrap().extend_from_slice(bytes);
            Ok(())
        };
        let expected = self.store.status(&path(target)).await?.fingerprint;
        self.store.fetch(&path(target), Some(&expected), 0..u64::MAX, Box::new(sink)).await?;
        let kept = kept.lock().unwrap().clone();
        Ok(kept)
    }
}

async fn holds(store: Arc<dyn UnderStore>) -> contract::Report {
    let report = contract::run(store).await;
    println!("{report}");
    assert!(report.broken.is_empty(), "{report}");
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_s3_server_holds_to_the_contract() {
    let site = s3().await;
    let report = holds(Arc::clone(&site.store)).await;
    assert!(!report.missing.contains(&"rename") && !report.missing.contains(&"conditional put"), "{report}");
    assert!(!report.missing.contains(&"fences"), "{report}");
    assert!(site.store.list_temporaries().await.unwrap().is_empty());
    assert_eq!(site.bucket.open_uploads(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_heeds_no_conditions_is_found_out() {
    let site = s3().await;
    site.bucket.copies_blindly.store(true, Ordering::SeqCst);
    let store = open("s3://bucket/other", site.options.clone()).await.unwrap();
    let report = holds(store).await;
    assert!(report.missing.contains(&"fences"), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webdav_server_holds_to_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let server = servers::webdav(dir.path()).await;
    let options = OpenOptions::new(ClusterId::random().unwrap());
    let store = open(&format!("webdav://{}/", server.address), options).await.unwrap();
    let report = holds(store).await;
    assert!(report.missing.contains(&"fences"), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_server_is_read() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::fs::write(dir.path().join("d/f"), "content").unwrap();
    let server = servers::webdav(dir.path()).await;
    let uri = format!("http://{}/", server.address);
    let options = OpenOptions::new(ClusterId::random().unwrap());
    let refused = open(&uri, options.clone()).await.unwrap_err();
    assert!(refused.kind() == ErrorKind::Unsupported && refused.advice().unwrap().contains("--readonly"));
    let options = OpenOptions { read_only: true, ..options };
    let store = open(&uri, options.clone()).await.unwrap();
    let listed = store.list(&ObjectPath::root(), None, 1).await.unwrap_err();
    assert_eq!(listed.kind(), ErrorKind::Unsupported);
    let site = Site { store: Arc::clone(&store), server, bucket: Bucket::default(), options };
    assert_eq!(site.read("d/f").await.unwrap(), b"content");
    assert_eq!(site.read("d/none").await.unwrap_err().kind(), ErrorKind::NotFound);
    holds(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_objects_go_and_come_in_parts() {
    let site = s3().await;
    let content: Vec<u8> = (0..20_000_003_u32).map(|i| (i * 31 + i / 251) as u8).collect();
    site.write("large", content.clone()).await.unwrap();
    assert!(site.read("large").await.unwrap() == content);
    assert!(site.store.list_temporaries().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_reached_or_used_is_refused_with_the_reason() {
    let site = s3_within(Duration::from_secs(3)).await;
    let refused = open("s3://none/", site.options.clone()).await.unwrap_err();
    assert!(
        matches!(refused.kind(), ErrorKind::Config | ErrorKind::NotFound) && refused.message().contains("s3://none"),
        "{refused}"
    );
    let mut nobody = site.options.clone();
    nobody.options.insert("endpoint".into(), "http://127.0.0.1:9".into());
    let start = Instant::now();
    let refused = open("s3://bucket/", nobody).await.unwrap_err();
    assert!(refused.kind() == ErrorKind::Unavailable && refused.message().contains("refused"), "{refused}");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    let mut wrong = site.options.clone();
    wrong.credentials = std::collections::BTreeMap::from([(
        "test".to_owned(),
        [("access_key_id", servers::KEY), ("secret_access_key", "wrong-wrong")]
            .map(|(k, v)| (k.to_owned(), larder_common::settings::Secret::new(v)))
            .into(),
    )])
    .into();
    let refused = open("s3://bucket/", wrong).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
    assert!(!format!("{refused:?}").contains("wrong-wrong"));
    for shown in [format!("{:?}", site.store), format!("{:?}", site.options), site.store.describe()] {
        assert!(!shown.contains(servers::SECRET), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_and_cut_connections_are_tried_again() {
    let site = s3().await;
    let content: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    site.server.faults.refuse(2);
    site.write("f", content.clone()).await.unwrap();
    for cut in [1, 100_000, 1_000_000, 2_500_000] {
        site.server.faults.cut_after(cut);
        assert!(site.read("f").await.unwrap() == content, "cut after {cut}");
    }
    site.server.faults.refuse(1_000);
    let start = Instant::now();
    let error = site.store.status(&path("f")).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Busy), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_service_ends_in_a_deadline() {
    let site = s3_within(Duration::from_secs(1)).await;
    site.write("f", "x").await.unwrap();
    site.server.faults.slow(Duration::from_secs(5));
    let start = Instant::now();
    let error = site.store.status(&path("f")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline, "{error}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    site.server.faults.slow(Duration::ZERO);
    site.store.status(&path("f")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_another_version_are_not_taken() {
    let site = s3().await;
    let known = site.write("f", "content").await.unwrap();
    site.server.faults.wrong_etags(1);
    let got = Arc::new(std::sync::Mutex::new(0));
    let into = Arc::clone(&got);
    let sink = move |_: u64, bytes: &[u8]| {
        *into.lock().unwrap() += bytes.len();
        Ok(())
    };
    let fetched = site.store.fetch(&path("f"), Some(&known), 0..7, Box::new(sink)).await;
    assert_eq!((fetched.unwrap_err().kind(), *got.lock().unwrap()), (ErrorKind::Changed, 0));
    site.server.faults.wrong_etags(1);
    assert_ne!(site.store.status(&path("f")).await.unwrap().fingerprint, known);
    assert_eq!(site.store.status(&path("f")).await.unwrap().fingerprint, known);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_whose_answer_was_lost_is_found_again() {
    let site = s3().await;
    let target = path("f");
    let temporary = TemporaryName::new(target.clone(), Name::new("t-1").unwrap());
    site.store.upload_whole(&temporary, Content::Bytes("content".into()), false).await.unwrap();
    // As after a crash between the copy and the deletion: both are there.
    let staged = format!("a/prefix/.larder/{}/tmp/t-1", site.options.cluster);
    let kept = site.bucket.objects.lock()[&staged].clone();
    let first = site.store.publish(&temporary, &target, Publish::new_file()).await.unwrap();
    assert!(!site.bucket.objects.lock().contains_key(&staged));
    site.bucket.objects.lock().insert(staged.clone(), kept);
    let again = site.store.publish(&temporary, &target, Publish::new_file()).await.unwrap();
    assert_eq!(first, again);
    assert!(!site.bucket.objects.lock().contains_key(&staged));
    let other = TemporaryName::new(target.clone(), Name::new("t-2").unwrap());
    site.store.upload_whole(&other, Content::Bytes("content".into()), false).await.unwrap();
    let taken = site.store.publish(&other, &target, Publish::new_file()).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_that_was_cut_off_goes_on() {
    let site = s3_within(Duration::from_secs(4)).await;
    for i in 0..20 {
        site.write(&format!("old/d{}/f{i}", i % 3), format!("content {i}")).await.unwrap();
    }
    let source = site.store.status(&path("old")).await.unwrap().fingerprint;
    let rename =
        || Rename { source: source.clone(), target: Expected::Absent, displaced: Displaced::Unlink, sync: false };
    // Some requests go through, then the service is away for longer than anybody tries again.
    let (store, faults) = (Arc::clone(&site.store), Arc::clone(&site.server.faults));
    faults.slow(Duration::from_millis(15));
    let before = faults.requests.load(Ordering::SeqCst);
    let renaming = tokio::spawn({
        let rename = rename();
        async move { store.rename(&path("old"), &path("new"), rename).await }
    });
    while faults.requests.load(Ordering::SeqCst) < before + 18 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    faults.refuse(1_000_000);
    assert!(renaming.await.unwrap().is_err());
    faults.refuse(0);
    faults.slow(Duration::ZERO);
    let begun = site.store.status(&path("new")).await.is_ok() && site.store.status(&path("old")).await.is_ok();
    assert!(begun, "it was cut off in the middle");
    site.store.rename(&path("old"), &path("new"), rename()).await.unwrap();
    assert_eq!(site.store.status(&path("old")).await.unwrap_err().kind(), ErrorKind::NotFound);
    for i in 0..20 {
        assert_eq!(site.read(&format!("new/d{}/f{i}", i % 3)).await.unwrap(), format!("content {i}").as_bytes());
    }
    // Its record is gone: the next rename of the same names asks all questions again.
    site.store.make_directory(&path("old"), Attributes::default()).await.unwrap();
    let taken = site.store.rename(&path("old"), &path("new"), rename()).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_stay_when_their_last_entry_goes() {
    let site = s3().await;
    let print = site.write("d/f", "x").await.unwrap();
    let orphan = larder_ufs::OrphanName::new(path("d/f"), Name::new("o").unwrap());
    let removal = larder_ufs::Removal { expected: print, orphan, keep: false, sync: false };
    site.store.remove(&path("d/f"), removal).await.unwrap();
    assert!(site.store.status(&path("d")).await.unwrap().kind.is_directory());
    assert!(site.store.list(&path("d"), None, 10).await.unwrap().entries.is_empty());
    site.store.remove_directory(&path("d")).await.unwrap();
    assert_eq!(site.store.status(&path("d")).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_cut_off_leaves_no_object() {
    let site = s3().await;
    let temporary = TemporaryName::new(path("f"), Name::new("t-1").unwrap());
    let upload = site.store.start_upload(&temporary).await.unwrap();
    upload.write_at(0, Bytes::from(vec![1; 12 << 20])).await.unwrap();
    site.server.faults.refuse(1_000_000);
    assert!(upload.finish(false).await.is_err());
    site.server.faults.refuse(0);
    assert!(site.store.list_temporaries().await.unwrap().is_empty());
    site.write("f", "x").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_object_that_comes_in_between_is_not_replaced() {
    let site = s3().await;
    let known = site.write("f", "known").await.unwrap();
    // The look sees what we know; the foreign object comes before the copy.
    let temporary = TemporaryName::new(path("f"), Name::new("t-9").unwrap());
    site.store.upload_whole(&temporary, Content::Bytes("ours".into()), false).await.unwrap();
    site.server.faults.slow(Duration::from_millis(100));
    let (store, bucket, before) =
        (Arc::clone(&site.store), site.bucket.clone(), site.server.faults.requests.load(Ordering::SeqCst));
    let publishing =
        tokio::spawn(async move { store.publish(&temporary, &path("f"), Publish::replacing(known)).await });
    while site.server.faults.requests.load(Ordering::SeqCst) < before + 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bucket.put_foreign("a/prefix/f", b"foreign");
    assert_eq!(publishing.await.unwrap().unwrap_err().kind(), ErrorKind::Changed);
    assert_eq!(site.read("f").await.unwrap(), b"foreign");
}
