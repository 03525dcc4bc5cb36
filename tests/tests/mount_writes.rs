//! Writes through a mount: in place, at the cost of what has changed, seen at once by who has the file open on the same mount.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use larder_tests::{Cluster, mounts::Mount, skip::needs_fuse, trees};
use nix::fcntl::copy_file_range;

const MIB: usize = 1 << 20;

/// Waits a moment, so that a time that is taken anew would be another one.
fn moment() {
    let (_sender, never) = std::sync::mpsc::channel::<()>();
    let _ = never.recv_timeout(Duration::from_millis(30));
}

#[test]
fn fsync_of_a_large_file_writes_what_is_dirty_into_the_very_object() -> Result<()> {
    if !needs_fuse("fsync_of_a_large_file_writes_what_is_dirty_into_the_very_object") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let under = cluster.under().join("f");
    // From 64 MiB on a small change is never written as a whole: another test that starts a process closes a copy of our
    // descriptor with it, which commits.
    let mut content = trees::bytes(1, 65 * MIB);
    fs::write(&under, &content)?;
    let inode = fs::metadata(&under)?.ino();
    let mount = Mount::start(&cluster, &[])?;
    let file = OpenOptions::new().read(true).write(true).open(mount.at("f"))?;
    for round in 0..3 {
        let (at, part) = (round * 13 * MIB + 5, trees::bytes(9 + round as u64, 4096));
        file.write_all_at(&part, at as u64)?;
        content[at..at + 4096].copy_from_slice(&part);
        file.sync_data()?;
        assert!(fs::read(&under)? == content, "round {round}");
        let now = fs::metadata(&under)?.ino();
        assert_eq!(now, inode, "it was written as a whole in round {round}");
    }
    file.set_len(7)?;
    file.write_all_at(b"longer again", 5)?;
    file.sync_all()?;
    content.truncate(5);
    content.extend_from_slice(b"longer again");
    assert!(fs::read(&under)? == content && fs::read(mount.at("f"))? == content);
    Ok(())
}

#[test]
fn whoever_has_a_file_open_on_the_same_mount_sees_what_is_written_at_once() -> Result<()> {
    if !needs_fuse("whoever_has_a_file_open_on_the_same_mount_sees_what_is_written_at_once") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    for features in ["all", "none"] {
        let mut mount = Mount::start(&cluster, &[("LARDER_FUSE_KERNEL_FEATURES", features)])?;
        let seen = see_what_is_written(&mount, features);
        seen.with_context(|| format!("with {features}:\n{}\n{}", mount.part.log(), cluster.logs()))?;
        assert_eq!(fs::read(cluster.under().join(features))?, b"cut");
        // One that is killed is waited for by whoever changes what it knows.
        mount.unmount()?;
    }
    Ok(())
}

/// Reads a file while it is changed.
fn see_what_is_written(mount: &Mount, name: &str) -> Result<()> {
    fs::write(mount.at(name), trees::bytes(2, 3 * MIB))?;
    let reader = File::open(mount.at(name))?;
    let seen = |at: usize, length: usize| -> Result<(Vec<u8>, u64)> {
        let mut bytes = vec![0; length];
        reader.read_exact_at(&mut bytes, at as u64)?;
        Ok((bytes, reader.metadata()?.len()))
    };
    seen(0, 9)?;
    let number = reader.metadata()?.ino();
    for round in 0..3usize {
        let text = format!("round {round}");
        let mut file = OpenOptions::new().read(round == 1).append(true).open(mount.at(name))?;
        let length = file.metadata()?.len() as usize;
        file.write_all(text.as_bytes())?;
        let all = length + text.len();
        ensure!(seen(length, text.len())? == (text.clone().into_bytes(), all as u64), "not committed");
        file.sync_all()?;
        ensure!(seen(length, text.len())? == (text.clone().into_bytes(), all as u64), "committed");
        drop(file);
        ensure!(seen(length, text.len())? == (text.into_bytes(), all as u64), "closed");
        ensure!(reader.metadata()?.ino() == number, "it is the same file");
    }
    fs::write(mount.at(name), "cut")?;
    ensure!(seen(0, 3)? == (b"cut".to_vec(), 3), "it was cut");
    ensure!(fs::read(mount.at(name))? == b"cut", "another reader");
    drop(reader);
    ensure!(fs::read(mount.at(name))? == b"cut", "with nobody beside");
    Ok(())
}

#[test]
fn the_times_of_a_file_are_those_of_the_change_and_not_of_the_close() -> Result<()> {
    if !needs_fuse("the_times_of_a_file_are_those_of_the_change_and_not_of_the_close") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let mount = Mount::start(&cluster, &[])?;
    let times = |status: fs::Metadata| (status.mtime(), status.mtime_nsec(), status.ctime(), status.ctime_nsec());
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(mount.at("f"))?;
    for (round, sync) in [false, true, false].into_iter().enumerate() {
        file.write_all(b"something")?;
        let written = times(file.metadata()?);
        moment();
        if sync {
            file.sync_all()?;
            // What is on the disk already changes nothing.
            file.sync_all()?;
        }
        file = {
            drop(file);
            OpenOptions::new().append(true).open(mount.at("f"))?
        };
        assert_eq!(times(fs::metadata(mount.at("f"))?), written, "round {round}");
        let under = fs::metadata(cluster.under().join("f"))?;
        assert_eq!((under.mtime(), under.mtime_nsec()), (written.0, written.1), "round {round}");
    }
    Ok(())
}

#[test]
fn a_file_that_outgrows_the_tier_is_written_all_the_same() -> Result<()> {
    if !needs_fuse("a_file_that_outgrows_the_tier_is_written_all_the_same") {
        return Ok(());
    }
    let mut cluster = Cluster::new()?;
    fs::create_dir_all(cluster.memory(0))?;
    let tier = format!("MEM:{}:16MB", cluster.memory(0).display());
    cluster = cluster.with("LARDER_WORKER_TIERS", &tier);
    cluster.start_master()?;
    cluster.start_worker(0)?;
    let content = trees::bytes(4, 40 * MIB);
    {
        let mut mount = Mount::start(&cluster, &[])?;
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(mount.at("f"))?;
        for part in content.chunks(MIB) {
            file.write_all(part)?;
        }
        file.sync_all()?;
        assert!(fs::read(cluster.under().join("f"))? == content);
        file.write_all(b"more")?;
        drop(file);
        assert!(fs::read(cluster.under().join("f"))?.ends_with(b"more"));
        OpenOptions::new().write(true).open(mount.at("f"))?.set_len(3)?;
        assert!(fs::read(mount.at("f"))? == content[..3]);
        mount.unmount()?;
    }
    // What is nowhere else has no other place to go.
    let mount = Mount::start(&cluster, &[("LARDER_USER_FILE_WRITETYPE_DEFAULT", "MUST_CACHE")])?;
    let full = File::create(mount.at("g")).and_then(|mut file| file.write_all(&content).and_then(|()| file.sync_all()));
    ensure!(full.as_ref().is_err_and(|e| e.raw_os_error() == Some(nix::errno::Errno::ENOSPC as i32)), "{full:?}");
    Ok(())
}

#[test]
fn what_was_written_before_the_worker_was_killed_is_committed_when_it_is_back() -> Result<()> {
    if !needs_fuse("what_was_written_before_the_worker_was_killed_is_committed_when_it_is_back") {
        return Ok(());
    }
    let mut cluster = Cluster::start(1)?;
    let mut content = trees::bytes(6, 5 * MIB);
    fs::write(cluster.under().join("f"), &content)?;
    let mount = Mount::start(&cluster, &[])?;
    let file = OpenOptions::new().read(true).write(true).open(mount.at("f"))?;
    file.write_all_at(b"before", 0)?;
    cluster.kill_worker(0);
    let began = std::time::Instant::now();
    ensure!(file.sync_all().is_err(), "there is nobody who could");
    ensure!(began.elapsed() < Duration::from_secs(30), "it took {:?}", began.elapsed());
    file.write_all_at(b"while it is away", 100)?;
    cluster.start_worker(0)?;
    file.write_all_at(b"after", 200)?;
    file.sync_all().with_context(|| format!("{}\n{}", mount.part.log(), cluster.logs()))?;
    content[..6].copy_from_slice(b"before");
    content[100..116].copy_from_slice(b"while it is away");
    content[200..205].copy_from_slice(b"after");
    assert!(fs::read(cluster.under().join("f"))? == content);
    drop(file);
    assert!(fs::read(mount.at("f"))? == content);
    Ok(())
}

#[test]
fn two_mounts_write_one_file_in_turns_and_lose_nothing() -> Result<()> {
    if !needs_fuse("two_mounts_write_one_file_in_turns_and_lose_nothing") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let (one, other) = (Mount::start(&cluster, &[])?, Mount::start(&cluster, &[])?);
    fs::write(one.at("log"), "")?;
    let open = |mount: &Mount| OpenOptions::new().append(true).open(mount.at("log"));
    let (mut first, mut second) = (open(&one)?, open(&other)?);
    let mut expected = String::new();
    for round in 0..6 {
        let (file, name) = if round % 2 == 0 { (&mut first, "one") } else { (&mut second, "other") };
        let line = format!("{name} {round}\n");
        // The other has not closed: its lines are committed when this one asks for the file.
        file.write_all(line.as_bytes())?;
        expected.push_str(&line);
    }
    drop((first, second));
    assert_eq!(fs::read_to_string(one.at("log"))?, expected);
    assert_eq!(fs::read_to_string(other.at("log"))?, expected);
    assert_eq!(fs::read_to_string(cluster.under().join("log"))?, expected);
    Ok(())
}

#[test]
fn a_range_of_a_file_is_copied_within_it_also_while_the_kernel_reads_it() -> Result<()> {
    if !needs_fuse("a_range_of_a_file_is_copied_within_it_also_while_the_kernel_reads_it") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let mut content = trees::bytes(5, MIB);
    fs::write(cluster.under().join("f"), &content)?;
    let mount = Mount::start(&cluster, &[])?;
    let (from, to) = (File::open(mount.at("f"))?, OpenOptions::new().write(true).open(mount.at("f"))?);
    let refused = copy_file_range(&from, Some(&mut 0), &to, Some(&mut 1000), 5000);
    assert_eq!(refused, Err(nix::errno::Errno::EINVAL), "the ranges meet");
    let (mut start, mut end) = (0, 600_000);
    while start < 300_000 {
        let rest = 300_000 - start as usize;
        let copied = copy_file_range(&from, Some(&mut start), &to, Some(&mut end), rest)?;
        ensure!(copied > 0, "nothing was copied at {start}");
    }
    content.copy_within(0..300_000, 600_000);
    drop((from, to));
    assert!(fs::read(mount.at("f"))? == content && fs::read(cluster.under().join("f"))? == content);
    let other = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(mount.at("g"))?;
    let source = File::open(mount.at("f"))?;
    let mut copied = 0;
    while copied < content.len() as i64 {
        let mut at = copied;
        ensure!(copy_file_range(&source, Some(&mut copied), &other, Some(&mut at), MIB)? > 0, "at {copied}");
    }
    drop(other);
    assert!(fs::read(cluster.under().join("g"))? == content);
    Ok(())
}

/// The kernel hands stores in a mapping to us by any handle that is mapped, also by one that only appends.
#[test]
fn what_is_stored_in_a_mapping_of_an_append_handle_stays_at_its_place() -> Result<()> {
    if !needs_fuse("what_is_stored_in_a_mapping_of_an_append_handle_stays_at_its_place") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    for features in ["all", "none"] {
        let mut mount = Mount::start(&cluster, &[("LARDER_FUSE_KERNEL_FEATURES", features)])?;
        let mut content = trees::bytes(8, 100_000);
        fs::write(mount.at(features), &content)?;
        let mut file = OpenOptions::new().read(true).append(true).open(mount.at(features))?;
        // SAFETY: nobody truncates the file.
        let mut map = unsafe { memmap2::MmapMut::map_mut(&file)? };
        map[5000..5006].copy_from_slice(b"stored");
        map.flush()?;
        file.write_all(b"appended")?;
        map[70_000..70_005].copy_from_slice(b"again");
        drop((map, file));
        content[5000..5006].copy_from_slice(b"stored");
        content[70_000..70_005].copy_from_slice(b"again");
        content.extend_from_slice(b"appended");
        let found = fs::read(mount.at(features))?;
        ensure!(found == content, "with {features}: {} bytes instead of {}", found.len(), content.len());
        ensure!(fs::read(cluster.under().join(features))? == content, "with {features}, in the under store");
        mount.unmount()?;
    }
    Ok(())
}
