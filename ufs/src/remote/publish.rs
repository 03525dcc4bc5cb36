//! Giving staged content its name, and writing small objects with a condition.
//!
//! The order is: look at both, copy with a condition on what was seen, look at the result, delete the staged object. A
//! crash, or an answer that was lost, after the copy leaves an object that carries its temporary's name; the next try
//! finds it and goes on from there. So does a try whose condition fails because of its own first success.

use bytes::Bytes;
use larder_common::{Error, ErrorKind, Fingerprint, Result};
use opendal::{
    ErrorKind as Theirs, Metadata,
    options::{CopyOptions, RenameOptions, WriteOptions},
};

use super::{
    Inner, Moves, failure, key,
    look::{self, Found},
    upload::TEMPORARY,
};
use crate::{Displaced, Expected, ObjectPath, Publish, TemporaryName};

/// A copy above this size goes in parts, at the same time.
const COPY_PART: u64 = 256 << 20;

/// No object store keeps what it replaces.
pub(super) fn check_displaced(displaced: &Displaced, path: &ObjectPath) -> Result<()> {
    match displaced {
        Displaced::Unlink => Ok(()),
        Displaced::Keep(_) => Err(Error::new(ErrorKind::Unsupported, "an object store keeps no orphans").at(path)),
    }
}

/// Whether what is at a name is what is expected there.
pub(super) fn check(found: Option<&Found>, expected: &Expected, path: &ObjectPath) -> Result<()> {
    let (kind, text) = match (found, expected) {
        (None, Expected::Absent) => return Ok(()),
        (Some(Found::File(metadata)), Expected::Fingerprint(known)) if look::fingerprint(metadata) == *known => {
            return Ok(());
        }
        (Some(Found::Directory), _) => (ErrorKind::IsDirectory, "a directory is there"),
        (Some(_), Expected::Absent) => (ErrorKind::AlreadyExists, "something is there already"),
        (None, _) => (ErrorKind::Changed, "the object is gone"),
        (Some(_), _) => (ErrorKind::Changed, "the object is not what was expected"),
    };
    Err(Error::new(kind, text).at(path))
}

/// What a condition that failed means.
fn lost(expected: &Expected, path: &ObjectPath) -> Error {
    let (kind, text) = match expected {
        Expected::Absent => (ErrorKind::AlreadyExists, "something is there already"),
        Expected::Fingerprint(_) => (ErrorKind::Changed, "the object is not what was expected"),
    };
    Error::new(kind, text).at(path)
}

fn etag_of(expected: &Expected) -> Option<String> {
    match expected {
        Expected::Absent => None,
        Expected::Fingerprint(fingerprint) => look::condition(fingerprint),
    }
}

/// Whether this object was published from that temporary.
fn is_from(found: Option<&Found>, temporary: &TemporaryName) -> bool {
    let Some(Found::File(metadata)) = found else { return false };
    let name = metadata.user_metadata().and_then(|marks| marks.get(TEMPORARY).map(str::to_owned));
    name.is_some_and(|name| name == temporary.name.to_string())
}

impl Inner {
    /// Publishes.
    pub(super) async fn publish(
        &self,
        temporary: &TemporaryName,
        target: &ObjectPath,
        publish: &Publish,
    ) -> Result<Fingerprint> {
        let (key, staged) = (key::file(target)?, self.staged(&temporary.name)?);
        self.check_length(&key)?;
        check_displaced(&publish.displaced, target)?;
        let _turn = self.turns.take(&[&key]).await;
        let (content, found) = tokio::join!(self.ask(self.operator.stat(&staged)), self.look(target));
        let (content, found) = (failure::present(content, target)?, found?);
        if is_from(found.as_ref(), temporary) {
            return self.conclude(&staged, target).await;
        }
        let Some(content) = content else {
            return Err(Error::new(ErrorKind::NotFound, "the upload was destroyed").at(target));
        };
        check(found.as_ref(), &publish.expected, target)?;
        match self.give(&staged, &key, &content, &publish.expected).await {
            Ok(()) => {}
            Err(error) if error.kind() == Theirs::ConditionNotMatch => {
                if !is_from(self.look(target).await?.as_ref(), temporary) {
                    return Err(lost(&publish.expected, target));
                }
            }
            Err(error) => return Err(failure::of(&error, target)),
        }
        self.conclude(&staged, target).await
    }

    /// The fingerprint of what is published now; what it was copied from goes.
    async fn conclude(&self, staged: &str, target: &ObjectPath) -> Result<Fingerprint> {
        let gone = async {
            match self.manner.moves {
                Moves::Copy => self.ask(self.operator.delete(staged)).await,
                Moves::Rename | Moves::No => Ok(()),
            }
        };
        let (status, gone) = tokio::join!(self.status(target), gone);
        failure::present(gone, target)?;
        Ok(status?.fingerprint)
    }

    /// Copies or renames, with a condition on what is replaced where the service heeds one.
    pub(super) async fn give(
        &self,
        from: &str,
        to: &str,
        content: &Metadata,
        expected: &Expected,
    ) -> opendal::Result<()> {
        if self.manner.moves == Moves::Rename {
            let options =
                RenameOptions { if_not_exists: *expected == Expected::Absent && self.can.rename_with_if_not_exists };
            return self.ask(self.operator.rename_options(from, to, options)).await;
        }
        let heeds = self.manner.conditional_copy;
        let length = content.content_length();
        let in_parts = self.can.copy_can_multi && length > COPY_PART;
        let options = CopyOptions {
            if_not_exists: heeds && *expected == Expected::Absent,
            if_match: etag_of(expected).filter(|_| heeds),
            concurrent: self.parallel,
            chunk: in_parts.then_some(COPY_PART as usize),
            ..CopyOptions::default()
        };
        self.ask(self.operator.copy_options(from, to, options)).await.map(drop)
    }

    /// Writes a small object with a condition.
    pub(super) async fn put(&self, target: &ObjectPath, content: Bytes, publish: &Publish) -> Result<Fingerprint> {
        if !self.manner.conditional_put {
            return Err(Error::new(ErrorKind::Unsupported, format!("{} heeds no conditions", self.uri)).at(target));
        }
        let key = key::file(target)?;
        self.check_length(&key)?;
        check_displaced(&publish.displaced, target)?;
        let _turn = self.turns.take(&[&key]).await;
        let options = WriteOptions {
            if_not_exists: publish.expected == Expected::Absent,
            if_match: etag_of(&publish.expected),
            ..WriteOptions::default()
        };
        match self.ask(self.operator.write_options(&key, content, options)).await {
            Ok(_) => self.status(target).await.map(|status| status.fingerprint),
            Err(error) if matches!(error.kind(), Theirs::ConditionNotMatch | Theirs::NotFound) => {
                Err(lost(&publish.expected, target))
            }
            Err(error) => Err(failure::of(&error, target)),
        }
    }
}
