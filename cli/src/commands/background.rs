//! `larder local` as a process of its own: `--background` starts it, `--status` shows it, `--stop` ends it.
//!
//! The process in the background runs the same command without the flag. It is ready when it writes its one line to
//! standard output, which is a pipe to whoever started it; what it logs goes to `log` in its state directory. If it ends
//! before it is ready, the end of that file is the reason, and its exit code is ours.
//!
//! A process is known by the description that it leaves in the runtime directory. A number of a process can be given
//! again, so nothing is signalled that is not a larder.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use larder_common::{Error, ErrorKind, settings::Settings};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cluster::{Local, described},
    context::Context,
    exit::Exit,
    serving,
};

/// How long a stop may take unless `--timeout` says otherwise: what is pending is persisted first.
const STOP: Duration = Duration::from_secs(120);
/// How often a process that was told to stop is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How much of a log is shown when a start failed, in bytes.
const TAIL: u64 = 4096;

/// Starts this command once more, in the background, and waits until it is ready. `stops` is the command that ends it.
///
/// # Errors
/// Where it does not become ready, with the end of its log.
pub(crate) fn start(context: &Context, state: &Path, stops: &str) -> anyhow::Result<Exit> {
    let log_path = state.join("log");
    let log = File::options().create(true).append(true).open(&log_path);
    let mut log = log.map_err(|e| Error::from(e).at(log_path.as_os_str().as_encoded_bytes()))?;
    let begins = log.seek(SeekFrom::End(0))?;
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--background");
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("the process in the background")?;
    let mut ready = String::new();
    let output = child.stdout.take().context("a pipe from the process in the background")?;
    BufReader::new(output).read_line(&mut ready)?;
    if ready.is_empty() {
        return failed(context, &mut child, &log_path, begins);
    }
    match context.output.json {
        true => context.output.line(ready.trim_end())?,
        false => {
            let ready = ready.trim_end().replace("Ctrl-C stops it", &format!("`{stops}` stops it"));
            context.output.line(format!("{ready}; its log is {}", log_path.display()))?;
        }
    }
    Ok(Exit::Done)
}

/// It ended before it was ready.
fn failed(context: &Context, child: &mut Child, log: &Path, begins: u64) -> anyhow::Result<Exit> {
    let ended = child.wait()?;
    let said = tail(log, begins)?;
    let message = format!("it ended before it was ready ({ended}): {}", said.trim_end());
    let code = ended.code().and_then(|code| u8::try_from(code).ok());
    match code.and_then(Exit::from_code) {
        Some(code) => {
            context.output.error(&Error::new(ErrorKind::Unavailable, message));
            Ok(code)
        }
        None => Err(anyhow::anyhow!(message)),
    }
}

/// The end of what was written to a log since it had this length.
fn tail(log: &Path, begins: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(begins.max(length.saturating_sub(TAIL))))?;
    let mut said = Vec::new();
    file.read_to_end(&mut said)?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// The clusters that run here; only the one over `root`, if one is named.
fn running(settings: &Settings, root: Option<&str>) -> anyhow::Result<Vec<Local>> {
    let folder = settings.runtime_folder(serving::is_root())?;
    let wanted = |local: &Local| root.is_none_or(|root| local.root.as_deref() == Some(root));
    Ok(described(&folder).into_iter().filter(|local| local.is_alive() && is_larder(local) && wanted(local)).collect())
}

/// Whether the process of a description is a larder, and not another one that got its number.
fn is_larder(local: &Local) -> bool {
    let Some(pid) = local.pid else { return false };
    // Of a process of somebody else only the name can be read.
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end().starts_with("larder"))
}

/// Shows what runs here. Ends with "not reached" where nothing does.
///
/// # Errors
/// Where standard output cannot be written.
pub(crate) fn status(context: &Context, settings: &Settings, root: Option<&str>) -> anyhow::Result<Exit> {
    let running = running(settings, root)?;
    for local in &running {
        let (root, pid) = (local.root.as_deref().unwrap_or("?"), local.pid.unwrap_or_default());
        match context.output.json {
            true => {
                let object = serde_json::json!({ "root": root, "master": local.master, "pid": pid });
                context.output.object(&object)?;
            }
            false => context.output.line(format!("{root} at larder://{} (process {pid})", local.master))?,
        }
    }
    if !running.is_empty() {
        return Ok(Exit::Done);
    }
    if !context.output.json {
        context.output.line(nothing(root))?;
    }
    Ok(Exit::NotReached)
}

fn nothing(root: Option<&str>) -> String {
    match root {
        Some(root) => format!("no `larder local` runs over {root}"),
        None => "no `larder local` runs here".to_owned(),
    }
}

/// Stops what runs here, as Ctrl-C would, and waits for its end. Nothing to stop is no failure.
///
/// # Errors
/// `Config` where several run and none was named; `Deadline` where it does not end; `Denied` for one of somebody else.
pub(crate) fn stop(context: &Context, settings: &Settings, root: Option<&str>) -> anyhow::Result<Exit> {
    let running = running(settings, root)?;
    let local = match &running[..] {
        [] => {
            context.output.line(nothing(root))?;
            return Ok(Exit::Done);
        }
        [one] => one,
        several => return Err(which(several).into()),
    };
    let pid = local.pid.context("a description without a process")?;
    let process = Pid::from_raw(pid);
    kill(process, Signal::SIGTERM).map_err(|e| Error::from(io::Error::from(e)).context(format!("process {pid}")))?;
    let patience = context.timeout().unwrap_or(STOP);
    if !gone(process, patience) {
        let message = format!("process {pid} did not end within {}", humantime::format_duration(patience));
        let error = Error::new(ErrorKind::Deadline, message);
        return Err(error.advise("its log says what it waits for; --timeout waits longer").into());
    }
    context.output.line(format!("stopped {}", local.root.as_deref().unwrap_or(&local.master)))?;
    Ok(Exit::Done)
}

fn which(several: &[Local]) -> Error {
    let roots: Vec<_> = several.iter().filter_map(|local| local.root.as_deref()).collect();
    let message = format!("{} clusters run here: {}", several.len(), roots.join(", "));
    Error::new(ErrorKind::Config, message).advise("say which one with --ufs DIR")
}

/// Waits until a process has ended; not for its parent to take note of that.
fn gone(process: Pid, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    while is_running(process) {
        if Instant::now() >= until {
            return false;
        }
        std::thread::park_timeout(LOOK);
    }
    true
}

fn is_running(process: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) else { return false };
    // The state comes after the name in brackets, which may hold anything.
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_what_is_new_in_a_log_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        fs::write(&log, "old\nnew\n").unwrap();
        assert_eq!(tail(&log, 4).unwrap(), "new\n");
        fs::write(&log, vec![b'x'; 10_000]).unwrap();
        assert_eq!(tail(&log, 4).unwrap().len() as u64, TAIL);
    }

    #[test]
    fn a_process_that_ended_is_gone_although_nobody_waited_for_it() {
        let mut child = Command::new("true").spawn().unwrap();
        let process = Pid::from_raw(child.id().cast_signed());
        assert!(gone(process, Duration::from_secs(10)));
        child.wait().unwrap();
        assert!(is_running(Pid::this()));
        assert!(!gone(Pid::this(), Duration::from_millis(50)));
    }

    #[test]
    fn who_is_to_be_stopped_must_be_named_where_several_run() {
        let local =
            |root: &str| Local { master: "127.0.0.1:1".into(), token_file: None, pid: None, root: Some(root.into()) };
        let error = which(&[local("/a"), local("/b")]);
        assert_eq!(error.to_string(), "2 clusters run here: /a, /b; say which one with --ufs DIR");
        assert!(!is_larder(&local("/a")), "without a process nothing can be said");
    }
}
