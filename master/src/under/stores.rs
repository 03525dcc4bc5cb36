//! [`UnderStores`]: the parts put together, and what the server calls.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use larder_common::{Error, ErrorKind, FileId, FileKind, FsPath, MountId, Name, Result, clock::Clock};
use larder_ufs::{ObjectPath, ObjectStatus, Space};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{
    Boxed,
    changes::{self, Changes},
    echoes::Echoes,
    flights::Flights,
    freshness::{Policy, Validity},
    identity,
    ledger::{Ledger, MountRow, known_at},
    loader,
    look::{self, Sight, Spot},
    looks::Looks,
    mount::{LiveMount, Opener, Terms},
    mounts::Mounts,
    naming, publisher, refresh, roots, settler,
    sweeper::{self, Swept},
    watched::{Watched, is_lasting},
    watcher,
};
use crate::state::{IntentId, NeedsLoad, Operation, Relative, UnderAction, UnderResult};

/// How long room in a store is waited for.
const ROOM: Duration = Duration::from_secs(1);
/// The option of a mount that says what becomes of symbolic links that leave its store: `keep` (default) or `refuse`.
pub const OUTSIDE_LINKS: &str = "links.outside";
/// How often space is asked for and what nobody owns is swept.
const UPKEEP: Duration = Duration::from_secs(60);
/// A directory in which so many names were looked up singly is listed, for the others will be asked for too.
const WALKED: u32 = 4;
/// The most directories whose lookups are counted.
const WALKED_MAX: usize = 10_000;
/// The most links leaving a store that are remembered, for reports.
const OUTSIDE_MAX: usize = 100;

/// Settings of all mounts.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How fresh mounts are kept that do not say.
    pub freshness: Policy,
    /// How long one call of a store may take.
    pub timeout: Duration,
    /// How many actions one mount does at a time.
    pub threads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { freshness: Policy::Auto, timeout: Duration::from_secs(20), threads: 16 }
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Settings,
    pub(super) mounts: Mounts,
    pub(super) changes: Changes,
    pub(super) looks: Looks,
    pub(super) echoes: Echoes,
    pub(super) flights: Flights<FileId>,
    opener: Arc<dyn Opener>,
    watched: Mutex<BTreeMap<MountId, Arc<Watched>>>,
    outside: Mutex<BTreeMap<MountId, Vec<ObjectPath>>>,
    walked: Mutex<BTreeMap<FileId, u32>>,
    stopped: AtomicBool,
    handed: mpsc::UnboundedSender<(IntentId, UnderAction)>,
}

impl Shared {
    pub(super) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    pub(super) fn watched(&self, mount: MountId) -> Option<Arc<Watched>> {
        self.watched.lock().get(&mount).cloned()
    }

    pub(super) fn is_watched(&self, mount: &LiveMount, directory: &Relative) -> bool {
        self.watched(mount.row().id).is_some_and(|watched| watched.since(&directory.0).is_some())
    }

    /// Sees to it that a directory is watched, where that works; gives since when it is.
    pub(super) async fn watch(&self, mount: &Arc<LiveMount>, directory: &ObjectPath) -> Option<Duration> {
        let watched = self.watched(mount.row().id)?;
        if let Some(since) = watched.since(directory.as_bytes()) {
            return Some(since);
        }
        let deadline = Instant::now() + self.settings.timeout;
        match mount.call(deadline, watched.add(directory, || self.now())).await {
            Ok(()) => watched.since(directory.as_bytes()),
            Err(error) => {
                if is_lasting(&error) {
                    mount.cannot_watch(&error);
                }
                None
            }
        }
    }

    /// An intent that a look made necessary; there are no more of these than files with unpersisted content.
    pub(super) fn carry_out_later(&self, intent: IntentId, action: UnderAction) {
        if let Ok(mount) = self.mounts.get(action.mount) {
            self.changes.begin(intent, &action, self.is_tree(&mount, &action));
        }
        // The receiver lives as long as the under stores; a master that stops finds the intent open at its next start.
        let _ = self.handed.send((intent, action));
    }

    /// Counts a name that is looked up singly; true once, when so many of a directory were that all are worth listing.
    fn is_walked(&self, directory: FileId) -> bool {
        let mut walked = self.walked.lock();
        if walked.len() >= WALKED_MAX {
            walked.clear();
        }
        let count = walked.entry(directory).or_default();
        *count = count.saturating_add(1);
        *count == WALKED
    }

    /// Looks at what a path names, in its directory.
    pub(super) async fn look_at(&self, mount: &Arc<LiveMount>, path: &Relative) {
        let Some((directory, name)) = naming::split(&path.0) else { return };
        let above = Relative(directory.to_vec());
        let Some(known) = known_at(&*self.ledger, mount.row(), &above) else { return };
        let Ok(name) = Name::new(name) else { return };
        let spot = Spot { mount: Arc::clone(mount), directory: known.file, path: above, name };
        if let Err(error) = look::look(self, &spot, Instant::now() + self.settings.timeout).await {
            tracing::debug!(mount = %mount.row().path, %error, "a look failed");
        }
    }

    /// Whether something found is taken into the namespace; links that leave the store are noted.
    pub(super) fn is_welcome(&self, mount: &LiveMount, directory: &ObjectPath, name: &Name, kind: &FileKind) -> bool {
        if !identity::leaves_root(directory.as_bytes(), kind) {
            return true;
        }
        let refused = mount.row().options.get(OUTSIDE_LINKS).is_some_and(|value| value == "refuse");
        if let Ok(path) = directory.join(name) {
            let mut outside = self.outside.lock();
            let noted = outside.entry(mount.row().id).or_default();
            if noted.len() < OUTSIDE_MAX && !noted.contains(&path) {
                tracing::warn!(mount = %mount.row().path, link = %path, refused, "a symbolic link leaves the under store; `larder fs mount` brings its target in");
                noted.push(path);
            }
        }
        !refused
    }

    /// What follows from an action that has its result: paths that moved are not watched any more, and where the store
    /// was not as expected its names are looked at.
    pub(super) fn after(&self, action: &UnderAction, result: &UnderResult) {
        let Some(watched) = self.watched(action.mount) else { return };
        match (result, &action.operation) {
            (UnderResult::Done(_), Operation::Rename { from, to, .. } | Operation::Exchange { from, to }) => {
                watched.forget(&from.0);
                watched.forget(&to.0);
            }
            (UnderResult::Done(_), Operation::Remove { target, directory: true, .. }) => watched.forget(&target.0),
            (UnderResult::Done(done), Operation::SetAttributes { target, .. } | Operation::SetXattr { target, .. })
                if done.fingerprint.is_none() =>
            {
                watched.hint_at(&target.0);
            }
            (UnderResult::Failed(error), _) if error.kind() != ErrorKind::Unavailable => {
                changes::paths(action).into_iter().for_each(|path| watched.hint_at(&path.0));
                if let Operation::Remove { target, directory: true, .. } = &action.operation {
                    // Part of it may be gone.
                    let below = watched.all().into_iter().filter(|path| path.starts_with(&target.0));
                    below.for_each(|directory| watched.hint(super::watched::Hint { directory, name: None }));
                }
            }
            _ => {}
        }
    }

    /// Whether what an action names may be a directory.
    fn is_tree(&self, mount: &LiveMount, action: &UnderAction) -> bool {
        let is_directory = |path| known_at(&*self.ledger, mount.row(), path).is_none_or(|known| known.directory);
        match &action.operation {
            Operation::Remove { directory, .. } => *directory,
            Operation::Rename { from, .. } => is_directory(from),
            Operation::Exchange { from, to } => is_directory(from) || is_directory(to),
            _ => false,
        }
    }
}

/// Actions that looks made necessary.
type Handed = mpsc::UnboundedReceiver<(IntentId, UnderAction)>;

/// What the master does in under stores. Cheap to clone.
#[derive(Clone, Debug)]
pub struct UnderStores {
    shared: Arc<Shared>,
    handed: Arc<Mutex<Option<Handed>>>,
}

impl UnderStores {
    /// With no mounts yet: [`Self::start`] brings them.
    #[must_use]
    pub fn new(ledger: Arc<dyn Ledger>, opener: Arc<dyn Opener>, clock: Arc<dyn Clock>, settings: Settings) -> Self {
        let terms = Terms {
            opener: Arc::clone(&opener),
            clock: Arc::clone(&clock),
            timeout: settings.timeout,
            threads: settings.threads,
        };
        let (sender, handed) = mpsc::unbounded_channel();
        let shared = Shared {
            handed: sender,
            ledger,
            clock,
            settings,
            mounts: Mounts::new(terms, settings.freshness),
            changes: Changes::default(),
            looks: Looks::default(),
            echoes: Echoes::default(),
            flights: Flights::default(),
            opener,
            watched: Mutex::default(),
            outside: Mutex::default(),
            walked: Mutex::default(),
            stopped: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared), handed: Arc::new(Mutex::new(Some(handed))) }
    }

    /// The live mounts.
    #[must_use]
    pub fn mounts(&self) -> &Mounts {
        &self.shared.mounts
    }

    /// Begins: opens the mounts, settles the intents that the state has open, and then sweeps. Called once, before the
    /// first command.
    pub fn start(&self) {
        self.follow_mounts();
        if let Some(handed) = self.handed.lock().take() {
            tokio::spawn(carry_out(Arc::downgrade(&self.shared), handed));
        }
        let mut open: BTreeMap<MountId, Vec<(IntentId, UnderAction)>> = BTreeMap::new();
        for (intent, action) in self.shared.ledger.open_intents() {
            if let Ok(mount) = self.shared.mounts.get(action.mount) {
                self.shared.changes.begin(intent, &action, self.shared.is_tree(&mount, &action));
            }
            open.entry(action.mount).or_default().push((intent, action));
        }
        for mount in self.shared.mounts.all() {
            let intents = open.remove(&mount.row().id).unwrap_or_default();
            tokio::spawn(upkeep(Arc::clone(&self.shared), mount, intents));
        }
        for (intent, action) in open.into_values().flatten() {
            tokio::spawn(settler::settle(Arc::clone(&self.shared), intent, action));
        }
    }

    /// Ends everything that goes on by itself. Nothing is concluded any more: intents that are open stay so, for the next
    /// start to find.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.mounts.all().iter().for_each(|mount| mount.end());
    }

    /// Makes the live mounts equal to the state's. Called after every entry that mounts or unmounts.
    pub fn follow_mounts(&self) {
        let followed = self.shared.mounts.follow(self.shared.ledger.mounts());
        for mount in followed.removed {
            self.shared.watched.lock().remove(&mount.row().id);
            self.shared.outside.lock().remove(&mount.row().id);
        }
        for mount in followed.added {
            let watched = Arc::new(Watched::default());
            self.shared.watched.lock().insert(mount.row().id, Arc::clone(&watched));
            tokio::spawn(watcher::run(Arc::clone(&self.shared), mount, watched));
        }
    }

    /// Whether a store can be mounted at a path, and what its root looks like. Nothing is made.
    ///
    /// # Errors
    /// `Invalid` where it overlaps another mount's store; those of opening; `NotDirectory`; `Deadline`.
    pub async fn try_mount(&self, mount: &MountRow, deadline: Instant) -> Result<ObjectStatus> {
        if let Some(text) = mount.options.get(super::mounts::FRESHNESS) {
            text.parse::<Policy>()?;
        }
        roots::check_overlap(&mount.uri, &mount.path, &self.shared.ledger.mounts())?;
        let trying = async {
            let store = self.shared.opener.open(mount).await?;
            store.status(&ObjectPath::root()).await
        };
        let deadline = deadline.min(Instant::now() + self.shared.settings.timeout);
        let late = |_| Error::new(ErrorKind::Deadline, format!("{} did not answer in time", mount.uri));
        let status = tokio::time::timeout_at(deadline.into(), trying).await.map_err(late)??;
        match status.kind {
            FileKind::Directory => Ok(status),
            _ => Err(Error::new(ErrorKind::NotDirectory, format!("{} is not a directory", mount.uri)).at(&mount.path)),
        }
    }

    /// Where the under store has something, or would have it.
    ///
    /// # Errors
    /// The store's, at once when its mount is in trouble; `Deadline`.
    pub async fn which(&self, mount: MountId, path: &Relative, stored: bool, deadline: Instant) -> Result<String> {
        let mount = self.shared.mounts.get(mount)?;
        let object = ObjectPath::new(&path.0)?;
        if !stored {
            let uri = mount.store()?.describe();
            return Ok(if object.is_root() { uri } else { format!("{}/{object}", uri.trim_end_matches('/')) });
        }
        let store = mount.store()?;
        mount.call(deadline, store.which(&object)).await
    }

    /// Brings what is known of a path up to date before it is answered, and says how long an answer may be kept.
    ///
    /// # Errors
    /// The store's, at once when its mount is in trouble; `Deadline`.
    pub async fn ensure_fresh(&self, path: &FsPath, deadline: Instant) -> Result<Validity> {
        refresh::path(&self.shared, path, deadline).await
    }

    /// The same for an inode that is asked for by its id.
    ///
    /// # Errors
    /// As [`Self::ensure_fresh`].
    pub async fn ensure_file_fresh(&self, file: FileId, deadline: Instant) -> Result<Validity> {
        refresh::file(&self.shared, file, deadline).await
    }

    /// The same for one name of a directory.
    ///
    /// # Errors
    /// As [`Self::ensure_fresh`].
    pub async fn ensure_child_fresh(&self, directory: FileId, name: &Name, deadline: Instant) -> Result<Validity> {
        refresh::child(&self.shared, directory, name, deadline).await
    }

    /// How long what is known of an inode may be kept under a name in this directory, as things are. Nothing is looked at.
    #[must_use]
    pub fn kept(&self, directory: FileId, file: FileId) -> Validity {
        refresh::kept(&self.shared, directory, file)
    }

    /// The time before a change, for [`Self::made`].
    #[must_use]
    pub fn before(&self) -> Duration {
        self.shared.now()
    }

    /// Something was made by a command that was begun at `before`: its name was free then, so this is as good as a look.
    pub fn made(&self, file: FileId, before: Duration) {
        self.shared.looks.looked(file, before);
    }

    /// The same for the names in a directory, before it is listed.
    ///
    /// # Errors
    /// As [`Self::ensure_fresh`].
    pub async fn ensure_listing_fresh(&self, directory: FileId, deadline: Instant) -> Result<Validity> {
        refresh::listing(&self.shared, directory, deadline).await
    }

    /// Looks at an inode whatever the freshness says: a fetch has found another version than was recorded.
    ///
    /// # Errors
    /// The store's, `Deadline`.
    pub async fn look_again(&self, file: FileId, deadline: Instant) -> Result<()> {
        let Some((mount, path)) = self.shared.ledger.place(file) else { return Ok(()) };
        let Some((directory, name)) = naming::split(&path.0) else { return Ok(()) };
        let (mount, above) = (self.shared.mounts.get(mount)?, Relative(directory.to_vec()));
        let Some(known) = known_at(&*self.shared.ledger, mount.row(), &above) else { return Ok(()) };
        let spot = Spot { mount, directory: known.file, path: above, name: Name::new(name)? };
        look::look(&self.shared, &spot, deadline).await.map(drop)
    }

    /// How much room there is in a mount's store now; where it does not answer, as last seen.
    ///
    /// # Errors
    /// `NotFound` for a mount that is no more.
    pub async fn room(&self, mount: MountId) -> Result<Space> {
        let mount = self.shared.mounts.get(mount)?;
        if let Ok(store) = mount.store() {
            let deadline = Instant::now() + ROOM;
            if let Ok(space) = mount.call(deadline, store.space()).await {
                mount.set_space(space);
            }
        }
        Ok(mount.space())
    }

    /// Makes what has happened to the names of a directory survive a power cut, as far as it is in an under store.
    ///
    /// # Errors
    /// The store's, `Deadline`.
    pub async fn sync_directory(&self, directory: FileId, deadline: Instant) -> Result<()> {
        let known = self.shared.ledger.known(directory);
        if known.is_none_or(|known| !known.directory || !(known.stored || known.mount_point)) {
            return Ok(());
        }
        let Some((mount, path)) = self.shared.ledger.place(directory) else { return Ok(()) };
        let mount = self.shared.mounts.get(mount)?;
        let (store, path) = (mount.store()?, naming::object(&path)?);
        mount.call(deadline, store.sync_directory(&path)).await
    }

    /// Destroys a temporary that is over. One that cannot be reached now goes with a later sweep.
    pub async fn destroy_temporary(&self, mount: MountId, name: &str) {
        let destroy = async {
            let mount = self.shared.mounts.get(mount)?;
            let (store, temporary) = (mount.store()?, naming::temporary(&ObjectPath::root(), name)?);
            let deadline = Instant::now() + self.shared.settings.timeout;
            mount.call(deadline, store.destroy_temporary(&temporary)).await
        };
        if let Err(error) = destroy.await {
            tracing::debug!(name, %error, "a temporary that is over stays for now");
        }
    }

    /// Destroys an orphan that nobody has open any more. One that cannot be reached now goes with a later sweep.
    pub async fn destroy_orphan(&self, mount: MountId, name: &str) {
        let destroy = async {
            let mount = self.shared.mounts.get(mount)?;
            let (store, orphan) = (mount.store()?, naming::orphan(IntentId(0), &ObjectPath::root(), Some(name))?);
            let deadline = Instant::now() + self.shared.settings.timeout;
            mount.call(deadline, store.destroy_orphan(&orphan)).await
        };
        if let Err(error) = destroy.await {
            tracing::debug!(name, %error, "an orphan that nobody has open stays for now");
        }
    }

    /// Destroys temporaries and orphans of nobody in one mount. Also done at the start and once in a while.
    ///
    /// # Errors
    /// The store's.
    pub async fn sweep(&self, mount: MountId) -> Result<Swept> {
        let mount = self.shared.mounts.get(mount)?;
        sweeper::sweep(&self.shared, &mount).await
    }

    /// Links that leave a mount's store, as far as they have been seen; at most 100.
    #[must_use]
    pub fn outside_links(&self, mount: MountId) -> Vec<ObjectPath> {
        self.shared.outside.lock().get(&mount).cloned().unwrap_or_default()
    }

    /// How many directories of a mount are watched.
    #[must_use]
    pub fn watched_directories(&self, mount: MountId) -> usize {
        self.shared.watched(mount).map_or(0, |watched| watched.count())
    }

    /// Does what an intent says; see [`crate::core::Under::act`].
    pub fn act(&self, intent: IntentId, action: UnderAction, deadline: Instant) -> Boxed<'_, Option<UnderResult>> {
        Box::pin(self.act_now(intent, action, deadline))
    }

    async fn act_now(&self, intent: IntentId, action: UnderAction, deadline: Instant) -> Option<UnderResult> {
        let mount = match self.shared.mounts.get(action.mount) {
            Ok(mount) => mount,
            Err(error) => return Some(UnderResult::Failed(error)),
        };
        let _permit = match mount.permit(deadline).await {
            Ok(permit) => permit,
            Err(error) => return Some(UnderResult::Failed(error)),
        };
        self.shared.changes.begin(intent, &action, self.shared.is_tree(&mount, &action));
        let result = publisher::act(&mount, &*self.shared.ledger, (intent, &action), deadline).await;
        self.shared.echoes.over(&action, self.shared.clock.now());
        match &result {
            Some(result) => self.shared.after(&action, result),
            None => drop(tokio::spawn(settler::settle(Arc::clone(&self.shared), intent, action))),
        }
        result
    }

    /// Looks up what the state does not know; see [`crate::core::Under::load`].
    ///
    /// # Errors
    /// The store's, `Deadline`.
    pub async fn load(&self, needs: NeedsLoad, deadline: Instant) -> Result<Vec<(FileId, Name)>> {
        let Some(name) = needs.name else {
            return loader::scan(&self.shared, needs.directory, deadline).await.map(|()| Vec::new());
        };
        let mount = self.shared.mounts.get(needs.mount)?;
        self.shared.watch(&mount, &naming::object(&needs.path)?).await;
        if self.shared.is_walked(needs.directory) {
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move {
                if let Err(error) = loader::scan(&shared, needs.directory, deadline).await {
                    tracing::debug!(%error, "a directory that is walked could not be listed; its names are looked up singly");
                }
            });
        }
        let spot = Spot { mount, directory: needs.directory, path: needs.path, name };
        match look::look(&self.shared, &spot, deadline).await? {
            Sight::Absent => Ok(vec![(spot.directory, spot.name)]),
            _ => Ok(Vec::new()),
        }
    }
}

/// Carries out what looks make necessary.
async fn carry_out(shared: Weak<Shared>, mut handed: Handed) {
    while let Some((intent, action)) = handed.recv().await {
        let Some(shared) = shared.upgrade() else { return };
        tokio::spawn(settler::settle(shared, intent, action));
    }
}

/// Settles what a start has found open in a mount, and then keeps it clean as long as it lives.
async fn upkeep(shared: Arc<Shared>, mount: Arc<LiveMount>, open: Vec<(IntentId, UnderAction)>) {
    let settling = open.into_iter().map(|(intent, action)| settler::settle(Arc::clone(&shared), intent, action));
    futures_util::future::join_all(settling).await;
    loop {
        tokio::select! {
            () = mount.ended() => return,
            () = keep(&shared, &mount) => {}
        }
        tokio::select! {
            () = mount.ended() => return,
            () = tokio::time::sleep(UPKEEP) => {}
        }
    }
}

async fn keep(shared: &Shared, mount: &Arc<LiveMount>) {
    if mount.until_working(Instant::now() + UPKEEP).await.is_err() {
        return;
    }
    if let Err(error) = sweeper::sweep(shared, mount).await {
        tracing::debug!(mount = %mount.row().path, %error, "a mount could not be swept");
    }
    let Ok(store) = mount.store() else { return };
    let deadline = Instant::now() + shared.settings.timeout;
    if let Ok(space) = mount.call(deadline, store.space()).await {
        mount.set_space(space);
    }
}
