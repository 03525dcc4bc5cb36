//! The load generator behind `larder bench`, and the demonstration behind `larder demo`.
//!
//! Each bench measures one thing that Larder does beside the best that the machine does without it, in the same run, in
//! turns; a number without its baseline is worth nothing on a machine that others share. Servers are processes of their
//! own, started from the same binary with settings of their own, over directories that go with them.
//!
//! From the outside in: [`bench`] is the registry and runs what is named; `suite` holds the benches, one file each;
//! `home` is where they work, `mounted` what programs see of it; [`cluster`], `children` and `scratch` are processes and directories; [`rounds`],
//! [`statistics`] and [`outcome`] are arithmetic and know nothing of the rest. [`demo`] is the demonstration.
//!
//! Nothing here prints: callers hand in a [`lab::Watcher`] and get outcomes.

pub mod bench;
mod children;
pub mod cluster;
mod content;
pub mod demo;
pub mod door;
mod home;
pub mod lab;
pub mod machine;
mod mounted;
pub mod outcome;
pub mod rounds;
pub mod scratch;
pub mod statistics;
mod suite;
