//! What the image promises beside the scenarios: its entry, its users, its end, and what it says.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use larder_tests::docker::{Container, FUSE_IMAGE, HostDirectory, both, docker, engine, ok};

use crate::{HostMaster, networks::Bridge, uid};

fn run_once(options: &[&str], command: &[&str]) -> Result<(i32, String)> {
    let engine = engine("image").expect("asked before");
    let output = engine.once(options, command)?;
    Ok((output.status.code().unwrap_or(-1), both(&output)))
}

#[test]
fn the_image_takes_roles_commands_and_programs() -> Result<()> {
    if engine("the_image_takes_roles_commands_and_programs").is_none() {
        return Ok(());
    }
    let (code, text) = run_once(&[], &["proxy"])?;
    ensure!(code == 2 && text.contains("not built yet"), "{text}");
    let (code, text) = run_once(&[], &["version"])?;
    ensure!(code == 0 && text.contains(env!("CARGO_PKG_VERSION")), "{text}");
    let (code, text) = run_once(&[], &["sh", "-c", "pwd; readlink -f /opt/alluxio/bin/alluxio; exit 7"])?;
    ensure!(code == 7 && text.contains("/\n/opt/larder/bin/larder\n"), "{text}");
    let (code, text) = run_once(&[], &["no-such-role"])?;
    ensure!(code == 2 && text.contains("no-such-role"), "{text}");
    let (code, text) = run_once(&["-e", "LARDER_MASTER_HOSTNAM=x"], &["master"])?;
    ensure!(code == 2 && text.contains("did you mean LARDER_MASTER_HOSTNAME?"), "{text}");
    let listed = ok(&["run", "--rm", FUSE_IMAGE, "proxy"]);
    ensure!(listed.is_err_and(|error| error.to_string().contains("not built yet")));
    Ok(())
}

#[test]
fn a_cluster_in_one_container_is_well_and_belongs_to_whoever_owns_the_files() -> Result<()> {
    let test = "a_cluster_in_one_container_is_well_and_belongs_to_whoever_owns_the_files";
    let Some(engine) = engine(test) else { return Ok(()) };
    let under = HostDirectory::new()?.owned_by(4321)?;
    let options = ["-v", &under.at("/underStorage"), "--health-interval=1s", "--health-retries=1", "--shm-size=128m"];
    let command = ["local", "--ufs", "/underStorage", "--mem", "100MB"];
    let local = engine.run(&options, &command)?;
    local.ready()?;
    ensure!(uid(&local)? == 4321 && local.ok(&["larder", "health"])? == "local: well");
    local.ok(&["sh", "-c", "echo hello >/tmp/f && larder fs copyFromLocal /tmp/f /f && larder fs cat /f"])?;
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(under.path().join("f"))?);
    ensure!(owner == 0 || owner == 4321, "it is {owner}'s");
    becomes(&local, "healthy")?;
    // A process that lives and does not answer is not well.
    ok(&["kill", "-s", "STOP", local.name()])?;
    becomes(&local, "unhealthy")?;
    ok(&["kill", "-s", "CONT", local.name()])?;
    becomes(&local, "healthy")?;
    stops(local.name(), 0)
}

/// Waits for what the engine makes of the image's HEALTHCHECK.
fn becomes(container: &Container, health: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while container.inspect("{{.State.Health.Status}}")? != health {
        ensure!(Instant::now() < deadline, "never {health}: {}", container.inspect("{{json .State.Health}}")?);
        larder_tests::processes::pause();
    }
    Ok(())
}

#[test]
fn a_master_with_no_setting_starts_as_an_ordinary_user_and_says_what_is_open() -> Result<()> {
    let test = "a_master_with_no_setting_starts_as_an_ordinary_user_and_says_what_is_open";
    let Some(engine) = engine(test) else { return Ok(()) };
    let master = engine.run(&[], &["master"])?;
    master.ready()?;
    ensure!(uid(&master)? == 1000);
    let log = master.logs();
    for said in ["no token is set", "no under store is set"] {
        ensure!(log.matches(said).count() == 1, "{said}: {log}");
    }
    let with_token =
        engine.run(&["-e", "LARDER_SECURITY_TOKEN=secret", "-e", "LARDER_LOG_FORMAT=json"], &["master"])?;
    with_token.ready()?;
    let log = ok(&["logs", with_token.name()])?;
    ensure!(log.contains("the master is ready") && !log.contains("no token") && !log.contains("secret"), "{log}");
    ensure!(log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{log}");
    let ip = with_token.inspect("{{.NetworkSettings.IPAddress}}")?;
    let refused = engine.once(&[], &["fs", "ls", "/", "--master", &ip])?;
    ensure!(!refused.status.success(), "without the token nothing is listed");
    let token = ["-e", "LARDER_SECURITY_TOKEN=secret"];
    ensure!(engine.once(&token, &["fs", "ls", "/", "--master", &ip])?.status.success());
    Ok(())
}

#[test]
fn any_user_is_obeyed_and_a_directory_without_rights_is_named() -> Result<()> {
    let Some(engine) = engine("any_user_is_obeyed_and_a_directory_without_rights_is_named") else { return Ok(()) };
    let (open, closed) = (HostDirectory::new()?.owned_by(4321)?, HostDirectory::new()?.owned_by(77)?);
    let under = "ALLUXIO_UNDERFS_ADDRESS=/underStorage";
    let volume = open.at("/underStorage");
    let user = engine.run(&["--user", "4321:4321", "-v", &volume, "-e", under], &["master"])?;
    user.ready()?;
    ensure!(uid(&user)? == 4321);
    let named =
        engine.run(&["-e", "ALLUXIO_UID=4321", "-e", "ALLUXIO_GID=99", "-v", &volume, "-e", under], &["master"])?;
    named.ready()?;
    ensure!(named.ok(&["stat", "-c", "%u:%g", "/proc/1"])? == "4321:99");
    let refused = engine.run(&["--user", "4321:4321", "-v", &closed.at("/underStorage"), "-e", under], &["master"])?;
    ensure!(refused.wait()? == 5, "{}", refused.logs());
    let log = refused.logs();
    ensure!(["/underStorage", "4321", "uid 77", "--user"].iter().all(|part| log.contains(part)), "{log}");
    Ok(())
}

#[test]
fn servers_wait_for_their_master_and_stop_within_ten_seconds() -> Result<()> {
    let Some(engine) = engine("servers_wait_for_their_master_and_stop_within_ten_seconds") else { return Ok(()) };
    let options = ["--shm-size=128m", "-e", "ALLUXIO_MASTER_HOSTNAME=nobody.invalid"];
    let waiting = engine.run(&options, &["worker"])?;
    waiting.says("the master cannot be reached")?;
    ensure!(waiting.ok(&["larder", "health"])?.contains("waiting for the master at nobody.invalid:19998"));
    ensure!(!waiting.exec(&["larder", "health", "--ready"])?.status.success());
    // So does one that was linked in the way of before there were networks, with all that this injects.
    let (link, own) = (format!("{}:larder-master", waiting.name()), ["-e", "ALLUXIO_MASTER_HOSTNAME=nobody.invalid"]);
    let linked = engine.run(&[&["--shm-size=128m", "--link", &link], &own[..]].concat(), &["worker"])?;
    linked.says("the master cannot be reached")?;
    drop(linked);
    stops(waiting.name(), 0)?;
    let bridge = Bridge::start(engine, 1, &[])?;
    // Files that are only in the cache cannot be saved, and are named.
    let write =
        "head -c 1M /dev/zero > /tmp/f && larder -D user.file.writetype.default=MUST_CACHE fs copyFromLocal /tmp/f /f";
    bridge.workers[0].ok(&["sh", "-c", write])?;
    stops(bridge.workers[0].name(), 0)?;
    let log = bridge.workers[0].logs();
    ensure!(log.contains("content that is nowhere else stays in volatile tiers"), "{log}");
    stops(bridge.master.name(), 0)
}

/// Asks a container to stop, as `docker stop` does, which kills after ten seconds.
fn stops(name: &str, code: i32) -> Result<()> {
    let start = Instant::now();
    ok(&["stop", name])?;
    ensure!(start.elapsed() < Duration::from_secs(10), "it was killed");
    ensure!(ok(&["inspect", "-f", "{{.State.ExitCode}}", name])? == code.to_string());
    Ok(())
}

#[test]
fn a_taken_port_is_an_error_for_a_master_and_another_one_for_a_worker() -> Result<()> {
    let Some(engine) = engine("a_taken_port_is_an_error_for_a_master_and_another_one_for_a_worker") else {
        return Ok(());
    };
    let master = HostMaster::start(engine)?;
    let rpc = format!("ALLUXIO_MASTER_RPC_PORT={}", master.rpc);
    let second = engine.run(&["--net=host", "-e", &rpc], &["master"])?;
    ensure!(second.wait()? != 0);
    ensure!(second.logs().contains(&format!("port {} is taken", master.rpc)), "{}", second.logs());
    let size = ["--shm-size=128m", "-e", "ALLUXIO_WORKER_MEMORY_SIZE=100MB"];
    let (one, two) = (master.worker(engine, &size)?, master.worker(engine, &size)?);
    let report = master.container.ok(&["larder", "fsadmin", "report", "workers"])?;
    ensure!(one.logs() != two.logs() && report.matches("live").count() >= 2, "{report}");
    drop(docker(&["kill", one.name()])?);
    Ok(())
}
