//! Replies are lost and connections break off in front of a master that is killed and started again: each change happens
//! exactly once, and its caller hears so.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use larder_client::{
    Config, CreateOptions, ErrorKind, FileSystem, MkdirOptions, RemoveOptions, RenameOptions, StatusOptions, WriteType,
};
use larder_tests::{Cluster, processes::list_all, proxy::Proxy};

fn only_new() -> CreateOptions {
    CreateOptions { write_type: Some(WriteType::MustCache), ..CreateOptions::default() }
}

/// Changes that tell whether they were carried out twice: each is refused the second time.
async fn change(fs: FileSystem, directory: String, until: Instant) -> Result<u64> {
    let mut rounds = 0;
    while Instant::now() < until {
        let name = |what: &str| format!("{directory}/{what}{rounds}");
        let (made, linked, moved) = (name("made"), name("linked"), name("moved"));
        fs.write(&made, "", only_new()).await.context("a new name is made once")?;
        let status = fs.write(name("filled"), made.clone(), only_new()).await.context("completed once")?;
        ensure!(status.length == made.len() as u64, "the completion answers with what was written");
        fs.link(&made, &linked).await.context("a link is made once")?;
        let status = fs.status_with(&made, StatusOptions::default()).await?;
        ensure!(status.links == 2, "{} links after one call", status.links);
        let once = RenameOptions { no_replace: true, ..RenameOptions::default() };
        fs.rename(&made, &moved, once).await.context("renamed once")?;
        fs.remove(&linked, RemoveOptions::default()).await.context("removed once")?;
        let gone = fs.status(&linked).await.map_err(|error| error.kind());
        ensure!(matches!(gone, Err(ErrorKind::NotFound)), "{linked} is there after it was removed: {gone:?}");
        rounds += 1;
    }
    Ok(rounds)
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_replies_broken_connections_and_a_killed_master_change_nothing_twice() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let direct = cluster.connect().await?;
    let proxy = Proxy::start(cluster.port(), 7).await?;
    let until = Instant::now() + Duration::from_secs(10);
    let mut tasks = Vec::new();
    for task in 0..4 {
        let directory = format!("/d{task}");
        let options = MkdirOptions { write_type: Some(WriteType::MustCache), ..MkdirOptions::default() };
        direct.mkdir(&directory, options).await?;
        let config = Config::builder().master("127.0.0.1", proxy.port())?.timeout(Duration::from_secs(40)).build();
        let fs = FileSystem::connect(config).await?;
        tasks.push(tokio::spawn(change(fs, directory, until)));
    }
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.kill_master();
        cluster.start_master()?;
    }
    let mut rounds = Vec::new();
    for task in tasks {
        rounds.push(tokio::time::timeout(Duration::from_secs(90), task).await.context("nobody hangs")???);
    }
    let (total, broken) = (rounds.iter().sum::<u64>(), proxy.broken());
    assert!(total > 20 && broken > 20, "hardly anything happened: {total} rounds, {broken} broken connections");
    proxy.calm();
    let after = cluster.connect().await?;
    for (task, rounds) in rounds.iter().enumerate() {
        let names = list_all(&after, format!("/d{task}")).await?;
        assert_eq!(names.len() as u64, 2 * rounds, "one `moved` and one `filled` of each round, and nothing else");
    }
    Ok(())
}
