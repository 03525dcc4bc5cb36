//! What is under a name: an object, a directory, or nothing.

use larder_common::{Error, ErrorKind, FileKind, Fingerprint, Result, Times, Timestamp};
use opendal::{ErrorKind as Theirs, Metadata};

use super::{Inner, failure, key};
use crate::{ObjectPath, ObjectStatus};

/// One entry says that there is something.
const ONE: usize = 1;
/// The longest key that the services take.
const KEY_LONGEST: usize = 1024;
/// The longest path that those with directories take: what the systems below them do.
const PATH_LONGEST: usize = 4000;

/// What is there.
#[derive(Clone, Debug)]
pub(super) enum Found {
    File(Metadata),
    Directory,
}

/// The ETag without its quotes.
pub(super) fn etag(metadata: &Metadata) -> Option<&str> {
    metadata.etag().map(|etag| etag.trim_matches('"')).filter(|etag| !etag.is_empty())
}

/// The ETag as it is asked with; `None` for a weak one, which no condition on bytes can name.
pub(super) fn condition(fingerprint: &Fingerprint) -> Option<String> {
    let etag = &fingerprint.etag;
    (!etag.is_empty() && !etag.starts_with("W/")).then(|| format!("\"{etag}\""))
}

fn modified(metadata: &Metadata) -> Timestamp {
    let Some(at) = metadata.last_modified().map(opendal::raw::Timestamp::into_inner) else { return Timestamp(0) };
    Timestamp::new(at.as_second(), i64::from(at.subsec_nanosecond()))
}

/// The fingerprint of an object. Listings give times to the millisecond where looks give whole seconds, so a time is
/// part of it only where there is no ETag, in whole seconds.
pub(super) fn fingerprint(metadata: &Metadata) -> Fingerprint {
    let size = metadata.content_length();
    match etag(metadata) {
        Some(etag) => Fingerprint { size, etag: etag.to_owned(), ..Fingerprint::default() },
        None => {
            Fingerprint { size, modified: Timestamp::new(modified(metadata).seconds(), 0), ..Fingerprint::default() }
        }
    }
}

/// The status of an object.
pub(super) fn file(metadata: &Metadata) -> ObjectStatus {
    let (fingerprint, modified) = (fingerprint(metadata), modified(metadata));
    status(FileKind::File, fingerprint, modified)
}

/// The status of a directory: services say nothing of them.
pub(super) fn directory() -> ObjectStatus {
    status(FileKind::Directory, Fingerprint::default(), Timestamp(0))
}

fn status(kind: FileKind, fingerprint: Fingerprint, modified: Timestamp) -> ObjectStatus {
    let mode = if kind.is_directory() { 0o755 } else { 0o644 };
    let times = Times { accessed: modified, modified, changed: modified };
    ObjectStatus { kind, length: fingerprint.size, mode, uid: 0, gid: 0, links: 1, times, fingerprint }
}

impl Found {
    pub(super) fn status(&self) -> ObjectStatus {
        match self {
            Found::File(metadata) => file(metadata),
            Found::Directory => directory(),
        }
    }
}

pub(super) fn missing(path: &ObjectPath) -> Error {
    Error::new(ErrorKind::NotFound, "no such object").at(path)
}

impl Inner {
    /// Asks the service anything, to know that it is there.
    pub(super) async fn reach(&self) -> Result<()> {
        if self.manner.lists {
            return self.has_below("/").await.map(drop);
        }
        let any = self.ask(self.operator.stat("larder-looks-whether-anybody-answers")).await;
        failure::present(any, "").map(drop)
    }

    /// What is at a path, if anything.
    pub(super) async fn look(&self, path: &ObjectPath) -> Result<Option<Found>> {
        if path.is_root() {
            return self.reach().await.map(|()| Some(Found::Directory));
        }
        let key = key::file(path)?;
        if self.check_length(&key).is_err() {
            return Ok(None);
        }
        match self.ask(self.operator.stat(&key)).await {
            Ok(metadata) if metadata.is_dir() => Ok(Some(Found::Directory)),
            Ok(metadata) if self.is_page(&metadata) && self.is_directory(path).await? => Ok(Some(Found::Directory)),
            Ok(metadata) => Ok(Some(Found::File(metadata))),
            Err(error) if matches!(error.kind(), Theirs::NotFound | Theirs::IsADirectory) => {
                Ok(self.is_directory(path).await?.then_some(Found::Directory))
            }
            Err(error) if error.kind() == Theirs::NotADirectory => Ok(None),
            // Web servers forbid looking at directories themselves.
            Err(error) if !self.manner.lists && !error.is_temporary() && self.is_directory(path).await? => {
                Ok(Some(Found::Directory))
            }
            Err(error) => Err(failure::of(&error, path)),
        }
    }

    /// Refuses keys that are longer than services take.
    pub(super) fn check_length(&self, key: &str) -> Result<()> {
        let length = key.len() + self.operator.info().root().len();
        if length <= if self.manner.real_directories { PATH_LONGEST } else { KEY_LONGEST } {
            return Ok(());
        }
        let text = format!("a key of {length} bytes; this one takes fewer");
        Err(Error::new(ErrorKind::NameTooLong, text).at(key))
    }

    /// A web server that answers for a directory with a page about it gives no version of it.
    fn is_page(&self, metadata: &Metadata) -> bool {
        !self.manner.lists && metadata.etag().is_none() && metadata.last_modified().is_none()
    }

    async fn is_directory(&self, path: &ObjectPath) -> Result<bool> {
        let directory = key::directory(path)?;
        if self.manner.lists && !self.manner.real_directories {
            return self.has_below(&directory).await;
        }
        if !self.manner.lists {
            // The library asks nothing about what ends in `/`, so it is asked about the directory's own entry.
            return match self.ask(self.operator.stat(&format!("{directory}."))).await {
                Err(error) if error.kind() == Theirs::NotFound => Ok(false),
                Err(error) if error.is_temporary() => Err(failure::of(&error, path)),
                _ => Ok(true),
            };
        }
        let found = match self.ask(self.operator.stat(&directory)).await {
            Err(error) if error.kind() == Theirs::IsADirectory => return Ok(true),
            result => failure::present(result, path)?,
        };
        Ok(found.is_some())
    }

    /// Whether there is a key that begins so, its own marker too.
    pub(super) async fn has_below(&self, directory: &str) -> Result<bool> {
        let first = async {
            let mut lister = self.operator.lister_with(directory).limit(ONE).await?;
            futures_util::TryStreamExt::try_next(&mut lister).await
        };
        let first = self.ask(first).await;
        match directory {
            // A bucket that is not there is not an empty one.
            "/" => first.map(|entry| entry.is_some()).map_err(|error| failure::of(&error, "")),
            _ => Ok(failure::present(first, directory)?.flatten().is_some()),
        }
    }

    /// What is at a path.
    pub(super) async fn status(&self, path: &ObjectPath) -> Result<ObjectStatus> {
        self.look(path).await?.map(|found| found.status()).ok_or_else(|| missing(path))
    }
}
