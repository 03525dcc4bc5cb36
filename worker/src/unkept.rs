//! Bytes that pass through and are not kept: no room, or the reader asked for it. One stream for one reader.
//!
//! An under store's sink must not wait, so a slow reader cannot hold it up there; instead the range is fetched piece by
//! piece, one piece ahead of the reader, and each piece compares the object's fingerprint. The memory of a stream is
//! taken from the worker's buffers before it begins. Dropping the receiver ends the stream.

use std::{ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use larder_common::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{
    services::{Services, patiently},
    source::{Taker, Want},
};

/// How much is fetched at a time, in bytes.
const PIECE: u64 = 2 << 20;
/// Pieces of one stream that are in memory: one with the reader, one waiting, one on its way.
const PIECES: u64 = 3;

/// Pieces of a file, each with its place.
pub(crate) type Pieces = mpsc::Receiver<Result<(u64, Bytes)>>;

impl Services {
    /// Streams a range of the file, which must lie in the wanted block.
    pub(crate) fn stream_unkept(self: &Arc<Self>, want: &Want, range: Range<u64>) -> Pieces {
        let (sender, receiver) = mpsc::channel(1);
        let (services, want) = (self.clone(), want.clone());
        tokio::spawn(async move {
            if let Err(error) = services.send_pieces(&want, range, &sender).await {
                // A reader that is gone needs no error.
                let _ = sender.send(Err(error)).await;
            }
        });
        receiver
    }

    async fn send_pieces(
        self: &Arc<Self>,
        want: &Want,
        range: Range<u64>,
        sender: &mpsc::Sender<Result<(u64, Bytes)>>,
    ) -> Result<()> {
        let _memory = self.buffer(PIECES * PIECE.min(range.end - range.start)).await?;
        let mut at = range.start;
        while at < range.end && !sender.is_closed() {
            let end = (at + PIECE).min(range.end);
            let piece = self.piece(want, at..end).await?;
            self.metrics.unkept_bytes.add(piece.len() as u64);
            if sender.send(Ok((at, piece))).await.is_err() {
                return Ok(());
            }
            at = end;
        }
        Ok(())
    }

    async fn piece(self: &Arc<Self>, want: &Want, range: Range<u64>) -> Result<Bytes> {
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let piece = Arc::new(Piece { start: range.start, bytes: Mutex::new(BytesMut::with_capacity(length)) });
        let (reached, moved) = (piece.clone(), piece.clone());
        let pull = self.pull(want, range, piece.clone(), move || reached.reached());
        patiently(self.config.patience, "a fetch", || moved.reached(), pull).await?;
        let bytes = piece.bytes.lock().split().freeze();
        match bytes.len() == length {
            true => Ok(bytes),
            false => Err(Error::new(ErrorKind::Unavailable, "a fetch brought less than was asked for")),
        }
    }
}

struct Piece {
    start: u64,
    bytes: Mutex<BytesMut>,
}

impl Piece {
    fn reached(&self) -> u64 {
        self.start + self.bytes.lock().len() as u64
    }
}

impl Taker for Piece {
    fn take(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut ours = self.bytes.lock();
        let end = self.start + ours.len() as u64;
        if offset != end {
            // Only a store that divides objects does this, and pieces are smaller than its parts.
            return Err(Error::new(ErrorKind::Unavailable, format!("bytes came for {offset}, not {end}")));
        }
        ours.extend_from_slice(bytes);
        Ok(())
    }
}
