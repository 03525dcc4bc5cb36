//! The tree against a naive model, what it takes in memory, and that churn does not make it grow.

use std::{collections::BTreeMap, ops::Bound};

use larder_common::{BlockSize, ErrorKind, FileId, FileKind, Fingerprint, Generation, Persistence, Times, Timestamp};
use proptest::prelude::*;

use super::{Flag, InodeTree, NewInode};

fn inode(id: u64, kind: FileKind) -> NewInode {
    let time = Timestamp(1_700_000_000_000_000_000 + id as i64);
    NewInode {
        id: FileId(id),
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        length: 0,
        times: Times { accessed: time, modified: time, changed: time },
        created: time,
        generation: Generation(id),
        block_size: BlockSize::DEFAULT,
        persistence: Persistence::NotPersisted,
        complete: true,
        stored: false,
        loaded: true,
        mount_point: false,
        fingerprint: None,
    }
}

fn empty() -> InodeTree {
    InodeTree::new(&inode(1, FileKind::Directory))
}

/// Names as a map from (directory, name) to inode; nothing else.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    names: BTreeMap<(u64, Vec<u8>), u64>,
    directories: BTreeMap<u64, bool>,
}

impl Model {
    fn new() -> Self {
        Self { names: BTreeMap::new(), directories: [(1, true)].into() }
    }

    fn is_directory(&self, id: u64) -> bool {
        self.directories.get(&id) == Some(&true)
    }

    fn children(&self, id: u64) -> Vec<(Vec<u8>, u64)> {
        let all = self.names.iter().filter(|((parent, _), _)| *parent == id);
        all.map(|((_, name), child)| (name.clone(), *child)).collect()
    }

    fn contains(&self, above: u64, id: u64) -> bool {
        above == id
            || self.children(above).iter().any(|(_, child)| self.is_directory(*child) && self.contains(*child, id))
    }

    fn links(&self, id: u64) -> usize {
        self.names.values().filter(|child| **child == id).count()
    }

    fn drop_below(&mut self, id: u64) {
        for (name, child) in self.children(id) {
            self.names.remove(&(id, name));
            self.gone(child);
        }
    }

    fn gone(&mut self, id: u64) {
        if self.is_directory(id) {
            self.drop_below(id);
            self.directories.remove(&id);
        } else if self.links(id) == 0 {
            self.directories.remove(&id);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Make(usize, u8, bool),
    Link(usize, usize, u8),
    Unlink(usize, u8),
    Rename(usize, u8, usize, u8),
    Exchange(usize, u8, usize, u8),
    Freeze,
    Reclaim(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let (d, n) = (0usize..12, 0u8..14);
    prop_oneof![
        6 => (d.clone(), n.clone(), any::<bool>()).prop_map(|(d, n, dir)| Step::Make(d, n, dir)),
        2 => (0usize..40, d.clone(), n.clone()).prop_map(|(f, d, n)| Step::Link(f, d, n)),
        2 => (d.clone(), n.clone()).prop_map(|(d, n)| Step::Unlink(d, n)),
        3 => (d.clone(), n.clone(), d.clone(), n.clone()).prop_map(|(d, n, e, m)| Step::Rename(d, n, e, m)),
        1 => (d.clone(), n.clone(), d, n).prop_map(|(d, n, e, m)| Step::Exchange(d, n, e, m)),
        1 => Just(Step::Freeze),
        1 => (0u32..6).prop_map(Step::Reclaim),
    ]
}

/// Names of very different lengths, some with bytes that are no text.
fn name(number: u8) -> Vec<u8> {
    match number % 4 {
        0 => vec![b'a' + number],
        1 => vec![0xff, number],
        2 => vec![b'n'; 255 - usize::from(number)],
        _ => format!("name-{number}").into_bytes(),
    }
}

fn pick(model: &Model, index: usize, directory: bool) -> u64 {
    let all: Vec<u64> = model.directories.iter().filter(|(_, dir)| **dir == directory).map(|(id, _)| *id).collect();
    all.get(index % all.len().max(1)).copied().unwrap_or(0)
}

fn run(tree: &mut InodeTree, model: &mut Model, step: &Step, next: u64) {
    match step {
        Step::Make(directory, n, is_directory) => {
            let parent = pick(model, *directory, true);
            let kind = if *is_directory { FileKind::Directory } else { FileKind::File };
            let free = !model.names.contains_key(&(parent, name(*n)));
            assert_eq!(tree.insert(FileId(parent), &name(*n), &inode(next, kind)).is_ok(), free);
            if free {
                model.names.insert((parent, name(*n)), next);
                model.directories.insert(next, *is_directory);
            }
        }
        Step::Link(file, directory, n) => {
            let (file, parent) = (pick(model, *file, false), pick(model, *directory, true));
            let fine = file != 0 && !model.names.contains_key(&(parent, name(*n)));
            assert_eq!(tree.link(FileId(file), FileId(parent), &name(*n)).is_ok(), fine);
            if fine {
                model.names.insert((parent, name(*n)), file);
            }
        }
        Step::Unlink(directory, n) => {
            let parent = pick(model, *directory, true);
            let child = model.names.remove(&(parent, name(*n)));
            let removed = tree.unlink(FileId(parent), &name(*n)).ok();
            assert_eq!(removed.map(|removed| removed.id.0), child);
            if let (Some(removed), Some(child)) = (removed, child) {
                let last = model.is_directory(child) || model.links(child) == 0;
                assert!(
                    removed.last == last || tree.has_detached(),
                    "a name in a removed tree counts until it is freed"
                );
                model.gone(child);
                tree.free(removed.id);
            }
        }
        Step::Rename(directory, n, to, m) => rename(tree, model, (*directory, *n), (*to, *m)),
        Step::Exchange(directory, n, to, m) => exchange(tree, model, (*directory, *n), (*to, *m)),
        Step::Freeze => {}
        Step::Reclaim(budget) => drop(tree.reclaim(*budget, |_| false)),
    }
}

fn rename(tree: &mut InodeTree, model: &mut Model, from: (usize, u8), to: (usize, u8)) {
    let (from, to) = ((pick(model, from.0, true), name(from.1)), (pick(model, to.0, true), name(to.1)));
    let result = tree.rename(FileId(from.0), &from.1, FileId(to.0), &to.1);
    let expected = match model.names.get(&from) {
        None => Err(ErrorKind::NotFound),
        Some(child) if model.is_directory(*child) && model.contains(*child, to.0) => Err(ErrorKind::Invalid),
        Some(_) if model.names.contains_key(&to) => Err(ErrorKind::AlreadyExists),
        Some(_) => Ok(()),
    };
    assert_eq!(result, expected);
    if result.is_ok() {
        let child = model.names.remove(&from).unwrap();
        model.names.insert(to, child);
    }
}

fn exchange(tree: &mut InodeTree, model: &mut Model, from: (usize, u8), to: (usize, u8)) {
    let (from, to) = ((pick(model, from.0, true), name(from.1)), (pick(model, to.0, true), name(to.1)));
    let result = tree.exchange(FileId(from.0), &from.1, FileId(to.0), &to.1);
    let (one, other) = (model.names.get(&from).copied(), model.names.get(&to).copied());
    let (Some(one), Some(other)) = (one, other) else {
        return assert_eq!(result, Err(ErrorKind::NotFound));
    };
    let loops = |id: u64, at: u64| model.is_directory(id) && model.contains(id, at);
    assert_eq!(result.is_ok(), !loops(one, to.0) && !loops(other, from.0));
    if result.is_ok() {
        model.names.insert(to, one);
        model.names.insert(from, other);
    }
}

fn compare(tree: &InodeTree, model: &Model) {
    for (id, is_directory) in &model.directories {
        let inode = tree.attached(FileId(*id)).expect("what the model has is in the tree");
        assert_eq!(inode.is_directory(), *is_directory);
        let children = model.children(*id);
        let listed: Vec<(Vec<u8>, u64)> =
            tree.list(FileId(*id), Bound::Unbounded).map(|entry| (entry.name.to_vec(), entry.inode.id().0)).collect();
        assert_eq!(listed, children);
        assert_eq!(tree.entries(inode) as usize, children.len());
        let subdirectories = children.iter().filter(|(_, child)| model.is_directory(*child)).count();
        let links = if *is_directory { 2 + subdirectories } else { model.links(*id) };
        assert!(tree.links(inode) as usize == links || tree.has_detached() && tree.links(inode) as usize > links);
        for (at, (name, child)) in children.iter().enumerate() {
            assert_eq!(tree.child(FileId(*id), name).map(|inode| inode.id().0), Some(*child));
            let page: Vec<u64> =
                tree.list(FileId(*id), Bound::Excluded(name)).take(2).map(|entry| entry.inode.id().0).collect();
            let expected: Vec<u64> = children.iter().skip(at + 1).take(2).map(|(_, child)| *child).collect();
            assert_eq!(page, expected);
        }
        if !*is_directory {
            let names = tree.names(FileId(*id)).into_iter();
            assert_eq!(names.filter(|(parent, _)| tree.attached(*parent).is_some()).count(), model.links(*id));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn it_does_what_the_model_does(steps in proptest::collection::vec(step(), 0..160)) {
        let (mut tree, mut model) = (empty(), Model::new());
        let mut frozen = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            run(&mut tree, &mut model, step, index as u64 + 2);
            if matches!(step, Step::Freeze) {
                frozen.push((tree.clone(), model.clone()));
            }
        }
        compare(&tree, &model);
        frozen.iter().for_each(|(tree, model)| compare(tree, model));
        while tree.has_detached() {
            tree.reclaim(3, |_| false);
        }
        prop_assert_eq!(tree.len(), model.directories.len(), "everything removed has been freed");
        compare(&tree, &model);
    }
}

#[test]
fn a_fingerprint_stays_what_it_was_when_the_inode_changes() {
    let mut tree = empty();
    tree.insert(FileId::ROOT, b"f", &inode(2, FileKind::File)).unwrap();
    let modified = tree.get(FileId(2)).unwrap().times().modified;
    let short =
        Fingerprint { inode: 7, size: 0, modified, changed: Timestamp(3), born: Timestamp(4), etag: String::new() };
    let long = Fingerprint { etag: "e".repeat(2000), ..short.clone() };
    for print in [&short, &long, &short] {
        assert!(tree.set_fingerprint(FileId(2), Some(print)));
        assert_eq!(tree.fingerprint(tree.get(FileId(2)).unwrap()).as_ref(), Some(print));
    }
    tree.update(FileId(2), |inode| inode.set_content(Generation(9), 100));
    assert_eq!(tree.fingerprint(tree.get(FileId(2)).unwrap()), Some(short));
    tree.set_fingerprint(FileId(2), None);
    assert_eq!(tree.fingerprint(tree.get(FileId(2)).unwrap()), None);
}

#[test]
fn side_tables_go_with_their_inode() {
    let mut tree = empty();
    tree.insert(FileId::ROOT, b"l", &inode(2, FileKind::Symlink(b"to".to_vec()))).unwrap();
    tree.set_xattr(FileId(2), b"user.b", Some(b"1"));
    tree.set_xattr(FileId(2), b"user.a", Some(b"2"));
    tree.set_xattr(FileId(2), b"user.b", None);
    assert_eq!(tree.xattrs(FileId(2)), [(b"user.a".to_vec(), b"2".to_vec())]);
    assert_eq!(tree.file_kind(tree.get(FileId(2)).unwrap()), FileKind::Symlink(b"to".to_vec()));
    assert!(tree.free(FileId(2)).is_none(), "it still has a name");
    tree.unlink(FileId::ROOT, b"l").unwrap();
    assert!(tree.free(FileId(2)).is_some());
    tree.insert(FileId::ROOT, b"f", &inode(3, FileKind::File)).unwrap();
    assert!(tree.xattrs(FileId(3)).is_empty(), "the slot is used again, the attributes are not");
    assert!(tree.get(FileId(3)).unwrap().is(Flag::Complete));
}

fn filled(directories: u64, files: u64) -> InodeTree {
    let mut tree = empty();
    for directory in 0..directories {
        let id = 2 + directory * (files + 1);
        tree.insert(FileId::ROOT, format!("dir-{directory:04}").as_bytes(), &inode(id, FileKind::Directory)).unwrap();
        for file in 1..=files {
            let new = inode(id + file, FileKind::File);
            let modified = new.times.modified;
            let print =
                Fingerprint { inode: id + file, modified, changed: modified, born: modified, ..Fingerprint::default() };
            let new = NewInode { fingerprint: Some(print), stored: true, ..new };
            tree.insert(FileId(id), format!("part-{file:05}.parquet").as_bytes(), &new).unwrap();
        }
    }
    tree
}

#[test]
fn a_file_takes_at_most_150_bytes() {
    let directories = if cfg!(debug_assertions) { 100 } else { 1000 };
    let tree = filled(directories, 1000);
    let each = tree.bytes() as f64 / tree.len() as f64;
    println!("{} inodes, {} bytes, {each:.1} bytes each", tree.len(), tree.bytes());
    assert!(each <= 150.0, "{each} bytes");
}

#[test]
fn delete_and_create_do_not_grow_it() {
    let mut tree = filled(4, 2000);
    let (before, mut next) = (tree.bytes(), 1_000_000);
    for round in 0..10u64 {
        let directory = FileId(2 + round % 4 * 2001);
        let names: Vec<Vec<u8>> = tree.list(directory, Bound::Unbounded).map(|entry| entry.name.to_vec()).collect();
        for name in names {
            let id = tree.unlink(directory, &name).unwrap().id;
            tree.free(id).unwrap();
            next += 1;
            let name = format!("other-{next:0width$}", width = (next % 23) as usize);
            tree.insert(directory, name.as_bytes(), &inode(next, FileKind::File)).unwrap();
        }
    }
    assert!(tree.bytes() < before * 5 / 4, "{} grew to {}", before, tree.bytes());
}
