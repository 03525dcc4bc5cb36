//! Preparing directories for use: their homes, locks, media and quotas. Nothing is adopted or deleted here, but for a
//! home whose side data cannot be read: that is set aside under another name.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use larder_common::{ClusterId, Error, ErrorKind, Medium, Result, TierSpec, WorkerId};
use nix::fcntl::Flock;

use super::{
    cgroup,
    config::{HugePages, StoreConfig},
    huge, index, kernel,
    mounts::Surroundings,
    neighbours::{self, Home, LeftBehind},
    open::OpenReport,
    probe::{self, Abilities},
    quota::{self, Facts},
};

/// A directory that is locked and tried.
pub(crate) struct Prepared {
    pub(crate) spec: TierSpec,
    pub(crate) directory: PathBuf,
    pub(crate) home: Home,
    pub(crate) root: PathBuf,
    pub(crate) lock: Flock<File>,
    pub(crate) abilities: Abilities,
    pub(crate) available: u64,
    pub(crate) lasting: bool,
    pub(crate) huge: bool,
    pub(crate) device: u64,
    pub(crate) others: Vec<Home>,
    pub(crate) neighbours: u64,
}

/// The directories in the order of their media, made where they are missing.
pub(crate) fn places(tiers: &[TierSpec]) -> Result<Vec<(TierSpec, PathBuf)>> {
    if tiers.is_empty() {
        return Err(Error::new(ErrorKind::Config, "no tier is set").advise("set worker.tiers=MEM:/dev/shm:1GB"));
    }
    let mut places: Vec<(TierSpec, PathBuf)> = Vec::new();
    let mut tiers = tiers.to_vec();
    tiers.sort_by_key(|t| t.medium);
    for spec in tiers {
        let made = fs::create_dir_all(&spec.directory).and_then(|()| spec.directory.canonicalize());
        let path = made.map_err(|e| {
            let uid = nix::unistd::geteuid();
            kernel::at(e, &spec.directory).advise(format!("make the directory and let uid {uid} write to it"))
        })?;
        if places.iter().any(|(_, known)| *known == path) {
            let error = Error::new(ErrorKind::Config, "is named twice as a tier directory");
            return Err(error.at(path.as_os_str().as_encoded_bytes()).advise("take it out of worker.tiers once"));
        }
        places.push((spec, path));
    }
    Ok(places)
}

/// The worker whose home is in one of the directories and that does not live.
pub(crate) fn known_worker(places: &[(TierSpec, PathBuf)], cluster: ClusterId) -> Result<Option<WorkerId>> {
    for (_, directory) in places {
        for home in Home::all_in(directory)?.into_iter().filter(|h| h.cluster == cluster) {
            if home.lock()?.is_some() {
                return Ok(Some(home.worker));
            }
        }
    }
    Ok(None)
}

pub(crate) fn prepare(
    config: &StoreConfig,
    worker: WorkerId,
    spec: TierSpec,
    directory: PathBuf,
    here: &Surroundings,
    report: &mut OpenReport,
) -> Result<Prepared> {
    let home = Home::new(&directory, config.cluster, worker);
    home.create()?;
    let Some(lock) = home.lock()? else {
        let error = Error::new(ErrorKind::Busy, format!("another process is worker {worker}"));
        return Err(error.at(home.path.as_os_str().as_encoded_bytes()).advise("stop it, or give this one another id"));
    };
    let lock = set_damaged_aside(&home, lock, report)?;
    let mut root = home.root();
    let mut huge = root != home.path;
    if !huge && spec.medium == Medium::Mem && config.huge_pages == HugePages::Auto {
        match huge::prepare(&home.path) {
            Ok(own) => (root, huge) = (own, true),
            Err(reason) => report.notes.push(format!(
                "{}: no huge pages: {reason}; as root on the host: mount -t tmpfs -o huge=within_size,size=SIZE tmpfs {}",
                directory.display(),
                directory.display()
            )),
        }
    }
    neighbours::make_private(&root.join("data"))?;
    let (abilities, available) = probe::probe(&root)?;
    let others: Vec<_> = Home::all_in(&directory)?.into_iter().filter(|h| *h != home).collect();
    let mut neighbours = 0;
    for other in &others {
        neighbours += if other.lock()?.is_none() { other.promised() } else { 0 };
    }
    let mount = here.mount_of(&directory);
    let lasting = match spec.medium {
        Medium::Mem => config.lasting.unwrap_or_else(|| here.is_lasting(mount) && !(huge && here.private)),
        _ => here.is_lasting(mount),
    };
    let device = fs::metadata(&root).map_err(|e| kernel::at(e, &root))?.dev();
    Ok(Prepared { spec, directory, home, root, lock, abilities, available, lasting, huge, device, others, neighbours })
}

/// Side data whose header cannot be read says nothing about what is nowhere else: the home is kept under another name.
fn set_damaged_aside(home: &Home, lock: Flock<File>, report: &mut OpenReport) -> Result<Flock<File>> {
    let root = home.root();
    let no_index = !root.join("index").exists() && !neighbours::is_empty(&root.join("data"));
    let reason = match index::read(&root.join("index")) {
        Err(e) if e.kind() == ErrorKind::Corrupt => e.message().to_owned(),
        Err(e) if e.kind() == ErrorKind::NotFound && no_index => "it holds files but no index".into(),
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => return Ok(lock),
    };
    let aside = |n: u32| home.path.with_extension(format!("damaged-{n}"));
    let free = (1..1000).map(aside).find(|p| !p.exists()).unwrap_or_else(|| aside(1000));
    fs::rename(&home.path, &free).map_err(|e| kernel::at(e, &home.path))?;
    report.notes.push(format!("{}: {reason}; kept as {}", home.path.display(), free.display()));
    report.left.push(LeftBehind { path: free, ..home.left(0, 0, reason) });
    drop(lock);
    home.create()?;
    home.lock()?.ok_or_else(|| Error::new(ErrorKind::Busy, "another process took the worker's directory"))
}

/// The quotas of all directories, in their order.
pub(crate) fn decide(all: &[Prepared], here: &Surroundings) -> Result<Vec<u64>> {
    let limits = [cgroup::memory_limit(), cgroup::machine_memory()];
    let mut memory = limits.into_iter().flatten().min();
    let mut quotas: Vec<u64> = Vec::new();
    for prepared in all {
        let same = all.iter().zip(&quotas).filter(|(p, _)| p.device == prepared.device && !p.huge);
        let facts = facts(prepared, same.map(|(_, q)| q).sum(), memory, here);
        let quota = quota::decide(prepared.spec.quota, &facts)?;
        if prepared.spec.medium == Medium::Mem {
            memory = memory.map(|m| m.saturating_sub(quota));
        }
        quotas.push(quota);
    }
    Ok(quotas)
}

fn facts(prepared: &Prepared, ours: u64, memory: Option<u64>, here: &Surroundings) -> Facts {
    let shm = here.mount_of(&prepared.directory).is_some_and(|m| m.point == Path::new("/dev/shm"));
    let is_memory = prepared.spec.medium == Medium::Mem || matches!(prepared.abilities.kind, "tmpfs" | "ramfs");
    // Our own tmpfs gets the size of the quota; only memory limits it.
    let size = prepared.abilities.size.filter(|_| !prepared.huge);
    Facts {
        directory: prepared.directory.clone(),
        medium: prepared.spec.medium,
        size,
        available: prepared.available.saturating_add(held(&prepared.root)),
        neighbours: prepared.neighbours.saturating_add(ours),
        memory: memory.filter(|_| is_memory),
        shm,
        shared: shm && !here.container,
    }
}

/// The bytes that are ours already.
fn held(root: &Path) -> u64 {
    let files = fs::read_dir(root.join("data")).into_iter().flatten().flatten();
    let data: u64 = files.filter_map(|f| Some(f.metadata().ok()?.blocks() * 512)).sum();
    data + fs::metadata(root.join("index")).map_or(0, |m| m.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_named_twice_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let spec = |medium: &str| format!("{medium}:{}:1MB", home.path().display()).parse::<TierSpec>().unwrap();
        let error = places(&[spec("MEM"), spec("SSD")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(places(&[]).unwrap_err().to_string().contains("worker.tiers"));
    }
}
