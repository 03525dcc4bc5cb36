//! A master that has just started and waits for its workers: whoever asks meanwhile is answered, also while names change.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use larder_common::{FsPath, WriteType};
use larder_master::{
    master::Master,
    rpc::report,
    state::{CreateDirectory, Place},
};
use larder_tests::masters::Alone;

/// Longer than all of it takes on a busy machine; a lock that is taken in two orders is for ever.
const PATIENCE: Duration = Duration::from_secs(60);
const TIMES: usize = 500;

async fn change(master: &Master) -> Result<()> {
    let (mode, recursive, allow_exists, write_type) = (0o755, false, false, WriteType::MustCache);
    for number in 0..TIMES {
        let place = Place::from(FsPath::parse(format!("/d{number}"))?);
        master.execute(CreateDirectory { place, mode, recursive, allow_exists, write_type }).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_asks_a_master_that_waits_for_workers_is_answered() -> Result<()> {
    let alone = Alone::with(|config| config.safe_mode = Duration::from_secs(3600)).await?;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let master = Arc::clone(alone.master());
        asking.spawn_blocking(move || (0..TIMES).all(|_| report::report(&master).safe_mode));
        let master = Arc::clone(alone.master());
        asking.spawn_blocking(move || (0..TIMES).all(|_| master.in_safe_mode()));
    }
    let all = async {
        change(alone.master()).await?;
        while let Some(answered) = asking.join_next().await {
            ensure!(answered?, "it waits no more");
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, all).await.context("the master hangs")?
}
