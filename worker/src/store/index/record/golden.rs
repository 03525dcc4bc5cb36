//! The format of side data, held to `worker/golden`: records, names of cache files and of directories, the worker's
//! identity. A line that is there is never changed (it is on somebody's disk); `LARDER_BLESS=1` appends what is new.

use std::{collections::BTreeMap, fmt::Write, fs, path::PathBuf};

use larder_common::ErrorKind;

use super::{
    super::{
        super::{key::CacheName, neighbours::Home},
        read,
    },
    *,
};
use crate::identity::Identity;

const KEY: FileKey = FileKey { file: FileId(12), generation: Generation(3) };
const CLUSTER: ClusterId = ClusterId([0xc1; 16]);
const WORKER: WorkerId = WorkerId([0x30; 16]);

fn spec() -> GenerationSpec {
    let block_size = BlockSize::new(1 << 20).unwrap();
    GenerationSpec { length: 3_000_000, block_size, group: Group(FileId(2)), persisted: true }
}

fn header() -> Header {
    Header { format: 1, features: 0, cluster: CLUSTER, worker: WORKER, writer: "larder 0.1.0".into() }
}

/// One record of every kind, with every field set; and the ways in which a file is made.
fn records() -> Vec<(&'static str, Record)> {
    let (serial, lease) = (Serial(5), Some(LeaseId(9)));
    let create = |spec, lease, committed, edit| Record::Create { serial, key: KEY, spec, lease, committed, edit };
    let unpersisted = GenerationSpec { persisted: false, ..spec() };
    vec![
        ("header", Record::Header(header())),
        ("create-committed", create(spec(), None, true, None)),
        ("create-writing", create(unpersisted, lease, false, None)),
        ("create-edited", create(spec(), lease, true, Some(Generation(2)))),
        ("block", Record::Block(serial, BlockIndex(2), [0xe306_9283].into())),
        ("evicted", Record::Evicted(serial, BlockIndex(2))),
        ("removed", Record::Removed(serial)),
        ("persisted", Record::Persisted(serial)),
        ("sealed", Record::Sealed(serial)),
        ("cut", Record::Cut(serial, 1_000_000)),
    ]
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    bytes
}

/// All that the golden file holds, as today's code writes it.
fn written() -> Vec<(String, Vec<u8>)> {
    let state = tempfile::tempdir().unwrap();
    Identity::open(state.path()).unwrap().settle(WORKER, CLUSTER).unwrap();
    let committed = CacheName::committed(KEY, Serial(5));
    let named = [
        ("name-committed", committed.to_string().into_bytes()),
        ("name-writing", CacheName { lease: Some(LeaseId(9)), ..committed }.to_string().into_bytes()),
        ("name-home", Home::new("".as_ref(), CLUSTER, WORKER).path.into_os_string().into_encoded_bytes()),
        ("identity", fs::read(state.path().join("identity-0")).unwrap()),
    ];
    let records = records().into_iter().map(|(name, record)| (name, encoded(&record)));
    records.chain(named).map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn golden() -> BTreeMap<String, Vec<u8>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/side-data-1.txt");
    let mut text = fs::read_to_string(&path).unwrap_or_default();
    if std::env::var_os("LARDER_BLESS").is_some() {
        for (name, bytes) in written() {
            if !text.lines().any(|line| line.split_once(' ').is_some_and(|(known, _)| known == name)) {
                writeln!(text, "{name} {}", hexadecimal(&bytes)).unwrap();
            }
        }
        fs::write(&path, &text).unwrap();
    }
    let lines = text.lines().filter_map(|line| line.split_once(' ')).filter(|(name, _)| *name != "#");
    let byte = |digits: &str, at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    lines
        .map(|(name, digits)| (name.to_owned(), (0..digits.len()).step_by(2).map(|at| byte(digits, at)).collect()))
        .collect()
}

#[test]
fn golden_side_data_is_read_as_what_it_was() {
    let golden = golden();
    for (name, record) in records() {
        let bytes = &golden[name];
        assert_eq!(frame(bytes), Some((Ok(record), bytes.len())), "{name}");
    }
    let name = |name: &str| CacheName::parse(&golden[name]).unwrap();
    assert_eq!(name("name-committed"), CacheName::committed(KEY, Serial(5)));
    assert_eq!(name("name-writing"), CacheName { key: KEY, serial: Serial(5), lease: Some(LeaseId(9)) });
    let directory = tempfile::tempdir().unwrap();
    let home = String::from_utf8(golden["name-home"].clone()).unwrap();
    fs::create_dir(directory.path().join(home)).unwrap();
    assert_eq!(Home::all_in(directory.path()).unwrap(), [Home::new(directory.path(), CLUSTER, WORKER)]);
    fs::write(directory.path().join("identity-0"), &golden["identity"]).unwrap();
    let identity = Identity::open(directory.path()).unwrap();
    assert_eq!((identity.worker, identity.cluster), (WORKER, Some(CLUSTER)));
    said_together(&golden);
}

/// The lines of the golden file in one index: what they say together.
fn said_together(golden: &BTreeMap<String, Vec<u8>>) {
    let lines = ["header", "create-edited", "block", "sealed", "cut", "persisted"];
    let bytes: Vec<u8> = lines.iter().flat_map(|name| golden[*name].clone()).collect();
    let replay = replay(&bytes);
    assert_eq!((replay.skipped, replay.unknown, replay.state.header.as_ref()), (0, None, Some(&header())));
    let file = &replay.state.files[&Serial(5)];
    assert_eq!((file.key, file.spec, file.lease), (KEY, spec(), Some(LeaseId(9))));
    assert_eq!((file.sealed, file.cut, file.edit), (true, Some(1_000_000), Some(Generation(2))));
    assert_eq!(file.blocks[&BlockIndex(2)][..], [0xe306_9283]);
}

#[test]
fn side_data_is_written_as_the_golden_one() {
    let golden = golden();
    let advice = "see CONTRIBUTING.md, \"Formats\"";
    for (name, bytes) in written() {
        let kept = golden.get(&name).unwrap_or_else(|| panic!("no golden line for {name}; {advice}"));
        assert_eq!(hexadecimal(&bytes), hexadecimal(kept), "the format of {name} has changed; {advice}");
    }
    assert_eq!(golden.len(), written().len(), "lines that no test knows any more; {advice}");
}

#[test]
fn there_is_golden_side_data_of_every_kind() {
    let golden = golden();
    let kinds: std::collections::BTreeSet<u8> = records().iter().map(|(name, _)| golden[*name][1]).collect();
    // A kind is known if bytes of some length are a record of it.
    let zeros = (0..128).map(|length| vec![0; length]);
    let payloads: Vec<Vec<u8>> =
        zeros.chain(golden.values().filter_map(|line| line.get(PREFIX..).map(Vec::from))).collect();
    let known = (0..=u8::MAX).filter(|kind| payloads.iter().any(|payload| Record::parse(*kind, payload).is_some()));
    assert_eq!(kinds, known.collect(), "records without a golden line");
}

#[test]
fn a_newer_format_feature_or_record_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index");
    let golden = golden();
    let mut stranger = golden["removed"].clone();
    stranger[1] = 8;
    let mut longer = golden["removed"].clone();
    longer.push(0);
    longer[2] += 1;
    for frame in [&mut stranger, &mut longer] {
        let crc = frame_crc(frame);
        frame[4..8].copy_from_slice(&crc.to_le_bytes());
    }
    let headers = [Header { format: 2, ..header() }, Header { features: 4, ..header() }];
    let [format, features] = headers.map(|header| encoded(&Record::Header(header)));
    for (bytes, what) in [
        (format, "format 2"),
        (features, "features 0x4"),
        ([&golden["header"][..], &stranger].concat(), "record of kind 8 in format 1"),
        ([&golden["header"][..], &longer].concat(), "record of kind 4 in format 1"),
    ] {
        fs::write(&path, &bytes).unwrap();
        let error = read(&path).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{text}");
        assert!(text.contains(what) && text.contains("larder 0.1.0") && text.contains("index"), "{what}: {text}");
        assert!(error.advice().is_some_and(|advice| advice.contains("newer")), "{text}");
    }
}
