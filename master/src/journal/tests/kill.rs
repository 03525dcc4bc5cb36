//! `kill -9` of a process in the middle of appends, rolls and checkpoints: everything acknowledged comes back, in order
//! and whole.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use super::*;

const DIRECTORY: &str = "LARDER_TEST_JOURNAL_CHILD";

/// Not a test of its own: what the killed process does.
#[test]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let journal = open(Path::new(&directory)).journal;
    let mut out = std::io::stdout().lock();
    for round in 0u64.. {
        let first = journal.last().0 + 1;
        let batch: Vec<Bytes> = (first..=first + round % 7).map(entry).collect();
        let last = journal.append(&batch).unwrap();
        writeln!(out, "\nappended {last}").unwrap();
        if round % 50 == 49 {
            checkpoint(&journal, last);
        }
    }
}

fn run_and_kill(directory: &Path, after: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "journal::tests::kill::child", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = 0;
    let mut until = None;
    for line in lines.map_while(Result::ok) {
        if let Some(position) = line.strip_prefix("appended ").and_then(|text| text.parse().ok()) {
            acknowledged = position;
            if Instant::now() > *until.get_or_insert_with(|| Instant::now() + after) {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    acknowledged
}

#[test]
fn everything_acknowledged_survives_kill_9() {
    let temp = fast_directory();
    let mut before = 0;
    for round in 0..12 {
        let acknowledged = run_and_kill(temp.path(), Duration::from_millis(20 + 17 * round));
        let mut opened = open(temp.path());
        let at = opened.checkpoint.take().map_or(0, |checkpoint| check_checkpoint(checkpoint).0);
        let last = check(&opened.journal, at + 1);
        assert!(acknowledged > before && last >= acknowledged, "{acknowledged} acknowledged, {last} there");
        assert!(last <= acknowledged + 7, "at most one batch more");
        before = last;
    }
}
