//! Mode, owner, times and extended attributes of something that has a name.
//!
//! The call gives the new fingerprint, and recording it makes the change our own. But where content was changed by others
//! since it was recorded, the new fingerprint would hide that; then none is given, and the next look finds the change.

use larder_common::{ErrorKind, Result};
use larder_ufs::{Attributes, ObjectPath, ObjectStatus, XattrChange};

use crate::{
    state::{Done, Relative},
    under::{
        hands::{Hands, at},
        identity,
    },
};

pub(in crate::under) async fn set(hands: &Hands<'_>, target: &Relative, attributes: Attributes) -> Result<Done> {
    let path = at(target)?;
    let before = hands.status(&path).await?;
    if !hands.can().attributes {
        return Ok(recorded(hands, &path, &before, before.clone()));
    }
    let after =
        hands.change(hands.store.set_attributes(&path, attributes)).await.map_err(|error| error.at(&target.0))?;
    Ok(recorded(hands, &path, &before, after))
}

pub(in crate::under) async fn set_xattr(
    hands: &Hands<'_>,
    target: &Relative,
    name: &[u8],
    value: Option<&Vec<u8>>,
) -> Result<Done> {
    let path = at(target)?;
    let before = hands.status(&path).await?;
    if !hands.can().xattrs {
        return Ok(recorded(hands, &path, &before, before.clone()));
    }
    let change = value.map_or(XattrChange::Remove, |value| XattrChange::Set(value.clone()));
    let after = match hands.change(hands.store.set_xattr(&path, name, change)).await {
        Ok(after) => after,
        Err(error) if error.kind() == ErrorKind::NotFound && value.is_none() => hands.status(&path).await?,
        Err(error) => return Err(error.at(&target.0)),
    };
    Ok(recorded(hands, &path, &before, after))
}

fn recorded(hands: &Hands<'_>, path: &ObjectPath, before: &ObjectStatus, after: ObjectStatus) -> Done {
    let untouched = hands.recorded(path).is_none_or(|recorded| identity::is_it(before, &recorded));
    let same = before.fingerprint.inode == after.fingerprint.inode && before.length == after.length;
    Done { fingerprint: (untouched && same).then_some(after.fingerprint), aside: None }
}
