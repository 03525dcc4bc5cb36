//! The beginning of an edit: a committed cache file is taken over, or a new one is made.
//!
//! Taking over: under the shard's lock the copy is found without readers and leases (but for the writer's own) and marked
//! busy; without the lock the kernel is asked and the file renamed; under the lock again the copy leaves the books. The
//! rename is the mark: a crash before it leaves a committed file, a crash after it a file that waits for the lease. It tells
//! an edit that has begun from one whose end was cut short only because the number of a lease is never given twice.

use std::sync::Arc;

use larder_common::{BlockIndex, Error, ErrorKind, Generation, LeaseId, Result};
use nix::fcntl::renameat;

use super::{
    super::{
        block_store::{BlockStore, Inner},
        books::{Copy, Entry, Shard},
        directory::{Directory, Space},
        feed::Change,
        index::{Weight, record::Record},
        kernel::{self, ChangeTime, Question},
        key::{CacheName, FIRST, FileKey, PAGE},
        room::Want,
    },
    EditStart, EditTicket, Edited, EditedFile,
};
use crate::eviction::Removal as Why;

/// A committed copy that is marked busy, to be taken over.
struct Claim {
    directory: Arc<Directory>,
    from: CacheName,
    to: CacheName,
    /// The change time that it should have, where that is known.
    changed: Option<ChangeTime>,
    ask: bool,
}

impl BlockStore {
    /// Takes a file over for editing, or goes on with an edit that was left under the same lease. Where nothing of the base
    /// can be taken over, all of its blocks are missing in what is answered: it is the caller's to fill them.
    ///
    /// # Errors
    /// `Busy` while the lease edits its file already, or a removal does not end; `NoSpace`; `Corrupt` for a base of which
    /// the only copy is damaged; the system's error.
    pub fn edit(&self, ticket: &EditTicket) -> Result<EditedFile> {
        if let Some(left) = self.resume_edit(ticket.lease)? {
            return Ok(left);
        }
        if let EditStart::Base(generation) = ticket.start
            && let Some(taken) = self.0.take_over(ticket, FileKey { file: ticket.file, generation })?
        {
            return Ok(taken);
        }
        self.0.edit_new(ticket)
    }

    /// Goes on with an edit that was left, here or by an earlier process. `None` where there is none.
    ///
    /// # Errors
    /// `Busy` while somebody has it; the system's error where it cannot be opened.
    pub fn resume_edit(&self, lease: LeaseId) -> Result<Option<EditedFile>> {
        let mut list = self.0.edited.lock();
        let Some(edited) = list.get_mut(&lease) else { return Ok(None) };
        if edited.active {
            return Err(Error::new(ErrorKind::Busy, format!("lease {lease} edits its file already")));
        }
        let (directory, name, spec) = (edited.directory.clone(), edited.name, edited.spec);
        let at = |e| kernel::at(e, &directory.path_of(name));
        let file = kernel::open_write(directory.data(), &name.to_string()).map_err(at)?;
        let size = kernel::status(&file).map_err(at)?.st_size;
        let reserved = u64::try_from(size).unwrap_or(0).next_multiple_of(PAGE);
        edited.active = true;
        let space = directory.kept(edited.bytes, true);
        drop(list);
        Ok(Some(EditedFile::new(self.0.clone(), directory, name, lease, spec, Some(file), space, reserved)))
    }
}

impl Inner {
    fn take_over(self: &Arc<Self>, ticket: &EditTicket, key: FileKey) -> Result<Option<EditedFile>> {
        let Some(claim) = self.claim_for_edit(ticket, key)? else { return Ok(None) };
        let marked = self.mark(&claim);
        let taken = self.settle_claim(ticket, key, &claim, marked.as_ref().ok().copied().flatten());
        self.notify(key.file);
        self.feed.wake();
        marked.map_err(|e| kernel::at(e, &claim.directory.path_of(claim.from)))?;
        let Some((edited, space)) = taken else { return Ok(None) };
        let (directory, name, spec) = (claim.directory, claim.to, edited.spec);
        self.edited.lock().insert(ticket.lease, edited);
        let reserved = spec.length.next_multiple_of(PAGE);
        let mut taken = EditedFile::new(self.clone(), directory, name, ticket.lease, spec, None, space, reserved);
        taken.open()?;
        Ok(Some(taken))
    }

    /// Marks the copy with most of the content busy, if nobody that the books know of has anything to do with it.
    fn claim_for_edit(&self, ticket: &EditTicket, key: FileKey) -> Result<Option<Claim>> {
        let Some(mut shard) = self.idle_copy(key, fullest)? else { return Ok(None) };
        let entry = shard.files.get_mut(&key);
        let Some(copy) = entry.and_then(fullest) else { return Ok(None) };
        if copy.blocks.iter().any(|(_, block)| block.damaged) {
            let message = format!("the only copy of {key} does not match its checksums");
            return Err(Error::new(ErrorKind::Corrupt, message)
                .advise("save what is left of it with `larder fsadmin unknown save`, or write the file anew"));
        }
        let ours = copy.leases > 0 && copy.leases == ticket.own && !copy.suspect;
        if copy.open > 0 || (copy.leases > 0 && !ours) {
            return Ok(None);
        }
        copy.busy = true;
        let from = Self::name(key, copy);
        let to = CacheName { lease: Some(ticket.lease), ..from };
        Ok(Some(Claim { directory: copy.directory.clone(), from, to, changed: copy.changed, ask: !ours }))
    }

    /// Asks the kernel and renames. Answers the change time after that, or `None` where somebody has the file.
    fn mark(&self, claim: &Claim) -> std::io::Result<Option<Option<ChangeTime>>> {
        let data = claim.directory.data();
        let (from, to) = (claim.from.to_string(), claim.to.to_string());
        let file = kernel::open_write(data, &from)?;
        let before = kernel::change_time(&kernel::status(&file)?);
        let granted = if claim.ask { kernel::ask(&file, Question::Alone)? } else { None };
        if claim.ask && granted.is_none() {
            return Ok(None);
        }
        renameat(data, from.as_str(), data, to.as_str())?;
        drop(granted);
        let after = kernel::change_time(&kernel::status(&file)?);
        Ok(Some((claim.changed == Some(before)).then_some(after)))
    }

    /// Takes the copy out of the books, or leaves it there where it was not marked.
    fn settle_claim(
        &self,
        ticket: &EditTicket,
        key: FileKey,
        claim: &Claim,
        marked: Option<Option<ChangeTime>>,
    ) -> Option<(Edited, Space)> {
        let mut shard = self.shard(key.file);
        let entry = shard.files.get_mut(&key)?;
        let spec = entry.spec;
        let copy = entry.of_serial(&claim.directory, claim.from.serial)?;
        copy.busy = false;
        let known = marked?;
        let copy = entry.remove_copy(&claim.directory, claim.from.serial)?;
        let mut space = Shard::release(spec.persisted, &copy);
        space.set_unpersisted(true);
        let gone: Vec<_> = copy.blocks.iter().map(|(index, block)| (*index, block.is_whole())).collect();
        self.tell_gone(&mut shard, key, &claim.directory, &gone, Why::Lost);
        shard.tidy(key);
        let whole = copy.blocks.into_iter().filter(|(_, block)| block.is_whole());
        let sums: std::collections::BTreeMap<_, _> = whole.map(|(index, block)| (index, block.crcs)).collect();
        let missing = (0..spec.blocks()).map(BlockIndex).filter(|index| !sums.contains_key(index)).collect();
        let edited =
            Edited { known, sums, missing, committed: true, ..listed(ticket, claim.directory.clone(), claim.to) };
        Some((Edited { spec, key, ..edited }, space))
    }

    /// Makes a new cache file for an edit, with room for its first bytes and all blocks of the base missing.
    fn edit_new(self: &Arc<Self>, ticket: &EditTicket) -> Result<EditedFile> {
        let generation = match ticket.start {
            EditStart::Empty => Generation(0),
            EditStart::Base(generation) => generation,
        };
        let key = FileKey { file: ticket.file, generation };
        let block = key.block(BlockIndex(0));
        let group = ticket.spec.group;
        let first = if ticket.spec.length == 0 { FIRST } else { 0 };
        let want = |bytes| Want { block, bytes, group, unpersisted: true, only: None };
        let space = self.room(&want(first)).or_else(|_| self.room(&want(0))).map_err(|no| no.into_error())?;
        let directory = space.directory().clone();
        let name = CacheName { key, serial: directory.next_serial(), lease: Some(ticket.lease) };
        let (spec, serial, lease) = (ticket.spec, name.serial, Some(ticket.lease));
        let missing = (0..spec.blocks()).map(BlockIndex).collect();
        let edited = Edited { missing, key, ..listed(ticket, directory.clone(), name) };
        let had = self.edited.lock().insert(ticket.lease, edited);
        debug_assert!(had.is_none(), "a lease that edits was found by resuming it");
        let reserved = spec.length.next_multiple_of(PAGE);
        let mut file =
            EditedFile::new(self.clone(), directory.clone(), name, ticket.lease, spec, None, space, reserved);
        let create = Record::Create { serial, key, spec, lease, committed: false, edit: Some(ticket.next) };
        let made = file.create().and_then(|()| directory.record(&[create], Weight::Adds));
        match made {
            Ok(()) => {
                let called = FileKey { generation: ticket.next, ..key };
                self.feed.push(Change::Present(called.block(BlockIndex(0)), directory.tier()));
                self.feed.wake();
                Ok(file)
            }
            Err(error) => {
                file.discard();
                Err(error)
            }
        }
    }
}

/// A new entry of the list.
fn listed(ticket: &EditTicket, directory: Arc<Directory>, name: CacheName) -> Edited {
    Edited {
        directory,
        name,
        key: name.key,
        was: None,
        next: ticket.next,
        committed: false,
        spec: ticket.spec,
        sums: std::collections::BTreeMap::new(),
        missing: std::collections::BTreeSet::new(),
        known: None,
        changed: false,
        active: true,
        doomed: false,
        looked: false,
        bytes: 0,
        since: std::time::Duration::ZERO,
    }
}

/// The copy with the most whole blocks; of several the one on the fastest tier.
fn fullest(entry: &mut Entry) -> Option<&mut Copy> {
    let whole = |copy: &Copy| copy.blocks.iter().filter(|(_, block)| block.is_whole()).count();
    entry.copies.iter_mut().rev().max_by_key(|copy| whole(copy)).filter(|copy| whole(copy) > 0)
}
