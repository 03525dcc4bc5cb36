//! Values as they are collected, and which of several holds. Pure except for `…_FILE`, read through [`Files`].
//!
//! Every value is parsed when it is collected, also one that another source overrides: a value that cannot be read is a
//! slip that somebody wants to know of.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use super::{
    registry::{self, Dialect, Found},
    setting::Setting,
    sources::{Files, Origin, Warning},
    value::{Secret, Value},
};
use crate::{Error, ErrorKind, Result};

/// A value that somebody gave.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) setting: &'static Setting,
    pub(super) text: String,
    pub(super) origin: Origin,
}

impl Given {
    /// The text as it may be printed.
    pub(super) fn shown(&self) -> &str {
        if self.setting.secret { Secret::HIDDEN } else { &self.text }
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.shown(), self.origin)
    }
}

/// The values that hold, by full name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values(pub(super) BTreeMap<String, Given>);

impl Values {
    /// The value that was given, or the default, as its type.
    ///
    /// # Errors
    /// `Config` for a text that does not parse, naming its origin.
    pub(super) fn typed<T: Value>(&self, setting: &Setting) -> Result<T> {
        match self.0.get(setting.name) {
            Some(given) => T::parse(&given.text).map_err(|e| unreadable(&e, &given.origin, &given.text)),
            None => T::parse(setting.default)
                .map_err(|e| unreadable(&e, &Origin::Default, setting.default).context(setting.name)),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Given> {
        self.0.get(name)
    }

    /// What was given for the members of a family: the word for `*`, and the value.
    pub(super) fn family<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, &'a Given)> {
        let (before, after) = name.split_once('*').unwrap_or((name, ""));
        self.0.iter().filter_map(move |(full, given)| {
            (given.setting.name == name).then(|| Some((full.strip_prefix(before)?.strip_suffix(after)?, given)))?
        })
    }
}

/// The error of a type with the origin before it, and the whole value where the message has only a part of it.
fn unreadable(error: &Error, origin: &Origin, text: &str) -> Error {
    let message = match error.message().contains(text) {
        true => format!("{origin}: {}", error.message()),
        false => format!("{origin}={text}: {}", error.message()),
    };
    let wrapped = Error::new(ErrorKind::Config, message);
    match error.advice() {
        Some(advice) => wrapped.advise(advice),
        None => wrapped,
    }
}

/// Whether this names a credential in a way that the environment could not: there `_` parts the name from the key.
fn is_ambiguous(name: &str) -> bool {
    let credential = name.strip_prefix("credential.").and_then(|rest| rest.split_once('.'));
    credential.is_some_and(|(credential, _)| credential.contains('_'))
}

struct Candidate {
    found: Found,
    given: Given,
}

/// Takes values from all sources.
pub(super) struct Collector<'a> {
    files: &'a dyn Files,
    candidates: Vec<Candidate>,
    pub(super) warnings: Vec<Warning>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(files: &'a dyn Files) -> Self {
        Self { files, candidates: Vec::new(), warnings: Vec::new() }
    }

    pub(super) fn warn(&mut self, text: String) {
        self.warnings.push(Warning(text));
    }

    /// Takes a value under any name of a setting; answers whether there is such a setting.
    ///
    /// # Errors
    /// `Config` for a value that does not parse, or whose file cannot be read.
    pub(super) fn take(&mut self, name: &str, dialect: Dialect, value: &str, origin: Origin) -> Result<bool> {
        let Some(found) = registry::find(name, dialect) else { return Ok(false) };
        if is_ambiguous(name) {
            let error = Error::new(ErrorKind::Config, format!("{origin}: the name of a credential cannot have `_`"));
            return Err(error.advise("use `-` in its place"));
        }
        let (text, origin) = match value.trim() {
            "" => ("".to_owned(), origin),
            path if found.from_file => self.content(path, origin)?,
            text => (text.to_owned(), origin),
        };
        if text.is_empty() {
            self.warn(format!("{origin} is empty and counts as not set"));
            return Ok(true);
        }
        let text = with_unit(text, &found, &origin);
        (found.setting.check)(&text).map_err(|e| unreadable(&e, &origin, &text))?;
        let given = Given { setting: found.setting, text, origin };
        self.candidates.push(Candidate { found, given });
        Ok(true)
    }

    fn content(&self, path: &str, origin: Origin) -> Result<(String, Origin)> {
        let wrong = |reason: String| {
            Error::new(ErrorKind::Config, format!("{origin}: {reason}"))
                .at(path)
                .advise("give the path of a readable file whose content is the value")
        };
        let bytes = self.files.read(path.as_ref()).map_err(|e| wrong(e.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|_| wrong("its content is not UTF-8".into()))?;
        let text = text.trim().to_owned();
        Ok((text, Origin::Content { of: Box::new(origin), file: PathBuf::from(path) }))
    }

    /// Decides which value of each setting holds, and names those that disagree.
    pub(super) fn decide(mut self) -> (Values, Vec<Warning>) {
        self.candidates.sort_by_key(order);
        let mut by_name: BTreeMap<String, Vec<Given>> = BTreeMap::new();
        for candidate in self.candidates {
            by_name.entry(candidate.found.name).or_default().push(candidate.given);
        }
        let mut values = Values::default();
        for (name, mut given) in by_name {
            self.warnings.extend(disagreement(&name, &given));
            values.0.insert(name, given.swap_remove(0));
        }
        (values, self.warnings)
    }
}

/// What is asked first is least: the source, then the setting's own name before others, a value before a file.
fn order(candidate: &Candidate) -> (u8, usize, bool) {
    (candidate.given.origin.rank(), candidate.found.preference, candidate.found.from_file)
}

fn disagreement(name: &str, given: &[Given]) -> Option<Warning> {
    let (first, rest) = given.split_first()?;
    let say = |given: &Given| format!("{} says {}", given.origin, given.shown());
    let others: Vec<_> = rest.iter().filter(|other| other.text != first.text).map(say).collect();
    (!others.is_empty())
        .then(|| Warning(format!("{name}: {} from {} is used; {}", first.shown(), first.origin, others.join("; "))))
}

/// In Alluxio a bare number for a time is in milliseconds.
fn with_unit(text: String, found: &Found, origin: &Origin) -> String {
    match found.setting.milliseconds && origin.is_alluxio() && text.bytes().all(|b| b.is_ascii_digit()) {
        true => format!("{text}ms"),
        false => text,
    }
}
