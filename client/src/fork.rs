//! Notices that this process was forked: connections, tasks and leases are the parent's.
//!
//! A handler of `pthread_atfork` counts in the child; whoever was made before compares. It costs one load, where asking
//! for the process id would be a system call on the warm path.

use std::sync::{
    Once,
    atomic::{AtomicU64, Ordering},
};

use larder_common::{Error, ErrorKind, Result};

static FORKS: AtomicU64 = AtomicU64::new(0);
static REGISTERED: Once = Once::new();

extern "C" fn count() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// The process in which something was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Born(u64);

impl Born {
    pub(crate) fn here() -> Self {
        REGISTERED.call_once(|| {
            // SAFETY: the handler only adds to an atomic, which is allowed in a forked child of a threaded process. A
            // failure (no memory) leaves forks unnoticed, as if this library had not looked.
            let _ = unsafe { nix::libc::pthread_atfork(None, None, Some(count)) };
        });
        Self(FORKS.load(Ordering::Relaxed))
    }

    /// # Errors
    /// `Invalid` in a child that was forked since.
    pub(crate) fn check(self) -> Result<()> {
        if self.0 == FORKS.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Invalid, "this process was forked after it had connected")
            .advise("call FileSystem::connect in the child"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_told() {
        let born = Born::here();
        assert!(born.check().is_ok());
        count();
        assert_eq!(born.check().unwrap_err().kind(), ErrorKind::Invalid);
        assert!(Born::here().check().is_ok(), "what is made in the child works");
    }
}
