//! Checkpoint files: the state machine's frames at one Position, whole or not used at all.
//!
//! The file is the journal's own: a header whose number is the Position, frames numbered from 1, and a closing frame
//! with their count, after which the file ends. It is written under a name of its own, synced as it grows (so that the
//! journal's syncs never wait behind hundreds of megabytes), and renamed when it is whole.

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use larder_common::{ClusterId, Error, ErrorKind, Position, Result};

use super::{
    directory::failed,
    frame::{Chain, Kind, MAX_PAYLOAD},
    header::{FileKind, Header},
    stream::Stream,
};

const SYNC_EVERY: u64 = 8 << 20;

/// A checkpoint file in the making. Dropped before it is finished, it is removed.
#[derive(Debug)]
pub(super) struct FileWriter {
    file: BufWriter<File>,
    path: PathBuf,
    seed: u32,
    chain: Chain,
    buffer: Vec<u8>,
    unsynced: u64,
    finished: bool,
}

impl FileWriter {
    /// Begins a checkpoint with this header at this path.
    pub(super) fn create(path: PathBuf, header: &Header) -> Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(|e| failed("make", &path, e))?;
        let (bytes, seed) = header.encode();
        let mut file = BufWriter::with_capacity(256 << 10, file);
        file.write_all(&bytes).map_err(|e| failed("write", &path, e))?;
        let chain = Chain::after(Position(0));
        Ok(Self { file, path, seed, chain, buffer: Vec::new(), unsynced: 0, finished: false })
    }

    /// Adds one frame.
    pub(super) fn add(&mut self, payload: &[u8]) -> Result<()> {
        if payload.len() > MAX_PAYLOAD {
            let message = format!("a checkpoint frame of {} bytes is above the limit of {MAX_PAYLOAD}", payload.len());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        self.push(Kind::Entry, payload)
    }

    fn push(&mut self, kind: Kind, payload: &[u8]) -> Result<()> {
        self.buffer.clear();
        self.chain.push(&mut self.buffer, self.seed, kind, payload);
        self.unsynced += self.buffer.len() as u64;
        let mut written = self.file.write_all(&self.buffer);
        if self.unsynced >= SYNC_EVERY {
            self.unsynced = 0;
            written = written.and_then(|()| self.file.flush()).and_then(|()| self.file.get_ref().sync_data());
        }
        written.map_err(|e| failed("write", &self.path, e))
    }

    /// Closes the file and brings it to disk; it still has to get its name. Gives the count of its frames.
    pub(super) fn finish(&mut self) -> Result<u64> {
        let count = self.chain.last().0;
        self.push(Kind::Count, &count.to_le_bytes())?;
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(|e| failed("sync", &self.path, e))?;
        Ok(count)
    }

    /// Where it is written.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file has its name now.
    pub(super) fn keep(&mut self) {
        self.finished = true;
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The frames of a checkpoint file, each proved again as it is read; ends in an error unless the closing frame is met.
#[derive(Debug)]
pub(super) struct FrameReader {
    stream: Stream,
    count: u64,
    ended: bool,
}

impl FrameReader {
    /// Opens the checkpoint of this Position.
    pub(super) fn open(path: &Path, position: Position, cluster: Option<ClusterId>) -> Result<Self> {
        let stream = Stream::open(path, FileKind::Checkpoint, cluster, Chain::after(Position(0)))?;
        let found = stream.header().number;
        if found != position.0 {
            return Err(stream.damage(&format!("the file is named after Position {position} but holds {found}")));
        }
        Ok(Self { stream, count: 0, ended: false })
    }

    pub(super) fn header(&self) -> &Header {
        self.stream.header()
    }

    /// Reads to the end; fails unless all of it is good.
    pub(super) fn verify(&mut self) -> Result<u64> {
        while self.step()?.is_some() {}
        Ok(self.count)
    }

    fn step(&mut self) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        match self.stream.next()? {
            Some(item) if item.kind == Kind::Entry => {
                self.count += 1;
                Ok(Some(item.payload))
            }
            Some(item) if item.kind == Kind::Count && item.payload[..] == self.count.to_le_bytes() => {
                self.ended = true;
                if self.stream.at_end() { Ok(None) } else { Err(self.stream.damage("bytes follow the closing frame")) }
            }
            Some(_) => Err(self.stream.damage("the closing frame does not fit what is before it")),
            None => Err(self.stream.damage("the closing frame is missing")),
        }
    }
}

impl Iterator for FrameReader {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Result<Bytes>> {
        let step = self.step().transpose();
        self.ended |= matches!(step, Some(Err(_)));
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId([5; 16]);

    fn write(path: &Path, frames: &[&[u8]]) {
        let header = Header::new(FileKind::Checkpoint, CLUSTER, 8, "larder 1").unwrap();
        let mut writer = FileWriter::create(path.to_owned(), &header).unwrap();
        for frame in frames {
            writer.add(frame).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), frames.len() as u64);
        writer.keep();
    }

    fn read(path: &Path) -> Result<Vec<Bytes>> {
        FrameReader::open(path, Position(8), Some(CLUSTER))?.collect()
    }

    #[test]
    fn frames_come_back_in_order() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("c");
        write(&path, &[b"one", b"", b"three"]);
        assert_eq!(read(&path).unwrap(), [&b"one"[..], b"", b"three"]);
        assert!(FrameReader::open(&path, Position(9), None).is_err());
        let other = FrameReader::open(&path, Position(8), Some(ClusterId([6; 16]))).unwrap_err();
        assert_eq!(other.kind(), ErrorKind::Mismatch);
    }

    #[test]
    fn anything_missing_added_or_flipped_is_seen() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("c");
        write(&path, &[b"one", b"two"]);
        let good = std::fs::read(&path).unwrap();
        for length in (0..good.len()).step_by(7).chain([good.len() - 1]) {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(read(&path).is_err(), "{length}");
        }
        std::fs::write(&path, [&good[..], &[0]].concat()).unwrap();
        assert!(read(&path).is_err());
        for bit in (super::super::header::HEADER * 8..good.len() * 8).chain(0..1024) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).unwrap();
            assert!(read(&path).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("c");
        let header = Header::new(FileKind::Checkpoint, CLUSTER, 8, "larder 1").unwrap();
        drop(FileWriter::create(path.clone(), &header).unwrap());
        assert!(!path.exists());
    }
}
