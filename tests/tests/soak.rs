//! A soak: random changes through clients and directly in the under-store directory, while processes are killed and frozen,
//! and the under store's directory is moved aside and back, at random; compared with what was acknowledged. Nothing acknowledged
//! is lost, nothing is stale beyond its bound, nobody waits beyond his deadline.
//!
//! `LARDER_SOAK_SECONDS` makes it longer (30 without), `LARDER_SOAK_SEED` repeats the choices of a run: the seed is printed.
//! Each name has one writer, so what may be found there is known. A name whose last change failed may hold the old or the
//! new content, and is not changed any more: a call that nobody waits for may still be carried out.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the output of a test is for people")]

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use larder_client::{CreateOptions, ErrorKind, FileSystem, MkdirOptions, RemoveOptions, RenameOptions, WriteType};
use larder_tests::{Cluster, processes::list_all};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// How long a call may take; a client's own deadline is 15 s.
const DEADLINE: Duration = Duration::from_secs(40);
/// How long what must be readable may take to be so, after everything runs again.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long a change in the directory itself may go unseen while the master runs. On an idle machine it is some 100 ms.
const FRESH: Duration = Duration::from_secs(5);

/// What a file holds: any two differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    number: u64,
    length: usize,
}

impl Content {
    fn draw(random: &mut StdRng) -> Self {
        let length = match random.random_range(0..10) {
            0 => 0,
            1 => random.random_range(1 << 20..5 << 20),
            _ => random.random_range(1..200_000),
        };
        Self { number: random.random(), length }
    }

    fn bytes(self) -> Vec<u8> {
        let mut random = StdRng::seed_from_u64(self.number);
        let mut bytes = vec![0; self.length];
        random.fill(&mut bytes[..]);
        bytes
    }
}

/// What may be under a name: one of these; `None` is nothing.
type Known = Vec<Option<Content>>;

/// Since when the master runs, for what is fresh.
type Running = Arc<Mutex<Option<Instant>>>;

/// One writer with a directory of its own.
struct Actor {
    fs: FileSystem,
    directory: String,
    random: StdRng,
    known: BTreeMap<String, Known>,
    /// How files of theirs were written, for what must be in the under store at the end.
    through: BTreeMap<String, WriteType>,
    next: u64,
    counts: BTreeMap<&'static str, u64>,
}

fn may_pass(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Deadline | ErrorKind::Busy | ErrorKind::Changed)
}

/// A call ends by its deadline, whatever happens.
async fn bounded<T>(
    what: &str,
    call: impl Future<Output = larder_client::Result<T>>,
) -> Result<larder_client::Result<T>> {
    let begun = Instant::now();
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(result) => Ok(result),
        Err(_) => bail!("{what} hangs for {:?}", begun.elapsed()),
    }
}

/// Where bytes are not what they may be, for a message.
fn differs(known: &[Option<Content>], bytes: &[u8]) -> String {
    let same = known.iter().flatten().find(|content| content.length == bytes.len()).map(|content| content.bytes());
    let Some(right) = same else { return "another length".into() };
    let wrong: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != right[*at]).collect();
    let zeros = wrong.iter().filter(|at| bytes[**at] == 0).count();
    let (first, last) = (wrong.first(), wrong.last());
    format!("{} differ, {zeros} are zeros, from {first:?} to {last:?}", wrong.len())
}

impl Actor {
    async fn new(cluster: &Cluster, number: usize, seed: u64) -> Result<Self> {
        let fs = FileSystem::connect(cluster.client()?.timeout(Duration::from_secs(15)).build()).await?;
        let directory = format!("/actor{number}");
        fs.mkdir(&directory, MkdirOptions::default()).await?;
        let random = StdRng::seed_from_u64(seed.wrapping_add(number as u64));
        let (known, through, counts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Self { fs, directory, random, known, through, next: 0, counts })
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }

    /// Some name whose content is known and is something.
    fn some(&mut self) -> Option<(String, Content)> {
        let sure = |(name, known): (&String, &Known)| match known[..] {
            [Some(content)] => Some((name.clone(), content)),
            _ => None,
        };
        let all: Vec<_> = self.known.iter().filter_map(sure).collect();
        let at = self.random.random_range(0..all.len().max(1));
        all.get(at).cloned()
    }

    /// Notes what a change came to: the new content when it was acknowledged, either when not.
    fn note(&mut self, what: &str, name: &str, new: Option<Content>, done: larder_client::Result<()>) -> Result<()> {
        let old = self.known.get(name).cloned().unwrap_or_else(|| vec![None]);
        let known = match done {
            Ok(()) => vec![new],
            Err(error) if may_pass(error.kind()) || error.kind() == ErrorKind::NoSpace => {
                old.into_iter().chain([new]).collect()
            }
            Err(error) => return Err(error).with_context(|| format!("{what} {}", self.path(name))),
        };
        self.known.insert(name.to_owned(), known);
        *self.counts.entry(if self.known[name].len() == 1 { "acknowledged" } else { "unsure" }).or_default() += 1;
        Ok(())
    }

    async fn write(&mut self, name: String, overwrite: bool) -> Result<()> {
        let content = Content::draw(&mut self.random);
        let write_type = [WriteType::CacheThrough, WriteType::AsyncThrough, WriteType::MustCache, WriteType::Through]
            [self.random.random_range(0..4)];
        let options = CreateOptions { write_type: Some(write_type), overwrite, ..CreateOptions::default() };
        let path = self.path(&name);
        let written = bounded("a write", self.fs.write(&path, content.bytes(), options)).await?;
        self.through.insert(name.clone(), write_type);
        self.note("write", &name, Some(content), written.map(drop))
    }

    async fn rename(&mut self) -> Result<()> {
        let Some((from, content)) = self.some() else { return Ok(()) };
        let to = self.fresh_name();
        let (a, b) = (self.path(&from), self.path(&to));
        let renamed = bounded("a rename", self.fs.rename(&a, &b, RenameOptions::default())).await?;
        if let Some(write_type) = self.through.get(&from).copied() {
            self.through.insert(to.clone(), write_type);
        }
        self.note("rename to", &to, Some(content), renamed.clone())?;
        self.note("rename from", &from, None, renamed)
    }

    async fn remove(&mut self) -> Result<()> {
        let Some((name, _)) = self.some() else { return Ok(()) };
        let path = self.path(&name);
        let removed = bounded("a remove", self.fs.remove(&path, RemoveOptions::default())).await?;
        self.note("remove", &name, None, removed.map(drop))
    }

    fn fresh_name(&mut self) -> String {
        self.next += 1;
        format!("f{}", self.next)
    }

    /// What is there is one of what may be; one try.
    async fn look(&self, name: &str) -> Result<bool> {
        let (path, known) = (self.path(name), &self.known[name]);
        let read = bounded("a read", async {
            let file = self.fs.open(&path).await?;
            file.read_range(0..file.length()).await
        });
        match read.await? {
            Ok(bytes) => {
                let fits =
                    known.iter().flatten().any(|content| content.length == bytes.len() && content.bytes() == bytes);
                ensure!(
                    fits,
                    "{path} has {} bytes of something else than {known:?}: {}",
                    bytes.len(),
                    differs(known, &bytes)
                );
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                ensure!(known.contains(&None), "{path} is lost: it was acknowledged as {known:?}");
                Ok(true)
            }
            // What was never acknowledged may be gone with its writer.
            Err(error) if error.kind() == ErrorKind::Lost && known.len() > 1 => Ok(true),
            Err(error) if may_pass(error.kind()) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("reading {path}, which is {known:?}")),
        }
    }

    async fn step(&mut self) -> Result<()> {
        match self.random.random_range(0..10) {
            0..=2 => {
                let name = self.fresh_name();
                self.write(name, false).await
            }
            3 => match self.some() {
                Some((name, _)) => self.write(name, true).await,
                None => Ok(()),
            },
            4 => self.rename().await,
            5 => self.remove().await,
            6 => self.names().await,
            _ => {
                let all: Vec<String> = self.known.keys().cloned().collect();
                let at = self.random.random_range(0..all.len().max(1));
                if let Some(name) = all.get(at) {
                    let seen = self.look(name).await?;
                    *self.counts.entry(if seen { "read" } else { "unread" }).or_default() += 1;
                }
                Ok(())
            }
        }
    }

    /// A listing has every name that must be there, and none that must not.
    async fn names(&mut self) -> Result<()> {
        let listed = match bounded("a listing", list_all(&self.fs, &self.directory)).await? {
            Ok(listed) => listed,
            Err(error) if may_pass(error.kind()) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let named = |entry: &larder_client::Entry| {
            entry.status.name.as_ref().map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned())
        };
        let there: Vec<String> = listed.iter().filter_map(named).collect();
        for (name, known) in &self.known {
            let listed = there.contains(name);
            let fits = if listed { known.iter().any(Option::is_some) } else { known.contains(&None) };
            ensure!(fits, "{} is {known:?}, and a listing says {listed}", self.path(name));
        }
        *self.counts.entry("listed").or_default() += 1;
        Ok(())
    }

    async fn run(mut self, stop: Arc<AtomicBool>) -> Result<Self> {
        while !stop.load(Ordering::SeqCst) {
            self.step().await?;
        }
        Ok(self)
    }

    /// Everything that may be there is, now that all runs.
    async fn check_all(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        for name in self.known.keys() {
            while !self.look(name).await? {
                ensure!(
                    Instant::now() < until,
                    "{} cannot be read: {:?}",
                    self.path(name),
                    self.fs.open(self.path(name)).await.err()
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    /// What was to reach the under store is there.
    fn check_under(&self, under: &std::path::Path) -> Result<()> {
        for (name, known) in &self.known {
            let [Some(content)] = known[..] else { continue };
            if self.through.get(name) == Some(&WriteType::MustCache) {
                continue;
            }
            let path = under.join(self.directory.trim_start_matches('/')).join(name);
            let bytes = fs::read(&path).with_context(|| format!("{}: {known:?}", path.display()))?;
            ensure!(
                bytes == content.bytes(),
                "{} has {} bytes of something else than {content:?}",
                path.display(),
                bytes.len()
            );
        }
        Ok(())
    }
}

/// Somebody who changes files in the directory itself: what clients see follows within the bound.
struct Neighbour {
    fs: FileSystem,
    directory: PathBuf,
    random: StdRng,
    running: Running,
    /// Held while somebody is at work in the under store, and by who takes it away.
    there: Arc<tokio::sync::Mutex<()>>,
    known: BTreeMap<String, (Option<Content>, Instant)>,
    counts: BTreeMap<&'static str, u64>,
}

impl Neighbour {
    fn change(&mut self) -> Result<()> {
        let there = Arc::clone(&self.there);
        let Ok(_there) = there.try_lock() else { return Ok(()) };
        let name = format!("n{}", self.random.random_range(0..12));
        let at = self.directory.join(&name);
        let content = if at.exists() && self.random.random_bool(0.3) {
            fs::remove_file(&at)?;
            None
        } else {
            let content = Content::draw(&mut self.random);
            let temporary = self.directory.join(".new");
            fs::write(&temporary, content.bytes())?;
            fs::rename(&temporary, &at)?;
            Some(content)
        };
        self.known.insert(name, (content, Instant::now()));
        Ok(())
    }

    async fn look(&mut self) -> Result<()> {
        let names: Vec<String> = self.known.keys().cloned().collect();
        let Some(name) = names.get(self.random.random_range(0..names.len().max(1))) else { return Ok(()) };
        let (content, since) = self.known[name];
        let begun = Instant::now();
        // Old news only count where the master has run all the time since.
        let due = |running: Option<Instant>| running.is_some_and(|running| begun > since.max(running) + FRESH);
        let before = due(*self.running.lock());
        let path = format!("/direct/{name}");
        let read = bounded("a read", async {
            let file = self.fs.open(&path).await?;
            file.read_range(0..file.length()).await
        });
        let read = read.await?;
        if !before || !due(*self.running.lock()) {
            return Ok(());
        }
        let fits = match (&read, content) {
            (Ok(bytes), Some(content)) => content.length == bytes.len() && content.bytes() == *bytes,
            (Ok(_), None) => false,
            (Err(error), None) if error.kind() == ErrorKind::NotFound => true,
            (Err(error), _) => may_pass(error.kind()),
        };
        let seen = read.map(|bytes| bytes.len());
        ensure!(fits, "{path} is {content:?} for {:?}, and seen as {seen:?}", since.elapsed());
        *self.counts.entry("fresh").or_default() += 1;
        Ok(())
    }

    async fn run(mut self, stop: Arc<AtomicBool>) -> Result<Self> {
        while !stop.load(Ordering::SeqCst) {
            if self.random.random_bool(0.2) {
                self.change()?;
            }
            self.look().await?;
            tokio::time::sleep(Duration::from_millis(self.random.random_range(0..100))).await;
        }
        Ok(self)
    }
}

/// Kills and freezes until the time is up; afterwards everything runs.
async fn torment(
    cluster: &mut Cluster,
    random: &mut StdRng,
    running: &Running,
    there: &tokio::sync::Mutex<()>,
    until: Instant,
) -> Result<Vec<String>> {
    let mut done = Vec::new();
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(random.random_range(300..2500))).await;
        let pause = Duration::from_millis(random.random_range(0..800));
        let (worker, what) = (random.random_range(0..2), random.random_range(0..12));
        done.push(format!("{what}:{worker}"));
        match what {
            0..=2 => {
                *running.lock() = None;
                cluster.kill_master();
                tokio::time::sleep(pause).await;
                tokio::task::block_in_place(|| cluster.start_master())?;
                *running.lock() = Some(Instant::now());
            }
            3..=6 => {
                cluster.kill_worker(worker);
                tokio::time::sleep(pause).await;
                tokio::task::block_in_place(|| cluster.start_worker(worker))?;
            }
            7 | 8 => {
                let Some(part) = &cluster.workers[worker] else { continue };
                let id = nix::unistd::Pid::from_raw(i32::try_from(part.id())?);
                nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGSTOP)?;
                tokio::time::sleep(pause * 3).await;
                nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGCONT)?;
            }
            9 => {
                *running.lock() = None;
                cluster.kill_worker(0);
                cluster.kill_master();
                cluster.kill_worker(1);
                tokio::time::sleep(pause).await;
                tokio::task::block_in_place(|| -> Result<()> {
                    cluster.start_master()?;
                    cluster.start_worker(1)?;
                    cluster.start_worker(0)
                })?;
                *running.lock() = Some(Instant::now());
            }
            _ => {
                *running.lock() = None;
                moved_aside(cluster, there, pause * 3).await?;
                *running.lock() = Some(Instant::now());
            }
        }
    }
    Ok(done)
}

/// The directory of the under store is moved aside for a while, and a stranger's is at its place. Servers have it open, so they
/// go on with the one that is theirs; nobody may write into the other.
async fn moved_aside(cluster: &Cluster, there: &tokio::sync::Mutex<()>, pause: Duration) -> Result<()> {
    let _away = there.lock().await;
    let (under, away) = (cluster.under(), cluster.under().with_extension("away"));
    fs::rename(&under, &away)?;
    fs::create_dir(&under)?;
    tokio::time::sleep(pause).await;
    fs::remove_dir(&under).context("somebody wrote into a stranger's directory")?;
    Ok(fs::rename(&away, &under)?)
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_whatever_dies() -> Result<()> {
    let seed = setting("LARDER_SOAK_SEED").unwrap_or_else(rand::random);
    let seconds = setting("LARDER_SOAK_SECONDS").unwrap_or(30);
    println!("LARDER_SOAK_SEED={seed} LARDER_SOAK_SECONDS={seconds}");
    soak(seed, Duration::from_secs(seconds)).await.with_context(|| format!("LARDER_SOAK_SEED={seed}"))
}

async fn soak(seed: u64, time: Duration) -> Result<()> {
    let mut cluster = Cluster::new()?.with("LARDER_USER_BLOCK_SIZE_BYTES_DEFAULT", "1MiB");
    fs::create_dir(cluster.under().join("direct"))?;
    cluster.start_master()?;
    (0..2).try_for_each(|worker| cluster.start_worker(worker))?;
    let running: Running = Arc::new(Mutex::new(Some(Instant::now())));
    let there = Arc::new(tokio::sync::Mutex::new(()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut actors = Vec::new();
    for number in 0..3 {
        actors.push(tokio::spawn(Actor::new(&cluster, number, seed).await?.run(Arc::clone(&stop))));
    }
    let neighbour = Neighbour {
        fs: FileSystem::connect(cluster.client()?.timeout(Duration::from_secs(15)).build()).await?,
        directory: cluster.under().join("direct"),
        random: StdRng::seed_from_u64(seed ^ 0xabc),
        running: Arc::clone(&running),
        there: Arc::clone(&there),
        known: BTreeMap::new(),
        counts: BTreeMap::new(),
    };
    let neighbour = tokio::spawn(neighbour.run(Arc::clone(&stop)));
    let mut random = StdRng::seed_from_u64(seed ^ 0xdef);
    let tormented = torment(&mut cluster, &mut random, &running, &there, Instant::now() + time).await;
    let done = tormented.inspect_err(|_| keep(&cluster))?;
    stop.store(true, Ordering::SeqCst);
    let mut ended = Vec::new();
    for actor in actors {
        ended.push(actor.await?.inspect_err(|_| keep(&cluster))?);
    }
    let neighbour = neighbour.await?.inspect_err(|_| keep(&cluster))?;
    for actor in &ended {
        actor.check_all().await.inspect_err(|_| keep(&cluster))?;
    }
    // Once more after everything was killed, and in the under store itself.
    cluster.kill_master();
    (0..2).for_each(|worker| cluster.kill_worker(worker));
    cluster.start_master()?;
    (0..2).try_for_each(|worker| cluster.start_worker(worker))?;
    for actor in &ended {
        actor.check_all().await.inspect_err(|_| keep(&cluster))?;
        let waiting = Instant::now() + PATIENCE;
        while let Err(error) = actor.check_under(&cluster.under()) {
            ensure!(Instant::now() < waiting, "{error:#}{}", cluster.ok(&["fsadmin", "report"])?);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        println!("{}: {:?}", actor.directory, actor.counts);
    }
    println!("/direct: {:?}; {} troubles: {}", neighbour.counts, done.len(), done.join(" "));
    Ok(())
}

/// Leaves the logs where a person can read them.
fn keep(cluster: &Cluster) {
    let at = std::env::temp_dir().join(format!("larder-soak-{}.log", std::process::id()));
    if fs::write(&at, cluster.logs()).is_ok() {
        eprintln!("the logs are in {}", at.display());
    }
}
