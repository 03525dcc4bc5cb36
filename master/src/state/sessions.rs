//! Sessions, what they hold, the outcomes in their slots, and the numbers that they are given.

use std::{ops::Bound, time::Duration};

use larder_common::{ErrorKind, FileId, Generation, SessionId};

use super::{
    entry::{AddSession, CloseOrphan, DropSession, EndLease, HoldNumbers, Reserve},
    outcome::{Outcome, Planned},
    planner::{Plan, Planner, Stop, refuse},
};

/// Numbers of a start begin at least at so many times the Unix time in seconds, as a power of two.
const NUMBERS_PER_SECOND: u32 = 22;
/// The most files that a session holds ids for.
const HELD_MAX: u32 = 65_536;

/// Reserve numbers of the cluster's counter. The server does this at every start and change of leader, and again
/// when [`super::State::numbers_left`] is low; numbers are used only when the entry is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReserveIds {
    /// How many.
    pub count: u64,
    /// Whether this is a start: then they begin at the larger of the last reserved and 2^22 times the Unix time in seconds.
    pub start: bool,
}

/// Open a session. Answers [`super::Outcome::Session`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSession {
    /// Who it is, for reports.
    pub name: String,
    /// After so much silence it ends.
    pub lease: Duration,
}

/// End a session and all that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndSession {
    /// Which.
    pub session: SessionId,
}

/// Hold FileIds and generations for [`super::CreateComplete`]. Answers [`super::Outcome::Held`]; ids that were held and
/// not used before are given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldFiles {
    /// For which session.
    pub session: SessionId,
    /// How many files, 1 to 65536.
    pub count: u32,
}

/// A session has closed its last handle of a version that was removed or replaced while it had it open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The session.
    pub session: SessionId,
    /// The file.
    pub file: FileId,
    /// The version; 0 for whatever the session has open of the file.
    pub generation: Generation,
}

impl Plan for ReserveIds {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let counter = planner.state.counter;
        if !self.start && planner.context.durable < counter.at {
            return Ok(planner.apply(&Outcome::Done));
        }
        // To the nanosecond: a master that lost its volume may be started anew within the same second.
        let now = u128::try_from(planner.now().0).unwrap_or(0);
        let clock = u64::try_from((now << NUMBERS_PER_SECOND) / 1_000_000_000).unwrap_or(0);
        let next = if self.start { counter.end.max(clock).max(2) } else { counter.next };
        let end = next.max(counter.end).saturating_add(self.count);
        planner.push(Reserve { next, end });
        Ok(planner.apply(&Outcome::Done))
    }
}

impl Plan for OpenSession {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let session = planner.number()?;
        let lease_nanos = u64::try_from(self.lease.as_nanos()).unwrap_or(u64::MAX);
        planner.push(AddSession { session, name: self.name.clone(), lease_nanos });
        Ok(planner.apply(&Outcome::Session(SessionId(session))))
    }
}

impl Plan for EndSession {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        if planner.state.sessions.contains(&self.session) {
            planner.push(DropSession { session: self.session.0 });
        }
        Ok(planner.apply(&Outcome::Done))
    }
}

impl Plan for HoldFiles {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        planner.session(self.session)?;
        if self.count == 0 || self.count > HELD_MAX {
            return refuse(ErrorKind::Invalid, b"", "ids are held for 1 to 65536 files at once");
        }
        let numbers = u64::from(self.count) * 2;
        let first = planner.numbers(numbers)?;
        planner.push(HoldNumbers { session: self.session.0, first, end: first + numbers });
        Ok(planner.apply(&Outcome::Held { first, count: self.count }))
    }
}

impl Plan for Closed {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let from = Bound::Included(&(self.file, Generation(0)));
        let all = planner.state.orphans.range_from(from).take_while(|((file, _), _)| *file == self.file);
        let meant = |generation: Generation| self.generation.0 == 0 || self.generation == generation;
        let mine =
            all.filter(|((_, generation), orphan)| meant(*generation) && orphan.sessions.contains(&self.session.0));
        let mine: Vec<_> = mine.map(|((_, generation), orphan)| (generation.0, orphan.nameless)).collect();
        for (generation, nameless) in mine {
            planner.free_inode(self.file)?;
            let edit = planner.state.edit_on(self.file).filter(|edit| nameless && edit.session == self.session);
            if let Some(edit) = edit {
                planner.push(EndLease { lease: edit.id.0, committed: false });
            }
            planner.push(CloseOrphan { file: self.file.0, generation, session: self.session.0 });
        }
        Ok(planner.apply(&Outcome::Done))
    }
}

impl Planner<'_> {
    /// Refuses a session that is not open.
    pub(super) fn session(&self, session: SessionId) -> Result<(), Stop> {
        match self.state.sessions.contains(&session) {
            true => Ok(()),
            false => refuse(ErrorKind::Denied, b"", &format!("session {session} has ended; open another")),
        }
    }
}
