//! Opening the store: each directory is locked, tried, given its quota, and what is in it is taken over.
//!
//! The order: all directories are prepared first (homes, locks, media), then the quotas are decided together, for
//! directories on one file system and all memory share; only then is anything adopted or deleted.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use larder_common::{ByteSize, Error, ErrorKind, Medium, Result, WorkerId};
use nix::fcntl::renameat;

use super::{
    adopt::{self, Adopted, Found},
    block_store::{BlockStore, Ingredients, Inner, Tier},
    books::{Block, Entry},
    cache_file::{Waiting, WriteTicket},
    config::{Listeners, StoreConfig},
    directory::{Directory, DirectoryIndex, Parts, TierSpace},
    feed::Feed,
    huge,
    index::{
        Index, Weight,
        record::{FORMAT, FileState, Header},
    },
    kernel::{self, Question},
    key::CacheName,
    mounts::Surroundings,
    neighbours::{self, Home, LeftBehind},
    policies::{Event, Policies, TierIndex},
    prepare::{Prepared, decide, known_worker, places, prepare},
    probe::Abilities,
};

/// What opening found and did.
#[derive(Clone, Debug, Default)]
pub struct OpenReport {
    /// The directories, in the order of the tiers.
    pub directories: Vec<DirectoryReport>,
    /// Generations that were adopted.
    pub adopted_files: u64,
    /// Their blocks.
    pub adopted_blocks: u64,
    /// Their bytes.
    pub adopted_bytes: ByteSize,
    /// Files that were half made, half removed or wrong, and are gone.
    pub dropped_files: u64,
    /// Bytes that were over a quota and have been dropped.
    pub trimmed: ByteSize,
    /// Homes of other clusters that were deleted.
    pub deleted: Vec<PathBuf>,
    /// Homes that were not touched.
    pub left: Vec<LeftBehind>,
    /// What an operator should read, one sentence each.
    pub notes: Vec<String>,
}

/// What one directory turned out to be.
#[derive(Clone, Debug)]
pub struct DirectoryReport {
    /// Its place among the directories.
    pub directory: DirectoryIndex,
    /// Its tier.
    pub tier: TierIndex,
    /// What it was said to be made of.
    pub medium: Medium,
    /// Where index and data are.
    pub path: PathBuf,
    /// How much the worker may use.
    pub quota: ByteSize,
    /// Whether it outlives this process and its container.
    pub lasting: bool,
    /// Whether it is a tmpfs of our own with huge pages.
    pub huge: bool,
    /// What its medium can do.
    pub abilities: Abilities,
}

impl BlockStore {
    /// Opens the store in its directories and takes over what an earlier process left in them.
    ///
    /// # Errors
    /// `Config` for no or doubled directories and for quotas that do not fit, with the fix; `Busy` where a living
    /// worker has the same id; `Unsupported` for a medium that cannot be used; `Mismatch` for side data of a newer
    /// version; the system's error, with uid and path, where a directory cannot be used.
    pub fn open(config: &StoreConfig, listeners: Listeners) -> Result<(BlockStore, OpenReport)> {
        kernel::ignore_lease_signals()?;
        let mut report = OpenReport::default();
        let here = Surroundings::look();
        let places = places(&config.tiers)?;
        let worker = match config.worker {
            Some(worker) => worker,
            None => known_worker(&places, config.cluster)?.map_or_else(WorkerId::random, Ok)?,
        };
        let prepared =
            places.into_iter().map(|(spec, directory)| prepare(config, worker, spec, directory, &here, &mut report));
        let prepared = prepared.collect::<Result<Vec<_>>>()?;
        let quotas = decide(&prepared, &here)?;
        let mut opening = Opening { config, worker, tiers: Vec::new(), spaces: Vec::new(), report };
        let mut found = Vec::new();
        for (prepared, quota) in prepared.into_iter().zip(quotas) {
            found.push(opening.directory(prepared, quota)?);
        }
        opening.finish(found, listeners)
    }
}

/// A store in the making.
struct Opening<'a> {
    config: &'a StoreConfig,
    worker: WorkerId,
    tiers: Vec<Tier>,
    spaces: Vec<Arc<TierSpace>>,
    report: OpenReport,
}

/// A directory and what was found in it.
struct Opened {
    directory: Arc<Directory>,
    found: Found,
}

impl Opening<'_> {
    fn directory(&mut self, prepared: Prepared, quota: u64) -> Result<Opened> {
        let Prepared { spec, home, root, mut lock, abilities, lasting, huge, others, .. } = prepared;
        if huge {
            huge::resize(&root, quota).map_err(|e| self.failed(&root, format!("its size cannot be set: {e}")))?;
        }
        neighbours::promise(&mut lock, quota).map_err(|e| kernel::at(e, &home.path))?;
        let data = root.join("data");
        let data = kernel::open_directory(&data).map_err(|e| kernel::at(e, &data))?;
        let found = adopt::look(&root, &data)?;
        if found.skipped > 0 {
            let note = format!("{}: {} bytes of its index could not be read", root.display(), found.skipped);
            self.report.notes.push(note);
        }
        let index = Index::write(&root.join("index"), self.header(), &found.state, abilities.reserves)?;
        let (tier, space) = self.tier(spec.medium);
        space.raise_ceiling(quota / 100 * u64::from(self.config.unpersisted_ceiling.min(100)));
        let place = DirectoryIndex(self.report.directories.len() as u16);
        self.tiers[usize::from(tier.0)].directories.push(place);
        self.report.directories.push(DirectoryReport {
            directory: place,
            tier,
            medium: spec.medium,
            path: root.clone(),
            quota: ByteSize(quota),
            lasting,
            huge,
            abilities: abilities.clone(),
        });
        let (medium, path, capacity) = (spec.medium, root, quota);
        let parts = Parts { index: place, tier, medium, path, data, _lock: lock, abilities, capacity, lasting, space };
        let directory = Arc::new(Directory::new(parts, index, found.state.last));
        let mut opened = Opened { directory, found };
        for other in others {
            self.other_home(&mut opened, &other)?;
        }
        Ok(opened)
    }

    fn failed(&self, path: &Path, message: String) -> Error {
        Error::new(ErrorKind::Unsupported, message).at(path.as_os_str().as_encoded_bytes())
    }

    fn header(&self) -> Header {
        let writer = format!("larder {}", env!("CARGO_PKG_VERSION"));
        Header { format: FORMAT, features: 0, cluster: self.config.cluster, worker: self.worker, writer }
    }

    fn tier(&mut self, medium: Medium) -> (TierIndex, Arc<TierSpace>) {
        if self.tiers.last().is_none_or(|t| t.medium != medium) {
            self.tiers.push(Tier { medium, directories: Vec::new() });
            self.spaces.push(Arc::default());
        }
        let last = self.tiers.len() - 1;
        (TierIndex(last as u8), self.spaces[last].clone())
    }

    /// A home of another worker: alive, of our cluster, or of another.
    fn other_home(&mut self, opened: &mut Opened, other: &Home) -> Result<()> {
        let Some(lock) = other.lock()? else { return Ok(()) };
        if other.cluster != self.config.cluster {
            match other.dispose() {
                None => self.report.deleted.push(other.path.clone()),
                Some(left) => self.report.left.push(left),
            }
            return Ok(());
        }
        if let Err(e) = self.take_over(opened, other) {
            self.report.left.push(other.left(0, 0, e.message().to_owned()));
        }
        drop(lock);
        Ok(())
    }

    /// Moves everything from an earlier worker's home into ours: record, then rename, so that a crash leaves each file
    /// in one of them.
    fn take_over(&mut self, opened: &mut Opened, other: &Home) -> Result<()> {
        let root = other.root();
        let path = root.join("data");
        let theirs = kernel::open_directory(&path).map_err(|e| kernel::at(e, &path))?;
        let found = adopt::look(&root, &theirs)?;
        let directory = opened.directory.clone();
        let bring = |name: CacheName, state: &FileState| -> Result<CacheName> {
            let new = CacheName { serial: directory.next_serial(), ..name };
            directory.record(&state.records(new.serial), Weight::Removes)?;
            let moved = renameat(&theirs, name.to_string().as_str(), directory.data(), new.to_string().as_str());
            moved.map_err(|e| kernel::at(e.into(), &path))?;
            Ok(new)
        };
        for Adopted { serial, state, allocated } in found.files {
            let known = opened.found.files.iter().any(|f| f.state.key == state.key);
            if known && state.spec.persisted {
                continue;
            }
            if known {
                return Err(Error::new(ErrorKind::AlreadyExists, format!("generation {} is in both", state.key)));
            }
            let new = bring(CacheName::committed(state.key, serial), &state)?;
            opened.found.files.push(Adopted { serial: new.serial, state, allocated });
        }
        for (name, state, lease, allocated) in found.waiting {
            let new = bring(name, &state)?;
            opened.found.waiting.push((new, state, lease, allocated));
        }
        huge::remove(&other.path).map_err(|e| kernel::at(e, &other.path))?;
        fs::remove_dir_all(&other.path).map_err(|e| kernel::at(e, &other.path))
    }

    fn finish(mut self, all: Vec<Opened>, listeners: Listeners) -> Result<(BlockStore, OpenReport)> {
        let capacity =
            |t: &Tier| -> u64 { t.directories.iter().map(|d| self.report.directories[usize::from(d.0)].quota.0).sum() };
        let marks = self.config.watermarks;
        let sizes: Vec<_> = self.tiers.iter().map(|t| (t.medium, marks.low_bytes(capacity(t)))).collect();
        let ingredients = Ingredients {
            worker: self.worker,
            tiers: std::mem::take(&mut self.tiers),
            directories: all.iter().map(|o| o.directory.clone()).collect(),
            policies: Policies::new(&*listeners.policies, &sizes),
            feed: Feed::new(listeners.changed),
            clock: listeners.clock,
        };
        let inner = Inner::new(self.config, ingredients);
        for Opened { directory, found } in all {
            for (name, bytes) in &found.strays {
                directory.retire(*name, directory.take_anyway(*bytes, false))?;
                self.report.dropped_files += 1;
            }
            for file in found.files {
                self.adopt(&inner, &directory, file);
            }
            for (name, state, lease, bytes) in found.waiting {
                match state.edit.is_some() {
                    true => inner.wait_for_editor(&directory, name, state, lease, bytes),
                    false => inner.wait_for_holder(&directory, name, &state, lease, bytes),
                }
            }
        }
        let store = BlockStore(Arc::new(inner));
        self.report.trimmed = ByteSize(store.0.trim());
        Ok((store, self.report))
    }

    /// Writes a file into the books.
    fn adopt(&mut self, inner: &Inner, directory: &Arc<Directory>, file: Adopted) {
        let Adopted { serial, state, allocated } = file;
        let key = state.key;
        let mut shard = inner.shard(key.file);
        let entry = shard.files.entry(key).or_insert_with(|| Entry::new(state.spec));
        let before = entry.spec;
        if (before.length, before.block_size) != (state.spec.length, state.spec.block_size) {
            drop(shard);
            let note =
                format!("{}: generation {key} is there twice with different lengths", directory.parts().path.display());
            self.report.notes.push(note);
            return;
        }
        let spec = before;
        let copy = entry.copy_or_new(directory);
        (copy.serial, copy.recorded, copy.suspect) = (serial, true, true);
        let mut charged = 0;
        for (index, crcs) in state.blocks {
            charged += spec.extent(index).charge;
            copy.put(index, Block::whole(spec.extent(index).charge, crcs));
        }
        let excess = allocated.saturating_sub(charged);
        if excess > 0 && !inner.trim_gaps(directory, CacheName::committed(key, serial), &spec, copy) {
            let missing = (0..spec.blocks()).map(larder_common::BlockIndex).find(|index| copy.block(*index).is_none());
            if let Some(index) = missing {
                copy.put(index, Block::residue(excess));
                inner.residue.lock().push(key.block(index));
                charged += excess;
            }
        }
        directory.take_anyway(charged, !spec.persisted).keep();
        let whole: Vec<_> = copy.blocks.iter().filter(|(_, b)| b.is_whole()).map(|(i, b)| (*i, b.charge)).collect();
        if state.spec.persisted && !spec.persisted {
            // The mark reached one directory and not the other; what is said once is true.
            entry.spec.persisted = true;
            for copy in &entry.copies {
                let mut space = copy.directory.kept(copy.charge(), true);
                space.set_unpersisted(false);
                space.keep();
            }
        }
        self.report.adopted_files += 1;
        self.report.adopted_blocks += whole.len() as u64;
        self.report.adopted_bytes.0 += whole.iter().map(|(_, size)| size).sum::<u64>();
        for (index, size) in whole {
            let (tier, block, group) = (directory.tier(), key.block(index), spec.group);
            shard.pending.push(Event::Inserted { tier, block, size, group });
        }
    }
}

impl Inner {
    /// Gives back what a file takes beside its whole blocks, if the kernel agrees.
    fn trim_gaps(
        &self,
        directory: &Directory,
        name: CacheName,
        spec: &super::key::GenerationSpec,
        copy: &super::books::Copy,
    ) -> bool {
        let Ok(file) = kernel::open_write(directory.data(), &name.to_string()) else { return false };
        let Ok(Some(_granted)) = kernel::ask(&file, Question::Alone) else { return false };
        let gaps = (0..spec.blocks()).map(larder_common::BlockIndex).filter(|index| copy.block(*index).is_none());
        let mut done = directory.punches();
        for extent in gaps.map(|index| spec.extent(index)) {
            done &= directory.punches() && kernel::punch(&file, extent.start, extent.reserve).is_ok();
        }
        // Setting a file's own length gives back only what was reserved behind it.
        let has_length = kernel::status(&file).is_ok_and(|s| u64::try_from(s.st_size) == Ok(spec.length));
        done && has_length && kernel::set_length(&file, spec.length).is_ok()
    }

    fn wait_for_holder(
        &self,
        directory: &Arc<Directory>,
        name: CacheName,
        state: &FileState,
        lease: larder_common::LeaseId,
        bytes: u64,
    ) {
        directory.take_anyway(bytes, true).keep();
        let base = Some(name.key.generation).filter(|g| g.0 != 0);
        let (block_size, group) = (state.spec.block_size, state.spec.group);
        let ticket = WriteTicket { file: name.key.file, lease, base, block_size, group, expected: None };
        let (directory, since) = (directory.clone(), self.clock.monotonic());
        let sealed = state.sealed;
        let waiting = Waiting { ticket, directory, name, sealed, active: false, bytes, since };
        self.uncommitted.lock().insert(lease, waiting);
    }

    /// Brings every directory below its quota, as far as that loses nothing. Answers the bytes that came back.
    fn trim(self: &Arc<Self>) -> u64 {
        let mut freed = 0;
        for directory in &self.directories {
            let over = directory.used().saturating_sub(directory.capacity());
            freed += if over > 0 { self.relieve_fully(directory, over) } else { 0 };
        }
        freed
    }
}
