//! `larder fs location`: which workers hold each block, in which tier, whether this host reads it by short circuit, and how the
//! mounts of this host serve it.

use std::time::Duration;

use clap::Args;
use comfy_table::{Table, presets};
use larder_client::{BlockLocation, FsPath, Medium};
use larder_fuse::Here;
use serde::Serialize;

use super::{
    Act, path,
    places::{Authority, Typed},
    rows::{printed, size},
    shell::{Shell, authorities},
};
use crate::exit::Exit;

/// Show where the blocks of files are
#[derive(Args, Debug)]
pub(crate) struct Location {
    /// The files
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
}

/// So long a mount of this host may take to say how it serves files.
const ANSWER: Duration = Duration::from_secs(2);

/// How a mount of this host serves a file, for programs.
#[derive(Serialize)]
struct Served {
    path: String,
    mount: String,
    served: String,
}

/// A copy of a block for programs.
#[derive(Serialize)]
struct Row<'a> {
    path: String,
    block: u32,
    offset: u64,
    length: u64,
    worker: Option<String>,
    host: Option<&'a str>,
    tier: Option<&'static str>,
    short_circuit: bool,
    reason: Option<&'a str>,
}

impl<'a> Row<'a> {
    fn of(path: &FsPath, block: &'a BlockLocation) -> Self {
        Self {
            path: path.to_string(),
            block: block.index,
            offset: block.offset,
            length: block.length,
            worker: block.worker.map(|worker| worker.to_string()),
            host: block.worker.map(|_| block.host.as_str()),
            tier: block.medium.map(Medium::as_str),
            short_circuit: block.short_circuit,
            reason: block.reason.as_deref(),
        }
    }
}

impl Act for Location {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let here = mounts(shell).await;
        shell
            .each(&self.paths, async |path| {
                let blocks = shell.fs.locations(path).await?;
                let served = served(&here, path).await;
                if shell.output.json {
                    blocks.iter().try_for_each(|block| shell.output.object(&Row::of(path, block)))?;
                    return served.iter().try_for_each(|one| shell.output.object(one));
                }
                let title = [&printed(path)[..], b": ", summary(&blocks).as_bytes(), b"\n"].concat();
                shell.output.bytes(&title)?;
                if !blocks.is_empty() {
                    shell.output.line(table(&blocks))?;
                }
                served.iter().try_for_each(|one| shell.output.line(one.text()))
            })
            .await
    }
}

impl Served {
    fn text(&self) -> String {
        let meaning = match self.served.as_str() {
            "passthrough" => "the kernel reads it itself (passthrough)",
            "page cache" => "what was read once is in the page cache",
            "not open" => "the kernel reads it itself if it is whole when it is opened",
            other => return format!("  mounted at {}: through the mount's process ({other})", self.mount),
        };
        format!("  mounted at {}: {meaning}", self.mount)
    }
}

/// The mounts of this cluster on this host that answer; one that hangs hides no other.
async fn mounts(shell: &Shell<'_>) -> Vec<Here> {
    let Some(cluster) = shell.fs.nodes().cluster() else { return Vec::new() };
    answers(Here::candidates().into_iter().map(|place| move || Here::at(place, cluster))).await
}

async fn served(here: &[Here], path: &FsPath) -> Vec<Served> {
    let ask = |mount: Here| {
        let path = path.clone();
        move || {
            let served = mount.served(&path)?;
            Some(Served { path: path.to_string(), mount: mount.mount_point.display().to_string(), served })
        }
    };
    answers(here.iter().cloned().map(ask)).await
}

/// What comes of these questions in time, each asked on a thread of its own.
async fn answers<T: Send + 'static>(
    questions: impl Iterator<Item = impl FnOnce() -> Option<T> + Send + 'static>,
) -> Vec<T> {
    let asked = questions.map(|question| tokio::time::timeout(ANSWER, tokio::task::spawn_blocking(question)));
    let answered = futures_util::future::join_all(asked.collect::<Vec<_>>()).await;
    answered.into_iter().filter_map(|answer| answer.ok()?.ok()?).collect()
}

/// How many blocks there are, are cached, and are read by short circuit from here.
fn summary(blocks: &[BlockLocation]) -> String {
    let distinct = |wanted: fn(&BlockLocation) -> bool| {
        let mut indices: Vec<u32> = blocks.iter().filter(|block| wanted(block)).map(|block| block.index).collect();
        indices.dedup();
        indices.len()
    };
    let (all, cached, short) =
        (distinct(|_| true), distinct(|block| block.worker.is_some()), distinct(|block| block.short_circuit));
    match all {
        0 => "no blocks".into(),
        1 => format!("1 block, {cached} in the cache, {short} by short circuit from here"),
        _ => format!("{all} blocks, {cached} in the cache, {short} by short circuit from here"),
    }
}

fn table(blocks: &[BlockLocation]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["Block", "Offset", "Size", "Worker", "Tier", "Short circuit"]);
    for block in blocks {
        let short = match (&block.reason, block.short_circuit) {
            (_, true) => "yes".to_owned(),
            (Some(reason), false) => format!("no: {reason}"),
            (None, false) => "no".to_owned(),
        };
        table.add_row([
            block.index.to_string(),
            block.offset.to_string(),
            size(block.length, true),
            block.worker.map_or_else(|| "-".to_owned(), |_| block.host.clone()),
            block.medium.map_or("-", Medium::as_str).to_owned(),
            short,
        ]);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use larder_client::WorkerId;

    use super::*;

    fn block(index: u32, worker: bool, short_circuit: bool) -> BlockLocation {
        BlockLocation {
            index,
            offset: u64::from(index) << 20,
            length: 1 << 20,
            worker: worker.then(WorkerId::default),
            host: if worker { "h:29999".into() } else { String::new() },
            medium: worker.then_some(Medium::Mem),
            short_circuit,
            reason: (!short_circuit).then(|| "the socket is not shared".into()),
        }
    }

    #[test]
    fn copies_of_a_block_count_once() {
        let blocks = [block(0, true, true), block(0, true, false), block(1, true, false), block(2, false, false)];
        assert_eq!(summary(&blocks), "3 blocks, 2 in the cache, 1 by short circuit from here");
        assert_eq!(summary(&[]), "no blocks");
    }

    #[test]
    fn mounts_say_how_they_serve_a_file_and_why_not_by_passthrough() {
        let text = |served: &str| Served { path: "/f".into(), mount: "/m".into(), served: served.into() }.text();
        assert_eq!(text("passthrough"), "  mounted at /m: the kernel reads it itself (passthrough)");
        assert!(text("direct: opened before whole").contains("(direct: opened before whole)"));
    }

    #[test]
    fn the_table_says_why_not() {
        let text = table(&[block(0, true, true), block(1, false, false)]);
        assert!(text.contains("h:29999") && text.contains("MEM") && text.contains("yes"), "{text}");
        assert!(text.contains("no: the socket is not shared"), "{text}");
        let row = serde_json::to_value(Row::of(&FsPath::root(), &block(1, false, false))).unwrap();
        assert_eq!((&row["worker"], &row["length"]), (&serde_json::Value::Null, &(1 << 20).into()));
    }
}
