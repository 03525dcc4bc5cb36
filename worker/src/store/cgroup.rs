//! How much memory this process may take: the smallest limit of its cgroup and all above it, v1 or v2.
//!
//! Beyond that limit the kernel kills instead of answering that a tmpfs is full, so quotas of memory tiers are compared
//! with it. What cannot be read is no limit.

use std::{fs, path::Path};

/// The smallest limit in bytes, `None` for no limit.
pub(crate) fn memory_limit() -> Option<u64> {
    limit_below(Path::new("/sys/fs/cgroup"), &fs::read_to_string("/proc/self/cgroup").unwrap_or_default())
}

/// The memory of the machine in bytes.
pub(crate) fn machine_memory() -> Option<u64> {
    total(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// `groups` is the content of `/proc/self/cgroup`: lines of `ID:CONTROLLERS:PATH`, v2 without controllers.
fn limit_below(root: &Path, groups: &str) -> Option<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let path = Path::new(path.trim_start_matches('/'));
        if controllers.is_empty() {
            limits.extend(walk(root, path, "memory.max"));
            limits.extend(walk(&root.join("unified"), path, "memory.max"));
        } else if controllers.split(',').any(|c| c == "memory") {
            limits.extend(walk(&root.join("memory"), path, "memory.limit_in_bytes"));
        }
    }
    // v1 writes "no limit" as the largest multiple of a page.
    limits.into_iter().filter(|l| *l < 1 << 62).min()
}

/// The limits of a group and of all above it. In a container the path may name groups that only the host sees; then
/// those parts are missing below `root`, and `root` itself is our group.
fn walk(root: &Path, path: &Path, file: &str) -> Vec<u64> {
    let groups = path.ancestors().map(|p| root.join(p).join(file));
    groups.filter_map(|p| fs::read_to_string(p).ok()?.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, file: &str, text: &str) {
        let file = root.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "a/memory.max", "5000\n");
        put(root.path(), "a/b/memory.max", "max\n");
        assert_eq!(limit_below(root.path(), "0::/a/b\n"), Some(5000));
        assert_eq!(limit_below(root.path(), "0::/c\n"), None);
    }

    #[test]
    fn version_one_and_a_container_s_view() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "memory/memory.limit_in_bytes", "7000\n");
        assert_eq!(limit_below(root.path(), "4:cpu,memory:/docker/0123\n0::/\n"), Some(7000));
        put(root.path(), "memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit_below(root.path(), "4:memory:/\n"), None);
    }

    #[test]
    fn the_machine_has_memory() {
        assert_eq!(total("MemTotal:       16 kB\nMemFree: 1 kB\n"), Some(16384));
        assert!(machine_memory().unwrap() > 0);
    }
}
