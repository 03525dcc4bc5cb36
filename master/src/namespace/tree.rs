//! The tree itself: lookups, listings, attributes. Changes of names are in `names`, removal of whole trees in `reclaim`.

use std::{cmp::Ordering, ops::Bound, sync::Arc};

use larder_common::{ErrorKind, FileId, FileKind, Fingerprint};

use super::{
    arena::{Arena, Run},
    chunks::{Chunks, Stack},
    directory::{Directory, EXTRA, short_hash},
    index::Index,
    inode::{Flag, Inode, Kind, NONE, NewInode, Seen, Slot, pack, unpack},
    paged::PagedMap,
};

/// A further name of a file that has several.
#[derive(Clone, Debug)]
pub(super) struct ExtraName {
    pub(super) inode: Slot,
    pub(super) parent: Slot,
    pub(super) name: Run,
}

/// Extended attributes, in the order of their names.
pub(super) type Xattrs = Arc<Vec<(Vec<u8>, Vec<u8>)>>;

/// All inodes and names.
#[derive(Clone, Debug)]
pub struct InodeTree {
    pub(super) inodes: Chunks<Inode>,
    pub(super) directories: Chunks<Arc<Directory>>,
    pub(super) extras: Chunks<ExtraName>,
    pub(super) arena: Arena,
    pub(super) index: Index,
    /// The extra names of each file that has some.
    pub(super) extra_names: PagedMap<FileId, Vec<u32>>,
    pub(super) texts: PagedMap<FileId, FileKind>,
    pub(super) xattrs: PagedMap<FileId, Xattrs>,
    /// Directories that have lost their name, to be freed.
    pub(super) detached: Stack,
}

/// One name of a directory, and what it names.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The inode.
    pub inode: &'a Inode,
}

/// What a removed name named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The inode.
    pub id: FileId,
    /// Whether it has no name any more.
    pub last: bool,
}

impl InodeTree {
    /// A tree with nothing but its root.
    #[must_use]
    pub fn new(root: &NewInode) -> Self {
        let mut tree = Self {
            inodes: Chunks::default(),
            directories: Chunks::default(),
            extras: Chunks::default(),
            arena: Arena::default(),
            index: Index::default(),
            extra_names: PagedMap::default(),
            texts: PagedMap::default(),
            xattrs: PagedMap::default(),
            detached: Stack::default(),
        };
        let root = NewInode { kind: FileKind::Directory, ..root.clone() };
        let slot = tree.place(&root, NONE, Run::EMPTY);
        tree.inodes.get_mut(slot).parent = slot;
        tree
    }

    /// How many inodes there are, those of detached trees too.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is nothing but the root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() <= 1
    }

    pub(super) fn slot(&self, id: FileId) -> Option<Slot> {
        self.index.get(id.0, |slot| self.inodes.get(slot).id)
    }

    /// The inode, whether or not it has a name.
    #[must_use]
    pub fn get(&self, id: FileId) -> Option<&Inode> {
        self.slot(id).map(|slot| self.inodes.get(slot))
    }

    /// The inode, if it can be reached from the root.
    #[must_use]
    pub fn attached(&self, id: FileId) -> Option<&Inode> {
        let slot = self.slot(id)?;
        let extra = || self.extra_names.get(&id).into_iter().flatten();
        let attached = self.is_attached(slot) || extra().any(|extra| self.is_attached(self.extras.get(*extra).parent));
        attached.then(|| self.inodes.get(slot))
    }

    fn is_attached(&self, mut slot: Slot) -> bool {
        loop {
            let parent = self.inodes.get(slot).parent;
            match parent {
                NONE => return false,
                _ if parent == slot => return true,
                _ => slot = parent,
            }
        }
    }

    /// The inode that an entry of a directory leads to.
    pub(super) fn entry_slot(&self, entry: u32) -> Slot {
        if entry & EXTRA == 0 { entry } else { self.extras.get(entry & !EXTRA).inode }
    }

    pub(super) fn entry_name(&self, entry: u32) -> &[u8] {
        let run = if entry & EXTRA == 0 { self.inodes.get(entry).name } else { self.extras.get(entry & !EXTRA).name };
        self.arena.get(run)
    }

    pub(super) fn directory(&self, slot: Slot) -> Option<&Directory> {
        let inode = self.inodes.get(slot);
        inode.is_directory().then(|| &**self.directories.get(inode.children()))
    }

    pub(super) fn directory_mut(&mut self, slot: Slot) -> Option<&mut Directory> {
        let inode = self.inodes.get(slot);
        let children = inode.is_directory().then(|| inode.children())?;
        Some(Arc::make_mut(self.directories.get_mut(children)))
    }

    pub(super) fn find(&self, parent: Slot, name: &[u8]) -> Option<Result<(usize, usize), (usize, usize)>> {
        let compare = |entry: u32| -> Ordering { self.entry_name(entry).cmp(name) };
        Some(self.directory(parent)?.find(compare))
    }

    pub(super) fn entry(&self, parent: Slot, name: &[u8]) -> Option<u32> {
        self.directory(parent)?.lookup(short_hash(name), |entry| self.entry_name(entry).cmp(name))
    }

    /// What a name in a directory names.
    #[must_use]
    pub fn child(&self, directory: FileId, name: &[u8]) -> Option<&Inode> {
        let entry = self.entry(self.slot(directory)?, name)?;
        Some(self.inodes.get(self.entry_slot(entry)))
    }

    /// What a name in a directory names, for a walk that already has the directory.
    #[must_use]
    pub fn child_of(&self, directory: &Inode, name: &[u8]) -> Option<&Inode> {
        if !directory.is_directory() {
            return None;
        }
        let children = self.directories.get(directory.children());
        let entry = children.lookup(short_hash(name), |entry| self.entry_name(entry).cmp(name))?;
        Some(self.inodes.get(self.entry_slot(entry)))
    }

    /// The names of a directory from (`Bound`) on, in byte order. Nothing for what is no directory.
    pub fn list<'a>(&'a self, directory: FileId, from: Bound<&[u8]>) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let slot = self.slot(directory);
        let place = slot.and_then(|slot| match from {
            Bound::Unbounded => Some((0, 0)),
            Bound::Included(name) => Some(self.find(slot, name)?.unwrap_or_else(|place| place)),
            Bound::Excluded(name) => Some(match self.find(slot, name)? {
                Ok((leaf, at)) => (leaf, at + 1),
                Err(place) => place,
            }),
        });
        let directory = slot.and_then(|slot| self.directory(slot)).zip(place);
        directory
            .into_iter()
            .flat_map(|(directory, place)| directory.iter_from(place))
            .map(|entry| Entry { name: self.entry_name(entry), inode: self.inodes.get(self.entry_slot(entry)) })
    }

    /// How many names a directory has.
    #[must_use]
    pub fn entries(&self, directory: &Inode) -> u32 {
        if directory.is_directory() { self.directories.get(directory.children()).count } else { 0 }
    }

    /// The link count as `stat` shows it: 2 and one for each directory in it, or the number of names.
    #[must_use]
    pub fn links(&self, inode: &Inode) -> u32 {
        match inode.is_directory() {
            true => 2 + self.directories.get(inode.children()).subdirectories,
            false => inode.links,
        }
    }

    /// The directory that the first name of an inode is in; `None` without a name. The root is in itself.
    #[must_use]
    pub fn parent(&self, inode: &Inode) -> Option<&Inode> {
        (inode.parent != NONE).then(|| self.inodes.get(inode.parent))
    }

    /// The first name of an inode; empty for the root and without a name.
    #[must_use]
    pub fn name(&self, inode: &Inode) -> &[u8] {
        self.arena.get(inode.name)
    }

    /// All names of an inode, with their directories.
    #[must_use]
    pub fn names(&self, id: FileId) -> Vec<(FileId, &[u8])> {
        let Some(slot) = self.slot(id) else { return Vec::new() };
        let inode = self.inodes.get(slot);
        let first = self.parent(inode).map(|parent| (parent.id(), self.name(inode)));
        let extras = self.extra_names.get(&id).into_iter().flatten().map(|extra| {
            let extra = self.extras.get(*extra);
            (FileId(self.inodes.get(extra.parent).id), self.arena.get(extra.name))
        });
        first.into_iter().chain(extras).collect()
    }

    /// The full kind, with a symbolic link's text and a special file's device.
    #[must_use]
    pub fn file_kind(&self, inode: &Inode) -> FileKind {
        match inode.kind() {
            Kind::File => FileKind::File,
            Kind::Directory => FileKind::Directory,
            Kind::Symlink | Kind::Special => {
                self.texts.get(&inode.id()).cloned().unwrap_or_else(|| FileKind::Symlink(Vec::new()))
            }
        }
    }

    /// The identity in the under store.
    #[must_use]
    pub fn fingerprint(&self, inode: &Inode) -> Option<Fingerprint> {
        match inode.seen() {
            Seen::Not => None,
            Seen::Short(print) => Some(print),
            Seen::Packed(run) => Some(unpack(self.arena.get(run))),
        }
    }

    /// Records the identity in the under store. False if there is no such inode.
    pub fn set_fingerprint(&mut self, id: FileId, print: Option<&Fingerprint>) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        if let Seen::Packed(run) = self.inodes.get(slot).seen() {
            self.arena.remove(run);
        }
        match print {
            None => self.inodes.get_mut(slot).set_unseen(),
            Some(print) if self.inodes.get(slot).fits(print) => self.inodes.get_mut(slot).set_seen_short(print),
            Some(print) => {
                let run = self.arena.insert(&pack(print));
                self.inodes.get_mut(slot).set_seen_packed(run);
            }
        }
        true
    }

    /// Changes attributes of an inode. False if there is no such inode.
    pub fn update(&mut self, id: FileId, change: impl FnOnce(&mut Inode)) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        let short = match self.inodes.get(slot).seen() {
            Seen::Short(print) => Some(print),
            _ => None,
        };
        let inode = self.inodes.get_mut(slot);
        change(inode);
        // The three fields stand for a whole identity only while size and time are the inode's.
        if let Some(print) = short.filter(|print| !inode.fits(print)) {
            self.set_fingerprint(id, Some(&print));
        }
        true
    }

    /// The extended attributes of an inode, in the order of their names.
    #[must_use]
    pub fn xattrs(&self, id: FileId) -> &[(Vec<u8>, Vec<u8>)] {
        let has = self.slot(id).filter(|slot| self.inodes.get(*slot).is(Flag::Side));
        has.and_then(|_| self.xattrs.get(&id)).map_or(&[], |xattrs| xattrs)
    }

    /// Sets an extended attribute, or removes it. False if there is no such inode.
    pub fn set_xattr(&mut self, id: FileId, name: &[u8], value: Option<&[u8]>) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        let mut xattrs = self.xattrs.get(&id).map(|xattrs| xattrs.to_vec()).unwrap_or_default();
        match (xattrs.binary_search_by(|(n, _)| n.as_slice().cmp(name)), value) {
            (Ok(at), Some(value)) => xattrs[at].1 = value.to_vec(),
            (Ok(at), None) => drop(xattrs.remove(at)),
            (Err(at), Some(value)) => xattrs.insert(at, (name.to_vec(), value.to_vec())),
            (Err(_), None) => {}
        }
        if xattrs.is_empty() {
            self.xattrs.remove(&id);
        } else {
            self.xattrs.insert(id, Arc::new(xattrs));
            self.inodes.get_mut(slot).set(Flag::Side, true);
        }
        true
    }

    /// All names of files beside their first, by file and then in the order in which they were given.
    pub fn more_names(&self) -> impl Iterator<Item = (FileId, FileId, &[u8])> {
        self.extra_names.values().flatten().map(|extra| {
            let extra = self.extras.get(*extra);
            (self.inodes.get(extra.inode).id(), self.inodes.get(extra.parent).id(), self.arena.get(extra.name))
        })
    }

    /// All extended attributes, by file and name.
    pub fn all_xattrs(&self) -> impl Iterator<Item = (FileId, &[u8], &[u8])> {
        let all = self.xattrs.iter();
        all.flat_map(|(id, xattrs)| xattrs.iter().map(move |(name, value)| (*id, name.as_slice(), value.as_slice())))
    }

    /// Every inode, detached and nameless ones too, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Inode> {
        self.inodes.iter().filter(|inode| inode.id != 0)
    }

    /// What the tree takes in memory, in bytes: chunks at their capacity, the index, side tables at a rough guess.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let live = self.iter().filter(|inode| inode.is_directory());
        let directories: usize = live.map(|inode| self.directories.get(inode.children()).bytes()).sum();
        let side = (self.extra_names.len() + self.texts.len() + self.xattrs.len()) * 128;
        let chunks = self.inodes.bytes() + self.directories.bytes() + self.extras.bytes();
        chunks + directories + self.arena.bytes() + self.index.bytes() + self.detached.bytes() + side
    }

    pub(super) fn check_new(&self, id: FileId) -> Result<(), ErrorKind> {
        match id.0 == 0 || self.slot(id).is_some() {
            true => Err(ErrorKind::AlreadyExists),
            false => Ok(()),
        }
    }
}
