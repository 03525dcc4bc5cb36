//! Carries actions out in their store, and finds out about those whose outcome is not known.
//!
//! [`act`] is for an action whose intent has just been recorded: it ends in what the store said, or in `None` when that
//! does not tell whether anything was done. [`settle`] is for such an action later, and after a crash: it first asks
//! whether the change was made, by identities, and if not makes it. Rolling forward is right both times: nobody was told
//! that it failed, and a call that hangs and is made late finds its work done, its temporary gone, or another identity.

use std::{sync::Arc, time::Instant};

use larder_common::{Error, ErrorKind, FileKind, Result};
use larder_ufs::{Attributes, ObjectPath};

use super::{
    hands::Hands,
    ledger::Ledger,
    mount::{LiveMount, is_unknown},
    naming,
    operations::{attributes, directories, exchange, links, patch, publish, remove, rename},
};
use crate::state::{Done, IntentId, Operation, Temporary, UnderAction, UnderResult};

/// Carries an action out. `None`: what has become of it is not known.
pub(super) async fn act(
    mount: &Arc<LiveMount>,
    ledger: &dyn Ledger,
    (intent, action): (IntentId, &UnderAction),
    deadline: Instant,
) -> Option<UnderResult> {
    let store = match mount.store() {
        Ok(store) => store,
        Err(error) => return Some(UnderResult::Failed(error)),
    };
    let hands = Hands::new(mount, store, ledger, (intent, action.sync), deadline);
    let result = match tokio::time::timeout_at(deadline.into(), carry_out(&hands, action)).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(
            ErrorKind::Deadline,
            format!("the under store of {} did not answer in time", mount.row().path),
        )),
    };
    match (&action.operation, result) {
        // Not done twice: what is not known counts as failed.
        (Operation::Patch { .. }, Err(error)) => Some(UnderResult::Failed(error)),
        (_, result) => told(&hands, result),
    }
}

/// Finds out what has become of an action, finishes it if need be, and says how it ended. `None`: not now.
pub(super) async fn settle(
    mount: &Arc<LiveMount>,
    ledger: &dyn Ledger,
    (intent, action): (IntentId, &UnderAction),
    deadline: Instant,
) -> Option<UnderResult> {
    if let Operation::Patch { target, .. } = &action.operation {
        let message = "a write into the file in place was broken off; what is in it now counts as another version";
        return Some(UnderResult::Failed(Error::new(ErrorKind::Changed, message).at(&target.0)));
    }
    let store = mount.store().ok()?;
    let hands = Hands::new(mount, store, ledger, (intent, action.sync), deadline);
    let result = match tokio::time::timeout_at(deadline.into(), find_out(&hands, action)).await {
        Ok(Err(error)) if is_unknown(&error) => return None,
        Ok(result) => result,
        Err(_) => return None,
    };
    Some(result.map_or_else(UnderResult::Failed, UnderResult::Done))
}

fn told(hands: &Hands<'_>, result: Result<Done>) -> Option<UnderResult> {
    match result {
        Ok(done) => Some(UnderResult::Done(done)),
        Err(error) if is_unknown(&error) && hands.has_changed() => None,
        Err(error) => Some(UnderResult::Failed(error)),
    }
}

async fn find_out(hands: &Hands<'_>, action: &UnderAction) -> Result<Done> {
    if let Some(done) = done(hands, &action.operation).await? {
        return Ok(done);
    }
    let aside = match publication(&action.operation) {
        Some(publication) => publish::kept_aside(hands, &publication).await?,
        None => None,
    };
    let done = carry_out(hands, action).await?;
    Ok(Done { aside: done.aside.or(aside), ..done })
}

async fn carry_out(hands: &Hands<'_>, action: &UnderAction) -> Result<Done> {
    let place =
        super::changes::paths(action).last().map_or_else(|| Ok(ObjectPath::root()), |path| naming::object(path))?;
    destroy(hands, &place, &action.destroy).await?;
    let mut made = directories::Made::default();
    let result = match directories::perform(hands, &action.directories, &mut made).await {
        Ok(()) => perform(hands, &action.operation, &made).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &result
        && !is_unknown(error)
    {
        directories::undo(hands, &made).await;
    }
    result
}

/// Temporaries lie in the file system of what they were meant for; on a mount with several, that may not be the one of
/// `place`. What is missed here can publish nothing, for only the master publishes, and goes with the next sweep.
async fn destroy(hands: &Hands<'_>, place: &ObjectPath, temporaries: &[Temporary]) -> Result<()> {
    for temporary in temporaries.iter().filter(|temporary| temporary.mount == hands.mount.row().id) {
        let name = naming::temporary(place, &temporary.name)?;
        hands.change(hands.store.destroy_temporary(&name)).await?;
    }
    Ok(())
}

async fn perform(hands: &Hands<'_>, operation: &Operation, made: &directories::Made) -> Result<Done> {
    match operation {
        Operation::MakeDirectories => Ok(Done { fingerprint: made.last.clone(), aside: None }),
        Operation::Exchange { from, to } => exchange::perform(hands, from, to).await,
        Operation::Link { from, to } => links::link(hands, from, to).await,
        Operation::SetAttributes { target, mode, uid, gid, accessed, modified } => {
            let (mode, uid, gid, accessed, modified) = (*mode, *uid, *gid, *accessed, *modified);
            attributes::set(hands, target, Attributes { mode, uid, gid, accessed, modified, xattrs: None }).await
        }
        Operation::SetXattr { target, name, value } => attributes::set_xattr(hands, target, name, value.as_ref()).await,
        Operation::Symlink { target, text, owner } => {
            links::make(hands, target, FileKind::Symlink(text.clone()), *owner).await
        }
        Operation::MakeSpecial { target, format, device, owner } => {
            links::make(hands, target, FileKind::Special(*format, *device), *owner).await
        }
        Operation::Patch { target, expected, mode, modified, .. } => {
            patch::perform(hands, operation, target, (expected, *mode, *modified)).await
        }
        Operation::Publish { .. } | Operation::Remove { .. } | Operation::Rename { .. } => {
            match (publication(operation), departure(operation), way(operation)) {
                (Some(publication), ..) => publish::perform(hands, &publication).await,
                (_, Some(departure), _) => remove::perform(hands, &departure).await,
                (_, _, Some(way)) => rename::perform(hands, &way).await,
                _ => Ok(Done::default()),
            }
        }
    }
}

async fn done(hands: &Hands<'_>, operation: &Operation) -> Result<Option<Done>> {
    match operation {
        // Made again: all of these come to the same.
        Operation::MakeDirectories
        | Operation::SetAttributes { .. }
        | Operation::SetXattr { .. }
        | Operation::Patch { .. } => Ok(None),
        Operation::Exchange { from, to } => exchange::done(hands, from, to).await,
        Operation::Link { from, to } => links::linked(hands, from, to).await,
        Operation::Symlink { target, text, .. } => links::made(hands, target, &FileKind::Symlink(text.clone())).await,
        Operation::MakeSpecial { target, format, device, .. } => {
            links::made(hands, target, &FileKind::Special(*format, *device)).await
        }
        Operation::Publish { .. } | Operation::Remove { .. } | Operation::Rename { .. } => {
            match (publication(operation), departure(operation), way(operation)) {
                (Some(publication), ..) => publish::done(hands, &publication).await,
                (_, Some(departure), _) => remove::done(hands, &departure).await,
                (_, _, Some(way)) => rename::done(hands, &way).await,
                _ => Ok(None),
            }
        }
    }
}

fn publication(operation: &Operation) -> Option<publish::Publication<'_>> {
    let Operation::Publish {
        file: _,
        generation,
        source,
        target,
        expected,
        foreign,
        owner,
        modified,
        xattrs,
        orphan,
        links,
    } = operation
    else {
        return None;
    };
    let (generation, owner, modified) = (*generation, *owner, *modified);
    let orphan = orphan.as_deref();
    let publication =
        publish::Publication { generation, source, target, expected, foreign, owner, modified, xattrs, orphan, links };
    Some(publication)
}

fn departure(operation: &Operation) -> Option<remove::Departure<'_>> {
    let Operation::Remove { target, expected, directory, orphan } = operation else { return None };
    Some(remove::Departure { target, expected, directory: *directory, orphan: orphan.as_deref() })
}

fn way(operation: &Operation) -> Option<rename::Move<'_>> {
    let Operation::Rename { from, to, expected, replaced, orphan } = operation else { return None };
    Some(rename::Move { from, to, expected, replaced, orphan: orphan.as_deref() })
}
