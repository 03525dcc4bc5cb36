//! Settings: every one declared once in [`registry`], read from flags, environment and files by [`Settings::load`], and
//! handed out as typed structs.
//!
//! What lives here: names, forms of names, parsing, precedence, documentation. What may not: knowledge of what a setting
//! does, and any I/O other than reading files through [`Files`]. The library returns errors and warnings; only the
//! binary stops or prints.
//!
//! The order of precedence is that of [`Origin`]: flag, `LARDER_*`, `-D`, `ALLUXIO_*`, TOML, `alluxio-site.properties`,
//! default.

mod document;
mod environment;
mod filter;
mod java;
mod properties;
pub mod reference;
mod registry;
mod setting;
mod sources;
mod tiers;
mod value;
mod values;

use std::{collections::BTreeMap, io, path::PathBuf, time::Duration};

pub use filter::LogFilter;
pub use registry::{
    ClientSettings, FuseSettings, GROUPS, LocalSettings, LogSettings, MasterSettings, SecuritySettings, UfsSettings,
    WorkerSettings, all,
};
pub use setting::{Role, Setting};
pub use sources::{Files, Flag, Origin, Sources, SystemFiles, Warning};
pub use value::{
    Authentication, Freshness, FuseProfile, Host, HostPort, HugePages, LogFormat, LogOutput, Percent, PolicyName,
    Secret, Value,
};
pub(crate) use values::Values;

use registry::Dialect;
use values::Collector;

use crate::{Error, ErrorKind, Locality, Result};

/// All settings of a process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the master is told, and where others find it.
    pub master: MasterSettings,
    /// How under stores are used.
    pub ufs: UfsSettings,
    /// What a worker is told.
    pub worker: WorkerSettings,
    /// What whoever uses the cluster is told.
    pub client: ClientSettings,
    /// What a mount is told.
    pub fuse: FuseSettings,
    /// Who is believed.
    pub security: SecuritySettings,
    /// What `larder local` is told.
    pub local: LocalSettings,
    /// Logs, and what every process is told.
    pub log: LogSettings,
    /// Credentials by name, each a map of keys and values.
    pub credentials: BTreeMap<String, BTreeMap<String, Secret>>,
    /// The tiers of locality, the nearest first, with the values that were given.
    locality: Vec<(String, Option<String>)>,
    places: Places,
    values: Values,
}

/// Where a user's files are, from the environment.
#[derive(Clone, Debug, Default)]
struct Places {
    home: Option<PathBuf>,
    state: Option<PathBuf>,
    runtime: Option<PathBuf>,
}

impl Default for Settings {
    /// What holds where nobody gave anything.
    fn default() -> Self {
        Self::read(Values::default(), &Sources::new([], &SystemFiles)).expect("defaults parse: a test reads them all")
    }
}

/// One setting as it holds, for people.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The full name.
    pub name: String,
    /// The value as text, `***` for a secret, empty for none.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
    /// The declaration.
    pub setting: &'static Setting,
}

impl Settings {
    /// Reads all sources.
    ///
    /// # Errors
    /// `Config` for an unknown name of Larder's own, a value that does not parse, a file that was asked for and cannot
    /// be read, or values that contradict each other; with the name, the value and what to write instead.
    pub fn load(sources: &Sources<'_>) -> Result<(Settings, Vec<Warning>)> {
        let mut collector = Collector::new(sources.files);
        collect_flags(sources, &mut collector)?;
        environment::collect(sources, &mut collector)?;
        collect_config(sources, &mut collector)?;
        collect_properties(sources, &mut collector)?;
        let (mut values, mut warnings) = collector.decide();
        tiers::fill(&mut values, &mut warnings)?;
        let settings = Self::read(values, sources)?;
        settings.check()?;
        Ok((settings, warnings))
    }

    fn read(values: Values, sources: &Sources<'_>) -> Result<Self> {
        let path = |name: &str| sources.variable(name).filter(|path| path.starts_with('/')).map(PathBuf::from);
        Ok(Self {
            master: MasterSettings::read(&values)?,
            ufs: UfsSettings::read(&values)?,
            worker: WorkerSettings::read(&values)?,
            client: ClientSettings::read(&values)?,
            fuse: FuseSettings::read(&values)?,
            security: SecuritySettings::read(&values)?,
            local: LocalSettings::read(&values)?,
            log: LogSettings::read(&values)?,
            credentials: credentials(&values)?,
            locality: locality(&values)?,
            places: Places { home: path("HOME"), state: path("XDG_STATE_HOME"), runtime: path("XDG_RUNTIME_DIR") },
            values,
        })
    }

    /// What holds between several settings.
    fn check(&self) -> Result<()> {
        let wrong = |message: &str, advice: &str| Err(Error::new(ErrorKind::Config, message).advise(advice));
        if self.worker.watermark_low > self.worker.watermark_high {
            return wrong("worker.watermark.low is above worker.watermark.high", "lower the one or raise the other");
        }
        if self.master.session_lease < Duration::from_secs(1) {
            return wrong("master.session.lease is below 1s", "give at least 1s");
        }
        if self.worker.tiers.is_empty() {
            return wrong("worker.tiers is empty", "give at least one, as MEM:/dev/shm:1GB");
        }
        let needed = [
            ("master.worker.timeout", self.master.worker_timeout),
            ("ufs.timeout", self.ufs.timeout),
            ("user.rpc.timeout", self.client.rpc_timeout),
            ("worker.heartbeat.interval", self.worker.heartbeat),
        ];
        match needed.iter().find(|(_, duration)| duration.is_zero()) {
            Some((name, _)) => wrong(&format!("{name} is 0"), "give more than 0s"),
            None => Ok(()),
        }
    }

    /// Every setting with its value and where that comes from, in the order of the registry; families only where given.
    #[must_use]
    pub fn shown(&self) -> Vec<Shown> {
        let mut shown = Vec::new();
        for setting in all() {
            let mut given = self.values.0.iter().filter(|(_, given)| given.setting.name == setting.name).peekable();
            if given.peek().is_none() && !setting.is_family() {
                let (name, value) = (setting.name.to_owned(), setting.default.to_owned());
                shown.push(Shown { name, value, origin: Origin::Default, setting });
            }
            shown.extend(given.map(|(name, given)| Shown {
                name: name.clone(),
                value: given.shown().to_owned(),
                origin: given.origin.clone(),
                setting,
            }));
        }
        shown
    }

    /// Whether somebody gave this setting (by its own full name), so that it is not the default.
    #[must_use]
    pub fn is_given(&self, name: &str) -> bool {
        self.values.get(name).is_some()
    }

    /// Where the master is found: its host, or `localhost`, and its RPC port.
    #[must_use]
    pub fn master_address(&self) -> HostPort {
        let host = self.master.hostname.as_ref().map_or("localhost", Host::as_str);
        HostPort { host: host.to_owned(), port: self.master.rpc_port }
    }

    /// Where the master listens for RPC.
    ///
    /// # Errors
    /// As [`Self::listen`].
    pub fn master_listen(&self) -> Result<HostPort> {
        self.listen("master.bind.host", self.master.bind_host.as_ref(), self.master.rpc_port)
    }

    /// Where the worker listens for RPC and data.
    ///
    /// # Errors
    /// As [`Self::listen`].
    pub fn worker_listen(&self) -> Result<HostPort> {
        self.listen("worker.bind.host", self.worker.bind_host.as_ref(), self.worker.rpc_port)
    }

    /// Where a server listens: the address it was given, else every address if it asks who calls or was told not to,
    /// else loopback.
    ///
    /// # Errors
    /// `Config` for an address other than loopback with neither a token nor `security.authentication=simple`, and for
    /// `security.authentication=token` without a token.
    pub fn listen(&self, name: &str, host: Option<&Host>, port: u16) -> Result<HostPort> {
        let (mode, has_token) = (self.security.authentication, self.security.token.is_some());
        if mode == Authentication::Token && !has_token {
            let error = Error::new(ErrorKind::Config, "security.authentication=token, and there is no token");
            return Err(error.advise("set security.token, or LARDER_SECURITY_TOKEN_FILE to a file that holds it"));
        }
        let open = has_token || mode == Authentication::Simple || self.log.image;
        match host.map(Host::as_str) {
            None if open => Ok(HostPort { host: "0.0.0.0".into(), port }),
            None => Ok(HostPort { host: "127.0.0.1".into(), port }),
            Some(host) if open || is_loopback(host) => Ok(HostPort { host: host.into(), port }),
            Some(host) => {
                let message = format!("{name}={host}: without a token only loopback is served");
                let advice = "set security.token, or security.authentication=simple to believe every caller";
                Err(Error::new(ErrorKind::Config, message).advise(advice))
            }
        }
    }

    /// The tiered identity of a process on this host: what was given, and the host for `node` if that was not.
    #[must_use]
    pub fn locality(&self, host: &str) -> Locality {
        let tier = |(tier, value): &(String, Option<String>)| match (tier.as_str(), value) {
            (_, Some(value)) => Some(format!("{tier}={value}")),
            ("node", None) => Some(format!("node={host}")),
            _ => None,
        };
        let text: Vec<_> = self.locality.iter().filter_map(tier).collect();
        text.join(",").parse().unwrap_or_else(|_| Locality::node(host))
    }

    /// Where a process keeps what must outlive it: `state.folder`, else `/var/lib/larder` as root, else
    /// `$XDG_STATE_HOME/larder` or `~/.local/state/larder`.
    ///
    /// # Errors
    /// `Config` where none of these is known.
    pub fn state_folder(&self, is_root: bool) -> Result<PathBuf> {
        let homes = || self.places.home.as_ref().map(|home| home.join(".local/state"));
        match (&self.log.state_folder, is_root) {
            (Some(folder), _) => Ok(folder.clone()),
            (None, true) => Ok("/var/lib/larder".into()),
            (None, false) => {
                self.places.state.clone().or_else(homes).map(|state| state.join("larder")).ok_or_else(|| {
                    Error::new(ErrorKind::Config, "no directory for state is known")
                        .advise("set LARDER_STATE_FOLDER, or HOME")
                })
            }
        }
    }

    /// Where a running `larder local` leaves its addresses and token: `/run/larder` as root, else
    /// `$XDG_RUNTIME_DIR/larder`, else `run` in the state directory.
    ///
    /// # Errors
    /// As [`Self::state_folder`].
    pub fn runtime_folder(&self, is_root: bool) -> Result<PathBuf> {
        match (&self.places.runtime, is_root) {
            (_, true) => Ok("/run/larder".into()),
            (Some(runtime), false) => Ok(runtime.join("larder")),
            (None, false) => Ok(self.state_folder(false)?.join("run")),
        }
    }

    /// Where the journal is: `master.journal.folder`, else `journal` in the state directory.
    ///
    /// # Errors
    /// As [`Self::state_folder`].
    pub fn journal_folder(&self, is_root: bool) -> Result<PathBuf> {
        match &self.master.journal_folder {
            Some(folder) => Ok(folder.clone()),
            None => Ok(self.state_folder(is_root)?.join("journal")),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn collect_flags(sources: &Sources<'_>, collector: &mut Collector<'_>) -> Result<()> {
    for (at, flag) in sources.flags.iter().enumerate() {
        let name = flag.name.strip_prefix("alluxio.").unwrap_or(&flag.name);
        if sources.flags[at + 1..].iter().any(|later| later.name == flag.name) {
            continue;
        }
        if !collector.take(name, Dialect::Larder, &flag.value, Origin::Flag(flag.shown.clone()))? {
            let shown = environment::printable(name, &flag.value);
            let error =
                Error::new(ErrorKind::Config, format!("{}: {}={shown} is not a setting", flag.shown, flag.name));
            return Err(error.advise(document::advice(name)));
        }
    }
    Ok(())
}

/// The file that was asked for, or the first of the usual ones that exists.
fn collect_config(sources: &Sources<'_>, collector: &mut Collector<'_>) -> Result<()> {
    let asked = sources.config.clone().map(|path| (path, "--config"));
    let asked = asked.or_else(|| sources.variable("LARDER_CONFIG").map(|path| (path.into(), "LARDER_CONFIG")));
    if let Some((path, by)) = asked {
        let bytes = sources.files.read(&path).map_err(|e| {
            let error = Error::new(ErrorKind::Config, format!("cannot be read: {e}"));
            error.at(path.as_os_str().as_encoded_bytes()).advise(format!("{by} asks for it"))
        })?;
        return document::collect(&path, &bytes, collector);
    }
    let home = sources.variable("HOME").map(|home| PathBuf::from(home).join(".config"));
    let home = sources.variable("XDG_CONFIG_HOME").map(PathBuf::from).or(home);
    let usual = home.into_iter().chain([PathBuf::from("/etc")]).map(|folder| folder.join("larder/larder.toml"));
    match first_that_exists(sources, usual)? {
        Some((path, bytes)) => document::collect(&path, &bytes, collector),
        None => Ok(()),
    }
}

/// The first `alluxio-site.properties` in the places where Alluxio looks.
fn collect_properties(sources: &Sources<'_>, collector: &mut Collector<'_>) -> Result<()> {
    let folder = |name: &str, below: &str| sources.variable(name).map(|folder| PathBuf::from(folder).join(below));
    let folders = [
        folder("ALLUXIO_CONF_DIR", ""),
        folder("ALLUXIO_HOME", "conf"),
        Some(PathBuf::from("/opt/alluxio/conf")),
        folder("HOME", ".alluxio"),
        Some(PathBuf::from("/etc/alluxio")),
    ];
    let files = folders.into_iter().flatten().map(|folder| folder.join("alluxio-site.properties"));
    match first_that_exists(sources, files)? {
        Some((path, bytes)) => properties::collect(&path, &bytes, collector),
        None => Ok(()),
    }
}

fn first_that_exists(
    sources: &Sources<'_>,
    paths: impl IntoIterator<Item = PathBuf>,
) -> Result<Option<(PathBuf, Vec<u8>)>> {
    for path in paths {
        match sources.files.read(&path) {
            Ok(bytes) => return Ok(Some((path, bytes))),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            // A directory that this user may not look into is not one that was meant for this user.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            Err(e) => {
                let error = Error::new(ErrorKind::Config, format!("cannot be read: {e}"));
                return Err(error.at(path.as_os_str().as_encoded_bytes()));
            }
        }
    }
    Ok(None)
}

fn credentials(values: &Values) -> Result<BTreeMap<String, BTreeMap<String, Secret>>> {
    let mut credentials: BTreeMap<String, BTreeMap<String, Secret>> = BTreeMap::new();
    for (word, given) in values.family("credential.*") {
        let Some((name, key)) = word.split_once('_') else {
            let error = Error::new(ErrorKind::Config, format!("{}: a credential has a name and keys", given.origin));
            return Err(error.advise("write credential.NAME.KEY"));
        };
        credentials.entry(name.to_owned()).or_default().insert(key.to_owned(), Secret::new(given.text.clone()));
    }
    for (key, given) in values.family("aws.*") {
        credentials.entry("aws".to_owned()).or_default().insert(key.to_owned(), Secret::new(given.text.clone()));
    }
    Ok(credentials)
}

fn locality(values: &Values) -> Result<Vec<(String, Option<String>)>> {
    let order: Vec<String> = values.typed(&registry::LOCALITY[0])?;
    for (tier, given) in values.family("locality.*") {
        if !order.iter().any(|known| known == tier) {
            let error = Error::new(ErrorKind::Config, format!("{}: {tier:?} is not a tier of locality", given.origin));
            return Err(error.advise(format!("use one of {}, or add it to locality.order", order.join(", "))));
        }
        if given.text.contains([',', '=']) {
            let error = Error::new(ErrorKind::Config, format!("{}: {:?} has `,` or `=`", given.origin, given.text));
            return Err(error.advise("give one word"));
        }
    }
    let value = |tier: &str| values.get(&format!("locality.{tier}")).map(|given| given.text.clone());
    Ok(order.into_iter().map(|tier| (tier.clone(), value(&tier))).collect())
}

#[cfg(test)]
mod tests;
