//! A client beside a worker that does not read by short circuit is told why, by `fs location`, and the worker counts it.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use larder_tests::{Cluster, trees};
use serde_json::Value;

const LENGTH: usize = 1 << 20;

/// What the worker counts of opens, now.
fn opens(cluster: &Cluster, path: &str, reason: &str) -> Result<u64> {
    let state = cluster.under().with_file_name("state0");
    let text = cluster.ok(&["health", "--metrics", "worker", "--state", &state.to_string_lossy()])?;
    let row = format!("larder_open_total{{path=\"{path}\",reason=\"{reason}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&row));
    value.and_then(|value| value.parse().ok()).with_context(|| format!("no {row} in {text}"))
}

/// What `fs location` says of the first block: whether it is read by short circuit, and why not.
fn location(cluster: &Cluster, options: &[&str], path: &str) -> Result<(bool, String)> {
    let printed = cluster.ok(&[options, &["fs", "location", path, "--json"]].concat())?;
    let row: Value = serde_json::from_str(printed.lines().next().context("no block")?)?;
    let is_short = row["short_circuit"].as_bool().with_context(|| printed.clone())?;
    Ok((is_short, row["reason"].as_str().unwrap_or_default().to_owned()))
}

/// Reads a file that is cached with these options; the worker counts why that is a stream, and `location` says it.
fn streams(cluster: &Cluster, options: &[&str], counted: &str, said: &[&str]) -> Result<()> {
    let before = (opens(cluster, "stream", counted)?, opens(cluster, "local", "cached")?);
    let (is_short, reason) = location(cluster, options, "/file")?;
    ensure!(!is_short && said.iter().all(|part| reason.contains(part)), "{counted}: {reason}");
    let read = cluster.run(&[options, &["fs", "cat", "/file"]].concat())?;
    ensure!(read.status.success() && read.stdout == trees::bytes(1, LENGTH), "{counted}: other bytes");
    let after = (opens(cluster, "stream", counted)?, opens(cluster, "local", "cached")?);
    ensure!(after.0 > before.0 && after.1 == before.1, "{counted}: {before:?} became {after:?}");
    Ok(())
}

/// The sockets of the worker, where clients find them.
fn sockets(cluster: &Cluster) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(cluster.memory(0))?.flatten();
    let is_socket =
        |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| std::os::unix::fs::FileTypeExt::is_socket(&kind));
    let found: Vec<_> = entries.filter(is_socket).map(|entry| entry.path()).collect();
    ensure!(!found.is_empty(), "the worker has no socket beside its tier");
    Ok(found)
}

#[test]
fn whoever_is_not_short_circuited_is_told_why_and_counted() -> Result<()> {
    let cluster = Cluster::start(1)?;
    fs::write(cluster.under().join("file"), trees::bytes(1, LENGTH))?;
    let read = cluster.run(&["fs", "cat", "/file"])?;
    ensure!(read.stdout == trees::bytes(1, LENGTH) && opens(&cluster, "local", "cached")? > 0);
    ensure!(location(&cluster, &[], "/file")? == (true, String::new()), "{:?}", location(&cluster, &[], "/file")?);
    let off = ["-D", "user.short.circuit.enabled=false"];
    streams(&cluster, &off, "switched off", &["user.short.circuit.enabled is false"])?;
    for socket in sockets(&cluster)? {
        let hidden = socket.with_extension("hidden");
        let place = socket.to_string_lossy().into_owned();
        fs::rename(&socket, &hidden)?;
        streams(&cluster, &[], "no socket", &["no socket", &place, "No such file"])?;
        // Something else lies there; nobody listens.
        fs::write(&socket, "")?;
        streams(&cluster, &[], "no socket", &["no socket", &place, "refused"])?;
        fs::remove_file(&socket)?;
        fs::rename(&hidden, &socket)?;
    }
    ensure!(location(&cluster, &[], "/file")?.0, "the socket is there again");
    Ok(())
}

#[test]
fn what_a_full_tier_does_not_keep_is_said_and_counted() -> Result<()> {
    let mut cluster = Cluster::new()?;
    let tier = format!("MEM:{}:8MB", cluster.memory(0).display());
    cluster.environment.push(("LARDER_WORKER_TIERS".into(), tier));
    cluster.environment.push(("LARDER_WORKER_UNPERSISTED_CEILING".into(), "100%".into()));
    cluster.start_master()?;
    cluster.start_worker(0)?;
    fs::write(cluster.under().join("file"), trees::bytes(1, 3 * LENGTH))?;
    let must_cache = ["-D", "user.file.writetype.default=MUST_CACHE"];
    let source = cluster.under().with_file_name("source");
    fs::write(&source, trees::bytes(2, 2 * LENGTH))?;
    // What is nowhere else cannot be dropped for anything.
    for n in 0..3 {
        let copy = ["fs", "copyFromLocal", &source.to_string_lossy(), &format!("/only{n}")];
        cluster.ok(&[&must_cache[..], &copy].concat())?;
    }
    let read = cluster.run(&["fs", "cat", "/file"])?;
    ensure!(read.stdout == trees::bytes(1, 3 * LENGTH), "other bytes");
    ensure!(opens(&cluster, "stream", "not kept")? > 0, "no counter says why");
    let (is_short, reason) = location(&cluster, &[], "/file")?;
    ensure!(!is_short && reason.contains("not in the cache"), "{reason}");
    Ok(())
}
