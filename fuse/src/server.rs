//! What all requests share: the client, the table of nodes, what is open.
//!
//! Lock order: `opens`, then the state of one [`Opened`](crate::opened::Opened), then `table`; each is held for a few
//! instructions and never across an await.

use std::{
    num::NonZeroUsize,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dashmap::DashMap;
use fuser::FileAttr;
use larder_client::{FileId, FileStatus, FsPath, Name, NodeStatus, Nodes, Trust};
use larder_common::{ErrorKind, clock::Clock};
use lru::LruCache;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::{
    accounts::{Accounts, Reason},
    attributes::{Timeouts, View},
    backing::Registry,
    beside::Beside,
    errno::{Answer, Errno},
    nodes::{NodeId, ROOT, Seen, Table},
    opened::{Handle, Opened},
    options::MountOptions,
    transport::{Backing, Device},
    unopened::Unopened,
    work::{Tools, Work},
    works::Works,
};

/// What the kernel and we have agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Negotiated {
    /// The kernel reads cache files itself.
    pub(crate) passthrough: bool,
    /// What the kernel does not keep in its page cache can be mapped for everybody.
    pub(crate) mmap: bool,
    /// Names can be called back all at once.
    pub(crate) epoch: bool,
}

/// What a server is made of.
pub(crate) struct Parts {
    pub(crate) nodes: Nodes,
    pub(crate) root: FileId,
    pub(crate) path: FsPath,
    pub(crate) options: MountOptions,
    pub(crate) backing_ids: NonZeroUsize,
    pub(crate) scratch: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Answers the kernel's requests.
pub(crate) struct Server {
    pub(crate) nodes: Nodes,
    pub(crate) table: Mutex<Table>,
    pub(crate) opens: Mutex<FxHashMap<NodeId, Arc<Opened>>>,
    pub(crate) handles: DashMap<u64, Arc<Handle>>,
    pub(crate) backings: Arc<Registry<Backing>>,
    pub(crate) negotiated: OnceLock<Negotiated>,
    device: OnceLock<Device>,
    without_passthrough: OnceLock<Reason>,
    pub(crate) view: View,
    pub(crate) tools: Tools,
    /// The files that are being changed.
    pub(crate) works: Works,
    /// What the kernel reads of them beside.
    pub(crate) beside: Arc<Beside>,
    /// Of the directory that is mounted.
    pub(crate) path: FsPath,
    pub(crate) clock: Arc<dyn Clock>,
    last_handle: AtomicU64,
    /// What is read without having been opened.
    pub(crate) unopened: Unopened,
    pub(crate) accounts: Accounts,
    /// When the kernel began to read a directory last.
    pub(crate) listed: Mutex<LruCache<NodeId, Instant>>,
}

/// So long the kernel believes the attributes of the mount point itself, at most.
const ROOT_BELIEVED: Duration = Duration::from_secs(1);
/// So many directories are known to be listed.
const LISTED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// What an answer that names a node tells the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) node: NodeId,
    pub(crate) attributes: FileAttr,
    pub(crate) timeouts: Timeouts,
}

impl Server {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let Parts { nodes, root, path, options, backing_ids, scratch, clock } = parts;
        let backings = Arc::new(Registry::new(backing_ids));
        let beside = Arc::<Beside>::default();
        let tools = Tools {
            nodes: nodes.clone(),
            backings: Arc::clone(&backings),
            beside: Arc::clone(&beside),
            scratch,
            clock: Arc::clone(&clock),
        };
        Arc::new(Self {
            nodes,
            table: Mutex::new(Table::new(root)),
            opens: Mutex::default(),
            handles: DashMap::new(),
            backings,
            negotiated: OnceLock::new(),
            device: OnceLock::new(),
            without_passthrough: OnceLock::new(),
            view: View::new(&options),
            tools,
            works: Works::default(),
            beside,
            path,
            clock,
            last_handle: AtomicU64::new(0),
            unopened: Unopened::default(),
            accounts: Accounts::default(),
            listed: Mutex::new(LruCache::new(LISTED)),
        })
    }

    pub(crate) fn negotiated(&self) -> Negotiated {
        self.negotiated.get().copied().unwrap_or_default()
    }

    /// Whether the kernel keeps no pages of files that are read and written through this process. Where such a file could not be
    /// mapped for everybody it keeps them.
    pub(crate) fn is_direct(&self) -> bool {
        self.negotiated().mmap
    }

    /// The way to the kernel, which is there before the first request.
    pub(crate) fn attach(&self, device: Device) {
        // There is one device for each server.
        let _ = self.device.set(device);
    }

    pub(crate) fn device(&self) -> Option<&Device> {
        self.device.get()
    }

    /// Why the kernel reads no file of this mount itself; `None` if it reads those that are whole.
    pub(crate) fn without_passthrough(&self) -> Option<Reason> {
        if !self.negotiated().passthrough {
            return Some(Reason::Without);
        }
        self.without_passthrough.get().copied()
    }

    /// The kernel takes no cache files from us; said once.
    pub(crate) fn forgo_passthrough(&self, reason: Reason, cause: &str) {
        if self.without_passthrough.set(reason).is_ok() {
            tracing::warn!("the kernel does not read cache files itself, so reads go through this process: {cause}");
        }
    }

    /// The file of a node. A node that the kernel has and we have not cannot be; it would look again.
    pub(crate) fn file(&self, node: NodeId) -> Answer<FileId> {
        self.table.lock().file(node).ok_or(Errno::STALE)
    }

    pub(crate) fn timeouts(&self, trusted: Trust) -> Timeouts {
        self.view.timeouts(trusted, self.nodes.trusted_until(), Instant::now(), self.negotiated().epoch)
    }

    /// Registers a handle, and gives its number.
    pub(crate) fn add_handle(&self, handle: Handle) -> u64 {
        let number = self.last_handle.fetch_add(1, Ordering::Relaxed) + 1;
        self.handles.insert(number, Arc::new(handle));
        number
    }

    /// The handle of this number. 0 is none: the kernel does not open files of trees that do not change.
    pub(crate) fn handle(&self, number: u64) -> Answer<Arc<Handle>> {
        self.handles.get(&number).map(|handle| Arc::clone(&handle)).ok_or(Errno::BAD_HANDLE)
    }

    pub(crate) fn opened(&self, node: NodeId) -> Option<Arc<Opened>> {
        self.opens.lock().get(&node).cloned()
    }

    /// What is open of a file's newest version.
    pub(crate) fn opened_file(&self, file: FileId) -> Option<Arc<Opened>> {
        let node = self.table.lock().node(file)?;
        self.opened(node)
    }

    /// The kernel is told of a file under a name: its node is counted.
    pub(crate) fn enter(&self, status: NodeStatus, place: (FileId, &Name)) -> Entry {
        let NodeStatus { mut status, trusted, .. } = status;
        let node = self.table.lock().enter(status.id, status.generation, Some(place));
        let timeouts = self.overlay(node, &mut status, self.timeouts(trusted));
        Entry { node, attributes: self.view.attributes(&status), timeouts }
    }

    /// What this mount has changed and not committed is seen here at once.
    pub(crate) fn overlay(&self, node: NodeId, status: &mut FileStatus, mut timeouts: Timeouts) -> Timeouts {
        let work = match self.opened(node) {
            Some(opened) => self.work_on(&opened),
            None => self.works.get(status.id),
        };
        if let Some(work) = work {
            work.overlay(status);
            timeouts.attributes = Duration::ZERO;
        }
        timeouts
    }

    /// What is being changed of the file that the handles of a node have. Those of an outdated node have it if the kernel reads
    /// what is changed, and else keep what they have.
    pub(crate) fn work_on(&self, opened: &Opened) -> Option<Arc<Work>> {
        let work = self.works.get(opened.file)?;
        let outdated = self.table.lock().get(opened.node).is_none_or(|record| record.outdated);
        let has = !outdated || opened.work().is_some() || (opened.is_passed_through() && work.is_in_place());
        has.then_some(work)
    }

    /// `LOOKUP`.
    pub(crate) async fn lookup(&self, parent: NodeId, name: &Name) -> Answer<Entry> {
        let parent = self.file(parent)?;
        // The kernel has checked that the caller may search the directory.
        let status = self.nodes.lookup(self.nodes.own(), parent, name).await?;
        Ok(self.enter(status, (parent, name)))
    }

    /// `GETATTR`.
    pub(crate) async fn attributes(&self, node: NodeId) -> Answer<(FileAttr, Timeouts)> {
        let file = self.file(node)?;
        let found = self.nodes.status(file).await;
        let opened = self.opened(node);
        let (mut status, trusted) = match (found, &opened) {
            (Ok(found), _) => {
                let seen = self.table.lock().observe(node, found.status.generation, 0);
                match (seen, &opened) {
                    (Seen::Same, _) => (found.status, found.trusted),
                    // Its handles keep what they have.
                    (_, Some(opened)) => (opened.status(), Trust::No),
                    (_, None) => return Err(Errno::STALE),
                }
            }
            // It has lost its last name and is open.
            (Err(error), Some(opened)) if error.kind() == ErrorKind::NotFound => {
                (FileStatus { links: 0, ..opened.status() }, Trust::No)
            }
            // The kernel looks the name up again.
            (Err(error), None) if error.kind() == ErrorKind::NotFound => return Err(Errno::STALE),
            (Err(error), _) => return Err(error.into()),
        };
        let mut timeouts = self.overlay(node, &mut status, self.timeouts(trusted));
        if node == ROOT {
            // Whoever looks at a mount whose process is gone sees that soon.
            timeouts.attributes = timeouts.attributes.min(ROOT_BELIEVED);
        }
        Ok((self.view.attributes(&status), timeouts))
    }

    /// `FORGET`.
    pub(crate) fn forget(&self, node: NodeId, lookups: u64) {
        self.table.lock().forget(node, lookups);
    }
}
