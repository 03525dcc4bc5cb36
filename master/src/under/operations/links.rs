//! Names beside a file's first one, symbolic links, and special files.

use larder_common::{Error, ErrorKind, FileKind, Result};
use larder_ufs::ObjectPath;

use crate::{
    state::{Done, Owner, Relative},
    under::{
        hands::{Hands, at},
        identity,
    },
};

pub(in crate::under) async fn link(hands: &Hands<'_>, from: &Relative, to: &Relative) -> Result<Done> {
    let (path, new) = (at(from)?, at(to)?);
    let found = hands.status(&path).await?;
    let expected = match hands.recorded(&path) {
        Some(recorded) if !identity::is_it(&found, &recorded) => recorded,
        _ => found.fingerprint,
    };
    let status = hands.change(hands.store.link(&path, &expected, &new)).await.map_err(|error| error.at(&to.0))?;
    Ok(Done { fingerprint: Some(status.fingerprint), aside: None })
}

/// Whether both names are there and name one file.
pub(in crate::under) async fn linked(hands: &Hands<'_>, from: &Relative, to: &Relative) -> Result<Option<Done>> {
    let (one, other) = (hands.look(&at(from)?).await?, hands.look(&at(to)?).await?);
    let (Some(one), Some(other)) = (one, other) else { return Ok(None) };
    let same = one.fingerprint.inode == other.fingerprint.inode && other.links > 1;
    Ok(same.then_some(Done { fingerprint: Some(other.fingerprint), aside: None }))
}

/// Makes a symbolic link or a special file.
pub(in crate::under) async fn make(hands: &Hands<'_>, target: &Relative, kind: FileKind, owner: Owner) -> Result<Done> {
    let path = at(target)?;
    let attributes = hands.attributes(owner);
    let status = hands
        .owned(attributes, |attributes| match &kind {
            FileKind::Symlink(text) => {
                hands.store.symlink(&path, text, larder_ufs::Attributes { mode: None, ..attributes })
            }
            other => hands.store.make_special(&path, other.clone(), attributes),
        })
        .await
        .map_err(|error| error.at(&target.0))?;
    Ok(Done { fingerprint: Some(status.fingerprint), aside: None })
}

/// Whether it is there.
pub(in crate::under) async fn made(hands: &Hands<'_>, target: &Relative, kind: &FileKind) -> Result<Option<Done>> {
    let path: ObjectPath = at(target)?;
    match hands.look(&path).await? {
        None => Ok(None),
        Some(status) if status.kind == *kind => Ok(Some(Done { fingerprint: Some(status.fingerprint), aside: None })),
        Some(_) => Err(Error::new(ErrorKind::AlreadyExists, "the under store has something else there").at(&target.0)),
    }
}
