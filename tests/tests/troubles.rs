//! What bad surroundings get: wrong settings, directories that are missing, full or too small, bytes that flip. Each ends in
//! a message that names the thing, the reason and the fix.

use std::{fs, os::unix::fs::FileExt, path::Path, time::Duration};

use anyhow::Result;
use larder_client::{CreateOptions, ErrorKind, WriteType, XattrMode};
use larder_tests::{Cluster, skip, trees};

const MIB: usize = 1 << 20;

fn must_cache() -> CreateOptions {
    CreateOptions { write_type: Some(WriteType::MustCache), ..CreateOptions::default() }
}

/// The error of a part that does not come up.
fn refused(result: Result<()>) -> String {
    result.expect_err("it must not start").to_string()
}

#[test]
fn a_wrong_setting_stops_a_server_and_names_the_nearest() -> Result<()> {
    let mut cluster = Cluster::new()?.with("LARDER_MASTER_SAFEMODE_WIAT", "3s");
    let message = refused(cluster.start_master());
    assert!(
        message.contains("LARDER_MASTER_SAFEMODE_WIAT") && message.contains("LARDER_MASTER_SAFEMODE_WAIT"),
        "{message}"
    );
    let mut cluster = Cluster::new()?.with("LARDER_MASTER_SESSION_LEASE", "soon");
    let message = refused(cluster.start_master());
    assert!(message.contains("soon"), "{message}");
    Ok(())
}

#[test]
fn a_missing_under_store_is_named_and_not_made() -> Result<()> {
    let mut cluster = Cluster::new()?;
    fs::remove_dir(cluster.under())?;
    let message = refused(cluster.start_master());
    assert!(message.contains(&*cluster.under().to_string_lossy()), "{message}");
    assert!(!cluster.under().exists());
    Ok(())
}

#[test]
fn a_second_master_on_the_same_journal_is_refused() -> Result<()> {
    let mut cluster = Cluster::new()?;
    cluster.start_master()?;
    let output = cluster.run(&["master", "--set", "master.rpc.port=0"])?;
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && message.contains("journal"), "{message}");
    Ok(())
}

#[test]
fn a_tier_that_does_not_fit_is_refused_with_the_fix() -> Result<()> {
    let mut cluster = Cluster::new()?;
    fs::create_dir_all(cluster.memory(0))?;
    let tier = format!("MEM:{}:900TB", cluster.memory(0).display());
    cluster = cluster.with("LARDER_WORKER_TIERS", &tier);
    cluster.start_master()?;
    let message = refused(cluster.start_worker(0));
    assert!(message.contains("900") && message.contains(&*cluster.memory(0).to_string_lossy()), "{message}");
    Ok(())
}

/// A small file system of its own, unmounted at the end. `None` where mounting is refused.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(test: &str, at: &Path, megabytes: u32) -> Result<Option<Self>> {
        if !skip::needs_root(test) {
            return Ok(None);
        }
        fs::create_dir_all(at)?;
        let options = format!("size={megabytes}m");
        let flags = nix::mount::MsFlags::empty();
        match nix::mount::mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options.as_str())) {
            Ok(()) => Ok(Some(Self(at.to_owned()))),
            Err(error) => {
                skip::skip(test, &format!("cannot mount a tmpfs: {error}"));
                Ok(None)
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Processes that still use it let go of it with their end.
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_journal_disk_stops_changes_and_not_reads() -> Result<()> {
    let mut cluster = Cluster::new()?;
    let Some(_small) = Small::mount("a_full_journal_disk_stops_changes_and_not_reads", &cluster.journal(), 72)? else {
        return Ok(());
    };
    fs::write(cluster.under().join("there"), "content")?;
    cluster.start_master()?;
    cluster.start_worker(0)?;
    let client = cluster.connect().await?;
    assert_eq!(&client.read("/there").await?[..], b"content");
    client.write("/f", "", must_cache()).await?;
    let mut failed = None;
    for number in 0..5000u32 {
        let value = trees::bytes(u64::from(number), 60_000);
        if let Err(error) = client.set_xattr("/f", b"user.large", value, XattrMode::Any).await {
            failed = Some(error);
            break;
        }
    }
    let error = failed.expect("the journal's disk has 72 MB");
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert_eq!(&client.read("/there").await?[..], b"content", "reads go on");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_under_store_is_told_to_the_writer() -> Result<()> {
    let mut cluster = Cluster::new()?;
    let Some(_small) = Small::mount("a_full_under_store_is_told_to_the_writer", &cluster.under(), 8)? else {
        return Ok(());
    };
    cluster.start_master()?;
    cluster.start_worker(0)?;
    let client = cluster.connect().await?;
    let options = || CreateOptions { write_type: Some(WriteType::CacheThrough), ..CreateOptions::default() };
    client.write("/fits", trees::bytes(1, MIB), options()).await?;
    let error = client.write("/big", trees::bytes(2, 20 * MIB), options()).await.expect_err("8 MB are full");
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert_eq!(client.status("/big").await.expect_err("never committed").kind(), ErrorKind::NotFound);
    assert!(client.read("/fits").await?[..] == trees::bytes(1, MIB)[..]);
    client.write("/after", trees::bytes(3, MIB), options()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_under_store_refuses_changes_by_name() -> Result<()> {
    let mut cluster = Cluster::new()?.with("LARDER_MASTER_MOUNT_READONLY", "true");
    fs::write(cluster.under().join("there"), "content")?;
    cluster.start_master()?;
    cluster.start_worker(0)?;
    let client = cluster.connect().await?;
    assert_eq!(&client.read("/there").await?[..], b"content");
    for error in [
        client.write("/new", "x", CreateOptions::default()).await.expect_err("read-only"),
        client.remove("/there", larder_client::RemoveOptions::default()).await.expect_err("read-only"),
    ] {
        assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    }
    assert_eq!(fs::read_dir(cluster.under())?.count(), 1, "not even a directory of Larder's own");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_the_cache_is_never_served_after_a_restart() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let content = trees::bytes(4, 3 * MIB);
    fs::write(cluster.under().join("f"), &content)?;
    let client = cluster.connect().await?;
    assert!(client.read("/f").await?[..] == content[..]);
    cluster.kill_worker(0);
    let flipped = flip_all(&cluster.memory(0), &content[MIB..MIB + 64])?;
    assert!(flipped > 0, "the cached bytes were not found");
    cluster.start_worker(0)?;
    let client = cluster.connect().await?;
    assert!(client.read("/f").await?[..] == content[..], "a flipped byte was served");
    Ok(())
}

/// Flips a byte wherever these bytes lie in a file below a directory.
fn flip_all(directory: &Path, needle: &[u8]) -> Result<usize> {
    let mut flipped = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            flipped += flip_all(&entry.path(), needle)?;
        } else if entry.file_type()?.is_file() {
            let bytes = fs::read(entry.path())?;
            if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
                let file = fs::OpenOptions::new().write(true).open(entry.path())?;
                file.write_all_at(&[bytes[at] ^ 1], at as u64)?;
                flipped += 1;
            }
        }
    }
    Ok(flipped)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_under_store_that_goes_away_is_an_error_in_bounded_time() -> Result<()> {
    let cluster = Cluster::start(1)?;
    fs::write(cluster.under().join("f"), trees::bytes(1, MIB))?;
    let client = cluster.connect().await?;
    client.status("/f").await?;
    let aside = cluster.under().with_extension("aside");
    fs::rename(cluster.under(), &aside)?;
    let started = std::time::Instant::now();
    let result = client.write("/g", "x", CreateOptions::default()).await;
    assert!(started.elapsed() < Duration::from_secs(30), "it took {:?}", started.elapsed());
    fs::rename(&aside, cluster.under())?;
    if result.is_ok() {
        assert_eq!(fs::read(cluster.under().join("g"))?, b"x", "what was acknowledged is in the under store");
    }
    Ok(())
}
