//! What happens to a command with several paths when one fails: it is named at once on standard error, the others go
//! on, and the first failure decides the exit code.

use larder_common::{Error, ErrorKind};

use crate::{exit::Exit, output::Output};

/// What failed so far.
#[derive(Debug)]
pub(crate) struct Failures {
    output: Output,
    first: Option<ErrorKind>,
    count: u64,
}

impl Failures {
    /// Nothing has failed.
    pub(crate) fn new(output: Output) -> Self {
        Self { output, first: None, count: 0 }
    }

    /// Names what failed.
    pub(crate) fn add(&mut self, error: &Error) {
        self.output.error(error);
        self.first.get_or_insert(error.kind());
        self.count += 1;
    }

    /// The value, or `None` after naming why there is none.
    pub(crate) fn ok<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        result.inspect_err(|error| self.add(error)).ok()
    }

    /// As [`Self::ok`] where other errors than the cluster's can come: those end the command.
    ///
    /// # Errors
    /// Whatever is not a [`larder_common::Error`].
    pub(crate) fn pass<T>(&mut self, result: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let error = error.downcast::<Error>()?;
                self.add(&error);
                Ok(None)
            }
        }
    }

    /// How many failed.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// How the command ends.
    pub(crate) fn exit(&self) -> Exit {
        self.first.map_or(Exit::Done, Exit::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_decides() {
        let mut failures = Failures::new(Output { json: false });
        assert_eq!(failures.exit(), Exit::Done);
        assert_eq!(failures.ok(Ok::<_, Error>(1)), Some(1));
        failures.add(&Error::new(ErrorKind::NotFound, "no such file").at("/a"));
        failures.add(&Error::new(ErrorKind::Denied, "no").at("/b"));
        assert_eq!((failures.exit(), failures.count()), (Exit::NoSuchPath, 2));
        assert!(failures.pass::<()>(Err(anyhow::anyhow!("the terminal is gone"))).is_err());
        assert!(failures.pass::<()>(Err(Error::new(ErrorKind::Busy, "busy").into())).unwrap().is_none());
    }
}
