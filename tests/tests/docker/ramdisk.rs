//! Scenario 1, the guide's own: a ramdisk of the host that is shared; and scenario 2, the container's own `/dev/shm`.

use anyhow::{Result, ensure};
use larder_tests::{
    docker::{HostDirectory, engine},
    skip,
};

use crate::{HostMaster, UID, proves_short_circuit, strs, uid};

#[test]
fn the_guide_with_a_ramdisk_of_the_host() -> Result<()> {
    let test = "the_guide_with_a_ramdisk_of_the_host";
    let Some(engine) = engine(test) else { return Ok(()) };
    if !skip::needs_root(test) {
        return Ok(());
    }
    let (master, ramdisk) = (HostMaster::start(engine)?, HostDirectory::ramdisk()?);
    let ram = ramdisk.at("/opt/ramdisk");
    let size = "ALLUXIO_WORKER_MEMORY_SIZE=1GB";
    let worker = master.worker(engine, &["-v", &ram, "-e", "ALLUXIO_RAM_FOLDER=/opt/ramdisk", "-e", size])?;
    ensure!((uid(&master.container)?, uid(&worker)?) == (UID, UID), "servers belong to whoever made the under store");
    let tests = worker.ok(&["/bin/sh", "-c", "cd opt/alluxio && bin/alluxio runTests"])?;
    ensure!(tests.contains("Passed: ") && !tests.contains("FAILED"), "{tests}");
    let (address, client) = (format!("{}:{}", master.address, master.rpc), ["-v", &ram, "--hostname=elsewhere"]);
    proves_short_circuit(engine, &worker, &address, &client)?;
    ensure!(worker.ok(&["larder", "health"])? == "worker: well");
    ensure!(worker.inspect("{{.State.Health.Status}}")? != "unhealthy");
    Ok(())
}

#[test]
fn without_a_ramdisk_dev_shm_is_used_and_its_size_is_not_forgotten() -> Result<()> {
    let Some(engine) = engine("without_a_ramdisk_dev_shm_is_used_and_its_size_is_not_forgotten") else { return Ok(()) };
    let master = HostMaster::start(engine)?;
    let size = ["-e", "ALLUXIO_WORKER_MEMORY_SIZE=1GB"];
    let worker = master.worker(engine, &[&["--shm-size=1G"], &size[..]].concat())?;
    let tests = worker.ok(&["/bin/sh", "-c", "cd opt/alluxio && bin/alluxio runTests"])?;
    ensure!(tests.contains("Passed: ") && !tests.contains("FAILED"), "{tests}");
    let forgotten = master.worker_start(engine, &size)?;
    ensure!(forgotten.wait()? == 2, "{}", forgotten.logs());
    let log = forgotten.logs();
    ensure!(log.contains("/dev/shm") && log.contains("64") && log.contains("--shm-size=1g"), "{log}");
    // `alluxio.user.hostname = dummy` of the guide costs nothing where the socket is not shared.
    let own = master.options();
    let options = [&strs(&own)[..], &["-e", "ALLUXIO_USER_HOSTNAME=dummy"]].concat();
    let listed = engine.once(&options, &["fs", "ls", "/"])?;
    ensure!(listed.status.success());
    Ok(())
}
