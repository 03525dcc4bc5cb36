//! Names of users and groups of this machine for the numbers that the cluster keeps, and the other way round.

use std::{cell::RefCell, collections::HashMap};

use larder_common::{Error, ErrorKind, Result};
use nix::unistd::{Gid, Group, Uid, User};

/// Remembers names, so that a long listing asks for each once.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    users: RefCell<HashMap<u32, String>>,
    groups: RefCell<HashMap<u32, String>>,
}

impl Owners {
    /// The user's name, or the number where this machine knows none.
    pub(crate) fn user(&self, uid: u32) -> String {
        let name = || User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
        self.users.borrow_mut().entry(uid).or_insert_with(|| name().unwrap_or_else(|| uid.to_string())).clone()
    }

    /// The group's name, or the number.
    pub(crate) fn group(&self, gid: u32) -> String {
        let name = || Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name);
        self.groups.borrow_mut().entry(gid).or_insert_with(|| name().unwrap_or_else(|| gid.to_string())).clone()
    }
}

/// Who is to own something: `user`, `user:group`, `:group`, or `user:` for the user's own group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ownership {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

impl Ownership {
    /// Reads names or numbers.
    ///
    /// # Errors
    /// `Invalid` for a name that this machine does not know.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        if user.is_empty() && group.unwrap_or_default().is_empty() {
            let error = Error::new(ErrorKind::Invalid, format!("{text:?} names neither user nor group"));
            return Err(error.advise("write it as USER, USER:GROUP or :GROUP"));
        }
        let uid = if user.is_empty() { None } else { Some(uid(user)?) };
        let gid = match (group, uid) {
            (Some(""), Some(uid)) => Some(own_group(uid)?),
            (Some(group), _) => Some(gid(group)?),
            (None, _) => None,
        };
        Ok(Self { uid, gid })
    }
}

/// The number of a user by name or number.
///
/// # Errors
/// `Invalid` for a name that this machine does not know.
pub(crate) fn uid(text: &str) -> Result<u32> {
    let known = || User::from_name(text).ok().flatten().map(|user| user.uid.as_raw());
    text.parse().ok().or_else(known).ok_or_else(|| unknown("user", text))
}

/// The number of a group by name or number.
///
/// # Errors
/// `Invalid` for a name that this machine does not know.
pub(crate) fn gid(text: &str) -> Result<u32> {
    let known = || Group::from_name(text).ok().flatten().map(|group| group.gid.as_raw());
    text.parse().ok().or_else(known).ok_or_else(|| unknown("group", text))
}

fn own_group(uid: u32) -> Result<u32> {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map(|user| user.gid.as_raw()).ok_or_else(|| unknown("user", &uid.to_string()))
}

fn unknown(what: &str, name: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("this machine knows no {what} {name:?}")).advise("give the number")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<(Option<u32>, Option<u32>)> {
        Ownership::parse(text).ok().map(|ownership| (ownership.uid, ownership.gid))
    }

    #[test]
    fn numbers_and_names() {
        assert_eq!(of("7"), Some((Some(7), None)));
        assert_eq!(of("7:8"), Some((Some(7), Some(8))));
        assert_eq!(of(":8"), Some((None, Some(8))));
        assert_eq!(of("root"), Some((Some(0), None)));
        assert_eq!(of("root:"), Some((Some(0), Some(0))));
        for bad in ["", ":", "no-such-user-here", "0:no-such-group-here", "4000000001:"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_number_without_a_name_is_shown_as_it_is() {
        let owners = Owners::default();
        assert_eq!(owners.user(0), "root");
        assert_eq!(owners.user(4_000_000_001), "4000000001");
        assert_eq!(owners.group(4_000_000_001), "4000000001");
    }
}
