//! What `-o` can say, as users of other mounts expect it. Unknown options are refused by name.

use std::time::Duration;

use larder_common::{Error, ErrorKind, Result, settings::FuseProfile};

/// The options of a mount. Later ones win.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Nothing can be changed through this mount.
    pub read_only: bool,
    /// Other users than the one who mounts may use it (`allow_other`).
    pub allow_other: bool,
    /// Only root and the one who mounts may use it (`allow_root`).
    pub allow_root: bool,
    /// Everything seems to belong to this user.
    pub uid: Option<u32>,
    /// Everything seems to belong to this group.
    pub gid: Option<u32>,
    /// Permission bits that are taken away from what is seen.
    pub umask: Option<u32>,
    /// The longest read request, in bytes.
    pub max_read: Option<u32>,
    /// How long the kernel may remember attributes, at most.
    pub attr_timeout: Option<Duration>,
    /// How long the kernel may remember names, at most.
    pub entry_timeout: Option<Duration>,
    /// What the mount is tuned for.
    pub profile: Option<FuseProfile>,
    /// What the kernel is told as it is: `nosuid`, `noexec`, `noatime`, and their like.
    pub flags: Vec<&'static str>,
    /// The source that `mount` shows.
    pub fsname: Option<String>,
    /// Stay in the foreground (`foreground`, `background`); `None` where nothing was said.
    pub foreground: Option<bool>,
}

/// Options that are the kernel's own.
const FLAGS: &[&str] =
    &["dev", "nodev", "suid", "nosuid", "exec", "noexec", "atime", "noatime", "sync", "async", "dirsync"];

/// Options of other mounts that are always so here, or that only other programs read.
const ACCEPTED: &[&str] = &[
    "default_permissions",
    "auto_unmount",
    "_netdev",
    "nofail",
    "auto",
    "noauto",
    "user",
    "users",
    "nouser",
    "defaults",
];

impl MountOptions {
    /// Reads lists with commas, as `-o a,b=c -o d` gives them.
    ///
    /// # Errors
    /// `Config` for an option that is not known, and for a value that makes no sense.
    pub fn parse<'a>(lists: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut options = Self::default();
        for option in lists.into_iter().flat_map(|list| list.split(',')).map(str::trim).filter(|o| !o.is_empty()) {
            options.take(option)?;
        }
        Ok(options)
    }

    fn take(&mut self, option: &str) -> Result<()> {
        match option.split_once('=') {
            Some((name, value)) => self.take_value(option, name, value),
            None => self.take_word(option),
        }
    }

    fn take_word(&mut self, option: &str) -> Result<()> {
        match option {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "allow_other" => self.allow_other = true,
            "allow_root" => self.allow_root = true,
            "foreground" => self.foreground = Some(true),
            "background" => self.foreground = Some(false),
            other => match FLAGS.iter().find(|flag| **flag == other) {
                Some(flag) => self.flag(flag),
                None if ACCEPTED.contains(&other) => {}
                None => return Err(unknown(option)),
            },
        }
        Ok(())
    }

    /// A flag takes the place of its contrary.
    fn flag(&mut self, flag: &'static str) {
        let base = |flag: &'static str| flag.strip_prefix("no").unwrap_or(flag).trim_start_matches('a');
        let is_time = |flag: &str| flag.ends_with("time");
        self.flags.retain(|other| base(other) != base(flag) || is_time(other) != is_time(flag));
        self.flags.push(flag);
    }

    fn take_value(&mut self, option: &str, name: &str, value: &str) -> Result<()> {
        let number = |radix| u32::from_str_radix(value, radix).map_err(|_| wrong(option, "a number"));
        let seconds = || match value.parse::<f64>() {
            Ok(seconds) if (0.0..1e9).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
            _ => Err(wrong(option, "seconds")),
        };
        match name {
            "uid" => self.uid = Some(number(10)?),
            "gid" => self.gid = Some(number(10)?),
            "umask" => self.umask = Some(number(8)? & 0o777),
            "max_read" => self.max_read = Some(number(10)?.max(4096)),
            "attr_timeout" => self.attr_timeout = Some(seconds()?),
            "entry_timeout" => self.entry_timeout = Some(seconds()?),
            "profile" => self.profile = Some(value.parse().map_err(|_| wrong(option, "`general` or `dataset`"))?),
            "fsname" => self.fsname = Some(value.to_owned()),
            "subtype" | "x-systemd.requires" => {}
            _ => return Err(unknown(option)),
        }
        Ok(())
    }
}

fn unknown(option: &str) -> Error {
    Error::new(ErrorKind::Config, format!("unknown mount option {option:?}")).advise(
        "known are ro, rw, allow_other, allow_root, uid=, gid=, umask=, max_read=, attr_timeout=, entry_timeout=, profile=, \
         fsname=, foreground, background, and flags as nosuid or noexec",
    )
}

fn wrong(option: &str, wanted: &str) -> Error {
    Error::new(ErrorKind::Config, format!("mount option {option:?} needs {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_other_mounts_read_them() {
        let options =
            MountOptions::parse(["ro,allow_other,uid=1000", "umask=022,attr_timeout=1.5,profile=dataset,nosuid"]);
        let options = options.unwrap();
        assert!(options.read_only && options.allow_other);
        assert_eq!((options.uid, options.umask), (Some(1000), Some(0o022)));
        assert_eq!(options.attr_timeout, Some(Duration::from_millis(1500)));
        assert_eq!(options.profile, Some(FuseProfile::Dataset));
        assert_eq!(options.flags, ["nosuid"]);
        assert_eq!(MountOptions::parse(["", "defaults,,"]).unwrap(), MountOptions::default());
    }

    #[test]
    fn the_last_one_wins() {
        assert!(!MountOptions::parse(["ro,rw"]).unwrap().read_only);
        let flags = |list| MountOptions::parse([list]).unwrap().flags;
        assert_eq!(flags("nosuid,suid,noexec"), ["suid", "noexec"]);
        assert_eq!(flags("noatime,atime,sync,async"), ["atime", "async"]);
    }

    #[test]
    fn what_is_not_known_or_makes_no_sense_is_refused_by_name() {
        for bad in ["writeback", "uid=me", "umask=9", "attr_timeout=-1", "profile=fast", "max_read="] {
            let error = MountOptions::parse([bad]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
            assert!(error.message().contains(bad), "{error}");
        }
    }
}
