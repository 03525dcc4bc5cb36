//! A full disk: nothing is lost, nothing half-written is ever seen, and writing goes on when there is room.

use larder_common::ErrorKind;
use nix::{
    fcntl::{FallocateFlags, fallocate},
    mount::{MntFlags, MsFlags, mount, umount2},
};

use super::{super::Health, *};

/// A small tmpfs of the test's own.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let temp = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        match mount(Some("tmpfs"), temp.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str())) {
            Ok(()) => Some(Self(temp)),
            Err(e) => {
                println!("skipped: a tmpfs cannot be mounted here: {e}");
                None
            }
        }
    }

    fn journal(&self) -> std::path::PathBuf {
        self.0.path().join("journal")
    }

    fn filler(&self) -> std::path::PathBuf {
        self.0.path().join("filler")
    }

    fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::options().create(true).append(true).open(self.filler()).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

fn append_until_full(journal: &EmbeddedJournal) -> larder_common::Error {
    loop {
        let next = journal.last().0 + 1;
        if let Err(error) = journal.append(&[entry(next), entry(next + 1)]) {
            return error;
        }
    }
}

#[test]
fn the_journal_is_read_only_until_there_is_room() {
    let Some(disk) = SmallDisk::mount("512k") else { return };
    let journal = open(&disk.journal()).journal;
    append(&journal, 1000);
    disk.fill();
    let error = append_until_full(&journal);
    assert!(error.kind() == ErrorKind::NoSpace && error.advice().is_some(), "{error:?}");
    assert!(matches!(journal.health(), Health::ReadOnly(_)));
    let last = check(&journal, 1);
    journal.sync_to(Position(last), soon()).unwrap();
    let checkpoint_fails = journal.begin_checkpoint(Position(last)).and_then(|mut writer| {
        writer.add(&[0; 64 << 10])?;
        writer.finish()
    });
    assert_eq!(checkpoint_fails.unwrap_err().kind(), ErrorKind::NoSpace);
    drop(journal);
    let opened = open(&disk.journal());
    assert_eq!((check(&opened.journal, 1), opened.findings.len()), (last, 0), "a start on a full disk");
    assert_eq!(append_until_full(&opened.journal).kind(), ErrorKind::NoSpace);
    std::fs::remove_file(disk.filler()).unwrap();
    append(&opened.journal, 500);
    assert_eq!(opened.journal.health(), Health::Writable);
    drop(opened);
    check(&open(&disk.journal()).journal, 1);
}

#[test]
fn what_a_failed_write_left_is_never_seen() {
    let Some(disk) = SmallDisk::mount("512k") else { return };
    let journal = open(&disk.journal()).journal;
    append(&journal, 20);
    let path = disk.journal().join("journal-00000000000000000001.log");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    fallocate(&file, FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE, 12 << 10, 12 << 10)
        .unwrap();
    disk.fill();
    let batch: Vec<Bytes> = (21..120).map(entry).collect();
    let error = journal.append(&batch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let killed = killed(&journal, &disk.journal());
    let opened = open(killed.path());
    assert_eq!((check(&opened.journal, 1), opened.findings), (20, vec![]));
    std::fs::remove_file(disk.filler()).unwrap();
    append(&journal, 100);
    drop(journal);
    assert_eq!(check(&open(&disk.journal()).journal, 1), 120);
}
