//! Commits: what a handle has changed becomes a new version when it is flushed, synced or released, and readers beside have it.
//!
//! A version that this mount has made is opened for its readers before the file is given back: from then on others may replace
//! it, and a reader keeps what it has.

use std::sync::Arc;

use larder_client::{FileId, FileStatus, Generation};
use larder_common::{Error, ErrorKind, Result};

use crate::{
    errno::Answer,
    nodes::NodeId,
    opened::{Handle, Opened},
    server::Server,
    work::Work,
};

impl Server {
    /// `FLUSH` and `FSYNC`: what the handle has changed is a new version when this is answered.
    pub(crate) async fn commit_handle(self: &Arc<Self>, handle: u64, durable: bool) -> Answer<()> {
        let handle = self.handle(handle)?;
        match &*handle {
            Handle::Writer(claim, work, _) => Ok(self.commit(&claim.opened, work, durable).await?),
            _ => Ok(()),
        }
    }

    /// Makes a new version of what was changed, also where nobody waits for it any more.
    pub(crate) async fn commit(self: &Arc<Self>, opened: &Arc<Opened>, work: &Arc<Work>, durable: bool) -> Result<()> {
        if opened.status().links == 0 {
            // It goes with its last handle.
            return Ok(());
        }
        let (server, opened, work) = (Arc::clone(self), Arc::clone(opened), Arc::clone(work));
        let ended = |_| Error::new(ErrorKind::Unavailable, "the mount is ending");
        tokio::spawn(async move { server.commit_here(&opened, &work, durable).await }).await.map_err(ended)?
    }

    async fn commit_here(&self, opened: &Opened, work: &Work, durable: bool) -> Result<()> {
        loop {
            let place = self.table.lock().get(opened.node).and_then(|record| record.places.last().cloned());
            if place.is_none() && work.is_draft() && work.is_dirty() {
                return self.check_unnamed(opened).await;
            }
            let readers = opened.has_readers();
            // What the kernel reads beside is the file that is written only as long as it is not given back.
            let last = self.works.users(opened.file) == 1 && !readers && !self.beside.has(opened.file);
            match work.commit(place.clone(), durable, last).await {
                Ok(committed) => {
                    let is_new = committed.is_some();
                    self.committed(opened, work, committed);
                    if readers && is_new {
                        opened.keep(self.nodes.open(self.nodes.own(), opened.file, Generation(0)).await.ok());
                    }
                    return Ok(());
                }
                // The name means something else by now: another one may do.
                Err(error)
                    if work.is_draft()
                        && matches!(
                            error.kind(),
                            ErrorKind::Changed | ErrorKind::NotFound | ErrorKind::NotDirectory
                        ) =>
                {
                    let Some(place) = place else { return Err(error) };
                    self.table.lock().unnamed(opened.file, (place.0, &place.1));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn committed(&self, opened: &Opened, work: &Work, committed: Option<FileStatus>) {
        let Some(status) = committed else { return };
        self.beside.committed(work, &status);
        self.table.lock().wrote(opened.node, status.generation);
        opened.set_status(|known| {
            if status.generation > known.generation {
                *known = status;
            }
        });
    }

    /// What has no name is not kept; what has one that this mount does not know cannot be.
    async fn check_unnamed(&self, opened: &Opened) -> Result<()> {
        match self.nodes.status(opened.file).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(Error::new(ErrorKind::Lost, "the file was renamed elsewhere while it was written")),
        }
    }

    /// `RELEASE`: the last handle of a writer commits what was written after its flush.
    pub(crate) async fn release(self: &Arc<Self>, handle: u64) -> Answer<()> {
        let Some((_, handle)) = self.handles.remove(&handle) else { return Ok(()) };
        let Handle::Writer(claim, work, _) = &*handle else { return Ok(()) };
        if work.is_held()
            && let Err(error) = self.commit(&claim.opened, work, false).await
        {
            tracing::error!(%error, file = %claim.opened.file, "what was written last is lost");
            return Err(error.into());
        }
        Ok(())
    }

    /// The last writer of a node has gone.
    pub(crate) fn written(&self, node: NodeId, work: Option<Arc<Work>>) {
        let mut table = self.table.lock();
        if let Some(generation) = work.and_then(|work| work.generation()) {
            table.wrote(node, generation);
        }
        table.set_writing(node, false);
    }

    /// Somebody has closed a file. What is still held of it when nobody writes it, and nobody sees what is written, is ended in
    /// the background.
    pub(crate) fn left(self: &Arc<Self>, file: FileId) {
        if self.beside.has(file) {
            return;
        }
        let Some(held) = self.works.ended(file) else { return };
        let server = Arc::clone(self);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return self.works.give_up(file) };
        runtime.spawn(async move {
            let nameless = match server.nodes.status(file).await {
                Ok(found) => found.status.links == 0,
                Err(error) => error.kind() == ErrorKind::NotFound,
            };
            if nameless && server.opened_file(file).is_none() {
                // What was written goes with the last handle.
                return server.works.give_up(file);
            }
            if let Err(error) = held.commit(None, false, true).await {
                tracing::error!(%error, %file, "what was written last is lost");
                server.works.give_up(file);
            }
            if server.works.ended(file).is_some() {
                server.works.give_up(file);
            }
        });
    }

    /// Commits everything that is open for writing.
    pub(crate) async fn commit_all(self: &Arc<Self>) {
        for work in self.works.all().into_iter().filter(|work| work.is_held()) {
            let Some(opened) = self.opened_file(work.file) else { continue };
            if let Err(error) = self.commit(&opened, &work, true).await {
                tracing::error!(%error, file = %opened.file, "what was written is not committed");
            }
        }
    }
}
