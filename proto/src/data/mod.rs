//! The data protocol: bytes of blocks between a worker and whoever reads or writes them, on the worker's own port.
//!
//! gRPC carries the same exchanges ([`crate::v1::blocks_client`]) and stays for peers that do not have this one; a worker
//! that has it says so in its address ([`crate::greeting::FEATURE_DATA`]). Measured over loopback with 2 cores, one stream: two
//! thirds of a raw socket over HTTP/2, whose flow control and framing wake both ends far more often. (`sendfile` was
//! measured too: half as fast as writing from a mapping, since it goes page by page.)
//!
//! # On the wire
//!
//! Who connects sends [`MAGIC`], which nothing else begins with that comes to this port ([`door`] tells them apart), and
//! then both sides send messages: a head of [`HEAD`] bytes, numbers in network order, and a body.
//!
//! | bytes | in the head |
//! |---|---|
//! | 0 | the kind of message ([`Kind`]) |
//! | 1 | of `Data`: how the bytes were served (the number of `Served`), and 4 for the last of the exchange |
//! | 2 – 3 | zero |
//! | 4 – 7 | length of the body |
//! | 8 – 11 | CRC-32C of the body of `Data`; else zero |
//! | 12 – 15 | zero |
//! | 16 – 23 | where in the file the body of `Data` lies; else zero |
//!
//! The body of `Data` is bytes of a file, all others are protobuf messages. A connection begins with `Hello` (a greeting
//! as in every gRPC request, checked the same way), answered by `Welcome` or `Failure`; then comes one exchange after the
//! other:
//!
//! - `Read` (a `ReadRequest`): `Data`… of which the last is marked, or `End` where there is nothing to read;
//! - `Write` (a `WriteBegin`), `Data`…, `End` (a `WriteEnd`): `Written` (a `WriteReply`).
//!
//! `Failure` can stand in place of any answer, also half-way; after one to a `Read` the connection can be used again.
//! Nobody speaks out of turn: who does, or hangs up, gives the exchange up. Back-pressure is TCP's. Whoever receives
//! compares place and checksum of each `Data`, and every wait has an end, after which the connection is cut.

mod buffers;
mod connection;
pub mod door;
mod lines;
mod stream;

use bytes::Bytes;
use larder_common::{Error, ErrorKind, Result};

use crate::v1;
pub use buffers::{Buffer, Buffers};
pub use connection::{Connection, Message, Sent};
use lines::{Line, Lines};
pub use stream::{ReadStream, Way, WriteStream};

/// What a connection begins with.
pub const MAGIC: [u8; 8] = *b"LARDER\x00\x01";
/// Bytes of a head.
pub const HEAD: usize = 24;
/// The longest body of `Data`, in bytes.
pub const DATA_MAX: usize = 4 << 20;
/// The longest other body, in bytes.
pub const MESSAGE_MAX: usize = 1 << 20;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who connects.
    Hello = 1,
    /// The answer to it.
    Welcome = 2,
    /// Bytes are asked for.
    Read = 3,
    /// Bytes are announced.
    Write = 4,
    /// Bytes.
    Data = 5,
    /// There are no more.
    End = 6,
    /// What was written is kept.
    Written = 7,
    /// It cannot be done.
    Failure = 8,
}

const KINDS: [Kind; 8] =
    [Kind::Hello, Kind::Welcome, Kind::Read, Kind::Write, Kind::Data, Kind::End, Kind::Written, Kind::Failure];

/// Of the second byte: how it was served.
const SERVED: u8 = 3;
/// Of the second byte: nothing comes after it.
const LAST: u8 = 4;

/// Bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where in the file.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
    /// What the sender says that their CRC-32C is. The receiver compares.
    pub crc: u32,
    /// Where they come from; not specified for what is written.
    pub served: v1::Served,
    /// Whether the exchange ends with them.
    pub last: bool,
}

/// The beginning of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    kind: Kind,
    flags: u8,
    length: usize,
    crc: u32,
    offset: u64,
}

impl Head {
    fn of_message(kind: Kind, length: usize) -> Self {
        Self { kind, flags: 0, length, crc: 0, offset: 0 }
    }

    fn of_piece(piece: &Piece) -> Self {
        let flags = (piece.served as i32 as u8 & SERVED) | (u8::from(piece.last) * LAST);
        Self { kind: Kind::Data, flags, length: piece.bytes.len(), crc: piece.crc, offset: piece.offset }
    }

    fn piece(&self, bytes: Bytes) -> Piece {
        let served = v1::Served::try_from(i32::from(self.flags & SERVED)).unwrap_or_default();
        Piece { offset: self.offset, bytes, crc: self.crc, served, last: self.flags & LAST != 0 }
    }

    fn limit(kind: Kind) -> usize {
        if kind == Kind::Data { DATA_MAX } else { MESSAGE_MAX }
    }

    /// # Errors
    /// `Invalid` for a body that is too long.
    fn encode(&self) -> Result<[u8; HEAD]> {
        let length = u32::try_from(self.length).ok().filter(|_| self.length <= Self::limit(self.kind));
        let long = || Error::new(ErrorKind::Invalid, format!("a {:?} of {} bytes", self.kind, self.length));
        let mut bytes = [0; HEAD];
        (bytes[0], bytes[1]) = (self.kind as u8, self.flags);
        bytes[4..8].copy_from_slice(&length.ok_or_else(long)?.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.crc.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        Ok(bytes)
    }

    /// # Errors
    /// `Mismatch` for what is no head.
    fn decode(bytes: &[u8; HEAD]) -> Result<Self> {
        let wrong = |what: String| Error::new(ErrorKind::Mismatch, format!("the peer sent {what}"));
        let number = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let kind = KINDS.iter().find(|kind| **kind as u8 == bytes[0]);
        let kind = *kind.ok_or_else(|| wrong(format!("a message of kind {}", bytes[0])))?;
        if bytes[1] & !(SERVED | LAST) != 0 || bytes[2..4] != [0; 2] || number(12) != 0 {
            return Err(wrong("a head with marks that are not known".into()));
        }
        let length = number(4) as usize;
        if length > Self::limit(kind) {
            return Err(wrong(format!("a {kind:?} of {length} bytes")));
        }
        let offset = u64::from(number(16)) << 32 | u64::from(number(20));
        Ok(Self { kind, flags: bytes[1], length, crc: number(8), offset })
    }
}

/// A body as a message.
///
/// # Errors
/// `Mismatch` for what is none.
pub fn decode<M: prost::Message + Default>(body: Bytes) -> Result<M> {
    M::decode(body).map_err(|e| Error::new(ErrorKind::Mismatch, format!("not a message: {e}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn heads_come_back(kind in 0..8usize, flags in 0u8..8, length in 0..MESSAGE_MAX, crc: u32, offset: u64) {
            let head = Head { kind: KINDS[kind], flags, length, crc, offset };
            prop_assert_eq!(Head::decode(&head.encode().unwrap()).unwrap(), head);
        }

        #[test]
        fn wrong_bytes_are_refused_or_within_limits(bytes: [u8; HEAD]) {
            if let Ok(head) = Head::decode(&bytes) {
                prop_assert!(head.length <= Head::limit(head.kind));
                prop_assert_eq!(head.encode().unwrap(), bytes);
            }
        }
    }

    #[test]
    fn the_head_is_as_it_is_described() {
        let bytes = Bytes::from_static(b"12345");
        let piece =
            Piece { offset: 0x0102_0304_0506_0708, bytes, crc: 0x090a_0b0c, served: v1::Served::FromCache, last: true };
        let wire = Head::of_piece(&piece).encode().unwrap();
        let expected = [5, 5, 0, 0, 0, 0, 0, 5, 9, 10, 11, 12, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(wire, expected);
        assert!(Head::of_message(Kind::Read, MESSAGE_MAX + 1).encode().is_err());
    }

    #[test]
    fn no_other_protocol_begins_like_this() {
        for other in [&b"PRI * HTTP/2.0"[..], b"GET / HTTP/1.1", b"\x16\x03\x01"] {
            assert_ne!(other[0], MAGIC[0]);
        }
    }
}
