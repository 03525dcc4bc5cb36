//! Scenario 8: a worker's container is killed, stopped in its tracks, or cut off from the network while a client reads.
//! The read ends with the right bytes, or with an error, in bounded time.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use larder_tests::{
    docker::{Container, Engine, engine, ok},
    processes::pause,
    trees,
};

use crate::{networks::Bridge, put};

const LENGTH: usize = 160 << 20;
/// How long such a read may take.
const BOUND: Duration = Duration::from_secs(60);

/// Reads a file slowly in a container; in the middle of it `trouble` comes. The sum of what was read and whether all was
/// well.
fn read_through(client: &Container, trouble: impl FnOnce() -> Result<()>) -> Result<(String, bool, Duration)> {
    let script = "{ larder fs cat /file; echo $? > /tmp/code; } | \
                  { head -c 30000000; touch /tmp/middle; sleep 3; cat; } | md5sum; exit $(cat /tmp/code)";
    client.ok(&["rm", "-f", "/tmp/middle", "/tmp/code"])?;
    let reader = Command::new("docker")
        .args(["exec", client.name(), "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let start = Instant::now();
    while !client.exec(&["test", "-e", "/tmp/middle"])?.status.success() {
        ensure!(start.elapsed() < BOUND, "the read did not begin");
        pause();
    }
    trouble()?;
    let output = reader.wait_with_output()?;
    let sum = String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap_or_default().to_owned();
    Ok((sum, output.status.success(), start.elapsed()))
}

/// With one worker in trouble the other one, or the under store through it, gives the rest.
fn survives(engine: &Engine, trouble: impl Fn(&Bridge, &Container) -> Result<()>) -> Result<()> {
    let bridge = Bridge::start(engine, 2, &[])?;
    put(&bridge.under, "file", &trees::bytes(8, LENGTH))?;
    let options = bridge.client();
    let mut options: Vec<&str> = options.iter().map(String::as_str).collect();
    options.push("--entrypoint=sleep");
    let client = engine.run(&options, &["600"])?;
    let right = client.ok(&["sh", "-c", "larder fs cat /file | md5sum"])?;
    let right = right.split_whitespace().next().unwrap_or_default().to_owned();
    let (sum, well, took) = read_through(&client, || trouble(&bridge, holder(&bridge)?))?;
    ensure!(took < BOUND, "it took {took:?}");
    ensure!(!well || sum == right, "other bytes were read, without an error");
    ensure!(well, "another worker could have given the rest\n{}", bridge.master.logs());
    Ok(())
}

/// The worker that has streamed most.
fn holder(bridge: &Bridge) -> Result<&Container> {
    let mut best = (0, &bridge.workers[0]);
    for worker in &bridge.workers {
        let streamed = worker.counter(crate::STREAM)?;
        if streamed > best.0 {
            best = (streamed, worker);
        }
    }
    Ok(best.1)
}

#[test]
fn a_read_survives_the_kill_of_its_worker() -> Result<()> {
    let Some(engine) = engine("a_read_survives_the_kill_of_its_worker") else { return Ok(()) };
    survives(engine, |_, worker| ok(&["kill", worker.name()]).map(drop))
}

#[test]
fn a_read_survives_a_worker_that_is_paused() -> Result<()> {
    let Some(engine) = engine("a_read_survives_a_worker_that_is_paused") else { return Ok(()) };
    survives(engine, |_, worker| ok(&["pause", worker.name()]).map(drop))
}

#[test]
fn a_read_survives_a_worker_that_is_cut_off() -> Result<()> {
    let Some(engine) = engine("a_read_survives_a_worker_that_is_cut_off") else { return Ok(()) };
    survives(engine, |bridge, worker| ok(&["network", "disconnect", bridge.network.name(), worker.name()]).map(drop))
}
