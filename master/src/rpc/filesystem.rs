//! The `FileSystem` service: what clients ask. Changes come over the session's stream; everything else is here.
//!
//! Before a client is told something that it may cache, its session's interest in the directory is recorded, and only then
//! the state is read: a change that comes in between finds the session, and the answer carries the Position that it is of.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::FutureExt;
use larder_common::{Caller, Error, ErrorKind, FileId, FsPath, Generation, MountId, Name, Position, Result, SessionId};
use larder_proto::{
    Greeting, into_status,
    v1::{self, file_system_server},
};
use tonic::{Request, Response, Status, Streaming};

use super::{answer, listing, report, session};
use crate::{cluster::placement::Preference, master::Master, state::State, under::Validity};

/// The service.
#[derive(Debug, Clone)]
pub struct FileSystemService(Arc<Master>);

impl FileSystemService {
    /// The service of this master.
    #[must_use]
    pub fn new(master: Arc<Master>) -> Self {
        Self(master)
    }
}

/// The most files that one request asks for.
const OPEN_MANY_MAX: usize = 1000;

type Pages = Pin<Box<dyn Stream<Item = Result<v1::ListPage, Status>> + Send>>;

#[tonic::async_trait]
impl file_system_server::FileSystem for FileSystemService {
    type SessionStream = session::ReplyStream;
    type ListStream = Pages;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let greeting = self.0.greet(request.metadata())?;
        let (replies, stream) = session::channel();
        tokio::spawn(session::serve(Arc::clone(&self.0), greeting, request.into_inner(), replies));
        Ok(Response::new(stream))
    }

    async fn get_status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let greeting = self.0.greet(request.metadata())?;
        let asked = request.into_inner();
        let reply = async {
            let how = How { follow: !asked.no_follow, fresh: asked.fresh };
            let finder = self.finder(&greeting);
            let found = match &asked.at {
                Some(child) => {
                    let caller = self.0.caller(&greeting, asked.caller.as_ref())?;
                    finder.child(FileId(child.parent), &Name::new(&child.name)?, &caller).await?
                }
                None => finder.find(&asked.path, asked.id, how).await?,
            };
            let state = self.0.core.read();
            let mut status = answer::status(&self.0, &state, found.file)?;
            if let Some(child) = &asked.at {
                status.name = Name::new(&child.name).ok();
            }
            let position = state.position().0;
            drop(state);
            let (parent, validity) = (found.parent.0, Some(found.validity));
            Ok(v1::StatusReply { status: Some((&status).into()), position, parent, validity })
        };
        respond(reply.await)
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let greeting = self.0.greet(request.metadata())?;
        let pages = listing::pages(Arc::clone(&self.0), greeting, request.into_inner());
        Ok(Response::new(Box::pin(pages)))
    }

    async fn open(&self, request: Request<v1::OpenRequest>) -> Result<Response<v1::OpenReply>, Status> {
        let greeting = self.0.greet(request.metadata())?;
        respond(open(&self.0, &greeting, &request.into_inner()).await)
    }

    async fn open_many(&self, request: Request<v1::OpenManyRequest>) -> Result<Response<v1::OpenManyReply>, Status> {
        let greeting = self.0.greet(request.metadata())?;
        let asked = request.into_inner().requests;
        if asked.len() > OPEN_MANY_MAX {
            let message = format!("{} files at once; at most {OPEN_MANY_MAX}", asked.len());
            return Err(into_status(&Error::new(ErrorKind::Invalid, message)));
        }
        let mut results = Vec::with_capacity(asked.len());
        for request in &asked {
            let what = match open(&self.0, &greeting, request).await {
                Ok(reply) => v1::open_result::What::Reply(reply),
                Err(error) => v1::open_result::What::Failure((&error).into()),
            };
            results.push(v1::OpenResult { what: Some(what) });
        }
        Ok(Response::new(v1::OpenManyReply { results }))
    }

    async fn get_mounts(&self, request: Request<v1::Empty>) -> Result<Response<v1::Mounts>, Status> {
        self.0.greet(request.metadata())?;
        Ok(Response::new(v1::Mounts { mounts: report::mounts(&self.0) }))
    }

    async fn get_report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::Report>, Status> {
        self.0.greet(request.metadata())?;
        Ok(Response::new(report::report(&self.0)))
    }

    async fn which(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::WhichReply>, Status> {
        let greeting = self.0.greet(request.metadata())?;
        let asked = request.into_inner();
        let reply = async {
            let how = How { follow: !asked.no_follow, fresh: false };
            let found = self.finder(&greeting).find(&asked.path, asked.id, how).await?;
            let (place, stored, mount) = {
                let state = self.0.core.read();
                let mount = state.mount_of(found.file).map(|mount| mount.path.clone());
                (state.under_path(found.file), state.is_stored(found.file), mount)
            };
            let gone = || Error::new(ErrorKind::NotFound, "it has no name any more");
            let ((id, path), mount) = place.zip(mount).ok_or_else(gone)?;
            let uri = self.0.stores.which(id, &path, stored, self.0.core.deadline()).await?;
            Ok(v1::WhichReply { uri, stored, mount: mount.as_bytes().to_vec().into() })
        };
        respond(reply.await)
    }

    async fn get_persistence(
        &self,
        request: Request<v1::ReportRequest>,
    ) -> Result<Response<v1::PersistenceReport>, Status> {
        self.0.greet(request.metadata())?;
        Ok(Response::new(report::persistence(&self.0)))
    }

    async fn get_xattr(&self, request: Request<v1::XattrRequest>) -> Result<Response<v1::XattrReply>, Status> {
        let greeting = self.0.greet(request.metadata())?;
        let asked = request.into_inner();
        let reply = async {
            let how = How { follow: true, fresh: false };
            let caller = self.0.caller(&greeting, asked.caller.as_ref())?;
            let found = self.finder(&greeting).find(&asked.path, asked.id, how).await?;
            xattrs(&self.0.core.read(), found.file, &asked.name, &caller)
        };
        respond(reply.await)
    }

    async fn get_space(&self, request: Request<v1::SpaceRequest>) -> Result<Response<v1::Space>, Status> {
        self.0.greet(request.metadata())?;
        respond(space(&self.0, FileId(request.into_inner().id)).await)
    }

    async fn sync(&self, request: Request<v1::SyncRequest>) -> Result<Response<v1::SyncReply>, Status> {
        self.0.greet(request.metadata())?;
        let asked = request.into_inner();
        let reply = async {
            let journal = self.0.core.journal();
            let position =
                if asked.position == 0 { journal.last() } else { Position(asked.position).min(journal.last()) };
            self.0.core.wait_durable(position, self.0.core.deadline()).await?;
            if asked.directory != 0 {
                self.0.stores.sync_directory(FileId(asked.directory), self.0.core.deadline()).await?;
            }
            Ok(v1::SyncReply { durable: journal.durable().borrow().0 })
        };
        respond(reply.await)
    }

    async fn ping(&self, request: Request<v1::Empty>) -> Result<Response<v1::Empty>, Status> {
        self.0.greet(request.metadata())?;
        Ok(Response::new(v1::Empty {}))
    }
}

impl FileSystemService {
    fn finder<'a>(&'a self, greeting: &'a Greeting) -> Finder<'a> {
        Finder { master: &self.0, greeting }
    }
}

/// The extended attributes of a file that a caller may read, or the one of this name, by the rules of `xattr(7)`: names of
/// `trusted.` are root's, values of `user.` need the right to read, `security.` is for everybody.
fn xattrs(state: &State, file: FileId, name: &[u8], caller: &Caller) -> Result<v1::XattrReply> {
    let hidden = |name: &[u8]| name.starts_with(b"trusted.") && !caller.is_root();
    if !name.is_empty() && name.starts_with(b"user.") {
        state.may(file, caller, 4)?;
    }
    let wanted = |(other, _): &&(Vec<u8>, Vec<u8>)| (name.is_empty() || *other == name) && !hidden(other);
    let values = name.is_empty() && state.may(file, caller, 4).is_err();
    let attribute = |(name, value): &(Vec<u8>, Vec<u8>)| v1::Xattr {
        name: name.clone().into(),
        value: if values { Bytes::new() } else { value.clone().into() },
    };
    Ok(v1::XattrReply { attributes: state.xattrs(file).iter().filter(wanted).map(attribute).collect() })
}

async fn space(master: &Master, file: FileId) -> Result<v1::Space> {
    let (mount, files) = {
        let state = master.core.read();
        (state.mount_of(file).map(|mount| (mount.id, mount.read_only)), state.inodes() as u64)
    };
    let (id, read_only) = mount.unwrap_or((MountId::ROOT, false));
    let space = master.stores.room(id).await?;
    Ok(v1::Space { total: space.total, free: space.free, files, read_only })
}

fn respond<T>(result: Result<T>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| into_status(&error))
}

async fn open(master: &Arc<Master>, greeting: &Greeting, asked: &v1::OpenRequest) -> Result<v1::OpenReply> {
    let how = How { follow: true, fresh: false };
    let caller = master.caller(greeting, asked.caller.as_ref())?;
    let finder = Finder { master, greeting };
    let preference = &Preference::of(&asked.near_worker, &asked.without);
    let version = (FileId(asked.id), Generation(asked.generation));
    if let Some(reply) = answer::open_orphan(master, greeting, preference, version) {
        return Ok(reply);
    }
    // A new grant for what is open must be had from a mount whose store is away, too: the bytes may be in the cache.
    let found = match (asked.id, asked.generation) {
        (id @ 1.., 1..) => finder.known(FileId(id))?,
        (id, _) => finder.find(&asked.path, id, how).await?,
    };
    may_open(master, found.file, &caller, asked.id != 0)?;
    master.wait_for_holders(found.file).await?;
    let mut reply = answer::open(master, greeting, preference, found.file)?;
    let generation = reply.status.as_ref().map_or(0, |status| status.generation);
    if asked.id != 0 {
        let path = master.core.read().path(found.file);
        reply.path = path.map(|path| Bytes::copy_from_slice(path.as_bytes())).unwrap_or_default();
    }
    if asked.id != 0 && asked.generation != 0 && generation != asked.generation {
        let error = Error::new(ErrorKind::Changed, "the file has new content since it was opened");
        return Err(error.at(&reply.path).advise("open it again"));
    }
    reply.parent = found.parent.0;
    reply.validity = Some(found.validity);
    if asked.siblings && found.validity.session {
        // Its names are wanted, but not at any price; what is loaded by then is answered.
        let _ = tokio::time::timeout(SIBLINGS_PATIENCE, master.load_all(found.parent)).await;
        siblings(master, greeting, preference, found, &mut reply);
    }
    Ok(reply)
}

/// By id a mount opens, also what is to be executed: whoever may do that may have the bytes read for it (as in NFS).
fn may_open(master: &Master, file: FileId, caller: &Caller, by_id: bool) -> Result<()> {
    let state = master.core.read();
    let executes = by_id && state.may(file, caller, 1).is_ok();
    if executes { Ok(()) } else { state.may(file, caller, 4) }
}

/// So many further files of a directory that is being walked are answered with one of them.
const SIBLINGS: usize = 200;
/// So long at most is waited until a directory that is being walked has been listed.
const SIBLINGS_PATIENCE: Duration = Duration::from_secs(1);

/// Answers for the files beside one too, as far as they are known: those after it, and then those from the beginning, for
/// a walk may go in any order. The session's interest in the directory has been recorded with the first.
fn siblings(master: &Master, greeting: &Greeting, preference: &Preference, found: Found, reply: &mut v1::OpenReply) {
    let name = reply.status.as_ref().map(|status| status.name.clone()).unwrap_or_default();
    let next: Vec<FileId> = {
        let state = master.core.read();
        let is_open = |id: &FileId| {
            let file =
                state.status(*id).is_some_and(|status| status.kind.is_file() && status.complete && status.links == 1);
            file && state.may(*id, &greeting.caller, 4).is_ok()
        };
        let after = state.list(found.parent, Some(&name), SIBLINGS);
        let before = state.list(found.parent, None, SIBLINGS - after.len());
        let before = before.into_iter().take_while(|entry| *entry.name < name[..]);
        after.into_iter().chain(before).map(|entry| entry.id).filter(is_open).collect()
    };
    for file in next {
        if let Ok(mut sibling) = answer::open(master, greeting, preference, file) {
            sibling.parent = found.parent.0;
            sibling.validity = Some(Finder { master, greeting }.kept(found.parent, file));
            answer::adopt(reply, sibling);
        }
    }
}

fn said(validity: Validity) -> v1::Validity {
    match validity {
        Validity::Session => v1::Validity { session: true, ms: 0 },
        Validity::For(time) if time < Duration::from_millis(1) => v1::Validity::default(),
        Validity::For(time) => v1::Validity { session: true, ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX) },
    }
}

/// How a path is looked up.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Whether a symbolic link at the end is followed.
    pub follow: bool,
    /// Whether the under store is asked first, whatever the mount's freshness.
    pub fresh: bool,
}

/// Where a path led.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// The inode.
    pub(crate) file: FileId,
    /// The directory that it has its name in.
    pub(crate) parent: FileId,
    /// How long what is told of it may be used.
    pub(crate) validity: v1::Validity,
}

/// Finds inodes for one request.
#[derive(Clone, Copy)]
pub(crate) struct Finder<'a> {
    pub(crate) master: &'a Master,
    pub(crate) greeting: &'a Greeting,
}

impl Finder<'_> {
    /// Finds what is asked for by path, or by id where that is not 0, and records the session's interest in it.
    pub(crate) async fn find(self, path: &[u8], id: u64, how: How) -> Result<Found> {
        if id != 0 {
            return self.by_id(FileId(id)).await;
        }
        let path = FsPath::parse(path)?;
        let mut file = self.master.look_up(&path, &self.greeting.caller, how).await?;
        loop {
            let found = self.know(file);
            // The name may have got another meaning before the interest in it was recorded.
            let again = self.master.look_up(&path, &self.greeting.caller, How { fresh: false, ..how }).await?;
            if again == file {
                return Ok(self.unless_by_link(found, &path));
            }
            file = again;
        }
    }

    /// What was found through a symbolic link (or under a further name of a hard link) must not be cached under the path that
    /// was asked for: a change of the link would not be told to whoever has an interest in the target's directory.
    fn unless_by_link(self, found: Found, path: &FsPath) -> Found {
        let direct = self.master.core.read().path(found.file).is_some_and(|own| own == *path);
        if direct { found } else { Found { validity: v1::Validity::default(), ..found } }
    }

    /// Finds what a name of a directory names, and records the session's interest in it.
    pub(crate) async fn child(self, directory: FileId, name: &Name, caller: &Caller) -> Result<Found> {
        // First of all, so that whatever is found cannot get another meaning unheard.
        let known = self.interest(directory);
        let file = self.master.look_up_child(directory, name, caller).await?;
        let validity = if known { self.kept(directory, file) } else { v1::Validity::default() };
        Ok(Found { file, parent: directory, validity })
    }

    async fn by_id(self, file: FileId) -> Result<Found> {
        self.master.stores.ensure_file_fresh(file, self.master.core.deadline()).await?;
        self.known(file)
    }

    fn known(self, file: FileId) -> Result<Found> {
        let gone = || Error::new(ErrorKind::NotFound, format!("file {file} is no more"));
        self.master.core.read().status(file).ok_or_else(gone)?;
        Ok(self.know(file))
    }

    /// Records the session's interest in a file.
    pub(crate) fn know(self, file: FileId) -> Found {
        let parents = self.master.core.read().parents(file);
        let parent = parents.first().copied().unwrap_or(file);
        let known = self.interest(parent);
        let validity = if known { self.kept(parent, file) } else { v1::Validity::default() };
        Found { file, parent, validity }
    }

    /// How long what is told of an inode may be used under a name in this directory, in which the session's interest is
    /// recorded.
    pub(crate) fn kept(self, directory: FileId, file: FileId) -> v1::Validity {
        said(self.master.stores.kept(directory, file))
    }

    /// How long what is told of names in a directory may be used: what freshness says, where that is known at once.
    pub(crate) fn validity(self, directory: FileId) -> v1::Validity {
        let fresh = self.master.stores.ensure_listing_fresh(directory, self.master.core.deadline()).now_or_never();
        fresh.and_then(Result::ok).map_or_else(v1::Validity::default, said)
    }

    /// Records the session's interest in a directory; false when what is told of it must not be cached.
    pub(crate) fn interest(self, directory: FileId) -> bool {
        let session = self.greeting.session;
        session != SessionId(0) && self.master.sessions.will_know(session, directory)
    }
}
