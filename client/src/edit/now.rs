//! What can be asked of an edit, and done with it, without waiting: for whoever answers a kernel on the thread that asked.
//!
//! What is *shown* is kept beside the place, so that it can be said while the lease is being given up or asked for. The order
//! matters where a commit ends: its status is set before what is pending is taken back, so that who asks for what is pending
//! first and for the status then finds each change in one of the two.

use std::sync::atomic::Ordering;

use larder_common::{Error, ErrorKind, Result, Timestamp};

use super::{Content, Edit, Place};

/// What is known of an edit without waiting.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    /// The length, while the lease is held.
    pub(super) length: Option<u64>,
    /// When it was changed, until that is committed.
    pub(super) modified: Option<Timestamp>,
}

/// What an edit has that is not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The length of the file now.
    pub length: u64,
    /// When it was changed last, by [`super::EditOptions::clock`]; `None`: everything is committed.
    pub modified: Option<Timestamp>,
}

impl Edit {
    /// What is not committed; `None` while the lease is given up, when the file is as [`Edit::status`] says or newer.
    #[must_use]
    pub fn pending(&self) -> Option<Pending> {
        if let Ok(place) = self.0.place.try_read()
            && let Some(place) = &*place
        {
            self.0.show(place);
        }
        let shown = *self.0.shown.lock();
        shown.length.map(|length| Pending { length, modified: shown.modified })
    }

    /// Whether who had the file open in this process before, and asked for [`super::EditOptions::shared`], sees what is written.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.0.in_place.load(Ordering::Acquire)
    }

    /// As [`Edit::write_at`], where that needs no message; `None`: it does, and nothing was written.
    pub fn write_now(&self, offset: u64, bytes: &[u8]) -> Option<Result<()>> {
        let place = self.0.place.try_read().ok()?;
        self.put(place.as_ref()?, offset, bytes)
    }

    /// As [`Edit::append`], where that needs no message; `None`: it does, and nothing was written.
    pub fn append_now(&self, bytes: &[u8]) -> Option<Result<u64>> {
        let _end = self.0.end.try_lock().ok()?;
        let place = self.0.place.try_read().ok()?;
        let place = place.as_ref()?;
        let at = place.length().ok()?;
        self.put(place, at, bytes).map(|put| put.map(|()| at))
    }

    fn put(&self, place: &Place, offset: u64, bytes: &[u8]) -> Option<Result<()>> {
        let Content::Local(local) = &place.bytes else { return None };
        let end = offset.checked_add(bytes.len() as u64).filter(|end| i64::try_from(*end).is_ok());
        let Some(end) = end else {
            return Some(Err(Error::new(ErrorKind::Invalid, "a file of more than 2^63 bytes")));
        };
        if bytes.is_empty() || !local.is_ready(&(offset..end)) {
            return None;
        }
        let touched = offset.min(place.length().ok()?)..end;
        // Before and after, as in `write`.
        self.0.mark(touched.clone());
        let written = local.write(offset, bytes);
        self.0.mark(touched);
        self.0.show(place);
        Some(written)
    }

    /// As [`Edit::read_at`], if the lease is held; `None`: it is not, and the file is what was committed last.
    ///
    /// # Errors
    /// As [`Edit::read_at`].
    pub async fn read_held(&self, offset: u64, buffer: &mut [u8]) -> Result<Option<usize>> {
        let place = self.0.place.read().await;
        match &*place {
            Some(place) => self.0.read(place, offset, buffer, self.0.core.link.deadline()).await.map(Some),
            None => Ok(None),
        }
    }

    /// Has all bytes at the worker: the file is about to lose its last name, and what it began as its place.
    ///
    /// # Errors
    /// As [`Edit::read_at`]; `NoSpace`.
    pub async fn complete(&self) -> Result<()> {
        self.0
            .with(async |place, deadline| match &place.bytes {
                Content::Local(local) => self.0.bring(local, 0..local.length()?, deadline).await,
                Content::Remote(remote) => {
                    let mut buffer = vec![0; super::remote::PIECE];
                    let mut at = 0;
                    while at < remote.length() {
                        let _gate = self.0.gate.lock().await;
                        match remote.read(at, &mut buffer, deadline).await? {
                            0 => break,
                            read => at += read as u64,
                        }
                    }
                    Ok(())
                }
            })
            .await
    }
}
