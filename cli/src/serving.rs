//! What the servers share: their runtime, their listeners, the signals that stop them.
//!
//! The first SIGINT or SIGTERM stops a server in good order; a second one ends the process at once with code 1.

use std::net::SocketAddr;

use anyhow::Context as _;
use larder_common::{
    Error, ErrorKind,
    settings::{HostPort, Settings},
};
use larder_proto::{Channel, Greeting, greeting::Token};
use tokio::{
    net::{TcpListener, lookup_host},
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{exit::Exit, web::Endpoints};

/// The runtime of a server.
///
/// # Errors
/// Where the system gives no threads.
pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("larder").build().context("no threads")
}

/// Whether this process is root's, which decides where state is.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// This host's name.
pub(crate) fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "localhost".into())
}

/// Listens at an address. `setting` is what an error advises to change.
///
/// # Errors
/// `Config` for a name that cannot be resolved, `Busy` for a port that is taken.
pub(crate) async fn listen(address: &HostPort, setting: &str) -> Result<TcpListener, Error> {
    let bad = |e: &dyn std::fmt::Display| Error::new(ErrorKind::Config, format!("cannot listen at {address}: {e}"));
    let addresses = lookup_host((address.host.as_str(), address.port)).await.map_err(|e| bad(&e))?;
    let mut last = None;
    for candidate in addresses {
        match TcpListener::bind(candidate).await {
            Ok(listener) => return Ok(listener),
            Err(e) => last = Some((candidate, e)),
        }
    }
    match last {
        Some((candidate, e)) if e.kind() == std::io::ErrorKind::AddrInUse => Err(taken(candidate, setting)),
        Some((_, e)) => Err(bad(&e)),
        None => Err(bad(&"the name has no address")),
    }
}

fn taken(address: SocketAddr, setting: &str) -> Error {
    let holder = holder(address.port()).map_or_else(String::new, |process| format!(" by {process}"));
    Error::new(ErrorKind::Busy, format!("port {} is taken{holder}", address.port()))
        .advise(format!("stop it, or set {setting}"))
}

/// As [`listen`], but a taken default port becomes a free one.
///
/// # Errors
/// As [`listen`].
pub(crate) async fn listen_or_any(address: &HostPort, setting: &str, is_given: bool) -> Result<TcpListener, Error> {
    match listen(address, setting).await {
        Err(error) if error.kind() == ErrorKind::Busy && !is_given => {
            tracing::warn!("{}; taking a free one", error.message());
            listen(&HostPort { host: address.host.clone(), port: 0 }, setting).await
        }
        other => other,
    }
}

/// The process that listens at a TCP port, as far as this one may see it.
fn holder(port: u16) -> Option<String> {
    let inode = listening_inode(port)?;
    let wanted = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let has = |fd: std::fs::DirEntry| std::fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == &*wanted);
        if descriptors.flatten().any(has) {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {})", name.trim(), process.file_name().to_string_lossy()));
        }
    }
    None
}

fn listening_inode(port: u16) -> Option<String> {
    let suffix = format!(":{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let text = std::fs::read_to_string(table).ok()?;
        text.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let listens = fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == "0A";
            listens.then(|| fields.get(9).map(ToString::to_string))?
        })
    })
}

/// A token that the first signal cancels. A second signal ends the process.
///
/// # Errors
/// Where signals cannot be received.
pub(crate) fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let cancelled = stop.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        next().await;
        tracing::info!("stopping; once more to stop at once");
        cancelled.cancel();
        next().await;
        std::process::exit(Exit::Failed as i32);
    });
    Ok(stop)
}

/// The endpoints of a server, at the port of the settings. A default port that is taken becomes a free one if `may_move`.
///
/// # Errors
/// As [`listen`]; where the state directory takes no announcement.
pub(crate) async fn endpoints(
    settings: &Settings,
    role: &'static str,
    address: &HostPort,
    setting: &str,
    may_move: bool,
) -> Result<Endpoints, Error> {
    let listener = listen_or_any(address, setting, settings.is_given(setting) || !may_move).await?;
    Endpoints::start(role, listener, &settings.state_folder(is_root())?)
}

/// The way to the master, with this server's greeting.
///
/// # Errors
/// `Config` for an address that is none.
pub(crate) fn master_channel(settings: &Settings) -> Result<Channel, Error> {
    let address = settings.master_address();
    let channel = Channel::to(&address.host, address.port)?;
    channel.greet(&greeting(settings));
    Ok(channel)
}

/// The greeting of a server of this process.
pub(crate) fn greeting(settings: &Settings) -> Greeting {
    let host = hostname();
    let mut greeting = Greeting::of_server(&host, token(settings));
    greeting.locality = settings.locality(&host);
    greeting
}

/// The cluster token of the settings; empty for none.
pub(crate) fn token(settings: &Settings) -> Token {
    settings.security.token.as_ref().map(|token| Token::new(token.expose())).unwrap_or_default()
}
