//! What every command takes, and the shape of `--help`.

use std::{fmt::Write, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, Parser};
use larder_common::settings::{Flag, Host, Value};

use crate::{
    command::{Command, GROUPS, Group},
    exit::MEANINGS,
};

/// A tiered in-memory cache in front of your storage.
#[derive(Debug, Parser)]
#[command(
    name = "larder",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) shared: Shared,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Shared {
    /// Read settings from this TOML file, and not from the usual ones
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set one setting, before all other sources
    #[arg(short = 'D', long = "set", global = true, value_name = "NAME=VALUE", value_parser = assignment)]
    pub(crate) set: Vec<(String, String)>,
    /// Print one JSON object a line; errors too, on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Give up after so long, as 500ms, 30s or 2h [default: 30s to reach the cluster, then none]
    #[arg(long, global = true, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Where the master is
    #[arg(long, global = true, value_name = "HOST[:PORT]", value_parser = master)]
    pub(crate) master: Option<Master>,
}

/// The master as it is named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Master {
    host: String,
    port: Option<u16>,
}

impl Shared {
    /// The settings that these flags are.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        let flag = |shown: &str, name: &str, value: String| Flag { shown: shown.into(), name: name.into(), value };
        let set = self.set.iter().map(|(name, value)| flag("--set", name, value.clone()));
        let host = self.master.iter().map(|master| flag("--master", "master.hostname", master.host.clone()));
        let port = self.master.iter().filter_map(|master| master.port);
        let port = port.map(|port| flag("--master", "master.rpc.port", port.to_string()));
        set.chain(host).chain(port).collect()
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err("write it as master.hostname=HOST".into()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match Duration::parse(text) {
        Ok(duration) if duration.is_zero() => Err("give more than 0s".into()),
        other => other.map_err(|e| e.to_string()),
    }
}

fn master(text: &str) -> Result<Master, String> {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let has_port = text.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
    let has_port = has_port.filter(|(_, port)| is_port(port));
    let (host, port) = has_port.map_or((text, None), |(host, port)| (host, Some(port)));
    let host = Host::parse(host).map_err(|e| e.to_string())?.as_str().to_owned();
    let port = port.map(|port| u16::parse(port).map_err(|e| e.to_string())).transpose()?;
    Ok(Master { host, port })
}

/// The whole command line, with commands in groups and the exit codes at the end of the help.
pub(crate) fn command_line() -> clap::Command {
    let command = Arguments::command();
    let template =
        format!("{{about}}\n\n{{usage-heading}} {{usage}}\n\n{}Options:\n{{options}}{{after-help}}", grouped(&command));
    command.help_template(template).after_help(exit_codes())
}

/// The commands under the titles of their groups; a group without commands is not mentioned.
fn grouped(command: &clap::Command) -> String {
    let commands: Vec<_> = command.get_subcommands().zip(GROUPS).collect();
    let width = commands.iter().map(|(command, _)| command.get_name().len()).max().unwrap_or(0);
    let mut text = String::new();
    for group in Group::ALL {
        let mut members = commands.iter().filter(|(_, of)| *of == group).map(|(command, _)| command).peekable();
        if members.peek().is_none() {
            continue;
        }
        let _ = writeln!(text, "{}:", group.title());
        for member in members {
            let about = member.get_about().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, "  {:width$}  {about}", member.get_name());
        }
        text.push('\n');
    }
    text
}

fn exit_codes() -> String {
    let lines: Vec<_> = MEANINGS.iter().map(|(exit, meaning)| format!("  {:>3}  {meaning}", *exit as u8)).collect();
    format!("Exit codes:\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command_line().debug_assert();
        assert_eq!(command_line().get_subcommands().count(), GROUPS.len());
    }

    #[test]
    fn a_master_is_a_host_and_perhaps_a_port() {
        let parsed = |text: &str| master(text).map(|master| (master.host, master.port));
        assert_eq!(parsed("a"), Ok(("a".into(), None)));
        assert_eq!(parsed("a:1"), Ok(("a".into(), Some(1))));
        assert_eq!(parsed("[::1]:9"), Ok(("::1".into(), Some(9))));
        assert_eq!(parsed("::1"), Ok(("::1".into(), None)));
        assert!(parsed("a:b").is_err());
        assert!(parsed("http://a").is_err());
    }
}
