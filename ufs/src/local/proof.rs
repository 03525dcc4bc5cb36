//! Files that prove that two servers see the same directory: `.larder/<cluster>/proof/<name>` in the root.

use std::{
    fs::File,
    io::{Read, Write},
};

use larder_common::{Error, ErrorKind, Name, Result};
use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};

use super::{
    root::{Private, Root},
    syscalls::failure,
};
use crate::ObjectPath;

/// More than a random name and its answer need.
const LONGEST: u64 = 4096;

pub(super) fn plant(root: &Root, name: &Name, content: &[u8]) -> Result<()> {
    if content.len() as u64 > LONGEST {
        return Err(Error::new(ErrorKind::Invalid, format!("a proof is at most {LONGEST} bytes")).at(name));
    }
    let directory = root.private_in(&ObjectPath::root(), Private::Proofs, true)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(&directory, name.as_bytes(), flags, Mode::S_IRUSR | Mode::S_IWUSR);
    Ok(File::from(file.map_err(|e| failure(e, name))?).write_all(content)?)
}

pub(super) fn read(root: &Root, name: &Name) -> Result<Vec<u8>> {
    let directory = root.private_in(&ObjectPath::root(), Private::Proofs, false)?;
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let file = openat(&directory, name.as_bytes(), flags, Mode::empty());
    let mut content = Vec::new();
    File::from(file.map_err(|e| failure(e, name))?).take(LONGEST).read_to_end(&mut content)?;
    Ok(content)
}
