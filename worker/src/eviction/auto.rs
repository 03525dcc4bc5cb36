//! Auto, the default: LRU, which notices per directory when keeping what is there would be better, and when not any
//! more.
//!
//! All blocks are in one LRU order. A [ghost list](super::ghost) with eight places for each present block remembers what
//! was dropped. Each group (directory) is judged by its own misses, in windows of 64:
//!
//! - **LRU → uniform** when more than a quarter of a window's misses are blocks that had been dropped: the group
//!   goes round in more than fits. From then on its blocks are admitted only while there is room, or in the place of
//!   blocks that *yield* (below).
//! - **uniform → LRU, "ceased"**, when less than an eighth of a window's misses are known blocks: the pattern is over,
//!   new content is being read. The gap between a quarter and an eighth is the hysteresis. What was refused until then
//!   was not dropped by LRU: it counts as known only when it is missed after as many departures as there are present
//!   blocks, for then LRU would have dropped it too.
//! - **uniform → LRU, "LRU would do better"**: refused blocks are known at their next miss, so that share alone would
//!   keep a group uniform for ever when it begins to use a small part of its data again and again. So while any group is
//!   uniform, a *shadow* LRU of hashes, as long as there are present blocks, sees every use. When a group's hits in the
//!   shadow exceed its real ones by more than a sixteenth of a window (one use for each present block, at least 64), it
//!   goes back, and what was remembered before counts no longer as known. For independent random uses what LRU
//!   holds at one moment is as good as what it holds at another, whatever the popularity, so a group that is uniform
//!   without need loses next to nothing.
//!
//! A block *yields* to a uniform group when its own group is not uniform (it is older than every block of that group:
//! one LRU order), or when it was not used for three times the mean distance between two misses of a block of its group:
//! in epochs no distance is above twice the mean, so such a block belongs to a past pattern. Distances are counted in
//! departures and refusals, the ghost's places.
//!
//! What was fixed for a group ([`EvictionPolicy::fix`]) is not judged, and its book is kept until it is fixed no more.
//!
//! A use of a block that the shadow saw at most (present blocks ÷ 8, 1 to 64) uses ago is another slice of the same
//! read and not counted. Books are kept for the 1024 groups that missed last; a group without a book is LRU.
//!
//! All calls O(1) amortised; `admits` looks at up to 64 blocks for a uniform group in a full tier. Memory a block: about
//! 75 bytes, for its eight ghosts 110 to 220, for the shadow about 35 while a group is uniform; 100 bytes a group.

use std::{mem, time::Duration};

use larder_common::{BlockId, GroupPolicy};

use super::{
    ghost::{Ghost, fingerprint},
    policy::{EvictionPolicy, Group, Removal},
    queue::{Arena, Queue, Spot},
};

/// `admits` looks at so many of the oldest blocks.
const MOST_LOOKS: usize = 64;
/// The ghost list is never shorter than for so many blocks.
const FEWEST_BLOCKS: usize = 64;

/// The settings of [`Auto`].
#[derive(Clone, Copy, Debug)]
pub struct AutoConfig {
    /// The level in bytes up to which uniform groups fill the tier. It must be one that reclaim leaves alone (its low
    /// watermark), or the two work against each other.
    pub capacity_bytes: u64,
    /// Ghost places for each present block.
    pub ghosts_per_block: usize,
    /// Misses of a group between two verdicts on it; also the fewest uses between two comparisons with the shadow, and
    /// how many distances make a mean that is believed. At least 1.
    pub window: u32,
    /// Groups with a book, at least 1.
    pub most_groups: usize,
}

impl AutoConfig {
    /// The settings that the module's text describes.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Self {
        Self { capacity_bytes, ghosts_per_block: 8, window: 64, most_groups: 1024 }
    }
}

#[derive(Clone, Copy, Debug)]
struct Held {
    size: u64,
    group: Group,
    /// The ghost's next place at its last use.
    used_at: u64,
    /// Refused as a victim since its last use.
    refused: bool,
}

/// What is known about a group.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Book {
    uniform: bool,
    /// Somebody decided it: it is not judged.
    fixed: bool,
    /// Ghost places from this on count as known.
    since: u64,
    /// The ghost's next place when it turned uniform last.
    turned: u64,
    /// The ghost's next place when it turned back; what has a place between the two was refused.
    returned: u64,
    /// The hash that was missed last.
    last: u64,
    misses: u32,
    known: u32,
    uses: u32,
    hits: u32,
    shadow_hits: u32,
    distances: u32,
    mean_distance: f64,
}

/// What a window of a group's events leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Stays,
    TurnsUniform,
    Ceased,
    LruIsBetter,
}

impl Book {
    /// A miss whose hash has this ghost place, `next` being the ghost's next one, with so many blocks present.
    fn miss(&mut self, place: Option<u64>, next: u64, blocks: usize, window: u32) {
        self.misses += 1;
        if let Some(place) = place.filter(|p| *p >= self.since) {
            let refused = !self.uniform && (self.turned..self.returned).contains(&place);
            self.known += u32::from(!refused || next - place >= blocks as u64);
            if self.uniform && place >= self.turned {
                self.distances = (self.distances + 1).min(window);
                self.mean_distance += ((next - place) as f64 - self.mean_distance) / f64::from(self.distances);
            }
        }
    }

    fn used(&mut self, hit: bool, in_shadow: bool) {
        if self.uniform {
            self.uses += 1;
            self.hits += u32::from(hit);
            self.shadow_hits += u32::from(in_shadow);
        }
    }

    /// Ends the windows that are full. `round` is the length of the window of uses.
    fn verdict(&mut self, window: u32, round: u32) -> Verdict {
        if self.misses >= window {
            let (misses, known) = (mem::take(&mut self.misses), mem::take(&mut self.known));
            if !self.uniform && known > misses / 4 {
                return Verdict::TurnsUniform;
            }
            if self.uniform && known < misses / 8 {
                return Verdict::Ceased;
            }
        }
        if self.uses >= round {
            let (uses, hits) = (mem::take(&mut self.uses), mem::take(&mut self.hits));
            if mem::take(&mut self.shadow_hits) > hits + uses / 16 {
                return Verdict::LruIsBetter;
            }
        }
        Verdict::Stays
    }

    /// The same group turned uniform, with empty windows.
    fn to_uniform(self, next: u64) -> Book {
        Book { uniform: true, since: self.since, turned: next, last: self.last, ..Book::default() }
    }

    /// The same group turned back, with empty windows.
    fn to_lru(self, since: u64, next: u64) -> Book {
        Book { since, turned: self.turned, returned: next, last: self.last, ..Book::default() }
    }

    /// Whether a block of this group that was not used for so many places belongs to a past pattern.
    fn is_past(&self, places: u64, window: u32) -> bool {
        self.distances >= window && places as f64 > 3.0 * self.mean_distance
    }
}

/// What the shadow knows of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// LRU would not have it.
    Not,
    /// LRU would have it.
    Within,
    /// It was used a moment ago: the same read.
    Just,
}

/// An LRU of hashes: what LRU would hold.
#[derive(Debug)]
struct Shadow {
    /// The number of the last use.
    hashes: Arena<u64, u64>,
    order: Queue,
    uses: u64,
}

impl Shadow {
    fn new() -> Self {
        Self { hashes: Arena::new(), order: Queue::new(), uses: 0 }
    }

    /// Notes a use; `blocks` is the number of present blocks.
    fn used(&mut self, hash: u64, blocks: usize) -> Seen {
        self.uses += 1;
        let Some(spot) = self.hashes.find(hash) else {
            let spot = self.hashes.insert(hash, self.uses);
            self.order.push(&mut self.hashes, spot);
            self.trim(blocks.max(1));
            return Seen::Not;
        };
        let ago = self.uses - mem::replace(&mut self.hashes[spot], self.uses);
        self.order.renew(&mut self.hashes, spot);
        if ago <= (blocks as u64 / 8).clamp(1, 64) { Seen::Just } else { Seen::Within }
    }

    fn trim(&mut self, limit: usize) {
        while let Some(oldest) = self.order.oldest().filter(|_| self.hashes.len() > limit) {
            self.order.unlink(&mut self.hashes, oldest);
            self.hashes.remove(oldest);
        }
    }
}

/// LRU that turns groups to uniform and back.
#[derive(Debug)]
pub struct Auto {
    config: AutoConfig,
    used: u64,
    blocks: Arena<BlockId, Held>,
    order: Queue,
    ghost: Ghost,
    groups: Arena<Group, Book>,
    by_last_miss: Queue,
    /// There while at least one group is uniform.
    shadow: Option<Shadow>,
    uniform_groups: usize,
    /// Books that are not in `by_last_miss`.
    fixed_groups: usize,
}

impl Auto {
    /// A policy with these settings.
    #[must_use]
    pub fn new(config: AutoConfig) -> Self {
        let config = AutoConfig { window: config.window.max(1), most_groups: config.most_groups.max(1), ..config };
        Self {
            config,
            used: 0,
            blocks: Arena::new(),
            order: Queue::new(),
            ghost: Ghost::default(),
            groups: Arena::new(),
            by_last_miss: Queue::new(),
            shadow: None,
            uniform_groups: 0,
            fixed_groups: 0,
        }
    }

    /// Whether this group is uniform at present.
    #[must_use]
    pub fn is_uniform(&self, group: Group) -> bool {
        self.groups.find(group).is_some_and(|at| self.groups[at].uniform)
    }

    /// The group's book, as the newest one.
    fn book(&mut self, group: Group) -> Spot {
        if let Some(at) = self.groups.find(group) {
            if !self.groups[at].fixed {
                self.by_last_miss.renew(&mut self.groups, at);
            }
            return at;
        }
        let judged = self.groups.len() - self.fixed_groups;
        if let Some(oldest) = self.by_last_miss.oldest().filter(|_| judged >= self.config.most_groups) {
            self.by_last_miss.unlink(&mut self.groups, oldest);
            let book = self.groups.remove(oldest);
            self.count_uniform(book.uniform, false);
        }
        let at = self.groups.insert(group, Book::default());
        self.by_last_miss.push(&mut self.groups, at);
        at
    }

    fn count_uniform(&mut self, was: bool, is: bool) {
        self.uniform_groups = self.uniform_groups + usize::from(is) - usize::from(was);
        if self.uniform_groups == 0 {
            self.shadow = None;
        } else if self.shadow.is_none() {
            self.shadow = Some(Shadow::new());
        }
    }

    fn judge(&mut self, at: Spot) {
        let round = u32::try_from(self.blocks.len()).unwrap_or(u32::MAX).max(self.config.window);
        let (next, book) = (self.ghost.next(), &mut self.groups[at]);
        if book.fixed {
            return;
        }
        let was = book.uniform;
        match book.verdict(self.config.window, round) {
            Verdict::Stays => return,
            Verdict::TurnsUniform => *book = book.to_uniform(next),
            Verdict::Ceased => *book = book.to_lru(book.since, next),
            Verdict::LruIsBetter => *book = book.to_lru(next, next),
        }
        self.count_uniform(was, !was);
    }

    fn seen(&mut self, hash: u64) -> Seen {
        let blocks = self.blocks.len();
        self.shadow.as_mut().map_or(Seen::Not, |shadow| shadow.used(hash, blocks))
    }

    fn remember(&mut self, hash: u64) {
        let limit = self.blocks.len().max(FEWEST_BLOCKS).saturating_mul(self.config.ghosts_per_block);
        self.ghost.remember(hash, limit);
    }

    /// Whether this block may make way for a block of a uniform group.
    fn yields(&self, spot: Spot) -> bool {
        let held = &self.blocks[spot];
        match self.groups.find(held.group).map(|at| &self.groups[at]) {
            Some(book) if book.uniform => book.is_past(self.ghost.next() - held.used_at, self.config.window),
            _ => true,
        }
    }

    /// Whether the oldest blocks yield so many bytes. Refused ones are passed over, for their bytes are not to be had.
    fn yields_bytes(&self, need: u64) -> bool {
        let (mut bytes, mut at) = (0, self.order.oldest());
        for _ in 0..MOST_LOOKS {
            let Some(spot) = at.filter(|_| bytes < need) else { break };
            if !self.blocks[spot].refused {
                if !self.yields(spot) {
                    return false;
                }
                bytes += self.blocks[spot].size;
            }
            at = self.blocks.newer(spot);
        }
        bytes >= need
    }
}

impl EvictionPolicy for Auto {
    fn inserted(&mut self, block: BlockId, size: u64, group: Group) {
        if let Some(spot) = self.blocks.find(block) {
            let held = &mut self.blocks[spot];
            self.used = self.used - held.size + size;
            (held.size, held.group) = (size, group);
            return;
        }
        self.ghost.forget(fingerprint(block));
        let spot = self.blocks.insert(block, Held { size, group, used_at: self.ghost.next(), refused: false });
        self.order.push(&mut self.blocks, spot);
        self.used += size;
    }

    fn touched(&mut self, block: BlockId, count: u32) {
        let Some(spot) = self.blocks.find(block).filter(|_| count > 0) else { return };
        self.order.renew(&mut self.blocks, spot);
        let next = self.ghost.next();
        let held = &mut self.blocks[spot];
        (held.used_at, held.refused) = (next, false);
        let group = held.group;
        if self.shadow.is_none() {
            return;
        }
        let seen = self.seen(fingerprint(block));
        if let Some(at) = self.groups.find(group).filter(|_| seen != Seen::Just) {
            self.groups[at].used(true, seen == Seen::Within);
            self.judge(at);
        }
    }

    fn removed(&mut self, block: BlockId, why: Removal) {
        let Some(spot) = self.blocks.find(block) else { return };
        self.order.unlink(&mut self.blocks, spot);
        self.used -= self.blocks.remove(spot).size;
        if why.made_room() {
            self.remember(fingerprint(block));
        }
    }

    fn missed(&mut self, block: BlockId, group: Group) {
        if self.blocks.find(block).is_some() {
            return;
        }
        let (hash, at) = (fingerprint(block), self.book(group));
        if mem::replace(&mut self.groups[at].last, hash) == hash {
            return;
        }
        let seen = self.seen(hash);
        if seen == Seen::Just {
            return;
        }
        let (place, next, blocks) = (self.ghost.place(hash), self.ghost.next(), self.blocks.len());
        self.groups[at].miss(place, next, blocks, self.config.window);
        self.groups[at].used(false, seen == Seen::Within);
        if self.groups[at].uniform {
            self.remember(hash);
        }
        self.judge(at);
    }

    fn admits(&mut self, block: BlockId, size: u64, group: Group) -> bool {
        if self.blocks.find(block).is_some() {
            return true;
        }
        let over = self.used.saturating_add(size).saturating_sub(self.config.capacity_bytes);
        size <= self.config.capacity_bytes && (over == 0 || !self.is_uniform(group) || self.yields_bytes(over))
    }

    fn victims(&mut self, need: u64, evictable: &mut dyn FnMut(BlockId) -> bool) -> Vec<BlockId> {
        let (mut named, mut bytes, mut at) = (Vec::new(), 0, self.order.oldest());
        while let Some(spot) = at.filter(|_| bytes < need) {
            let block = self.blocks.key(spot);
            let held = &mut self.blocks[spot];
            held.refused = !evictable(block);
            if !held.refused {
                bytes = held.size.saturating_add(bytes);
                named.push(block);
            }
            at = self.blocks.newer(spot);
        }
        named
    }

    fn fix(&mut self, group: Group, policy: GroupPolicy) {
        let fixed = policy != GroupPolicy::Auto;
        let Some(at) = self.groups.find(group).or_else(|| fixed.then(|| self.book(group))) else { return };
        let (was, next) = (self.groups[at], self.ghost.next());
        match (was.fixed, fixed) {
            (false, true) => self.by_last_miss.unlink(&mut self.groups, at),
            (true, false) => self.by_last_miss.push(&mut self.groups, at),
            _ => {}
        }
        self.fixed_groups = self.fixed_groups + usize::from(fixed) - usize::from(was.fixed);
        let book = match (was.uniform, policy) {
            (false, GroupPolicy::Uniform) => was.to_uniform(next),
            (true, GroupPolicy::Lru) => was.to_lru(next, next),
            _ => was,
        };
        self.groups[at] = Book { fixed, ..book };
        self.count_uniform(was.uniform, book.uniform);
    }

    fn advance(&mut self, _now: Duration) {}
}

#[cfg(test)]
mod tests;
