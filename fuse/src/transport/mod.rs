//! The way between the kernel and the [`Server`]: everything that knows how requests travel. What is asked for and what it means
//! is elsewhere, so that another transport can take this one's place.
//!
//! Today: the library fuser, with several threads that read requests. A request is begun on such a thread; one that is answered
//! from what is known ends there, every other goes on as a task and the thread reads the next request.

mod device;
mod kernel;
mod raw;
mod replies;

use std::{os::fd::AsFd, path::Path, sync::Arc, time::Duration};

use fuser::{MountOption, Session, SessionACL};
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
    let config = config(&settings);
    let kernel = Kernel::new(Arc::clone(server), tokio::runtime::Handle::current(), settings);
    let session = Session::new(kernel, mount_point, &config).map_err(|e| refused(e, mount_point))?;
    let descriptor = session.as_fd().try_clone_to_owned().map_err(Error::from)?;
    server.attach(Device::new(descriptor));
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

fn config(settings: &Settings) -> fuser::Config {
    let options = &settings.options;
    let mut config = fuser::Config::default();
    config.n_threads = Some(settings.threads.max(1));
    config.acl = match () {
        () if options.allow_other => SessionACL::All,
        () if options.allow_root => SessionACL::RootAndOwner,
        () => SessionACL::Owner,
    };
    let source = options.fsname.clone().unwrap_or_else(|| "larder".to_owned());
    config.mount_options =
        vec![MountOption::FSName(source), MountOption::Subtype("larder".into()), MountOption::DefaultPermissions];
    config.mount_options.push(if options.read_only { MountOption::RO } else { MountOption::RW });
    config.mount_options.extend(options.flags.iter().filter_map(|flag| kernel_flag(flag)));
    config.mount_options.extend(options.max_read.map(|max| MountOption::CUSTOM(format!("max_read={max}"))));
    config
}

fn kernel_flag(flag: &str) -> Option<MountOption> {
    Some(match flag {
        "dev" => MountOption::Dev,
        "nodev" => MountOption::NoDev,
        "suid" => MountOption::Suid,
        "nosuid" => MountOption::NoSuid,
        "exec" => MountOption::Exec,
        "noexec" => MountOption::NoExec,
        "atime" => MountOption::Atime,
        "noatime" => MountOption::NoAtime,
        "sync" => MountOption::Sync,
        "async" => MountOption::Async,
        "dirsync" => MountOption::DirSync,
        _ => return None,
    })
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
        (true, false) => {
            "an ordinary user needs the program fusermount3 (package fuse3), and for allow_other the line \
             user_allow_other in /etc/fuse.conf"
        }
    };
    let kind = Error::from(std::io::Error::from(error.kind())).kind();
    let kind = if is_there { kind } else { ErrorKind::Unsupported };
    Error::new(kind, format!("cannot mount: {error}")).at(mount_point.as_os_str().as_encoded_bytes()).advise(advice)
}
