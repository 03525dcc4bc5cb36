//! `larder format`: forgets a namespace, so that the next master begins a new cluster. What is in the under store stays.

use std::{fs, io};

use clap::Args;
use larder_common::{Error, ErrorKind, settings::Role};
use larder_master::journal::{EmbeddedJournal, Settings as JournalSettings};

use crate::{command::Run, context::Context, exit::Exit, serving};

/// Forget the namespace: the next master begins a new cluster
#[derive(Args, Debug)]
pub(crate) struct Format {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

impl Run for Format {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let settings = context.start_command(Role::Master, Vec::new())?;
        let journal = settings.journal_folder(serving::is_root())?;
        if !journal.exists() {
            context.output.line(format!("{}: there is no journal; nothing to forget", journal.display()))?;
            return Ok(Exit::Done);
        }
        if !self.force && !confirmed(context, &journal)? {
            let error =
                Error::new(ErrorKind::Invalid, "nothing was changed").at(journal.as_os_str().as_encoded_bytes());
            return Err(error.advise("say --force to forget the namespace").into());
        }
        // Opening takes the lock: a running master keeps its journal.
        match EmbeddedJournal::open(&JournalSettings::new(&journal)) {
            Err(error) if error.kind() == ErrorKind::Busy => return Err(error.into()),
            opened => drop(opened),
        }
        fs::remove_dir_all(&journal).map_err(|e| Error::from(e).at(journal.as_os_str().as_encoded_bytes()))?;
        context.output.line(format!("{}: forgotten; the next master begins a new cluster", journal.display()))?;
        Ok(Exit::Done)
    }
}

fn confirmed(context: &Context, journal: &std::path::Path) -> anyhow::Result<bool> {
    if !context.is_interactive() {
        return Ok(false);
    }
    context.output.line(format!(
        "Forget the namespace in {}? Names, rights and what is only in the cache are lost; the under store stays. [y/N]",
        journal.display()
    ))?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}
