//! What all services and background tasks of one master share.
//!
//! Nothing here decides: it holds the parts, and turns what follows from an entry ([`Master::follow`]) into messages to
//! sessions and workers.
//!
//! Lock order: the state ([`Core::read`]) and the registry are never held together, and no part reads the state twice at once.
//! The state may be held while `attempts`, or the jobs' list of those that are running, is taken; the registry while a shard of
//! `locations` is.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use larder_common::{
    Caller, ClusterId, Error, ErrorKind, FileId, FileKind, FsPath, Generation, LeaseId, Medium, MountId, Name,
    Position, Result, SessionId, Timestamp, WorkerId,
};
use larder_proto::{
    Greeting,
    v1::{self, order},
};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tonic::{Status, metadata::MetadataMap};

use crate::{
    cluster::{BlockSet, Holding, Links, Locations, Registry, WorkerSlot},
    config::{Authentication, MasterConfig},
    core::{Asker, Core, Finished, Under},
    edits::Turns,
    jobs::Jobs,
    keys::Keys,
    paths,
    rpc::{answer, filesystem::How},
    sessions::{Acknowledgements, Sessions},
    state::{Command, Effect, EndSession, Mount, MountPoint, Owner, Resolve, UpdateMount},
    tasks::{Attempts, Drifting},
    under::{MountRow, UnderStores},
};

/// One master.
#[derive(Debug)]
pub struct Master {
    /// State and journal.
    pub core: Arc<Core>,
    /// What it does in under stores.
    pub stores: UnderStores,
    /// The same, as the writer needs it.
    pub under: Arc<dyn Under>,
    /// Live sessions.
    pub sessions: Sessions,
    /// Workers.
    pub registry: Mutex<Registry>,
    /// Who holds which block.
    pub locations: Locations,
    /// Streams to workers.
    pub links: Links,
    /// Grant keys.
    pub keys: Mutex<Keys>,
    /// The cluster.
    pub cluster: ClusterId,
    /// Settings.
    pub config: MasterConfig,
    /// Wakes the task that persists.
    pub pending: Arc<Notify>,
    /// Wakes the task that frees removed trees.
    pub reclaim: Arc<Notify>,
    /// Told when a worker has reported all that it holds.
    pub reported: Notify,
    /// Attempts to persist.
    pub attempts: Mutex<Attempts>,
    /// Commits of edits, one at a time for each lease.
    pub turns: Turns,
    /// Counts the edits that were given up or ended.
    pub edits_free: watch::Sender<u64>,
    /// Edits whose session has ended.
    pub drifting: Drifting,
    /// Wakes the task that decides about edits whose session has ended.
    pub adrift: Arc<Notify>,
    /// Work over trees that was asked for.
    pub jobs: Jobs,
    /// Where the newest checkpoint is.
    pub checkpoint: Mutex<Position>,
    /// When this master started.
    pub started: Timestamp,
    /// The same, monotonic.
    pub started_monotonic: Duration,
}

impl Master {
    /// Reads and checks the greeting of a request.
    ///
    /// # Errors
    /// `Mismatch` or `Denied`, as a status.
    pub fn greet(&self, metadata: &MetadataMap) -> Result<Greeting, Status> {
        let checked = Greeting::from_metadata(metadata).and_then(|greeting| {
            greeting.check(self.cluster, &self.config.token)?;
            Ok(greeting)
        });
        checked.map_err(|error| larder_proto::into_status(&error))
    }

    /// In whose name a request is made: whom it names, if who greets may act for him. Root may act for everybody, and where
    /// claims are believed everybody may.
    ///
    /// # Errors
    /// `Denied`.
    pub fn caller(&self, greeting: &Greeting, named: Option<&v1::CallerInfo>) -> Result<Caller> {
        let Some(info) = named else { return Ok(greeting.caller.clone()) };
        let open = self.config.authentication == Authentication::Simple;
        if !open && !greeting.caller.is_root() && info.uid != greeting.caller.uid {
            let message = format!("user {} may not act for user {}", greeting.caller.uid, info.uid);
            return Err(Error::new(ErrorKind::Denied, message));
        }
        let gids = if info.gids.is_empty() { vec![info.uid] } else { info.gids.clone() };
        Ok(Caller { uid: info.uid, gids, name: info.user.clone() })
    }

    /// Carries a command of the master itself out, with all that follows from it.
    ///
    /// # Errors
    /// As [`Core::execute`].
    pub async fn execute(&self, command: impl Into<Command>) -> Result<Finished> {
        let mut finished = self.core.execute(&self.under, command.into(), &Asker::server()).await?;
        self.follow(&mut finished, None).all().await;
        Ok(finished)
    }

    /// Ends a session and all that it holds: in the state first, for what it held is free then. Waits for the caches of others
    /// and not for its own.
    ///
    /// # Errors
    /// As [`Core::execute`]; the session then stays.
    pub async fn end_session(&self, session: SessionId) -> Result<()> {
        let mut others = None;
        if self.core.read().has_session(session) {
            let end = EndSession { session }.into();
            let mut finished = self.core.execute(&self.under, end, &Asker::server()).await?;
            others = Some(self.follow(&mut finished, None));
        }
        self.sessions.end(session);
        if let Some(others) = others {
            others.all().await;
        }
        Ok(())
    }

    /// Does what follows from an entry: tells sessions and workers, wakes tasks. What must be waited for before the entry
    /// is acknowledged is in the answer.
    pub fn follow(&self, finished: &mut Finished, by: Option<SessionId>) -> Acknowledgements {
        for effect in std::mem::take(&mut finished.effects) {
            self.effect(effect);
        }
        if finished.touched.everything {
            self.stores.follow_mounts();
        }
        self.sessions.invalidate(&finished.touched, finished.position, by)
    }

    fn effect(&self, effect: Effect) {
        match effect {
            Effect::ContentOver { file, generation } => self.content_over(file, generation),
            Effect::ContentPersisted { file, generation } => self.tell_holders(file, generation, |_| {
                order::What::Mark(v1::OrderMark { file: file.0, generation: generation.0 })
            }),
            Effect::PersistPending { .. } => self.pending.notify_one(),
            Effect::ReclaimPending => self.reclaim.notify_one(),
            Effect::JobPending => self.jobs.wake.notify_one(),
            Effect::JobOver(job) => self.jobs.over(job),
            Effect::EditOver { lease, file, generation } => self.edit_over(lease, file, generation),
            Effect::EditFree(lease) => {
                self.sessions.given_up(lease);
                self.edits_free.send_modify(|count| *count += 1);
            }
            Effect::Adrift(_) => self.adrift.notify_one(),
            Effect::TemporaryOver(temporary) => {
                let stores = self.stores.clone();
                tokio::spawn(async move { stores.destroy_temporary(temporary.mount, &temporary.name).await });
            }
            Effect::OrphanOver { mount, name } => {
                let stores = self.stores.clone();
                tokio::spawn(async move { stores.destroy_orphan(mount, &name).await });
            }
            _ => {}
        }
    }

    /// A version is over by somebody's will: its holders let go of it, also of content that is nowhere else.
    fn content_over(&self, file: FileId, generation: Generation) {
        self.tell_holders(file, generation, |persisted| match persisted {
            true => order::What::Forget(v1::OrderForget { file: file.0, generation: generation.0, lease: 0 }),
            false => order::What::Free(v1::OrderFree { file: file.0, generation: generation.0, forced: true }),
        });
    }

    /// What was written under an edit is over: who has it goes back to what it began with.
    fn edit_over(&self, lease: LeaseId, file: FileId, generation: Generation) {
        let forget = v1::OrderForget { file: file.0, generation: generation.0, lease: lease.0 };
        self.tell_holders(file, generation, |_| order::What::Forget(forget));
    }

    fn tell_holders(&self, file: FileId, generation: Generation, what: impl Fn(bool) -> order::What) {
        let mut told: Vec<WorkerSlot> = Vec::new();
        for holding in self.locations.holders((file, generation)) {
            if !told.contains(&holding.worker) {
                self.links.post(holding.worker, what(holding.persisted));
                told.push(holding.worker);
            }
        }
    }

    /// Whether the master has just started and waits for workers to report, so that it neither says that content is lost
    /// nor has it fetched or copied elsewhere.
    #[must_use]
    pub fn in_safe_mode(&self) -> bool {
        let age = self.core.clock().monotonic().saturating_sub(self.started_monotonic);
        age < self.config.safe_mode && !self.workers_are_here()
    }

    /// Whether all known workers have reported, and all that hold content which is nowhere else are known.
    fn workers_are_here(&self) -> bool {
        let expected: HashSet<WorkerId> = {
            let state = self.core.read();
            state.pending().flat_map(|pending| state.holders(pending.file)).map(|holder| holder.worker).collect()
        };
        let registry = self.registry.lock();
        let reported = |id: WorkerId| registry.slot(id).and_then(|slot| registry.get(slot)).is_some_and(|r| r.reported);
        registry.live().count() > 0
            && registry.live().all(|(_, record)| record.reported)
            && expected.into_iter().all(reported)
    }

    /// Follows a path, asking under stores where names are missing or due to be looked at again.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `Denied`; those of the under store; `LinkLoop` for symbolic links in a circle.
    pub async fn look_up(&self, path: &FsPath, caller: &Caller, how: How) -> Result<FileId> {
        let mut path = path.clone();
        for _ in 0..=SYMLINKS_MAX {
            let next = match self.look_up_plain(&path, caller, how.fresh).await {
                Ok(file) => {
                    let status = self.core.read().status(file);
                    match status.map(|status| status.kind) {
                        Some(FileKind::Symlink(target)) if how.follow => expand(&path, path.names().count(), &target)?,
                        _ => return Ok(file),
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotDirectory => match self.link_on_the_way(&path, caller) {
                    Some((depth, target)) => expand(&path, depth, &target)?,
                    None => return Err(error),
                },
                Err(error) => return Err(error),
            };
            path = next;
        }
        Err(Error::new(ErrorKind::LinkLoop, "too many levels of symbolic links").at(path))
    }

    /// What a name of a directory names, asking the under store where it is missing or due to be looked at again. A
    /// symbolic link is answered itself.
    ///
    /// # Errors
    /// As [`Self::look_up`].
    pub async fn look_up_child(&self, directory: FileId, name: &Name, caller: &Caller) -> Result<FileId> {
        let deadline = self.core.deadline();
        self.stores.ensure_child_fresh(directory, name, deadline).await.map_err(|error| error.at(name))?;
        let mut absent = Vec::new();
        loop {
            let resolved = self.core.read().resolve_child(directory, name, caller, &absent)?;
            match resolved {
                Resolve::Found(file) => return Ok(file),
                Resolve::NeedsLoad(needs) => {
                    absent.extend(self.under.load(*needs, deadline).await.map_err(|error| error.at(name))?);
                }
            }
            if Instant::now() > deadline {
                return Err(Error::new(ErrorKind::Deadline, "the under store did not answer in time").at(name));
            }
        }
    }

    async fn look_up_plain(&self, path: &FsPath, caller: &Caller, fresh: bool) -> Result<FileId> {
        let deadline = self.core.deadline();
        self.stores.ensure_fresh(path, deadline).await.map_err(|error| error.at(path))?;
        if fresh {
            self.look_again(path, caller, deadline).await?;
        }
        let mut absent = Vec::new();
        loop {
            let resolved = self.core.read().resolve(path, caller, &absent)?;
            match resolved {
                Resolve::Found(file) => return Ok(file),
                Resolve::NeedsLoad(needs) => {
                    absent.extend(self.under.load(*needs, deadline).await.map_err(|error| error.at(path))?);
                }
            }
            if Instant::now() > deadline {
                return Err(Error::new(ErrorKind::Deadline, "the under store did not answer in time").at(path));
            }
        }
    }

    /// Asks the under store about what a path names, whatever the mount's freshness.
    async fn look_again(&self, path: &FsPath, caller: &Caller, deadline: Instant) -> Result<()> {
        let known = self.core.read().resolve(path, caller, &[]);
        match known {
            Ok(Resolve::Found(file)) => self.stores.look_again(file, deadline).await.map_err(|error| error.at(path)),
            _ => Ok(()),
        }
    }

    /// The first part of a path that is a symbolic link, by how many names it has, and its text.
    fn link_on_the_way(&self, path: &FsPath, caller: &Caller) -> Option<(usize, Vec<u8>)> {
        let state = self.core.read();
        let mut prefix = FsPath::root();
        for (depth, name) in path.names().enumerate() {
            prefix = prefix.join(&Name::new(name).ok()?);
            let Ok(Resolve::Found(file)) = state.resolve(&prefix, caller, &[]) else { return None };
            if let Some(FileKind::Symlink(target)) = state.status(file).map(|status| status.kind) {
                return Some((depth + 1, target));
            }
        }
        None
    }

    /// Has all names of a directory loaded.
    ///
    /// # Errors
    /// Those of the under store.
    pub async fn load_all(&self, directory: FileId) -> Result<()> {
        let deadline = self.core.deadline();
        loop {
            let Some(needs) = self.core.read().needs_listing(directory) else { return Ok(()) };
            self.under.load(needs, deadline).await?;
            if Instant::now() > deadline {
                return Err(Error::new(ErrorKind::Deadline, "the under store did not list the directory in time"));
            }
        }
    }

    /// Whether something that a command names must be looked at in the under store before it is planned.
    #[must_use]
    pub fn must_look_first(&self, command: &Command) -> bool {
        let deadline = self.core.deadline();
        let is_fresh = |path| matches!(self.stores.ensure_fresh(path, deadline).now_or_never(), Some(Ok(_)));
        matches!(command, Command::Mount(_) | Command::UpdateMount(_))
            || !paths::named(command).into_iter().all(is_fresh)
    }

    /// Looks at what a command names where that is due, and completes what only the under store knows.
    ///
    /// # Errors
    /// Those of the under store.
    pub async fn look_first(&self, command: Command) -> Result<Command> {
        let deadline = self.core.deadline();
        for path in paths::named(&command) {
            self.stores.ensure_fresh(path, deadline).await.map_err(|error| error.at(path))?;
        }
        match command {
            Command::Mount(mount) => examine(&self.stores, mount, deadline).await.map(Into::into),
            Command::UpdateMount(update) => {
                self.examine_update(&update, deadline).await?;
                Ok(update.into())
            }
            other => Ok(other),
        }
    }

    /// Refuses a change after which an under store could not be reached.
    async fn examine_update(&self, update: &UpdateMount, deadline: Instant) -> Result<()> {
        let row = {
            let state = self.core.read();
            // Where nothing is mounted the plan says so.
            let Some(mount) = state.mounts().iter().find(|mount| mount.path == update.path) else { return Ok(()) };
            let MountPoint { id, path, root, uri, read_only, options } = update.of(mount);
            MountRow { id, path, root, uri, read_only, options }
        };
        self.stores.try_mount(&row, deadline).await.map(drop)
    }

    /// Takes the receipts of a commit for what workers hold, until they report it themselves.
    pub fn committed(&self, file: FileId, generation: Generation, holders: &[WorkerId]) {
        let Some(content) = answer::content(&self.core.read(), file).filter(|c| c.generation == generation) else {
            return;
        };
        let registry = self.registry.lock();
        for (slot, round) in holders.iter().filter_map(|id| {
            let slot = registry.slot(*id)?;
            Some((slot, registry.get(slot)?.round))
        }) {
            let holding = Holding {
                worker: slot,
                medium: Medium::Mem,
                blocks: BlockSet::Run { first: 0, count: content.block_size.count(content.length) },
                persisted: content.persisted,
                lease: None,
                round,
            };
            self.locations.report(slot, (file, generation), vec![holding]);
        }
    }

    /// Takes a worker's word that it keeps these blocks of the committed version (none named: all), until it reports them.
    pub fn holds(&self, file: FileId, generation: Generation, worker: WorkerSlot, runs: &[v1::BlockRun]) {
        let content = answer::content(&self.core.read(), file).filter(|content| content.generation == generation);
        let Some(content) = content else { return };
        let count = content.block_size.count(content.length);
        let blocks = match runs {
            [] => BlockSet::Run { first: 0, count },
            runs => BlockSet::from_runs(runs, count),
        };
        let round = self.registry.lock().get(worker).map_or(0, |record| record.round);
        let (medium, persisted) = (Medium::Mem, content.persisted);
        let holding = Holding { worker, medium, blocks, persisted, lease: None, round };
        self.locations.report(worker, (file, generation), vec![holding]);
    }

    /// Frees the cached blocks of a file. False when there are none, or it is pinned and not forced. Content that is not
    /// persisted stays.
    pub fn free(&self, file: FileId, forced: bool) -> bool {
        let state = self.core.read();
        let Some(content) = answer::content(&state, file) else { return false };
        if !content.persisted || (state.is_pinned(file) && !forced) {
            return false;
        }
        drop(state);
        let order = v1::OrderFree { file: file.0, generation: content.generation.0, forced: false };
        let holders = self.locations.holders((file, content.generation));
        self.tell_holders(file, content.generation, |_| order::What::Free(order));
        !holders.is_empty()
    }

    /// Frees the cached blocks of everything below a directory, as far as it is known.
    pub fn free_below(&self, root: FileId, forced: bool) {
        let mut todo = vec![root];
        while let Some(file) = todo.pop() {
            self.free(file, forced);
            let state = self.core.read();
            todo.extend(state.list(file, None, usize::MAX).into_iter().map(|entry| entry.id));
        }
    }

    /// Waits until the recorded holders of content that is nowhere else have reported.
    ///
    /// # Errors
    /// `Unavailable`, naming a worker that is away; `Lost` when it is there without the content.
    pub async fn wait_for_holders(&self, file: FileId) -> Result<()> {
        let deadline = Instant::now() + self.config.safe_mode;
        loop {
            let reported = self.reported.notified();
            let Some(error) = self.missing_holder(file) else { return Ok(()) };
            if error.kind() == ErrorKind::Lost || tokio::time::timeout_at(deadline.into(), reported).await.is_err() {
                return Err(error);
            }
        }
    }

    fn missing_holder(&self, file: FileId) -> Option<Error> {
        let state = self.core.read();
        let content = answer::content(&state, file).filter(|content| !content.persisted && content.length > 0)?;
        let recorded = state.holders(file);
        drop(state);
        let blocks = content.block_size.count(content.length);
        if recorded.is_empty() || self.locations.held_or_edited((file, content.generation)) >= blocks {
            return None;
        }
        let registry = self.registry.lock();
        for holder in recorded {
            let record = registry.slot(holder.worker).and_then(|slot| registry.get(slot));
            match record.filter(|record| record.live && record.reported) {
                None => {
                    let message = format!("its content is only in worker {}, which has not reported", holder.worker);
                    return Some(Error::new(ErrorKind::Unavailable, message).advise("start that worker again"));
                }
                Some(_) => continue,
            }
        }
        let message = "its content was only in the cache, and every worker that held it is back without it";
        Some(Error::new(ErrorKind::Lost, message).advise("remove the file, or write it again"))
    }
}

/// A mount with mode and owner of its root, as the under store has them.
///
/// # Errors
/// Where it cannot be mounted; see [`UnderStores::try_mount`].
pub async fn examine(stores: &UnderStores, mut mount: Mount, deadline: Instant) -> Result<Mount> {
    let row = MountRow {
        id: MountId(0),
        path: mount.path.clone(),
        root: FileId(0),
        uri: mount.uri.clone(),
        read_only: mount.read_only,
        options: mount.options.clone(),
    };
    let status = stores.try_mount(&row, deadline).await?;
    mount.owner = Owner { mode: status.mode, uid: status.uid, gid: status.gid };
    Ok(mount)
}

/// As in Linux.
const SYMLINKS_MAX: usize = 40;

/// The path that is meant when its first `depth` names are a symbolic link with this text.
fn expand(path: &FsPath, depth: usize, target: &[u8]) -> Result<FsPath> {
    let names: Vec<&[u8]> = path.names().collect();
    let mut expanded = Vec::new();
    if !target.starts_with(b"/") {
        for name in &names[..depth - 1] {
            expanded.extend_from_slice(b"/");
            expanded.extend_from_slice(name);
        }
        expanded.push(b'/');
    }
    expanded.extend_from_slice(target);
    for name in &names[depth..] {
        expanded.push(b'/');
        expanded.extend_from_slice(name);
    }
    FsPath::parse(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_expand_where_they_stand() {
        let path = |text: &str| FsPath::parse(text).unwrap();
        assert_eq!(expand(&path("/a/link/b"), 2, b"x/y").unwrap(), path("/a/x/y/b"));
        assert_eq!(expand(&path("/a/link/b"), 2, b"../z").unwrap(), path("/z/b"));
        assert_eq!(expand(&path("/a/link"), 2, b"/top").unwrap(), path("/top"));
    }
}
