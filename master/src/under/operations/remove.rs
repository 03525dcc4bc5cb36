//! Taking a name away.
//!
//! A file goes by its recorded identity: another one under its name stays, and the action fails. A directory goes with
//! all that is below if the namespace has something below it, or does not know; where the namespace knows it to be empty
//! the caller meant an empty directory, and a foreign file that has appeared in it makes the removal fail.

use larder_common::{Error, ErrorKind, Fingerprint, Result};
use larder_ufs::{ObjectPath, Removal};

use super::tree;
use crate::{
    state::{Done, Expected, Relative},
    under::{
        hands::{Hands, at, present},
        identity, naming,
    },
};

/// One removal.
pub(in crate::under) struct Departure<'a> {
    pub target: &'a Relative,
    pub expected: &'a Expected,
    pub directory: bool,
    pub orphan: Option<&'a str>,
}

pub(in crate::under) async fn perform(hands: &Hands<'_>, departure: &Departure<'_>) -> Result<Done> {
    let path = at(departure.target)?;
    match departure.directory {
        true => directory(hands, &path).await?,
        false => file(hands, &path, departure).await?,
    }
    Ok(Done { fingerprint: other_name(hands, &path).await, aside: None })
}

async fn directory(hands: &Hands<'_>, path: &ObjectPath) -> Result<()> {
    if !hands.can().directories {
        return tree::remove(hands, path).await;
    }
    match present(hands.change(hands.store.remove_directory(path)).await) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotEmpty && with_all_below(hands, path) => {
            tree::remove(hands, path).await
        }
        Err(error) => Err(error.at(path)),
    }
}

fn with_all_below(hands: &Hands<'_>, path: &ObjectPath) -> bool {
    let Some(known) = hands.known(path) else { return false };
    !known.loaded || !hands.ledger.children(known.file, None, 1).is_empty()
}

async fn file(hands: &Hands<'_>, path: &ObjectPath, departure: &Departure<'_>) -> Result<()> {
    let expected = match departure.expected {
        Expected::Absent => return Ok(()),
        Expected::Fingerprint(fingerprint) => fingerprint.clone(),
        Expected::Any | Expected::Inode(_) => match hands.look(path).await? {
            None => return Ok(()),
            Some(status) => status.fingerprint,
        },
    };
    let keep = departure.orphan.is_some() && hands.can().orphans;
    let orphan = naming::orphan(hands.intent, path, departure.orphan)?;
    let removal = |expected| Removal { expected, orphan: orphan.clone(), keep, sync: hands.sync };
    let mut result = present(hands.change(hands.store.remove(path, removal(expected.clone()))).await);
    if matches!(&result, Err(error) if error.kind() == ErrorKind::Changed)
        && let Some(fingerprint) = hands.touched_up(path, &expected).await?
    {
        result = present(hands.change(hands.store.remove(path, removal(fingerprint))).await);
    }
    match result {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::IsDirectory => {
            Err(Error::new(ErrorKind::Changed, "the under store has a directory there now").at(path))
        }
        Err(error) => Err(error.at(path)),
    }
}

/// What a file with several names looks like now under another one: losing a name has changed its inode.
async fn other_name(hands: &Hands<'_>, path: &ObjectPath) -> Option<Fingerprint> {
    let known = hands.known(path).filter(|known| !known.directory)?;
    let names = hands.ledger.places(known.file);
    let other = names.iter().find(|(_, name)| name.0 != path.as_bytes())?;
    let status = hands.look(&at(&other.1).ok()?).await.ok().flatten()?;
    let recorded = known.fingerprint.filter(|recorded| identity::is_it(&status, recorded));
    recorded.map(|_| status.fingerprint)
}

/// Whether it has been removed. What a crash has left in `orphans` on its way is destroyed if it is what was to go.
pub(in crate::under) async fn done(hands: &Hands<'_>, departure: &Departure<'_>) -> Result<Option<Done>> {
    let path = at(departure.target)?;
    if hands.look(&path).await?.is_some() {
        return Ok(None);
    }
    if !departure.directory && hands.can().orphans {
        clear(hands, &path, departure).await?;
    }
    Ok(Some(Done { fingerprint: other_name(hands, &path).await, aside: None }))
}

async fn clear(hands: &Hands<'_>, path: &ObjectPath, departure: &Departure<'_>) -> Result<()> {
    let name = naming::orphan(hands.intent, path, departure.orphan)?.name;
    let orphans = hands.read(hands.store.list_orphans()).await?;
    let Some((orphan, status)) = orphans.into_iter().find(|(orphan, _)| orphan.name == name) else { return Ok(()) };
    if !identity::as_expected(Some(&status), departure.expected) {
        let message = "a crash has caught foreign content on its way out; it is kept in the under store's orphans";
        return Err(Error::new(ErrorKind::Changed, message).at(path).advise(format!("look for {name} in .larder")));
    }
    if departure.orphan.is_none() {
        hands.change(hands.store.destroy_orphan(&orphan)).await?;
    }
    Ok(())
}
