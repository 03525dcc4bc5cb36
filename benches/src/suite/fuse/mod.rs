//! What programs that only know files see: a mount of a cluster, beside plain files of the tmpfs that the cache lies in.
//!
//! Both sides of every comparison are the same code with other paths.

pub(crate) mod names;
pub(crate) mod read;
pub(crate) mod small;
pub(crate) mod write;

use std::{
    fs,
    path::{Path, PathBuf},
};

use larder_common::{Error, ErrorKind, Result};

use crate::{
    cluster::Pages,
    home::{Home, Room},
    lab::Lab,
    mounted::Mounted,
    scratch::bytes,
};

/// A cluster, its mount, and a directory beside it in the same tmpfs. The mount goes first.
pub(super) struct Site<'a> {
    mounted: Mounted,
    twins: PathBuf,
    under: PathBuf,
    home: Home<'a>,
}

impl<'a> Site<'a> {
    /// A mount with these settings. What is being written through it lies in the tmpfs, too.
    fn prepare(lab: &'a Lab<'a>, room: Room, pages: Pages, settings: &[&str]) -> Result<Self> {
        if let Some(error) = crate::mounted::obstacle() {
            return Err(error);
        }
        let home = Home::with_worker(lab, room, pages)?;
        let (twins, scratch) = (home.memory().join("twins"), home.memory().join("scratch"));
        for made in [&twins, &scratch] {
            fs::create_dir(made).map_err(|e| Error::from(e).at(bytes(made)))?;
        }
        let scratch = format!("fuse.scratch.folder={}", scratch.display());
        let settings: Vec<_> = settings.iter().copied().chain([scratch.as_str()]).collect();
        let none = || Error::new(ErrorKind::Invalid, "a mount is measured with a cluster of its own");
        let mounted = Mounted::of(lab, home.cluster().ok_or_else(none)?, &settings)?;
        let under = home.under().ok_or_else(none)?;
        Ok(Self { mounted, twins, under, home })
    }

    /// A path on the mount.
    fn at(&self, name: &str) -> PathBuf {
        self.mounted.path().join(name)
    }

    /// Its twin in the tmpfs.
    fn twin(&self, name: &str) -> PathBuf {
        self.twins.join(name)
    }
}

/// An error at a path.
fn at(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |error| Error::from(error).at(bytes(path))
}

/// Closes a file, and says what went wrong: a mount may only know then.
fn close(path: &Path, file: fs::File) -> Result<()> {
    nix::unistd::close(file).map_err(|e| Error::from(std::io::Error::from(e)).at(bytes(path)))
}
