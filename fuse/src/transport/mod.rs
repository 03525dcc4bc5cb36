//! The way between the kernel and the [`Server`]: everything that knows how requests travel. What is asked for and what it means
//! is elsewhere, so that another transport can take this one's place.
//!
//! Today: the library fuser, with several threads that read requests. A request is begun on such a thread; one that is answered
//! from what is known ends there, every other goes on as a task and the thread reads the next request.

mod attach;
mod device;
mod kernel;
mod raw;
mod replies;

use std::{path::Path, sync::Arc, time::Duration};

use fuser::{Session, SessionACL};
use larder_common::{Caller, Error, ErrorKind, Result};
use tokio_util::sync::CancellationToken;

pub(crate) use device::{Backing, Device};

use self::kernel::Kernel;
use crate::{features::Features, options::MountOptions, server::Server};

/// How the kernel's requests are taken.
pub(crate) struct Settings {
    pub(crate) options: MountOptions,
    pub(crate) features: Features,
    /// Threads that read requests.
    pub(crate) threads: usize,
    /// A request that takes longer is answered with an error.
    pub(crate) deadline: Duration,
    /// In whose name changes are made where owners are not shown as they are.
    pub(crate) own: Caller,
}

/// Mounts, and serves requests until somebody unmounts. The token is cancelled then.
///
/// # Errors
/// What the kernel or the helper says, with what is missing.
pub(crate) fn start(server: &Arc<Server>, mount_point: &Path, settings: Settings) -> Result<CancellationToken> {
    let descriptor = attach::attach(mount_point, &settings.options).map_err(|e| refused(e, mount_point))?;
    let device = descriptor.try_clone().map_err(Error::from)?;
    server.attach(Device::new(device));
    let (acl, config) = config(&settings);
    let kernel = Kernel::new(Arc::clone(server), tokio::runtime::Handle::current(), settings);
    let session = Session::from_fd(kernel, descriptor, acl, config).map_err(|e| {
        // Without a session it would answer nobody. What went wrong first is what is told.
        let _ = crate::mounting::unmount(mount_point, true);
        refused(e, mount_point)
    })?;
    let ended = CancellationToken::new();
    let over = ended.clone().drop_guard();
    let run = move || {
        let _over = over;
        if let Err(error) = session.run() {
            tracing::warn!(%error, "the session with the kernel ended");
        }
    };
    std::thread::Builder::new().name("larder-fuse".into()).spawn(run).map_err(Error::from)?;
    Ok(ended)
}

fn config(settings: &Settings) -> (SessionACL, fuser::Config) {
    let options = &settings.options;
    let mut config = fuser::Config::default();
    config.n_threads = Some(settings.threads.max(1));
    let acl = match () {
        () if options.allow_other => SessionACL::All,
        () if options.allow_root => SessionACL::RootAndOwner,
        () => SessionACL::Owner,
    };
    config.acl = acl;
    (acl, config)
}

/// Says what a mount that was refused lacks.
fn refused(error: std::io::Error, mount_point: &Path) -> Error {
    let is_there = Path::new("/dev/fuse").exists();
    let root = nix::unistd::geteuid().is_root();
    let advice = match (is_there, root) {
        (false, _) => "there is no /dev/fuse: in a container give it `--device /dev/fuse --cap-add SYS_ADMIN`",
        (true, true) => {
            "in a container it needs `--cap-add SYS_ADMIN --device /dev/fuse`, and with AppArmor \
             `--security-opt apparmor=unconfined`"
        }
        (true, false) if error.to_string().contains("/dev/fuse") => {
            "an ordinary user needs /dev/fuse to be open to all, as Debian makes it: `chmod 666 /dev/fuse`"
        }
        (true, false) => {
            "an ordinary user needs the program fusermount3 (package fuse3), and for allow_other the line \
             user_allow_other in /etc/fuse.conf"
        }
    };
    let kind = Error::from(std::io::Error::from(error.kind())).kind();
    let kind = if is_there { kind } else { ErrorKind::Unsupported };
    Error::new(kind, format!("cannot mount: {error}")).at(mount_point.as_os_str().as_encoded_bytes()).advise(advice)
}
