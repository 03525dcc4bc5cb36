//! The client against a small cluster in this process: what it reads, writes, remembers, gives back and survives.

mod ahead;
mod editing;
mod nodes;
mod public;
mod reading;
mod sessions;
mod writing;

use std::time::{Duration, Instant};

/// Waits until something holds; fails with its name after five seconds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(5), "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
