//! Bytes of a file from a worker, frame by frame, and bytes to it: by the data protocol where both have it, else by gRPC.
//! Frames are given as they came: whoever reads compares their places and checksums.

use std::sync::Arc;

use bytes::Bytes;
use larder_common::{
    Error, ErrorKind, Result,
    checksum::{combine, crc32c},
};
use prost::Message as _;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{Kind, Line, Lines, Message, Piece, Sent, decode, lines};
use crate::{
    Channel, Greeting, convert::WorkerAddress, dial, from_status, greeting, v1, v1::blocks_client::BlocksClient,
};

/// The way to one worker.
#[derive(Clone, Debug)]
pub struct Way {
    channel: Channel,
    lines: Option<Arc<Lines>>,
}

impl Way {
    /// To the worker at this address, with this greeting. Nothing is opened yet.
    ///
    /// # Errors
    /// `Config` for what cannot be an address.
    pub fn to(address: &WorkerAddress, greeting: &Greeting) -> Result<Self> {
        let channel = Channel::to(&address.host, address.port)?;
        channel.greet(greeting);
        let lines = (address.features & greeting::FEATURE_DATA != 0).then(|| Lines::to(&address.host, address.port));
        if let Some(lines) = &lines {
            lines.greet(greeting);
        }
        Ok(Self { channel, lines })
    }

    /// The gRPC side of it, for everything else.
    #[must_use]
    pub fn grpc(&self) -> BlocksClient<Channel> {
        BlocksClient::new(self.channel.clone())
            .max_decoding_message_size(dial::MESSAGE_MAX)
            .max_encoding_message_size(dial::MESSAGE_MAX)
    }

    /// Opens a stream of what is asked for. Its first frame is on its way, or here.
    ///
    /// # Errors
    /// What the worker says; `Unavailable` where it cannot be reached.
    pub async fn read(&self, request: v1::ReadRequest) -> Result<ReadStream> {
        if let Some(lines) = &self.lines
            && let Some((line, first)) = lines.ask((Kind::Read, &request.encode_to_vec()), true).await?
        {
            return ReadStream::over(line, first);
        }
        let reply = self.grpc().read(request).await.map_err(|status| from_status(&status))?;
        Ok(ReadStream(Reading::Grpc(reply.into_inner())))
    }

    /// Begins to write by the data protocol; `None`: take gRPC.
    ///
    /// # Errors
    /// As [`Way::read`].
    pub async fn write(&self, begin: &v1::WriteBegin) -> Result<Option<WriteStream>> {
        let Some(lines) = &self.lines else { return Ok(None) };
        let begun = lines.ask((Kind::Write, &begin.encode_to_vec()), false).await?;
        Ok(begun.map(|(line, _)| WriteStream { line, at: 0, sum: 0 }))
    }
}

/// Frames from a worker.
#[derive(Debug)]
pub struct ReadStream(Reading);

#[derive(Debug)]
enum Reading {
    Grpc(tonic::Streaming<v1::ReadFrame>),
    Line { first: Option<v1::ReadFrame>, rest: Option<Ahead> },
}

/// Frames that a task receives ahead of the reader, so that nobody waits for the network and the reader in turn. Dropped,
/// it closes the connection.
#[derive(Debug)]
struct Ahead {
    frames: mpsc::Receiver<Result<Option<v1::ReadFrame>>>,
    task: JoinHandle<()>,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ahead {
    fn of(mut line: Line) -> Self {
        let (sender, frames) = mpsc::channel(AHEAD);
        let task = tokio::spawn(async move {
            loop {
                let (frame, goes_on) = match line.receive().await.and_then(taken) {
                    Ok((frame, true)) => (frame, true),
                    Ok((frame, false)) => {
                        line.give_back();
                        // A reader that is gone needs nothing.
                        let _ = sender.send(frame).await;
                        return;
                    }
                    Err(error) => (Err(error), false),
                };
                if sender.send(frame).await.is_err() || !goes_on {
                    return;
                }
            }
        });
        Self { frames, task }
    }
}

/// Frames that are received ahead.
const AHEAD: usize = 2;

impl ReadStream {
    fn over(line: Line, first: Option<Message>) -> Result<Self> {
        let (first, goes_on) = first.map_or(Ok((Ok(None), true)), taken)?;
        let rest = match goes_on {
            true => Some(Ahead::of(line)),
            false => {
                line.give_back();
                None
            }
        };
        Ok(Self(Reading::Line { first: first?, rest }))
    }

    /// The next frame; `None` after the last. A future that is dropped half-way ends the stream.
    ///
    /// # Errors
    /// What the worker says; `Unavailable` when the connection broke.
    pub async fn next(&mut self) -> Result<Option<v1::ReadFrame>> {
        match &mut self.0 {
            Reading::Grpc(frames) => frames.message().await.map_err(|status| from_status(&status)),
            Reading::Line { first, rest } => match (first.take(), rest) {
                (Some(frame), _) => Ok(Some(frame)),
                (None, Some(rest)) => rest.frames.recv().await.unwrap_or(Ok(None)),
                (None, None) => Ok(None),
            },
        }
    }

    /// Whether it can still be read after it was left alone for `since`; a worker gives up on who takes nothing.
    #[must_use]
    pub fn outlives(&self, since: std::time::Duration) -> bool {
        matches!(self.0, Reading::Grpc(_)) || since < lines::IDLE
    }
}

/// What a message of a worker says, and whether more come.
fn taken(message: Message) -> Result<(Result<Option<v1::ReadFrame>>, bool)> {
    match message {
        Message::Data(Piece { offset, bytes, crc, served, last }) => {
            let frame = v1::ReadFrame { offset, data: bytes, crc32c: crc, served: served.into() };
            Ok((Ok(Some(frame)), !last))
        }
        Message::Other(Kind::End, _) => Ok((Ok(None), false)),
        Message::Other(Kind::Failure, body) => Ok((Err(decode::<v1::Failure>(body)?.into()), false)),
        Message::Other(..) => Err(lines::unexpected()),
    }
}

/// A file on its way to a worker.
#[derive(Debug)]
pub struct WriteStream {
    line: Line,
    at: u64,
    sum: u32,
}

impl WriteStream {
    /// Sends the next bytes of the file, at most [`super::DATA_MAX`] at a time.
    ///
    /// # Errors
    /// What the worker says, also half-way; `Unavailable` when the connection broke.
    pub async fn send(&mut self, bytes: Bytes) -> Result<()> {
        let crc = crc32c(&bytes);
        let piece = Piece { offset: self.at, crc, served: v1::Served::Unspecified, last: false, bytes };
        let length = piece.bytes.len() as u64;
        (self.at, self.sum) = (self.at + length, combine(self.sum, crc, length));
        match self.line.send_piece(&piece).await? {
            Sent::All => Ok(()),
            Sent::Interrupted => Err(self.refusal().await),
        }
    }

    /// Says that this was everything, and gives the answer.
    ///
    /// # Errors
    /// As [`WriteStream::send`].
    pub async fn finish(mut self) -> Result<v1::WriteReply> {
        let end = v1::WriteEnd { length: self.at, crc32c: self.sum };
        self.line.send(Kind::End, &end).await?;
        match self.line.receive().await? {
            Message::Other(Kind::Written, body) => {
                self.line.give_back();
                decode(body)
            }
            Message::Other(Kind::Failure, body) => Err(decode::<v1::Failure>(body)?.into()),
            _ => Err(lines::unexpected()),
        }
    }

    async fn refusal(&mut self) -> Error {
        match self.line.receive().await {
            Ok(Message::Other(Kind::Failure, body)) => match decode::<v1::Failure>(body) {
                Ok(failure) => failure.into(),
                Err(error) => error,
            },
            Ok(_) => Error::new(ErrorKind::Unavailable, "the worker ended the stream too early"),
            Err(error) => error,
        }
    }
}
