//! A tmpfs of our own with huge pages for a MEM tier.
//!
//! It is mounted on the empty subdirectory `huge` of our own directory and has a marker in it. After a restart it is
//! found mounted and used again, never covered by a second one. `within_size` gives huge pages to what is large enough
//! for them; `always` would waste 2 MiB for each small file.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount, umount},
};

const MARKER: &str = "larder-huge";

/// Where our own tmpfs is, or would be, below our directory.
pub(crate) fn point(home: &Path) -> PathBuf {
    home.join("huge")
}

/// Whether something is mounted on a directory.
fn is_mounted(point: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).map(|m| m.dev()).ok();
    let parent = point.parent().and_then(device);
    device(point).is_some_and(|own| Some(own) != parent)
}

/// Our tmpfs below `home`, if it is mounted and ours.
pub(crate) fn found(home: &Path) -> Option<PathBuf> {
    let point = point(home);
    (is_mounted(&point) && point.join(MARKER).exists()).then_some(point)
}

/// Mounts one, or says why not.
pub(crate) fn prepare(home: &Path) -> Result<PathBuf, String> {
    let point = point(home);
    let said = |e: io::Error| format!("{}: {e}", point.display());
    if is_mounted(&point) {
        return Err(format!("something else is mounted on {}", point.display()));
    }
    if home.join("index").exists() {
        return Err("the directory holds content from before; it is used again once that is gone".into());
    }
    match fs::create_dir(&point) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(said(e)),
        _ => {}
    }
    if fs::read_dir(&point).map_err(said)?.next().is_some() {
        return Err(format!("{} is not empty", point.display()));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("larder"), &point, Some("tmpfs"), flags, Some("huge=within_size,mode=0700")).map_err(refused)?;
    if let Err(e) = fs::write(point.join(MARKER), b"made and used by larder\n") {
        // Without its marker it would not be found again.
        let _ = umount(&point);
        return Err(said(e));
    }
    Ok(point)
}

fn refused(errno: Errno) -> String {
    match errno {
        Errno::EPERM | Errno::EACCES => "mounting needs root and CAP_SYS_ADMIN".into(),
        Errno::EINVAL => "this kernel has no huge pages for tmpfs".into(),
        other => format!("mount: {other}"),
    }
}

/// Gives it the size of the quota, so that the medium refuses what the books would.
pub(crate) fn resize(point: &Path, bytes: u64) -> Result<(), String> {
    let size = bytes.next_multiple_of(2 << 20);
    let options = format!("huge=within_size,mode=0700,size={size}");
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("larder"), point, Some("tmpfs"), flags, Some(options.as_str())).map_err(refused)
}

/// Takes it away, with everything in it.
pub(crate) fn remove(home: &Path) -> io::Result<()> {
    match found(home) {
        Some(point) => Ok(umount(&point)?),
        None => Ok(()),
    }
}
