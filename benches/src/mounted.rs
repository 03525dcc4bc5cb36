//! A mount of a cluster of the bench's own, served by a process of its own, so that its memory and what it moves can be
//! told apart from everything else.
//!
//! When the value goes, the process is asked to unmount; what is left of the mount goes with the directory it is in.

use std::{
    fs,
    path::{Path, PathBuf},
};

use larder_common::{ByteSize, Error, ErrorKind, Result};

use crate::{children::Server, cluster::Cluster, lab::Lab, scratch::Scratch};

const DEVICE: &str = "/dev/fuse";

/// A mount. Its process ends before its directory goes.
#[derive(Debug)]
pub(crate) struct Mounted {
    server: Server,
    path: PathBuf,
    _place: Scratch,
}

/// What passed through a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// What it read.
    pub(crate) read: u64,
    /// What it wrote: to the kernel, for the most part.
    pub(crate) written: u64,
}

/// Why nothing can be mounted here; `None` if it can be tried.
pub(crate) fn obstacle() -> Option<Error> {
    if Path::new(DEVICE).exists() {
        return None;
    }
    let error = Error::new(ErrorKind::Unsupported, format!("this machine has no {DEVICE}: nothing can be mounted"));
    Some(
        error.advise(
            "load the module (modprobe fuse), or start the container with --device /dev/fuse --cap-add SYS_ADMIN",
        ),
    )
}

impl Mounted {
    /// Mounts a cluster with these settings.
    ///
    /// # Errors
    /// `Unsupported` where nothing can be mounted; as the mount says why it does not come up.
    pub(crate) fn of(lab: &Lab<'_>, cluster: &Cluster, settings: &[&str]) -> Result<Self> {
        if let Some(error) = obstacle() {
            return Err(error);
        }
        lab.progress("mounting");
        let place = Scratch::on_disk(lab.options().disk.as_deref())?;
        let path = place.directory("mount")?;
        let server = cluster.mount(lab, &place, &path, settings)?;
        Ok(Self { server, path, _place: place })
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The most memory that its process has had.
    ///
    /// # Errors
    /// Where the process has ended.
    pub(crate) fn peak_memory(&self) -> Result<ByteSize> {
        let status = self.about("status")?;
        number(&status, "VmHWM:").map(|kilobytes| ByteSize(kilobytes << 10)).ok_or_else(unreadable)
    }

    /// What passed through its process so far.
    ///
    /// # Errors
    /// Where the process has ended.
    pub(crate) fn moved(&self) -> Result<Moved> {
        let io = self.about("io")?;
        let (read, written) = (number(&io, "rchar:"), number(&io, "wchar:"));
        Ok(Moved { read: read.ok_or_else(unreadable)?, written: written.ok_or_else(unreadable)? })
    }

    fn about(&self, what: &str) -> Result<String> {
        let path = format!("/proc/{}/{what}", self.server.pid());
        fs::read_to_string(&path).map_err(|e| Error::from(e).at(path.as_bytes()))
    }
}

fn unreadable() -> Error {
    Error::new(ErrorKind::Unsupported, "the kernel does not say what the mount's process uses")
}

/// The number after a name at the start of a line.
fn number(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_name() {
        let text = "VmPeak:\t  10 kB\nVmHWM:\t    2048 kB\nrchar: 7\n";
        assert_eq!((number(text, "VmHWM:"), number(text, "rchar:")), (Some(2048), Some(7)));
        assert_eq!((number(text, "wchar:"), number("wchar: x", "wchar:")), (None, None));
    }
}
