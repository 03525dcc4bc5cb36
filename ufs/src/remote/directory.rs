//! Directories: markers, or the service's own.

use larder_common::{Error, ErrorKind, Result};

use super::{Inner, failure, key, look};
use crate::{ObjectPath, ObjectStatus};

impl Inner {
    /// Makes one.
    pub(super) async fn make_directory(&self, path: &ObjectPath) -> Result<ObjectStatus> {
        if path.is_root() {
            return Err(Error::new(ErrorKind::AlreadyExists, "the root is there"));
        }
        let key = key::directory(path)?;
        self.check_length(&key)?;
        let _turn = self.turns.take(&[&key]).await;
        if self.look(path).await?.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, "something is there already").at(path));
        }
        self.call(path, self.operator.create_dir(&key)).await?;
        Ok(look::directory())
    }

    /// Removes an empty one; the one that it is in stays.
    pub(super) async fn remove_directory(&self, path: &ObjectPath) -> Result<()> {
        if path.is_root() {
            return Err(Error::new(ErrorKind::Invalid, "the root cannot be removed"));
        }
        let key = key::directory(path)?;
        let _turn = self.turns.take(&[&key]).await;
        if !self.list(path, None, 1).await?.entries.is_empty() {
            return Err(Error::new(ErrorKind::NotEmpty, "it has entries").at(path));
        }
        let gone = self.ask(self.operator.delete(&key)).await;
        failure::present(gone, path)?;
        self.keep_directory(path.parent().as_ref()).await
    }
}
