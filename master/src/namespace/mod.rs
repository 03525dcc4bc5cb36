//! The inode tree: which names there are and what they name. A plain data structure without I/O, clock or rights; what may
//! be done, and when, is decided in [`crate::state`].
//!
//! Inodes, names, leaves of directories and the index of ids lie in chunks behind `Arc`s, copied on the first change while a
//! clone holds them. So [`InodeTree`] is cheap to clone (some 100 µs for a million files), and a checkpoint writes an
//! old clone out while the writer goes on. An old clone never changes.
//!
//! Outside of this module an inode is named by its [`larder_common::FileId`]; slots and runs stay inside.

mod arena;
mod chunks;
mod directory;
mod index;
mod inode;
mod names;
pub(crate) mod paged;
mod reclaim;
#[cfg(test)]
mod tests;
mod tree;

pub use inode::{Flag, Inode, Kind, NewInode};
pub use reclaim::Freed;
pub use tree::{Entry, InodeTree, Removed};
