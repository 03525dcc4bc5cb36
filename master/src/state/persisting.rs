//! Bringing cached content into the under store, and letting go of cached content.

use larder_common::{AttemptId, ErrorKind, FileId, Generation, Persistence};

use crate::namespace::{Flag, Inode};

use super::{
    action::{Expected, Operation, Source, Temporary},
    command::Target,
    encoding::block_shift,
    entry::{PendingRecord, SetContent, SetPending, SetStored},
    outcome::{Outcome, Planned},
    planner::{Plan, Planner, Stop, owner_of, refuse},
};

/// Ask that a file's content be persisted later. Nothing happens to one that is persisted or on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// The file.
    pub target: Target,
}

/// Begin an attempt to persist pending content; one that was open is over. Answers [`super::Outcome::Attempt`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersistStarted {
    /// The file.
    pub file: FileId,
    /// The version.
    pub generation: Generation,
}

/// The attempt's temporary holds the whole content: publish it. Content of no bytes needs no temporary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persisted {
    /// The file.
    pub file: FileId,
    /// The version.
    pub generation: Generation,
    /// The attempt.
    pub attempt: AttemptId,
    /// Whether it must be on disk before the answer.
    pub sync: bool,
}

/// The attempt came to nothing. The content stays pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersistFailed {
    /// The file.
    pub file: FileId,
    /// The attempt.
    pub attempt: AttemptId,
}

/// Somebody has freed cached blocks. Refused for content that is nowhere else, unless `lose` says so: then the content is
/// over, and the file is what the under store has of it, or empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freed {
    /// The file.
    pub file: FileId,
    /// The version.
    pub generation: Generation,
    /// Whether content that is nowhere else may be lost.
    pub lose: bool,
}

impl<'a> Planner<'a> {
    /// The file and its pending record, if this version is still to be persisted.
    fn pending(&self, file: FileId, generation: Generation) -> Result<(&'a Inode, &'a PendingRecord), Stop> {
        let inode = self.state.tree.attached(file).filter(|inode| inode.generation() == generation);
        match inode.zip(self.state.pending.get(&generation)) {
            Some(found) => Ok(found),
            None => refuse(ErrorKind::Changed, b"", "this version does not wait to be persisted any more"),
        }
    }

    /// The attempt, if it is the one that is under way.
    fn attempt(&self, record: &PendingRecord, attempt: AttemptId) -> Result<Temporary, Stop> {
        match record.attempt.as_ref().filter(|open| open.attempt == attempt.0) {
            Some(open) => Ok(open.into()),
            None => refuse(ErrorKind::Changed, b"", "this attempt is over"),
        }
    }
}

impl Plan for Persist {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let (inode, mount) = planner.target(&self.target)?;
        planner.writable(mount)?;
        planner.may(inode, 2)?;
        if !inode.is_file() {
            return refuse(ErrorKind::Invalid, b"", "only files have content to persist");
        }
        if !inode.is(Flag::Complete) {
            return refuse(ErrorKind::Busy, b"", "the file is still being written");
        }
        if inode.persistence() == Persistence::NotPersisted {
            let (file, generation) = (inode.id().0, inode.generation().0);
            planner.push(SetStored { file, persistence: Some(1), ..SetStored::default() });
            let record = PendingRecord { file, since: planner.now().0, attempt: None };
            planner.push(SetPending { generation, record: Some(record) });
        }
        Ok(planner.apply(&Outcome::Done))
    }
}

impl Plan for PersistStarted {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let (inode, record) = planner.pending(self.file, self.generation)?;
        planner.free_inode(self.file)?;
        if planner.state.edit_on(self.file).is_some() {
            return refuse(ErrorKind::Busy, b"", "the file is being edited; what is committed then is persisted");
        }
        let Some(mount) = planner.state.mount_of(inode.id()) else {
            return refuse(ErrorKind::NotFound, b"", "the file has no name any more");
        };
        let temporary = planner.temporary(mount.id, self.file, self.generation)?;
        let record = PendingRecord { attempt: Some((&temporary).into()), ..record.clone() };
        planner.push(SetPending { generation: self.generation.0, record: Some(record) });
        Ok(planner.apply(&Outcome::Attempt { file: self.file, generation: self.generation, temporary }))
    }
}

impl Plan for Persisted {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        planner.free_inode(self.file)?;
        let (inode, record) = planner.pending(self.file, self.generation)?;
        let temporary = planner.attempt(record, self.attempt)?;
        for (parent, name) in planner.state.tree.names(self.file) {
            planner.free_name(parent, name)?;
        }
        let source = if inode.length() == 0 { Source::Empty } else { Source::Temporary(temporary) };
        let mut action = planner.publish(inode, self.generation, source, owner_of(inode), &[])?;
        action.sync = self.sync;
        let beside = planner.keep_beside(&mut action, inode, self.generation);
        if let Operation::Publish { modified, expected, .. } = &mut action.operation {
            *modified = inode.times().modified;
            if *expected == Expected::Any {
                *expected = Expected::Absent;
            }
        }
        let (file, generation) = (self.file.0, self.generation.0);
        let (stored, persistence) = (Some(true), Some(2));
        planner.push(SetStored { file, stored, persistence, generation, ..SetStored::default() });
        let outcome = Outcome::Committed { file: self.file, generation: self.generation };
        planner.intent_beside(action, self.file, beside, &outcome)
    }
}

impl Plan for PersistFailed {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        planner.free_inode(self.file)?;
        let pending = planner.state.pending.iter().find(|(_, record)| record.file == self.file.0);
        if let Some((generation, record)) = pending
            && planner.attempt(record, self.attempt).is_ok()
        {
            let record = Some(PendingRecord { attempt: None, ..record.clone() });
            planner.push(SetPending { generation: generation.0, record });
        }
        Ok(planner.apply(&Outcome::Done))
    }
}

impl Plan for Freed {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        planner.free_inode(self.file)?;
        let inode = planner.state.tree.attached(self.file).filter(|inode| inode.generation() == self.generation);
        let Some(inode) = inode.filter(|inode| planner.state.is_unpersisted(inode)) else {
            return Ok(planner.apply(&Outcome::Done));
        };
        if !self.lose {
            return refuse(ErrorKind::Invalid, b"", "the content is nowhere else; persist the file first");
        }
        let print = planner.state.tree.fingerprint(inode);
        let kept = print.filter(|_| inode.is(Flag::Stored));
        let generation = planner.number()?;
        planner.push(SetContent {
            file: self.file.0,
            generation,
            length: kept.as_ref().map_or(0, |print| print.size),
            persistence: if kept.is_some() { 2 } else { 0 },
            modified: kept.as_ref().map_or(planner.now().0, |print| print.modified.0),
            changed: planner.now().0,
            block_shift: block_shift(inode.block_size()),
            ..SetContent::default()
        });
        Ok(planner.apply(&Outcome::Committed { file: self.file, generation: Generation(generation) }))
    }
}
