//! Writing into a published file in place.
//!
//! The file is opened once and compared through that descriptor, so that what is compared is what is written, also when
//! its name changes hands meanwhile. Nothing can be undone: whoever asks has recorded that it was about to.

use std::{fs::File, os::fd::AsFd};

use larder_common::{ErrorKind, Fingerprint, Result};
use nix::fcntl::OFlag;

use super::{
    pool::Progress,
    root::Root,
    syscalls,
    upload::{self, Target},
};
use crate::{ObjectPath, Patch};

pub(super) fn patch(
    root: &Root,
    path: &ObjectPath,
    expected: &Fingerprint,
    patch: &Patch,
    progress: &Progress,
) -> Result<Fingerprint> {
    let place = root.place(path)?;
    let target = Target::new(File::from(place.open(OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)?));
    let stat = |file: &File| syscalls::stat(file.as_fd(), b"").map_err(|e| place.failure(e));
    let found = stat(&target.file)?.status;
    if found.fingerprint != *expected {
        return Err(place.error(ErrorKind::Changed, "what is in the under store is not what was expected"));
    }
    for range in &patch.ranges {
        upload::copy(&patch.source, range.clone(), &target, range.start, progress)?;
    }
    if stat(&target.file)?.status.length != patch.length {
        target.file.set_len(patch.length)?;
    }
    progress.step()?;
    if patch.sync {
        target.file.sync_data()?;
    }
    Ok(stat(&target.file)?.status.fingerprint)
}
