//! `remote`: a large warm file as a stream, as a reader on another host gets it, but over loopback.
//!
//! What such a stream could reach at most is a socket whose sender, like a worker, sends from a mapping of a file. A
//! sender that sends the same hot buffer again and again is faster than any server of files can be; it is reported for
//! comparison.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use larder_client::FileSystem;
use larder_common::{Error, ErrorKind, Result};
use memmap2::Mmap;

use super::large_file::{LargeFile, open};
use crate::{
    bench::Bench,
    cluster::{Pages, connect},
    content::PIECE,
    lab::Lab,
    outcome::{Asked, Outcome, Unit},
    rounds::Round,
    statistics::Latencies,
};

pub(crate) const BENCH: Bench = Bench {
    name: "remote",
    measures: "1 GiB as a stream over loopback, 1 stream (short circuit off)",
    baseline: "raw TCP loopback socket, 1 MiB writes from a mapping of a file of the same tmpfs; /hot: from a hot buffer",
    asked: Asked::Ratio(0.8),
    needs_root: false,
    on_existing: true,
    run,
};

/// How long a socket may be silent.
const SILENCE: Duration = Duration::from_secs(30);

fn run(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let large = LargeFile::prepare(lab, Pages::Ordinary)?;
    let far = connect(lab, large.home.door().config(&[("user.short.circuit.enabled", "false")])?)?;
    let (twin, hot) = (open(&large.twin)?, vec![1; PIECE]);
    // SAFETY: the file is in a directory that only this process knows and that lives longer; nobody changes or cuts it.
    let twin = unsafe { Mmap::map(&twin) }?;
    let mut measured = || stream(lab, &far, &large);
    let mut mapped = || socket(lab, large.length, &|at| &twin[at..at + PIECE]);
    let mut buffer = || socket(lab, large.length, &|_| &hot);
    let series = bench.compare(lab, &mut measured, &mut [&mut mapped, &mut buffer])?;
    Ok(vec![
        Outcome::of(bench.name, Unit::Gigabytes, bench.asked, &series, 0),
        Outcome::of(format!("{}/hot", bench.name), Unit::Gigabytes, Asked::Nothing, &series, 1),
    ])
}

fn stream(lab: &Lab<'_>, far: &FileSystem, large: &LargeFile<'_>) -> Result<Round> {
    let file = lab.wait(far.open(large.path()))?;
    let (mut reader, mut total, mut latencies) = (file.reader(), 0, Latencies::with_room(4096));
    let start = Instant::now();
    lab.wait(async {
        loop {
            lab.check()?;
            let begun = Instant::now();
            let piece = reader.next().await?;
            if piece.is_empty() {
                return Ok(());
            }
            latencies.add(begun.elapsed());
            total += piece.len() as u64;
        }
    })?;
    let took = start.elapsed();
    let served = file.served();
    if total != large.length || served.stream != total {
        let message =
            format!("of {} bytes {total} came, {} of them as a stream from the cache", large.length, served.stream);
        return Err(Error::new(ErrorKind::Mismatch, message));
    }
    Ok(Round::of_bytes(total, took).with(latencies))
}

/// Sends `length` bytes through a socket in pieces of 1 MiB. The clock starts when the receiver asks.
fn socket<'a>(lab: &Lab<'_>, length: u64, piece: &(dyn Fn(usize) -> &'a [u8] + Sync)) -> Result<Round> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut receiver = quick(TcpStream::connect(listener.local_addr()?)?)?;
    let mut sender = quick(listener.accept()?.0)?;
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || {
            sender.read_exact(&mut [0])?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            (0..length).step_by(PIECE).try_for_each(|at| sender.write_all(piece(at)))
        });
        let (mut buffer, mut left) = (vec![1; PIECE], length);
        let start = Instant::now();
        receiver.write_all(&[1])?;
        while left > 0 {
            lab.check()?;
            match receiver.read(&mut buffer)? {
                0 => return Err(Error::new(ErrorKind::Unavailable, "the socket ended early")),
                read => left = left.saturating_sub(read as u64),
            }
        }
        let took = start.elapsed();
        let sent = sending.join().map_err(|_| Error::new(ErrorKind::Unavailable, "the sender panicked"))?;
        sent?;
        Ok(Round::of_bytes(length, took))
    })
}

fn quick(stream: TcpStream) -> Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::quiet;

    #[test]
    fn a_socket_carries_all_bytes() {
        let buffer = vec![7; PIECE];
        let round = socket(&quiet::lab(), 8 << 20, &|_| &buffer).unwrap();
        assert!(round.rate > 0.0);
    }
}
