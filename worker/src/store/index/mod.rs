//! The side data of a directory: one append-only file, `index`, in which every record is one `write`.
//!
//! Why one file and not one beside each cache file: a small file then costs one write of some 70 bytes and no second
//! inode. What was handed to the kernel survives `kill -9`; after a power cut the checksums decide (a record may be
//! on disk before the bytes that it speaks of).
//!
//! - **Order.** Bytes before the record that says they are whole; the record that says they go before they go.
//! - **Room.** The file is reserved in steps and counted in the directory's quota. Records that add need twice the
//!   headroom to be left behind them, so that records that remove always have room: a full medium can be emptied.
//! - **Rewriting.** Once it has doubled since it was last short, it is read, written anew beside itself and renamed.
//!
//! Callers hold the directory's index lock; it is a leaf but for the directory's counters, which are atomic.

pub(crate) mod record;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use larder_common::{Error, ErrorKind, Result};

use self::record::{FORMAT, Header, IndexState, Record, Replay, replay};
use super::kernel;

/// The least that is added to the file at a time, and that removals always find free.
pub(crate) const STEP: u64 = 64 << 10;

/// The index of one directory, open for appending.
#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    file: File,
    header: Header,
    tail: u64,
    reserved: u64,
    shortest: u64,
    reserves: bool,
}

/// What an appended record does to the space that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// It keeps something: refused when room is short.
    Adds,
    /// It lets something go: may use the headroom.
    Removes,
}

/// Reads an index without changing anything.
///
/// # Errors
/// `NotFound` where there is none; `Mismatch` for a newer format, feature or record; `Corrupt` where its header cannot be read.
pub(crate) fn read(path: &Path) -> Result<Replay> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut f| f.read_to_end(&mut bytes)).map_err(|e| kernel::at(e, path))?;
    let replayed = replay(&bytes);
    let about = |kind, message: String| Error::new(kind, message).at(path.as_os_str().as_encoded_bytes());
    let Some(header) = &replayed.state.header else {
        return Err(about(ErrorKind::Corrupt, "the index has no readable header".into()));
    };
    match newer(header, replayed.unknown) {
        None => Ok(replayed),
        Some(what) => {
            let message = format!("the index has {what}, which this version of larder does not know, ");
            let error = about(ErrorKind::Mismatch, format!("{message}written by {} or a newer one", header.writer));
            Err(error.advise("start the newest version of larder that has run on this directory, or a newer one"))
        }
    }
}

/// What in an index is of a newer version.
fn newer(header: &Header, unknown: Option<u8>) -> Option<String> {
    if header.format > FORMAT {
        return Some(format!("format {} (known: up to {FORMAT})", header.format));
    }
    let features = (header.features != 0).then(|| format!("features {:#x}", header.features));
    features.or_else(|| unknown.map(|kind| format!("a record of kind {kind} in format {}", header.format)))
}

impl Index {
    /// Writes `state` as a new index in the place of any old one, and opens it.
    pub(crate) fn write(path: &Path, header: Header, state: &IndexState, reserves: bool) -> Result<Self> {
        let (file, tail, reserved) = rewrite(path, &header, state, reserves).map_err(|e| kernel::at(e, path))?;
        Ok(Self { path: path.into(), file, header, tail, reserved, shortest: tail, reserves })
    }

    /// How much of the quota the index takes.
    pub(crate) fn charge(&self) -> u64 {
        self.reserved
    }

    /// How far the reservation must grow before so many bytes can be appended.
    pub(crate) fn growth(&self, bytes: usize, weight: Weight) -> u64 {
        let headroom = if weight == Weight::Adds { STEP / 2 } else { 0 };
        (self.tail + bytes as u64 + headroom).saturating_sub(self.reserved).next_multiple_of(STEP)
    }

    /// Appends records. `growth` is what [`Index::growth`] said, already counted.
    pub(crate) fn append(&mut self, bytes: &[u8], growth: u64) -> io::Result<()> {
        if growth > 0 {
            if self.reserves {
                kernel::reserve(&self.file, self.reserved, growth)?;
            }
            self.reserved += growth;
        }
        // After a write that failed in the middle the same place is written again: the tail has not moved.
        kernel::write_all(&self.file, bytes, self.tail)?;
        self.tail += bytes.len() as u64;
        Ok(())
    }

    /// Whether it has grown enough to be worth rewriting.
    pub(crate) fn is_long(&self) -> bool {
        self.tail > (2 * self.shortest).max(self.shortest + 4 * STEP)
    }

    /// Rewrites it as short as it can be. On failure the old one stays in use.
    pub(crate) fn shorten(&mut self) -> Result<()> {
        let mut state = read(&self.path)?.state;
        state.header = None;
        let (file, tail, reserved) =
            rewrite(&self.path, &self.header, &state, self.reserves).map_err(|e| kernel::at(e, &self.path))?;
        (self.file, self.tail, self.reserved, self.shortest) = (file, tail, reserved, tail);
        Ok(())
    }
}

/// Writes `PATH.new` and renames it over `PATH`.
fn rewrite(path: &Path, header: &Header, state: &IndexState, reserves: bool) -> io::Result<(File, u64, u64)> {
    let mut bytes = Vec::new();
    Record::Header(header.clone()).encode(&mut bytes);
    state.encode(&mut bytes);
    let new = path.with_extension("new");
    let options = || OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&new);
    let write = |file: &File| {
        let reserved = (bytes.len() as u64 + STEP / 2).next_multiple_of(STEP);
        if reserves {
            kernel::reserve(file, 0, reserved)?;
        }
        kernel::write_all(file, &bytes, 0)?;
        fs::rename(&new, path)?;
        Ok(reserved)
    };
    let file = options()?;
    match write(&file) {
        Ok(reserved) => Ok((file, bytes.len() as u64, reserved)),
        Err(e) => {
            // A leftover would take space; that it cannot be removed changes nothing about the failure.
            let _ = fs::remove_file(&new);
            Err(e)
        }
    }
}

#[cfg(test)]
mod tests {
    use larder_common::{ClusterId, WorkerId};

    use super::{super::key::Serial, *};

    fn header(format: u16) -> Header {
        let (cluster, worker) = (ClusterId([1; 16]), WorkerId([2; 16]));
        Header { format, features: 0, cluster, worker, writer: "larder 9.9".into() }
    }

    #[test]
    fn appended_records_survive_and_rewriting_forgets_what_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("index");
        let mut index = Index::write(&path, header(FORMAT), &IndexState::default(), true).unwrap();
        let mut gone = Vec::new();
        Record::Removed(Serial(1)).encode(&mut gone);
        while !index.is_long() {
            let growth = index.growth(gone.len(), Weight::Removes);
            index.append(&gone, growth).unwrap();
        }
        let long = index.charge();
        index.shorten().unwrap();
        assert!(index.charge() < long);
        assert_eq!(read(&path).unwrap().state.files.len(), 0);
        assert!(!path.with_extension("new").exists());
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("index");
        Index::write(&path, header(FORMAT + 1), &IndexState::default(), true).unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.to_string().contains("larder 9.9"), "{error}");
        fs::write(&path, b"nonsense").unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn removals_find_room_where_additions_do_not() {
        let home = tempfile::tempdir().unwrap();
        let index = Index::write(&home.path().join("index"), header(FORMAT), &IndexState::default(), true).unwrap();
        let bytes = (STEP / 2) as usize;
        assert!(index.growth(bytes, Weight::Adds) > 0);
        assert_eq!(index.growth(bytes / 2, Weight::Removes), 0);
    }
}
