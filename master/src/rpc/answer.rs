//! What clients and workers are told, made from the state, the locations and the registry.
//!
//! Grants are signed here. A grant to read names the object and its fingerprint, so that a cold read needs no second trip;
//! a grant to write names the lease and the temporary.

use bytes::Bytes;
use larder_common::{
    BlockIndex, BlockSize, Error, ErrorKind, FileId, FileStatus, Fingerprint, Generation, LeaseId, MountId,
    Persistence, Position, Result, WriteType,
};
use larder_proto::{Base, Grant, Greeting, WriteRight, convert, v1};

use crate::{
    cluster::{
        Candidate, Holding, Registry, WorkerSlot,
        placement::{self, Preference},
    },
    master::Master,
    state::{Outcome, State, Temporary, WriteLease},
};

/// The content of a file as grants and placement need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// The version.
    pub generation: Generation,
    /// Length in bytes.
    pub length: u64,
    /// The size of its blocks.
    pub block_size: BlockSize,
    /// Whether it is in the under store.
    pub persisted: bool,
    /// The mount.
    pub mount: MountId,
}

/// The content of a file, if it has any.
#[must_use]
pub fn content(state: &State, file: FileId) -> Option<Content> {
    let status = state.status(file).filter(|status| status.kind.is_file())?;
    Some(Content {
        generation: status.generation,
        length: status.length,
        block_size: status.block_size,
        persisted: status.persistence == Persistence::Persisted,
        mount: status.mount,
    })
}

fn gone(file: FileId) -> Error {
    Error::new(ErrorKind::NotFound, format!("file {file} is no more"))
}

/// The status of an inode, with how much of it is in the cache.
///
/// # Errors
/// `NotFound`.
pub fn status(master: &Master, state: &State, file: FileId) -> Result<FileStatus> {
    let mut status = state.status(file).ok_or_else(|| gone(file))?;
    if status.kind.is_file() && status.length > 0 {
        let blocks = u64::from(status.block_size.count(status.length));
        let held = u64::from(master.locations.held((file, status.generation)));
        status.in_cache_percent = u8::try_from((held * 100 / blocks).min(100)).unwrap_or(100);
    }
    Ok(status)
}

fn unsigned_grant(state: &State, file: FileId, write: Option<WriteRight>) -> Result<Grant> {
    let content = content(state, file).ok_or_else(|| gone(file))?;
    let object = state.under_path(file).map(|(_, path)| path.0).unwrap_or_default();
    let (group, policy) = state.group(file);
    Ok(Grant {
        file,
        generation: content.generation,
        length: content.length,
        block_size: content.block_size,
        mount: content.mount,
        object: object.into(),
        fingerprint: state.fingerprint(file).filter(|_| content.persisted),
        group,
        policy: policy.and_then(|name| name.parse().ok()).unwrap_or_default(),
        orphan: Bytes::new(),
        persisted: content.persisted,
        pinned: state.is_pinned(file),
        write,
    })
}

/// The grant, signed with the newest key.
pub(super) fn sign(master: &Master, grant: &Grant) -> Bytes {
    grant.sign(master.keys.lock().current())
}

/// A grant to read the committed content of a file.
///
/// # Errors
/// `NotFound`.
pub fn read_grant(master: &Master, file: FileId) -> Result<Bytes> {
    let grant = unsigned_grant(&master.core.read(), file, None)?;
    Ok(sign(master, &grant))
}

/// A grant to fill an attempt's temporary with committed content.
///
/// # Errors
/// `NotFound`; `Changed` when the version is over.
pub fn persist_grant(master: &Master, file: FileId, generation: Generation, temporary: &Temporary) -> Result<Bytes> {
    let right = WriteRight {
        lease: LeaseId(0),
        write_type: WriteType::AsyncThrough,
        temporary: temporary.name.clone().into(),
        sync: true,
        base: None,
    };
    let grant = unsigned_grant(&master.core.read(), file, Some(right))?;
    if grant.generation != generation {
        return Err(Error::new(ErrorKind::Changed, format!("version {generation} of file {file} is over")));
    }
    Ok(sign(master, &grant))
}

/// A version of a file that is not committed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The file.
    pub file: FileId,
    /// The version.
    pub generation: Generation,
    /// Its length in bytes.
    pub length: u64,
    /// The size of its blocks.
    pub block_size: BlockSize,
}

/// A grant to bring a sealed version of an edit into the under store: into a temporary, synced or not, or into the object
/// that looks like this.
///
/// # Errors
/// `NotFound`.
pub fn edit_grant(
    master: &Master,
    version: Version,
    lease: &WriteLease,
    (temporary, sync): (Option<&Temporary>, bool),
    object: Option<Fingerprint>,
) -> Result<Bytes> {
    let right = WriteRight {
        lease: lease.id,
        write_type: lease.write_type,
        temporary: temporary.map(|temporary| temporary.name.clone().into()).unwrap_or_default(),
        sync,
        base: None,
    };
    let Version { file, generation, length, block_size } = version;
    let known = unsigned_grant(&master.core.read(), file, Some(right))?;
    let grant = Grant { generation, length, block_size, fingerprint: object, persisted: false, ..known };
    Ok(sign(master, &grant))
}

/// What a call is answered.
///
/// # Errors
/// `NotFound` where what was made is gone already.
pub fn outcome(
    master: &Master,
    greeting: &Greeting,
    preference: &Preference,
    outcome: Outcome,
) -> Result<v1::outcome::Result> {
    use v1::outcome::Result as Wire;
    match outcome {
        Outcome::Made(file) | Outcome::Committed { file, .. } => made(master, file),
        Outcome::Writing { file, generation, lease, temporary } => {
            created(master, greeting, preference, Writing { file, generation, lease, temporary }).map(Wire::Created)
        }
        _ => Ok(Wire::Done(v1::Empty {})),
    }
}

/// The status of what a call made or changed.
///
/// # Errors
/// `NotFound` where it is gone already.
pub fn made(master: &Master, file: FileId) -> Result<v1::outcome::Result> {
    let status = status(master, &master.core.read(), file)?;
    Ok(v1::outcome::Result::Status((&status).into()))
}

struct Writing {
    file: FileId,
    generation: Generation,
    lease: LeaseId,
    temporary: Option<Temporary>,
}

fn created(master: &Master, greeting: &Greeting, preference: &Preference, writing: Writing) -> Result<v1::Created> {
    let (status, mut grant, lease) = {
        let state = master.core.read();
        let lease = state.lease(writing.lease).ok_or_else(|| gone(writing.file))?;
        (status(master, &state, writing.file)?, unsigned_grant(&state, writing.file, None)?, lease)
    };
    // An edit describes what it begins as, if that is what is there: others may have changed it since.
    let base = lease.base.filter(|(base, _)| *base == grant.generation);
    if base.is_none() {
        (grant.length, grant.fingerprint, grant.persisted) = (0, None, false);
    }
    let committed = (writing.file, grant.generation);
    grant.generation = writing.generation;
    grant.write = Some(WriteRight {
        lease: writing.lease,
        write_type: lease.write_type,
        temporary: writing.temporary.map(|temporary| temporary.name.into()).unwrap_or_default(),
        sync: true,
        base: base.map(|(generation, length)| Base { generation, length }),
    });
    let mut holders = if base.is_some() { master.locations.holders(committed) } else { Vec::new() };
    let copies = usize::try_from(status.replication_min.max(1)).unwrap_or(1);
    let wanted = placement::Wanted { near: preference.near, locality: &greeting.locality };
    let registry = master.registry.lock();
    let live = preference.usable(registry.candidates(grant.mount));
    if grant.persisted && !live.is_empty() {
        holders.retain(|holding| answers(&registry, preference, holding.worker));
    }
    let placed = placement::to_write(writing.file, copies, &wanted, &live);
    let near = preference.near.and_then(|id| registry.slot(id)).filter(|slot| live.iter().any(|c| c.slot == *slot));
    let is_live = |slot: &WorkerSlot| registry.get(*slot).is_some_and(|record| record.live);
    let workers = editors(&grant, near, holders, placed).into_iter().filter(is_live).collect::<Vec<_>>();
    // None at all is no failure: the file has been begun, and whoever holds the lease decides whether to wait.
    let workers = workers.iter().filter_map(|slot| address(&registry, *slot)).collect();
    Ok(v1::Created { status: Some((&status).into()), lease: writing.lease.0, grant: sign(master, &grant), workers })
}

/// The workers to write at, the first first. Of an edit: who holds most of what it begins as, for that may be nowhere else;
/// where the under store has it too, a worker whose socket the client can open before all others.
fn editors(grant: &Grant, near: Option<WorkerSlot>, holders: Vec<Holding>, placed: Vec<WorkerSlot>) -> Vec<WorkerSlot> {
    let mut held: Vec<(u32, WorkerSlot)> = Vec::new();
    for holding in holders.iter().filter(|holding| holding.lease.is_none()) {
        match held.iter_mut().find(|(_, worker)| *worker == holding.worker) {
            Some((count, _)) => *count += holding.blocks.len(),
            None => held.push((holding.blocks.len(), holding.worker)),
        }
    }
    held.sort_by_key(|(count, worker)| (std::cmp::Reverse(*count), Some(*worker) != near, *worker));
    let near = near.filter(|_| grant.persisted && !held.is_empty());
    let mut workers: Vec<WorkerSlot> = Vec::new();
    for worker in near.into_iter().chain(held.into_iter().map(|(_, worker)| worker)).chain(placed) {
        if !workers.contains(&worker) {
            workers.push(worker);
        }
    }
    workers
}

fn address(registry: &Registry, slot: WorkerSlot) -> Option<v1::WorkerAddress> {
    registry.get(slot).map(|record| (&record.address).into())
}

/// Where these workers are reached.
#[must_use]
pub fn addresses(master: &Master, workers: &[WorkerSlot]) -> Vec<v1::WorkerAddress> {
    let registry = master.registry.lock();
    workers.iter().filter_map(|slot| address(&registry, *slot)).collect()
}

/// Everything that a client needs to read a file: grant, holders, and who is to fetch what nobody holds.
///
/// # Errors
/// `NotFound`; `Invalid` for what has no content.
pub fn open(master: &Master, greeting: &Greeting, preference: &Preference, file: FileId) -> Result<v1::OpenReply> {
    let (status, grant, position) = {
        let state = master.core.read();
        let status = status(master, &state, file)?;
        if !status.kind.is_file() {
            let kind = if status.kind.is_directory() { ErrorKind::IsDirectory } else { ErrorKind::Invalid };
            return Err(Error::new(kind, "only a file has bytes to read"));
        }
        (status, unsigned_grant(&state, file, None)?, state.position())
    };
    Ok(placed(master, greeting, preference, (&status, &grant, position)))
}

fn placed(
    master: &Master,
    greeting: &Greeting,
    preference: &Preference,
    (status, grant, position): (&FileStatus, &Grant, Position),
) -> v1::OpenReply {
    let mut reply = v1::OpenReply {
        status: Some(status.into()),
        grant: sign(master, grant),
        position: position.0,
        ..v1::OpenReply::default()
    };
    let wanted = placement::Wanted { near: preference.near, locality: &greeting.locality };
    let registry = master.registry.lock();
    let live = preference.usable(registry.candidates(grant.mount));
    let mut holders = master.locations.holders((grant.file, grant.generation));
    if grant.persisted && !live.is_empty() {
        holders.retain(|holding| answers(&registry, preference, holding.worker));
    }
    Places { reply: &mut reply, registry: &registry }.fill(grant, &wanted, &live, holders);
    reply
}

/// Whether what a worker holds is of use to the client. If not, another one can fetch it.
fn answers(registry: &Registry, preference: &Preference, worker: WorkerSlot) -> bool {
    registry.get(worker).is_some_and(|record| record.linked && !preference.without.contains(&record.address.id))
}

/// The same for a version that is over and that the caller's session has open. `None` for all other.
#[must_use]
pub fn open_orphan(
    master: &Master,
    greeting: &Greeting,
    preference: &Preference,
    (file, generation): (FileId, Generation),
) -> Option<v1::OpenReply> {
    let (status, grant, position) = {
        let state = master.core.read();
        let place = state.orphan_place(file, generation).filter(|place| place.sessions.contains(&greeting.session))?;
        let (length, block_size) = (place.length, place.block_size);
        let status = FileStatus { generation, length, block_size, ..state.status(file)? };
        let grant = unsigned_grant(&state, file, None).ok()?;
        let (persisted, orphan) = (place.name.is_some(), place.name.unwrap_or_default().into());
        let fingerprint = place.fingerprint.filter(|_| persisted);
        let (mount, object) = (place.mount, Bytes::new());
        let grant = Grant { generation, length, block_size, mount, object, fingerprint, persisted, orphan, ..grant };
        (status, grant, state.position())
    };
    Some(placed(master, greeting, preference, (&status, &grant, position)))
}

/// Takes an answer in as a sibling of another: its workers join the other's list, so that each is named once.
pub fn adopt(reply: &mut v1::OpenReply, mut sibling: v1::OpenReply) {
    let places: Vec<u32> = std::mem::take(&mut sibling.workers).into_iter().map(|worker| join(reply, worker)).collect();
    let place = |worker: u32| places.get(worker as usize).copied().unwrap_or(0);
    sibling.holders.iter_mut().for_each(|holder| holder.worker = place(holder.worker));
    sibling.assignments.iter_mut().for_each(|assignment| assignment.worker = place(assignment.worker));
    reply.siblings.push(sibling);
}

fn join(reply: &mut v1::OpenReply, worker: v1::WorkerAddress) -> u32 {
    let known = reply.workers.iter().position(|other| other.id == worker.id);
    let place = known.unwrap_or_else(|| {
        reply.workers.push(worker);
        reply.workers.len() - 1
    });
    u32::try_from(place).unwrap_or(0)
}

/// Fills in who holds what, each worker named once.
struct Places<'a> {
    reply: &'a mut v1::OpenReply,
    registry: &'a Registry,
}

impl Places<'_> {
    fn fill(mut self, grant: &Grant, wanted: &placement::Wanted<'_>, live: &[Candidate], holders: Vec<Holding>) {
        let blocks = grant.block_size.count(grant.length);
        let mut held = vec![false; blocks as usize];
        // What is nowhere else is read from the worker where it is being edited, as it is now.
        for holding in holders.iter().filter(|h| h.lease.is_none() || !grant.persisted) {
            let Some(worker) = self.place(holding.worker) else { continue };
            holding.blocks.iter().filter(|block| *block < blocks).for_each(|block| held[block as usize] = true);
            let medium = v1::Medium::from(holding.medium).into();
            self.reply.holders.push(v1::Holder { worker, medium, runs: holding.blocks.to_runs() });
        }
        let mut assigned: Vec<(WorkerSlot, Vec<u32>)> = Vec::new();
        for block in (0..blocks).filter(|block| !held[*block as usize]) {
            let Some(slot) = placement::to_fetch(grant.file, BlockIndex(block), wanted, live) else { break };
            match assigned.iter_mut().find(|(other, _)| *other == slot) {
                Some((_, blocks)) => blocks.push(block),
                None => assigned.push((slot, vec![block])),
            }
        }
        for (slot, blocks) in assigned {
            let Some(worker) = self.place(slot) else { continue };
            self.reply.assignments.push(v1::Assignment { worker, runs: convert::to_runs(blocks) });
        }
    }

    /// The place of a live worker in the reply's list.
    fn place(&mut self, slot: WorkerSlot) -> Option<u32> {
        let record = self.registry.get(slot).filter(|record| record.live)?;
        let id = record.address.id.to_bytes();
        let known = self.reply.workers.iter().position(|worker| worker.id[..] == id[..]);
        let place = known.unwrap_or_else(|| {
            self.reply.workers.push((&record.address).into());
            self.reply.workers.len() - 1
        });
        u32::try_from(place).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(id: u8) -> v1::WorkerAddress {
        v1::WorkerAddress { id: vec![id; 16].into(), ..Default::default() }
    }

    #[test]
    fn siblings_name_their_workers_in_the_first_one_s_list() {
        let mut reply = v1::OpenReply { workers: vec![worker(1)], ..Default::default() };
        let holder = |worker| v1::Holder { worker, ..Default::default() };
        let holders = vec![holder(0), holder(1)];
        adopt(&mut reply, v1::OpenReply { workers: vec![worker(2), worker(1)], holders, ..Default::default() });
        assert_eq!(reply.workers, [worker(1), worker(2)]);
        assert_eq!(reply.siblings[0].holders.iter().map(|h| h.worker).collect::<Vec<_>>(), [1, 0]);
        assert!(reply.siblings[0].workers.is_empty());
    }
}
