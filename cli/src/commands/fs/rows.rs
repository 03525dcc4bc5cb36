//! A status as commands show it: one object for programs, Alluxio's columns for people, and how a name is printed.
//!
//! On a terminal a name is escaped so that what is seen names one path; elsewhere its bytes are written as they are.

use std::io::IsTerminal;

use larder_client::{ByteSize, FileKind, FileStatus, FsPath, Timestamp, TtlAction};
use serde::Serialize;

use super::{
    mode,
    owners::Owners,
    times::{Zone, listed, rfc3339},
};

/// The bytes of a path for standard output.
pub(crate) fn printed(path: &FsPath) -> Vec<u8> {
    match std::io::stdout().is_terminal() {
        true => path.to_string().into_bytes(),
        false => path.as_bytes().to_vec(),
    }
}

/// A size as it is, or for people.
pub(crate) fn size(bytes: u64, human: bool) -> String {
    if human { ByteSize(bytes).to_string() } else { bytes.to_string() }
}

/// The kind in one word.
pub(crate) fn kind(kind: &FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink(_) => "symlink",
        FileKind::Special(..) => "special",
    }
}

/// The bytes of a file that are in the cache, as far as workers have told.
pub(crate) fn cached_bytes(status: &FileStatus) -> u64 {
    match status.kind {
        FileKind::File => {
            let bytes = u128::from(status.length) * u128::from(status.in_cache_percent.min(100)) / 100;
            u64::try_from(bytes).unwrap_or(status.length)
        }
        _ => 0,
    }
}

/// A status for programs. Names are stable.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    path: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    length: u64,
    mode: String,
    uid: u32,
    gid: u32,
    user: String,
    group: String,
    links: u32,
    accessed: String,
    modified: String,
    changed: String,
    created: String,
    file_id: u64,
    generation: u64,
    block_size: u64,
    complete: bool,
    persistence: &'static str,
    mount_id: u32,
    mount_point: bool,
    pinned: bool,
    replication_min: u32,
    ttl_ms: Option<u64>,
    ttl_action: Option<&'static str>,
    in_cache_percent: u8,
}

impl Row {
    pub(crate) fn new(path: &FsPath, status: &FileStatus, owners: &Owners) -> Self {
        let target = match &status.kind {
            FileKind::Symlink(target) => Some(escaped(target)),
            _ => None,
        };
        Self {
            path: path.to_string(),
            kind: kind(&status.kind),
            target,
            length: status.length,
            mode: format!("{:04o}", status.mode),
            uid: status.uid,
            gid: status.gid,
            user: owners.user(status.uid),
            group: owners.group(status.gid),
            links: status.links,
            accessed: rfc3339(status.times.accessed),
            modified: rfc3339(status.times.modified),
            changed: rfc3339(status.times.changed),
            created: rfc3339(status.created),
            file_id: status.id.0,
            generation: status.generation.0,
            block_size: status.block_size.bytes(),
            complete: status.complete,
            persistence: status.persistence.as_str(),
            mount_id: status.mount.0,
            mount_point: status.mount_point,
            pinned: status.pinned,
            replication_min: status.replication_min,
            ttl_ms: status.ttl.map(|ttl| u64::try_from(ttl.after.as_millis()).unwrap_or(u64::MAX)),
            ttl_action: status.ttl.map(|ttl| TtlAction::as_str(ttl.action)),
            in_cache_percent: status.in_cache_percent,
        }
    }
}

/// Bytes as text: UTF-8 as it is, the rest escaped.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

/// One line of `ls` in Alluxio's columns, without the path at its end.
pub(crate) fn line(status: &FileStatus, time: Timestamp, human: bool, owners: &Owners, zone: Zone) -> String {
    let state = match &status.kind {
        FileKind::File => format!("{}%", status.in_cache_percent),
        FileKind::Directory => "DIR".into(),
        FileKind::Symlink(_) => "LINK".into(),
        FileKind::Special(..) => "-".into(),
    };
    let length = match status.kind {
        FileKind::Directory => status.length.to_string(),
        _ => size(status.length, human),
    };
    format!(
        "{:<12}{:<15}{:<15}{length:>15}{:>16}{:>24}{state:>5} ",
        mode::letters(&status.kind, status.mode),
        padded(owners.user(status.uid)),
        padded(owners.group(status.gid)),
        status.persistence.as_str(),
        listed(time, zone),
    )
}

/// A name that fills its column still ends with a space, so that columns can be told apart.
fn padded(mut name: String) -> String {
    if name.chars().count() >= 15 {
        name.push(' ');
    }
    name
}

#[cfg(test)]
pub(crate) mod tests {
    use larder_client::{BlockSize, FileId, Generation, MountId, Name, Persistence};

    use super::*;

    /// A file of this name and length.
    pub(crate) fn status(name: &str, length: u64) -> FileStatus {
        FileStatus {
            id: FileId(7),
            name: Name::new(name).ok(),
            kind: FileKind::File,
            length,
            mode: 0o644,
            uid: 0,
            gid: 0,
            links: 1,
            times: larder_common::Times { modified: Timestamp::new(1_732_185_304, 123_000_000), ..Default::default() },
            created: Timestamp(0),
            generation: Generation(9),
            block_size: BlockSize::DEFAULT,
            complete: true,
            persistence: Persistence::Persisted,
            mount: MountId::ROOT,
            mount_point: false,
            pinned: false,
            replication_min: 0,
            ttl: None,
            in_cache_percent: 50,
        }
    }

    #[test]
    fn people_get_alluxio_s_columns() {
        let owners = Owners::default();
        let mut status = status("f", 4096);
        let shown = |status: &FileStatus, human| line(status, status.times.modified, human, &owners, Zone::Utc);
        assert_eq!(
            shown(&status, false),
            "-rw-r--r--  root           root                      4096       PERSISTED 11-21-2024 10:35:04:123  50% "
        );
        assert!(shown(&status, true).contains(" 4.00KB "));
        status.kind = FileKind::Directory;
        status.length = 3;
        let columns: Vec<_> = shown(&status, true).split_whitespace().map(str::to_owned).collect();
        assert_eq!(columns[3], "3", "a directory's size is the number of its entries");
        assert_eq!(columns.last().unwrap(), "DIR");
    }

    #[test]
    fn programs_get_stable_names() {
        let row =
            serde_json::to_value(Row::new(&FsPath::parse(b"/a\xff").unwrap(), &status("x", 10), &Owners::default()));
        let row = row.unwrap();
        assert_eq!(row["path"], "/a\\xff");
        assert_eq!(row["length"], 10);
        assert_eq!(row["modified"], "2024-11-21T10:35:04.123000000Z");
        assert_eq!((&row["mode"], &row["ttl_ms"]), (&"0644".into(), &serde_json::Value::Null));
    }

    #[test]
    fn what_is_cached_of_a_file() {
        assert_eq!(cached_bytes(&status("f", 1001)), 500);
        assert_eq!(cached_bytes(&status("f", u64::MAX)), u64::MAX / 2);
        assert_eq!(size(1 << 20, true), "1.00MB");
        assert_eq!(escaped(b"a\n\xffb"), "a\\n\\xffb");
    }
}
