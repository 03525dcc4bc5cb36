//! What a store answers: the status of an object, a page of a listing, the outcome of a fetch.
//!
//! Also the two pure questions about fingerprints: [`same_identity`] and [`is_settled`].

use std::time::Duration;

use larder_common::{FileKind, Fingerprint, Name, Times, Timestamp};

/// What a store says of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectStatus {
    /// What it is; a symbolic link with its target as it was written.
    pub kind: FileKind,
    /// Length in bytes; 0 for a directory.
    pub length: u64,
    /// Permission bits with setuid, setgid and sticky: 12 bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Number of names.
    pub links: u32,
    /// The three times.
    pub times: Times,
    /// What a later look is compared with.
    pub fingerprint: Fingerprint,
}

/// Some entries of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// Names with what they name, in byte order.
    pub entries: Vec<(Name, ObjectStatus)>,
    /// Whether more follow: ask again, after the last name of this page.
    pub more: bool,
}

/// How much a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all; 0 where there is no limit.
    pub total: u64,
    /// Bytes that can still be written; 0 together with `total` 0 where there is no limit.
    pub free: u64,
}

/// The outcome of a fetch that read what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// How many bytes the sink was given. Fewer than the range's where the object ends before.
    pub bytes: u64,
    /// The fingerprint, the same before and after reading.
    pub fingerprint: Fingerprint,
    /// Whether the fingerprint is old enough to be trusted ([`is_settled`]). Where not, take it again a moment later
    /// (and compare) before bytes are kept under it.
    pub settled: bool,
}

/// One entry of a sample: how two servers compare what they see in a store that neither can write to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleEntry {
    /// Name in the root.
    pub name: Name,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Content last changed.
    pub modified: Timestamp,
}

/// How close to its own change a fingerprint may be taken and still be believed, where stamps are finer than seconds.
pub const SETTLE: Duration = Duration::from_millis(10);
/// The same where stamps are whole seconds.
pub const SETTLE_SECONDS: Duration = Duration::from_secs(2);

/// Whether two fingerprints are of the same content, looking past what a rename does to it: it sets the time of the
/// inode's last change.
#[must_use]
pub fn same_identity(one: &Fingerprint, other: &Fingerprint) -> bool {
    let born_agrees = one.born == other.born || one.born == Timestamp(0) || other.born == Timestamp(0);
    let same_stamps = one.inode == other.inode && one.size == other.size && one.modified == other.modified;
    same_stamps && born_agrees && one.etag == other.etag
}

/// Whether a fingerprint taken at `now` can be trusted: a second change within the same tick of the file system's clock
/// would leave the same stamps.
///
/// A stamp in the future (another host's clock) counts as settled: waiting for it could take for ever, and two changes
/// in one tick of it are as likely as in any other.
#[must_use]
pub fn is_settled(fingerprint: &Fingerprint, now: Timestamp) -> bool {
    if !fingerprint.etag.is_empty() || now < fingerprint.changed {
        return true;
    }
    let whole_seconds = fingerprint.changed.nanos() == 0 && fingerprint.modified.nanos() == 0;
    now.since(fingerprint.changed) > if whole_seconds { SETTLE_SECONDS } else { SETTLE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(changed: Timestamp) -> Fingerprint {
        Fingerprint { inode: 1, size: 2, modified: Timestamp(3), changed, ..Fingerprint::default() }
    }

    #[test]
    fn a_young_fingerprint_is_not_trusted() {
        let at = Timestamp::new(100, 5);
        assert!(!is_settled(&fingerprint(at), at.plus(Duration::from_millis(9))));
        assert!(is_settled(&fingerprint(at), at.plus(Duration::from_millis(11))));
        assert!(is_settled(&fingerprint(at), Timestamp::new(99, 0)));
        let coarse = Fingerprint { modified: Timestamp(0), ..fingerprint(Timestamp::new(100, 0)) };
        assert!(!is_settled(&coarse, Timestamp::new(101, 0)));
        assert!(is_settled(&coarse, Timestamp::new(102, 1)));
    }

    #[test]
    fn a_rename_keeps_the_identity_and_a_change_does_not() {
        let before = fingerprint(Timestamp(10));
        assert!(same_identity(&before, &fingerprint(Timestamp(20))));
        assert!(!same_identity(&before, &Fingerprint { size: 3, ..before.clone() }));
        let (born, reborn) = (Timestamp(1), Timestamp(2));
        assert!(!same_identity(&Fingerprint { born, ..before.clone() }, &Fingerprint { born: reborn, ..before }));
    }
}
