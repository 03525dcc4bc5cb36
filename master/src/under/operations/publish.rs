//! Publishing: a whole file gets its name.
//!
//! The time of change that a file is given is drawn when its content is committed, to the nanosecond, and set before the
//! file is visible: so after a crash a file under the target's name with this very time, which is not what was to be
//! replaced, is the published one. Where the store keeps no times, the temporary's absence says the same.
//!
//! What is not expected is never destroyed: the store refuses, and it is moved aside or the action fails. Nothing under
//! the name is not a conflict: then the file is published as a new one, for a writer's bytes must not be lost because
//! somebody removed the old ones.

use std::ops::Range;

use larder_common::{Error, ErrorKind, Fingerprint, Generation, Name, Result, Timestamp};
use larder_ufs::{
    Attributes, Content, Displaced, Expected as Found, ObjectPath, ObjectStatus, Publish, Rename, TemporaryName,
    Xattrs, object::same_identity,
};

use super::relink;
use crate::{
    state::{Done, Expected, Foreign, Owner, Relative, Seen, Source},
    under::{
        hands::{Hands, at, present},
        identity, naming,
    },
};

/// How often something else may appear under the name before it is given up.
const TRIES: u32 = 8;

/// One publication.
pub(in crate::under) struct Publication<'a> {
    pub generation: Generation,
    pub source: &'a Source,
    pub target: &'a Relative,
    pub expected: &'a Expected,
    pub foreign: &'a Foreign,
    pub owner: Owner,
    pub modified: Timestamp,
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
    pub orphan: Option<&'a str>,
    pub links: &'a [Relative],
}

impl Publication<'_> {
    fn temporary(&self, hands: &Hands<'_>, target: &ObjectPath) -> Result<TemporaryName> {
        match self.source {
            Source::Empty => Ok(naming::empty(hands.intent, target)),
            Source::Temporary(temporary) => naming::temporary(target, &temporary.name),
        }
    }

    /// Whether what is under the name is what we published.
    fn is_ours(&self, status: &ObjectStatus) -> bool {
        !self.is_replaced(status) && status.kind.is_file() && same_time(status.fingerprint.modified, self.modified)
    }

    /// Whether it is what we are to replace.
    fn is_replaced(&self, status: &ObjectStatus) -> bool {
        !matches!(self.expected, Expected::Absent | Expected::Any) && identity::as_expected(Some(status), self.expected)
    }
}

/// Whether a store that may keep times less exactly was given this one.
fn same_time(kept: Timestamp, given: Timestamp) -> bool {
    [1, 100, 1_000, 1_000_000, 1_000_000_000].iter().any(|unit| kept.0 == given.0 - given.0.rem_euclid(*unit))
}

pub(in crate::under) async fn perform(hands: &Hands<'_>, publication: &Publication<'_>) -> Result<Done> {
    let target = at(publication.target)?;
    let temporary = publication.temporary(hands, &target)?;
    if matches!(publication.source, Source::Empty) {
        fill_empty(hands, &temporary).await?;
    }
    let result = give_name(hands, publication, &temporary, &target).await;
    if let (Err(_), Source::Empty) = (&result, publication.source) {
        // It is found and destroyed as nobody's at the next start, if not now.
        let _ = hands.change(hands.store.destroy_temporary(&temporary)).await;
    }
    let done = result?;
    let linked = relink::perform(hands, &target, publication.links, publication.expected).await?;
    Ok(Done { fingerprint: linked.or(done.fingerprint), ..done })
}

async fn fill_empty(hands: &Hands<'_>, temporary: &TemporaryName) -> Result<()> {
    let upload = hands.store.upload_whole(temporary, Content::Bytes(bytes::Bytes::new()), hands.sync);
    match hands.change(upload).await {
        // Of an earlier try of the same intent: it is as empty.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        result => result.map(drop),
    }
}

async fn give_name(
    hands: &Hands<'_>,
    publication: &Publication<'_>,
    temporary: &TemporaryName,
    target: &ObjectPath,
) -> Result<Done> {
    let mut aside = None;
    let mut expected = match publication.expected {
        Expected::Absent => Found::Absent,
        Expected::Fingerprint(fingerprint) => Found::Fingerprint(fingerprint.clone()),
        Expected::Any => found(hands, target).await?,
        Expected::Inode(old) => match hands.look(target).await? {
            Some(status) if identity::same_inode(&status.fingerprint, old) => Found::Fingerprint(status.fingerprint),
            _ => Found::Absent,
        },
    };
    for _ in 0..TRIES {
        let attributes = attributes(hands, publication, target, &expected).await;
        let error = match publish_once(hands, temporary, target, attributes, (&expected, publication.orphan)).await {
            Ok(fingerprint) => return Ok(Done { fingerprint: Some(fingerprint), aside }),
            Err(error) => error,
        };
        if !matches!(error.kind(), ErrorKind::Changed | ErrorKind::AlreadyExists | ErrorKind::IsDirectory) {
            return Err(error.at(&publication.target.0));
        }
        expected = match (hands.look(target).await?, publication.expected, publication.foreign) {
            (None, ..) => Found::Absent,
            (Some(status), Expected::Any, _) if !status.kind.is_directory() => Found::Fingerprint(status.fingerprint),
            (Some(status), ..) if publication.is_replaced(&status) => Found::Fingerprint(status.fingerprint),
            (Some(status), _, Foreign::KeepAside(to)) => {
                aside = Some(move_aside(hands, target, status, to).await?);
                Found::Absent
            }
            (Some(_), ..) => return Err(error.at(&publication.target.0)),
        };
    }
    Err(Error::new(ErrorKind::Busy, "somebody else keeps changing what is under this name in the under store")
        .at(&publication.target.0))
}

async fn found(hands: &Hands<'_>, target: &ObjectPath) -> Result<Found> {
    Ok(hands.look(target).await?.map_or(Found::Absent, |status| Found::Fingerprint(status.fingerprint)))
}

async fn publish_once(
    hands: &Hands<'_>,
    temporary: &TemporaryName,
    target: &ObjectPath,
    attributes: Attributes,
    (expected, orphan): (&Found, Option<&str>),
) -> Result<Fingerprint> {
    let displaced = match orphan {
        Some(_) if hands.can().orphans => Displaced::Keep(naming::orphan(hands.intent, target, orphan)?),
        _ => Displaced::Unlink,
    };
    let publish = |attributes| Publish {
        expected: expected.clone(),
        attributes,
        sync: hands.sync,
        displaced: displaced.clone(),
        token: bytes::Bytes::new(),
    };
    hands.owned(attributes, |attributes| hands.store.publish(temporary, target, publish(attributes))).await
}

async fn attributes(
    hands: &Hands<'_>,
    publication: &Publication<'_>,
    target: &ObjectPath,
    expected: &Found,
) -> Attributes {
    let mut attributes = hands.attributes(publication.owner);
    if hands.can().attributes {
        attributes.modified = Some(publication.modified);
    }
    if hands.can().xattrs && !publication.xattrs.is_empty() {
        attributes.xattrs = match expected {
            Found::Absent => Some(publication.xattrs.to_vec()),
            Found::Fingerprint(_) => merged(hands, target, publication.xattrs).await,
        };
    }
    attributes
}

/// All that the replaced file has (access lists among them) with ours on top. `None`, which carries all of it over, where
/// ours are among them.
async fn merged(hands: &Hands<'_>, target: &ObjectPath, ours: &[(Vec<u8>, Vec<u8>)]) -> Option<Xattrs> {
    let theirs = hands.read(hands.store.xattrs(target)).await.unwrap_or_default();
    if ours.iter().all(|attribute| theirs.contains(attribute)) {
        return None;
    }
    let kept = theirs.into_iter().filter(|(name, _)| !ours.iter().any(|(other, _)| other == name));
    Some(kept.chain(ours.iter().cloned()).collect())
}

/// Gives something foreign another name beside its own.
async fn move_aside(hands: &Hands<'_>, target: &ObjectPath, status: ObjectStatus, to: &Relative) -> Result<Seen> {
    let to = at(to)?;
    for number in 0..TRIES {
        let path = naming::aside(&to, number)?;
        let rename = Rename {
            source: status.fingerprint.clone(),
            target: Found::Absent,
            displaced: Displaced::Unlink,
            sync: hands.sync,
        };
        match hands.change(hands.store.rename(target, &path, rename)).await {
            Ok(status) => {
                tracing::warn!(from = %target, to = %path, "something foreign is kept beside a file of ours");
                return Ok(identity::seen(last_name(&path)?, status));
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(
        ErrorKind::AlreadyExists,
        "there are too many conflicts beside this file; look at them and remove them",
    )
    .at(&to))
}

fn last_name(path: &ObjectPath) -> Result<Name> {
    Name::new(path.name().unwrap_or_default())
}

/// Whether it has been published.
pub(in crate::under) async fn done(hands: &Hands<'_>, publication: &Publication<'_>) -> Result<Option<Done>> {
    let target = at(publication.target)?;
    let temporary = publication.temporary(hands, &target)?;
    let Some(status) = hands.look(&target).await? else { return Ok(None) };
    let ours = match hands.can().attributes {
        true => publication.is_ours(&status),
        false => !publication.is_replaced(&status) && left_in(hands, &temporary).await?.is_none(),
    };
    if !ours {
        return Ok(None);
    }
    clear(hands, publication, &temporary, &status).await?;
    let aside = kept_aside(hands, publication).await?;
    let linked = relink::perform(hands, &target, publication.links, publication.expected).await?;
    Ok(Some(Done { fingerprint: linked.or(Some(status.fingerprint)), aside }))
}

/// What an earlier try has moved aside, so that the state learns of it.
pub(in crate::under) async fn kept_aside(hands: &Hands<'_>, publication: &Publication<'_>) -> Result<Option<Seen>> {
    let Foreign::KeepAside(to) = publication.foreign else { return Ok(None) };
    let path = at(to)?;
    let name = last_name(&path)?;
    Ok(hands.look(&path).await?.map(|status| identity::seen(name, status)))
}

async fn left_in(hands: &Hands<'_>, temporary: &TemporaryName) -> Result<Option<Fingerprint>> {
    let nothing: Range<u64> = 0..0;
    let fetch = hands.store.fetch_temporary(temporary, nothing, Box::new(|_: u64, _: &[u8]| Ok(())));
    Ok(present(hands.read(fetch).await)?.map(|fetched| fetched.fingerprint))
}

/// A store that replaces by swapping leaves the old content under the temporary's name if it is killed between the swap
/// and the comparison. What was to be replaced goes; what is foreign is kept beside the file.
async fn clear(
    hands: &Hands<'_>,
    publication: &Publication<'_>,
    temporary: &TemporaryName,
    published: &ObjectStatus,
) -> Result<()> {
    let Some(left) = left_in(hands, temporary).await? else { return Ok(()) };
    let mine = same_identity(&left, &published.fingerprint);
    let goes = match publication.expected {
        Expected::Fingerprint(old) => same_identity(&left, old),
        Expected::Inode(old) => identity::same_inode(&left, old),
        Expected::Any => true,
        Expected::Absent => matches!(publication.source, Source::Empty) && left.size == 0,
    };
    if mine || goes {
        return hands.change(hands.store.destroy_temporary(temporary)).await;
    }
    let target = at(publication.target)?;
    let beside = naming::conflict(&target, publication.generation)?;
    let publish = Publish { sync: hands.sync, ..Publish::new_file() };
    tracing::warn!(path = %beside, "foreign content that a crash caught on its way is kept");
    hands.change(hands.store.publish(temporary, &beside, publish)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_recognised_where_stamps_are_coarser() {
        let given = Timestamp(1_700_000_000_123_456_789);
        for kept in [123_456_789, 123_456_700, 123_456_000, 123_000_000, 0] {
            assert!(same_time(Timestamp(1_700_000_000_000_000_000 + kept), given), "{kept}");
        }
        assert!(!same_time(Timestamp(given.0 + 1), given));
        assert!(!same_time(Timestamp(given.0 - 1), given));
    }
}
