//! The settings of a master, as data: components are arguments of [`crate::server::serve`].

use std::{path::PathBuf, time::Duration};

use larder_common::{
    BlockSize, Result,
    settings::{self, Settings},
};
use larder_proto::greeting::Token;
use larder_ufs::Credentials;

/// How callers are vouched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// The cluster token vouches for whoever shows it.
    Token,
    /// The caller's claim is believed.
    Simple,
}

impl Authentication {
    /// As in settings and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Authentication::Token => "token",
            Authentication::Simple => "simple",
        }
    }
}

/// The settings of a master.
#[derive(Clone, Debug)]
pub struct MasterConfig {
    /// Where the journal is.
    pub journal: PathBuf,
    /// The root under store: a directory or a URI.
    pub root: String,
    /// Whether the root takes no changes.
    pub root_read_only: bool,
    /// Whether a root directory that is missing is made: only for the default one.
    pub make_root: bool,
    /// The cluster token; empty for none.
    pub token: Token,
    /// How callers are vouched for.
    pub authentication: Authentication,
    /// After so much silence a session ends.
    pub session_lease: Duration,
    /// How often a worker reports.
    pub beat: Duration,
    /// After so much silence a worker is lost.
    pub worker_timeout: Duration,
    /// How long after the start the master waits for workers before it says that a cached-only file is lost or assigns
    /// its blocks elsewhere.
    pub safe_mode: Duration,
    /// A checkpoint is written after so many entries.
    pub checkpoint_entries: u64,
    /// How often times to live are looked at.
    pub ttl_interval: Duration,
    /// The size of blocks where a client does not say.
    pub block_size: BlockSize,
    /// How fresh mounts are kept unless their options say otherwise: `auto`, `never`, `once`, `always` or an interval.
    pub freshness: String,
    /// How long an under store may take to answer.
    pub under_timeout: Duration,
    /// Threads for each under store.
    pub under_threads: usize,
    /// The credentials that mounts may name.
    pub credentials: Credentials,
}

impl MasterConfig {
    /// What the settings say. Without a root under store, a directory in the state is meant, which is made if missing.
    ///
    /// # Errors
    /// `Config` where no directory for the state is known.
    pub fn from_settings(settings: &Settings, is_root: bool) -> Result<Self> {
        let state = settings.state_folder(is_root)?;
        let default_root = || state.join("under-store").to_string_lossy().into_owned();
        let token = settings.security.token.as_ref().map(|token| Token::new(token.expose()));
        let asks_for_token = token.is_some() && settings.security.authentication != settings::Authentication::Simple;
        Ok(Self {
            journal: settings.journal_folder(is_root)?,
            root: settings.master.mount_root.clone().unwrap_or_else(default_root),
            root_read_only: settings.master.mount_readonly,
            make_root: settings.master.mount_root.is_none(),
            token: if asks_for_token { token.unwrap_or_default() } else { Token::default() },
            authentication: if asks_for_token { Authentication::Token } else { Authentication::Simple },
            session_lease: settings.master.session_lease,
            beat: settings.worker.heartbeat,
            worker_timeout: settings.master.worker_timeout,
            safe_mode: settings.master.safemode_wait,
            checkpoint_entries: settings.master.checkpoint_entries,
            ttl_interval: settings.master.ttl_check_interval,
            block_size: settings.client.block_size,
            freshness: settings.ufs.freshness.to_string(),
            under_timeout: settings.ufs.timeout,
            under_threads: settings.ufs.threads.get(),
            credentials: settings.credentials.clone().into(),
        })
    }
}

impl Default for MasterConfig {
    fn default() -> Self {
        Self {
            journal: PathBuf::from("/var/lib/larder/journal"),
            root: String::new(),
            root_read_only: false,
            make_root: false,
            token: Token::default(),
            authentication: Authentication::Simple,
            session_lease: Duration::from_secs(10),
            beat: Duration::from_secs(1),
            worker_timeout: Duration::from_secs(10),
            safe_mode: Duration::from_secs(5),
            checkpoint_entries: 1_000_000,
            ttl_interval: Duration::from_secs(1),
            block_size: BlockSize::DEFAULT,
            freshness: "auto".into(),
            under_timeout: Duration::from_secs(20),
            under_threads: 16,
            credentials: Credentials::default(),
        }
    }
}
