//! One action at work in one store: its calls with their deadline, and whether anything has been changed yet.
//!
//! A call that changes goes through [`Hands::change`]. From the first of these on, an error that says nothing of the
//! outcome (a deadline, a store that is away) leaves the outcome of the whole action open; before, nothing has happened.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use larder_common::{Error, ErrorKind, Fingerprint, Result};
use larder_ufs::{Attributes, Capabilities, ObjectPath, ObjectStatus, UnderStore};

use super::{
    identity,
    ledger::{Known, Ledger, known_at},
    mount::LiveMount,
    naming,
};
use crate::state::{IntentId, Owner, Relative};

/// What an action works with.
pub(super) struct Hands<'a> {
    pub mount: &'a Arc<LiveMount>,
    pub store: Arc<dyn UnderStore>,
    pub ledger: &'a dyn Ledger,
    pub intent: IntentId,
    pub deadline: Instant,
    pub sync: bool,
    changed: AtomicBool,
}

impl<'a> Hands<'a> {
    pub(super) fn new(
        mount: &'a Arc<LiveMount>,
        store: Arc<dyn UnderStore>,
        ledger: &'a dyn Ledger,
        (intent, sync): (IntentId, bool),
        deadline: Instant,
    ) -> Self {
        Self { mount, store, ledger, intent, deadline, sync, changed: AtomicBool::new(false) }
    }

    /// Whether a changing call has been made.
    pub(super) fn has_changed(&self) -> bool {
        self.changed.load(Ordering::SeqCst)
    }

    pub(super) fn can(&self) -> Capabilities {
        self.store.capabilities()
    }

    /// A call that changes nothing.
    pub(super) async fn read<T>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.mount.call(self.deadline, call).await
    }

    /// A call that changes the store.
    pub(super) async fn change<T>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.changed.store(true, Ordering::SeqCst);
        self.mount.call(self.deadline, call).await
    }

    /// What is at a path, if anything.
    pub(super) async fn look(&self, path: &ObjectPath) -> Result<Option<ObjectStatus>> {
        present(self.read(self.store.status(path)).await)
    }

    /// What is at a path.
    pub(super) async fn status(&self, path: &ObjectPath) -> Result<ObjectStatus> {
        let missing = || Error::new(ErrorKind::NotFound, "it is not in the under store any more").at(path);
        self.look(path).await?.ok_or_else(missing)
    }

    /// The fingerprint of what is at a path, if that is what was recorded but for its mode or owner, which others have
    /// changed: stores compare exactly, and such a change is none of content.
    pub(super) async fn touched_up(&self, path: &ObjectPath, recorded: &Fingerprint) -> Result<Option<Fingerprint>> {
        let found = self.look(path).await?.filter(|status| identity::is_it(status, recorded));
        Ok(found.map(|status| status.fingerprint).filter(|fingerprint| fingerprint != recorded))
    }

    /// What the state knows of a path.
    pub(super) fn known(&self, path: &ObjectPath) -> Option<Known> {
        known_at(self.ledger, self.mount.row(), &naming::relative(path))
    }

    /// What the state has recorded of a path.
    pub(super) fn recorded(&self, path: &ObjectPath) -> Option<Fingerprint> {
        self.known(path).and_then(|known| known.fingerprint)
    }

    /// Mode and owner, where the store keeps such.
    pub(super) fn attributes(&self, owner: Owner) -> Attributes {
        if !self.can().attributes {
            return Attributes::default();
        }
        let Owner { mode, uid, gid } = owner;
        Attributes { mode: Some(mode), uid: Some(uid), gid: Some(gid), ..Attributes::default() }
    }

    /// Makes a changing call that gives an owner. Where the server may not give files away (it is not root, or the
    /// store maps root to nobody) the same call is made without, and what is made belongs to the server's user.
    pub(super) async fn owned<T, F: Future<Output = Result<T>> + Send>(
        &self,
        attributes: Attributes,
        call: impl Fn(Attributes) -> F,
    ) -> Result<T> {
        let (uid, gid) = (attributes.uid, attributes.gid);
        match self.change(call(attributes.clone())).await {
            Err(error) if error.kind() == ErrorKind::Denied && (uid.is_some() || gid.is_some()) => {
                let plain = Attributes { uid: None, gid: None, ..attributes };
                let result = self.change(call(plain)).await;
                if result.is_ok() {
                    tracing::debug!(mount = %self.mount.row().path, ?uid, ?gid, %error, "the owner was not given in the under store");
                }
                result
            }
            result => result,
        }
    }
}

/// Turns "it is not there" into `None`.
pub(super) fn present<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A path of an action, as the store takes it, with the error about that path.
pub(super) fn at(path: &Relative) -> Result<ObjectPath> {
    naming::object(path).map_err(|error| error.at(&path.0))
}
