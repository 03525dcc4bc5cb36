//! Whether what is found in an under store is what was recorded. Pure.
//!
//! A file is itself while inode, size, time of change and birth are; a directory while its inode and birth are, for its
//! times change with each name in it.

use larder_common::{FileKind, Fingerprint, Name, Times, Timestamp};
use larder_ufs::{ObjectStatus, object::same_identity};

use super::ledger::Known;
use crate::state::{Expected, Seen};

/// Whether something found is the thing with this fingerprint.
#[must_use]
pub fn is_it(status: &ObjectStatus, fingerprint: &Fingerprint) -> bool {
    if status.kind.is_directory() {
        same_inode(&status.fingerprint, fingerprint)
    } else {
        same_identity(&status.fingerprint, fingerprint)
    }
}

/// Whether two fingerprints are of one inode, whatever is in it.
#[must_use]
pub fn same_inode(one: &Fingerprint, other: &Fingerprint) -> bool {
    let born_agrees = one.born == other.born || one.born == Timestamp(0) || other.born == Timestamp(0);
    one.inode == other.inode && born_agrees
}

/// Whether what is found (`None`: nothing) is what an action expects.
#[must_use]
pub fn as_expected(found: Option<&ObjectStatus>, expected: &Expected) -> bool {
    match (found, expected) {
        (None, Expected::Absent | Expected::Any) | (Some(_), Expected::Any) => true,
        (Some(status), Expected::Fingerprint(fingerprint)) => is_it(status, fingerprint),
        (Some(status), Expected::Inode(fingerprint)) => same_inode(&status.fingerprint, fingerprint),
        _ => false,
    }
}

/// Whether what is found is what the state has recorded: of a directory its times, for more of it is not known.
#[must_use]
pub fn is_recorded(known: &Known, kind: &FileKind, times: &Times, fingerprint: &Fingerprint) -> bool {
    match (known.directory, kind.is_directory()) {
        (true, true) => known.stored && known.times == (times.modified, times.changed),
        (false, false) => known.stored && known.fingerprint.as_ref() == Some(fingerprint),
        _ => false,
    }
}

/// Something found, as the state takes it.
#[must_use]
pub fn seen(name: Name, status: ObjectStatus) -> Seen {
    let ObjectStatus { kind, length, mode, uid, gid, links, times, fingerprint } = status;
    let length = if kind.is_directory() { 0 } else { length };
    Seen { name, kind, length, mode, uid, gid, times, links, fingerprint }
}

/// Whether a symbolic link at `path` (its directory's names) leads out of the store's root by its text alone. One that
/// leads through another link may leave it all the same; nobody follows it out.
#[must_use]
pub fn leaves_root(directory: &[u8], kind: &FileKind) -> bool {
    let FileKind::Symlink(text) = kind else { return false };
    if text.first() == Some(&b'/') {
        return true;
    }
    let mut depth = directory.split(|b| *b == b'/').filter(|name| !name.is_empty()).count();
    for part in text.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(kind: FileKind, inode: u64, modified: i64) -> ObjectStatus {
        let fingerprint = Fingerprint { inode, size: 1, modified: Timestamp(modified), ..Fingerprint::default() };
        ObjectStatus { kind, length: 1, mode: 0o644, uid: 0, gid: 0, links: 1, times: Times::default(), fingerprint }
    }

    #[test]
    fn a_directory_with_new_names_is_still_itself_and_a_file_with_new_content_is_not() {
        let (old, new) = (status(FileKind::Directory, 1, 1), status(FileKind::Directory, 1, 2));
        assert!(is_it(&new, &old.fingerprint));
        assert!(!is_it(&status(FileKind::File, 1, 2), &status(FileKind::File, 1, 1).fingerprint));
        assert!(!is_it(&status(FileKind::Directory, 2, 1), &old.fingerprint));
    }

    #[test]
    fn expectations() {
        let file = status(FileKind::File, 1, 1);
        let itself = Expected::Fingerprint(file.fingerprint.clone());
        assert!(as_expected(Some(&file), &itself) && as_expected(Some(&file), &Expected::Any));
        assert!(as_expected(None, &Expected::Absent) && as_expected(None, &Expected::Any));
        assert!(!as_expected(None, &itself) && !as_expected(Some(&file), &Expected::Absent));
    }

    #[test]
    fn links_that_leave_the_root() {
        let link = |text: &str| FileKind::Symlink(text.into());
        for (text, leaves) in [("b", false), ("../x", false), ("../../x", true), ("/etc", true), ("c/../../../x", true)]
        {
            assert_eq!(leaves_root(b"a", &link(text)), leaves, "{text}");
        }
        assert!(!leaves_root(b"", &FileKind::File));
    }
}
