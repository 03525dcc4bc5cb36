//! Hints of clients about what they read without a message, for the eviction policies.

use larder_common::{BlockIndex, FileId, Generation};
use larder_proto::{convert, v1};

use crate::{services::Services, store::FileKey};

/// The most files of one batch that are looked at; more in one second than a policy could use.
const FILES_MAX: usize = 1 << 16;
/// The most blocks of one file.
const BLOCKS_MAX: u32 = 1 << 16;
/// The most uses that one hint counts for.
const COUNT_MAX: u32 = 1 << 10;

impl Services {
    /// Takes a batch. What is not known here is ignored: hints arrive late.
    pub(crate) fn touched(&self, touches: &v1::Touches) {
        for touched in touches.files.iter().take(FILES_MAX) {
            let key = FileKey { file: FileId(touched.file), generation: Generation(touched.generation) };
            for index in convert::from_runs(&touched.runs, BLOCKS_MAX) {
                self.store.touched(key.block(BlockIndex(index)), touched.count.clamp(1, COUNT_MAX));
            }
        }
    }
}
