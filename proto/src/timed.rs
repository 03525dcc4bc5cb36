//! How long servers take to answer, by the name of the RPC: the histogram `larder_rpc_seconds{rpc}`, recorded wherever the
//! process records its metrics (nowhere, if it does not).
//!
//! An answer is what a method returns: for a call that ends in a stream, its beginning. Names are those of methods that
//! exist; whoever invents others makes no new ones here.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

/// The histogram's name, a contract with operators.
pub const RPC_SECONDS: &str = "larder_rpc_seconds";

/// The layer of a server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timed;

/// A service whose answers are timed.
#[derive(Clone, Debug)]
pub struct TimedService<S>(S);

impl<S> Layer<S> for Timed {
    type Service = TimedService<S>;

    fn layer(&self, service: S) -> TimedService<S> {
        TimedService(service)
    }
}

impl<S, Q, A> Service<Request<Q>> for TimedService<S>
where
    S: Service<Request<Q>, Response = Response<A>>,
    S::Error: 'static,
    S::Future: Send + 'static,
    A: 'static,
{
    type Response = Response<A>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<A>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let name = name(request.uri().path()).to_owned();
        Box::pin(timed(name, self.0.call(request)))
    }
}

/// Makes a call and records how long it took.
pub(crate) async fn timed<A, E>(
    name: String,
    call: impl Future<Output = Result<Response<A>, E>>,
) -> Result<Response<A>, E> {
    let start = Instant::now();
    let answer = call.await;
    if !answer.as_ref().is_ok_and(is_unknown) {
        metrics::histogram!(RPC_SECONDS, "rpc" => name).record(start.elapsed());
    }
    answer
}

/// `FileSystem/Open` of `/larder.v1.FileSystem/Open`.
pub(crate) fn name(path: &str) -> &str {
    let path = path.trim_start_matches('/');
    let service = path.split('/').next().unwrap_or(path);
    service.rfind('.').map_or(path, |dot| &path[dot + 1..])
}

/// Whether nobody knows a method of this name.
fn is_unknown<A>(answer: &Response<A>) -> bool {
    const UNIMPLEMENTED: &[u8] = b"12";
    answer.headers().get("grpc-status").is_some_and(|status| status.as_bytes() == UNIMPLEMENTED)
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    fn answered(status: &str) -> Result<Response<()>, ()> {
        Response::builder().header("grpc-status", status).body(()).map_err(drop)
    }

    #[test]
    fn calls_are_recorded_by_name_and_invented_names_are_not() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let call = |path: &str, status: &'static str| {
                let call = timed(name(path).to_owned(), std::future::ready(answered(status)));
                drop(runtime.block_on(call));
            };
            call("/larder.v1.FileSystem/Open", "0");
            call("/larder.v1.FileSystem/Open", "5");
            call("/larder.v1.FileSystem/Invented", "12");
        });
        let text = handle.render();
        assert!(text.contains("larder_rpc_seconds_count{rpc=\"FileSystem/Open\"} 2"), "{text}");
        assert!(!text.contains("Invented"), "{text}");
    }

    #[test]
    fn names_are_the_services_and_the_methods() {
        assert_eq!(name("/larder.v1.FileSystem/Open"), "FileSystem/Open");
        assert_eq!(name("/grpc.health.v1.Health/Check"), "Health/Check");
        assert_eq!(name("no.path/at.all"), "path/at.all");
        assert_eq!(name("/"), "");
    }
}
