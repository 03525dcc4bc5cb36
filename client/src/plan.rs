//! From which worker a block is read. Pure: addresses, holders and what has failed come in, an order comes out.
//!
//! The order: a co-located holder; other holders, the nearest first; who is assigned to fetch the block; any other
//! co-located worker; the rest, the nearest first. Equally near ones are turned by block number, so that readers of
//! one file do not all go to the first. Who gave nothing lately comes last of all.

use std::{collections::HashSet, ops::Range, sync::Arc};

use larder_common::{BlockSize, Medium, Result, WorkerId};
use larder_proto::{convert, convert::WorkerAddress, v1};

/// What one place in the list of workers has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Runs {
    pub(crate) worker: usize,
    /// `None` for an assignment.
    pub(crate) medium: Option<Medium>,
    pub(crate) blocks: Vec<Range<u32>>,
}

impl Runs {
    fn has(&self, block: u32) -> bool {
        self.blocks.iter().any(|run| run.contains(&block))
    }
}

/// Where the blocks of one version of a file are, as the master said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// Shared by all versions that have the same: mostly there are few lists.
    pub(crate) workers: Arc<[WorkerAddress]>,
    pub(crate) holders: Vec<Runs>,
    pub(crate) assignments: Vec<Runs>,
}

impl Places {
    /// Takes what the master sent and refuses what makes no sense.
    pub(crate) fn from_wire(reply: &v1::OpenReply, workers: &[v1::WorkerAddress], blocks: u32) -> Result<Self> {
        let workers = workers.iter().cloned().map(TryInto::try_into).collect::<Result<Arc<[_]>>>()?;
        let runs = |worker: u32, medium, runs: &[v1::BlockRun]| {
            let worker = usize::try_from(worker).ok().filter(|worker| *worker < workers.len())?;
            let range = |run: &v1::BlockRun| run.first.min(blocks)..run.first.saturating_add(run.count).min(blocks);
            Some(Runs { worker, medium, blocks: runs.iter().map(range).collect() })
        };
        let holder = |h: &v1::Holder| Ok(runs(h.worker, Some(convert::medium(h.medium)?), &h.runs));
        let holders = reply.holders.iter().filter_map(|h| holder(h).transpose()).collect::<Result<_>>()?;
        let assignments = reply.assignments.iter().filter_map(|a| runs(a.worker, None, &a.runs)).collect();
        Ok(Self { workers, holders, assignments })
    }

    /// The worker and medium that hold a block.
    pub(crate) fn holder(&self, block: u32) -> Option<(&WorkerAddress, Medium)> {
        let runs = self.holders.iter().find(|runs| runs.has(block))?;
        Some((&self.workers[runs.worker], runs.medium?))
    }

    /// All workers that hold a block, with the medium.
    pub(crate) fn all_holders(&self, block: u32) -> impl Iterator<Item = (&WorkerAddress, Medium)> {
        let holders = self.holders.iter().filter(move |runs| runs.has(block));
        holders.filter_map(|runs| Some((&self.workers[runs.worker], runs.medium?)))
    }

    /// Places in the list of workers, the best first, without those that failed.
    pub(crate) fn order(&self, block: u32, near: &Nearness<'_>, failed: &HashSet<WorkerId>) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.workers.len()).collect();
        order.retain(|place| !failed.contains(&self.workers[*place].id));
        let turn = |place: usize| (place + block as usize) % self.workers.len().max(1);
        order.sort_by_cached_key(|place| {
            let holds = self.holders.iter().any(|runs| runs.worker == *place && runs.has(block));
            let assigned = self.assignments.iter().any(|runs| runs.worker == *place && runs.has(block));
            let (local, distance) = (near.local(&self.workers[*place]), near.distance(&self.workers[*place]));
            let class = match (holds, local, assigned) {
                (true, true, _) => 0,
                (true, false, _) => 1,
                (false, _, true) => 2,
                (false, true, false) => 3,
                (false, false, false) => 4,
            };
            (near.silent.contains(&self.workers[*place].id), class, distance, turn(*place))
        });
        order
    }
}

/// How near workers are.
pub(crate) struct Nearness<'a> {
    pub(crate) is_local: &'a dyn Fn(&WorkerAddress) -> bool,
    pub(crate) locality: &'a larder_common::Locality,
    /// Who gave nothing lately.
    pub(crate) silent: Vec<WorkerId>,
}

impl Nearness<'_> {
    fn local(&self, worker: &WorkerAddress) -> bool {
        (self.is_local)(worker)
    }

    fn distance(&self, worker: &WorkerAddress) -> usize {
        self.locality.distance(&worker.locality)
    }
}

/// The blocks that a range of a file touches.
#[inline]
pub(crate) fn blocks(size: BlockSize, range: &Range<u64>) -> Range<u32> {
    if range.is_empty() {
        return 0..0;
    }
    let shift = size.bytes().trailing_zeros();
    let last = u32::try_from((range.end - 1) >> shift).unwrap_or(u32::MAX - 1);
    u32::try_from(range.start >> shift).unwrap_or(u32::MAX)..last + 1
}

#[cfg(test)]
mod tests {
    use larder_common::{Incarnation, Locality};

    use super::*;

    fn worker(id: u8, rack: &str) -> WorkerAddress {
        WorkerAddress {
            id: WorkerId([id; 16]),
            incarnation: Incarnation(1),
            host: "h".into(),
            port: 1,
            sockets: Vec::new(),
            locality: format!("node=n{id},rack={rack}").parse().unwrap(),
            features: 0,
        }
    }

    fn order(places: &Places, block: u32, local: Option<u8>, failed: &[u8]) -> Vec<usize> {
        let is_local = |w: &WorkerAddress| local == Some(w.id.0[0]);
        let locality: Locality = "node=me,rack=a".parse().unwrap();
        let failed = failed.iter().map(|id| WorkerId([*id; 16])).collect();
        let near = Nearness { is_local: &is_local, locality: &locality, silent: Vec::new() };
        places.order(block, &near, &failed)
    }

    fn places() -> Places {
        let runs = |worker, medium, blocks| Runs { worker, medium, blocks: vec![blocks] };
        Places {
            workers: [worker(0, "b"), worker(1, "a"), worker(2, "b"), worker(3, "b")].into(),
            holders: vec![runs(0, Some(Medium::Mem), 0..2), runs(1, Some(Medium::Ssd), 0..1)],
            assignments: vec![runs(2, None, 2..3)],
        }
    }

    #[test]
    fn holders_come_first_and_the_nearest_of_them() {
        assert_eq!(order(&places(), 0, None, &[]), [1, 0, 2, 3]);
        assert_eq!(order(&places(), 0, Some(0), &[])[0], 0, "a co-located holder before a nearer one");
        assert_eq!(order(&places(), 0, Some(3), &[]), [1, 0, 3, 2], "a holder before a co-located worker without it");
        assert_eq!(order(&places(), 0, None, &[1]), [0, 2, 3]);
    }

    #[test]
    fn what_nobody_holds_is_fetched_by_who_is_assigned() {
        assert_eq!(order(&places(), 2, None, &[])[0], 2);
        assert_eq!(order(&places(), 2, Some(3), &[2])[0], 3);
        assert!(order(&places(), 2, None, &[0, 1, 2, 3]).is_empty());
    }

    #[test]
    fn who_gave_nothing_lately_comes_last() {
        let (is_local, locality) = (|w: &WorkerAddress| w.id.0[0] == 1, Locality::default());
        let near = Nearness { is_local: &is_local, locality: &locality, silent: vec![WorkerId([1; 16])] };
        assert_eq!(places().order(0, &near, &HashSet::new()), [0, 2, 3, 1]);
        assert_eq!(places().holder(1).unwrap().1, Medium::Mem);
        assert!(places().holder(2).is_none());
    }

    #[test]
    fn nonsense_from_the_wire_is_cut_to_size() {
        let runs = vec![v1::BlockRun { first: 1, count: u32::MAX }];
        let holders =
            vec![v1::Holder { worker: 9, medium: 1, runs: runs.clone() }, v1::Holder { worker: 0, medium: 1, runs }];
        let reply = v1::OpenReply { holders, ..Default::default() };
        let places = Places::from_wire(&reply, &[(&worker(0, "a")).into()], 4).unwrap();
        let only = Runs { worker: 0, medium: Some(Medium::Mem), blocks: std::iter::once(1..4).collect() };
        assert_eq!(places.holders, [only]);
    }

    #[test]
    fn blocks_of_a_range() {
        let size = BlockSize::new(1 << 20).unwrap();
        assert_eq!(blocks(size, &(0..1)), 0..1);
        assert_eq!(blocks(size, &((1 << 20) - 1..(1 << 20) + 1)), 0..2);
        assert_eq!(blocks(size, &(5..5)), 0..0);
    }
}
