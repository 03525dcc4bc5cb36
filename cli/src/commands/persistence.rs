//! `larder fsadmin report persistence`: what waits to be persisted, since when, and what keeps it.

use comfy_table::{CellAlignment, Table, presets};
use larder_client::{ByteSize, PendingFile, PersistenceReport, Timestamp};
use serde_json::{Value, json};

use super::fs::{rfc3339, span};

/// For people.
pub(crate) fn text(report: &PersistenceReport, now: Timestamp) -> String {
    let Some(oldest) = report.oldest else { return "Nothing waits to be persisted".to_owned() };
    let failing = report.pending.iter().filter(|file| file.tries > 0).count();
    let mut text = format!(
        "Waiting to be persisted  {} files, {}\nBeing persisted          {}\nOldest                   {} ago\nFailing                  {failing}\n",
        report.files,
        ByteSize(report.bytes),
        report.running,
        span(now.since(oldest)),
    );
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["Since", "Bytes", "Tries", "State", "Path"]);
    for column in [0, 1, 2] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for file in &report.pending {
        let path = file.path.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        let (since, bytes) = (span(now.since(file.since)), ByteSize(file.bytes).to_string());
        table.add_row([since, bytes, file.tries.to_string(), state(file), path]);
    }
    text.push_str(&format!("\n{}", table.trim_fmt()));
    if report.files > report.pending.len() as u64 {
        text.push_str(&format!("\nand {} more", report.files - report.pending.len() as u64));
    }
    text
}

fn state(file: &PendingFile) -> String {
    match (&file.reason, file.running) {
        (Some(reason), true) => format!("tried again after: {}", reason.message()),
        (Some(reason), false) => format!("again in {}: {}", span(file.again), reason.message()),
        (None, true) => "being persisted".to_owned(),
        (None, false) => "waits".to_owned(),
    }
}

/// For programs.
pub(crate) fn object(report: &PersistenceReport) -> Value {
    let pending = |file: &PendingFile| {
        json!({
            "path": file.path.as_ref().map(ToString::to_string),
            "bytes": file.bytes,
            "since": rfc3339(file.since),
            "running": file.running,
            "tries": file.tries,
            "reason": file.reason.as_ref().map(|reason| reason.message()),
            "again_seconds": file.again.as_secs_f64(),
        })
    };
    json!({
        "files": report.files,
        "bytes": report.bytes,
        "running": report.running,
        "oldest": report.oldest.map(rfc3339),
        "pending": report.pending.iter().map(pending).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use larder_client::{Error, ErrorKind};

    use super::*;

    #[test]
    fn what_keeps_a_file_is_told() {
        let second = 1_000_000_000;
        let mut report = PersistenceReport {
            files: 2,
            bytes: 3 << 20,
            running: 1,
            oldest: Some(Timestamp(10 * second)),
            pending: vec![PendingFile {
                path: Some("/a".parse().unwrap()),
                bytes: 1 << 20,
                since: Timestamp(10 * second),
                running: false,
                tries: 3,
                reason: Some(Error::new(ErrorKind::NoSpace, "no space left")),
                again: Duration::from_secs(4),
            }],
        };
        let said = text(&report, Timestamp(70 * second));
        for part in ["2 files, 3.00MB", "again in 4s: no space left", "and 1 more", "/a"] {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(object(&report)["pending"][0]["tries"], json!(3));
        report.oldest = None;
        assert_eq!(text(&report, Timestamp(0)), "Nothing waits to be persisted");
    }
}
