//! The end of a command that did not succeed: what is printed, and which exit code follows.

use larder_common::{Error, ErrorKind};

use crate::{
    exit::Exit,
    output::{Output, ReaderGone},
};

/// Prints why a command failed, unless nobody would read it, and answers how the process ends.
pub(crate) fn report(failure: &anyhow::Error, output: Output) -> Exit {
    if failure.is::<ReaderGone>() {
        return Exit::Done;
    }
    match failure.downcast_ref::<Error>() {
        Some(error) => {
            output.error(error);
            error.kind().into()
        }
        None => {
            output.error(&Error::new(ErrorKind::Unsupported, format!("{failure:#}")));
            Exit::Failed
        }
    }
}

/// Prints what is wrong with a command line, or the help that was asked for.
pub(crate) fn usage(error: &clap::Error, output: Output) -> Exit {
    if !error.use_stderr() {
        let _ = error.print();
        return Exit::Done;
    }
    match output.json {
        true => output.error(&as_error(error)),
        // Where standard error cannot be written there is nobody left to tell.
        false => drop(error.print()),
    }
    Exit::Usage
}

/// The first paragraph says what is wrong, the rest is usage.
fn as_error(error: &clap::Error) -> Error {
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let message = first.trim().trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ");
    Error::new(ErrorKind::Invalid, message).advise("see --help")
}
