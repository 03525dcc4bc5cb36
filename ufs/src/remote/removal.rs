//! Taking an object away, if it is what was expected.

use larder_common::{Error, ErrorKind, Fingerprint, Result};
use opendal::{ErrorKind as Theirs, options::DeleteOptions};

use super::{
    Inner, failure, key,
    look::{self, Found, missing},
};
use crate::{ObjectPath, Removal};

fn changed(path: &ObjectPath) -> Error {
    Error::new(ErrorKind::Changed, "the object is not what was expected").at(path)
}

impl Inner {
    /// Removes an object. Its directory stays.
    pub(super) async fn remove(&self, path: &ObjectPath, removal: &Removal) -> Result<()> {
        let key = key::file(path)?;
        let _turn = self.turns.take(&[&key]).await;
        match self.look(path).await? {
            None => return Err(missing(path)),
            Some(Found::Directory) => return Err(Error::new(ErrorKind::IsDirectory, "not an object").at(path)),
            Some(Found::File(metadata)) if look::fingerprint(&metadata) != removal.expected => {
                return Err(changed(path));
            }
            Some(Found::File(_)) if removal.keep => {
                return Err(Error::new(ErrorKind::Unsupported, "an object store keeps no orphans").at(path));
            }
            Some(Found::File(_)) => {}
        }
        match self.delete_version(&key, &removal.expected).await {
            Ok(()) => {}
            // The condition also fails when this very request has deleted it and only the answer was lost.
            Err(error) if error.kind() == Theirs::ConditionNotMatch && self.look(path).await?.is_none() => {}
            Err(error) if error.kind() == Theirs::ConditionNotMatch => return Err(changed(path)),
            Err(error) => return Err(failure::of(&error, path)),
        }
        self.keep_directory(path.parent().as_ref()).await
    }

    /// Deletes this version where the service can tell versions apart, else what is there. What is gone is deleted.
    pub(super) async fn delete_version(&self, key: &str, version: &Fingerprint) -> opendal::Result<()> {
        let if_match =
            look::condition(version).filter(|_| self.manner.conditional_copy && self.can.delete_with_if_match);
        let options = DeleteOptions { if_match, ..DeleteOptions::default() };
        match self.ask(self.operator.delete_options(key, options)).await {
            Err(error) if error.kind() == Theirs::NotFound => Ok(()),
            result => result,
        }
    }

    /// A directory that has lost its last entry stays, as its marker.
    pub(super) async fn keep_directory(&self, directory: Option<&ObjectPath>) -> Result<()> {
        let Some(directory) = directory.filter(|path| !path.is_root()) else { return Ok(()) };
        if self.manner.real_directories {
            return Ok(());
        }
        let key = key::directory(directory)?;
        if self.has_below(&key).await? {
            return Ok(());
        }
        self.call(directory, self.operator.create_dir(&key)).await
    }
}
