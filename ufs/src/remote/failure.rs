//! From the library's errors to ours, without anything secret.
//!
//! Its own text holds addresses and requests, and some services sign in the address: only its message and the first
//! cause are taken over.

use std::error::Error as _;

use larder_common::{Error, ErrorKind, Result};
use opendal::ErrorKind as Theirs;

/// What an error of the library means.
pub(super) fn kind(error: &opendal::Error) -> ErrorKind {
    match error.kind() {
        Theirs::NotFound => ErrorKind::NotFound,
        Theirs::PermissionDenied => ErrorKind::Denied,
        Theirs::IsADirectory => ErrorKind::IsDirectory,
        Theirs::NotADirectory => ErrorKind::NotDirectory,
        Theirs::AlreadyExists => ErrorKind::AlreadyExists,
        Theirs::ConditionNotMatch | Theirs::RangeNotSatisfied => ErrorKind::Changed,
        Theirs::Unsupported => ErrorKind::Unsupported,
        Theirs::ConfigInvalid => ErrorKind::Config,
        Theirs::RateLimited | Theirs::Conflict => ErrorKind::Busy,
        Theirs::IsSameFile => ErrorKind::Invalid,
        _ if is_late(error) => ErrorKind::Deadline,
        _ => ErrorKind::Unavailable,
    }
}

fn is_late(error: &opendal::Error) -> bool {
    error.message().contains("timeout reached")
}

/// What to say of it.
pub(super) fn text(error: &opendal::Error) -> String {
    let mut cause = error.source();
    let mut deepest = None;
    while let Some(found) = cause {
        deepest = Some(found.to_string());
        cause = found.source();
    }
    let message = short(error.message());
    match deepest.filter(|text| !text.contains("://") && !message.contains(text.as_str())) {
        Some(cause) => format!("{message}: {}", short(&cause)),
        None => message,
    }
}

/// Some services answer with a page.
fn short(text: &str) -> String {
    const LONGEST: usize = 300;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line,
    }
}

/// Our error for theirs, about this path.
pub(super) fn of(error: &opendal::Error, path: impl AsRef<[u8]>) -> Error {
    let ours = Error::new(kind(error), text(error)).at(path);
    match ours.kind() {
        ErrorKind::Denied => {
            ours.advise("check the credential that the mount names, and what it may do in the under store")
        }
        _ => ours,
    }
}

/// Turns "it is not there" into `None`.
pub(super) fn present<T>(result: opendal::Result<T>, path: impl AsRef<[u8]>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), Theirs::NotFound | Theirs::NotADirectory) => Ok(None),
        Err(error) => Err(of(&error, path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_pages_are_not_repeated() {
        let cause = std::io::Error::other("error sending request for url (https://h/?sig=hunter2)");
        let error = opendal::Error::new(Theirs::Unexpected, "send http request")
            .with_context("url", "https://h/?sig=hunter2")
            .set_source(cause);
        assert_eq!(of(&error, "p").message(), "send http request");
        assert_eq!(kind(&error), ErrorKind::Unavailable);
        let page = opendal::Error::new(Theirs::PermissionDenied, "<html>\n".repeat(1000));
        assert!(of(&page, "p").message().len() < 400);
    }
}
