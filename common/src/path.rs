//! Paths and names of the namespace: bytes, not text, as on any Unix file system.
//!
//! A [`Name`] is one to 255 bytes without `/` and NUL, and neither `.` nor `..`. An [`FsPath`] is absolute and already
//! normal: no empty parts, no `.`, no `..`, no slash at the end. What a person types goes through [`FsPath::parse`].

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// The longest name, in bytes, as in every Linux file system.
pub const NAME_MAX: usize = 255;
/// The longest path, in bytes.
pub const PATH_MAX: usize = 4096;

/// One part of a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Name(Arc<[u8]>);

impl Name {
    /// Checks and keeps a name.
    ///
    /// # Errors
    /// `Invalid` for an empty name, `.`, `..`, and names with `/` or NUL; `NameTooLong` above 255 bytes.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self> {
        let bytes = bytes.as_ref();
        let invalid = |reason: &str| Err(Error::new(ErrorKind::Invalid, reason.to_owned()).at(bytes));
        match bytes {
            b"" => invalid("a name cannot be empty"),
            b"." | b".." => invalid("`.` and `..` are not names"),
            _ if bytes.len() > NAME_MAX => {
                let message = format!("a name of {} bytes; the longest is {NAME_MAX}", bytes.len());
                Err(Error::new(ErrorKind::NameTooLong, message).at(bytes))
            }
            _ if bytes.iter().any(|b| matches!(b, b'/' | 0)) => invalid("a name cannot contain `/` or NUL"),
            _ => Ok(Self(bytes.into())),
        }
    }

    /// The bytes of the name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for Name {
    type Error = Error;
    fn try_from(bytes: Vec<u8>) -> Result<Self> {
        Self::new(bytes)
    }
}

impl From<Name> for Vec<u8> {
    fn from(name: Name) -> Self {
        name.0.to_vec()
    }
}

impl AsRef<[u8]> for Name {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_lossless(&self.0, f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// An absolute, normal path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct FsPath(Arc<[u8]>);

impl FsPath {
    /// The root, `/`.
    #[must_use]
    pub fn root() -> Self {
        Self(Arc::from(&b"/"[..]))
    }

    /// Makes a path normal: folds `//` and `.`, resolves `..` by name, drops a slash at the end.
    ///
    /// # Errors
    /// `Invalid` for a path that is not absolute or has NUL; `NameTooLong` above 255 bytes a name or 4096 in all.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self> {
        let text = text.as_ref();
        if text.first() != Some(&b'/') {
            let error = Error::new(ErrorKind::Invalid, "not an absolute path").at(text);
            return Err(error.advise("begin it with `/`"));
        }
        let mut path = Vec::with_capacity(text.len());
        for part in text.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => path.truncate(path.iter().rposition(|b| *b == b'/').unwrap_or(0)),
                name => {
                    Name::new(name).map_err(|e| Error::new(e.kind(), e.message()).at(text))?;
                    path.push(b'/');
                    path.extend_from_slice(name);
                }
            }
        }
        if path.len() > PATH_MAX {
            let message = format!("a path of {} bytes; the longest is {PATH_MAX}", path.len());
            return Err(Error::new(ErrorKind::NameTooLong, message));
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(Self(path.into()))
    }

    /// The bytes of the path.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is `/`.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// The names from the root down. None for `/`.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|name| !name.is_empty())
    }

    /// The last name, or `None` for `/`.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        self.names().next_back()
    }

    /// The directory that this is in, or `None` for `/`.
    #[must_use]
    pub fn parent(&self) -> Option<FsPath> {
        let cut = self.0.iter().rposition(|b| *b == b'/')?;
        match (self.is_root(), cut) {
            (true, _) => None,
            (false, 0) => Some(Self::root()),
            (false, cut) => Some(Self(self.0[..cut].into())),
        }
    }

    /// This path with one more name.
    #[must_use]
    pub fn join(&self, name: &Name) -> FsPath {
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.as_bytes().len());
        if !self.is_root() {
            path.extend_from_slice(&self.0);
        }
        path.push(b'/');
        path.extend_from_slice(name.as_bytes());
        Self(path.into())
    }

    /// Whether `other` is this path or below it.
    #[must_use]
    pub fn contains(&self, other: &FsPath) -> bool {
        self.is_root() || other.0.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    /// The part of `other` below this path without a slash at its front, or `None` if it is not below.
    #[must_use]
    pub fn relative<'a>(&self, other: &'a FsPath) -> Option<&'a [u8]> {
        if !self.contains(other) {
            return None;
        }
        let cut = if self.is_root() { 0 } else { self.0.len() };
        let rest = &other.0[cut..];
        Some(rest.strip_prefix(b"/").unwrap_or(rest))
    }
}

impl TryFrom<Vec<u8>> for FsPath {
    type Error = Error;
    fn try_from(bytes: Vec<u8>) -> Result<Self> {
        Self::parse(bytes)
    }
}

impl From<FsPath> for Vec<u8> {
    fn from(path: FsPath) -> Self {
        path.0.to_vec()
    }
}

impl AsRef<[u8]> for FsPath {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::str::FromStr for FsPath {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for FsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_lossless(&self.0, f)
    }
}

impl fmt::Debug for FsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// UTF-8 as it is, everything else and control characters as `\xNN`: what is printed names one path only.
pub(crate) fn write_lossless(bytes: &[u8], f: &mut dyn fmt::Write) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                c if c.is_control() => write!(f, "{}", c.escape_default())?,
                c => f.write_char(c)?,
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> FsPath {
        FsPath::parse(text).unwrap()
    }

    #[test]
    fn what_people_type_becomes_normal() {
        assert_eq!(path("//a/./b//c/../"), path("/a/b"));
        assert_eq!(path("/.."), FsPath::root());
        assert_eq!(path("/a").parent(), Some(FsPath::root()));
        assert_eq!(FsPath::root().parent(), None);
        assert_eq!(path("/a/b").name(), Some(&b"b"[..]));
        assert!(FsPath::parse("a/b").is_err());
        assert!(FsPath::parse("/a\0").is_err());
    }

    #[test]
    fn names_have_limits() {
        assert!(Name::new([b'x'; 255]).is_ok());
        assert_eq!(Name::new([b'x'; 256]).unwrap_err().kind(), ErrorKind::NameTooLong);
        for bad in ["", ".", "..", "a/b", "a\0"] {
            assert_eq!(Name::new(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
        }
        assert_eq!(Name::new(b"a\xff\n").unwrap().to_string(), "a\\xff\\n");
    }

    #[test]
    fn containment_is_by_whole_names() {
        assert!(path("/a").contains(&path("/a/b")));
        assert!(path("/a").contains(&path("/a")));
        assert!(!path("/a").contains(&path("/ab")));
        assert!(FsPath::root().contains(&path("/x")));
        assert_eq!(path("/a").relative(&path("/a/b/c")), Some(&b"b/c"[..]));
        assert_eq!(FsPath::root().relative(&path("/a")), Some(&b"a"[..]));
        assert_eq!(path("/a").relative(&path("/b")), None);
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let text = [b"/".as_slice(), &text].concat();
            if let Ok(parsed) = FsPath::parse(&text) {
                prop_assert_eq!(&FsPath::parse(parsed.as_bytes()).unwrap(), &parsed);
                let rebuilt = parsed.names().fold(FsPath::root(), |p, n| p.join(&Name::new(n).unwrap()));
                prop_assert_eq!(rebuilt, parsed);
            }
        }
    }
}
