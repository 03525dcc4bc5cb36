//! What a policy costs: nanoseconds for each operation, with 100,000 blocks in the tier.
//!
//! `hit` is one hint for a block that is there; `churn` is what a miss costs in a full tier: missed, admits, victims,
//! removed, inserted (UNIFORM refuses, so it pays for two of them). Uses are drawn at random, so the caches of the processor miss as they do in life.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use larder_common::{BlockId, BlockIndex, FileId, Generation};
use larder_worker::eviction::{EvictionPolicy, Group, Removal, registry};

const BLOCKS: u64 = 100_000;
const GROUP: Group = Group(FileId(2));

fn block(n: u64) -> BlockId {
    BlockId { file: FileId(n), generation: Generation(1), index: BlockIndex(0) }
}

fn full(name: &str) -> Box<dyn EvictionPolicy> {
    let mut policy = registry::from_name(name, BLOCKS).expect("a registered name");
    (0..BLOCKS).for_each(|n| policy.inserted(block(n), 1, GROUP));
    policy
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn hit(c: &mut Criterion) {
    for name in registry::names() {
        let (mut policy, mut state) = (full(name), 1);
        c.bench_function(&format!("hit/{name}"), |b| {
            b.iter(|| policy.touched(block(random(&mut state) % BLOCKS), 1));
        });
    }
}

/// New content each time: what auto does as LRU.
fn churn(c: &mut Criterion) {
    for name in registry::names() {
        let (mut policy, mut next) = (full(name), BLOCKS);
        c.bench_function(&format!("churn/{name}"), |b| {
            b.iter(|| {
                next += 1;
                read_absent(&mut *policy, block(next));
            });
        });
    }
}

/// A loop over more than fits, after two rounds: here auto is uniform, refuses, and asks its shadow at each use.
fn round(c: &mut Criterion) {
    let (mut policy, mut next) = (full("AUTO"), BLOCKS);
    let mut read = |policy: &mut dyn EvictionPolicy| {
        next += 1;
        read_absent(policy, block(next % (4 * BLOCKS) + BLOCKS));
    };
    (0..8 * BLOCKS).for_each(|_| read(&mut *policy));
    c.bench_function("refusal/AUTO", |b| b.iter(|| read(&mut *policy)));
    let (present, mut state) = (policy.victims(u64::MAX, &mut |_| true), 1);
    c.bench_function("hit-uniform/AUTO", |b| {
        b.iter(|| policy.touched(present[random(&mut state) as usize % present.len()], 1));
    });
}

fn read_absent(policy: &mut dyn EvictionPolicy, block: BlockId) {
    policy.missed(block, GROUP);
    if policy.admits(block, 1, GROUP) {
        for victim in policy.victims(1, &mut |_| true) {
            policy.removed(black_box(victim), Removal::Evicted);
        }
        policy.inserted(block, 1, GROUP);
    }
}

criterion_group!(benches, hit, churn, round);
criterion_main!(benches);
