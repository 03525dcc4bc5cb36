//! Servers as processes of their own: started with nothing of this process's environment that could be a setting,
//! asked to stop when their value goes, killed when they do not.
//!
//! A child is in a process group of its own, so that Ctrl-C reaches it through us, in order. If this process is killed,
//! the kernel tells the child to stop: when the thread that started it ends, so servers are started on the thread that
//! runs the benches, which lives longer.

use std::{
    ffi::OsStr,
    fs,
    io::Read,
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use larder_common::{Error, ErrorKind, Result};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use crate::{lab::Lab, scratch::bytes};

/// How long a server may take to stop in good order.
const STOP: Duration = Duration::from_secs(20);
/// How often a wait asks whether a signal has come.
const SLICE: Duration = Duration::from_millis(100);
/// The most of a log that an error quotes, in lines.
const QUOTED: usize = 6;

/// A server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    output: ChildStdout,
    log: PathBuf,
    name: String,
}

impl Server {
    /// Starts `larder` with these arguments. Its log goes to `log`, and its home is `home`.
    ///
    /// # Errors
    /// Where the binary cannot be run.
    pub(crate) fn start(binary: &Path, arguments: &[String], home: &Path, log: PathBuf) -> Result<Self> {
        let name = arguments.first().cloned().unwrap_or_default();
        let stderr = fs::File::create(&log).map_err(|e| Error::from(e).at(bytes(&log)))?;
        let mut command = Command::new(binary);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).process_group(0);
        command.env_clear().envs(std::env::vars_os().filter(|(variable, _)| !is_setting(variable)));
        command.env("HOME", home).env("XDG_RUNTIME_DIR", home).env("XDG_STATE_HOME", home);
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and allocates nothing.
        unsafe {
            command.pre_exec(|| set_pdeathsig(Signal::SIGTERM).map_err(Into::into));
        }
        let mut child = command.spawn().map_err(|e| Error::from(e).context("cannot be run").at(bytes(binary)))?;
        let output = child.stdout.take().expect("standard output was asked to be a pipe");
        Ok(Self { child, output, log, name })
    }

    /// Its number.
    #[must_use]
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the first line on its standard output.
    ///
    /// # Errors
    /// `Unavailable` if it ends before, with the end of its log; `Deadline` after `limit`; `Busy` when a signal comes.
    pub(crate) fn first_line(&mut self, lab: &Lab<'_>, limit: Duration) -> Result<String> {
        let (start, mut text) = (Instant::now(), Vec::new());
        loop {
            lab.check()?;
            if start.elapsed() > limit {
                return Err(self.failed(ErrorKind::Deadline, "is not ready yet"));
            }
            if !self.has_output(SLICE) {
                continue;
            }
            let mut byte = [0];
            match self.output.read(&mut byte) {
                Ok(1) if byte[0] == b'\n' => return Ok(String::from_utf8_lossy(&text).into_owned()),
                Ok(1) => text.push(byte[0]),
                _ => return Err(self.failed(ErrorKind::Unavailable, "has ended at its start")),
            }
        }
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// `Unavailable` if not, with the end of its log.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(self.failed(ErrorKind::Unavailable, "has ended")),
        }
    }

    /// An error with the end of the log, which says why.
    pub(crate) fn failed(&self, kind: ErrorKind, what: &str) -> Error {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let end = lines[lines.len().saturating_sub(QUOTED)..].join(" | ");
        let said = if end.is_empty() { "it said nothing".to_owned() } else { format!("it said: {end}") };
        Error::new(kind, format!("larder {} {what}; {said}", self.name))
    }

    /// Whether there is output, or its end, within this time.
    fn has_output(&self, within: Duration) -> bool {
        let mut polled = [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
        poll(&mut polled, timeout).is_ok_and(|ready| ready > 0)
    }

    /// Waits until the process has ended: the pipe of its output closes then.
    fn ends_within(&mut self, limit: Duration) -> bool {
        let start = Instant::now();
        let mut rest = [0; 4096];
        while start.elapsed() < limit {
            if self.has_output(SLICE) && matches!(self.output.read(&mut rest), Ok(0) | Err(_)) {
                return true;
            }
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0));
        if pid.as_raw() > 0 && kill(pid, Signal::SIGTERM).is_ok() && self.ends_within(STOP) {
            let _ = self.child.wait();
            return;
        }
        tracing::warn!(name = self.name, "a server did not stop in time and is killed");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a variable could change what a server does.
fn is_setting(variable: &OsStr) -> bool {
    let name = variable.to_string_lossy();
    name.starts_with("LARDER_") || name.starts_with("ALLUXIO_") || name == "MOUNT_POINT"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::quiet;

    fn shell(script: &str) -> (tempfile::TempDir, Server) {
        let place = tempfile::tempdir().unwrap();
        let arguments = ["-c".to_owned(), script.to_owned()];
        let server = Server::start(Path::new("/bin/sh"), &arguments, place.path(), place.path().join("log")).unwrap();
        (place, server)
    }

    #[test]
    fn a_server_says_a_line_and_stops_when_asked() {
        let lab = quiet::lab();
        let (_place, mut server) =
            shell("trap 'exit 0' TERM; echo ready at 1; while :; do read -t 1 x < /dev/zero; done");
        assert_eq!(server.first_line(&lab, Duration::from_secs(10)).unwrap(), "ready at 1");
        server.check().unwrap();
        let process = PathBuf::from(format!("/proc/{}", server.pid()));
        drop(server);
        assert!(!process.exists());
    }

    #[test]
    fn one_that_ends_at_its_start_is_quoted() {
        let lab = quiet::lab();
        let (_place, mut server) = shell("echo the port is taken >&2; exit 3");
        let error = server.first_line(&lab, Duration::from_secs(10)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("the port is taken"), "{error}");
    }

    #[test]
    fn one_that_says_nothing_is_not_waited_for_for_ever() {
        let lab = quiet::lab();
        let (_place, mut server) = shell("exec sleep 60");
        let error = server.first_line(&lab, Duration::from_millis(300)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Deadline);
    }

    #[test]
    fn settings_of_this_process_are_not_passed_on() {
        for name in ["LARDER_MASTER_HOSTNAME", "ALLUXIO_RAM_FOLDER", "MOUNT_POINT"] {
            assert!(is_setting(OsStr::new(name)));
        }
        assert!(!is_setting(OsStr::new("PATH")));
    }
}
