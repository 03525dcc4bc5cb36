//! The cache against answers and invalidations in every order, as a table and as a model.

use larder_common::{BlockSize, FileKind, Generation, MountId, Persistence, Times, Timestamp};
use proptest::prelude::*;

use super::*;

fn status(id: u64) -> Arc<FileStatus> {
    Arc::new(FileStatus {
        id: FileId(id),
        name: None,
        kind: FileKind::File,
        length: 5,
        mode: 0o644,
        uid: 0,
        gid: 0,
        links: 1,
        times: Times::default(),
        created: Timestamp(0),
        generation: Generation(9),
        block_size: BlockSize::DEFAULT,
        complete: true,
        persistence: Persistence::Persisted,
        mount: MountId::ROOT,
        mount_point: false,
        pinned: false,
        replication_min: 0,
        ttl: None,
        in_cache_percent: 0,
    })
}

fn path(id: u64) -> FsPath {
    FsPath::parse(format!("/f{id}")).unwrap()
}

fn trusted() -> Arc<Trust> {
    let trust = crate::master::tests_trust();
    trust.extend(Instant::now(), Duration::from_secs(1000));
    trust
}

const BY_SESSION: v1::Validity = v1::Validity { session: true, ms: 0 };

fn put(cache: &Metadata, id: u64, parent: u64, position: u64, validity: v1::Validity) {
    let terms = Terms { position, parent: FileId(parent), validity, epoch: cache.epoch() };
    cache.put(path(id), Known { status: status(id), content: None }, terms);
}

fn has(cache: &Metadata, id: u64) -> bool {
    cache.get(path(id).as_bytes()).is_some()
}

fn invalidate(cache: &Metadata, position: u64, directories: &[u64], files: &[u64]) {
    let (directories, files) = (directories.to_vec(), files.to_vec());
    cache.invalidate(&v1::Invalidations { position, directories, files, ..v1::Invalidations::default() });
}

#[test]
fn what_an_invalidation_names_is_gone() {
    let cache = Metadata::new(100, trusted());
    (10..14).for_each(|id| put(&cache, id, id % 2, 5, BY_SESSION));
    invalidate(&cache, 6, &[1], &[12]);
    assert_eq!((10..14).map(|id| has(&cache, id)).collect::<Vec<_>>(), [true, false, false, false]);
}

#[test]
fn an_answer_older_than_an_invalidation_is_not_kept() {
    let cache = Metadata::new(100, trusted());
    invalidate(&cache, 6, &[1], &[]);
    put(&cache, 10, 1, 5, BY_SESSION);
    assert!(!has(&cache, 10));
    put(&cache, 10, 1, 6, BY_SESSION);
    assert!(has(&cache, 10), "as new as the change");
}

#[test]
fn answers_of_an_earlier_connection_are_not_kept() {
    let cache = Metadata::new(100, trusted());
    let terms = Terms { position: 5, parent: FileId(1), validity: BY_SESSION, epoch: cache.epoch() };
    put(&cache, 11, 1, 5, BY_SESSION);
    cache.drop_everything();
    cache.put(path(10), Known { status: status(10), content: None }, terms);
    assert!(!has(&cache, 10) && !has(&cache, 11));
}

#[test]
fn nothing_is_used_without_trust_or_after_its_time() {
    let trust = trusted();
    let cache = Metadata::new(100, Arc::clone(&trust));
    put(&cache, 10, 1, 5, BY_SESSION);
    put(&cache, 11, 1, 5, v1::Validity { session: false, ms: 100_000 });
    put(&cache, 12, 1, 5, v1::Validity { session: false, ms: 0 });
    trust.end();
    assert!(!has(&cache, 10), "the session is silent");
    assert!(has(&cache, 11), "its own time lasts");
    assert!(!has(&cache, 12), "not at all");
    assert!(!{
        let none = Metadata::new(0, trusted());
        put(&none, 10, 1, 5, BY_SESSION);
        has(&none, 10)
    });
}

#[test]
fn it_is_bounded() {
    let cache = Metadata::new(64, trusted());
    (0..10_000).for_each(|id| put(&cache, id, 1, 5, BY_SESSION));
    let kept = (0..10_000).filter(|id| has(&cache, *id)).count();
    assert!((32..=64 + SHARDS).contains(&kept), "{kept}");
    assert!(cache.stamps.lock().of.len() < 4096, "stamps nobody uses are swept");
}

fn put_child(cache: &Metadata, directory: u64, name: &str, id: u64, position: u64) -> bool {
    let terms = Terms { position, parent: FileId(directory), validity: BY_SESSION, epoch: cache.epoch() };
    let key = Key::child(FileId(directory), &Name::new(name).unwrap());
    cache.keep(key, Known { status: status(id), content: None }, terms)
}

fn has_child(cache: &Metadata, directory: u64, name: &str) -> bool {
    cache.kept(&Key::child(FileId(directory), &Name::new(name).unwrap())).is_some()
}

fn names(position: u64, names: &[(u64, &str)]) -> v1::Invalidations {
    let name = |(parent, name): &(u64, &str)| v1::Child { parent: *parent, name: name.to_string().into() };
    v1::Invalidations { position, names: names.iter().map(name).collect(), ..v1::Invalidations::default() }
}

#[test]
fn a_name_that_changes_leaves_its_neighbours() {
    let cache = Metadata::new(100, trusted());
    put(&cache, 12, 1, 5, BY_SESSION);
    assert!(put_child(&cache, 1, "a", 10, 5) && put_child(&cache, 1, "b", 11, 5));
    cache.invalidate(&names(6, &[(1, "a")]));
    assert!(!has_child(&cache, 1, "a") && has_child(&cache, 1, "b"));
    assert!(!has(&cache, 12), "paths in the directory are told apart by the directory only");
    assert!(!put_child(&cache, 1, "a", 10, 5), "an answer from before the change");
    assert!(put_child(&cache, 1, "a", 13, 6));
    invalidate(&cache, 7, &[1], &[]);
    assert!(!has_child(&cache, 1, "a") && !has_child(&cache, 1, "b"), "any name in it");
}

#[test]
fn attributes_of_a_directory_change_without_its_names() {
    let cache = Metadata::new(100, trusted());
    assert!(put_child(&cache, 1, "a", 10, 5));
    let terms = Terms { position: 5, parent: FileId(1), validity: BY_SESSION, epoch: cache.epoch() };
    assert!(cache.keep(Key::node(FileId(1)), Known { status: status(1), content: None }, terms));
    invalidate(&cache, 6, &[], &[1]);
    assert!(has_child(&cache, 1, "a"));
    assert!(cache.kept(&Key::node(FileId(1))).is_none());
    assert!(!cache.keep(Key::node(FileId(1)), Known { status: status(1), content: None }, terms));
}

#[test]
fn the_rename_of_a_directory_outdates_paths_and_no_nodes() {
    let cache = Metadata::new(100, trusted());
    put(&cache, 10, 1, 5, BY_SESSION);
    assert!(put_child(&cache, 1, "a", 10, 5));
    cache.invalidate(&v1::Invalidations { position: 6, moved: true, ..v1::Invalidations::default() });
    assert!(!has(&cache, 10) && has_child(&cache, 1, "a"));
    put(&cache, 10, 1, 5, BY_SESSION);
    assert!(!has(&cache, 10), "an answer from before the rename");
    put(&cache, 10, 1, 6, BY_SESSION);
    assert!(has(&cache, 10));
}

#[derive(Clone, Debug)]
enum Step {
    Put { id: u64, parent: u64, position: u64 },
    Invalidate { directories: Vec<u64>, files: Vec<u64> },
    Everything,
    Forget(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let ids = || proptest::collection::vec(0u64..6, 0..3);
    prop_oneof![
        6 => (0u64..6, 0u64..3, 0u64..4).prop_map(|(id, parent, position)| Step::Put { id, parent: 100 + parent, position }),
        2 => (ids(), ids()).prop_map(|(d, files)| Step::Invalidate { directories: d.iter().map(|d| 100 + d % 3).collect(), files }),
        1 => Just(Step::Everything),
        1 => (0u64..6).prop_map(Step::Forget),
    ]
}

proptest! {
    /// An entry is there if and only if nothing newer than it has named it.
    #[test]
    fn it_behaves_like_a_list_of_events(steps in proptest::collection::vec(step(), 0..60)) {
        let cache = Metadata::new(1000, trusted());
        let mut model: FxHashMap<u64, (u64, u64)> = FxHashMap::default();
        let (mut now, mut newest) = (10, FxHashMap::<u64, u64>::default());
        for step in steps {
            match step {
                Step::Put { id, parent, position } => {
                    let position = now - position;
                    put(&cache, id, parent, position, BY_SESSION);
                    if [id, parent].iter().all(|id| newest.get(id).copied().unwrap_or(0) <= position) {
                        model.insert(id, (parent, position));
                    }
                }
                Step::Invalidate { directories, files } => {
                    now += 1;
                    invalidate(&cache, now, &directories, &files);
                    model.retain(|id, (parent, _)| !files.contains(id) && !directories.contains(parent));
                    directories.iter().chain(&files).for_each(|id| { newest.insert(*id, now); });
                }
                Step::Everything => {
                    now += 1;
                    cache.invalidate(&v1::Invalidations { everything: true, position: now, ..Default::default() });
                    model.clear();
                    newest = (0..6).chain(100..103).map(|id| (id, now)).collect();
                }
                Step::Forget(id) => {
                    cache.forget(path(id).as_bytes());
                    model.remove(&id);
                }
            }
            for id in 0..6 {
                prop_assert_eq!(has(&cache, id), model.contains_key(&id), "{}", id);
            }
        }
    }
}
