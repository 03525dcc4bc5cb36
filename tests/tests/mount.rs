//! Mounts of real clusters by real processes: what programs see, what the under store gets, what two mounts see of each other.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use larder_tests::{
    Cluster,
    mounts::{Mount, tree},
    processes::pause,
    skip::needs_fuse,
    trees,
};
use nix::sys::signal::Signal;
use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};

const MIB: usize = 1 << 20;

/// Waits for what an event outside makes true.
fn soon(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        ensure!(Instant::now() < deadline, "{what} did not become true");
        pause();
    }
    Ok(())
}

#[test]
fn a_mount_shows_the_under_store_and_the_under_store_gets_what_is_written() -> Result<()> {
    if !needs_fuse("a_mount_shows_the_under_store_and_the_under_store_gets_what_is_written") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let under = cluster.under();
    fs::create_dir(under.join("d"))?;
    fs::write(under.join("d/large"), trees::bytes(1, 9 * MIB))?;
    fs::write(under.join("small"), "small\n")?;
    symlink("d/large", under.join("link"))?;
    let mut mount = Mount::start(&cluster, &[])?;
    assert_eq!(tree(&mount.path())?, tree(&under)?);

    fs::create_dir_all(mount.at("new/below"))?;
    fs::write(mount.at("new/a"), "first")?;
    OpenOptions::new().append(true).open(mount.at("new/a"))?.write_all(b", second")?;
    fs::hard_link(mount.at("new/a"), mount.at("new/b"))?;
    symlink("a", mount.at("new/l"))?;
    fs::rename(mount.at("new/a"), mount.at("new/below/c"))?;
    fs::set_permissions(mount.at("new/b"), fs::Permissions::from_mode(0o640))?;
    OpenOptions::new().write(true).open(mount.at("d/large"))?.write_all_at(b"changed", 5 * MIB as u64)?;
    File::options().write(true).open(mount.at("small"))?.set_len(2)?;
    assert_eq!(fs::read(mount.at("new/below/c"))?, b"first, second");
    assert_eq!(fs::metadata(mount.at("new/b"))?.nlink(), 2);
    assert_eq!(tree(&mount.path())?, tree(&under)?, "what was written is in the under store when the file is closed");
    fs::remove_dir_all(mount.at("new"))?;
    assert!(!under.join("new").exists());
    mount.unmount()
}

#[test]
fn a_whole_file_is_read_by_the_kernel_while_the_mount_sleeps() -> Result<()> {
    if !needs_fuse("a_whole_file_is_read_by_the_kernel_while_the_mount_sleeps") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let content = trees::bytes(2, 3 * MIB);
    fs::write(cluster.under().join("f"), &content)?;
    let mount = Mount::start(&cluster, &[])?;
    if !mount.part.log().contains("passthrough=true") {
        larder_tests::skip::skip("a_whole_file_is_read_by_the_kernel_while_the_mount_sleeps", "the kernel has none");
        return Ok(());
    }
    let file = File::open(mount.at("f"))?;
    mount.signal(Signal::SIGSTOP)?;
    let (sender, read) = mpsc::channel();
    std::thread::spawn(move || {
        // No `fstat` first, which is a question to the process.
        let mut all = vec![0; 3 * MIB];
        let _ = sender.send(file.read_exact_at(&mut all, 0).map(|()| all));
    });
    let read = read.recv_timeout(Duration::from_secs(10));
    mount.signal(Signal::SIGCONT)?;
    assert!(read.context("it was not read without the process")?? == content);
    Ok(())
}

#[test]
fn without_the_kernel_s_newer_abilities_a_mount_works_too() -> Result<()> {
    if !needs_fuse("without_the_kernel_s_newer_abilities_a_mount_works_too") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let content = trees::bytes(3, 9 * MIB);
    fs::write(cluster.under().join("f"), &content)?;
    let mount = Mount::start(&cluster, &[("LARDER_FUSE_KERNEL_FEATURES", "none")])?;
    assert!(fs::read(mount.at("f"))? == content);
    let mut part = vec![0; 4096];
    File::open(mount.at("f"))?.read_exact_at(&mut part, 7_000_001)?;
    assert!(part == content[7_000_001..7_000_001 + 4096]);
    fs::write(mount.at("g"), &content)?;
    assert!(fs::read(cluster.under().join("g"))? == content);
    Ok(())
}

#[test]
fn two_mounts_see_each_other_s_changes_at_once() -> Result<()> {
    if !needs_fuse("two_mounts_see_each_other_s_changes_at_once") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let (one, other) = (Mount::start(&cluster, &[])?, Mount::start(&cluster, &[])?);
    for round in 0..20 {
        let text = "x".repeat(round + 1);
        fs::write(one.at("f"), &text)?;
        assert_eq!(fs::metadata(other.at("f"))?.len(), text.len() as u64, "round {round}");
        assert_eq!(fs::read_to_string(other.at("f"))?, text, "round {round}");
        fs::set_permissions(other.at("f"), fs::Permissions::from_mode(0o600 + round as u32 % 8))?;
        assert_eq!(fs::metadata(one.at("f"))?.mode() & 0o777, 0o600 + round as u32 % 8);
        fs::rename(other.at("f"), other.at("g"))?;
        assert!(fs::metadata(one.at("f")).is_err() && fs::metadata(one.at("g")).is_ok(), "round {round}");
        fs::remove_file(one.at("g"))?;
        assert!(fs::metadata(other.at("g")).is_err(), "round {round}");
    }
    Ok(())
}

#[test]
fn an_open_file_keeps_its_content_when_another_mount_writes_and_the_next_open_sees_the_new() -> Result<()> {
    if !needs_fuse("an_open_file_keeps_its_content_when_another_mount_writes_and_the_next_open_sees_the_new") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let (one, other) = (Mount::start(&cluster, &[])?, Mount::start(&cluster, &[])?);
    fs::write(one.at("f"), "old")?;
    let mut old = File::open(other.at("f"))?;
    let number = old.metadata()?.ino();
    fs::write(one.at("f"), "new content")?;
    assert_eq!(fs::read_to_string(other.at("f"))?, "new content");
    assert_eq!(fs::metadata(other.at("f"))?.ino(), number, "it is the same file");
    let mut text = String::new();
    old.read_to_string(&mut text)?;
    assert_eq!(text, "old");
    Ok(())
}

#[test]
fn an_open_file_without_a_name_can_be_read_and_written() -> Result<()> {
    if !needs_fuse("an_open_file_without_a_name_can_be_read_and_written") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let mount = Mount::start(&cluster, &[])?;
    fs::write(mount.at("f"), "before")?;
    let mut file = OpenOptions::new().read(true).write(true).open(mount.at("f"))?;
    fs::remove_file(mount.at("f"))?;
    assert_eq!((file.metadata()?.nlink(), file.metadata()?.len()), (0, 6));
    file.seek(SeekFrom::End(0))?;
    file.write_all(b" and after")?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.sync_all()?;
    let mut text = String::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_string(&mut text)?;
    assert_eq!(text, "before and after");
    drop(file);
    assert!(!cluster.under().join("f").exists());
    Ok(())
}

#[test]
fn a_stale_mount_is_cleaned_and_one_in_its_own_under_store_is_refused() -> Result<()> {
    if !needs_fuse("a_stale_mount_is_cleaned_and_one_in_its_own_under_store_is_refused") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    fs::write(cluster.under().join("f"), "f")?;
    let mut mount = Mount::start(&cluster, &[])?;
    let place = mount.path();
    let again = cluster.run(&["fuse", &place.to_string_lossy()])?;
    assert_eq!(again.status.code(), Some(1), "it is mounted already");
    mount.part.kill();
    soon("the mount is stale", || fs::metadata(&place).is_err())?;
    cluster.ok(&["fuse", "--background", &place.to_string_lossy()])?;
    assert_eq!(fs::read_to_string(place.join("f"))?, "f");
    cluster.ok(&["umount", &place.to_string_lossy()])?;
    let inside = cluster.under().join("inside");
    let refused = cluster.run(&["fuse", &inside.to_string_lossy()])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && said.contains("inside one another"), "{said}");
    Ok(())
}

#[test]
fn a_dataset_mount_reads_and_notices_what_changes_after_all() -> Result<()> {
    if !needs_fuse("a_dataset_mount_reads_and_notices_what_changes_after_all") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    fs::create_dir(cluster.under().join("d"))?;
    for number in 0..40 {
        fs::write(cluster.under().join(format!("d/{number}")), trees::bytes(number, 100_000))?;
    }
    let mount = Mount::start(&cluster, &[("LARDER_FUSE_PROFILE", "dataset")])?;
    let general = Mount::start(&cluster, &[])?;
    for _ in 0..2 {
        assert_eq!(fs::read_dir(mount.at("d"))?.count(), 40);
        for number in 0..40 {
            assert!(fs::read(mount.at(&format!("d/{number}")))? == trees::bytes(number, 100_000));
        }
    }
    assert!(fs::write(mount.at("d/new"), "x").is_err(), "it is read-only");
    fs::write(general.at("d/7"), "changed")?;
    soon("the change is seen", || fs::read(mount.at("d/7")).is_ok_and(|text| text == b"changed"))
}

/// One random step, done on the mount and on an ordinary directory.
fn step(random: &mut SmallRng, top: &Path, plan: &mut Vec<String>) -> Result<()> {
    let name = |number: u32| top.join(format!("f{number}"));
    let (file, other) = (random.random_range(0..6), random.random_range(0..6));
    let (offset, length) = (random.random_range(0..200_000u64), random.random_range(1..70_000usize));
    let kind = random.random_range(0..10);
    plan.push(format!("{kind} {file} {other} {offset} {length}"));
    let bytes = trees::bytes(random.next_u64(), length);
    // Whether it fails is seen in the tree: both sides do the same.
    let _ = match kind {
        0..3 => OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(name(file))
            .map(|f| f.write_all_at(&bytes, offset)),
        3 => OpenOptions::new().append(true).open(name(file)).map(|mut f| f.write_all(&bytes)),
        4 => OpenOptions::new().write(true).open(name(file)).map(|f| f.set_len(offset)),
        5 => fs::rename(name(file), name(other)).map(Ok),
        6 => fs::remove_file(name(file)).map(Ok),
        7 => fs::hard_link(name(file), name(other)).map(Ok),
        8 => fs::write(name(file), &bytes).map(Ok),
        _ => fs::copy(name(file), name(other)).map(|_| Ok(())),
    };
    Ok(())
}

#[test]
fn random_changes_by_several_threads_come_to_the_same_as_on_a_directory() -> Result<()> {
    if !needs_fuse("random_changes_by_several_threads_come_to_the_same_as_on_a_directory") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let mount = Mount::start(&cluster, &[])?;
    let plain = tempfile::tempdir()?;
    let run = |thread: u64| -> Result<()> {
        let (here, there) = (mount.at(&format!("t{thread}")), plain.path().join(format!("t{thread}")));
        fs::create_dir(&here)?;
        fs::create_dir(&there)?;
        let mut plan = Vec::new();
        for round in 0..12 {
            for number in 0..8 {
                let seed = thread * 1_000_000 + round * 1000 + number;
                step(&mut SmallRng::seed_from_u64(seed), &here, &mut plan)?;
                step(&mut SmallRng::seed_from_u64(seed), &there, &mut Vec::new())?;
            }
            ensure!(tree(&here)? == tree(&there)?, "{:#?}\n{:#?}\nafter {plan:#?}", tree(&here)?, tree(&there)?);
        }
        ensure!(tree(&cluster.under().join(format!("t{thread}")))? == tree(&there)?, "the under store is different");
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|thread| {
                scope.spawn({
                    let run = &run;
                    move || run(thread)
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })
}
