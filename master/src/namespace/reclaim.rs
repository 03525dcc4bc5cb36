//! Freeing inodes: one file without a name, or, in bounded steps, what was below removed directories.

use larder_common::{FileId, Generation};

use super::{
    arena::Run,
    directory::Directory,
    inode::{Flag, Inode, Seen, Slot},
    tree::InodeTree,
};

/// An inode that is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freed {
    /// Its id.
    pub id: FileId,
    /// The version of its content.
    pub generation: Generation,
    /// Whether it was a file.
    pub file: bool,
    /// Whether some side table may have had an entry.
    pub side: bool,
}

impl InodeTree {
    /// Frees a file that has no name. `None` if there is none such.
    pub fn free(&mut self, id: FileId) -> Option<Freed> {
        let slot = self.slot(id)?;
        let inode = self.inodes.get(slot);
        (!inode.is_directory() && inode.links == 0).then(|| self.free_slot(slot))
    }

    fn free_slot(&mut self, slot: Slot) -> Freed {
        let inode = self.inodes.get(slot);
        let (file, side) = (inode.is_file(), inode.is(Flag::Side) || inode.is(Flag::Pinned));
        let freed = Freed { id: inode.id(), generation: inode.generation(), file, side };
        let (kind, name, children) = (inode.kind(), inode.name, inode.children());
        if let Seen::Packed(run) = inode.seen() {
            self.arena.remove(run);
        }
        if name != Run::EMPTY {
            self.arena.remove(name);
        }
        if kind == super::Kind::Directory {
            self.directories.remove(children, Directory::default().into());
        }
        if side || matches!(kind, super::Kind::Symlink | super::Kind::Special) {
            self.texts.remove(&freed.id);
            self.xattrs.remove(&freed.id);
        }
        let inodes = &self.inodes;
        self.index.remove(freed.id.0, |slot| inodes.get(slot).id);
        self.inodes.remove(slot, Inode::free());
        freed
    }

    /// Whether there are removed directories to free.
    #[must_use]
    pub fn has_detached(&self) -> bool {
        self.detached.last().is_some()
    }

    /// Detached directories, in the order in which they were.
    pub fn detached(&self) -> impl Iterator<Item = &Inode> {
        self.detached.iter().map(|slot| self.inodes.get(slot))
    }

    /// Frees up to `budget` inodes of removed directories. A file is freed with its last name, unless `keep` says that it
    /// lives on without one.
    pub fn reclaim(&mut self, budget: u32, keep: impl Fn(FileId) -> bool) -> Vec<Freed> {
        let mut freed = Vec::new();
        for _ in 0..budget {
            let Some(slot) = self.detached.last() else { break };
            match self.directory_mut(slot).and_then(Directory::pop) {
                None => {
                    self.detached.pop();
                    freed.push(self.free_slot(slot));
                }
                Some(entry) => freed.extend(self.reclaim_entry(entry, &keep)),
            }
        }
        freed
    }

    fn reclaim_entry(&mut self, entry: u32, keep: impl Fn(FileId) -> bool) -> Option<Freed> {
        let slot = self.entry_slot(entry);
        if self.inodes.get(slot).is_directory() {
            self.detach(slot);
            return None;
        }
        self.forget(entry);
        let inode = self.inodes.get(slot);
        (inode.links == 0 && !keep(inode.id())).then(|| self.free_slot(slot))
    }
}
