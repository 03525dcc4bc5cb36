//! Who is asking: what every request carries, so that rights are checked where the answer is made.

use serde::{Deserialize, Serialize};

/// The user in whose name a request is made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Caller {
    /// The numeric user.
    pub uid: u32,
    /// The numeric groups, the primary one first. Never empty.
    pub gids: Vec<u32>,
    /// The user's name where it is known, else empty.
    pub name: String,
}

impl Caller {
    /// The superuser, as whom servers act on their own behalf.
    #[must_use]
    pub fn root() -> Self {
        Self { uid: 0, gids: vec![0], name: "root".into() }
    }

    /// Whether no rights are checked.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// The primary group.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.gids.first().copied().unwrap_or(self.uid)
    }

    /// Whether the mode bits of a file owned by `uid` and `gid` give this caller all of `wanted` (r = 4, w = 2, x = 1).
    ///
    /// As in POSIX: the first class that matches decides; root may read and write everything, and execute where any
    /// execute bit is set or the file is a directory.
    #[must_use]
    pub fn may(&self, wanted: u32, mode: u32, uid: u32, gid: u32, is_directory: bool) -> bool {
        if self.is_root() {
            return wanted & 1 == 0 || is_directory || mode & 0o111 != 0;
        }
        let class = match () {
            () if self.uid == uid => mode >> 6,
            () if self.gids.contains(&gid) => mode >> 3,
            () => mode,
        };
        class & wanted & 7 == wanted & 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_class_that_matches_decides() {
        let user = Caller { uid: 7, gids: vec![8, 9], name: String::new() };
        assert!(user.may(4, 0o400, 7, 0, false));
        assert!(!user.may(4, 0o044, 7, 8, false), "the owner is not asked as a member of the group");
        assert!(user.may(6, 0o060, 1, 9, false));
        assert!(!user.may(4, 0o004, 1, 9, false));
        assert!(user.may(4, 0o004, 1, 1, false));
    }

    #[test]
    fn root_may_all_but_execute_what_nobody_may() {
        let root = Caller::root();
        assert!(root.may(6, 0, 5, 5, false));
        assert!(!root.may(1, 0o644, 5, 5, false));
        assert!(root.may(1, 0, 5, 5, true));
    }
}
