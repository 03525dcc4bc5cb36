//! Torn tails and flipped bits: harmless, or named; never a wrong or a silently missing entry.

use larder_common::ErrorKind;

use super::{super::Finding, *};

/// A journal over several segments with two checkpoints, ended in order or not; and its last Position.
fn written(clean: bool) -> (TempDir, u64) {
    let temp = fast_directory();
    let journal = open(temp.path()).journal;
    append(&journal, 150);
    checkpoint(&journal, Position(100));
    append(&journal, 150);
    checkpoint(&journal, Position(250));
    let last = append(&journal, 20).0;
    let killed = killed(&journal, temp.path());
    drop(journal);
    (if clean { temp } else { killed }, last)
}

fn flip(path: &Path, bit: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << (bit % 8))], bit / 8).unwrap();
}

/// Opens, and proves that nothing is wrong or silently missing. Gives what happened.
fn judge(directory: &Path, last: u64) -> &'static str {
    let mut opened = match try_open(directory) {
        Err(error) => {
            let text = error.to_string();
            let named = error.kind() == ErrorKind::Corrupt && text.contains("journal-") && error.advice().is_some();
            assert!(named, "{error:?}");
            return "refused";
        }
        Ok(opened) => opened,
    };
    let at = opened.checkpoint.take().map_or(0, |checkpoint| check_checkpoint(checkpoint).0);
    let end = check(&opened.journal, at + 1);
    assert_eq!(check(&opened.journal, 101), end);
    let torn = opened.findings.iter().find_map(|finding| match finding {
        Finding::TornTail { position, .. } => Some(position.0),
        _ => None,
    });
    assert!(end == last || torn == Some(end + 1), "entries end at {end}, not {last}: {:?}", opened.findings);
    match (torn, opened.findings.is_empty()) {
        (Some(_), _) => "torn",
        (None, true) => "harmless",
        (None, false) => "named",
    }
}

#[test]
fn a_torn_tail_at_every_byte_gives_exactly_what_was_whole() {
    let temp = fast_directory();
    let journal = open(temp.path()).journal;
    let mut ends = Vec::new();
    for position in 1..=9u64 {
        journal.append(&[entry(position)]).unwrap();
        ends.push(journal.end().1);
    }
    let source = killed(&journal, temp.path());
    drop(journal);
    let name = "journal-00000000000000000001.log";
    let whole = std::fs::read(source.path().join(name)).unwrap();
    for length in ends[5]..=ends[8] {
        for zeros in [false, true] {
            let trial = fast_directory();
            let mut bytes = whole[..length as usize].to_vec();
            bytes.resize(if zeros { whole.len() } else { bytes.len() }, 0);
            std::fs::write(trial.path().join(name), bytes).unwrap();
            let there = |end: &&u64| **end <= length || zeros && blank(&whole[length as usize..**end as usize]);
            let expected = ends.iter().filter(there).count() as u64;
            let orderly = blank(&whole[(ends[expected as usize - 1].min(length) as usize)..length as usize]);
            let opened = open(trial.path());
            assert_eq!(check(&opened.journal, 1), expected, "{length}");
            assert_eq!(opened.findings.is_empty(), orderly, "{length}");
            append(&opened.journal, 3);
            drop(opened);
            let again = open(trial.path());
            assert_eq!((check(&again.journal, 1), again.findings), (expected + 3, vec![]));
        }
    }
}

fn blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}

fn flip_everywhere(clean: bool, step: usize) {
    let (source, last) = written(clean);
    let mut files: Vec<_> = std::fs::read_dir(source.path()).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "log"));
    let mut counts = std::collections::BTreeMap::<&str, u32>::new();
    let trial = fast_directory();
    for path in files {
        let bytes = std::fs::read(&path).unwrap();
        let used = bytes.iter().rposition(|b| *b != 0).unwrap_or(0) + 100;
        let meant = (0..128 * 8).step_by(31).chain((4096 * 8..used * 8).step_by(step));
        for bit in meant.filter(|bit| bit / 8 < bytes.len()) {
            std::fs::read_dir(trial.path()).unwrap().for_each(|f| std::fs::remove_file(f.unwrap().path()).unwrap());
            copy(source.path(), trial.path());
            flip(&trial.path().join(path.file_name().unwrap()), bit as u64);
            *counts.entry(judge(trial.path(), last)).or_default() += 1;
        }
    }
    println!("flipped bits, orderly end {clean}: {counts:?}");
    assert!(counts.values().sum::<u32>() >= 1000 && counts["refused"] > 800, "{counts:?}");
}

#[test]
fn a_flipped_bit_after_an_orderly_end_is_harmless_or_named() {
    flip_everywhere(true, 199);
}

#[test]
fn a_flipped_bit_after_a_kill_is_harmless_or_named() {
    flip_everywhere(false, 211);
}

#[test]
fn a_flipped_bit_in_the_last_entry_after_an_orderly_end_is_not_a_torn_tail() {
    let temp = fast_directory();
    let journal = open(temp.path()).journal;
    append(&journal, 5);
    let end = journal.end().1;
    drop(journal);
    flip(&temp.path().join("journal-00000000000000000001.log"), (end - 4) * 8);
    let error = try_open(temp.path()).unwrap_err();
    assert!(error.to_string().contains("Position 5"), "{error}");
    assert!(error.advice().unwrap().contains("truncate -s"), "{error}");
}

#[test]
fn what_the_advice_says_works() {
    let temp = fast_directory();
    append(&open(temp.path()).journal, 100);
    let path = temp.path().join("journal-00000000000000000001.log");
    flip(&path, 6000 * 8);
    let error = try_open(temp.path()).unwrap_err();
    let offset =
        error.advice().unwrap().split("truncate -s ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(offset).unwrap();
    let opened = open(temp.path());
    let end = check(&opened.journal, 1);
    assert!(end > 5 && end < 100);
    append(&opened.journal, 5);
}

#[test]
fn a_flipped_bit_in_a_checkpoint_falls_back_and_is_named() {
    let (source, last) = written(true);
    let (newest, older) = ("checkpoint-00000000000000000250.ckpt", "checkpoint-00000000000000000100.ckpt");
    let size = std::fs::metadata(source.path().join(newest)).unwrap().len();
    for bit in (0..128 * 8).chain(4096 * 8..size * 8).step_by(13) {
        let trial = fast_directory();
        copy(source.path(), trial.path());
        flip(&trial.path().join(newest), bit);
        let mut opened = open(trial.path());
        assert_eq!(check_checkpoint(opened.checkpoint.take().unwrap()), Position(100), "bit {bit}");
        assert_eq!(check(&opened.journal, 101), last);
        assert!(matches!(
            &opened.findings[..],
            [Finding::BadCheckpoint { .. }, Finding::FellBack { to: Position(100) }]
        ));
        checkpoint(&opened.journal, Position(260));
        assert!(!trial.path().join(newest).exists() && trial.path().join(older).exists());
    }
}

#[test]
fn without_a_usable_checkpoint_or_a_segment_the_start_stops() {
    let (source, last) = written(true);
    let journal = open(source.path()).journal;
    append(&journal, 3000);
    checkpoint(&journal, Position(2000));
    checkpoint(&journal, Position(3000));
    drop(journal);
    let mut names: Vec<_> = std::fs::read_dir(source.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    names.retain(|name| name != "LOCK" && name != "spare.log");
    names.sort();
    for (bad, whole) in [("checkpoint", false), ("journal", true)] {
        let mut tried = 0;
        for name in names.iter().filter(|name| name.to_str().unwrap().starts_with(bad)) {
            let trial = fast_directory();
            copy(source.path(), trial.path());
            if whole {
                std::fs::remove_file(trial.path().join(name)).unwrap();
            } else {
                names
                    .iter()
                    .filter(|n| n.to_str().unwrap().starts_with(bad))
                    .for_each(|n| flip(&trial.path().join(n), 800));
            }
            // A checksum's first byte may be zero; a whole frame's head never is.
            let empty = std::fs::read(source.path().join(name)).unwrap()[4096..][..32] == [0; 32];
            let result = try_open(trial.path());
            match result {
                Ok(opened) if empty => assert_eq!(opened.findings, [], "{name:?}"),
                // A segment that only the older checkpoint needs may be gone, and what lies before it is named.
                Ok(mut opened) => {
                    let at = check_checkpoint(opened.checkpoint.take().unwrap()).0;
                    assert_eq!((at, check(&opened.journal, at + 1)), (3000, last + 3000), "{name:?}");
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
            }
            tried += 1;
        }
        assert!(tried >= 2);
    }
}

/// A journal over several segments of which nothing was synced, killed; with one page of zeros in its second segment, as
/// a power cut leaves that comes between the kernel's writing of one page and the next.
fn half_written() -> TempDir {
    let temp = fast_directory();
    let never = Settings { sync_interval: Duration::from_secs(3600), ..settings(temp.path()) };
    let journal = EmbeddedJournal::open_in(&never, [1; 16]).unwrap().journal;
    append(&journal, 700);
    let killed = killed(&journal, temp.path());
    let path = killed.path().join("journal-00000000000000000002.log");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[12288..16384].fill(0);
    std::fs::write(path, bytes).unwrap();
    killed
}

#[test]
fn pages_that_a_power_cut_lost_are_cut_with_what_nobody_was_promised() {
    let directory = half_written();
    let opened = EmbeddedJournal::open_in(&settings(directory.path()), [2; 16]).unwrap();
    let end = check(&opened.journal, 1);
    let [Finding::TornTail { position, behind: Some(Position(700)), .. }] = &opened.findings[..] else {
        panic!("{:?}", opened.findings)
    };
    assert!(position.0 == end + 1 && end > 200 && end < 400, "{end}");
    append(&opened.journal, 600);
    drop(opened);
    let again = EmbeddedJournal::open_in(&settings(directory.path()), [3; 16]).unwrap();
    assert_eq!((check(&again.journal, 1), again.findings), (end + 600, vec![]));
}

#[test]
fn the_same_hole_without_a_power_cut_is_damage() {
    let directory = half_written();
    let error = EmbeddedJournal::open_in(&settings(directory.path()), [1; 16]).unwrap_err();
    assert!(
        error.kind() == ErrorKind::Corrupt && error.to_string().contains("good frames up to Position 700"),
        "{error}"
    );
}
