//! `const_random!`, for the one crate below `opendal` that calls it (`dlv-list`, for the initial state of a generator
//! that tells lists apart). The crate of this name takes its number at build time from `tiny-keccak`, which is under
//! CC0-1.0, a licence that `deny.toml` does not allow; a fixed number does here, and keeps builds repeatable.

#![no_std]

/// An arbitrary number of this type, the same in every build.
#[macro_export]
macro_rules! const_random {
    (u32) => {
        0x9e37_79b9_u32
    };
}
