//! Auto against its model: the same rules on plain vectors, blocks instead of hashes, and no shared structure.

use std::{cell::Cell, time::Duration};

use larder_common::BlockId;

use super::{
    super::{contract::*, policy::EvictionPolicy},
    *,
};

#[derive(Debug)]
struct Known {
    group: Group,
    uniform: bool,
    since: u64,
    turned: u64,
    returned: u64,
    last: Option<BlockId>,
    /// Of this window: whether each miss was known.
    misses: Vec<bool>,
    /// Of this window: (hit, hit in the shadow).
    uses: Vec<(bool, bool)>,
    distances: u32,
    mean: f64,
}

#[derive(Debug, Default)]
struct Model {
    window: usize,
    most_groups: usize,
    /// (block, size, group, ghost's next place at the last use, refused), oldest use first.
    blocks: Vec<(BlockId, u64, Group, u64, bool)>,
    /// Every departure there ever was, `None` where it was forgotten.
    departures: Vec<Option<BlockId>>,
    /// The first departure that is still remembered.
    first: usize,
    /// The group that missed last is the last.
    groups: Vec<Known>,
    /// (block, number of its last use), oldest first.
    shadow: Vec<(BlockId, u64)>,
    clock: u64,
}

impl Model {
    fn find(&self, block: BlockId) -> Option<usize> {
        self.blocks.iter().position(|held| held.0 == block)
    }

    fn next(&self) -> u64 {
        self.departures.len() as u64
    }

    fn place(&self, block: BlockId) -> Option<u64> {
        (self.first..self.departures.len()).find(|at| self.departures[*at] == Some(block)).map(|at| at as u64)
    }

    fn forget(&mut self, block: BlockId) {
        self.departures.iter_mut().filter(|d| **d == Some(block)).for_each(|d| *d = None);
    }

    fn remember(&mut self, block: BlockId) {
        self.forget(block);
        self.departures.push(Some(block));
        self.first = self.first.max(self.departures.len().saturating_sub(8 * self.blocks.len().max(64)));
    }

    fn uniform(&self, group: Group) -> Option<&Known> {
        self.groups.iter().find(|g| g.group == group && g.uniform)
    }

    fn any_uniform(&self) -> bool {
        self.groups.iter().any(|g| g.uniform)
    }

    fn forget_shadow_without_need(&mut self) {
        if !self.any_uniform() {
            self.shadow.clear();
            self.clock = 0;
        }
    }

    /// `None`: the same read; else whether LRU would have it.
    fn in_shadow(&mut self, block: BlockId) -> Option<bool> {
        if !self.any_uniform() {
            return Some(false);
        }
        self.clock += 1;
        let before = self.shadow.iter().position(|(b, _)| *b == block).map(|at| self.shadow.remove(at).1);
        self.shadow.push((block, self.clock));
        let Some(before) = before else {
            let over = self.shadow.len().saturating_sub(self.blocks.len().max(1));
            self.shadow.drain(..over);
            return Some(false);
        };
        let just = (self.blocks.len() / 8).clamp(1, 64) as u64;
        (self.clock - before > just).then_some(true)
    }

    fn judge(&mut self, group: Group) {
        let (next, round, window) = (self.next(), self.blocks.len().max(self.window), self.window);
        let book = self.groups.iter_mut().find(|g| g.group == group).expect("it was just used");
        let mut turn = None;
        if book.misses.len() >= window {
            let (misses, known) = (book.misses.len(), book.misses.iter().filter(|k| **k).count());
            book.misses.clear();
            if !book.uniform && known > misses / 4 {
                turn = Some((true, book.since));
            } else if book.uniform && known < misses / 8 {
                turn = Some((false, book.since));
            }
        }
        if turn.is_none() && book.uses.len() >= round {
            let hits = book.uses.iter().filter(|u| u.0).count();
            let shadow = book.uses.iter().filter(|u| u.1).count();
            if shadow > hits + book.uses.len() / 16 {
                turn = Some((false, next));
            }
            book.uses.clear();
        }
        if let Some((uniform, since)) = turn {
            let (last, turned) = (book.last, if uniform { next } else { book.turned });
            let returned = if uniform { 0 } else { next };
            *book = Known { uniform, since, turned, returned, last, ..new_book(group) };
        }
        self.forget_shadow_without_need();
    }
}

fn new_book(group: Group) -> Known {
    Known {
        group,
        uniform: false,
        since: 0,
        turned: 0,
        returned: 0,
        last: None,
        misses: Vec::new(),
        uses: Vec::new(),
        distances: 0,
        mean: 0.0,
    }
}

impl EvictionPolicy for Model {
    fn inserted(&mut self, block: BlockId, size: u64, group: Group) {
        if let Some(at) = self.find(block) {
            (self.blocks[at].1, self.blocks[at].2) = (size, group);
        } else {
            self.forget(block);
            self.blocks.push((block, size, group, self.next(), false));
        }
    }

    fn touched(&mut self, block: BlockId, count: u32) {
        let Some(at) = self.find(block).filter(|_| count > 0) else { return };
        let (_, size, group, ..) = self.blocks.remove(at);
        self.blocks.push((block, size, group, self.next(), false));
        if !self.any_uniform() {
            return;
        }
        let Some(shadow) = self.in_shadow(block) else { return };
        if let Some(book) = self.groups.iter_mut().find(|g| g.group == group) {
            if book.uniform {
                book.uses.push((true, shadow));
            }
            self.judge(group);
        }
    }

    fn removed(&mut self, block: BlockId, why: Removal) {
        if let Some(at) = self.find(block) {
            self.blocks.remove(at);
            if why.made_room() {
                self.remember(block);
            }
        }
    }

    fn missed(&mut self, block: BlockId, group: Group) {
        if self.find(block).is_some() {
            return;
        }
        let mut book = match self.groups.iter().position(|g| g.group == group) {
            Some(at) => self.groups.remove(at),
            None => {
                if self.groups.len() >= self.most_groups {
                    self.groups.remove(0);
                    self.forget_shadow_without_need();
                }
                new_book(group)
            }
        };
        let repeated = book.last == Some(block);
        book.last = Some(block);
        self.groups.push(book);
        if repeated {
            return;
        }
        let Some(shadow) = self.in_shadow(block) else { return };
        let (place, next, blocks) = (self.place(block), self.next(), self.blocks.len() as u64);
        let book = self.groups.last_mut().expect("it was just pushed");
        let place = place.filter(|p| *p >= book.since);
        let was_refused = |p: u64| !book.uniform && p >= book.turned && p < book.returned;
        let known = place.is_some_and(|p| !was_refused(p) || next - p >= blocks);
        book.misses.push(known);
        if book.uniform {
            book.uses.push((false, shadow));
            if let Some(place) = place.filter(|p| *p >= book.turned) {
                book.distances = (book.distances + 1).min(self.window as u32);
                book.mean += ((next - place) as f64 - book.mean) / f64::from(book.distances);
            }
            self.remember(block);
        }
        self.judge(group);
    }

    fn admits(&mut self, block: BlockId, size: u64, group: Group) -> bool {
        let used: u64 = self.blocks.iter().map(|held| held.1).sum();
        let over = (used + size.min(1 << 40)).saturating_sub(CAPACITY);
        if self.find(block).is_some() || (size <= CAPACITY && (over == 0 || self.uniform(group).is_none())) {
            return true;
        }
        let to_be_had = self.blocks.iter().take(64).filter(|held| !held.4);
        let yielding = to_be_had.take_while(|held| {
            self.uniform(held.2)
                .is_none_or(|g| g.distances as usize >= self.window && (self.next() - held.3) as f64 > 3.0 * g.mean)
        });
        size <= CAPACITY && yielding.map(|held| held.1).sum::<u64>() >= over
    }

    fn victims(&mut self, need: u64, evictable: &mut dyn FnMut(BlockId) -> bool) -> Vec<BlockId> {
        let (mut bytes, mut named) = (0, Vec::new());
        for held in &mut self.blocks {
            if bytes < need {
                held.4 = !evictable(held.0);
                if !held.4 {
                    bytes += held.1;
                    named.push(held.0);
                }
            }
        }
        named
    }

    fn advance(&mut self, _now: Duration) {}
}

/// Random histories are short, so windows are short too: groups turn often. That every kind of turn was met is asked
/// too, or the comparison would prove nothing about it.
#[test]
fn it_does_what_its_model_does() {
    let met = Cell::new([0u32; 4]);
    for (window, most_groups) in [(4, 3), (16, 2), (64, 1024)] {
        let config = AutoConfig { window, most_groups, ..AutoConfig::new(CAPACITY) };
        same_as_model(
            || Auto::new(config),
            || Model { window: window as usize, most_groups, ..Model::default() },
            |auto| {
                assert!(auto.groups.len() <= most_groups, "books are bounded");
                assert!(auto.shadow.as_ref().is_none_or(|s| s.hashes.len() <= 400), "the shadow is bounded");
                let now = turns(auto);
                met.set(std::array::from_fn(|kind| met.get()[kind] + u32::from(now[kind])));
                auto.ghost.places()
            },
        );
    }
    println!("steps with a uniform group, a ceased one, one where LRU was better, a past block: {:?}", met.get());
    assert!(met.get().iter().all(|steps| *steps > 0), "{:?}", met.get());
}

/// Whether there is a group that is uniform, one that ceased to be, one where LRU was better, and whether the oldest
/// block belongs to a past pattern of a uniform group.
fn turns(auto: &Auto) -> [bool; 4] {
    let books: Vec<Book> = (0..3).filter_map(|n| auto.groups.find(group(n))).map(|at| auto.groups[at]).collect();
    let past = auto.order.oldest().is_some_and(|at| auto.is_uniform(auto.blocks[at].group) && auto.yields(at));
    [
        books.iter().any(|b| b.uniform),
        books.iter().any(|b| b.returned > b.since),
        books.iter().any(|b| b.returned > 0 && b.returned == b.since),
        past,
    ]
}

#[test]
fn a_group_that_goes_round_turns_uniform_and_others_do_not() {
    let mut auto = Auto::new(AutoConfig::new(64));
    for n in (0..128).chain(0..128) {
        auto.missed(block(n), group(1));
        if auto.admits(block(n), 1, group(1)) {
            auto.victims(u64::from(auto.used == 64), &mut |_| true)
                .into_iter()
                .for_each(|b| auto.removed(b, Removal::Evicted));
            auto.inserted(block(n), 1, group(1));
        }
    }
    assert!(auto.is_uniform(group(1)));
    assert!(!auto.is_uniform(group(2)));
    assert!(!auto.admits(block(500), 1, group(1)), "full");
    assert!(auto.admits(block(500), 1, group(2)), "LRU makes room");
}

#[test]
fn a_uniform_group_takes_the_place_of_older_blocks_of_others_unless_they_are_refused() {
    let mut auto = Auto::new(AutoConfig::new(10));
    let at = auto.book(group(1));
    auto.groups[at].uniform = true;
    auto.count_uniform(false, true);
    auto.inserted(block(0), 1, group(2));
    (1..10).for_each(|n| auto.inserted(block(n), 1, group(1)));
    assert!(auto.admits(block(20), 1, group(1)), "block 0 yields");
    assert!(!auto.admits(block(20), 2, group(1)), "only one byte of it");
    auto.victims(1, &mut |b| b != block(0));
    assert!(!auto.admits(block(20), 1, group(1)), "block 0 is pinned");
    auto.touched(block(0), 1);
    assert!(!auto.admits(block(20), 1, group(1)), "block 0 is the newest");
}

/// Reads 0..128 in order, `rounds` times, through a tier of 64.
fn go_round(auto: &mut Auto, group: Group, rounds: usize) -> usize {
    let mut hits = 0;
    for n in (0..rounds).flat_map(|_| 0..128) {
        if auto.blocks.find(block(n)).is_some() {
            hits += 1;
            auto.touched(block(n), 1);
            continue;
        }
        auto.missed(block(n), group);
        if auto.admits(block(n), 1, group) {
            let need = u64::from(auto.used == 64);
            auto.victims(need, &mut |_| true).into_iter().for_each(|b| auto.removed(b, Removal::Evicted));
            auto.inserted(block(n), 1, group);
        }
    }
    hits
}

#[test]
fn what_is_fixed_for_a_group_is_not_judged_until_it_is_fixed_no_more() {
    let config = AutoConfig { most_groups: 1, ..AutoConfig::new(64) };
    let mut lru = Auto::new(config);
    lru.fix(group(1), GroupPolicy::Lru);
    assert_eq!(go_round(&mut lru, group(1), 4), 0, "LRU drops what comes next");
    lru.fix(group(1), GroupPolicy::Auto);
    assert!(go_round(&mut lru, group(1), 4) > 0 && lru.is_uniform(group(1)), "it finds out by itself now");

    let mut uniform = Auto::new(config);
    uniform.fix(group(1), GroupPolicy::Uniform);
    assert_eq!(go_round(&mut uniform, group(1), 4), 3 * 64, "filled once and kept from the first epoch on");
    (200..1000).for_each(|n| uniform.missed(block(n), group(1)));
    (2..9).for_each(|n| uniform.missed(block(5000 + n), group(n)));
    assert!(uniform.is_uniform(group(1)), "new content does not turn it, other groups do not push its book out");
    uniform.fix(group(1), GroupPolicy::Lru);
    assert!(!uniform.is_uniform(group(1)) && uniform.shadow.is_none());
    uniform.fix(group(9), GroupPolicy::Auto);
    assert!(uniform.groups.find(group(9)).is_none_or(|at| !uniform.groups[at].fixed), "nothing was fixed for it");
}
