//! One end of a connection of the data protocol: messages out and in. The same for both sides.
//!
//! After an error, or a future of it that was dropped half-way, a connection is of no more use: drop it.

use std::{
    io::{self, IoSlice},
    os::fd::AsRawFd,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use larder_common::{Error, ErrorKind, Result};
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use tokio::{
    io::Interest,
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{HEAD, Head, Kind, MAGIC, Piece, buffers::Buffers};
use crate::dial;

/// The kernel wakes a receiver when so many bytes of a body are there, and not for each packet.
const WAKE: usize = 256 << 10;
/// So often a silent host is asked whether it is there before it is given up.
const PROBES: u32 = 5;

/// A message that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Bytes of a file.
    Data(Piece),
    /// Anything else, with its body.
    Other(Kind, Bytes),
}

/// How sending ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Everything is on its way.
    All,
    /// The other side has spoken or hung up meanwhile: a part of the message may be on its way.
    Interrupted,
}

/// One end.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffers: Arc<Buffers>,
    /// What the kernel has been told last to wake us for.
    wake: usize,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, buffers: Arc<Buffers>) -> Self {
        keep_alive(&stream);
        Self { stream, buffers, wake: 1 }
    }

    /// Sends [`MAGIC`].
    pub(super) async fn begin(&mut self, patience: Duration) -> Result<()> {
        self.write([&MAGIC, &[]], patience).await.map(drop)
    }

    /// Sends a message that is not `Data`.
    ///
    /// # Errors
    /// `Unavailable` when the connection broke, `Deadline` when the other side takes nothing for `patience`, `Invalid` for
    /// a message that is too long.
    pub async fn send(&mut self, kind: Kind, message: &impl prost::Message, patience: Duration) -> Result<Sent> {
        self.send_body(kind, &message.encode_to_vec(), patience).await
    }

    pub(super) async fn send_body(&mut self, kind: Kind, body: &[u8], patience: Duration) -> Result<Sent> {
        let head = Head::of_message(kind, body.len()).encode()?;
        self.write([&head, body], patience).await
    }

    /// Sends bytes of a file, as they lie.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub async fn send_piece(&mut self, piece: &Piece, patience: Duration) -> Result<Sent> {
        let head = Head::of_piece(piece).encode()?;
        self.write([&head, &piece.bytes], patience).await
    }

    async fn write(&mut self, parts: [&[u8]; 2], patience: Duration) -> Result<Sent> {
        let mut slices = parts.map(IoSlice::new);
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match self.stream.try_write_vectored(left) {
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = self.stream.ready(Interest::READABLE | Interest::WRITABLE);
                    let ready = bound(patience, ready, "takes nothing").await?;
                    if ready.is_readable() && self.has_spoken() {
                        return Ok(Sent::Interrupted);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What the other side said before it hung up is worth more than that it did.
                Err(_) if self.has_spoken() => return Ok(Sent::Interrupted),
                Err(error) => return Err(broken(&error)),
            }
        }
        Ok(Sent::All)
    }

    /// Whether the other side has said something that was not received yet, or has hung up.
    pub fn has_spoken(&self) -> bool {
        let peek = || Ok(recv(self.stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)?);
        let peeked = self.stream.try_io(Interest::READABLE, peek);
        !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Waits until the other side says something or hangs up. May be dropped and asked again. Has no end of its own.
    pub async fn interrupted(&mut self) {
        self.wake_at(1);
        loop {
            let ready = self.stream.readable().await;
            if ready.is_err() || self.has_spoken() {
                return;
            }
        }
    }

    /// Receives a message; `None` when the other side has hung up between two. The checksum of `Data` is not compared.
    ///
    /// # Errors
    /// `Unavailable` when the connection broke, `Deadline` when nothing comes for `patience`, `Mismatch` for what is no
    /// message.
    pub async fn receive(&mut self, patience: Duration) -> Result<Option<Message>> {
        let mut head = [0; HEAD];
        if !self.fill(&mut head, patience).await? {
            return Ok(None);
        }
        let head = Head::decode(&head)?;
        let mut body = self.buffers.take(head.length);
        if head.length > 0 && !self.fill(body.bytes(), patience).await? {
            return Err(broken(&io::ErrorKind::UnexpectedEof.into()));
        }
        let body = body.freeze();
        Ok(Some(match head.kind {
            Kind::Data => Message::Data(head.piece(body)),
            kind => Message::Other(kind, body),
        }))
    }

    /// Fills all of a buffer; `false` when the other side has hung up before its first byte.
    async fn fill(&mut self, buffer: &mut [u8], patience: Duration) -> Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.stream.try_read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(broken(&io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wake_at((buffer.len() - filled).min(WAKE));
                    bound(patience, self.stream.readable(), "sends nothing").await?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(&error)),
            }
        }
        Ok(true)
    }

    /// Asks the kernel to wake us when so many bytes are there (never more than are sure to come), or the connection ends.
    fn wake_at(&mut self, bytes: usize) {
        if self.wake == bytes {
            return;
        }
        let value = libc::c_int::try_from(bytes).unwrap_or(1);
        let (pointer, size) = ((&raw const value).cast(), size_of_val(&value) as libc::socklen_t);
        // SAFETY: the socket is open, and the option's value is an int that lives through the call.
        let set =
            unsafe { libc::setsockopt(self.stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, pointer, size) };
        if set == 0 {
            self.wake = bytes;
        }
    }
}

/// Has the kernel ask whether the other side's host is still there: a host that is lost says nothing when it goes. It gives
/// up after about [`dial::KEEP_ALIVE`] twice, as gRPC does.
fn keep_alive(stream: &TcpStream) {
    let idle = u32::try_from(dial::KEEP_ALIVE.as_secs()).unwrap_or(u32::MAX);
    // A kernel that refuses leaves it to the deadlines of callers.
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &idle)
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepInterval, &(idle / PROBES).max(1)))
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepCount, &PROBES))
        .and_then(|()| setsockopt(stream, sockopt::KeepAlive, &true));
}

fn broken(error: &io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the connection broke: {error}"))
}

async fn bound<T>(patience: Duration, wait: impl Future<Output = io::Result<T>>, what: &str) -> Result<T> {
    match timeout_at(Instant::now() + patience, wait).await {
        Ok(done) => done.map_err(|error| broken(&error)),
        Err(_) => {
            let message = format!("the other side {what} for {} s", patience.as_secs_f32());
            Err(Error::new(ErrorKind::Deadline, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::v1;

    const SOON: Duration = Duration::from_secs(10);

    async fn pair() -> (Connection, Connection) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let other = listener.accept().await.unwrap().0;
        (Connection::new(one, Buffers::keeping(1)), Connection::new(other, Buffers::keeping(1)))
    }

    fn piece(offset: u64, length: usize) -> Piece {
        let bytes: Vec<u8> = (0..length).map(|n| (n * 7 + offset as usize) as u8).collect();
        Piece { offset, bytes: bytes.into(), crc: 7, served: v1::Served::BeingEdited, last: false }
    }

    #[tokio::test]
    async fn messages_and_bytes_come_as_they_were_sent() {
        let (mut one, mut other) = pair().await;
        let pieces: Vec<_> =
            [0, 1, 100, 3 << 20, 1 << 20].iter().enumerate().map(|(n, l)| piece(n as u64, *l)).collect();
        let sent = pieces.clone();
        let sending = tokio::spawn(async move {
            for piece in &sent {
                assert_eq!(one.send_piece(piece, SOON).await.unwrap(), Sent::All);
            }
            let end = v1::WriteEnd { length: 5, crc32c: 6 };
            one.send(Kind::End, &end, SOON).await.unwrap();
        });
        for piece in pieces {
            assert!(other.receive(SOON).await.unwrap() == Some(Message::Data(piece)));
        }
        let Some(Message::Other(Kind::End, body)) = other.receive(SOON).await.unwrap() else { panic!("no end") };
        assert_eq!(super::super::decode::<v1::WriteEnd>(body).unwrap(), v1::WriteEnd { length: 5, crc32c: 6 });
        sending.await.unwrap();
        assert_eq!(other.receive(SOON).await.unwrap(), None, "hung up");
    }

    #[tokio::test]
    async fn a_sender_hears_who_interrupts_it() {
        let (mut one, mut other) = pair().await;
        assert!(!one.has_spoken());
        other.send(Kind::Failure, &v1::Failure { message: "full".into(), ..Default::default() }, SOON).await.unwrap();
        tokio::time::timeout(SOON, one.interrupted()).await.unwrap();
        let big = piece(0, 4 << 20);
        let mut sent = Sent::All;
        for _ in 0..100 {
            sent = one.send_piece(&big, SOON).await.unwrap();
            if sent == Sent::Interrupted {
                break;
            }
        }
        assert_eq!(sent, Sent::Interrupted, "the other side reads nothing");
        assert!(matches!(one.receive(SOON).await.unwrap(), Some(Message::Other(Kind::Failure, _))));
    }

    #[tokio::test]
    async fn nobody_waits_for_ever() {
        let (mut one, mut other) = pair().await;
        let short = Duration::from_millis(50);
        assert_eq!(one.receive(short).await.unwrap_err().kind(), ErrorKind::Deadline);
        let big = piece(0, 4 << 20);
        let ended = loop {
            if let Err(error) = other.send_piece(&big, short).await {
                break error;
            }
        };
        assert_eq!(ended.kind(), ErrorKind::Deadline);
        drop(other);
        let ended = loop {
            match one.receive(SOON).await {
                Ok(Some(_)) => {}
                other => break other,
            }
        };
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::Unavailable, "it ends in the middle of a message");
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        let (mut one, mut other) = pair().await;
        one.write([&[99; HEAD], &[]], SOON).await.unwrap();
        assert_eq!(other.receive(SOON).await.unwrap_err().kind(), ErrorKind::Mismatch);
    }
}
