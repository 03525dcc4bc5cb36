//! The compact inode: 104 bytes for what every file has. What only few have is in side tables.
//!
//! The identity in the under store takes three fields where its size and time are those of the inode and it has no tag (a
//! file in a local directory that nobody has touched); any other is packed into the arena.

use larder_common::{BlockSize, FileId, FileKind, Fingerprint, Generation, Persistence, Times, Timestamp};

use super::arena::Run;

/// The number of an inode's slot. Only this module and its siblings know it.
pub(super) type Slot = u32;

/// No slot: the parent of an inode without a name.
pub(super) const NONE: Slot = u32::MAX;

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        /// Something that is so, or not.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Flag { $($(#[$doc])* $name = 1 << $bit,)* }
    };
}

flags! {
    /// The content is committed, or it has none.
    Complete = 21;
    /// There is an object in the under store under this name that we know.
    Stored = 22;
    /// All names of the directory are known.
    Loaded = 23;
    /// The root of a mount.
    MountPoint = 24;
    /// Some side table may have an entry.
    Side = 25;
    /// Its blocks stay in the cache.
    Pinned = 26;
}

const SEEN_SHORT: u32 = 1 << 27;
const SEEN_PACKED: u32 = 1 << 28;
const MODE: u32 = 0o7777;
const KIND: u32 = 12;
const PERSISTENCE: u32 = 14;
const SHIFT: u32 = 16;

/// Which kind, without what symbolic links and special files have besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes in blocks.
    File = 0,
    /// Names.
    Directory = 1,
    /// A path.
    Symlink = 2,
    /// A pipe, socket or device.
    Special = 3,
}

/// What an inode is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewInode {
    /// Its id: never used before.
    pub id: FileId,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, 12 of them.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Length in bytes; 0 for a directory.
    pub length: u64,
    /// The three times.
    pub times: Times,
    /// When it was made.
    pub created: Timestamp,
    /// The version of the content.
    pub generation: Generation,
    /// The size of its blocks.
    pub block_size: BlockSize,
    /// Where the content is.
    pub persistence: Persistence,
    /// [`Flag::Complete`].
    pub complete: bool,
    /// [`Flag::Stored`].
    pub stored: bool,
    /// [`Flag::Loaded`].
    pub loaded: bool,
    /// [`Flag::MountPoint`].
    pub mount_point: bool,
    /// Its identity in the under store.
    pub fingerprint: Option<Fingerprint>,
}

/// One inode. Its id, kind and names are changed by the tree only.
#[derive(Clone, Debug)]
pub struct Inode {
    pub(super) id: u64,
    generation: u64,
    /// Of a directory: the slot of its children.
    length: u64,
    accessed: i64,
    modified: i64,
    changed: i64,
    created: i64,
    seen: [u64; 3],
    pub(super) parent: Slot,
    pub(super) name: Run,
    /// Names of a file. Not counted for directories.
    pub(super) links: u32,
    bits: u32,
    uid: u32,
    gid: u32,
}

impl Inode {
    pub(super) fn new(new: &NewInode, parent: Slot, name: Run) -> Self {
        let kind = match new.kind {
            FileKind::File => Kind::File,
            FileKind::Directory => Kind::Directory,
            FileKind::Symlink(_) => Kind::Symlink,
            FileKind::Special(..) => Kind::Special,
        };
        let mut inode = Self {
            id: new.id.0,
            generation: new.generation.0,
            length: new.length,
            accessed: new.times.accessed.0,
            modified: new.times.modified.0,
            changed: new.times.changed.0,
            created: new.created.0,
            seen: [0; 3],
            parent,
            name,
            links: 1,
            bits: (kind as u32) << KIND | new.mode & MODE | new.block_size.bytes().trailing_zeros() << SHIFT,
            uid: new.uid,
            gid: new.gid,
        };
        inode.set_persistence(new.persistence);
        let flags = [(Flag::Complete, new.complete), (Flag::Stored, new.stored), (Flag::Loaded, new.loaded)];
        flags.into_iter().for_each(|(flag, value)| inode.set(flag, value));
        inode.set(Flag::MountPoint, new.mount_point);
        inode
    }

    /// What a free slot holds.
    pub(super) fn free() -> Self {
        let (parent, name) = (NONE, Run::EMPTY);
        let (id, generation, length, links, bits, uid, gid) = (0, 0, 0, 0, 0, 0, 0);
        let (accessed, modified, changed, created) = (0, 0, 0, 0);
        Self {
            id,
            generation,
            length,
            accessed,
            modified,
            changed,
            created,
            seen: [0; 3],
            parent,
            name,
            links,
            bits,
            uid,
            gid,
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> FileId {
        FileId(self.id)
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.bits >> KIND & 3 {
            0 => Kind::File,
            1 => Kind::Directory,
            2 => Kind::Symlink,
            _ => Kind::Special,
        }
    }

    /// Whether it has names below it.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.kind() == Kind::Directory
    }

    /// Whether it has content in blocks.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.kind() == Kind::File
    }

    /// Permission bits, 12 of them.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.bits & MODE
    }

    /// Sets the permission bits.
    pub fn set_mode(&mut self, mode: u32) {
        self.bits = self.bits & !MODE | mode & MODE;
    }

    /// Numeric owner.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Numeric group.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Sets owner and group.
    pub fn set_owner(&mut self, uid: u32, gid: u32) {
        (self.uid, self.gid) = (uid, gid);
    }

    /// Whether something is so.
    #[must_use]
    pub fn is(&self, flag: Flag) -> bool {
        self.bits & flag as u32 != 0
    }

    /// Says that it is so, or not.
    pub fn set(&mut self, flag: Flag, value: bool) {
        self.bits = if value { self.bits | flag as u32 } else { self.bits & !(flag as u32) };
    }

    /// Where the content is.
    #[must_use]
    pub fn persistence(&self) -> Persistence {
        match self.bits >> PERSISTENCE & 3 {
            0 => Persistence::NotPersisted,
            1 => Persistence::ToBePersisted,
            _ => Persistence::Persisted,
        }
    }

    /// Says where the content is.
    pub fn set_persistence(&mut self, persistence: Persistence) {
        let number = match persistence {
            Persistence::NotPersisted => 0,
            Persistence::ToBePersisted => 1,
            Persistence::Persisted => 2,
        };
        self.bits = self.bits & !(3 << PERSISTENCE) | number << PERSISTENCE;
    }

    /// The size of its blocks.
    #[must_use]
    pub fn block_size(&self) -> BlockSize {
        BlockSize::new(1 << (self.bits >> SHIFT & 31)).unwrap_or_default()
    }

    /// Sets the size of its blocks.
    pub fn set_block_size(&mut self, size: BlockSize) {
        self.bits = self.bits & !(31 << SHIFT) | size.bytes().trailing_zeros() << SHIFT;
    }

    /// Length in bytes; 0 for a directory.
    #[must_use]
    pub fn length(&self) -> u64 {
        if self.is_directory() { 0 } else { self.length }
    }

    /// Sets version and length of the content of a file.
    pub fn set_content(&mut self, generation: Generation, length: u64) {
        self.generation = generation.0;
        if !self.is_directory() {
            self.length = length;
        }
    }

    /// The version of the content.
    #[must_use]
    pub fn generation(&self) -> Generation {
        Generation(self.generation)
    }

    /// The three times.
    #[must_use]
    pub fn times(&self) -> Times {
        Times {
            accessed: Timestamp(self.accessed),
            modified: Timestamp(self.modified),
            changed: Timestamp(self.changed),
        }
    }

    /// Sets the three times.
    pub fn set_times(&mut self, times: Times) {
        (self.accessed, self.modified, self.changed) = (times.accessed.0, times.modified.0, times.changed.0);
    }

    /// When it was made.
    #[must_use]
    pub fn created(&self) -> Timestamp {
        Timestamp(self.created)
    }

    /// Where a directory's children are.
    pub(super) fn children(&self) -> u32 {
        self.length as u32
    }

    pub(super) fn set_children(&mut self, slot: u32) {
        self.length = u64::from(slot);
    }

    pub(super) fn seen(&self) -> Seen {
        let [inode, changed, born] = self.seen;
        match self.bits & (SEEN_SHORT | SEEN_PACKED) {
            0 => Seen::Not,
            SEEN_SHORT => Seen::Short(Fingerprint {
                inode,
                size: self.length(),
                modified: Timestamp(self.modified),
                changed: Timestamp(changed as i64),
                born: Timestamp(born as i64),
                etag: String::new(),
            }),
            _ => Seen::Packed(Run::from_number(inode as u32)),
        }
    }

    /// Whether the three fields can hold it.
    pub(super) fn fits(&self, print: &Fingerprint) -> bool {
        print.etag.is_empty() && print.size == self.length() && print.modified.0 == self.modified
    }

    pub(super) fn set_seen_short(&mut self, print: &Fingerprint) {
        self.bits = self.bits & !SEEN_PACKED | SEEN_SHORT;
        self.seen = [print.inode, print.changed.0 as u64, print.born.0 as u64];
    }

    pub(super) fn set_seen_packed(&mut self, run: Run) {
        self.bits = self.bits & !SEEN_SHORT | SEEN_PACKED;
        self.seen = [u64::from(run.number()), 0, 0];
    }

    pub(super) fn set_unseen(&mut self) {
        self.bits &= !(SEEN_SHORT | SEEN_PACKED);
        self.seen = [0; 3];
    }
}

/// How an identity is kept.
pub(super) enum Seen {
    Not,
    Short(Fingerprint),
    Packed(Run),
}

/// Packs an identity: a byte that says which numbers are not 0, those, the tag.
pub(super) fn pack(print: &Fingerprint) -> Vec<u8> {
    let numbers = numbers(print);
    let mask = (0..5).filter(|index| numbers[*index] != 0).fold(0u8, |mask, index| mask | 1 << index);
    let mut bytes = vec![mask];
    numbers.iter().filter(|number| **number != 0).for_each(|number| bytes.extend(number.to_le_bytes()));
    bytes.extend_from_slice(print.etag.as_bytes());
    bytes
}

fn numbers(print: &Fingerprint) -> [u64; 5] {
    [print.inode, print.size, print.modified.0 as u64, print.changed.0 as u64, print.born.0 as u64]
}

pub(super) fn unpack(bytes: &[u8]) -> Fingerprint {
    let (mask, mut rest) = bytes.split_first().map_or((0, bytes), |(mask, rest)| (*mask, rest));
    let mut numbers = [0u64; 5];
    for (index, number) in numbers.iter_mut().enumerate() {
        if let (true, Some((head, tail))) = (mask >> index & 1 == 1, rest.split_first_chunk::<8>()) {
            *number = u64::from_le_bytes(*head);
            rest = tail;
        }
    }
    let [inode, size, modified, changed, born] = numbers;
    let time = |number: u64| Timestamp(number as i64);
    let etag = String::from_utf8_lossy(rest).into_owned();
    Fingerprint { inode, size, modified: time(modified), changed: time(changed), born: time(born), etag }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_stays_compact() {
        assert_eq!(size_of::<Inode>(), 104);
    }

    #[test]
    fn packed_identities_come_back() {
        let print = Fingerprint { size: 7, modified: Timestamp(-9), etag: "\"abc\"".into(), ..Fingerprint::default() };
        assert_eq!(unpack(&pack(&print)), print);
        assert_eq!(unpack(&pack(&Fingerprint::default())), Fingerprint::default());
        assert_eq!(unpack(&[]), Fingerprint::default());
    }
}
