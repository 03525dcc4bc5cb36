//! A master alone, in this process, above a directory: what only asks and changes names needs no worker and no other process.

use std::{path::PathBuf, sync::Arc};

use anyhow::Result;
use larder_client::{Caller, Config, ConfigBuilder, FileSystem};
use larder_master::{config::MasterConfig, master::Master, server::Server};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The master and its directories. It ends when this is dropped.
#[derive(Debug)]
pub struct Alone {
    directory: TempDir,
    port: u16,
    master: Arc<Master>,
    stop: CancellationToken,
    task: JoinHandle<larder_common::Result<()>>,
}

impl Alone {
    /// Starts one with an empty under store.
    ///
    /// # Errors
    /// What the start says.
    pub async fn start() -> Result<Self> {
        Self::with(|_| {}).await
    }

    /// The same with other settings.
    ///
    /// # Errors
    /// What the start says.
    pub async fn with(change: impl FnOnce(&mut MasterConfig)) -> Result<Self> {
        let directory = TempDir::new()?;
        let under = directory.path().join("under");
        std::fs::create_dir(&under)?;
        let mut config = MasterConfig {
            journal: directory.path().join("journal"),
            root: under.to_string_lossy().into_owned(),
            ..MasterConfig::default()
        };
        change(&mut config);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let (port, stop) = (listener.local_addr()?.port(), CancellationToken::new());
        let server = Server::start(config).await?;
        let master = Arc::clone(server.master());
        let task = tokio::spawn(server.serve(listener, stop.clone()));
        Ok(Self { directory, port, master, stop, task })
    }

    /// The directory that is its root under store.
    #[must_use]
    pub fn under(&self) -> PathBuf {
        self.directory.path().join("under")
    }

    /// The master itself, for what would take long over the wire.
    #[must_use]
    pub fn master(&self) -> &Arc<Master> {
        &self.master
    }

    /// How to connect to it.
    ///
    /// # Errors
    /// None that is expected.
    pub fn client(&self) -> Result<ConfigBuilder> {
        Ok(Config::builder().master("127.0.0.1", self.port)?.caller(Caller::root()))
    }

    /// A new session, as root.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn connect(&self) -> Result<FileSystem> {
        Ok(FileSystem::connect(self.client()?.build()).await?)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}
