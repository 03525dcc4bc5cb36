//! Files that a co-located client edits in place, through a descriptor: it writes without a message, and asks for room,
//! for blocks that are not here, for another length, and for what ends a generation.
//!
//! A connection that closes leaves its edits where they are; the master says what becomes of them when the session is
//! over, and a client that comes back under the same lease goes on.

use std::{ops::Range, sync::Arc};

use larder_common::Result;
use larder_proto::v1::{self, short_reply::What as Reply};

use super::{
    RUNS_MAX,
    connection::{Answer, Connection},
};
use crate::{editing::Editing, store::FileKey};

impl Connection {
    /// How many leases of a content this client has.
    fn own_leases(&self, key: FileKey) -> u32 {
        let held = self.leases.lock().values().filter(|held| held.key == key && held.lease.is_some()).count();
        u32::try_from(held).unwrap_or(u32::MAX)
    }

    /// Begins to edit a file, or goes on with an edit under the same lease.
    pub(crate) async fn begin_edit(self: &Arc<Self>, request: v1::ShortWrite) -> Result<Answer> {
        self.edits.check_room()?;
        let granted = self.services.grant(&request.grant)?;
        let base = granted.grant.write.as_ref().and_then(|right| right.base);
        let base = base.map(|base| FileKey { file: granted.grant.file, generation: base.generation });
        let own = base.filter(|_| request.shared).map_or(0, |base| self.own_leases(base));
        let mut editing = Editing::begin(&self.services, granted, own).await?;
        if request.reserve > 0 {
            // Room that is not there yet is asked for again when it is needed.
            let _ = editing.reserve(request.reserve).await;
        }
        let descriptor = editing.descriptor()?;
        let (length, reserved, mut whole) = editing.state()?;
        whole.truncate(RUNS_MAX);
        let (ticket, copied, over, lease) = (self.number(), editing.is_copy(), editing.over(), editing.lease());
        let shared = Arc::new(tokio::sync::Mutex::new(editing));
        self.services.writings.enter_edit(lease, &shared, over.clone());
        self.edits.insert(ticket, shared, over, self.over.clone());
        let what = Reply::Writable(v1::ShortWritable { ticket, reserved, whole, length, copied });
        Ok(Answer { what: Some(what), descriptors: vec![descriptor] })
    }

    /// Makes room.
    pub(crate) async fn extend_edit(&self, request: v1::ShortExtend) -> Result<Answer> {
        let edit = self.edits.get(request.ticket)?;
        let reserved = edit.lock().await.reserve(request.reserve).await?;
        Ok(Reply::Extended(v1::ShortExtended { reserved }).into())
    }

    /// Has blocks in the descriptor.
    pub(crate) async fn fill_edit(&self, request: v1::ShortFill) -> Result<Answer> {
        let edit = self.edits.get(request.ticket)?;
        let mut edit = edit.lock().await;
        let end = request.offset.saturating_add(request.length);
        edit.fill(request.offset..end).await?;
        filled(&mut edit, request.offset..end)
    }

    /// Gives the file another length.
    pub(crate) async fn resize_edit(&self, request: v1::ShortResize) -> Result<Answer> {
        let edit = self.edits.get(request.ticket)?;
        let mut edit = edit.lock().await;
        edit.resize(request.length).await?;
        filled(&mut edit, 0..request.length)
    }

    /// Seals a generation.
    pub(crate) async fn commit_edit(&self, request: v1::ShortCommit) -> Result<Answer> {
        let edit = self.edits.get(request.ticket)?;
        let receipt = edit.lock().await.commit(request.length, ranges(&request.dirty), request.upload).await?;
        Ok(Reply::Sealed(receipt).into())
    }

    /// Begins the next generation.
    pub(crate) async fn go_on(&self, request: v1::ShortGoOn) -> Result<Answer> {
        let edit = self.edits.get(request.ticket)?;
        let granted = self.services.grant(&request.grant)?;
        let mut edit = edit.lock().await;
        edit.go_on(granted)?;
        filled(&mut edit, 0..0)
    }

    /// Gives the file back.
    pub(crate) async fn end_edit(&self, request: v1::ShortEnd) -> Result<Answer> {
        let edit = self.edits.get(request.ticket)?;
        let kept = edit.lock().await.end().await;
        self.edits.remove(request.ticket);
        Ok(Reply::Ended(v1::ShortEnded { kept: kept? }).into())
    }
}

/// The ranges of a message; those that make no sense are taken as far as they do.
pub(crate) fn ranges(dirty: &[v1::ByteRange]) -> Vec<Range<u64>> {
    dirty.iter().map(|range| range.offset..range.offset.saturating_add(range.length)).collect()
}

fn filled(edit: &mut Editing, near: Range<u64>) -> Result<Answer> {
    let (length, reserved, mut whole) = edit.state()?;
    if whole.len() > RUNS_MAX {
        let block_size = edit.block_size();
        let (first, last) = (block_size.index(near.start).0, block_size.index(near.end).0);
        whole.retain(|run| run.first <= last && first < run.first + run.count);
        whole.truncate(RUNS_MAX);
    }
    Ok(Reply::Filled(v1::ShortFilled { whole, reserved, length }).into())
}
