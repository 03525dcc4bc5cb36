//! The kernel's requests, one method each: who asks, what for, and how the answer is sent.
//!
//! Nothing here decides anything. A request is polled once on the thread that read it; if it has to wait, a task goes on with
//! it, with a deadline. A request that breaks off, by a panic or at its deadline, is answered EIO by its reply's end.

use std::{
    ffi::OsStr,
    future::Future,
    io,
    os::unix::ffi::OsStrExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use larder_client::{Name, NodeRename, SetTime};
use larder_common::{Caller, settings::FuseProfile};
use tokio::runtime::Handle;

use super::{
    Settings,
    replies::{self, Refuse},
};
use crate::{
    attributes::timestamp,
    errno::{Answer, Errno},
    features::Features,
    files::Spot,
    namespace::{Changes, Making},
    server::{Entry, Negotiated, Server},
};

/// The longest request for reading or writing, in bytes.
const REQUEST: u32 = 1 << 20;
/// Requests that the kernel sends ahead, as read-ahead, at most.
const BACKGROUND: u16 = 64;
/// A commit may put a large file into the under store. Each of its steps has a deadline of its own, and this is above all of them.
const COMMIT: Duration = Duration::from_secs(900);
/// The protocol's minor version that has `FUSE_NOTIFY_INC_EPOCH`.
const EPOCH_MINOR: u32 = 44;

/// Takes the kernel's requests.
pub(super) struct Kernel {
    server: Arc<Server>,
    runtime: Handle,
    features: Features,
    deadline: Duration,
    /// In whose name changes are made, where not in that of who asks.
    own: Option<Caller>,
    /// Nothing is opened: the tree does not change.
    dataset: bool,
}

impl Kernel {
    pub(super) fn new(server: Arc<Server>, runtime: Handle, settings: Settings) -> Self {
        let own = server.view.is_squashed().then_some(settings.own);
        let dataset = settings.options.profile == Some(FuseProfile::Dataset);
        Self { server, runtime, features: settings.features, deadline: settings.deadline, own, dataset }
    }

    /// Begins a request here, and goes on with it as a task if it has to wait.
    fn run(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.run_within(self.deadline, work);
    }

    fn run_within(&self, deadline: Duration, work: impl Future<Output = ()> + Send + 'static) {
        let mut work = Box::pin(work);
        let _inside = self.runtime.enter();
        let begun = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut Context::from_waker(Waker::noop()))));
        match begun {
            Ok(Poll::Ready(())) => {}
            Ok(Poll::Pending) => {
                self.runtime.spawn(async move {
                    if tokio::time::timeout(deadline, work).await.is_err() {
                        tracing::error!("a request of the kernel was not answered in time");
                    }
                });
            }
            Err(_panic) => tracing::error!("a request of the kernel broke off"),
        }
    }

    /// Answers when the work is done.
    fn later<R, T, W>(&self, reply: R, work: W, answer: impl FnOnce(&Server, R, T) + Send + 'static)
    where
        R: Refuse + Send + 'static,
        T: Send + 'static,
        W: Future<Output = Answer<T>> + Send + 'static,
    {
        let server = Arc::clone(&self.server);
        self.run(async move {
            match work.await {
                Ok(done) => answer(&server, reply, done),
                Err(errno) => reply.refuse(errno),
            }
        });
    }

    fn entry<W>(&self, request: &Request, reply: ReplyEntry, work: W)
    where
        W: Future<Output = Answer<Entry>> + Send + 'static,
    {
        let unique = request.unique().0;
        self.later(reply, work, move |server, reply, entry| replies::entry(server.device(), unique, reply, &entry));
    }

    fn empty<W>(&self, reply: ReplyEmpty, work: W)
    where
        W: Future<Output = Answer<()>> + Send + 'static,
    {
        self.later(reply, work, |_, reply, ()| reply.ok());
    }

    /// Answers when a commit is done.
    fn commit<W>(&self, reply: ReplyEmpty, work: W)
    where
        W: Future<Output = Answer<()>> + Send + 'static,
    {
        self.run_within(self.deadline.max(COMMIT), async move {
            match work.await {
                Ok(()) => reply.ok(),
                Err(errno) => reply.refuse(errno),
            }
        });
    }

    fn server(&self) -> Arc<Server> {
        Arc::clone(&self.server)
    }

    /// Who asks, with all groups: the kernel tells one.
    fn caller(&self, request: &Request) -> Caller {
        if let Some(own) = &self.own {
            return own.clone();
        }
        let (uid, gid) = (request.uid(), request.gid());
        let mut gids = vec![gid];
        if uid != 0 {
            gids.extend(groups(request.pid()).into_iter().filter(|other| *other != gid));
        }
        Caller { uid, gids, name: String::new() }
    }
}

/// The further groups of a thread that waits for its answer.
fn groups(thread: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

fn name(name: &OsStr) -> Answer<Name> {
    Ok(Name::new(name.as_bytes())?)
}

fn time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(timestamp(time)),
    }
}

/// An attribute's value or list of names, in a buffer of this size; 0 asks for the length.
fn sized(reply: ReplyXattr, size: u32, bytes: &[u8]) {
    match u32::try_from(bytes.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(bytes),
        _ => reply.refuse(Errno(libc::ERANGE)),
    }
}

impl Filesystem for Kernel {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut has = |flags: InitFlags| config.add_capabilities(flags).is_ok();
        let wanted = [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
        ];
        // What an old kernel lacks it does without.
        let _missing: Vec<_> = wanted.into_iter().filter(|flag| !has(*flag)).collect();
        let mmap = self.features.mmap && has(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);
        let is_root = nix::unistd::geteuid().is_root();
        let passthrough = self.features.passthrough && is_root && !self.dataset && has(InitFlags::FUSE_PASSTHROUGH);
        if passthrough && config.set_max_stack_depth(1).is_err() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // The nearest that the kernel allows is taken.
        let _ = config.set_max_write(REQUEST);
        let _ = config.set_max_readahead(REQUEST).map_err(|nearest| config.set_max_readahead(nearest));
        let _ = config.set_max_background(BACKGROUND);
        let epoch = self.features.epoch && config.kernel_abi().1 >= EPOCH_MINOR;
        tracing::info!(passthrough, mmap, epoch, "what the kernel can do for this mount");
        // There is one handshake for each mount.
        let _ = self.server.negotiated.set(Negotiated { passthrough, mmap, epoch });
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEntry) {
        let (server, child) = (self.server(), name(child));
        self.entry(request, reply, async move { server.lookup(parent.0, &child?).await });
    }

    fn forget(&self, _request: &Request, node: INodeNo, lookups: u64) {
        self.server.forget(node.0, lookups);
    }

    fn getattr(&self, _request: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let server = self.server();
        self.later(reply, async move { server.attributes(node.0).await }, |_, reply, (attributes, timeouts)| {
            reply.attr(&timeouts.attributes, &attributes);
        });
    }

    fn setattr(
        &self,
        request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (server, caller) = (self.server(), self.caller(request));
        let mode = mode.map(|mode| mode & 0o7777);
        let (accessed, modified) = (atime.map(time), mtime.map(time));
        let changes = Changes { mode, uid, gid, size, accessed, modified };
        let work = async move { server.set_attributes(&caller, node.0, changes).await };
        self.later(reply, work, |_, reply, (attributes, timeouts)| reply.attr(&timeouts.attributes, &attributes));
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        let server = self.server();
        self.later(reply, async move { server.read_link(node.0).await }, |_, reply, text| reply.data(&text));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        _umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let (server, caller, child) = (self.server(), self.caller(request), name(child));
        let making = Making::Node(mode, device);
        self.entry(request, reply, async move { server.make(&caller, parent.0, &child?, making).await });
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, child: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let (server, caller, child) = (self.server(), self.caller(request), name(child));
        let making = Making::Directory(mode);
        self.entry(request, reply, async move { server.make(&caller, parent.0, &child?, making).await });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, child: &OsStr, target: &Path, reply: ReplyEntry) {
        let (server, caller, child) = (self.server(), self.caller(request), name(child));
        let making = Making::Symlink(target.as_os_str().as_bytes().to_vec());
        self.entry(request, reply, async move { server.make(&caller, parent.0, &child?, making).await });
    }

    fn link(&self, request: &Request, node: INodeNo, parent: INodeNo, child: &OsStr, reply: ReplyEntry) {
        let (server, caller, child) = (self.server(), self.caller(request), name(child));
        self.entry(request, reply, async move { server.link(&caller, node.0, parent.0, &child?).await });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        let (server, caller, child) = (self.server(), self.caller(request), name(child));
        self.empty(reply, async move { server.remove(&caller, parent.0, &child?, false).await });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        let (server, caller, child) = (self.server(), self.caller(request), name(child));
        self.empty(reply, async move { server.remove(&caller, parent.0, &child?, true).await });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        old: &OsStr,
        target: INodeNo,
        new: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (server, caller, old, new) = (self.server(), self.caller(request), name(old), name(new));
        let how = match flags.bits() {
            0 => Ok(NodeRename::Replace),
            bits if bits == RenameFlags::RENAME_NOREPLACE.bits() => Ok(NodeRename::NoReplace),
            bits if bits == RenameFlags::RENAME_EXCHANGE.bits() => Ok(NodeRename::Exchange),
            _ => Err(Errno::INVALID),
        };
        self.empty(reply, async move { server.rename(&caller, (parent.0, &old?), (target.0, &new?), how?).await });
    }

    fn open(&self, _request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.dataset {
            // The kernel never asks again.
            return reply.refuse(Errno(libc::ENOSYS));
        }
        let server = self.server();
        let work = async move { server.open(node.0, flags.0).await };
        self.later(reply, work, move |server, reply, opening| {
            let mut answer = FopenFlags::empty();
            answer.set(FopenFlags::FOPEN_NOFLUSH, flags.0 & libc::O_ACCMODE == libc::O_RDONLY);
            answer.set(FopenFlags::FOPEN_DIRECT_IO, opening.backing.is_none() && server.is_direct());
            replies::opened(reply, &opening, answer);
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (server, caller, child) = (self.server(), self.caller(request), name(child));
        let unique = request.unique().0;
        let work = async move { server.create(&caller, (parent.0, &child?), mode, flags).await };
        self.later(reply, work, move |server, reply, (entry, opening)| {
            let mut flags = FopenFlags::empty();
            flags.set(FopenFlags::FOPEN_DIRECT_IO, server.is_direct());
            replies::created(server.device(), unique, reply, &entry, &opening, flags);
        });
    }

    fn read(
        &self,
        _request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let server = self.server();
        let work = async move {
            match handle.0 {
                0 => server.read_unopened(node.0, offset, size as usize).await,
                handle => server.read(handle, offset, size as usize).await,
            }
        };
        self.later(reply, work, |_, reply, bytes| reply.data(&bytes));
    }

    fn write(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _open_flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mapped = flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let spot = if mapped { Spot::Pages(offset) } else { Spot::Call(offset) };
        let drops = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) && self.server.write_drops_privileges(handle.0);
        if !drops {
            let written = catch_unwind(AssertUnwindSafe(|| self.server.write_now(handle.0, spot, data)));
            match written.unwrap_or(Some(Err(Errno::IO))) {
                Some(Ok(written)) => return reply.written(written),
                Some(Err(errno)) => return reply.refuse(errno),
                None => {}
            }
        }
        let (server, data) = (self.server(), data.to_vec());
        let work = async move {
            if drops {
                server.drop_privileges(handle.0).await?;
            }
            server.write(handle.0, spot, &data).await
        };
        self.later(reply, work, |_, reply, written| reply.written(written));
    }

    fn flush(&self, _request: &Request, _node: INodeNo, handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let server = self.server();
        self.commit(reply, async move { server.commit_handle(handle.0, false).await });
    }

    fn fsync(&self, _request: &Request, _node: INodeNo, handle: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        let server = self.server();
        self.commit(reply, async move { server.commit_handle(handle.0, true).await });
    }

    fn release(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let server = self.server();
        self.commit(reply, async move { server.release(handle.0).await });
    }

    fn opendir(&self, _request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.dataset {
            return reply.refuse(Errno(libc::ENOSYS));
        }
        let server = self.server();
        let work = async move { server.open_directory(node.0).await };
        self.later(reply, work, |_, reply, opened| {
            let mut flags = FopenFlags::empty();
            flags.set(FopenFlags::FOPEN_CACHE_DIR, opened.may_keep);
            flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.may_use_kept);
            reply.opened(FileHandle(opened.handle), flags);
        });
    }

    fn readdir(&self, _request: &Request, node: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let server = self.server();
        self.run(async move {
            let mut add = |listed: &crate::directories::Listed| {
                !reply.add(INodeNo(listed.inode), listed.next, listed.kind, OsStr::from_bytes(&listed.name))
            };
            let read = server.read_directory(node.0, handle.0, offset, false, &mut add).await;
            match read {
                Ok(()) => reply.ok(),
                Err(errno) => reply.refuse(errno),
            }
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (server, unique) = (self.server(), request.unique().0);
        let view = crate::attributes::nameless;
        self.run(async move {
            let (mut given, mut alone) = (0, None);
            let mut add = |listed: &crate::directories::Listed| {
                let name = OsStr::from_bytes(&listed.name);
                let (attributes, timeout) = match &listed.entry {
                    None => (view(listed.inode, listed.kind), Duration::ZERO),
                    Some(entry) if entry.node != listed.inode => {
                        // The library cannot say this: it goes out by itself.
                        let first = given == 0 && alone.is_none();
                        if first {
                            alone = Some((entry.clone(), listed.name.clone(), listed.next));
                        }
                        return first;
                    }
                    Some(entry) => (entry.attributes, entry.timeouts.attributes.min(entry.timeouts.entry)),
                };
                if alone.is_some() {
                    return false;
                }
                let inode = INodeNo(listed.inode);
                let full = reply.add(inode, listed.next, name, &timeout, &attributes, fuser::Generation(0));
                given += u32::from(!full);
                !full
            };
            let read = server.read_directory(node.0, handle.0, offset, true, &mut add).await;
            match (read, alone) {
                (Ok(()), None) => reply.ok(),
                (Ok(()), Some((entry, name, next))) => {
                    replies::listed(server.device(), unique, reply, (&entry, &name, next));
                }
                (Err(errno), _) => reply.refuse(errno),
            }
        });
    }

    fn releasedir(&self, _request: &Request, _node: INodeNo, handle: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.server.release_directory(handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _request: &Request, node: INodeNo, _handle: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        let server = self.server();
        self.empty(reply, async move { server.sync_directory(node.0).await });
    }

    fn statfs(&self, _request: &Request, node: INodeNo, reply: ReplyStatfs) {
        let server = self.server();
        self.later(reply, async move { server.room(node.0).await }, |_, reply, room| {
            let endless = u64::from(u32::MAX);
            reply.statfs(room.blocks, room.free, room.free, room.files + endless, endless, 4096, 255, 4096);
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        node: INodeNo,
        attribute: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (server, caller) = (self.server(), self.caller(request));
        let (attribute, value) = (attribute.as_bytes().to_vec(), value.to_vec());
        self.empty(reply, async move { server.set_xattr(&caller, node.0, &attribute, value, flags).await });
    }

    fn getxattr(&self, _request: &Request, node: INodeNo, attribute: &OsStr, size: u32, reply: ReplyXattr) {
        let (server, attribute) = (self.server(), attribute.as_bytes().to_vec());
        let work = async move { server.xattr(node.0, &attribute).await };
        self.later(reply, work, move |_, reply, value| sized(reply, size, &value));
    }

    fn listxattr(&self, request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let (server, caller) = (self.server(), self.caller(request));
        let work = async move { server.xattrs(&caller, node.0).await };
        self.later(reply, work, move |_, reply, names| sized(reply, size, &names));
    }

    fn removexattr(&self, request: &Request, node: INodeNo, attribute: &OsStr, reply: ReplyEmpty) {
        let (server, caller, attribute) = (self.server(), self.caller(request), attribute.as_bytes().to_vec());
        self.empty(reply, async move { server.remove_xattr(&caller, node.0, &attribute).await });
    }

    fn ioctl(
        &self,
        _request: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::from_i32(libc::ENOTTY));
    }

    fn fallocate(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let server = self.server();
        self.empty(reply, async move { server.allocate(handle.0, mode, offset, length).await });
    }

    fn lseek(
        &self,
        _request: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let server = self.server();
        let work = async move { server.seek(handle.0, offset, whence).await };
        self.later(reply, work, |_, reply, found| reply.offset(found));
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _from: INodeNo,
        from_handle: FileHandle,
        from_offset: u64,
        _to: INodeNo,
        to_handle: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let server = self.server();
        let (from, to) = ((from_handle.0, from_offset), (to_handle.0, to_offset));
        let work = async move { server.copy(from, to, length).await };
        self.later(reply, work, |_, reply, copied| reply.written(copied));
    }
}
