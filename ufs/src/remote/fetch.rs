//! Reading objects: one version, or an error.
//!
//! Where the service heeds a condition on reading, it is asked for the bytes of the expected version only, and its answer
//! is compared all the same; else the version is looked at before and after.

use std::ops::Range;

use futures_util::TryStreamExt;
use larder_common::{Error, ErrorKind, Fingerprint, Result};
use opendal::{Buffer, ErrorKind as Theirs, Reader, options::ReaderOptions};

use super::{
    Inner, failure, key,
    look::{self, Found, missing},
};
use crate::{Fetched, ObjectPath, Sink};

fn changed() -> Error {
    Error::new(ErrorKind::Changed, "the object is not what was expected")
}

/// Hands what arrived to the sink.
pub(super) fn pour(buffer: Buffer, at: &mut u64, sink: &mut dyn Sink) -> Result<()> {
    for bytes in buffer {
        sink.accept(*at, &bytes)?;
        *at += bytes.len() as u64;
    }
    Ok(())
}

impl Inner {
    /// Reads a range of an object.
    pub(super) async fn fetch(
        &self,
        path: &ObjectPath,
        expected: Option<&Fingerprint>,
        range: Range<u64>,
        mut sink: Box<dyn Sink>,
    ) -> Result<Fetched> {
        if path.is_root() {
            return Err(Error::new(ErrorKind::IsDirectory, "has no bytes"));
        }
        let key = key::file(path)?;
        let condition = expected.and_then(look::condition).filter(|_| self.can.read_with_if_match);
        let fingerprint = match (expected, &condition) {
            // The request for the bytes says whether this is what is there.
            (Some(expected), Some(_)) if range.start < range.end.min(expected.size) => expected.clone(),
            _ => self.version(path).await?,
        };
        if expected.is_some_and(|expected| *expected != fingerprint) {
            return Err(changed().at(path));
        }
        let condition = condition.or_else(|| look::condition(&fingerprint).filter(|_| self.can.read_with_if_match));
        let wanted = range.start..range.end.min(fingerprint.size);
        let bytes = match wanted.is_empty() {
            true => 0,
            false => self.stream(path, &key, (&fingerprint, condition.as_deref()), wanted, &mut *sink).await?,
        };
        if condition.is_none() && self.version(path).await? != fingerprint {
            return Err(changed().at(path));
        }
        let settled = !fingerprint.etag.is_empty();
        Ok(Fetched { bytes, fingerprint, settled })
    }

    async fn version(&self, path: &ObjectPath) -> Result<Fingerprint> {
        match self.look(path).await? {
            Some(Found::File(metadata)) => Ok(look::fingerprint(&metadata)),
            Some(Found::Directory) => Err(Error::new(ErrorKind::IsDirectory, "has no bytes").at(path)),
            None => Err(missing(path)),
        }
    }

    async fn stream(
        &self,
        path: &ObjectPath,
        key: &str,
        (fingerprint, condition): (&Fingerprint, Option<&str>),
        range: Range<u64>,
        sink: &mut dyn Sink,
    ) -> Result<u64> {
        let options = ReaderOptions { if_match: condition.map(str::to_owned), ..ReaderOptions::default() };
        let reader = self.ask(self.operator.reader_options(key, options)).await;
        let result = async {
            let reader = reader?;
            let stream = self.ask(reader.clone().into_stream(range.clone())).await?;
            opendal::Result::Ok((reader, stream))
        };
        let (reader, mut stream) = self.explained(path, result.await).await?;
        let mut at = range.start;
        while let Some(buffer) = self.explained(path, stream.try_next().await).await? {
            if at == range.start && !is_version(&reader, fingerprint) {
                return Err(changed().at(path));
            }
            pour(buffer, &mut at, sink)?;
        }
        if at != range.end {
            let text =
                format!("the service ended its answer after {} of {} bytes", at - range.start, range.end - range.start);
            return Err(Error::new(ErrorKind::Unavailable, text).at(path));
        }
        Ok(at - range.start)
    }

    /// A service that says "not found" of a key may have a directory there.
    async fn explained<T>(&self, path: &ObjectPath, result: opendal::Result<T>) -> Result<T> {
        match result {
            Ok(value) => Ok(value),
            Err(error) if error.kind() == Theirs::NotFound => match self.look(path).await? {
                Some(Found::Directory) => Err(Error::new(ErrorKind::IsDirectory, "has no bytes").at(path)),
                Some(Found::File(_)) => Err(changed().at(path)),
                None => Err(missing(path)),
            },
            Err(error) => Err(failure::of(&error, path)),
        }
    }
}

/// Whether the service answered with the version that was asked for, as far as it says.
fn is_version(reader: &Reader, fingerprint: &Fingerprint) -> bool {
    let said = reader.metadata().and_then(look::etag);
    said.is_none_or(|etag| fingerprint.etag.is_empty() || etag == fingerprint.etag)
}
