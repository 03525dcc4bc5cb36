//! `/health`, `/ready` and `/metrics` of a server: who asks learns whether the process lives, whether it serves, and what
//! it counts.
//!
//! *Alive* is a process that answers and has not failed for good; one that waits for its master is alive. *Ready* is one
//! that serves. Both answer 200 or 503 with one JSON object that says why. The endpoints are there before the server, so
//! that a long start can be watched, and they ask nobody for a token: they tell names of counters and no content.
//!
//! Where a server listens is also written to its state directory ([`announcement`]), for `larder health` in the same
//! container: a port that was taken may have become another one.

pub(crate) mod announcement;
pub(crate) mod exposition;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use larder_common::{ClusterId, Error, ErrorKind, Result};
use larder_proto::greeting::VERSION;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use self::{announcement::Announcement, exposition::Exposition};

/// Upper bounds of the buckets of all durations, in seconds.
const BUCKETS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];
/// How often what was recorded is put into its buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// A server as the endpoints see it.
pub(crate) trait Observed: Send + Sync + 'static {
    /// What has failed for good, if anything.
    fn trouble(&self) -> Option<String>;
    /// What it waits for before it serves; `None` if it serves.
    fn waits_for(&self) -> Option<String>;
    /// Its counters by name.
    fn counters(&self) -> BTreeMap<String, u64>;
}

/// How a server is, as the endpoints answer it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// Which server.
    pub(crate) role: String,
    /// This process, of all that ever ran.
    pub(crate) instance: String,
    /// Its version.
    pub(crate) version: String,
    /// Whether it is well, for `/health`; whether it serves, for `/ready`.
    pub(crate) ok: bool,
    /// Why not, or what it does instead.
    pub(crate) reason: Option<String>,
}

#[derive(Clone)]
enum Stage {
    Starting(String),
    Running(Arc<dyn Observed>),
    Stopping,
}

/// What the handlers share.
#[derive(Clone)]
struct Shared {
    role: &'static str,
    instance: String,
    stage: watch::Receiver<Stage>,
}

/// The endpoints of one server. They end, and what announced them goes, when dropped.
pub(crate) struct Endpoints {
    stage: watch::Sender<Stage>,
    address: SocketAddr,
    serving: JoinHandle<()>,
    _announcement: Announcement,
}

impl Endpoints {
    /// Serves from now on.
    ///
    /// # Errors
    /// Where the state directory takes no announcement.
    pub(crate) fn start(role: &'static str, listener: TcpListener, state: &Path) -> Result<Self> {
        let address = listener.local_addr()?;
        let instance = ClusterId::random()?.to_string();
        let announcement = Announcement::write(state, role, address, &instance)?;
        let (stage, current) = watch::channel(Stage::Starting("starting".into()));
        recorder();
        let shared = Shared { role, instance, stage: current };
        let serving = tokio::spawn(async move {
            tokio::spawn(upkeep(shared.stage.clone()));
            if let Err(error) = axum::serve(listener, router(shared)).await {
                tracing::error!(%error, "the endpoints for health and metrics have ended");
            }
        });
        Ok(Self { stage, address, serving, _announcement: announcement })
    }

    /// The port that is listened at.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Says what the start waits for.
    pub(crate) fn starting(&self, what: impl Into<String>) {
        self.stage.send_replace(Stage::Starting(what.into()));
    }

    /// The server runs.
    pub(crate) fn running(&self, server: impl Observed) {
        self.stage.send_replace(Stage::Running(Arc::new(server)));
    }

    /// The server does no new work.
    pub(crate) fn stopping(&self) {
        self.stage.send_replace(Stage::Stopping);
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Where durations are recorded, installed once for the process.
fn recorder() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let builder = PrometheusBuilder::new().set_buckets(BUCKETS).expect("the list of buckets is not empty");
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("durations are recorded elsewhere in this process and missing in /metrics");
        }
        handle
    })
}

/// Keeps what was recorded from growing until somebody asks for it.
async fn upkeep(mut stage: watch::Receiver<Stage>) {
    let over = async { while stage.changed().await.is_ok() {} };
    tokio::select! {
        () = over => {}
        () = async {
            loop {
                tokio::time::sleep(UPKEEP).await;
                recorder().run_upkeep();
            }
        } => {}
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

async fn health(State(shared): State<Shared>) -> Response {
    let stage = shared.stage.borrow().clone();
    match stage {
        Stage::Starting(what) => shared.answer(true, Some(what)),
        Stage::Running(server) => {
            let trouble = server.trouble();
            shared.answer(trouble.is_none(), trouble)
        }
        Stage::Stopping => shared.answer(true, Some("stopping".into())),
    }
}

async fn ready(State(shared): State<Shared>) -> Response {
    let stage = shared.stage.borrow().clone();
    match stage {
        Stage::Starting(what) => shared.answer(false, Some(what)),
        Stage::Running(server) => {
            let missing = server.trouble().or_else(|| server.waits_for());
            shared.answer(missing.is_none(), missing)
        }
        Stage::Stopping => shared.answer(false, Some("stopping".into())),
    }
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let stage = shared.stage.borrow().clone();
    let mut all = Exposition::default();
    all.add(&format!("larder_info{{role=\"{}\",version=\"{VERSION}\"}}", shared.role), 1);
    if let Stage::Running(server) = stage {
        server.counters().iter().for_each(|(name, value)| all.add(name, *value));
    }
    let text = all.text() + &recorder().render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

impl Shared {
    fn answer(&self, ok: bool, reason: Option<String>) -> Response {
        let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let report = Report {
            role: self.role.to_owned(),
            instance: self.instance.clone(),
            version: VERSION.to_owned(),
            ok,
            reason,
        };
        (status, Json(report)).into_response()
    }
}

/// Reads what an endpoint answered.
///
/// # Errors
/// `Corrupt` for what is no report.
pub(crate) fn report(body: &[u8]) -> Result<Report> {
    serde_json::from_slice(body).map_err(|e| Error::new(ErrorKind::Corrupt, format!("no report of a server: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::announcement::{ask, found};

    struct Fake(Option<&'static str>, Option<&'static str>);

    impl Observed for Fake {
        fn trouble(&self) -> Option<String> {
            self.0.map(Into::into)
        }

        fn waits_for(&self) -> Option<String> {
            self.1.map(Into::into)
        }

        fn counters(&self) -> BTreeMap<String, u64> {
            BTreeMap::from([("larder_leases".to_owned(), 5)])
        }
    }

    async fn asked(address: SocketAddr, path: &'static str) -> (u16, Vec<u8>) {
        tokio::task::spawn_blocking(move || ask(address, path, Duration::from_secs(5)).unwrap()).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_is_alive_before_it_is_ready() {
        let state = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endpoints = Endpoints::start("worker", listener, state.path()).unwrap();
        endpoints.starting("waiting for the master");
        let (code, body) = asked(address, "/health").await;
        assert_eq!((code, report(&body).unwrap().ok), (200, true));
        let (code, body) = asked(address, "/ready").await;
        assert_eq!((code, report(&body).unwrap().reason.as_deref()), (503, Some("waiting for the master")));
        endpoints.running(Fake(None, Some("not registered")));
        assert_eq!((asked(address, "/health").await.0, asked(address, "/ready").await.0), (200, 503));
        endpoints.running(Fake(None, None));
        assert_eq!(asked(address, "/ready").await.0, 200);
        let (code, text) = asked(address, "/metrics").await;
        let text = String::from_utf8(text).unwrap();
        assert!(code == 200 && text.contains("# TYPE larder_leases gauge\nlarder_leases 5\n"), "{text}");
        endpoints.running(Fake(Some("the journal has failed"), None));
        assert_eq!((asked(address, "/health").await.0, asked(address, "/ready").await.0), (503, 503));
        endpoints.stopping();
        assert_eq!((asked(address, "/health").await.0, asked(address, "/ready").await.0), (200, 503));
        assert_eq!(asked(address, "/other").await.0, 404);
        assert_eq!(found(state.path()).unwrap().len(), 1);
        drop(endpoints);
        assert!(found(state.path()).unwrap().is_empty(), "a server that has ended is announced no more");
    }
}
