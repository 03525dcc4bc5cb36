//! Logs: `tracing` events as lines of text or JSON, to standard error or standard output, filtered by `log.filter`.

use std::io;

use larder_common::{
    Error, ErrorKind, Result,
    settings::{LogFormat, LogOutput},
};
use tracing_subscriber::{EnvFilter, fmt::writer::BoxMakeWriter, util::SubscriberInitExt};

/// How logs look and where they go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Telemetry<'a> {
    /// A level, or levels by part: `info,larder_worker=debug`.
    pub(crate) filter: &'a str,
    /// For people or for programs.
    pub(crate) format: LogFormat,
    /// Where to.
    pub(crate) output: LogOutput,
    /// Whether text may have colours.
    pub(crate) colours: bool,
}

impl Telemetry<'_> {
    /// Starts logging, for the rest of the process.
    ///
    /// # Errors
    /// `Config` for a filter that cannot be read; `Busy` if logging was started before.
    pub(crate) fn start(self) -> Result<()> {
        let filter = EnvFilter::builder().parse(self.filter).map_err(|e| {
            Error::new(ErrorKind::Config, format!("log.filter: {:?}: {e}", self.filter))
                .advise("write it as info,larder_worker=debug")
        })?;
        let writer = match self.output {
            LogOutput::Stdout => BoxMakeWriter::new(io::stdout),
            LogOutput::Stderr => BoxMakeWriter::new(io::stderr),
        };
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(self.colours);
        let started = match self.format {
            LogFormat::Text => lines.finish().try_init(),
            LogFormat::Json => lines.json().flatten_event(true).with_ansi(false).finish().try_init(),
        };
        started.map_err(|e| Error::new(ErrorKind::Busy, e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logging_starts_once_and_only_with_a_filter_that_can_be_read() {
        let usual = Telemetry { filter: "info", format: LogFormat::Json, output: LogOutput::Stderr, colours: true };
        let error = Telemetry { filter: "larder[=", ..usual }.start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        usual.start().unwrap();
        tracing::debug!("not printed");
        assert_eq!(usual.start().unwrap_err().kind(), ErrorKind::Busy);
    }
}
