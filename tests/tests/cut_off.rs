//! A mount whose master, or whose own process, does not answer: what a program sees then is the truth or an error, in bounded
//! time, and a program that waits can be killed.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use larder_client::{CreateOptions, RemoveOptions};
use larder_tests::{Cluster, mounts::Mount, processes::pause, proxy::Proxy, skip::needs_fuse, trees};
use nix::sys::signal::Signal;

/// Two calls of 10 s each are the deadline of a request of a mount in these tests, and a machine may be busy.
const BOUNDED: Duration = Duration::from_secs(40);

/// What was seen at a path, and when it was asked for.
struct Look {
    name: &'static str,
    begun: Instant,
    took: Duration,
    seen: Option<Vec<u8>>,
}

/// Looks at a file until it has done so once since it was told that the change was made.
fn look(path: &Path, name: &'static str, made: &AtomicBool) -> Vec<Look> {
    let mut looks = Vec::new();
    loop {
        let is_last = made.load(Ordering::SeqCst);
        let begun = Instant::now();
        let seen = fs::read(path).ok();
        looks.push(Look { name, begun, took: begun.elapsed(), seen });
        if is_last {
            return looks;
        }
        pause();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_cut_off_from_its_master_shows_the_truth_or_an_error() -> Result<()> {
    if !needs_fuse("a_mount_cut_off_from_its_master_shows_the_truth_or_an_error") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let content = |seed| trees::bytes(seed, 100_000);
    for (name, seed) in [("changed", 1), ("removed", 2), ("held", 3), ("cold", 4)] {
        fs::write(cluster.under().join(name), content(seed))?;
    }
    let proxy = Proxy::steady(cluster.port()).await?;
    let port = proxy.port().to_string();
    let settings = [("LARDER_MASTER_RPC_PORT", port.as_str()), ("LARDER_USER_RPC_TIMEOUT", "3s")];
    let mount = Mount::start(&cluster, &settings)?;
    let client = cluster.connect().await?;
    for (name, seed) in [("changed", 1), ("removed", 2), ("held", 3)] {
        ensure!(fs::read(mount.at(name))? == content(seed), "{name}, before the cut");
    }
    let held = File::open(mount.at("held"))?;

    proxy.cut();
    let made = Arc::new(AtomicBool::new(false));
    let looking = ["changed", "removed", "cold"].map(|name| {
        let (path, made) = (mount.at(name), Arc::clone(&made));
        std::thread::spawn(move || look(&path, name, &made))
    });
    // They wait until the session of the mount is over.
    let how = || CreateOptions { overwrite: true, ..CreateOptions::default() };
    client.write("/changed", content(5), how()).await?;
    client.remove("/removed", RemoveOptions::default()).await?;
    let changed = Instant::now();
    made.store(true, Ordering::SeqCst);
    let same = std::os::unix::fs::FileExt::read_at(&held, &mut [0; 9], 50_000);
    ensure!(same.is_ok_and(|read| read == 9), "what is open is read on");
    let looks: Vec<_> = looking.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
    proxy.mend();

    let (mut after, old) = (0, [("changed", content(1)), ("removed", content(2)), ("cold", content(4))]);
    for Look { name, begun, took, seen } in &looks {
        ensure!(*took < BOUNDED, "{name} took {took:?}");
        let is_old = seen.as_ref().is_some_and(|seen| old.iter().any(|(other, bytes)| other == name && bytes == seen));
        let is_new = *name == "changed" && seen.as_ref().is_some_and(|seen| *seen == content(5));
        ensure!(seen.is_none() || is_old || is_new, "{name} has bytes that it never had");
        if *begun > changed && *name != "cold" {
            after += 1;
            ensure!(!is_old, "{name} is what it was, {:?} after it was changed elsewhere", *begun - changed);
        }
    }
    ensure!(after >= 2, "both were to be looked at after the change, in {} looks", looks.len());
    let deadline = Instant::now() + BOUNDED;
    while fs::read(mount.at("changed")).ok() != Some(content(5)) || mount.at("removed").exists() {
        ensure!(Instant::now() < deadline, "it is not as it was after the cut was mended:\n{}", mount.part.log());
        pause();
    }
    ensure!(fs::read(mount.at("cold"))? == content(4), "cold, after it was mended");
    Ok(())
}

/// What the child is told: what to do, and where.
const CHILD: &str = "LARDER_CUT_OFF_CHILD";

/// Runs only as a process of its own: does one thing, which does not end.
#[test]
fn child() -> Result<()> {
    let Ok(told) = std::env::var(CHILD) else { return Ok(()) };
    let (what, path) = told.split_once(' ').context("what the child is told")?;
    let written = |path: &str| -> Result<File> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.write_all(b"changed")?;
        Ok(file)
    };
    let file = match what {
        "flock" | "posix" => Some(OpenOptions::new().read(true).write(true).open(path)?),
        "sync" => Some(written(path)?),
        _ => None,
    };
    writeln!(std::io::stdout(), "begins")?;
    std::io::stdout().flush()?;
    match (what, file) {
        ("flock", Some(file)) => file.lock()?,
        ("posix", Some(file)) => {
            nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETLKW(&whole(nix::libc::F_WRLCK)))?;
        }
        ("sync", Some(file)) => {
            // Told to go on when nobody answers any more.
            std::io::stdin().read_line(&mut String::new())?;
            file.sync_all()?;
        }
        ("read", _) => drop(fs::read(path)?),
        ("create", _) => drop(File::create(path)?),
        _ => ensure!(fs::metadata(path)?.len() > 0, "it is empty"),
    }
    writeln!(std::io::stdout(), "ended")?;
    Ok(())
}

/// A lock of a whole file.
fn whole(kind: i32) -> nix::libc::flock {
    let (kind, whence) = (i16::try_from(kind).unwrap_or(0), i16::try_from(nix::libc::SEEK_SET).unwrap_or(0));
    nix::libc::flock { l_type: kind, l_whence: whence, l_start: 0, l_len: 0, l_pid: 0 }
}

fn start_child(what: &str, path: &Path) -> Result<Child> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{what} {}", path.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    let begun = lines.map_while(Result::ok).any(|line| line.ends_with("begins"));
    ensure!(begun, "the child that should {what} ended: {:?}", child.wait()?);
    Ok(child)
}

/// Kills a program that waits, and sees that it is gone.
fn dies(what: &str, mut child: Child, within: Duration) -> Result<()> {
    let (_sender, never) = std::sync::mpsc::channel::<()>();
    let _ = never.recv_timeout(Duration::from_millis(300));
    ensure!(child.try_wait()?.is_none(), "{what} did not wait: {:?}", child.wait()?);
    let killed = Instant::now();
    child.kill()?;
    while child.try_wait()?.is_none() {
        ensure!(killed.elapsed() < within, "{what} is there {within:?} after it was killed");
        pause();
    }
    ensure!(child.wait()?.signal() == Some(9), "{what} ended by itself");
    Ok(())
}

#[test]
fn who_waits_for_a_lock_of_a_mount_can_be_killed() -> Result<()> {
    if !needs_fuse("who_waits_for_a_lock_of_a_mount_can_be_killed") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let mount = Mount::start(&cluster, &[])?;
    fs::write(mount.at("f"), "locked")?;
    let file = OpenOptions::new().read(true).write(true).open(mount.at("f"))?;
    file.lock()?;
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETLK(&whole(nix::libc::F_WRLCK)))?;
    for what in ["flock", "posix"] {
        dies(what, start_child(what, &mount.at("f"))?, Duration::from_secs(5))?;
    }
    ensure!(fs::read_to_string(mount.at("f"))? == "locked", "the mount goes on");
    Ok(())
}

/// Stops a process, and lets it go on at the end, whatever happens.
struct Stopped<'a>(&'a larder_tests::processes::Part);

impl<'a> Stopped<'a> {
    fn new(part: &'a larder_tests::processes::Part) -> Result<Self> {
        part.signal(Signal::SIGSTOP)?;
        Ok(Self(part))
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let _ = self.0.signal(Signal::SIGCONT);
    }
}

#[test]
fn who_waits_for_a_mount_that_does_not_answer_can_be_killed() -> Result<()> {
    if !needs_fuse("who_waits_for_a_mount_that_does_not_answer_can_be_killed") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    for name in ["cold", "synced", "other"] {
        fs::write(cluster.under().join(name), trees::bytes(1, 100_000))?;
    }
    let mount = Mount::start(&cluster, &[])?;
    let master = cluster.master.as_ref().context("the master")?;
    let at = |name: &str| -> PathBuf { mount.at(name) };
    let mut writer = start_child("sync", &at("synced"))?;
    {
        let _stopped = Stopped::new(master)?;
        writer.stdin.take().context("its input")?.write_all(b"go on\n")?;
        let waiting = [("read", "cold"), ("stat", "unknown"), ("create", "new")];
        let waiting = waiting.map(|(what, name)| (what, start_child(what, &at(name))));
        dies("sync", writer, BOUNDED)?;
        for (what, child) in waiting {
            // Those that are answered with an error meanwhile need not be killed.
            let mut child = child?;
            if child.try_wait()?.is_none() {
                child.kill()?;
            }
            let deadline = Instant::now() + BOUNDED;
            while child.try_wait()?.is_none() {
                ensure!(Instant::now() < deadline, "{what} is still there");
                pause();
            }
        }
    }
    let _stopped = Stopped::new(&mount.part)?;
    for (what, name) in [("read", "other"), ("stat", "nothing")] {
        dies(what, start_child(what, &at(name))?, Duration::from_secs(5))?;
    }
    Ok(())
}
