//! Nodes that the kernel reads by itself while their file is changed through another node of this mount.
//!
//! The change is made in the very file that the kernel reads, unless the writer had to take a copy, so the handles of such a node
//! see it at once; what `stat` says of them has to follow. Kept until their handles are closed.

use std::sync::{Arc, Weak};

use larder_client::{FileId, FileStatus};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::{opened::Opened, work::Work};

/// Such nodes by their files.
#[derive(Debug, Default)]
pub(crate) struct Beside(Mutex<FxHashMap<FileId, Vec<Weak<Opened>>>>);

impl Beside {
    /// One more.
    pub(crate) fn add(&self, opened: &Arc<Opened>) {
        let mut all = self.0.lock();
        all.retain(|_, nodes| {
            nodes.retain(|node| node.strong_count() > 0);
            !nodes.is_empty()
        });
        all.entry(opened.file).or_default().push(Arc::downgrade(opened));
    }

    /// The last handle of a node is closed.
    pub(crate) fn gone(&self, opened: &Opened) {
        let mut all = self.0.lock();
        if let Some(nodes) = all.get_mut(&opened.file) {
            nodes.retain(|node| node.strong_count() > 0 && !std::ptr::eq(node.as_ptr(), opened));
            if nodes.is_empty() {
                all.remove(&opened.file);
            }
        }
    }

    /// Whether the kernel reads a file through a node that is not the one of its writers.
    pub(crate) fn has(&self, file: FileId) -> bool {
        self.0.lock().get(&file).is_some_and(|nodes| nodes.iter().any(|node| node.strong_count() > 0))
    }

    /// A new version was made in place: it is what these nodes show, too.
    pub(crate) fn committed(&self, work: &Work, status: &FileStatus) {
        if !work.is_in_place() {
            return;
        }
        let nodes = self.0.lock().get(&work.file).cloned().unwrap_or_default();
        for opened in nodes.iter().filter_map(Weak::upgrade) {
            opened.set_status(|known| *known = status.clone());
        }
    }
}
