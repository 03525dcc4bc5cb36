//! The table of nodes: what each number that the kernel uses stands for.
//!
//! Pure. A node stands for a file *and the version of it that this mount knows*. While handles of one version are open, another
//! version that was made elsewhere gets a node of its own, and the old one is *outdated*: who opens it is told to look again, and
//! its handles keep their content to the end. Without open handles the node simply goes on with the new version. What this mount
//! itself writes stays on its node.
//!
//! The number of a file's first node is the file's own, so that it is also what `stat` shows; later ones are counted from 2^63 on.
//! The root of the mount is 1. A node lives until the kernel has forgotten each of its lookups and its last handle is released.

use larder_common::{FileId, Generation, Name};
use rustc_hash::FxHashMap;

/// The kernel's number of a node.
pub(crate) type NodeId = u64;

/// The root of the mount.
pub(crate) const ROOT: NodeId = 1;
/// Where the numbers of later nodes of a file begin.
const LATER: u64 = 1 << 63;
/// More names of one file are not remembered: one is needed to write it.
const PLACES_MAX: usize = 8;

/// What is known of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) file: FileId,
    /// The version that its handles have.
    pub(crate) generation: Generation,
    /// A newer version has a node of its own.
    pub(crate) outdated: bool,
    /// This mount is changing it: every newer version is its own work.
    pub(crate) writing: bool,
    pub(crate) handles: u32,
    lookups: u64,
    /// Names that it was found under, the last one last.
    pub(crate) places: Vec<(FileId, Name)>,
}

/// What an answer of the master means for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The node stands for it.
    Same,
    /// The node stood for an older version that somebody has open.
    Outdated,
    /// There is no such node any more.
    Gone,
}

/// All nodes that the kernel knows.
#[derive(Debug)]
pub(crate) struct Table {
    nodes: FxHashMap<NodeId, Record>,
    /// The node of the newest version of each file.
    current: FxHashMap<FileId, NodeId>,
    next: u64,
}

impl Table {
    /// With nothing but the root, which is this directory.
    pub(crate) fn new(root: FileId) -> Self {
        let record = Record {
            file: root,
            generation: Generation(0),
            outdated: false,
            writing: false,
            handles: 0,
            lookups: 1,
            places: Vec::new(),
        };
        let (mut nodes, mut current) = (FxHashMap::default(), FxHashMap::default());
        nodes.insert(ROOT, record);
        current.insert(root, ROOT);
        Self { nodes, current, next: LATER }
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<&Record> {
        self.nodes.get(&node)
    }

    /// The file of a node.
    pub(crate) fn file(&self, node: NodeId) -> Option<FileId> {
        self.nodes.get(&node).map(|record| record.file)
    }

    /// The node of a file's newest version, if the kernel knows one.
    pub(crate) fn node(&self, file: FileId) -> Option<NodeId> {
        self.current.get(&file).copied()
    }

    /// All nodes, for what concerns each of them.
    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The kernel is told of this version of a file, found under this name: gives its node, and counts the lookup.
    pub(crate) fn enter(&mut self, file: FileId, generation: Generation, place: Option<(FileId, &Name)>) -> NodeId {
        let node = match self.current.get(&file).copied() {
            Some(node) if self.observe(node, generation, 0) == Seen::Same => node,
            _ => self.add(file, generation),
        };
        if let Some(record) = self.nodes.get_mut(&node) {
            record.lookups += 1;
            if let Some(place) = place {
                record.found(place);
            }
        }
        node
    }

    fn add(&mut self, file: FileId, generation: Generation) -> NodeId {
        let node = match self.nodes.contains_key(&file.0) || file.0 == ROOT {
            true => {
                self.next += 1;
                self.next
            }
            false => file.0,
        };
        let old = self.current.insert(file, node).and_then(|old| self.nodes.get(&old));
        let places = old.map(|old| old.places.clone()).unwrap_or_default();
        let record = Record { file, generation, outdated: false, writing: false, handles: 0, lookups: 0, places };
        self.nodes.insert(node, record);
        node
    }

    /// The master says that the file has this version now. `own`: so many handles are the asker's.
    pub(crate) fn observe(&mut self, node: NodeId, generation: Generation, own: u32) -> Seen {
        let Some(record) = self.nodes.get_mut(&node) else { return Seen::Gone };
        match () {
            () if record.outdated => Seen::Outdated,
            // An answer that is older than what we know says nothing.
            () if generation <= record.generation => Seen::Same,
            () if record.writing => Seen::Same,
            () if record.handles > own => {
                record.outdated = true;
                Seen::Outdated
            }
            () => {
                record.generation = generation;
                Seen::Same
            }
        }
    }

    /// Whoever opens this node must look again: what is open of it keeps its content, and new handles get another node.
    pub(crate) fn outdate(&mut self, node: NodeId) {
        if let Some(record) = self.nodes.get_mut(&node)
            && node != ROOT
        {
            record.outdated = true;
            if self.current.get(&record.file) == Some(&node) {
                self.current.remove(&record.file);
            }
        }
    }

    /// A handle is opened on this version.
    pub(crate) fn open(&mut self, node: NodeId, generation: Generation) -> Seen {
        match self.nodes.get_mut(&node) {
            None => Seen::Gone,
            Some(record) if record.outdated || record.generation != generation && !record.writing => Seen::Outdated,
            Some(record) => {
                record.handles += 1;
                Seen::Same
            }
        }
    }

    /// A handle is released.
    pub(crate) fn close(&mut self, node: NodeId) {
        if let Some(record) = self.nodes.get_mut(&node) {
            record.handles = record.handles.saturating_sub(1);
        }
        self.drop_unused(node);
    }

    /// This mount begins or ends to change the file.
    pub(crate) fn set_writing(&mut self, node: NodeId, writing: bool) {
        if let Some(record) = self.nodes.get_mut(&node) {
            record.writing = writing;
        }
    }

    /// This mount has made this version.
    pub(crate) fn wrote(&mut self, node: NodeId, generation: Generation) {
        if let Some(record) = self.nodes.get_mut(&node) {
            record.generation = record.generation.max(generation);
        }
    }

    /// The kernel has forgotten so many lookups.
    pub(crate) fn forget(&mut self, node: NodeId, lookups: u64) {
        if let Some(record) = self.nodes.get_mut(&node) {
            record.lookups = record.lookups.saturating_sub(lookups);
        }
        self.drop_unused(node);
    }

    fn drop_unused(&mut self, node: NodeId) {
        let unused = |record: &Record| record.lookups == 0 && record.handles == 0;
        if node != ROOT && self.nodes.get(&node).is_some_and(unused) {
            let Some(record) = self.nodes.remove(&node) else { return };
            if self.current.get(&record.file) == Some(&node) {
                self.current.remove(&record.file);
            }
        }
    }

    /// A name of a file is no more.
    pub(crate) fn unnamed(&mut self, file: FileId, place: (FileId, &Name)) {
        if let Some(record) = self.current.get(&file).and_then(|node| self.nodes.get_mut(node)) {
            record.places.retain(|(parent, name)| (*parent, name) != place);
        }
    }

    /// A name of a file is new.
    pub(crate) fn named(&mut self, file: FileId, place: (FileId, &Name)) {
        if let Some(record) = self.current.get(&file).and_then(|node| self.nodes.get_mut(node)) {
            record.found(place);
        }
    }
}

impl Record {
    fn found(&mut self, (parent, name): (FileId, &Name)) {
        if self.places.last().is_some_and(|last| last.0 == parent && last.1 == *name) {
            return;
        }
        self.places.retain(|place| (place.0, &place.1) != (parent, name));
        if self.places.len() == PLACES_MAX {
            self.places.remove(0);
        }
        self.places.push((parent, name.clone()));
    }
}

#[cfg(test)]
mod tests;
