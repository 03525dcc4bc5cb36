//! `larder fs`: files and directories of the cluster, by commands named and behaving as those of `alluxio fs`.
//!
//! A new command is a struct of arguments that is [`Act`], in the file of its group, and one line in the registry below.
//! Pure parts (patterns, modes, times, tables) know no cluster; [`shell`] holds what all commands share.

mod attributes;
mod checksum;
mod copy;
mod dashes;
mod distributed;
mod expand;
mod failures;
mod find;
mod glob;
mod links;
mod load;
mod location;
mod ls;
mod make;
mod mode;
mod mounts;
mod owners;
pub(crate) mod places;
pub(crate) mod progress;
mod read;
mod remove;
pub(crate) mod rename;
mod residency;
mod rights;
pub(crate) mod rows;
pub(crate) mod shell;
mod stat;
mod test;
mod times;
mod transfer;
mod tree;
mod usage;

use clap::{Args, Subcommand};
use larder_common::Result;

pub(crate) use dashes::long_options;
pub(crate) use times::{rfc3339, span};

use crate::{cluster, command::Run, context::Context, exit::Exit};
use places::Authority;
use shell::Shell;

/// Work with files and directories of the cluster
#[derive(Args, Debug)]
#[command(after_help = "Paths: /p, larder://host:port/p, alluxio://host:port/p; file:///p is this machine (cp, \
                        copyFromLocal, copyToLocal).\n\
                        Patterns (* ? [a-z] {a,b}) work in paths; quote them, so that the shell leaves them alone.\n\
                        Long options may be written with one dash, as in Alluxio.")]
pub(crate) struct Fs {
    #[command(subcommand)]
    command: Command,
}

/// A command of `larder fs`.
pub(crate) trait Act {
    /// The masters that its paths name.
    fn authorities(&self) -> Vec<Option<&Authority>>;

    /// What its arguments may say together, asked before a cluster is.
    ///
    /// # Errors
    /// `Invalid` with what is wrong.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Does it, and answers how the process ends.
    ///
    /// # Errors
    /// As [`Run::run`].
    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit>;
}

macro_rules! registry {
    ($($(#[$attribute:meta])* $name:ident($arguments:ty);)*) => {
        /// Every command of `larder fs`.
        #[derive(Debug, Subcommand)]
        #[command(rename_all = "camelCase")]
        enum Command { $($(#[$attribute])* $name($arguments),)* }

        impl Command {
            fn authorities(&self) -> Vec<Option<&Authority>> {
                match self { $(Command::$name(arguments) => arguments.authorities(),)* }
            }

            fn check(&self) -> Result<()> {
                match self { $(Command::$name(arguments) => arguments.check(),)* }
            }

            async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
                match self { $(Command::$name(arguments) => Box::pin(arguments.act(shell)).await,)* }
            }
        }
    };
}

registry! {
    Cat(read::Cat);
    Checksum(checksum::Checksum);
    Chgrp(rights::Chgrp);
    Chmod(rights::Chmod);
    Chown(rights::Chown);
    CopyFromLocal(copy::CopyFromLocal);
    CopyToLocal(copy::CopyToLocal);
    Count(usage::Count);
    Cp(copy::Cp);
    DistributedCp(distributed::DistributedCp);
    DistributedLoad(distributed::DistributedLoad);
    DistributedMv(distributed::DistributedMv);
    Du(usage::Du);
    Find(find::Find);
    Free(residency::Free);
    Head(read::Head);
    Ln(links::Ln);
    Load(load::Load);
    Location(location::Location);
    Ls(ls::Ls);
    Mkdir(make::Mkdir);
    Mount(mounts::Mount);
    Mv(rename::Mv);
    Persist(residency::Persist);
    Pin(attributes::Pin);
    Rm(remove::Rm);
    SetPolicy(attributes::SetPolicy);
    SetReplication(attributes::SetReplication);
    SetTtl(attributes::SetTtl);
    Stat(stat::Stat);
    Tail(read::Tail);
    Test(test::Test);
    Touch(make::Touch);
    Unmount(mounts::Unmount);
    Unpin(attributes::Unpin);
    UnsetTtl(attributes::UnsetTtl);
    UpdateMount(mounts::UpdateMount);
    Which(mounts::Which);
}

impl Run for Fs {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        self.command.check()?;
        let flags = places::flags(self.command.authorities())?;
        cluster::run(context, flags, async |fs| {
            let shell = Shell::new(fs, context);
            self.command.act(&shell).await
        })
    }
}

/// What `clap` reads a path of the cluster with.
pub(crate) fn path() -> impl clap::builder::TypedValueParser<Value = places::Typed> {
    use clap::builder::TypedValueParser;
    clap::builder::OsStringValueParser::new().try_map(places::typed)
}

/// What `clap` reads a path of the cluster or of this machine with.
fn place() -> impl clap::builder::TypedValueParser<Value = places::Place> {
    use clap::builder::TypedValueParser;
    clap::builder::OsStringValueParser::new().try_map(|text| places::place(&text))
}

/// What `clap` reads a number of bytes with.
fn bytes(text: &str) -> Result<u64> {
    text.parse::<larder_common::ByteSize>().map(|size| size.0)
}
