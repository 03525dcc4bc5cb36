//! Listings, streamed by pages: no lock is held between two pages, and a page begins after the last name of the one
//! before, so that names which come or go meanwhile neither double nor hide others.

use std::{collections::VecDeque, sync::Arc};

use futures_core::Stream;
use larder_common::{Caller, ErrorKind, FileId, Result};
use larder_proto::{Greeting, into_status, v1};
use tonic::Status;

use super::{
    answer,
    filesystem::{Finder, How},
};
use crate::master::Master;

/// Entries of a page.
const PAGE: usize = 1024;

/// The pages of a listing.
pub fn pages(
    master: Arc<Master>,
    greeting: Greeting,
    asked: v1::ListRequest,
) -> impl Stream<Item = Result<v1::ListPage, Status>> + Send {
    async_stream::try_stream! {
        let mut walk = Walk::begin(master, greeting, asked).await.map_err(|error| into_status(&error))?;
        while let Some(page) = walk.next().await.map_err(|error| into_status(&error))? {
            yield page;
        }
    }
}

struct Walk {
    master: Arc<Master>,
    greeting: Greeting,
    caller: Caller,
    recursive: bool,
    left: usize,
    /// Directories still to list, with their paths below the one that was asked.
    todo: VecDeque<(FileId, Vec<u8>)>,
    /// The name after which the first of these goes on.
    after: Option<Vec<u8>>,
    begun: bool,
    validity: v1::Validity,
    /// Something other than a directory is its own only entry.
    single: Option<FileId>,
}

impl Walk {
    async fn begin(master: Arc<Master>, greeting: Greeting, asked: v1::ListRequest) -> Result<Self> {
        let how = How { follow: true, fresh: asked.fresh };
        let caller = master.caller(&greeting, asked.caller.as_ref())?;
        let found = Finder { master: &master, greeting: &greeting }.find(&asked.path, asked.id, how).await?;
        let directory = {
            let state = master.core.read();
            let status = answer::status(&master, &state, found.file)?;
            if status.kind.is_directory() {
                state.may(found.file, &caller, 4).map_err(|error| error.at(&asked.path))?;
            }
            status.kind.is_directory()
        };
        let todo = if directory { VecDeque::from([(found.file, Vec::new())]) } else { VecDeque::new() };
        Ok(Self {
            master,
            greeting,
            caller,
            recursive: asked.recursive,
            left: if asked.limit == 0 { usize::MAX } else { asked.limit as usize },
            todo,
            after: Some(asked.after.to_vec()).filter(|name| !name.is_empty()),
            begun: false,
            validity: found.validity,
            single: (!directory).then_some(found.file),
        })
    }

    async fn next(&mut self) -> Result<Option<v1::ListPage>> {
        if let Some(file) = self.single.take() {
            return self.only(file).map(Some);
        }
        loop {
            let Some((directory, path)) = self.todo.front().cloned() else { return Ok(None) };
            if self.left == 0 {
                return Ok(None);
            }
            if !self.begun {
                self.enter(directory, &path).await?;
            }
            let page = self.page(directory, &path)?;
            if page.entries.is_empty() {
                self.todo.pop_front();
                (self.begun, self.after) = (false, None);
                continue;
            }
            return Ok(Some(page));
        }
    }

    fn only(&self, file: FileId) -> Result<v1::ListPage> {
        let state = self.master.core.read();
        let status = answer::status(&self.master, &state, file)?;
        let entry = v1::ListEntry { status: Some((&status).into()), path: bytes::Bytes::new() };
        let position = state.position().0;
        Ok(v1::ListPage { entries: vec![entry], position, validity: Some(self.validity), directory: 0 })
    }

    /// Has a directory's names loaded and fresh, and records the interest in them.
    async fn enter(&mut self, directory: FileId, path: &[u8]) -> Result<()> {
        let fresh = async {
            self.master.stores.ensure_listing_fresh(directory, self.master.core.deadline()).await?;
            self.master.load_all(directory).await
        };
        if let Err(error) = fresh.await {
            // A directory that went away while its tree was listed is no error of the listing.
            if path.is_empty() || error.kind() != ErrorKind::NotFound {
                return Err(error);
            }
        }
        let finder = Finder { master: &self.master, greeting: &self.greeting };
        let known = finder.interest(directory);
        self.validity = if known { finder.validity(directory) } else { v1::Validity::default() };
        self.begun = true;
        Ok(())
    }

    fn page(&mut self, directory: FileId, path: &[u8]) -> Result<v1::ListPage> {
        let mut below = Vec::new();
        let page = {
            let state = self.master.core.read();
            let names = state.list(directory, self.after.as_deref(), PAGE.min(self.left));
            let mut entries = Vec::with_capacity(names.len());
            for listed in names {
                let mut status = answer::status(&self.master, &state, listed.id)?;
                status.name = larder_common::Name::new(listed.name).ok();
                let full = if path.is_empty() { Vec::new() } else { [path, b"/", listed.name].concat() };
                if self.recursive && status.kind.is_directory() && state.may(listed.id, &self.caller, 5).is_ok() {
                    below.push((listed.id, if path.is_empty() { listed.name.to_vec() } else { full.clone() }));
                }
                self.after = Some(listed.name.to_vec());
                entries.push(v1::ListEntry { status: Some((&status).into()), path: full.into() });
            }
            let position = state.position().0;
            v1::ListPage { entries, position, validity: Some(self.validity), directory: directory.0 }
        };
        self.left -= page.entries.len();
        self.todo.extend(below);
        Ok(page)
    }
}
