//! The changes that an action can make, one file a group. Each has two sides: `perform` makes the change, and `done`
//! finds out after a crash, or a call of unknown outcome, whether it was made: by the recorded identities, and by names
//! that only this intent gives.
//!
//! Every change is repeatable: performing one that was made, wholly or half, ends in the same state or in an error that
//! leaves the store as it is.

pub(super) mod attributes;
pub(super) mod directories;
pub(super) mod exchange;
pub(super) mod links;
pub(super) mod patch;
pub(super) mod publish;
pub(super) mod relink;
pub(super) mod remove;
pub(super) mod rename;
pub(super) mod tree;
