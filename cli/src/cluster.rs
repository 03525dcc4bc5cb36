//! The way of a command to the cluster: which master, which token, how long to try, and what is said when it fails.
//!
//! Where no master is set, a cluster of `larder local` on this machine is looked for: it leaves `local.toml` (or
//! `local-<hash>.toml`) in the runtime directory, with the keys `master`, `token_file` and `pid`.
//!
//! Until the cluster is reached a failure is [`ErrorKind::Unavailable`] (exit code 4); a `--timeout` that passes after
//! that is [`ErrorKind::Deadline`] (exit code 124).

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use larder_client::{Config, FileSystem};
use larder_common::{
    Error, ErrorKind, Result,
    settings::{Flag, Role, Settings},
};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::{context::Context, exit::Exit};

/// How long threads of a command that has ended may take: some wait for a terminal that says nothing.
const LINGER: Duration = Duration::from_millis(200);

/// How a shell sees a command that was interrupted: 128 and the number of SIGINT.
const INTERRUPTED: i32 = 130;

/// Connects, and does `work` within the deadline of the command. `flags` are settings that the command line implies.
///
/// # Errors
/// `Unavailable` if the cluster is not reached in time, `Deadline` if the time is up later, `Config`, and those of `work`.
pub(crate) fn run<W>(context: &Context, flags: Vec<Flag>, work: W) -> anyhow::Result<Exit>
where
    W: AsyncFnOnce(FileSystem) -> anyhow::Result<Exit>,
{
    let settings = settings(context, flags)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().thread_name("larder").build().context("no threads")?;
    let started = Instant::now();
    let ended = runtime.block_on(Box::pin(async {
        let cluster = connect(&settings, context.reach()).await?;
        let rest = context.timeout().map(|timeout| (timeout, timeout.saturating_sub(started.elapsed())));
        let ended = bounded(work(cluster.clone()), rest).await;
        // Without a goodbye the master waits a lease for this client before it answers others who change what it saw.
        cluster.close().await;
        ended
    }));
    runtime.shutdown_timeout(LINGER);
    match ended? {
        Some(exit) => Ok(exit),
        None => std::process::exit(INTERRUPTED),
    }
}

/// Does work until it ends, the time is up, or somebody interrupts it (`None`). What it holds is given back then.
async fn bounded(
    work: impl Future<Output = anyhow::Result<Exit>>,
    rest: Option<(Duration, Duration)>,
) -> anyhow::Result<Option<Exit>> {
    let work = Box::pin(work);
    let up = async {
        match rest {
            Some((_, rest)) => tokio::time::sleep(rest).await,
            None => std::future::pending().await,
        }
    };
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = work => ended.map(Some),
        () = up => Err(late(rest.map_or(Duration::ZERO, |(timeout, _)| timeout)).into()),
        _ = tokio::signal::ctrl_c() => Ok(None),
        _ = terminate.recv() => Ok(None),
    }
}

/// The settings of a command of the cluster, with the master and token of a local cluster where none are set.
///
/// # Errors
/// `Config` for wrong settings, and where several clusters run here and none was named.
pub(crate) fn settings(context: &Context, mut flags: Vec<Flag>) -> Result<Settings> {
    if let Some(timeout) = context.timeout() {
        let value = format!("{}ms", timeout.as_millis().max(1));
        flags.push(Flag { shown: "--timeout".into(), name: "user.rpc.timeout".into(), value });
    }
    let (settings, _said_below) = context.settings(Some(Role::Client), flags.clone())?;
    flags.extend(local_flags(&settings)?);
    context.start_command(Role::Client, flags)
}

/// The settings of a server that is a client of the cluster, too; its logs go where those of servers go.
///
/// # Errors
/// As [`settings`].
pub(crate) fn server_settings(context: &Context, role: Role, mut flags: Vec<Flag>) -> Result<Settings> {
    let (settings, _said_below) = context.settings(Some(role), flags.clone())?;
    flags.extend(local_flags(&settings)?);
    context.start_server(role, flags)
}

/// Connects to the cluster that the settings name.
///
/// # Errors
/// `Unavailable` if it is not reached in time.
pub(crate) async fn connect(settings: &Settings, reach: Duration) -> Result<FileSystem> {
    let connected = tokio::time::timeout(reach, FileSystem::connect(Config::from_settings(settings))).await;
    let late = || Error::new(ErrorKind::Deadline, "no answer");
    let is_given = settings.is_given("master.hostname");
    connected.unwrap_or_else(|_elapsed| Err(late())).map_err(|error| match error.kind() {
        ErrorKind::Unavailable | ErrorKind::Deadline => {
            not_reached(&settings.master_address().to_string(), reach, &error, is_given)
        }
        _ => error,
    })
}

fn not_reached(master: &str, reach: Duration, error: &Error, is_given: bool) -> Error {
    let reach = humantime::format_duration(reach);
    let message = format!("the master at {master} was not reached within {reach}: {}", error.message());
    Error::new(ErrorKind::Unavailable, message).advise(match is_given {
        true => "see that it runs there (`larder master`) and that no firewall is between",
        false => "start a cluster with `larder local --ufs DIR`, or name one with --master HOST[:PORT]",
    })
}

fn late(timeout: Duration) -> Error {
    let message = format!("the command did not end within {}", humantime::format_duration(timeout));
    Error::new(ErrorKind::Deadline, message).advise("give it a longer --timeout; what was begun may be done in part")
}

/// A cluster of `larder local` on this machine, as it describes itself.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Local {
    /// `HOST:PORT`.
    pub(crate) master: String,
    /// The file that holds its token.
    pub(crate) token_file: Option<PathBuf>,
    /// Its process.
    pub(crate) pid: Option<i32>,
    /// Its under store.
    pub(crate) root: Option<String>,
}

impl Local {
    /// Whether its process is there still, or one that got its number.
    pub(crate) fn is_alive(&self) -> bool {
        use nix::{errno::Errno, sys::signal, unistd::Pid};
        let asked = self.pid.map(|pid| signal::kill(Pid::from_raw(pid), None));
        // A process of somebody else cannot be signalled, but it is there.
        matches!(asked, None | Some(Ok(()) | Err(Errno::EPERM)))
    }

    fn address(&self) -> Option<(&str, u16)> {
        let (host, port) = self.master.rsplit_once(':')?;
        Some((host.trim_matches(['[', ']']), port.parse().ok()?))
    }

    fn is_at(&self, host: &str, port: u16) -> bool {
        let loopback = |host: &str| host == "localhost" || host == "127.0.0.1" || host == "::1";
        self.address().is_some_and(|(own, at)| at == port && (own == host || loopback(own) && loopback(host)))
    }

    /// The settings that lead there; `shown` is where they come from.
    fn flags(&self, with_master: bool, with_token: bool) -> Result<Vec<Flag>> {
        let flag = |name: &str, value: String| Flag { shown: "larder local".into(), name: name.into(), value };
        let mut flags = Vec::new();
        if let Some((host, port)) = self.address().filter(|_| with_master) {
            flags.extend([flag("master.hostname", host.to_owned()), flag("master.rpc.port", port.to_string())]);
        }
        if let Some(path) = self.token_file.as_ref().filter(|_| with_token) {
            let token = fs::read_to_string(path).map_err(|e| {
                let error =
                    Error::from(e).at(path.as_os_str().as_encoded_bytes()).context("the token of `larder local`");
                error.advise("run the command as the user who runs the cluster, or set LARDER_SECURITY_TOKEN_FILE")
            })?;
            flags.push(flag("security.token", token.trim().to_owned()));
        }
        Ok(flags)
    }
}

fn local_flags(settings: &Settings) -> Result<Vec<Flag>> {
    // Without a home there is no such directory, and so no such cluster.
    let Ok(folder) = settings.runtime_folder(nix::unistd::geteuid().is_root()) else { return Ok(Vec::new()) };
    let running: Vec<_> = described(&folder).into_iter().filter(Local::is_alive).collect();
    let with_token = !settings.is_given("security.token");
    if settings.is_given("master.hostname") || settings.is_given("master.rpc.port") {
        let address = settings.master_address();
        let named = running.iter().find(|local| local.is_at(&address.host, address.port));
        return named.map_or(Ok(Vec::new()), |local| local.flags(false, with_token));
    }
    chosen(&running)?.map_or(Ok(Vec::new()), |local| local.flags(true, with_token))
}

/// The one that runs; none where none does.
fn chosen(running: &[Local]) -> Result<Option<&Local>> {
    match running {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        several => {
            let shown = |local: &Local| match &local.root {
                Some(root) => format!("{} (over {root})", local.master),
                None => local.master.clone(),
            };
            let shown: Vec<_> = several.iter().map(shown).collect();
            let message = format!("{} clusters run here: {}", several.len(), shown.join(", "));
            let advice = format!("say which one: --master {}", several[0].master);
            Err(Error::new(ErrorKind::Config, message).advise(advice))
        }
    }
}

/// All descriptions in a directory, each cluster once; what cannot be read is passed over. One that was killed, and one in
/// another network namespace, may have had the same address.
pub(crate) fn described(folder: &Path) -> Vec<Local> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<Local> = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_description = name == "local.toml" || name.starts_with("local-") && name.ends_with(".toml");
        let text = is_description.then(|| fs::read_to_string(entry.path()).ok()).flatten();
        let local = text.and_then(|text| toml::from_str::<Local>(&text).ok()).filter(|local| local.address().is_some());
        let is_new = |local: &Local| found.iter().all(|o| (&o.master, o.pid) != (&local.master, local.pid));
        if let Some(local) = local.filter(is_new) {
            found.push(local);
        }
    }
    found.sort_by(|a, b| (&a.master, a.pid).cmp(&(&b.master, b.pid)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(master: &str) -> Local {
        Local { master: master.into(), token_file: None, pid: None, root: Some("/data".into()) }
    }

    #[test]
    fn descriptions_are_found_and_what_is_dead_or_broken_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let own = std::process::id();
        put("local.toml", &format!("master = \"127.0.0.1:7\"\ntoken_file = \"/t\"\npid = {own}\nmore = 1\n"));
        put("local-ab12.toml", &format!("master = \"127.0.0.1:7\"\npid = {own}\n"));
        put("local-cd34.toml", "master = \"127.0.0.1:8\"\npid = 2147483647\n");
        put("local-ef56.toml", "master = \"127.0.0.1:7\"\npid = 2147483647\n");
        put("local-broken.toml", "master = ");
        put("local-nowhere.toml", "master = \"nowhere\"\n");
        put("other.toml", "master = \"127.0.0.1:9\"\n");
        let found = described(folder.path());
        let masters: Vec<_> = found.iter().map(|local| local.master.as_str()).collect();
        assert_eq!(masters, ["127.0.0.1:7", "127.0.0.1:7", "127.0.0.1:8"]);
        let alive: Vec<_> = found.iter().map(Local::is_alive).collect();
        assert_eq!(alive, [true, false, false]);
        assert!(described(Path::new("/no/such/directory")).is_empty());
    }

    #[test]
    fn one_is_taken_and_several_must_be_named() {
        let (a, b) = (local("127.0.0.1:7"), local("127.0.0.1:8"));
        assert_eq!(chosen(&[]).unwrap(), None);
        assert_eq!(chosen(std::slice::from_ref(&a)).unwrap(), Some(&a));
        let error = chosen(&[a, b]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("127.0.0.1:8 (over /data)"), "{error}");
        assert!(error.advice().unwrap().contains("--master 127.0.0.1:7"));
    }

    #[test]
    fn its_token_is_read_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        fs::write(&token, "secret\n").unwrap();
        let local = Local { token_file: Some(token), ..local("[::1]:7") };
        let flags: Vec<_> = local.flags(true, true).unwrap().into_iter().map(|flag| (flag.name, flag.value)).collect();
        let expected = [("master.hostname", "::1"), ("master.rpc.port", "7"), ("security.token", "secret")];
        assert_eq!(flags, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(local.flags(true, false).unwrap().iter().all(|flag| flag.name != "security.token"));
        let gone = Local { token_file: Some("/no/such/token".into()), ..local };
        assert!(gone.flags(false, true).unwrap_err().to_string().contains("/no/such/token"));
        assert!(gone.is_at("localhost", 7) && !gone.is_at("other", 7) && !gone.is_at("localhost", 8));
    }

    #[test]
    fn what_to_do_depends_on_whether_a_master_was_named() {
        let reason = Error::new(ErrorKind::Unavailable, "connection refused");
        let error = not_reached("h:1", Duration::from_secs(2), &reason, false);
        assert_eq!(
            error.to_string(),
            "the master at h:1 was not reached within 2s: connection refused; \
             start a cluster with `larder local --ufs DIR`, or name one with --master HOST[:PORT]"
        );
        assert!(not_reached("h:1", Duration::from_secs(2), &reason, true).advice().unwrap().contains("firewall"));
        assert_eq!(Exit::from(late(Duration::from_secs(1)).kind()), Exit::Deadline);
    }
}
