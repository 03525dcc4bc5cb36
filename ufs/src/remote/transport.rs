//! The way to the services: one HTTP client for the process, and around each operator its limits: deadlines for each
//! try, tries again with growing pauses, and so many requests at once.

use std::{sync::OnceLock, time::Duration};

use larder_common::{Error, ErrorKind, Result};
use opendal::{
    HttpTransporter, Operator,
    layers::{ConcurrentLimitLayer, RetryEvent, RetryLayer, TimeoutLayer},
};
use opendal_http_transport_reqwest::ReqwestTransport;

use super::failure;
use crate::OpenOptions;

/// How often a request is tried again.
const TRIES: usize = 3;
/// More than any number of streams that anybody opens; what is limited are requests.
const STREAMS: usize = 1 << 20;
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// Puts the limits around an operator.
pub(super) fn dress(operator: Operator, options: &OpenOptions) -> Result<Operator> {
    install()?;
    let each = (options.deadline / 3).max(Duration::from_millis(100));
    let tries = RetryLayer::new()
        .with_max_times(TRIES)
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(options.deadline / 10)
        .with_jitter()
        .with_notify(told);
    Ok(operator
        .layer(ConcurrentLimitLayer::new(STREAMS).with_http_concurrent_limit(options.threads.max(1)))
        .layer(TimeoutLayer::new().with_timeout(each).with_io_timeout(each))
        .layer(tries))
}

/// The library would log the whole error, with the address.
fn told(event: RetryEvent<'_>) {
    let (operation, pause) = (event.op, event.retry_after);
    tracing::debug!(%operation, ?pause, error = failure::text(event.err), "a request to an under store is tried again");
}

/// The client of the process. Where the system has no certificates of authorities (an empty container), services
/// without TLS still work, and others fail at their first request.
fn install() -> Result<()> {
    static CLIENT: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let installed = CLIENT.get_or_init(|| {
        // Somebody else in this process may have installed one: any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || reqwest::Client::builder().connect_timeout(CONNECT);
        let client = builder().build().or_else(|error| {
            tracing::warn!(%error, "no certificates of authorities: https will fail; mount /etc/ssl/certs of the host");
            builder().tls_certs_only([]).build()
        });
        HttpTransporter::install_default(ReqwestTransport::new(client.map_err(|error| error.to_string())?));
        Ok(())
    });
    let failed = |text: &String| Error::new(ErrorKind::Config, format!("no HTTP client: {text}"));
    installed.as_ref().copied().map_err(failed)
}
