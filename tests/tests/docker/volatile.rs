//! A worker whose memory goes with its container: what was acknowledged as written to the under store sooner or later
//! (ASYNC_THROUGH) is there after the container was killed, and after it was stopped.

use std::{
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use larder_tests::{
    docker::{Container, Engine, both, engine, ok},
    processes::pause,
};

use crate::networks::Bridge;

/// So many files are acknowledged before the trouble.
const BEFORE: usize = 6;
/// Writes one file after the other until one fails, and notes each that was acknowledged.
const WRITE: &str = "head -c 3000000 /dev/urandom > /tmp/f; i=0; \
    while larder --timeout 20s -D user.file.writetype.default=ASYNC_THROUGH fs copyFromLocal /tmp/f /f$i 2>> /tmp/said; \
    do echo f$i >> /tmp/acknowledged; i=$((i+1)); done";

/// A client that writes.
struct Writer {
    container: Container,
    running: Child,
}

impl Writer {
    fn start(engine: &Engine, bridge: &Bridge) -> Result<Self> {
        let options = bridge.client();
        let options: Vec<&str> = options.iter().map(String::as_str).chain(["--entrypoint=sleep"]).collect();
        let container = engine.run(&options, &["600"])?;
        let mut command = Command::new("docker");
        command.args(["exec", container.name(), "sh", "-c", WRITE]).stdin(Stdio::null()).stderr(Stdio::null());
        let running = command.spawn().context("the writer")?;
        Ok(Self { container, running })
    }

    fn acknowledged(&self) -> Result<Vec<String>> {
        let text = self.container.ok(&["sh", "-c", "cat /tmp/acknowledged 2>/dev/null || true"])?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Waits until some files have been acknowledged.
    fn is_at_it(&mut self, worker: &Container) -> Result<()> {
        while self.acknowledged()?.len() < BEFORE {
            if self.running.try_wait()?.is_some() {
                let said = self.container.ok(&["cat", "/tmp/said"])?;
                bail!("it does not write: {said}\n{}\n{}", worker.inspect("{{json .State}}")?, worker.logs());
            }
            pause();
        }
        Ok(())
    }
}

/// Every file that was acknowledged, until the trouble and after it, is in the under store and is read by a new worker.
fn keeps(engine: &Engine, trouble: impl Fn(&Container) -> Result<()>) -> Result<()> {
    let mut bridge = Bridge::start(engine, 1, &[])?;
    let report = bridge.master.ok(&["larder", "fsadmin", "report", "workers", "--json"])?;
    ensure!(report.contains("\"lasting\":false"), "the tier is not volatile: {report}");
    let mut writer = Writer::start(engine, &bridge)?;
    writer.is_at_it(&bridge.workers[0])?;
    trouble(&bridge.workers[0])?;
    writer.running.wait()?;
    let acknowledged = writer.acknowledged()?;
    bridge.workers.push(bridge.worker(engine, &[])?);
    bridge.workers[1].ready()?;
    let right = writer.container.ok(&["md5sum", "/tmp/f"])?;
    let right = right.split_whitespace().next().unwrap_or_default();
    for name in &acknowledged {
        let read = writer.container.ok(&["sh", "-c", &format!("larder fs cat /{name} | md5sum")])?;
        ensure!(read.starts_with(right), "{name} was acknowledged and is {read}\n{}", bridge.master.logs());
        ensure!(bridge.under.path().join(name).metadata()?.len() == 3_000_000, "{name} is not in the under store");
    }
    Ok(())
}

#[test]
fn what_was_acknowledged_outlives_a_container_that_is_killed_with_its_memory() -> Result<()> {
    let test = "what_was_acknowledged_outlives_a_container_that_is_killed_with_its_memory";
    let Some(engine) = engine(test) else { return Ok(()) };
    keeps(engine, |worker| ok(&["kill", worker.name()]).map(drop))
}

#[test]
fn a_container_that_is_stopped_saves_what_it_has_taken_first() -> Result<()> {
    let Some(engine) = engine("a_container_that_is_stopped_saves_what_it_has_taken_first") else { return Ok(()) };
    keeps(engine, |worker| {
        ok(&["stop", worker.name()])?;
        ensure!(worker.inspect("{{.State.ExitCode}}")? == "0", "{}", worker.logs());
        ensure!(!worker.logs().contains("stays in volatile tiers"), "{}", worker.logs());
        Ok(())
    })
}

/// While the under store takes nothing, a writer is not told that its file is safe.
#[test]
fn what_lies_in_memory_alone_is_not_acknowledged() -> Result<()> {
    let Some(engine) = engine("what_lies_in_memory_alone_is_not_acknowledged") else { return Ok(()) };
    let bridge = Bridge::start(engine, 1, &[])?;
    let client = bridge.client();
    let options: Vec<&str> = client.iter().map(String::as_str).chain(["--entrypoint=sleep"]).collect();
    let client = engine.run(&options, &["600"])?;
    let write = |write_type: &str, path: &str| {
        let setting = format!("user.file.writetype.default={write_type}");
        let command = ["larder", "--timeout", "60s", "-D", &setting, "fs", "copyFromLocal", "/etc/passwd", path];
        client.exec(&command)
    };
    let permit = |mode: u32| std::fs::set_permissions(bridge.under.path(), std::fs::Permissions::from_mode(mode));
    permit(0o555)?;
    let refused = write("ASYNC_THROUGH", "/later")?;
    ensure!(!refused.status.success() && both(&refused).contains("not in the under store yet"), "{}", both(&refused));
    let cached = write("MUST_CACHE", "/cached")?;
    ensure!(cached.status.success(), "what promises nothing is not held up: {}", both(&cached));
    permit(0o755)?;
    let later = bridge.under.path().join("later");
    let until = Instant::now() + Duration::from_secs(90);
    while !later.exists() {
        ensure!(Instant::now() < until, "it is never tried again\n{}", bridge.master.logs());
        pause();
    }
    Ok(())
}
