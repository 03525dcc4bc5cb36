//! A namespace in memory: what the state does with loads, refreshes and outcomes, as far as it matters here.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use larder_common::{Error, ErrorKind, FileId, FileKind, Fingerprint, MountId, Name, Result};
use parking_lot::Mutex;

use super::super::{
    Boxed,
    ledger::{Known, Ledger, MountRow, Taken, known_at},
    naming::split,
};
use crate::state::{
    Command, Covered, Done, IntentId, Look, Operation, Outcome, Relative, Seen, UnderAction, UnderResult,
};

#[derive(Clone, Debug)]
struct Entry {
    known: Known,
    parent: FileId,
    name: Vec<u8>,
}

#[derive(Debug, Default)]
struct Inside {
    entries: BTreeMap<FileId, Entry>,
    intents: BTreeMap<IntentId, UnderAction>,
    results: BTreeMap<IntentId, UnderResult>,
    next: u64,
    told: Vec<String>,
}

/// Does what a worker does for a patch.
pub(super) type Patcher = Arc<dyn Fn(Operation, bool) -> Boxed<'static, Result<Fingerprint>> + Send + Sync>;

/// The namespace.
pub(super) struct Namespace {
    row: MountRow,
    inside: Mutex<Inside>,
    patcher: Mutex<Option<Patcher>>,
}

impl std::fmt::Debug for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Namespace").field("row", &self.row).finish_non_exhaustive()
    }
}

impl Inside {
    fn child(&self, directory: FileId, name: &[u8]) -> Option<FileId> {
        self.entries
            .values()
            .find(|entry| entry.parent == directory && entry.name == name)
            .map(|entry| entry.known.file)
    }

    fn find(&self, path: &[u8]) -> Option<FileId> {
        let names = path.split(|b| *b == b'/').filter(|name| !name.is_empty());
        names.into_iter().try_fold(FileId::ROOT, |at, name| self.child(at, name))
    }

    fn add(&mut self, path: &[u8], directory: bool, print: Option<Fingerprint>) {
        let (above, name) = split(path).unwrap();
        let parent = self.find(above).unwrap();
        let file = self.child(parent, name).unwrap_or_else(|| {
            self.next += 1;
            FileId(self.next)
        });
        let known = Known {
            file,
            directory,
            mount_point: false,
            stored: true,
            fingerprint: print,
            loaded: directory,
            times: Default::default(),
        };
        self.entries.insert(file, Entry { known, parent, name: name.to_vec() });
    }

    fn drop_tree(&mut self, file: FileId) {
        let below: Vec<FileId> =
            self.entries.values().filter(|entry| entry.parent == file).map(|entry| entry.known.file).collect();
        below.into_iter().for_each(|child| self.drop_tree(child));
        self.entries.remove(&file);
    }

    fn drop_path(&mut self, path: &[u8]) {
        if let Some(file) = self.find(path) {
            self.drop_tree(file);
        }
    }

    fn see(&mut self, directory: FileId, seen: &Seen) {
        let file = self.child(directory, seen.name.as_bytes());
        let same = file.filter(|file| self.entries[file].known.directory == seen.kind.is_directory());
        if same.is_none()
            && let Some(file) = file
        {
            self.drop_tree(file);
        }
        let loaded = same.is_some_and(|file| self.entries[&file].known.loaded);
        let file = same.unwrap_or_else(|| {
            self.next += 1;
            FileId(self.next)
        });
        let times = (seen.times.modified, seen.times.changed);
        let (is_directory, fingerprint) = (seen.kind == FileKind::Directory, Some(seen.fingerprint.clone()));
        let known =
            Known { file, directory: is_directory, mount_point: false, stored: true, fingerprint, loaded, times };
        self.told.push(format!("saw {}", seen.name));
        self.entries.insert(file, Entry { known, parent: directory, name: seen.name.as_bytes().to_vec() });
    }

    fn load(&mut self, load: &crate::state::LoadChildren) {
        if let Covered::Range { after, through } = &load.covered {
            let gone: Vec<FileId> = self
                .entries
                .values()
                .filter(|entry| {
                    let inside = after.as_ref().is_none_or(|after| entry.name.as_slice() > after.as_bytes())
                        && through.as_ref().is_none_or(|through| entry.name.as_slice() <= through.as_bytes());
                    let shown = load.entries.iter().any(|seen| seen.name.as_bytes() == entry.name);
                    entry.parent == load.directory
                        && entry.known.file != FileId::ROOT
                        && entry.known.stored
                        && inside
                        && !shown
                })
                .map(|entry| entry.known.file)
                .collect();
            for file in gone {
                self.told.push(format!("gone {}", String::from_utf8_lossy(&self.entries[&file].name)));
                self.drop_tree(file);
            }
        }
        load.entries.iter().for_each(|seen| self.see(load.directory, seen));
        if load.complete
            && let Some(entry) = self.entries.get_mut(&load.directory)
        {
            entry.known.loaded = true;
        }
    }

    fn apply(&mut self, action: &UnderAction, done: &Done) {
        for directory in &action.directories {
            self.add(&directory.path.0, true, done.fingerprint.clone());
        }
        match &action.operation {
            Operation::Publish { target, .. }
            | Operation::Symlink { target, .. }
            | Operation::MakeSpecial { target, .. } => {
                self.add(&target.0, false, done.fingerprint.clone());
                if let Some(aside) = &done.aside {
                    let (above, _) = split(&target.0).unwrap();
                    let above = self.find(above).unwrap();
                    self.see(above, aside);
                }
            }
            Operation::Link { to, .. } => self.add(&to.0, false, done.fingerprint.clone()),
            Operation::Remove { target, .. } => self.drop_path(&target.0),
            Operation::Rename { from, to, .. } => {
                self.drop_path(&to.0);
                self.relocate(&from.0, &to.0, done.fingerprint.clone());
            }
            Operation::SetAttributes { target, .. } | Operation::SetXattr { target, .. } => {
                if let (Some(file), Some(print)) = (self.find(&target.0), &done.fingerprint) {
                    self.entries.get_mut(&file).unwrap().known.fingerprint = Some(print.clone());
                }
            }
            Operation::Exchange { from, to } => {
                let (one, other) = (self.find(&from.0).unwrap(), self.find(&to.0).unwrap());
                let (a, b) = (self.entries[&one].clone(), self.entries[&other].clone());
                self.entries.insert(one, Entry { known: a.known, ..b.clone() });
                self.entries.insert(other, Entry { known: b.known, parent: a.parent, name: a.name });
            }
            Operation::Patch { target, .. } => {
                let file = self.find(&target.0).unwrap();
                self.entries.get_mut(&file).unwrap().known.fingerprint = done.fingerprint.clone();
            }
            Operation::MakeDirectories => {}
        }
    }

    fn relocate(&mut self, from: &[u8], to: &[u8], print: Option<Fingerprint>) {
        let (above, name) = split(to).unwrap();
        let (parent, file) = (self.find(above).unwrap(), self.find(from).unwrap());
        let entry = self.entries.get_mut(&file).unwrap();
        (entry.parent, entry.name, entry.known.fingerprint) = (parent, name.to_vec(), print);
    }
}

impl Namespace {
    pub(super) fn new(row: MountRow) -> Arc<Self> {
        let known = Known {
            file: FileId::ROOT,
            directory: true,
            mount_point: true,
            stored: true,
            fingerprint: None,
            loaded: false,
            times: Default::default(),
        };
        let root = Entry { known, parent: FileId(0), name: Vec::new() };
        let inside = Inside { entries: BTreeMap::from([(FileId::ROOT, root)]), next: 1, ..Inside::default() };
        Arc::new(Self { row, inside: Mutex::new(inside), patcher: Mutex::default() })
    }

    /// Has patches carried out by this.
    pub(super) fn patch_by(&self, patcher: Patcher) {
        *self.patcher.lock() = Some(patcher);
    }

    /// Records an intent.
    pub(super) fn open(&self, action: &UnderAction) -> IntentId {
        let intent = IntentId(super::NEXT.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
        self.inside.lock().intents.insert(intent, action.clone());
        intent
    }

    pub(super) fn at(&self, path: &str) -> Option<Known> {
        known_at(self, &self.row, &Relative(path.as_bytes().to_vec()))
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.at(path).is_some()
    }

    /// What was said of what is in the store, since the last time.
    pub(super) fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.inside.lock().told)
    }

    pub(super) fn result(&self, intent: IntentId) -> Option<UnderResult> {
        self.inside.lock().results.get(&intent).cloned()
    }

    pub(super) fn intents(&self) -> usize {
        self.inside.lock().intents.len()
    }
}

impl Ledger for Namespace {
    fn mounts(&self) -> Vec<MountRow> {
        vec![self.row.clone()]
    }

    fn place(&self, file: FileId) -> Option<(MountId, Relative)> {
        let inside = self.inside.lock();
        let mut names = Vec::new();
        let mut at = file;
        while at != FileId::ROOT {
            let entry = inside.entries.get(&at)?;
            names.push(entry.name.clone());
            at = entry.parent;
        }
        names.reverse();
        Some((MountId::ROOT, Relative(names.join(&b'/'))))
    }

    fn places(&self, file: FileId) -> Vec<(MountId, Relative)> {
        self.place(file).into_iter().collect()
    }

    fn known(&self, file: FileId) -> Option<Known> {
        self.inside.lock().entries.get(&file).map(|entry| entry.known.clone())
    }

    fn child(&self, directory: FileId, name: &[u8]) -> Option<Known> {
        let inside = self.inside.lock();
        inside.child(directory, name).map(|file| inside.entries[&file].known.clone())
    }

    fn children(&self, directory: FileId, after: Option<&Name>, limit: usize) -> Vec<(Name, Known)> {
        let inside = self.inside.lock();
        let children = inside.entries.values().filter(|entry| entry.parent == directory && !entry.name.is_empty());
        let named = children.map(|entry| (Name::new(&entry.name).unwrap(), entry.known.clone()));
        let mut all: Vec<_> = named.filter(|(name, _)| after.is_none_or(|after| name > after)).collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all.truncate(limit);
        all
    }

    fn open_intents(&self) -> Vec<(IntentId, UnderAction)> {
        self.inside.lock().intents.iter().map(|(intent, action)| (*intent, action.clone())).collect()
    }

    fn has_open_intents(&self) -> bool {
        self.intents() > 0
    }

    fn is_open(&self, intent: IntentId) -> bool {
        self.inside.lock().intents.contains_key(&intent)
    }

    fn temporaries(&self, _mount: MountId) -> HashSet<String> {
        HashSet::new()
    }

    fn is_held(&self, _file: FileId) -> bool {
        false
    }

    fn orphans(&self, _mount: MountId) -> Vec<String> {
        Vec::new()
    }

    fn take(&self, command: Command, allowed: &dyn Fn() -> bool) -> Result<Taken> {
        let mut inside = self.inside.lock();
        if !allowed() {
            return Ok(Taken::Outdated);
        }
        match &command {
            Command::LoadChildren(load) => inside.load(load),
            Command::Refresh(refresh) => match &refresh.seen {
                Look::Gone => {
                    let name = inside.entries.get(&refresh.file).map(|entry| entry.name.clone()).unwrap_or_default();
                    inside.told.push(format!("gone {}", String::from_utf8_lossy(&name)));
                    inside.drop_tree(refresh.file);
                }
                Look::Changed(_) | Look::Same => {}
            },
            other => panic!("{other:?}"),
        }
        Ok(Taken::Done(Outcome::Loaded { added: 0, changed: 0, gone: 0, conflicts: Vec::new() }))
    }

    fn patch(&self, _: MountId, patch: Operation, sync: bool, _: Instant) -> Boxed<'_, Result<Fingerprint>> {
        let patcher = self.patcher.lock().clone().expect("the test patches");
        patcher(patch, sync)
    }

    fn conclude(&self, intent: IntentId, result: &UnderResult) -> Result<()> {
        let mut inside = self.inside.lock();
        let action = inside.intents.remove(&intent).expect("an intent has one outcome");
        if let UnderResult::Done(done) = result {
            inside.apply(&action, done);
        }
        inside.results.insert(intent, result.clone());
        Ok(())
    }

    fn settled(&self, intent: IntentId, deadline: Instant) -> Boxed<'_, Result<()>> {
        Box::pin(async move {
            while self.is_open(intent) {
                if Instant::now() > deadline {
                    return Err(Error::new(ErrorKind::Deadline, "still open"));
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok(())
        })
    }
}
