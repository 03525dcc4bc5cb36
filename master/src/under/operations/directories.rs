//! Making directories, outermost first. One that is there already is fine.

use larder_common::{Error, ErrorKind, Fingerprint, Result};
use larder_ufs::ObjectPath;

use crate::{
    state::NewDirectory,
    under::hands::{Hands, at},
};

/// The directories that an action made, so that they can be taken away again.
#[derive(Debug, Default)]
pub(in crate::under) struct Made {
    new: Vec<ObjectPath>,
    /// What the innermost one looks like.
    pub last: Option<Fingerprint>,
}

pub(in crate::under) async fn perform(hands: &Hands<'_>, directories: &[NewDirectory], made: &mut Made) -> Result<()> {
    if !hands.can().directories {
        return Ok(());
    }
    for directory in directories {
        make(hands, directory, made).await?;
    }
    Ok(())
}

async fn make(hands: &Hands<'_>, directory: &NewDirectory, made: &mut Made) -> Result<()> {
    let path = at(&directory.path)?;
    let result = hands.owned(hands.attributes(directory.owner), |a| hands.store.make_directory(&path, a)).await;
    let status = match result {
        Ok(status) => {
            made.new.push(path);
            status
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => hands.status(&path).await?,
        Err(error) => return Err(error.at(&directory.path.0)),
    };
    if !status.kind.is_directory() {
        let message = "the under store has something else than a directory there";
        return Err(Error::new(ErrorKind::NotDirectory, message).at(&directory.path.0));
    }
    made.last = Some(status.fingerprint);
    Ok(())
}

/// Takes away what was made for an action that then failed. One that is in use by now stays.
pub(in crate::under) async fn undo(hands: &Hands<'_>, made: &Made) {
    for path in made.new.iter().rev() {
        if let Err(error) = hands.change(hands.store.remove_directory(path)).await {
            tracing::debug!(%path, %error, "a directory that was made for nothing stays in the under store");
            return;
        }
    }
}
