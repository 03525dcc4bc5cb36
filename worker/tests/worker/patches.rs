//! What an edit has changed, written into the object of the under store in place by order of the master.

use std::os::unix::fs::FileExt;

use larder_common::{ErrorKind, Fingerprint, WriteType};
use larder_proto::{
    Grant,
    v1::{self, order},
};

use crate::{
    edits::{begin, commit, to_edit},
    site::{MIB, Site, content},
};

/// A grant to patch an object that looks like this with an edit's bytes.
fn to_patch(grant: &Grant, fingerprint: Fingerprint) -> Grant {
    let write = grant.write.clone().map(|right| larder_proto::WriteRight { base: None, ..right });
    Grant { fingerprint: Some(fingerprint), persisted: false, write, ..grant.clone() }
}

fn range(offset: u64, length: u64) -> v1::ByteRange {
    v1::ByteRange { offset, length }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_patched_with_what_an_edit_sealed() {
    let site = Site::new("64MB").await;
    let mut bytes = content(3 * MIB + 9, 2);
    let old = site.file("f", &bytes).await;
    let short = site.short().await;
    let grant = to_edit(&site, &old, 50, WriteType::CacheThrough);
    let edit = begin(&site, &short, &grant).await.unwrap();
    // Before anything was sealed there is nothing to patch with.
    let patch = |grant: &Grant, ranges: Vec<v1::ByteRange>, length| {
        order::What::Patch(v1::OrderPatch { grant: site.master.sign(grant), ranges, length, sync: true })
    };
    let before = site.fingerprint("f").await;
    let early = site.master.order(patch(&to_patch(&grant, before.clone()), vec![range(0, 1)], old.length)).await;
    assert_eq!(early.failure.map(|failure| failure.kind), Some(ErrorKind::NotFound as u32));
    let fill = v1::ShortFill { ticket: edit.ticket, offset: 0, length: MIB };
    short.ask(larder_proto::v1::short_request::What::Fill(fill)).await.unwrap();
    edit.file.write_all_at(b"xyz", 100).unwrap();
    bytes[100..103].copy_from_slice(b"xyz");
    commit(&short, edit.ticket, old.length, &[(100, 3)]).await.unwrap();
    let grant = to_patch(&grant, before.clone());
    let done = site.master.order(patch(&grant, vec![range(100, 3)], old.length)).await;
    assert_eq!(done.failure, None);
    let after: Fingerprint = done.fingerprint.unwrap().into();
    assert_eq!((after.inode, after.size), (before.inode, before.size), "it is the same file");
    assert_eq!(site.fingerprint("f").await, after);
    assert!(site.object("f") == bytes);
    let late = site.master.order(patch(&grant, vec![range(100, 3)], old.length)).await;
    assert_eq!(late.failure.map(|failure| failure.kind), Some(ErrorKind::Changed as u32), "it is not done twice");
    let beyond = site.master.order(patch(&to_patch(&grant, after), vec![range(0, 3)], 2)).await;
    assert_eq!(beyond.failure.map(|failure| failure.kind), Some(ErrorKind::Invalid as u32));
    assert!(site.object("f") == bytes);
}
