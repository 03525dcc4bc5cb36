//! The state, as the under stores' side asks it and tells it: [`Core`] behind [`Ledger`].
//!
//! What follows from an entry made here (invalidations, orders to workers) is handed to the follower, which the server
//! sets once the master is put together. Nobody waits for acknowledgements here: no reply depends on them.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, OnceLock},
    time::Instant,
};

use larder_common::{Error, ErrorKind, FileId, Fingerprint, MountId, Name, Result};

use crate::{
    core::{Asker, Boxed, Core, Finished, Step, Under},
    state::{Command, IntentId, NeedsLoad, Operation, Relative, UnderAction, UnderResult, mount_table::MountPoint},
    under::{Known, Ledger, MountRow, Taken, UnderStores},
};

/// Takes what follows from an entry.
type Follower = Box<dyn Fn(Finished) + Send + Sync>;

/// A patch as the ledger is asked for it: the mount, the operation, whether to sync, until when.
pub type Patch = (MountId, Operation, bool, Instant);

/// Has a worker carry a patch out.
type Patcher = Box<dyn Fn(Patch) -> Boxed<'static, Result<Fingerprint>> + Send + Sync>;

/// The core as a ledger.
pub struct Book {
    core: Arc<Core>,
    follower: OnceLock<Follower>,
    patcher: OnceLock<Patcher>,
}

impl fmt::Debug for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Book").field("core", &self.core).finish_non_exhaustive()
    }
}

impl Book {
    /// The ledger of this core, with nobody following yet.
    #[must_use]
    pub fn new(core: Arc<Core>) -> Self {
        Self { core, follower: OnceLock::new(), patcher: OnceLock::new() }
    }

    /// From now on everything that follows goes here. Only the first call counts.
    pub fn follow(&self, follower: impl Fn(Finished) + Send + Sync + 'static) {
        // A second follower would get what the first one already has.
        let _ = self.follower.set(Box::new(follower));
    }

    /// From now on patches are carried out by this. Only the first call counts.
    pub fn patch_by(&self, patcher: impl Fn(Patch) -> Boxed<'static, Result<Fingerprint>> + Send + Sync + 'static) {
        // There is one way to a worker.
        let _ = self.patcher.set(Box::new(patcher));
    }

    fn hand_on(&self, finished: Finished) {
        if let Some(follower) = self.follower.get() {
            follower(finished);
        }
    }

    fn known_of(&self, file: FileId) -> Option<Known> {
        let state = self.core.read();
        let status = state.status(file)?;
        Some(Known {
            file,
            directory: status.kind.is_directory(),
            mount_point: status.mount_point,
            stored: state.is_stored(file),
            fingerprint: state.fingerprint(file),
            loaded: state.children_loaded(file),
            times: (status.times.modified, status.times.changed),
        })
    }
}

fn row(mount: &MountPoint) -> MountRow {
    MountRow {
        id: mount.id,
        path: mount.path.clone(),
        root: mount.root,
        uri: mount.uri.clone(),
        read_only: mount.read_only,
        options: mount.options.clone(),
    }
}

impl Ledger for Book {
    fn mounts(&self) -> Vec<MountRow> {
        self.core.read().mounts().iter().map(row).collect()
    }

    fn place(&self, file: FileId) -> Option<(MountId, Relative)> {
        self.core.read().under_path(file)
    }

    fn places(&self, file: FileId) -> Vec<(MountId, Relative)> {
        self.core.read().under_paths(file)
    }

    fn known(&self, file: FileId) -> Option<Known> {
        self.known_of(file)
    }

    fn child(&self, directory: FileId, name: &[u8]) -> Option<Known> {
        let child = self.core.read().child(directory, name)?;
        self.known_of(child)
    }

    fn children(&self, directory: FileId, after: Option<&Name>, limit: usize) -> Vec<(Name, Known)> {
        let listed: Vec<(Name, FileId)> = {
            let state = self.core.read();
            let names = state.list(directory, after.map(Name::as_bytes), limit);
            names.into_iter().filter_map(|entry| Some((Name::new(entry.name).ok()?, entry.id))).collect()
        };
        listed.into_iter().filter_map(|(name, id)| Some((name, self.known_of(id)?))).collect()
    }

    fn open_intents(&self) -> Vec<(IntentId, UnderAction)> {
        self.core.read().open_intents().collect()
    }

    fn has_open_intents(&self) -> bool {
        self.core.read().open_intents().next().is_some()
    }

    fn is_open(&self, intent: IntentId) -> bool {
        self.core.read().is_open(intent)
    }

    fn temporaries(&self, mount: MountId) -> HashSet<String> {
        let state = self.core.read();
        state.temporaries().filter(|temporary| temporary.mount == mount).map(|temporary| temporary.name).collect()
    }

    fn is_held(&self, file: FileId) -> bool {
        self.core.read().is_held(file)
    }

    fn orphans(&self, mount: MountId) -> Vec<String> {
        let state = self.core.read();
        state.orphans().filter(|(of, _)| *of == mount).map(|(_, name)| name).collect()
    }

    fn take(&self, command: Command, allowed: &dyn Fn() -> bool) -> Result<Taken> {
        let context = self.core.context(&Asker::server());
        match self.core.step_if(&command, &context, allowed)? {
            None => Ok(Taken::Outdated),
            Some(Step::Finished(finished)) => {
                let outcome = finished.outcome.clone();
                self.hand_on(finished);
                Ok(Taken::Done(outcome))
            }
            Some(Step::Act(intent, action, _)) => Ok(Taken::Act(intent, action)),
            Some(Step::Wait(intent)) => Ok(Taken::Busy(intent)),
            Some(Step::Load(_)) => Ok(Taken::Outdated),
        }
    }

    fn patch(&self, mount: MountId, patch: Operation, sync: bool, deadline: Instant) -> Boxed<'_, Result<Fingerprint>> {
        match self.patcher.get() {
            Some(patcher) => patcher((mount, patch, sync, deadline)),
            None => Box::pin(async { Err(Error::new(ErrorKind::Unavailable, "the master is still starting")) }),
        }
    }

    fn conclude(&self, intent: IntentId, result: &UnderResult) -> Result<()> {
        let finished = self.core.conclude(intent, result)?;
        self.hand_on(finished);
        Ok(())
    }

    fn settled(&self, intent: IntentId, deadline: Instant) -> Boxed<'_, Result<()>> {
        Box::pin(self.core.settled(intent, deadline))
    }
}

impl Under for UnderStores {
    fn act(&self, intent: IntentId, action: UnderAction, deadline: Instant) -> Boxed<'_, Option<UnderResult>> {
        UnderStores::act(self, intent, action, deadline)
    }

    fn load(&self, needs: NeedsLoad, deadline: Instant) -> Boxed<'_, Result<Vec<(FileId, Name)>>> {
        Box::pin(UnderStores::load(self, needs, deadline))
    }
}
