//! What is in a directory: the files that are read, and what is passed over, counted.

use std::{
    fs,
    path::{Path, PathBuf},
};

use larder_common::{ByteSize, Error, Result};

use crate::{lab::Lab, scratch::bytes};

/// How many of the unreadable are kept by name.
const NAMED: usize = 5;

/// What is in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Regular files, relative to the directory, in the order of a walk.
    pub files: Vec<PathBuf>,
    /// The bytes in them.
    pub bytes: ByteSize,
    /// Directories, with the one itself.
    pub directories: u64,
    /// Symbolic links: what they lead to inside is read under its own name.
    pub links: u64,
    /// Those of them that lead out of the directory, or nowhere.
    pub leaving: u64,
    /// Pipes, sockets, devices.
    pub special: u64,
    /// Files and directories that this user may not read.
    pub unreadable: u64,
    /// Some of those, with the reason.
    pub unreadable_names: Vec<String>,
}

impl Inventory {
    /// Walks a directory, which is a whole path without symbolic links.
    ///
    /// # Errors
    /// As `readdir` of the directory itself; what cannot be read below is counted. `Busy` when a signal comes.
    pub fn of(lab: &Lab<'_>, root: &Path) -> Result<Self> {
        let mut inventory = Self::default();
        fs::read_dir(root).map_err(|e| Error::from(e).at(bytes(root)))?;
        let mut left = vec![PathBuf::new()];
        while let Some(directory) = left.pop() {
            lab.check()?;
            lab.progress(&format!("looking what there is: {} files", inventory.files.len()));
            match sorted(&root.join(&directory)) {
                Ok(entries) => {
                    inventory.directories += 1;
                    let first = left.len();
                    for entry in &entries {
                        inventory.add(root, directory.join(entry.file_name()), entry, &mut left);
                    }
                    left[first..].reverse();
                }
                Err(error) => inventory.refuse(&root.join(&directory), &error),
            }
        }
        Ok(inventory)
    }

    fn add(&mut self, root: &Path, relative: PathBuf, entry: &fs::DirEntry, left: &mut Vec<PathBuf>) {
        match entry.metadata() {
            Err(error) => self.refuse(&entry.path(), &error),
            Ok(found) if found.is_dir() => left.push(relative),
            Ok(found) if found.is_symlink() => {
                self.links += 1;
                let stays = fs::canonicalize(entry.path()).is_ok_and(|target| target.starts_with(root));
                self.leaving += u64::from(!stays);
            }
            Ok(found) if found.is_file() => match fs::File::open(entry.path()) {
                Ok(_) => {
                    self.bytes.0 += found.len();
                    self.files.push(relative);
                }
                Err(error) => self.refuse(&entry.path(), &error),
            },
            Ok(_) => self.special += 1,
        }
    }

    fn refuse(&mut self, path: &Path, error: &std::io::Error) {
        self.unreadable += 1;
        if self.unreadable_names.len() < NAMED {
            self.unreadable_names.push(Error::from(std::io::Error::from(error.kind())).at(bytes(path)).to_string());
        }
    }
}

fn sorted(directory: &Path) -> std::io::Result<Vec<fs::DirEntry>> {
    let mut entries = fs::read_dir(directory)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::lab::quiet;

    #[test]
    fn files_are_listed_and_the_rest_is_counted() {
        let place = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(place.path()).unwrap();
        fs::create_dir_all(root.join("b/deep")).unwrap();
        for (name, text) in [("a", "12"), ("b/deep/c", "345"), ("z", "")] {
            fs::write(root.join(name), text).unwrap();
        }
        symlink("a", root.join("inside")).unwrap();
        symlink("b", root.join("inside-directory")).unwrap();
        symlink("/etc/passwd", root.join("outside")).unwrap();
        symlink("nowhere", root.join("dangling")).unwrap();
        nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let inventory = Inventory::of(&quiet::lab(), &root).unwrap();
        assert_eq!(inventory.files, [Path::new("a"), Path::new("z"), Path::new("b/deep/c")]);
        assert_eq!((inventory.bytes, inventory.directories), (ByteSize(5), 3));
        assert_eq!((inventory.links, inventory.leaving, inventory.special, inventory.unreadable), (4, 2, 1, 0));
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_reason() {
        let mut inventory = Inventory::default();
        for number in 0..9 {
            let error = std::io::Error::from_raw_os_error(nix::libc::EACCES);
            inventory.refuse(Path::new(&format!("/secret/{number}")), &error);
        }
        assert_eq!((inventory.unreadable, inventory.unreadable_names.len()), (9, NAMED));
        assert!(inventory.unreadable_names[0].starts_with("/secret/0: permission denied"), "{inventory:?}");
    }
}
