//! Content that workers hold and that the namespace does not know: what is left where a master lost its journal. It can be
//! looked at, read and dropped, by root only; nothing else ever drops it.

use larder_common::{Error, ErrorKind, FileId, FsPath, Generation, ReadType, Result, WorkerId};
use larder_proto::v1;

use crate::{file::File, file_system::FileSystem, report::Removed};

/// One version of one file that a worker holds, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownFile {
    /// The worker.
    pub worker: WorkerId,
    /// Its number.
    pub file: FileId,
    /// Which version of it.
    pub generation: Generation,
    /// The length of the whole file in bytes.
    pub length: u64,
    /// The size of its blocks in bytes.
    pub block_size: u64,
    /// How many bytes of it the worker holds.
    pub held: u64,
}

impl TryFrom<v1::UnknownFile> for UnknownFile {
    type Error = Error;

    fn try_from(message: v1::UnknownFile) -> Result<Self> {
        Ok(Self {
            worker: WorkerId::try_from(&message.worker[..])?,
            file: FileId(message.file),
            generation: Generation(message.generation),
            length: message.length,
            block_size: message.block_size,
            held: message.held,
        })
    }
}

impl From<&UnknownFile> for v1::UnknownFile {
    fn from(file: &UnknownFile) -> Self {
        Self {
            worker: file.worker.to_bytes().into(),
            file: file.file.0,
            generation: file.generation.0,
            length: file.length,
            block_size: file.block_size,
            held: file.held,
        }
    }
}

impl FileSystem {
    /// Content of live workers that the namespace does not know and that is nowhere else.
    ///
    /// # Errors
    /// `Denied` for others than root; `Unavailable`.
    pub async fn unknown(&self) -> Result<Vec<UnknownFile>> {
        let link = &self.0.link;
        let files = link.ask_admin(link.deadline(), |mut admin| async move { admin.list_unknown(v1::Empty {}).await });
        files.await?.files.into_iter().map(TryInto::try_into).collect()
    }

    /// Opens such content for reading. What the worker does not hold of it cannot be read.
    ///
    /// # Errors
    /// `NotFound` when the worker holds it no more; `Denied`, `Unavailable`.
    pub async fn open_unknown(&self, file: &UnknownFile) -> Result<File> {
        let link = &self.0.link;
        let reply = link.ask_admin(link.deadline(), |mut admin| {
            let asked = v1::UnknownFile::from(file);
            async move { admin.open_unknown(asked).await }
        });
        let reply = reply.await?;
        let path = FsPath::parse(format!("/{}-{}", file.file.0, file.generation.0))?;
        let known = self.0.caches.reopened(&path, &reply, &reply.workers)?;
        let content = known.content.ok_or_else(|| Error::new(ErrorKind::Mismatch, "an open without content"))?;
        Ok(File::new(self.0.clone(), content, known.status, ReadType::NoCache))
    }

    /// Drops such content. It is nowhere else.
    ///
    /// # Errors
    /// As [`FileSystem::open_unknown`].
    pub async fn drop_unknown(&self, file: &UnknownFile) -> Result<Removed> {
        let link = &self.0.link;
        let counted = link.ask_admin(link.deadline(), |mut admin| {
            let asked = v1::UnknownFile::from(file);
            async move { admin.drop_unknown(asked).await }
        });
        Ok(counted.await?.into())
    }
}
