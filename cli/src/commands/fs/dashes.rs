//! Alluxio's people write long options with one dash (`-name`, `-min 2`, `-action free`), which `clap` would read as a
//! row of short ones. Before it reads the command line, such words become `--name` where the command has that option.
//! Pure.

use std::{ffi::OsString, os::unix::ffi::OsStrExt};

use clap::Command;

/// The commands below which this is done.
const FAMILIES: [&str; 2] = ["fs", "fsadmin"];

/// The command line with two dashes where one was meant as two. Words after `--` stay as they are.
pub(crate) fn long_options(command: &Command, arguments: Vec<OsString>) -> Vec<OsString> {
    let Some((family, name)) = addressed(command, &arguments) else { return arguments };
    let (longs, shorts) = options(&[command, family, name]);
    let mut is_over = false;
    arguments
        .into_iter()
        .map(|argument| {
            is_over |= argument == "--";
            match (is_over, meant(argument.as_bytes(), &longs, &shorts)) {
                (false, true) => {
                    let mut doubled = OsString::from("-");
                    doubled.push(argument);
                    doubled
                }
                _ => argument,
            }
        })
        .collect()
}

/// The command of a family that the command line is about.
fn addressed<'a>(command: &'a Command, arguments: &[OsString]) -> Option<(&'a Command, &'a Command)> {
    let mut words = arguments.iter().skip(1).filter_map(|word| word.to_str());
    let family = words.find(|word| FAMILIES.contains(word))?;
    let family = command.find_subcommand(family)?;
    let name = words.find_map(|word| family.find_subcommand(word))?;
    Some((family, name))
}

fn options(commands: &[&Command]) -> (Vec<String>, Vec<char>) {
    let arguments = || commands.iter().flat_map(|command| command.get_arguments());
    let longs = arguments().flat_map(|argument| argument.get_long_and_visible_aliases().unwrap_or_default());
    let hidden = arguments().flat_map(|argument| argument.get_all_aliases().unwrap_or_default());
    let shorts = arguments().filter_map(clap::Arg::get_short);
    (longs.chain(hidden).map(str::to_owned).collect(), shorts.collect())
}

/// Whether this is `-word` or `-word=value` of a long option, and not a row of short options.
fn meant(argument: &[u8], longs: &[String], shorts: &[char]) -> bool {
    let Some(word) = argument.strip_prefix(b"-").filter(|rest| !rest.starts_with(b"-")) else { return false };
    let word = word.split(|b| *b == b'=').next().unwrap_or_default();
    let is_row = word.iter().all(|b| shorts.contains(&char::from(*b)));
    word.len() > 1 && !is_row && longs.iter().any(|long| long.as_bytes() == word)
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn command() -> Command {
        let find = Command::new("find").arg(Arg::new("name").long("name")).arg(Arg::new("print0").long("print0"));
        let set = Command::new("set").arg(Arg::new("min").long("min").alias("minimum")).arg(Arg::new("m").short('m'));
        Command::new("larder").subcommand(Command::new("fs").subcommand(find).subcommand(set))
    }

    fn rewritten(line: &str) -> String {
        let words = line.split(' ').map(OsString::from).collect();
        let words = long_options(&command(), words);
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn one_dash_becomes_two_where_such_an_option_is_there() {
        assert_eq!(rewritten("larder fs find /p -name x -print0"), "larder fs find /p --name x --print0");
        assert_eq!(rewritten("larder --json fs set -min=2 /p"), "larder --json fs set --min=2 /p");
        assert_eq!(rewritten("larder fs set -minimum 2 /p"), "larder fs set --minimum 2 /p");
    }

    #[test]
    fn everything_else_stays() {
        for line in [
            "larder fs find /p --name x -other -n -",
            "larder fs find /p -- -name",
            "larder config show -name",
            "larder fs set -mm /p",
            "larder fs",
            "larder",
        ] {
            assert_eq!(rewritten(line), line);
        }
        let strange = vec![OsString::from("larder"), std::os::unix::ffi::OsStringExt::from_vec(b"-\xff".to_vec())];
        assert_eq!(long_options(&command(), strange.clone()), strange);
    }
}
