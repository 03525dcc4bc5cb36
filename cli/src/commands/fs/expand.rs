//! From a pattern to the paths that it stands for, by listing only the directories that it leads through.

use std::collections::BTreeSet;

use futures_util::TryStreamExt;
use larder_client::{Error, ErrorKind, FileKind, FileSystem, FsPath, ListOptions, Name, Result, StatusOptions};

use super::{
    glob::{Pattern, alternatives, is_pattern},
    places::Typed,
};

/// The paths that this stands for, in order. What is no pattern is itself, whether it exists or not.
///
/// # Errors
/// `NotFound` naming the pattern that nothing matches; those of listing.
pub(crate) async fn expand(fs: &FileSystem, typed: &Typed) -> Result<Vec<FsPath>> {
    if !is_pattern(&typed.bytes) {
        return Ok(vec![typed.exact()?]);
    }
    let mut found = Vec::new();
    for alternative in alternatives(&typed.bytes)? {
        let matched = walk(fs, &alternative).await?;
        found.extend(matched.into_iter().filter(|path| !found.contains(path)).collect::<Vec<_>>());
    }
    // A name may look like a pattern that does not match it: `a[1]`.
    if let (true, Ok(exact)) = (found.is_empty(), typed.exact())
        && exists(fs, &exact).await?
    {
        found.push(exact);
    }
    match found.is_empty() {
        true => Err(Error::new(ErrorKind::NotFound, "no match").at(&typed.bytes)),
        false => Ok(found),
    }
}

async fn walk(fs: &FileSystem, text: &[u8]) -> Result<Vec<FsPath>> {
    let mut fronts = BTreeSet::from([FsPath::root()]);
    let mut is_checked = true;
    let parts: Vec<&[u8]> = text.split(|b| *b == b'/').filter(|part| !matches!(**part, [] | [b'.'])).collect();
    for (at, part) in parts.iter().enumerate() {
        let pattern = Pattern::parse(part);
        fronts = match pattern.literal() {
            Some(name) if name == b".." => {
                fronts.into_iter().map(|front| front.parent().unwrap_or_else(FsPath::root)).collect()
            }
            Some(name) => {
                is_checked = false;
                let name = Name::new(name)?;
                fronts.into_iter().map(|front| front.join(&name)).collect()
            }
            None => {
                is_checked = true;
                let must_lead_on = at + 1 < parts.len();
                let mut next = BTreeSet::new();
                for front in fronts {
                    next.extend(matching(fs, &front, &pattern, must_lead_on).await?);
                }
                next
            }
        };
    }
    let mut found = Vec::new();
    for front in fronts {
        if is_checked || exists(fs, &front).await? {
            found.push(front);
        }
    }
    Ok(found)
}

/// The entries of a directory that match; only those that can have entries themselves, if it must lead on.
async fn matching(fs: &FileSystem, front: &FsPath, pattern: &Pattern, must_lead_on: bool) -> Result<Vec<FsPath>> {
    let mut found = Vec::new();
    let mut entries = std::pin::pin!(fs.list(front, ListOptions::default()));
    loop {
        let entry = match entries.try_next().await {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(found),
            Err(error) if is_absent(&error) => return Ok(found),
            Err(error) => return Err(error),
        };
        let leads_on = matches!(entry.status.kind, FileKind::Directory | FileKind::Symlink(_));
        let matches = entry.path.name().is_some_and(|name| pattern.matches(name));
        if matches && (leads_on || !must_lead_on) {
            found.push(entry.path);
        }
    }
}

/// Whether there is anything of this name.
///
/// # Errors
/// What keeps the master from saying.
pub(crate) async fn exists(fs: &FileSystem, path: &FsPath) -> Result<bool> {
    let options = StatusOptions { no_follow: true, ..StatusOptions::default() };
    match fs.status_with(path, options).await {
        Ok(_) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_absent(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDirectory)
}
