//! What is asked of the cache for a file or directory: pin, time to live, copies, eviction policy. None of it reaches the
//! under store, except a file that is deleted when its time is over.

use larder_common::{
    ErrorKind, FileId, Name,
    file::{Ttl, TtlAction},
};

use super::{
    command::{Place, Target},
    encoding::ttl_action_number,
    entry::{PinChange, PolicyChange, ReplicationChange, TtlChange},
    outcome::{Outcome, Planned},
    planner::{Plan, Planner, Stop, refuse},
    removing::{Remove, RemoveKind},
};

/// Keep the blocks of a file, or of all files below a directory, in the cache, or no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetPin {
    /// Of what.
    pub target: Target,
    /// Whether they stay.
    pub pinned: bool,
}

/// Give something a time to live, or take it away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetTtl {
    /// What.
    pub target: Target,
    /// How long, and what happens then.
    pub ttl: Option<Ttl>,
}

/// Ask for so many copies in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetReplication {
    /// Of what.
    pub target: Target,
    /// At least so many; 0 for "as it comes".
    pub min: u32,
}

/// Fix the eviction policy of all that is below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetPolicy {
    /// The directory or file.
    pub target: Target,
    /// The policy's name; `None` for the default.
    pub policy: Option<String>,
}

/// A time to live is over, the leader's clock says. `Delete` removes the thing with all below it and answers
/// [`super::Outcome::Removed`]; `Free` takes the time to live away, and the caller frees the blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TtlExpired {
    /// Whose.
    pub file: FileId,
}

impl Plan for SetPin {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let (inode, _) = planner.target(&self.target)?;
        planner.may(inode, 2)?;
        planner.push(PinChange { file: inode.id().0, pinned: self.pinned });
        Ok(planner.apply(&Outcome::Done))
    }
}

impl Plan for SetTtl {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let (inode, mount) = planner.target(&self.target)?;
        planner.may(inode, 2)?;
        if self.ttl.is_some_and(|ttl| ttl.action == TtlAction::Delete) {
            planner.writable(mount)?;
        }
        let (after, action) = self.ttl.map_or((0, 0), |ttl| {
            (u64::try_from(ttl.after.as_nanos()).unwrap_or(u64::MAX), ttl_action_number(ttl.action))
        });
        planner.push(TtlChange { file: inode.id().0, after, action });
        Ok(planner.apply(&Outcome::Done))
    }
}

impl Plan for SetReplication {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let (inode, _) = planner.target(&self.target)?;
        planner.may(inode, 2)?;
        planner.push(ReplicationChange { file: inode.id().0, min: self.min });
        Ok(planner.apply(&Outcome::Done))
    }
}

impl Plan for SetPolicy {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let (inode, _) = planner.target(&self.target)?;
        planner.may(inode, 2)?;
        planner.push(PolicyChange { file: inode.id().0, policy: self.policy.clone() });
        Ok(planner.apply(&Outcome::Done))
    }
}

impl Plan for TtlExpired {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let state = planner.state;
        let due = state.side.ttls.get(&self.file).filter(|entry| entry.due <= planner.now());
        let (Some(entry), Some(inode)) = (due, state.tree.attached(self.file)) else {
            return Ok(planner.apply(&Outcome::Done));
        };
        let name = Name::new(state.tree.name(inode));
        let (Ok(name), TtlAction::Delete, Some(parent)) = (name, entry.ttl.action, state.tree.parent(inode)) else {
            planner.push(TtlChange { file: self.file.0, after: 0, action: 0 });
            return Ok(planner.apply(&Outcome::Done));
        };
        if state.lease_of.contains(&self.file) {
            return refuse(ErrorKind::Busy, name.as_bytes(), "somebody is writing the file");
        }
        let place = Place::Child(parent.id(), name);
        let (kind, expected, holders) = (RemoveKind::Any, Some(self.file), Vec::new());
        Remove { place, recursive: true, kind, cache_only: false, expected, holders }.plan(planner)
    }
}
