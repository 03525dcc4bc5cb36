//! Commands in the image that are not Larder's: `docker run IMAGE sh -c …` runs them, although the image's entry is this
//! binary, so that one image serves both roles and the programs that were put beside them.

use std::{
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Command as Known;
use nix::unistd::{AccessFlags, access};

use crate::context::Environment;

/// Becomes the program that the first argument names, if this is the image, that is no command of ours, and there is such
/// a program; else nothing happens.
pub(crate) fn become_it(known: &Known, arguments: &[OsString], environment: &Environment) {
    let variable =
        |name: &str| environment.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str());
    if variable("LARDER_PROCESS_IMAGE") != Some(OsStr::new("true")) {
        return;
    }
    let Some(program) = program(known, arguments, variable("PATH").unwrap_or_default()) else { return };
    // It returns only where that fails; then the command line is refused as usual, naming the word.
    drop(Command::new(program).args(&arguments[2..]).exec());
}

fn program(known: &Known, arguments: &[OsString], path: &OsStr) -> Option<PathBuf> {
    let name = arguments.get(1)?;
    let text = name.to_string_lossy();
    let is_ours = text == "help"
        || known.get_subcommands().any(|c| c.get_name() == text || c.get_all_aliases().any(|a| a == text));
    if is_ours || text.starts_with('-') {
        return None;
    }
    let can_run = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if text.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| can_run(path));
    }
    std::env::split_paths(path).map(|folder| folder.join(name)).find(|path| can_run(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::command_line;

    fn found(words: &[&str]) -> Option<PathBuf> {
        let arguments: Vec<OsString> = std::iter::once(&"larder").chain(words).map(OsString::from).collect();
        program(&command_line(), &arguments, OsStr::new("/usr/bin:/bin"))
    }

    #[test]
    fn only_what_is_not_ours_and_is_there_is_run() {
        assert!(found(&["sh", "-c", "true"]).unwrap().ends_with("sh"));
        assert_eq!(found(&["/bin/sh"]), Some("/bin/sh".into()));
        for ours in ["master", "runTests", "help", "--version", "no-such-program", "/etc"] {
            assert_eq!(found(&[ours]), None, "{ours}");
        }
        assert_eq!(found(&[]), None);
    }
}
