//! Clusters of a bench's own: `larder local`, or a master alone, over directories that go with them.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use larder_client::{Config, FileSystem};
use larder_common::{ByteSize, Error, ErrorKind, Result};

use crate::{children::Server, door::Door, lab::Lab, machine, scratch::Scratch};

/// How long a cluster may take to be ready.
const READY: Duration = Duration::from_secs(60);
/// The file of settings of a server.
const CONFIG: &str = "larder.toml";

/// Where the worker's memory tier lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// In the ordinary tmpfs of the bench.
    Ordinary,
    /// In a tmpfs with huge pages that the worker mounts itself.
    Huge,
    /// As the worker chooses.
    Auto,
}

impl Pages {
    fn setting(self) -> &'static str {
        match self {
            Pages::Ordinary => "never",
            Pages::Huge => "always",
            Pages::Auto => "auto",
        }
    }
}

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The root under store.
    pub under: &'a Path,
    /// Whether nothing in it is ever changed.
    pub read_only: bool,
    /// Where the memory tier is made.
    pub memory: &'a Path,
    /// Its quota.
    pub quota: ByteSize,
    /// What it lies on.
    pub pages: Pages,
}

/// A running cluster. Its processes end before its state goes.
#[derive(Debug)]
pub struct Cluster {
    server: Server,
    door: Door,
    port: u16,
    token: Option<String>,
    _state: Scratch,
}

impl Cluster {
    /// Starts master and worker as `larder local`.
    ///
    /// # Errors
    /// Where it does not become ready, with what it said.
    pub fn local(lab: &Lab<'_>, plan: &Plan<'_>) -> Result<Self> {
        let state = Scratch::on_disk(lab.options().disk.as_deref())?;
        let tier = format!("worker.tiers=MEM:{}:{}", text(plan.memory)?, plan.quota.0);
        let mut arguments = common(&state, "local")?;
        arguments.extend(["--json", "--ufs", text(plan.under)?, "--state"].map(str::to_owned));
        arguments.push(text(&state.directory("state")?)?.to_owned());
        if plan.read_only {
            arguments.push("--read-only".into());
        }
        let pages = format!("worker.hugepages={}", plan.pages.setting());
        set(&mut arguments, &[&tier, &pages, "master.rpc.port=0", "worker.rpc.port=0"]);
        let mut server = start(lab, &state, &arguments)?;
        let line = server.first_line(lab, READY)?;
        let port = master_port(&line).ok_or_else(|| server.failed(ErrorKind::Mismatch, "did not say where it is"))?;
        let token = std::fs::read_to_string(state.path().join("state/token")).ok();
        let token = token.map(|token| token.trim().to_owned());
        Ok(Self { server, door: Door::of_own(port, token.clone()), port, token, _state: state })
    }

    /// Starts a master without workers: enough for what is only names.
    ///
    /// # Errors
    /// As [`Cluster::local`].
    pub fn master(lab: &Lab<'_>, under: &Path) -> Result<Self> {
        Self::master_over(lab, under, Scratch::on_disk(lab.options().disk.as_deref())?)
    }

    /// Stops a master and starts one anew from what it left.
    ///
    /// # Errors
    /// As [`Cluster::local`].
    pub fn restarted(self, lab: &Lab<'_>, under: &Path) -> Result<Self> {
        let Self { server, _state: state, .. } = self;
        drop(server);
        Self::master_over(lab, under, state)
    }

    fn master_over(lab: &Lab<'_>, under: &Path, state: Scratch) -> Result<Self> {
        let mut arguments = common(&state, "master")?;
        let port = free_port()?;
        let (root, port_setting) = (format!("master.mount.root={}", text(under)?), format!("master.rpc.port={port}"));
        set(&mut arguments, &[&root, &port_setting, "master.bind.host=127.0.0.1"]);
        let server = start(lab, &state, &arguments)?;
        let mut cluster = Self { server, door: Door::of_own(port, None), port, token: None, _state: state };
        cluster.wait_for_master(lab)?;
        Ok(cluster)
    }

    fn wait_for_master(&mut self, lab: &Lab<'_>) -> Result<()> {
        let start = Instant::now();
        loop {
            self.server.check()?;
            let connected = lab.wait(FileSystem::connect(self.door.config(&[("user.rpc.timeout", "2s")])?));
            match connected {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > READY => {
                    return Err(self.server.failed(error.kind(), "is not ready yet"));
                }
                Err(_) => lab.pause(Duration::from_millis(50))?,
            }
        }
    }

    /// The way to it.
    #[must_use]
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// Starts `larder fuse` of this cluster; `state` is the directory of that process.
    pub(crate) fn mount(&self, lab: &Lab<'_>, state: &Scratch, point: &Path, more: &[&str]) -> Result<Server> {
        let mut arguments = common(state, "fuse")?;
        if let Some(token) = &self.token {
            // In a file that only its owner reads, for arguments are seen by everybody.
            let secret = format!("[security]\ntoken = \"{token}\"\n");
            std::fs::write(state.path().join(CONFIG), secret)?;
        }
        arguments.extend(["--json".to_owned(), text(point)?.to_owned()]);
        let port = format!("master.rpc.port={}", self.port);
        set(&mut arguments, &["master.hostname=127.0.0.1", &port, "fuse.web.port=0"]);
        set(&mut arguments, more);
        let mut server = start(lab, state, &arguments)?;
        server.first_line(lab, READY)?;
        Ok(server)
    }

    /// The process that is the master.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// A client.
    ///
    /// # Errors
    /// As [`FileSystem::connect`].
    pub fn connect(&self, lab: &Lab<'_>) -> Result<FileSystem> {
        connect(lab, self.door.config(&[])?)
    }
}

/// A client of this configuration.
///
/// # Errors
/// As [`FileSystem::connect`].
pub fn connect(lab: &Lab<'_>, config: Config) -> Result<FileSystem> {
    lab.wait(FileSystem::connect(config))
}

/// The command and what every server is told: to read no file of settings, and to keep its state here.
fn common(state: &Scratch, command: &str) -> Result<Vec<String>> {
    let config = state.path().join(CONFIG);
    std::fs::write(&config, "").map_err(|e| Error::from(e).at(config.as_os_str().as_encoded_bytes()))?;
    let mut arguments = vec![command.to_owned(), "--config".to_owned(), text(&config)?.to_owned()];
    let folder = format!("state.folder={}", text(&state.directory("state")?)?);
    set(&mut arguments, &[&folder, "master.web.port=0", "worker.web.port=0"]);
    Ok(arguments)
}

fn set(arguments: &mut Vec<String>, settings: &[&str]) {
    arguments.extend(settings.iter().flat_map(|setting| ["--set".to_owned(), (*setting).to_owned()]));
}

fn start(lab: &Lab<'_>, state: &Scratch, arguments: &[String]) -> Result<Server> {
    Server::start(&lab.options().binary, arguments, &state.directory("home")?, state.path().join("log"))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        let error = Error::new(ErrorKind::Invalid, "not UTF-8").at(path.as_os_str().as_encoded_bytes());
        error.advise("give a directory whose path is UTF-8")
    })
}

/// A port that nobody listens at now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    Ok(listener.local_addr()?.port())
}

/// The master's port in what `larder local --json` says when it is ready.
fn master_port(line: &str) -> Option<u16> {
    let ready: serde_json::Value = serde_json::from_str(line).ok()?;
    ready.get("master")?.as_str()?.rsplit_once(':')?.1.parse().ok()
}

/// The state directory that root's servers share for announcements; it is left as it was found.
#[derive(Debug)]
pub struct Announcements(Option<PathBuf>);

impl Announcements {
    /// Remembers whether it is there.
    #[must_use]
    pub fn remember() -> Self {
        let shared = PathBuf::from("/run/larder");
        Self((machine::is_root() && !shared.exists()).then_some(shared))
    }
}

impl Drop for Announcements {
    fn drop(&mut self) {
        if let Some(made) = &self.0 {
            // Only an empty one goes: another cluster may have announced itself meanwhile.
            let _ = std::fs::remove_dir(made);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_names_the_master() {
        assert_eq!(master_port(r#"{"root":"/x","master":"127.0.0.1:4711","worker":"127.0.0.1:1"}"#), Some(4711));
        for bad in ["", "larder: serving", r#"{"master":7}"#, r#"{"master":"127.0.0.1:x"}"#] {
            assert_eq!(master_port(bad), None, "{bad}");
        }
    }

    #[test]
    fn servers_read_no_settings_of_this_machine() {
        let parent = tempfile::tempdir().unwrap();
        let state = Scratch::below(parent.path()).unwrap();
        let arguments = common(&state, "master").unwrap();
        assert_eq!(arguments[0], "master");
        let config = &arguments[arguments.iter().position(|a| a == "--config").unwrap() + 1];
        assert_eq!(std::fs::read_to_string(config).unwrap(), "");
        assert!(arguments.iter().any(|a| a.starts_with("state.folder=")));
    }
}
