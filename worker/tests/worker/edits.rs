//! Files edited in place at a worker: by descriptor and by stream, with and without their content here, and what becomes
//! of them when the writer is gone.

use std::os::unix::fs::FileExt;

use bytes::Bytes;
use larder_common::{Error, ErrorKind, Generation, LeaseId, Result, WriteType};
use larder_proto::{
    Base, Grant, from_status,
    v1::{self, edit_reply, edit_request, order, short_reply, short_request::What as Ask},
};
use tokio::sync::mpsc;

use crate::{
    master::eventually,
    site::{MIB, Short, Site, content, item},
};

/// A grant to edit what another grant reads, as generation `next`.
pub(crate) fn to_edit(site: &Site, read: &Grant, next: u64, write_type: WriteType) -> Grant {
    let base = Some(Base { generation: read.generation, length: read.length });
    let lease = LeaseId(read.file.0 + 5000);
    let right = site.to_write(read.file.0, write_type).write;
    let right = right.map(|right| larder_proto::WriteRight { lease, base, ..right });
    Grant { generation: Generation(next), write: right, ..read.clone() }
}

pub(crate) struct Edit {
    pub(crate) ticket: u64,
    pub(crate) file: std::fs::File,
    pub(crate) state: v1::ShortWritable,
}

pub(crate) async fn begin(site: &Site, short: &Short, grant: &Grant) -> Result<Edit> {
    let ask = v1::ShortWrite { grant: site.master.sign(grant), edit: true, ..Default::default() };
    let received = short.ask(Ask::Write(ask)).await?;
    let Some(short_reply::What::Writable(state)) = received.message.what else { panic!() };
    let file = received.descriptors.into_iter().next().unwrap().into();
    Ok(Edit { ticket: state.ticket, file, state })
}

pub(crate) async fn commit(short: &Short, ticket: u64, length: u64, dirty: &[(u64, u64)]) -> Result<v1::Receipt> {
    let dirty = dirty.iter().map(|(offset, length)| v1::ByteRange { offset: *offset, length: *length }).collect();
    match short.ask(Ask::Commit(v1::ShortCommit { ticket, length, dirty, upload: false })).await?.message.what {
        Some(short_reply::What::Sealed(receipt)) => Ok(receipt),
        other => panic!("{other:?}"),
    }
}

async fn end(short: &Short, ticket: u64) -> bool {
    match short.ask(Ask::End(v1::ShortEnd { ticket })).await.unwrap().message.what {
        Some(short_reply::What::Ended(ended)) => ended.kept,
        other => panic!("{other:?}"),
    }
}

/// A grant to read what was committed, of content that is only here.
fn reads(grant: &Grant, length: u64) -> Grant {
    Grant { write: None, length, fingerprint: None, persisted: false, ..grant.clone() }
}

/// Content that is at the worker and nowhere else.
async fn only_here(site: &Site, file: u64, bytes: &[u8]) -> Grant {
    let grant = site.to_write(file, WriteType::MustCache);
    site.write(&grant, bytes, vec![]).await.unwrap();
    reads(&grant, bytes.len() as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_edited_through_a_descriptor_and_goes_on() {
    let site = Site::new("64MB").await;
    let mut bytes = content(2 * MIB + 100, 1);
    let old = only_here(&site, 10, &bytes).await;
    let short = site.short().await;
    let grant = to_edit(&site, &old, 50, WriteType::MustCache);
    let edit = begin(&site, &short, &grant).await.unwrap();
    assert_eq!((edit.state.length, edit.state.copied), (old.length, false));
    assert_eq!(edit.state.whole, [v1::BlockRun { first: 0, count: 3 }]);
    edit.file.write_all_at(b"changed", 5).unwrap();
    bytes[5..12].copy_from_slice(b"changed");
    assert!(site.read(&old, 0, old.length).await.unwrap() == bytes, "others read it as it is being written");
    let receipt = commit(&short, edit.ticket, old.length, &[(5, 7)]).await.unwrap();
    assert_eq!((receipt.crc32c, receipt.generation), (larder_common::checksum::crc32c(&bytes), 50));
    assert!(receipt.held.is_empty() && receipt.cached);
    let committed = reads(&grant, old.length);
    let next = to_edit(&site, &committed, 51, WriteType::MustCache);
    let go_on = v1::ShortGoOn { ticket: edit.ticket, grant: site.master.sign(&next) };
    short.ask(Ask::GoOn(go_on)).await.unwrap();
    let extend = v1::ShortExtend { ticket: edit.ticket, written: 0, reserve: old.length + 3 };
    short.ask(Ask::Extend(extend)).await.unwrap();
    edit.file.write_all_at(b"end", old.length).unwrap();
    bytes.extend_from_slice(b"end");
    assert!(site.read(&committed, 0, old.length).await.unwrap() == bytes[..old.length as usize]);
    commit(&short, edit.ticket, bytes.len() as u64, &[(old.length, 3)]).await.unwrap();
    drop(edit.file);
    assert!(end(&short, edit.ticket).await);
    let newest = reads(&next, bytes.len() as u64);
    assert!(site.read(&newest, 0, newest.length).await.unwrap() == bytes);
    let (answers, files) = short.lease(vec![item(site.master.sign(&newest), true)]).await.unwrap();
    assert_eq!((&answers[0].failure, files.len()), (&None, 1), "it is leased like any other");
    assert_eq!(site.read(&committed, 0, 1).await.unwrap_err().kind(), ErrorKind::Regrant, "that one is over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_that_are_not_here_are_fetched_when_they_are_touched() {
    let site = Site::new("64MB").await;
    let mut bytes = content(5 * MIB + 9, 2);
    let old = site.file("f", &bytes).await;
    let short = site.short().await;
    let grant = to_edit(&site, &old, 50, WriteType::CacheThrough);
    let edit = begin(&site, &short, &grant).await.unwrap();
    assert!(edit.state.whole.is_empty());
    let fill = v1::ShortFill { ticket: edit.ticket, offset: MIB + 7, length: 3 };
    let filled = short.ask(Ask::Fill(fill)).await.unwrap().message.what;
    let Some(short_reply::What::Filled(filled)) = filled else { panic!() };
    assert_eq!(filled.whole, [v1::BlockRun { first: 1, count: 1 }]);
    assert_eq!(site.fetches(), 1, "only what is needed");
    edit.file.write_all_at(b"xyz", MIB + 7).unwrap();
    bytes[MIB as usize + 7..MIB as usize + 10].copy_from_slice(b"xyz");
    let receipt = commit(&short, edit.ticket, old.length, &[(MIB + 7, 3)]).await.unwrap();
    assert_eq!(receipt.held, [v1::BlockRun { first: 1, count: 1 }]);
    // The master has it put into the under store: what is missing is brought from the base.
    let mut right = grant.write.clone().unwrap();
    right.lease = LeaseId(0);
    let persist = Grant { write: Some(right), ..grant.clone() };
    let done = site.master.order(order::What::Persist(v1::OrderPersist { grant: site.master.sign(&persist) })).await;
    assert_eq!(done.failure, None);
    let temporary = grant.write.as_ref().unwrap().temporary.clone();
    assert!(site.temporary(std::str::from_utf8(&temporary).unwrap()).unwrap() == bytes);
    let mark = v1::OrderMark { file: old.file.0, generation: 50 };
    assert_eq!(site.master.order(order::What::Mark(mark)).await.failure, None);
    drop(edit.file);
    assert!(end(&short, edit.ticket).await);
    let report =
        site.worker().store().describe(larder_worker::store::FileKey { file: old.file, generation: Generation(50) });
    assert!(report.unwrap().persisted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_somebody_holds_does_not_change() {
    let site = Site::new("64MB").await;
    let bytes = content(MIB + 5, 3);
    let old = only_here(&site, 10, &bytes).await;
    let other = site.short().await;
    let (_, files) = other.lease(vec![item(site.master.sign(&old), true)]).await.unwrap();
    let short = site.short().await;
    let edit = begin(&site, &short, &to_edit(&site, &old, 50, WriteType::MustCache)).await.unwrap();
    assert!(edit.state.copied && edit.state.whole == [v1::BlockRun { first: 0, count: 2 }]);
    match other.next().await.message.what {
        Some(short_reply::What::Recall(recall)) => assert_eq!(recall.leases.len(), 1, "it was asked first"),
        other => panic!("{other:?}"),
    }
    edit.file.write_all_at(&[0; 5000], 0).unwrap();
    let mut seen = vec![0; bytes.len()];
    files[0].read_exact_at(&mut seen, 0).unwrap();
    assert!(seen == bytes);
    // Without a holder in the way the file itself is taken.
    drop((edit, files, other));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_edit_is_seen_by_the_writer_s_own_handles() {
    let site = Site::new("64MB").await;
    let old = only_here(&site, 10, &content(MIB, 3)).await;
    let short = site.short().await;
    let (_, files) = short.lease(vec![item(site.master.sign(&old), true)]).await.unwrap();
    let grant = to_edit(&site, &old, 50, WriteType::MustCache);
    let ask = v1::ShortWrite { grant: site.master.sign(&grant), edit: true, shared: true, ..Default::default() };
    let received = short.ask(Ask::Write(ask)).await.unwrap();
    let Some(short_reply::What::Writable(state)) = received.message.what else { panic!() };
    assert!(!state.copied);
    let file: std::fs::File = received.descriptors.into_iter().next().unwrap().into();
    file.write_all_at(b"seen", 100).unwrap();
    let mut seen = [0; 4];
    files[0].read_exact_at(&mut seen, 100).unwrap();
    assert_eq!(&seen, b"seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_is_gone_leaves_what_the_master_decides() {
    let mut site = Site::new("64MB").await;
    let mut bytes = content(MIB + 5, 4);
    let old = only_here(&site, 10, &bytes).await;
    let persisted = site.file("p", &bytes).await;
    site.read(&persisted, 0, persisted.length).await.unwrap();
    let short = site.short().await;
    let grants =
        [to_edit(&site, &old, 50, WriteType::MustCache), to_edit(&site, &persisted, 60, WriteType::CacheThrough)];
    for grant in &grants {
        let edit = begin(&site, &short, grant).await.unwrap();
        edit.file.write_all_at(b"half written", 0).unwrap();
    }
    bytes[..12].copy_from_slice(b"half written");
    drop(short);
    // The worker dies too: what was taken over is on the medium under its lease.
    site.worker = None;
    site.start().await;
    let seen = || site.master.state.seen.lock().held.clone();
    let lease = |grant: &Grant| grant.write.as_ref().unwrap().lease.0;
    eventually("the worker tells what waits", || {
        seen().values().any(|held| held.lease == lease(&grants[0]) && held.generation == old.generation.0)
    })
    .await;
    let forward = v1::OrderRollForward { lease: lease(&grants[0]), file: old.file.0, generation: 50 };
    let done = site.master.order(order::What::RollForward(forward)).await;
    let receipt = done.receipt.unwrap();
    assert_eq!((receipt.length, receipt.crc32c), (old.length, larder_common::checksum::crc32c(&bytes)));
    let kept = reads(&grants[0], old.length);
    assert!(site.read(&kept, 0, kept.length).await.unwrap() == bytes);
    let again = site.master.order(order::What::RollForward(forward)).await;
    assert_eq!(again.failure.unwrap().kind, ErrorKind::NotFound as u32);
    let forget = v1::OrderForget { file: persisted.file.0, generation: 0, lease: lease(&grants[1]) };
    assert_eq!(site.master.order(order::What::Forget(forget)).await.failure, None);
    assert!(site.worker().store().edited().is_empty());
    let right = std::fs::read(site.under.path().join("p")).unwrap();
    assert!(site.read(&persisted, 0, persisted.length).await.unwrap() == right, "the base is what it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_comes_back_under_its_lease() {
    let site = Site::new("64MB").await;
    let bytes = content(MIB, 5);
    let old = only_here(&site, 10, &bytes).await;
    let grant = to_edit(&site, &old, 50, WriteType::MustCache);
    let short = site.short().await;
    let edit = begin(&site, &short, &grant).await.unwrap();
    edit.file.write_all_at(b"first", 0).unwrap();
    assert_eq!(begin(&site, &short, &grant).await.map(drop).unwrap_err().kind(), ErrorKind::Busy);
    drop((edit, short));
    eventually("the connection is gone", || site.counter("larder_short_circuit_connections") == 0).await;
    let short = site.short().await;
    let edit = begin(&site, &short, &grant).await.unwrap();
    let mut seen = [0; 5];
    edit.file.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(&seen, b"first");
    commit(&short, edit.ticket, MIB, &[(0, MIB)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_edited_by_messages() {
    let site = Site::new("64MB").await;
    let mut bytes = content(2 * MIB + 9, 6);
    let old = site.file("f", &bytes).await;
    let grant = to_edit(&site, &old, 50, WriteType::AsyncThrough);
    let (requests, stream) = mpsc::channel(16);
    let send = |what| requests.try_send(v1::EditRequest { what: Some(what) }).unwrap();
    send(edit_request::What::Begin(v1::EditBegin { grant: site.master.sign(&grant) }));
    let mut client = site.blocks();
    let mut replies = client.edit(tokio_stream::wrappers::ReceiverStream::new(stream)).await.unwrap().into_inner();
    let mut next = async || match replies.message().await.map_err(|status| from_status(&status))?.unwrap().what {
        Some(edit_reply::What::Failure(failure)) => Err(Error::from(failure)),
        what => Ok(what.unwrap()),
    };
    let done = |length| edit_reply::What::Done(v1::EditState { length });
    assert_eq!(next().await.unwrap(), done(old.length));
    send(edit_request::What::Write(v1::EditWrite { offset: MIB - 1, data: Bytes::from_static(b"over the edge") }));
    bytes[MIB as usize - 1..MIB as usize + 12].copy_from_slice(b"over the edge");
    assert_eq!(next().await.unwrap(), done(old.length));
    send(edit_request::What::Read(v1::EditRead { offset: MIB - 10, length: 40 }));
    let expected = Bytes::copy_from_slice(&bytes[MIB as usize - 10..MIB as usize + 30]);
    assert_eq!(next().await.unwrap(), edit_reply::What::Data(expected));
    send(edit_request::What::Resize(v1::EditResize { length: 2 * MIB + 4 }));
    bytes.truncate(2 * MIB as usize + 4);
    assert_eq!(next().await.unwrap(), done(2 * MIB + 4));
    let dirty = vec![v1::ByteRange { offset: MIB - 1, length: 13 }];
    send(edit_request::What::Commit(v1::EditCommit { length: 2 * MIB + 4, dirty }));
    let edit_reply::What::Sealed(receipt) = next().await.unwrap() else { panic!() };
    assert_eq!(receipt.crc32c, larder_common::checksum::crc32c(&bytes));
    assert!(receipt.held.is_empty(), "what goes nowhere else at once is whole here");
    send(edit_request::What::End(v1::Empty {}));
    next().await.unwrap();
    let committed = reads(&grant, bytes.len() as u64);
    assert!(site.read(&committed, 0, committed.length).await.unwrap() == bytes);
}
