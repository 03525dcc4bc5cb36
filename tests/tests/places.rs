//! Where a worker's tier may be: on a ramfs, under a cgroup's limit, in a `/dev/shm` of 64 MB, on an overlay, beside another
//! worker, and where an earlier one left its directory. What needs root, or a file system or cgroup that the kernel does not
//! give, is skipped with the reason.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use larder_client::{CreateOptions, FileSystem, TierReport, View, WriteType};
use larder_tests::{
    Cluster,
    processes::{after, among_own_mounts, larder, pause},
    skip, trees,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// How large each file is.
const FILE: u64 = 2 * MIB;
/// How many there are: three times what fits into [`QUOTA`].
const FILES: u64 = 24;
const QUOTA: u64 = 16 * MIB;

const USED: &str = "larder_cache_bytes{tier=\"MEM\",state=\"used\"}";
const EVICTED: &str = "larder_evicted_blocks_total";
const FETCHED: &str = "larder_fetched_blocks_total";
const FULL: &str = "larder_unkept_total{reason=\"full\"}";

/// A file system that is mounted as long as the test runs.
struct Mounted(TempDir);

impl Mounted {
    /// `None`, and said, where it cannot be mounted.
    fn new(test: &str, kind: &str, options: &str) -> Result<Option<Self>> {
        if !skip::needs_root(test) {
            return Ok(None);
        }
        let place = tempfile::Builder::new().prefix("larder-test-").tempdir()?;
        if let Err(error) = mount(Some(kind), place.path(), Some(kind), MsFlags::empty(), Some(options)) {
            skip::skip(test, &format!("mounting {kind} is refused here: {error}"));
            return Ok(None);
        }
        Ok(Some(Self(place)))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // It ends with the machine otherwise.
        let _ = umount2(self.path(), MntFlags::MNT_DETACH);
    }
}

/// A memory cgroup, of version 1 or 2. It goes when dropped, after its processes.
struct Group(PathBuf);

impl Group {
    /// With this limit; `None`, and said, where none can be made.
    fn new(test: &str, name: &str, limit: Option<u64>) -> Result<Option<Self>> {
        if !skip::needs_root(test) {
            return Ok(None);
        }
        match Self::make(name, limit) {
            Ok(group) => Ok(Some(group)),
            Err(error) => {
                skip::skip(test, &format!("no memory cgroup can be made here: {error:#}"));
                Ok(None)
            }
        }
    }

    fn make(name: &str, limit: Option<u64>) -> Result<Self> {
        let (v1, v2) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let is_v1 = v1.join("memory.limit_in_bytes").exists();
        let (root, file) = if is_v1 { (v1, "memory.limit_in_bytes") } else { (v2, "memory.max") };
        if !is_v1 {
            fs::write(root.join("cgroup.subtree_control"), "+memory").context("the memory controller")?;
        }
        let path = root.join(format!("larder-test-{}-{name}", std::process::id()));
        fs::create_dir(&path).context(path.display().to_string())?;
        let group = Self(path);
        if let Some(limit) = limit {
            fs::write(group.0.join(file), limit.to_string()).context(file)?;
        }
        Ok(group)
    }

    /// A command that runs its last arguments in it.
    fn within(&self) -> Vec<String> {
        after(&format!("echo $$ > {}", self.0.join("cgroup.procs").display()))
    }

    /// Bytes of a ramfs that are charged to it: nothing else here cannot be evicted by the kernel.
    fn ramfs_bytes(&self) -> Result<u64> {
        let text = fs::read_to_string(self.0.join("memory.stat"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("unevictable ")).context("no count of them")?;
        Ok(line.trim().parse()?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let until = Instant::now() + Duration::from_secs(5);
        // Its processes were killed, and are gone in a moment.
        while fs::remove_dir(&self.0).is_err() && Instant::now() < until {
            pause();
        }
    }
}

/// A cluster whose workers have this tier.
fn cluster(tier: &str) -> Result<Cluster> {
    // A policy that may turn to keeping what is there would not take what is read next.
    let mut cluster = Cluster::new()?.with("LARDER_WORKER_TIERS", tier).with("LARDER_WORKER_EVICTION_POLICY", "LRU");
    cluster.start_master()?;
    for n in 0..FILES {
        fs::write(cluster.under().join(format!("file{n}")), trees::bytes(n, FILE as usize))?;
    }
    Ok(cluster)
}

/// A MEM tier.
fn memory(directory: &Path, quota: u64) -> String {
    format!("MEM:{}:{quota}", directory.display())
}

fn written_as(write_type: WriteType) -> CreateOptions {
    CreateOptions { write_type: Some(write_type), ..CreateOptions::default() }
}

/// Bytes in place, which a program holds on to.
async fn viewed(client: &FileSystem, n: u64) -> Result<View> {
    Ok(client.open(format!("/file{n}")).await?.view(0..FILE).await?)
}

fn is_right(view: &View, n: u64) -> Result<()> {
    ensure!(view[..] == trees::bytes(n, FILE as usize)[..], "a program that reads file{n} sees something else");
    Ok(())
}

/// Reads all files, and writes as many new ones, each three times what fits into the tier.
async fn pass(client: &FileSystem, name: &str) -> Result<()> {
    for n in 0..FILES {
        let read = client.read(format!("/file{n}")).await?;
        ensure!(read[..] == trees::bytes(n, FILE as usize)[..], "file{n} has other bytes");
        let (path, content) = (format!("/{name}{n}"), trees::bytes(1000 + n, FILE as usize));
        client.write(&path, content.clone(), written_as(WriteType::CacheThrough)).await?;
        ensure!(client.read(&path).await?[..] == content[..], "{path} has other bytes");
    }
    Ok(())
}

/// The tier of the only worker, as the master has heard of it.
async fn tier(client: &FileSystem) -> Result<TierReport> {
    let worker = client.report().await?.workers.into_iter().find(|worker| worker.live).context("a worker is live")?;
    Ok(worker.tiers.first().context("a worker has a tier")?.clone())
}

/// What the first worker counts, now.
fn count(cluster: &Cluster, row: &str) -> Result<u64> {
    let state = cluster.under().with_file_name("state0");
    let text = cluster.ok(&["health", "--metrics", "worker", "--state", &state.to_string_lossy()])?;
    let value = text.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).with_context(|| format!("no {row} in {text}"))
}

/// The bytes of all files below a directory.
fn held(directory: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() {
            held(&entry.path())?
        } else {
            std::os::unix::fs::MetadataExt::blocks(&metadata) * 512
        };
    }
    Ok(sum)
}

/// What is read again and again is kept, though the tier was full of what others, and we ourselves, have read before.
async fn gets_in(client: &FileSystem, path: &str) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    while !client.locations(path).await?.iter().all(|block| block.short_circuit) {
        ensure!(Instant::now() < until, "{path} is never kept");
        client.read(path).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// While far more is read and written than the tier holds, a program that looks at some files goes on seeing their bytes, the
/// tier keeps its quota, and a worker that is killed and starts again has what it had.
async fn serves(cluster: &mut Cluster, directory: &Path) -> Result<()> {
    let client = cluster.connect().await?;
    let mut views = Vec::new();
    for n in 0..3 {
        let view = viewed(&client, n).await?;
        ensure!(view.is_mapped(), "file{n} is not read in place");
        views.push(view);
    }
    for name in ["first", "again"] {
        pass(&client, name).await.with_context(|| cluster.logs())?;
        views.iter().zip(0..).try_for_each(|(view, n)| is_right(view, n))?;
        let (used, held) = (count(cluster, USED)?, held(directory)?);
        ensure!(used <= QUOTA && held <= QUOTA, "{used} bytes are counted, {held} are held");
        let last = format!("/{name}{}", FILES - 1);
        gets_in(&client, &last).await.with_context(|| cluster.logs())?;
        ensure!(used > QUOTA / 2 && count(cluster, EVICTED)? > 0, "hardly anything is kept, or changes: {used}");
        cluster.kill_worker(0);
        cluster.start_worker(0)?;
        views.iter().zip(0..).try_for_each(|(view, n)| is_right(view, n))?;
        cluster.connect().await?.read(&last).await?;
        ensure!(count(cluster, FETCHED)? == 0, "what it had is fetched again");
    }
    views.iter().zip(0..).try_for_each(|(view, n)| is_right(view, n))
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_ramfs_files_go_whole_and_the_quota_is_kept() -> Result<()> {
    let test = "on_a_ramfs_files_go_whole_and_the_quota_is_kept";
    let Some(ramfs) = Mounted::new(test, "ramfs", "size=1G")? else { return Ok(()) };
    let mut cluster = cluster(&memory(ramfs.path(), QUOTA))?;
    cluster.start_worker(0)?;
    serves(&mut cluster, ramfs.path()).await?;
    let client = cluster.connect().await?;
    let said = tier(&client).await?.note.context("nothing is said of it")?;
    ensure!(said.contains("cannot punch holes") && said.contains("tmpfs"), "{said}");
    // As long as programs look at all that fits, nothing can make room: other files pass through and are not kept.
    let mut views = Vec::new();
    for n in 0..FILES {
        views.push(viewed(&client, n).await.with_context(|| cluster.logs())?);
    }
    views.iter().zip(0..).try_for_each(|(view, n)| is_right(view, n))?;
    let mapped = views.iter().filter(|view| view.is_mapped()).count();
    ensure!((4..=8).contains(&mapped), "{mapped} files are held in place in {QUOTA} bytes");
    ensure!(count(&cluster, FULL)? > 0, "no counter says why");
    ensure!(count(&cluster, USED)? <= QUOTA);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ramfs_is_charged_to_the_worker_whoever_fills_it() -> Result<()> {
    let test = "a_ramfs_is_charged_to_the_worker_whoever_fills_it";
    let Some(ramfs) = Mounted::new(test, "ramfs", "size=1G")? else { return Ok(()) };
    let Some(ours) = Group::new(test, "worker", None)? else { return Ok(()) };
    let Some(theirs) = Group::new(test, "client", None)? else { return Ok(()) };
    let mut cluster = cluster(&memory(ramfs.path(), QUOTA))?;
    cluster.start_worker_by(0, &ours.within())?;
    let (before, source) = (ours.ramfs_bytes()?, cluster.under().join("file7"));
    let copy = ["-D", "user.file.writetype.default=MUST_CACHE", "fs", "copyFromLocal"];
    for n in 0..3 {
        let by = theirs.within();
        let mut command = Command::new(&by[0]);
        command.args(&by[1..]).arg(larder()).args(copy).arg(&source).arg(format!("/written{n}"));
        command.env_clear().envs(cluster.settings()).stdin(Stdio::null());
        let output = command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).output()?;
        ensure!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stderr), cluster.logs());
    }
    let charged = ours.ramfs_bytes()?.saturating_sub(before);
    ensure!(charged >= 3 * FILE - MIB / 2, "the worker is charged with {charged} of {} bytes", 3 * FILE);
    ensure!(theirs.ramfs_bytes()? < MIB / 2, "the client is charged with {}", theirs.ramfs_bytes()?);
    // Nor does it take more than its quota when files that programs look at have lost their names.
    let client = cluster.connect().await?;
    let view = viewed(&client, 7).await?;
    pass(&client, "more").await?;
    let all = ours.ramfs_bytes()?;
    ensure!(all <= before + QUOTA + MIB, "{all} bytes are charged for a quota of {QUOTA}");
    is_right(&view, 7)
}

#[tokio::test(flavor = "multi_thread")]
async fn on_an_overlay_nobody_sees_holes_and_nothing_is_said_to_last() -> Result<()> {
    let test = "on_an_overlay_nobody_sees_holes_and_nothing_is_said_to_last";
    let Some(below) = Mounted::new(test, "tmpfs", "size=200m")? else { return Ok(()) };
    let part = |name: &str| {
        let part = below.path().join(name);
        fs::create_dir(&part).map(|()| part.display().to_string())
    };
    let options = format!("lowerdir={},upperdir={},workdir={}", part("lower")?, part("upper")?, part("work")?);
    let Some(overlay) = Mounted::new(test, "overlay", &options)? else { return Ok(()) };
    let mut cluster = cluster(&memory(overlay.path(), QUOTA))?;
    cluster.start_worker(0)?;
    serves(&mut cluster, overlay.path()).await?;
    let tier = tier(&cluster.connect().await?).await?;
    ensure!(!tier.lasting, "a container's own layer goes with it: {tier:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_above_the_cgroup_s_limit_is_refused_and_none_is_asked_for_that_would_kill() -> Result<()> {
    let test = "a_quota_above_the_cgroup_s_limit_is_refused_and_none_is_asked_for_that_would_kill";
    const LIMIT: u64 = 300 * MIB;
    let Some(group) = Group::new(test, "limit", Some(LIMIT))? else { return Ok(()) };
    let Some(tmpfs) = Mounted::new(test, "tmpfs", "size=2g")? else { return Ok(()) };
    let mut cluster = cluster(&memory(tmpfs.path(), 512 * MIB))?;
    let (code, said) = cluster.refused_worker(0, &group.within())?;
    ensure!(
        code == 2 && said.contains("512MB") && said.contains("300MB") && said.contains("--memory"),
        "{code}: {said}"
    );
    cluster.environment = vec![("LARDER_WORKER_TIERS".into(), format!("MEM:{}", tmpfs.path().display()))];
    cluster.start_worker_by(0, &group.within())?;
    let client = cluster.connect().await?;
    let tier = tier(&client).await?;
    ensure!(tier.capacity == LIMIT / 10 * 8, "{tier:?}");
    // More than the kernel would let it take.
    let content = trees::bytes(1, 40 << 20);
    for n in 0..10 {
        client.write(format!("/large{n}"), content.clone(), written_as(WriteType::CacheThrough)).await?;
        ensure!(client.read(format!("/large{n}")).await?[..] == content[..]);
    }
    let part = cluster.workers[0].as_mut().context("it was started")?;
    ensure!(!part.has_ended(), "the kernel has killed it: {}", part.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dev_shm_of_64_megabytes_is_refused_or_made_do_with() -> Result<()> {
    let test = "a_dev_shm_of_64_megabytes_is_refused_or_made_do_with";
    if !skip::needs_root(test) {
        return Ok(());
    }
    let small = among_own_mounts("mount -t tmpfs -o size=64m shm /dev/shm");
    let mut cluster = cluster("MEM:/dev/shm:1GB")?;
    let (code, said) = cluster.refused_worker(0, &small)?;
    ensure!(code == 2 && said.contains("/dev/shm") && said.contains("64.0MB"), "{code}: {said}");
    ensure!(said.contains("--shm-size=1g"), "{said}");
    cluster.environment = vec![("LARDER_WORKER_TIERS".into(), "MEM:/dev/shm".into())];
    cluster.start_worker_by(0, &small)?;
    let client = cluster.connect().await?;
    pass(&client, "small").await.with_context(|| cluster.logs())?;
    let tier = tier(&client).await?;
    // Half of one that others use too, as on a host; most of a container's own.
    ensure!((32 * MIB..=52 * MIB).contains(&tier.capacity) && !tier.lasting, "{tier:?}");
    ensure!((8 * MIB..=tier.capacity).contains(&count(&cluster, USED)?));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_another_worker_its_quota_counts_and_what_it_leaves_is_taken_over() -> Result<()> {
    let test = "beside_another_worker_its_quota_counts_and_what_it_leaves_is_taken_over";
    let Some(tmpfs) = Mounted::new(test, "tmpfs", "size=100m")? else { return Ok(()) };
    let mut cluster = cluster(&memory(tmpfs.path(), 60 * MIB))?;
    cluster.start_worker(0)?;
    let (code, said) = cluster.refused_worker(1, &after("true"))?;
    ensure!(code == 2 && said.contains("60.0MB promised to others") && said.contains("-o size=120m"), "{code}: {said}");
    cluster.environment = vec![("LARDER_WORKER_TIERS".into(), format!("MEM:{}", tmpfs.path().display()))];
    cluster.start_worker(1)?;
    let client = cluster.connect().await?;
    let mut capacities: Vec<_> = client.report().await?.workers.iter().map(|w| w.tiers[0].capacity).collect();
    capacities.sort_unstable();
    ensure!(capacities == [40 * MIB / 10 * 8, 60 * MIB], "{capacities:?}");
    let content = trees::bytes(5, FILE as usize);
    for n in 0..6 {
        client.write(format!("/only{n}"), content.clone(), written_as(WriteType::MustCache)).await?;
    }
    // One of them never comes back. The other one takes over what lies beside its own when it starts next.
    cluster.kill_worker(0);
    cluster.kill_worker(1);
    cluster.start_worker(1)?;
    let client = cluster.connect().await?;
    for n in 0..6 {
        let read = client.read(format!("/only{n}")).await.with_context(|| cluster.logs())?;
        ensure!(read[..] == content[..], "/only{n} has other bytes");
    }
    ensure!(fs::read_dir(tmpfs.path())?.flatten().filter(|entry| entry.path().is_dir()).count() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_cluster_left_goes_unless_it_is_nowhere_else() -> Result<()> {
    let directory = tempfile::Builder::new().prefix("larder-test-").tempdir_in("/dev/shm")?;
    let homes = || -> Result<usize> {
        Ok(fs::read_dir(directory.path())?.flatten().filter(|entry| entry.path().is_dir()).count())
    };
    let start = |cluster: &mut Cluster| -> Result<()> {
        cluster.kill_master();
        cluster.start_master()?;
        cluster.start_worker(0)
    };
    let (mut one, mut two) = (cluster(&memory(directory.path(), QUOTA))?, cluster(&memory(directory.path(), QUOTA))?);
    start(&mut one)?;
    one.connect().await?.read("/file1").await?;
    one.kill_worker(0);
    start(&mut two)?;
    ensure!(homes()? == 1, "what the other cluster can fetch again is kept");
    let (client, content) = (two.connect().await?, trees::bytes(7, FILE as usize));
    client.write("/only", content.clone(), written_as(WriteType::MustCache)).await?;
    two.kill_worker(0);
    start(&mut one)?;
    ensure!(homes()? == 2, "what was nowhere else is gone: {}", one.logs());
    ensure!(one.connect().await?.read("/file2").await?[..] == trees::bytes(2, FILE as usize)[..]);
    let report = one.ok(&["fsadmin", "report"])?;
    ensure!(report.contains("1 file of 2.00MB that is nowhere else"), "{report}");
    ensure!(report.contains(&directory.path().display().to_string()), "{report}");
    one.kill_worker(0);
    start(&mut two)?;
    ensure!(two.connect().await?.read("/only").await?[..] == content[..], "it is not what it was");
    ensure!(homes()? == 1, "what the first one can fetch again is kept");
    Ok(())
}
