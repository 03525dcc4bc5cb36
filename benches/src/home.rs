//! Where a bench works: a cluster of its own or an existing one, directories in memory and on disk beside it, and how
//! files come to be in the namespace. All of it goes with its value, on an existing cluster too.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use larder_client::{CreateOptions, File, FileSystem, MkdirOptions, RemoveOptions, WriteType};
use larder_common::{ByteSize, Error, ErrorKind, Result};

use crate::{
    cluster::{Cluster, Pages, Plan, connect},
    content::{PIECE, Sequence, write_file},
    door::Door,
    lab::Lab,
    scratch::{Scratch, bytes},
};

/// How long an existing cluster may take to forget what a bench left.
const FORGET: Duration = Duration::from_secs(60);
/// How long it may take until a file is in memory.
const WARM: Duration = Duration::from_secs(120);
/// Memory beside what is asked for: side data, and rounding to huge pages.
const SLACK: ByteSize = ByteSize::mib(128);

/// What must be in memory at the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// In the cache.
    pub(crate) cached: ByteSize,
    /// In files beside it.
    pub(crate) beside: ByteSize,
}

impl Room {
    /// A quota that does not reach its watermarks.
    fn quota(self) -> ByteSize {
        ByteSize(self.cached.0 + self.cached.0 / 4 + SLACK.0)
    }

    fn whole(self) -> ByteSize {
        ByteSize(self.quota().0 + self.beside.0 + SLACK.0)
    }
}

/// Where a bench works.
pub(crate) struct Home<'a> {
    lab: &'a Lab<'a>,
    fs: FileSystem,
    door: Door,
    /// The directory of the namespace that is the bench's.
    root: String,
    cluster: Option<Cluster>,
    memory: Scratch,
    disk: Scratch,
}

impl<'a> Home<'a> {
    /// The existing cluster, if there is one to be measured, else master and worker of its own.
    pub(crate) fn with_worker(lab: &'a Lab<'a>, room: Room, pages: Pages) -> Result<Self> {
        if lab.options().existing.is_some() {
            return Self::existing(lab, room.beside);
        }
        lab.progress("starting a cluster");
        let (memory, disk) = (Scratch::in_memory(room.whole())?, Scratch::on_disk(lab.options().disk.as_deref())?);
        let (under, tier) = (disk.directory("under")?, memory.directory("tier")?);
        let plan = Plan { under: &under, read_only: false, memory: &tier, quota: room.quota(), pages };
        let cluster = Cluster::local(lab, &plan)?;
        Self::of_own(lab, cluster, memory, disk)
    }

    /// The existing cluster, if there is one to be measured, else a master of its own.
    pub(crate) fn with_names(lab: &'a Lab<'a>) -> Result<Self> {
        if lab.options().existing.is_some() {
            return Self::existing(lab, ByteSize(0));
        }
        lab.progress("starting a master");
        let (memory, disk) = (Scratch::in_memory(SLACK)?, Scratch::on_disk(lab.options().disk.as_deref())?);
        let cluster = Cluster::master(lab, &disk.directory("under")?)?;
        Self::of_own(lab, cluster, memory, disk)
    }

    fn of_own(lab: &'a Lab<'a>, cluster: Cluster, memory: Scratch, disk: Scratch) -> Result<Self> {
        let (fs, door) = (cluster.connect(lab)?, cluster.door().clone());
        Ok(Self { lab, fs, door, root: String::new(), cluster: Some(cluster), memory, disk })
    }

    fn existing(lab: &'a Lab<'a>, beside: ByteSize) -> Result<Self> {
        let door = lab.options().existing.clone().expect("asked before");
        let memory = Scratch::in_memory(ByteSize(beside.0 + SLACK.0))?;
        let disk = Scratch::on_disk(lab.options().disk.as_deref())?;
        let fs = connect(lab, door.config(&[])?)?;
        let root = format!("/larder-bench-{:08x}", rand::random::<u32>());
        let home = Self { lab, fs, door, root, cluster: None, memory, disk };
        home.make_directory("")?;
        Ok(home)
    }

    pub(crate) fn fs(&self) -> &FileSystem {
        &self.fs
    }

    /// The cluster, if it is the bench's own.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    pub(crate) fn door(&self) -> &Door {
        &self.door
    }

    /// A directory of the tmpfs that the cache lies in, if the cluster is the bench's own.
    pub(crate) fn memory(&self) -> &Path {
        self.memory.path()
    }

    /// A directory of the disk that the journal and the under store lie on, if the cluster is the bench's own.
    pub(crate) fn disk(&self) -> &Path {
        self.disk.path()
    }

    /// The directory that is the root under store; `None` on an existing cluster.
    pub(crate) fn under(&self) -> Option<PathBuf> {
        self.cluster.as_ref().map(|_| self.disk.path().join("under"))
    }

    /// A path of the namespace.
    pub(crate) fn path(&self, name: &str) -> String {
        if name.is_empty() { self.root.clone() } else { format!("{}/{name}", self.root) }
    }

    /// Makes a directory that is only in the namespace.
    pub(crate) fn make_directory(&self, name: &str) -> Result<()> {
        let options = MkdirOptions {
            recursive: true,
            allow_exists: true,
            write_type: Some(WriteType::MustCache),
            ..MkdirOptions::default()
        };
        self.lab.wait(self.fs.mkdir(self.path(name), options))
    }

    /// Puts a file where reads find it: into the under store of an own cluster, else into the cache.
    pub(crate) fn put(&self, name: &str, length: u64, seed: u64) -> Result<()> {
        match self.under() {
            None => self.put_in_cache(name, length, seed),
            Some(under) => {
                let path = under.join(name);
                let parent = path.parent().unwrap_or(&under);
                fs::create_dir_all(parent).map_err(|e| Error::from(e).at(bytes(parent)))?;
                write_file(self.lab, &path, length, seed)
            }
        }
    }

    fn put_in_cache(&self, name: &str, length: u64, seed: u64) -> Result<()> {
        let options =
            CreateOptions { write_type: Some(WriteType::MustCache), recursive: true, ..CreateOptions::default() };
        self.lab.wait(async {
            let mut writer = self.fs.create(self.path(name), options).await?;
            let (mut sequence, mut left) = (Sequence::new(seed), length);
            while left > 0 {
                let mut piece = vec![0; usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
                sequence.fill(&mut piece);
                left -= piece.len() as u64;
                writer.write(piece).await?;
            }
            writer.commit().await.map(drop)
        })
    }

    /// Opens a file and reads it until all of it comes by short circuit.
    pub(crate) fn warm(&self, name: &str) -> Result<File> {
        let file = self.lab.wait(self.fs.open(self.path(name)))?;
        let (start, mut buffer) = (Instant::now(), vec![0; PIECE]);
        loop {
            self.lab.progress(&format!("reading {name} into the cache"));
            let before = file.served().local;
            self.lab.wait(read_whole(&file, &mut buffer))?;
            let served = file.served();
            if served.local - before == file.length() {
                return Ok(file);
            }
            if start.elapsed() > WARM {
                return Err(not_short(served.not_short_circuited));
            }
            self.lab.pause(Duration::from_millis(100))?;
        }
    }
}

impl Drop for Home<'_> {
    fn drop(&mut self) {
        if self.cluster.is_none() && !self.root.is_empty() {
            let options = RemoveOptions { recursive: true, ..RemoveOptions::default() };
            if let Err(error) = self.lab.tidy(FORGET, self.fs.remove(self.root.clone(), options)) {
                self.lab.note(&format!("{error}; remove it with larder fs rm -R {}", self.root));
            }
        }
    }
}

/// Reads a file from one end to the other.
pub(crate) async fn read_whole(file: &File, buffer: &mut [u8]) -> Result<()> {
    let mut at = 0;
    while at < file.length() {
        let read = file.read_at(at, buffer).await?;
        if read == 0 {
            return Err(Error::new(ErrorKind::Corrupt, format!("the file ends at {at} of {} bytes", file.length())));
        }
        at += read as u64;
    }
    Ok(())
}

/// The error where a comparison needs short circuit and bytes came another way.
pub(crate) fn not_short(why: Option<String>) -> Error {
    let why = why.unwrap_or_else(|| "no reason is known".into());
    Error::new(ErrorKind::Unsupported, format!("bytes were not read by short circuit: {why}"))
        .advise("measure from the worker's host, with room for the file in its memory tier")
}

/// Holds that all bytes since `before` came by short circuit: else the numbers are about something else.
pub(crate) fn all_short(file: &File, before: &larder_client::Served) -> Result<()> {
    let now = file.served();
    if now.stream == before.stream && now.ufs == before.ufs {
        return Ok(());
    }
    Err(not_short(now.not_short_circuited))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_stays_below_its_watermark() {
        let room = Room { cached: ByteSize::gib(1), beside: ByteSize::gib(1) };
        assert!(room.cached.0 < room.quota().0 / 100 * 90);
        assert!(room.whole().0 > room.quota().0 + room.beside.0);
    }
}
