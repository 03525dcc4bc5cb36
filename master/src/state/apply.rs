//! Applying entries: each primitive change does what it says, or nothing where the state is not what it was planned on.
//! Nothing here fails, refuses, or looks at anything but the state and the entry.

use std::{ops::Bound, sync::Arc};

use larder_common::{
    ClusterId, FileId, FileKind, Generation, LeaseId, MountId, Position, SessionId, Times, Timestamp, file::Ttl,
};
use prost::Message;

use crate::namespace::{Flag, Freed, Inode, InodeTree, NewInode};

use super::{
    IntentId, State,
    encoding::{block_size, persistence, ttl_action},
    entry::{
        AddInode, AddName, AddSession, Change, Entry, EntryRecord, ExchangeNames, HoldNumbers, InodeRecord, MoveName,
        OpenIntent, RemoveName, SetInode, SetStored, TtlChange,
    },
    outcome::{Applied, Effect, Outcome},
    tables::{Session, Slot, TtlEntry},
};

impl From<&InodeRecord> for NewInode {
    fn from(record: &InodeRecord) -> Self {
        let kind = match record.kind {
            0 => FileKind::File,
            1 => FileKind::Directory,
            2 => FileKind::Symlink(record.text.clone()),
            _ => FileKind::Special(record.format, record.device),
        };
        let [accessed, modified, changed] = [record.accessed, record.modified, record.changed].map(Timestamp);
        Self {
            id: FileId(record.id),
            kind,
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            length: if record.kind == 1 { 0 } else { record.length },
            times: Times { accessed, modified, changed },
            created: Timestamp(record.created),
            generation: Generation(record.generation),
            block_size: block_size(record.block_shift),
            persistence: persistence(record.persistence),
            complete: record.complete,
            stored: record.stored,
            loaded: record.loaded,
            mount_point: record.mount_point,
            fingerprint: record.fingerprint.as_ref().map(Into::into),
        }
    }
}

impl State {
    /// Takes an entry: the one way in which the state changes. It is total: an entry that does not fit the state changes
    /// what it can.
    pub fn apply(&mut self, position: Position, entry: &Entry) -> Applied {
        let record = &entry.0;
        self.position = self.position.max(position);
        self.counter.next = self.counter.next.max(record.numbers);
        let mut effects = Vec::new();
        for change in record.changes.iter().filter_map(|change| change.change.as_ref()) {
            self.change(Timestamp(record.time), change, &mut effects);
        }
        self.keep_outcome(record);
        let mut outcome = entry.outcome();
        if let Outcome::Reclaimed { more } = &mut outcome {
            *more = self.tree.has_detached();
        }
        Applied { outcome, effects }
    }

    fn keep_outcome(&mut self, record: &EntryRecord) {
        let Some((request, outcome)) = record.request.zip(record.outcome.as_ref()) else { return };
        let session = SessionId(request.session);
        if self.sessions.contains(&session) && request.slot < super::SLOTS {
            let slot = Slot { number: request.number, outcome: outcome.encode_to_vec().into() };
            self.slots.insert((session, request.slot), slot);
        }
    }

    pub(super) fn change(&mut self, time: Timestamp, change: &Change, effects: &mut Vec<Effect>) {
        match change {
            Change::Begin(begin) => {
                self.cluster = ClusterId::try_from(&begin.cluster[..]).ok();
                self.tree.update(FileId::ROOT, |root| {
                    root.set_mode(begin.mode);
                    root.set_owner(begin.uid, begin.gid);
                    root.set_times(Times { accessed: time, modified: time, changed: time });
                });
            }
            Change::Reserve(reserve) => self.counter.reserve(self.position, reserve.next, reserve.end),
            Change::AddInode(add) => self.add_inode(time, add, effects),
            Change::AddName(add) => self.add_name(time, add, effects),
            Change::RemoveName(remove) => self.remove_name(time, remove, effects),
            Change::MoveName(change) => self.move_name(time, change, effects),
            Change::ExchangeNames(change) => self.exchange_names(time, change, effects),
            Change::SetInode(set) => self.set_inode(set, effects),
            Change::SetContent(set) => self.set_content(set, effects),
            Change::SetStored(set) => self.set_stored(set, effects),
            Change::SetLoaded(set) => {
                self.tree.update(FileId(set.file), |inode| inode.set(Flag::Loaded, set.loaded));
            }
            Change::XattrChange(xattr) => {
                self.tree.set_xattr(FileId(xattr.file), &xattr.name, xattr.value.as_deref());
                self.touch_changed(FileId(xattr.file), time, effects);
            }
            Change::PinChange(pin) => self.set_pin(FileId(pin.file), pin.pinned),
            Change::TtlChange(ttl) => self.set_ttl(ttl),
            Change::ReplicationChange(change) => {
                let file = FileId(change.file);
                match change.min {
                    0 => drop(self.side.replication.remove(&file)),
                    min if self.mark_side(file) => drop(self.side.replication.insert(file, min)),
                    _ => {}
                }
            }
            Change::PolicyChange(change) => {
                let file = FileId(change.file);
                match &change.policy {
                    None => drop(self.side.policies.remove(&file)),
                    Some(policy) if self.mark_side(file) => {
                        self.side.policies.insert(file, policy.as_str().into());
                    }
                    Some(_) => {}
                }
            }
            other => self.change_held(other, effects),
        }
    }

    /// Changes of what is held: leases, sessions, mounts, intents, orphans.
    fn change_held(&mut self, change: &Change, effects: &mut Vec<Effect>) {
        match change {
            Change::AddLease(add) => self.add_lease(add, effects),
            Change::SetLease(set) => self.set_lease(set, effects),
            Change::EndLease(end) => self.end_lease(LeaseId(end.lease), end.committed, effects),
            Change::AddSession(add) => self.add_session(add),
            Change::DropSession(gone) => self.drop_session(SessionId(gone.session), effects),
            Change::HoldNumbers(hold) => self.hold_numbers(hold),
            Change::AddMount(add) => {
                if let Some(record) = &add.record {
                    self.mounts.insert(MountId(add.mount), record);
                    self.tree.update(FileId(record.root), |inode| inode.set(Flag::MountPoint, true));
                    effects.push(Effect::InvalidateAll);
                }
            }
            Change::RemoveMount(gone) => {
                self.mounts.remove(MountId(gone.mount));
                effects.push(Effect::InvalidateAll);
            }
            Change::SetPending(set) => self.set_pending(Generation(set.generation), set.record.as_ref(), effects),
            Change::OpenIntent(open) => self.open_intent(open),
            Change::CloseIntent(close) => self.close_intent(IntentId(close.intent)),
            Change::AddOrphan(add) => {
                if let Some(record) = &add.record {
                    self.orphans.insert((FileId(add.file), Generation(add.generation)), record.clone());
                }
            }
            Change::CloseOrphan(close) => {
                let key = (FileId(close.file), Generation(close.generation));
                self.close_orphan(key, SessionId(close.session), effects);
            }
            Change::ReclaimSome(reclaim) => self.reclaim(reclaim.budget, effects),
            Change::SetJob(set) => self.set_job(set, effects),
            Change::JobSteps(steps) => self.job_steps(steps),
            _ => {}
        }
    }

    /// A directory's own times follow when its names change.
    fn touch_directory(&mut self, directory: FileId, time: Timestamp, found: bool, effects: &mut Vec<Effect>) {
        if !found {
            self.tree.update(directory, |inode| {
                let accessed = inode.times().accessed;
                inode.set_times(Times { accessed, modified: time, changed: time });
            });
            effects.push(Effect::Invalidate(directory));
        }
    }

    fn touch_changed(&mut self, file: FileId, time: Timestamp, effects: &mut Vec<Effect>) {
        self.tree.update(file, |inode| inode.set_times(Times { changed: time, ..inode.times() }));
        effects.push(Effect::Invalidate(file));
    }

    fn name_effect(parent: u64, name: &[u8], effects: &mut Vec<Effect>) {
        effects.push(Effect::InvalidateName { parent: FileId(parent), name: name.to_vec() });
    }

    fn add_inode(&mut self, time: Timestamp, add: &AddInode, effects: &mut Vec<Effect>) {
        let Some(record) = &add.inode else { return };
        let new = NewInode::from(record);
        if add.parent == 0 {
            let _ = self.tree.insert_nameless(&new);
        } else if self.tree.insert(FileId(add.parent), &add.name, &new).is_ok() {
            self.touch_directory(FileId(add.parent), time, add.found, effects);
            Self::name_effect(add.parent, &add.name, effects);
        }
    }

    fn add_name(&mut self, time: Timestamp, add: &AddName, effects: &mut Vec<Effect>) {
        if self.tree.link(FileId(add.file), FileId(add.parent), &add.name).is_ok() && !add.found {
            self.touch_changed(FileId(add.file), time, effects);
            self.touch_directory(FileId(add.parent), time, false, effects);
            Self::name_effect(add.parent, &add.name, effects);
        }
    }

    fn remove_name(&mut self, time: Timestamp, remove: &RemoveName, effects: &mut Vec<Effect>) {
        let Ok(removed) = self.tree.unlink(FileId(remove.parent), &remove.name) else { return };
        self.touch_directory(FileId(remove.parent), time, remove.found, effects);
        Self::name_effect(remove.parent, &remove.name, effects);
        let is_directory = self.tree.get(removed.id).is_some_and(Inode::is_directory);
        match (removed.last, is_directory) {
            (_, true) => {
                // Of an empty directory nobody knows anything but its name.
                let empty = self.tree.get(removed.id).is_none_or(|inode| self.tree.entries(inode) == 0);
                effects.push(if empty { Effect::Invalidate(removed.id) } else { Effect::InvalidateAll });
                effects.push(Effect::ReclaimPending);
            }
            (true, false) => self.last_name_gone(removed.id, remove, time, effects),
            (false, false) => self.touch_changed(removed.id, time, effects),
        }
    }

    /// A file has lost its last name: it goes, or lives on for those that have it open.
    fn last_name_gone(&mut self, file: FileId, remove: &RemoveName, time: Timestamp, effects: &mut Vec<Effect>) {
        let open: Vec<u64> =
            remove.holders.iter().copied().filter(|s| self.sessions.contains(&SessionId(*s))).collect();
        if open.is_empty() {
            effects.push(Effect::Invalidate(file));
            if let Some(freed) = self.tree.free(file) {
                self.forget(&freed, effects);
            }
            return;
        }
        if let Some(lease) = self.lease_of.get(&file).copied().filter(|lease| !self.is_edited_by(*lease, &open)) {
            self.cut_lease(lease, effects);
        }
        self.touch_changed(file, time, effects);
        self.orphan_inode(file, open, remove.mount);
    }

    /// Whether a lease is that of an edit by one of these sessions, who goes on with it without a name.
    fn is_edited_by(&self, lease: LeaseId, sessions: &[u64]) -> bool {
        self.leases.get(&lease).is_some_and(|record| record.edit && sessions.contains(&record.session))
    }

    /// Drops what the tables have of an inode that is no more.
    pub(super) fn forget(&mut self, freed: &Freed, effects: &mut Vec<Effect>) {
        if freed.side {
            self.side.remove(freed.id);
        }
        if let Some(lease) = self.lease_of.get(&freed.id).copied() {
            self.cut_lease(lease, effects);
        }
        if freed.file {
            self.set_pending(freed.generation, None, effects);
            effects.push(Effect::ContentOver { file: freed.id, generation: freed.generation });
        }
    }

    fn reclaim(&mut self, budget: u32, effects: &mut Vec<Effect>) {
        let orphans = &self.orphans;
        let keep = |file: FileId| {
            let from = (file, Generation(0));
            let mut versions = orphans.range_from(Bound::Included(&from)).take_while(|((other, _), _)| *other == file);
            versions.any(|(_, orphan)| orphan.nameless)
        };
        let freed = self.tree.reclaim(budget, keep);
        for freed in freed {
            self.forget(&freed, effects);
        }
        if self.tree.has_detached() {
            effects.push(Effect::ReclaimPending);
        }
    }

    fn move_name(&mut self, time: Timestamp, change: &MoveName, effects: &mut Vec<Effect>) {
        let (from, to) = (FileId(change.parent), FileId(change.to_parent));
        if self.tree.rename(from, &change.name, to, &change.to_name).is_ok() {
            self.moved(time, (change.parent, &change.name), (change.to_parent, &change.to_name), effects);
        }
    }

    fn exchange_names(&mut self, time: Timestamp, change: &ExchangeNames, effects: &mut Vec<Effect>) {
        let (from, to) = (FileId(change.parent), FileId(change.to_parent));
        if self.tree.exchange(from, &change.name, to, &change.to_name).is_ok() {
            self.moved(time, (change.to_parent, &change.to_name), (change.parent, &change.name), effects);
            let file = self.tree.child(to, &change.to_name).map(Inode::id);
            file.into_iter().for_each(|file| self.touch_changed(file, time, effects));
        }
    }

    fn moved(&mut self, time: Timestamp, from: (u64, &[u8]), to: (u64, &[u8]), effects: &mut Vec<Effect>) {
        for (parent, name) in [from, to] {
            self.touch_directory(FileId(parent), time, false, effects);
            Self::name_effect(parent, name, effects);
        }
        if let Some(inode) = self.tree.child(FileId(to.0), to.1) {
            let (file, directory) = (inode.id(), inode.is_directory());
            self.touch_changed(file, time, effects);
            if directory {
                effects.push(Effect::InvalidatePaths);
            }
        }
    }

    fn set_inode(&mut self, set: &SetInode, effects: &mut Vec<Effect>) {
        let file = FileId(set.file);
        let change = |inode: &mut Inode| {
            if let Some(mode) = set.mode {
                inode.set_mode(mode);
            }
            inode.set_owner(set.uid.unwrap_or(inode.uid()), set.gid.unwrap_or(inode.gid()));
            let times = inode.times();
            inode.set_times(Times {
                accessed: set.accessed.map_or(times.accessed, Timestamp),
                modified: set.modified.map_or(times.modified, Timestamp),
                changed: set.changed.map_or(times.changed, Timestamp),
            });
        };
        if self.tree.update(file, change) {
            self.move_due(file);
            effects.push(Effect::Invalidate(file));
        }
    }

    fn set_stored(&mut self, set: &SetStored, effects: &mut Vec<Effect>) {
        let file = FileId(set.file);
        let Some(inode) = self.tree.get(file) else { return };
        let generation = inode.generation();
        if set.generation != 0 && generation.0 != set.generation {
            return;
        }
        if let Some(stored) = set.stored {
            self.tree.update(file, |inode| inode.set(Flag::Stored, stored));
            if !stored {
                self.tree.set_fingerprint(file, None);
            }
        }
        if let Some(print) = &set.fingerprint {
            self.tree.set_fingerprint(file, Some(&print.into()));
        }
        if let Some(number) = set.persistence {
            self.tree.update(file, |inode| inode.set_persistence(persistence(number)));
            if persistence(number) == larder_common::Persistence::Persisted {
                self.set_pending(generation, None, effects);
                self.side.holders.remove(&file);
                effects.push(Effect::ContentPersisted { file, generation });
            }
        }
        effects.push(Effect::Invalidate(file));
    }

    /// Says that side tables may have an entry. False if there is no such inode.
    pub(super) fn mark_side(&mut self, file: FileId) -> bool {
        self.tree.update(file, |inode| inode.set(Flag::Side, true))
    }

    fn set_pin(&mut self, file: FileId, pinned: bool) {
        if !self.tree.update(file, |inode| inode.set(Flag::Pinned, pinned)) {
            return;
        }
        match pinned {
            true => drop(self.side.pins.insert(file, ())),
            false => drop(self.side.pins.remove(&file)),
        }
    }

    fn set_ttl(&mut self, change: &TtlChange) {
        let file = FileId(change.file);
        let Some(modified) = self.tree.get(file).map(|inode| inode.times().modified) else { return };
        let entry = ttl_action(change.action).map(|action| {
            let after = std::time::Duration::from_nanos(change.after);
            TtlEntry { ttl: Ttl { after, action }, due: modified.plus(after) }
        });
        self.side.set_ttl(file, entry);
        self.mark_side(file);
    }

    /// A time to live counts from the last change of the content.
    pub(super) fn move_due(&mut self, file: FileId) {
        let entry = self.side.ttls.get(&file).copied();
        let modified = self.tree.get(file).map(|inode| inode.times().modified);
        if let Some((entry, modified)) = entry.zip(modified) {
            self.side.set_ttl(file, Some(TtlEntry { due: modified.plus(entry.ttl.after), ..entry }));
        }
    }

    fn add_session(&mut self, add: &AddSession) {
        let lease = std::time::Duration::from_nanos(add.lease_nanos);
        let session = Session { name: add.name.as_str().into(), lease, held: (0, 0) };
        self.sessions.insert(SessionId(add.session), session);
    }

    fn hold_numbers(&mut self, hold: &HoldNumbers) {
        if let Some(session) = self.sessions.get_mut(&SessionId(hold.session)) {
            session.held = (hold.first, hold.end);
        }
    }

    fn open_intent(&mut self, open: &OpenIntent) {
        let Some(record) = &open.record else { return };
        for lock in &record.locks {
            self.locks.insert((lock.file, lock.name.clone()), IntentId(open.intent));
        }
        self.intents.insert(IntentId(open.intent), Arc::new(record.clone()));
    }

    fn close_intent(&mut self, intent: IntentId) {
        let Some(record) = self.intents.remove(&intent) else { return };
        for lock in &record.locks {
            let key = (lock.file, lock.name.clone());
            if self.locks.get(&key) == Some(&intent) {
                self.locks.remove(&key);
            }
        }
    }

    /// An empty state: no cluster, no mount, nothing but `/`.
    pub(super) fn empty_tree() -> InodeTree {
        let root = InodeRecord { id: FileId::ROOT.0, kind: 1, mode: 0o755, complete: true, ..InodeRecord::default() };
        InodeTree::new(&NewInode::from(&root))
    }
}
