//! `larder fs free`, `persist`: where the bytes of a path are.

use std::time::Duration;

use clap::Args;
use futures_util::TryStreamExt;
use larder_client::{Error, ErrorKind, FreeOptions, FsPath, ListOptions, PendingFile, Persistence, Removed};

use super::{
    Act, path,
    places::{Authority, Typed},
    rows::{printed, size},
    shell::{Shell, authorities},
};
use crate::exit::Exit;

/// Between two looks at whether all is persisted; it doubles up to [`LOOK_MAX`].
const LOOK: Duration = Duration::from_millis(50);
const LOOK_MAX: Duration = Duration::from_secs(2);
/// With nothing persisted for so long, waiting ends in an error.
const STALL: Duration = Duration::from_secs(120);

/// Drop cached blocks; files and under store stay
#[derive(Args, Debug)]
pub(crate) struct Free {
    /// What to free, with everything below
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
    /// Pinned files, too
    #[arg(short, long)]
    force: bool,
}

/// Put what is only in the cache into the under store
#[derive(Args, Debug)]
pub(crate) struct Persist {
    /// What to persist, with everything below
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
    /// Wait until all of it is there
    #[arg(short, long)]
    wait: bool,
}

impl Act for Free {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        shell
            .each(&self.paths, async |path| {
                let freed = shell.fs.free(path, FreeOptions { recursive: true, forced: self.force }).await?;
                said(shell, "free", path, freed, "was successfully freed from the cache")
            })
            .await
    }
}

impl Act for Persist {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        shell
            .each(&self.paths, async |path| {
                let counted = shell.fs.persist(path, true).await?;
                if self.wait {
                    waited(shell, path).await?;
                }
                let how = if self.wait { "is persisted" } else { "is on its way to the under store" };
                said(shell, "persist", path, counted, how)
            })
            .await
    }
}

/// Waits until nothing below is only in the cache.
async fn waited(shell: &Shell<'_>, path: &FsPath) -> anyhow::Result<()> {
    let (mut pause, mut least, mut since) = (LOOK, u64::MAX, tokio::time::Instant::now());
    let mut told: Vec<Option<FsPath>> = Vec::new();
    loop {
        let missing = unpersisted(shell, path).await?;
        if missing == 0 {
            return Ok(());
        }
        let failing = failing(shell, path).await?;
        for failure in failing.iter().filter(|failure| !told.contains(&failure.path)) {
            let reason = failure.reason.clone().unwrap_or_else(|| Error::new(ErrorKind::Unavailable, "it failed"));
            let shown = failure.path.clone().unwrap_or_else(FsPath::root);
            shell.output.error(&reason.context("not persisted yet, and still tried").at(&shown));
        }
        told.extend(failing.into_iter().map(|failure| failure.path));
        if missing < least {
            (least, since, pause) = (missing, tokio::time::Instant::now(), LOOK);
        } else if since.elapsed() > STALL {
            let error = Error::new(
                ErrorKind::Deadline,
                format!("{missing} files are not persisted, and none was for {STALL:?}"),
            );
            return Err(error.advise("`larder fsadmin report persistence` says what keeps them").into());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_MAX);
    }
}

/// Files at or below a path whose attempts have failed more than once.
async fn failing(shell: &Shell<'_>, path: &FsPath) -> anyhow::Result<Vec<PendingFile>> {
    let report = shell.fs.persistence().await?;
    let below = |file: &PendingFile| file.path.as_ref().is_some_and(|file| path.contains(file));
    Ok(report.pending.into_iter().filter(|file| file.tries > 1 && below(file)).collect())
}

async fn unpersisted(shell: &Shell<'_>, path: &FsPath) -> anyhow::Result<u64> {
    let status = shell.status_of_name(path).await?;
    if !status.kind.is_directory() {
        return Ok(u64::from(status.persistence != Persistence::Persisted));
    }
    let mut entries = shell.fs.list(path, ListOptions { recursive: true, ..ListOptions::default() });
    let mut missing = 0;
    while let Some(entry) = entries.try_next().await? {
        missing += u64::from(entry.status.complete && entry.status.persistence != Persistence::Persisted);
    }
    Ok(missing)
}

fn said(shell: &Shell<'_>, action: &str, path: &FsPath, counted: Removed, how: &str) -> anyhow::Result<()> {
    let Removed { files, bytes, .. } = counted;
    if shell.output.json {
        return shell.output.object(&serde_json::json!({
            "action": action, "path": path.to_string(), "files": files, "bytes": bytes,
        }));
    }
    let counted = format!("' {how} ({files} {}, {})\n", if files == 1 { "file" } else { "files" }, size(bytes, true));
    shell.output.bytes(&[b"'", &printed(path)[..], counted.as_bytes()].concat())
}
