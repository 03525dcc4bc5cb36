//! The journal against a `Vec`: any sequence of appends, syncs, checkpoints, orderly ends and kills.

use proptest::{collection::vec, prelude::*};

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<(u8, usize)>),
    Sync,
    Checkpoint(u64),
    Reopen,
    Kill,
    Read(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => vec((any::<u8>(), 0usize..3000), 0..8).prop_map(Step::Append),
        1 => Just(Step::Sync),
        2 => (0u64..40).prop_map(Step::Checkpoint),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => (0u64..100).prop_map(Step::Read),
    ]
}

struct Model {
    /// Dropped before the directory, which it still writes into until then.
    opened: Option<Opened>,
    directory: TempDir,
    entries: Vec<Bytes>,
    checkpoints: Vec<u64>,
}

impl Model {
    fn journal(&self) -> &EmbeddedJournal {
        &self.opened.as_ref().unwrap().journal
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Append(batch) => {
                let batch: Vec<Bytes> = batch.iter().map(|(byte, length)| vec![*byte; *length].into()).collect();
                self.journal().append(&batch).unwrap();
                self.entries.extend(batch);
                assert_eq!(self.journal().last().0, self.entries.len() as u64);
            }
            Step::Sync => self.journal().sync_to(self.journal().last(), soon()).unwrap(),
            Step::Checkpoint(back) => self.checkpoint(*back),
            Step::Reopen => {
                self.opened = None;
                self.reopen();
            }
            Step::Kill => {
                let copied = killed(self.journal(), self.directory.path());
                self.opened = None;
                self.directory = copied;
                self.reopen();
            }
            Step::Read(back) => self.read((self.entries.len() as u64).saturating_sub(*back)),
        }
    }

    fn checkpoint(&mut self, back: u64) {
        let newest = self.checkpoints.last().copied().unwrap_or(0);
        let at = (self.entries.len() as u64).saturating_sub(back).max(newest);
        checkpoint(self.journal(), Position(at));
        self.checkpoints.retain(|old| *old != at);
        self.checkpoints.push(at);
    }

    fn reopen(&mut self) {
        let mut opened = open(self.directory.path());
        assert_eq!(opened.findings, []);
        let at = opened.checkpoint.take().map(|checkpoint| check_checkpoint(checkpoint).0);
        assert_eq!(at, self.checkpoints.last().copied());
        self.opened = Some(opened);
        self.read(0);
    }

    fn read(&self, from: u64) {
        let older = self.checkpoints.iter().rev().nth(1).copied().unwrap_or(0);
        let from = from.max(older + 1);
        let read = read(self.journal(), from).unwrap();
        let expected: Vec<_> =
            (from..).map(Position).zip(self.entries.iter().skip(from as usize - 1).cloned()).collect();
        assert!(read == expected, "from {from}: {} entries, not {}", read.len(), expected.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_journal_is_a_list_that_survives(steps in vec(step(), 1..60)) {
        let directory = fast_directory();
        let opened = Some(open(directory.path()));
        let mut model = Model { directory, opened, entries: Vec::new(), checkpoints: Vec::new() };
        for step in steps.iter().chain(&[Step::Kill, Step::Reopen]) {
            model.apply(step);
        }
    }
}
