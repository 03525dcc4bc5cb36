//! What the writers of a file share: an edit of it, or, where none can be had, a draft.
//!
//! Opening a file for writing asks nobody for anything: the edit begins with the first change, so that `O_TRUNC` copies nothing
//! and who opens and changes nothing takes the file from nobody. There is one for each file, whatever node it was opened
//! through, for a session edits a file once. While the lease of the edit is given up (at the last close, or because another
//! session asked for it), the file is what was committed last; the next change asks for it again.
//!
//! A *draft*, which is written back as a whole, is made where the edit answers that there is no room for the file in the
//! worker's tier, but for `MUST_CACHE`, which has no other place; and for a file that is no more, whose handles go on.
//!
//! Lock order: `core` (shared by changes and reads, exclusive for another beginning), then the edit's own; `shown` and `read`
//! are leaves.

use std::{path::PathBuf, sync::Arc, time::Duration};

use larder_client::{Allocate, Edit, EditOptions, File, FileId, FileStatus, Generation, Name, Nodes};
use larder_common::{Error, ErrorKind, Result, WriteType, clock::Clock};
use parking_lot::Mutex;
use tokio::sync::RwLock;

use crate::{
    backing::Registry,
    beside::Beside,
    draft::Draft,
    errno::{Answer, Errno},
    transport::Backing,
};

/// So long a beginning waits for who has the file in a way that cannot be asked for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);
/// How often a version that is replaced while it is being opened is looked for again.
const LOOKS: u32 = 5;

/// A change of a file's content.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change<'a> {
    /// At an offset, or at the end.
    Write(Option<u64>, &'a [u8]),
    /// Another length.
    Length(u64),
    /// `fallocate` with its mode: offset and length.
    Allocate(i32, u64, u64),
}

/// Where the changed bytes are.
#[derive(Clone, Debug)]
enum Core {
    /// Nothing was changed.
    Idle,
    Edit(Edit),
    Draft(Arc<Draft>),
}

/// What a work is made of.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) nodes: Nodes,
    pub(crate) backings: Arc<Registry<Backing>>,
    pub(crate) beside: Arc<Beside>,
    pub(crate) scratch: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
}

/// The changes of a file by this mount.
#[derive(Debug)]
pub(crate) struct Work {
    tools: Tools,
    pub(crate) file: FileId,
    /// As it was when it was opened.
    begun: FileStatus,
    core: RwLock<Core>,
    /// The same, for who cannot wait.
    shown: Mutex<Core>,
    /// The committed version that was read last.
    read: Mutex<Option<File>>,
}

impl Work {
    pub(crate) fn new(tools: Tools, status: &FileStatus) -> Self {
        Self {
            tools,
            file: status.id,
            begun: status.clone(),
            core: RwLock::new(Core::Idle),
            shown: Mutex::new(Core::Idle),
            read: Mutex::new(None),
        }
    }

    /// What is different from what the master says. A status that is older than the last commit here has its length and times.
    pub(crate) fn overlay(&self, status: &mut FileStatus) {
        let shown = self.shown.lock().clone();
        match shown {
            Core::Idle => {}
            Core::Draft(draft) => draft.overlay(status),
            Core::Edit(edit) => {
                // In this order: a commit sets the status before it takes back what is pending.
                let pending = edit.pending();
                let committed = edit.status();
                if committed.generation > status.generation {
                    (status.length, status.times, status.generation) =
                        (committed.length, committed.times, committed.generation);
                }
                if let Some(pending) = pending {
                    status.length = pending.length;
                    if let Some(modified) = pending.modified {
                        status.times.modified = modified;
                        status.times.changed = status.times.changed.max(modified);
                    }
                }
            }
        }
    }

    /// Whether there is anything that a commit would commit, or a lease that would be given up.
    pub(crate) fn is_held(&self) -> bool {
        match &*self.shown.lock() {
            Core::Idle => false,
            Core::Edit(edit) => edit.pending().is_some(),
            Core::Draft(draft) => draft.is_dirty(),
        }
    }

    /// Whether it is the file that is changed which the kernel may read beside, and no copy of it.
    pub(crate) fn is_in_place(&self) -> bool {
        matches!(&*self.shown.lock(), Core::Edit(edit) if edit.is_in_place())
    }

    /// Whether there is anything that is not committed.
    pub(crate) fn is_dirty(&self) -> bool {
        match &*self.shown.lock() {
            Core::Idle => false,
            Core::Edit(edit) => edit.pending().is_some_and(|pending| pending.modified.is_some()),
            Core::Draft(draft) => draft.is_dirty(),
        }
    }

    /// Bytes from an offset; fewer only at the end of the file.
    pub(crate) async fn read(&self, offset: u64, size: usize) -> Answer<Vec<u8>> {
        {
            let core = self.core.read().await;
            match &*core {
                Core::Draft(draft) => return draft.read(offset, size).await,
                Core::Edit(edit) => {
                    let mut bytes = vec![0; size];
                    if let Some(read) = edit.read_held(offset, &mut bytes).await? {
                        bytes.truncate(read);
                        return Ok(bytes);
                    }
                }
                Core::Idle => {}
            }
        }
        let file = self.newest().await?;
        let length = file.status().length.saturating_sub(offset).min(size as u64);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(size)];
        let read = file.read_at(offset, &mut bytes).await?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// What is committed.
    async fn newest(&self) -> Result<File> {
        let nodes = &self.tools.nodes;
        let mut last = Error::new(ErrorKind::Changed, "the file is replaced again and again");
        for _ in 0..LOOKS {
            let kept = self.read.lock().clone();
            let generation = match (nodes.status(self.file).await, kept) {
                (Ok(found), Some(kept)) if kept.version().1 == found.status.generation => return Ok(kept),
                (Ok(found), _) => found.status.generation,
                // It is no more: what is open of it stays.
                (Err(error), Some(kept)) if error.kind() == ErrorKind::NotFound => return Ok(kept),
                (Err(error), None) if error.kind() == ErrorKind::NotFound => self.begun.generation,
                (Err(error), _) => return Err(error),
            };
            match nodes.open(nodes.own(), self.file, generation).await {
                Ok(file) => {
                    *self.read.lock() = Some(file.clone());
                    return Ok(file);
                }
                Err(error) if error.kind() == ErrorKind::Changed => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// A write that needs no message; `None`: it does, and nothing was done.
    pub(crate) fn write_now(&self, offset: Option<u64>, bytes: &[u8]) -> Option<Answer<()>> {
        let core = self.core.try_read().ok()?;
        match &*core {
            Core::Idle => None,
            Core::Draft(draft) => Some(draft.write(offset, bytes).map(drop).map_err(Errno::from)),
            Core::Edit(edit) => {
                let written = match offset {
                    Some(offset) => edit.write_now(offset, bytes)?,
                    None => edit.append_now(bytes)?.map(drop),
                };
                Some(written.map_err(Errno::from))
            }
        }
    }

    /// Makes a change. Whoever reads the file through this mount sees it at once.
    pub(crate) async fn change(&self, change: Change<'_>) -> Answer<()> {
        check(&change)?;
        loop {
            let idle = {
                let core = self.core.read().await;
                match &*core {
                    Core::Draft(draft) => return drafted(draft, change),
                    Core::Idle => true,
                    Core::Edit(edit) => match edited(edit, change).await {
                        Err(error) if error.kind() == ErrorKind::NoSpace && self.may_draft() => false,
                        other => return Ok(other?),
                    },
                }
            };
            self.begin(idle, matches!(change, Change::Length(0))).await?;
        }
    }

    /// Whether what the tier has no room for can go somewhere else.
    fn may_draft(&self) -> bool {
        self.tools.nodes.write_type() != WriteType::MustCache
    }

    /// Begins an edit of an idle file, or a draft in the place of an edit that has no room, unless somebody else has done it.
    async fn begin(&self, idle: bool, truncate: bool) -> Result<()> {
        let mut core = self.core.write().await;
        let next = match &*core {
            Core::Idle if idle => self.edit(truncate).await?,
            Core::Edit(edit) if !idle => {
                tracing::info!(file = %self.file, "a file has no room in the tier, and is written as a whole from now on");
                self.draft(&edit.clone().close().await?)?
            }
            _ => return Ok(()),
        };
        (*core, *self.shown.lock()) = (next.clone(), next);
        Ok(())
    }

    async fn edit(&self, truncate: bool) -> Result<Core> {
        let Tools { nodes, backings, clock, .. } = &self.tools;
        let options = EditOptions {
            // Whoever has the file open sees that it was cut, as on a disk.
            truncate: truncate && !self.tools.beside.has(self.file),
            write_type: Some(nodes.write_type()),
            shared: true,
            clock: Some(Arc::clone(clock)),
            ..EditOptions::default()
        };
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            match nodes.edit(nodes.own(), self.file, options.clone()).await {
                Ok(edit) => {
                    // What is registered of it is not that version any more.
                    backings.release((self.file, edit.status().generation));
                    return Ok(Core::Edit(edit));
                }
                Err(error) if error.kind() == ErrorKind::Busy && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    tracing::info!(file = %self.file, "a file that is no more is written for its handles only");
                    return self.draft(&self.begun);
                }
                Err(error) if error.kind() == ErrorKind::NoSpace && self.may_draft() => {
                    tracing::info!(%error, file = %self.file, "a file is written as a whole");
                    let status = nodes.status(self.file).await?.status;
                    return self.draft(&status);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn draft(&self, status: &FileStatus) -> Result<Core> {
        let Tools { nodes, scratch, clock, .. } = &self.tools;
        Ok(Core::Draft(Arc::new(Draft::new(nodes.clone(), status, scratch, Arc::clone(clock))?)))
    }

    /// Has all bytes here: the file is about to lose its last name, and its handles go on.
    pub(crate) async fn keep(&self) -> Result<()> {
        self.begin(true, false).await?;
        match &*self.core.read().await {
            Core::Idle => Ok(()),
            Core::Edit(edit) => edit.complete().await,
            Core::Draft(draft) => draft.complete().await,
        }
    }

    /// `SEEK_DATA` and `SEEK_HOLE`. Where the file is not being changed, all of it is data.
    pub(crate) async fn seek(&self, offset: u64, hole: bool) -> Answer<u64> {
        let nothing = || Errno(libc::ENXIO);
        {
            let core = self.core.read().await;
            match &*core {
                Core::Draft(draft) => return draft.seek(offset, hole),
                Core::Edit(edit) if edit.pending().is_some() => {
                    let found = if hole { edit.seek_hole(offset).await? } else { edit.seek_data(offset).await? };
                    return found.ok_or_else(nothing);
                }
                Core::Edit(_) | Core::Idle => {}
            }
        }
        let length = self.newest().await?.status().length;
        match offset < length {
            true => Ok(if hole { length } else { offset }),
            false => Err(nothing()),
        }
    }

    /// Makes what was changed the content of the file; with `last` the file is given back as well. A draft is committed to the
    /// file of this name, and not without one. `None`: there was nothing to do.
    ///
    /// # Errors
    /// What the master, a worker or the under store says. It can be tried again, unless the right to write was lost, which is
    /// `Changed`: then what was changed is lost, and the file goes on as others have left it.
    pub(crate) async fn commit(
        &self,
        place: Option<(FileId, Name)>,
        durable: bool,
        last: bool,
    ) -> Result<Option<FileStatus>> {
        if durable && self.begun.length > 0 {
            // What was written before this open is to be on disk, too.
            self.begin(true, false).await?;
        }
        let committed = match &*self.core.read().await {
            Core::Idle => return Ok(None),
            Core::Draft(draft) => return draft.commit(place, durable).await,
            Core::Edit(edit) => match (durable, last) {
                (true, _) => edit.commit(true).await,
                (false, true) => edit.clone().close().await,
                (false, false) => edit.commit(false).await,
            },
        };
        if let Err(error) = &committed
            && matches!(error.kind(), ErrorKind::Changed | ErrorKind::NotFound)
        {
            (*self.core.write().await, *self.shown.lock()) = (Core::Idle, Core::Idle);
        }
        match committed {
            // Nobody misses what has no name.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// Whether a commit needs a name.
    pub(crate) fn is_draft(&self) -> bool {
        matches!(&*self.shown.lock(), Core::Draft(_))
    }

    /// The newest version that was committed here.
    pub(crate) fn generation(&self) -> Option<Generation> {
        match &*self.shown.lock() {
            Core::Edit(edit) => Some(edit.status().generation),
            Core::Idle | Core::Draft(_) => None,
        }
    }
}

/// Refuses what no file system does.
fn check(change: &Change<'_>) -> Answer<()> {
    let end = |offset: u64, length: u64| {
        let end = offset.checked_add(length).filter(|end| i64::try_from(*end).is_ok());
        end.map(drop).ok_or(Errno(libc::EFBIG))
    };
    match change {
        Change::Write(offset, bytes) => end(offset.unwrap_or(0), bytes.len() as u64),
        Change::Length(length) => end(*length, 0),
        Change::Allocate(_, _, 0) => Err(Errno::INVALID),
        Change::Allocate(mode, offset, length) => {
            allocation(*mode)?;
            end(*offset, *length)
        }
    }
}

/// What a mode of `fallocate` asks for.
fn allocation(mode: i32) -> Answer<Allocate> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    match (mode & !KEEP, mode & KEEP != 0) {
        (0, true) => Ok(Allocate::Keep),
        (0, false) => Ok(Allocate::Extend),
        // Behind the end there is nothing to clear, and nothing is to appear there.
        (libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_PUNCH_HOLE, true) => Ok(Allocate::Punch),
        (libc::FALLOC_FL_ZERO_RANGE, false) => Ok(Allocate::Zero),
        _ => Err(Errno(libc::EOPNOTSUPP)),
    }
}

async fn edited(edit: &Edit, change: Change<'_>) -> Result<()> {
    match change {
        Change::Write(Some(offset), bytes) => edit.write_at(offset, bytes).await,
        Change::Write(None, bytes) => edit.append(bytes).await.map(drop),
        Change::Length(length) => edit.set_length(length).await,
        Change::Allocate(mode, offset, length) => {
            let mode = allocation(mode).map_err(|e| Error::from(std::io::Error::from_raw_os_error(e.0)))?;
            edit.allocate(mode, offset, length).await
        }
    }
}

fn drafted(draft: &Draft, change: Change<'_>) -> Answer<()> {
    match change {
        Change::Write(offset, bytes) => Ok(draft.write(offset, bytes).map(drop)?),
        Change::Length(length) => Ok(draft.set_length(length)?),
        Change::Allocate(mode, offset, length) => draft.allocate(mode, offset, length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_of_fallocate_that_are_known() {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        assert_eq!(allocation(0), Ok(Allocate::Extend));
        assert_eq!(allocation(KEEP), Ok(Allocate::Keep));
        assert_eq!(allocation(libc::FALLOC_FL_PUNCH_HOLE | KEEP), Ok(Allocate::Punch));
        assert_eq!(allocation(libc::FALLOC_FL_ZERO_RANGE | KEEP), Ok(Allocate::Punch));
        assert_eq!(allocation(libc::FALLOC_FL_ZERO_RANGE), Ok(Allocate::Zero));
        for unknown in [libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_COLLAPSE_RANGE, libc::FALLOC_FL_INSERT_RANGE | KEEP]
        {
            assert_eq!(allocation(unknown), Err(Errno(libc::EOPNOTSUPP)));
        }
        assert_eq!(check(&Change::Allocate(0, 5, 0)), Err(Errno::INVALID));
        assert_eq!(check(&Change::Allocate(0, u64::MAX, 2)), Err(Errno(libc::EFBIG)));
        assert_eq!(check(&Change::Length(1 << 63)), Err(Errno(libc::EFBIG)));
        assert_eq!(check(&Change::Write(Some((1 << 63) - 1), b"ab")), Err(Errno(libc::EFBIG)));
    }
}
