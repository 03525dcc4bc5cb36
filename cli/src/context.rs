//! What a command is run with: the flags that all commands take, the environment, and the way from there to settings.

use std::{ffi::OsString, io::IsTerminal, time::Duration};

use larder_common::{
    Result,
    settings::{Flag, LogOutput, Role, Settings, Sources, SystemFiles, Warning},
};

use crate::{
    arguments::Shared,
    output::{Output, takes_colours},
    telemetry::{self, Telemetry},
};

/// The environment of the process.
pub(crate) type Environment = Vec<(OsString, OsString)>;

/// How long a command tries to reach the cluster unless told otherwise.
const REACH: Duration = Duration::from_secs(30);

/// What a command is run with.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// Where it says what it has to say.
    pub(crate) output: Output,
    shared: Shared,
    environment: Environment,
}

impl Context {
    /// How long to try to reach the cluster.
    pub(crate) fn reach(&self) -> Duration {
        self.shared.timeout.unwrap_or(REACH)
    }

    /// The deadline of the whole command, if one was given.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.shared.timeout
    }

    /// Settings and logs of a command: warnings and logs go to standard error, below `warn` only when asked for.
    ///
    /// # Errors
    /// `Config`, as [`Settings::load`].
    pub(crate) fn start_command(&self, role: Role, flags: Vec<Flag>) -> Result<Settings> {
        let (settings, warnings) = self.settings(Some(role), flags)?;
        self.telemetry(&settings, "warn", LogOutput::Stderr).start()?;
        warnings.iter().for_each(|warning| self.output.warning(warning));
        Ok(settings)
    }

    /// Settings and logs of a server: logs go where `log.output` says, and warnings are log lines.
    ///
    /// # Errors
    /// `Config`, as [`Settings::load`].
    pub(crate) fn start_server(&self, role: Role, flags: Vec<Flag>) -> Result<Settings> {
        let (settings, warnings) = self.settings(Some(role), flags)?;
        self.telemetry(&settings, "info", settings.log.output).start()?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(settings)
    }

    fn telemetry<'a>(&self, settings: &'a Settings, usual: &'a str, output: LogOutput) -> Telemetry<'a> {
        let colours = match output {
            LogOutput::Stdout => takes_colours(&std::io::stdout(), &self.environment),
            LogOutput::Stderr => takes_colours(&std::io::stderr(), &self.environment),
        };
        let filter = settings.log.filter.as_ref().map_or(usual, |filter| filter.as_str());
        telemetry::Telemetry { filter, format: settings.log.format, output, colours }
    }

    /// Whether somebody sits at a terminal and can be asked or shown progress.
    pub(crate) fn is_interactive(&self) -> bool {
        !self.output.json && std::io::stderr().is_terminal() && std::io::stdin().is_terminal()
    }
}

impl Context {
    pub(crate) fn new(shared: Shared, environment: Environment) -> Self {
        Self { output: Output { json: shared.json }, shared, environment }
    }

    /// The settings from all sources; `flags` are the command's own, asked before the shared ones.
    ///
    /// # Errors
    /// `Config`, as [`Settings::load`].
    pub(crate) fn settings(&self, role: Option<Role>, flags: Vec<Flag>) -> Result<(Settings, Vec<Warning>)> {
        let mut sources = Sources::new(self.environment.iter().cloned(), &SystemFiles);
        sources.flags = self.shared.flags().into_iter().chain(flags).collect();
        sources.config.clone_from(&self.shared.config);
        sources.role = role;
        Settings::load(&sources)
    }
}
