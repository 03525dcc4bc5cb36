//! Where something is in an under store: [`ObjectPath`] for what its users see, [`TemporaryName`] and [`OrphanName`]
//! for what Larder keeps there for itself.
//!
//! All are bytes, relative to the store's root, and already normal, so that no store has to look for `..` again.

use std::{fmt, sync::Arc};

use larder_common::{Error, ErrorKind, Name, Result, path::PATH_MAX};
use serde::{Deserialize, Serialize};

/// A path below the root of an under store: names joined by `/`, none at either end. The root is the empty path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct ObjectPath(Arc<[u8]>);

impl ObjectPath {
    /// The store's root.
    #[must_use]
    pub fn root() -> Self {
        Self(Arc::from(&b""[..]))
    }

    /// Checks and keeps a path.
    ///
    /// # Errors
    /// `Invalid` for an absolute path, empty parts, `.`, `..` and NUL; `NameTooLong` above 255 bytes a name or 4095 in
    /// all (what one system call takes).
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self> {
        let bytes = bytes.as_ref();
        if bytes.len() >= PATH_MAX {
            let message = format!("a path of {} bytes; the longest is {}", bytes.len(), PATH_MAX - 1);
            return Err(Error::new(ErrorKind::NameTooLong, message));
        }
        if bytes.first() == Some(&b'/') {
            return Err(Error::new(ErrorKind::Invalid, "a path in an under store is relative to its root").at(bytes));
        }
        if !bytes.is_empty() {
            for part in bytes.split(|b| *b == b'/') {
                Name::new(part).map_err(|e| Error::new(e.kind(), e.message()).at(bytes))?;
            }
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes of the path; empty for the root.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the store's root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The names from the root down; none for the root.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|name| !name.is_empty())
    }

    /// The last name, or `None` for the root.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        self.names().next_back()
    }

    /// The directory that this is in, or `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<ObjectPath> {
        match (self.is_root(), self.0.iter().rposition(|b| *b == b'/')) {
            (true, _) => None,
            (false, None) => Some(Self::root()),
            (false, Some(cut)) => Some(Self(self.0[..cut].into())),
        }
    }

    /// This path with one more name.
    ///
    /// # Errors
    /// `NameTooLong` when it gets longer than 4095 bytes.
    pub fn join(&self, name: &Name) -> Result<ObjectPath> {
        let slash: &[u8] = if self.is_root() { b"" } else { b"/" };
        let bytes = [&self.0, slash, name.as_bytes()].concat();
        if bytes.len() >= PATH_MAX {
            let message = format!("a path of {} bytes; the longest is {}", bytes.len(), PATH_MAX - 1);
            return Err(Error::new(ErrorKind::NameTooLong, message));
        }
        Ok(Self(bytes.into()))
    }

    /// Whether `other` is this path or below it.
    #[must_use]
    pub fn contains(&self, other: &ObjectPath) -> bool {
        self.is_root() || other.0.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }
}

impl TryFrom<Vec<u8>> for ObjectPath {
    type Error = Error;
    fn try_from(bytes: Vec<u8>) -> Result<Self> {
        Self::new(bytes)
    }
}

impl TryFrom<&[u8]> for ObjectPath {
    type Error = Error;
    fn try_from(bytes: &[u8]) -> Result<Self> {
        Self::new(bytes)
    }
}

impl From<ObjectPath> for Vec<u8> {
    fn from(path: ObjectPath) -> Self {
        path.0.to_vec()
    }
}

impl AsRef<[u8]> for ObjectPath {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for ObjectPath {
    /// UTF-8 as it is, everything else and control characters escaped; the root as `.`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for (i, name) in self.names().enumerate() {
            let slash = if i == 0 { "" } else { "/" };
            let name = Name::new(name).expect("checked when the path was made");
            write!(f, "{slash}{name}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

macro_rules! private_name {
    ($(#[$doc:meta])* $type:ident, $field:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $type {
            #[doc = $what]
            pub $field: ObjectPath,
            /// Its name, unique in the cluster. The master draws it and records it before anything is made.
            pub name: Name,
        }

        impl $type {
            /// Names one.
            #[must_use]
            pub fn new($field: ObjectPath, name: Name) -> Self {
                Self { $field, name }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} for {}", self.name, self.$field)
            }
        }
    };
}

private_name!(
    /// Content on its way into the store: a file in `.larder/<cluster>/tmp`, or a multipart upload.
    TemporaryName,
    target,
    "The path that it is meant for: a directory under store makes the temporary in that path's file system, an object \
     store starts the multipart upload at that key."
);
private_name!(
    /// Content that lost its last name, or was replaced, while somebody still reads it: in `.larder/<cluster>/orphans`.
    OrphanName,
    origin,
    "The path that it came from: it says in which file system the orphan is."
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> ObjectPath {
        ObjectPath::new(text).unwrap()
    }

    #[test]
    fn only_normal_relative_paths_are_taken() {
        for bad in ["/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0"] {
            assert_eq!(ObjectPath::new(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
        }
        assert_eq!(ObjectPath::new([b'x'; 256]).unwrap_err().kind(), ErrorKind::NameTooLong);
        let deep = "d/".repeat(2047) + "dd";
        assert_eq!(ObjectPath::new(&deep).unwrap_err().kind(), ErrorKind::NameTooLong);
        let longest = path(&deep[..deep.len() - 1]);
        assert_eq!(longest.join(&Name::new("x").unwrap()).unwrap_err().kind(), ErrorKind::NameTooLong);
    }

    #[test]
    fn parents_and_names() {
        assert_eq!(path("a/b/c").parent(), Some(path("a/b")));
        assert_eq!(path("a").parent(), Some(ObjectPath::root()));
        assert_eq!(ObjectPath::root().parent(), None);
        assert_eq!(path("a/b").name(), Some(&b"b"[..]));
        assert_eq!(path("a").join(&Name::new("b").unwrap()).unwrap(), path("a/b"));
        assert!(path("a").contains(&path("a/b")) && !path("a").contains(&path("ab")));
        assert_eq!(ObjectPath::new(b"a/\xff").unwrap().to_string(), "a/\\xff");
    }

    proptest! {
        #[test]
        fn what_is_taken_is_rebuilt_from_its_names(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(path) = ObjectPath::new(&bytes) {
                let rebuilt = path.names().fold(ObjectPath::root(), |p, n| p.join(&Name::new(n).unwrap()).unwrap());
                prop_assert_eq!(&rebuilt, &path);
                prop_assert_eq!(path.parent().is_none(), path.is_root());
            }
        }
    }
}
