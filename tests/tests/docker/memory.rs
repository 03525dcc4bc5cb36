//! Scenario 7: the memory of a tier is the worker's, whoever fills it, and a worker whose limit is just above its tier is
//! not killed.

use anyhow::{Context, Result, ensure};
use larder_tests::docker::{Container, HostDirectory, engine};

use crate::{HostMaster, LOCAL, STREAM, strs};

const MIB: u64 = 1 << 20;

/// Bytes of shared memory that are charged to a container, by cgroup v2 or v1.
fn charged(container: &Container) -> Result<u64> {
    let script = "cat /sys/fs/cgroup/memory.stat 2>/dev/null || cat /sys/fs/cgroup/memory/memory.stat";
    let text = container.ok(&["sh", "-c", script])?;
    let line = text.lines().find_map(|line| line.strip_prefix("shmem ")).context("no shmem")?;
    Ok(line.parse()?)
}

#[test]
fn a_tier_is_charged_to_its_worker_which_is_not_killed() -> Result<()> {
    let Some(engine) = engine("a_tier_is_charged_to_its_worker_which_is_not_killed") else { return Ok(()) };
    let (master, domain) = (HostMaster::start(engine)?, HostDirectory::new()?);
    let volume = domain.at("/opt/domain");
    let settings = [
        "--shm-size=400m",
        "--memory=360m",
        "-v",
        &volume,
        "-e",
        "ALLUXIO_WORKER_MEMORY_SIZE=300MB",
        "-e",
        "ALLUXIO_WORKER_DATA_SERVER_DOMAIN_SOCKET_ADDRESS=/opt/domain/d",
    ];
    let worker = master.worker(engine, &settings)?;
    let own = master.options();
    let options = [&strs(&own)[..], &["-v", &volume, "--memory=200m", "--entrypoint=sleep"]].concat();
    let clients = [engine.run(&options, &["600"])?, engine.run(&options, &["600"])?];
    let write = |client: &Container, name: &str| {
        let script = format!(
            "head -c 200M /dev/urandom > /tmp/f && larder fs copyFromLocal /tmp/f /{name} && rm /tmp/f && \
             larder fs cat /{name} | wc -c"
        );
        client.ok(&["sh", "-c", &script])
    };
    let before = (charged(&worker)?, charged(&clients[0])?);
    ensure!(write(&clients[0], "a")?.ends_with("209715200"), "{}", worker.logs());
    ensure!(worker.counter(LOCAL)? > 0 && worker.counter(STREAM)? == 0, "not by short circuit");
    let after = (charged(&worker)?, charged(&clients[0])?);
    println!(
        "charged for 200 MiB: the worker {} MiB, the client {} MiB",
        mib(after.0, before.0),
        mib(after.1, before.1)
    );
    ensure!(after.0 >= before.0 + 150 * MIB, "the worker is charged with {} instead of 200 MiB", after.0 - before.0);
    ensure!(after.1 < before.1 + 8 * MIB, "the client is charged with {}", after.1 - before.1);
    // More than the tier holds, written and read by both: what is persisted makes room.
    for name in ["b", "c"] {
        for client in &clients {
            ensure!(write(client, &format!("{name}{}", client.name()))?.ends_with("209715200"), "{}", worker.logs());
        }
    }
    ensure!(worker.inspect("{{.State.OOMKilled}} {{.State.Running}}")? == "false true", "{}", worker.logs());
    ensure!(charged(&worker)? <= 310 * MIB);
    Ok(())
}

fn mib(after: u64, before: u64) -> u64 {
    after.saturating_sub(before) / MIB
}
