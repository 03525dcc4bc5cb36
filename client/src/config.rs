//! What a [`FileSystem`](crate::FileSystem) is told when it connects.

use std::{path::PathBuf, time::Duration};

use larder_common::{
    BlockSize, ByteSize, Caller, Error, ErrorKind, Locality, ReadType, Result, WriteType,
    settings::{Host, HostPort, Secret, Settings, Sources, SystemFiles},
};

/// Where the master is, who asks, and how much is remembered.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) master: HostPort,
    pub(crate) caller: Caller,
    pub(crate) token: Option<Secret>,
    pub(crate) hostname: String,
    pub(crate) locality: Locality,
    pub(crate) program: String,
    pub(crate) read_type: ReadType,
    pub(crate) write_type: WriteType,
    pub(crate) block_size: Option<BlockSize>,
    pub(crate) replication: u32,
    pub(crate) short_circuit: bool,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) socket_as_uuid: bool,
    pub(crate) metadata_max: usize,
    pub(crate) descriptors_max: usize,
    pub(crate) mappings_max: usize,
    pub(crate) mapped_max: ByteSize,
    pub(crate) timeout: Duration,
    pub(crate) read_ahead: ByteSize,
}

impl Config {
    /// What the `larder` command would use: the environment, the configuration files, and this process's user.
    ///
    /// # Errors
    /// `Config` for a wrong setting, naming it.
    pub fn from_env() -> Result<Config> {
        let sources = Sources::new(std::env::vars_os(), &SystemFiles);
        let (settings, _warnings) = Settings::load(&sources)?;
        Ok(Self::from_settings(&settings))
    }

    /// The same from settings that were read already.
    #[must_use]
    pub fn from_settings(settings: &Settings) -> Config {
        let client = &settings.client;
        let hostname = client.hostname.as_ref().map_or_else(hostname, |host| host.as_str().to_owned());
        Config {
            master: settings.master_address(),
            caller: caller(),
            token: settings.security.token.clone(),
            locality: settings.locality(&hostname),
            hostname,
            program: program(),
            read_type: client.read_type,
            write_type: client.write_type,
            block_size: Some(client.block_size),
            replication: client.replication_min,
            short_circuit: client.short_circuit,
            socket: settings.worker.socket_address.clone(),
            socket_as_uuid: settings.worker.socket_as_uuid,
            metadata_max: usize::try_from(client.metadata_cache_max).unwrap_or(usize::MAX),
            descriptors_max: client.descriptor_cache.get(),
            timeout: client.rpc_timeout,
            read_ahead: client.read_ahead,
            ..Config::plain()
        }
    }

    /// The defaults, to be changed one by one; nothing is read from the environment.
    #[must_use]
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder(Self::plain())
    }

    fn plain() -> Config {
        let hostname = hostname();
        Config {
            master: HostPort { host: "localhost".into(), port: 19998 },
            caller: caller(),
            token: None,
            locality: Locality::node(&hostname),
            hostname,
            program: program(),
            read_type: ReadType::CachePromote,
            write_type: WriteType::CacheThrough,
            block_size: None,
            replication: 0,
            short_circuit: true,
            socket: None,
            socket_as_uuid: false,
            metadata_max: 100_000,
            descriptors_max: 16_384,
            mappings_max: 24_000,
            mapped_max: ByteSize::gib(16),
            timeout: Duration::from_secs(30),
            read_ahead: ByteSize::mib(16),
        }
    }

    /// The same, to be changed one by one.
    #[must_use]
    pub fn change(self) -> ConfigBuilder {
        ConfigBuilder(self)
    }

    /// In whose name calls are made that do not say.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// How long an operation may take with all its retries.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// Changes a [`Config`] step by step.
#[derive(Clone, Debug)]
pub struct ConfigBuilder(Config);

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty => |$config:ident, $value:ident| $set:expr;)*) => { $(
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $value: $type) -> Self {
            let $config = &mut self.0;
            $set;
            self
        }
    )* };
}

impl ConfigBuilder {
    setters! {
        /// In whose name calls are made, in place of this process's user.
        caller: Caller => |config, value| config.caller = value;
        /// The cluster's token.
        token: &str => |config, value| config.token = Some(Secret::new(value));
        /// Where this process runs, for choosing near workers.
        locality: Locality => |config, value| config.locality = value;
        /// A name for reports, in place of the executable's.
        program: &str => |config, value| config.program = value.to_owned();
        /// Whether what is read is kept, where the caller does not say.
        read_type: ReadType => |config, value| config.read_type = value;
        /// Where written bytes are before a commit returns, where the caller does not say.
        write_type: WriteType => |config, value| config.write_type = value;
        /// The size of the blocks of new files.
        block_size: BlockSize => |config, value| config.block_size = Some(value);
        /// Whether bytes on this host are read through descriptors.
        short_circuit: bool => |config, value| config.short_circuit = value;
        /// A further unix socket of a worker to try.
        socket: PathBuf => |config, value| config.socket = Some(value);
        /// How many files' status is remembered; 0 for none.
        metadata_cache: usize => |config, value| config.metadata_max = value;
        /// How many descriptors of cache files are kept; never more than a quarter of the limit of open files.
        descriptor_cache: usize => |config, value| config.descriptors_max = value.max(1);
        /// How many small files are kept mapped, and how many bytes of them.
        mapping_cache: (usize, ByteSize) => |config, value| (config.mappings_max, config.mapped_max) = value;
        /// How long an operation may take with all its retries.
        timeout: Duration => |config, value| config.timeout = value;
        /// How far ahead of a sequential reader is asked.
        read_ahead: ByteSize => |config, value| config.read_ahead = value;
    }

    /// Where the master is.
    ///
    /// # Errors
    /// `Config` for what cannot be a host.
    pub fn master(mut self, host: &str, port: u16) -> Result<Self> {
        let host: Host = larder_common::settings::Value::parse(host)
            .map_err(|error: Error| Error::new(ErrorKind::Config, error.message()).advise("give a name or address"))?;
        self.0.master = host.port(port);
        Ok(self)
    }

    /// The result.
    #[must_use]
    pub fn build(self) -> Config {
        self.0
    }
}

fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "localhost".into())
}

fn program() -> String {
    let name = std::env::args_os().next().map(PathBuf::from);
    let name = name.as_deref().and_then(|path| path.file_name()).and_then(|name| name.to_str());
    name.unwrap_or("larder-client").to_owned()
}

/// This process's user, with its groups.
fn caller() -> Caller {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let mut gids = vec![gid.as_raw()];
    for group in nix::unistd::getgroups().unwrap_or_default() {
        if group != gid {
            gids.push(group.as_raw());
        }
    }
    let name = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name).unwrap_or_default();
    Caller { uid: uid.as_raw(), gids, name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_a_config() {
        let (files, none) = (std::collections::BTreeMap::new(), Vec::<(std::ffi::OsString, std::ffi::OsString)>::new());
        let sources = Sources::new(none, &files)
            .flag("--master", "master.hostname", "m1")
            .flag("-", "user.rpc.timeout", "3s")
            .flag("-", "user.short.circuit.enabled", "false");
        let config = Config::from_settings(&Settings::load(&sources).unwrap().0);
        assert_eq!(config.master, HostPort { host: "m1".into(), port: 19998 });
        assert_eq!(config.timeout(), Duration::from_secs(3));
        assert!(!config.short_circuit);
        assert!(!config.caller.gids.is_empty());
    }

    #[test]
    fn a_wrong_host_is_refused() {
        assert_eq!(Config::builder().master("a b", 1).unwrap_err().kind(), ErrorKind::Config);
        assert_eq!(Config::builder().master("::1", 7).unwrap().build().master.to_string(), "[::1]:7");
    }
}
