//! Where the blocks of a file are, for people: `larder fs location`.

use larder_common::{BlockIndex, Medium, Result, WorkerId};

use crate::{content::Content, core::Core};

/// One copy of one block; or a block that nobody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockLocation {
    /// The place of the block in the file.
    pub index: u32,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
    /// Who holds it; `None` if nobody does.
    pub worker: Option<WorkerId>,
    /// The worker's host and port.
    pub host: String,
    /// On which medium.
    pub medium: Option<Medium>,
    /// Whether this process reads it through a descriptor.
    pub short_circuit: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// The locations of all blocks.
pub(crate) async fn of(core: &Core, content: &Content) -> Result<Vec<BlockLocation>> {
    let access = content.access.load_full();
    let mut ways = Vec::new();
    for address in access.places.workers.iter() {
        let worker = core.workers.get(address)?;
        ways.push((address.id, core.workers.short(&worker).await.map(|_| ())));
    }
    let mut found = Vec::new();
    for index in 0..content.blocks() {
        let range = content.block_size.range(BlockIndex(index), content.length);
        let block = BlockLocation {
            index,
            offset: range.start,
            length: range.end - range.start,
            worker: None,
            host: String::new(),
            medium: None,
            short_circuit: false,
            reason: None,
        };
        let before = found.len();
        for (address, medium) in access.places.all_holders(index) {
            let way = ways.iter().find(|(id, _)| *id == address.id).map(|(_, way)| way.clone()).unwrap_or(Ok(()));
            let reason = way.err().or_else(|| content.refusal().map(|refusal| refusal.why.reason));
            found.push(BlockLocation {
                worker: Some(address.id),
                host: format!("{}:{}", address.host, address.port),
                medium: Some(medium),
                short_circuit: reason.is_none(),
                reason,
                ..block.clone()
            });
        }
        if found.len() == before {
            found.push(BlockLocation { reason: Some("not in the cache".into()), ..block });
        }
    }
    Ok(found)
}
