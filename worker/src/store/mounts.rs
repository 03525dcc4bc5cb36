//! What a directory is mounted on, and whether that outlives this process. Decisions are pure; [`Surroundings::look`]
//! reads the system once.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Which part of the file system is mounted; `/` is all of it.
    pub(crate) root: PathBuf,
    pub(crate) point: PathBuf,
    pub(crate) kind: String,
    pub(crate) source: String,
}

/// Where this process runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) mounts: Vec<Mount>,
    /// Whether mounts made here are seen by the first process.
    pub(crate) private: bool,
    pub(crate) container: bool,
}

impl Surroundings {
    /// Reads them from the system. What cannot be read counts as private.
    pub(crate) fn look() -> Self {
        let mounts = parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
        let space = |who: &str| fs::read_link(format!("/proc/{who}/ns/mnt")).ok();
        let private = space("self").is_none() || space("self") != space("1");
        let marked = ["/.dockerenv", "/run/.containerenv"].iter().any(|p| Path::new(p).exists());
        let layered = mounts.iter().any(|m| m.point == Path::new("/") && m.kind == "overlay");
        Self { mounts, private, container: marked || layered }
    }

    /// What `path` (absolute, without links) is mounted on. Of two mounts on one point the later covers the earlier.
    pub(crate) fn mount_of(&self, path: &Path) -> Option<&Mount> {
        let covers = self.mounts.iter().filter(|m| path.starts_with(&m.point));
        covers.max_by_key(|m| m.point.components().count())
    }

    /// Whether a directory on this mount outlives the process and its container. No when in doubt.
    pub(crate) fn is_lasting(&self, mount: Option<&Mount>) -> bool {
        let Some(mount) = mount else { return false };
        match mount.kind.as_str() {
            "overlay" | "aufs" => false,
            // In a container, its own /dev/shm has the source "shm"; a part of a host's tmpfs shows by its root.
            "tmpfs" | "ramfs" if self.container => mount.root != Path::new("/") && mount.source != "shm",
            "tmpfs" | "ramfs" => !self.private,
            _ => true,
        }
    }
}

/// `ID PARENT DEVICE ROOT POINT OPTIONS [FIELDS…] - KIND SOURCE OPTIONS`, blanks written as `\040`.
fn parse(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let (mut left, mut right) = (left.split(' ').skip(3), right.split(' '));
            let (root, point) = (PathBuf::from(plain(left.next()?)), PathBuf::from(plain(left.next()?)));
            Some(Mount { root, point, kind: right.next()?.into(), source: plain(right.next().unwrap_or("")) })
        })
        .collect()
}

fn plain(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
22 1 0:20 / / rw - overlay overlay rw
30 22 0:30 / /dev/shm rw,nosuid - tmpfs shm rw,size=65536k
31 22 0:31 /cache /mnt/ram\\040disk rw master:1 - tmpfs tmpfs rw
32 22 8:1 /vol /data rw - ext4 /dev/sda1 rw
";

    fn container() -> Surroundings {
        Surroundings { mounts: parse(TEXT), private: true, container: true }
    }

    #[test]
    fn the_deepest_mount_holds_a_path() {
        let here = container();
        let mount = here.mount_of(Path::new("/mnt/ram disk/x")).unwrap();
        assert_eq!((mount.kind.as_str(), mount.root.as_path()), ("tmpfs", Path::new("/cache")));
        assert_eq!(here.mount_of(Path::new("/database")).unwrap().kind, "overlay");
    }

    #[test]
    fn a_container_s_own_memory_and_layer_do_not_last() {
        let here = container();
        let lasting = |path: &str| here.is_lasting(here.mount_of(Path::new(path)));
        assert!(!lasting("/dev/shm"));
        assert!(!lasting("/opt"));
        assert!(lasting("/mnt/ram disk"));
        assert!(lasting("/data"));
        assert!(!Surroundings::default().is_lasting(None));
    }

    #[test]
    fn a_host_s_memory_lasts_unless_the_mounts_are_private() {
        let mount = Mount { root: "/".into(), point: "/dev/shm".into(), kind: "tmpfs".into(), source: "tmpfs".into() };
        assert!(Surroundings::default().is_lasting(Some(&mount)));
        assert!(!Surroundings { private: true, ..Surroundings::default() }.is_lasting(Some(&mount)));
    }
}
