//! What the kernel is told of a file, and for how long it may believe it.

use std::time::{Duration, Instant, SystemTime};

use fuser::{FileAttr, FileType, INodeNo};
use larder_client::{FileKind, FileStatus, Timestamp, Trust};
use larder_common::{Times, settings::FuseProfile};

use crate::options::MountOptions;

/// Longer than this the kernel believes nothing, whatever the options say: it bounds what a process that is stopped by a signal
/// can leave out of date.
const LONGEST: Duration = Duration::from_secs(60);
/// A tree that does not change while it is mounted is believed for so long, until it is called back.
const UNCHANGING: Duration = Duration::from_secs(3600);
/// Without a way to call names back, they are believed for so long.
const WITHOUT_EPOCH: Duration = Duration::from_secs(1);

/// How files are shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    uid: Option<u32>,
    gid: Option<u32>,
    umask: u32,
    attr_timeout: Option<Duration>,
    entry_timeout: Option<Duration>,
    /// The tree does not change while it is mounted.
    unchanging: bool,
}

impl View {
    pub(crate) fn new(options: &MountOptions) -> Self {
        Self {
            uid: options.uid,
            gid: options.gid,
            umask: options.umask.unwrap_or(0),
            attr_timeout: options.attr_timeout,
            entry_timeout: options.entry_timeout,
            unchanging: options.profile == Some(FuseProfile::Dataset),
        }
    }

    /// Whether owners are not shown as they are, so that calls are not made in the name of who asks either.
    pub(crate) fn is_squashed(&self) -> bool {
        self.uid.is_some() || self.gid.is_some()
    }

    /// Whether the tree does not change while it is mounted, so that its files are read without being opened.
    pub(crate) fn is_unchanging(&self) -> bool {
        self.unchanging
    }

    /// What `stat` shows.
    pub(crate) fn attributes(&self, status: &FileStatus) -> FileAttr {
        let Times { accessed, modified, changed } = status.times;
        let (kind, size, device) = match &status.kind {
            FileKind::File => (FileType::RegularFile, status.length, 0),
            FileKind::Directory => (FileType::Directory, 4096, 0),
            FileKind::Symlink(target) => (FileType::Symlink, target.len() as u64, 0),
            FileKind::Special(mode, device) => (special(*mode), 0, *device),
        };
        FileAttr {
            ino: INodeNo(status.id.0),
            size,
            blocks: size.div_ceil(512),
            atime: system(accessed),
            mtime: system(modified),
            ctime: system(changed),
            crtime: system(status.created),
            kind,
            perm: u16::try_from(status.mode & 0o7777 & !self.umask).unwrap_or(0),
            nlink: status.links,
            uid: self.uid.unwrap_or(status.uid),
            gid: self.gid.unwrap_or(status.gid),
            rdev: u32::try_from(device & 0xffff_ffff).unwrap_or(0),
            blksize: 4096,
            flags: 0,
        }
    }

    /// How long attributes and names are believed, of an answer that is trusted so, at a mount whose session is trusted until
    /// then; `epoch`: names can be called back.
    pub(crate) fn timeouts(&self, trusted: Trust, until: Instant, now: Instant, epoch: bool) -> Timeouts {
        if self.unchanging && trusted != Trust::No {
            return Timeouts {
                attributes: self.attr_timeout.unwrap_or(UNCHANGING),
                entry: self.entry_timeout.unwrap_or(UNCHANGING),
            };
        }
        let session = until.saturating_duration_since(now);
        let most = match trusted {
            Trust::No => Duration::ZERO,
            Trust::For(time) => session.min(time),
            // All of it is called back when the session is lost.
            Trust::Session if epoch && !session.is_zero() => LONGEST,
            Trust::Session => session,
        };
        let entry_most = if epoch { LONGEST } else { WITHOUT_EPOCH };
        Timeouts {
            attributes: most.min(self.attr_timeout.unwrap_or(LONGEST)),
            entry: most.min(self.entry_timeout.unwrap_or(LONGEST)).min(entry_most),
        }
    }
}

/// How long the kernel may believe an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timeouts {
    pub(crate) attributes: Duration,
    pub(crate) entry: Duration,
}

/// What kind of file an `S_IFMT` says.
fn special(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::Socket,
    }
}

/// What is listed of `.` and `..`, which the kernel does not look at.
pub(crate) fn nameless(inode: u64, kind: FileType) -> FileAttr {
    let time = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(inode),
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// The kind of an entry of a directory.
pub(crate) fn kind(kind: &FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink(_) => FileType::Symlink,
        FileKind::Special(mode, _) => special(*mode),
    }
}

fn system(time: Timestamp) -> SystemTime {
    let distance = Duration::from_nanos(time.0.unsigned_abs());
    let shifted = match time.0 >= 0 {
        true => SystemTime::UNIX_EPOCH.checked_add(distance),
        false => SystemTime::UNIX_EPOCH.checked_sub(distance),
    };
    shifted.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A time as the transport hands it over. Before 1970 it counts nanoseconds towards the past, where the kernel's count goes
/// towards the future: turned back here.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => Timestamp(i64::try_from(after.as_nanos()).unwrap_or(i64::MAX)),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            Timestamp::new(-seconds, i64::from(before.subsec_nanos()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_shown_and_set_as_they_are() {
        let time = Timestamp::new(-2, 250_000_000);
        let shown = SystemTime::UNIX_EPOCH.duration_since(system(time)).unwrap();
        assert_eq!(shown, Duration::from_millis(1750));
        // As the transport makes it of -2 s and 0.25 s.
        let set = SystemTime::UNIX_EPOCH - Duration::new(2, 250_000_000);
        assert_eq!(timestamp(set), time);
        assert_eq!(timestamp(system(Timestamp(1_500_000_000))), Timestamp(1_500_000_000));
    }

    #[test]
    fn nothing_is_believed_when_the_session_is_not_trusted_and_no_longer_where_it_cannot_be_called_back() {
        let (view, now) = (View::default(), Instant::now());
        let until = now + Duration::from_secs(7);
        let believed = |trusted, epoch| view.timeouts(trusted, until, now, epoch);
        assert_eq!(believed(Trust::Session, true).entry, LONGEST, "it can be called back");
        assert_eq!(believed(Trust::Session, false).attributes, Duration::from_secs(7));
        assert_eq!(believed(Trust::Session, false).entry, WITHOUT_EPOCH);
        assert_eq!(believed(Trust::For(Duration::from_secs(2)), true).attributes, Duration::from_secs(2));
        assert_eq!(believed(Trust::No, true), Timeouts::default());
        let late = now + Duration::from_secs(8);
        assert_eq!(view.timeouts(Trust::Session, until, late, true), Timeouts::default());
        let options = MountOptions::parse(["attr_timeout=0"]).unwrap();
        let short = View::new(&options).timeouts(Trust::Session, until, now, true);
        assert_eq!((short.attributes, short.entry), (Duration::ZERO, LONGEST));
        let dataset = View::new(&MountOptions::parse(["profile=dataset"]).unwrap());
        assert_eq!(dataset.timeouts(Trust::Session, until, late, true).entry, UNCHANGING);
        assert_eq!(dataset.timeouts(Trust::No, until, now, true), Timeouts::default());
    }
}
