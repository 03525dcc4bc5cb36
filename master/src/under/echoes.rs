//! Until when our own actions changed directories, so that the stamps which they left there are not taken for a change by others.
//!
//! A name that we make or remove changes the times of its directory twice: in the namespace when the change is planned, and in
//! the under store a moment later, when it is made. The namespace's times have been told to whoever made the change, so they
//! stay. What others change later has later stamps, and is taken.
//!
//! Bounded: when it is full it is emptied, and a directory then takes the under store's times once.

use larder_common::{MountId, Times, Timestamp};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::{changes, naming::split};
use crate::state::UnderAction;

/// The most directories remembered.
const LIMIT: usize = 10_000;
/// By so much the clock that stamps files may be behind, in ns: it is only moved on by the kernel's ticks.
const BEHIND: i64 = 20_000_000;

/// When our own actions in directories were over.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    over: Mutex<FxHashMap<(MountId, Vec<u8>), Timestamp>>,
}

impl Echoes {
    /// An action is over.
    pub(super) fn over(&self, action: &UnderAction, now: Timestamp) {
        let mut over = self.over.lock();
        for path in changes::paths(action) {
            let above = split(&path.0).map(|(directory, _)| directory.to_vec());
            for directory in above.into_iter().chain([path.0.clone()]) {
                if over.len() >= LIMIT {
                    over.clear();
                }
                over.insert((action.mount, directory), now);
            }
        }
    }

    /// The times of a directory as they are to be compared and taken: those that are known, where what is seen is what our own
    /// action left.
    pub(super) fn heard(&self, mount: MountId, path: &[u8], known: (Timestamp, Timestamp), seen: Times) -> Times {
        let over = self.over.lock().get(&(mount, path.to_vec())).copied();
        let is_ours = over.is_some_and(|over| seen.changed <= over && seen.changed.0 >= known.1.0 - BEHIND);
        match is_ours {
            true => Times { modified: known.0, changed: known.1, ..seen },
            false => seen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Operation, Relative};

    const MOUNT: MountId = MountId(3);

    fn times(changed: i64) -> Times {
        let time = Timestamp(changed);
        Times { accessed: time, modified: time, changed: time }
    }

    #[test]
    fn what_our_own_action_left_is_not_taken_and_what_others_did_later_is() {
        let echoes = Echoes::default();
        let (planned, over) = (Timestamp(1_000_000_000), Timestamp(1_200_000_000));
        let heard = |path: &[u8], changed| echoes.heard(MOUNT, path, (planned, planned), times(changed)).changed.0;
        assert_eq!(heard(b"d", 1_100_000_000), 1_100_000_000, "nobody knows of an action");
        let operation = Operation::Remove {
            target: Relative(b"d/f".to_vec()),
            expected: crate::state::Expected::Any,
            directory: false,
            orphan: None,
        };
        let action = UnderAction { mount: MOUNT, directories: Vec::new(), destroy: Vec::new(), operation, sync: false };
        echoes.over(&action, over);
        assert_eq!(heard(b"d", 1_100_000_000), planned.0);
        assert_eq!(heard(b"d", 990_000_000), planned.0, "stamped by the last tick");
        assert_eq!(heard(b"d", 1_200_000_001), 1_200_000_001, "later than our action");
        assert_eq!(heard(b"d", 900_000_000), 900_000_000, "somebody has set an old time");
        assert_eq!(heard(b"e", 1_100_000_000), 1_100_000_000, "another directory");
    }
}
