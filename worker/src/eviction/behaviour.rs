//! What the policies are for: hit ratios on patterns of use. Tests only.

use std::collections::BTreeSet;

use larder_common::{BlockId, BlockIndex, FileId, Generation};

use super::{
    policy::{EvictionPolicy, Group, Removal},
    registry::from_name,
};

/// Blocks that the cache holds.
const CACHE: u64 = 1000;
const SIZE: u64 = 100;
const TRAINING: Group = Group(FileId(2));
const OTHER: Group = Group(FileId(3));

/// A cache of one tier that reads through a policy.
struct Cache {
    policy: Box<dyn EvictionPolicy>,
    present: BTreeSet<BlockId>,
    /// Blocks above the capacity that reclaim lets come before it frees all of them.
    slack: u64,
}

impl Cache {
    fn new(policy: &str) -> Self {
        Self { policy: from_name(policy, CACHE * SIZE).unwrap(), present: BTreeSet::new(), slack: 0 }
    }

    /// Reads one block; says whether it was there.
    fn read(&mut self, n: u64, group: Group) -> bool {
        let block = BlockId { file: FileId(n + 10), generation: Generation(1), index: BlockIndex(0) };
        if self.present.contains(&block) {
            self.policy.touched(block, 1);
            return true;
        }
        self.policy.missed(block, group);
        if self.policy.admits(block, SIZE, group) {
            let over = (self.present.len() as u64 + 1).saturating_sub(CACHE);
            let free = if over > self.slack { over * SIZE } else { 0 };
            for victim in self.policy.victims(free, &mut |_| true) {
                self.present.remove(&victim);
                self.policy.removed(victim, Removal::Evicted);
            }
            self.present.insert(block);
            self.policy.inserted(block, SIZE, group);
        }
        false
    }

    /// The hit ratio of these reads.
    fn hits(&mut self, group: Group, reads: impl IntoIterator<Item = u64>) -> f64 {
        let (mut hits, mut all) = (0, 0);
        for n in reads {
            hits += u32::from(self.read(n, group));
            all += 1;
        }
        f64::from(hits) / f64::from(all)
    }
}

/// SplitMix64: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// So many epochs over `blocks` blocks from `first`, each in its own order.
    fn epochs(&mut self, epochs: usize, first: u64, blocks: u64) -> Vec<u64> {
        let mut reads = Vec::new();
        for _ in 0..epochs {
            let mut epoch: Vec<u64> = (first..first + blocks).collect();
            for at in (1..epoch.len()).rev() {
                epoch.swap(at, (self.next() % (at as u64 + 1)) as usize);
            }
            reads.extend(epoch);
        }
        reads
    }

    /// So many independent reads; block k of 1..=`blocks` is read as often as 1 ÷ k^`skew`.
    fn zipf(&mut self, reads: usize, blocks: u32, skew: f64) -> Vec<u64> {
        let mut sum = 0.0;
        let sums: Vec<f64> = (1..=blocks)
            .map(|k| {
                sum += f64::from(k).powf(-skew);
                sum
            })
            .collect();
        (0..reads)
            .map(|_| {
                let at = (self.next() >> 11) as f64 / (1u64 << 53) as f64 * sum;
                sums.partition_point(|s| *s < at) as u64
            })
            .collect()
    }
}

/// The hit ratio in the epochs after the first two.
fn epochs_of(policy: &str, blocks: u64) -> f64 {
    let (mut cache, mut random) = (Cache::new(policy), Random(1));
    cache.hits(TRAINING, random.epochs(2, 0, blocks));
    cache.hits(TRAINING, random.epochs(6, 0, blocks))
}

#[test]
fn shuffled_epochs_larger_than_the_cache() {
    let lru = epochs_of("LRU", 4 * CACHE);
    assert!(lru < 0.04, "LRU at a quarter: {lru}");
    for (blocks, share) in [(4 * CACHE, 0.25), (2 * CACHE, 0.5), (CACHE * 5 / 4, 0.8)] {
        for policy in ["UNIFORM", "AUTO"] {
            let hits = epochs_of(policy, blocks);
            println!("{policy} {blocks}: {hits:.3}, LRU {:.3}", epochs_of("LRU", blocks));
            assert!((hits - share).abs() < 0.03, "{policy}, {blocks} blocks: {hits}");
        }
    }
}

/// Reclaim in batches must not make a kept set change, not even when another directory brings new blocks all the time.
#[test]
fn reclaim_between_watermarks_and_a_trickle_beside() {
    let (mut cache, mut random) = (Cache { slack: CACHE / 20, ..Cache::new("AUTO") }, Random(9));
    let (mut hits, mut all) = (0, 0);
    for (at, n) in random.epochs(10, 0, 4 * CACHE).into_iter().enumerate() {
        let hit = cache.read(n, TRAINING);
        if at % 100 == 0 {
            cache.read(100_000 + at as u64, OTHER);
        }
        if at as u64 > 16 * CACHE {
            hits += u32::from(hit);
            all += 1;
        }
    }
    let share = f64::from(hits) / f64::from(all);
    println!("AUTO with a trickle: {share:.3}");
    assert!(share > 0.20, "{share}");
}

#[test]
fn auto_also_keeps_in_a_loop_in_order_where_lru_gets_nothing() {
    let reads = || (0..8).flat_map(|_| 0..2 * CACHE);
    assert_eq!(Cache::new("LRU").hits(TRAINING, reads()), 0.0);
    let hits = Cache::new("AUTO").hits(TRAINING, reads());
    assert!(hits > 0.4, "{hits}");
}

#[test]
fn auto_returns_to_lru_when_new_content_is_read() {
    let (mut cache, mut random) = (Cache::new("AUTO"), Random(2));
    cache.hits(TRAINING, random.epochs(5, 0, 4 * CACHE));
    let fits = 100_000;
    cache.hits(TRAINING, random.epochs(2, fits, CACHE / 2));
    let hits = cache.hits(TRAINING, random.epochs(3, fits, CACHE / 2));
    assert!(hits > 0.99, "another set that fits: {hits}");
}

#[test]
fn auto_returns_to_lru_when_a_small_part_is_read_again_and_again() {
    let (mut cache, mut random) = (Cache::new("AUTO"), Random(3));
    cache.hits(TRAINING, random.epochs(5, 0, 4 * CACHE));
    cache.hits(TRAINING, random.epochs(8, 0, CACHE / 2));
    let hits = cache.hits(TRAINING, random.epochs(3, 0, CACHE / 2));
    assert!(hits > 0.99, "a part of the same set: {hits}");
}

#[test]
fn auto_recovers_after_a_validation_set_of_the_same_directory() {
    let (mut cache, mut random) = (Cache::new("AUTO"), Random(4));
    cache.hits(TRAINING, random.epochs(5, 0, 4 * CACHE));
    cache.hits(TRAINING, 100_000..100_000 + CACHE / 2);
    cache.hits(TRAINING, random.epochs(6, 0, 4 * CACHE));
    let hits = cache.hits(TRAINING, random.epochs(3, 0, 4 * CACHE));
    assert!((hits - 0.25).abs() < 0.04, "{hits}");
}

#[test]
fn auto_leaves_other_directories_lru() {
    let (mut cache, mut random) = (Cache::new("AUTO"), Random(5));
    let hot = 100_000;
    let training = random.epochs(8, 0, 4 * CACHE);
    let (mut hits, mut all) = (0, 0);
    for (at, n) in training.iter().enumerate() {
        cache.read(*n, TRAINING);
        if cache.read(hot + at as u64 % (CACHE / 10), OTHER) && at > training.len() / 2 {
            hits += 1;
        }
        all += usize::from(at > training.len() / 2);
    }
    assert!(hits * 100 > all * 98, "{hits} of {all}: a small hot directory stays in");
}

#[test]
fn a_uniform_directory_gets_the_room_that_a_scan_left() {
    let (mut cache, mut random) = (Cache::new("AUTO"), Random(6));
    cache.hits(TRAINING, random.epochs(5, 0, 4 * CACHE));
    cache.hits(OTHER, 100_000..100_000 + CACHE);
    cache.hits(TRAINING, random.epochs(3, 0, 4 * CACHE));
    let hits = cache.hits(TRAINING, random.epochs(3, 0, 4 * CACHE));
    assert!((hits - 0.25).abs() < 0.03, "{hits}");
}

#[test]
fn a_scan_does_not_flush_s3_fifo() {
    for (policy, least, most) in [("S3FIFO", 0.9, 1.0), ("LRU", 0.0, 0.01)] {
        let (mut cache, mut random) = (Cache::new(policy), Random(7));
        cache.hits(TRAINING, random.epochs(20, 0, CACHE / 2));
        cache.hits(OTHER, 100_000..100_000 + 5 * CACHE);
        let hits = cache.hits(TRAINING, random.epochs(1, 0, CACHE / 2));
        assert!((least..=most).contains(&hits), "{policy}: {hits}");
    }
}

#[test]
fn zipf() {
    for skew in [0.7, 0.9, 1.1] {
        let reads = Random(8).zipf(60_000, 10_000, skew);
        let of = |policy: &str| Cache::new(policy).hits(TRAINING, reads.iter().copied());
        let (lru, s3, lrfu, auto) = (of("LRU"), of("S3FIFO"), of("LRFU"), of("AUTO"));
        println!("Zipf {skew}: LRU {lru:.3}, S3FIFO {s3:.3}, LRFU {lrfu:.3}, AUTO {auto:.3}");
        assert!(s3 >= lru, "S3-FIFO {s3}, LRU {lru}");
        assert!(lrfu >= lru, "LRFU {lrfu}, LRU {lru}");
        assert!(auto >= lru - 0.02, "AUTO {auto}, LRU {lru}");
    }
}
