//! Object stores and other services, through one library (`opendal`), behind our trait.
//!
//! - **Keys** are paths ([`key`]). A directory is there as long as a key below it is; an empty one is a key that ends in
//!   `/`. Stores with directories of their own (WebDAV) use these.
//! - **Fingerprints** are the ETag and the length; where there is no ETag, the time of the last change and the length.
//! - **Uploads** are spooled in a local file without a name ([`spool`]), because their parts come in any order and are
//!   read back, and then staged: one object under `.larder/<cluster>/tmp`, in parts at the same time where it is large.
//! - **Publishing** is a copy inside the service (or a rename), by the master, with a condition on what is replaced where
//!   the service proves at opening that it heeds one ([`probe`]); then the staged object goes. Bytes pass nobody. What
//!   has been published carries its temporary's name, so that a second try after a crash or a lost answer knows it.
//! - **Renames** are copies and deletions, with a record in the store until they are done ([`rename`]).
//!
//! Failure modes: every request has a deadline and is tried again a few times where that is safe; what is said of errors
//! holds no address and no secret ([`failure`]). A service that heeds no conditions still gets one change at a time per
//! name from one process, but a foreign writer can slip between the look and the change: it "cannot fence", and says so
//! in its capabilities.
//!
//! Lock order: turns for names ([`turns`]) in the order of their numbers; `filling` is a leaf and never held across an
//! await.

mod directory;
mod failure;
mod fetch;
mod key;
mod listing;
mod look;
mod probe;
mod publish;
mod removal;
mod rename;
pub(crate) mod service;
mod spool;
mod store;
mod transport;
mod turns;
mod upload;

use std::{collections::HashMap, fmt, future::Future, sync::Arc, time::Duration};

use larder_common::{ClusterId, Error, ErrorKind, Name, Result};
use opendal::{Capability, Operator};
use parking_lot::Mutex;

use self::{service::Service, spool::Spool, turns::Turns};
use crate::OpenOptions;

/// How content gets another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moves {
    /// By a copy inside the service, and a deletion.
    Copy,
    /// By the service.
    Rename,
    /// Not at all: such a store is for reading.
    No,
}

/// What the service does in its own way. Found out at opening, constant from then on.
#[derive(Clone, Copy, Debug)]
struct Manner {
    moves: Moves,
    /// Whether it has directories of its own; else they are markers.
    real_directories: bool,
    /// Whether it can list.
    lists: bool,
    /// Whether a copy heeds conditions on what it replaces.
    conditional_copy: bool,
    /// Whether a write heeds them.
    conditional_put: bool,
}

/// A store behind a service. Cheap to clone.
#[derive(Clone)]
pub struct RemoteStore(Arc<Inner>);

struct Inner {
    operator: Operator,
    can: Capability,
    manner: Manner,
    uri: String,
    cluster: ClusterId,
    deadline: Duration,
    parallel: usize,
    turns: Turns,
    filling: Mutex<HashMap<Name, Arc<Spool>>>,
}

impl fmt::Debug for RemoteStore {
    /// The library's operator knows the secrets: it is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteStore").field("uri", &self.0.uri).field("manner", &self.0.manner).finish_non_exhaustive()
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl RemoteStore {
    /// Whether there is a service for URIs that begin so.
    #[must_use]
    pub fn knows(scheme: &str) -> bool {
        service::of_scheme(scheme).is_some()
    }

    /// All schemes that are built in.
    pub fn schemes() -> impl Iterator<Item = &'static str> {
        service::SERVICES.iter().flat_map(|service| service.schemes).copied()
    }

    /// Opens a store and asks it something, so that one that cannot be used is refused here with the reason.
    ///
    /// # Errors
    /// `Config` for options and credentials that do not fit; `Unsupported` for a service that can only be read, without
    /// `read_only`; `Denied`, `NotFound` (no such bucket), `Unavailable` and `Deadline` as the service answers.
    pub async fn open(scheme: &str, rest: &str, options: OpenOptions) -> Result<Self> {
        let Some(service) = service::of_scheme(scheme) else {
            return Err(Error::new(ErrorKind::Config, format!("no service for {scheme}://")));
        };
        let uri = format!("{scheme}://{}", rest.split('?').next().unwrap_or_default());
        let operator = service.open((scheme, rest), &options.options, &options.credentials)?;
        let operator = transport::dress(operator, &options)?;
        let can = operator.info().capability();
        let manner = Manner::declared(service, &can);
        if manner.moves == Moves::No && !options.read_only {
            let message = format!("{} can only be read here: nothing can be published in it safely", service.name);
            return Err(Error::new(ErrorKind::Unsupported, message).advise("mount it with --readonly"));
        }
        let mut inner = Inner {
            operator,
            can,
            manner,
            uri,
            cluster: options.cluster,
            deadline: options.deadline,
            parallel: options.threads.clamp(1, 8),
            turns: Turns::default(),
            filling: Mutex::default(),
        };
        inner.reach().await.map_err(|error| inner.unreachable(error))?;
        if !options.read_only {
            inner.manner = inner.prove().await.map_err(|error| inner.unreachable(error))?;
        }
        Ok(Self(Arc::new(inner)))
    }
}

impl Manner {
    fn declared(service: &Service, can: &Capability) -> Self {
        let moves = match service.publishes {
            true if can.rename => Moves::Rename,
            true if can.copy => Moves::Copy,
            _ => Moves::No,
        };
        Self {
            moves,
            real_directories: can.create_dir && !can.list_with_start_after && can.rename,
            lists: can.list,
            conditional_copy: can.copy_with_if_match && can.copy_with_if_not_exists,
            conditional_put: can.write_with_if_match && can.write_with_if_not_exists,
        }
    }
}

impl Inner {
    /// One request, with a deadline over all its tries.
    async fn ask<T>(&self, call: impl Future<Output = opendal::Result<T>> + Send) -> opendal::Result<T> {
        match tokio::time::timeout(self.deadline, call).await {
            Ok(result) => result,
            Err(_) => Err(opendal::Error::new(opendal::ErrorKind::Unexpected, "timeout reached")),
        }
    }

    /// The same, with our error about a path.
    async fn call<T>(
        &self,
        path: impl AsRef<[u8]> + Send,
        call: impl Future<Output = opendal::Result<T>> + Send,
    ) -> Result<T> {
        self.ask(call).await.map_err(|error| failure::of(&error, path))
    }

    fn unreachable(&self, error: Error) -> Error {
        let text = format!("{}: {}", self.uri, error.message());
        let ours = Error::new(error.kind(), text);
        match error.advice() {
            Some(advice) => ours.advise(advice),
            None => ours,
        }
    }

    /// The key of a staged object.
    fn staged(&self, name: &Name) -> Result<String> {
        let text = std::str::from_utf8(name.as_bytes());
        let text = text.map_err(|_| Error::new(ErrorKind::Invalid, "the name of a temporary is not UTF-8").at(name))?;
        Ok(key::private(self.cluster, key::Private::Temporaries) + text)
    }
}
