//! The format of the journal's files, held to golden ones of format 1: two segments, the end of the first, and a
//! checkpoint, with a frame of every kind.

use std::collections::{BTreeMap, BTreeSet};

use larder_common::{ClusterId, ErrorKind, checksum::crc32c};

use super::{
    super::{
        frame::{self, Chain, Kind},
        header::{FileKind, HEADER, Header},
        scan::StartNote,
    },
    *,
};
use crate::golden::{Golden, file_lines, files};

const CLUSTER: ClusterId = ClusterId([5; 16]);
const FIRST: &str = "journal-00000000000000000001.log";
const SECOND: &str = "journal-00000000000000000002.log";
const CHECKPOINT: &str = "checkpoint-00000000000000000002.ckpt";

fn header(kind: FileKind, number: u64) -> Header {
    let (nonce, created_by) = (0x0102_0304_0506_0708, "larder 0.1.0".to_owned());
    Header { kind, cluster: CLUSTER, number, nonce, epoch: 3, installed: false, created_by }
}

/// A file of these frames; the chain goes on from file to file of the journal.
fn file(header: &Header, chain: &mut Chain, frames: &[(Kind, &[u8])]) -> Vec<u8> {
    let (mut bytes, seed) = header.encode();
    for (kind, payload) in frames {
        chain.push(&mut bytes, seed, *kind, payload);
    }
    bytes
}

/// The files as today's code writes them.
fn written() -> BTreeMap<&'static str, Vec<u8>> {
    let start = StartNote { boot: [6; 16], created_by: "larder 0.1.0".into() }.encode();
    let mut chain = Chain { epoch: 3, ..Chain::after(Position(0)) };
    let entry = |payload: &'static [u8]| (Kind::Entry, payload);
    let frames = [(Kind::Start, &start[..]), entry(b"one"), entry(b""), (Kind::Roll, b"")];
    let first = file(&header(FileKind::Segment, 1), &mut chain, &frames);
    chain.durable = Position(2);
    let frames = [(Kind::Start, &start[..]), entry(b"three"), (Kind::Mark, b""), entry(b"fourth"), (Kind::Close, b"")];
    let second = file(&header(FileKind::Segment, 2), &mut chain, &frames);
    let mut chain = Chain::after(Position(0));
    let count = 2u64.to_le_bytes();
    let frames = [entry(b"state one"), entry(b"state two"), (Kind::Count, &count[..])];
    let checkpoint = file(&header(FileKind::Checkpoint, 2), &mut chain, &frames);
    [(FIRST, first), (SECOND, second), (CHECKPOINT, checkpoint)].into()
}

fn golden() -> Golden {
    let lines: Vec<_> = written().iter().flat_map(|(name, bytes)| file_lines(name, bytes)).collect();
    let golden = Golden::read("journal-1.txt", &lines);
    golden.assert_written(&lines);
    golden
}

/// A directory with the golden files, after a change of one.
fn laid_out(changed: &str, change: impl Fn(&mut Vec<u8>)) -> TempDir {
    let temp = fast_directory();
    for (name, mut bytes) in files(&golden()) {
        if name == changed {
            change(&mut bytes);
        }
        std::fs::write(temp.path().join(name), bytes).unwrap();
    }
    temp
}

#[test]
fn a_golden_journal_is_read_as_what_it_was() {
    let temp = laid_out("", |_| {});
    let opened = open(temp.path());
    assert!(opened.findings.is_empty(), "{:?}", opened.findings);
    assert_eq!(opened.journal.cluster(), CLUSTER);
    let entries: Vec<(u64, Bytes)> = read(&opened.journal, 1).unwrap().into_iter().map(|(p, b)| (p.0, b)).collect();
    let expected = [(1, &b"one"[..]), (2, b""), (3, b"three"), (4, b"fourth")];
    assert_eq!(entries, expected.map(|(position, payload)| (position, Bytes::from_static(payload))));
    let checkpoint = opened.checkpoint.unwrap();
    let frames: Vec<Bytes> = checkpoint.frames.collect::<Result<_>>().unwrap();
    assert_eq!((checkpoint.position, checkpoint.epoch), (Position(2), 3));
    assert_eq!(frames, [&b"state one"[..], b"state two"]);
    assert_eq!(opened.journal.append(&[Bytes::from_static(b"five")]).unwrap(), Position(5), "and it goes on");
}

#[test]
fn there_is_a_golden_frame_of_every_kind() {
    let mut found = BTreeSet::new();
    for (name, bytes) in files(&golden()) {
        let kind = if name == CHECKPOINT { FileKind::Checkpoint } else { FileKind::Segment };
        let (_, seed) = Header::decode(&bytes, Path::new(&name), kind).unwrap();
        let mut rest = &bytes[HEADER..];
        while !rest.is_empty() {
            let (frame, size) = frame::parse(rest, seed).unwrap();
            found.insert(frame.kind as u32);
            rest = &rest[size..];
        }
    }
    let known = (0..1000).filter(|number| Kind::from_number(*number).is_some());
    assert_eq!(found, known.collect(), "kinds of frames without a golden one");
}

fn sealed(bytes: &mut [u8], at: usize, value: u8) {
    bytes[at] = value;
    bytes[12..16].fill(0);
    let crc = crc32c(&bytes[..128]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_newer_format_or_feature_of_any_file_is_refused_by_name() {
    for name in [FIRST, SECOND, CHECKPOINT] {
        for (at, value, what) in [(8, 2, "format 2"), (24, 3, "features 0x2"), (27, 0x80, "features 0x80000000")] {
            let temp = laid_out(name, |bytes| sealed(bytes, at, value));
            let before: Vec<_> =
                [FIRST, SECOND, CHECKPOINT].map(|n| std::fs::read(temp.path().join(n)).unwrap()).into();
            let error = try_open(temp.path()).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Mismatch, "{text}");
            assert!(
                text.contains(name) && text.contains(what) && text.contains("larder 0.1.0"),
                "{name} {what}: {text}"
            );
            assert!(error.advice().is_some_and(|advice| advice.contains("or newer")), "{text}");
            let after: Vec<_> = [FIRST, SECOND, CHECKPOINT].map(|n| std::fs::read(temp.path().join(n)).unwrap()).into();
            assert!(before == after, "{name} {what}: what is refused is left as it is");
        }
    }
    let mut bytes = files(&golden()).remove(FIRST).unwrap();
    sealed(&mut bytes, 28, 1);
    Header::decode(&bytes, Path::new(FIRST), FileKind::Segment)
        .expect("a feature that may be passed over is no reason");
}
