//! The command itself: `larder bench` and `larder demo` with real servers, what they print, and what they leave behind.
//!
//! They need the binary, which is built when the whole workspace is tested; where it is missing the tests say that they
//! are skipped.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test ends where its surroundings fail, and says so")]

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The longest that one command may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The binary beside the directory that tests are built in.
fn binary(test: &str) -> Option<PathBuf> {
    let tests = std::env::current_exe().unwrap();
    let binary = tests.parent()?.parent()?.join("larder");
    if binary.is_file() {
        return Some(binary);
    }
    eprintln!("skipped: {test}: {} is not built", binary.display());
    if let Some(path) = std::env::var_os("SKIPPED_TESTS") {
        use std::io::Write;
        let file = fs::OpenOptions::new().append(true).create(true).open(path);
        writeln!(file.unwrap(), "{test}: the binary is not built").unwrap();
    }
    None
}

fn start(binary: &Path, temporary: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(binary);
    command.args(arguments).env("TMPDIR", temporary).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    command.spawn().unwrap()
}

/// Waits for the end, and kills what takes too long.
fn end(mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > LIMIT {
            child.kill().unwrap();
            panic!("it took more than {LIMIT:?}: {:?}", child.wait_with_output().unwrap());
        }
        pause();
    }
    child.wait_with_output().unwrap()
}

fn pause() {
    let _ = nix::poll::poll(&mut [], 50u8);
}

/// Directories of this process's benches that are still there, and mounts.
fn left_behind(pid: u32, temporary: &Path) -> Vec<String> {
    let name = format!("larder-bench-{pid}-");
    let places = [temporary, Path::new("/var/tmp"), Path::new("/dev/shm")];
    let entries = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
    let named = entries.map(|entry| entry.path().display().to_string()).filter(|path| path.contains(&name));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    named.chain(mounts.lines().filter(|line| line.contains(&name)).map(str::to_owned)).collect()
}

#[test]
fn the_cheapest_bench_prints_an_object_and_leaves_nothing() {
    let Some(binary) = binary("bench stat") else { return };
    let temporary = tempfile::tempdir().unwrap();
    let disk = temporary.path().to_str().unwrap();
    let arguments = ["bench", "stat", "--quick", "--pairs", "1", "--json", "--disk", disk];
    let child = start(&binary, temporary.path(), &arguments);
    let pid = child.id();
    let output = end(child);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(line["name"], "stat");
    assert_eq!((&line["pairs"], &line["asked"], &line["quick"]), (&1.into(), &0.7.into(), &true.into()));
    for number in ["value", "baseline", "ratio", "p50_us", "p99_us", "cores"] {
        assert!(line[number].as_f64().unwrap() > 0.0, "{number} in {text}");
    }
    assert_eq!(left_behind(pid, temporary.path()), [""; 0]);
}

#[test]
fn an_interrupted_bench_leaves_nothing() {
    let Some(binary) = binary("bench, interrupted") else { return };
    let temporary = tempfile::tempdir().unwrap();
    let disk = temporary.path().to_str().unwrap();
    let child = start(&binary, temporary.path(), &["bench", "read-warm", "--quick", "--pairs", "1000", "--disk", disk]);
    let (pid, begun) = (child.id(), Instant::now());
    while left_behind(pid, temporary.path()).len() < 2 && begun.elapsed() < LIMIT {
        pause();
    }
    kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGINT).unwrap();
    let output = end(child);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"), "{output:?}");
    assert_eq!(left_behind(pid, temporary.path()), [""; 0]);
}

#[test]
fn the_demonstration_reads_everything_and_leaves_nothing() {
    let Some(binary) = binary("demo") else { return };
    let temporary = tempfile::tempdir().unwrap();
    let ufs = temporary.path().join("files");
    fs::create_dir_all(ufs.join("deep/er")).unwrap();
    for (name, length) in [("empty", 0), ("small", 100), ("deep/large", 3 << 20), ("deep/er/one", 1)] {
        fs::write(ufs.join(name), vec![7; length]).unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", ufs.join("out")).unwrap();
    std::os::unix::fs::symlink("small", ufs.join("in")).unwrap();
    let child = start(&binary, temporary.path(), &["demo", "--json", "--ufs", ufs.to_str().unwrap()]);
    let pid = child.id();
    let output = end(child);
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let bytes = (3u64 << 20) + 101;
    assert_eq!((&report["files"], &report["bytes"], &report["compared"]), (&4.into(), &bytes.into(), &bytes.into()));
    assert_eq!((&report["links"], &report["leaving"]), (&2.into(), &1.into()));
    assert_eq!(report["warm"]["paths"]["local"], bytes, "warm reads are by short circuit: {report}");
    assert_eq!(left_behind(pid, temporary.path()), [""; 0]);
    assert_eq!(fs::read_dir(&ufs).unwrap().count(), 5, "nothing was put into the directory");
}

#[test]
fn what_cannot_be_done_is_said_with_what_to_do() {
    let Some(binary) = binary("bench and demo, refused") else { return };
    let temporary = tempfile::tempdir().unwrap();
    let cases: [(&[&str], i32, &str); 3] = [
        (&["demo", "--ufs", "/nowhere/at/all"], 3, "give a directory that exists"),
        (&["demo", "--ufs", temporary.path().to_str().unwrap()], 2, "no file here"),
        (&["bench", "stats"], 2, "read-warm-huge"),
    ];
    for (arguments, code, part) in cases {
        let output = end(start(&binary, temporary.path(), arguments));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(part), "{arguments:?}: {output:?}");
    }
}

/// A cluster that is not the bench's, over directories of the test.
struct Existing {
    server: Child,
    master: String,
    token: PathBuf,
}

impl Existing {
    fn start(binary: &Path, place: &Path, memory: &Path) -> Self {
        let (under, state) = (place.join("under"), place.join("state"));
        fs::create_dir(&under).unwrap();
        let tier = format!("worker.tiers=MEM:{}:512MB", memory.display());
        let mut command = Command::new(binary);
        command.args(["local", "--json", "--set", &tier, "--set", "worker.hugepages=never"]);
        command.args(["--set", "master.rpc.port=0", "--set", "worker.rpc.port=0", "--ufs"]).arg(under);
        command.arg("--state").arg(&state).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut server = command.spawn().unwrap();
        let mut line = String::new();
        let output = server.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        Self { server, master: ready["master"].as_str().unwrap().to_owned(), token: state.join("token") }
    }

    fn run(&self, binary: &Path, temporary: &Path, arguments: &[&str]) -> Child {
        let mut command = Command::new(binary);
        command.args(["--master", &self.master]).args(arguments).env("LARDER_SECURITY_TOKEN_FILE", &self.token);
        command.env("TMPDIR", temporary).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        command.spawn().unwrap()
    }

    /// What is in its root.
    fn names(&self, binary: &Path, temporary: &Path) -> String {
        let output = end(self.run(binary, temporary, &["fs", "ls", "/"]));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Existing {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.server.id().try_into().unwrap());
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.server.wait();
    }
}

#[test]
fn an_existing_cluster_is_left_as_it_was_found() {
    let Some(binary) = binary("bench on an existing cluster") else { return };
    let (temporary, memory) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    let existing = Existing::start(&binary, temporary.path(), memory.path());
    let disk = temporary.path().to_str().unwrap();
    let bench = ["bench", "random-4k", "--quick", "--disk", disk, "--pairs"];
    let names = || existing.names(&binary, temporary.path());
    assert!(!names().contains("larder-bench"));

    let output = end(existing.run(&binary, temporary.path(), &[&bench[..], &["1"]].concat()));
    assert!(output.status.success(), "{output:?}");
    assert!(!names().contains("larder-bench"), "after a whole run: {}", names());

    let interrupted = existing.run(&binary, temporary.path(), &[&bench[..], &["1000"]].concat());
    let begun = Instant::now();
    while !names().contains("larder-bench") {
        assert!(begun.elapsed() < LIMIT, "it never made its directory");
    }
    kill(Pid::from_raw(interrupted.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(end(interrupted).status.code(), Some(1));
    assert!(!names().contains("larder-bench"), "after an interruption: {}", names());

    let refused = end(existing.run(&binary, temporary.path(), &["bench", "write-through", "--quick"]));
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}
