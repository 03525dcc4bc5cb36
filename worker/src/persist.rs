//! Putting committed content into a temporary of the under store, by order of the master: AsyncThrough, `fs persist`.
//!
//! The content is read from its cache files, block by block, each pinned while it is copied. The master has named the
//! temporary and publishes it; a failed order leaves nothing, for an upload that is dropped destroys its temporary.

use std::{fs::File, os::fd::AsFd, sync::Arc};

use bytes::Bytes;
use larder_common::{BlockIndex, Error, ErrorKind, Result, checksum::combine};
use larder_proto::v1;
use larder_ufs::UploadReceipt;

use crate::{
    services::{Granted, Services, patiently},
    store::{BlockReader, FileKey},
    upload::{finish, temporary},
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
            }),
            ..v1::OrderDone::default()
        })
    }

    async fn upload_committed(self: &Arc<Self>, granted: &Granted) -> Result<(UploadReceipt, u32)> {
        let grant = &granted.grant;
        let missing = || Error::new(ErrorKind::Invalid, "an order to persist without a temporary");
        let (name, right) = temporary(grant)?.zip(grant.write.as_ref()).ok_or_else(missing)?;
        let store = self.mounts.get(grant.mount).await?.store().await?;
        let upload = patiently(self.config.patience, "an upload", || 0, store.start_upload(&name)).await?;
        if right.sync {
            upload.expect_sync();
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

    async fn committed_block(self: &Arc<Self>, granted: &Granted, index: BlockIndex) -> Result<BlockReader> {
        let grant = &granted.grant;
        let block = FileKey { file: grant.file, generation: grant.generation }.block(index);
        let length = grant.block_size.length(index, grant.length);
        let absent = || Error::new(ErrorKind::NotFound, format!("block {block} is not at this worker"));
        self.open_block(block, length).await?.ok_or_else(absent)
    }
}

/// The checksum of a block, from those of its chunks.
fn block_sum(reader: &BlockReader) -> u32 {
    use larder_common::checksum::CHUNK;
    let lengths = (0..reader.length()).step_by(CHUNK as usize).map(|at| (reader.length() - at).min(CHUNK));
    reader.sums().iter().zip(lengths).fold(0, |sum, (crc, length)| combine(sum, *crc, length))
}
