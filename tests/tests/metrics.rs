//! What each role counts, as Prometheus and `larder health` get it: the names are a contract with operators.

use anyhow::{Context, Result, ensure};
use larder_tests::{Cluster, mounts::Mount, skip};

/// The value of a row; `None` where there is none.
fn value(text: &str, row: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(' ')?.parse().ok())
}

fn has(text: &str, rows: &[&str]) -> Result<()> {
    for row in rows {
        let value = value(text, row).with_context(|| format!("no {row} in\n{text}"))?;
        ensure!(value > 0.0, "{row} is {value}");
    }
    Ok(())
}

/// The metrics of a role of the cluster; the worker's state is its own.
fn metrics(cluster: &Cluster, role: &str) -> Result<String> {
    let state = cluster.under().with_file_name(if role == "worker" { "state0" } else { "state" });
    cluster.ok(&["health", "--metrics", role, "--state", &state.to_string_lossy()])
}

#[test]
fn calls_and_under_stores_are_timed_and_a_stream_says_why() -> Result<()> {
    let cluster = Cluster::start(1)?;
    std::fs::write(cluster.under().join("file"), vec![7; 100_000])?;
    let streamed = "larder_open_total{path=\"stream\",reason=\"switched off\"}";
    ensure!(value(&metrics(&cluster, "worker")?, streamed) == Some(0.0));
    cluster.ok(&["-D", "user.short.circuit.enabled=false", "fs", "cat", "/file"])?;
    let master = metrics(&cluster, "master")?;
    has(&master, &["larder_rpc_seconds_count{rpc=\"FileSystem/Open\"}", "larder_files"])?;
    has(&master, &["larder_ufs_seconds_count{op=\"status\",mount=\"/\"}"])?;
    ensure!(master.contains("larder_rpc_seconds_bucket{rpc=\"FileSystem/Open\",le=\"0.1\"}"), "{master}");
    let worker = metrics(&cluster, "worker")?;
    has(&worker, &["larder_ufs_seconds_count{op=\"fetch\",mount=\"/\"}", streamed])?;
    Ok(())
}

#[test]
fn every_role_has_endpoints_for_health_and_metrics() -> Result<()> {
    let cluster = Cluster::start(1)?;
    for role in ["master", "worker"] {
        has(&metrics(&cluster, role)?, &[&info(role)])?;
    }
    if skip::needs_fuse("every_role_has_endpoints_for_health_and_metrics") {
        let mount = Mount::start(&cluster, &[])?;
        has(&metrics(&cluster, "fuse")?, &[&info("fuse"), "larder_mounted"])?;
        drop(mount);
    }
    Ok(())
}

fn info(role: &str) -> String {
    format!("larder_info{{role=\"{role}\",version=\"{}\"}}", env!("CARGO_PKG_VERSION"))
}

#[test]
fn a_local_cluster_is_asked_how_it_is() -> Result<()> {
    let cluster = Cluster::new()?.with("LARDER_MASTER_WEB_PORT", "0");
    let under = cluster.under();
    let under = under.to_string_lossy();
    std::fs::write(cluster.under().join("file"), "content")?;
    let start = ["local", "--ufs", &under, "--mem", "64MB", "--background", "--json"];
    let shown: serde_json::Value = serde_json::from_str(&cluster.ok(&start)?)?;
    let asked = asked(&cluster, shown["master"].as_str().context("where it is")?);
    cluster.ok(&["local", "--stop", "--ufs", &under])?;
    asked?;
    ensure!(cluster.run(&["health"])?.status.code() == Some(4), "what has stopped is announced no more");
    Ok(())
}

fn asked(cluster: &Cluster, master: &str) -> Result<()> {
    ensure!(cluster.ok(&["health", "--ready", "local"])? == "local: well\n");
    ensure!(cluster.ok(&["health"])? == "local: well\n");
    let text = cluster.ok(&["health", "--metrics", "local"])?;
    has(&text, &[&info("local"), "larder_workers{state=\"live\"}", "larder_registrations_total"])?;
    // The worker calls the master without a network between them, and that is timed too.
    has(&text, &["larder_rpc_seconds_count{rpc=\"Workers/Link\"}"])?;
    ensure!(master.starts_with("127.0.0.1:"), "{master}");
    Ok(())
}
