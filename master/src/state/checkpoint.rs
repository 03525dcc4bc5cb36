//! Checkpoints: a state as a stream of frames of bounded size, written from a clone while the writer goes on. A frame holds
//! primitive changes that build the state from nothing, and what no change can say: the header, and slots.
//!
//! The order is fixed by the state alone, so equal states give equal frames.

use std::ops::Bound;

use larder_common::{ClusterId, Error, ErrorKind, FileId, Position, Result, SessionId, Timestamp};
use prost::Message;

use crate::namespace::{Flag, Inode, InodeTree, NewInode};

use super::{
    State,
    encoding::{block_shift, persistence_number, ttl_action_number},
    entry::{
        AddInode, AddLease, AddMount, AddName, AddOrphan, AddSession, ChangeRecord, HoldNumbers, InodeRecord,
        OpenIntent, PinChange, PolicyChange, ReplicationChange, SetContent, SetPending, TtlChange, XattrChange,
    },
    job_records::SetJob,
    known,
    planner::inode_record,
    tables::{Counter, Slot},
};

/// About how many bytes a frame has.
const FRAME: usize = 64 << 10;

#[derive(Clone, PartialEq, Message)]
struct Frame {
    /// In the first frame only.
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    changes: Vec<ChangeRecord>,
    #[prost(message, repeated, tag = "3")]
    slots: Vec<SlotRecord>,
    /// Holders of content that is not persisted: they go to the side table without touching the content.
    #[prost(message, repeated, tag = "4")]
    holders: Vec<SetContent>,
    /// How many frames there are before this, in the last one.
    #[prost(uint64, optional, tag = "5")]
    last: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(uint64, tag = "1")]
    position: u64,
    #[prost(bytes = "vec", tag = "2")]
    cluster: Vec<u8>,
    #[prost(uint64, tag = "3")]
    next: u64,
    #[prost(uint64, tag = "4")]
    end: u64,
    #[prost(uint64, tag = "5")]
    at: u64,
    #[prost(uint64, tag = "6")]
    safe: u64,
    #[prost(message, optional, tag = "7")]
    root: Option<InodeRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct SlotRecord {
    #[prost(uint64, tag = "1")]
    session: u64,
    #[prost(uint32, tag = "2")]
    slot: u32,
    #[prost(uint64, tag = "3")]
    number: u64,
    #[prost(bytes = "vec", tag = "4")]
    outcome: Vec<u8>,
}

fn record_of(tree: &InodeTree, inode: &Inode) -> InodeRecord {
    InodeRecord {
        mode: inode.mode(),
        uid: inode.uid(),
        gid: inode.gid(),
        length: inode.length(),
        created: inode.created().0,
        generation: inode.generation().0,
        block_shift: block_shift(inode.block_size()),
        persistence: persistence_number(inode.persistence()),
        complete: inode.is(Flag::Complete),
        stored: inode.is(Flag::Stored),
        loaded: inode.is(Flag::Loaded),
        mount_point: inode.is(Flag::MountPoint),
        fingerprint: tree.fingerprint(inode).as_ref().map(Into::into),
        ..inode_record(inode.id(), &tree.file_kind(inode), inode.times())
    }
}

/// What a frame is made of.
#[expect(clippy::large_enum_variant, reason = "a piece lives for a moment, one at a time")]
enum Piece {
    Change(ChangeRecord),
    Slot(SlotRecord),
    Holders(SetContent),
}

fn piece(change: impl Into<ChangeRecord>) -> Piece {
    Piece::Change(change.into())
}

/// Walks the tree from some directories down, each directory before what is in it.
struct Walk<'a> {
    tree: &'a InodeTree,
    /// Directories whose names are still to be told, and after which name.
    todo: Vec<(FileId, Option<Vec<u8>>)>,
}

impl Walk<'_> {
    /// The next names of one directory: at most so many at once.
    const STEP: usize = 256;
}

impl Iterator for Walk<'_> {
    type Item = Vec<Piece>;

    fn next(&mut self) -> Option<Vec<Piece>> {
        let (directory, after) = self.todo.pop()?;
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut pieces = Vec::new();
        let (mut below, mut last) = (Vec::new(), None);
        for entry in self.tree.list(directory, from).take(Self::STEP) {
            last = Some(entry.name.to_vec());
            let parent = self.tree.parent(entry.inode).map(Inode::id);
            if parent != Some(directory) || self.tree.name(entry.inode) != entry.name {
                continue;
            }
            let (parent, name) = (directory.0, entry.name.to_vec());
            pieces.push(piece(AddInode { parent, name, inode: Some(record_of(self.tree, entry.inode)), found: true }));
            below.extend(Some((entry.inode.id(), None)).filter(|_| entry.inode.is_directory()));
        }
        if let Some(last) = last {
            self.todo.push((directory, Some(last)));
        }
        self.todo.extend(below.into_iter().rev());
        Some(pieces)
    }
}

impl State {
    /// The state as frames, each of about 64 KiB. Work on a clone: it is cheap, and the writer goes on.
    pub fn checkpoint(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let mut pieces = self.pieces();
        let mut header = Some(self.header());
        let mut count = Some(0u64);
        std::iter::from_fn(move || {
            let written = count?;
            let mut frame = Frame { header: header.take(), ..Frame::default() };
            let mut size = 0;
            while size < FRAME {
                let Some(piece) = pieces.next() else {
                    (frame.last, count) = (Some(written), None);
                    return Some(frame.encode_to_vec());
                };
                size += frame.add(piece);
            }
            count = Some(written + 1);
            Some(frame.encode_to_vec())
        })
    }

    fn header(&self) -> Header {
        let Counter { next, end, at, safe } = self.counter;
        let cluster = self.cluster.map(ClusterId::to_bytes).unwrap_or_default();
        let root = Some(record_of(&self.tree, self.root()));
        Header { position: self.position.0, cluster, next, end, at: at.0, safe, root }
    }

    fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        let detached: Vec<&Inode> = self.tree.detached().collect();
        let mut todo: Vec<_> = detached.iter().map(|inode| (inode.id(), None)).collect();
        todo.push((FileId::ROOT, None));
        let nameless = move |inode: &Inode| AddInode {
            inode: Some(record_of(&self.tree, inode)),
            found: true,
            ..AddInode::default()
        };
        let mut open: Vec<FileId> =
            self.orphans.iter().filter(|(_, o)| o.nameless).map(|((file, _), _)| *file).collect();
        open.dedup();
        let open = open.into_iter().filter_map(|file| self.tree.get(file));
        let unnamed = open.filter(|inode| self.tree.parent(inode).is_none() && !inode.is_directory());
        let unnamed: Vec<&Inode> = detached.into_iter().chain(unnamed).collect();
        let heads = unnamed.into_iter().map(move |inode| piece(nameless(inode)));
        let walk = Walk { tree: &self.tree, todo }.flatten();
        heads.chain(walk).chain(self.more_names()).chain(self.side_pieces()).chain(self.held_pieces())
    }

    fn more_names(&self) -> impl Iterator<Item = Piece> + '_ {
        self.tree.more_names().map(|(file, parent, name)| {
            piece(AddName { file: file.0, parent: parent.0, name: name.to_vec(), found: true })
        })
    }

    fn side_pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        let xattrs = self.tree.all_xattrs().map(|(file, name, value)| {
            piece(XattrChange { file: file.0, name: name.to_vec(), value: Some(value.to_vec()) })
        });
        let pins = self.side.pins.iter().map(|(file, ())| piece(PinChange { file: file.0, pinned: true }));
        let ttls = self.side.ttls.iter().map(|(file, entry)| {
            let after = u64::try_from(entry.ttl.after.as_nanos()).unwrap_or(u64::MAX);
            piece(TtlChange { file: file.0, after, action: ttl_action_number(entry.ttl.action) })
        });
        let copies =
            self.side.replication.iter().map(|(file, min)| piece(ReplicationChange { file: file.0, min: *min }));
        let policy = |(file, policy): (&FileId, &std::sync::Arc<str>)| {
            piece(PolicyChange { file: file.0, policy: Some(policy.to_string()) })
        };
        let holders = self.side.holders.iter().map(|(file, holders)| {
            Piece::Holders(SetContent { file: file.0, holders: holders.to_vec(), ..SetContent::default() })
        });
        xattrs.chain(pins).chain(ttls).chain(copies).chain(self.side.policies.iter().map(policy)).chain(holders)
    }

    fn held_pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        let mounts = self.mounts.iter().map(|mount| piece(AddMount { mount: mount.id.0, record: Some(mount.into()) }));
        let sessions = self.sessions.iter().flat_map(|(id, session)| {
            let lease_nanos = u64::try_from(session.lease.as_nanos()).unwrap_or(u64::MAX);
            let (first, end) = session.held;
            let add = AddSession { session: id.0, name: session.name.to_string(), lease_nanos };
            [piece(add), piece(HoldNumbers { session: id.0, first, end })]
        });
        let slots = self.slots.iter().map(|((session, slot), kept)| {
            let (session, slot, outcome) = (session.0, *slot, kept.outcome.to_vec());
            Piece::Slot(SlotRecord { session, slot, number: kept.number, outcome })
        });
        let leases =
            self.leases.iter().map(|(id, record)| piece(AddLease { lease: id.0, record: Some(record.clone()) }));
        let pending = self
            .pending
            .iter()
            .map(|(generation, record)| piece(SetPending { generation: generation.0, record: Some(record.clone()) }));
        let intents = self
            .intents
            .iter()
            .map(|(intent, record)| piece(OpenIntent { intent: intent.0, record: Some((**record).clone()) }));
        let orphans = self.orphans.iter().map(|((file, generation), record)| {
            piece(AddOrphan { file: file.0, generation: generation.0, record: Some(record.clone()) })
        });
        let jobs = self.jobs.iter().map(|(job, kept)| piece(SetJob { job: job.0, record: Some((&**kept).into()) }));
        mounts.chain(sessions).chain(slots).chain(leases).chain(pending).chain(intents).chain(orphans).chain(jobs)
    }

    /// The state that these frames hold.
    ///
    /// # Errors
    /// `Corrupt` for a frame that cannot be read, and for a stream without its first or last frame; `Mismatch` for one of
    /// a newer version, with what is new in it.
    pub fn restore(frames: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Result<State> {
        let corrupt = |message: String| Error::new(ErrorKind::Corrupt, format!("the checkpoint {message}"));
        let (mut state, mut count, mut closed) = (State::new(), 0u64, false);
        for bytes in frames {
            let frame =
                Frame::decode(bytes.as_ref()).map_err(|e| corrupt(format!("has a frame that cannot be read: {e}")))?;
            if closed || frame.header.is_some() != (count == 0) {
                return Err(corrupt(format!("has frame {count} out of its place")));
            }
            known::check("the checkpoint", &frame.changes, None)?;
            for slot in &frame.slots {
                known::check_outcome("the checkpoint", &slot.outcome)?;
            }
            if let Some(last) = frame.last {
                closed = last == count;
            }
            state.take(&frame);
            count += 1;
        }
        if closed { Ok(state) } else { Err(corrupt(format!("ends after {count} frames without its last one"))) }
    }

    fn take(&mut self, frame: &Frame) {
        if let Some(header) = &frame.header {
            self.take_header(header);
        }
        let mut effects = Vec::new();
        for change in frame.changes.iter().filter_map(|change| change.change.as_ref()) {
            self.restore_change(change, &mut effects);
            effects.clear();
        }
        for slot in &frame.slots {
            let kept = Slot { number: slot.number, outcome: slot.outcome.clone().into() };
            self.slots.insert((SessionId(slot.session), slot.slot), kept);
        }
        for holders in &frame.holders {
            self.mark_side(FileId(holders.file));
            self.side.holders.insert(FileId(holders.file), holders.holders.clone().into());
        }
    }

    fn restore_change(&mut self, change: &super::entry::Change, effects: &mut Vec<super::Effect>) {
        // An attribute set by a command moves the inode's change time; one that is restored does not.
        if let super::entry::Change::XattrChange(xattr) = change {
            self.tree.set_xattr(FileId(xattr.file), &xattr.name, xattr.value.as_deref());
        } else {
            self.change(Timestamp::default(), change, effects);
        }
    }

    fn take_header(&mut self, header: &Header) {
        if let Some(root) = &header.root {
            self.tree = InodeTree::new(&NewInode::from(root));
        }
        self.cluster = ClusterId::try_from(&header.cluster[..]).ok();
        self.position = Position(header.position);
        let Header { next, end, safe, .. } = *header;
        self.counter = Counter { next, end, at: Position(header.at), safe };
    }
}

impl Frame {
    /// Takes a piece, and says about how long it is.
    fn add(&mut self, piece: Piece) -> usize {
        match piece {
            Piece::Change(change) => {
                let size = change.encoded_len() + 4;
                self.changes.push(change);
                size
            }
            Piece::Slot(slot) => {
                let size = slot.encoded_len() + 4;
                self.slots.push(slot);
                size
            }
            Piece::Holders(holders) => {
                let size = holders.encoded_len() + 4;
                self.holders.push(holders);
                size
            }
        }
    }
}
