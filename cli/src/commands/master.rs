//! `larder master`: a master in the foreground.

use clap::Args;
use larder_common::settings::Role;
use larder_master::{config::MasterConfig, server::Server};

use crate::{command::Run, context::Context, exit::Exit, serving};

/// Run a master
#[derive(Args, Debug)]
pub(crate) struct Master {
    /// Accepted for the sake of scripts: no format step is needed
    #[arg(long)]
    no_format: bool,
}

impl Run for Master {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let settings = context.start_server(Role::Master, Vec::new())?;
        if self.no_format {
            tracing::debug!("--no-format changes nothing: a master formats only a journal that is not there");
        }
        serving::runtime()?.block_on(async {
            let listener = serving::listen(&settings.master_listen()?, "master.rpc.port").await?;
            let config = MasterConfig::from_settings(&settings, serving::is_root())?;
            warn_if_open(&config);
            let stop = serving::stop_on_signals()?;
            let server = Server::start(config).await?;
            tracing::info!(
                address = %listener.local_addr()?,
                cluster = %server.master().cluster,
                root = server.master().config.root,
                "the master is ready"
            );
            server.serve(listener, stop).await?;
            Ok(Exit::Done)
        })
    }
}

/// A master that believes everybody says so.
pub(crate) fn warn_if_open(config: &MasterConfig) {
    if config.token.is_empty() {
        tracing::warn!(
            "no token is set: every caller is believed to be who it says it is; set security.token to close it"
        );
    }
    if config.make_root {
        tracing::warn!(
            root = config.root,
            "no under store is set (master.mount.root): a directory in the state is used"
        );
    }
}
