//! The one contract of all policies, and the random histories that hold each policy against its model. Tests only.
//!
//! A model is the same policy written so that it is obviously right and slow; both are told one history and must give
//! the same answers. [`Witness`] knows nothing of any policy: it keeps the books that the contract is checked with.

use std::{collections::BTreeMap, time::Duration};

use larder_common::{BlockId, BlockIndex, FileId, Generation};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};

use super::policy::{EvictionPolicy, Group, Removal};

/// The capacity of every policy under test, in bytes: some 40 blocks of [`step`]'s sizes.
pub(super) const CAPACITY: u64 = 400;

/// Block number `n`.
pub(super) fn block(n: u64) -> BlockId {
    BlockId { file: FileId(n / 4 + 10), generation: Generation(1), index: BlockIndex((n % 4) as u32) }
}

/// Group number `n`.
pub(super) fn group(n: u64) -> Group {
    Group(FileId(n))
}

/// The victims that an order of (block, size) gives.
pub(super) fn first_worth(
    need: u64,
    order: impl Iterator<Item = (BlockId, u64)>,
    evictable: &mut dyn FnMut(BlockId) -> bool,
) -> Vec<BlockId> {
    let mut bytes = 0;
    let mut named = Vec::new();
    for (block, size) in order {
        if bytes < need && evictable(block) {
            bytes += size;
            named.push(block);
        }
    }
    named
}

/// One event of a history.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A read: a use if the block is there, else a miss, and an insertion where it is admitted.
    Read {
        n: u64,
        size: u64,
        count: u32,
    },
    /// An insertion that nobody asked for.
    Insert {
        n: u64,
        size: u64,
        group: u64,
    },
    Touch {
        n: u64,
        count: u32,
    },
    Remove {
        n: u64,
        why: Removal,
    },
    /// Room is asked for; of every `refuse` blocks one is refused, and of every `keep` named ones one stays after all.
    Evict {
        need: u64,
        refuse: u64,
        keep: usize,
    },
    Advance {
        secs: u64,
    },
}

/// Any event. Few blocks, so that they come back.
pub(super) fn step() -> impl Strategy<Value = Step> {
    let why =
        prop_oneof![Just(Removal::Evicted), Just(Removal::Freed), Just(Removal::Demoted), Just(Removal::Lost)].boxed();
    prop_oneof![
        8 => (0..120u64, 1..20u64, 1..9u32).prop_map(|(n, size, count)| Step::Read { n, size, count }),
        2 => (0..120u64, 0..500u64, 0..3u64).prop_map(|(n, size, group)| Step::Insert { n, size, group }),
        3 => (0..120u64, 0..5u32).prop_map(|(n, count)| Step::Touch { n, count }),
        1 => (0..120u64, why).prop_map(|(n, why)| Step::Remove { n, why }),
        3 => (0..200u64, 1..9u64, 1..9usize).prop_map(|(need, refuse, keep)| Step::Evict { need, refuse, keep }),
        1 => (0..100u64).prop_map(|secs| Step::Advance { secs }),
    ]
}

/// A history of events that have nothing to do with each other.
fn chaos() -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 0..500)
}

/// A history in phases: each goes round in one set of blocks, in an order that differs from round to round.
fn phases() -> impl Strategy<Value = Vec<Step>> {
    let phase = (0..20u64, 1..250u64, 0..800u64).prop_map(|(set, blocks, reads)| {
        let at = move |read: u64| set * 100 + (read * 31 + read / blocks * 17) % blocks;
        (0..reads).map(move |read| Step::Read { n: at(read), size: 10, count: 1 })
    });
    vec(phase, 1..6).prop_map(|phases| phases.into_iter().flatten().collect())
}

/// What is true whatever the policy thinks.
#[derive(Debug, Default)]
struct Witness {
    /// The size of every block that is there.
    present: BTreeMap<BlockId, u64>,
    /// The most blocks that were there at one time.
    most: usize,
}

impl Witness {
    fn insert(&mut self, block: BlockId, size: u64) {
        self.present.insert(block, size);
        self.most = self.most.max(self.present.len());
    }

    /// The contract of `victims`.
    fn check(&self, named: &[BlockId], need: u64, asked: &[(BlockId, bool)]) {
        let mut seen = std::collections::BTreeSet::new();
        assert!(asked.iter().all(|(b, _)| seen.insert(*b)), "a block was asked for twice");
        let granted: Vec<_> = asked.iter().filter(|(_, yes)| *yes).map(|(b, _)| *b).collect();
        assert_eq!(named, granted, "named is what was granted, in order and once");
        assert!(named.iter().all(|b| self.present.contains_key(b)), "an absent block was named");
        let sum: u64 = named.iter().map(|b| self.present[b]).sum();
        let all_asked = asked.len() == self.present.len();
        assert!(sum >= need || all_asked, "{sum} of {need} bytes, and not all blocks were asked for");
        let before: u64 = named.split_last().map_or(0, |(_, rest)| rest.iter().map(|b| self.present[b]).sum());
        assert!(named.is_empty() || before < need, "more than needed");
    }
}

/// A policy with the books beside it.
struct Run<P> {
    policy: P,
    witness: Witness,
    now: Duration,
    /// Every answer that the policy gave.
    answers: Vec<(bool, Vec<BlockId>)>,
}

impl<P: EvictionPolicy> Run<P> {
    fn insert(&mut self, block: BlockId, size: u64, group: Group) {
        self.policy.inserted(block, size, group);
        self.witness.insert(block, size);
    }

    fn remove(&mut self, block: BlockId, why: Removal) {
        self.policy.removed(block, why);
        self.witness.present.remove(&block);
    }

    fn read(&mut self, n: u64, size: u64, count: u32) {
        let (block, group) = (block(n), group(n / 40 % 3));
        if self.witness.present.contains_key(&block) {
            assert!(self.policy.admits(block, u64::MAX, group), "what is there is admitted");
            return self.policy.touched(block, count);
        }
        self.policy.missed(block, group);
        let admitted = self.policy.admits(block, size, group);
        assert_eq!(admitted, self.policy.admits(block, size, group), "a question changes nothing");
        self.answers.push((admitted, Vec::new()));
        if admitted {
            let used: u64 = self.witness.present.values().sum();
            self.evict((used + size).saturating_sub(CAPACITY), u64::MAX, usize::MAX);
            self.insert(block, size, group);
        }
    }

    fn evict(&mut self, need: u64, refuse: u64, keep: usize) {
        let mut asked = Vec::new();
        let named = self.policy.victims(need, &mut |block| {
            let yes = (block.file.0 * 4 + u64::from(block.index.0)) % refuse != 0 || refuse == u64::MAX;
            asked.push((block, yes));
            yes
        });
        self.witness.check(&named, need, &asked);
        for (n, block) in named.iter().enumerate() {
            if (n + 1) % keep != 0 {
                self.remove(*block, if n % 2 == 0 { Removal::Evicted } else { Removal::Demoted });
            }
        }
        self.answers.push((true, named));
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Read { n, size, count } => self.read(n, size, count),
            Step::Insert { n, size, group: g } => self.insert(block(n), size, group(g)),
            Step::Touch { n, count } => self.policy.touched(block(n), count),
            Step::Remove { n, why } => self.remove(block(n), why),
            Step::Evict { need, refuse, keep } => self.evict(need, refuse, keep),
            Step::Advance { secs } => {
                self.now = Duration::from_secs(secs);
                self.policy.advance(self.now);
            }
        }
    }
}

fn run<P: EvictionPolicy>(policy: P) -> Run<P> {
    Run { policy, witness: Witness::default(), now: Duration::ZERO, answers: Vec::new() }
}

/// Tells random histories to a policy and to its model, checks the contract on both, and compares every answer.
/// `ghosts` says how many ghost places the policy has; they are at most eight for each block, and 8 × 64 where there
/// are few.
pub(super) fn same_as_model<P: EvictionPolicy, M: EvictionPolicy>(
    policy: impl Fn() -> P,
    model: impl Fn() -> M,
    ghosts: impl Fn(&P) -> usize,
) {
    let config = |cases| ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    compare(TestRunner::new(config(128)), chaos(), &policy, &model, &ghosts);
    // The same phases in every run, so that a test may count on what they lead to.
    let same = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    compare(TestRunner::new_with_rng(config(24), same), phases(), &policy, &model, &ghosts);
}

fn compare<P: EvictionPolicy, M: EvictionPolicy>(
    mut runner: TestRunner,
    histories: impl Strategy<Value = Vec<Step>>,
    policy: &impl Fn() -> P,
    model: &impl Fn() -> M,
    ghosts: &impl Fn(&P) -> usize,
) {
    let outcome = runner.run(&histories, |steps| {
        let (mut policy, mut model) = (run(policy()), run(model()));
        for step in &steps {
            policy.step(step);
            model.step(step);
            prop_assert_eq!(&policy.answers, &model.answers, "after {:?}", step);
            prop_assert!(ghosts(&policy.policy) <= 8 * policy.witness.most.max(64));
            policy.answers.clear();
            model.answers.clear();
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
