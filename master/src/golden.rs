//! Golden files: what earlier versions have written, kept as text in `master/golden`, and read by tests of today.
//!
//! A line is a name and bytes in hexadecimal; `#` begins a comment. A line that is there is never changed: it stands
//! for what lies on somebody's disk. What is new gets a line of its own, which `LARDER_BLESS=1` appends.

use std::{collections::BTreeMap, fmt::Write, fs, path::PathBuf};

/// One golden file.
#[derive(Debug)]
pub(crate) struct Golden {
    path: PathBuf,
    /// What it holds, by name.
    pub(crate) lines: BTreeMap<String, Vec<u8>>,
}

impl Golden {
    /// Reads a golden file, after adding what is missing in it where that is asked for.
    pub(crate) fn read(name: &str, today: &[(String, Vec<u8>)]) -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
        let mut golden = Self { lines: parse(&fs::read_to_string(&path).unwrap_or_default()), path };
        if std::env::var_os("LARDER_BLESS").is_some() {
            golden.append(today);
        }
        assert!(!golden.lines.is_empty(), "{} is missing", golden.path.display());
        golden
    }

    fn append(&mut self, today: &[(String, Vec<u8>)]) {
        let mut text = fs::read_to_string(&self.path).unwrap_or_else(|_| {
            "# Lines that are here are never changed: see CONTRIBUTING.md, \"Formats\".\n".to_owned()
        });
        for (name, bytes) in today.iter().filter(|(name, _)| !self.lines.contains_key(name)) {
            writeln!(text, "{name} {}", hexadecimal(bytes)).unwrap();
        }
        self.lines = parse(&text);
        fs::write(&self.path, text).unwrap();
    }

    /// Fails unless today's code writes these things as the file has them, and the file has all of them.
    pub(crate) fn assert_written(&self, today: &[(String, Vec<u8>)]) {
        let file = self.path.display();
        for (name, bytes) in today {
            let Some(kept) = self.lines.get(name) else {
                panic!(
                    "{file} has no {name}: a new kind or field needs a golden line; see CONTRIBUTING.md, \"Formats\""
                )
            };
            assert_eq!(
                hexadecimal(bytes),
                hexadecimal(kept),
                "{name} is written in another way than {file} keeps it: the format has changed; see CONTRIBUTING.md, \"Formats\""
            );
        }
        let gone: Vec<_> = self.lines.keys().filter(|name| !today.iter().any(|(other, _)| other == *name)).collect();
        assert!(gone.is_empty(), "{file} has what no test knows any more: {gone:?}");
    }
}

fn parse(text: &str) -> BTreeMap<String, Vec<u8>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parsed = lines.map(|line| {
        let (name, digits) = line.split_once(' ').unwrap_or((line, ""));
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        (name.to_owned(), (0..digits.len()).step_by(2).map(byte).collect())
    });
    let all: Vec<(String, Vec<u8>)> = parsed.collect();
    let map: BTreeMap<_, _> = all.iter().cloned().collect();
    assert_eq!(map.len(), all.len(), "a name is there twice");
    map
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// A file as lines of 64 bytes named by their offset; those of zeros are left out. The last line is its end.
pub(crate) fn file_lines(file: &str, bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let chunks = bytes.chunks(64).enumerate().filter(|(_, chunk)| chunk.iter().any(|byte| *byte != 0));
    let mut lines: Vec<_> = chunks.map(|(at, chunk)| (format!("{file}@{:08x}", at * 64), chunk.to_vec())).collect();
    lines.push((format!("{file}@{:08x}", bytes.len()), Vec::new()));
    lines
}

/// The files that such lines make, by name.
pub(crate) fn files(golden: &Golden) -> BTreeMap<String, Vec<u8>> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (name, bytes) in &golden.lines {
        let (file, offset) = name.split_once('@').unwrap();
        let offset = usize::from_str_radix(offset, 16).unwrap();
        let content = files.entry(file.to_owned()).or_default();
        content.resize(content.len().max(offset), 0);
        content.extend_from_slice(bytes);
    }
    files
}
