//! A checkpoint of an embedded journal on its way: begun, fed, and either finished or dropped without a trace. One at a
//! time.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use larder_common::{Error, ErrorKind, Position, Result};

use super::{
    CheckpointWriter,
    checkpoint::FileWriter,
    embedded::Inner,
    header::{FileKind, Header},
};

/// A checkpoint on its way; one at a time.
#[derive(Debug)]
pub(super) struct PendingCheckpoint {
    inner: Arc<Inner>,
    file: FileWriter,
    position: Position,
    /// The epoch of an installed one.
    installs: Option<u64>,
}

impl PendingCheckpoint {
    /// Begins one; `installs` is the epoch of a state from elsewhere.
    pub(super) fn begin(
        inner: &Arc<Inner>,
        position: Position,
        installs: Option<u64>,
    ) -> Result<Box<dyn CheckpointWriter>> {
        if inner.checkpointing.swap(true, SeqCst) {
            return Err(Error::new(ErrorKind::Busy, "another checkpoint is being written"));
        }
        let created = inner.create_checkpoint(position, installs);
        if created.is_err() {
            inner.checkpointing.store(false, SeqCst);
        }
        Ok(Box::new(Self { inner: inner.clone(), file: created?, position, installs }))
    }
}

impl Inner {
    fn create_checkpoint(&self, position: Position, installs: Option<u64>) -> Result<FileWriter> {
        let mut header = Header::new(FileKind::Checkpoint, self.mould.cluster, position.0, &self.mould.created_by)?;
        header.installed = installs.is_some();
        header.epoch = installs.unwrap_or(self.epoch.load(SeqCst));
        FileWriter::create(self.directory.checkpoint(position).with_extension("ckpt.tmp"), &header)
    }
}

impl CheckpointWriter for PendingCheckpoint {
    fn add(&mut self, frame: &[u8]) -> Result<()> {
        self.file.add(frame)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        match self.installs {
            Some(epoch) => self.inner.clone().replace_all(&mut self.file, self.position, epoch),
            None => self.inner.clone().keep_checkpoint(&mut self.file, self.position),
        }
    }
}

impl Drop for PendingCheckpoint {
    fn drop(&mut self) {
        self.inner.checkpointing.store(false, SeqCst);
    }
}
