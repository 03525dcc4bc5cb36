//! `larder completions`: a script that completes command lines in a shell. Reads no settings.

use clap::{Args, ValueEnum};

use crate::{arguments::command_line, command::Run, context::Context, exit::Exit};

/// Print a script that completes larder's command lines
#[derive(Args, Debug)]
#[command(after_help = "For bash, now:  source <(larder completions bash)\n\
                        For zsh:        larder completions zsh > ~/.zfunc/_larder\n\
                        For fish:       larder completions fish > ~/.config/fish/completions/larder.fish")]
pub(crate) struct Completions {
    /// The shell that is to read it
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl From<Shell> for clap_complete::Shell {
    fn from(shell: Shell) -> Self {
        match shell {
            Shell::Bash => clap_complete::Shell::Bash,
            Shell::Zsh => clap_complete::Shell::Zsh,
            Shell::Fish => clap_complete::Shell::Fish,
        }
    }
}

impl Run for Completions {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(clap_complete::Shell::from(self.shell), &mut command_line(), "larder", &mut script);
        context.output.bytes(&script)?;
        Ok(Exit::Done)
    }
}
