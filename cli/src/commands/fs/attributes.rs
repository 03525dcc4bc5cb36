//! `larder fs pin`, `unpin`, `setTtl`, `unsetTtl`, `setReplication`, `setPolicy`: how the cluster treats a path.

use std::time::Duration;

use clap::Args;
use larder_client::{Ttl, TtlAction};
use larder_common::GroupPolicy;

use super::{
    Act, path,
    places::{Authority, Typed},
    shell::{Shell, authorities},
    times::{span, time_to_live},
};
use crate::exit::Exit;

/// Keep the blocks of files in the cache, also of those that come later into a directory
#[derive(Args, Debug)]
pub(crate) struct Pin {
    /// The paths
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
}

/// Let blocks go again when there is no room
#[derive(Args, Debug)]
pub(crate) struct Unpin {
    /// The paths
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
}

/// Set the time to live, counted from the last change
#[derive(Args, Debug)]
pub(crate) struct SetTtl {
    /// What happens then: `delete` removes, in the under store too; `free` drops cached blocks
    #[arg(long, value_name = "delete|free", default_value = "delete", value_parser = action)]
    action: TtlAction,
    /// The path
    #[arg(value_name = "PATH", value_parser = path())]
    path: Typed,
    /// How long: milliseconds, or a time as 30s, 12h or 7d
    #[arg(value_name = "TIME", value_parser = time_to_live)]
    time: Duration,
}

/// Let paths live for ever
#[derive(Args, Debug)]
pub(crate) struct UnsetTtl {
    /// The paths
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
}

/// Ask for at least so many copies in the cache
#[derive(Args, Debug)]
pub(crate) struct SetReplication {
    /// Everything below, too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// How many; 0 for as it comes
    #[arg(long, value_name = "N", required = true)]
    min: u32,
    /// The paths
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
}

/// Fix how the cache chooses what to drop below a directory
#[derive(Args, Debug)]
pub(crate) struct SetPolicy {
    /// The directory
    #[arg(value_name = "PATH", value_parser = path())]
    path: Typed,
    /// auto, lru or uniform; `default` for what a directory above has, or the workers find out
    #[arg(value_name = "POLICY", value_parser = policy)]
    policy: Policy,
}

#[derive(Clone, Debug)]
enum Policy {
    Default,
    Named(GroupPolicy),
}

fn policy(text: &str) -> larder_common::Result<Policy> {
    match text {
        "default" => Ok(Policy::Default),
        name => name.parse().map(Policy::Named),
    }
}

fn action(text: &str) -> larder_common::Result<TtlAction> {
    text.parse()
}

impl Act for Pin {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        shell
            .each(&self.paths, async |path| {
                shell.fs.pin(path).await?;
                shell.done("pin", "File '", path, "' was successfully pinned.")
            })
            .await
    }
}

impl Act for Unpin {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        shell
            .each(&self.paths, async |path| {
                shell.fs.unpin(path).await?;
                shell.done("unpin", "File '", path, "' was successfully unpinned.")
            })
            .await
    }
}

impl Act for SetTtl {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        vec![self.path.authority.as_ref()]
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let ttl = Ttl { after: self.time, action: self.action };
        let millis = self.time.as_millis();
        let after = format!(
            "' was successfully set to {millis} milliseconds ({}), with expiry action set to {}",
            span(self.time),
            self.action
        );
        shell
            .each(std::slice::from_ref(&self.path), async |path| {
                shell.fs.set_ttl(path, Some(ttl)).await?;
                shell.done("setTtl", "TTL of path '", path, &after)
            })
            .await
    }
}

impl Act for UnsetTtl {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        shell
            .each(&self.paths, async |path| {
                shell.fs.set_ttl(path, None).await?;
                shell.done("unsetTtl", "TTL of path '", path, "' was successfully removed.")
            })
            .await
    }
}

impl Act for SetReplication {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let after = format!(": replicationMin was set to {}", self.min);
        shell
            .each(&self.paths, async |path| {
                shell.fs.set_replication(path, self.min, self.recursive).await?;
                shell.done("setReplication", "Changed the replication level of ", path, &after)
            })
            .await
    }
}

impl Act for SetPolicy {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        vec![self.path.authority.as_ref()]
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let name = match &self.policy {
            Policy::Default => None,
            Policy::Named(policy) => Some(policy.to_string()),
        };
        let after = format!(" was set to {}", name.as_deref().unwrap_or("the default"));
        shell
            .each(std::slice::from_ref(&self.path), async |path| {
                shell.fs.set_policy(path, name.as_deref()).await?;
                shell.done("setPolicy", "The policy of ", path, &after)
            })
            .await
    }
}
