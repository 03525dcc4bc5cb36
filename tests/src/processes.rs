//! A cluster of real processes in temporary directories: started, killed and started again at will.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use larder_client::{Config, ConfigBuilder, Entry, FileSystem, ListOptions};
use tempfile::TempDir;

/// How long a part may take to be ready.
const READY: Duration = Duration::from_secs(30);

/// The binary that is tested: what `cargo build` left beside the test.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn larder() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let profile = test.ancestors().nth(2).expect("tests run from target/PROFILE/deps");
    let binary = profile.join("larder");
    assert!(binary.exists(), "{} is missing: run `cargo build --bin larder` first", binary.display());
    binary
}

/// Ports that the kernel gives to nobody by itself, and that nothing has by default. One that it gives may be some connection's
/// before it is used, or while the process that has it is started anew.
const PORTS: std::ops::Range<u32> = 12_000..19_000;

/// A port that is free now, and given to nobody else in this process.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let span = PORTS.end - PORTS.start;
    let first = std::process::id().wrapping_mul(97);
    let mut drawn = (0..span).map(|_| first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % span);
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    drawn.find_map(|at| u16::try_from(PORTS.start + at).ok().filter(is_free)).expect("a free port")
}

/// One process. It is killed when dropped.
#[derive(Debug)]
pub struct Part {
    child: Child,
    log: PathBuf,
}

impl Part {
    pub(crate) fn start(role: &str, environment: &[(String, String)], log: &Path) -> Result<Self> {
        Self::start_as(None, role, environment, log)
    }

    /// The same with so many descriptors at most.
    pub(crate) fn start_with_descriptors(
        most: u32,
        role: &str,
        environment: &[(String, String)],
        log: &Path,
    ) -> Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &most.to_string()]).arg(larder()).arg(role);
        Self::run(command, role, environment, log)
    }

    /// The same as another user, with no group but his own.
    pub(crate) fn start_as(
        user: Option<u32>,
        role: &str,
        environment: &[(String, String)],
        log: &Path,
    ) -> Result<Self> {
        let mut command = Command::new(larder());
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        command.arg(role);
        Self::run(command, role, environment, log)
    }

    /// The same by a command that runs its last arguments.
    fn start_by(by: &[String], role: &str, environment: &[(String, String)], log: &Path) -> Result<Self> {
        let (program, arguments) = by.split_first().context("a command has a name")?;
        let mut command = Command::new(program);
        command.args(arguments).arg(larder()).arg(role);
        Self::run(command, role, environment, log)
    }

    fn run(mut command: Command, role: &str, environment: &[(String, String)], log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let child = command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("larder {role}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a power cut of the process would: SIGKILL, no chance to tidy up.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// The system's.
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        let id = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        Ok(nix::sys::signal::kill(id, signal)?)
    }

    /// Asks it to stop and waits.
    ///
    /// # Errors
    /// When it does not stop within ten seconds.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(nix::sys::signal::Signal::SIGTERM)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("it did not stop; its log:\n{}", self.log());
            }
            pause();
        }
        Ok(())
    }

    /// Waits until it ends by itself, and gives its exit code; -1 after a signal.
    ///
    /// # Errors
    /// When it does not end, with its log.
    pub fn end(&mut self) -> Result<i32> {
        let deadline = Instant::now() + READY;
        while !self.has_ended() {
            if Instant::now() > deadline {
                bail!("it did not end; its log:\n{}", self.log());
            }
            pause();
        }
        Ok(self.child.wait()?.code().unwrap_or(-1))
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn wait_for(&mut self, text: &str, times: usize) -> Result<()> {
        let deadline = Instant::now() + READY;
        while self.log().matches(text).count() < times {
            if self.has_ended() {
                bail!("it ended; its log:\n{}", self.log());
            }
            if Instant::now() > deadline {
                bail!("no {text:?} within {READY:?}; its log:\n{}", self.log());
            }
            pause();
        }
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command that runs its last arguments after this script.
#[must_use]
pub fn after(script: &str) -> Vec<String> {
    ["sh", "-c", &format!("{script} && exec \"$@\""), "sh"].map(str::to_owned).to_vec()
}

/// The same in a mount namespace of its own. Needs root.
#[must_use]
pub fn among_own_mounts(script: &str) -> Vec<String> {
    let unshare = ["unshare", "--mount", "--propagation", "private"].map(str::to_owned);
    [&unshare[..], &after(script)].concat()
}

/// Between two looks at something that has no event to wait for.
#[expect(clippy::disallowed_methods, reason = "a process outside has no event to wait for")]
pub fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// A master and workers over an under-store directory.
#[derive(Debug)]
pub struct Cluster {
    directory: TempDir,
    memory: TempDir,
    port: u16,
    /// Settings of all parts beside those that the harness makes.
    pub environment: Vec<(String, String)>,
    /// The master, if it runs.
    pub master: Option<Part>,
    /// The workers that run.
    pub workers: Vec<Option<Part>>,
    starts: usize,
    worker_starts: Vec<usize>,
}

impl Cluster {
    /// Directories for a cluster, and nothing started. The MEM tier is in memory.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("larder-test-").tempdir()?;
        let memory = tempfile::Builder::new().prefix("larder-test-").tempdir_in("/dev/shm")?;
        fs::create_dir(directory.path().join("under"))?;
        Ok(Self {
            directory,
            memory,
            port: free_port(),
            environment: Vec::new(),
            master: None,
            workers: Vec::new(),
            starts: 0,
            worker_starts: Vec::new(),
        })
    }

    /// A cluster with this many workers, ready.
    ///
    /// # Errors
    /// When a part does not come up, with its log.
    pub fn start(workers: usize) -> Result<Self> {
        let mut cluster = Self::new()?;
        cluster.start_master()?;
        for worker in 0..workers {
            cluster.start_worker(worker)?;
        }
        Ok(cluster)
    }

    /// Adds a setting for the parts that are started from now on.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The under store.
    #[must_use]
    pub fn under(&self) -> PathBuf {
        self.directory.path().join("under")
    }

    /// The master's journal.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.directory.path().join("journal")
    }

    /// The MEM tier's directory of a worker.
    #[must_use]
    pub fn memory(&self, worker: usize) -> PathBuf {
        self.memory.path().join(format!("w{worker}"))
    }

    /// The master's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The environment of a part or a command.
    #[must_use]
    pub fn settings(&self) -> Vec<(String, String)> {
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        let mut all = vec![
            ("LARDER_MASTER_HOSTNAME".to_owned(), "127.0.0.1".to_owned()),
            ("LARDER_MASTER_RPC_PORT".to_owned(), self.port.to_string()),
            ("LARDER_MASTER_WEB_PORT".to_owned(), "0".to_owned()),
            ("LARDER_MASTER_JOURNAL_FOLDER".to_owned(), path(self.journal())),
            ("LARDER_MASTER_MOUNT_ROOT".to_owned(), path(self.under())),
            ("LARDER_STATE_FOLDER".to_owned(), path(self.directory.path().join("state"))),
            ("LARDER_LOG_OUTPUT".to_owned(), "stderr".to_owned()),
            ("LARDER_MASTER_WORKER_TIMEOUT".to_owned(), "3s".to_owned()),
            ("LARDER_MASTER_SAFEMODE_WAIT".to_owned(), "3s".to_owned()),
            ("HOME".to_owned(), path(self.directory.path().to_owned())),
        ];
        all.extend(self.environment.iter().cloned());
        all
    }

    /// Starts the master and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up, with its log.
    pub fn start_master(&mut self) -> Result<()> {
        let log = self.directory.path().join("master.log");
        let mut master = Part::start("master", &self.settings(), &log)?;
        self.starts += 1;
        master.wait_for("the master is ready", self.starts).inspect_err(|_| self.starts -= 1)?;
        self.master = Some(master);
        Ok(())
    }

    /// Starts a worker and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up, with its log.
    pub fn start_worker(&mut self, worker: usize) -> Result<()> {
        let (settings, log) = self.worker(worker)?;
        let part = Part::start("worker", &settings, &log)?;
        self.begun(worker, part)
    }

    /// Starts a worker that sees this directory at the under store's place: its volume was forgotten. Needs root.
    ///
    /// # Errors
    /// As [`Self::start_worker`].
    pub fn start_worker_seeing(&mut self, worker: usize, other: &Path) -> Result<()> {
        let (other, place) = (other.display(), self.under());
        self.start_worker_by(worker, &among_own_mounts(&format!("mount --bind '{other}' '{}'", place.display())))
    }

    /// Starts a worker by a command that runs its last arguments, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Self::start_worker`].
    pub fn start_worker_by(&mut self, worker: usize, by: &[String]) -> Result<()> {
        let (settings, log) = self.worker(worker)?;
        let part = Part::start_by(by, "worker", &settings, &log)?;
        self.begun(worker, part)
    }

    /// Starts a worker in the same way, which is to refuse; gives its exit code and what it said.
    ///
    /// # Errors
    /// When it does not end.
    pub fn refused_worker(&mut self, worker: usize, by: &[String]) -> Result<(i32, String)> {
        let (settings, log) = self.worker(worker)?;
        let log = log.with_extension("refused");
        // What an earlier one said is not asked for.
        let _ = fs::remove_file(&log);
        let mut part = Part::start_by(by, "worker", &settings, &log)?;
        Ok((part.end()?, part.log()))
    }

    fn begun(&mut self, worker: usize, mut part: Part) -> Result<()> {
        self.worker_starts[worker] += 1;
        part.wait_for("the worker is ready", self.worker_starts[worker])?;
        self.workers[worker] = Some(part);
        Ok(())
    }

    /// The environment of a worker, and its log.
    fn worker(&mut self, worker: usize) -> Result<(Vec<(String, String)>, PathBuf)> {
        self.workers.resize_with(self.workers.len().max(worker + 1), || None);
        self.worker_starts.resize(self.workers.len(), 0);
        fs::create_dir_all(self.memory(worker))?;
        let mut settings = self.settings();
        let own = |name: &str| self.environment.iter().any(|(other, _)| other == name);
        if !own("LARDER_WORKER_TIERS") {
            settings.push(("LARDER_WORKER_TIERS".to_owned(), format!("MEM:{}:256MB", self.memory(worker).display())));
        }
        settings.push(("LARDER_WORKER_HOSTNAME".to_owned(), "127.0.0.1".to_owned()));
        settings.push(("LARDER_WORKER_RPC_PORT".to_owned(), "0".to_owned()));
        settings.push(("LARDER_WORKER_WEB_PORT".to_owned(), "0".to_owned()));
        let state = self.directory.path().join(format!("state{worker}"));
        settings.push(("LARDER_STATE_FOLDER".to_owned(), state.to_string_lossy().into_owned()));
        settings.push(("LARDER_WORKER_HUGEPAGES".to_owned(), "never".to_owned()));
        Ok((settings, self.directory.path().join(format!("worker{worker}.log"))))
    }

    /// Kills the master.
    pub fn kill_master(&mut self) {
        self.master = None;
    }

    /// Kills a worker.
    pub fn kill_worker(&mut self, worker: usize) {
        self.workers[worker] = None;
    }

    /// Runs a command of `larder` to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(larder());
        command.args(arguments).env_clear().stdin(Stdio::null());
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.envs(self.settings().iter().map(|(name, value)| (name, value)));
        Ok(command.output()?)
    }

    /// Runs a command that must succeed, and gives what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments)?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("larder {} ended with {}: {errors}{}", arguments.join(" "), output.status, self.logs());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The logs of all parts, for a message.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for (name, part) in std::iter::once(("master".to_owned(), self.master.as_ref()))
            .chain(self.workers.iter().enumerate().map(|(at, part)| (format!("worker {at}"), part.as_ref())))
        {
            let log = part.map(Part::log).unwrap_or_default();
            text.push_str(&format!("\n--- {name} ---\n{log}"));
        }
        text
    }
}

impl Cluster {
    /// The client's settings for this cluster.
    ///
    /// # Errors
    /// Never for a cluster on this host.
    pub fn client(&self) -> Result<ConfigBuilder> {
        Ok(Config::builder().master("127.0.0.1", self.port)?.timeout(Duration::from_secs(20)))
    }

    /// A client of this cluster.
    ///
    /// # Errors
    /// When the master is not reached.
    pub async fn connect(&self) -> Result<FileSystem> {
        Ok(FileSystem::connect(self.client()?.build()).await?)
    }
}

/// All entries of a listing.
///
/// # Errors
/// Those of the listing.
pub async fn list_all(client: &FileSystem, path: impl AsRef<[u8]>) -> larder_client::Result<Vec<Entry>> {
    let mut entries = client.list(path, ListOptions::default());
    let mut all = Vec::new();
    while let Some(entry) = StreamExt::next(&mut entries).await {
        all.push(entry?);
    }
    Ok(all)
}
