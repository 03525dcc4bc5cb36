//! Where under stores lie, compared as text: which settings mean the same store, and which stores overlap.
//!
//! A directory may be named as a path or as a `file:` URI. No link is followed here; whoever can hands in what
//! `realpath` says.

use std::path::{Component, Path, PathBuf};

use larder_common::{Error, ErrorKind, FsPath, Result};

use super::ledger::MountRow;

/// The local directory that a URI names, made normal; `None` for a service.
#[must_use]
pub fn directory(uri: &str) -> Option<PathBuf> {
    let path = match uri.split_once(':') {
        Some(("file", rest)) => rest.strip_prefix("//").unwrap_or(rest),
        _ if uri.starts_with('/') => uri,
        _ => return None,
    };
    let mut normal = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => drop(normal.pop()),
            _ => {}
        }
    }
    Some(normal)
}

/// A URI in the form in which two that mean the same store are equal.
#[must_use]
pub fn normal(uri: &str) -> String {
    match directory(uri) {
        Some(path) => path.display().to_string(),
        None => uri.trim_end_matches('/').to_owned(),
    }
}

fn inside(outer: &str, inner: &str) -> bool {
    inner.strip_prefix(outer.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Refuses a store that is inside another mount's store, or has one inside: the same files would be in the namespace
/// twice, each with a cache of its own.
///
/// # Errors
/// `Invalid`, naming both.
pub fn check_overlap(uri: &str, path: &FsPath, mounts: &[MountRow]) -> Result<()> {
    let new = normal(uri);
    for mount in mounts.iter().filter(|mount| mount.path != *path) {
        let old = normal(&mount.uri);
        if inside(&old, &new) || inside(&new, &old) {
            let message = format!("{new} and {old}, which is mounted at {}, overlap", mount.path);
            let advice =
                "mount a directory that is neither inside the other nor around it, or use the path that it has already";
            return Err(Error::new(ErrorKind::Invalid, message).at(path).advise(advice));
        }
    }
    Ok(())
}

/// Refuses a setting for the root under store that is not what the journal has.
///
/// # Errors
/// `Config`, with both values and the way out.
pub fn check_root(journal: &str, setting: &str) -> Result<()> {
    if setting.is_empty() || normal(journal) == normal(setting) {
        return Ok(());
    }
    let message = format!("the journal belongs to the under store {journal}, but the setting names {setting}");
    Err(Error::new(ErrorKind::Config, message).advise(format!(
        "start with {journal}, or use another journal directory, or run `larder format` to begin anew with {setting} \
         (what is only in the cache is then lost)"
    )))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use larder_common::{FileId, MountId};

    use super::*;

    fn row(path: &str, uri: &str) -> MountRow {
        let (path, uri) = (FsPath::parse(path).unwrap(), uri.to_owned());
        MountRow { id: MountId::ROOT, path, root: FileId::ROOT, uri, read_only: false, options: BTreeMap::new() }
    }

    #[test]
    fn a_directory_has_many_spellings() {
        for uri in ["/data/a", "/data/a/", "/data//x/../a", "file:///data/a", "file:/data/a/."] {
            assert_eq!(normal(uri), "/data/a", "{uri}");
        }
        assert_eq!(normal("s3://bucket/a/"), "s3://bucket/a");
        assert_eq!(directory("s3://bucket/a"), None);
    }

    #[test]
    fn overlapping_stores_are_refused() {
        let mounts = [row("/", "/data"), row("/b", "s3://bucket/b")];
        let at = FsPath::parse("/new").unwrap();
        for (uri, fits) in [
            ("/data/x", false),
            ("/", false),
            ("/data", false),
            ("/database", true),
            ("s3://bucket", false),
            ("s3://bucket/c", true),
        ] {
            assert_eq!(check_overlap(uri, &at, &mounts).is_ok(), fits, "{uri}");
        }
    }

    #[test]
    fn another_root_is_refused_with_both_values() {
        assert!(check_root("/data", "file:///data/").is_ok() && check_root("/data", "").is_ok());
        let error = check_root("/data", "/other").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("/data") && error.to_string().contains("/other"));
    }
}
