//! Putting committed content into a temporary of the under store, by order of the master: AsyncThrough, `fs persist`.
//!
//! The content is read from its cache files, block by block, each pinned while it is copied. The master has named the
//! temporary and publishes it; a failed order leaves nothing, for an upload that is dropped destroys its temporary.

use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::FileExt},
    sync::Arc,
};

use bytes::Bytes;
use larder_common::{
    BlockIndex, Error, ErrorKind, Result,
    checksum::{Crc32c, combine, crc32c},
};
use larder_proto::v1;
use larder_ufs::{Content, TemporaryName, UnderStore, Upload, UploadReceipt};

use crate::{
    services::{Granted, Services, blocking, patiently},
    store::{BlockReader, EditedSource, FileKey},
    upload::{SYNC_PATIENCE, exactly, finish, temporary},
};

impl Services {
    /// Carries an order to persist out.
    pub(crate) async fn persist(self: &Arc<Self>, signed: &Bytes) -> Result<v1::OrderDone> {
        let granted = self.grant(signed)?;
        let _busy = self.writings.upload();
        let persisted = self.upload_committed(&granted).await;
        let (receipt, crc) = persisted.inspect_err(|_| self.metrics.upload_failed.one())?;
        let grant = &granted.grant;
        let key = FileKey { file: grant.file, generation: grant.generation };
        let fingerprint = Some(v1::Fingerprint::from(&receipt.fingerprint));
        Ok(v1::OrderDone {
            bytes: receipt.length,
            fingerprint: fingerprint.clone(),
            receipt: Some(v1::Receipt {
                worker: self.worker.to_bytes().into(),
                incarnation: self.incarnation.0,
                file: grant.file.0,
                generation: grant.generation.0,
                length: receipt.length,
                crc32c: crc,
                cached: true,
                uploaded: true,
                lasting: self.is_lasting(key),
                upload_token: receipt.token.clone(),
                upload: fingerprint,
                held: Vec::new(),
                temporary: Bytes::new(),
            }),
            ..v1::OrderDone::default()
        })
    }

    /// Puts the bytes of a new small file into the temporary that its writer's grant names; gives that name.
    pub(crate) async fn upload_first(&self, granted: &Granted, bytes: Bytes) -> Result<Option<Bytes>> {
        let grant = &granted.grant;
        let Some(name) = temporary(grant)? else { return Ok(None) };
        let _busy = self.writings.upload();
        let store = self.mounts.get(grant.mount).await?.store().await?;
        self.upload_bytes(&*store, &name, bytes, false).await?;
        Ok(Some(Bytes::copy_from_slice(name.name.as_bytes())))
    }

    /// By one hand-over to the under store.
    async fn upload_bytes(
        &self,
        store: &dyn UnderStore,
        name: &TemporaryName,
        bytes: Bytes,
        sync: bool,
    ) -> Result<UploadReceipt> {
        let length = bytes.len() as u64;
        let upload = store.upload_whole(name, Content::Bytes(bytes), sync);
        let patience = self.config.patience.saturating_mul(if sync { SYNC_PATIENCE } else { 1 });
        let receipt = patiently(patience, "an upload", || 0, upload).await?;
        self.metrics.uploaded_bytes.add(length);
        exactly(receipt, length)
    }

    async fn upload_committed(self: &Arc<Self>, granted: &Granted) -> Result<(UploadReceipt, u32)> {
        let grant = &granted.grant;
        let missing = || Error::new(ErrorKind::Invalid, "an order to persist without a temporary");
        let (name, right) = temporary(grant)?.zip(grant.write.as_ref()).ok_or_else(missing)?;
        let store = self.mounts.get(grant.mount).await?.store().await?;
        let key = FileKey { file: grant.file, generation: grant.generation };
        let edited = self.store.edited_source(key)?.filter(|source| source.key == key);
        if let Some(source) = edited.as_ref().filter(|source| source.quick && source.missing.is_empty()) {
            return self.upload_small(source, &*store, &name, right.sync).await;
        }
        let upload = patiently(self.config.patience, "an upload", || 0, store.start_upload(&name)).await?;
        if right.sync {
            upload.expect_sync();
        }
        if let Some(source) = edited {
            let (length, crc) = self.upload_edited(source, &*upload).await?;
            let receipt = finish(upload, length, right.sync, self.config.patience).await?;
            return Ok((receipt, crc));
        }
        let mut crc = 0;
        for index in (0..grant.block_size.count(grant.length)).map(BlockIndex) {
            let reader = self.committed_block(granted, index).await?;
            crc = combine(crc, block_sum(&reader), reader.length());
            let file = Arc::new(File::from(reader.as_fd().try_clone_to_owned()?));
            let range = reader.offset()..reader.offset() + reader.length();
            let copy = upload.copy_from(file, range.clone(), range.start);
            // A block is copied by one call, so its end is all the progress there is.
            patiently(self.config.patience.saturating_mul(4), "an upload", || 0, copy).await?;
            self.metrics.uploaded_bytes.add(reader.length());
        }
        let receipt = finish(upload, grant.length, right.sync, self.config.patience).await?;
        Ok((receipt, crc))
    }

    /// The same of a small file in memory.
    async fn upload_small(
        &self,
        source: &EditedSource,
        store: &dyn UnderStore,
        name: &TemporaryName,
        sync: bool,
    ) -> Result<(UploadReceipt, u32)> {
        let length = source.spec.length;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        source.file.read_exact_at(&mut bytes, 0)?;
        let crc = crc32c(&bytes);
        let receipt = self.upload_bytes(store, name, bytes.into(), sync).await?;
        Ok((receipt, crc))
    }

    /// Copies what was sealed in a file that is still being edited. What its writer changes meanwhile may be in the copy, as
    /// it would on a disk, and is in the next one again.
    async fn upload_edited(self: &Arc<Self>, source: EditedSource, upload: &dyn Upload) -> Result<(u64, u32)> {
        if !source.missing.is_empty() {
            let gone = || Error::new(ErrorKind::NotFound, format!("blocks of {} are not at this worker", source.key));
            self.writings.edit(source.lease).ok_or_else(gone)?.lock().await.complete().await?;
        }
        let (length, file) = (source.spec.length, Arc::new(source.file));
        let mut at = 0;
        while at < length {
            let end = (at + UPLOAD_STEP).min(length);
            let copy = upload.copy_from(file.clone(), at..end, at);
            patiently(self.config.patience.saturating_mul(4), "an upload", || 0, copy).await?;
            self.metrics.uploaded_bytes.add(end - at);
            at = end;
        }
        let crc = blocking(move || Ok(self::sum_of(&file, length)?)).await?;
        Ok((length, crc))
    }

    async fn committed_block(self: &Arc<Self>, granted: &Granted, index: BlockIndex) -> Result<BlockReader> {
        let grant = &granted.grant;
        let block = FileKey { file: grant.file, generation: grant.generation }.block(index);
        let length = grant.block_size.length(index, grant.length);
        let absent = || Error::new(ErrorKind::NotFound, format!("block {block} is not at this worker"));
        self.open_block(block, length).await?.ok_or_else(absent)
    }
}

/// The checksum of a file's first bytes.
fn sum_of(file: &File, length: u64) -> std::io::Result<u32> {
    let mut sum = Crc32c::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < length {
        let part = usize::try_from((length - at).min(1 << 20)).unwrap_or(0);
        file.read_exact_at(&mut buffer[..part], at)?;
        sum.update(&buffer[..part]);
        at += part as u64;
    }
    Ok(sum.value())
}

/// How much of a file that is being edited is copied by one call, in bytes.
const UPLOAD_STEP: u64 = 64 << 20;

/// The checksum of a block, from those of its chunks.
fn block_sum(reader: &BlockReader) -> u32 {
    use larder_common::checksum::CHUNK;
    let lengths = (0..reader.length()).step_by(CHUNK as usize).map(|at| (reader.length() - at).min(CHUNK));
    reader.sums().iter().zip(lengths).fold(0, |sum, (crc, length)| combine(sum, *crc, length))
}
