//! Which segments and checkpoints are kept: the last two checkpoints and the journal from the older one on, and
//! whatever somebody is reading.
//!
//! Segments go oldest first, so that those left always follow one another. The first that goes becomes the spare that
//! the next new segment is made from. Lock order: the list is a leaf; files are removed while it is held, so that no
//! reader begins on one that goes.

use std::collections::BTreeMap;

use larder_common::{Error, ErrorKind, Position, Result};
use parking_lot::Mutex;

use super::{directory::Directory, recovery::Usable, scan::Kept};

#[derive(Debug, Default)]
struct Lists {
    /// Oldest first; the last one is being written.
    segments: Vec<Kept>,
    /// Usable ones, oldest first.
    checkpoints: Vec<Position>,
    /// Checkpoint files that proved bad at start.
    bad: Vec<Position>,
    /// Segments from which on somebody reads, with how many do.
    readers: BTreeMap<u64, usize>,
}

/// What is kept.
#[derive(Debug)]
pub(super) struct Retention {
    lists: Mutex<Lists>,
    segment_size: u64,
}

impl Retention {
    pub(super) fn new(segments: Vec<Kept>, checkpoints: &[Usable], bad: Vec<Position>, segment_size: u64) -> Self {
        let checkpoints = checkpoints.iter().map(|checkpoint| checkpoint.position).collect();
        Self { lists: Mutex::new(Lists { segments, checkpoints, bad, readers: BTreeMap::new() }), segment_size }
    }

    /// The journal goes on in this segment.
    pub(super) fn rolled(&self, next: Kept) {
        self.lists.lock().segments.push(next);
    }

    /// The newest usable checkpoint.
    pub(super) fn newest(&self) -> Option<Position> {
        self.lists.lock().checkpoints.last().copied()
    }

    /// The segments that hold the entries from this Position on. They stay until [`Retention::release`] is called with
    /// the first number.
    ///
    /// # Errors
    /// `NotFound` when entries from there on are not kept.
    pub(super) fn hold(&self, from: Position) -> Result<Vec<u64>> {
        let mut lists = self.lists.lock();
        let first = lists.segments.iter().rposition(|kept| kept.before < from);
        let Some(first) = first else {
            let kept = lists.segments.first().map_or(Position(0), |kept| kept.before);
            let message = format!("the journal is kept from Position {} on, not from {from}", kept.next());
            return Err(Error::new(ErrorKind::NotFound, message).advise("begin from the newest checkpoint"));
        };
        let numbers: Vec<u64> = lists.segments[first..].iter().map(|kept| kept.number).collect();
        *lists.readers.entry(numbers[0]).or_default() += 1;
        Ok(numbers)
    }

    /// Ends a hold.
    pub(super) fn release(&self, first: u64) {
        let mut lists = self.lists.lock();
        if let Some(count) = lists.readers.get_mut(&first) {
            *count -= 1;
            if *count == 0 {
                lists.readers.remove(&first);
            }
        }
    }

    /// Counts a new checkpoint, which has its name, and removes what is not needed any more.
    pub(super) fn add_checkpoint(&self, directory: &Directory, position: Position) -> Result<()> {
        let mut lists = self.lists.lock();
        lists.bad.retain(|bad| *bad != position);
        lists.checkpoints.retain(|old| *old != position);
        lists.checkpoints.push(position);
        for bad in std::mem::take(&mut lists.bad) {
            directory.remove(&directory.checkpoint(bad))?;
        }
        while lists.checkpoints.len() > 2 {
            directory.remove(&directory.checkpoint(lists.checkpoints[0]))?;
            lists.checkpoints.remove(0);
        }
        let floor = if lists.checkpoints.len() < 2 { Position(0) } else { lists.checkpoints[0] };
        let in_use = lists.readers.keys().next().copied().unwrap_or(u64::MAX);
        while lists.segments.len() > 1 && lists.segments[1].before <= floor && lists.segments[0].number < in_use {
            self.retire(directory, lists.segments[0].number)?;
            lists.segments.remove(0);
        }
        directory.sync()
    }

    fn retire(&self, directory: &Directory, number: u64) -> Result<()> {
        let (path, spare) = (directory.segment(number), directory.spare());
        let fits = std::fs::metadata(&path).is_ok_and(|m| m.len() == self.segment_size);
        if fits && !spare.exists() {
            return directory.rename(&path, &spare);
        }
        directory.remove(&path)
    }

    /// Everything before this installed checkpoint goes; the journal goes on in this segment.
    pub(super) fn replace(&self, directory: &Directory, position: Position, next: Kept) -> Result<()> {
        let mut lists = self.lists.lock();
        let old = std::mem::replace(&mut lists.segments, vec![next]);
        for kept in old.iter().filter(|kept| kept.number != next.number) {
            directory.remove(&directory.segment(kept.number))?;
        }
        let lists = &mut *lists;
        for checkpoint in lists.checkpoints.drain(..).chain(lists.bad.drain(..)).filter(|old| *old != position) {
            directory.remove(&directory.checkpoint(checkpoint))?;
        }
        lists.checkpoints.push(position);
        directory.sync()
    }
}
