//! Bytes to read and orders to read them in: the same in every run, and nothing that compresses.

use std::{fs, io::Write, path::Path};

use larder_common::{Error, Result};

use crate::{lab::Lab, scratch::bytes};

/// How much is written at once, in bytes.
pub(crate) const PIECE: usize = 1 << 20;

/// Numbers that look random and are the same for the same seed: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Sequence(u64);

impl Sequence {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is above 0.
    #[inline]
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// Fisher and Yates.
    pub(crate) fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            all.swap(last, other);
        }
    }

    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// Writes a file of this length, or fails without leaving one that looks whole.
///
/// # Errors
/// As `write`; `Busy` when a signal comes.
pub(crate) fn write_file(lab: &Lab<'_>, path: &Path, length: u64, seed: u64) -> Result<()> {
    let named = |e: std::io::Error| Error::from(e).at(bytes(path));
    let mut file = fs::File::create(path).map_err(named)?;
    let mut sequence = Sequence::new(seed);
    let mut buffer = vec![0; PIECE.min(usize::try_from(length).unwrap_or(PIECE))];
    let mut left = length;
    while left > 0 {
        lab.check()?;
        let piece = usize::try_from(left).unwrap_or(PIECE).min(buffer.len());
        sequence.fill(&mut buffer[..piece]);
        file.write_all(&buffer[..piece]).map_err(named)?;
        left -= piece as u64;
    }
    Ok(())
}

/// The sum of all bytes, taken eight at a time, so that memory and not the adding is what takes time.
#[inline]
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().fold(0u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    rest.iter().fold(words, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::quiet;

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let (mut a, mut b) = ([0; 13], [0; 13]);
        Sequence::new(7).fill(&mut a);
        Sequence::new(7).fill(&mut b);
        assert_eq!(a, b);
        Sequence::new(8).fill(&mut b);
        assert_ne!(a, b);
    }

    #[test]
    fn a_shuffle_loses_nothing() {
        let mut all: Vec<u32> = (0..1000).collect();
        Sequence::new(1).shuffle(&mut all);
        assert_ne!(all[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        all.sort_unstable();
        assert!(all.into_iter().eq(0..1000));
        assert!((0..1000).all(|seed| Sequence::new(seed).below(3) < 3));
    }

    #[test]
    fn files_have_their_length() {
        let place = tempfile::tempdir().unwrap();
        for length in [0, 1, 100_000, PIECE as u64 + 3] {
            let path = place.path().join(length.to_string());
            write_file(&quiet::lab(), &path, length, 1).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), length);
        }
    }

    #[test]
    fn every_byte_counts_in_a_sum() {
        let mut bytes = vec![0; 1003];
        assert_eq!(sum(&bytes), 0);
        for at in [0, 7, 8, 999, 1002] {
            let before = sum(&bytes);
            bytes[at] = 1;
            assert_ne!(sum(&bytes), before, "byte {at}");
        }
    }
}
