//! Saying that a test cannot run here, so that it never counts as passed in silence.

use std::io::Write;

/// Notes that a test was skipped and why: on standard error, and in the file that `SKIPPED_TESTS` names, from which
/// `make test` prints its last lines.
#[expect(clippy::print_stderr, reason = "the output of a test is for people")]
pub fn skip(test: &str, reason: &str) {
    eprintln!("skipped: {test}: {reason}");
    let Some(path) = std::env::var_os("SKIPPED_TESTS") else { return };
    if let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path) {
        // The line is for people; the test's own output has it too.
        let _ = writeln!(file, "{test}: {reason}");
    }
}

/// Whether this process can mount: root, with the kernel's device; notes that the test was skipped where it cannot.
#[must_use]
pub fn needs_fuse(test: &str) -> bool {
    if !std::path::Path::new("/dev/fuse").exists() {
        skip(test, "there is no /dev/fuse");
        return false;
    }
    needs_root(test)
}

/// Whether the test runs as root; notes that it was skipped where it does not.
#[must_use]
pub fn needs_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip(test, "needs root");
    }
    root
}

/// Whether an ordinary user can mount here, with a helper that root has installed; notes that the test was skipped where not.
#[must_use]
pub fn needs_helper(test: &str) -> bool {
    let helper = ["/bin/fusermount3", "/usr/bin/fusermount3"].map(std::path::Path::new);
    if !helper.iter().any(|path| path.exists()) {
        skip(test, "there is no fusermount3 (package fuse3)");
        return false;
    }
    if !needs_fuse(test) {
        return false;
    }
    let mode = std::fs::metadata("/dev/fuse")
        .map_or(0, |device| std::os::unix::fs::PermissionsExt::mode(&device.permissions()));
    let open = mode & 0o006 == 0o006;
    if !open {
        skip(test, "/dev/fuse is not open to ordinary users");
    }
    open
}
