//! Tools of others that tests run: installed by cargo, once, into a cache directory of the user, never into the repository.
//!
//! Each version has a directory of its own, so an older one is never taken for it. Two tests that install at once wait for
//! each other by cargo's own locks.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A program on the package registry, and the version that the tests expect.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// Its package, and its binary.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
}

/// A suite of what POSIX says of file systems.
pub const PJDFSTEST: Tool = Tool { name: "pjdfstest", version: "0.2.2" };
/// Random operations on one file.
pub const FSX: Tool = Tool { name: "fsx", version: "0.3.2" };

/// Where tools are kept: `LARDER_TEST_TOOLS`, or a directory in the user's cache.
fn cache() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from);
    of("LARDER_TEST_TOOLS")
        .or_else(|| Some(of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")))?.join("larder-test-tools")))
}

/// The path of a tool, installed if it is missing.
///
/// # Errors
/// Why it cannot be had, for the note that a test was skipped.
pub fn cargo_tool(tool: Tool) -> Result<PathBuf, String> {
    let cache = cache().ok_or("neither LARDER_TEST_TOOLS nor HOME says where tools are kept")?;
    let place = cache.join(format!("{}-{}", tool.name, tool.version));
    let binary = place.join("bin").join(tool.name);
    if !binary.exists() {
        install(tool, &place)?;
    }
    Ok(binary)
}

fn install(tool: Tool, place: &Path) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["install", "--quiet", "--locked", "--debug", "--version", tool.version, "--root"])
        .arg(place)
        .arg("--target-dir")
        .arg(place.join("target"))
        .arg(tool.name)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cargo cannot be started: {error}"))?;
    // What it was built from is not needed again.
    let _ = std::fs::remove_dir_all(place.join("target"));
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason");
    Err(format!("{} {} cannot be installed: {last}", tool.name, tool.version))
}

/// Whether there is a program of this name.
#[must_use]
pub fn is_there(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|directory| directory.join(program).is_file())
}
