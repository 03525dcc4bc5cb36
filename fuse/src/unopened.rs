//! Reading without handles: the kernel does not open the files of a tree that does not change while it is mounted, so that
//! warm opens never leave it. What was read last stays at hand by its node.

use std::{num::NonZeroUsize, sync::Arc};

use larder_client::{FileId, Generation};
use lru::LruCache;
use parking_lot::Mutex;

use crate::{accounts::Read, directories::Cursor, errno::Answer, nodes::NodeId, opened::Handle, server::Server};

/// So many files are kept at hand.
const FILES: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// So many directories are.
const DIRECTORIES: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// Files and directories that are read without having been opened, the one that was used last first.
#[derive(Debug)]
pub(crate) struct Unopened {
    files: Mutex<LruCache<NodeId, Arc<Read>>>,
    directories: Mutex<LruCache<NodeId, Arc<Handle>>>,
}

impl Default for Unopened {
    fn default() -> Self {
        Self { files: Mutex::new(LruCache::new(FILES)), directories: Mutex::new(LruCache::new(DIRECTORIES)) }
    }
}

impl Unopened {
    /// Where a directory is being read.
    pub(crate) fn cursor(&self, node: NodeId, directory: FileId) -> Arc<Handle> {
        let make = || Arc::new(Handle::Directory(tokio::sync::Mutex::new(Cursor::new(directory))));
        Arc::clone(self.directories.lock().get_or_insert(node, make))
    }

    fn file(&self, node: NodeId, generation: Generation) -> Option<Arc<Read>> {
        self.files.lock().get(&node).filter(|read| read.file.version().1 >= generation).cloned()
    }
}

impl Server {
    /// `READ` of a file that was not opened: of the version that the node stands for.
    pub(crate) async fn read_unopened(&self, node: NodeId, offset: u64, size: usize) -> Answer<Vec<u8>> {
        let (file, generation) = self.version(node)?;
        let kept = self.unopened.file(node, generation);
        let read = match kept {
            Some(read) => read,
            None => {
                let opened = self.nodes.open(self.nodes.own(), file, Generation(0)).await?;
                self.table.lock().observe(node, opened.version().1, 0);
                let read = Arc::new(Read::from(opened));
                let old = self.unopened.files.lock().put(node, Arc::clone(&read));
                drop(old);
                read
            }
        };
        let bytes = self.read_file(&read, offset, size).await?;
        self.accounts.answered(bytes.len(), true);
        Ok(bytes)
    }
}
