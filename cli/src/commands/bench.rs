//! `larder bench`: measures Larder beside what the machine does without it, and prints a table or an object a line.

use std::{io::Write, path::PathBuf, time::Duration};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use larder_benches::{
    bench::{self, Bench as One},
    door::Door,
    lab::{Lab, Options, PAIRS, Watcher},
    machine::Machine,
    outcome::{self, Outcome},
};
use larder_common::{
    ByteSize, Error,
    settings::{Origin, Role, Settings},
};

use crate::{command::Run, context::Context, exit::Exit, output::Output};

/// Measure Larder beside its baselines
///
/// Without a name the benches are listed. Each starts servers of its own and leaves nothing behind, also after Ctrl-C;
/// with --master those that can measure that cluster. Rounds of both sides take turns; the ratio is the median of those
/// of the pairs. Measure with the release build, on a quiet machine.
#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// Which, or `all`
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Small sizes, to see that it works: the numbers mean little
    #[arg(long)]
    quick: bool,
    /// How many rounds of each side
    #[arg(long, value_name = "NUMBER", default_value_t = PAIRS, value_parser = pairs)]
    pairs: usize,
    /// A directory on the disk to measure, for under stores and journals [default: /var/tmp]
    #[arg(long, value_name = "DIR")]
    disk: Option<PathBuf>,
    /// The size of a large file, as 2GB [default: 1GB]
    #[arg(long, value_name = "SIZE", value_parser = super::demo::size)]
    large: Option<ByteSize>,
    /// How many small files a bench of a mount has
    #[arg(long, value_name = "NUMBER")]
    files: Option<usize>,
}

fn pairs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(pairs @ 1..=1000) => Ok(pairs),
        _ => Err("give a number from 1 to 1000".into()),
    }
}

impl Run for Bench {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        if self.names.is_empty() {
            context.output.line(bench::listing())?;
            return Ok(Exit::Done);
        }
        let chosen = bench::select(&self.names)?;
        let settings = context.start_command(Role::Client, Vec::new())?;
        let watching = Watching::new(context.output);
        let machine = Machine::here();
        watching.note(&machine.to_string());
        if cfg!(debug_assertions) {
            watching.note("this is a debug build: its numbers mean nothing");
        }
        let lab = Lab::new(self.options(context, &settings)?, &watching)?;
        let (outcomes, failed) = measure(context, &lab, &chosen, machine.cores)?;
        watching.finish();
        if !context.output.json && !outcomes.is_empty() {
            context.output.line(outcome::table(&outcomes))?;
        }
        Ok(if failed { Exit::Failed } else { Exit::Done })
    }
}

impl Bench {
    fn options(&self, context: &Context, settings: &Settings) -> anyhow::Result<Options> {
        Ok(Options {
            binary: std::env::current_exe()?,
            quick: self.quick,
            pairs: self.pairs,
            disk: self.disk.clone(),
            large: self.large,
            files: self.files,
            existing: names_a_master(settings).then(|| door(context)),
        })
    }
}

/// Whether `--master` was given: a master that only the environment or a file names is not loaded unasked.
fn names_a_master(settings: &Settings) -> bool {
    let by_flag = |origin: &Origin| matches!(origin, Origin::Flag(_));
    settings.shown().iter().any(|shown| shown.name == "master.hostname" && by_flag(&shown.origin))
}

fn door(context: &Context) -> Door {
    let context = context.clone();
    Door::new(move |flags| context.settings(Some(Role::Client), flags).map(|(settings, _warnings)| settings))
}

/// Runs one after another; one that cannot run or fails is named, and the rest is run all the same.
fn measure(context: &Context, lab: &Lab<'_>, chosen: &[&One], cores: usize) -> anyhow::Result<(Vec<Outcome>, bool)> {
    let (mut all, mut failed) = (Vec::new(), false);
    for bench in chosen {
        match bench.run(lab) {
            Ok(outcomes) => {
                if context.output.json {
                    let quick = lab.options().quick;
                    outcomes.iter().try_for_each(|outcome| context.output.object(&outcome.line(cores, quick)))?;
                }
                all.extend(outcomes);
            }
            Err(error) if chosen.len() == 1 || lab.is_interrupted() => return Err(error.into()),
            Err(error) => {
                failed = true;
                report(context, bench, error);
            }
        }
    }
    Ok((all, failed))
}

fn report(context: &Context, bench: &One, error: Error) {
    context.output.error(&error.context(bench.name));
}

/// Says on standard error how far a bench or the demonstration is, where that is a terminal, and what must be known.
#[derive(Debug)]
pub(crate) struct Watching(ProgressBar);

impl Watching {
    /// Nothing yet. Programs that read JSON get no progress.
    pub(crate) fn new(output: Output) -> Self {
        let target = if output.json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let style = ProgressStyle::with_template("{spinner} {wide_msg}").expect("the template is a constant");
        let bar = ProgressBar::with_draw_target(None, target).with_style(style);
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self(bar)
    }

    /// Nothing is being done any more.
    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl Watcher for Watching {
    fn progress(&self, text: &str) {
        self.0.set_message(text.to_owned());
    }

    fn note(&self, text: &str) {
        // Where standard error cannot be written there is nobody left to tell.
        self.0.suspend(|| drop(writeln!(std::io::stderr().lock(), "larder: {text}")));
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use larder_common::settings::{Sources, SystemFiles};

    use super::*;

    #[test]
    fn numbers_of_pairs_have_bounds() {
        assert_eq!(pairs("5"), Ok(5));
        for bad in ["0", "1001", "-1", "many"] {
            assert!(pairs(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_flag_names_a_cluster_to_be_loaded() {
        let with = |sources: &Sources<'_>| names_a_master(&Settings::load(sources).unwrap().0);
        let environment = [("LARDER_MASTER_HOSTNAME".into(), "m".into())];
        assert!(!with(&Sources::new(environment, &SystemFiles)));
        let flagged = Sources::new([], &SystemFiles).flag("--master", "master.hostname", "m");
        assert!(with(&flagged));
    }
}
