//! Uploads: collected in a spool, then staged as one object under the name that the master gave.
//!
//! A staged object carries the name of its temporary and a random number, so that a request whose answer was lost is
//! known again: what is there is ours, or somebody else's. Staging goes on in a task of its own, so that an upload whose
//! caller has gone leaves no half of one in the service; the sweeper finds what nobody publishes.

use std::{collections::HashMap, fs::File, ops::Range, sync::Arc};

use bytes::Bytes;
use larder_common::{Error, ErrorKind, Fingerprint, Name, Result};
use memmap2::MmapOptions;
use opendal::{ErrorKind as Theirs, Metadata, options::WriteOptions};

use super::{
    Inner, failure, look,
    spool::{self, Spool},
};
use crate::{BoxFuture, Content, Fetched, Sink, TemporaryName, Upload, UploadReceipt};

/// The size of a part, and the largest object that is sent in one request where there are parts.
const PART: u64 = 8 << 20;
/// The most parts that services take, with some to spare.
const PARTS: u64 = 9_000;
/// What published content carries: the name of the temporary that it was.
pub(super) const TEMPORARY: &str = "larder-temporary";
/// And the number of the try.
const TRY: &str = "larder-try";

/// What is to be staged.
#[derive(Clone, Debug)]
enum Source {
    Bytes(Bytes),
    File(Arc<File>, Range<u64>),
}

impl Source {
    fn length(&self) -> u64 {
        match self {
            Source::Bytes(bytes) => bytes.len() as u64,
            Source::File(_, range) => range.end.saturating_sub(range.start),
        }
    }

    /// All of it, in memory.
    async fn bytes(self) -> Result<Bytes> {
        match self {
            Source::Bytes(bytes) => Ok(bytes),
            Source::File(file, range) => spool::blocking(move || spool::read(&file, range)).await,
        }
    }

    async fn part(&self, at: u64, length: u64) -> Result<Bytes> {
        match self {
            Source::Bytes(bytes) => Ok(bytes.slice(at as usize..(at + length) as usize)),
            Source::File(file, range) => {
                let (file, start) = (Arc::clone(file), range.start + at);
                spool::blocking(move || spool::read(&file, start..start + length)).await
            }
        }
    }
}

/// A part's size for an object of this length.
fn part_size(length: u64) -> u64 {
    length.div_ceil(PARTS).max(PART).next_multiple_of(1 << 20)
}

impl Inner {
    /// Begins an upload.
    pub(super) async fn start_upload(self: &Arc<Self>, temporary: &TemporaryName) -> Result<Box<dyn Upload>> {
        self.staged(&temporary.name)?;
        let spool = Arc::new(Spool::new().await?);
        let mut filling = self.filling.lock();
        if filling.contains_key(&temporary.name) {
            return Err(Error::new(ErrorKind::AlreadyExists, "an upload of this name").at(&temporary.name));
        }
        filling.insert(temporary.name.clone(), Arc::clone(&spool));
        drop(filling);
        Ok(Box::new(Collected { inner: Arc::clone(self), spool, name: temporary.name.clone() }))
    }

    /// Stages a whole small file without a spool, where the service takes it so.
    pub(super) async fn upload_whole(
        self: &Arc<Self>,
        temporary: &TemporaryName,
        content: Content,
    ) -> Result<UploadReceipt> {
        let source = match content {
            Content::Bytes(bytes) => Source::Bytes(bytes),
            Content::File(file, range) if self.can.write_can_multi || range.end.saturating_sub(range.start) <= PART => {
                Source::File(file, range)
            }
            Content::File(file, range) => {
                let upload = self.start_upload(temporary).await?;
                upload.copy_from(file, range, 0).await?;
                return upload.finish(false).await;
            }
        };
        if self.filling.lock().contains_key(&temporary.name) {
            return Err(Error::new(ErrorKind::AlreadyExists, "an upload of this name").at(&temporary.name));
        }
        self.stage(temporary.name.clone(), source).await
    }

    /// Writes an object under the temporary's name, which must be free.
    async fn stage(self: &Arc<Self>, name: Name, source: Source) -> Result<UploadReceipt> {
        let inner = Arc::clone(self);
        let staging = tokio::spawn(async move { inner.stage_here(&name, source).await });
        staging.await.map_err(|_| Error::new(ErrorKind::Unavailable, "an upload was cut off"))?
    }

    async fn stage_here(&self, name: &Name, source: Source) -> Result<UploadReceipt> {
        let key = self.staged(name)?;
        let (length, marks) = (source.length(), self.marks(name)?);
        if !self.manner.conditional_put && failure::present(self.ask(self.operator.stat(&key)).await, name)?.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, "an upload of this name").at(name));
        }
        let options = WriteOptions {
            if_not_exists: self.manner.conditional_put,
            user_metadata: marks.clone(),
            ..WriteOptions::default()
        };
        let written = match self.can.write_can_multi && length > PART {
            true => self.write_parts(&key, source, options).await?,
            false => {
                let bytes = self.at_once(source).await?;
                self.operator.write_options(&key, bytes, options).await
            }
        };
        let metadata = match written {
            Err(error) if error.kind() == Theirs::ConditionNotMatch => self.ours(name, &key, marks.as_ref()).await?,
            written => written.map_err(|error| failure::of(&error, name))?,
        };
        let etag = look::etag(&metadata).unwrap_or_default().to_owned();
        let fingerprint = Fingerprint { size: length, etag, ..Fingerprint::default() };
        Ok(UploadReceipt { length, fingerprint, token: Bytes::new() })
    }

    fn marks(&self, name: &Name) -> Result<Option<HashMap<String, String>>> {
        if !self.can.write_with_user_metadata || self.manner.real_directories {
            return Ok(None);
        }
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string()))?;
        let marks = [(TEMPORARY.to_owned(), name.to_string()), (TRY.to_owned(), hex::encode(random))];
        Ok(Some(marks.into()))
    }

    /// The staged object, if this very try made it and only the answer was lost.
    async fn ours(&self, name: &Name, key: &str, marks: Option<&HashMap<String, String>>) -> Result<Metadata> {
        let metadata = self.call(name, self.operator.stat(key)).await?;
        let number = metadata.user_metadata().and_then(|found| found.get(TRY).map(str::to_owned));
        match number.is_some() && number.as_ref() == marks.and_then(|marks| marks.get(TRY)) {
            true => Ok(metadata),
            false => Err(Error::new(ErrorKind::AlreadyExists, "an upload of this name").at(name)),
        }
    }

    /// What is sent in one request: from memory where it is small, else from a mapping of the spool.
    async fn at_once(&self, source: Source) -> Result<Bytes> {
        match source {
            Source::File(file, range) if source_is_large(&range) => {
                spool::blocking(move || {
                    // SAFETY: the file is an upload's spool: it has no name, its upload is over, and nobody else can write
                    // or cut it.
                    let mapping = unsafe {
                        MmapOptions::new().offset(range.start).len((range.end - range.start) as usize).map(&*file)
                    };
                    Ok(Bytes::from_owner(mapping?))
                })
                .await
            }
            source => source.bytes().await,
        }
    }

    async fn write_parts(&self, key: &str, source: Source, options: WriteOptions) -> Result<opendal::Result<Metadata>> {
        let (length, part) = (source.length(), part_size(source.length()));
        let options = WriteOptions { chunk: Some(part as usize), concurrent: self.parallel, ..options };
        let mut writer = match self.operator.writer_options(key, options).await {
            Ok(writer) => writer,
            Err(error) => return Ok(Err(error)),
        };
        let mut at = 0;
        while at < length {
            let written = match source.part(at, part.min(length - at)).await {
                Ok(bytes) => writer.write(bytes).await,
                Err(error) => {
                    let _ = self.ask(writer.abort()).await;
                    return Err(error);
                }
            };
            if let Err(error) = written {
                let _ = self.ask(writer.abort()).await;
                return Ok(Err(error));
            }
            at += part.min(length - at);
        }
        let closed = writer.close().await;
        if closed.is_err() {
            let _ = self.ask(writer.abort()).await;
        }
        Ok(closed)
    }

    /// Reads a temporary back: from its spool, or where it is staged.
    pub(super) async fn fetch_temporary(
        &self,
        temporary: &TemporaryName,
        range: Range<u64>,
        mut sink: Box<dyn Sink>,
    ) -> Result<Fetched> {
        let spool = self.filling.lock().get(&temporary.name).cloned();
        if let Some(spool) = spool {
            let fingerprint = Fingerprint { size: spool.length()?, ..Fingerprint::default() };
            let bytes = spool.read(range, sink).await?;
            return Ok(Fetched { bytes, fingerprint, settled: false });
        }
        let key = self.staged(&temporary.name)?;
        let metadata = self.call(&temporary.name, self.operator.stat(&key)).await?;
        let fingerprint = look::fingerprint(&metadata);
        let mut at = range.start;
        let end = range.end.min(fingerprint.size);
        if at < end {
            let reader = self.call(&temporary.name, self.operator.reader(&key)).await?;
            let mut stream = self.call(&temporary.name, reader.into_stream(at..end)).await?;
            let failed = |error: opendal::Error| failure::of(&error, &temporary.name);
            while let Some(buffer) = futures_util::TryStreamExt::try_next(&mut stream).await.map_err(failed)? {
                super::fetch::pour(buffer, &mut at, &mut *sink)?;
            }
        }
        Ok(Fetched { bytes: at - range.start, fingerprint, settled: false })
    }

    /// Destroys a temporary: whoever still fills it stages something that nobody will publish.
    pub(super) async fn destroy_temporary(&self, temporary: &TemporaryName) -> Result<()> {
        self.filling.lock().remove(&temporary.name);
        let key = self.staged(&temporary.name)?;
        let gone = self.ask(self.operator.delete(&key)).await;
        failure::present(gone, &temporary.name).map(drop)
    }
}

fn source_is_large(range: &Range<u64>) -> bool {
    range.end.saturating_sub(range.start) > PART
}

/// An upload being collected.
#[derive(Debug)]
struct Collected {
    inner: Arc<Inner>,
    spool: Arc<Spool>,
    name: Name,
}

impl Collected {
    /// Whether nobody has destroyed it.
    fn is_alive(&self) -> bool {
        self.inner.filling.lock().get(&self.name).is_some_and(|spool| Arc::ptr_eq(spool, &self.spool))
    }

    fn alive(&self) -> Result<()> {
        match self.is_alive() {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::NotFound, "the upload was destroyed").at(&self.name)),
        }
    }
}

impl Upload for Collected {
    fn write_at(&self, offset: u64, bytes: Bytes) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.alive()?;
            self.spool.write(offset, bytes).await
        })
    }

    fn copy_from(&self, source: Arc<File>, range: Range<u64>, offset: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.alive()?;
            self.spool.copy(source, range, offset).await
        })
    }

    fn set_length(&self, length: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.alive()?;
            self.spool.set_length(length).await
        })
    }

    fn finish(self: Box<Self>, _sync: bool) -> BoxFuture<'static, Result<UploadReceipt>> {
        Box::pin(async move {
            self.alive()?;
            let source = Source::File(self.spool.file(), 0..self.spool.length()?);
            self.inner.stage(self.name.clone(), source).await
        })
    }
}

impl Drop for Collected {
    /// What is staged stays; a spool goes with its last handle.
    fn drop(&mut self) {
        if self.is_alive() {
            self.inner.filling.lock().remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_grow_with_the_object() {
        assert_eq!(part_size(1), PART);
        assert_eq!(part_size(PART * PARTS), PART);
        for length in [1 << 40, 4 << 40] {
            assert!(length / part_size(length) <= PARTS && part_size(length) < 5 << 30, "{length}");
        }
    }
}
