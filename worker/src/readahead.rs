//! Sequential read-ahead: how far ahead of a reader to fetch. Pure.
//!
//! A reader is one stream or one connection; what it reads of one file is *sequential* while each read begins where the
//! last one ended (or a little behind it: kernels and clients overlap). The first sequential read opens a window, each
//! further one doubles it up to the limit, and a jump closes it. What lies in the window and was not named before is
//! named once; whether it is fetched is the eviction policy's affair.

use std::{collections::VecDeque, ops::Range};

use larder_common::{FileId, Generation};

/// The first window, in bytes.
const FIRST: u64 = 4 << 20;

/// How far a read may begin before or behind the end of the last one and still be sequential, in bytes.
const SLACK: u64 = 1 << 20;

/// How many files of one reader are remembered.
const FILES: usize = 64;

/// How one reader reads one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Track {
    /// Where the last read ended.
    end: u64,
    /// The window behind it; 0 until a read was sequential.
    window: u64,
    /// Up to where bytes have been named already.
    named: u64,
}

impl Track {
    /// The first read of a file. One from the beginning counts as the begin of a sequence.
    #[must_use]
    pub fn begin(read: Range<u64>) -> Self {
        Self { end: read.end, window: 0, named: read.end }
    }

    /// Takes a read; answers what to fetch ahead now (cut at the file's `length`), empty for nothing. `limit` is the
    /// largest window in bytes.
    #[must_use = "what it names is named once"]
    pub fn read(&mut self, read: Range<u64>, length: u64, limit: u64) -> Range<u64> {
        let sequential = read.start.abs_diff(self.end) <= SLACK;
        if !sequential || limit == 0 {
            *self = Self::begin(read);
            return 0..0;
        }
        self.window = if self.window == 0 { FIRST.min(limit) } else { (self.window * 2).min(limit) };
        self.end = self.end.max(read.end);
        let start = self.named.max(self.end);
        let end = self.end.saturating_add(self.window).min(length);
        if start >= end {
            return 0..0;
        }
        self.named = end;
        start..end
    }
}

/// What one reader reads, file by file; the least recently read ones are forgotten.
#[derive(Debug, Default)]
pub struct Tracks(VecDeque<((FileId, Generation), Track)>);

impl Tracks {
    /// Takes a read of one file; see [`Track::read`].
    #[must_use = "what it names is named once"]
    pub fn read(&mut self, file: (FileId, Generation), read: Range<u64>, length: u64, limit: u64) -> Range<u64> {
        if let Some(place) = self.0.iter().position(|(known, _)| *known == file) {
            let (_, mut track) = self.0.remove(place).expect("found a moment ago");
            let ahead = track.read(read, length, limit);
            self.0.push_back((file, track));
            return ahead;
        }
        if self.0.len() >= FILES {
            self.0.pop_front();
        }
        self.0.push_back((file, Track::begin(read)));
        0..0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const LENGTH: u64 = 1 << 40;

    #[test]
    fn the_window_doubles_up_to_the_limit_and_closes_at_a_jump() {
        let mut track = Track::begin(0..MIB);
        assert_eq!(track.read(MIB..2 * MIB, LENGTH, 16 * MIB), 2 * MIB..6 * MIB);
        assert_eq!(track.read(2 * MIB..3 * MIB, LENGTH, 16 * MIB), 6 * MIB..11 * MIB);
        assert_eq!(track.read(3 * MIB..4 * MIB, LENGTH, 16 * MIB), 11 * MIB..20 * MIB);
        assert_eq!(track.read(4 * MIB..5 * MIB, LENGTH, 16 * MIB), 20 * MIB..21 * MIB);
        assert_eq!(track.read(90 * MIB..91 * MIB, LENGTH, 16 * MIB), 0..0);
        assert_eq!(track.read(91 * MIB..92 * MIB, LENGTH, 16 * MIB), 92 * MIB..96 * MIB);
    }

    #[test]
    fn nothing_is_named_behind_the_end_or_without_a_window() {
        let mut track = Track::begin(0..MIB);
        assert_eq!(track.read(MIB..2 * MIB, 3 * MIB, 16 * MIB), 2 * MIB..3 * MIB);
        assert_eq!(track.read(2 * MIB..3 * MIB, 3 * MIB, 16 * MIB), 0..0);
        let mut off = Track::begin(0..MIB);
        assert_eq!(off.read(MIB..2 * MIB, LENGTH, 0), 0..0);
    }

    #[test]
    fn files_are_followed_apart_and_old_ones_forgotten() {
        let mut tracks = Tracks::default();
        let file = |n: u64| (FileId(n), Generation(1));
        for n in 0..FILES as u64 {
            assert!(tracks.read(file(n), 0..MIB, LENGTH, 8 * MIB).is_empty());
        }
        assert_eq!(tracks.read(file(0), MIB..2 * MIB, LENGTH, 8 * MIB), 2 * MIB..6 * MIB);
        assert!(tracks.read(file(99), 0..MIB, LENGTH, 8 * MIB).is_empty());
        assert!(tracks.read(file(1), MIB..2 * MIB, LENGTH, 8 * MIB).is_empty(), "forgotten for the new one");
    }

    proptest! {
        #[test]
        fn no_byte_is_named_twice_in_a_sequence(sizes in proptest::collection::vec(1u64..3 * MIB, 1..40), limit in 0u64..64 * MIB) {
            let mut at = MIB;
            let mut track = Track::begin(0..at);
            let mut named = at;
            for size in sizes {
                let ahead = track.read(at..at + size, LENGTH, limit);
                at += size;
                if !ahead.is_empty() {
                    prop_assert!(ahead.start >= named && ahead.start >= at);
                    prop_assert!(ahead.end <= at + limit);
                    named = ahead.end;
                }
            }
        }
    }
}
