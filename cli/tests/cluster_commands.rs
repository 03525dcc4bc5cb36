//! Commands of the cluster from outside, without a cluster: what a wrong command line gets, and what happens when no
//! master is there. No test inherits the environment of whoever runs it.

use std::{
    fs::{self, Permissions},
    io::ErrorKind,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{Command as Process, Output},
    time::{Duration, Instant},
};

use assert_cmd::Command;
use predicates::{prelude::PredicateBooleanExt, str::contains};
use serde_json::Value;
use tempfile::TempDir;

/// The user and group `nobody`.
const NOBODY: u32 = 65_534;

/// `larder` with an empty environment but for a home of its own.
fn larder(home: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("larder"));
    command.env_clear().env("HOME", home.path()).env("XDG_RUNTIME_DIR", home.path()).args(arguments);
    command
}

fn home() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A port at which nobody listens: bound, and given back.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn report(output: &[u8]) -> Value {
    let text = std::str::from_utf8(output).expect("all output is UTF-8");
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn a_wrong_command_line_says_what_is_wrong() {
    let home = home();
    for (arguments, told) in [
        (&["fs"][..], "Usage: larder fs"),
        (&["fs", "lss", "/"], "ls"),
        (&["fs", "ls"], "<PATH>"),
        (&["fs", "ls", "relative"], "begin it with `/`"),
        (&["fs", "ls", "s3://bucket/x"], "mount it first"),
        (&["fs", "ls", "file:///tmp"], "of this machine"),
        (&["fs", "ls", "--sort", "colour", "/"], "lastModificationTime"),
        (&["fs", "chmod", "99", "/x"], "u+rwx"),
        (&["fs", "chown", "no-such-user", "/x"], "give the number"),
        (&["fs", "find", "/", "-size", "big"], "+10"),
        (&["fs", "setTtl", "/x", "soon"], "12h"),
        (&["fs", "setTtl", "--action", "burn", "/x", "1h"], "DELETE"),
        (&["fs", "setPolicy", "/x", "lur"], "LRU"),
        (&["fs", "setReplication", "/x"], "--min"),
        (&["fs", "mount", "/x"], "URI"),
        (&["fs", "mount", "--option", "secretKey=1", "/x", "/y"], "credential=NAME"),
        (&["fs", "test", "/x"], "-d|-e|-f|-s|-z"),
        (&["fs", "test", "-d", "-f", "/x"], "cannot be used"),
        (&["fs", "head", "-c", "many", "/x"], "512MB"),
        (&["fs", "cp", "/x"], "2"),
        (&["fsadmin", "report", "everything"], "capacity"),
        (&["runTests", "--readType", "SLOW"], "NO_CACHE"),
        (&["fs", "mv", "larder://a:1/x", "larder://b:1/y"], "different masters"),
    ] {
        larder(&home, arguments).assert().code(2).stdout("").stderr(contains(told));
    }
}

#[test]
fn h_is_for_people_where_alluxio_has_it_so() {
    let home = home();
    let port = closed_port();
    let master = format!("127.0.0.1:{port}");
    for arguments in [&["fs", "ls", "-h", "/"][..], &["fs", "du", "-sh", "/"], &["fs", "count", "-h", "/"]] {
        let mut command = larder(&home, arguments);
        command.args(["--master", &master, "--timeout", "300ms"]).assert().code(4);
    }
    larder(&home, &["fsadmin", "report", "-h", "--master", &master, "--timeout", "300ms"]).assert().code(4);
    larder(&home, &["fs", "cat", "-h"]).assert().success().stdout(contains("Print files"));
    larder(&home, &["fs", "ls", "--help"]).assert().success().stdout(contains("--human"));
    larder(&home, &["fs", "--help"]).assert().success().stdout(contains("copyFromLocal").and(contains("setTtl")));
}

#[test]
fn a_master_that_is_not_there_is_4_within_the_timeout_and_says_what_to_do() {
    let home = home();
    let master = format!("127.0.0.1:{}", closed_port());
    let started = Instant::now();
    larder(&home, &["fs", "ls", "/", "--master", &master, "--timeout", "1s"])
        .timeout(Duration::from_secs(20))
        .assert()
        .code(4)
        .stdout("")
        .stderr(contains(&master).and(contains("within 1s")).and(contains("firewall")));
    assert!(started.elapsed() < Duration::from_secs(8), "it took {:?}", started.elapsed());
    for arguments in [&["runTests"][..], &["fsadmin", "report"], &["fs", "mkdir", "/x"], &["fs", "test", "-e", "/"]] {
        let mut command = larder(&home, arguments);
        command.args(["--master", &master, "--timeout", "300ms"]).assert().code(4);
    }
}

#[test]
fn a_master_that_never_answers_is_4_too() {
    let home = home();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = format!("larder://{}/x", listener.local_addr().unwrap());
    larder(&home, &["fs", "cat", &path, "--timeout", "700ms"])
        .timeout(Duration::from_secs(20))
        .assert()
        .code(4)
        .stderr(contains("was not reached within 700ms"));
}

#[test]
fn programs_get_the_error_as_an_object() {
    let home = home();
    let master = format!("127.0.0.1:{}", closed_port());
    let mut command = larder(&home, &["fs", "ls", "/", "--json", "--master", &master, "--timeout", "300ms"]);
    let output = command.assert().code(4).stdout("").get_output().clone();
    let error = report(&output.stderr);
    assert_eq!(error["kind"], "Unavailable");
    assert_eq!(error["path"], Value::Null);
    assert!(error["message"].as_str().unwrap().contains(&master), "{error}");
    assert!(error["advice"].is_string(), "{error}");
    let output = larder(&home, &["fs", "ls", "relative", "--json"]).assert().code(2).stdout("").get_output().clone();
    assert_eq!(report(&output.stderr)["kind"], "Invalid");
}

/// `larder fs ls /` as an ordinary user: root's runtime directory is one for the whole machine.
fn ls_as_a_user(home: &TempDir) -> std::io::Result<Output> {
    let mut command = Process::new(assert_cmd::cargo::cargo_bin!("larder"));
    command.env_clear().env("HOME", home.path()).env("XDG_RUNTIME_DIR", home.path());
    command.args(["fs", "ls", "/", "--timeout", "300ms"]);
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.output()
}

#[test]
fn without_a_master_that_of_larder_local_is_looked_for() {
    let home = home();
    let folder = home.path().join("larder");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
    let describe = |name: &str, port: u16| {
        let text = format!("master = \"127.0.0.1:{port}\"\npid = {}\n", std::process::id());
        fs::write(folder.join(name), text).unwrap();
    };
    let (first, second) = (closed_port(), closed_port());
    describe("local.toml", first);
    let output = match ls_as_a_user(&home) {
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            eprintln!("skipped: an ordinary user may not run the binary where it was built");
            return;
        }
        output => output.unwrap(),
    };
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains(&format!("127.0.0.1:{first}")), "{said}");
    describe("local-2.toml", second);
    let output = ls_as_a_user(&home).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("2 clusters run here") && said.contains(&format!("127.0.0.1:{second}")), "{said}");
}
