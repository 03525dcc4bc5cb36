//! How mounts come and go, by whom, and what they say of themselves; names that the kernel keeps.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use larder_tests::{
    Cluster,
    mounts::Mount,
    processes::{free_port, larder, pause},
    skip::{needs_fuse, needs_helper},
    trees,
};

/// An ordinary user, who owns nothing.
const NOBODY: u32 = 65534;
/// So long an end may take that waits for nobody.
const AT_ONCE: Duration = Duration::from_secs(3);

/// What a command says that an ordinary user runs.
fn as_nobody(command: &mut Command) -> Result<Output> {
    Ok(command.uid(NOBODY).gid(NOBODY).current_dir("/").stdin(Stdio::null()).output()?)
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn an_ordinary_user_mounts_and_unmounts_with_the_helper() -> Result<()> {
    const TEST: &str = "an_ordinary_user_mounts_and_unmounts_with_the_helper";
    if !needs_helper(TEST) {
        return Ok(());
    }
    if !as_nobody(Command::new(larder()).arg("version")).is_ok_and(|output| output.status.success()) {
        larder_tests::skip::skip(TEST, "another user may not run the binary where it lies");
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    fs::write(cluster.under().join("f"), "content")?;
    fs::create_dir(cluster.under().join("free"))?;
    fs::set_permissions(cluster.under().join("free"), fs::Permissions::from_mode(0o777))?;
    for by_larder in [true, false] {
        let mut mount = Mount::start_as(Some(NOBODY), &cluster, &[])?;
        let read = as_nobody(Command::new("cat").arg(mount.at("f")))?;
        assert_eq!(text(&read), "content");
        let copied = as_nobody(Command::new("cp").arg(mount.at("f")).arg(mount.at("free/g")))?;
        ensure!(copied.status.success(), "{}", text(&copied));
        assert_eq!(fs::read(cluster.under().join("free/g"))?, b"content");
        assert!(File::open(mount.at("f")).is_err(), "without allow_other it is his alone");
        let mut unmount = match by_larder {
            true => Command::new(larder()),
            false => Command::new("fusermount3"),
        };
        match by_larder {
            true => unmount.args(["fuse", "--unmount"]).arg(mount.path()),
            false => unmount.arg("-u").arg(mount.path()),
        };
        let unmounted = as_nobody(unmount.env("HOME", mount.path().parent().unwrap_or(Path::new("/"))))?;
        ensure!(unmounted.status.success(), "{}", text(&unmounted));
        ends_at_once(&mut mount)?;
        as_nobody(Command::new("rm").arg(cluster.under().join("free/g")))?;
    }
    Ok(())
}

/// Waits for the end of a mount's process.
fn ends_at_once(mount: &mut Mount) -> Result<()> {
    let deadline = Instant::now() + AT_ONCE;
    while !mount.part.has_ended() {
        ensure!(Instant::now() < deadline, "it does not end; its log:\n{}", mount.part.log());
        pause();
    }
    Ok(())
}

#[test]
fn a_mount_ends_at_once_and_leaves_what_is_mounted_there_later() -> Result<()> {
    if !needs_fuse("a_mount_ends_at_once_and_leaves_what_is_mounted_there_later") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    fs::write(cluster.under().join("f"), trees::bytes(1, 100_000))?;
    for by_signal in [true, false] {
        let mut mount = Mount::start(&cluster, &[])?;
        assert_eq!(fs::read(mount.at("f"))?.len(), 100_000);
        let begun = Instant::now();
        match by_signal {
            true => mount.part.stop()?,
            false => mount.unmount()?,
        }
        assert!(begun.elapsed() < AT_ONCE, "it took {:?}", begun.elapsed());
        let log = mount.part.log();
        assert!(!log.contains("WARN") && !log.contains("umount"), "{log}");
        assert!(!mount.at("f").exists());
    }
    Ok(())
}

/// What a mount serves at its port for metrics.
fn metrics(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(AT_ONCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn counted(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
}

#[test]
fn a_mount_says_which_way_files_are_served_and_why_not_the_fastest() -> Result<()> {
    if !needs_fuse("a_mount_says_which_way_files_are_served_and_why_not_the_fastest") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    fs::write(cluster.under().join("f"), trees::bytes(1, 100_000))?;
    let port = free_port();
    let plain = [("LARDER_FUSE_KERNEL_FEATURES", "-passthrough"), ("LARDER_FUSE_WEB_PORT", &port.to_string())];
    let mut mount = Mount::start(&cluster, &plain)?;
    assert_eq!(fs::read(mount.at("f"))?.len(), 100_000);
    let all = metrics(port)?;
    assert!(counted(&all, "larder_open_total{path=\"direct\",reason=\"no passthrough\"}") > 0, "{all}");
    assert_eq!(counted(&all, "larder_fuse_reply_bytes_total{path=\"direct\"}"), 100_000, "{all}");
    assert_eq!(counted(&all, "larder_read_bytes_total{path=\"ufs\"}"), 100_000, "cold: {all}");
    assert_eq!(fs::read(mount.at("f"))?.len(), 100_000);
    let all = metrics(port)?;
    assert_eq!(counted(&all, "larder_read_bytes_total{path=\"local\"}"), 100_000, "warm: {all}");
    let said = cluster.ok(&["fs", "location", "/f"])?;
    assert!(said.contains("through the mount's process (direct: no passthrough)"), "{said}");
    // Not killed: changes would wait for the end of its session.
    mount.unmount()?;
    let port = free_port();
    let mount = Mount::start(&cluster, &[("LARDER_FUSE_WEB_PORT", &port.to_string())])?;
    if !mount.part.log().contains("passthrough=true") {
        return Ok(());
    }
    let open = File::open(mount.at("f"))?;
    let all = metrics(port)?;
    assert_eq!(counted(&all, "larder_open_total{path=\"passthrough\",reason=\"whole\"}"), 1, "{all}");
    assert_eq!(counted(&all, "larder_read_bytes_total{path=\"passthrough\"}"), 100_000, "{all}");
    let said = cluster.ok(&["fs", "location", "/f"])?;
    assert!(said.contains("the kernel reads it itself (passthrough)"), "{said}");
    drop(open);
    let mut writer = File::create(mount.at("g"))?;
    writer.write_all(b"x")?;
    let _reader = File::open(mount.at("g"))?;
    let all = metrics(port)?;
    assert_eq!(counted(&all, "larder_open_total{path=\"direct\",reason=\"being written\"}"), 1, "{all}");
    let json = cluster.ok(&["--json", "fs", "location", "/f"])?;
    assert!(json.contains("\"served\":\"passthrough\""), "{json}");
    Ok(())
}

fn names(directory: &Path) -> Result<BTreeSet<String>> {
    let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

#[test]
fn names_that_the_kernel_keeps_are_those_that_other_mounts_have_left() -> Result<()> {
    if !needs_fuse("names_that_the_kernel_keeps_are_those_that_other_mounts_have_left") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let (one, other) = (Mount::start(&cluster, &[])?, Mount::start(&cluster, &[])?);
    fs::create_dir(one.at("d"))?;
    for number in 0..300 {
        File::create(one.at(&format!("d/f{number}")))?;
    }
    for round in 0..30 {
        // Twice, so that the second one is answered from what is kept.
        assert_eq!(names(&other.at("d"))?, names(&other.at("d"))?);
        let (name, next) = (format!("d/f{round}"), format!("d/n{round}"));
        match round % 3 {
            0 => fs::remove_file(one.at(&name))?,
            1 => fs::rename(one.at(&name), one.at(&next))?,
            _ => drop(File::create(one.at(&next))?),
        }
        let expected = names(&cluster.under().join("d"))?;
        assert_eq!(names(&other.at("d"))?, expected, "round {round}, elsewhere");
        assert_eq!(names(&one.at("d"))?, expected, "round {round}, where it was changed");
        fs::write(cluster.under().join(format!("d/u{round}")), "from outside")?;
        let deadline = Instant::now() + AT_ONCE;
        while !names(&other.at("d"))?.contains(&format!("u{round}")) {
            ensure!(Instant::now() < deadline, "round {round}: what is new in the under store is not seen");
            pause();
        }
    }
    Ok(())
}

#[test]
fn a_mount_that_hangs_hides_no_other() -> Result<()> {
    if !needs_fuse("a_mount_that_hangs_hides_no_other") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    fs::write(cluster.under().join("f"), trees::bytes(1, 1000))?;
    let (hung, good) = (Mount::start(&cluster, &[])?, Mount::start(&cluster, &[])?);
    let process = nix::unistd::Pid::from_raw(i32::try_from(hung.part.id())?);
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGSTOP)?;
    let begun = Instant::now();
    let said = cluster.ok(&["fs", "location", "/f"]);
    let took = begun.elapsed();
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGCONT)?;
    let said = said?;
    let named = |mount: &Mount| {
        said.contains(&format!("mounted at {}:", mount.at("").display().to_string().trim_end_matches('/')))
    };
    assert!(named(&good) && !named(&hung), "{said}");
    assert!(took < Duration::from_secs(20), "it took {took:?}");
    Ok(())
}
