//! Edits, as the server carries them out: what goes on between a client that commits, the worker that has the bytes, and the
//! under store; who has to give way to whom; who has open what is about to go.
//!
//! A commit is one call of the client and several steps here: the worker fills a temporary (or, inside an intent, writes into
//! the object in place), then the state machine commits. The steps of one lease never overlap ([`Turns`]). Nothing here is
//! recorded: a master that starts anew finds the lease, and the client sends its call again.

pub mod decisions;
#[cfg(test)]
mod tests;
mod turns;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use larder_common::{
    BlockSize, Error, ErrorKind, FileId, Fingerprint, Incarnation, LeaseId, Persistence, Result, SessionId, Timestamp,
    WorkerId, WriteType,
};
use larder_proto::v1::{self, order};

use self::decisions::{Facts, Way, way};
pub use self::turns::{Turn, Turns};
use crate::{
    book,
    cluster::WorkerSlot,
    core::{Asker, Finished},
    master::Master,
    rpc::{answer, command},
    sessions::Touched,
    state::{
        ByteRange, Changed, Command, CommitEdit, EditBytes, Operation, Outcome, Place, Resolve, RetryEdit, State,
        Target, Temporary, WriteLease,
    },
};

/// How long a worker may take to bring a whole file into the under store.
const UPLOAD: Duration = Duration::from_secs(600);
/// How long the holder of an edit may take to give it up.
const GIVE_UP: Duration = Duration::from_secs(15);

/// A commit on its way.
struct Commit<'a> {
    master: &'a Arc<Master>,
    asker: &'a Asker,
    command: CommitEdit,
    block_size: BlockSize,
    lease: WriteLease,
    /// The worker that has the bytes.
    worker: Option<(WorkerId, WorkerSlot)>,
    /// Its receipt.
    receipt: Option<v1::Receipt>,
}

/// Commits an edit, and brings its bytes into the under store first where they belong there.
///
/// # Errors
/// Those of the plan, of the worker, of the under store; `Mismatch` for a receipt of a worker that has restarted since.
pub async fn commit(
    master: &Arc<Master>,
    asker: &Asker,
    session: SessionId,
    complete: v1::CompleteFile,
) -> Result<Finished> {
    let _turn = master.turns.take(LeaseId(complete.lease), Instant::now() + UPLOAD).await?;
    let dirty: Vec<ByteRange> =
        complete.dirty.iter().map(|range| ByteRange { offset: range.offset, length: range.length }).collect();
    let derived = complete.derived;
    let mut commit = Commit::prepare(master, asker, session, complete)?;
    if asker.request.is_some_and(|request| master.core.read().is_taken(request)) {
        return commit.execute(EditBytes::Cache).await;
    }
    commit.command.holders = open_elsewhere(master, commit.lease.file, Some(session)).await;
    let way = commit.way(&dirty, derived);
    let finished = match way {
        Way::Cache => commit.execute(EditBytes::Cache).await,
        Way::Replace => commit.replace().await,
        Way::Patch(ranges) => match commit.patch(ranges).await {
            Err(error) if commit.is_open() => {
                tracing::warn!(%error, file = commit.lease.file.0, "a file could not be written in place; it is replaced");
                commit.replace().await
            }
            result => result,
        },
    }?;
    commit.note();
    Ok(finished)
}

impl<'a> Commit<'a> {
    fn prepare(
        master: &'a Arc<Master>,
        asker: &'a Asker,
        session: SessionId,
        complete: v1::CompleteFile,
    ) -> Result<Self> {
        let (lease, block_size) = {
            let state = master.core.read();
            let lease = state.lease(LeaseId(complete.lease)).filter(|lease| lease.edit);
            let lease = lease.ok_or_else(|| Error::new(ErrorKind::Changed, "the right to write this file is over"))?;
            let size = state.status(lease.file).map_or(master.config.block_size, |status| status.block_size);
            (lease, size)
        };
        let same = complete.derived
            && complete.dirty.is_empty()
            && lease.base.is_some_and(|(_, length)| length == complete.length);
        let changed = match complete.modified {
            Some(time) => Changed::At(Timestamp(time)),
            None if same => Changed::Not,
            None => Changed::Now,
        };
        let receipt = complete.receipts.into_iter().find(|receipt| receipt.cached || receipt.uploaded);
        let worker = receipt.as_ref().map(|receipt| sender(master, receipt)).transpose()?;
        let held = receipt.iter().filter(|receipt| receipt.cached);
        let receipts = held.map(|receipt| command::blocks(receipt, complete.length, block_size));
        let receipts = receipts.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let go_on = complete.go_on && !master.sessions.is_recalled(session, lease.id);
        let command = CommitEdit {
            lease: lease.id,
            session: Some(session),
            length: complete.length,
            receipts,
            bytes: EditBytes::Cache,
            go_on,
            sync: complete.sync || asker.durable,
            holders: Vec::new(),
            changed,
        };
        Ok(Self { master, asker, command, block_size, lease, worker, receipt })
    }

    fn way(&self, dirty: &[ByteRange], derived: bool) -> Way {
        let state = self.master.core.read();
        let status = state.status(self.lease.file);
        let current = self.lease.base.map(|(generation, _)| generation) == status.as_ref().map(|s| s.generation);
        let persisted = status.as_ref().is_some_and(|status| status.persistence == Persistence::Persisted);
        let through = match self.lease.write_type {
            WriteType::CacheThrough | WriteType::Through => true,
            WriteType::AsyncThrough => self.command.sync,
            WriteType::MustCache => false,
        };
        let mount = state.mount_of(self.lease.file).map(|mount| mount.id);
        let stores = &self.master.stores;
        let store = mount.and_then(|mount| stores.mounts().get(mount).ok()).and_then(|mount| mount.store().ok());
        let base_length = self.lease.base.map_or(0, |(_, length)| length);
        let whole = status.as_ref().is_some_and(|status| status.length == base_length);
        way(&Facts {
            through,
            named: mount.is_some(),
            stored: current && persisted && !self.lease.patched && state.fingerprint(self.lease.file).is_some(),
            can_patch: self.worker.is_some() && store.is_some_and(|store| store.capabilities().patch),
            links: status.map_or(1, |status| status.links),
            sync: self.command.sync,
            derived: derived && whole,
            dirty,
            length: self.command.length,
        })
    }

    async fn execute(&self, bytes: EditBytes) -> Result<Finished> {
        let command = CommitEdit { bytes, ..self.command.clone() };
        self.master.core.execute(&self.master.under, command.into(), self.asker).await
    }

    async fn patch(&self, ranges: Vec<ByteRange>) -> Result<Finished> {
        let Some((worker, _)) = self.worker else { return Err(no_receipt()) };
        self.execute(EditBytes::Patch { worker, ranges }).await
    }

    /// Whether it can be tried in another way.
    fn is_open(&self) -> bool {
        let state = self.master.core.read();
        let lease = state.lease(self.lease.id).is_some_and(|lease| lease.generation == self.lease.generation);
        lease && self.asker.request.is_none_or(|request| !state.is_taken(request))
    }

    async fn replace(&self) -> Result<Finished> {
        if self.command.length == 0 {
            return self.execute(EditBytes::Cache).await;
        }
        if self.is_uploaded() {
            match self.execute(EditBytes::Uploaded).await {
                // Its place has changed meanwhile, and with it where temporaries lie.
                Err(error) if error.kind() == ErrorKind::NotFound && self.is_open() => self.renew().await.map(drop)?,
                result => return result,
            }
        }
        let filled = match self.fill().await {
            // The worker has filled it already, and this is another try.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && self.is_open() => {
                self.renew().await?;
                self.fill().await
            }
            result => result,
        };
        let finished = match filled {
            Ok(()) => self.execute(EditBytes::Uploaded).await,
            Err(error) => Err(error),
        };
        if finished.is_err() && self.is_open() {
            // A worker that is late fills a temporary that nobody publishes.
            self.renew().await.map(drop).unwrap_or_else(|error| {
                tracing::debug!(%error, lease = self.lease.id.0, "an edit keeps the temporary of a failed attempt");
            });
        }
        finished
    }

    /// Whether the worker has filled the lease's temporary, and nothing more is asked of it.
    fn is_uploaded(&self) -> bool {
        let through = matches!(self.lease.write_type, WriteType::CacheThrough | WriteType::Through);
        let uploaded = self.receipt.as_ref().filter(|receipt| receipt.uploaded);
        let temporary = self.master.core.read().lease(self.lease.id).and_then(|lease| lease.temporary);
        let filled = uploaded.zip(temporary).is_some_and(|(receipt, t)| t.name.as_bytes() == &receipt.temporary[..]);
        through && filled && !self.must_sync()
    }

    /// Whether the bytes must be on the under store's disk before they get their name.
    fn must_sync(&self) -> bool {
        let state = self.master.core.read();
        // Of what is empty a power cut can take nothing.
        let is_empty = state.status(self.lease.file).is_none_or(|status| status.length == 0);
        self.command.sync || (state.is_stored(self.lease.file) && !is_empty)
    }

    /// Has the worker fill the lease's temporary.
    async fn fill(&self) -> Result<()> {
        let Some((_, worker)) = self.worker else { return Err(no_receipt()) };
        let known = self.master.core.read().lease(self.lease.id).and_then(|lease| lease.temporary);
        let temporary = match known {
            Some(temporary) => temporary,
            None => self.renew().await?,
        };
        let sync = self.must_sync();
        let version = answer::Version {
            file: self.lease.file,
            generation: self.lease.generation,
            length: self.command.length,
            block_size: self.block_size,
        };
        let grant = answer::edit_grant(self.master, version, &self.lease, (Some(&temporary), sync), None)?;
        let order = order::What::Persist(v1::OrderPersist { grant });
        self.master.links.order(worker, order, UPLOAD).await.map(drop)
    }

    async fn renew(&self) -> Result<Temporary> {
        let finished = self.master.execute(RetryEdit { lease: self.lease.id }).await?;
        match finished.outcome {
            Outcome::Writing { temporary: Some(temporary), .. } => Ok(temporary),
            other => Err(Error::new(ErrorKind::Unavailable, format!("a new attempt came to {other:?}"))),
        }
    }

    /// Takes the receipt for what the worker holds, until it reports that itself.
    fn note(&self) {
        let (Some(receipt), Some((_, worker))) = (&self.receipt, self.worker) else { return };
        if receipt.cached {
            self.master.holds(self.lease.file, self.lease.generation, worker, &receipt.held);
        }
    }
}

fn no_receipt() -> Error {
    Error::new(ErrorKind::Invalid, "no worker has given a receipt for what was written")
}

/// The worker that gave a receipt, if it is the one that is registered now.
fn sender(master: &Master, receipt: &v1::Receipt) -> Result<(WorkerId, WorkerSlot)> {
    let id = WorkerId::try_from(&receipt.worker[..])?;
    let registry = master.registry.lock();
    let current = registry.is_current(id, Incarnation(receipt.incarnation));
    let slot = registry.slot(id).filter(|_| current);
    let restarted = || Error::new(ErrorKind::Changed, format!("worker {id} has been started anew since it took this"));
    Ok((id, slot.ok_or_else(restarted)?))
}

/// Has the worker of a patch write, within an intent.
///
/// # Errors
/// The worker's; `Unavailable` without it, `Deadline`.
pub async fn patch(master: &Arc<Master>, (_, operation, sync, deadline): book::Patch) -> Result<Fingerprint> {
    let Operation::Patch { file, generation, worker, expected, ranges, length, .. } = operation else {
        return Err(Error::new(ErrorKind::Invalid, "not a patch"));
    };
    let away = || Error::new(ErrorKind::Unavailable, format!("worker {worker} is away"));
    let slot = master.registry.lock().slot(worker).ok_or_else(away)?;
    let (lease, block_size) = {
        let state = master.core.read();
        let gone = || Error::new(ErrorKind::NotFound, format!("file {file} is no more"));
        (state.edit_on(file).ok_or_else(gone)?, state.status(file).ok_or_else(gone)?.block_size)
    };
    let version = answer::Version { file, generation, length, block_size };
    let grant = answer::edit_grant(master, version, &lease, (None, sync), Some(expected))?;
    let range = |range: &ByteRange| v1::ByteRange { offset: range.offset, length: range.length };
    let ranges = ranges.iter().map(range).collect();
    let order = order::What::Patch(v1::OrderPatch { grant, ranges, length, sync });
    let done = master.links.order(slot, order, deadline.saturating_duration_since(Instant::now())).await?;
    let silent = || Error::new(ErrorKind::Mismatch, "the worker did not say what the file looks like now");
    done.fingerprint.map(Fingerprint::from).ok_or_else(silent)
}

/// What is at a path or in a directory under a name, as far as it is known.
fn at(state: &State, place: &Place, asker: &Asker) -> Option<FileId> {
    match place {
        Place::Path(path) => match state.resolve(path, &asker.caller, &[]) {
            Ok(Resolve::Found(file)) => Some(file),
            _ => None,
        },
        Place::Child(parent, name) => state.child(*parent, name.as_bytes()),
    }
}

/// The file that a command begins to write anew, as far as it is known.
fn begun(state: &State, command: &Command, asker: &Asker) -> Option<FileId> {
    let of = |target: &Target| match target {
        Target::Path(path) => at(state, &path.clone().into(), asker),
        Target::Id(file) => Some(*file),
    };
    match command {
        Command::EditFile(edit) => of(&edit.target),
        Command::CreateFile(create) => at(state, &create.place, asker),
        Command::CreateComplete(create) => at(state, &create.create.place, asker),
        Command::SetAttributes(set) if set.length.is_some() => of(&set.target),
        _ => None,
    }
}

/// After a command was refused as `Busy`: if that is because of another session's edit, asks for it, and ends when it is
/// given up. False where nothing can be waited for.
///
/// # Errors
/// `Busy` when it was not given up in time.
pub async fn give_way(master: &Master, command: &Command, asker: &Asker, session: SessionId) -> Result<bool> {
    let edit = || {
        let state = master.core.read();
        begun(&state, command, asker).and_then(|file| state.edit_on(file)).filter(|edit| edit.session != session)
    };
    let Some(edit_now) = edit() else { return Ok(false) };
    let mut free = master.edits_free.subscribe();
    let deadline = Instant::now() + GIVE_UP;
    master.sessions.recall(edit_now.session, edit_now.id);
    loop {
        free.borrow_and_update();
        match edit() {
            Some(still) if still.id == edit_now.id => {}
            _ => return Ok(true),
        }
        if tokio::time::timeout_at(deadline.into(), free.changed()).await.is_err() {
            let message = "another process is writing the file and has not given it up";
            return Err(Error::new(ErrorKind::Busy, message).advise("close the file there, or try again"));
        }
    }
}

/// The sessions that have a file open and need bytes of it that they do not hold, by their own word, before its content goes:
/// those that may know the file are asked.
pub async fn open_elsewhere(master: &Master, file: FileId, by: Option<SessionId>) -> Vec<SessionId> {
    let mut touched = Touched::default();
    touched.files.insert(file);
    touched.directories.insert(file);
    touched.directories.extend(master.core.read().parents(file));
    if !master.sessions.others_know(&touched.directories, by) {
        return Vec::new();
    }
    // What was said before is about another change.
    drop(master.sessions.take_still_open(file));
    let position = master.core.read().position();
    master.sessions.invalidate(&touched, position, by).all().await;
    master.sessions.take_still_open(file)
}

/// The file whose last name, or whose content, a command takes away, as far as it is known: of a removal, a rename, and the
/// end of a write that replaces it.
#[must_use]
pub fn going(state: &State, command: &Command, asker: &Asker) -> Option<FileId> {
    let place = match command {
        Command::Remove(remove) => &remove.place,
        Command::Rename(rename) => &rename.to,
        Command::CompleteFile(complete) => {
            return state.lease(complete.lease).map(|lease| lease.file).filter(|file| state.is_stored(*file));
        }
        _ => return None,
    };
    let file = at(state, place, asker);
    file.filter(|file| state.status(*file).is_some_and(|status| status.kind.is_file()))
}

/// Says in a command who has open what goes with it.
#[must_use]
pub fn with_holders(command: Command, holders: Vec<SessionId>) -> Command {
    let join = |mut said: Vec<SessionId>| {
        said.extend(holders.iter().filter(|holder| !said.contains(holder)).copied().collect::<Vec<_>>());
        said
    };
    match command {
        Command::Remove(mut remove) => {
            remove.holders = join(remove.holders);
            remove.into()
        }
        Command::Rename(mut rename) => {
            rename.holders = join(rename.holders);
            rename.into()
        }
        Command::CompleteFile(mut complete) => {
            complete.holders = join(complete.holders);
            complete.into()
        }
        other => other,
    }
}
