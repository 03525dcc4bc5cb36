//! Writing into a file in place: the bytes are written by the worker that has them, the rest is done here.
//!
//! Nothing of it can be undone or done again. Whoever fails here, whatever the reason, leaves a file that counts as changed.

use larder_common::{Error, ErrorKind, Fingerprint, Result, Timestamp};
use larder_ufs::{Attributes, object::same_identity};

use crate::{
    state::{Done, Operation, Relative},
    under::hands::{Hands, at},
};

/// Has the worker write, and gives the file its mode and the time of its change, so that it looks as the state records it.
pub(in crate::under) async fn perform(
    hands: &Hands<'_>,
    patch: &Operation,
    target: &Relative,
    (expected, mode, modified): (&Fingerprint, u32, Timestamp),
) -> Result<Done> {
    let path = at(target)?;
    let mount = hands.mount.row().id;
    let written = hands.ledger.patch(mount, patch.clone(), hands.sync, hands.deadline).await?;
    let found = hands.status(&path).await?;
    if !same_identity(&found.fingerprint, &written) || written.inode != expected.inode {
        let message = "somebody else has changed the file in the under store while it was written in place";
        return Err(Error::new(ErrorKind::Changed, message).at(&target.0));
    }
    if !hands.can().attributes {
        return Ok(Done { fingerprint: Some(found.fingerprint), aside: None });
    }
    let mode = (mode != found.mode).then_some(mode);
    let attributes = Attributes { mode, modified: Some(modified), ..Attributes::default() };
    let after = hands.change(hands.store.set_attributes(&path, attributes)).await?;
    Ok(Done { fingerprint: Some(after.fingerprint), aside: None })
}
