//! What a worker is told: settings as data. Components (clock, under stores) are arguments of their own.

use std::{path::PathBuf, time::Duration};

use larder_common::{
    ByteSize, Error, ErrorKind, Locality, Result, TierSpec,
    settings::{Host, HostPort, HugePages, Percent, Secret, Settings},
};
use larder_proto::greeting::Token;
use larder_ufs::Credentials;

/// The settings of one worker.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Where the worker keeps who it is: its id and its cluster's.
    pub state: PathBuf,
    /// The name that it announces; empty for the address from which the master sees it.
    pub hostname: String,
    /// Where the master is, as far as it is reached by a network.
    pub master: Option<HostPort>,
    /// Where it runs.
    pub locality: Locality,
    /// The cluster token; empty where none is asked for.
    pub token: Token,
    /// The port of its pages, 0 where it has none.
    pub web_port: u16,
    /// The directories of its tiers.
    pub tiers: Vec<TierSpec>,
    /// The name of the eviction policy.
    pub policy: String,
    /// Where reclaim ends, in percent of a quota.
    pub watermark_low: u8,
    /// Where reclaim begins, in percent of a quota.
    pub watermark_high: u8,
    /// The share of a tier that content which is nowhere else may take, in percent.
    pub unpersisted_ceiling: u8,
    /// Whether MEM tiers get a tmpfs of their own with huge pages.
    pub huge_pages: HugePages,
    /// The unix socket, or with `socket_as_uuid` its directory.
    pub socket: Option<PathBuf>,
    /// Whether `socket` is a directory and the socket's name in it the worker's id.
    pub socket_as_uuid: bool,
    /// How many fetches from one under store run at the same time.
    pub fetches: usize,
    /// Into how many parts, fetched at the same time, a large block of an object store is divided.
    pub fetch_parts: usize,
    /// How far ahead of a sequential reader is fetched.
    pub read_ahead: ByteSize,
    /// Files up to this size are fetched whole before their first lease is answered.
    pub small_file: ByteSize,
    /// The most memory for the buffers of all streams together.
    pub buffers: ByteSize,
    /// Bytes a second that the slow check of what lies in the tiers reads; 0 for no check.
    pub scrub_rate: ByteSize,
    /// A fetch, upload or answer that makes no progress for so long has failed.
    pub patience: Duration,
    /// How long content that is nowhere else may keep a worker from stopping.
    pub drain: Duration,
    /// The credentials that mounts may name.
    pub credentials: Credentials,
}

impl WorkerConfig {
    /// The defaults for these tiers and this directory for the worker's state.
    #[must_use]
    pub fn new(state: PathBuf, tiers: Vec<TierSpec>) -> Self {
        Self {
            state,
            hostname: String::new(),
            master: None,
            locality: Locality::default(),
            token: Token::default(),
            web_port: 0,
            tiers,
            policy: "AUTO".to_owned(),
            watermark_low: 90,
            watermark_high: 95,
            unpersisted_ceiling: 80,
            huge_pages: HugePages::Never,
            socket: None,
            socket_as_uuid: false,
            fetches: 16,
            fetch_parts: 4,
            read_ahead: ByteSize::mib(128),
            small_file: ByteSize::mib(4),
            buffers: ByteSize::mib(256),
            scrub_rate: ByteSize::mib(16),
            patience: Duration::from_secs(30),
            drain: Duration::from_secs(60),
            credentials: Credentials::default(),
        }
    }

    /// What the process's settings say.
    ///
    /// # Errors
    /// `Config` where no directory for state is known.
    pub fn from_settings(settings: &Settings) -> Result<Self> {
        let worker = &settings.worker;
        let host = worker.hostname.as_ref().map(Host::as_str).unwrap_or_default().to_owned();
        let node = if host.is_empty() { system_hostname() } else { host.clone() };
        let is_root = nix::unistd::geteuid().is_root();
        let token = settings.security.token.as_ref().map(Secret::expose).unwrap_or_default();
        Ok(Self {
            hostname: host,
            master: Some(settings.master_address()),
            locality: settings.locality(&node),
            token: Token::new(token),
            web_port: worker.web_port,
            policy: worker.eviction_policy.as_str().to_owned(),
            watermark_low: percent(worker.watermark_low),
            watermark_high: percent(worker.watermark_high),
            unpersisted_ceiling: percent(worker.unpersisted_ceiling),
            huge_pages: worker.hugepages,
            socket: worker.socket_address.clone(),
            socket_as_uuid: worker.socket_as_uuid,
            fetches: worker.fetch_threads.get(),
            fetch_parts: worker.fetch_parallelism.get(),
            read_ahead: worker.read_ahead,
            small_file: worker.small_file_size,
            buffers: worker.buffer_size,
            scrub_rate: worker.scrub_rate,
            patience: settings.ufs.timeout,
            drain: worker.drain_timeout,
            credentials: settings.credentials.clone().into(),
            ..Self::new(settings.state_folder(is_root)?.join("worker"), worker.tiers.clone())
        })
    }

    /// The directories that it writes to, beside the one for its state: those of its tiers and of its socket.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        let socket = self.socket.as_ref().and_then(|socket| match self.socket_as_uuid {
            true => Some(socket.clone()),
            false => socket.parent().map(PathBuf::from),
        });
        self.tiers.iter().map(|tier| tier.directory.clone()).chain(socket).collect()
    }

    /// Refuses what cannot work together.
    ///
    /// # Errors
    /// `Config`, naming the setting.
    pub fn check(&self) -> Result<()> {
        let wrong = |message: &str, advice: &str| Err(Error::new(ErrorKind::Config, message).advise(advice));
        if self.tiers.is_empty() {
            return wrong("worker.tiers is empty", "give at least one, as MEM:/dev/shm:1GB");
        }
        if self.socket_as_uuid && self.socket.is_none() {
            let message = "worker.data.server.domain.socket.as.uuid=true without a directory";
            return wrong(message, "set worker.data.server.domain.socket.address to the directory for the socket");
        }
        if self.buffers < ByteSize::mib(16) {
            return wrong("worker.buffer.size is below 16MB", "give at least 16MB");
        }
        crate::eviction::from_name(&self.policy, 0).map(drop)
    }
}

fn percent(share: Percent) -> u8 {
    (share.fraction() * 100.0).round().clamp(0.0, 100.0) as u8
}

fn system_hostname() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| "localhost".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let good = WorkerConfig::new("/s".into(), vec!["MEM:/dev/shm:1GB".parse().unwrap()]);
        good.check().unwrap();
        let no_tiers = WorkerConfig { tiers: vec![], ..good.clone() };
        let as_uuid = WorkerConfig { socket_as_uuid: true, ..good.clone() };
        let policy = WorkerConfig { policy: "LUR".into(), ..good.clone() };
        let buffers = WorkerConfig { buffers: ByteSize::mib(1), ..good };
        for bad in [no_tiers, as_uuid, policy, buffers] {
            assert_eq!(bad.check().unwrap_err().kind(), ErrorKind::Config);
        }
    }
}
