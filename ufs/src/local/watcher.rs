//! Watching directories with inotify.
//!
//! A watch is on an inode and is reported under the path it was added with; when a watched directory, or one above it,
//! moves or goes, the watches below are taken away, and events say so and to look. One lock guards the tables and is never
//! held during a wait; adding a watch is one system call, made by the pool because it may touch the disk.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use larder_common::{Error, ErrorKind, Name, Result};
use nix::fcntl::OFlag;
use parking_lot::Mutex;
use tokio::io::{Interest, unix::AsyncFd};

use super::{Inner, filesystem};
use crate::{BoxFuture, Event, ObjectPath, PRIVATE_DIRECTORY, Watch};

/// Room for a few thousand events at once.
const BUFFER: usize = 64 << 10;

#[derive(Debug, Default)]
struct Table {
    by_path: BTreeMap<ObjectPath, WatchDescriptor>,
    by_watch: HashMap<WatchDescriptor, ObjectPath>,
}

impl Table {
    /// Takes a directory and all below it out, and gives them with their watches.
    fn remove_tree(&mut self, top: &ObjectPath) -> Vec<(ObjectPath, WatchDescriptor)> {
        let below: Vec<_> =
            self.by_path.range(top.clone()..).map(|(p, _)| p).filter(|p| top.contains(p)).cloned().collect();
        let gone: Vec<_> = below.into_iter().filter_map(|path| self.by_path.remove_entry(&path)).collect();
        gone.iter().for_each(|(_, watch)| drop(self.by_watch.remove(watch)));
        gone
    }
}

/// Watches directories of one store.
pub(super) struct LocalWatch {
    inner: Arc<Inner>,
    inotify: Mutex<Inotify>,
    watches: Watches,
    table: Arc<Mutex<Table>>,
    ready: OwnedFd,
}

impl std::fmt::Debug for LocalWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalWatch({} directories of {})", self.count(), self.inner.root.path().display())
    }
}

fn failed(error: &io::Error, what: &str) -> Error {
    let text = format!("{what}: {error}");
    match error.raw_os_error() {
        Some(libc::EMFILE) => Error::new(ErrorKind::NoSpace, text).advise("raise fs.inotify.max_user_instances"),
        Some(libc::ENOSPC) => Error::new(ErrorKind::NoSpace, text).advise("raise fs.inotify.max_user_watches"),
        _ => Error::from(io::Error::from(error.kind())).context(text),
    }
}

impl LocalWatch {
    pub(super) fn new(inner: Arc<Inner>) -> Result<Self> {
        if let Some(name) = inner.root.remote {
            let message = format!("{} is on {name}, whose changes elsewhere are not told", inner.root.path().display());
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let inotify = Inotify::init().map_err(|e| failed(&e, "cannot watch"))?;
        let ready = inotify.as_fd().try_clone_to_owned()?;
        let watches = inotify.watches();
        Ok(Self { inner, inotify: Mutex::new(inotify), watches, table: Arc::default(), ready })
    }

    /// Reads what is there and turns it into events.
    fn drain(&self) -> Result<Vec<Event>> {
        let mut buffer = [0; BUFFER / 8];
        let mut events = Vec::new();
        let mut inotify = self.inotify.lock();
        loop {
            let read = match inotify.read_events(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(failed(&error, "the watcher broke")),
            };
            for event in read {
                self.translate(&event.wd, event.mask, event.name, &mut events);
            }
            if events.len() >= BUFFER {
                break;
            }
        }
        drop(inotify);
        let mut seen = std::collections::HashSet::new();
        events.retain(|event| seen.insert(event.clone()));
        Ok(events)
    }

    fn translate(&self, wd: &WatchDescriptor, mask: EventMask, name: Option<&std::ffi::OsStr>, out: &mut Vec<Event>) {
        if mask.contains(EventMask::Q_OVERFLOW) {
            return out.push(Event::Overflow);
        }
        let Some(directory) = self.table.lock().by_watch.get(wd).cloned() else { return };
        if mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED | EventMask::UNMOUNT) {
            self.lose(&directory, out);
            return out.push(Event::Changed { directory, name: None });
        }
        let name = name.and_then(|name| Name::new(name.as_encoded_bytes()).ok());
        if name.as_ref().is_some_and(|name| name.as_bytes() == PRIVATE_DIRECTORY.as_bytes()) {
            return;
        }
        let moved = mask.contains(EventMask::ISDIR) && mask.intersects(EventMask::MOVED_FROM | EventMask::DELETE);
        if let (true, Some(Ok(path))) = (moved, name.as_ref().map(|name| directory.join(name))) {
            self.lose(&path, out);
        }
        out.push(Event::Changed { directory, name });
    }

    /// Takes the watches of a tree away and says so: the event may be older than the watch, which is then that of a directory
    /// in the place of the one that went.
    fn lose(&self, top: &ObjectPath, out: &mut Vec<Event>) {
        let gone = self.table.lock().remove_tree(top);
        for (directory, watch) in gone {
            // It is no error that the kernel dropped it first.
            let _ = self.watches.clone().remove(watch);
            out.push(Event::Unwatched { directory });
        }
    }
}

impl Watch for LocalWatch {
    fn add<'a>(&'a self, directory: &'a ObjectPath) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let (root, path) = (Arc::clone(&self.inner.root), directory.clone());
            let (mut watches, table) = (self.watches.clone(), Arc::clone(&self.table));
            let add = move || {
                let fd = root.open_at(&path, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
                if let Some(name) = filesystem::remote(fd.as_fd()).map_err(io::Error::from)? {
                    return Err(Error::new(ErrorKind::Unsupported, format!("on {name}, which does not tell")).at(&path));
                }
                // The descriptor and not the path, so that no link leads out on the way.
                let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
                // Taken before the watch is set: its first event must find its path.
                let mut table = table.lock();
                let watch = watches.add(link, mask()).map_err(|e| failed(&e, "cannot watch").at(&path))?;
                // The same directory under an older path: it moved, and the event that says so is still to come.
                if let Some(old) = table.by_watch.insert(watch.clone(), path.clone()) {
                    table.by_path.remove(&old);
                }
                // Another directory was in its place: what is still told of that is of no use.
                if let Some(old) = table.by_path.insert(path, watch.clone()).filter(|old| *old != watch) {
                    table.by_watch.remove(&old);
                }
                Ok(())
            };
            self.inner.pool.run(move |_| add()).await
        })
    }

    fn remove(&self, directory: &ObjectPath) {
        let gone = self.table.lock().remove_tree(directory);
        for (_, watch) in gone {
            // It is no error that the kernel dropped it first.
            let _ = self.watches.clone().remove(watch);
        }
    }

    fn count(&self) -> usize {
        self.table.lock().by_path.len()
    }

    fn next_events(&self) -> BoxFuture<'_, Result<Vec<Event>>> {
        Box::pin(async move {
            // SAFETY: the descriptor is borrowed from `self`, which outlives this future, and nothing closes or changes
            // it before.
            let ready = unsafe { AsyncFd::register_with_interest(self.ready.as_fd(), Interest::READABLE) };
            let ready = ready.map_err(io::Error::from)?;
            loop {
                let mut guard = ready.readable().await?;
                let events = self.drain()?;
                if !events.is_empty() {
                    return Ok(events);
                }
                guard.clear_ready();
            }
        })
    }
}

fn mask() -> WatchMask {
    WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::MOVE
        | WatchMask::MODIFY
        | WatchMask::CLOSE_WRITE
        | WatchMask::ATTRIB
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::EXCL_UNLINK
        | WatchMask::ONLYDIR
}
