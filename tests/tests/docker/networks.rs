//! Scenario 5: everything on a bridge network, found by its name; a client with nothing shared reads from the worker by
//! network, and is told why it does not do better.

use anyhow::{Context, Result, ensure};
use larder_tests::{
    docker::{Container, Engine, HostDirectory, Network, TINY_IMAGE, both, docker, engine, ok},
    trees,
};
use serde_json::Value;

use crate::{LOCAL, STREAM, UID, put};

const LENGTH: usize = 20 << 20;
/// Streams for clients that can open no socket of the worker.
const NO_SOCKET: &str = "larder_open_total{path=\"stream\",reason=\"no socket\"}";

/// A master and workers on a network of their own.
pub(crate) struct Bridge {
    pub(crate) master: Container,
    pub(crate) workers: Vec<Container>,
    pub(crate) under: HostDirectory,
    pub(crate) network: Network,
}

impl Bridge {
    /// With so many workers of 512 MB each, and these options for all.
    pub(crate) fn start(engine: &Engine, workers: usize, more: &[&str]) -> Result<Self> {
        Self::on(engine.network()?, engine, workers, more)
    }

    /// The same on this network.
    pub(crate) fn on(network: Network, engine: &Engine, workers: usize, more: &[&str]) -> Result<Self> {
        let under = HostDirectory::new()?.owned_by(UID)?;
        let (net, volume) = (format!("--net={}", network.name()), under.at("/underStorage"));
        let common = ["-v", &volume, "-e", "ALLUXIO_UNDERFS_ADDRESS=/underStorage", &net];
        let master = engine.run(&[&common[..], &["-p", "19998"], more].concat(), &["master"])?;
        let mut bridge = Self { master, workers: Vec::new(), under, network };
        for _ in 0..workers {
            bridge.workers.push(bridge.worker(engine, more)?);
        }
        bridge.workers.iter().try_for_each(Container::ready)?;
        Ok(bridge)
    }

    /// One more worker, which may not be ready yet.
    pub(crate) fn worker(&self, engine: &Engine, more: &[&str]) -> Result<Container> {
        let (net, volume) = (format!("--net={}", self.network.name()), self.under.at("/underStorage"));
        let hostname = format!("ALLUXIO_MASTER_HOSTNAME={}", self.master.name());
        let own = ["-v", &volume, "-e", "ALLUXIO_UNDERFS_ADDRESS=/underStorage", &net, "--shm-size=640m"];
        let size = ["-e", &hostname, "-e", "ALLUXIO_WORKER_MEMORY_SIZE=512MB"];
        engine.run(&[&own[..], &size, more].concat(), &["worker"])
    }

    /// The options of a client that shares the network and nothing else.
    pub(crate) fn client(&self) -> [String; 3] {
        let (net, master) = (self.network.name(), self.master.name());
        [format!("--net={net}"), "-e".into(), format!("ALLUXIO_MASTER_HOSTNAME={master}")]
    }
}

#[test]
fn with_nothing_shared_a_client_reads_by_network_and_is_told_why() -> Result<()> {
    let Some(engine) = engine("with_nothing_shared_a_client_reads_by_network_and_is_told_why") else { return Ok(()) };
    let bridge = Bridge::start(engine, 1, &[])?;
    let (worker, client) = (&bridge.workers[0], bridge.client());
    let client: Vec<&str> = client.iter().map(String::as_str).collect();
    let content = trees::bytes(5, LENGTH);
    ensure!(worker.counter(NO_SOCKET)? == 0);
    put(&bridge.under, "file", &content)?;
    let before = (worker.counter(LOCAL)?, worker.counter(STREAM)?);
    for _cold_then_warm in 0..2 {
        let read = engine.once(&client, &["fs", "cat", "/file"])?;
        ensure!(read.status.success() && read.stdout == content, "{}", String::from_utf8_lossy(&read.stderr));
    }
    ensure!(worker.counter(LOCAL)? == before.0, "nothing is shared, and yet a descriptor was given");
    ensure!(worker.counter(STREAM)? - before.1 >= LENGTH as u64, "the warm read came from somewhere else");
    let row = location(engine, &client)?;
    ensure!(row["short_circuit"] == false && row["tier"] == "MEM", "{row}");
    ensure!(worker.counter(NO_SOCKET)? > 0, "no counter says why");
    let reason = row["reason"].as_str().context("a reason")?;
    ensure!(reason.contains("/dev/shm/larder-") && reason.contains("no socket"), "{reason}");
    published(engine, &bridge)?;
    from_scratch(&client)
}

fn location(engine: &Engine, client: &[&str]) -> Result<Value> {
    let output = engine.once(client, &["fs", "location", "/file", "--json"])?;
    ensure!(output.status.success(), "{}", both(&output));
    Ok(serde_json::from_slice(output.stdout.split(|byte| *byte == b'\n').next().unwrap_or_default())?)
}

/// From the host's network, through the port that is published there.
fn published(engine: &Engine, bridge: &Bridge) -> Result<()> {
    let ports = ok(&["port", bridge.master.name(), "19998"])?;
    let port = ports.lines().next().and_then(|line| line.rsplit_once(':')).context("a published port")?.1;
    let listed = engine.once(&["--net=host"], &["fs", "ls", "/", "--master", &format!("127.0.0.1:{port}")])?;
    ensure!(String::from_utf8_lossy(&listed.stdout).contains("file"), "{}", both(&listed));
    Ok(())
}

/// The image of nothing but the binary finds names too.
fn from_scratch(client: &[&str]) -> Result<()> {
    let command = ["fs", "ls", "/"];
    let listed = docker(&[&["run", "--rm"], client, &[TINY_IMAGE], &command].concat())?;
    ensure!(String::from_utf8_lossy(&listed.stdout).contains("file"), "{}", both(&listed));
    Ok(())
}

/// Names are resolved anew at each connect: a master that was started again may have another address.
#[test]
fn a_master_that_comes_back_at_another_address_is_found_by_its_name() -> Result<()> {
    let test = "a_master_that_comes_back_at_another_address_is_found_by_its_name";
    let Some(engine) = engine(test) else { return Ok(()) };
    let bridge = Bridge::start(engine, 1, &[])?;
    let (name, net) = (bridge.master.name(), bridge.network.name());
    let address = || bridge.master.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}");
    let before = address()?;
    ok(&["network", "disconnect", net, name])?;
    // Somebody else may have its address by then.
    let _other = engine.run(&[&format!("--net={net}"), "--entrypoint=sleep"], &["600"])?;
    ok(&["network", "connect", net, name])?;
    ensure!(address()? != before, "it has the same address again");
    let content = trees::bytes(9, 1 << 20);
    put(&bridge.under, "file", &content)?;
    let client = bridge.client();
    let client: Vec<&str> = client.iter().map(String::as_str).collect();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(90);
    loop {
        // The worker has to notice, and to register again.
        let read = engine.once(&client, &["--timeout", "10s", "fs", "cat", "/file"])?;
        if read.status.success() && read.stdout == content {
            break;
        }
        let said = String::from_utf8_lossy(&read.stderr).into_owned();
        ensure!(std::time::Instant::now() < until, "{said}\n{}", bridge.workers[0].logs());
    }
    let report = bridge.master.ok(&["larder", "fsadmin", "report", "workers"])?;
    ensure!(report.matches("live").count() == 1, "{report}");
    Ok(())
}
