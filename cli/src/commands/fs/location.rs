//! `larder fs location`: which workers hold each block, in which tier, and whether this host reads it by short circuit.

use clap::Args;
use comfy_table::{Table, presets};
use larder_client::{BlockLocation, FsPath, Medium};
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
        shell
            .each(&self.paths, async |path| {
                let blocks = shell.fs.locations(path).await?;
                if shell.output.json {
                    return blocks.iter().try_for_each(|block| shell.output.object(&Row::of(path, block)));
                }
                let title = [&printed(path)[..], b": ", summary(&blocks).as_bytes(), b"\n"].concat();
                shell.output.bytes(&title)?;
                match blocks.is_empty() {
                    true => Ok(()),
                    false => shell.output.line(table(&blocks)),
                }
            })
            .await
    }
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
    fn the_table_says_why_not() {
        let text = table(&[block(0, true, true), block(1, false, false)]);
        assert!(text.contains("h:29999") && text.contains("MEM") && text.contains("yes"), "{text}");
        assert!(text.contains("no: the socket is not shared"), "{text}");
        let row = serde_json::to_value(Row::of(&FsPath::root(), &block(1, false, false))).unwrap();
        assert_eq!((&row["worker"], &row["length"]), (&serde_json::Value::Null, &(1 << 20).into()));
    }
}
