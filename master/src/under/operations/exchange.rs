//! Swapping two names, in three renames through a name of the intent's own in the first one's directory.
//!
//! Stores have no call for it, so whoever reads the under store directly can see the moment in between; whoever reads the
//! namespace cannot. How far it came is told by which of the three names are there, and at the two ends by the identities
//! that the state has recorded. Each step can be made again after a crash.

use larder_common::{Error, ErrorKind, Fingerprint, Result};
use larder_ufs::{Displaced, Expected as Found, ObjectPath, ObjectStatus, Rename};

use crate::{
    state::{Done, Relative},
    under::{
        hands::{Hands, at},
        identity, naming,
    },
};

struct Places {
    from: ObjectPath,
    to: ObjectPath,
    between: ObjectPath,
}

impl Places {
    fn new(hands: &Hands<'_>, from: &Relative, to: &Relative) -> Result<Self> {
        let (from, to) = (at(from)?, at(to)?);
        let between = naming::exchange(hands.intent, &from)?;
        Ok(Self { from, to, between })
    }
}

pub(in crate::under) async fn perform(hands: &Hands<'_>, from: &Relative, to: &Relative) -> Result<Done> {
    let places = Places::new(hands, from, to)?;
    let (mut at_from, mut at_to) = (hands.look(&places.from).await?, hands.look(&places.to).await?);
    let mut between = hands.look(&places.between).await?;
    if between.is_none() {
        let (Some(source), Some(_)) = (at_from.take(), &at_to) else {
            return Err(Error::new(ErrorKind::NotFound, "one of two names to swap is not in the under store any more")
                .at(&from.0));
        };
        between = Some(step(hands, &places.from, &places.between, source).await?);
    }
    if at_from.is_none() {
        let Some(source) = at_to.take() else { return back(hands, &places, between).await };
        match step(hands, &places.to, &places.from, source).await {
            Ok(status) => at_from = Some(status),
            Err(error) if crate::under::mount::is_unknown(&error) => return Err(error),
            Err(error) => {
                back(hands, &places, between).await?;
                return Err(error);
            }
        }
    }
    if let Some(source) = between {
        step(hands, &places.between, &places.to, source).await?;
    }
    Ok(Done { fingerprint: at_from.map(|status| status.fingerprint), aside: None })
}

/// The other one has gone meanwhile: the first goes back to its name.
async fn back(hands: &Hands<'_>, places: &Places, between: Option<ObjectStatus>) -> Result<Done> {
    if let Some(source) = between {
        step(hands, &places.between, &places.from, source).await?;
    }
    Err(Error::new(ErrorKind::Changed, "one of two names to swap was changed meanwhile").at(&places.to))
}

async fn step(hands: &Hands<'_>, from: &ObjectPath, to: &ObjectPath, source: ObjectStatus) -> Result<ObjectStatus> {
    let rename =
        Rename { source: source.fingerprint, target: Found::Absent, displaced: Displaced::Unlink, sync: hands.sync };
    hands.change(hands.store.rename(from, to, rename)).await.map_err(|error| error.at(from))
}

/// Whether the names have been swapped.
pub(in crate::under) async fn done(hands: &Hands<'_>, from: &Relative, to: &Relative) -> Result<Option<Done>> {
    let places = Places::new(hands, from, to)?;
    let (at_from, at_to) = (hands.look(&places.from).await?, hands.look(&places.to).await?);
    let (Some(at_from), Some(at_to)) = (at_from, at_to) else { return Ok(None) };
    let is =
        |status: &ObjectStatus, print: Option<Fingerprint>| print.is_some_and(|print| identity::is_it(status, &print));
    let swapped = is(&at_from, hands.recorded(&places.to)) || is(&at_to, hands.recorded(&places.from));
    let over = swapped && hands.look(&places.between).await?.is_none();
    Ok(over.then_some(Done { fingerprint: Some(at_from.fingerprint), aside: None }))
}
