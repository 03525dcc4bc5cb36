//! Applying changes of content and of what is held on to it: versions, write leases, pending persists, orphans, sessions.

use std::ops::Bound;

use larder_common::{FileId, Generation, LeaseId, MountId, Persistence, SessionId, Times, Timestamp};

use crate::namespace::{Flag, Inode};

use super::{
    State,
    encoding::{block_shift, block_size, persistence},
    entry::{AddLease, LeaseRecord, OrphanRecord, PendingRecord, SetContent, SetLease},
    outcome::Effect,
};

/// The name of a version in the under store's orphans.
pub(super) fn orphan_name(file: FileId, generation: Generation) -> String {
    format!("{file}.{generation}")
}

impl State {
    pub(super) fn set_content(&mut self, set: &SetContent, effects: &mut Vec<Effect>) {
        let file = FileId(set.file);
        let Some(inode) = self.tree.get(file).filter(|inode| inode.is_file()) else { return };
        let (old, complete) = (inode.generation(), inode.is(Flag::Complete));
        let generation = Generation(set.generation);
        if old != generation {
            self.version_over(file, old, complete, set, effects);
            self.move_orphan(file, old, set, effects);
        }
        let state = persistence(set.persistence);
        self.tree.update(file, |inode| {
            inode.set_content(generation, set.length);
            inode.set_block_size(block_size(set.block_shift));
            inode.set_persistence(state);
            inode.set(Flag::Complete, true);
            let (modified, changed) = (Timestamp(set.modified), Timestamp(set.changed));
            inode.set_times(Times { modified, changed, ..inode.times() });
        });
        self.move_due(file);
        match set.holders.is_empty() {
            true => drop(self.side.holders.remove(&file)),
            false if self.mark_side(file) => drop(self.side.holders.insert(file, set.holders.clone().into())),
            false => {}
        }
        match state {
            Persistence::NotPersisted => {}
            Persistence::Persisted => effects.push(Effect::ContentPersisted { file, generation }),
            Persistence::ToBePersisted => {
                let record = PendingRecord { file: file.0, since: set.changed, attempt: None };
                self.set_pending(generation, Some(&record), effects);
            }
        }
        effects.push(Effect::Invalidate(file));
    }

    /// A file without a name has a new version: it lives on for the same sessions. What it was in the under store goes.
    fn move_orphan(&mut self, file: FileId, old: Generation, set: &SetContent, effects: &mut Vec<Effect>) {
        let Some(orphan) = self.orphans.get(&(file, old)).filter(|orphan| orphan.nameless).cloned() else { return };
        self.orphans.remove(&(file, old));
        if orphan.stored {
            let name = orphan_name(file, old);
            effects.push(Effect::OrphanOver { mount: MountId(orphan.mount), name });
        }
        let (length, block_shift) = (set.length, set.block_shift);
        let orphan = OrphanRecord { length, block_shift, stored: false, fingerprint: None, ..orphan };
        self.orphans.insert((file, Generation(set.generation)), orphan);
    }

    /// A version is replaced: it goes, or stays for those that have it open.
    fn version_over(
        &mut self,
        file: FileId,
        old: Generation,
        complete: bool,
        set: &SetContent,
        effects: &mut Vec<Effect>,
    ) {
        self.set_pending(old, None, effects);
        let open: Vec<u64> = set.open.iter().copied().filter(|s| self.sessions.contains(&SessionId(*s))).collect();
        if complete && open.is_empty() {
            effects.push(Effect::ContentOver { file, generation: old });
        } else if complete && let Some(record) = self.orphan(file, open, set.orphaned) {
            self.orphans.insert((file, old), record);
        }
    }

    fn orphan(&self, file: FileId, sessions: Vec<u64>, stored: bool) -> Option<OrphanRecord> {
        let inode = self.tree.get(file)?;
        Some(OrphanRecord {
            sessions,
            length: inode.length(),
            block_shift: block_shift(inode.block_size()),
            mount: self.mount_of(file).map_or(0, |mount| mount.id.0),
            stored,
            fingerprint: self.tree.fingerprint(inode).as_ref().map(Into::into),
            nameless: false,
        })
    }

    /// An inode without a name lives on for these sessions.
    pub(super) fn orphan_inode(&mut self, file: FileId, sessions: Vec<u64>, mount: u32) {
        let Some(inode) = self.tree.get(file) else { return };
        let (generation, stored) = (inode.generation(), inode.is(Flag::Stored));
        if let Some(record) = self.orphan(file, sessions, stored) {
            let record = OrphanRecord { nameless: true, mount, ..record };
            self.orphans.insert((file, generation), record);
        }
    }

    pub(super) fn close_orphan(&mut self, key: (FileId, Generation), session: SessionId, effects: &mut Vec<Effect>) {
        let Some(orphan) = self.orphans.get_mut(&key) else { return };
        orphan.sessions.retain(|other| *other != session.0);
        if !orphan.sessions.is_empty() {
            return;
        }
        let Some(orphan) = self.orphans.remove(&key) else { return };
        if orphan.stored {
            let name = orphan_name(key.0, key.1);
            effects.push(Effect::OrphanOver { mount: MountId(orphan.mount), name });
        }
        if orphan.nameless {
            effects.push(Effect::Invalidate(key.0));
        }
        match orphan.nameless.then(|| self.tree.free(key.0)).flatten() {
            Some(freed) => self.forget(&freed, effects),
            None => effects.push(Effect::ContentOver { file: key.0, generation: key.1 }),
        }
    }

    pub(super) fn add_lease(&mut self, add: &AddLease, effects: &mut Vec<Effect>) {
        let Some(record) = &add.record else { return };
        let mut record = record.clone();
        if record.edit && !self.sessions.contains(&SessionId(record.session)) {
            record.session = 0;
            effects.push(Effect::Adrift(LeaseId(add.lease)));
        }
        self.lease_of.insert(FileId(record.file), LeaseId(add.lease));
        self.leases.insert(LeaseId(add.lease), record);
    }

    pub(super) fn set_lease(&mut self, set: &SetLease, effects: &mut Vec<Effect>) {
        let Some(record) = self.leases.get_mut(&LeaseId(set.lease)) else { return };
        if let Some(patched) = &set.patched {
            record.patched = Some(patched.clone());
        }
        if let Some(temporary) = &set.temporary
            && let Some(over) = record.temporary.replace(temporary.clone()).filter(|over| over != temporary)
        {
            effects.push(Effect::TemporaryOver((&over).into()));
        }
    }

    pub(super) fn end_lease(&mut self, lease: LeaseId, committed: bool, effects: &mut Vec<Effect>) {
        let Some(record) = self.leases.remove(&lease) else { return };
        let file = FileId(record.file);
        if self.lease_of.get(&file) == Some(&lease) {
            self.lease_of.remove(&file);
        }
        if record.edit {
            effects.push(Effect::EditFree(lease));
        }
        if !committed {
            self.abandon(lease, &record, effects);
        }
    }

    /// A lease ends because its file is no more: what was written goes.
    pub(super) fn cut_lease(&mut self, lease: LeaseId, effects: &mut Vec<Effect>) {
        let Some(record) = self.leases.remove(&lease) else { return };
        self.lease_of.remove(&FileId(record.file));
        if record.edit {
            effects.push(Effect::EditFree(lease));
        }
        Self::unwritten(lease, &record, effects);
    }

    fn unwritten(lease: LeaseId, record: &LeaseRecord, effects: &mut Vec<Effect>) {
        let (file, generation) = (FileId(record.file), Generation(record.generation));
        effects.push(Effect::LeaseOver(lease));
        effects.push(match record.edit {
            true => Effect::EditOver { lease, file, generation },
            false => Effect::ContentOver { file, generation },
        });
        effects.extend(record.temporary.iter().map(|temporary| Effect::TemporaryOver(temporary.into())));
    }

    /// What was written goes; a file that never had content goes with it.
    fn abandon(&mut self, lease: LeaseId, record: &LeaseRecord, effects: &mut Vec<Effect>) {
        let file = FileId(record.file);
        Self::unwritten(lease, record, effects);
        let Some(inode) = self.tree.get(file).filter(|inode| !inode.is(Flag::Complete)) else { return };
        if self.orphans.get(&(file, inode.generation())).is_some_and(|orphan| orphan.nameless) {
            // It goes when it is closed.
            return;
        }
        let names: Vec<_> = self.tree.names(file).into_iter().map(|(parent, name)| (parent, name.to_vec())).collect();
        for (parent, name) in names {
            let _ = self.tree.unlink(parent, &name);
            effects.push(Effect::InvalidateName { parent, name });
        }
        if let Some(freed) = self.tree.free(file) {
            self.forget(&freed, effects);
        }
    }

    pub(super) fn set_pending(
        &mut self,
        generation: Generation,
        record: Option<&PendingRecord>,
        effects: &mut Vec<Effect>,
    ) {
        let old = match record {
            Some(record) => {
                effects.push(Effect::PersistPending { file: FileId(record.file), generation });
                self.pending.insert(generation, record.clone())
            }
            None => self.pending.remove(&generation),
        };
        let attempt = |record: Option<&PendingRecord>| record.and_then(|record| record.attempt.clone());
        if let Some(over) = attempt(old.as_ref()).filter(|old| attempt(record).as_ref() != Some(old)) {
            effects.push(Effect::TemporaryOver((&over).into()));
        }
    }

    /// A session ends. A lease that an open intent commits is left to that; an edit stays until it is decided what becomes
    /// of its bytes.
    pub(super) fn drop_session(&mut self, session: SessionId, effects: &mut Vec<Effect>) {
        if self.sessions.remove(&session).is_none() {
            return;
        }
        for slot in 0..super::SLOTS {
            self.slots.remove(&(session, slot));
        }
        let mine = self.leases.iter().filter(|(_, record)| record.session == session.0);
        for lease in mine.filter(|(_, record)| record.edit).map(|(lease, _)| *lease).collect::<Vec<_>>() {
            if let Some(record) = self.leases.get_mut(&lease) {
                record.session = 0;
            }
            effects.push(Effect::Adrift(lease));
        }
        let mine = self.leases.iter().filter(|(_, record)| record.session == session.0);
        let free = mine.filter(|(_, record)| !self.locks.contains(&(record.file, Vec::new())));
        for lease in free.map(|(lease, _)| *lease).collect::<Vec<_>>() {
            self.end_lease(lease, false, effects);
        }
        let open = self.orphans.range_from(Bound::Unbounded).filter(|(_, orphan)| orphan.sessions.contains(&session.0));
        for key in open.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.close_orphan(key, session, effects);
        }
    }

    /// Whether the only bytes of a file are in the cache.
    pub(super) fn is_unpersisted(&self, inode: &Inode) -> bool {
        inode.is_file() && inode.is(Flag::Complete) && inode.persistence() != Persistence::Persisted
    }
}
