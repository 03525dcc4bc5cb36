//! Entries of a listing, as they come from the master page by page.

use larder_common::{Error, FileId, FileStatus, FsPath, Name, Result};
use larder_proto::{from_status, v1};

use crate::{
    core::Core,
    metadata::{Known, Terms},
    options::ListOptions,
    retry::Deadline,
};

/// One entry: where it is and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The full path.
    pub path: FsPath,
    /// Its status; of a symbolic link itself.
    pub status: FileStatus,
}

/// A listing that is under way.
pub(crate) struct Listing {
    pages: tonic::Streaming<v1::ListPage>,
    path: FsPath,
    epoch: u64,
}

impl Listing {
    pub(crate) async fn begin(core: &Core, path: FsPath, options: &ListOptions, deadline: Deadline) -> Result<Self> {
        let epoch = core.caches.metadata.epoch();
        let request = v1::ListRequest {
            path: path.as_bytes().to_vec().into(),
            after: options.after.clone().unwrap_or_default().into(),
            limit: options.limit,
            recursive: options.recursive,
            fresh: options.fresh,
            ..v1::ListRequest::default()
        };
        let pages = core.link.ask(deadline, |mut client| {
            let request = request.clone();
            async move { client.list(request).await }
        });
        Ok(Self { pages: pages.await?, path, epoch })
    }

    /// The entries of the next page; `None` at the end. A page feeds the metadata cache.
    pub(crate) async fn next(&mut self, core: &Core, deadline: Deadline) -> Result<Option<Vec<Entry>>> {
        let page = deadline.bound("the master", self.pages.message()).await?;
        let Some(page) = page.map_err(|status| from_status(&status))? else { return Ok(None) };
        let terms = Terms {
            position: page.position,
            parent: FileId(page.directory),
            validity: page.validity.unwrap_or_default(),
            epoch: self.epoch,
        };
        let mut entries = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            let entry = self.entry(entry, page.directory == 0)?;
            if page.directory != 0 && (entry.status.kind.is_file() || entry.status.kind.is_directory()) {
                let known = Known { status: std::sync::Arc::new(entry.status.clone()), content: None };
                core.caches.metadata.put(entry.path.clone(), known, terms);
            }
            entries.push(entry);
        }
        Ok(Some(entries))
    }

    /// `alone`: what was asked for is no directory, and is its own only entry.
    fn entry(&self, entry: v1::ListEntry, alone: bool) -> Result<Entry> {
        let status = FileStatus::try_from(entry.status.unwrap_or_default())?;
        let relative: &[u8] = match (&entry.path[..], &status.name) {
            _ if alone => b"",
            (b"", Some(name)) => name.as_bytes(),
            (path, _) => path,
        };
        let names = relative.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let path = names.map(Name::new).try_fold(self.path.clone(), |path, name| Ok::<_, Error>(path.join(&name?)))?;
        Ok(Entry { path, status })
    }
}
