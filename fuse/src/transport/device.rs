//! The kernel's device: what is said to it beside the replies that the transport's library makes.

use std::{
    fs::File,
    io::{self, IoSlice, Write},
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

use fuser::BackingId;
use larder_client::passthrough::WholeLease;

use super::raw;

nix::ioctl_write_ptr!(
    /// `FUSE_DEV_IOC_BACKING_CLOSE`.
    backing_close,
    229,
    2,
    u32
);

/// The device of one mount. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Device(Arc<File>);

impl Device {
    pub(crate) fn new(descriptor: OwnedFd) -> Self {
        Self(Arc::new(File::from(descriptor)))
    }

    /// A message as a whole; the kernel takes no parts.
    pub(crate) fn send(&self, parts: &[&[u8]]) -> io::Result<()> {
        let parts: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        (&*self.0).write_vectored(&parts).map(drop)
    }

    /// Everything that the kernel knows of names is out of date (Linux 6.16 and later).
    pub(crate) fn raise_epoch(&self) -> io::Result<()> {
        self.send(&[&raw::notification(raw::INC_EPOCH, 0)])
    }

    /// The attributes of a node are out of date; its pages stay. Takes no lock that a request could hold.
    pub(crate) fn invalidate_attributes(&self, node: u64) -> io::Result<()> {
        match self.send(&[&raw::notification(raw::INVAL_INODE, 24), &raw::inval_inode(node, -1, 0)]) {
            // The kernel does not have it any more.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// All that the kernel keeps of a node is out of date. Waits for pages that are being read: never while somebody waits for us.
    pub(crate) fn invalidate_pages(&self, node: u64) -> io::Result<()> {
        match self.send(&[&raw::notification(raw::INVAL_INODE, 24), &raw::inval_inode(node, 0, 0)]) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// A name is out of date. Waits for the lock of its directory: never while somebody waits for us.
    pub(crate) fn invalidate_entry(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        let length = u32::try_from(name.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let header = raw::notification(raw::INVAL_ENTRY, 16 + length + 1);
        match self.send(&[&header, &raw::inval_entry(parent, length), name, &[0]]) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Has the kernel read a cache file itself. The descriptor is closed, the lease stays.
    pub(crate) fn register(&self, mut lease: WholeLease) -> io::Result<Backing> {
        let descriptor = lease.take_descriptor().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        let id = BackingId::create_raw(&*self.0, descriptor)?;
        Ok(Backing { device: self.clone(), id, _lease: lease })
    }
}

/// A cache file that the kernel reads itself, under a number. It ends in `Drop`, and then the lease.
#[derive(Debug)]
pub(crate) struct Backing {
    device: Device,
    pub(crate) id: u32,
    _lease: WholeLease,
}

impl Drop for Backing {
    fn drop(&mut self) {
        // SAFETY: the device is open, and the kernel only reads the number.
        if let Err(error) = unsafe { backing_close(self.device.0.as_raw_fd(), &raw const self.id) } {
            // At the end of a mount the kernel has let go of all of them already.
            tracing::debug!(%error, id = self.id, "the kernel had no such cache file");
        }
    }
}
