//! Random histories against a model of the books: never over a quota, nothing lost that is nowhere else, and every
//! byte that is read is right.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Fill { file: u64, index: u32, persisted: bool },
    GiveUp { file: u64, index: u32 },
    Hold { file: u64, index: u32 },
    Release,
    Lease { file: u64 },
    Pin { file: u64, on: bool },
    Persist { file: u64 },
    Free { file: u64, everything: bool },
    Promote { file: u64, index: u32 },
    Reclaim,
    Restart,
}

const FILES: u64 = 6;
const LENGTH: u64 = 2 * MIB + 4097;

fn step() -> impl Strategy<Value = Step> {
    let at = || (0..FILES, 0u32..3);
    prop_oneof![
        8 => (at(), any::<bool>()).prop_map(|((file, index), persisted)| Step::Fill { file, index, persisted }),
        1 => at().prop_map(|(file, index)| Step::GiveUp { file, index }),
        2 => at().prop_map(|(file, index)| Step::Hold { file, index }),
        2 => Just(Step::Release),
        1 => (0..FILES).prop_map(|file| Step::Lease { file }),
        1 => (0..FILES, any::<bool>()).prop_map(|(file, on)| Step::Pin { file, on }),
        2 => (0..FILES).prop_map(|file| Step::Persist { file }),
        1 => (0..FILES, any::<bool>()).prop_map(|(file, everything)| Step::Free { file, everything }),
        1 => at().prop_map(|(file, index)| Step::Promote { file, index }),
        3 => Just(Step::Reclaim),
        1 => Just(Step::Restart),
    ]
}

#[derive(Default)]
struct Model {
    /// Blocks that must be there, because they are nowhere else.
    precious: BTreeMap<(u64, u32), ()>,
    /// Whether a generation counts as persisted; fixed by its first fill, and by the mark.
    persisted: BTreeMap<u64, bool>,
    pinned: std::collections::BTreeSet<u64>,
}

struct World {
    homes: [Place; 3],
    store: Option<BlockStore>,
    readers: Vec<BlockReader>,
    leases: Vec<FileLease>,
    model: Model,
}

impl World {
    fn new() -> Self {
        let homes = [shm(), shm(), disk()];
        let mut world = Self { homes, store: None, readers: Vec::new(), leases: Vec::new(), model: Model::default() };
        world.restart();
        world
    }

    fn restart(&mut self) {
        self.readers.clear();
        self.leases.clear();
        self.store = None;
        let [a, b, c] = &self.homes;
        let tiers = vec![
            tier(Medium::Mem, a.path(), 3 * MIB + 2 * SIDE),
            tier(Medium::Mem, b.path(), 2 * MIB + 2 * SIDE),
            tier(Medium::Ssd, c.path(), 4 * MIB + 2 * SIDE),
        ];
        self.store = Some(open(tiers).0);
        self.model.pinned.clear();
    }

    fn store(&self) -> &BlockStore {
        self.store.as_ref().unwrap()
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Fill { file, index, persisted } => self.fill(file, index, persisted),
            Step::GiveUp { file, index } => {
                let persisted = self.model.persisted.get(&file).copied().unwrap_or(true);
                if let Reservation::Writer(mut w) = reserve(self.store(), block(file, index), spec_of(persisted)) {
                    w.write_at(0, &[9; 3000]).unwrap();
                }
            }
            Step::Hold { file, index } => self.readers.extend(self.store().read(block(file, index)).unwrap()),
            Step::Release => {
                self.readers.pop();
                self.leases.pop();
            }
            Step::Lease { file } => self.leases.extend(self.store().lease(key(file)).unwrap()),
            Step::Pin { file, on } => {
                if on {
                    self.store().pin(FileId(file));
                    self.model.pinned.insert(file);
                } else {
                    self.store().unpin(FileId(file));
                    self.model.pinned.remove(&file);
                }
            }
            Step::Persist { file } => {
                self.store().mark_persisted(key(file)).unwrap();
                self.model.precious.retain(|(f, _), ()| *f != file);
                self.model.persisted.entry(file).and_modify(|p| *p = true);
            }
            Step::Free { file, everything } => self.free(file, everything),
            Step::Promote { file, index } => {
                self.store().promote(block(file, index)).unwrap();
            }
            Step::Reclaim => {
                self.store().reclaim();
                self.store().maintain();
            }
            Step::Restart => self.restart(),
        }
    }

    fn fill(&mut self, file: u64, index: u32, persisted: bool) {
        // What a generation is does not change from fill to fill.
        let known = self.store().report(None, 100).files.into_iter().find(|f| f.key == key(file));
        let persisted = known.map_or(persisted, |f| f.persisted);
        if let Reservation::Writer(mut w) = reserve(self.store(), block(file, index), spec_of(persisted)) {
            let bytes = content(block(file, index), w.length());
            // Out of order now and then, so that sums are made at the end too.
            let (first, second) = bytes.split_at(bytes.len() / 2);
            if index == 1 {
                w.write_at(first.len() as u64, second).unwrap();
                w.write_at(0, first).unwrap();
            } else {
                w.write_at(0, first).unwrap();
                w.write_at(first.len() as u64, second).unwrap();
            }
            w.commit().unwrap();
            self.model.persisted.insert(file, persisted);
            if !persisted {
                self.model.precious.insert((file, index), ());
            }
        }
    }

    fn free(&mut self, file: u64, everything: bool) {
        let mode = if everything { FreeMode::Everything } else { FreeMode::Persisted };
        let freed = self.store().free(FileId(file), None, mode).unwrap();
        if everything {
            self.model.precious.retain(|(f, _), ()| *f != file);
        } else if self.model.precious.keys().any(|(f, _)| *f == file) || self.model.pinned.contains(&file) {
            assert_eq!(freed.generations, 0);
        }
    }

    fn check(&self) {
        let mut unpersisted = 0;
        for directory in self.store().usage().iter().flat_map(|t| &t.directories) {
            assert!(directory.used <= directory.capacity, "{directory:?}");
            assert!(directory.unpersisted <= directory.used);
            unpersisted += directory.unpersisted;
        }
        for (file, index) in self.model.precious.keys() {
            assert!(is_right(self.store(), block(*file, *index)), "lost {file}.{index}");
        }
        if self.model.precious.is_empty() {
            let residue = self.store().report(None, 100).files.iter().any(|f| !f.persisted);
            assert!(unpersisted == 0 || residue, "{unpersisted}");
        }
        for reader in &self.readers {
            let mut bytes = vec![0; reader.length() as usize];
            reader.read_at(0, &mut bytes).unwrap();
            let right = (0..FILES).any(|f| (0..3).any(|i| content(block(f, i), reader.length()) == bytes));
            assert!(right, "a reader sees what nobody wrote");
        }
    }

    /// In the end everything can be given back.
    fn end(mut self) {
        self.readers.clear();
        self.leases.clear();
        for file in 0..FILES {
            self.store().free(FileId(file), None, FreeMode::Everything).unwrap();
        }
        self.store().maintain();
        for (directory, home) in self.store().usage().iter().flat_map(|t| &t.directories).zip(&self.homes) {
            assert_eq!((directory.unpersisted, directory.zombie, directory.pinned), (0, 0, 0));
            assert!(directory.used <= 4 * SIDE && directory.used.is_multiple_of(SIDE), "{directory:?}");
            assert_eq!(cache_files(home.path()).len(), 0);
        }
    }
}

fn spec_of(persisted: bool) -> GenerationSpec {
    GenerationSpec { persisted, ..spec(LENGTH) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn the_books_hold(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.apply(step);
            world.check();
        }
        for file in 0..FILES {
            for index in 0..3 {
                let bytes = bytes_of(world.store(), block(file, index));
                prop_assert!(bytes.is_none_or(|b| b == content(block(file, index), b.len() as u64)));
            }
        }
        world.end();
    }
}
