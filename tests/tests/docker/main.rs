//! The images in a real container engine: the scenarios of the Docker guide, and what the image promises beside them.
//!
//! Each test says that it was skipped where no engine is there (see `larder_tests::docker`). That bytes went by short
//! circuit is shown by the worker's counters and by a comparison with a tmpfs of the client's own container.

mod build;
mod failures;
mod fuse;
mod guide;
mod image;
mod memory;
mod networks;
mod ramdisk;
mod sockets;
mod translated;
mod volatile;

use anyhow::{Context, Result, bail, ensure};
use larder_tests::{
    docker::{Container, Engine, HostDirectory, both},
    processes::free_port,
};
use serde_json::Value;

/// What a read of what is cached must reach of a read of a tmpfs file, in the same container.
const RATIO: f64 = 0.8;
/// How often that is tried, with new files each time: how scattered the pages of a file are, and of its twin, is chance.
const ATTEMPTS: usize = 10;
/// Of files that belong to nobody else here.
const UID: u32 = 12345;

const LOCAL: &str = "larder_open_total{path=\"local\",reason=\"cached\"}";
const STREAM: &str = "larder_read_bytes_total{path=\"stream\"}";
const WRITTEN: &str = "larder_written_bytes_total";

/// Where a master on the host's network is, at ports that are free.
struct HostMaster {
    address: String,
    rpc: u16,
    container: Container,
    under: HostDirectory,
}

impl HostMaster {
    /// As in the guide: the under store on the host, the host's network, and an address that others can reach.
    fn start(engine: &Engine) -> Result<Self> {
        let (address, rpc, under) = (engine.host_address()?, free_port(), HostDirectory::new()?.owned_by(UID)?);
        let web = format!("ALLUXIO_MASTER_WEB_PORT={}", free_port());
        let (volume, settings) = (under.at("/underStorage"), Self::settings(&address, rpc));
        let options = ["--net=host", "-v", &volume, "-e", &web, "-e", "ALLUXIO_UNDERFS_ADDRESS=/underStorage"];
        let container = engine.run(&[&options[..], &strs(&settings)].concat(), &["master"])?;
        container.ready()?;
        Ok(Self { address, rpc, container, under })
    }

    fn settings(address: &str, rpc: u16) -> Vec<String> {
        let variables = [format!("ALLUXIO_MASTER_HOSTNAME={address}"), format!("ALLUXIO_MASTER_RPC_PORT={rpc}")];
        variables.into_iter().flat_map(|variable| ["-e".to_owned(), variable]).collect()
    }

    /// The options with which every other container finds it.
    fn options(&self) -> Vec<String> {
        Self::settings(&self.address, self.rpc)
    }

    /// A worker on the host's network with these options, ready.
    fn worker(&self, engine: &Engine, more: &[&str]) -> Result<Container> {
        let worker = self.worker_start(engine, more)?;
        worker.ready()?;
        Ok(worker)
    }

    fn worker_start(&self, engine: &Engine, more: &[&str]) -> Result<Container> {
        let (volume, own) = (self.under.at("/underStorage"), self.options());
        let options = ["--net=host", "-v", &volume, "-e", "ALLUXIO_UNDERFS_ADDRESS=/underStorage"];
        engine.run(&[&options[..], &strs(&own), more].concat(), &["worker"])
    }
}

fn strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// The user of the first process of a container.
fn uid(container: &Container) -> Result<u32> {
    Ok(container.ok(&["stat", "-c", "%u", "/proc/1"])?.parse()?)
}

/// Writes and reads a file from a client container, and proves that all of it went by short circuit: the worker gave
/// descriptors, streamed nothing, and reading was as fast as reading a tmpfs of the same container. What else the machine
/// does can only make that slower, so the best of some attempts counts.
#[expect(clippy::print_stdout, reason = "what was measured is for people")]
fn proves_short_circuit(engine: &Engine, worker: &Container, master: &str, client: &[&str]) -> Result<()> {
    let mut all = Vec::new();
    for _ in 0..ATTEMPTS {
        let ratios = read_by_short_circuit(engine, worker, master, client)?;
        let is_enough = ratios.iter().all(|ratio| *ratio >= RATIO);
        all.push(ratios);
        if is_enough {
            println!("a warm read beside a tmpfs, by one thread and by four: {all:?}");
            return Ok(());
        }
    }
    bail!("of a tmpfs: {all:?}")
}

/// How fast reading was, by one thread and by four, beside reading a tmpfs.
fn read_by_short_circuit(engine: &Engine, worker: &Container, master: &str, client: &[&str]) -> Result<Vec<f64>> {
    let count = |name| worker.counter(name);
    let before = (count(LOCAL)?, count(STREAM)?, count(WRITTEN)?);
    let bench = ["bench", "--master", master, "read-warm", "--quick", "--json", "--pairs", "5"];
    let output = engine.once(&[client, &["--shm-size=256m"]].concat(), &bench)?;
    ensure!(output.status.success(), "{}\n{}", both(&output), worker.logs());
    let after = (count(LOCAL)?, count(STREAM)?, count(WRITTEN)?);
    ensure!(after.0 > before.0, "no descriptor was given");
    ensure!(after.1 == before.1, "{} bytes were streamed", after.1 - before.1);
    ensure!(after.2 >= before.2 + (64 << 20), "the file was not written at this worker");
    let lines = String::from_utf8(output.stdout)?;
    let mut ratios = Vec::new();
    for line in lines.lines() {
        let row: Value = serde_json::from_str(line)?;
        ratios.push(row["ratio"].as_f64().with_context(|| format!("no ratio in {line}"))?);
    }
    ensure!(ratios.len() == 2, "{lines}");
    Ok(ratios)
}

/// Puts a file into the under store, as somebody who knows nothing of Larder.
fn put(under: &HostDirectory, file: &str, content: &[u8]) -> Result<()> {
    std::fs::write(under.path().join(file), content).with_context(|| file.to_owned())
}
