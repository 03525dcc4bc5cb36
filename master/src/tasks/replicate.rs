//! Keeps as many copies in the cache as were asked for: has a further worker load what too few hold.

use std::sync::Arc;

use larder_common::{FileId, Locality, Result};
use larder_proto::v1::{self, order};

use crate::{
    cluster::{Candidate, Holding, WorkerSlot, placement},
    master::Master,
    rpc::answer,
};

/// The most files of one round.
const BATCH: usize = 256;

pub(super) async fn round(master: Arc<Master>) -> Result<()> {
    if master.in_safe_mode() {
        return Ok(());
    }
    let wanted: Vec<(FileId, u32)> = master.core.read().replications().take(BATCH).collect();
    for (file, copies) in wanted {
        if let Some((worker, order)) = missing_copy(&master, file, copies) {
            master.links.post(worker, order);
        }
    }
    Ok(())
}

/// Who is to load a file that has fewer whole copies than asked for, and the order for it.
pub(crate) fn missing_copy(master: &Master, file: FileId, copies: u32) -> Option<(WorkerSlot, order::What)> {
    let content = answer::content(&master.core.read(), file)?;
    let blocks = content.block_size.count(content.length);
    let holders = master.locations.holders((file, content.generation));
    let whole = whole(&holders, blocks);
    if blocks == 0 || whole.len() >= copies as usize || (whole.is_empty() && !content.persisted) {
        return None;
    }
    let worker = next(file, copies as usize, &whole, &master.registry.lock().candidates(content.mount))?;
    let grant = answer::read_grant(master, file).ok()?;
    let peers = answer::addresses(master, &whole);
    let runs = vec![v1::BlockRun { first: 0, count: blocks }];
    Some((worker, order::What::Load(v1::OrderLoad { grant, runs, peers })))
}

/// How many workers have all of a file.
pub(crate) fn copies(master: &Master, file: FileId) -> usize {
    let content = answer::content(&master.core.read(), file);
    content.map_or(0, |content| {
        let holders = master.locations.holders((file, content.generation));
        whole(&holders, content.block_size.count(content.length)).len()
    })
}

fn whole(holders: &[Holding], blocks: u32) -> Vec<WorkerSlot> {
    holders.iter().filter(|h| h.lease.is_none() && h.blocks.len() >= blocks).map(|h| h.worker).collect()
}

/// The first worker that should have a copy and has none. Those who have one come first in the placement, so that racks
/// are counted from where the copies are.
fn next(file: FileId, copies: usize, whole: &[WorkerSlot], live: &[Candidate]) -> Option<WorkerSlot> {
    let near = live.iter().find(|c| whole.contains(&c.slot)).map(|c| c.id);
    let anywhere = Locality::default();
    let wanted = placement::Wanted { near, locality: &anywhere };
    placement::to_write(file, copies.max(whole.len() + 1), &wanted, live).into_iter().find(|slot| !whole.contains(slot))
}

#[cfg(test)]
mod tests {
    use larder_common::WorkerId;

    use super::*;

    fn worker(n: u8) -> Candidate {
        Candidate { slot: WorkerSlot(u16::from(n)), id: WorkerId([n; 16]), locality: Locality::default() }
    }

    #[test]
    fn a_copy_goes_to_who_has_none() {
        let live = [worker(1), worker(2), worker(3)];
        let next_one = next(FileId(5), 2, &[WorkerSlot(2)], &live).unwrap();
        assert_ne!(next_one, WorkerSlot(2));
        assert_eq!(next(FileId(5), 2, &[WorkerSlot(1)], &live[..1]), None, "there is nobody else");
    }
}
