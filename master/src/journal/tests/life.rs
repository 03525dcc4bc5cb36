//! What an embedded journal promises while nothing goes wrong, and what it refuses.

use larder_common::{ClusterId, ErrorKind, checksum::crc32c};

use super::{
    super::{Finding, Health, MemoryJournal, Role},
    *,
};

fn files(directory: &Path, begin: &str) -> Vec<String> {
    let names = std::fs::read_dir(directory).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(begin)).collect();
    names.sort();
    names
}

#[test]
fn entries_come_back_and_the_epoch_grows() {
    let temp = fast_directory();
    let mut written = 0;
    for epoch in 1..5 {
        let opened = open(temp.path());
        assert_eq!((opened.created, opened.findings), (epoch == 1, vec![]));
        assert_eq!(opened.journal.role(), Role::Leader { epoch });
        assert_eq!(check(&opened.journal, 1), written);
        written = append(&opened.journal, 700).0;
    }
    assert!(files(temp.path(), "journal-").len() > 4);
}

#[test]
fn a_batch_keeps_its_order_and_one_that_is_too_large_is_refused() {
    let temp = fast_directory();
    let journal = open(temp.path()).journal;
    let batch: Vec<Bytes> = (1..=40).map(entry).collect();
    assert_eq!(journal.append(&batch).unwrap(), Position(40));
    assert_eq!(journal.append(&[]).unwrap(), Position(40));
    let error = journal.append(&[Bytes::from(vec![0; SMALL as usize])]).unwrap_err();
    assert_eq!((error.kind(), journal.health()), (ErrorKind::Invalid, Health::Writable));
    let limit = SMALL as usize - 2 * 4096 - 400;
    journal.append(&[Bytes::from(vec![7; limit])]).unwrap();
    assert_eq!(read(&journal, 41).unwrap(), [(Position(41), Bytes::from(vec![7; limit]))]);
}

#[test]
fn what_nobody_waits_for_is_synced_soon() {
    let temp = fast_directory();
    let journal = open(temp.path()).journal;
    let last = append(&journal, 3);
    let until = soon();
    while *journal.durable().borrow() < last {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_waiters_share_syncs() {
    let temp = fast_directory();
    let journal = std::sync::Arc::new(open(temp.path()).journal);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let journal = journal.clone();
        tasks.spawn(async move {
            for _ in 0..50 {
                let position = journal.append(&[Bytes::from_static(b"x")]).unwrap();
                journal.wait_durable(position, soon()).await.unwrap();
                assert!(*journal.durable().borrow() >= position);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(journal.barrier(soon()).await.unwrap(), Position(800));
    let late = journal.wait_durable(Position(801), Instant::now() + Duration::from_millis(20)).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Deadline);
}

#[test]
fn two_checkpoints_and_the_journal_from_the_older_one_are_kept() {
    let temp = fast_directory();
    let opened = open(temp.path());
    assert!(opened.checkpoint.is_none());
    for round in 1..=6 {
        let at = append(&opened.journal, 600);
        checkpoint(&opened.journal, at);
        append(&opened.journal, 50);
        assert_eq!(files(temp.path(), "checkpoint-").len(), round.min(2));
    }
    assert!(files(temp.path(), "journal-").len() < 10);
    let older = Position(5 * 650 - 50);
    assert_eq!(read(&opened.journal, 1).unwrap_err().kind(), ErrorKind::NotFound);
    check(&opened.journal, older.0 + 1);
    drop(opened);
    let again = open(temp.path());
    assert_eq!(check_checkpoint(again.checkpoint.unwrap()), Position(6 * 650 - 50));
    assert_eq!((check(&again.journal, older.0 + 1), again.findings), (6 * 650, vec![]));
}

#[test]
fn segments_that_are_read_stay() {
    let temp = fast_directory();
    let journal = open(temp.path()).journal;
    let at = append(&journal, 1000);
    let mut entries = journal.entries(Position(1)).unwrap();
    assert_eq!(entries.next().unwrap().unwrap().0, Position(1));
    checkpoint(&journal, Position(900));
    checkpoint(&journal, at);
    append(&journal, 500);
    assert_eq!(entries.by_ref().count(), 999);
    drop(entries);
    checkpoint(&journal, at.next());
    assert!(read(&journal, 1).is_err());
}

/// Whether old frames lie behind the end of the present segment.
fn has_stale_frames(journal: &EmbeddedJournal, directory: &Path) -> bool {
    let (number, end) = journal.end();
    let bytes = std::fs::read(directory.join(format!("journal-{number:020}.log"))).unwrap();
    bytes.get(end as usize + 40..).is_some_and(|rest| rest.iter().any(|b| *b != 0))
}

#[test]
fn recycled_segments_are_not_misread() {
    let temp = fast_directory();
    let journal = open(temp.path()).journal;
    // Which segment is made from an old one depends on the thread that prepares; go on until one is in use.
    let older = (0..100).find_map(|_| {
        let older = journal.checkpoint().unwrap().map_or(Position(0), |checkpoint| checkpoint.position);
        let at = append(&journal, 400);
        checkpoint(&journal, at);
        append(&journal, 5);
        has_stale_frames(&journal, temp.path()).then_some(older.0)
    });
    let (older, last) = (older.unwrap(), journal.last().0);
    assert_eq!(check(&journal, older + 1), last);
    let killed = killed(&journal, temp.path());
    drop(journal);
    for directory in [temp.path(), killed.path()] {
        let opened = open(directory);
        assert_eq!((check(&opened.journal, older + 1), opened.findings), (last, vec![]));
    }
}

#[test]
fn an_installed_state_replaces_the_journal() {
    let temp = fast_directory();
    let journal = open(temp.path()).journal;
    append(&journal, 500);
    checkpoint(&journal, Position(300));
    assert_eq!(journal.install(Position(500), 9).unwrap_err().kind(), ErrorKind::Invalid);
    let mut writer = journal.install(Position(7000), 9).unwrap();
    assert_eq!(journal.begin_checkpoint(Position(500)).unwrap_err().kind(), ErrorKind::Busy);
    for part in 0..5 {
        writer.add(format!("state 7000 {part}").as_bytes()).unwrap();
    }
    writer.finish().unwrap();
    assert_eq!((journal.last(), *journal.durable().borrow()), (Position(7000), Position(7000)));
    assert_eq!(append(&journal, 10), Position(7010));
    assert_eq!(journal.role(), Role::Leader { epoch: 9 });
    assert!(read(&journal, 7000).is_err());
    drop(journal);
    let opened = open(temp.path());
    assert_eq!(check_checkpoint(opened.checkpoint.unwrap()), Position(7000));
    assert_eq!((check(&opened.journal, 7001), opened.findings), (7010, vec![]));
    assert_eq!(opened.journal.role(), Role::Leader { epoch: 10 });
}

#[test]
fn an_installation_that_was_interrupted_is_completed() {
    let (temp, other) = (fast_directory(), fast_directory());
    let cluster = ClusterId([4; 16]);
    let mine = |path: &Path| Settings { cluster: Some(cluster), ..settings(path) };
    append(&EmbeddedJournal::open(&mine(temp.path())).unwrap().journal, 500);
    let ahead = EmbeddedJournal::open(&mine(other.path())).unwrap().journal;
    let mut writer = ahead.install(Position(7000), 9).unwrap();
    (0..5).for_each(|part| writer.add(format!("state 7000 {part}").as_bytes()).unwrap());
    writer.finish().unwrap();
    let name = &files(other.path(), "checkpoint-")[0];
    std::fs::copy(other.path().join(name), temp.path().join(name)).unwrap();
    let opened = open(temp.path());
    assert_eq!(opened.findings, [Finding::Replaced { at: Position(7000) }]);
    assert_eq!(append(&opened.journal, 5), Position(7005));
    drop(opened);
    assert_eq!(check(&open(temp.path()).journal, 7001), 7005);
}

#[test]
fn a_second_opener_another_cluster_and_a_newer_format_are_refused() {
    let temp = fast_directory();
    let opened = open(temp.path());
    let busy = try_open(temp.path()).unwrap_err();
    assert!(busy.kind() == ErrorKind::Busy && busy.to_string().contains("process"), "{busy}");
    drop(opened);
    let other = Settings { cluster: Some(ClusterId([9; 16])), ..settings(temp.path()) };
    assert_eq!(EmbeddedJournal::open(&other).unwrap_err().kind(), ErrorKind::Mismatch);
    let path = temp.path().join("journal-00000000000000000001.log");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 2;
    bytes[12..16].fill(0);
    let crc = crc32c(&bytes[..128]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let newer = try_open(temp.path()).unwrap_err();
    assert!(newer.kind() == ErrorKind::Mismatch && newer.to_string().contains("written by \"larder"), "{newer}");
}

#[test]
fn a_failed_sync_ends_everything_but_reading() {
    let temp = fast_directory();
    let journal = open(temp.path()).journal;
    append(&journal, 10);
    journal.fail_sync(larder_common::Error::new(ErrorKind::Unavailable, "fdatasync failed"));
    let error = journal.append(&[entry(11)]).unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("fdatasync failed"), "{error}");
    assert!(journal.sync_to(Position(10), soon()).is_err());
    assert!(matches!(journal.health(), Health::Failed(_)));
    assert_eq!(check(&journal, 1), 10);
    drop(journal);
    assert_eq!(check(&open(temp.path()).journal, 1), 10);
}

#[test]
fn a_closed_journal_takes_nothing_more() {
    let temp = fast_directory();
    let journal = open(temp.path()).journal;
    append(&journal, 3);
    journal.close().unwrap();
    journal.close().unwrap();
    assert_eq!(journal.append(&[entry(4)]).unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!((journal.health(), check(&journal, 1)), (Health::Closed, 3));
}

#[test]
fn the_journal_in_memory_keeps_the_same_promises() {
    let journal = MemoryJournal::new(ClusterId([1; 16]));
    append(&journal, 10);
    journal.sync_to(Position(10), soon()).unwrap();
    journal.hold_syncs(true);
    append(&journal, 5);
    assert!(journal.sync_to(Position(15), Instant::now() + Duration::from_millis(5)).is_err());
    let (killed, cut) = (MemoryJournal::open(journal.after_kill()), MemoryJournal::open(journal.after_power_cut()));
    assert_eq!((check(&killed, 1), check(&cut, 1)), (15, 10));
    journal.hold_syncs(false);
    checkpoint(&journal, Position(4));
    checkpoint(&journal, Position(12));
    assert_eq!(check_checkpoint(journal.checkpoint().unwrap().unwrap()), Position(12));
    assert_eq!((check(&journal, 5), read(&journal, 4).is_err()), (15, true));
    let full = larder_common::Error::new(ErrorKind::NoSpace, "full");
    journal.fail_appends(Some(full.clone()));
    assert_eq!(journal.append(&[entry(16)]).unwrap_err(), full);
    journal.fail_appends(None);
    append(&journal, 1);
    journal.fail_sync(larder_common::Error::new(ErrorKind::Unavailable, "broken"));
    assert!(journal.append(&[entry(17)]).is_err() && journal.durable().has_changed().is_err());
}
