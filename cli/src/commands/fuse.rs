//! `larder fuse`: the files of a cluster as a file system of this host.

use std::{collections::BTreeMap, fs, os::unix::fs::DirBuilderExt, path::PathBuf, time::Duration};

use clap::Args;
use larder_client::FileSystem;
use larder_common::{
    Error, ErrorKind,
    checksum::crc32c,
    settings::{Flag, Role, Settings},
};

use super::{background, umount};
use crate::{
    cluster,
    command::Run,
    context::Context,
    exit::Exit,
    mount::{self, Mount},
    serving,
    web::Observed,
};

/// How often a mount in the image that waits for its master says so.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Mount the files of the cluster here, for all programs
#[derive(Args, Debug)]
pub(crate) struct Fuse {
    /// Where; a missing directory is made [default: fuse.mount.point]
    #[arg(value_name = "MOUNTPOINT")]
    mount_point: Option<PathBuf>,
    /// Options, as ro,allow_other,uid=1000,profile=dataset
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// The directory of the namespace that is mounted [default: /]
    #[arg(long, value_name = "PATH")]
    root: Option<String>,
    /// Stay in the foreground, which is the default
    #[arg(short = 'f', long, conflicts_with = "background")]
    foreground: bool,
    /// Return when it is mounted; it logs to `log` in its state directory
    #[arg(long)]
    background: bool,
    /// Unmount what is mounted there
    #[arg(short = 'u', long, alias = "umount", conflicts_with_all = ["background", "foreground"])]
    unmount: bool,
}

impl Run for Fuse {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let flags = self.flags();
        let (settings, _said_below) = context.settings(Some(Role::Fuse), flags.clone())?;
        let mount_point = self.mount_point.clone().or_else(|| settings.fuse.mount_point.clone());
        let mount_point = mount::whole(&mount_point.ok_or_else(|| {
            Error::new(ErrorKind::Config, "no mount point").advise("name a directory, or set fuse.mount.point")
        })?)?;
        if self.unmount {
            return umount::unmount(context, &mount_point, false);
        }
        let state = state(&settings, &mount_point)?;
        let asked = mount::options(&settings, &self.options)?.foreground;
        if self.background || asked == Some(false) && !self.foreground {
            return background::start(context, &state, &format!("larder umount {}", mount_point.display()));
        }
        let settings = cluster::server_settings(context, Role::Fuse, flags)?;
        let mount = Mount::new(&settings, &self.options, &mount_point, &state)?;
        serving::runtime()?.block_on(serve(context, &settings, mount))
    }
}

impl Fuse {
    fn flags(&self) -> Vec<Flag> {
        let flag = |value: &String| Flag { shown: "--root".into(), name: "fuse.root".into(), value: value.clone() };
        self.root.iter().map(flag).collect()
    }
}

/// The directory of a mount: its log, and what is being changed.
fn state(settings: &Settings, mount_point: &std::path::Path) -> anyhow::Result<PathBuf> {
    let name = format!("fuse-{:08x}", crc32c(mount_point.as_os_str().as_encoded_bytes()));
    let state = settings.state_folder(serving::is_root())?.join(name);
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&state);
    made.map_err(|e| Error::from(e).at(state.as_os_str().as_encoded_bytes()))?;
    Ok(state)
}

/// The cluster. In the image this is a server like the others, which waits for its master and says so now and then;
/// whoever typed the command is told after a while that nobody is there.
async fn reached(context: &Context, settings: &Settings) -> larder_common::Result<FileSystem> {
    loop {
        let reach = if settings.log.image { SAY_EVERY } else { context.reach() };
        match cluster::connect(settings, reach).await {
            Err(error) if settings.log.image && error.kind() == ErrorKind::Unavailable => {
                tracing::warn!("{}; trying again", error.message());
            }
            ended => return ended,
        }
    }
}

/// A running mount, for its endpoints: it is announced when it is mounted, and goes when it is not.
struct Watched(larder_fuse::Watch);

impl Observed for Watched {
    fn trouble(&self) -> Option<String> {
        None
    }

    fn waits_for(&self) -> Option<String> {
        None
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        let mut all = self.0.counters();
        all.insert("larder_mounted".to_owned(), 1);
        all
    }
}

async fn serve(context: &Context, settings: &Settings, mount: Mount) -> anyhow::Result<Exit> {
    let stop = serving::stop_on_signals()?;
    let web = settings.listen("fuse.web.port", None, settings.fuse.web_port)?;
    let endpoints = serving::endpoints(settings, "fuse", &web, "fuse.web.port", true).await?;
    endpoints.starting(format!("waiting for the master at {}", settings.master_address()));
    let cluster = tokio::select! {
        cluster = reached(context, settings) => cluster?,
        () = stop.cancelled() => return Ok(Exit::Done),
    };
    let running = mount.start(cluster).await?;
    endpoints.running(Watched(running.watch()));
    let (master, place) = (settings.master_address(), running.mount_point().to_owned());
    match context.output.json {
        true => context.output.object(&serde_json::json!({ "mount": place, "master": master.to_string() }))?,
        false => {
            let place = place.display();
            context.output.line(format!("larder: larder://{master} is mounted at {place}; Ctrl-C stops it"))?;
        }
    }
    tokio::select! {
        () = running.ended() => {}
        () = stop.cancelled() => endpoints.stopping(),
    }
    running.stop().await?;
    Ok(Exit::Done)
}
