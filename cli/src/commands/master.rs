//! `larder master`: a master in the foreground.

use std::{collections::BTreeMap, sync::Arc};

use clap::Args;
use larder_common::settings::{Role, Settings};
use larder_master::{config::MasterConfig, journal::Health, master::Master as Running, rpc::report, server::Server};

use crate::{
    command::Run,
    context::Context,
    exit::Exit,
    privileges::{self, Directories},
    serving,
    web::{Endpoints, Observed},
};

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
        let journal = settings.journal_folder(serving::is_root())?;
        privileges::settle(&settings, &Directories::of(&settings, vec![journal])?)?;
        serving::runtime()?.block_on(serve(&settings))
    }
}

async fn serve(settings: &Settings) -> anyhow::Result<Exit> {
    let listener = serving::listen(&settings.master_listen()?, "master.rpc.port").await?;
    let web = settings.listen("master.bind.host", settings.master.bind_host.as_ref(), settings.master.web_port)?;
    let endpoints = serving::endpoints(settings, "master", &web, "master.web.port", false).await?;
    let config = MasterConfig::from_settings(settings, serving::is_root())?;
    warn_if_open(&config);
    let stop = serving::stop_on_signals()?;
    endpoints.starting("reading the journal");
    let server = tokio::select! {
        started = Server::start(config) => started?,
        () = stop.cancelled() => return Ok(Exit::Done),
    };
    say_ready(&server, &listener.local_addr()?.to_string(), &endpoints);
    endpoints.running(Watched(Arc::clone(server.master())));
    let ended = server.serve(listener, stop.clone());
    tokio::pin!(ended);
    tokio::select! {
        ended = &mut ended => return ended.map(|()| Exit::Done).map_err(Into::into),
        () = stop.cancelled() => endpoints.stopping(),
    }
    ended.await?;
    Ok(Exit::Done)
}

fn say_ready(server: &Server, address: &str, endpoints: &Endpoints) {
    tracing::info!(
        address,
        web = endpoints.port(),
        cluster = %server.master().cluster,
        root = server.master().config.root,
        "the master is ready"
    );
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

/// A running master, for its endpoints.
pub(crate) struct Watched(pub(crate) Arc<Running>);

impl Observed for Watched {
    fn trouble(&self) -> Option<String> {
        match self.0.core.journal().health() {
            Health::Failed(error) => Some(format!("the journal has failed: {error}")),
            Health::Writable | Health::ReadOnly(_) | Health::Closed => None,
        }
    }

    fn waits_for(&self) -> Option<String> {
        match self.0.core.journal().health() {
            Health::Closed => Some("the journal is closed".into()),
            _ => None,
        }
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        let report = report::report(&self.0);
        let (live, lost): (Vec<_>, Vec<_>) = report.workers.iter().partition(|worker| worker.live);
        let counters = [
            ("larder_files", report.files),
            ("larder_directories", report.directories),
            ("larder_namespace_bytes", report.namespace_bytes),
            ("larder_journal_bytes", report.journal_bytes),
            ("larder_journal_position", report.position),
            ("larder_journal_durable_position", report.durable),
            ("larder_journal_writable", u64::from(report.journal_trouble.is_empty())),
            ("larder_sessions", report.sessions),
            ("larder_persist_pending_files", report.persist_pending_files),
            ("larder_persist_pending_bytes", report.persist_pending_bytes),
            ("larder_safe_mode", u64::from(report.safe_mode)),
            ("larder_findings", report.findings.len() as u64),
            ("larder_workers{state=\"live\"}", live.len() as u64),
            ("larder_workers{state=\"lost\"}", lost.len() as u64),
        ];
        counters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}
