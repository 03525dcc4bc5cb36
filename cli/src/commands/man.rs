//! `larder man`: manual pages, made from the command line's own description. Reads no settings.

use std::path::PathBuf;

use clap::Args;
use larder_common::{Error, ErrorKind};

use crate::{arguments::command_line, command::Run, context::Context, exit::Exit};

/// Print a manual page, or write all of them into a directory
#[derive(Args, Debug)]
#[command(after_help = "To read one:  larder man | man -l -\nTo install:   larder man --dir /usr/local/share/man/man1")]
pub(crate) struct Man {
    /// The command that the page is about; none for larder as a whole
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Write the page of every command into this directory, which must exist
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

impl Run for Man {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        if let Some(directory) = &self.dir {
            let written = clap_mangen::generate_to(command_line(), directory);
            written.map_err(|e| Error::from(e).at(directory.as_os_str().as_encoded_bytes()))?;
            return Ok(Exit::Done);
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(find(&self.command)?).render(&mut page)?;
        context.output.bytes(&page)?;
        Ok(Exit::Done)
    }
}

/// The command with these names, one below the other.
fn find(names: &[String]) -> Result<clap::Command, Error> {
    let mut command = command_line();
    command.build();
    for name in names {
        command = command.find_subcommand(name).cloned().ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("{name:?} is not a command")).advise("see `larder --help`")
        })?;
    }
    Ok(command)
}
