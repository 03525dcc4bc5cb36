//! Many small files: their names, their content, and reading them all, in a new order each time.

use std::{fs, io::Read, path::Path, time::Instant};

use larder_client::{File, FileSystem};
use larder_common::{ByteSize, Error, Result};

use super::large_file::whole;
use crate::{
    content::{Sequence, write_file},
    home::{not_short, read_whole},
    lab::Lab,
    rounds::Round,
    scratch::bytes,
    statistics::Latencies,
};

/// The usual length of each, in bytes.
pub(super) const LENGTH: u64 = 100_000;
const PER_DIRECTORY: usize = 100;

/// Many small files of one length.
pub(super) struct SmallFiles {
    names: Vec<String>,
    length: u64,
}

impl SmallFiles {
    /// 10,000 of the usual length.
    pub(super) fn of(lab: &Lab<'_>) -> Self {
        Self::new(lab.pick(10_000, 500), LENGTH)
    }

    /// So many of `length` bytes each.
    pub(super) fn new(count: usize, length: u64) -> Self {
        let name = |number: usize| format!("d{:04}/f{number:06}.bin", number / PER_DIRECTORY);
        Self { names: (0..count).map(name).collect(), length }
    }

    /// The length of each, in bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of all, each rounded up to what a tmpfs takes for it.
    pub(super) fn size(&self) -> ByteSize {
        ByteSize(self.names.len() as u64 * self.length.next_multiple_of(4096))
    }

    /// Bytes of all.
    pub(super) fn bytes(&self) -> u64 {
        self.names.len() as u64 * self.length
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Writes them all below a directory.
    pub(super) fn write(&self, lab: &Lab<'_>, directory: &Path) -> Result<()> {
        for (number, name) in self.names.iter().enumerate() {
            let path = directory.join(name);
            if number % PER_DIRECTORY == 0 {
                let parent = path.parent().unwrap_or(directory);
                fs::create_dir_all(parent).map_err(|e| Error::from(e).at(bytes(parent)))?;
                lab.progress(&format!("writing small files: {number} of {}", self.names.len()));
            }
            write_file(lab, &path, self.length, number as u64)?;
        }
        Ok(())
    }

    /// Their paths in an order that is the same for the same seed.
    pub(super) fn shuffled<P>(&self, path: impl Fn(&str) -> P, seed: u64) -> Vec<P> {
        let mut paths: Vec<_> = self.names.iter().map(|name| path(name)).collect();
        Sequence::new(seed).shuffle(&mut paths);
        paths
    }
}

/// Opens, reads and closes each through the client, one after another.
pub(super) fn read_all(lab: &Lab<'_>, fs: &FileSystem, paths: &[String]) -> Result<Round> {
    read_each(lab, fs, paths, &|_| Ok(()))
}

/// The same, and fails where a byte came another way than by short circuit.
pub(super) fn read_all_short(lab: &Lab<'_>, fs: &FileSystem, paths: &[String]) -> Result<Round> {
    read_each(lab, fs, paths, &|file| {
        let served = file.served();
        if served.local == file.length() { Ok(()) } else { Err(not_short(served.not_short_circuited)) }
    })
}

fn read_each(lab: &Lab<'_>, fs: &FileSystem, paths: &[String], look: &dyn Fn(&File) -> Result<()>) -> Result<Round> {
    let (mut buffer, mut latencies) = (vec![1; LENGTH as usize], Latencies::with_room(paths.len()));
    let start = Instant::now();
    lab.wait(async {
        for path in paths {
            lab.check()?;
            let begun = Instant::now();
            let file = fs.open(path).await?;
            read_whole(&file, &mut buffer).await?;
            look(&file)?;
            drop(file);
            latencies.add(begun.elapsed());
        }
        Ok(())
    })?;
    Ok(Round::of(paths.len() as f64, start.elapsed()).with(latencies))
}

/// Opens, reads and closes each as a plain file, one after another.
pub(super) fn read_all_plain(lab: &Lab<'_>, paths: &[String]) -> Result<Round> {
    let mut buffer = vec![1; LENGTH as usize];
    let start = Instant::now();
    for path in paths {
        lab.check()?;
        whole(read_plain(Path::new(path), &mut buffer)?, LENGTH as usize)?;
    }
    Ok(Round::of(paths.len() as f64, start.elapsed()))
}

/// Reads a plain file until it gives no more or the buffer is full.
pub(super) fn read_plain(path: &Path, buffer: &mut [u8]) -> Result<usize> {
    let named = |e: std::io::Error| Error::from(e).at(bytes(path));
    let mut file = fs::File::open(path).map_err(named)?;
    let mut read = 0;
    while read < buffer.len() {
        match file.read(&mut buffer[read..]).map_err(named)? {
            0 => break,
            some => read += some,
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::quiet;

    #[test]
    fn plain_files_are_written_and_read_in_any_order() {
        let (lab, place) = (quiet::lab(), tempfile::tempdir().unwrap());
        let files = SmallFiles::new(120, LENGTH);
        files.write(&lab, place.path()).unwrap();
        let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
        let (first, second) = (files.shuffled(path, 1), files.shuffled(path, 2));
        assert_ne!(first, second);
        assert_eq!(first, files.shuffled(path, 1));
        assert!(read_all_plain(&lab, &first).unwrap().rate > 0.0);
        fs::write(&first[0], "short").unwrap();
        assert!(read_all_plain(&lab, &first).is_err());
    }
}
