//! Scenarios 3 and 4: only the worker's unix socket is shared, as a file or as a folder; the ramdisk is the worker's own.

use anyhow::Result;
use larder_tests::docker::{Engine, HostDirectory, engine};

use crate::{HostMaster, proves_short_circuit};

fn shared(engine: &Engine, settings: &[&str], client: &[&str]) -> Result<()> {
    let (master, domain) = (HostMaster::start(engine)?, HostDirectory::new()?);
    let volume = domain.at("/opt/domain");
    let options = ["--shm-size=1G", "-v", &volume, "-e", "ALLUXIO_WORKER_MEMORY_SIZE=512MB"];
    let worker = master.worker(engine, &[&options, settings].concat())?;
    let address = format!("{}:{}", master.address, master.rpc);
    proves_short_circuit(engine, &worker, &address, &[&["-v", &volume], client].concat())
}

#[test]
fn a_socket_that_is_shared_as_a_file_is_enough() -> Result<()> {
    let Some(engine) = engine("a_socket_that_is_shared_as_a_file_is_enough") else { return Ok(()) };
    let address = ["-e", "ALLUXIO_WORKER_DATA_SERVER_DOMAIN_SOCKET_ADDRESS=/opt/domain/d"];
    shared(engine, &address, &["--net=host"])
}

#[test]
fn a_folder_of_sockets_is_enough_on_another_network_under_another_name() -> Result<()> {
    let Some(engine) = engine("a_folder_of_sockets_is_enough_on_another_network_under_another_name") else {
        return Ok(());
    };
    let folder = "ALLUXIO_WORKER_DATA_SERVER_DOMAIN_SOCKET_ADDRESS=/opt/domain";
    let settings = ["-e", folder, "-e", "ALLUXIO_WORKER_DATA_SERVER_DOMAIN_SOCKET_AS_UUID=true"];
    let network = engine.network()?;
    let net = format!("--net={}", network.name());
    shared(engine, &settings, &[&net, "--hostname=somebody-else"])
}
