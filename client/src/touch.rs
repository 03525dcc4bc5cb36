//! What was read without a message, told to the workers once a second for their eviction policies.
//!
//! The reader that touches a file first since the last hint leaves a weak reference; nothing is sent on the read path.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use larder_common::WorkerId;
use larder_proto::v1;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::{leases::Local, workers::Workers};

/// How often hints go out.
pub(crate) const EVERY: Duration = Duration::from_secs(1);
/// The most files that wait to be told; hints beyond it are lost.
const WAITING_MAX: usize = 1 << 20;
/// The most files of one packet.
const PACKET: usize = 1000;
/// The most runs of blocks that are told of one file.
const RUNS: usize = 64;

/// Files that were touched since the last hint.
#[derive(Debug, Default)]
pub(crate) struct Touches(Mutex<Vec<Weak<Local>>>);

impl Touches {
    pub(crate) fn add(&self, local: &Arc<Local>) {
        let mut waiting = self.0.lock();
        if waiting.len() < WAITING_MAX {
            waiting.push(Arc::downgrade(local));
        }
    }

    /// Tells the workers.
    pub(crate) fn send(&self, workers: &Workers) {
        let waiting = std::mem::take(&mut *self.0.lock());
        let mut by_worker: FxHashMap<WorkerId, Vec<v1::Touched>> = FxHashMap::default();
        for local in waiting.iter().filter_map(Weak::upgrade) {
            if let Some(mut touched) = local.take_touched() {
                touched.runs.truncate(RUNS);
                by_worker.entry(local.worker()).or_default().push(touched);
            }
        }
        for (worker, mut files) in by_worker {
            let Some(short) = workers.by_id(worker).and_then(|worker| worker.connected()) else { continue };
            while !files.is_empty() {
                let rest = files.split_off(files.len().min(packet_length(&files)));
                short.touched(std::mem::replace(&mut files, rest));
            }
        }
    }
}

/// How many of these fit into one packet: one run is at most 12 bytes, the rest of a file at most 32.
fn packet_length(files: &[v1::Touched]) -> usize {
    let mut bytes = 0;
    let fits = files.iter().take(PACKET).take_while(|file| {
        bytes += 40 + 16 * file.runs.len();
        bytes < 100_000
    });
    fits.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_filled_and_not_overfilled() {
        let small = v1::Touched { runs: vec![v1::BlockRun::default()], ..Default::default() };
        let large = v1::Touched { runs: vec![v1::BlockRun::default(); RUNS], ..Default::default() };
        assert_eq!(packet_length(&vec![small; 5000]), PACKET);
        assert_eq!(packet_length(&vec![large; 5000]), 93);
        assert_eq!(packet_length(&[]), 1);
    }
}
