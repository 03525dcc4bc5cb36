//! `larder demo`: reads a directory of real files through a cluster of its own, cold and warm, beside a plain read.

use std::path::PathBuf;

use clap::Args;
use larder_benches::{
    demo,
    lab::{Lab, Options, PAIRS},
};
use larder_common::{ByteSize, settings::Role};

use super::bench::Watching;
use crate::{command::Run, context::Context, exit::Exit};

/// Read a directory of files cold, warm and through a mount, beside a plain read
///
/// Starts master and worker over the directory, which is never changed, and leaves nothing behind.
#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// The directory whose files are read
    #[arg(long, value_name = "DIR", default_value = "/usr/share/doc")]
    ufs: PathBuf,
    /// How much memory the cache may take, as 1GB [default: what the files need, at most half of what is free]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    mem: Option<ByteSize>,
}

/// A size as people write it.
pub(super) fn size(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|e: larder_common::Error| e.to_string())
}

impl Run for Demo {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        context.start_command(Role::Client, Vec::new())?;
        let watching = Watching::new(context.output);
        let binary = std::env::current_exe()?;
        let options =
            Options { binary, quick: false, pairs: PAIRS, disk: None, large: None, files: None, existing: None };
        let lab = Lab::new(options, &watching)?;
        let report = demo::Demo { ufs: self.ufs, memory: self.mem }.run(&lab)?;
        watching.finish();
        match context.output.json {
            true => context.output.object(&report.line())?,
            false => context.output.bytes(report.text().as_bytes())?,
        }
        Ok(Exit::Done)
    }
}
