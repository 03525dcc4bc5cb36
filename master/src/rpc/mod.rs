//! The services: each request is decoded, makes one call, and is answered. What they decide on is elsewhere.

pub mod admin;
pub mod answer;
pub mod command;
pub mod filesystem;
pub mod jobs;
pub mod link;
pub mod listing;
mod reach;
pub mod report;
pub mod session;
pub mod tree;
mod volatile;
