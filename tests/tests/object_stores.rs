//! A cluster over services: a real S3 server is mounted, written, read, listed and changed through all parts, and by
//! others behind their back; secrets stay where they were given.

#[path = "../../ufs/tests/servers/mod.rs"]
mod servers;

use std::{fs, path::Path, time::Duration};

use anyhow::Result;
use larder_client::{
    CreateOptions, ErrorKind, FileSystem, FreeOptions, MountOptions, RemoveOptions, RenameOptions, WriteType,
};
use larder_tests::{Cluster, processes::list_all, trees};
use servers::{Bucket, Server};

const MIB: usize = 1 << 20;

struct Site {
    cluster: Cluster,
    client: FileSystem,
    bucket: Bucket,
    server: Server,
}

/// A cluster with one worker, and the bucket mounted at `/s3`.
async fn site(freshness: &str) -> Result<Site> {
    let bucket = Bucket::default();
    bucket.put_foreign("data/there/f", b"there before");
    let server = servers::s3(bucket.clone()).await;
    let mut cluster = Cluster::new()?
        .with("LARDER_CREDENTIAL_TEST_ACCESS_KEY_ID", servers::KEY)
        .with("LARDER_CREDENTIAL_TEST_SECRET_ACCESS_KEY", servers::SECRET);
    cluster.start_master()?;
    cluster.start_worker(0)?;
    let client = cluster.connect().await?;
    let mut options = servers::s3_options(&server);
    options.insert("freshness".to_owned(), freshness.to_owned());
    client.mount("/s3", "s3://bucket/data", MountOptions { read_only: false, options }).await?;
    Ok(Site { cluster, client, bucket, server })
}

fn through() -> CreateOptions {
    CreateOptions { write_type: Some(WriteType::CacheThrough), recursive: true, ..CreateOptions::default() }
}

impl Site {
    fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.bucket.objects.lock().get(key).map(|object| object.content.to_vec())
    }

    async fn names(&self, path: &str) -> Result<Vec<String>> {
        let entries = list_all(&self.client, path).await?;
        Ok(entries
            .iter()
            .map(|entry| String::from_utf8_lossy(entry.path.name().unwrap_or_default()).into_owned())
            .collect())
    }
}

fn holds(directory: &Path, secret: &str) -> bool {
    let Ok(entries) = fs::read_dir(directory) else { return false };
    entries.flatten().any(|entry| match entry.path() {
        path if path.is_dir() => holds(&path, secret),
        path => fs::read(path).is_ok_and(|bytes| bytes.windows(secret.len()).any(|part| part == secret.as_bytes())),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_read_and_changed_over_s3() -> Result<()> {
    let site = site("60s").await?;
    let client = &site.client;
    assert_eq!(&client.read("/s3/there/f").await?[..], b"there before");
    for length in [0, 1, 100_000, 20 * MIB + 3] {
        let (path, content) = (format!("/s3/new/f{length}"), trees::bytes(length as u64, length));
        client.write(&path, content.clone(), through()).await?;
        assert!(site.object(&format!("data/new/f{length}")).as_ref() == Some(&content), "{path} in the store");
        client.free(&path, FreeOptions::default()).await?;
        assert!(client.read(&path).await?[..] == content[..], "{path} differs");
    }
    assert_eq!(site.names("/s3").await?, ["new", "there"]);
    client.rename("/s3/new/f1", "/s3/new/g", RenameOptions::default()).await?;
    assert!(site.object("data/new/f1").is_none() && site.object("data/new/g").is_some());
    client.rename("/s3/new", "/s3/moved", RenameOptions::default()).await?;
    assert_eq!(site.names("/s3/moved").await?, ["f0", "f100000", &format!("f{}", 20 * MIB + 3), "g"]);
    assert_eq!(site.object("data/moved/f100000"), Some(trees::bytes(100_000, 100_000)));
    client.write("/s3/moved/g", "again", CreateOptions { overwrite: true, ..through() }).await?;
    assert_eq!(site.object("data/moved/g").as_deref(), Some(&b"again"[..]));
    client.remove("/s3/moved/g", RemoveOptions::default()).await?;
    assert!(site.object("data/moved/g").is_none());
    client.remove("/s3/moved", RemoveOptions { recursive: true, ..RemoveOptions::default() }).await?;
    assert!(!site.bucket.objects.lock().keys().any(|key| key.starts_with("data/moved")));
    assert_eq!(site.names("/s3").await?, ["there"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_of_s3_survives_restarts_and_sees_what_others_do() -> Result<()> {
    let mut site = site("always").await?;
    site.client.write("/s3/d/f", "ours", through()).await?;
    site.bucket.put_foreign("data/d/f", b"theirs now");
    site.bucket.put_foreign("data/d/new", b"new");
    assert_eq!(&site.client.read("/s3/d/f").await?[..], b"theirs now");
    assert_eq!(site.names("/s3/d").await?, ["f", "new"]);
    site.cluster.kill_master();
    site.cluster.kill_worker(0);
    site.cluster.start_master()?;
    site.cluster.start_worker(0)?;
    let client = site.cluster.connect().await?;
    assert_eq!(&client.read("/s3/d/new").await?[..], b"new");
    site.server.faults.refuse(3);
    client.write("/s3/d/later", "later", through()).await?;
    assert_eq!(site.object("data/d/later").as_deref(), Some(&b"later"[..]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_stores_stay_with_the_servers() -> Result<()> {
    let site = site("60s").await?;
    site.client.write("/s3/f", "x", through()).await?;
    let mounts = site.cluster.ok(&["fs", "mount"])?;
    assert!(mounts.contains("s3://bucket/data") && mounts.contains("credential=test"), "{mounts}");
    let endpoint = format!("endpoint=http://{}", site.server.address);
    let typed = site.cluster.run(&[
        "fs",
        "mount",
        "--option",
        &endpoint,
        "--option",
        "secret_access_key=hunter3",
        "/typed",
        "s3://bucket/typed",
    ])?;
    let said = String::from_utf8_lossy(&typed.stderr).into_owned();
    assert!(!typed.status.success() && said.contains("credential=NAME") && !said.contains("hunter3"), "{said}");
    let unknown = site.cluster.run(&[
        "fs",
        "mount",
        "--option",
        &endpoint,
        "--option",
        "credential=none",
        "/no",
        "s3://bucket/n",
    ])?;
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(!unknown.status.success() && said.contains("no credential is named none"), "{said}");
    for secret in [servers::SECRET, "hunter3"] {
        assert!(!holds(&site.cluster.journal(), secret), "in the journal");
        assert!(!site.cluster.logs().contains(secret), "in a log");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_cannot_be_reached_is_refused_with_the_reason() -> Result<()> {
    let site = site("60s").await?;
    let mut options = servers::s3_options(&site.server);
    let none = MountOptions { read_only: false, options: options.clone() };
    let refused = site.client.mount("/none", "s3://none/", none).await.expect_err("there is no such bucket");
    assert!(refused.to_string().contains("NoSuchBucket"), "{refused}");
    options.insert("endpoint".to_owned(), "http://127.0.0.1:9".to_owned());
    let away = MountOptions { read_only: false, options };
    let mounting = site.client.mount("/away", "s3://bucket/away", away);
    let refused = tokio::time::timeout(Duration::from_secs(30), mounting).await?.expect_err("nobody is there");
    assert!(refused.to_string().contains("refused"), "{refused}");
    let nested = MountOptions { read_only: true, options: servers::s3_options(&site.server) };
    site.client.mount("/s3/nested", "s3://bucket/other", nested).await?;
    let written = site.client.write("/s3/nested/f", "x", through()).await.expect_err("it is read-only");
    assert_eq!(written.kind(), ErrorKind::ReadOnly);
    site.client.unmount("/s3/nested").await?;
    assert_eq!(site.client.status("/s3/nested").await.map(drop).expect_err("unmounted").kind(), ErrorKind::NotFound);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_union_is_mounted_and_only_its_first_branch_changes() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let dir = tempfile::tempdir()?;
    let (patch, base) = (dir.path().join("patch"), dir.path().join("base"));
    fs::create_dir(&patch)?;
    fs::create_dir(&base)?;
    fs::write(base.join("f"), "base")?;
    fs::write(base.join("g"), "base g")?;
    let union = format!("/u={}:rw,{}:ro", patch.display(), base.display());
    cluster.ok(&["fs", "mount", "--union", &union])?;
    let client = cluster.connect().await?;
    assert_eq!(&client.read("/u/f").await?[..], b"base");
    client.write("/u/f", "ours", CreateOptions { overwrite: true, ..through() }).await?;
    client.remove("/u/g", RemoveOptions::default()).await?;
    assert_eq!(&client.read("/u/f").await?[..], b"ours");
    let names: Vec<_> = list_all(&client, "/u").await?.iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(names, ["/u/f"]);
    assert_eq!((fs::read(patch.join("f"))?, fs::read(base.join("f"))?), (b"ours".to_vec(), b"base".to_vec()));
    assert_eq!(fs::read(base.join("g"))?, b"base g");
    Ok(())
}
