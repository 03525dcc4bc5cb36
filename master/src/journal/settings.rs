//! How an embedded journal is opened: plain data, checked once.

use std::{path::PathBuf, time::Duration};

use larder_common::{ByteSize, ClusterId, Error, ErrorKind, Result};

/// How an embedded journal is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its directory, made if missing; nothing else should be in it.
    pub directory: PathBuf,
    /// The cluster it must belong to; a new journal gets this id, or a random one.
    pub cluster: Option<ClusterId>,
    /// The size of each new segment: 32 KiB to 1 GiB, a multiple of 4 KiB. Two of them are taken at once. A batch must
    /// fit into one.
    pub segment_size: ByteSize,
    /// How soon entries that nobody waits for are on disk: 1 ms to 1 h.
    pub sync_interval: Duration,
    /// What writes: name and version, up to 48 bytes, for whoever meets the files later.
    pub created_by: String,
}

impl Settings {
    /// The defaults in this directory: 64 MiB segments, 50 ms.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            cluster: None,
            segment_size: ByteSize::mib(64),
            sync_interval: Duration::from_millis(50),
            created_by: concat!("larder ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let size = self.segment_size.0;
        if !(32 << 10..=1 << 30).contains(&size) || !size.is_multiple_of(4096) {
            let message = format!("a journal segment of {size} bytes is not a multiple of 4 KiB from 32 KiB to 1 GiB");
            return Err(Error::new(ErrorKind::Config, message));
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&self.sync_interval) {
            let message = format!("a sync interval of {:?} is not from 1 ms to 1 h", self.sync_interval);
            return Err(Error::new(ErrorKind::Config, message));
        }
        Ok(())
    }
}
