//! The report for `larder fsadmin report`: first what is not as fast or as safe as it could be, then the numbers.

use std::{os::unix::fs::MetadataExt, path::Path, time::Instant};

use larder_proto::{greeting, v1};

use crate::{cluster::WorkerRecord, config::Authentication, journal::Health, master::Master};

/// The whole report.
#[must_use]
pub fn report(master: &Master) -> v1::Report {
    let (safe_mode, checkpoint) = (master.in_safe_mode(), master.checkpoint.lock().0);
    let journal = master.core.journal();
    let state = master.core.read();
    let (mut pending_files, mut pending_bytes) = (0, 0);
    for pending in state.pending() {
        pending_files += 1;
        pending_bytes += state.status(pending.file).map_or(0, |status| status.length);
    }
    let directories = state.directories() as u64;
    let mut report = v1::Report {
        cluster: master.cluster.to_bytes().into(),
        version: greeting::VERSION.to_owned(),
        started: u64::try_from(master.started.0).unwrap_or(0),
        safe_mode,
        safe_mode_reason: if safe_mode { "waiting for workers to report".into() } else { String::new() },
        files: (state.inodes() as u64).saturating_sub(directories),
        directories,
        journal_bytes: bytes_in(&master.config.journal),
        namespace_bytes: state.bytes() as u64,
        position: journal.last().0,
        durable: journal.durable().borrow().0,
        checkpoint,
        journal_trouble: trouble(&journal.health()),
        sessions: master.sessions.count() as u64,
        persist_pending_files: pending_files,
        persist_pending_bytes: pending_bytes,
        authentication: master.config.authentication.as_str().to_owned(),
        ..v1::Report::default()
    };
    drop(state);
    report.workers = workers(master);
    report.mounts = mounts(master);
    report.findings = findings(master, &report);
    report
}

/// Pending files that are told one by one.
const PENDING_MAX: usize = 100;

/// What waits to be persisted, and what keeps it.
#[must_use]
pub fn persistence(master: &Master) -> v1::PersistenceReport {
    let (state, attempts, now) = (master.core.read(), master.attempts.lock(), Instant::now());
    let mut report = v1::PersistenceReport { running: attempts.running() as u64, ..v1::PersistenceReport::default() };
    let mut pending: Vec<v1::PendingFile> = Vec::new();
    for waiting in state.pending() {
        let bytes = state.status(waiting.file).map_or(0, |status| status.length);
        let path = state.path(waiting.file).map(|path| path.as_bytes().to_vec()).unwrap_or_default();
        let (tries, reason, again) = attempts.failed(waiting.file, now).unwrap_or_default();
        let again_ms = u64::try_from(again.as_millis()).unwrap_or(u64::MAX);
        let running = attempts.is_running(waiting.file);
        let reason = reason.as_ref().map(Into::into);
        let since = waiting.since.0;
        report.files += 1;
        report.bytes += bytes;
        report.oldest = if report.oldest == 0 { since } else { report.oldest.min(since) };
        pending.push(v1::PendingFile { path: path.into(), bytes, since, running, tries, reason, again_ms });
    }
    pending.sort_by_key(|file| (std::cmp::Reverse(file.tries), file.since));
    pending.truncate(PENDING_MAX);
    report.pending = pending;
    report
}

/// What the files of a directory take on the disk.
fn bytes_in(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}

fn trouble(health: &Health) -> String {
    match health {
        Health::Writable | Health::Closed => String::new(),
        Health::ReadOnly(error) | Health::Failed(error) => error.to_string(),
    }
}

fn workers(master: &Master) -> Vec<v1::WorkerReport> {
    let now = master.core.clock().monotonic();
    let registry = master.registry.lock();
    let mut reports: Vec<v1::WorkerReport> = registry.iter().map(|(_, record)| worker(record, now)).collect();
    for (slot, _) in registry.iter() {
        let mut blocks = 0;
        master.locations.versions(slot, |_, holding| blocks += u64::from(holding.blocks.len()));
        reports[usize::from(slot.0)].blocks = blocks;
    }
    reports
}

fn worker(record: &WorkerRecord, now: std::time::Duration) -> v1::WorkerReport {
    v1::WorkerReport {
        address: Some((&record.address).into()),
        live: record.live,
        last_contact_ms: u64::try_from(now.saturating_sub(record.heard).as_millis()).unwrap_or(u64::MAX),
        started: u64::try_from(record.started.0).unwrap_or(0),
        tiers: record.tiers.clone(),
        blocks: 0,
        unknown_files: record.unknown.len() as u64,
        unknown_bytes: record.unknown.values().map(|content| content.held).sum(),
        version: record.version.clone(),
        counters: record.counters.clone().into_iter().collect(),
    }
}

/// The mounts, with the workers that see something else there.
#[must_use]
pub fn mounts(master: &Master) -> Vec<v1::MountInfo> {
    let mut mounts = master.stores.mounts().info();
    let registry = master.registry.lock();
    for mount in &mut mounts {
        let refuted = registry.live().filter(|(_, r)| r.refuted.contains_key(&larder_common::MountId(mount.id)));
        mount.unproven_workers = refuted.map(|(_, r)| r.address.id.to_bytes().into()).collect();
    }
    mounts
}

fn finding(what: String, cause: impl Into<String>, mend: impl Into<String>) -> v1::Finding {
    v1::Finding { what, cause: cause.into(), mend: mend.into() }
}

fn findings(master: &Master, report: &v1::Report) -> Vec<v1::Finding> {
    let mut found = Vec::new();
    if !report.journal_trouble.is_empty() {
        found.push(finding(
            "the namespace takes no changes".into(),
            &report.journal_trouble,
            "make room on the journal's disk",
        ));
    }
    if master.config.authentication == Authentication::Simple {
        let cause = "callers are believed to be who they say they are";
        found.push(finding(
            "anybody who reaches the ports has all rights".into(),
            cause,
            "set security.token on all parts",
        ));
    }
    for mount in report.mounts.iter().filter(|mount| !mount.trouble.is_empty()) {
        let path = String::from_utf8_lossy(&mount.path);
        found.push(finding(format!("the mount {path} does not work"), &mount.trouble, format!("check {}", mount.uri)));
    }
    let registry = master.registry.lock();
    if registry.live().count() == 0 {
        found.push(finding("nothing can be cached".into(), "no worker is live", "start one: larder worker"));
    }
    for (_, record) in registry.iter() {
        of_worker(record, &mut found);
    }
    found
}

fn of_worker(record: &WorkerRecord, found: &mut Vec<v1::Finding>) {
    let host = &record.address.host;
    if !record.live {
        let cause = "it has been silent for longer than the time-out";
        found.push(finding(format!("the worker on {host} is lost"), cause, "start it again, or look at its log"));
    }
    for (mount, difference) in &record.refuted {
        let what = format!("the worker on {host} is not used for mount {mount}");
        found.push(finding(what, difference, "give its container the same volume under the same path"));
    }
    if !record.unknown.is_empty() {
        let what =
            format!("the worker on {host} keeps {} files that the namespace does not know", record.unknown.len());
        found.push(finding(what, "they are not in any under store", "larder fsadmin unknown ls"));
    }
    for tier in record.tiers.iter().filter(|tier| !tier.note.is_empty()) {
        let what = format!("the {} tier of the worker on {host}", tier.medium().as_str_name());
        found.push(finding(what, &tier.note, ""));
    }
    for left in record.tiers.iter().flat_map(|tier| &tier.left) {
        let what = format!("the worker on {host} found what is not its own");
        found.push(finding(what, left, "start a worker of that cluster there, or look at what it is and remove it"));
    }
}
