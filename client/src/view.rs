//! Bytes of a file in place, without a copy where they are local.

use std::{fmt, ops::Deref, sync::Arc};

use bytes::Bytes;

use crate::{leases::Local, mapping::Mapping};

/// Bytes of one version of a file. They never change while the view lives: for local bytes it holds a lease, and the
/// worker does not reuse the space before the view is dropped.
pub struct View(Kind);

enum Kind {
    Mapped { mapping: Arc<Mapping>, start: usize, end: usize, _lease: Arc<Local> },
    Copied(Bytes),
}

impl View {
    pub(crate) fn mapped(mapping: Arc<Mapping>, start: usize, end: usize, lease: Arc<Local>) -> Self {
        Self(Kind::Mapped { mapping, start, end, _lease: lease })
    }

    pub(crate) fn copied(bytes: Bytes) -> Self {
        Self(Kind::Copied(bytes))
    }

    /// Whether the bytes lie in the worker's memory and were not copied.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        matches!(self.0, Kind::Mapped { .. })
    }
}

impl Deref for View {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Kind::Mapped { mapping, start, end, .. } => mapping.bytes(*start, *end),
            Kind::Copied(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<View> for Bytes {
    fn from(view: View) -> Bytes {
        match view.0 {
            Kind::Copied(bytes) => bytes,
            mapped @ Kind::Mapped { .. } => Bytes::from_owner(View(mapped)),
        }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View({} bytes, {})", self.len(), if self.is_mapped() { "mapped" } else { "copied" })
    }
}
