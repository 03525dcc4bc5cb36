//! Files with known content, and trees that are compared byte by byte.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Bytes that differ from seed to seed and do not repeat within a block.
#[must_use]
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64 (Marsaglia, 2003)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Writes `count` files of `length` bytes each below `root`, ten to a directory; file `i` has the content of seed `i`.
///
/// # Errors
/// The system's.
pub fn write_files(root: &Path, count: u64, length: usize) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for seed in 0..count {
        let directory = root.join(format!("d{:04}", seed / 10));
        fs::create_dir_all(&directory)?;
        let path = directory.join(format!("f{seed:06}"));
        fs::write(&path, bytes(seed, length))?;
        paths.push(path);
    }
    Ok(paths)
}

/// The regular files below a directory, by relative path, without Larder's own directory.
///
/// # Errors
/// The system's.
pub fn files(root: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let path = entry.path();
            if directory == root && entry.file_name() == ".larder" {
                continue;
            }
            if entry.file_type()?.is_dir() {
                todo.push(path);
            } else {
                let relative = path.strip_prefix(root).map_err(io::Error::other)?.to_owned();
                found.insert(relative, fs::read(&path)?);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_differ_by_seed() {
        assert_eq!(bytes(3, 100), bytes(3, 100));
        assert_ne!(bytes(3, 100), bytes(4, 100));
        assert_eq!(bytes(1, 13).len(), 13);
    }
}
