//! `larder proxy`: the place of the gateway for S3 and HTTP clients. It says that there is none yet, with the exit code of a
//! wrong command line, so that a container with this role does not run in vain.

use clap::Args;
use larder_common::{Error, ErrorKind};

use crate::{command::Run, context::Context, exit::Exit};

/// Not built yet: use a mount, the command line or the client library
#[derive(Args, Debug)]
pub(crate) struct Proxy {}

impl Run for Proxy {
    fn run(self, _: &Context) -> anyhow::Result<Exit> {
        let error = Error::new(ErrorKind::Config, "the proxy is not built yet");
        Err(error.advise("use `larder fuse`, `larder fs` or the client library").into())
    }
}
