//! The file system: every call that names a path.
//!
//! Thin on purpose: a call makes its message, hands it to the session or asks the master, and gives back domain types.
//! What files, writers and tasks share is in `core`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_core::Stream;
use larder_common::{Error, ErrorKind, FileId, FileStatus, FsPath, ReadType, Result, file::Ttl};
use larder_proto::{
    convert::WorkerAddress,
    v1::{self, command::What},
};
use tokio_util::sync::CancellationToken;

use crate::{
    ahead::Ahead,
    calls::{How, Outcome},
    config::Config,
    content::Caches,
    core::Core,
    descriptors::Residents,
    edit::{Edit, EditOptions, Target},
    file::File,
    listing::{Entry, Listing},
    load::{self, LoadProgress},
    locations::{self, BlockLocation},
    master::Link,
    metadata::{Known, Terms},
    options::{
        AttributeChanges, CreateOptions, FreeOptions, ListOptions, LoadOptions, MkdirOptions, MountChanges,
        MountOptions, OpenOptions, RemoveOptions, RenameOptions, StatusOptions, XattrMode,
    },
    report::{ClusterReport, Mount, Removed},
    session, touch,
    workers::Workers,
    writer::Writer,
};

/// Time that connecting spends on meeting the workers of this host.
const MEETING: Duration = Duration::from_secs(2);
/// A connection to a cluster. Cheap to clone; all clones share connections and caches.
#[derive(Clone, Debug)]
pub struct FileSystem(pub(crate) Arc<Core>);

/// The entries of a listing, as they come.
pub type Entries = std::pin::Pin<Box<dyn Stream<Item = Result<Entry>> + Send>>;
/// How far a load is, again and again.
pub type Progress = std::pin::Pin<Box<dyn Stream<Item = Result<LoadProgress>> + Send>>;

type Path = FsPath;

/// Half of what this client keeps may be leased ahead.
fn ahead(config: &Config) -> Ahead {
    let on = config.short_circuit && config.read_ahead.0 > 0;
    if on { Ahead::new(config.mappings_max / 2, config.mapped_max.0 / 2) } else { Ahead::new(0, 0) }
}

fn bytes(path: &FsPath) -> Bytes {
    Bytes::copy_from_slice(path.as_bytes())
}

/// A whole file that changes while it is read is opened so many times.
const READS: usize = 5;

impl FileSystem {
    /// Connects to the master. Must be called within a tokio runtime, which then carries the connection's tasks.
    ///
    /// # Errors
    /// `Unavailable` if the master cannot be reached within the timeout, `Denied` or `Mismatch` if it refuses.
    pub async fn connect(config: Config) -> Result<Self> {
        let config = Arc::new(config);
        let link = Link::new(Arc::clone(&config))?;
        let residents = Residents::new(config.descriptors_max, config.mappings_max, config.mapped_max.0);
        let caches = Caches::new(config.metadata_max, Arc::clone(&link.trust), residents, Arc::clone(&link.calls));
        let workers = Arc::new(Workers::new(Arc::clone(&link)));
        let (touches, end) = (Arc::<touch::Touches>::default(), CancellationToken::new());
        let over = CancellationToken::new();
        let (session, ended) = (session::run(Arc::clone(&link), Arc::clone(&caches), end.clone()), over.clone());
        tokio::spawn(async move {
            session.await;
            ended.cancel();
        });
        let ahead = ahead(&config);
        let runtime = tokio::runtime::Handle::current();
        let core = Core { config, link, caches, workers, touches, ahead, end, over, runtime };
        let fs = Self(Arc::new(core));
        fs.0.link.up(fs.0.link.deadline()).await?;
        fs.look_after();
        let deadline = fs.0.link.deadline().within(MEETING);
        // Without it the first read or write meets them.
        let _ = deadline.bound("workers", fs.meet_workers()).await;
        Ok(fs)
    }

    /// Ends the session and waits, for a second at most, until the master knows: good at the end of a program, where the
    /// runtime may stop before the last handle's farewell is out. All clones and their writers are of no more use.
    pub async fn close(self) {
        self.0.touches.send(&self.0.workers);
        self.0.end.cancel();
        // A master that does not hear it ends the session with its lease.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.0.over.cancelled()).await;
    }

    /// Once a second: hints to workers, and leases whose connection is gone.
    fn look_after(&self) {
        let (caches, workers) = (Arc::clone(&self.0.caches), Arc::clone(&self.0.workers));
        let (touches, end) = (Arc::clone(&self.0.touches), self.0.end.clone());
        tokio::spawn(async move {
            while tokio::time::timeout(touch::EVERY, end.cancelled()).await.is_err() {
                touches.send(&workers);
                caches.residents.sweep();
            }
        });
    }

    async fn meet_workers(&self) -> Result<()> {
        if !self.0.config.short_circuit {
            return Ok(());
        }
        let deadline = self.0.link.deadline().within(MEETING);
        let report =
            self.0.link.ask(deadline, |mut client| async move { client.get_report(v1::ReportRequest {}).await });
        let live = report.await?.workers.into_iter().filter(|worker| worker.live).filter_map(|worker| worker.address);
        let addresses: Vec<WorkerAddress> = live.filter_map(|address| address.try_into().ok()).collect();
        self.0.workers.meet(&addresses).await;
        Ok(())
    }

    fn path(path: impl AsRef<[u8]>) -> Result<Path> {
        FsPath::parse(path)
    }

    /// Opens a file for reading, as configured.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory`, `Denied`; `Unavailable` at the deadline.
    pub async fn open(&self, path: impl AsRef<[u8]>) -> Result<File> {
        self.open_with(path, OpenOptions::default()).await
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// As [`FileSystem::open`].
    pub async fn open_with(&self, path: impl AsRef<[u8]>, options: OpenOptions) -> Result<File> {
        let read_type = options.read_type.unwrap_or(self.0.config.read_type);
        if let Some(file) = self.open_known(path.as_ref(), read_type)? {
            return Ok(file);
        }
        let path = Self::path(path)?;
        if let Some(file) = self.open_known(path.as_bytes(), read_type)? {
            return Ok(file);
        }
        let known = Box::pin(self.0.open(&path)).await?;
        self.file(known, read_type).ok_or_else(|| Error::new(ErrorKind::Mismatch, "an open without content").at(&path))
    }

    /// A warm open: no message, no wait.
    fn open_known(&self, path: &[u8], read_type: ReadType) -> Result<Option<File>> {
        match self.0.caches.metadata.get(path) {
            None => Ok(None),
            Some(known) if known.status.kind.is_directory() => {
                Err(Error::new(ErrorKind::IsDirectory, "a directory has no bytes").at(path))
            }
            Some(known) => {
                // A forked child has the cache, and nobody who tells it what has changed.
                self.0.link.check_process()?;
                Ok(self.file(known, read_type))
            }
        }
    }

    fn file(&self, known: Known, read_type: ReadType) -> Option<File> {
        Some(File::new(Arc::clone(&self.0), known.content?, known.status, read_type))
    }

    /// Begins a new file, or with `overwrite` a new version of one. It appears at [`Writer::commit`].
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound` for a directory that is missing, `Denied`, `ReadOnly`, `Unavailable`.
    pub async fn create(&self, path: impl AsRef<[u8]>, options: CreateOptions) -> Result<Writer> {
        let path = Self::path(path)?;
        let target = Box::pin(self.0.create(&path, &options, self.0.link.deadline())).await?;
        Ok(Writer::new(Arc::clone(&self.0), path, options, target))
    }

    /// Writes a whole file.
    ///
    /// # Errors
    /// As [`FileSystem::create`] and [`Writer::commit`].
    pub async fn write(
        &self,
        path: impl AsRef<[u8]>,
        bytes: impl Into<Bytes>,
        options: CreateOptions,
    ) -> Result<FileStatus> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            let path = Self::path(path)?;
            let what = What::CreateFile(self.0.create_message(&path, &options, true));
            let how = How { durable: !options.relaxed, repeatable: false };
            return self.status_of(self.0.call(what, how).await, &path);
        }
        let mut writer = self.create(path, options).await?;
        writer.write(bytes).await?;
        Box::pin(writer.commit()).await
    }

    /// Begins to edit a file in place.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory`, `Denied`, `ReadOnly`; `Changed` if it has another generation than was said; `Busy` while
    /// another process edits it and does not give it up; `Unavailable`.
    pub async fn edit(&self, path: impl AsRef<[u8]>, options: EditOptions) -> Result<Edit> {
        let target = Target { path: Some(Self::path(path)?), id: FileId(0), caller: None };
        Box::pin(self.0.edit(target, options)).await
    }

    /// Puts bytes at the end of a file that is there.
    ///
    /// # Errors
    /// As [`FileSystem::edit`] and [`Edit::commit`].
    pub async fn append(&self, path: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Result<FileStatus> {
        let edit = self.edit(path, EditOptions::default()).await?;
        edit.append(bytes.as_ref()).await?;
        Box::pin(edit.close()).await
    }

    /// Cuts a file, or lets it grow with zeros.
    ///
    /// # Errors
    /// As [`FileSystem::edit`] and [`Edit::commit`].
    pub async fn truncate(&self, path: impl AsRef<[u8]>, length: u64) -> Result<FileStatus> {
        let edit = self.edit(path, EditOptions { truncate: length == 0, ..EditOptions::default() }).await?;
        edit.set_length(length).await?;
        Box::pin(edit.close()).await
    }

    /// Reads a whole file, in one version; not copied where it is local. One that gets other content meanwhile is opened again,
    /// some times.
    ///
    /// # Errors
    /// As [`FileSystem::open`] and [`File::read_at`].
    pub async fn read(&self, path: impl AsRef<[u8]>) -> Result<Bytes> {
        let path = path.as_ref();
        for _ in 1..READS {
            match self.read_once(path).await {
                Err(error) if error.kind() == ErrorKind::Changed => {}
                other => return other,
            }
        }
        self.read_once(path).await
    }

    async fn read_once(&self, path: &[u8]) -> Result<Bytes> {
        let file = self.open(path).await?;
        file.read_range(0..file.length()).await
    }

    /// The status of a path; symbolic links are followed.
    ///
    /// # Errors
    /// `NotFound`, `Denied`; `Unavailable` at the deadline.
    pub async fn status(&self, path: impl AsRef<[u8]>) -> Result<FileStatus> {
        self.status_with(path, StatusOptions::default()).await
    }

    /// The status of a path.
    ///
    /// # Errors
    /// As [`FileSystem::status`].
    pub async fn status_with(&self, path: impl AsRef<[u8]>, options: StatusOptions) -> Result<FileStatus> {
        let path = Self::path(path)?;
        self.0.link.check_process()?;
        let cached = !options.no_follow && !options.fresh;
        if let Some(known) = cached.then(|| self.0.caches.metadata.get(path.as_bytes())).flatten() {
            return Ok((*known.status).clone());
        }
        let epoch = self.0.caches.metadata.epoch();
        let StatusOptions { no_follow, fresh } = options;
        let request = v1::StatusRequest { path: bytes(&path), no_follow, fresh, ..v1::StatusRequest::default() };
        let reply = self.0.link.ask(self.0.link.deadline(), |mut client| {
            let request = request.clone();
            async move { client.get_status(request).await }
        });
        let reply = reply.await.map_err(|error| error.at(path.as_bytes()))?;
        let status = FileStatus::try_from(reply.status.unwrap_or_default())?;
        if !no_follow {
            let validity = reply.validity.unwrap_or_default();
            let parent = larder_common::FileId(reply.parent);
            let terms = Terms { position: reply.position, parent, validity, epoch };
            self.0.caches.metadata.put(path, Known { status: Arc::new(status.clone()), content: None }, terms);
        }
        Ok(status)
    }

    /// Whether there is something of that name.
    ///
    /// # Errors
    /// As [`FileSystem::status`], without `NotFound`.
    pub async fn exists(&self, path: impl AsRef<[u8]>) -> Result<bool> {
        match self.status(path).await {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDirectory) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The entries of a directory in the order of their names, as they come; with `recursive` all below it. A file is its
    /// own only entry.
    pub fn list(&self, path: impl AsRef<[u8]>, options: ListOptions) -> Entries {
        let (core, path) = (Arc::clone(&self.0), Self::path(path));
        Box::pin(async_stream::try_stream! {
            let path = path?;
            let named = |error: Error| error.at(path.as_bytes());
            let mut listing = Listing::begin(&core, path.clone(), &options, core.link.deadline()).await.map_err(named)?;
            while let Some(entries) = listing.next(&core, core.link.deadline()).await.map_err(named)? {
                for entry in entries {
                    yield entry;
                }
            }
        })
    }

    fn status_of(&self, outcome: Result<Outcome>, path: &FsPath) -> Result<FileStatus> {
        self.0.caches.metadata.forget(path.as_bytes());
        match outcome.map_err(|error| error.at(path.as_bytes()))? {
            Outcome::Status(status) => Ok(*status),
            _ => Err(Error::new(ErrorKind::Mismatch, "the master did not answer with a status").at(path)),
        }
    }

    async fn change(&self, path: &FsPath, what: What, how: How) -> Result<Removed> {
        let outcome = self.0.call(what, how).await;
        self.0.caches.metadata.forget(path.as_bytes());
        match outcome.map_err(|error| error.at(path.as_bytes()))? {
            Outcome::Counted(counted) => Ok(counted.into()),
            _ => Ok(Removed::default()),
        }
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound` for a missing one above it, `Denied`, `ReadOnly`.
    pub async fn mkdir(&self, path: impl AsRef<[u8]>, options: MkdirOptions) -> Result<()> {
        let path = Self::path(path)?;
        let MkdirOptions { recursive, allow_exists, mode, write_type } = options;
        let message = v1::CreateDirectory {
            path: bytes(&path),
            mode: mode.unwrap_or(0o755),
            recursive,
            allow_exists,
            write_type: v1::WriteType::from(write_type.unwrap_or(self.0.config.write_type)).into(),
            at: None,
        };
        let how = if allow_exists { How::AGAIN } else { How::ONCE };
        self.change(&path, What::CreateDirectory(message), how).await.map(drop)
    }

    /// Gives a file or directory another name.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, `NotEmpty`, `CrossesMounts`, `Changed` if `expected` is something else now.
    pub async fn rename(&self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>, options: RenameOptions) -> Result<()> {
        let (from, to) = (Self::path(from)?, Self::path(to)?);
        let RenameOptions { no_replace, exchange, expected } = options;
        let expected = expected.map_or(0, |id| id.0);
        let open = !no_replace && !exchange && self.goes_open(&to);
        let message = v1::Rename {
            from: bytes(&from),
            to: bytes(&to),
            no_replace,
            exchange,
            expected,
            open,
            ..v1::Rename::default()
        };
        let renamed = self.change(&from, What::Rename(message), How::ONCE).await;
        self.0.caches.metadata.forget(to.as_bytes());
        renamed.map(drop)
    }

    /// Whether what is about to lose this path is open here and needs bytes from elsewhere, as far as it is remembered.
    fn goes_open(&self, path: &FsPath) -> bool {
        let caches = &self.0.caches;
        caches.is_any_open()
            && caches.metadata.get(path.as_bytes()).is_some_and(|known| caches.goes_open(known.status.id))
    }

    /// Removes a file or directory, in the under store too.
    ///
    /// # Errors
    /// `NotFound`, `NotEmpty`, `Denied`, `ReadOnly`, `Changed` if `expected` is something else now.
    pub async fn remove(&self, path: impl AsRef<[u8]>, options: RemoveOptions) -> Result<Removed> {
        let path = Self::path(path)?;
        let only = match options.directory {
            None => v1::Kind::Unspecified,
            Some(true) => v1::Kind::Directory,
            Some(false) => v1::Kind::File,
        };
        let message = v1::Remove {
            path: bytes(&path),
            recursive: options.recursive,
            expected: options.expected.map_or(0, |id| id.0),
            only: only.into(),
            unchecked: options.unchecked,
            open: self.goes_open(&path),
            ..v1::Remove::default()
        };
        self.change(&path, What::Remove(message), How::ONCE).await
    }

    /// Gives an existing file one more name.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, `IsDirectory`, `CrossesMounts`.
    pub async fn link(&self, existing: impl AsRef<[u8]>, new: impl AsRef<[u8]>) -> Result<()> {
        let (existing, new) = (Self::path(existing)?, Self::path(new)?);
        let message = v1::Link { existing: bytes(&existing), new: bytes(&new), ..v1::Link::default() };
        self.change(&new, What::Link(message), How::ONCE).await?;
        self.0.caches.metadata.forget(existing.as_bytes());
        Ok(())
    }

    /// Makes a symbolic link with this target, taken as it is.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound` for a missing directory.
    pub async fn symlink(&self, target: impl AsRef<[u8]>, path: impl AsRef<[u8]>) -> Result<()> {
        let path = Self::path(path)?;
        let target = Bytes::copy_from_slice(target.as_ref());
        self.change(&path, What::Symlink(v1::Symlink { path: bytes(&path), target, at: None }), How::ONCE)
            .await
            .map(drop)
    }

    /// Changes mode, owner, times.
    ///
    /// # Errors
    /// `NotFound`, `Denied`.
    pub async fn set_attributes(&self, path: impl AsRef<[u8]>, changes: AttributeChanges) -> Result<()> {
        let path = Self::path(path)?;
        let message = v1::SetAttributes { path: bytes(&path), ..changes.message() };
        self.change(&path, What::SetAttributes(message), How::AGAIN).await.map(drop)
    }

    /// One extended attribute; `None` if there is none of that name.
    ///
    /// # Errors
    /// `NotFound`, `Denied`.
    pub async fn xattr(&self, path: impl AsRef<[u8]>, name: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.ask_xattrs(path, name).await?.into_iter().next().map(|attribute| attribute.value))
    }

    /// All extended attributes. What is not UTF-8 in a name is shown as `\xNN`.
    ///
    /// # Errors
    /// `NotFound`, `Denied`.
    pub async fn xattrs(&self, path: impl AsRef<[u8]>) -> Result<BTreeMap<String, Bytes>> {
        let found = self.ask_xattrs(path, b"").await?;
        let text = |name: &[u8]| match std::str::from_utf8(name) {
            Ok(text) => text.to_owned(),
            Err(_) => name.escape_ascii().to_string(),
        };
        Ok(found.into_iter().map(|attribute| (text(&attribute.name), attribute.value)).collect())
    }

    async fn ask_xattrs(&self, path: impl AsRef<[u8]>, name: &[u8]) -> Result<Vec<v1::Xattr>> {
        let path = Self::path(path)?;
        let name = Bytes::copy_from_slice(name);
        let request = v1::XattrRequest { path: bytes(&path), name, ..v1::XattrRequest::default() };
        let reply = self.0.link.ask(self.0.link.deadline(), |mut client| {
            let request = request.clone();
            async move { client.get_xattr(request).await }
        });
        Ok(reply.await.map_err(|error| error.at(path.as_bytes()))?.attributes)
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `AlreadyExists` or `NoAttribute` as the mode asks, `NotFound`, `Denied`, `NotPermitted`.
    pub async fn set_xattr(
        &self,
        path: impl AsRef<[u8]>,
        name: &[u8],
        value: impl Into<Bytes>,
        mode: XattrMode,
    ) -> Result<()> {
        let path = Self::path(path)?;
        let message = v1::SetXattr {
            path: bytes(&path),
            name: Bytes::copy_from_slice(name),
            value: value.into(),
            create_only: mode == XattrMode::Create,
            replace_only: mode == XattrMode::Replace,
            id: 0,
        };
        let how = if mode == XattrMode::Create { How::ONCE } else { How::AGAIN };
        self.change(&path, What::SetXattr(message), how).await.map(drop)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`, `NotFound`, `Denied`, `NotPermitted`.
    pub async fn remove_xattr(&self, path: impl AsRef<[u8]>, name: &[u8]) -> Result<()> {
        let path = Self::path(path)?;
        let message = v1::RemoveXattr { path: bytes(&path), name: Bytes::copy_from_slice(name), id: 0 };
        self.change(&path, What::RemoveXattr(message), How::ONCE).await.map(drop)
    }

    /// Drops cached blocks of what is persisted.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory` without `recursive`.
    pub async fn free(&self, path: impl AsRef<[u8]>, options: FreeOptions) -> Result<Removed> {
        let path = Self::path(path)?;
        let FreeOptions { recursive, forced } = options;
        self.change(&path, What::Free(v1::Free { path: bytes(&path), recursive, forced }), How::AGAIN).await
    }

    /// Brings files into the cache. The stream tells how far it is; dropping it stops.
    pub fn load(&self, path: impl AsRef<[u8]>, options: LoadOptions) -> Progress {
        Box::pin(load::load(self.clone(), Self::path(path), options))
    }

    /// Puts what is only cached into the under store, below a path.
    ///
    /// # Errors
    /// `NotFound`, `ReadOnly`, `Unavailable`.
    pub async fn persist(&self, path: impl AsRef<[u8]>, recursive: bool) -> Result<Removed> {
        let path = Self::path(path)?;
        self.change(&path, What::Persist(v1::Persist { path: bytes(&path), recursive }), How::AGAIN).await
    }

    /// Keeps the blocks of a file, or of all below a directory, in the cache.
    ///
    /// # Errors
    /// `NotFound`, `Denied`.
    pub async fn pin(&self, path: impl AsRef<[u8]>) -> Result<()> {
        self.set_pin(path, true).await
    }

    /// Takes [`FileSystem::pin`] back.
    ///
    /// # Errors
    /// As [`FileSystem::pin`].
    pub async fn unpin(&self, path: impl AsRef<[u8]>) -> Result<()> {
        self.set_pin(path, false).await
    }

    async fn set_pin(&self, path: impl AsRef<[u8]>, pinned: bool) -> Result<()> {
        let path = Self::path(path)?;
        self.change(&path, What::SetPin(v1::SetPin { path: bytes(&path), pinned }), How::AGAIN).await.map(drop)
    }

    /// Sets the time to live; `None`: for ever.
    ///
    /// # Errors
    /// `NotFound`, `Denied`.
    pub async fn set_ttl(&self, path: impl AsRef<[u8]>, ttl: Option<Ttl>) -> Result<()> {
        let path = Self::path(path)?;
        let message = v1::SetTtl { path: bytes(&path), ttl: ttl.map(Into::into) };
        self.change(&path, What::SetTtl(message), How::AGAIN).await.map(drop)
    }

    /// Asks for at least so many copies in the cache; 0 for as it comes.
    ///
    /// # Errors
    /// `NotFound`, `Denied`.
    pub async fn set_replication(&self, path: impl AsRef<[u8]>, min: u32, recursive: bool) -> Result<()> {
        let path = Self::path(path)?;
        let message = v1::SetReplication { path: bytes(&path), min, recursive };
        self.change(&path, What::SetReplication(message), How::AGAIN).await.map(drop)
    }

    /// Fixes the eviction policy below a directory; `None`: back to the default.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `Invalid` for a policy that is not known.
    pub async fn set_policy(&self, path: impl AsRef<[u8]>, policy: Option<&str>) -> Result<()> {
        let path = Self::path(path)?;
        let message = v1::SetPolicy { path: bytes(&path), policy: policy.unwrap_or_default().to_owned() };
        self.change(&path, What::SetPolicy(message), How::AGAIN).await.map(drop)
    }

    /// Mounts an under store.
    ///
    /// # Errors
    /// `AlreadyExists`, `Invalid` for an address or option that makes no sense, `Unavailable`.
    pub async fn mount(&self, path: impl AsRef<[u8]>, uri: &str, options: MountOptions) -> Result<()> {
        let path = Self::path(path)?;
        let message = v1::Mount {
            path: bytes(&path),
            uri: uri.to_owned(),
            read_only: options.read_only,
            options: options.options.into_iter().collect(),
        };
        self.change(&path, What::Mount(message), How::ONCE).await.map(drop)
    }

    /// Changes how an under store is mounted; what is known and cached of it stays.
    ///
    /// # Errors
    /// `Invalid` where nothing is mounted, `Busy` for what cannot become read-only while something of it is not persisted;
    /// those of reaching the under store with the new options.
    pub async fn update_mount(&self, path: impl AsRef<[u8]>, changes: MountChanges) -> Result<()> {
        let path = Self::path(path)?;
        let message = v1::UpdateMount {
            path: bytes(&path),
            read_only: changes.read_only,
            options: changes.options.into_iter().collect(),
            removed: changes.removed,
        };
        self.change(&path, What::UpdateMount(message), How::AGAIN).await.map(drop)
    }

    /// Takes a mount away; what is in its under store stays there.
    ///
    /// # Errors
    /// `NotFound`, `Busy` while something of it is not persisted.
    pub async fn unmount(&self, path: impl AsRef<[u8]>) -> Result<()> {
        let path = Self::path(path)?;
        self.change(&path, What::Unmount(v1::Unmount { path: bytes(&path) }), How::ONCE).await.map(drop)
    }

    /// All mounts.
    ///
    /// # Errors
    /// `Unavailable` at the deadline.
    pub async fn mounts(&self) -> Result<Vec<Mount>> {
        let deadline = self.0.link.deadline();
        let reply = self.0.link.ask(deadline, |mut client| async move { client.get_mounts(v1::Empty {}).await });
        reply.await?.mounts.into_iter().map(TryInto::try_into).collect()
    }

    /// What the cluster says of itself.
    ///
    /// # Errors
    /// `Unavailable` at the deadline.
    pub async fn report(&self) -> Result<ClusterReport> {
        let deadline = self.0.link.deadline();
        let reply =
            self.0.link.ask(deadline, |mut client| async move { client.get_report(v1::ReportRequest {}).await });
        reply.await?.try_into()
    }

    /// Asks the master for nothing: the time of a round trip.
    ///
    /// # Errors
    /// `Unavailable` at the deadline.
    pub async fn ping(&self) -> Result<()> {
        let deadline = self.0.link.deadline();
        self.0.link.ask(deadline, |mut client| async move { client.ping(v1::Empty {}).await }).await.map(drop)
    }

    /// Where the blocks of a file are, and whether this process reads them by short circuit, and if not why.
    ///
    /// # Errors
    /// As [`FileSystem::open`].
    pub async fn locations(&self, path: impl AsRef<[u8]>) -> Result<Vec<BlockLocation>> {
        let path = Self::path(path)?;
        let known = self.0.open(&path).await?;
        match known.content {
            Some(content) => locations::of(&self.0, &content).await,
            None => Ok(Vec::new()),
        }
    }
}
