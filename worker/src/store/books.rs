//! The books: which blocks are where and in what state. No I/O; every method runs under its shard's lock.
//!
//! A generation has an [`Entry`]; each directory that holds something of it has a [`Copy`] there, which stands for one
//! cache file; a copy knows its blocks. A block is *filling* (one writer has it), *whole*, or *residue* (bytes that are
//! counted but mean nothing: what an abandoned writer left where the kernel did not let go of it).
//!
//! What keeps a copy from being touched by removal:
//! - `open`: descriptors that this process has of it, or is about to open;
//! - `leases`: descriptors that were handed out and not given back, as far as the books know;
//! - `busy`: a removal is asking the kernel. Whoever wants the copy waits for the shard's condition, which takes as
//!   long as one punch.
//!
//! The bytes of filling blocks are counted by their writer's `Space`; all others by `charge`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use larder_common::{BlockId, BlockIndex, FileId};
use rustc_hash::FxHashSet;

use super::{
    directory::{Directory, Space},
    fill::Fill,
    kernel::ChangeTime,
    key::{CacheName, FileKey, GenerationSpec, Serial},
    policies::Pending,
};

/// The state of a block in one cache file.
#[derive(Debug)]
pub(crate) enum BlockState {
    Filling(Arc<Fill>),
    Whole,
    Residue,
}

/// A block in one cache file.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) state: BlockState,
    /// Bytes counted in the directory for it; 0 while it fills.
    pub(crate) charge: u64,
    pub(crate) pins: u32,
    /// Whether its checksums have been compared since it was filled or adopted.
    pub(crate) verified: bool,
    /// Whether they did not match, and it is nowhere else: never served, and kept for whoever wants to save it.
    pub(crate) damaged: bool,
    pub(crate) crcs: Box<[u32]>,
}

impl Block {
    pub(crate) fn whole(charge: u64, crcs: Box<[u32]>) -> Self {
        Self { state: BlockState::Whole, charge, pins: 0, verified: false, damaged: false, crcs }
    }

    pub(crate) fn filling(fill: Arc<Fill>) -> Self {
        Self {
            state: BlockState::Filling(fill),
            charge: 0,
            pins: 0,
            verified: false,
            damaged: false,
            crcs: Box::default(),
        }
    }

    pub(crate) fn residue(charge: u64) -> Self {
        Self { state: BlockState::Residue, charge, pins: 0, verified: false, damaged: false, crcs: Box::default() }
    }

    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.state, BlockState::Whole)
    }

    fn is_idle(&self) -> bool {
        self.pins == 0 && !matches!(self.state, BlockState::Filling(_))
    }
}

/// One cache file.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) directory: Arc<Directory>,
    pub(crate) serial: Serial,
    /// Whether the index knows of it.
    pub(crate) recorded: bool,
    pub(crate) blocks: Vec<(BlockIndex, Block)>,
    pub(crate) open: u32,
    pub(crate) writers: u32,
    pub(crate) leases: u32,
    /// How often edits had given back anything when this one did: a lease from before counts no more.
    pub(crate) returns: u64,
    pub(crate) busy: bool,
    /// The change time after our own last write, where it is known.
    pub(crate) changed: Option<ChangeTime>,
    /// Until when the kernel need not be asked again.
    pub(crate) refused_until: Duration,
    /// Somebody may have it who is in no book: a holder has died, or it was adopted. Until the kernel has said no.
    pub(crate) suspect: bool,
}

impl Copy {
    pub(crate) fn new(directory: Arc<Directory>, serial: Serial) -> Self {
        Self {
            directory,
            serial,
            recorded: false,
            blocks: Vec::with_capacity(1),
            open: 0,
            writers: 0,
            leases: 0,
            returns: 0,
            busy: false,
            changed: None,
            refused_until: Duration::ZERO,
            suspect: false,
        }
    }

    fn find(&self, index: BlockIndex) -> Result<usize, usize> {
        self.blocks.binary_search_by_key(&index, |(i, _)| *i)
    }

    pub(crate) fn block(&self, index: BlockIndex) -> Option<&Block> {
        self.find(index).ok().map(|at| &self.blocks[at].1)
    }

    pub(crate) fn block_mut(&mut self, index: BlockIndex) -> Option<&mut Block> {
        self.find(index).ok().map(|at| &mut self.blocks[at].1)
    }

    /// Puts a block in its place and answers what was there.
    pub(crate) fn put(&mut self, index: BlockIndex, block: Block) -> Option<Block> {
        match self.find(index) {
            Ok(at) => Some(std::mem::replace(&mut self.blocks[at].1, block)),
            Err(at) => {
                self.blocks.insert(at, (index, block));
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, index: BlockIndex) -> Option<Block> {
        self.find(index).ok().map(|at| self.blocks.remove(at).1)
    }

    pub(crate) fn charge(&self) -> u64 {
        self.blocks.iter().map(|(_, b)| b.charge).sum()
    }

    /// Whether nobody that the books know of has anything to do with it.
    pub(crate) fn is_idle(&self) -> bool {
        !self.busy && self.open == 0 && self.leases == 0
    }

    /// Whether a removal may ask for this block now: where the medium cannot punch, for all of its file.
    pub(crate) fn may_lose(&self, index: BlockIndex, now: Duration) -> bool {
        let here = self.block(index).is_some_and(Block::is_idle);
        let rest = self.directory.punches() || self.blocks.iter().all(|(_, b)| b.is_idle());
        here && rest && self.is_idle() && self.refused_until <= now
    }

    /// Begins a use of the file.
    pub(crate) fn enter(&mut self) {
        self.open += 1;
    }
}

/// What is known of one generation.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) spec: GenerationSpec,
    /// In the order of the directories.
    pub(crate) copies: Vec<Copy>,
}

impl Entry {
    pub(crate) fn new(spec: GenerationSpec) -> Self {
        Self { spec, copies: Vec::with_capacity(1) }
    }

    pub(crate) fn copy(&mut self, directory: &Arc<Directory>) -> Option<&mut Copy> {
        self.copies.iter_mut().find(|c| c.directory.index() == directory.index())
    }

    /// The copy with this cache file, if it is still one.
    pub(crate) fn of_serial(&mut self, directory: &Arc<Directory>, serial: Serial) -> Option<&mut Copy> {
        self.copy(directory).filter(|c| c.serial == serial)
    }

    /// The copy in a directory; a new one where there is none.
    pub(crate) fn copy_or_new(&mut self, directory: &Arc<Directory>) -> &mut Copy {
        let place = self.copies.binary_search_by_key(&directory.index(), |c| c.directory.index());
        let at = place.unwrap_or_else(|at| {
            self.copies.insert(at, Copy::new(directory.clone(), directory.next_serial()));
            at
        });
        &mut self.copies[at]
    }

    /// The fastest copy that holds a block whole.
    pub(crate) fn holder(&mut self, index: BlockIndex) -> Option<&mut Copy> {
        self.copies.iter_mut().find(|c| c.block(index).is_some_and(Block::is_whole))
    }

    /// The writer of a block, if one is at work.
    pub(crate) fn filling(&mut self, index: BlockIndex) -> Option<(&mut Copy, Arc<Fill>)> {
        self.copies.iter_mut().find_map(|copy| match &copy.block(index)?.state {
            BlockState::Filling(fill) => {
                let fill = fill.clone();
                Some((copy, fill))
            }
            _ => None,
        })
    }

    pub(crate) fn remove_copy(&mut self, directory: &Arc<Directory>, serial: Serial) -> Option<Copy> {
        let is_it = |c: &Copy| c.directory.index() == directory.index() && c.serial == serial;
        self.copies.iter().position(is_it).map(|at| self.copies.remove(at))
    }
}

/// One part of the books.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    pub(crate) files: BTreeMap<FileKey, Entry>,
    pub(crate) pinned: FxHashSet<FileId>,
    pub(crate) pending: Pending,
}

impl Shard {
    /// The cache file with this name.
    pub(crate) fn copy(&mut self, directory: &Arc<Directory>, name: CacheName) -> Option<&mut Copy> {
        self.files.get_mut(&name.key)?.of_serial(directory, name.serial)
    }

    /// Ends a use of a cache file, and with it a pin.
    pub(crate) fn leave(&mut self, directory: &Arc<Directory>, name: CacheName, pin: Option<BlockIndex>) {
        if let Some(copy) = self.copy(directory, name) {
            copy.open -= 1;
            if let Some(block) = pin.and_then(|index| copy.block_mut(index)) {
                block.pins = block.pins.saturating_sub(1);
            }
        }
    }

    /// Whether `block` may be taken out of `directory` now: dropped, or moved where it may be nowhere else.
    pub(crate) fn is_evictable(&mut self, block: BlockId, directory: &Arc<Directory>, rule: Rule) -> bool {
        if self.pinned.contains(&block.file) {
            return false;
        }
        let Some(entry) = self.files.get_mut(&block.into()) else { return false };
        let allowed = entry.spec.persisted || rule.moves;
        allowed && entry.copy(directory).is_some_and(|c| c.may_lose(block.index, rule.now))
    }

    /// Forgets a generation of which nothing is left.
    pub(crate) fn tidy(&mut self, key: FileKey) {
        if self.files.get(&key).is_some_and(|e| e.copies.is_empty()) {
            self.files.remove(&key);
        }
    }

    /// Takes the bytes of a copy out of the books.
    pub(crate) fn release(entry_persisted: bool, copy: &Copy) -> Space {
        copy.directory.kept(copy.charge(), !entry_persisted)
    }
}

/// When a block may leave a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) now: Duration,
    /// It is moved and not dropped, so it may be content that is nowhere else.
    pub(crate) moves: bool,
}
