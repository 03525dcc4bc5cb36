//! Files of a directory that is walked, in any order: known, fetched and leased before they are asked for.
//!
//! A [`Walk`] is a directory in which files are opened. From the second file on, the master is asked for the others along
//! (`siblings`), and a *window* of them is leased ahead: it doubles with each file that is read, so that a walk that is
//! abandoned has cost at most a few times what it read, and never more than [`FILES_MAX`] files or [`BYTES_MAX`] of a
//! directory. What is leased ahead and not read yet counts against the window, and in all walks together against half of
//! the descriptors and mappings that this client keeps. Leases are asked for in packets of many, few packets at a time; a
//! file that is wanted before its packet was answered is asked for by itself.
//!
//! None of this changes what a file is: the master's answers are kept by the same rules as any other, and a lease is of one
//! generation.
//!
//! For a mount, which hands cache files to the kernel, a lease that came ahead waits with its descriptor; for everybody else
//! the file is mapped or stays open.
//!
//! Lock order: the queue, then a content's share or a walk's state; `walks` is a leaf.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use larder_common::{FileId, FsPath, Generation, ReadType};
use larder_proto::v1;
use lru::LruCache;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::{
    content::Content,
    core::Core,
    leases::{Leased, Local},
    short::{AheadTaker, ITEM, ITEMS_MAX, Short},
};

/// The most files of one directory that are leased ahead and not read yet.
const FILES_MAX: usize = 128;
/// The most bytes of them.
const BYTES_MAX: u64 = 64 << 20;
/// Larger files are not leased ahead, in bytes.
const FILE_MAX: u64 = 4 << 20;
/// The window at the second file of a directory.
const WINDOW: usize = 8;
/// The most directories that are followed; the one that was used least recently is forgotten.
const WALKS_MAX: usize = 1024;
/// The most leases of one packet.
const PACKET: usize = 64;
/// The most packets that are not answered yet.
const PACKETS: usize = 2;

/// What is leased ahead and not read yet.
#[derive(Debug, Default)]
struct Unread {
    files: AtomicUsize,
    bytes: AtomicU64,
}

/// A share of the budget for what is leased ahead; given back when dropped.
#[derive(Debug)]
pub(crate) struct AheadShare {
    walk: Arc<Walk>,
    all: Arc<Unread>,
    bytes: u64,
}

impl Drop for AheadShare {
    fn drop(&mut self) {
        self.all.files.fetch_sub(1, Ordering::Relaxed);
        self.all.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        let mut state = self.walk.0.lock();
        state.window.files -= 1;
        state.window.bytes -= self.bytes;
    }
}

/// How much is leased ahead in one directory. Pure.
#[derive(Debug, Default)]
struct Window {
    /// Files that were read.
    read: u32,
    /// Leased ahead and not read yet.
    files: usize,
    bytes: u64,
}

impl Window {
    fn width(&self) -> usize {
        match self.read {
            0 | 1 => 0,
            read => (WINDOW << (read - 2).min(16)).min(FILES_MAX),
        }
    }

    /// How many more files are to be leased now: none until half of the window is free, so that packets are filled.
    fn wanted(&self) -> usize {
        let free = self.width().saturating_sub(self.files);
        if free * 2 >= self.width() { free } else { 0 }
    }

    fn admits(&self, bytes: u64) -> bool {
        self.bytes + bytes <= BYTES_MAX
    }
}

/// What files are asked for by, and so what their siblings are kept under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum By {
    #[default]
    Path,
    /// By a mount: names, statuses and leases are all wanted, and descriptors go to the kernel.
    Node,
}

#[derive(Debug, Default)]
struct State {
    window: Window,
    by: By,
    /// How its files are read.
    read_type: Option<ReadType>,
    /// How often the master was asked for a file of it.
    asked: u32,
    /// Known and neither read nor leased.
    known: VecDeque<Weak<Content>>,
    /// The master is being asked for siblings.
    asking: bool,
    /// The last that it named, and whether there may be more.
    last: Option<FsPath>,
}

/// A directory in which files are read.
#[derive(Debug, Default)]
pub(crate) struct Walk(Mutex<State>);

impl Walk {
    /// Takes a file that the master named.
    fn offer(self: &Arc<Self>, content: &Arc<Content>) -> bool {
        let is_new = content.walk.set(Arc::clone(self)).is_ok();
        if is_new && (1..=FILE_MAX).contains(&content.length) {
            self.0.lock().known.push_back(Arc::downgrade(content));
        }
        is_new
    }

    /// One more of its files is read, in this way.
    fn read_one(&self, read_type: ReadType) {
        let mut state = self.0.lock();
        state.window.read += 1;
        state.read_type = Some(read_type);
    }

    fn by(&self) -> By {
        self.0.lock().by
    }

    /// How its files are read, if they are read at all and may be kept.
    fn read_type(&self) -> Option<ReadType> {
        self.0.lock().read_type.filter(|read_type| *read_type != ReadType::NoCache)
    }

    /// Those that are to be leased now, each with its share in place.
    fn choose(self: &Arc<Self>, ahead: &Ahead) -> Vec<Weak<Content>> {
        let wanted = if self.read_type().is_some() { self.0.lock().window.wanted() } else { 0 };
        let mut chosen = Vec::new();
        while chosen.len() < wanted {
            let Some(next) = self.next() else { break };
            let Some(share) = ahead.share(self, next.length) else {
                self.0.lock().known.push_front(Arc::downgrade(&next));
                break;
            };
            *next.ahead.lock() = Some(share);
            chosen.push(Arc::downgrade(&next));
        }
        chosen
    }

    /// Where to go on asking for siblings, if it is time to; then somebody has to.
    fn go_on(&self) -> Option<FsPath> {
        let mut state = self.0.lock();
        if state.asking || state.known.len() >= state.window.width() / 2 {
            return None;
        }
        let last = state.last.take()?;
        state.asking = true;
        Some(last)
    }

    /// The next file that nobody has read or leased.
    fn next(&self) -> Option<Arc<Content>> {
        loop {
            // Not under the lock: the last owner of a content gives its share back to the walk.
            let next = self.0.lock().known.pop_front()?;
            if let Some(content) = next.upgrade().filter(|content| content.is_untouched()) {
                return Some(content);
            }
        }
    }
}

/// All walks, and what is to be leased.
#[derive(Debug)]
pub(crate) struct Ahead {
    walks: Mutex<LruCache<FsPath, Arc<Walk>>>,
    all: Arc<Unread>,
    files_max: usize,
    bytes_max: u64,
    /// Whether anything is leased ahead at all.
    leases: bool,
    queue: Mutex<VecDeque<Weak<Content>>>,
    under_way: AtomicUsize,
}

impl Ahead {
    /// At most so many files and bytes leased and not read; none for 0.
    pub(crate) fn new(files_max: usize, bytes_max: u64) -> Self {
        let walks = NonZeroUsize::new(WALKS_MAX).expect("not zero");
        Self {
            walks: Mutex::new(LruCache::new(walks)),
            all: Arc::default(),
            files_max,
            bytes_max,
            leases: files_max > 0 && bytes_max > 0,
            queue: Mutex::default(),
            under_way: AtomicUsize::new(0),
        }
    }

    /// The walk of a path's directory. The master is being asked for this file.
    fn walk(&self, path: &FsPath) -> Option<Arc<Walk>> {
        let parent = path.parent()?;
        let walk = Arc::clone(self.walks.lock().get_or_insert(parent, Arc::default));
        walk.0.lock().asked += 1;
        Some(walk)
    }

    /// Files and bytes that are leased ahead and not read.
    #[cfg(test)]
    pub(crate) fn unread(&self) -> (usize, u64) {
        (self.all.files.load(Ordering::Relaxed), self.all.bytes.load(Ordering::Relaxed))
    }

    /// Whether the master is being asked for siblings, and how many packets are not answered.
    #[cfg(test)]
    pub(crate) fn is_busy(&self) -> (bool, usize) {
        let asking = self.walks.lock().iter().any(|(_, walk)| walk.0.lock().asking);
        (asking, self.under_way.load(Ordering::Relaxed))
    }

    fn share(&self, walk: &Arc<Walk>, bytes: u64) -> Option<AheadShare> {
        let fits = self.leases
            && self.all.files.load(Ordering::Relaxed) < self.files_max
            && self.all.bytes.load(Ordering::Relaxed) + bytes <= self.bytes_max;
        let mut state = walk.0.lock();
        if !fits || !state.window.admits(bytes) {
            return None;
        }
        state.window.files += 1;
        state.window.bytes += bytes;
        self.all.files.fetch_add(1, Ordering::Relaxed);
        self.all.bytes.fetch_add(bytes, Ordering::Relaxed);
        Some(AheadShare { walk: Arc::clone(walk), all: Arc::clone(&self.all), bytes })
    }

    /// The next that are still to be leased.
    fn packet(&self) -> Vec<Arc<Content>> {
        let mut queue = self.queue.lock();
        let (mut packet, mut bytes) = (Vec::new(), 0);
        while packet.len() < PACKET {
            let Some(next) = queue.pop_front() else { break };
            let Some(content) = next.upgrade().filter(|content| content.ahead.lock().is_some()) else { continue };
            bytes += content.access.load().grant.len() + ITEM;
            if bytes > ITEMS_MAX {
                queue.push_front(next);
                break;
            }
            packet.push(content);
        }
        packet
    }
}

impl Core {
    /// A file was asked for at the master: its directory may be walked.
    pub(crate) fn opened_cold(self: &Arc<Self>, path: &FsPath, content: Option<&Arc<Content>>, by: By) {
        let Some(walk) = self.ahead.walk(path) else { return };
        if let Some(content) = content {
            // It may be known of another name already.
            let _ = content.walk.set(Arc::clone(&walk));
        }
        let mut state = walk.0.lock();
        state.by = by;
        if state.asked >= 2 && !std::mem::replace(&mut state.asking, true) {
            drop(state);
            self.ask_siblings(path.clone(), walk);
        }
    }

    /// A file is read that nobody had read before: its walk goes on. Cheap where there is nothing to do.
    pub(crate) fn reading(self: &Arc<Self>, content: &Content, read_type: ReadType) {
        let Some(walk) = content.walk.get() else { return };
        if content.counted.swap(true, Ordering::Relaxed) {
            return;
        }
        content.forget_ahead();
        walk.read_one(read_type);
        if let Some(path) = walk.go_on() {
            self.ask_siblings(path, Arc::clone(walk));
        }
        self.go_ahead(walk);
    }

    fn go_ahead(self: &Arc<Self>, walk: &Arc<Walk>) {
        let chosen = walk.choose(&self.ahead);
        if !chosen.is_empty() {
            self.ahead.queue.lock().extend(chosen);
            self.lease_ahead();
        }
    }

    /// Asks for the files beside one, without holding up anybody.
    fn ask_siblings(self: &Arc<Self>, path: FsPath, walk: Arc<Walk>) {
        let core = Arc::clone(self);
        self.runtime.spawn(async move {
            let end = core.end.clone();
            tokio::select! {
                () = core.siblings(&path, &walk) => {}
                () = end.cancelled() => {}
            }
            core.go_ahead(&walk);
            walk.0.lock().asking = false;
        });
    }

    async fn siblings(&self, path: &FsPath, walk: &Arc<Walk>) {
        // A walk goes on without them; whoever opens one of them asks for it.
        let Ok((reply, epoch)) = self.ask_open(path, true).await else { return };
        let Some(parent) = path.parent() else { return };
        let (mut last, mut is_new) = (None, false);
        for sibling in &reply.siblings {
            let name = sibling.status.as_ref().and_then(|status| larder_common::Name::new(&status.name).ok());
            let Some(name) = name else { continue };
            let path = parent.join(&name);
            let known = match walk.by() {
                By::Path => self.caches.opened(&path, sibling, &reply.workers, epoch),
                By::Node => self.caches.named_node(&path, sibling, &reply.workers, epoch),
            };
            is_new |= known.ok().and_then(|known| known.content).is_some_and(|content| walk.offer(&content));
            last = Some(path);
        }
        walk.0.lock().last = last.filter(|_| is_new);
    }

    /// Sends packets as long as there is something to lease and few are under way.
    fn lease_ahead(self: &Arc<Self>) {
        while self.ahead.under_way.load(Ordering::Relaxed) < PACKETS {
            let packet = self.ahead.packet();
            let Some(short) = packet.first().and_then(|content| self.beside(content)) else {
                packet.iter().for_each(|content| content.forget_ahead());
                return;
            };
            self.send_packet(&short, packet);
        }
    }

    /// The connection to the worker that this file would be read from, if that is co-located and takes such packets.
    fn beside(&self, content: &Content) -> Option<Arc<Short>> {
        let access = content.access.load();
        let workers = &self.workers;
        let is_local = |address: &_| workers.is_local(address);
        let order = access.places.order(0, &workers.nearness(&is_local), &std::collections::HashSet::new());
        let address = &access.places.workers[*order.first()?];
        workers.by_id(address.id)?.connected().filter(|short| short.takes_ahead())
    }

    fn send_packet(self: &Arc<Self>, short: &Arc<Short>, packet: Vec<Arc<Content>>) {
        let mut expected = FxHashMap::default();
        let mut items = Vec::with_capacity(packet.len());
        for content in packet {
            let Some(read_type) = content.walk.get().and_then(|walk| walk.read_type()) else { continue };
            let (grant, read_type) = (content.access.load().grant.clone(), v1::ReadType::from(read_type).into());
            items.push(v1::ShortLeaseItem { grant, read_type, fetch: true, offset: Some(0) });
            expected.insert((content.file, content.generation), Arc::downgrade(&content));
        }
        self.ahead.under_way.fetch_add(1, Ordering::Relaxed);
        short.ahead(items, Box::new(Expected { core: Arc::downgrade(self), expected }));
    }
}

/// Those who are asked for in one packet.
struct Expected {
    core: Weak<Core>,
    expected: FxHashMap<(FileId, Generation), Weak<Content>>,
}

impl std::fmt::Debug for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Expected({})", self.expected.len())
    }
}

impl AheadTaker for Expected {
    fn leased(&mut self, leased: Leased) {
        let name = (FileId(leased.answer.file), Generation(leased.answer.generation));
        let content = self.expected.remove(&name).and_then(|content| content.upgrade());
        let (Some(content), Some(core)) = (content, self.core.upgrade()) else { return };
        if content.walk.get().is_some_and(|walk| walk.by() == By::Node) {
            return match core.caches.residents.spare_descriptor() {
                Some(share) => content.wait_for_kernel(leased, share),
                // It is given back: what is read needs them.
                None => content.forget_ahead(),
            };
        }
        // Whoever leases it at this moment gets his own.
        let Ok(_nobody_else) = content.leasing.try_lock() else { return content.forget_ahead() };
        if content.local.load().is_some() {
            return content.forget_ahead();
        }
        let shape = (content.length, content.block_size);
        match Local::new(leased, name, shape, &core.caches.residents) {
            Ok(local) => core.keep(&content, Arc::new(local)),
            Err(_) => content.forget_ahead(),
        }
    }

    fn over(self: Box<Self>) {
        let core = self.core.clone();
        drop(self);
        if let Some(core) = core.upgrade() {
            core.lease_ahead();
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.expected.values().filter_map(Weak::upgrade).for_each(|content| content.forget_ahead());
        if let Some(core) = self.core.upgrade() {
            core.ahead.under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_doubles_with_each_file_and_is_filled_in_halves() {
        let mut window = Window::default();
        let mut widths = Vec::new();
        for read in 0..9 {
            window.read = read;
            widths.push(window.width());
        }
        assert_eq!(widths, [0, 0, 8, 16, 32, 64, 128, 128, 128]);
        assert_eq!(Window { read: u32::MAX, files: 64, bytes: 0 }.wanted(), 64);
        assert_eq!(
            Window { read: u32::MAX, files: 65, bytes: 0 }.wanted(),
            0,
            "half of it is free before more is asked"
        );
        assert_eq!(Window { read: 3, files: 200, bytes: 0 }.wanted(), 0);
        let full = Window { read: 9, files: 1, bytes: BYTES_MAX - 10 };
        assert!(full.admits(10) && !full.admits(11));
    }

    #[test]
    fn directories_are_followed_by_the_last_that_were_used() {
        let ahead = Ahead::new(10, 10);
        let path = |directory: usize, name: usize| FsPath::parse(format!("/{directory}/{name}")).unwrap();
        let first = ahead.walk(&path(0, 0)).unwrap();
        assert!(Arc::ptr_eq(&first, &ahead.walk(&path(0, 1)).unwrap()));
        assert_eq!(first.0.lock().asked, 2);
        (1..=WALKS_MAX).for_each(|directory| drop(ahead.walk(&path(directory, 0))));
        assert!(!Arc::ptr_eq(&first, &ahead.walk(&path(0, 2)).unwrap()), "forgotten");
        assert!(ahead.walk(&FsPath::root()).is_none());
    }

    #[test]
    fn shares_are_counted_in_the_walk_and_in_all() {
        let (ahead, walk) = (Ahead::new(2, 100), Arc::<Walk>::default());
        let first = ahead.share(&walk, 60).unwrap();
        assert!(ahead.share(&walk, 41).is_none());
        let second = ahead.share(&walk, 40).unwrap();
        assert!(ahead.share(&Arc::default(), 0).is_none(), "two are all there may be");
        assert_eq!((walk.0.lock().window.files, ahead.unread()), (2, (2, 100)));
        drop((first, second));
        assert_eq!((walk.0.lock().window.files, ahead.unread()), (0, (0, 0)));
        assert!(Ahead::new(0, 0).share(&walk, 0).is_none());
    }
}
