//! The machine that measures: what a reader of numbers must know about it, and its page cache.

use std::{fmt, fs, path::Path};

use larder_common::{ByteSize, Error, ErrorKind, Result};
use nix::sys::statvfs::statvfs;

/// What the numbers of a run depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// Memory in all.
    pub memory: ByteSize,
    /// The kernel's release.
    pub kernel: String,
    /// How the kernel's own tmpfs mounts use huge pages, and `/dev/shm` as it is mounted.
    pub huge: String,
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn here() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (own, mounts) = (text("/sys/kernel/mm/transparent_hugepage/shmem_enabled"), text("/proc/self/mountinfo"));
        let (own, shm) = (bracketed(&own), huge_option(&mounts, "/dev/shm"));
        Self {
            cores: cores(),
            memory: memory(&text("/proc/meminfo"), "MemTotal"),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            huge: format!("huge={} on /dev/shm, shmem_enabled={}", shm.unwrap_or("never"), own.unwrap_or("unknown")),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cores, {} of memory, Linux {}, tmpfs {}", self.cores, self.memory, self.kernel, self.huge)
    }
}

/// Processors that this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// Memory that can be taken without pushing anything out.
#[must_use]
pub fn available_memory() -> ByteSize {
    memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemAvailable")
}

/// Whether this process is root's.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Room for more bytes in a directory's file system.
///
/// # Errors
/// As `statvfs`.
pub fn free_room(directory: &Path) -> Result<ByteSize> {
    let stat = statvfs(directory)
        .map_err(|e| Error::from(std::io::Error::from(e)).at(directory.as_os_str().as_encoded_bytes()))?;
    Ok(ByteSize(stat.blocks_available().saturating_mul(stat.fragment_size())))
}

/// Writes everything back and empties the page cache and the caches of names and inodes, of the whole machine.
///
/// # Errors
/// `Denied` for anybody but root.
pub fn drop_page_cache() -> Result<()> {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").map_err(|e| {
        Error::new(ErrorKind::Denied, format!("the page cache cannot be dropped: {e}"))
            .advise("run it as root, outside of a container or in a privileged one")
    })
}

/// Lets this process have as many open files as it may: the client keeps a quarter of that as descriptors.
pub fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Where it is refused, fewer descriptors are kept: slower, and still right.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn memory(meminfo: &str, field: &str) -> ByteSize {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    ByteSize(number.unwrap_or(0) << 10)
}

/// The chosen one of `a [b] c`.
fn bracketed(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(chosen, _)| chosen)
}

/// The `huge=` option of the last mount at this point.
fn huge_option<'a>(mountinfo: &'a str, point: &str) -> Option<&'a str> {
    let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some(point))?;
    line.split([' ', ',']).find_map(|option| option.strip_prefix("huge="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_tables_are_read() {
        assert_eq!(memory("MemTotal:       2048 kB\nMemFree: 1 kB\n", "MemTotal"), ByteSize::mib(2));
        assert_eq!(memory("", "MemTotal"), ByteSize(0));
        assert_eq!(bracketed("always within_size advise [never] deny force"), Some("never"));
        assert_eq!(bracketed("nothing"), None);
        let mounts =
            "30 25 0:26 / /dev/shm rw - tmpfs tmpfs rw,size=1k,huge=within_size\n31 25 0:27 / /x rw - tmpfs t rw\n";
        assert_eq!(huge_option(mounts, "/dev/shm"), Some("within_size"));
        assert_eq!(huge_option(mounts, "/x"), None);
    }

    #[test]
    fn this_machine_has_cores_and_memory() {
        let machine = Machine::here();
        assert!(machine.cores > 0 && machine.memory > ByteSize::mib(1), "{machine}");
        assert!(machine.to_string().contains("Linux"));
    }
}
