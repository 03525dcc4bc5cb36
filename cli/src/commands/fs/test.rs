//! `larder fs test`: answers by its exit code, 0 for yes and 1 for no; other codes mean that there is no answer.

use clap::Args;
use larder_client::{ErrorKind, FileStatus};

use super::{
    Act, path,
    places::{Authority, Typed},
    shell::Shell,
};
use crate::exit::Exit;

/// Test a path: exit code 0 for yes, 1 for no
#[derive(Args, Debug)]
pub(crate) struct Test {
    #[command(flatten)]
    question: Question,
    /// The path
    #[arg(value_name = "PATH", value_parser = path())]
    path: Typed,
}

/// One of these is asked.
#[derive(Args, Clone, Copy, Debug)]
#[group(required = true, multiple = false)]
struct Question {
    /// Whether it is a directory
    #[arg(short)]
    directory: bool,
    /// Whether it exists
    #[arg(short)]
    exists: bool,
    /// Whether it is a file
    #[arg(short)]
    file: bool,
    /// Whether it is a directory with entries, or anything else that is not empty
    #[arg(short = 's')]
    non_empty: bool,
    /// Whether it is an empty file
    #[arg(short)]
    zero: bool,
}

impl Question {
    fn holds(self, status: &FileStatus) -> bool {
        match () {
            () if self.directory => status.kind.is_directory(),
            () if self.file => status.kind.is_file(),
            () if self.non_empty => status.length > 0,
            () if self.zero => status.kind.is_file() && status.length == 0,
            () => true,
        }
    }
}

impl Act for Test {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        vec![self.path.authority.as_ref()]
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let paths = match super::expand::expand(&shell.fs, &self.path).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Exit::Failed),
            paths => paths?,
        };
        for path in &paths {
            let holds = match shell.fs.status(path).await {
                Ok(status) => self.question.holds(&status),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDirectory) => false,
                Err(error) => return Err(error.into()),
            };
            if !holds {
                return Ok(Exit::Failed);
            }
        }
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests {
    use larder_client::FileKind;

    use super::{super::rows::tests::status, *};

    fn asks(letter: char) -> Question {
        let is = |own: char| own == letter;
        Question { directory: is('d'), exists: is('e'), file: is('f'), non_empty: is('s'), zero: is('z') }
    }

    #[test]
    fn each_letter_asks_its_question() {
        let (empty, full) = (status("f", 0), status("f", 1));
        let directory = FileStatus { kind: FileKind::Directory, ..status("d", 0) };
        let answers = |letter: char| [&empty, &full, &directory].map(|status| asks(letter).holds(status));
        assert_eq!(answers('d'), [false, false, true]);
        assert_eq!(answers('e'), [true, true, true]);
        assert_eq!(answers('f'), [true, true, false]);
        assert_eq!(answers('s'), [false, true, false]);
        assert_eq!(answers('z'), [true, false, false]);
    }
}
