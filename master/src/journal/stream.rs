//! Reading frames one after another from a file, each proved before it is handed out.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use larder_common::{ClusterId, Error, ErrorKind, Position, Result};

use super::{
    directory::failed,
    frame::{self, Chain, Flaw, HEAD, Kind},
    header::{FileKind, HEADER, Header},
};

const BUFFER: usize = 256 << 10;

/// One frame, on its own.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) kind: Kind,
    pub(super) position: Position,
    pub(super) payload: Bytes,
}

/// The frames of one file, in order.
#[derive(Debug)]
pub(super) struct Stream {
    reader: BufReader<File>,
    path: PathBuf,
    header: Header,
    seed: u32,
    chain: Chain,
    offset: u64,
    size: u64,
    buffer: Vec<u8>,
}

impl Stream {
    /// Opens a file of this kind; a file of another cluster is refused where one is expected.
    ///
    /// # Errors
    /// `Corrupt` for a damaged header, `Mismatch` for a newer format or another cluster, and the system's errors.
    pub(super) fn open(path: &Path, kind: FileKind, cluster: Option<ClusterId>, chain: Chain) -> Result<Self> {
        let file = File::open(path).map_err(|e| failed("open", path, e))?;
        let size = file.metadata().map_err(|e| failed("stat", path, e))?.len();
        let mut reader = BufReader::with_capacity(BUFFER, file);
        let mut head = Vec::with_capacity(HEADER);
        (&mut reader).take(HEADER as u64).read_to_end(&mut head).map_err(|e| failed("read", path, e))?;
        let (header, seed) = Header::decode(&head, path, kind)?;
        check_cluster(path, header.cluster, cluster)?;
        let path = path.to_owned();
        Ok(Self { reader, path, header, seed, chain, offset: HEADER as u64, size, buffer: Vec::new() })
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// The place reached.
    pub(super) fn chain(&self) -> Chain {
        self.chain
    }

    /// Whether the file ends where the last frame ended.
    pub(super) fn at_end(&self) -> bool {
        self.offset == self.size
    }

    /// The next frame; nothing where zeros or the file's end say that there is none.
    pub(super) fn next(&mut self) -> Result<Option<Item>> {
        match self.read()? {
            Ok(item) => Ok(Some(item)),
            Err(Flaw::End) => Ok(None),
            Err(flaw) => Err(self.damage(flaw.reason())),
        }
    }

    /// An error that names this file and place.
    pub(super) fn damage(&self, reason: &str) -> Error {
        let (file, after) = (self.path.display(), self.chain.last());
        let message = format!("{file}: at offset {}, after Position {after}: {reason}", self.offset);
        Error::new(ErrorKind::Corrupt, message)
    }

    fn read(&mut self) -> Result<Result<Item, Flaw>> {
        self.buffer.clear();
        self.fill(HEAD)?;
        let size = match frame::size_in(&self.buffer) {
            Ok(size) if size as u64 <= self.size - self.offset => size,
            Ok(_) => return Ok(Err(Flaw::Short)),
            Err(flaw) => return Ok(Err(flaw)),
        };
        self.fill(size)?;
        let accepted = frame::parse(&self.buffer, self.seed).and_then(|(frame, _)| {
            self.chain.accept(&frame)?;
            let payload = Bytes::copy_from_slice(frame.payload);
            Ok(Item { kind: frame.kind, position: frame.position, payload })
        });
        self.offset += if accepted.is_ok() { size as u64 } else { 0 };
        Ok(accepted)
    }

    fn fill(&mut self, to: usize) -> Result<()> {
        let missing = (to - self.buffer.len()) as u64;
        let read = (&mut self.reader).take(missing).read_to_end(&mut self.buffer);
        read.map(drop).map_err(|e| failed("read", &self.path, e))
    }
}

/// Refuses a file of another cluster than the one expected.
pub(super) fn check_cluster(path: &Path, found: ClusterId, expected: Option<ClusterId>) -> Result<()> {
    match expected {
        Some(expected) if expected != found => {
            let message = format!("{}: belongs to cluster {found}, not to {expected}", path.display());
            Err(Error::new(ErrorKind::Mismatch, message)
                .advise("give the master the journal directory of its own cluster, or an empty one"))
        }
        _ => Ok(()),
    }
}
