//! How much of a directory the worker may use. Pure: facts in, bytes or an error with the fix out.

use std::path::PathBuf;

use larder_common::{ByteSize, Error, ErrorKind, Medium, Result, tier::Quota};

/// What is known of a directory before its quota is decided.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) directory: PathBuf,
    pub(crate) medium: Medium,
    /// The size of its file system; `None` where that has none (ramfs).
    pub(crate) size: Option<u64>,
    /// What of it is free, or already ours.
    pub(crate) available: u64,
    /// What other workers, and other directories of this one, were promised on the same file system.
    pub(crate) neighbours: u64,
    /// For memory: the limit of the cgroup or the machine, less what other memory directories of this worker take.
    pub(crate) memory: Option<u64>,
    /// Whether it is a `/dev/shm`, whose size is set when the container starts.
    pub(crate) shm: bool,
    /// Whether other programs use it too.
    pub(crate) shared: bool,
}

/// Decides the quota.
///
/// # Errors
/// `Config` for a quota that was asked for and does not fit, with what would make it fit; or where nothing is left.
pub(crate) fn decide(asked: Quota, facts: &Facts) -> Result<u64> {
    let bytes = match asked {
        Quota::Bytes(size) => size.0,
        Quota::Percent(percent) => share(facts.whole(), percent),
        Quota::Auto => share(facts.left(), if facts.shared { 50.0 } else { 80.0 }),
    };
    if bytes == 0 {
        return Err(facts
            .error("nothing is left of it for a quota".into())
            .advise("free space, or take it out of worker.tiers"));
    }
    facts.fits(bytes)?;
    Ok(bytes)
}

fn share(bytes: u64, percent: f64) -> u64 {
    (bytes as f64 * percent / 100.0) as u64
}

impl Facts {
    /// All there is.
    fn whole(&self) -> u64 {
        self.size.unwrap_or(u64::MAX).min(self.memory.unwrap_or(u64::MAX)).min(i64::MAX as u64)
    }

    /// What nobody else has or was promised.
    fn left(&self) -> u64 {
        let room = self.size.map_or(u64::MAX, |size| size.saturating_sub(self.neighbours).min(self.available));
        self.whole().min(room)
    }

    fn fits(&self, bytes: u64) -> Result<()> {
        let wanted = bytes.saturating_add(self.neighbours);
        match (self.size, self.memory) {
            (Some(size), _) if wanted > size => Err(self.too_small(bytes, wanted, size)),
            (_, Some(memory)) if bytes > memory => {
                let message = format!(
                    "a quota of {} does not fit into the {} of memory that this process may take; \
                     beyond them the kernel kills it",
                    ByteSize(bytes),
                    ByteSize(memory)
                );
                Err(self.error(message).advise("raise the container's --memory, or lower the quota"))
            }
            _ => Ok(()),
        }
    }

    fn too_small(&self, bytes: u64, wanted: u64, size: u64) -> Error {
        let others = match self.neighbours {
            0 => String::new(),
            n => format!(" beside {} promised to others on it", ByteSize(n)),
        };
        let error =
            self.error(format!("a quota of {}{others} does not fit into its {}", ByteSize(bytes), ByteSize(size)));
        let option = docker_size(wanted);
        match (self.shm, self.medium) {
            (true, _) => error.advise(format!("start the container with --shm-size={option}, or lower the quota")),
            (false, Medium::Mem) => error.advise(format!("mount it with -o size={option}, or lower the quota")),
            _ => error.advise("lower the quota, or give a larger disk"),
        }
    }

    fn error(&self, message: String) -> Error {
        Error::new(ErrorKind::Config, message).at(self.directory.as_os_str().as_encoded_bytes())
    }
}

/// A size as `docker run` and `mount` take it, rounded up.
fn docker_size(bytes: u64) -> String {
    let mib = bytes.div_ceil(1 << 20);
    if mib.is_multiple_of(1024) { format!("{}g", mib / 1024) } else { format!("{mib}m") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn shm(size: u64) -> Facts {
        Facts {
            directory: "/dev/shm".into(),
            medium: Medium::Mem,
            size: Some(size),
            available: size,
            neighbours: 0,
            memory: None,
            shm: true,
            shared: false,
        }
    }

    #[test]
    fn what_was_asked_for_and_does_not_fit_is_refused_with_the_fix() {
        let error = decide(Quota::Bytes(ByteSize::gib(1)), &shm(64 << 20)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_eq!(
            error.to_string(),
            "/dev/shm: a quota of 1.00GB does not fit into its 64.0MB; \
             start the container with --shm-size=1g, or lower the quota"
        );
        let crowded = Facts { neighbours: GIB, ..shm(GIB + (1 << 20)) };
        let error = decide(Quota::Bytes(ByteSize::mib(512)), &crowded).unwrap_err().to_string();
        assert!(error.contains("--shm-size=1536m") && error.contains("promised to others"), "{error}");
    }

    #[test]
    fn the_cgroup_counts_for_memory() {
        let limited = Facts { memory: Some(GIB), ..shm(8 * GIB) };
        let error = decide(Quota::Bytes(ByteSize::gib(2)), &limited).unwrap_err().to_string();
        assert!(error.contains("--memory"), "{error}");
        assert_eq!(decide(Quota::Percent(50.0), &limited).unwrap(), GIB / 2);
        assert_eq!(decide(Quota::Auto, &limited).unwrap(), (GIB as f64 * 0.8) as u64);
    }

    #[test]
    fn what_was_not_asked_for_leaves_room_for_others() {
        assert_eq!(decide(Quota::Auto, &Facts { shared: true, ..shm(GIB) }).unwrap(), GIB / 2);
        assert_eq!(decide(Quota::Auto, &Facts { neighbours: GIB / 2, ..shm(GIB) }).unwrap(), (GIB as f64 * 0.4) as u64);
        assert_eq!(decide(Quota::Auto, &Facts { available: 1000, ..shm(GIB) }).unwrap(), 800);
        assert!(decide(Quota::Auto, &Facts { neighbours: GIB, ..shm(GIB) }).is_err());
    }

    #[test]
    fn a_medium_without_size_is_limited_by_memory() {
        let ram = Facts { size: None, memory: Some(GIB), ..shm(0) };
        assert_eq!(decide(Quota::Bytes(ByteSize(GIB)), &ram).unwrap(), GIB);
        assert!(decide(Quota::Bytes(ByteSize(GIB + 1)), &ram).is_err());
    }
}
