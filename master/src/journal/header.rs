//! The header of a segment or checkpoint file: who wrote it, in which format, for which cluster. Pure.
//!
//! A header fills the first 4096 bytes, so that no later write of a frame shares a page or sector with it; the first
//! 128 of them mean something, and their layout never changes, so that an older binary can name the newer one:
//! magic (8), format (4), CRC-32C of the 128 bytes with this field zero (4), kind (4), flags (4), features (8),
//! cluster id (16), number (8), random number (8), epoch (8), zeros (8), version of the writer (48, UTF-8, zeros behind).
//!
//! Feature bits below 32 must be understood by who reads the file; those from 32 on may be passed over.

use std::path::Path;

use larder_common::{ClusterId, Error, ErrorKind, Result, checksum::crc32c};

/// Where the first frame begins.
pub(super) const HEADER: usize = 4096;

/// The format that is written, and the newest that is read. There is no older one yet.
pub(super) const FORMAT: u32 = 1;

/// Edits in place: leases that outlive their session, and patches. A binary without it would drop what they hold.
const EDITS: u64 = 1;

/// The feature bits that are written.
const WRITTEN: u64 = EDITS;

/// The feature bits that this binary understands.
const UNDERSTOOD: u64 = 0xffff_ffff_0000_0000 | EDITS;

const MAGIC: &[u8; 8] = b"larderJ\n";
const MEANT: usize = 128;
const VERSION: usize = 80;

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    /// A piece of the journal; its number counts the pieces.
    Segment = 1,
    /// A checkpoint; its number is its Position.
    Checkpoint = 2,
}

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: FileKind,
    pub(super) cluster: ClusterId,
    pub(super) number: u64,
    pub(super) nonce: u64,
    pub(super) epoch: u64,
    /// A checkpoint that came from elsewhere: entries before it need not be here.
    pub(super) installed: bool,
    pub(super) created_by: String,
}

fn number64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were taken"))
}

fn number32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were taken"))
}

impl Header {
    /// A header with a fresh random number.
    pub(super) fn new(kind: FileKind, cluster: ClusterId, number: u64, created_by: &str) -> Result<Self> {
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce)
            .map_err(|e| Error::new(ErrorKind::Unavailable, format!("no random numbers: {e}")))?;
        Ok(Self {
            kind,
            cluster,
            number,
            nonce: u64::from_le_bytes(nonce),
            epoch: 0,
            installed: false,
            created_by: created_by.to_owned(),
        })
    }

    /// The header's bytes and the seed of the file's frames.
    pub(super) fn encode(&self) -> (Vec<u8>, u32) {
        let mut bytes = vec![0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..20].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes[20..24].copy_from_slice(&u32::from(self.installed).to_le_bytes());
        bytes[24..32].copy_from_slice(&WRITTEN.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.cluster.0);
        bytes[48..56].copy_from_slice(&self.number.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.nonce.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.epoch.to_le_bytes());
        let mut length = self.created_by.len().min(MEANT - VERSION);
        while !self.created_by.is_char_boundary(length) {
            length -= 1;
        }
        bytes[VERSION..VERSION + length].copy_from_slice(&self.created_by.as_bytes()[..length]);
        let crc = crc32c(&bytes[..MEANT]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// What these bytes, the beginning of this file, say; and the seed of the file's frames.
    ///
    /// # Errors
    /// `Corrupt` for bytes that are no whole header, `Mismatch` for a format or feature that is newer than this binary.
    pub(super) fn decode(bytes: &[u8], file: &Path, kind: FileKind) -> Result<(Self, u32)> {
        let corrupt = |why: &str| Err(Error::new(ErrorKind::Corrupt, format!("{}: {why}", file.display())));
        if bytes.len() < HEADER {
            return corrupt("the file is shorter than its header");
        }
        let mut meant: [u8; MEANT] = bytes[..MEANT].try_into().expect("the length was checked");
        let crc = number32(&meant, 12);
        meant[12..16].fill(0);
        if &meant[..8] != MAGIC || crc32c(&meant) != crc {
            return corrupt("the header at offset 0 is damaged or is not Larder's");
        }
        let name = &meant[VERSION..];
        let created_by =
            String::from_utf8_lossy(&name[..name.iter().position(|b| *b == 0).unwrap_or(name.len())]).into_owned();
        let (format, features) = (number32(&meant, 8), number64(&meant, 24));
        if format > FORMAT || features & !UNDERSTOOD != 0 {
            return Err(newer(file, format, features, &created_by));
        }
        let cluster = ClusterId(meant[32..48].try_into().expect("sixteen bytes were taken"));
        if number32(&meant, 16) != kind as u32 {
            return corrupt("the header belongs to another kind of file");
        }
        let (number, nonce, epoch) = (number64(&meant, 48), number64(&meant, 56), number64(&meant, 64));
        let installed = number32(&meant, 20) & 1 != 0;
        Ok((Self { kind, cluster, number, nonce, epoch, installed, created_by }, crc))
    }
}

fn newer(file: &Path, format: u32, features: u64, created_by: &str) -> Error {
    let what = if format > FORMAT {
        format!("format {format}, this binary reads up to {FORMAT}")
    } else {
        format!("features {:#x} that this binary does not know", features & !UNDERSTOOD)
    };
    Error::new(ErrorKind::Mismatch, format!("{}: written by {created_by:?} in {what}", file.display()))
        .advise(format!("start {created_by:?} or newer on this directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            installed: true,
            epoch: 3,
            ..Header::new(FileKind::Checkpoint, ClusterId([7; 16]), 9, "larder 1").unwrap()
        }
    }

    fn decode(bytes: &[u8]) -> Result<(Header, u32)> {
        Header::decode(bytes, Path::new("file"), FileKind::Checkpoint)
    }

    #[test]
    fn a_header_comes_back() {
        let (bytes, seed) = header().encode();
        assert_eq!(bytes.len(), HEADER);
        let (read, read_seed) = decode(&bytes).unwrap();
        assert_eq!((read.number, read.epoch, read.installed, read_seed), (9, 3, true, seed));
        assert_eq!(read.created_by, "larder 1");
        assert_eq!(Header::decode(&bytes, Path::new("f"), FileKind::Segment).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn every_flipped_bit_that_means_something_is_damage() {
        let (bytes, _) = header().encode();
        for bit in 0..MEANT * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad).unwrap_err().kind(), ErrorKind::Corrupt, "bit {bit}");
        }
        assert!(decode(&bytes[..100]).is_err());
    }

    #[test]
    fn a_file_from_before_there_were_edits_is_read() {
        let (mut bytes, _) = header().encode();
        bytes[24..32].fill(0);
        bytes[12..16].fill(0);
        let crc = crc32c(&bytes[..MEANT]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&bytes).unwrap().0.number, 9);
    }

    #[test]
    fn a_newer_format_or_feature_is_refused_by_name() {
        for (at, value) in [(8, 2), (24, 3)] {
            let (mut bytes, _) = header().encode();
            bytes[at] = value;
            bytes[12..16].fill(0);
            let crc = crc32c(&bytes[..MEANT]);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
            let error = decode(&bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Mismatch);
            assert!(error.to_string().contains("larder 1"), "{error}");
        }
    }
}
