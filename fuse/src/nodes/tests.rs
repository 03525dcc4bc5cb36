//! Tests of the node table: the rules one by one, and a model of what the kernel holds.

use proptest::prelude::*;

use super::*;

const FILE: FileId = FileId(50);

fn generation(number: u64) -> Generation {
    Generation(number)
}

fn table() -> Table {
    Table::new(FileId(1))
}

#[test]
fn the_first_node_of_a_file_has_its_number() {
    let mut table = table();
    assert_eq!(table.enter(FILE, generation(1), None), 50);
    assert_eq!(table.enter(FILE, generation(1), None), 50);
    assert_eq!((table.file(50), table.file(ROOT)), (Some(FILE), Some(FileId(1))));
    table.forget(50, 1);
    assert!(table.get(50).is_some());
    table.forget(50, 1);
    assert!(table.get(50).is_none() && table.node(FILE).is_none());
}

#[test]
fn a_version_made_elsewhere_gets_a_new_node_while_the_old_one_is_open() {
    let mut table = table();
    let old = table.enter(FILE, generation(1), None);
    assert_eq!(table.open(old, generation(1)), Seen::Same);
    let new = table.enter(FILE, generation(2), None);
    assert_ne!(old, new);
    assert!(table.get(old).unwrap().outdated && table.node(FILE) == Some(new));
    assert_eq!(table.open(old, generation(1)), Seen::Outdated, "an open of the old one has to look again");
    assert_eq!(table.open(new, generation(2)), Seen::Same);
    table.close(old);
    assert_eq!(table.enter(FILE, generation(2), None), new);
}

#[test]
fn without_handles_the_node_goes_on_with_the_new_version() {
    let mut table = table();
    let node = table.enter(FILE, generation(1), None);
    assert_eq!(table.enter(FILE, generation(2), None), node);
    assert_eq!(table.get(node).unwrap().generation, generation(2));
    assert_eq!(table.enter(FILE, generation(1), None), node, "an older answer");
    assert_eq!(table.get(node).unwrap().generation, generation(2));
}

#[test]
fn what_this_mount_writes_stays_on_its_node() {
    let mut table = table();
    let node = table.enter(FILE, generation(1), None);
    table.open(node, generation(1));
    table.set_writing(node, true);
    assert_eq!(table.enter(FILE, generation(2), None), node, "seen before our own commit was answered");
    table.wrote(node, generation(2));
    table.set_writing(node, false);
    assert_eq!(table.observe(node, generation(2), 0), Seen::Same);
    assert_eq!(table.observe(node, generation(3), 0), Seen::Outdated);
}

#[test]
fn a_node_with_an_open_handle_outlives_its_lookups() {
    let mut table = table();
    let node = table.enter(FILE, generation(1), None);
    table.open(node, generation(1));
    table.forget(node, 1);
    assert!(table.get(node).is_some());
    table.close(node);
    assert!(table.get(node).is_none());
}

#[test]
fn names_follow_links_renames_and_removals() {
    let mut table = table();
    let (a, b) = (Name::new("a").unwrap(), Name::new("b").unwrap());
    let node = table.enter(FILE, generation(1), Some((FileId(1), &a)));
    table.named(FILE, (FileId(1), &b));
    table.unnamed(FILE, (FileId(1), &a));
    assert_eq!(table.get(node).unwrap().places, [(FileId(1), b.clone())]);
    table.unnamed(FILE, (FileId(1), &b));
    assert!(table.get(node).unwrap().places.is_empty(), "it has no name: nothing is to be written for it");
}

#[test]
fn an_outdated_node_leaves_its_names_to_the_next() {
    let mut table = table();
    let a = Name::new("a").unwrap();
    let old = table.enter(FILE, generation(1), Some((FileId(1), &a)));
    table.open(old, generation(1));
    table.outdate(old);
    let new = table.enter(FILE, generation(1), Some((FileId(1), &a)));
    assert_ne!(old, new);
    assert_eq!(table.get(new).unwrap().places.len(), 1);
    table.forget(old, 1);
    table.close(old);
    assert_eq!(table.node(FILE), Some(new));
}

#[derive(Clone, Debug)]
enum Step {
    Lookup(u64, u64),
    Forget(usize),
    Open(usize),
    Close(usize),
    Outdate(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (40u64..44, 1u64..6).prop_map(|(file, generation)| Step::Lookup(file, generation)),
        2 => any::<usize>().prop_map(Step::Forget),
        3 => any::<usize>().prop_map(Step::Open),
        3 => any::<usize>().prop_map(Step::Close),
        1 => any::<usize>().prop_map(Step::Outdate),
    ]
}

proptest! {
    /// Nodes are there exactly as long as the kernel has lookups or handles of them, and a handle's version never changes.
    #[test]
    fn the_table_follows_the_kernel(steps in proptest::collection::vec(step(), 0..120)) {
        let mut table = table();
        let mut lookups: Vec<NodeId> = Vec::new();
        let mut handles: Vec<(NodeId, Generation)> = Vec::new();
        let pick = |at: usize, length: usize| at.checked_rem(length);
        for step in steps {
            match step {
                Step::Lookup(file, number) => {
                    let node = table.enter(FileId(file), generation(number), None);
                    prop_assert!(table.get(node).is_some_and(|record| !record.outdated && record.file == FileId(file)));
                    lookups.push(node);
                }
                Step::Forget(at) => if let Some(at) = pick(at, lookups.len()) {
                    table.forget(lookups.swap_remove(at), 1);
                },
                Step::Open(at) => if let Some(at) = pick(at, lookups.len()) {
                    let node = lookups[at];
                    let version = table.get(node).unwrap().generation;
                    if table.open(node, version) == Seen::Same {
                        handles.push((node, version));
                    }
                },
                Step::Close(at) => if let Some(at) = pick(at, handles.len()) {
                    table.close(handles.swap_remove(at).0);
                },
                Step::Outdate(at) => if let Some(at) = pick(at, lookups.len()) {
                    table.outdate(lookups[at]);
                },
            }
            for (node, version) in &handles {
                prop_assert_eq!(table.get(*node).map(|record| record.generation), Some(*version));
            }
            let mut expected: Vec<NodeId> = lookups.iter().copied().chain(handles.iter().map(|h| h.0)).collect();
            expected.push(ROOT);
            expected.sort_unstable();
            expected.dedup();
            let mut ids = table.ids();
            ids.sort_unstable();
            prop_assert_eq!(ids, expected);
        }
    }
}
