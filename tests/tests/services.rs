//! Each role starts beside services of the same name: what Kubernetes injects for them is no setting.

use anyhow::Result;
use larder_tests::{Cluster, mounts::Mount, skip};

/// Services that people name like what runs in them.
const SERVICES: &[&str] = &[
    "LARDER",
    "LARDER_MASTER",
    "LARDER_WORKER",
    "LARDER_FUSE",
    "ALLUXIO",
    "ALLUXIO_MASTER",
    "ALLUXIO_WORKER",
    "ALLUXIO_FUSE",
];
/// Their ports: of RPC, pages, data, and of names.
const PORTS: &[(u16, &str)] = &[(19998, "TCP"), (19999, "TCP"), (29999, "TCP"), (53, "UDP"), (7, "SCTP")];

/// What Kubernetes, and Docker's links, put into the environment of a container for these services.
fn injected() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for service in SERVICES {
        let mut add = |suffix: &str, value: String| all.push((format!("{service}_{suffix}"), value));
        add("SERVICE_HOST", "10.96.0.17".into());
        add("SERVICE_PORT", "19998".into());
        add("SERVICE_PORT_RPC", "19998".into());
        add("SERVICE_PORT_WEB", "19999".into());
        add("PORT", "tcp://10.96.0.17:19998".into());
        add("NAME", "/consumer/alias".into());
        add("ENV_LARDER_STATE_FOLDER", "/10.96.0.17".into());
        for (port, protocol) in PORTS {
            let name = |rest: &str| format!("PORT_{port}_{protocol}{rest}");
            add(&name(""), format!("{}://10.96.0.17:{port}", protocol.to_lowercase()));
            add(&name("_PROTO"), protocol.to_lowercase());
            add(&name("_PORT"), port.to_string());
            add(&name("_ADDR"), "10.96.0.17".into());
        }
    }
    all
}

#[test]
fn each_role_starts_beside_services_of_its_name() -> Result<()> {
    let mut cluster = Cluster::new()?;
    cluster.environment.extend(injected());
    cluster.start_master()?;
    cluster.start_worker(0)?;
    std::fs::write(cluster.under().join("file"), "content")?;
    assert_eq!(cluster.ok(&["fs", "cat", "/file"])?, "content");
    let shown = cluster.ok(&["config", "show"])?;
    assert!(!shown.contains("10.96.0.17"), "a setting comes from a service:\n{shown}");
    if skip::needs_fuse("each_role_starts_beside_services_of_its_name") {
        let mut mount = Mount::start(&cluster, &[])?;
        assert_eq!(std::fs::read_to_string(mount.at("file"))?, "content");
        mount.unmount()?;
    }
    cluster.kill_worker(0);
    cluster.kill_master();
    let (under, state) = (cluster.under(), cluster.under().with_extension("local"));
    let (under, state) = (under.to_string_lossy(), state.to_string_lossy());
    let local =
        |more: &[&str]| cluster.ok(&[&["local", "--ufs", &under, "--mem", "64MB", "--state", &state], more].concat());
    local(&["--background"])?;
    local(&["--stop"])?;
    Ok(())
}
