//! Reading entries back from the segments, up to where the journal was when the reading began.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use larder_common::{Position, Result};

use super::{
    embedded::Inner,
    frame::{Chain, Kind},
    header::FileKind,
    stream::Stream,
};

/// The entries from one Position up to another. The segments stay while it lives.
#[derive(Debug)]
pub(super) struct EntryReader {
    inner: Arc<Inner>,
    held: u64,
    segments: VecDeque<u64>,
    stream: Option<Stream>,
    chain: Chain,
    from: Position,
    last: Position,
    ended: bool,
}

impl EntryReader {
    pub(super) fn new(inner: Arc<Inner>, from: Position, last: Position) -> Result<Self> {
        let from = from.max(Position(1));
        let segments = VecDeque::from(inner.retention.hold(from)?);
        let held = segments.front().copied().unwrap_or_default();
        Ok(Self { inner, held, segments, stream: None, chain: Chain::default(), from, last, ended: from > last })
    }

    fn stream(&mut self) -> Result<Option<&mut Stream>> {
        if self.stream.is_none() {
            let Some(number) = self.segments.pop_front() else { return Ok(None) };
            let path = self.inner.directory.segment(number);
            let opened = Stream::open(&path, FileKind::Segment, Some(self.inner.mould.cluster), self.chain)?;
            self.stream = Some(opened);
        }
        Ok(self.stream.as_mut())
    }

    fn step(&mut self) -> Result<Option<(Position, Bytes)>> {
        let from = self.from;
        while let Some(stream) = self.stream()? {
            match stream.next()? {
                Some(item) if item.kind == Kind::Entry && item.position >= from => {
                    return Ok(Some((item.position, item.payload)));
                }
                Some(item) if item.kind == Kind::Roll => {
                    self.chain = stream.chain();
                    self.stream = None;
                }
                Some(_) => {}
                None => return Err(stream.damage("entries that were here at the start are gone")),
            }
        }
        Ok(None)
    }
}

impl Iterator for EntryReader {
    type Item = Result<(Position, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let step = self.step().transpose();
        self.ended = match &step {
            Some(Ok((position, _))) => *position >= self.last,
            _ => true,
        };
        step
    }
}

impl Drop for EntryReader {
    fn drop(&mut self) {
        self.inner.retention.release(self.held);
    }
}
