//! From paths to keys and back. Pure.
//!
//! A key is the path as it is, a directory's with `/` at its end. What the library below would change on the way is
//! refused instead: names that are not UTF-8, and paths that begin or end in white space, which it trims.

use larder_common::{ClusterId, Error, ErrorKind, Name, Result};

use crate::{ObjectPath, PRIVATE_DIRECTORY};

fn refused(path: &ObjectPath, why: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("this under store takes no names that {why}")).at(path)
}

/// The key of an object.
///
/// # Errors
/// `Invalid` for what such a store cannot name; `NotFound` for Larder's own directory; `IsDirectory` for the root.
pub(super) fn file(path: &ObjectPath) -> Result<String> {
    if path.is_root() {
        return Err(Error::new(ErrorKind::IsDirectory, "the root is a directory"));
    }
    if path.names().next() == Some(PRIVATE_DIRECTORY.as_bytes()) {
        return Err(Error::new(ErrorKind::NotFound, "this name is Larder's own").at(path));
    }
    let text = std::str::from_utf8(path.as_bytes()).map_err(|_| refused(path, "are not UTF-8"))?;
    if text.trim() != text {
        return Err(refused(path, "begin or end in white space"));
    }
    Ok(text.to_owned())
}

/// The key that the keys of all that is in a directory begin with; `/` for the root.
///
/// # Errors
/// As [`file`], but for the root.
pub(super) fn directory(path: &ObjectPath) -> Result<String> {
    match path.is_root() {
        true => Ok("/".to_owned()),
        false => Ok(file(path)? + "/"),
    }
}

/// The name of an entry of a directory, and whether it is a directory. `None` for the directory's own marker, and for
/// keys that are no paths (`a//b`, `a/../b`), which nobody could ask for.
pub(super) fn entry(directory: &str, key: &str) -> Option<(Name, bool)> {
    let below = if directory == "/" { key } else { key.strip_prefix(directory)? };
    let below = below.trim_start_matches('/');
    let (text, is_directory) = match below.strip_suffix('/') {
        Some(name) => (name, true),
        None => (below, false),
    };
    if text.contains('/') {
        return None;
    }
    Name::new(text).ok().map(|name| (name, is_directory))
}

/// What Larder keeps for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Private {
    Temporaries,
    Proofs,
    Renames,
    Probes,
}

/// The key that those of one kind begin with.
pub(super) fn private(cluster: ClusterId, kind: Private) -> String {
    let kind = match kind {
        Private::Temporaries => "tmp",
        Private::Proofs => "proof",
        Private::Renames => "renames",
        Private::Probes => "probe",
    };
    format!("{PRIVATE_DIRECTORY}/{cluster}/{kind}/")
}

/// The names that a directory of keys in byte order may still bring after a file of this name although they are
/// smaller: `a` comes as `a/`, after `a-b`.
pub(super) fn late_directories(name: &Name) -> Vec<Name> {
    let bytes = name.as_bytes();
    let cuts = (1..bytes.len()).filter(|at| bytes[*at] < b'/');
    cuts.filter_map(|at| Name::new(&bytes[..at]).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: impl AsRef<[u8]>) -> ObjectPath {
        ObjectPath::new(text).unwrap()
    }

    #[test]
    fn keys_are_paths() {
        assert_eq!(file(&path("a b/c")).unwrap(), "a b/c");
        assert_eq!(directory(&path("a")).unwrap(), "a/");
        assert_eq!(directory(&ObjectPath::root()).unwrap(), "/");
        let kind = |bytes: &[u8]| file(&path(bytes)).unwrap_err().kind();
        assert_eq!(
            (kind(b"\xff"), kind(b" a"), kind(b"a\n")),
            (ErrorKind::Invalid, ErrorKind::Invalid, ErrorKind::Invalid)
        );
        assert_eq!((kind(b".larder/x"), kind(b"")), (ErrorKind::NotFound, ErrorKind::IsDirectory));
    }

    #[test]
    fn entries_are_names() {
        let named = |directory, key| entry(directory, key).map(|(name, is)| (name.to_string(), is));
        assert_eq!(named("a/", "a/b"), Some(("b".into(), false)));
        assert_eq!(named("a/", "a/b/"), Some(("b".into(), true)));
        assert_eq!(named("/", "b/"), Some(("b".into(), true)));
        assert_eq!(named("a/", "a/"), None);
        assert_eq!(named("a/", "a/../"), None);
        assert_eq!(named("a/", "b"), None);
    }

    #[test]
    fn directories_that_come_late_are_named() {
        let names =
            |text: &str| late_directories(&Name::new(text).unwrap()).iter().map(Name::to_string).collect::<Vec<_>>();
        assert_eq!(names("a-b.c"), ["a", "a-b"]);
        assert!(names("abc").is_empty() && names("-a").is_empty());
    }
}
