//! `larder worker`: a worker in the foreground.

use clap::Args;
use larder_common::settings::Role;
use larder_worker::{Components, WorkerConfig};

use crate::{command::Run, context::Context, exit::Exit, serving};

/// Run a worker
#[derive(Args, Debug)]
pub(crate) struct Worker {
    /// Accepted for the sake of scripts: no format step is needed
    #[arg(long)]
    no_format: bool,
}

impl Run for Worker {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let settings = context.start_server(Role::Worker, Vec::new())?;
        if self.no_format {
            tracing::debug!("--no-format changes nothing: a worker keeps what is whole and of its cluster");
        }
        let config = WorkerConfig::from_settings(&settings)?;
        config.check()?;
        serving::runtime()?.block_on(async {
            let given = settings.is_given("worker.rpc.port");
            let listener = serving::listen_or_any(&settings.worker_listen()?, "worker.rpc.port", given).await?;
            let master = serving::master_channel(&settings)?;
            let stop = serving::stop_on_signals()?;
            let worker = larder_worker::Worker::start(config, Components::default(), listener, master, stop).await?;
            let mut linked = worker.linked();
            let (address, id, sockets) = (worker.address(), worker.id(), worker.sockets().to_vec());
            tokio::spawn(async move {
                if linked.wait_for(|linked| *linked).await.is_ok() {
                    tracing::info!(%address, %id, ?sockets, "the worker is ready");
                }
            });
            worker.run().await?;
            Ok(Exit::Done)
        })
    }
}
