//! Changes of names: insert, link, unlink, rename, exchange. Each is checked first and then done as a whole, so a refused
//! change has changed nothing.

use larder_common::{ErrorKind, FileId, FileKind, path::NAME_MAX};

use super::{
    arena::Run,
    directory::{Directory, EXTRA, short_hash},
    inode::{Flag, Inode, NONE, NewInode, Slot},
    tree::{ExtraName, InodeTree, Removed},
};

type Result<T> = std::result::Result<T, ErrorKind>;

impl InodeTree {
    /// Makes an inode under a free name of a directory.
    ///
    /// # Errors
    /// `NotFound` and `NotDirectory` for the directory, `AlreadyExists` for name or id, `Invalid` for a name that is none.
    pub fn insert(&mut self, parent: FileId, name: &[u8], new: &NewInode) -> Result<()> {
        self.check_new(new.id)?;
        let parent = self.slot(parent).ok_or(ErrorKind::NotFound)?;
        self.free_place(parent, name)?;
        let run = self.arena.insert(name);
        let slot = self.place(new, parent, run);
        self.enter(parent, name, slot)
    }

    /// Makes an inode without a name: a file that is open but removed, or a directory that is to be reclaimed.
    ///
    /// # Errors
    /// `AlreadyExists` for the id.
    pub fn insert_nameless(&mut self, new: &NewInode) -> Result<()> {
        self.check_new(new.id)?;
        let slot = self.place(new, NONE, Run::EMPTY);
        self.inodes.get_mut(slot).links = 0;
        if new.kind.is_directory() {
            self.detached.push(slot);
        }
        Ok(())
    }

    /// Puts a new inode into a slot.
    pub(super) fn place(&mut self, new: &NewInode, parent: Slot, name: Run) -> Slot {
        let mut inode = Inode::new(new, parent, name);
        if new.kind.is_directory() {
            inode.set_children(self.directories.insert(Directory::default().into()));
        }
        let slot = self.inodes.insert(inode);
        if matches!(new.kind, FileKind::Symlink(_) | FileKind::Special(..)) {
            self.texts.insert(new.id, new.kind.clone());
        }
        let inodes = &self.inodes;
        self.index.insert(new.id.0, slot, |slot| inodes.get(slot).id);
        if new.fingerprint.is_some() {
            self.set_fingerprint(new.id, new.fingerprint.as_ref());
        }
        slot
    }

    /// Where a name can go.
    fn free_place(&self, parent: Slot, name: &[u8]) -> Result<()> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(ErrorKind::Invalid);
        }
        match self.find(parent, name) {
            None => Err(ErrorKind::NotDirectory),
            Some(Ok(_)) => Err(ErrorKind::AlreadyExists),
            Some(Err(_)) => Ok(()),
        }
    }

    /// Puts an entry whose name is already recorded into a directory, where that name is free.
    fn enter(&mut self, parent: Slot, name: &[u8], entry: u32) -> Result<()> {
        let is_directory = self.inodes.get(self.entry_slot(entry)).is_directory();
        let place = match self.find(parent, name) {
            Some(Err(place)) => place,
            Some(Ok(_)) => return Err(ErrorKind::AlreadyExists),
            None => return Err(ErrorKind::NotDirectory),
        };
        let directory = self.directory_mut(parent).ok_or(ErrorKind::NotDirectory)?;
        directory.insert(place, entry, short_hash(name));
        directory.subdirectories += u32::from(is_directory);
        Ok(())
    }

    /// Takes an entry out of its directory; its name stays recorded.
    fn leave(&mut self, parent: Slot, name: &[u8]) -> Result<u32> {
        let place = match self.find(parent, name) {
            Some(Ok(place)) => place,
            Some(Err(_)) => return Err(ErrorKind::NotFound),
            None => return Err(ErrorKind::NotDirectory),
        };
        let entry = self.directory(parent).ok_or(ErrorKind::NotDirectory)?.get(place);
        let is_directory = self.inodes.get(self.entry_slot(entry)).is_directory();
        let directory = self.directory_mut(parent).ok_or(ErrorKind::NotDirectory)?;
        directory.remove(place);
        directory.subdirectories -= u32::from(is_directory);
        Ok(entry)
    }

    /// Gives a file one more name. One without a name gets its first again.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `IsDirectory`, `AlreadyExists`, `Invalid`.
    pub fn link(&mut self, id: FileId, parent: FileId, name: &[u8]) -> Result<()> {
        let inode = self.slot(id).ok_or(ErrorKind::NotFound)?;
        let parent = self.slot(parent).ok_or(ErrorKind::NotFound)?;
        if self.inodes.get(inode).is_directory() {
            return Err(ErrorKind::IsDirectory);
        }
        self.free_place(parent, name)?;
        let run = self.arena.insert(name);
        self.inodes.get_mut(inode).links += 1;
        if self.inodes.get(inode).parent == NONE {
            let inode_mut = self.inodes.get_mut(inode);
            (inode_mut.parent, inode_mut.name) = (parent, run);
            return self.enter(parent, name, inode);
        }
        let extra = self.extras.insert(ExtraName { inode, parent, name: run });
        let mut extras = self.extra_names.remove(&id).unwrap_or_default();
        extras.push(extra);
        self.extra_names.insert(id, extras);
        self.inodes.get_mut(inode).set(Flag::Side, true);
        self.enter(parent, name, extra | EXTRA)
    }

    /// Takes a name away. A file without a name stays until [`Self::free`]; a directory is detached with all below it, and
    /// freed by [`Self::reclaim`].
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`.
    pub fn unlink(&mut self, parent: FileId, name: &[u8]) -> Result<Removed> {
        let parent = self.slot(parent).ok_or(ErrorKind::NotFound)?;
        let entry = self.leave(parent, name)?;
        let slot = self.entry_slot(entry);
        if self.inodes.get(slot).is_directory() {
            self.detach(slot);
            return Ok(Removed { id: self.inodes.get(slot).id(), last: true });
        }
        self.forget(entry);
        let inode = self.inodes.get(slot);
        Ok(Removed { id: inode.id(), last: inode.links == 0 })
    }

    pub(super) fn detach(&mut self, slot: Slot) {
        let inode = self.inodes.get_mut(slot);
        let name = std::mem::replace(&mut inode.name, Run::EMPTY);
        inode.parent = NONE;
        self.arena.remove(name);
        self.detached.push(slot);
    }

    /// Drops the recorded name of an entry of a file that is in no directory any more.
    pub(super) fn forget(&mut self, entry: u32) {
        let slot = self.entry_slot(entry);
        let inode = self.inodes.get_mut(slot);
        inode.links = inode.links.saturating_sub(1);
        if entry & EXTRA != 0 {
            return self.drop_extra(slot, entry & !EXTRA);
        }
        self.arena.remove(self.inodes.get(slot).name);
        match self.extra_names.get(&self.inodes.get(slot).id()).and_then(|extras| extras.last().copied()) {
            None => {
                let inode = self.inodes.get_mut(slot);
                (inode.parent, inode.name) = (NONE, Run::EMPTY);
            }
            Some(extra) => self.promote(slot, extra),
        }
    }

    /// Makes an extra name the first one.
    fn promote(&mut self, slot: Slot, extra: u32) {
        let ExtraName { parent, name, .. } = *self.extras.get(extra);
        let bytes = self.arena.get(name).to_vec();
        if let Some(Ok(place)) = self.find(parent, &bytes)
            && let Some(directory) = self.directory_mut(parent)
        {
            directory.set(place, slot);
        }
        let inode = self.inodes.get_mut(slot);
        (inode.parent, inode.name) = (parent, name);
        self.extras.get_mut(extra).name = Run::EMPTY;
        self.drop_extra(slot, extra);
    }

    fn drop_extra(&mut self, slot: Slot, extra: u32) {
        let name = self.extras.get(extra).name;
        self.arena.remove(name);
        self.extras.remove(extra, ExtraName { inode: NONE, parent: NONE, name: Run::EMPTY });
        let id = self.inodes.get(slot).id();
        if let Some(mut extras) = self.extra_names.remove(&id) {
            extras.retain(|other| *other != extra);
            if !extras.is_empty() {
                self.extra_names.insert(id, extras);
            }
        }
    }

    /// Whether a directory is another or above it.
    fn is_above(&self, above: Slot, mut slot: Slot) -> bool {
        loop {
            let parent = self.inodes.get(slot).parent;
            if slot == above {
                return true;
            }
            if parent == NONE || parent == slot {
                return false;
            }
            slot = parent;
        }
    }

    /// Whether `above` is `id` or a directory on the way from the root to it.
    #[must_use]
    pub fn contains(&self, above: FileId, id: FileId) -> bool {
        matches!((self.slot(above), self.slot(id)), (Some(above), Some(slot)) if self.is_above(above, slot))
    }

    /// Gives what has one name another, free one.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `AlreadyExists`, and `Invalid` for a directory that would go below itself.
    pub fn rename(&mut self, parent: FileId, name: &[u8], to_parent: FileId, to_name: &[u8]) -> Result<()> {
        let (from, to) =
            (self.slot(parent).ok_or(ErrorKind::NotFound)?, self.slot(to_parent).ok_or(ErrorKind::NotFound)?);
        let entry = self.entry(from, name).ok_or(ErrorKind::NotFound)?;
        let slot = self.entry_slot(entry);
        if self.inodes.get(slot).is_directory() && self.is_above(slot, to) {
            return Err(ErrorKind::Invalid);
        }
        self.free_place(to, to_name)?;
        let run = self.arena.insert(to_name);
        self.leave(from, name)?;
        let old = self.record(entry, to, run);
        self.arena.remove(old);
        self.enter(to, to_name, entry)
    }

    /// Records where an entry is, and gives back its old name.
    fn record(&mut self, entry: u32, parent: Slot, name: Run) -> Run {
        if entry & EXTRA == 0 {
            let inode = self.inodes.get_mut(entry);
            inode.parent = parent;
            std::mem::replace(&mut inode.name, name)
        } else {
            let extra = self.extras.get_mut(entry & !EXTRA);
            extra.parent = parent;
            std::mem::replace(&mut extra.name, name)
        }
    }

    /// Swaps what two names name.
    ///
    /// # Errors
    /// `NotFound`, and `Invalid` for a directory that would go below itself.
    pub fn exchange(&mut self, parent: FileId, name: &[u8], to_parent: FileId, to_name: &[u8]) -> Result<()> {
        let (from, to) =
            (self.slot(parent).ok_or(ErrorKind::NotFound)?, self.slot(to_parent).ok_or(ErrorKind::NotFound)?);
        let one = self.entry(from, name).ok_or(ErrorKind::NotFound)?;
        let other = self.entry(to, to_name).ok_or(ErrorKind::NotFound)?;
        let below = |entry: u32, directory: Slot| self.is_above(self.entry_slot(entry), directory);
        if below(one, to) || below(other, from) {
            return Err(ErrorKind::Invalid);
        }
        if one == other {
            return Ok(());
        }
        self.leave(from, name)?;
        self.leave(to, to_name)?;
        let run = self.record(one, to, Run::EMPTY);
        let other_run = self.record(other, from, run);
        self.record(one, to, other_run);
        self.enter(to, to_name, one)?;
        self.enter(from, name, other)
    }
}
