//! Reading a file from one end to the other, by tokio's traits.

use std::{
    fmt,
    future::Future,
    io::{self, SeekFrom},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use larder_common::Result;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncSeek, ReadBuf};

use crate::file::{File, PIECE};

type Fetching = Pin<Box<dyn Future<Output = Result<Bytes>> + Send>>;

/// A sequential reader. Bytes that are local are read in place; what comes from elsewhere is asked for ahead of the
/// reader. Dropping it at any moment leaves nothing behind.
pub struct Reader {
    file: File,
    position: u64,
    /// What was fetched and not consumed; it ends at `position` plus its length.
    rest: Bytes,
    fetching: Option<(u64, Fetching)>,
}

impl Reader {
    pub(crate) fn new(file: File) -> Self {
        Self { file, position: 0, rest: Bytes::new(), fetching: None }
    }

    /// The file that is read.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The next byte to be read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next bytes without a copy, at most 1 MiB at a time; empty at the end.
    ///
    /// # Errors
    /// As [`File::read_at`].
    pub async fn next(&mut self) -> Result<Bytes> {
        if self.rest.is_empty() {
            self.fetching = None;
            self.rest = self.file.clone().piece(self.position).await?;
        }
        let bytes = std::mem::take(&mut self.rest);
        self.position += bytes.len() as u64;
        Ok(bytes)
    }

    fn go_to(&mut self, position: u64) {
        if position != self.position {
            (self.position, self.rest, self.fetching) = (position, Bytes::new(), None);
        }
    }

    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.rest.is_empty() || self.position >= self.file.length() {
            return Poll::Ready(Ok(()));
        }
        let position = self.position;
        let (_, fetching) = match &mut self.fetching {
            Some(fetching) if fetching.0 == position => fetching,
            other => other.insert((position, Box::pin(self.file.clone().piece(position)))),
        };
        let result = ready!(fetching.as_mut().poll(context));
        self.fetching = None;
        self.rest = result?;
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("file", &self.file).field("position", &self.position).finish_non_exhaustive()
    }
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.rest.is_empty() && buffer.remaining() > 0 {
            let want = buffer.remaining().min(PIECE as usize);
            let unfilled = buffer.initialize_unfilled_to(want);
            if let Some(read) = this.file.read_now(this.position, unfilled) {
                let read = read?;
                buffer.advance(read);
                this.position += read as u64;
                return Poll::Ready(Ok(()));
            }
        }
        ready!(this.poll_fill(context))?;
        let length = this.rest.len().min(buffer.remaining());
        buffer.put_slice(&this.rest.split_to(length));
        this.position += length as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncBufRead for Reader {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        ready!(this.poll_fill(context))?;
        Poll::Ready(Ok(&this.rest))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        let this = self.get_mut();
        let amount = amount.min(this.rest.len());
        let _ = this.rest.split_to(amount);
        this.position += amount as u64;
    }
}

impl AsyncSeek for Reader {
    fn start_seek(self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        let this = self.get_mut();
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(by) => this.file.length().checked_add_signed(by),
            SeekFrom::Current(by) => this.position.checked_add_signed(by),
        };
        let before = || io::Error::new(io::ErrorKind::InvalidInput, "a seek before the beginning");
        this.go_to(position.ok_or_else(before)?);
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.position))
    }
}
