//! What the demonstration found, for people and for programs. Pure.

use std::{fmt::Write, path::PathBuf};

use larder_common::ByteSize;
use serde::Serialize;

use super::Inventory;
use crate::outcome::{plain_table, thousands};

/// Which path served how many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Paths {
    /// By short circuit: from the worker's memory, without a socket.
    pub local: u64,
    /// As a stream from a worker's cache.
    pub stream: u64,
    /// From the under store, through a worker.
    pub ufs: u64,
}

/// One line of the table; rates are bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Through the client.
    pub larder: f64,
    /// By a plain read of the same files.
    pub plain: f64,
    /// Which path served the client.
    pub paths: Paths,
}

impl Speed {
    fn ratio(&self) -> f64 {
        if self.plain > 0.0 { self.larder / self.plain } else { 0.0 }
    }
}

/// The same files through a mount, warm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mount {
    /// Bytes a second, the median of several passes.
    pub rate: f64,
    /// What passed through the mount's process in the last of them; the kernel read the rest itself.
    #[serde(serialize_with = "integer")]
    pub through_process: ByteSize,
}

fn integer<S: serde::Serializer>(size: &ByteSize, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(size.0)
}

/// What the demonstration found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The directory.
    pub directory: PathBuf,
    /// What is in it.
    pub inventory: Inventory,
    /// Threads that read, on both sides.
    pub threads: usize,
    /// Whether the page cache was dropped before the cold passes.
    pub page_cache_dropped: bool,
    /// The first pass.
    pub cold: Speed,
    /// The median of later passes; paths are those of the last.
    pub warm: Speed,
    /// Through a mount, or why nothing was mounted.
    pub mounted: Result<Mount, String>,
    /// Why not all bytes came by short circuit when warm.
    pub why_not_short: Option<String>,
    /// How many bytes were compared with the files; all were the same.
    pub compared: ByteSize,
}

/// The report for programs. The names are a contract.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    directory: String,
    files: usize,
    bytes: u64,
    links: u64,
    leaving: u64,
    special: u64,
    unreadable: u64,
    threads: usize,
    page_cache_dropped: bool,
    cold: Speed,
    warm: Speed,
    mounted: Option<Mount>,
    why_not_mounted: Option<&'a str>,
    why_not_short: Option<&'a str>,
    compared: u64,
}

impl Report {
    /// The object that programs read.
    #[must_use]
    pub fn line(&self) -> Line<'_> {
        let inventory = &self.inventory;
        Line {
            directory: self.directory.to_string_lossy().into_owned(),
            files: inventory.files.len(),
            bytes: inventory.bytes.0,
            links: inventory.links,
            leaving: inventory.leaving,
            special: inventory.special,
            unreadable: inventory.unreadable,
            threads: self.threads,
            page_cache_dropped: self.page_cache_dropped,
            cold: self.cold,
            warm: self.warm,
            mounted: self.mounted.as_ref().ok().copied(),
            why_not_mounted: self.mounted.as_ref().err().map(String::as_str),
            why_not_short: self.why_not_short.as_deref(),
            compared: self.compared.0,
        }
    }

    /// The table that people read.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.head();
        let names = ["", "Larder", "plain read", "Larder ÷ plain", "short circuit", "remote", "under store"];
        let mut table = plain_table(&names);
        for (name, speed) in [("cold", &self.cold), ("warm", &self.warm)] {
            table.add_row(row(name, speed));
        }
        if let Ok(mount) = &self.mounted {
            let speed = Speed { larder: mount.rate, ..self.warm };
            let [_, rate, plain, ratio, ..] = row("", &speed);
            let none = String::new();
            table.add_row(["mounted".to_owned(), rate, plain, ratio, none.clone(), none.clone(), none]);
        }
        let _ = writeln!(text, "\n{}\n", table.trim_fmt());
        match &self.mounted {
            Ok(mount) => {
                let what = "mounted: warm, by plain reads of a mount point, as any program does";
                let _ = writeln!(text, "{what}; {} came through the mount's process", mount.through_process);
            }
            Err(why) => drop(writeln!(text, "not mounted: {why}")),
        }
        if let Some(why) = &self.why_not_short {
            let _ = writeln!(text, "not all of it was read by short circuit: {why}");
        }
        let all = if self.compared == self.inventory.bytes { "all " } else { "" };
        let _ = writeln!(text, "{all}{} compared with the files: the same", self.compared);
        text
    }

    fn head(&self) -> String {
        let (inventory, mut text) = (&self.inventory, String::new());
        let files = thousands(inventory.files.len() as u64);
        let _ = writeln!(text, "{}: {files} files, {}", self.directory.display(), inventory.bytes);
        let _ = writeln!(text, "read by {} threads on both sides, each file from one end to the other", self.threads);
        let cold = match self.page_cache_dropped {
            true => "page cache dropped before both cold passes",
            false => "the page cache could not be dropped (only root may): the plain read was perhaps not cold",
        };
        let _ = writeln!(text, "{cold}");
        if inventory.links > 0 {
            let (links, leaving) = (thousands(inventory.links), thousands(inventory.leaving));
            let _ = writeln!(text, "passed over: {links} symbolic links, {leaving} of which lead out of it or nowhere");
        }
        if inventory.special > 0 {
            let _ = writeln!(text, "passed over: {} pipes, sockets or devices", thousands(inventory.special));
        }
        if inventory.unreadable > 0 {
            let _ = writeln!(text, "passed over, for this user may not read them: {}", thousands(inventory.unreadable));
            inventory.unreadable_names.iter().for_each(|name| text.push_str(&format!("  {name}\n")));
        }
        text
    }
}

fn row(name: &str, speed: &Speed) -> [String; 7] {
    let Paths { local, stream, ufs } = speed.paths;
    [
        name.to_owned(),
        rate(speed.larder),
        rate(speed.plain),
        format!("{:.2}", speed.ratio()),
        ByteSize(local).to_string(),
        ByteSize(stream).to_string(),
        ByteSize(ufs).to_string(),
    ]
}

/// A rate as people read it.
fn rate(bytes: f64) -> String {
    format!("{}/s", ByteSize(bytes as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let inventory = Inventory {
            files: vec!["a".into(); 4060],
            bytes: ByteSize::mib(68),
            links: 77,
            leaving: 12,
            unreadable: 1,
            unreadable_names: vec!["/x/secret: permission denied".into()],
            ..Inventory::default()
        };
        let paths = Paths { local: 68 << 20, stream: 0, ufs: 0 };
        Report {
            directory: "/x".into(),
            inventory,
            threads: 4,
            page_cache_dropped: true,
            cold: Speed { larder: 1e8, plain: 2e8, paths: Paths { local: 0, stream: 0, ufs: 68 << 20 } },
            warm: Speed { larder: 3e9, plain: 2e9, paths },
            mounted: Ok(Mount { rate: 1e9, through_process: ByteSize::mib(3) }),
            why_not_short: None,
            compared: ByteSize::mib(68),
        }
    }

    #[test]
    fn people_see_both_sides_and_which_path_served() {
        let text = report().text();
        for part in ["4,060 files, 68.0MB", "4 threads", "77 symbolic links, 12 of which", "secret", "all 68.0MB"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let cold = text.lines().find(|line| line.trim_start().starts_with("cold")).unwrap();
        assert!(cold.contains("0.50") && cold.contains("95.4MB/s") && cold.contains("68.0MB"), "{cold}");
        let warm = text.lines().find(|line| line.trim_start().starts_with("warm")).unwrap();
        assert!(warm.contains("1.50"), "{warm}");
        let mounted = text.lines().find(|line| line.trim_start().starts_with("mounted")).unwrap();
        assert!(mounted.contains("0.50") && text.contains("3.00MB came through"), "{text}");
    }

    #[test]
    fn what_was_not_ideal_is_said() {
        let report = Report { page_cache_dropped: false, why_not_short: Some("no socket".into()), ..report() };
        assert!(report.text().contains("only root may") && report.text().contains("no socket"));
        let report = Report { mounted: Err("no /dev/fuse".into()), ..report };
        assert!(report.text().contains("not mounted: no /dev/fuse"));
        assert_eq!(serde_json::to_value(report.line()).unwrap()["why_not_mounted"], "no /dev/fuse");
    }

    #[test]
    fn programs_get_integers() {
        let json = serde_json::to_value(report().line()).unwrap();
        assert_eq!(json["bytes"], 68 << 20);
        assert_eq!(json["warm"]["paths"]["local"], 68 << 20);
        assert_eq!(json["mounted"]["through_process"], 3 << 20);
        assert!(json["why_not_short"].is_null());
    }
}
