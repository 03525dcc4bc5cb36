//! How a process of the same machine or container finds the endpoints of a server and asks them: a file
//! `web-<role>-<process>` in the state directory with the address and a random number, written when it listens and
//! removed when it ends.
//!
//! A file that was left by a process that died is passed over; where another process got its number, whoever listens at
//! the address answers another random number.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use larder_common::{Error, ErrorKind, Result};

const PREFIX: &str = "web-";
/// The longest answer that is read, in bytes.
const ANSWER_MAX: u64 = 16 << 20;

/// A file that announces endpoints; it goes when dropped.
#[derive(Debug)]
pub(crate) struct Announcement(PathBuf);

impl Announcement {
    /// # Errors
    /// Where the directory takes no file.
    pub(crate) fn write(state: &Path, role: &str, address: SocketAddr, instance: &str) -> Result<Self> {
        let path = state.join(format!("{PREFIX}{role}-{}", std::process::id()));
        let failed = |e: std::io::Error| Error::from(e).at(path.as_os_str().as_encoded_bytes());
        fs::create_dir_all(state).map_err(failed)?;
        let new = path.with_extension("new");
        fs::write(&new, format!("{} {instance}\n", reached(address))).map_err(failed)?;
        fs::rename(&new, &path).map_err(failed)?;
        Ok(Self(path))
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // Somebody may have tidied up already.
        let _ = fs::remove_file(&self.0);
    }
}

/// Where a server that listens at this address is reached from the same machine.
fn reached(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Endpoints that are announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Of which role.
    pub(crate) role: String,
    /// Where they are.
    pub(crate) address: SocketAddr,
    /// Of which process.
    pub(crate) instance: String,
}

/// All that are announced in a state directory, by role; what cannot be read is passed over.
///
/// # Errors
/// Where the directory cannot be read; one that is missing holds nothing.
pub(crate) fn found(state: &Path) -> Result<Vec<Place>> {
    let entries = match fs::read_dir(state) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::from(e).at(state.as_os_str().as_encoded_bytes())),
    };
    let mut places: Vec<Place> = entries.flatten().filter_map(|entry| place(&entry)).collect();
    places.sort_by(|a, b| a.role.cmp(&b.role));
    Ok(places)
}

fn place(entry: &fs::DirEntry) -> Option<Place> {
    let name = entry.file_name().into_string().ok()?;
    let (role, process) = name.strip_prefix(PREFIX)?.rsplit_once('-')?;
    if !is_there(process.parse().ok()?) {
        return None;
    }
    let text = fs::read_to_string(entry.path()).ok()?;
    let (address, instance) = text.trim().split_once(' ')?;
    Some(Place { role: role.to_owned(), address: address.parse().ok()?, instance: instance.to_owned() })
}

/// Whether there is such a process; one of somebody else cannot be signalled, but it is there.
fn is_there(process: i32) -> bool {
    use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
    kill(Pid::from_raw(process), None) != Err(Errno::ESRCH)
}

/// One GET by HTTP/1.1: the status and the body.
///
/// # Errors
/// `Unavailable` if nobody answers in time; `Corrupt` for what is no answer.
pub(crate) fn ask(address: SocketAddr, path: &str, within: Duration) -> Result<(u16, Vec<u8>)> {
    let silent = |e: std::io::Error| Error::new(ErrorKind::Unavailable, format!("{address} does not answer: {e}"));
    let deadline = Instant::now() + within;
    let mut stream = TcpStream::connect_timeout(&address, within).map_err(silent)?;
    let rest = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(rest)).map_err(silent)?;
    stream.set_write_timeout(Some(rest)).map_err(silent)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(silent)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).map_err(silent)?;
    parse(&answer).ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("{address} does not speak HTTP")))
}

fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, answer[end + 4..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_is_found_until_it_goes() {
        let state = tempfile::tempdir().unwrap();
        let one = Announcement::write(state.path(), "worker", "0.0.0.0:7".parse().unwrap(), "ab").unwrap();
        fs::write(state.path().join("web-broken-1"), "nowhere").unwrap();
        fs::write(state.path().join("web-dead-2147483647"), "127.0.0.1:7 cd").unwrap();
        fs::write(state.path().join("other"), "127.0.0.1:7 cd").unwrap();
        let expected = Place { role: "worker".into(), address: "127.0.0.1:7".parse().unwrap(), instance: "ab".into() };
        assert_eq!(found(state.path()).unwrap(), [expected]);
        drop(one);
        assert!(found(state.path()).unwrap().is_empty());
        assert!(found(&state.path().join("missing")).unwrap().is_empty());
    }

    #[test]
    fn answers_are_cut_into_status_and_body() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(parse(answer), Some((503, b"{}".to_vec())));
        assert_eq!(parse(b"SSH-2.0-x\r\n"), None);
        assert_eq!(reached("[::]:5".parse().unwrap()), "[::1]:5".parse().unwrap());
    }
}
