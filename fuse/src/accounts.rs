//! Which way opens and reads go, and why not the fastest: what operators are told.
//!
//! Of files that the kernel reads itself only the opens are seen here, so their bytes are those of the files. Bytes that come
//! through this process are counted twice: by where they were taken from (as everywhere else in the system), and by what the
//! kernel does with them. What the page cache holds already is read by programs without anybody seeing it.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use larder_client::{File, Served, passthrough::Unleased};
use parking_lot::Mutex;

/// Why the kernel does not read a file itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Reason {
    /// The kernel has no passthrough, or it is not to be used.
    Without,
    /// This process may not hand files to the kernel.
    NoCapability,
    /// The cache lies on a file system that lies on others.
    Overlayfs,
    /// The kernel refuses for another cause.
    Kernel,
    /// It has no bytes.
    Empty,
    /// Not all of it was in a local cache file.
    NotWhole,
    /// No worker with it shares a socket with this process.
    NotLocal,
    /// This process may open no more descriptors.
    Crowded,
    /// The worker refuses, or wants it back.
    Refused,
    /// A handle is open from before it was whole.
    OpenedBefore,
    /// This mount is changing it.
    BeingWritten,
}

impl Reason {
    const ALL: [Self; 11] = [
        Self::Without,
        Self::NoCapability,
        Self::Overlayfs,
        Self::Kernel,
        Self::Empty,
        Self::NotWhole,
        Self::NotLocal,
        Self::Crowded,
        Self::Refused,
        Self::OpenedBefore,
        Self::BeingWritten,
    ];

    /// In the words of the metric, which are a contract with operators.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Without => "no passthrough",
            Self::NoCapability => "no capability",
            Self::Overlayfs => "overlayfs",
            Self::Kernel => "refused by the kernel",
            Self::Empty => "empty",
            Self::NotWhole => "not whole",
            Self::NotLocal => "no local worker",
            Self::Crowded => "too many descriptors",
            Self::Refused => "refused by the worker",
            Self::OpenedBefore => "opened before whole",
            Self::BeingWritten => "being written",
        }
    }

    /// What the kernel's refusal of a cache file means.
    pub(crate) fn of_kernel(error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM) => Self::NoCapability,
            Some(libc::ELOOP) => Self::Overlayfs,
            Some(libc::EMFILE | libc::ENFILE) => Self::Crowded,
            _ => Self::Kernel,
        }
    }
}

impl From<Unleased> for Reason {
    fn from(why: Unleased) -> Self {
        match why {
            Unleased::Empty => Self::Empty,
            Unleased::NotWhole => Self::NotWhole,
            Unleased::NotLocal => Self::NotLocal,
            Unleased::Crowded => Self::Crowded,
            Unleased::Refused => Self::Refused,
        }
    }
}

/// What has been counted since the mount began.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    passed_through: AtomicU64,
    known: AtomicU64,
    others: [AtomicU64; Reason::ALL.len()],
    direct: AtomicU64,
    paged: AtomicU64,
    local: AtomicU64,
    stream: AtomicU64,
    ufs: AtomicU64,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Accounts {
    /// The kernel reads a file of this length itself.
    pub(crate) fn passed_through(&self, length: u64) {
        add(&self.passed_through, 1);
        add(&self.known, length);
    }

    /// A file that is read is read through this process.
    pub(crate) fn not_passed_through(&self, why: Reason) {
        add(&self.others[why as usize], 1);
    }

    /// Bytes of an answer; `kept`: the kernel keeps them.
    pub(crate) fn answered(&self, bytes: usize, kept: bool) {
        add(if kept { &self.paged } else { &self.direct }, bytes as u64);
    }

    /// Where bytes were taken from since this was last asked of a file.
    pub(crate) fn taken(&self, read: &Read) {
        let mut last = read.counted.lock();
        let served = read.file.served();
        add(&self.local, served.local.saturating_sub(last.local));
        add(&self.stream, served.stream.saturating_sub(last.stream));
        add(&self.ufs, served.ufs.saturating_sub(last.ufs));
        *last = served;
    }

    /// All of it by the names of the metrics.
    pub(crate) fn counters(&self) -> BTreeMap<String, u64> {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let open = |path, reason| format!("larder_open_total{{path=\"{path}\",reason=\"{reason}\"}}");
        let read = |path| format!("larder_read_bytes_total{{path=\"{path}\"}}");
        let reply = |path| format!("larder_fuse_reply_bytes_total{{path=\"{path}\"}}");
        let mut all = BTreeMap::from([
            (open("passthrough", "whole"), get(&self.passed_through)),
            (read("passthrough"), get(&self.known)),
            (read("local"), get(&self.local)),
            (read("stream"), get(&self.stream)),
            (read("ufs"), get(&self.ufs)),
            (reply("direct"), get(&self.direct)),
            (reply("page cache"), get(&self.paged)),
        ]);
        for why in Reason::ALL {
            let count = get(&self.others[why as usize]);
            if count > 0 {
                all.insert(open("direct", why.as_str()), count);
            }
        }
        all
    }
}

/// A file that is read through this process, with what was counted of it already.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) file: File,
    counted: Mutex<Served>,
}

impl From<File> for Read {
    fn from(file: File) -> Self {
        // It may have been read before it was ours.
        let counted = Mutex::new(file.served());
        Self { file, counted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_place_and_a_name_of_its_own() {
        let accounts = Accounts::default();
        for (place, why) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(place, why as usize);
            accounts.not_passed_through(why);
        }
        let counters = accounts.counters();
        let opens = counters.iter().filter(|(name, count)| name.contains("\"direct\",") && **count == 1);
        assert_eq!(opens.count(), Reason::ALL.len());
    }

    #[test]
    fn bytes_and_opens_are_told_by_path() {
        let accounts = Accounts::default();
        accounts.passed_through(7);
        accounts.answered(3, false);
        accounts.answered(4, true);
        let counters = accounts.counters();
        assert_eq!(counters["larder_open_total{path=\"passthrough\",reason=\"whole\"}"], 1);
        assert_eq!(counters["larder_read_bytes_total{path=\"passthrough\"}"], 7);
        assert_eq!(counters["larder_fuse_reply_bytes_total{path=\"direct\"}"], 3);
        assert_eq!(counters["larder_fuse_reply_bytes_total{path=\"page cache\"}"], 4);
    }
}
