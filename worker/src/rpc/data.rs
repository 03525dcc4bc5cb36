//! One connection of the data protocol: a greeting, then one exchange after the other.
//!
//! Frames come from [`Services::frames`] as for gRPC, and are written from the mapping of the cache file as they lie. A
//! reader that takes nothing, or a writer that sends nothing, is cut after a while; what was written by it is dropped.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use larder_common::{Error, ErrorKind, Result, checksum::crc32c};
use larder_proto::{
    Greeting,
    data::{Connection, Kind, Message, Piece, Sent, decode},
    greeting,
    v1::{self, write_frame::What},
};
use tokio_util::sync::CancellationToken;

use super::{blocks, write::Incoming};
use crate::{content::Frame, services::Services};

/// How long a client may take to greet.
const HELLO: Duration = Duration::from_secs(5);
/// How long a connection may wait for its next exchange. Clients use none that waited for half of it.
const IDLE: Duration = Duration::from_secs(60);
/// How long a reader may take nothing.
const STALLED: Duration = Duration::from_secs(60);
/// How long a writer that has been refused is listened to, so that it hears why.
const FAREWELL: Duration = Duration::from_secs(2);
/// After so many frames others get their turn.
const TURN: usize = 8;

/// Counts a connection for as long as there is one.
struct Counted(Arc<Services>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.data_connections.lower(1);
    }
}

/// Serves one client until it goes, or the worker stops.
pub(crate) async fn serve(services: Arc<Services>, mut connection: Connection, stop: CancellationToken) {
    services.metrics.data_connections.one();
    let _counted = Counted(services.clone());
    let ended = match hello(&services, &mut connection).await {
        Ok(()) => exchanges(&services, &mut connection, stop).await,
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a data connection ended");
    }
}

async fn hello(services: &Services, connection: &mut Connection) -> Result<()> {
    let body = match connection.receive(HELLO).await? {
        Some(Message::Other(Kind::Hello, body)) => body,
        _ => return Err(Error::new(ErrorKind::Mismatch, "no greeting came")),
    };
    if let Err(refusal) = Greeting::decode(body).and_then(|greeting| services.welcome(&greeting)) {
        services.metrics.greetings_refused.one();
        connection.send(Kind::Failure, &v1::Failure::from(&refusal), HELLO).await?;
        farewell(connection).await;
        return Err(refusal);
    }
    let welcome = v1::DataWelcome {
        format: greeting::FORMAT,
        features: greeting::FEATURES,
        cluster: services.cluster.to_bytes().into(),
        version: greeting::VERSION.to_owned(),
    };
    connection.send(Kind::Welcome, &welcome, HELLO).await.map(drop)
}

async fn exchanges(services: &Arc<Services>, connection: &mut Connection, stop: CancellationToken) -> Result<()> {
    loop {
        let received = tokio::select! {
            received = connection.receive(IDLE) => received?,
            () = stop.cancelled() => return Ok(()),
        };
        match received {
            None => return Ok(()),
            Some(Message::Other(Kind::Read, body)) => read(services, connection, body).await?,
            Some(Message::Other(Kind::Write, body)) => write(services, connection, body).await?,
            Some(_) => return Err(Error::new(ErrorKind::Mismatch, "something else than a request came")),
        }
    }
}

/// Sends what is asked for. An error that the client was told is none here.
async fn read(services: &Arc<Services>, connection: &mut Connection, body: Bytes) -> Result<()> {
    let request = decode::<v1::ReadRequest>(body)?;
    let reading = match blocks::reading(services, &request) {
        Ok(reading) => reading,
        Err(error) => return fail(connection, &error).await,
    };
    let end = reading.range.end;
    let mut frames = Box::pin(services.clone().frames(reading));
    let mut turn = 0;
    loop {
        let frame = tokio::select! {
            biased;
            frame = frames.next() => frame,
            () = connection.interrupted() => return Err(gone()),
        };
        let Frame { offset, data, crc, served } = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return fail(connection, &error).await,
            None => return done(connection.send(Kind::End, &v1::Empty {}, STALLED).await?),
        };
        let last = offset + data.len() as u64 == end;
        done(connection.send_piece(&Piece { offset, bytes: data, crc, served, last }, STALLED).await?)?;
        if last {
            return Ok(());
        }
        turn += 1;
        if turn % TURN == 0 {
            tokio::task::yield_now().await;
        }
    }
}

fn done(sent: Sent) -> Result<()> {
    match sent {
        Sent::All => Ok(()),
        Sent::Interrupted => Err(gone()),
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Unavailable, "the client gave up")
}

async fn fail(connection: &mut Connection, error: &Error) -> Result<()> {
    done(connection.send(Kind::Failure, &v1::Failure::from(error), STALLED).await?)
}

/// Takes a whole file, and says what became of it. After a refusal the connection is not used again: the client may be
/// sending still.
async fn write(services: &Arc<Services>, connection: &mut Connection, body: Bytes) -> Result<()> {
    let begin = decode::<v1::WriteBegin>(body)?;
    let frames = Incoming::Data(Box::new(Pieces { connection, at: 0, patience: services.config.patience }));
    match services.clone().take_file(begin, frames).await {
        Ok(reply) => connection.send(Kind::Written, &reply, STALLED).await.map(drop),
        Err(refusal) => {
            connection.send(Kind::Failure, &v1::Failure::from(&refusal), FAREWELL).await?;
            farewell(connection).await;
            Err(refusal)
        }
    }
}

/// Hears the client out for a moment: closed on bytes that nobody took, a connection loses what was said last.
async fn farewell(connection: &mut Connection) {
    let listen = async { while let Ok(Some(_)) = connection.receive(FAREWELL).await {} };
    // Whoever goes on sending has had its chance.
    let _ = tokio::time::timeout(FAREWELL, listen).await;
}

/// What a writer sends after its beginning.
#[derive(Debug)]
pub(crate) struct Pieces<'c> {
    connection: &'c mut Connection,
    at: u64,
    patience: Duration,
}

impl Pieces<'_> {
    /// The next piece, checked; `None` when the writer has gone.
    pub(crate) async fn next(&mut self) -> Result<Option<What>> {
        match self.connection.receive(self.patience).await? {
            None => Ok(None),
            Some(Message::Data(piece)) => {
                if piece.offset != self.at || crc32c(&piece.bytes) != piece.crc {
                    let message = format!("the bytes at {} came wrong", self.at);
                    return Err(Error::new(ErrorKind::Corrupt, message).advise("write the file again"));
                }
                self.at += piece.bytes.len() as u64;
                Ok(Some(What::Data(piece.bytes)))
            }
            Some(Message::Other(Kind::End, body)) => Ok(Some(What::End(decode(body)?))),
            Some(Message::Other(..)) => Err(Error::new(ErrorKind::Invalid, "something else than bytes to write came")),
        }
    }
}
