//! `larder version`: what this binary is. Reads no settings, so that it answers where they are wrong.

use clap::Args;
use serde::Serialize;

use crate::{command::Run, context::Context, exit::Exit};

/// Print the version
#[derive(Args, Debug)]
pub(crate) struct Version {}

#[derive(Serialize)]
struct Answer {
    name: &'static str,
    version: &'static str,
    system: &'static str,
    architecture: &'static str,
}

impl Run for Version {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let answer = Answer {
            name: "larder",
            version: env!("CARGO_PKG_VERSION"),
            system: std::env::consts::OS,
            architecture: std::env::consts::ARCH,
        };
        match context.output.json {
            true => context.output.object(&answer)?,
            false => context.output.line(format_args!("{} {}", answer.name, answer.version))?,
        }
        Ok(Exit::Done)
    }
}
