//! `larder worker`: a worker in the foreground.

use std::collections::BTreeMap;

use clap::Args;
use larder_common::settings::{Role, Settings};
use larder_worker::{Components, Observer, WorkerConfig};
use tokio_util::sync::CancellationToken;

use crate::{
    command::Run,
    context::Context,
    exit::Exit,
    privileges::{self, Directories},
    serving,
    web::{Endpoints, Observed},
};

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
        privileges::settle(&settings, &Directories::of(&settings, config.directories())?)?;
        serving::runtime()?.block_on(serve(&settings, config))
    }
}

async fn serve(settings: &Settings, mut config: WorkerConfig) -> anyhow::Result<Exit> {
    let given = settings.is_given("worker.rpc.port");
    let listener = serving::listen_or_any(&settings.worker_listen()?, "worker.rpc.port", given).await?;
    let web = settings.listen("worker.bind.host", settings.worker.bind_host.as_ref(), settings.worker.web_port)?;
    let endpoints = serving::endpoints(settings, "worker", &web, "worker.web.port", true).await?;
    config.web_port = endpoints.port();
    let master = serving::master_channel(settings)?;
    let stop = serving::stop_on_signals()?;
    endpoints.starting(format!("waiting for the master at {}", settings.master_address()));
    let components = Components::of(&config);
    let started = larder_worker::Worker::start(config, components, listener, master, stop.clone()).await;
    let worker = match started {
        Err(_) if stop.is_cancelled() => return Ok(Exit::Done),
        started => started?,
    };
    endpoints.running(Watched(worker.observer()));
    say_ready(&worker, &endpoints);
    run(worker, endpoints, stop).await
}

async fn run(worker: larder_worker::Worker, endpoints: Endpoints, stop: CancellationToken) -> anyhow::Result<Exit> {
    let ended = worker.run();
    tokio::pin!(ended);
    tokio::select! {
        ended = &mut ended => return ended.map(|()| Exit::Done).map_err(Into::into),
        () = stop.cancelled() => endpoints.stopping(),
    }
    ended.await?;
    Ok(Exit::Done)
}

/// Says so once it is registered.
fn say_ready(worker: &larder_worker::Worker, endpoints: &Endpoints) {
    let mut linked = worker.linked();
    let (address, id, sockets) = (worker.address(), worker.id(), worker.sockets().to_vec());
    let web = endpoints.port();
    tokio::spawn(async move {
        if linked.wait_for(|linked| *linked).await.is_ok() {
            tracing::info!(%address, web, %id, ?sockets, "the worker is ready");
        }
    });
}

/// A running worker, for its endpoints.
pub(crate) struct Watched(pub(crate) Observer);

impl Observed for Watched {
    fn trouble(&self) -> Option<String> {
        None
    }

    fn waits_for(&self) -> Option<String> {
        (!self.0.is_linked()).then(|| "not registered at the master".into())
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        self.0.counters()
    }
}
