//! Where the durable bytes of a file are, and what is still on its way there.

use std::time::Duration;

use larder_common::{Error, FsPath, Result, Timestamp};
use larder_proto::v1;

use crate::file_system::FileSystem;

/// Where the under store has something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Which {
    /// The URI of the file or object; of a union that of the branch that has it.
    pub uri: String,
    /// Whether it is there. If not, it would be there when it is persisted.
    pub stored: bool,
    /// The path of the mount.
    pub mount: FsPath,
}

/// What waits to be persisted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PersistenceReport {
    /// How many files.
    pub files: u64,
    /// How many bytes.
    pub bytes: u64,
    /// How many are being persisted now.
    pub running: u64,
    /// Since when the oldest waits.
    pub oldest: Option<Timestamp>,
    /// The first of them: those that failed before all others, then the oldest.
    pub pending: Vec<PendingFile>,
}

/// A file that waits to be persisted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingFile {
    /// Its path, if it has one.
    pub path: Option<FsPath>,
    /// Its length.
    pub bytes: u64,
    /// Since when it waits.
    pub since: Timestamp,
    /// Whether an attempt is under way.
    pub running: bool,
    /// How many attempts have failed.
    pub tries: u32,
    /// Why the last one did.
    pub reason: Option<Error>,
    /// How long until the next.
    pub again: Duration,
}

impl From<v1::PendingFile> for PendingFile {
    fn from(message: v1::PendingFile) -> Self {
        Self {
            path: FsPath::parse(&message.path).ok(),
            bytes: message.bytes,
            since: Timestamp(message.since),
            running: message.running,
            tries: message.tries,
            reason: message.reason.map(Into::into),
            again: Duration::from_millis(message.again_ms),
        }
    }
}

impl FileSystem {
    /// Where the under store has what is at a path; a symbolic link is answered itself.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` while the under store is away.
    pub async fn which(&self, path: impl AsRef<[u8]>) -> Result<Which> {
        let path = FsPath::parse(path)?;
        let link = &self.0.link;
        let reply = link.ask(link.deadline(), |mut client| {
            let asked = path.as_bytes().to_vec().into();
            let asked = v1::StatusRequest { path: asked, no_follow: true, ..v1::StatusRequest::default() };
            async move { client.which(asked).await }
        });
        let reply = reply.await.map_err(|error| error.at(&path))?;
        Ok(Which { uri: reply.uri, stored: reply.stored, mount: FsPath::parse(&reply.mount)? })
    }

    /// What waits to be persisted, and what keeps it.
    ///
    /// # Errors
    /// `Unavailable` at the deadline.
    pub async fn persistence(&self) -> Result<PersistenceReport> {
        let link = &self.0.link;
        let reply =
            link.ask(link.deadline(), |mut client| async move { client.get_persistence(v1::ReportRequest {}).await });
        let v1::PersistenceReport { files, bytes, running, oldest, pending } = reply.await?;
        Ok(PersistenceReport {
            files,
            bytes,
            running,
            oldest: (oldest != 0).then_some(Timestamp(oldest)),
            pending: pending.into_iter().map(Into::into).collect(),
        })
    }
}
