//! The binary from outside: messages, exit codes, and what it makes of the environment. No test inherits the
//! environment of whoever runs it.

use std::{
    fs,
    path::Path,
    process::{Command as Process, Stdio},
};

use assert_cmd::Command;
use predicates::{prelude::PredicateBooleanExt, str::contains};
use serde_json::Value;

/// `larder` with an empty environment and these arguments.
fn larder(arguments: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("larder"));
    command.env_clear().args(arguments);
    command
}

fn objects(text: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(text).expect("all output is UTF-8");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

/// The row of one setting in `config show --json`.
fn setting(command: &mut Command, name: &str) -> Value {
    let output = command.args(["config", "show", "--json"]).output().expect("the binary was built");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    objects(&output.stdout).into_iter().find(|row| row["name"] == name).expect("there is such a setting")
}

#[test]
fn help_is_grouped_and_ends_with_the_exit_codes() {
    let help = larder(&["--help"]).assert().success();
    let text = String::from_utf8(help.get_output().stdout.clone()).unwrap();
    assert!(text.contains("Settings and shell:\n  config "), "{text}");
    assert!(text.contains("Files:\n  fs ") && text.contains("Cluster:\n  fsadmin "), "{text}");
    let codes = text.split("Exit codes:\n").nth(1).unwrap();
    let codes: Vec<_> = codes.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(codes, ["0", "1", "2", "3", "4", "5", "124"]);
    larder(&["-h"]).assert().success().stdout(contains("Exit codes:"));
    larder(&["config", "show", "--help"]).assert().success().stdout(contains("--given"));
}

#[test]
fn a_wrong_command_line_is_2() {
    larder(&[]).assert().code(2).stderr(contains("Usage: larder"));
    larder(&["confg"]).assert().code(2).stderr(contains("config"));
    larder(&["config", "show", "--timeout", "soon"]).assert().code(2).stderr(contains("30s"));
    larder(&["config", "show", "--master", "http://a"]).assert().code(2).stderr(contains("host"));
    let output = larder(&["--json", "confg"]).assert().code(2).stdout("").get_output().clone();
    let report = &objects(&output.stderr)[0];
    assert_eq!(report["kind"], "Invalid");
    assert!(report["message"].as_str().unwrap().contains("confg"), "{report}");
}

#[test]
fn versions_are_for_people_and_programs() {
    larder(&["version"]).assert().success().stdout(format!("larder {}\n", env!("CARGO_PKG_VERSION")));
    larder(&["--version"]).assert().success().stdout(contains(env!("CARGO_PKG_VERSION")));
    let output = larder(&["version", "--json"]).output().unwrap();
    assert_eq!(objects(&output.stdout)[0]["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn an_unknown_setting_stops_with_name_value_and_the_nearest_name() {
    let mut command = larder(&["config", "show"]);
    command
        .env("LARDER_MASTER_HOSTNAM", "h7")
        .assert()
        .code(2)
        .stdout("")
        .stderr("larder: LARDER_MASTER_HOSTNAM=h7 is not a setting; did you mean LARDER_MASTER_HOSTNAME?\n");
    let output = larder(&["config", "show", "--json"]).env("LARDER_MASTER_HOSTNAM", "h7").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let reports = objects(&output.stderr);
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0]["kind"], "Config");
    assert_eq!(reports[0]["path"], Value::Null);
    assert_eq!(reports[0]["message"], "LARDER_MASTER_HOSTNAM=h7 is not a setting");
    assert_eq!(reports[0]["advice"], "did you mean LARDER_MASTER_HOSTNAME?");
}

#[test]
fn a_value_that_does_not_parse_stops() {
    for (name, value, advice) in [
        ("LARDER_MASTER_RPC_PORT", "many", "65535"),
        ("LARDER_MASTER_SESSION_LEASE", "10", "30s"),
        ("ALLUXIO_WORKER_MEMORY_SIZE", "lots", "1GB"),
        ("ALLUXIO_USER_FILE_WRITETYPE_DEFAULT", "CACHE_TROUGH", "CACHE_THROUGH"),
        ("LARDER_WORKER_TIERS", "RAM:/x:1GB", "MEM"),
        ("LARDER_LOG", "inof", "info"),
    ] {
        let mut command = larder(&["config", "show"]);
        let told = contains(name).and(contains(value)).and(contains(advice));
        command.env(name, value).assert().code(2).stderr(told);
    }
}

#[test]
fn wrong_settings_do_not_keep_help_and_version_from_answering() {
    for arguments in [&["version"][..], &["--help"], &["man"], &["completions", "bash"], &["config", "docs"]] {
        larder(arguments).env("LARDER_NONSENSE", "1").assert().success();
    }
}

#[test]
fn flags_come_before_the_environment_and_disagreement_is_named() {
    let mut command = larder(&["--master", "flag:7", "-D", "worker.ramdisk.size=1GB"]);
    let row = setting(command.env("LARDER_MASTER_HOSTNAME", "env"), "master.hostname");
    assert_eq!((row["value"].as_str(), row["source"].as_str()), (Some("flag"), Some("--master")));
    larder(&["config", "show", "--master", "flag"])
        .env("LARDER_MASTER_HOSTNAME", "env")
        .assert()
        .success()
        .stderr("larder: warning: master.hostname: flag from --master is used; LARDER_MASTER_HOSTNAME says env\n");
    let row = setting(&mut larder(&["--master", "flag:7"]), "master.rpc.port");
    assert_eq!(row["value"], "7");
    let row = setting(&mut larder(&["--set", "worker.ramdisk.size=1GB"]), "worker.tiers");
    assert_eq!((row["value"].as_str(), row["source"].as_str()), (Some("MEM:/dev/shm:1GB"), Some("--set")));
    larder(&["config", "show", "-Dno.such=1"]).assert().code(2).stderr(contains("no.such=1 is not a setting"));
}

#[test]
fn every_source_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    };
    let config = put("larder.toml", "[worker]\nweb.port = 1\n");
    let token = put("token", "hunter2\n");
    put("conf/alluxio-site.properties", "alluxio.user.hostname=dummy\nalluxio.zookeeper.enabled=true\n");
    let output = larder(&["config", "show", "--json", "--given", "--config", config.to_str().unwrap()])
        .env("LARDER_SECURITY_TOKEN_FILE", &token)
        .env("ALLUXIO_HOME", folder.path())
        .env("ALLUXIO_JAVA_OPTS", "-Xmx1g -Dalluxio.master.hostname=m")
        .env("ALLUXIO_UNDERFS_ADDRESS", "/under")
        .output()
        .unwrap();
    assert!(output.status.success());
    let rows = objects(&output.stdout);
    let source =
        |name: &str| rows.iter().find(|row| row["name"] == name).unwrap()["source"].as_str().unwrap().to_owned();
    assert_eq!(rows.len(), 5, "{rows:#?}");
    assert_eq!(source("worker.web.port"), format!("worker.web.port in {}", config.display()));
    assert_eq!(source("security.token"), format!("LARDER_SECURITY_TOKEN_FILE ({})", token.display()));
    assert_eq!(source("master.hostname"), "-Dalluxio.master.hostname in ALLUXIO_JAVA_OPTS");
    assert_eq!(source("master.mount.root"), "ALLUXIO_UNDERFS_ADDRESS");
    assert!(source("user.hostname").ends_with("alluxio-site.properties"));
    let warnings = objects(&output.stderr);
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings.iter().all(|warning| warning["kind"] == "Warning"));
    let all = [output.stdout, output.stderr].concat();
    assert!(!String::from_utf8(all).unwrap().contains("hunter2"));
}

#[test]
fn a_file_that_is_asked_for_and_missing_is_named() {
    larder(&["config", "show", "--config", "/no/such.toml"])
        .assert()
        .code(2)
        .stderr(contains("larder: /no/such.toml: ").and(contains("--config")));
}

#[test]
fn an_empty_value_counts_as_not_set() {
    larder(&["config", "show", "master.hostname"])
        .env("ALLUXIO_MASTER_HOSTNAME", "")
        .assert()
        .success()
        .stdout(contains("default"))
        .stderr("larder: warning: ALLUXIO_MASTER_HOSTNAME is empty and counts as not set\n");
}

#[test]
fn what_kubernetes_injects_is_passed_over() {
    let mut command = larder(&["config", "show", "--given"]);
    for service in ["", "_MASTER", "_WORKER", "_FUSE"] {
        for product in ["LARDER", "ALLUXIO"] {
            let name = format!("{product}{service}");
            command.env(format!("{name}_SERVICE_HOST"), "10.0.0.1");
            command.env(format!("{name}_SERVICE_PORT"), "19998");
            command.env(format!("{name}_SERVICE_PORT_RPC"), "19998");
            command.env(format!("{name}_PORT"), "tcp://10.0.0.1:19998");
            command.env(format!("{name}_PORT_19998_TCP"), "tcp://10.0.0.1:19998");
            command.env(format!("{name}_PORT_19998_TCP_PROTO"), "tcp");
            command.env(format!("{name}_PORT_19998_TCP_PORT"), "19998");
            command.env(format!("{name}_PORT_19998_TCP_ADDR"), "10.0.0.1");
        }
    }
    command.env("LARDER_TARBALL", "larder.tar.gz").assert().success().stdout("").stderr("");
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let output = Process::new("sh")
        .args(["-c", "{ \"$0\" config docs; echo \"code $?\" >&2; } | true"])
        .arg(assert_cmd::cargo::cargo_bin!("larder"))
        .env_remove("LARDER_BLESS")
        .stdout(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "code 0\n");
}

#[test]
fn a_full_disk_is_an_error() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output =
        Process::new(assert_cmd::cargo::cargo_bin!("larder")).env_clear().arg("version").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("larder: standard output: "));
}

#[test]
fn the_reference_is_the_one_in_the_docs() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    larder(&["config", "docs"]).assert().success().stdout(fs::read_to_string(kept).unwrap());
}

#[test]
fn shells_can_read_the_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let output = larder(&["completions", shell]).assert().success().get_output().clone();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("larder") && script.contains("completions"), "{shell}");
        if Process::new(shell).arg("-c").arg(":").output().is_ok() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("script");
            fs::write(&path, script).unwrap();
            let checked = Process::new(shell).arg("-n").arg(&path).output().unwrap();
            assert!(checked.status.success(), "{shell}: {}", String::from_utf8_lossy(&checked.stderr));
        }
    }
    larder(&["completions", "tcsh"]).assert().code(2);
}

#[test]
fn manual_pages_are_written() {
    larder(&["man"]).assert().success().stdout(contains(".TH larder 1").and(contains("Exit codes")));
    larder(&["man", "config", "show"]).assert().success().stdout(contains("given"));
    larder(&["man", "nonsense"]).assert().code(2).stderr(contains("nonsense"));
    let folder = tempfile::tempdir().unwrap();
    larder(&["man", "--dir", folder.path().to_str().unwrap()]).assert().success();
    assert!(folder.path().join("larder.1").exists() && folder.path().join("larder-config-show.1").exists());
    larder(&["man", "--dir", "/no/such"]).assert().code(3).stderr(contains("/no/such"));
}
