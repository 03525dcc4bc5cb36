//! Packets and descriptors over a unix socket of type SEQPACKET: the transport of the short circuit, for both sides.
//!
//! One message is one packet; descriptors travel with the packet that names them (SCM_RIGHTS). The kernel delivers a
//! *prefix* of the descriptors without an error when the receiver's table is full, so a short packet is an error here
//! ([`Received::truncated`]): the receiver closes what came and asks again for less. Descriptors are received
//! close-on-exec.
//!
//! The socket says who the peer is ([`Socket::peer`]); being able to open it is what makes a client co-located.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
    time::Duration,
};

use larder_common::{Caller, Error, ErrorKind, Result};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, connect,
        getsockopt, listen, sendmsg, setsockopt, socket, sockopt,
    },
};
use parking_lot::Mutex;
use prost::Message;
use tokio::io::unix::AsyncFd;

/// The most descriptors that one packet can carry (SCM_MAX_FD of Linux).
pub const DESCRIPTORS_MAX: usize = 253;
/// The longest packet, in bytes. The sockets' buffers are made large enough for it.
pub const PACKET_MAX: usize = 128 << 10;

/// One end of a connection.
#[derive(Debug)]
pub struct Socket {
    fd: AsyncFd<OwnedFd>,
    /// The buffer of whoever received last.
    spare: Mutex<Vec<u8>>,
}

/// A packet that came.
#[derive(Debug)]
pub struct Received<M> {
    /// What it says.
    pub message: M,
    /// The descriptors that came with it, in order.
    pub descriptors: Vec<OwnedFd>,
    /// Some descriptors were lost because this process may not open more.
    pub truncated: bool,
}

impl Socket {
    /// Connects to a worker's socket. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, or `Unavailable` when nobody listens there.
    pub fn connect(path: &Path) -> Result<Self> {
        let at = |e: Errno| Error::from(io::Error::from(e)).at(path.as_os_str().as_encoded_bytes());
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags(), None).map_err(at)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path).map_err(at)?).map_err(at)?;
        Self::new(fd)
    }

    fn new(fd: OwnedFd) -> Result<Self> {
        for size in [4 * PACKET_MAX, 2 * PACKET_MAX] {
            // The kernel clamps what is asked to its limit; a smaller buffer only makes large packets fail by name.
            let _ = setsockopt(&fd, sockopt::SndBuf, &size);
        }
        Ok(Self { fd: register(fd)?, spare: Mutex::default() })
    }

    /// The process at the other end.
    ///
    /// # Errors
    /// Where the kernel cannot tell.
    pub fn peer(&self) -> Result<Caller> {
        let peer = getsockopt(&self.fd, sockopt::PeerCredentials).map_err(io::Error::from)?;
        Ok(Caller { uid: peer.uid(), gids: vec![peer.gid()], name: String::new() })
    }

    /// Sends one packet. A future that is dropped has sent all of it or nothing.
    ///
    /// # Errors
    /// `Unavailable` when the other end is gone, `Invalid` for a packet that is too long.
    pub async fn send<M: Message>(&self, message: &M, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let (bytes, raw) = packet(message, descriptors)?;
        loop {
            let mut ready = self.fd.writable().await?;
            match ready.try_io(|fd| send_now(fd.as_fd(), &bytes, &raw)) {
                Ok(result) => return result.map_err(gone),
                Err(_would_block) => {}
            }
        }
    }

    /// Sends one packet if that needs no wait; `false` if it does, and nothing was sent.
    ///
    /// # Errors
    /// As [`Socket::send`].
    pub fn try_send<M: Message>(&self, message: &M, descriptors: &[BorrowedFd<'_>]) -> Result<bool> {
        let (bytes, raw) = packet(message, descriptors)?;
        match send_now(self.fd.get_ref().as_fd(), &bytes, &raw) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(gone(e)),
        }
    }

    /// Receives one packet; `None` when the other end has closed.
    ///
    /// # Errors
    /// `Unavailable` when the connection broke, `Mismatch` for a packet that is not a message.
    pub async fn receive<M: Message + Default>(&self) -> Result<Option<Received<M>>> {
        let mut buffer = std::mem::take(&mut *self.spare.lock());
        buffer.resize(PACKET_MAX, 0);
        let received = self.receive_into(&mut buffer).await;
        *self.spare.lock() = buffer;
        received
    }

    async fn receive_into<M: Message + Default>(&self, buffer: &mut [u8]) -> Result<Option<Received<M>>> {
        loop {
            let mut ready = self.fd.readable().await?;
            match ready.try_io(|fd| receive_now(fd.as_fd(), buffer)) {
                Ok(Ok((0, ..))) => return Ok(None),
                Ok(Ok((length, descriptors, truncated))) => {
                    let message = M::decode(&buffer[..length])
                        .map_err(|e| Error::new(ErrorKind::Mismatch, format!("not a message: {e}")))?;
                    return Ok(Some(Received { message, descriptors, truncated }));
                }
                Ok(Err(error)) => return Err(gone(error)),
                Err(_would_block) => {}
            }
        }
    }
}

/// Where a worker waits for co-located clients. The socket file goes with it.
#[derive(Debug)]
pub struct Listener {
    fd: AsyncFd<OwnedFd>,
    path: std::path::PathBuf,
}

impl Listener {
    /// Listens at `path`, in place of a socket there that nobody listens at any more. Everybody may connect: the
    /// directory's rights and the grants say who gets what.
    ///
    /// # Errors
    /// `Busy` when somebody listens there, `Config` when a socket cannot be made there.
    pub fn bind(path: &Path) -> Result<Self> {
        let bytes = path.as_os_str().as_encoded_bytes();
        let at = |e: Errno| {
            Error::new(ErrorKind::Config, format!("cannot listen there: {}", e.desc()))
                .at(bytes)
                .advise("set worker.data.server.domain.socket.address to a writable place (at most 107 bytes long)")
        };
        let address = UnixAddr::new(path).map_err(at)?;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags(), None).map_err(at)?;
        if bind(fd.as_raw_fd(), &address).is_err() {
            remove_stale(path)?;
            bind(fd.as_raw_fd(), &address).map_err(at)?;
        }
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(path, everybody).map_err(|e| Error::from(e).at(bytes))?;
        listen(&fd, Backlog::MAXCONN).map_err(at)?;
        Ok(Self { fd: register(fd)?, path: path.to_owned() })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the next client. When this process may open no more descriptors, it waits a moment and tries again.
    ///
    /// # Errors
    /// When the socket itself is broken.
    pub async fn accept(&self) -> Result<Socket> {
        loop {
            let mut ready = self.fd.readable().await?;
            let accepted = ready.try_io(|fd| Ok(accept4(fd.as_raw_fd(), flags())?));
            match accepted {
                // SAFETY: accept4 has just made this descriptor and nobody else knows it.
                Ok(Ok(fd)) => return Socket::new(unsafe { OwnedFd::from_raw_fd(fd) }),
                Ok(Err(e)) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Ok(Err(e)) => return Err(e.into()),
                Err(_would_block) => {}
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Gone already, or somebody else's by now: both are fine.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn register(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor, which stays open and the same until it is dropped.
    unsafe { AsyncFd::register(fd) }.map_err(|e| io::Error::from(e).into())
}

fn remove_stale(path: &Path) -> Result<()> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let probe = socket(AddressFamily::Unix, SockType::SeqPacket, flags(), None).map_err(io::Error::from)?;
    match connect(probe.as_raw_fd(), &UnixAddr::new(path).map_err(io::Error::from)?) {
        Err(Errno::ECONNREFUSED) => std::fs::remove_file(path).map_err(|e| Error::from(e).at(bytes)),
        Err(Errno::ENOENT) => Ok(()),
        _ => Err(Error::new(ErrorKind::Busy, "another worker listens there")
            .at(bytes)
            .advise("stop it, or set worker.data.server.domain.socket.address")),
    }
}

fn flags() -> SockFlag {
    SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK
}

fn gone(error: io::Error) -> Error {
    let message = format!("the short-circuit connection broke: {error}");
    Error::new(ErrorKind::Unavailable, message)
}

/// A message and its descriptors as they are sent.
fn packet<M: Message>(message: &M, descriptors: &[BorrowedFd<'_>]) -> Result<(Vec<u8>, Vec<i32>)> {
    let bytes = message.encode_to_vec();
    if bytes.len() > PACKET_MAX || descriptors.len() > DESCRIPTORS_MAX {
        let what = format!("a packet of {} bytes and {} descriptors", bytes.len(), descriptors.len());
        return Err(Error::new(ErrorKind::Invalid, what).advise("ask for less at a time"));
    }
    Ok((bytes, descriptors.iter().map(AsRawFd::as_raw_fd).collect()))
}

fn send_now(fd: BorrowedFd<'_>, bytes: &[u8], descriptors: &[i32]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(fd.as_raw_fd(), &[io::IoSlice::new(bytes)], control, flags, None)?;
    Ok(())
}

/// Calls `recvmsg` itself: what nix offers forgets the descriptors that came when others were cut off.
fn receive_now(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>, bool)> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut slice;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the header points at a buffer and a control area that live to the end of this function.
    let length = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) };
    let length = usize::try_from(length).map_err(|_negative| io::Error::last_os_error())?;
    if header.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet that is longer than allowed"));
    }
    let descriptors = take_descriptors(&header);
    Ok((length, descriptors, header.msg_flags & libc::MSG_CTRUNC != 0))
}

/// Room for the descriptors of one packet and for the header before them, aligned as the kernel wants it.
const CONTROL_WORDS: usize = (DESCRIPTORS_MAX * 4 + 64) / 8;

fn take_descriptors(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut taken = Vec::new();
    // SAFETY: the kernel has filled the control area and its length; the macros stay within both. Every descriptor in
    // it has just been made for us, and nobody else knows it.
    unsafe {
        let mut part = libc::CMSG_FIRSTHDR(header);
        while let Some(found) = part.as_ref() {
            if found.cmsg_level == libc::SOL_SOCKET && found.cmsg_type == libc::SCM_RIGHTS {
                let bytes = found.cmsg_len - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(part).cast::<i32>();
                taken.extend((0..bytes / 4).map(|i| OwnedFd::from_raw_fd(data.add(i).read_unaligned())));
            }
            part = libc::CMSG_NXTHDR(header, part);
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read};

    use super::*;
    use crate::v1;

    async fn pair() -> (tempfile::TempDir, Listener, Socket, Socket) {
        let directory = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&directory.path().join("s")).unwrap();
        let client = Socket::connect(listener.path()).unwrap();
        let server = listener.accept().await.unwrap();
        (directory, listener, client, server)
    }

    fn request(tag: u64) -> v1::ShortRequest {
        v1::ShortRequest { tag, what: None }
    }

    #[tokio::test]
    async fn packets_and_descriptors_arrive_together() {
        let (directory, _listener, client, server) = pair().await;
        let file = directory.path().join("f");
        std::fs::write(&file, "content").unwrap();
        let fd = OwnedFd::from(File::open(&file).unwrap());
        let all = vec![fd.as_fd(); DESCRIPTORS_MAX];
        client.send(&request(1), &[]).await.unwrap();
        client.send(&request(2), &all).await.unwrap();
        let first = server.receive::<v1::ShortRequest>().await.unwrap().unwrap();
        assert_eq!((first.message.tag, first.descriptors.len()), (1, 0));
        let second = server.receive::<v1::ShortRequest>().await.unwrap().unwrap();
        assert_eq!((second.message.tag, second.descriptors.len()), (2, DESCRIPTORS_MAX));
        assert!(!second.truncated);
        let mut text = String::new();
        File::from(second.descriptors.into_iter().last().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
    }

    #[tokio::test]
    async fn a_closed_end_is_seen() {
        let (_directory, _listener, client, server) = pair().await;
        drop(client);
        assert!(server.receive::<v1::ShortRequest>().await.unwrap().is_none());
        assert_eq!(server.send(&request(1), &[]).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }

    #[tokio::test]
    async fn too_much_is_refused_before_it_is_sent() {
        let (_directory, _listener, client, server) = pair().await;
        let touches = v1::Touches { files: vec![v1::Touched { file: u64::MAX, ..Default::default() }; PACKET_MAX / 8] };
        assert_eq!(client.send(&touches, &[]).await.unwrap_err().kind(), ErrorKind::Invalid);
        client.send(&request(7), &[]).await.unwrap();
        assert_eq!(server.receive::<v1::ShortRequest>().await.unwrap().unwrap().message.tag, 7);
    }

    #[tokio::test]
    async fn the_largest_packet_goes_through() {
        let (_directory, _listener, client, server) = pair().await;
        let item = v1::ShortLeaseItem { grant: vec![7; PACKET_MAX - 64].into(), ..Default::default() };
        let message = v1::ShortLease { items: vec![item] };
        client.send(&message, &[]).await.unwrap();
        assert_eq!(server.receive::<v1::ShortLease>().await.unwrap().unwrap().message, message);
    }

    #[tokio::test]
    async fn what_would_wait_is_not_sent() {
        let (_directory, _listener, client, server) = pair().await;
        let item = v1::ShortLeaseItem { grant: vec![7; PACKET_MAX - 64].into(), ..Default::default() };
        let message = v1::ShortLease { items: vec![item] };
        let mut sent = 0;
        while client.try_send(&message, &[]).unwrap() {
            sent += 1;
        }
        assert!(sent > 0);
        for _ in 0..sent {
            assert_eq!(server.receive::<v1::ShortLease>().await.unwrap().unwrap().message, message);
        }
        assert!(client.try_send(&message, &[]).unwrap(), "there is room again");
        drop(server);
        assert_eq!(client.try_send(&message, &[]).unwrap_err().kind(), ErrorKind::Unavailable);
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind");
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(Listener::bind(&path).unwrap_err().kind(), ErrorKind::Busy);
        drop(listener);
        assert!(!path.exists());
        assert_eq!(Socket::connect(&path).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn the_peer_is_known() {
        let (_directory, _listener, _client, server) = pair().await;
        assert_eq!(server.peer().unwrap().uid, nix::unistd::getuid().as_raw());
    }
}
