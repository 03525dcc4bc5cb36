//! Further names of a file whose inode was replaced: the new one gets them too.
//!
//! Each is made beside the old one, under a name of the intent's own, and renamed over it; so a name is never missing, and
//! whoever reads the under store directly finds the old file or the new one. What is foreign under a name stays there. Done
//! again after a crash it comes to the same.

use larder_common::{ErrorKind, Fingerprint, Result};
use larder_ufs::{Displaced, Expected as Found, ObjectPath, ObjectStatus, Rename};

use crate::{
    state::{Expected, Relative},
    under::{
        hands::{Hands, at},
        identity,
        mount::is_unknown,
        naming,
    },
};

/// Links what was published as `target` under these names, where what was replaced has them. Gives what the file looks like
/// then, if there was anything to do.
pub(in crate::under) async fn perform(
    hands: &Hands<'_>,
    target: &ObjectPath,
    names: &[Relative],
    replaced: &Expected,
) -> Result<Option<Fingerprint>> {
    if names.is_empty() || !hands.can().hard_links || !hands.can().rename {
        return Ok(None);
    }
    for name in names {
        let name = at(name)?;
        match one(hands, target, &name, replaced).await {
            Err(error) if is_unknown(&error) => return Err(error),
            // The file itself is published: that a name of it is left behind does not undo that.
            Err(error) => tracing::warn!(%name, %error, "a further name of a file keeps its old content"),
            Ok(()) => {}
        }
    }
    Ok(Some(hands.status(target).await?.fingerprint))
}

async fn one(hands: &Hands<'_>, target: &ObjectPath, name: &ObjectPath, replaced: &Expected) -> Result<()> {
    let published = hands.status(target).await?;
    let found = hands.look(name).await?;
    if found.as_ref().is_some_and(|found| identity::same_inode(&found.fingerprint, &published.fingerprint)) {
        return Ok(());
    }
    let Some(found) = found else {
        return hands.change(hands.store.link(target, &published.fingerprint, name)).await.map(drop);
    };
    if !is_old(&found, replaced) {
        tracing::warn!(%name, "something foreign has a name of a file that was replaced; it stays");
        return Ok(());
    }
    let beside = naming::exchange(hands.intent, name)?;
    let made = match hands.change(hands.store.link(target, &published.fingerprint, &beside)).await {
        // Of an earlier try.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => hands.status(&beside).await?,
        result => result?,
    };
    let rename = Rename {
        source: made.fingerprint,
        target: Found::Fingerprint(found.fingerprint),
        displaced: Displaced::Unlink,
        sync: hands.sync,
    };
    tracing::info!(%name, file = %target, "a further name of a file that was replaced is linked again");
    hands.change(hands.store.rename(&beside, name, rename)).await.map(drop)
}

fn is_old(found: &ObjectStatus, replaced: &Expected) -> bool {
    match replaced {
        // Losing a name has changed its inode's time, but neither the inode nor its content.
        Expected::Fingerprint(_) | Expected::Inode(_) => identity::as_expected(Some(found), replaced),
        Expected::Absent | Expected::Any => false,
    }
}
