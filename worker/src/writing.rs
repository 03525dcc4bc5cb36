//! One file being written: its cache file, its upload, and at the end the receipt.
//!
//! Where the bytes go follows from the write type of the grant:
//!
//! | write type | cache file | temporary |
//! |---|---|---|
//! | MustCache, AsyncThrough | needed; kept | none |
//! | CacheThrough | kept; without room the temporary alone | filled beside the writing, ended before the receipt |
//! | Through, by descriptor | only until the receipt | the same |
//! | Through, by stream | none | gets the bytes straight |
//!
//! A file that loses its room half-way (the tier is full) goes on in the temporary alone, if it has one: what the cache
//! file holds is copied first. Dropping a [`Writing`] abandons it: cache file and temporary go.
//!
//! At the end the cache file is sealed, so nobody can write it any more, while the rest is being copied; then the
//! temporary is ended (synced where the grant says so), then the content is committed, unpersisted until the master says
//! that it has been published, and only then the receipt is given.

use std::{fs::File, os::fd::OwnedFd, sync::Arc};

use bytes::Bytes;
use larder_common::{
    Error, ErrorKind, Result, WriteType,
    checksum::{Crc32c, combine},
};
use larder_proto::{WriteRight, v1};
use larder_ufs::{Upload, UploadReceipt};
use tokio_util::sync::CancellationToken;

use crate::{
    eviction::Group,
    services::{Granted, Services, blocking},
    store::{CacheFileWriter, FileKey, SealedFile, WriteTicket},
    upload::{Straight, Uploading, finish},
};

/// How the client writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// Into the cache file itself.
    Descriptor,
    /// By messages.
    Stream,
}

/// Where the temporary's bytes come from.
#[derive(Debug)]
enum Through {
    Nothing,
    /// From the cache file.
    File(Uploading),
    /// From the messages.
    Straight(Straight),
}

/// A file being written.
#[derive(Debug)]
pub(crate) struct Writing {
    services: Arc<Services>,
    granted: Arc<Granted>,
    right: WriteRight,
    cache: Option<CacheFileWriter>,
    through: Through,
    written: u64,
    sum: Crc32c,
    number: u64,
    over: CancellationToken,
}

impl Writing {
    /// Begins to write what the grant allows. `reserve` is how many bytes will surely come; 0 for not known.
    pub(crate) async fn begin(services: &Arc<Services>, granted: Arc<Granted>, reserve: u64, by: By) -> Result<Self> {
        services.accepts_writes()?;
        let denied = || Error::new(ErrorKind::Denied, "a grant to read gives no right to write");
        let right = granted.grant.write.clone().ok_or_else(denied)?;
        if right.lease.0 == 0 {
            return Err(Error::new(ErrorKind::Denied, "a grant to persist gives no right to write"));
        }
        let key = FileKey { file: granted.grant.file, generation: granted.grant.generation };
        let (number, over) = services.writings.enter(key);
        let (services, cache, through) = (services.clone(), None, Through::Nothing);
        let mut writing =
            Self { services, granted, right, cache, through, written: 0, sum: Crc32c::new(), number, over };
        writing.open(reserve, by).await?;
        Ok(writing)
    }

    /// Cancelled when the master says that this content is over.
    pub(crate) fn over(&self) -> CancellationToken {
        self.over.clone()
    }

    fn is_through(&self) -> bool {
        self.right.write_type == WriteType::Through
    }

    async fn open(&mut self, reserve: u64, by: By) -> Result<()> {
        // The cache file first: who finds no room for a descriptor comes again as a stream, under the temporary's same name.
        let refused = match self.is_through() && by == By::Stream {
            true => None,
            false => self.open_cache(reserve).await.err(),
        };
        if let Some(error) = refused.as_ref().filter(|e| e.kind() != ErrorKind::NoSpace || by == By::Descriptor) {
            return Err(error.clone());
        }
        let upload = self.services.begin_upload(&self.granted.grant).await?;
        if upload.is_none() && matches!(self.right.write_type, WriteType::Through | WriteType::CacheThrough) {
            return Err(Error::new(ErrorKind::Invalid, "the grant names no temporary for the under store"));
        }
        self.through = match (upload, refused) {
            (None, Some(error)) => return Err(error),
            (None, None) => Through::Nothing,
            (Some(upload), _) if self.cache.is_some() => {
                Through::File(Uploading::begin(upload, self.source()?, &self.services))
            }
            (Some(upload), _) => Through::Straight(Straight::new(upload, 0, self.services.metrics.clone())),
        };
        Ok(())
    }

    async fn open_cache(&mut self, reserve: u64) -> Result<()> {
        let grant = &self.granted.grant;
        let ticket = WriteTicket {
            file: grant.file,
            lease: self.right.lease,
            base: None,
            block_size: grant.block_size,
            group: Group(grant.group),
            expected: (reserve > 0).then_some(reserve),
        };
        let store = self.services.store.clone();
        // What an earlier try under this lease left was never acknowledged.
        let open = move || {
            store.abandon(ticket.lease)?;
            store.write_file(ticket)
        };
        self.cache = Some(blocking(open).await?);
        Ok(())
    }

    /// The cache file, open for reading only: a descriptor that could write would keep it from being sealed.
    fn source(&mut self) -> Result<Arc<File>> {
        let cache = self.cache.as_mut().ok_or_else(|| Error::new(ErrorKind::Invalid, "no cache file"))?;
        Ok(Arc::new(cache.open_for_reading()?))
    }

    /// A descriptor for the client, and up to which byte it may write.
    pub(crate) fn descriptor(&mut self) -> Result<(OwnedFd, u64)> {
        let cache = self.cache.as_mut().ok_or_else(no_descriptor)?;
        let descriptor = cache.open_for_writer()?;
        Ok((descriptor, cache.reserved()))
    }

    /// The client has written everything up to `written`, and wants room up to `reserve`. Answers up to where there is
    /// room now.
    pub(crate) async fn extend(&mut self, written: u64, reserve: u64) -> Result<u64> {
        self.check_over()?;
        self.progress(written).await?;
        let mut cache = self.cache.take().ok_or_else(no_descriptor)?;
        let (cache, reserved) = blocking(move || {
            let reserved = cache.reserve_to(reserve);
            Ok((cache, reserved))
        })
        .await?;
        self.cache = Some(cache);
        reserved
    }

    fn check_over(&self) -> Result<()> {
        match self.over.is_cancelled() {
            false => Ok(()),
            true => Err(Error::new(ErrorKind::Changed, "the write lease is over; what was written is dropped")),
        }
    }

    async fn progress(&mut self, written: u64) -> Result<()> {
        self.services.metrics.written_bytes.add(written.saturating_sub(self.written));
        self.written = self.written.max(written);
        match &mut self.through {
            Through::File(uploading) => uploading.written(written).await,
            Through::Straight(_) | Through::Nothing => Ok(()),
        }
    }

    /// Takes the next bytes of a stream.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.check_over()?;
        self.sum.update(&bytes);
        let at = self.written;
        if let Some(cache) = &mut self.cache {
            match cache.write_at(at, &bytes) {
                Ok(()) => return self.progress(at + bytes.len() as u64).await,
                Err(error) if error.kind() == ErrorKind::NoSpace => self.leave_cache(error).await?,
                Err(error) => return Err(error),
            }
        }
        let Through::Straight(straight) = &mut self.through else {
            return Err(Error::new(ErrorKind::Invalid, "nothing takes these bytes"));
        };
        let length = bytes.len() as u64;
        straight.write(bytes, self.services.config.patience).await?;
        self.progress(at + length).await
    }

    /// There is no room for more: what the cache file holds goes to the temporary, and the rest straight there.
    async fn leave_cache(&mut self, full: Error) -> Result<()> {
        let Through::File(uploading) = &mut self.through else { return Err(full) };
        let upload = uploading.copied_all(self.written).await?;
        tracing::debug!(file = %self.granted.grant.file, %full, "a file is written on without the cache");
        self.through = Through::Straight(Straight::new(upload, self.written, self.services.metrics.clone()));
        self.cache = None;
        Ok(())
    }

    /// Ends the writing: nothing may be written any more. Where the client still has the file open for writing
    /// (`Busy`), it can close it and ask again.
    pub(crate) async fn seal(&mut self, length: u64, expected: Option<u32>) -> Result<v1::Receipt> {
        self.check_over()?;
        self.check_length(length)?;
        let (upload, sealed) = match self.cache.take() {
            Some(cache) => self.seal_cache(cache, length).await?,
            None => (Some(self.straight_upload()?), None),
        };
        let crc = sealed.as_ref().map_or_else(|| self.sum.value(), whole_sum);
        if let Some(expected) = expected.filter(|expected| *expected != crc) {
            let message = format!("the content has the checksum {crc:08x}, the writer says {expected:08x}");
            return Err(Error::new(ErrorKind::Corrupt, message).advise("write the file again"));
        }
        // Only now, for an upload that has been finished stays.
        let uploaded = match upload {
            Some(upload) => Some(finish(upload, length, self.right.sync, self.services.config.patience).await?),
            None => None,
        };
        let lasting = self.commit(sealed).await?;
        self.services.metrics.written_files.one();
        Ok(self.receipt(length, crc, uploaded, lasting))
    }

    fn check_length(&self, length: u64) -> Result<()> {
        match self.cache.is_some() || length == self.written {
            true => Ok(()),
            false => {
                let message = format!("{} bytes came, the writer says {length}", self.written);
                Err(Error::new(ErrorKind::Invalid, message))
            }
        }
    }

    /// Seals the cache file while the rest of it is copied.
    async fn seal_cache(
        &mut self,
        cache: CacheFileWriter,
        length: u64,
    ) -> Result<(Option<Box<dyn Upload>>, Option<SealedFile>)> {
        self.services.metrics.written_bytes.add(length.saturating_sub(self.written));
        let seal = tokio::task::spawn_blocking(move || cache.seal(length, None));
        let (sealed, copied) = match &mut self.through {
            Through::File(uploading) => {
                let (sealed, copied) = tokio::join!(seal, uploading.copied_all(length));
                (sealed, Some(copied))
            }
            Through::Straight(_) | Through::Nothing => (seal.await, None),
        };
        let sealed = sealed.map_err(|error| Error::new(ErrorKind::Unavailable, format!("sealing ended: {error}")))?;
        match sealed {
            Ok(sealed) => {
                self.through = Through::Nothing;
                Ok((copied.transpose()?, Some(sealed)))
            }
            Err(refused) => {
                self.cache = Some(refused.writer);
                self.restart_upload(copied).await;
                Err(refused.error)
            }
        }
    }

    /// A seal was refused: the file may change, so all of it is copied once more when it is asked for again.
    async fn restart_upload(&mut self, copied: Option<Result<Box<dyn Upload>>>) {
        let Some(copied) = copied else { return };
        self.through = Through::Nothing;
        if let (Ok(upload), Ok(source)) = (copied, self.source()) {
            self.through = Through::File(Uploading::begin(upload, source, &self.services));
        }
    }

    fn straight_upload(&mut self) -> Result<Box<dyn Upload>> {
        match std::mem::replace(&mut self.through, Through::Nothing) {
            Through::Straight(straight) => Ok(straight.into_upload()),
            Through::File(_) | Through::Nothing => {
                Err(Error::new(ErrorKind::Invalid, "the writing has ended already; begin anew"))
            }
        }
    }

    /// Makes the content one that is served. Answers whether its tier is lasting; `None` where it is not kept.
    async fn commit(&mut self, sealed: Option<SealedFile>) -> Result<Option<bool>> {
        let Some(mut sealed) = sealed.filter(|_| !self.is_through()) else { return Ok(None) };
        self.check_over()?;
        let (generation, key) = (self.granted.grant.generation, self.key());
        blocking(move || sealed.commit(generation, false)).await?;
        Ok(Some(self.services.is_lasting(key)))
    }

    fn key(&self) -> FileKey {
        FileKey { file: self.granted.grant.file, generation: self.granted.grant.generation }
    }

    fn receipt(&self, length: u64, crc: u32, uploaded: Option<UploadReceipt>, lasting: Option<bool>) -> v1::Receipt {
        v1::Receipt {
            worker: self.services.worker.to_bytes().into(),
            incarnation: self.services.incarnation.0,
            file: self.granted.grant.file.0,
            generation: self.granted.grant.generation.0,
            length,
            crc32c: crc,
            cached: lasting.is_some(),
            uploaded: uploaded.is_some(),
            lasting: lasting.unwrap_or(false),
            upload_token: uploaded.as_ref().map(|receipt| receipt.token.clone()).unwrap_or_default(),
            upload: uploaded.map(|receipt| (&receipt.fingerprint).into()),
            held: Vec::new(),
            temporary: Bytes::new(),
        }
    }
}

fn no_descriptor() -> Error {
    Error::new(ErrorKind::NoSpace, "there is no room in the cache for this file").advise("write it as a stream")
}

/// The checksum of all blocks of a file.
fn whole_sum(sealed: &SealedFile) -> u32 {
    sealed.receipts().iter().fold(0, |sum, block| combine(sum, block.crc, block.length))
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.services.writings.leave(self.number);
        // Whoever waits for the end of this writing may go.
        self.over.cancel();
        if self.cache.is_some() {
            self.services.metrics.abandoned_files.one();
        }
    }
}
