//! What is open of a node: the mode that its handles share, and the work that its writers share.

use std::sync::Arc;

use larder_client::{File, FileId, FileStatus, Generation};
use parking_lot::Mutex;

use crate::{
    accounts::{Read, Reason},
    directories::Cursor,
    errno::{Answer, Errno},
    mode::{Access, Mode, Offer, Way},
    nodes::{NodeId, Seen},
    server::Server,
    transport::Backing,
    work::Work,
};

/// What the handles of a node share.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) node: NodeId,
    pub(crate) file: FileId,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    /// What the handles that are passed through use.
    backing: Option<Arc<Backing>>,
    work: Option<Arc<Work>>,
    writers: u32,
    /// Why the kernel does not read it itself, if it does not.
    why: Option<Reason>,
    /// As it was when it was last seen: the file may have no name any more.
    status: FileStatus,
    /// The version that this mount has committed last while there were readers: it is theirs also when others replace it.
    kept: Option<File>,
}

impl Opened {
    pub(crate) fn work(&self) -> Option<Arc<Work>> {
        self.state.lock().work.clone()
    }

    pub(crate) fn backing(&self) -> Option<Arc<Backing>> {
        self.state.lock().backing.clone()
    }

    /// Whether the kernel reads for some handles, which cannot see what is written through us.
    pub(crate) fn is_passed_through(&self) -> bool {
        matches!(self.state.lock().mode, Mode::Through(_))
    }

    /// Whether somebody reads it through us.
    pub(crate) fn has_readers(&self) -> bool {
        let state = self.state.lock();
        matches!(state.mode, Mode::Plain(handles) if handles > state.writers)
    }

    /// The version that its readers have, where this mount has made it.
    pub(crate) fn kept(&self) -> Option<File> {
        self.state.lock().kept.clone()
    }

    /// Its readers have this version now.
    pub(crate) fn keep(&self, file: Option<File>) {
        if let Some(file) = file {
            let before = self.state.lock().kept.replace(file);
            drop(before);
        }
    }

    pub(crate) fn why(&self) -> Option<Reason> {
        self.state.lock().why
    }

    /// What stood in the way of passthrough when the first handle was opened; later handles follow it.
    pub(crate) fn set_why(&self, why: Reason) {
        self.state.lock().why.get_or_insert(why);
    }

    pub(crate) fn status(&self) -> FileStatus {
        self.state.lock().status.clone()
    }

    pub(crate) fn set_status(&self, change: impl FnOnce(&mut FileStatus)) {
        change(&mut self.state.lock().status);
    }
}

/// A handle's share in what is open. Ends in `Drop`.
pub(crate) struct Claim {
    server: Arc<Server>,
    pub(crate) opened: Arc<Opened>,
    pub(crate) way: Way,
    writes: bool,
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").field("node", &self.opened.node).field("way", &self.way).finish_non_exhaustive()
    }
}

/// An open handle.
#[derive(Debug)]
pub(crate) enum Handle {
    /// The kernel serves it.
    Through(Claim),
    /// The version that it reads, as soon as it has read.
    Reader(Claim, Mutex<Option<Arc<Read>>>),
    /// What it changes, and whether it only appends.
    Writer(Claim, Arc<Work>, bool),
    Directory(tokio::sync::Mutex<Cursor>),
}

impl Handle {
    pub(crate) fn claim(&self) -> Option<&Claim> {
        match self {
            Handle::Through(claim) | Handle::Reader(claim, _) | Handle::Writer(claim, ..) => Some(claim),
            Handle::Directory(_) => None,
        }
    }
}

impl Server {
    /// Opens a node in a way that goes with what is open of it. `status` says which version was seen; `backing` is its
    /// registration, where there is one.
    pub(crate) fn claim(
        self: &Arc<Self>,
        node: NodeId,
        status: &FileStatus,
        access: Access,
        backing: Option<Arc<Backing>>,
    ) -> Answer<Claim> {
        let mut opens = self.opens.lock();
        if self.table.lock().open(node, status.generation) != Seen::Same {
            return Err(Errno::STALE);
        }
        let claimed = self.claim_in(&mut opens, node, status, access, backing);
        if claimed.is_err() {
            self.table.lock().close(node);
        }
        claimed
    }

    fn claim_in(
        self: &Arc<Self>,
        opens: &mut rustc_hash::FxHashMap<NodeId, Arc<Opened>>,
        node: NodeId,
        status: &FileStatus,
        access: Access,
        backing: Option<Arc<Backing>>,
    ) -> Answer<Claim> {
        let opened = opens.get(&node).cloned().unwrap_or_else(|| {
            let (work, backing, kept, why) = Default::default();
            let state = State { mode: Mode::Idle, backing, work, writers: 0, why, status: status.clone(), kept };
            Arc::new(Opened { node, file: status.id, state: Mutex::new(state) })
        });
        let mut state = opened.state.lock();
        let whole = backing.is_some() || state.backing.is_some();
        let way = state.mode.decide(access, Offer { whole, in_place: false, unseen: false });
        if way == Way::Elsewhere {
            drop(state);
            self.outdate(&opened);
            return Err(Errno::STALE);
        }
        let writes = access.writes();
        if writes {
            state.work = Some(self.works.join(status.id, || Work::new(self.tools.clone(), status)));
            state.writers += 1;
            self.table.lock().set_writing(node, true);
        }
        if way == Way::Through && state.backing.is_none() {
            state.backing = backing;
        }
        state.mode.open(way);
        drop(state);
        opens.insert(node, Arc::clone(&opened));
        Ok(Claim { server: Arc::clone(self), opened, way, writes })
    }
}

impl Server {
    /// Whoever opens this node from now on gets another one; the kernel reads for its handles, and what they see of its file
    /// changes without it.
    pub(crate) fn outdate(&self, opened: &Arc<Opened>) {
        self.table.lock().outdate(opened.node);
        self.beside.add(opened);
        if let Some(device) = self.device()
            && let Err(error) = device.invalidate_attributes(opened.node)
        {
            tracing::debug!(%error, node = opened.node, "attributes could not be dropped");
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut opens = self.server.opens.lock();
        let mut state = self.opened.state.lock();
        let node = self.opened.node;
        state.mode.close();
        if self.writes {
            state.writers -= 1;
            if state.writers == 0 {
                self.server.written(node, state.work.take());
            }
        }
        let mut unused = None;
        if state.mode == Mode::Idle {
            unused = state.backing.take();
            opens.remove(&node);
        }
        let idle = state.mode == Mode::Idle;
        let nameless = idle && state.status.links == 0;
        drop(state);
        self.server.table.lock().close(node);
        drop(opens);
        // Its end is a system call.
        drop(unused);
        if self.writes {
            self.server.works.leave(self.opened.file);
        }
        if idle {
            self.server.beside.gone(&self.opened);
        }
        if self.writes || idle {
            self.server.left(self.opened.file);
        }
        if nameless && self.server.opened_file(self.opened.file).is_none() {
            // The last handle of what has no name any more.
            self.server.nodes.closed(self.opened.file, Generation(0));
        }
    }
}
