//! What is asked of mounts and of their under stores by commands: changing how one is mounted, where a file is, and what
//! still waits to be there.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use larder_client::{CreateOptions, ErrorKind, WriteType};
use larder_tests::Cluster;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

fn uri(path: &Path) -> String {
    format!("file://{}", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_is_changed_and_stays_so_over_a_restart() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let other = tempfile::tempdir()?;
    fs::write(other.path().join("f"), b"there")?;
    cluster.ok(&["fs", "mount", "/other", &other.path().to_string_lossy()])?;
    let client = cluster.connect().await?;
    client.write("/other/g", "first", CreateOptions::default()).await?;

    cluster.ok(&["fs", "updateMount", "--readonly", "--option", "freshness=2s", "/other"])?;
    let refused = client.write("/other/h", "x", CreateOptions::default()).await.expect_err("it takes no changes");
    assert_eq!(refused.kind(), ErrorKind::ReadOnly, "{refused}");
    cluster.kill_master();
    cluster.start_master()?;
    let client = cluster.connect().await?;
    let mounts = client.mounts().await?;
    let mounted = mounts.iter().find(|mount| mount.path.to_string() == "/other").expect("it is still there");
    assert!(mounted.read_only && mounted.options["freshness"] == "2s", "{mounted:?}");
    assert_eq!(client.read("/other/g").await?, "first");

    cluster.ok(&["fs", "updateMount", "--readwrite", "--option", "freshness=", "/other"])?;
    let mounts = client.mounts().await?;
    let mounted = mounts.iter().find(|mount| mount.path.to_string() == "/other").expect("it is still there");
    assert!(!mounted.read_only && mounted.options.is_empty(), "{mounted:?}");
    client.write("/other/h", "x", CreateOptions::default()).await?;
    assert_eq!(fs::read(other.path().join("h"))?, b"x");

    for (arguments, said) in [
        (vec!["fs", "updateMount", "--option", "freshness=soon", "/other"], "soon"),
        (vec!["fs", "updateMount", "--readonly", "/other/h"], "nothing is mounted here"),
        (vec!["fs", "updateMount", "--option", "s3.secretKey=x", "/other"], "is a secret"),
    ] {
        let output = cluster.run(&arguments)?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && errors.contains(said), "{arguments:?}: {errors}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_tells_where_the_under_store_has_a_file() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let (patch, base) = (tempfile::tempdir()?, tempfile::tempdir()?);
    fs::write(base.path().join("below"), b"base")?;
    fs::write(base.path().join("both"), b"base")?;
    fs::write(patch.path().join("both"), b"patch")?;
    let union = format!("/union={}:rw,{}:ro", patch.path().display(), base.path().display());
    cluster.ok(&["fs", "mount", "--union", &union])?;
    let which = |path: &str| cluster.ok(&["fs", "which", path]).map(|said| said.trim().to_owned());
    assert_eq!(which("/union/below")?, uri(&base.path().join("below")));
    assert_eq!(which("/union/both")?, uri(&patch.path().join("both")));
    let client = cluster.connect().await?;
    client.write("/plain", "x", CreateOptions::default()).await?;
    assert_eq!(which("/plain")?, uri(&cluster.under().join("plain")));
    let cached = CreateOptions { write_type: Some(WriteType::MustCache), ..CreateOptions::default() };
    client.write("/cached", "x", cached).await?;
    assert_eq!(which("/cached")?, format!("{} (not there yet)", uri(&cluster.under().join("cached"))));
    assert_eq!(cluster.run(&["fs", "which", "/nothing"])?.status.code(), Some(3));
    Ok(())
}

/// A file system that is full soon.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Option<Self> {
        let at = tempfile::tempdir().ok()?;
        let options = Some("size=1m");
        mount(Some("small"), at.path(), Some("tmpfs"), MsFlags::empty(), options).ok()?;
        Some(Self(at))
    }

    fn grow(&self) -> Result<()> {
        Ok(mount(Some("small"), self.0.path(), Some("tmpfs"), MsFlags::MS_REMOUNT, Some("size=16m"))?)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // What is still busy goes with its last user.
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_to_be_persisted_is_reported_with_its_reason() -> Result<()> {
    let Some(small) = Small::new() else {
        larder_tests::skip::skip(
            "what_waits_to_be_persisted_is_reported_with_its_reason",
            "a tmpfs cannot be mounted here",
        );
        return Ok(());
    };
    let cluster = Cluster::start(1)?;
    cluster.ok(&["fs", "mount", "/small", &small.0.path().to_string_lossy()])?;
    assert!(cluster.ok(&["fsadmin", "report", "persistence"])?.contains("Nothing waits"));
    let client = cluster.connect().await?;
    // Not ASYNC_THROUGH, whose answer waits for the under store where the tier does not last.
    let cached = CreateOptions { write_type: Some(WriteType::MustCache), ..CreateOptions::default() };
    client.write("/small/large", vec![7u8; 2 << 20], cached).await?;
    client.persist("/small/large", false).await?;
    let until = Instant::now() + Duration::from_secs(30);
    let report = loop {
        let report = client.persistence().await?;
        if report.pending.first().is_some_and(|file| file.tries > 1) {
            break report;
        }
        ensure!(Instant::now() < until, "{report:?}{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let file = &report.pending[0];
    assert_eq!((report.files, report.bytes), (1, 2 << 20));
    assert_eq!(file.path.as_ref().map(ToString::to_string).as_deref(), Some("/small/large"));
    let reason = file.reason.as_ref().expect("it failed").kind();
    assert_eq!(reason, ErrorKind::NoSpace, "{file:?}");
    let said = cluster.ok(&["fsadmin", "report", "persistence"])?;
    assert!(said.contains("1 files, 2.00MB") && said.contains("/small/large"), "{said}");
    small.grow()?;
    let said = cluster.ok(&["fs", "persist", "--wait", "/small"])?;
    assert!(said.contains("is persisted"), "{said}");
    assert_eq!(fs::metadata(small.0.path().join("large"))?.len(), 2 << 20);
    assert!(client.persistence().await?.oldest.is_none());
    drop(client);
    Ok(())
}
