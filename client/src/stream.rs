//! Bytes of a file as a stream from a worker: frames in order, each compared with its checksum.
//!
//! Flow control does the read-ahead: a worker sends as much as the stream's window or the socket's buffers have room for,
//! without being asked. How the frames travel is [`larder_proto::data`]'s matter.

use std::time::Instant;

use bytes::Bytes;
use larder_common::{Error, ErrorKind, ReadType, Result, WorkerId, checksum::crc32c};
use larder_proto::{data::ReadStream, v1};

use crate::{retry::Deadline, workers::Worker};

/// The bytes of a frame that we like.
const FRAME: u32 = 1 << 20;

/// A stream that has been opened.
#[derive(Debug)]
pub(crate) struct Stream {
    frames: ReadStream,
    pub(crate) worker: WorkerId,
    /// The byte of the file that comes next.
    pub(crate) at: u64,
    end: u64,
    rest: Bytes,
    from_under: bool,
    used: Instant,
}

/// A piece of a file, and whether it came from the under store.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) bytes: Bytes,
    pub(crate) from_under: bool,
}

impl Stream {
    /// Opens a stream of the bytes from `at` to `end`.
    pub(crate) async fn open(
        worker: &Worker,
        grant: Bytes,
        (at, end): (u64, u64),
        (read_type, why): (ReadType, v1::WhyStreamed),
        deadline: Deadline,
    ) -> Result<Self> {
        let read_type = v1::ReadType::from(read_type).into();
        let request = v1::ReadRequest { grant, offset: at, length: end - at, read_type, frame: FRAME, why: why.into() };
        let frames = deadline.bound("the worker", worker.way().read(request)).await??;
        let (worker, used) = (worker.address.id, Instant::now());
        Ok(Self { frames, worker, at, end, rest: Bytes::new(), from_under: false, used })
    }

    /// The next bytes, at most `max`.
    ///
    /// # Errors
    /// `Corrupt` for a frame that does not match its checksum or its place; what the worker says.
    pub(crate) async fn next(&mut self, max: usize, deadline: Deadline) -> Result<Piece> {
        while self.rest.is_empty() {
            let frame = deadline.bound("the worker", self.frames.next()).await??;
            let frame =
                frame.ok_or_else(|| Error::new(ErrorKind::Unavailable, "the worker ended the stream too early"))?;
            self.take(frame)?;
        }
        let bytes = self.rest.split_to(max.min(self.rest.len()));
        self.at += bytes.len() as u64;
        self.used = Instant::now();
        Ok(Piece { bytes, from_under: self.from_under })
    }

    fn take(&mut self, frame: v1::ReadFrame) -> Result<()> {
        let corrupt = |what: &str| Err(Error::new(ErrorKind::Corrupt, format!("a frame at {} {what}", frame.offset)));
        if frame.offset != self.at || frame.offset + frame.data.len() as u64 > self.end {
            return corrupt("was not asked for");
        }
        if crc32c(&frame.data) != frame.crc32c {
            return corrupt("does not match its checksum");
        }
        self.from_under = frame.served() == v1::Served::FromUnderStore;
        self.rest = frame.data;
        Ok(())
    }

    /// Whether it gives the bytes from `at` on, and was not left alone for so long that the worker may have cut it.
    pub(crate) fn goes_on_at(&self, at: u64) -> bool {
        self.at == at && self.frames.outlives(self.used.elapsed())
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.at >= self.end
    }
}
