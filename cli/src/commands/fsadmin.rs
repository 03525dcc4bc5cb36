//! `larder fsadmin report`: what is not as fast or as safe as it could be, then the numbers.

use clap::{ArgAction, Args, Subcommand, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use larder_client::{ByteSize, ClusterReport, Finding, Medium, TierReport, Timestamp, WorkerReport};
use larder_common::clock::SystemClock;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    fs::{rfc3339, span},
    persistence, unknown,
};
use crate::{cluster, command::Run, context::Context, exit::Exit};

/// Look at the cluster
#[derive(Args, Debug)]
pub(crate) struct Fsadmin {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Report(Report),
    Unknown(unknown::Unknown),
}

/// Report what could be better, and the cluster's numbers
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
struct Report {
    /// Which numbers
    #[arg(value_enum, default_value = "summary")]
    part: Part,
    /// Sizes for people, as 1.50GB; without it too, except where programs read
    #[arg(short = 'h', long)]
    human: bool,
    /// Sizes in bytes
    #[arg(long, conflicts_with = "human")]
    bytes: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Summary,
    Capacity,
    Workers,
    Persistence,
}

impl Run for Fsadmin {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let asked = match self.what {
            What::Report(asked) => asked,
            What::Unknown(unknown) => return unknown.run(context),
        };
        cluster::run(context, Vec::new(), async |fs| {
            let now = SystemClock::shared().now();
            if asked.part == Part::Persistence {
                let pending = fs.persistence().await?;
                match context.output.json {
                    true => context.output.object(&persistence::object(&pending))?,
                    false => context.output.line(persistence::text(&pending, now))?,
                }
                return Ok(Exit::Done);
            }
            let report = fs.report().await?;
            match context.output.json {
                true => context.output.object(&asked.object(&report))?,
                false => context.output.line(asked.text(&report, now))?,
            }
            Ok(Exit::Done)
        })
    }
}

impl Report {
    fn size(&self, bytes: u64) -> String {
        if self.bytes { bytes.to_string() } else { ByteSize(bytes).to_string() }
    }

    fn text(&self, report: &ClusterReport, now: Timestamp) -> String {
        let numbers = match self.part {
            Part::Summary => self.summary(report, now),
            Part::Capacity => self.capacity(report),
            Part::Workers | Part::Persistence => self.workers(report, now),
        };
        format!("{}\n{numbers}", findings(&all_findings(report)))
    }

    fn summary(&self, report: &ClusterReport, now: Timestamp) -> String {
        let total = Usage::of(report.workers.iter().filter(|worker| worker.live).flat_map(|worker| &worker.tiers));
        let live = report.workers.iter().filter(|worker| worker.live).count();
        let per_file = report.namespace_bytes / (report.files + report.directories).max(1);
        let pending = match report.persist_pending_files {
            0 => "nothing".to_owned(),
            files => format!("{files} files, {}", self.size(report.persist_pending_bytes)),
        };
        let state = match &report.safe_mode {
            Some(reason) => format!("safe mode: {reason}"),
            None => "ready".to_owned(),
        };
        let rows = [
            ("Cluster", report.cluster.clone()),
            ("Version", report.version.clone()),
            ("State", state),
            ("Up for", span(now.since(report.started))),
            ("Workers", format!("{live} live, {} lost", report.workers.len() - live)),
            (
                "Capacity",
                format!("{} used of {} ({}%)", self.size(total.used), self.size(total.capacity), total.percent()),
            ),
            ("Only in the cache", self.size(total.unpersisted)),
            ("Waiting to be persisted", pending),
            ("Files", format!("{} in {} directories", report.files, report.directories)),
            ("Memory of the namespace", format!("{} ({per_file} bytes an inode)", self.size(report.namespace_bytes))),
            (
                "Journal",
                format!("{}, entry {} ({} on disk)", self.size(report.journal_bytes), report.position, report.durable),
            ),
            ("Last checkpoint", format!("entry {}", report.checkpoint)),
            ("Clients", report.sessions.to_string()),
            ("Believed", report.authentication.clone()),
        ];
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text: String = rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect();
        text.push_str(&format!("\n{}", self.mounts(report)));
        text
    }

    fn mounts(&self, report: &ClusterReport) -> String {
        let mut table = table(&["Mount", "Under store", "Access", "Used", "Capacity", "Freshness", "State"], &[3, 4]);
        for mount in &report.mounts {
            table.add_row([
                mount.path.to_string(),
                mount.uri.clone(),
                if mount.read_only { "read-only" } else { "read, write" }.to_owned(),
                self.size(mount.used),
                mount.capacity.map_or_else(|| "-".to_owned(), |capacity| self.size(capacity)),
                mount.freshness.clone(),
                mount.trouble.clone().unwrap_or_else(|| "works".to_owned()),
            ]);
        }
        table.trim_fmt()
    }

    fn capacity(&self, report: &ClusterReport) -> String {
        let mut sums =
            table(&["Tier", "Capacity", "Used", "Free", "Used %", "Pinned", "Only here"], &[1, 2, 3, 4, 5, 6]);
        let live = || report.workers.iter().filter(|worker| worker.live).flat_map(|worker| &worker.tiers);
        let media = Medium::ALL.into_iter().filter(|medium| live().any(|tier| tier.medium == Some(*medium)));
        let by_medium =
            media.map(|medium| (medium.as_str(), Usage::of(live().filter(|tier| tier.medium == Some(medium)))));
        for (name, usage) in by_medium.chain([("all", Usage::of(live()))]) {
            sums.add_row([
                name.to_owned(),
                self.size(usage.capacity),
                self.size(usage.used),
                self.size(usage.capacity.saturating_sub(usage.used)),
                format!("{}%", usage.percent()),
                self.size(usage.pinned),
                self.size(usage.unpersisted),
            ]);
        }
        format!("{}\n\n{}", sums.trim_fmt(), self.directories(report))
    }

    /// One line for each directory of each worker.
    fn directories(&self, report: &ClusterReport) -> String {
        let columns = ["Worker", "Tier", "Directory", "Capacity", "Used", "Used %", "Lasting", "Huge pages"];
        let mut table = table(&columns, &[3, 4, 5]);
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        for worker in &report.workers {
            for tier in &worker.tiers {
                table.add_row([
                    address(worker),
                    tier.medium.map_or("-", Medium::as_str).to_owned(),
                    tier.directory.clone(),
                    self.size(tier.capacity),
                    self.size(tier.used),
                    format!("{}%", Usage::of([tier]).percent()),
                    yes(tier.lasting),
                    yes(tier.huge_pages),
                ]);
            }
        }
        table.trim_fmt()
    }

    fn workers(&self, report: &ClusterReport, now: Timestamp) -> String {
        if report.workers.is_empty() {
            return "No worker has registered.".into();
        }
        let columns = ["Worker", "State", "Last contact", "Up for", "Used", "Capacity", "Blocks", "Where", "Version"];
        let mut table = table(&columns, &[4, 5, 6]);
        for worker in &report.workers {
            let usage = Usage::of(&worker.tiers);
            table.add_row([
                address(worker),
                if worker.live { "live" } else { "lost" }.to_owned(),
                format!("{} ago", span(worker.last_contact)),
                span(now.since(worker.started)),
                self.size(usage.used),
                self.size(usage.capacity),
                worker.blocks.to_string(),
                worker.locality.clone(),
                worker.version.clone(),
            ]);
        }
        table.trim_fmt()
    }

    fn object(&self, report: &ClusterReport) -> Value {
        let findings: Vec<_> = all_findings(report)
            .into_iter()
            .map(|finding| json!({ "what": finding.what, "cause": finding.cause, "mend": finding.mend }))
            .collect();
        let workers: Vec<_> = report.workers.iter().map(worker_object).collect();
        let mut object = json!({ "findings": findings, "cluster": report.cluster });
        let fields = object.as_object_mut().expect("it was written as an object");
        if self.part != Part::Summary {
            fields.insert("workers".into(), workers.into());
            return object;
        }
        let total = Usage::of(report.workers.iter().filter(|worker| worker.live).flat_map(|worker| &worker.tiers));
        let numbers = json!({
            "version": report.version,
            "started": rfc3339(report.started),
            "safe_mode": report.safe_mode,
            "capacity": total.capacity,
            "used": total.used,
            "unpersisted": total.unpersisted,
            "files": report.files,
            "directories": report.directories,
            "namespace_bytes": report.namespace_bytes,
            "journal_position": report.position,
            "journal_durable": report.durable,
            "journal_checkpoint": report.checkpoint,
            "journal_bytes": report.journal_bytes,
            "sessions": report.sessions,
            "persist_pending_files": report.persist_pending_files,
            "persist_pending_bytes": report.persist_pending_bytes,
            "authentication": report.authentication,
            "workers": workers,
            "mounts": report.mounts.iter().map(mount_object).collect::<Vec<_>>(),
        });
        fields.extend(numbers.as_object().cloned().unwrap_or_default());
        object
    }
}

fn mount_object(mount: &larder_client::Mount) -> Value {
    json!({
        "path": mount.path.to_string(),
        "uri": mount.uri,
        "read_only": mount.read_only,
        "capacity": mount.capacity,
        "used": mount.used,
        "freshness": mount.freshness,
        "trouble": mount.trouble,
    })
}

fn worker_object(worker: &WorkerReport) -> Value {
    let tiers: Vec<_> = worker.tiers.iter().map(TierRow::of).collect();
    json!({
        "id": worker.id.to_string(),
        "host": worker.host,
        "port": worker.port,
        "live": worker.live,
        "last_contact_ms": u64::try_from(worker.last_contact.as_millis()).unwrap_or(u64::MAX),
        "started": rfc3339(worker.started),
        "locality": worker.locality,
        "sockets": worker.sockets,
        "blocks": worker.blocks,
        "unknown_files": worker.unknown_files,
        "unknown_bytes": worker.unknown_bytes,
        "version": worker.version,
        "tiers": tiers,
        "counters": worker.counters,
    })
}

#[derive(Serialize)]
struct TierRow<'a> {
    medium: Option<&'static str>,
    directory: &'a str,
    capacity: u64,
    used: u64,
    pinned: u64,
    unpersisted: u64,
    lasting: bool,
    huge_pages: bool,
}

impl<'a> TierRow<'a> {
    fn of(tier: &'a TierReport) -> Self {
        let TierReport { capacity, used, pinned, unpersisted, lasting, huge_pages, .. } = *tier;
        let medium = tier.medium.map(Medium::as_str);
        Self { medium, directory: &tier.directory, capacity, used, pinned, unpersisted, lasting, huge_pages }
    }
}

fn address(worker: &WorkerReport) -> String {
    let is_v6 = worker.host.contains(':');
    if is_v6 { format!("[{}]:{}", worker.host, worker.port) } else { format!("{}:{}", worker.host, worker.port) }
}

/// How much there is, and how much of it is used, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    capacity: u64,
    used: u64,
    pinned: u64,
    unpersisted: u64,
}

impl Usage {
    fn of<'a>(tiers: impl IntoIterator<Item = &'a TierReport>) -> Self {
        tiers.into_iter().fold(Usage::default(), |sum, tier| Usage {
            capacity: sum.capacity.saturating_add(tier.capacity),
            used: sum.used.saturating_add(tier.used),
            pinned: sum.pinned.saturating_add(tier.pinned),
            unpersisted: sum.unpersisted.saturating_add(tier.unpersisted),
        })
    }

    fn percent(self) -> u128 {
        u128::from(self.used) * 100 / u128::from(self.capacity.max(1))
    }
}

/// What the master found, and what the numbers show beside that.
fn all_findings(report: &ClusterReport) -> Vec<Finding> {
    let mut all = report.findings.clone();
    let mut add = |what: String, cause: String, mend: &str| {
        let finding = Finding { what, cause, mend: mend.to_owned() };
        if all.iter().all(|known| known.what != finding.what && !known.cause.contains(&finding.cause)) {
            all.push(finding);
        }
    };
    if let Some(trouble) = &report.journal_trouble {
        add("nothing can be changed".into(), format!("the journal: {trouble}"), "make room on its disk");
    }
    for mount in &report.mounts {
        if let Some(trouble) = &mount.trouble {
            let mend = format!("larder fs mount {} again, when its under store is back", mount.path);
            add(format!("the mount {} does not work", mount.path), trouble.clone(), &mend);
        }
    }
    for worker in &report.workers {
        for (tier, note) in worker.tiers.iter().filter_map(|tier| Some((tier, tier.note.as_ref()?))) {
            let (cause, mend) = note.split_once("; ").unwrap_or((note, ""));
            add(format!("{} on {}", tier.directory, address(worker)), cause.to_owned(), mend);
        }
        if worker.unknown_files > 0 {
            let what = format!(
                "{} holds {} that the namespace does not know",
                address(worker),
                ByteSize(worker.unknown_bytes)
            );
            let cause = format!("{} files are nowhere else, and are kept until somebody decides", worker.unknown_files);
            add(what, cause, "larder fsadmin unknown ls");
        }
    }
    all
}

fn findings(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "Nothing is in the way of speed or safety.\n".into();
    }
    let mut text = match findings.len() {
        1 => "1 thing could be better:\n".to_owned(),
        several => format!("{several} things could be better:\n"),
    };
    for finding in findings {
        text.push_str(&format!("  * {}\n    because {}\n", finding.what, finding.cause));
        if !finding.mend.is_empty() {
            text.push_str(&format!("    mend it: {}\n", finding.mend));
        }
    }
    text
}

/// A table without lines, with numbers on the right.
fn table(columns: &[&str], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(columns.to_vec());
    for column in numbers.iter().filter_map(|at| table.column_mut(*at).map(|_| *at)).collect::<Vec<_>>() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use larder_client::{MountId, WorkerId};

    use super::*;

    fn report() -> ClusterReport {
        let tier = TierReport {
            medium: Some(Medium::Mem),
            directory: "/dev/shm".into(),
            capacity: 1 << 30,
            used: 1 << 29,
            pinned: 0,
            unpersisted: 4096,
            lasting: false,
            huge_pages: false,
            note: Some("pages are small; give CAP_SYS_ADMIN".into()),
        };
        let worker = WorkerReport {
            id: WorkerId::default(),
            host: "::1".into(),
            port: 29999,
            sockets: Vec::new(),
            locality: "node=a".into(),
            live: true,
            last_contact: Duration::from_millis(300),
            started: Timestamp::new(40, 0),
            tiers: vec![tier],
            blocks: 7,
            unknown_files: 0,
            unknown_bytes: 0,
            version: "0.1.0".into(),
            counters: BTreeMap::new(),
        };
        ClusterReport {
            cluster: "c".into(),
            version: "0.1.0".into(),
            started: Timestamp(0),
            safe_mode: None,
            files: 10,
            directories: 2,
            namespace_bytes: 1200,
            position: 5,
            durable: 5,
            checkpoint: 0,
            journal_bytes: 4096,
            journal_trouble: None,
            sessions: 1,
            persist_pending_files: 0,
            persist_pending_bytes: 0,
            workers: vec![worker],
            mounts: vec![larder_client::Mount {
                id: MountId::ROOT,
                path: "/".parse().unwrap(),
                uri: "/under".into(),
                read_only: false,
                options: BTreeMap::new(),
                capacity: None,
                used: 0,
                freshness: "watched".into(),
                unproven_workers: Vec::new(),
                trouble: None,
            }],
            findings: Vec::new(),
            authentication: "simple".into(),
        }
    }

    fn asked(part: Part) -> Report {
        Report { part, human: false, bytes: false, help: None }
    }

    #[test]
    fn it_begins_with_what_could_be_better() {
        let text = asked(Part::Summary).text(&report(), Timestamp::new(100, 0));
        let expected = "1 thing could be better:\n  * /dev/shm on [::1]:29999\n    because pages are small\n    \
                        mend it: give CAP_SYS_ADMIN\n\nCluster ";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("512MB used of 1.00GB (50%)") && text.contains("1m 40s"), "{text}");
        assert!(text.contains("10 in 2 directories") && text.contains("/under"), "{text}");
        let mut quiet = report();
        quiet.workers[0].tiers[0].note = None;
        assert!(asked(Part::Summary).text(&quiet, Timestamp(0)).starts_with("Nothing is in the way"));
    }

    #[test]
    fn capacity_and_workers_are_tables() {
        let text = asked(Part::Capacity).text(&report(), Timestamp(0));
        assert!(text.contains("MEM") && text.contains("50%") && text.contains("/dev/shm"), "{text}");
        let text = asked(Part::Workers).text(&report(), Timestamp::new(100, 0));
        assert!(text.contains("[::1]:29999") && text.contains("300ms ago") && text.contains("1m"), "{text}");
        let bytes = Report { bytes: true, ..asked(Part::Capacity) };
        assert!(bytes.text(&report(), Timestamp(0)).contains("1073741824"));
    }

    #[test]
    fn programs_get_numbers() {
        let object = asked(Part::Summary).object(&report());
        assert_eq!(object["used"], 1 << 29);
        assert_eq!(object["started"], "1970-01-01T00:00:00.000000000Z");
        assert_eq!(object["workers"][0]["tiers"][0]["capacity"], 1 << 30);
        assert_eq!(object["findings"][0]["mend"], "give CAP_SYS_ADMIN");
        assert_eq!(asked(Part::Workers).object(&report())["files"], Value::Null);
    }

    #[test]
    fn trouble_is_found_in_the_numbers() {
        let mut bad = report();
        bad.journal_trouble = Some("no space left".into());
        bad.mounts[0].trouble = Some("it is gone".into());
        bad.workers[0].unknown_files = 3;
        let found = all_findings(&bad);
        assert_eq!(found.len(), 4, "{found:#?}");
        bad.findings = found;
        assert_eq!(all_findings(&bad).len(), 4, "nothing is said twice");
    }
}
