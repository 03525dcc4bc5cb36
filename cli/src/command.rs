//! The registry of commands. A new one is a file under `commands` with a struct of arguments that is [`Run`], and one
//! line in the registry below: its group and its variant.

use std::ffi::OsString;

use clap::{FromArgMatches, Subcommand};

use crate::{
    arguments::{Arguments, command_line},
    commands::{
        bench, completions, config, demo, format, fs, fsadmin, fuse, health, job, local, man, master, proxy, run_tests,
        umount, version, worker,
    },
    context::{Context, Environment},
    exit::Exit,
    failure, foreign,
    output::Output,
};

/// What a command does.
pub(crate) trait Run {
    /// Does it, and answers how the process ends.
    ///
    /// # Errors
    /// A [`larder_common::Error`], whose kind decides the exit code; anything else ends with 1.
    fn run(self, context: &Context) -> anyhow::Result<Exit>;
}

/// What a command is for, in the order of `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Start,
    Files,
    Cluster,
    Servers,
    Shell,
}

impl Group {
    pub(crate) const ALL: &[Group] = &[Group::Start, Group::Files, Group::Cluster, Group::Servers, Group::Shell];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Group::Start => "Start here",
            Group::Files => "Files",
            Group::Cluster => "Cluster",
            Group::Servers => "Servers",
            Group::Shell => "Settings and shell",
        }
    }
}

macro_rules! registry {
    ($($group:ident: $(#[$attribute:meta])* $name:ident($arguments:ty);)*) => {
        /// Every command.
        #[derive(Debug, Subcommand)]
        pub(crate) enum Command { $($(#[$attribute])* $name($arguments),)* }

        /// The group of each command, in the order of the registry.
        pub(crate) const GROUPS: &[Group] = &[$(Group::$group),*];

        impl Run for Command {
            fn run(self, context: &Context) -> anyhow::Result<Exit> {
                match self { $(Command::$name(arguments) => arguments.run(context),)* }
            }
        }
    };
}

registry! {
    Start: Demo(demo::Demo);
    Start: Local(local::Local);
    Start: #[command(visible_alias = "mount")] Fuse(fuse::Fuse);
    Start: Umount(umount::Umount);
    Files: Fs(fs::Fs);
    Files: Job(job::JobCommand);
    Cluster: Fsadmin(fsadmin::Fsadmin);
    Cluster: #[command(name = "runTests")] RunTests(run_tests::RunTests);
    Cluster: Bench(bench::Bench);
    Servers: Master(master::Master);
    Servers: Worker(worker::Worker);
    Servers: Proxy(proxy::Proxy);
    Servers: Format(format::Format);
    Servers: Health(health::Health);
    Shell: Config(config::Config);
    Shell: Completions(completions::Completions);
    Shell: Man(man::Man);
    Shell: Version(version::Version);
}

/// Runs what the command line says; prints what goes wrong, and answers how the process ends.
pub(crate) fn main(arguments: Vec<OsString>, environment: Environment) -> Exit {
    let asks_for_json = arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    foreign::become_it(&command_line(), &arguments, &environment);
    let arguments = fs::long_options(&command_line(), arguments);
    let matches = command_line().try_get_matches_from(arguments);
    let arguments = match matches.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        Err(error) => return failure::usage(&error, Output { json: asks_for_json }),
    };
    let context = Context::new(arguments.shared, environment);
    arguments.command.run(&context).unwrap_or_else(|error| failure::report(&error, context.output))
}
