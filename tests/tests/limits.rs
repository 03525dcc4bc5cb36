//! Mounts of files that are larger than the tier, and in processes that run out of descriptors: right bytes, at the cost that was
//! promised.

use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use larder_tests::{Cluster, mounts::Mount, processes::pause, skip::needs_fuse, trees};
use memmap2::Mmap;

const MIB: u64 = 1 << 20;

/// A cluster with a tier of so many MiB.
fn small_tier(mib: u64) -> Result<Cluster> {
    let mut cluster = Cluster::new()?;
    fs::create_dir_all(cluster.memory(0))?;
    let tier = format!("MEM:{}:{mib}MB", cluster.memory(0).display());
    cluster = cluster.with("LARDER_WORKER_TIERS", &tier);
    cluster.start_master()?;
    cluster.start_worker(0)?;
    Ok(cluster)
}

/// What the files below a directory take on their medium.
fn taken(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(status) if status.is_dir() => taken(&entry.path()),
        Ok(status) => status.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

/// What is at an offset of a sparse file, once in each of these steps; all else is zero.
const STEP: u64 = 16 * MIB;

fn word(offset: u64) -> [u8; 8] {
    (offset ^ 0x5bd1_e995_97f4_a7c1).to_le_bytes()
}

/// A sparse file with some words.
fn sparse(path: &Path, length: u64) -> Result<()> {
    let file = File::create(path)?;
    file.set_len(length)?;
    (0..length).step_by(STEP as usize).try_for_each(|at| Ok(file.write_all_at(&word(at), at)?))
}

/// Whether these are the bytes from an offset on.
fn is_right(bytes: &[u8], at: u64) -> bool {
    let zeros = match at.is_multiple_of(STEP) {
        true if bytes[..8] == word(at) => &bytes[8..],
        true => return false,
        false => bytes,
    };
    zeros.iter().all(|byte| *byte == 0)
}

#[test]
fn a_sparse_file_larger_than_the_tier_is_scanned_and_the_tier_does_not_grow() -> Result<()> {
    if !needs_fuse("a_sparse_file_larger_than_the_tier_is_scanned_and_the_tier_does_not_grow") {
        return Ok(());
    }
    let (quota, length) = (32 * MIB, 160 * MIB);
    let cluster = small_tier(quota / MIB)?;
    sparse(&cluster.under().join("f"), length)?;
    let mount = Mount::start(&cluster, &[])?;
    let fits = || {
        let taken = taken(&cluster.memory(0));
        ensure!(taken <= quota, "the tier has grown to {taken} bytes");
        Ok(())
    };
    let file = File::open(mount.at("f"))?;
    let mut buffer = vec![0; MIB as usize];
    for at in (0..length).step_by(MIB as usize) {
        file.read_exact_at(&mut buffer, at)?;
        ensure!(is_right(&buffer, at), "other bytes are read at {at}");
        fits()?;
    }
    // SAFETY: nobody cuts the file.
    let map = unsafe { Mmap::map(&file)? };
    for at in (0..length).step_by(MIB as usize) {
        ensure!(is_right(&map[at as usize..(at + MIB) as usize], at), "other bytes are mapped at {at}");
        fits()?;
    }
    let under = fs::metadata(cluster.under().join("f"))?;
    ensure!(under.blocks() * 512 < 2 * MIB, "the under store's file is not sparse any more");
    Ok(())
}

/// What is written to a sparse file takes room there, also if it is zeros: so the bytes that go to the under store are counted.
#[test]
fn fsync_after_4_kib_of_a_file_of_1_gib_costs_what_is_dirty() -> Result<()> {
    if !needs_fuse("fsync_after_4_kib_of_a_file_of_1_gib_costs_what_is_dirty") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let under = cluster.under().join("f");
    sparse(&under, 1024 * MIB)?;
    let before = fs::metadata(&under)?;
    let mount = Mount::start(&cluster, &[])?;
    let file = OpenOptions::new().read(true).write(true).open(mount.at("f"))?;
    for round in 0..4 {
        let (at, part) = (700 * MIB + round * 5 * MIB + 77, trees::bytes(round + 1, 4096));
        file.write_all_at(&part, at)?;
        file.sync_data()?;
        let mut found = vec![0; 4096];
        File::open(&under)?.read_exact_at(&mut found, at)?;
        ensure!(found == part, "round {round} is not in the under store");
    }
    let after = fs::metadata(&under)?;
    ensure!(after.ino() == before.ino() && after.len() == before.len(), "it was written as a whole");
    let written = (after.blocks() - before.blocks()) * 512;
    ensure!(written < MIB, "{written} bytes were written for 16 KiB");
    Ok(())
}

/// More files are open than there are descriptors, and half of them are too large to be kept mapped.
#[test]
fn a_mount_without_descriptors_reads_right() -> Result<()> {
    if !needs_fuse("a_mount_without_descriptors_reads_right") {
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let length = |seed: u64| if seed.is_multiple_of(2) { 3000 } else { 1_200_000 };
    for seed in 0..90 {
        fs::write(cluster.under().join(format!("f{seed}")), trees::bytes(seed, length(seed)))?;
    }
    for features in ["all", "none"] {
        let settings = [("LARDER_FUSE_KERNEL_FEATURES", features)];
        let mut mount = Mount::start_with_descriptors(64, &cluster, &settings)?;
        let mut open = Vec::new();
        for seed in 0..90 {
            let begun = Instant::now();
            let failed = || format!("f{seed} with {features}:\n{}", mount.part.log());
            let mut file = File::open(mount.at(&format!("f{seed}"))).with_context(failed)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).with_context(failed)?;
            ensure!(bytes == trees::bytes(seed, length(seed)), "f{seed} has other bytes, with {features}");
            ensure!(begun.elapsed() < Duration::from_secs(20), "f{seed} took {:?}, with {features}", begun.elapsed());
            open.push(file);
        }
        for (seed, file) in (0..).zip(&open) {
            let mut bytes = vec![0; length(seed)];
            file.read_exact_at(&mut bytes, 0).with_context(|| format!("f{seed}, again, with {features}"))?;
            ensure!(bytes == trees::bytes(seed, length(seed)), "f{seed}, while all are open, with {features}");
        }
        drop(open);
        mount.unmount()?;
    }
    Ok(())
}

/// The orphans that a cluster keeps in its under store.
fn orphans(under: &Path) -> Vec<PathBuf> {
    let Ok(clusters) = fs::read_dir(under.join(".larder")) else { return Vec::new() };
    let folders = clusters.flatten().filter_map(|cluster| fs::read_dir(cluster.path().join("orphans")).ok());
    folders.flat_map(|folder| folder.flatten().map(|entry| entry.path())).collect()
}

/// Reads a file from one offset to another.
fn check(file: &File, from: u64, to: u64) -> Result<()> {
    let mut buffer = vec![0; MIB as usize];
    for at in (from..to).step_by(MIB as usize) {
        file.read_exact_at(&mut buffer, at).with_context(|| format!("at {at}"))?;
        ensure!(is_right(&buffer, at), "other bytes at {at}");
    }
    Ok(())
}

#[test]
fn a_partly_cached_file_is_read_to_its_end_through_a_mount_after_it_has_gone() -> Result<()> {
    if !needs_fuse("a_partly_cached_file_is_read_to_its_end_through_a_mount_after_it_has_gone") {
        return Ok(());
    }
    let cluster = small_tier(24)?;
    let (under, length) = (cluster.under(), 80 * MIB);
    let names = ["removed", "replaced", "renamed-over", "removed-here", "left"];
    names.iter().try_for_each(|name| sparse(&under.join(name), length))?;
    let (mut one, other) = (Mount::start(&cluster, &[])?, Mount::start(&cluster, &[])?);
    let gone = |what: &str| {
        let deadline = Instant::now() + Duration::from_secs(40);
        while !orphans(&under).is_empty() {
            ensure!(Instant::now() < deadline, "{what}: {:?} stay", orphans(&under));
            pause();
        }
        Ok(())
    };
    for name in names {
        let open = File::open(one.at(name))?;
        check(&open, 0, 2 * MIB).with_context(|| format!("{name}, at first"))?;
        match name {
            "replaced" => fs::write(other.at(name), "new")?,
            "renamed-over" => {
                fs::write(other.at("beside"), "new")?;
                fs::rename(other.at("beside"), other.at(name))?;
            }
            "removed-here" => fs::remove_file(one.at(name))?,
            _ => fs::remove_file(other.at(name))?,
        }
        let now = fs::read_to_string(one.at(name)).ok();
        ensure!(
            now.as_deref() == name.starts_with("re").then_some("new").filter(|_| under.join(name).exists()),
            "{name}"
        );
        check(&open, 0, length).with_context(|| format!("{name}, after it has gone"))?;
        if name == "left" {
            // Nobody says that it is closed.
            one.part.kill();
        }
        drop(open);
        gone(name)?;
    }
    Ok(())
}
