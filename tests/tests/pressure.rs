//! What a program has mapped keeps its bytes, however much the cache is pressed to evict: through a mount and through the library,
//! while everything runs, after `kill -9` of the mount's process, and of the worker, which starts again; on every kind of medium.
//!
//! The mappings are touched here for the first time where they are compared, so that a hole that was punched meanwhile would be
//! read as zeros, and a file that was cut as a bus error.

use std::{
    fs::{self, File},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use larder_client::{BlockSize, CreateOptions, FileSystem, View};
use larder_tests::{
    Cluster,
    mounts::Mount,
    skip::{needs_fuse, skip},
    trees,
};
use memmap2::Mmap;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

const MIB: usize = 1 << 20;
/// The length of each file; three of them and a bit fit into the tier.
const LENGTH: usize = 4 * MIB;
const QUOTA: &str = "16MB";
/// Mapped through the mount, the same and then freed, viewed through the library.
const FILES: [&str; 3] = ["mapped", "freed", "viewed"];
/// Files that are read to press the others out.
const CROWD: u64 = 8;

/// A ramfs, unmounted at its end.
struct Ramfs(TempDir);

impl Ramfs {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        mount(Some("ramfs"), directory.path(), Some("ramfs"), MsFlags::empty(), None::<&str>)?;
        Ok(Self(directory))
    }
}

impl Drop for Ramfs {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

/// A cluster with one tier, in a directory.
async fn cluster_on(medium: &str, directory: &Path) -> Result<Cluster> {
    let tier = format!("{medium}:{}:{QUOTA}", directory.display());
    // Without memory a worker makes no socket by itself.
    let socket = directory.join("socket").display().to_string();
    let mut cluster = Cluster::new()?
        .with("LARDER_WORKER_TIERS", &tier)
        // What was read last stays, and nothing else.
        .with("LARDER_WORKER_EVICTION_POLICY", "LRU")
        .with("LARDER_WORKER_DATA_SERVER_DOMAIN_SOCKET_ADDRESS", &socket);
    for number in 0..CROWD {
        fs::write(cluster.under().join(format!("crowd{number}")), trees::bytes(100 + number, LENGTH))?;
    }
    cluster.start_master()?;
    cluster.start_worker(0)?;
    let client = cluster.connect().await?;
    // A file of one block would go as a whole, by its name, and leave its mappings what they are; one of several is punched.
    let how = CreateOptions { block_size: Some(BlockSize::new(MIB as u64)?), ..CreateOptions::default() };
    for (seed, name) in (1..).zip(FILES) {
        client.write(format!("/{name}"), trees::bytes(seed, LENGTH), how.clone()).await?;
    }
    Ok(cluster)
}

/// Reads twice as much as fits, and looks at it.
async fn press(client: &FileSystem) -> Result<()> {
    for number in 0..CROWD {
        let read = client.read(format!("/crowd{number}")).await?;
        ensure!(read[..] == trees::bytes(100 + number, LENGTH)[..], "other bytes of crowd{number}");
    }
    Ok(())
}

/// What this program goes on reading: files that it has mapped through the mount and closed, and a view of the library.
struct Mapped {
    through_mount: Vec<Mmap>,
    view: View,
}

impl Mapped {
    async fn new(mount: &Mount, client: &FileSystem) -> Result<Self> {
        let map = |name: &&str| {
            let file = File::open(mount.at(name))?;
            // SAFETY: the under store's file stays as it is, and that the cache's does is what is tested.
            unsafe { Mmap::map(&file) }
        };
        let through_mount = FILES[..2].iter().map(map).collect::<Result<_, _>>()?;
        let viewed = client.open("/viewed").await?;
        let view = viewed.view(0..LENGTH as u64).await?;
        ensure!(view.is_mapped(), "the view is a copy: {:?}", viewed.served());
        Ok(Self { through_mount, view })
    }

    fn check(&self) -> Result<()> {
        let all = self.through_mount.iter().map(|map| &map[..]).zip(1..).chain([(&self.view[..], 3)]);
        for (bytes, seed) in all {
            ensure!(*bytes == trees::bytes(seed, LENGTH)[..], "{} has changed", FILES[seed as usize - 1]);
        }
        Ok(())
    }
}

/// Whether the kernel reads these files itself: only then it can go on without the mount's process.
fn is_passed_through(cluster: &Cluster, mount: &Mount) -> Result<bool> {
    for name in &FILES[..2] {
        let said = cluster.ok(&["fs", "location", &format!("/{name}")])?;
        if !said.contains("the kernel reads it itself") {
            let could = mount.part.log().contains("passthrough=true") && !said.contains("overlayfs");
            ensure!(!could, "the kernel does not read {name} itself: {said}");
            return Ok(false);
        }
    }
    Ok(true)
}

async fn mappings_stay(test: &str, medium: &str, directory: &Path) -> Result<()> {
    let mut cluster = cluster_on(medium, directory).await?;
    let mut mount = Mount::start(&cluster, &[])?;
    let client = cluster.connect().await?;
    let mut mapped = Mapped::new(&mount, &client).await?;
    let passed_through = is_passed_through(&cluster, &mount)?;
    press(&client).await?;
    mapped.check().context("while everything runs")?;
    // A file that is opened again while its mapping is left from before.
    ensure!(fs::read(mount.at("mapped"))? == trees::bytes(1, LENGTH), "another reader");
    cluster.ok(&["fs", "free", "/freed"])?;
    press(&client).await?;
    mapped.check().context("after it was freed")?;
    ensure!(fs::read(mount.at("freed"))? == trees::bytes(2, LENGTH), "another reader, after it was freed");

    if !passed_through {
        skip(test, "the kernel does not read cache files here, so a mapping ends with the mount's process");
        mapped.through_mount.clear();
    }
    mount.part.kill();
    press(&client).await?;
    mapped.check().context("after the mount was killed")?;

    cluster.kill_worker(0);
    cluster.start_worker(0)?;
    press(&cluster.connect().await?).await?;
    mapped.check().context("after the worker was killed and started again")?;
    drop(mapped);
    // As long as it is mounted the kernel keeps what its process has registered, and a client keeps what it had from a worker
    // that is gone for a while.
    drop((mount, client));
    are_evicted(&cluster).await
}

/// What nobody has any more goes: all this was pressure.
async fn are_evicted(cluster: &Cluster) -> Result<()> {
    let client = cluster.connect().await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    for name in FILES {
        while !cluster.ok(&["fs", "location", &format!("/{name}")])?.contains("not in the cache") {
            ensure!(Instant::now() < deadline, "{name} is never evicted");
            press(&client).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_mapped_stays_when_a_tmpfs_is_pressed_to_evict() -> Result<()> {
    let test = "what_is_mapped_stays_when_a_tmpfs_is_pressed_to_evict";
    if !needs_fuse(test) {
        return Ok(());
    }
    let directory = tempfile::Builder::new().prefix("larder-test-").tempdir_in("/dev/shm")?;
    mappings_stay(test, "MEM", directory.path()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_mapped_stays_when_a_ramfs_is_pressed_to_evict() -> Result<()> {
    let test = "what_is_mapped_stays_when_a_ramfs_is_pressed_to_evict";
    if !needs_fuse(test) {
        return Ok(());
    }
    let ramfs = Ramfs::new()?;
    mappings_stay(test, "MEM", ramfs.0.path()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_mapped_stays_when_a_disk_is_pressed_to_evict() -> Result<()> {
    let test = "what_is_mapped_stays_when_a_disk_is_pressed_to_evict";
    if !needs_fuse(test) {
        return Ok(());
    }
    let directory = tempfile::Builder::new().prefix("larder-test-").tempdir()?;
    mappings_stay(test, "SSD", directory.path()).await
}
