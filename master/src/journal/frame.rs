//! Frames: how one entry lies in a file of the journal or of a checkpoint. Pure: bytes in, bytes out.
//!
//! A frame is 40 bytes of head, the payload, and zeros up to a multiple of 8 (all numbers little endian):
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 4 | CRC-32C of the file's seed and of everything that follows in this frame, padding included |
//! | 4 | 4 | length of the payload |
//! | 8 | 4 | CRC of the frame before |
//! | 12 | 4 | [`Kind`] |
//! | 16 | 8 | Position: an entry's own; for every other kind that of the last entry before it |
//! | 24 | 8 | epoch |
//! | 32 | 8 | the Position up to which everything was known to be on disk when the frame was written |
//!
//! Invariants: the CRC of the frame before is stored and not only mixed in, so that a frame proves itself wherever it
//! is found (that is how good frames behind a bad one are seen) and the chain proves that none is missing. The seed is
//! the CRC of the file's header, which holds a random number: what an earlier use left in a recycled file, and bytes
//! that a user chose, never pass for a frame of this file.

use larder_common::{Position, checksum::Crc32c};

/// Bytes before the payload.
pub(super) const HEAD: usize = 40;

/// No payload is longer than this; a length above it is damage.
pub(super) const MAX_PAYLOAD: usize = 256 << 20;

const STEP: usize = 8;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One entry of the state machine (in a checkpoint: one of its frames).
    Entry = 1,
    /// A process begins to write here: boot id and version. The first frame of each segment and of each start.
    Start = 2,
    /// Nothing happened; says what is durable by now.
    Mark = 3,
    /// The journal goes on in the next segment.
    Roll = 4,
    /// The journal was closed in order: everything before is durable.
    Close = 5,
    /// The end of a checkpoint: the count of its frames, as 8 bytes.
    Count = 6,
}

impl Kind {
    pub(super) fn from_number(number: u32) -> Option<Self> {
        [Self::Entry, Self::Start, Self::Mark, Self::Roll, Self::Close, Self::Count]
            .into_iter()
            .find(|k| *k as u32 == number)
    }
}

/// Why bytes are not the next frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Zeros: nothing was ever written here. The orderly end.
    End,
    /// The frame is longer than what is there.
    Short,
    /// The head makes no sense.
    Head,
    /// The checksum does not match.
    Checksum,
    /// A whole frame, but not the one that follows.
    Order(&'static str),
}

impl Flaw {
    /// The flaw for people.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Flaw::End => "nothing is written there",
            Flaw::Short => "the frame is cut off",
            Flaw::Head => "the frame's head makes no sense",
            Flaw::Checksum => "the frame's checksum does not match",
            Flaw::Order(reason) => reason,
        }
    }
}

/// A frame that proved itself, in the bytes it was read from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) crc: u32,
    pub(super) previous: u32,
    pub(super) position: Position,
    pub(super) epoch: u64,
    pub(super) durable: Position,
    pub(super) payload: &'a [u8],
}

fn number32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn number64(bytes: &[u8], at: usize) -> u64 {
    u64::from(number32(bytes, at)) | u64::from(number32(bytes, at + 4)) << 32
}

/// How many bytes a frame with this payload takes.
pub(super) const fn size_of(payload: usize) -> usize {
    HEAD + payload.next_multiple_of(STEP)
}

/// How long the frame with this head is, if the head makes sense.
pub(super) fn size_in(head: &[u8]) -> Result<usize, Flaw> {
    if head.len() < HEAD {
        return Err(if head.iter().all(|b| *b == 0) { Flaw::End } else { Flaw::Short });
    }
    if head[..HEAD].iter().all(|b| *b == 0) {
        return Err(Flaw::End);
    }
    let length = number32(head, 4) as usize;
    if length > MAX_PAYLOAD || Kind::from_number(number32(head, 12)).is_none() {
        return Err(Flaw::Head);
    }
    Ok(size_of(length))
}

/// The frame at the beginning of these bytes.
pub(super) fn parse(bytes: &[u8], seed: u32) -> Result<(Frame<'_>, usize), Flaw> {
    let size = size_in(bytes)?;
    if size > bytes.len() {
        return Err(Flaw::Short);
    }
    let crc = number32(bytes, 0);
    let mut digest = Crc32c::new();
    digest.update(&seed.to_le_bytes());
    digest.update(&bytes[4..size]);
    if digest.value() != crc {
        return Err(Flaw::Checksum);
    }
    let frame = Frame {
        kind: Kind::from_number(number32(bytes, 12)).ok_or(Flaw::Head)?,
        crc,
        previous: number32(bytes, 8),
        position: Position(number64(bytes, 16)),
        epoch: number64(bytes, 24),
        durable: Position(number64(bytes, 32)),
        payload: &bytes[HEAD..HEAD + number32(bytes, 4) as usize],
    };
    Ok((frame, size))
}

/// The first frame in these bytes at a multiple of 8 that proves itself and is at or after this Position: where it is,
/// and itself. Looks at every place, so it also finds frames behind a broken length.
pub(super) fn find(bytes: &[u8], seed: u32, after: Position) -> Option<(usize, Frame<'_>, usize)> {
    let mut at = 0;
    while at + HEAD <= bytes.len() {
        let here = &bytes[at..];
        if here[12] != 0
            && number64(here, 16) >= after.0
            && let Ok((frame, size)) = parse(here, seed)
        {
            return Some((at, frame, size));
        }
        at += STEP;
    }
    None
}

/// The place reached in a run of frames: what the next one must follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// CRC of the last frame; none where the frames before are not kept.
    pub(super) crc: Option<u32>,
    /// Position of the last entry; none where it is not known yet.
    pub(super) position: Option<Position>,
    /// Epoch of the last frame.
    pub(super) epoch: u64,
    /// What the last frame called durable.
    pub(super) durable: Position,
}

impl Chain {
    /// A chain that begins after this Position.
    pub(super) fn after(position: Position) -> Self {
        Self { crc: Some(0), position: Some(position), epoch: 0, durable: position }
    }

    /// The last entry's Position; 0 when there is none.
    pub(super) fn last(&self) -> Position {
        self.position.unwrap_or_default()
    }

    /// Appends the next frame to the buffer and moves on.
    pub(super) fn push(&mut self, buffer: &mut Vec<u8>, seed: u32, kind: Kind, payload: &[u8]) {
        let position = if kind == Kind::Entry { self.last().next() } else { self.last() };
        let start = buffer.len();
        buffer.extend_from_slice(&seed.to_le_bytes());
        buffer.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&self.crc.unwrap_or(0).to_le_bytes());
        buffer.extend_from_slice(&(kind as u32).to_le_bytes());
        buffer.extend_from_slice(&position.0.to_le_bytes());
        buffer.extend_from_slice(&self.epoch.to_le_bytes());
        buffer.extend_from_slice(&self.durable.0.to_le_bytes());
        buffer.extend_from_slice(payload);
        buffer.resize(start + size_of(payload.len()), 0);
        let crc = larder_common::checksum::crc32c(&buffer[start..]);
        buffer[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        self.crc = Some(crc);
        self.position = Some(position);
    }

    /// Moves over a frame that was read, if it is the one that follows.
    pub(super) fn accept(&mut self, frame: &Frame<'_>) -> Result<(), Flaw> {
        if self.crc.is_some_and(|crc| crc != frame.previous) {
            return Err(Flaw::Order("the frame does not follow the one before it"));
        }
        let expected = if frame.kind == Kind::Entry { self.position.map(Position::next) } else { self.position };
        if expected.is_some_and(|position| position != frame.position) {
            return Err(Flaw::Order("the frame has another Position than the one that follows"));
        }
        if frame.epoch < self.epoch {
            return Err(Flaw::Order("the frame has an older epoch than the one before it"));
        }
        if frame.durable > frame.position || frame.durable < self.durable {
            return Err(Flaw::Order("the frame contradicts what was durable before it"));
        }
        *self =
            Self { crc: Some(frame.crc), position: Some(frame.position), epoch: frame.epoch, durable: frame.durable };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> (Vec<u8>, Chain) {
        let mut chain = Chain::after(Position(4));
        let mut bytes = Vec::new();
        chain.push(&mut bytes, 7, Kind::Start, b"boot");
        chain.push(&mut bytes, 7, Kind::Entry, b"hello world");
        (bytes, chain)
    }

    #[test]
    fn what_was_pushed_is_accepted() {
        let (bytes, pushed) = written();
        let mut read = Chain::after(Position(4));
        let (start, size) = parse(&bytes, 7).unwrap();
        read.accept(&start).unwrap();
        assert_eq!((start.kind, start.position, start.payload), (Kind::Start, Position(4), &b"boot"[..]));
        let (entry, rest) = parse(&bytes[size..], 7).unwrap();
        read.accept(&entry).unwrap();
        assert_eq!((entry.position, entry.payload), (Position(5), &b"hello world"[..]));
        assert_eq!((size + rest, read), (bytes.len(), pushed));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let (bytes, _) = written();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let first = parse(&bad, 7);
            let whole = first.is_ok_and(|(_, size)| parse(&bad[size..], 7).is_ok());
            assert!(!whole, "bit {bit}");
        }
    }

    #[test]
    fn another_file_s_frame_does_not_pass() {
        let (bytes, _) = written();
        assert_eq!(parse(&bytes, 8).unwrap_err(), Flaw::Checksum);
        assert!(find(&bytes, 8, Position(0)).is_none());
    }

    #[test]
    fn a_good_frame_is_found_behind_a_broken_length() {
        let (mut bytes, _) = written();
        bytes[4] = 0xff;
        let (at, frame, _) = find(&bytes, 7, Position(5)).unwrap();
        assert_eq!((at, frame.position), (size_of(4), Position(5)));
        assert!(find(&bytes, 7, Position(6)).is_none());
    }

    #[test]
    fn a_gap_a_repeat_and_an_older_epoch_are_refused() {
        let (bytes, _) = written();
        let (_, size) = parse(&bytes, 7).unwrap();
        let (entry, _) = parse(&bytes[size..], 7).unwrap();
        for (chain, part) in [
            (Chain { crc: Some(1), ..Chain::after(Position(4)) }, "follow"),
            (Chain { crc: None, ..Chain::after(Position(5)) }, "Position"),
            (Chain { crc: None, epoch: 9, ..Chain::after(Position(4)) }, "epoch"),
            (Chain { crc: None, durable: Position(5), ..Chain::after(Position(4)) }, "durable"),
        ] {
            let mut chain = chain;
            assert!(chain.accept(&entry).unwrap_err().reason().contains(part), "{part}");
        }
    }
}
