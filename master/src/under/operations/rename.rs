//! Giving something another name, replacing what is there.

use larder_common::{ErrorKind, Result};
use larder_ufs::{Displaced, Expected as Found, ObjectPath, Rename};

use crate::{
    state::{Done, Expected, Relative},
    under::{
        hands::{Hands, at},
        identity, naming,
    },
};

/// One rename.
pub(in crate::under) struct Move<'a> {
    pub from: &'a Relative,
    pub to: &'a Relative,
    pub expected: &'a Expected,
    pub replaced: &'a Expected,
    pub orphan: Option<&'a str>,
}

pub(in crate::under) async fn perform(hands: &Hands<'_>, way: &Move<'_>) -> Result<Done> {
    let (from, to) = (at(way.from)?, at(way.to)?);
    let source = match way.expected {
        Expected::Fingerprint(fingerprint) => fingerprint.clone(),
        Expected::Absent | Expected::Any | Expected::Inode(_) => hands.status(&from).await?.fingerprint,
    };
    let target = match way.replaced {
        Expected::Absent => Found::Absent,
        Expected::Fingerprint(fingerprint) => Found::Fingerprint(fingerprint.clone()),
        Expected::Any | Expected::Inode(_) => {
            hands.look(&to).await?.map_or(Found::Absent, |status| Found::Fingerprint(status.fingerprint))
        }
    };
    let displaced = match way.orphan {
        Some(_) if hands.can().orphans => Displaced::Keep(naming::orphan(hands.intent, &to, way.orphan)?),
        _ => Displaced::Unlink,
    };
    let rename = Rename { source, target, displaced, sync: hands.sync };
    let mut result = hands.change(hands.store.rename(&from, &to, rename.clone())).await;
    if matches!(&result, Err(error) if error.kind() == ErrorKind::Changed)
        && let Some(rename) = touched_up(hands, (&from, &to), rename).await?
    {
        result = hands.change(hands.store.rename(&from, &to, rename)).await;
    }
    let status = result.map_err(|error| error.at(&way.from.0))?;
    Ok(Done { fingerprint: Some(status.fingerprint), aside: None })
}

/// The same rename where only mode or owner of one of the two has been changed by others.
async fn touched_up(
    hands: &Hands<'_>,
    (from, to): (&ObjectPath, &ObjectPath),
    rename: Rename,
) -> Result<Option<Rename>> {
    let source = hands.touched_up(from, &rename.source).await?;
    let target = match &rename.target {
        Found::Absent => None,
        Found::Fingerprint(fingerprint) => hands.touched_up(to, fingerprint).await?,
    };
    if source.is_none() && target.is_none() {
        return Ok(None);
    }
    let source = source.unwrap_or_else(|| rename.source.clone());
    let target = target.map_or_else(|| rename.target.clone(), Found::Fingerprint);
    Ok(Some(Rename { source, target, ..rename }))
}

/// Whether it has been renamed: the thing is under the new name, and not under the old one.
pub(in crate::under) async fn done(hands: &Hands<'_>, way: &Move<'_>) -> Result<Option<Done>> {
    let (from, to) = (at(way.from)?, at(way.to)?);
    let Some(at_new) = hands.look(&to).await? else { return Ok(None) };
    if !hands.can().atomic_rename {
        // The copies come before the deletions: it is over when nothing is left. What was cut off is done again, and the
        // store knows where it was.
        let over = hands.look(&from).await?.is_none();
        return Ok(over.then_some(Done { fingerprint: Some(at_new.fingerprint), aside: None }));
    }
    let moved = match recorded(hands, way, &from) {
        Some(fingerprint) => identity::is_it(&at_new, &fingerprint),
        None => hands.look(&from).await?.is_none(),
    };
    Ok(moved.then_some(Done { fingerprint: Some(at_new.fingerprint), aside: None }))
}

fn recorded(hands: &Hands<'_>, way: &Move<'_>, from: &ObjectPath) -> Option<larder_common::Fingerprint> {
    match way.expected {
        Expected::Fingerprint(fingerprint) => Some(fingerprint.clone()),
        Expected::Absent | Expected::Any | Expected::Inode(_) => hands.recorded(from),
    }
}
