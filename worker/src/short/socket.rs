//! Where the worker listens: at the address of the settings, and in the directory of each MEM tier, beside its own
//! subdirectory, so that whoever shares either volume is co-located.
//!
//! A place that cannot be listened at is named in a warning and the others are used; without any, everybody streams.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use larder_common::{Error, ErrorKind, Medium, Result, WorkerId};
use larder_proto::shortcircuit::Listener;
use tokio_util::sync::CancellationToken;

use crate::{config::WorkerConfig, services::Services, short::connection};

/// The paths at which a worker should listen.
pub(crate) fn places(config: &WorkerConfig, worker: WorkerId) -> Vec<PathBuf> {
    let named = config.socket.as_ref().map(|path| match config.socket_as_uuid {
        true => path.join(worker.to_string()),
        false => path.clone(),
    });
    let beside = config.tiers.iter().filter(|tier| tier.medium == Medium::Mem);
    let beside = beside.map(|tier| tier.directory.join(format!("larder-{worker}.sock")));
    let mut all: Vec<PathBuf> = named.into_iter().chain(beside).collect();
    all.dedup();
    all
}

/// Listens at all places where that works. An address that was asked for and does not work is an error.
///
/// # Errors
/// `Busy` or `Config` for the address of the settings.
pub(crate) fn bind(config: &WorkerConfig, worker: WorkerId) -> Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for (number, path) in places(config, worker).iter().enumerate() {
        let asked = number == 0 && config.socket.is_some();
        match prepare(path).and_then(|()| Listener::bind(path)) {
            Ok(listener) => listeners.push(listener),
            Err(error) if asked => return Err(error),
            Err(error) => tracing::warn!(%error, "no unix socket there; clients that share only this directory stream"),
        }
    }
    Ok(listeners)
}

/// The directory of a socket is made where it is missing.
fn prepare(path: &Path) -> Result<()> {
    let Some(parent) = path.parent().filter(|parent| !parent.exists()) else { return Ok(()) };
    std::fs::create_dir_all(parent).map_err(|e| {
        Error::new(ErrorKind::Config, format!("the socket's directory cannot be made: {e}"))
            .at(parent.as_os_str().as_encoded_bytes())
            .advise("set worker.data.server.domain.socket.address to a place where this user may write")
    })
}

/// Takes clients until the worker stops.
pub(crate) async fn serve(services: Arc<Services>, listener: Listener, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok(socket) => {
                tokio::spawn(connection::serve(services.clone(), socket, stop.clone()));
            }
            Err(error) => {
                tracing::error!(%error, path = %listener.path().display(), "a unix socket is broken");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_and_the_memory_tier_each_give_a_place() {
        let worker = WorkerId([1; 16]);
        let tiers = vec!["MEM:/m:1GB".parse().unwrap(), "SSD:/s:1GB".parse().unwrap()];
        let plain = WorkerConfig::new("/state".into(), tiers);
        assert_eq!(places(&plain, worker), [PathBuf::from(format!("/m/larder-{worker}.sock"))]);
        let named = WorkerConfig { socket: Some("/d".into()), ..plain.clone() };
        assert_eq!(places(&named, worker)[0], PathBuf::from("/d"));
        let as_uuid = WorkerConfig { socket_as_uuid: true, ..named };
        assert_eq!(places(&as_uuid, worker)[0], PathBuf::from(format!("/d/{worker}")));
    }
}
