//! A range of a file as frames for the network: from cache files, from blocks that are being filled, or passed through.
//!
//! A frame of a whole block is read into a buffer that is used again and again, which costs less than the page faults of
//! a mapping that is made for one stream (measured, one stream over loopback: 0.9 of a sender with a mapping that lasts,
//! against 0.6). When the worker's buffer memory is all in use, and for large frames, it is a slice of a mapping, which
//! holds the block's pin until the frame is sent; mapped bytes cannot change: nobody truncates or punches a committed cache
//! file while somebody has it. Frames end at multiples of their size in the file, so that the checksums that the store
//! keeps can be sent along.

use std::{ops::Range, os::unix::fs::FileExt, sync::Arc};

use bytes::Bytes;
use futures_core::Stream;
use larder_common::{
    Error, ErrorKind, ReadType, Result,
    checksum::{CHUNK, crc32c},
};
use larder_proto::{data::Buffers, v1};
use memmap2::{Mmap, MmapOptions};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    fetch::{ATTEMPTS, Supply},
    flight::{Arrival, Flight},
    readahead::Track,
    services::{Granted, Services, blocking},
    source::Want,
    store::{BlockReader, EditedSource, FileKey, NoRoom},
};

/// The usual frame, in bytes.
pub(crate) const FRAME: u64 = 1 << 20;
/// The smallest and the largest frame that a reader can ask for, in bytes.
const FRAMES: Range<u64> = 64 << 10..4 << 20;

/// Frames of one stream that are in memory: one being sent, one being read.
const BUFFERED: u64 = 2;
/// Buffers of 1 MiB that are kept for the next frames.
pub(crate) const BUFFERS_KEPT: usize = 16;

/// Bytes of a file on their way to a reader.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
    pub(crate) crc: u32,
    pub(crate) served: v1::Served,
}

impl Frame {
    fn new(offset: u64, data: Bytes, served: v1::Served) -> Self {
        let crc = crc32c(&data);
        Self { offset, data, crc, served }
    }
}

/// What a reader asked for.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// The first block, and all that is the same for the others.
    pub(crate) want: Want,
    /// Bytes of the file.
    pub(crate) range: Range<u64>,
    pub(crate) read_type: ReadType,
    /// Bytes of a frame; 0 for the usual one.
    pub(crate) frame: u64,
}

/// The frame size that is used for what a reader asked for.
fn frame_size(asked: u64) -> u64 {
    if asked == 0 { FRAME } else { asked.clamp(FRAMES.start, FRAMES.end) }
}

/// Where the frame that begins at `at` ends.
fn frame_end(at: u64, frame: u64, end: u64) -> u64 {
    ((at / frame + 1) * frame).min(end)
}

/// A block mapped into memory, and its pin.
struct Mapped {
    // In this order: the mapping goes before the pin.
    map: Mmap,
    _reader: BlockReader,
}

/// A part of a mapping.
struct Slice(Arc<Mapped>, Range<usize>);

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.0.map[self.1.clone()]
    }
}

impl Mapped {
    /// Maps `part` (within the block) of an open block.
    fn new(reader: BlockReader, part: Range<u64>) -> Result<Arc<Self>> {
        let length = usize::try_from(part.end - part.start)
            .map_err(|_| Error::new(ErrorKind::Invalid, "a block larger than the address space"))?;
        let mut options = MmapOptions::new();
        options.offset(reader.offset() + part.start).len(length);
        // SAFETY: a committed cache file is never truncated, and the store punches holes only after the kernel has said
        // that nobody has it mapped. Only root or this worker's own user could change the bytes by other means; the
        // checksums that travel along tell the reader.
        let map = unsafe { options.map(&std::os::fd::AsFd::as_fd(&reader)) }?;
        Ok(Arc::new(Self { map, _reader: reader }))
    }

    fn slice(self: &Arc<Self>, part: Range<u64>) -> Bytes {
        Bytes::from_owner(Slice(self.clone(), part.start as usize..part.end as usize))
    }
}

/// Where the frames of a whole block come from.
enum Content {
    /// Read into buffers, for which there is room as long as this lives.
    Read(BlockReader, Arc<Buffers>, OwnedSemaphorePermit),
    /// A mapping of the block from so many bytes on.
    Mapped(Arc<Mapped>, u64),
}

impl Content {
    /// Bytes of the block.
    fn part(&self, part: Range<u64>) -> Result<Bytes> {
        match self {
            Content::Read(reader, buffers, _room) => {
                let mut buffer = buffers.take((part.end - part.start) as usize);
                reader.read_at(part.start, buffer.bytes())?;
                Ok(buffer.freeze())
            }
            Content::Mapped(mapped, base) => Ok(mapped.slice(part.start - base..part.end - base)),
        }
    }
}

impl Services {
    /// `part` (within the block) of an open block, to be sent in frames of this size.
    fn content(&self, reader: BlockReader, part: Range<u64>, frame: u64) -> Result<Content> {
        let room = (frame <= FRAME).then(|| self.spare_buffer(BUFFERED * frame.min(part.end - part.start))).flatten();
        match room {
            Some(room) => Ok(Content::Read(reader, self.frames.clone(), room)),
            None => Ok(Content::Mapped(Mapped::new(reader, part.clone())?, part.start)),
        }
    }

    /// The frames of a range, in order. The stream ends with the range or with an error.
    pub(crate) fn frames(self: Arc<Self>, reading: Reading) -> impl Stream<Item = Result<Frame>> + Send {
        async_stream::try_stream! {
            let frame = frame_size(reading.frame);
            let mut at = reading.range.start;
            let mut track = Track::begin(at..at);
            let mut attempts = 0;
            let (block_size, length) = (reading.want.granted.grant.block_size, reading.want.granted.grant.length);
            while at < reading.range.end {
                let index = block_size.index(at);
                let want = Want { index, ..reading.want.clone() };
                let block = want.range();
                let end = block.end.min(reading.range.end);
                let edited = self.being_edited(&want.granted)?;
                if Services::keeps(reading.read_type) && edited.is_none() {
                    let ahead = track.read(at..end, length.min(reading.range.end), self.config.read_ahead.0);
                    self.fetch_ahead(&want, ahead);
                }
                attempts += 1;
                let next = match edited {
                    Some(source) => Next::Edited(source),
                    None => self.next(&want, &reading, attempts).await?,
                };
                match next {
                    Next::Whole(reader) => {
                        attempts = 0;
                        self.was_read(want.block(), reader.tier(), reading.read_type);
                        let sums = reader.sums();
                        let content = self.content(reader, at - block.start..end - block.start, frame)?;
                        while at < end {
                            let to = frame_end(at, frame, end);
                            let data = content.part(at - block.start..to - block.start)?;
                            let crc = known_sum(&sums, at - block.start..to - block.start, block.end - block.start);
                            self.metrics.stream_bytes.add(to - at);
                            yield Frame { offset: at, crc: crc.unwrap_or_else(|| crc32c(&data)), data, served: v1::Served::FromCache };
                            at = to;
                        }
                    }
                    Next::Flying(flight) => {
                        while let Some(frame) = self.follow(&want, &flight, at, frame_end(at, frame, end)).await? {
                            attempts = 0;
                            at += frame.data.len() as u64;
                            yield frame;
                            if at == end {
                                break;
                            }
                        }
                    }
                    Next::Edited(source) => {
                        let to = frame_end(at, frame, end);
                        let data = blocking(move || edited_bytes(&source, at..to)).await?;
                        (attempts, at) = (0, to);
                        yield Frame::new(to - data.len() as u64, data, v1::Served::BeingEdited);
                    }
                    Next::Unkept(why) => {
                        self.is_unkept(why);
                        let mut pieces = self.stream_unkept(&want, at..end);
                        while let Some(piece) = pieces.recv().await {
                            let (offset, data) = piece?;
                            at = offset + data.len() as u64;
                            yield Frame::new(offset, data, v1::Served::FromUnderStore);
                        }
                        attempts = 0;
                        if at < end {
                            Err(Error::new(ErrorKind::Unavailable, "the stream from the under store ended early"))?;
                        }
                    }
                }
            }
        }
    }

    /// How the block that is next comes. Who has seen it come and go too often has it passed through.
    async fn next(self: &Arc<Self>, want: &Want, reading: &Reading, attempts: usize) -> Result<Next> {
        if attempts > ATTEMPTS {
            return Ok(Next::Unkept(Some(NoRoom::Full)));
        }
        if !Self::keeps(reading.read_type) {
            let range = want.range();
            let cached = self.open_block(want.block(), range.end - range.start).await?;
            return Ok(cached.map_or(Next::Unkept(None), Next::Whole));
        }
        match self.supply(want).await? {
            Supply::Whole(reader) => Ok(Next::Whole(reader)),
            Supply::Flying(flight) => match flight.wait(None, self.flight_patience()).await? {
                Arrival::Unkept(why) => Ok(Next::Unkept(Some(why))),
                Arrival::Whole | Arrival::Valid(_) => Ok(Next::Flying(flight)),
            },
        }
    }

    /// The file of content that is nowhere else and is being edited here: it is read as it is now, and kept by nobody.
    pub(crate) fn being_edited(&self, granted: &Granted) -> Result<Option<EditedSource>> {
        let key = FileKey { file: granted.grant.file, generation: granted.grant.generation };
        let is_here = || self.store.describe(key).is_some_and(|report| !report.blocks.is_empty());
        if granted.grant.fingerprint.is_some() || is_here() {
            return Ok(None);
        }
        Ok(self.store.edited_source(key)?.filter(|source| source.missing.is_empty()))
    }

    /// The next frame of a block that is being filled; `None` when the block is whole, or not followed any more: ask
    /// again.
    async fn follow(self: &Arc<Self>, want: &Want, flight: &Flight, at: u64, end: u64) -> Result<Option<Frame>> {
        let start = want.range().start;
        let Arrival::Valid(valid) = flight.wait(Some(at - start), self.flight_patience()).await? else {
            return Ok(None);
        };
        let Some(follower) = self.store.follow(want.block())? else { return Ok(None) };
        let end = end.min(start + valid);
        let mut data = vec![0; usize::try_from(end - at).unwrap_or(0)];
        follower.read_at(at - start, &mut data)?;
        self.metrics.stream_bytes.add(data.len() as u64);
        Ok(Some(Frame::new(at, data.into(), v1::Served::FromUnderStore)))
    }
}

/// How a block comes.
enum Next {
    Whole(BlockReader),
    Flying(Arc<Flight>),
    Edited(EditedSource),
    Unkept(Option<NoRoom>),
}

/// Bytes of a file that is being edited, as they are now.
fn edited_bytes(source: &EditedSource, range: Range<u64>) -> Result<Bytes> {
    let mut data = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
    match source.file.read_exact_at(&mut data, range.start) {
        Ok(()) => Ok(data.into()),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            let message = format!("file {} is being edited, and has become shorter", source.key.file);
            Err(Error::new(ErrorKind::Changed, message).advise("open it again"))
        }
        Err(error) => Err(error.into()),
    }
}

/// The checksum of a part of a block, where the store keeps it: the part is exactly one of its chunks.
fn known_sum(sums: &[u32], part: Range<u64>, length: u64) -> Option<u32> {
    let whole = part.start.is_multiple_of(CHUNK) && part.end == (part.start + CHUNK).min(length);
    whole.then(|| sums.get((part.start / CHUNK) as usize).copied()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_at_multiples_of_their_size() {
        assert_eq!(frame_end(0, FRAME, 10 * FRAME), FRAME);
        assert_eq!(frame_end(FRAME - 1, FRAME, 10 * FRAME), FRAME);
        assert_eq!(frame_end(FRAME, FRAME, FRAME + 7), FRAME + 7);
        assert_eq!([0, 1, 1 << 18, 1 << 40].map(frame_size), [FRAME, 64 << 10, 1 << 18, 4 << 20]);
    }

    #[test]
    fn only_whole_chunks_have_a_known_sum() {
        let sums = [7, 8];
        assert_eq!(known_sum(&sums, 0..CHUNK, CHUNK + 5), Some(7));
        assert_eq!(known_sum(&sums, CHUNK..CHUNK + 5, CHUNK + 5), Some(8));
        assert_eq!(known_sum(&sums, 0..CHUNK - 1, CHUNK + 5), None);
        assert_eq!(known_sum(&sums, 1..CHUNK, CHUNK + 5), None);
        assert_eq!(known_sum(&[], 0..CHUNK, CHUNK), None);
    }
}
