//! Every command of `larder fs`, `fsadmin report` and `runTests` once, on real processes over a real directory.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use larder_tests::{
    Cluster,
    processes::{larder, pause},
    trees,
};
use serde_json::Value;

const MIB: usize = 1 << 20;

/// A cluster over `/a.txt` (6 bytes), `/b.md` (4 bytes), `/d/one` (3 MiB) and `/d/e/two` (empty).
fn cluster() -> Result<Cluster> {
    let cluster = Cluster::start(1)?;
    let under = cluster.under();
    fs::write(under.join("a.txt"), "hello\n")?;
    fs::write(under.join("b.md"), "abc\n")?;
    fs::create_dir_all(under.join("d/e"))?;
    fs::write(under.join("d/one"), trees::bytes(1, 3 * MIB))?;
    fs::write(under.join("d/e/two"), "")?;
    Ok(cluster)
}

/// Runs a command that must end with this code; gives standard output and standard error.
fn ends(cluster: &Cluster, code: i32, arguments: &[&str]) -> Result<(String, String)> {
    let Output { status, stdout, stderr } = cluster.run(arguments)?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (stdout, stderr) = (text(stdout), text(stderr));
    ensure!(status.code() == Some(code), "larder {arguments:?} ended with {status}, not {code}: {stdout}{stderr}");
    Ok((stdout, stderr))
}

fn objects(text: &str) -> Result<Vec<Value>> {
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// The last column of every line.
fn paths(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.split_whitespace().last()).collect()
}

#[test]
fn listing_and_looking() -> Result<()> {
    let cluster = cluster()?;
    assert_eq!(paths(&cluster.ok(&["fs", "ls", "/"])?), ["/a.txt", "/b.md", "/d"]);
    let all = cluster.ok(&["fs", "ls", "-R", "--sort", "path", "/"])?;
    assert_eq!(paths(&all), ["/a.txt", "/b.md", "/d", "/d/e", "/d/e/two", "/d/one"]);
    let by_size = cluster.ok(&["fs", "ls", "-h", "--sort", "size", "-r", "/a.txt", "/d/one"])?;
    assert_eq!(paths(&by_size), ["/a.txt", "/d/one"], "each path is listed by itself");
    assert!(by_size.contains(" 3.00MB "), "{by_size}");
    let rows = objects(&cluster.ok(&["fs", "ls", "--json", "/"])?)?;
    assert_eq!(
        (&rows[0]["path"], &rows[0]["length"], &rows[2]["kind"]),
        (&"/a.txt".into(), &6.into(), &"directory".into())
    );
    let port = cluster.port();
    assert_eq!(paths(&cluster.ok(&["fs", "ls", &format!("alluxio://127.0.0.1:{port}/d/e")])?), ["/d/e/two"]);
    assert_eq!(paths(&cluster.ok(&["fs", "ls", "-d", "/d"])?), ["/d"]);

    let stat = cluster.ok(&["fs", "stat", "/a.txt"])?;
    assert!(stat.starts_with("/a.txt is a file path.\n") && stat.contains("PERSISTED"), "{stat}");
    assert_eq!(cluster.ok(&["fs", "stat", "-f", "%N %z", "/a.txt", "/b.md"])?, "a.txt 6\nb.md 4\n");
    let du = cluster.ok(&["fs", "du", "-s", "/"])?;
    assert!(du.lines().nth(1).is_some_and(|line| line.starts_with("3145738 ")), "{du}");
    let count = cluster.ok(&["fs", "count", "/"])?;
    let counted: Vec<_> = count.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(counted, ["4", "3", "3145738", "/"]);
    assert_eq!(cluster.ok(&["fs", "find", "/", "-name", "*.{txt,md}", "-size", "-5"])?, "/b.md\n");
    assert_eq!(cluster.ok(&["fs", "find", "/d", "--type", "f", "--empty"])?, "/d/e/two\n");
    for (letter, path, code) in [
        ("-d", "/d", 0),
        ("-d", "/a.txt", 1),
        ("-e", "/nope", 1),
        ("-f", "/a.txt", 0),
        ("-s", "/d/e/two", 1),
        ("-z", "/d/e/two", 0),
    ] {
        ends(&cluster, code, &["fs", "test", letter, path])?;
    }
    Ok(())
}

#[test]
fn reading() -> Result<()> {
    let cluster = cluster()?;
    assert_eq!(cluster.ok(&["fs", "cat", "/a.txt", "/b.md"])?, "hello\nabc\n");
    let one = cluster.run(&["fs", "cat", "/d/one"])?;
    assert!(one.stdout == trees::bytes(1, 3 * MIB), "/d/one differs");
    assert_eq!(cluster.ok(&["fs", "head", "-c", "2", "/a.txt"])?, "he");
    assert_eq!(cluster.ok(&["fs", "tail", "-c", "3", "/a.txt"])?, "lo\n");
    let sums = cluster.ok(&["fs", "checksum", "/a.txt"])?;
    assert_eq!(sums, "md5sum: b1946ac92492d2347c6235b4d2611184\ncrc32c: 353dd8be\n");
    // One that fails does not keep the others from being printed, and decides the code.
    let (out, err) = ends(&cluster, 3, &["fs", "cat", "/a.txt", "/nope", "/b.md"])?;
    assert_eq!(out, "hello\nabc\n");
    assert!(err.starts_with("larder: /nope: "), "{err}");
    let (_, err) = ends(&cluster, 1, &["fs", "cat", "/d"])?;
    assert!(err.contains("/d"), "{err}");
    Ok(())
}

#[test]
fn patterns() -> Result<()> {
    let cluster = cluster()?;
    assert_eq!(cluster.ok(&["fs", "cat", "/[ab].*"])?, "hello\nabc\n");
    assert_eq!(paths(&cluster.ok(&["fs", "ls", "/{d/*,a.t?t}"])?), ["/d/e/two", "/d/one", "/a.txt"]);
    assert_eq!(cluster.ok(&["fs", "stat", "-f", "%p", "/*/*/two"])?, "/d/e/two\n");
    let (_, err) = ends(&cluster, 3, &["fs", "rm", "/*.none"])?;
    assert_eq!(err, "larder: /*.none: no match\n");
    fs::write(cluster.under().join("a[1]"), "bracket")?;
    fs::write(cluster.under().join("a1"), "plain")?;
    assert_eq!(cluster.ok(&["fs", "cat", "/a\\[1\\]"])?, "bracket");
    assert_eq!(cluster.ok(&["fs", "cat", "/a[1]"])?, "plain");
    Ok(())
}

#[test]
fn names_of_any_bytes() -> Result<()> {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let cluster = cluster()?;
    let name = OsStr::from_bytes(b"\xff\n");
    fs::write(cluster.under().join(name), "strange")?;
    let mut path = std::ffi::OsString::from("/");
    path.push(name);
    let run = |arguments: &[&OsStr]| {
        let mut command = Command::new(larder());
        command.env_clear().envs(cluster.settings()).arg("fs").args(arguments).stdin(Stdio::null()).output()
    };
    assert_eq!(run(&[OsStr::new("cat"), &path])?.stdout, b"strange");
    assert_eq!(
        run(&[OsStr::new("find"), OsStr::new("/"), OsStr::new("-print0"), OsStr::new("-size"), OsStr::new("7")])?
            .stdout,
        b"/\xff\n\0"
    );
    let rows = objects(&cluster.ok(&["fs", "ls", "--json", "/?\n"])?)?;
    assert_eq!(rows[0]["path"], "/\\xff\\n");
    Ok(())
}

#[test]
fn making_moving_removing() -> Result<()> {
    let cluster = cluster()?;
    let under = cluster.under();
    cluster.ok(&["fs", "mkdir", "/new/deep"])?;
    assert!(under.join("new/deep").is_dir());
    ends(&cluster, 1, &["fs", "mkdir", "/new"])?;
    cluster.ok(&["fs", "mkdir", "-p", "/new"])?;
    assert_eq!(cluster.ok(&["fs", "touch", "/new/f"])?, "/new/f has been created\n");
    assert_eq!(cluster.ok(&["fs", "touch", "/new/f"])?, "/new/f has been touched\n");
    assert_eq!(fs::read(under.join("new/f"))?, b"");
    assert_eq!(cluster.ok(&["fs", "mv", "/a.txt", "/new"])?, "Renamed /a.txt to /new/a.txt\n");
    assert_eq!(fs::read(under.join("new/a.txt"))?, b"hello\n");
    ends(&cluster, 1, &["fs", "mv", "/b.md", "/new/a.txt"])?;
    cluster.ok(&["fs", "ln", "/b.md", "/hard"])?;
    cluster.ok(&["fs", "ln", "-s", "/new/a.txt", "/sym"])?;
    assert_eq!(cluster.ok(&["fs", "cat", "/hard", "/sym"])?, "abc\nhello\n");
    assert_eq!(fs::metadata(under.join("b.md"))?.nlink(), 2);

    cluster.ok(&["fs", "chmod", "640", "/b.md"])?;
    assert_eq!(fs::metadata(under.join("b.md"))?.permissions().mode() & 0o777, 0o640);
    cluster.ok(&["fs", "chmod", "-R", "go-rwx", "/new"])?;
    assert_eq!(cluster.ok(&["fs", "stat", "-f", "%a", "/new/a.txt"])?, "600\n");
    if nix::unistd::geteuid().is_root() {
        cluster.ok(&["fs", "chown", "-R", "7:8", "/new"])?;
        cluster.ok(&["fs", "chgrp", "9", "/b.md"])?;
        assert_eq!((fs::metadata(under.join("new/a.txt"))?.uid(), fs::metadata(under.join("b.md"))?.gid()), (7, 9));
    }

    ends(&cluster, 1, &["fs", "rm", "/d"])?;
    ends(&cluster, 5, &["fs", "rm", "-R", "/"])?;
    let said = cluster.ok(&["fs", "rm", "--cache-only", "-R", "/d"])?;
    assert!(said.contains("stay") && under.join("d/one").exists(), "{said}");
    let said = cluster.ok(&["fs", "rm", "-R", "/d"])?;
    assert!(said.contains(&format!("in the under store too ({}", under.join("d").display())), "{said}");
    assert!(!under.join("d").exists());
    cluster.ok(&["fs", "rm", "-f", "/d", "/nope/*"])?;
    Ok(())
}

#[test]
fn copying() -> Result<()> {
    let cluster = cluster()?;
    let local = tempfile::tempdir()?;
    let here = |name: &str| local.path().join(name).to_string_lossy().into_owned();
    trees::write_files(&local.path().join("tree"), 25, 10_000)?;
    fs::write(here("tree/large"), trees::bytes(99, 5 * MIB))?;
    cluster.ok(&["fs", "copyFromLocal", &here("tree"), "/tree"])?;
    assert!(trees::files(&cluster.under().join("tree"))? == trees::files(Path::new(&here("tree")))?);
    cluster.ok(&["fs", "copyToLocal", "/tree", &here("back")])?;
    assert!(trees::files(Path::new(&here("back")))? == trees::files(Path::new(&here("tree")))?);

    ends(&cluster, 1, &["fs", "cp", "/tree", "/copy"])?;
    cluster.ok(&["fs", "cp", "-R", "/tree", "/copy"])?;
    cluster.ok(&["fs", "cp", "-R", "/copy/large", &format!("file://{}", here("large"))])?;
    assert!(fs::read(here("large"))? == trees::bytes(99, 5 * MIB));
    cluster.ok(&["fs", "cp", &format!("file://{}", here("large")), "/d"])?;
    assert!(fs::read(cluster.under().join("d/large"))? == trees::bytes(99, 5 * MIB));
    ends(&cluster, 1, &["fs", "cp", "/a.txt", "/b.md"])?;
    cluster.ok(&["fs", "cp", "-f", "/a.txt", "/b.md"])?;
    assert_eq!(fs::read(cluster.under().join("b.md"))?, b"hello\n");
    ends(&cluster, 2, &["fs", "cp", "-R", "/d", "/d/e"])?;
    ends(&cluster, 3, &["fs", "copyFromLocal", &here("nope"), "/x"])?;
    ends(&cluster, 1, &["fs", "copyToLocal", "/a.txt", &here("large")])?;

    let mut child = Command::new(larder());
    child
        .env_clear()
        .envs(cluster.settings())
        .args(["fs", "copyFromLocal", "-", "/piped"])
        .stdin(fs::File::open(here("large"))?);
    ensure!(child.output()?.status.success(), "standard input was not taken");
    assert!(cluster.run(&["fs", "copyToLocal", "/piped", "-"])?.stdout == trees::bytes(99, 5 * MIB));
    Ok(())
}

#[test]
fn a_deadline_after_the_cluster_was_reached_is_124() -> Result<()> {
    let cluster = cluster()?;
    let mut command = Command::new(larder());
    command.env_clear().envs(cluster.settings()).args(["--timeout", "1s", "fs", "copyFromLocal", "-", "/never"]);
    let started = std::time::Instant::now();
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // Held open, so that the end of standard input never comes.
    let _open = child.stdin.take();
    assert_eq!(child.wait()?.code(), Some(124));
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "it took {:?}", started.elapsed());
    ends(&cluster, 1, &["fs", "test", "-e", "/never"])?;
    Ok(())
}

#[test]
fn caching() -> Result<()> {
    let cluster = cluster()?;
    let blocks = |path: &str| objects(&cluster.ok(&["fs", "location", "--json", path])?);
    assert_eq!(blocks("/d/one")?[0]["worker"], Value::Null);
    let loaded = objects(&cluster.ok(&["fs", "load", "--wait", "--json", "/"])?)?;
    assert_eq!(
        (&loaded[0]["files"], &loaded[0]["bytes_done"], &loaded[0]["failures"]),
        (&4.into(), &3_145_738.into(), &0.into())
    );
    let block = &blocks("/d/one")?[0];
    assert_eq!((&block["tier"], &block["short_circuit"]), (&"MEM".into(), &true.into()), "{block}");
    let said = cluster.ok(&["fs", "location", "/d/one"])?;
    assert!(said.starts_with("/d/one: 1 block, 1 in the cache, 1 by short circuit from here\n"), "{said}");
    assert!(cluster.ok(&["fs", "load", "/d/one"])?.contains("cached before"));

    cluster.ok(&["fs", "pin", "/d"])?;
    assert_eq!(cluster.ok(&["fs", "find", "/", "-pinned", "-type", "d"])?, "/d\n");
    cluster.ok(&["fs", "unpin", "/d"])?;
    cluster.ok(&["fs", "free", "/d"])?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while blocks("/d/one")?[0]["worker"] != Value::Null {
        ensure!(std::time::Instant::now() < deadline, "it is never freed");
        pause();
    }

    cluster.ok(&["fs", "setTtl", "--action", "free", "/a.txt", "12h"])?;
    let row = &objects(&cluster.ok(&["fs", "stat", "--json", "/a.txt"])?)?[0];
    assert_eq!((&row["ttl_ms"], &row["ttl_action"]), (&43_200_000.into(), &"FREE".into()));
    cluster.ok(&["fs", "unsetTtl", "/a.txt"])?;
    cluster.ok(&["fs", "setReplication", "-R", "-min", "1", "/d"])?;
    let rows = objects(&cluster.ok(&["fs", "stat", "--json", "/a.txt", "/d/one"])?)?;
    assert_eq!((&rows[0]["ttl_ms"], &rows[1]["replication_min"]), (&Value::Null, &1.into()));
    cluster.ok(&["fs", "setPolicy", "/d", "uniform"])?;
    let (_, said) = ends(&cluster, 2, &["fs", "setPolicy", "/d", "s3fifo"])?;
    assert!(said.contains("worker.eviction.policy"), "{said}");
    cluster.ok(&["fs", "setPolicy", "/d", "default"])?;

    cluster.ok(&["-Duser.file.writetype.default=MUST_CACHE", "fs", "cp", "/a.txt", "/cached"])?;
    assert!(!cluster.under().join("cached").exists());
    cluster.ok(&["fs", "persist", "--wait", "/cached"])?;
    assert_eq!(fs::read(cluster.under().join("cached"))?, b"hello\n");
    Ok(())
}

#[test]
fn mounting() -> Result<()> {
    let cluster = cluster()?;
    let other = tempfile::tempdir()?;
    fs::write(other.path().join("inner"), "inside\n")?;
    let uri = other.path().to_string_lossy().into_owned();
    cluster.ok(&["fs", "mount", "--readonly", "/m", &uri])?;
    assert_eq!(cluster.ok(&["fs", "cat", "/m/inner"])?, "inside\n");
    let mounts = objects(&cluster.ok(&["fs", "mount", "--json"])?)?;
    assert_eq!((mounts.len(), &mounts[1]["path"], &mounts[1]["read_only"]), (2, &"/m".into(), &true.into()));
    ends(&cluster, 5, &["fs", "touch", "/m/x"])?;
    let (_, err) = ends(&cluster, 5, &["fs", "rm", "-R", "/m"])?;
    assert!(err.contains("larder fs unmount /m"), "{err}");
    cluster.ok(&["fs", "unmount", "/m"])?;
    ends(&cluster, 3, &["fs", "cat", "/m/inner"])?;
    assert!(other.path().join("inner").exists());
    Ok(())
}

#[test]
fn reports_and_the_self_test() -> Result<()> {
    let cluster = cluster()?;
    let summary = cluster.ok(&["fsadmin", "report"])?;
    assert!(summary.contains("1 live, 0 lost") && summary.contains("used of 256MB"), "{summary}");
    assert!(cluster.ok(&["fsadmin", "report", "capacity"])?.contains("MEM"));
    assert!(cluster.ok(&["fsadmin", "report", "workers"])?.contains(" live "));
    let report = &objects(&cluster.ok(&["fsadmin", "report", "--json"])?)?[0];
    assert_eq!((&report["capacity"], &report["mounts"][0]["path"]), (&(256 << 20).into(), &"/".into()));

    let said = cluster.ok(&["runTests"])?;
    assert_eq!(said.lines().filter(|line| line.starts_with("PASSED")).count(), 48, "{said}");
    assert!(said.contains("\nPassed: 48 steps, 0 skipped"), "{said}");
    assert!(!cluster.under().join("default_tests_files").exists(), "it tidies up");
    ends(&cluster, 1, &["fs", "test", "-e", "/default_tests_files"])?;
    Ok(())
}

#[test]
fn commands_do_not_wait_for_those_before_them() -> Result<()> {
    let cluster = cluster()?;
    let started = std::time::Instant::now();
    for number in 0..4 {
        cluster.ok(&["fs", "ls", "/"])?;
        cluster.ok(&["fs", "cp", "-R", "/d", &format!("/copy{number}")])?;
    }
    // A client that ends without a goodbye makes the next one wait for its lease, ten seconds.
    let took = started.elapsed();
    assert!(took < std::time::Duration::from_secs(9), "eight commands took {took:?}");
    Ok(())
}

#[test]
fn a_local_cluster_in_the_background_is_started_shown_and_stopped() -> Result<()> {
    let home = tempfile::tempdir()?;
    let here = |name: &str| home.path().join(name).to_string_lossy().into_owned();
    let (under, state) = (here("under"), here("state"));
    fs::create_dir(&under)?;
    fs::write(home.path().join("under/file"), "content")?;
    let run = |arguments: &[&str]| -> Result<(Option<i32>, String)> {
        let output = Command::new(larder())
            .args(arguments)
            .env_clear()
            .env("XDG_RUNTIME_DIR", home.path())
            .env("LARDER_WORKER_TIERS", format!("MEM:{}:64MB", home.path().display()))
            .output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    };
    // Others may run on this machine at the same time, so the under store is always named.
    let status = ["local", "--status", "--json", "--ufs", &under];
    let stop = ["local", "--stop", "--ufs", &under];
    assert_eq!(run(&status)?.0, Some(4), "nothing runs");
    let start = ["local", "--ufs", &under, "--state", &state, "--background"];
    let (code, said) = run(&start)?;
    assert!(code == Some(0) && said.contains(&under) && said.contains("--stop"), "{code:?} {said}");
    let (code, said) = run(&status)?;
    assert_eq!(code, Some(0), "{said}");
    let shown: Value = serde_json::from_str(&said)?;
    let master = shown["master"].as_str().context("its address")?;
    assert_eq!(run(&["fs", "--master", master, "cat", "/file"])?.1, "content");
    let (code, said) = run(&start)?;
    assert!(code != Some(0) && said.contains("before it was ready"), "its state is taken: {code:?} {said}");
    let (code, said) = run(&stop)?;
    assert!(code == Some(0) && said.contains("stopped"), "{code:?} {said}");
    assert_eq!(run(&status)?.0, Some(4));
    assert_eq!(run(&stop)?.0, Some(0), "nothing to stop is no failure");
    Ok(())
}
