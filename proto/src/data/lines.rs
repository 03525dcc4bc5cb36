//! The connections of one peer to one worker's data port: opened when needed, used again, few.
//!
//! One exchange at a time has a connection. More than [`OPEN_MAX`] at once, or a worker (or something before it) that does
//! not speak the protocol, are no errors: the answer is `None`, and the caller takes gRPC. A connection that was idle may
//! have been closed meanwhile; an exchange that finds it so, before any answer, begins anew on a fresh one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use larder_common::{ClusterId, Error, ErrorKind, Result};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{net::TcpStream, time::timeout};

use super::{
    Connection, Kind, Message, Sent,
    buffers::{Buffers, KEPT},
    decode,
};
use crate::{Greeting, dial::CONNECT_TIMEOUT, greeting, v1};

/// The most connections to one worker.
const OPEN_MAX: usize = 16;
/// A connection that was idle for longer is not used again: the worker closes it some time later.
pub(super) const IDLE: Duration = Duration::from_secs(30);
/// What is not spoken there is not tried again for so long.
const REFUSED_FOR: Duration = Duration::from_secs(30);
/// Time for a greeting and its answer.
const HELLO: Duration = Duration::from_secs(3);
/// The longest silence of a worker within an exchange. Callers have shorter deadlines of their own.
const SILENCE: Duration = Duration::from_secs(60);

/// The connections to one worker.
#[derive(Debug)]
pub(super) struct Lines {
    host: String,
    port: u16,
    hello: Mutex<Option<(Option<ClusterId>, Bytes)>>,
    state: Mutex<State>,
    buffers: Arc<Buffers>,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<(Connection, Instant)>,
    open: usize,
    refused: Option<Instant>,
}

/// A connection that an exchange has. Dropped before it is given back, it is closed.
#[derive(Debug)]
pub(super) struct Line {
    connection: Option<Connection>,
    lines: Arc<Lines>,
}

impl Lines {
    /// To the worker at `host:port`. Nothing is opened yet.
    pub(super) fn to(host: &str, port: u16) -> Arc<Self> {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let (hello, state, buffers) = (Mutex::default(), Mutex::default(), Buffers::keeping(KEPT));
        Arc::new(Self { host, port, hello, state, buffers })
    }

    /// Sends this greeting on every connection that is opened from now on.
    pub(super) fn greet(&self, greeting: &Greeting) {
        *self.hello.lock() = Some((greeting.cluster, greeting.to_message().encode_to_vec().into()));
    }

    /// Begins an exchange, and gives the first answer to it where `answered`; `None`: take gRPC.
    ///
    /// # Errors
    /// What the worker says; `Unavailable` when the connection broke.
    pub(super) async fn ask(
        self: &Arc<Self>,
        (kind, request): (Kind, &[u8]),
        answered: bool,
    ) -> Result<Option<(Line, Option<Message>)>> {
        while let Some(mut line) = self.idle() {
            match line.begin(kind, request, answered).await {
                Ok(Some(first)) => return Ok(Some((line, first))),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Unavailable => {}
                Err(error) => return Err(error),
            }
        }
        let Some(mut line) = self.open().await? else { return Ok(None) };
        match line.begin(kind, request, answered).await? {
            Some(first) => Ok(Some((line, first))),
            None => Err(gone()),
        }
    }

    fn idle(self: &Arc<Self>) -> Option<Line> {
        let mut state = self.state.lock();
        while let Some((connection, since)) = state.idle.pop() {
            if since.elapsed() < IDLE && !connection.has_spoken() {
                return Some(Line { connection: Some(connection), lines: self.clone() });
            }
            state.open -= 1;
        }
        None
    }

    /// A connection that has been greeted on; `None` where it is not to be.
    async fn open(self: &Arc<Self>) -> Result<Option<Line>> {
        let Some((cluster, hello)) = self.hello.lock().clone() else { return Ok(None) };
        {
            let mut state = self.state.lock();
            if state.open >= OPEN_MAX || state.refused.is_some_and(|since| since.elapsed() < REFUSED_FOR) {
                return Ok(None);
            }
            state.open += 1;
        }
        // From here on it counts, and counts no more when it is dropped.
        let mut line = Line { connection: None, lines: self.clone() };
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect((self.host.as_str(), self.port))).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            // gRPC would not come further at the same port.
            Ok(Err(error)) => return Err(Error::new(ErrorKind::Unavailable, error.to_string())),
            Err(_) => return Err(Error::new(ErrorKind::Unavailable, "it cannot be reached: no answer to connecting")),
        };
        // Frames are sent whole; without it the last of them would wait.
        let _ = stream.set_nodelay(true);
        let mut connection = Connection::new(stream, self.buffers.clone());
        match greet(&mut connection, cluster, &hello).await {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) if refusal.kind() == ErrorKind::Busy => return Ok(None),
            Ok(Err(refusal)) => return Err(refusal),
            Err(error) => return Ok(self.refuse(error.message())),
        }
        line.connection = Some(connection);
        Ok(Some(line))
    }

    fn refuse<T>(&self, reason: &str) -> Option<T> {
        tracing::debug!(host = self.host, port = self.port, reason, "no data protocol there; using gRPC");
        self.state.lock().refused = Some(Instant::now());
        None
    }
}

/// The outer result is about the protocol, the inner one what the worker says.
async fn greet(connection: &mut Connection, cluster: Option<ClusterId>, hello: &[u8]) -> Result<Result<()>> {
    connection.begin(HELLO).await?;
    connection.send_body(Kind::Hello, hello, HELLO).await?;
    match connection.receive(HELLO).await? {
        Some(Message::Other(Kind::Welcome, body)) => {
            let welcome = decode::<v1::DataWelcome>(body)?;
            greeting::check_format(welcome.format, &welcome.version)?;
            match cluster.filter(|cluster| welcome.cluster[..] != cluster.0[..]) {
                None => Ok(Ok(())),
                Some(_) => Ok(Err(Error::new(ErrorKind::Mismatch, "a worker of another cluster listens there"))),
            }
        }
        Some(Message::Other(Kind::Failure, body)) => Ok(Err(decode::<v1::Failure>(body)?.into())),
        _ => Err(unexpected()),
    }
}

impl Line {
    /// `None`: the connection had been closed.
    async fn begin(&mut self, kind: Kind, request: &[u8], answered: bool) -> Result<Option<Option<Message>>> {
        let connection = self.connection()?;
        let sent = connection.send_body(kind, request, SILENCE).await?;
        match answered {
            true => Ok(connection.receive(SILENCE).await?.map(Some)),
            false => Ok((sent == Sent::All).then_some(None)),
        }
    }

    pub(super) fn connection(&mut self) -> Result<&mut Connection> {
        self.connection.as_mut().ok_or_else(gone)
    }

    /// The next message of the exchange.
    ///
    /// # Errors
    /// As [`Connection::receive`]; `Unavailable` when the worker hung up.
    pub(super) async fn receive(&mut self) -> Result<Message> {
        self.connection()?.receive(SILENCE).await?.ok_or_else(gone)
    }

    /// Sends a message of the exchange.
    pub(super) async fn send_piece(&mut self, piece: &super::Piece) -> Result<Sent> {
        self.connection()?.send_piece(piece, SILENCE).await
    }

    /// The same for one that is not `Data`.
    pub(super) async fn send(&mut self, kind: Kind, message: &impl prost::Message) -> Result<Sent> {
        self.connection()?.send(kind, message, SILENCE).await
    }

    /// The exchange is over, and another one can use the connection.
    pub(super) fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            let mut state = self.lines.state.lock();
            state.idle.push((connection, Instant::now()));
            // Dropping us counts one less.
            state.open += 1;
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.lines.state.lock().open -= 1;
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Unavailable, "the worker closed the connection")
}

pub(super) fn unexpected() -> Error {
    Error::new(ErrorKind::Mismatch, "the worker answered something else than was asked")
        .advise("bring both to one version")
}
