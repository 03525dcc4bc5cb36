//! A way to a server that loses replies and breaks off, from seeds: what a bad network does to whoever retries. Or one that is
//! steady until it is cut, and then carries nothing, without saying so.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

/// A proxy on loopback in front of one port. Ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    target: u16,
    calm: AtomicBool,
    broken: AtomicU64,
    cut: AtomicBool,
    /// Ends the connections that were cut.
    mended: Notify,
}

impl Proxy {
    /// Listens. Each connection lives for 20 to 400 ms, and in its last part, of random length, replies are lost.
    ///
    /// # Errors
    /// The system's.
    pub async fn start(target: u16, seed: u64) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared::new(target));
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut dice = StdRng::seed_from_u64(seed);
            while let Ok((client, _)) = listener.accept().await {
                let (lives, deaf) = (dice.random_range(20..400), dice.random_range(0..100));
                tokio::spawn(Arc::clone(&serving).connection(client, lives, deaf));
            }
        });
        Ok(Self { port, shared, task })
    }

    /// Listens; connections live for as long as both ends want, and carry everything unless they are cut.
    ///
    /// # Errors
    /// The system's.
    pub async fn steady(target: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared::new(target));
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&serving).steady_connection(client));
            }
        });
        Ok(Self { port, shared, task })
    }

    /// From now on a steady proxy takes everything and carries nothing.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
    }

    /// From now on new connections carry again; those that were cut end.
    pub fn mend(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
        self.shared.mended.notify_waiters();
    }

    /// Where clients connect.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on nothing is lost or broken off.
    pub fn calm(&self) {
        self.shared.calm.store(true, Ordering::Relaxed);
    }

    /// How many connections were broken off.
    #[must_use]
    pub fn broken(&self) -> u64 {
        self.shared.broken.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn new(target: u16) -> Self {
        let (calm, cut) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { target, calm, broken: AtomicU64::new(0), cut, mended: Notify::new() }
    }

    async fn steady_connection(self: Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.target)).await else { return };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let lost = || self.cut.load(Ordering::SeqCst);
        tokio::select! {
            () = carry(from_client, to_server, lost) => {}
            () = carry(from_server, to_client, lost) => {}
            () = self.mended.notified() => {}
        }
    }

    /// Carries bytes for `lives` ms, the last `deaf` percent of which without the way back.
    async fn connection(self: Arc<Self>, client: TcpStream, lives: u64, deaf: u64) {
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.target)).await else { return };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let lost = Arc::new(AtomicBool::new(false));
        let there = tokio::spawn(carry(from_client, to_server, || false));
        let deaf_now = Arc::clone(&lost);
        let back = tokio::spawn(carry(from_server, to_client, move || deaf_now.load(Ordering::Relaxed)));
        tokio::time::sleep(Duration::from_millis(lives * (100 - deaf) / 100)).await;
        if !self.calm.load(Ordering::Relaxed) {
            lost.store(true, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(lives * deaf / 100)).await;
            self.broken.fetch_add(1, Ordering::Relaxed);
            there.abort();
            back.abort();
        }
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    lost: impl Fn() -> bool,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if !lost() && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
