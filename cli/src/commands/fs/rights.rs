//! `larder fs chmod`, `chown`, `chgrp`. Users and groups are names of this machine or numbers; the cluster keeps numbers.

use clap::Args;
use futures_util::TryStreamExt;
use larder_client::{AttributeChanges, FileKind, FsPath, ListOptions};

use super::{
    Act,
    mode::Change,
    owners::{Ownership, gid},
    path,
    places::{Authority, Typed},
    shell::{Shell, authorities},
};
use crate::exit::Exit;

/// Change permission bits
#[derive(Args, Debug)]
pub(crate) struct Chmod {
    /// Everything below, too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// The bits, as 755 or u+rwx,go-w
    #[arg(value_name = "MODE", allow_hyphen_values = true, value_parser = Change::parse)]
    mode: Change,
    /// The paths
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
}

/// Change the owner, and the group
#[derive(Args, Debug)]
pub(crate) struct Chown {
    /// Everything below, too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// The owner: USER, USER:GROUP or :GROUP, by name or number
    #[arg(value_name = "OWNER[:GROUP]", value_parser = Ownership::parse)]
    owner: Ownership,
    /// The paths
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
}

/// Change the group
#[derive(Args, Debug)]
pub(crate) struct Chgrp {
    /// Everything below, too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// The group, by name or number
    #[arg(value_name = "GROUP", value_parser = gid)]
    group: u32,
    /// The paths
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
}

impl Act for Chmod {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        shell.each(&self.paths, async |path| self.one(shell, path).await).await
    }
}

impl Chmod {
    async fn one(&self, shell: &Shell<'_>, path: &FsPath) -> anyhow::Result<()> {
        if let Some(mode) = self.mode.exactly() {
            let changes =
                AttributeChanges { recursive: self.recursive, mode: Some(mode), ..AttributeChanges::default() };
            shell.fs.set_attributes(path, changes).await?;
            return shell.done("chmod", "Changed permission of ", path, &format!(" to {mode:o}"));
        }
        if self.recursive && shell.fs.status(path).await?.kind.is_directory() {
            let mut entries = shell.fs.list(path, ListOptions { recursive: true, ..ListOptions::default() });
            while let Some(entry) = entries.try_next().await? {
                if !matches!(entry.status.kind, FileKind::Symlink(_)) {
                    let changed = self.step(shell, &entry.path, entry.status.mode, entry.status.kind.is_directory());
                    shell.pass(&entry.path, changed.await)?;
                }
            }
        }
        let status = shell.fs.status(path).await?;
        let mode = self.step(shell, path, status.mode, status.kind.is_directory()).await?;
        shell.done("chmod", "Changed permission of ", path, &format!(" to {mode:o}"))
    }

    async fn step(&self, shell: &Shell<'_>, path: &FsPath, mode: u32, is_directory: bool) -> anyhow::Result<u32> {
        let changed = self.mode.apply(mode, is_directory);
        if changed != mode {
            let changes = AttributeChanges { mode: Some(changed), ..AttributeChanges::default() };
            shell.fs.set_attributes(path, changes).await?;
        }
        Ok(changed)
    }
}

impl Act for Chown {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let Ownership { uid, gid } = self.owner;
        let (what, names) = match (uid, gid) {
            (Some(uid), Some(gid)) => {
                ("owner:group", format!("{}:{}", shell.owners.user(uid), shell.owners.group(gid)))
            }
            (Some(uid), None) => ("owner", shell.owners.user(uid)),
            (None, gid) => ("group", gid.map(|gid| shell.owners.group(gid)).unwrap_or_default()),
        };
        let (before, after) = (format!("Changed {what} of "), format!(" to {names}"));
        shell
            .each(&self.paths, async |path| {
                let changes = AttributeChanges { recursive: self.recursive, uid, gid, ..AttributeChanges::default() };
                shell.fs.set_attributes(path, changes).await?;
                shell.done("chown", &before, path, &after)
            })
            .await
    }
}

impl Act for Chgrp {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let after = format!(" to {}", shell.owners.group(self.group));
        shell
            .each(&self.paths, async |path| {
                let gid = Some(self.group);
                let changes = AttributeChanges { recursive: self.recursive, gid, ..AttributeChanges::default() };
                shell.fs.set_attributes(path, changes).await?;
                shell.done("chgrp", "Changed group of ", path, &after)
            })
            .await
    }
}
