//! The block store: cached content in cache files, one sparse file for each generation and tier directory.
//!
//! Whoever fills, writes or reads gets a guard that ends in `Drop` ([`BlockWriter`], [`CacheFileWriter`],
//! [`BlockReader`], [`FileLease`]); no id of a lock is ever passed out. What lives where:
//!
//! - decisions without I/O: [`key`], `quota`, `mounts`, `coverage`, `sums`, `books`, `policies`, `index::record`;
//! - the medium: `kernel`, `probe`, `huge`, `directory`, `index`;
//! - what callers do: `writer`, `reader`, `lease`, `cache_file`, `edit`, `removal`, `room`, `movement`, `reclaim`, `scrub`,
//!   `report`, and at the start `open`, `prepare`, `neighbours`,
//!   `adopt`.
//!
//! **What must hold.** A block is served only with the bytes that it was filled with. Bytes are removed only after the
//! kernel has said that nobody else has the inode. Content that is not marked persisted is dropped by nothing but an
//! explicit free. A directory never takes more than its quota (`directory` names the exceptions). A reader never waits
//! for room.
//!
//! **Lock order:** policies → shard → {index, zombies, feed, uncommitted, edited}. The last are leaves. No system call but
//! those of a leaf is made under a shard's lock, and nothing waits under it except for a removal in the same shard, on
//! the shard's condition and with a deadline.
//!
//! **Failure.** A full medium is an answer ([`NoRoom`]), not an error. An index that cannot be written makes commits
//! fail and leaves removals to the next start. The side data's crash rules are in `index`.

mod adopt;
mod block_store;
mod books;
mod cache_file;
mod cgroup;
mod config;
mod coverage;
mod directory;
mod edit;
mod feed;
mod fill;
mod huge;
mod index;
mod kernel;
pub mod key;
mod lease;
mod mounts;
mod movement;
mod neighbours;
mod open;
mod policies;
mod prepare;
mod probe;
mod quota;
mod reader;
mod reclaim;
mod removal;
mod report;
mod room;
mod scrub;
mod sums;
mod writer;

#[cfg(test)]
mod tests;

pub use block_store::{BlockStore, Counters};
pub use cache_file::{CacheFileWriter, Receipt, SealRefused, SealedFile, WriteTicket};
pub use config::{HugePages, Listeners, PolicyFactory, StoreConfig};
pub use directory::DirectoryIndex;
pub use edit::{EditFill, EditStart, EditTicket, EditedFile, EditedReport, EditedSource, EndRefused};
pub use feed::{Change, Changes};
pub use fill::{FillState, Progress};
pub use key::{FileKey, GenerationSpec};
pub use lease::{FileLease, LeasePart};
pub use neighbours::LeftBehind;
pub use open::{DirectoryReport, OpenReport};
pub use policies::TierIndex;
pub use probe::Abilities;
pub use reader::{BlockReader, Follower};
pub use reclaim::{Reclaimed, Reclaimer};
pub use removal::{FreeMode, Freed};
pub use report::{BlockReport, FileReport, ReportCursor, ReportPage, TierUsage, UncommittedFile, Usage};
pub use scrub::{ScrubCursor, Scrubbed};
pub use writer::{BlockWriter, FillRequest, NoRoom, Purpose, Reservation};
