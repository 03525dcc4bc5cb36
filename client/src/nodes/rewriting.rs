//! Writing a file's content anew from a mount, which has changed a copy of it.

use larder_common::{Error, ErrorKind, FileId, Name, Result};
use larder_proto::Grant;

use super::{Nodes, label};
use crate::{options::CreateOptions, writer::Writer};

impl Nodes {
    /// Writes a new version of a file that has this name, as the master itself: whoever may do this has been asked when the
    /// file was opened. `durable`: the commit is on the master's disk when it is answered.
    ///
    /// # Errors
    /// `Changed` when the name means another file by now, `NotFound`, `Busy` while somebody else writes it, `ReadOnly`.
    pub async fn rewrite(&self, file: FileId, place: (FileId, &Name), durable: bool) -> Result<Writer> {
        let at = Some((place.0, place.1.clone(), file));
        let options = CreateOptions { overwrite: true, relaxed: !durable, at, ..CreateOptions::default() };
        let path = label(b"", file);
        let target = self.core.create(&path, &options, self.core.link.deadline()).await?;
        Ok(Writer::new(std::sync::Arc::clone(&self.core), path, options, target))
    }
}

/// Whether the right to write that was given is for the file that was meant.
///
/// # Errors
/// `Changed` if it is for another one; the right is given back when the caller drops it.
pub(crate) fn check_target(options: &CreateOptions, grant: &[u8]) -> Result<()> {
    let Some((_, _, file)) = &options.at else { return Ok(()) };
    match Grant::peek(grant)?.file == *file {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Changed, "the name means another file by now")),
    }
}
