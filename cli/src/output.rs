//! Standard output and standard error of commands. A reader that goes away (`larder … | head`) ends a command quietly.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

use larder_common::{Error, settings::Warning};
use serde::Serialize;

/// Nobody reads standard output any more. Not a failure: the command ends with 0 and says nothing.
#[derive(Debug)]
pub(crate) struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads the output")
    }
}

impl std::error::Error for ReaderGone {}

/// Where a command says what it has to say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// Whether programs read it: one object a line.
    pub(crate) json: bool,
}

impl Output {
    /// Writes bytes to standard output.
    ///
    /// # Errors
    /// [`ReaderGone`], or what the system says, as when the disk is full.
    pub(crate) fn bytes(self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        written(out.write_all(bytes).and_then(|()| out.flush()))
    }

    /// Writes one line to standard output.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub(crate) fn line(self, text: impl fmt::Display) -> anyhow::Result<()> {
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// Writes one object to standard output, on one line.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub(crate) fn object(self, object: &impl Serialize) -> anyhow::Result<()> {
        self.line(serde_json::to_string(object)?)
    }

    /// Says on standard error what is worth knowing about the settings.
    pub(crate) fn warning(self, warning: &Warning) {
        match self.json {
            true => complain(&Report { kind: "Warning", path: None, message: &warning.0, advice: None }.line()),
            false => complain(&format!("larder: warning: {warning}")),
        }
    }

    /// Says on standard error what went wrong.
    pub(crate) fn error(self, error: &Error) {
        match self.json {
            true => complain(&Report::of(error).line()),
            false => complain(&format!("larder: {error}")),
        }
    }
}

/// Whether this stream takes colours: it is a terminal, and nobody asked for none (`NO_COLOR`, `TERM=dumb`).
pub(crate) fn takes_colours(
    stream: &impl IsTerminal,
    environment: &[(std::ffi::OsString, std::ffi::OsString)],
) -> bool {
    let asked = |name: &str| environment.iter().rev().find(|(variable, _)| variable == name).map(|(_, value)| value);
    let none = asked("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !none && asked("TERM").is_none_or(|term| term != "dumb")
}

fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        other => other.map_err(|e| Error::from(e).context("standard output").into()),
    }
}

/// One line to standard error. Where that cannot be written either, there is nobody left to tell.
fn complain(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// What went wrong, for programs.
#[derive(Serialize)]
struct Report<'a> {
    kind: &'a str,
    path: Option<String>,
    message: &'a str,
    advice: Option<&'a str>,
}

impl<'a> Report<'a> {
    fn of(error: &'a Error) -> Report<'a> {
        let path = error.path().map(|path| match std::str::from_utf8(path) {
            Ok(text) => text.to_owned(),
            Err(_) => path.escape_ascii().to_string(),
        });
        Report { kind: kind(error), path, message: error.message(), advice: error.advice() }
    }

    fn line(&self) -> String {
        serde_json::to_string(self).expect("texts are always JSON")
    }
}

/// The name of the kind, as in the library.
fn kind(error: &Error) -> &'static str {
    static NAMES: std::sync::LazyLock<Vec<(larder_common::ErrorKind, String)>> = std::sync::LazyLock::new(|| {
        larder_common::ErrorKind::ALL.iter().map(|kind| (*kind, format!("{kind:?}"))).collect()
    });
    NAMES.iter().find(|(kind, _)| *kind == error.kind()).map_or("Failed", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use larder_common::ErrorKind;

    use super::*;

    #[test]
    fn programs_get_four_fields_in_order() {
        let error = Error::new(ErrorKind::NotFound, "no such file").at("/a").advise("look again");
        let expected = r#"{"kind":"NotFound","path":"/a","message":"no such file","advice":"look again"}"#;
        assert_eq!(Report::of(&error).line(), expected);
        let strange = Error::new(ErrorKind::Denied, "no").at(b"/\xff");
        assert_eq!(Report::of(&strange).line(), r#"{"kind":"Denied","path":"/\\xff","message":"no","advice":null}"#);
    }
}
