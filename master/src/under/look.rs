//! One look at one name, and what the state is told of it.
//!
//! What equals the recorded fingerprint is what we know, or the echo of our own change: the state is told nothing. A look
//! that crossed one of our own actions is taken again ([`super::changes`]). A look that fails is an error and nothing
//! else: it is never remembered.

use std::{sync::Arc, time::Instant};

use larder_common::{Error, ErrorKind, FileId, Name, Result};
use larder_ufs::{ObjectStatus, object::is_settled};

use super::{
    Shared,
    changes::Looked,
    hands::present,
    identity,
    ledger::{Known, Taken},
    mount::LiveMount,
    naming,
};
use crate::state::{Command, Covered, IntentId, LoadChildren, Look, Outcome, Refresh, Relative};

/// A name in a directory of a mount.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    pub mount: Arc<LiveMount>,
    pub directory: FileId,
    /// The directory's path below the mount's root.
    pub path: Relative,
    pub name: Name,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// The name is there, and the state knows it.
    There,
    /// It is not there.
    Absent,
    /// An open intent decides what is there.
    Busy(IntentId),
    /// It was seen, but some open intent keeps the state from taking it.
    Held,
}

/// How often a look may cross our own actions before it waits for them to cease.
const TRIES: u32 = 10;

/// Looks, and waits for intents that are in the way.
///
/// # Errors
/// The store's, `Deadline`.
pub(super) async fn look(shared: &Shared, spot: &Spot, deadline: Instant) -> Result<Sight> {
    loop {
        match look_now(shared, spot, deadline).await? {
            Sight::Busy(intent) => shared.ledger.settled(intent, deadline).await?,
            // Planning finds the intent and waits for it.
            Sight::Held if shared.ledger.child(spot.directory, spot.name.as_bytes()).is_none() => {
                return Ok(Sight::Absent);
            }
            Sight::Held => return Ok(Sight::There),
            sight => return Ok(sight),
        }
    }
}

/// Looks, but waits for no intent.
///
/// # Errors
/// The store's, `Deadline`.
pub(super) async fn look_now(shared: &Shared, spot: &Spot, deadline: Instant) -> Result<Sight> {
    if naming::is_hidden(spot.name.as_bytes()) {
        return Ok(Sight::Absent);
    }
    let directory = naming::object(&spot.path)?;
    let path = directory.join(&spot.name)?;
    let below = naming::relative(&path);
    for _ in 0..TRIES {
        let store = spot.mount.store()?;
        let stamp = match shared.changes.stamp(&*shared.ledger, Looked::Name(spot.mount.row().id, &below)) {
            Ok(stamp) => stamp,
            Err(intent) => return Ok(Sight::Busy(intent)),
        };
        let known = shared.ledger.child(spot.directory, spot.name.as_bytes());
        let begun = shared.now();
        let found = present(spot.mount.call(deadline, store.status(&path)).await)?;
        let mut found = found.filter(|status| shared.is_welcome(&spot.mount, &directory, &spot.name, &status.kind));
        if let (Some(known), Some(status)) = (known.as_ref().filter(|known| known.directory), &mut found) {
            status.times = shared.echoes.heard(spot.mount.row().id, &below.0, known.times, status.times);
        }
        look_again_if_young(shared, spot, found.as_ref());
        let Some(command) = difference(spot, known.as_ref(), found.as_ref()) else {
            if !shared.changes.is_good(stamp) {
                continue;
            }
            return Ok(unchanged(shared, known, begun));
        };
        match shared.ledger.take(command, &|| shared.changes.is_good(stamp))? {
            Taken::Done(outcome) => {
                conflicts(shared, spot, outcome, found.as_ref())?;
                let now = shared.ledger.child(spot.directory, spot.name.as_bytes());
                if difference(spot, now.as_ref(), found.as_ref()).is_some() && shared.ledger.has_open_intents() {
                    return Ok(Sight::Held);
                }
                return Ok(unchanged(shared, now, begun));
            }
            Taken::Act(intent, action) => {
                shared.carry_out_later(intent, *action);
                return Ok(Sight::Busy(intent));
            }
            Taken::Busy(intent) => return Ok(Sight::Busy(intent)),
            Taken::Outdated => {}
        }
    }
    Err(Error::new(ErrorKind::Busy, "this name changes faster than it can be looked at").at(&path))
}

fn unchanged(shared: &Shared, known: Option<Known>, begun: std::time::Duration) -> Sight {
    let Some(known) = known else { return Sight::Absent };
    shared.looks.looked(known.file, begun);
    Sight::There
}

/// What the state must be told, if anything.
fn difference(spot: &Spot, known: Option<&Known>, found: Option<&ObjectStatus>) -> Option<Command> {
    match (known, found) {
        (Some(known), _) if known.mount_point => None,
        (Some(known), Some(ObjectStatus { kind, times, fingerprint, .. }))
            if identity::is_recorded(known, kind, times, fingerprint) =>
        {
            None
        }
        (Some(known), None) if known.stored => Some(gone(spot)),
        (_, None) => None,
        (_, Some(status)) => {
            let entries = vec![identity::seen(spot.name.clone(), status.clone())];
            Some(LoadChildren { directory: spot.directory, entries, covered: Covered::Shown, complete: false }.into())
        }
    }
}

/// A listing of this one name that does not show it: of a file with several names, only this one goes.
fn gone(spot: &Spot) -> Command {
    let covered = Covered::Range { after: naming::just_before(&spot.name), through: Some(spot.name.clone()) };
    LoadChildren { directory: spot.directory, entries: Vec::new(), covered, complete: false }.into()
}

/// Content that was acknowledged and is not persisted, while another has taken its name: each is told what was seen.
pub(super) fn conflicts(shared: &Shared, spot: &Spot, outcome: Outcome, found: Option<&ObjectStatus>) -> Result<()> {
    let (Outcome::Loaded { conflicts, .. }, Some(status)) = (outcome, found) else { return Ok(()) };
    for file in conflicts {
        tracing::warn!(name = %spot.name, %file, "somebody else has taken the name of a file that is not persisted yet");
        let seen = Look::Changed(Box::new(identity::seen(spot.name.clone(), status.clone())));
        if let Taken::Act(intent, action) = shared.ledger.take(Refresh { file, seen }.into(), &|| true)? {
            shared.carry_out_later(intent, *action);
        }
    }
    Ok(())
}

/// What was changed a moment ago can change once more without its stamps showing it.
fn look_again_if_young(shared: &Shared, spot: &Spot, found: Option<&ObjectStatus>) {
    let young = found.is_some_and(|status| !is_settled(&status.fingerprint, shared.clock.now()));
    if young && let Some(watched) = shared.watched(spot.mount.row().id) {
        watched
            .later(super::watched::Hint { directory: spot.path.0.clone(), name: Some(spot.name.as_bytes().to_vec()) });
    }
}
