//! `kill -9` at any moment of filling, committing, sealing, evicting and freeing: what was acknowledged is there, and
//! nothing that is there is wrong.
//!
//! The child is this test binary again, running only [`child`], which does nothing unless it is told what to do. It
//! says on its standard output what it has been promised.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::*;

const PLACE: &str = "LARDER_STORE_TEST_PLACE";
const WORK: &str = "LARDER_STORE_TEST_WORK";
const QUOTA: u64 = 24 * MIB;

fn tiers(directory: &Path) -> Vec<TierSpec> {
    vec![tier(Medium::Mem, directory, QUOTA)]
}

/// Not a [`Place`]: processes are started while it is there.
fn bare() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn ticket(file: u64) -> WriteTicket {
    let (block_size, group) = (BlockSize::new(MIB).unwrap(), Group(FileId(1)));
    WriteTicket { file: FileId(file), lease: LeaseId(file + 1000), base: None, block_size, group, expected: Some(MIB) }
}

/// Runs only as a process of its own.
#[test]
fn child() {
    let (Ok(place), Ok(work)) = (std::env::var(PLACE), std::env::var(WORK)) else { return };
    let (store, _) = open(tiers(Path::new(&place)));
    let say = |text: String| {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).unwrap();
    };
    say("ready\n".into());
    match work.as_str() {
        "fill" => fill_for_ever(&store, &say),
        "churn" => churn_for_ever(&store),
        _ => seal_for_ever(&store, &say),
    }
}

fn fill_for_ever(store: &BlockStore, say: &dyn Fn(String)) {
    for n in 0u64.. {
        let (file, index) = (n / 2 % 8, (n % 2) as u32);
        let own = GenerationSpec { persisted: false, ..spec(MIB + 5000) };
        if let Reservation::Writer(mut w) = reserve(store, block(file, index), own) {
            let bytes = content(block(file, index), w.length());
            bytes.chunks(70_000).enumerate().for_each(|(i, part)| w.write_at(i as u64 * 70_000, part).unwrap());
            w.commit().unwrap();
            say(format!("kept {file} {index}\n"));
        } else {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

/// Fills, evicts and frees what is persisted, with no promise but that it is right.
fn churn_for_ever(store: &BlockStore) {
    for n in 0u64.. {
        let (file, index) = (n * 7 % 29, (n % 2) as u32);
        if let Reservation::Writer(mut w) = reserve(store, block(file, index), spec(MIB + 5000)) {
            w.write_at(0, &content(block(file, index), w.length())).unwrap();
            w.commit().unwrap();
        }
        if n % 13 == 0 {
            store.free(FileId(file), None, FreeMode::Persisted).unwrap();
        }
        store.maintain();
        store.reclaim();
    }
}

fn seal_for_ever(store: &BlockStore, say: &dyn Fn(String)) {
    for file in 0u64.. {
        let mut writer = store.write_file(ticket(file)).unwrap();
        writer.write_at(0, &content(block(file, 0), 300_000)).unwrap();
        let mut sealed = writer.seal(300_000, None).unwrap();
        say(format!("sealed {file} 0\n"));
        sealed.commit(key(file).generation, false).unwrap();
        say(format!("kept {file} 0\n"));
        if file >= 20 {
            store.mark_persisted(key(file - 20)).unwrap();
            store.free(FileId(file - 20), None, FreeMode::Persisted).unwrap();
            say(format!("freed {} 0\n", file - 20));
        }
    }
}

/// Runs a child for so long and kills it. Answers what it said.
fn killed(place: &Path, work: &str, after: Duration) -> Vec<(String, u64, u32)> {
    let starting = STARTING.write();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["store::tests::crash::child", "--exact", "--nocapture", "--test-threads=1"])
        .env(PLACE, place)
        .env(WORK, work)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(starting);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.ends_with("ready")));
    std::thread::park_timeout(after);
    kill(&mut child);
    let words = lines.filter_map(|line| {
        let mut words = line.split(' ').map(str::to_owned);
        Some((words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    });
    words.collect()
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Everything that the store says it has is right, and it counts right.
fn check(store: &BlockStore) {
    for file in store.report(None, 1000).files {
        for found in &file.blocks {
            let id = file.key.block(found.index);
            let bytes = bytes_of(store, id).unwrap_or_else(|| panic!("{id} was adopted and is wrong"));
            assert_eq!(bytes, content(id, bytes.len() as u64), "{id}");
        }
    }
    let directory = &store.usage()[0].directories[0];
    assert!(directory.used <= QUOTA);
    let taken: u64 = cache_files(directory.path.parent().unwrap()).iter().map(|p| blocks(p)).sum();
    let books = directory.used - index_bytes(directory);
    assert_eq!(taken, books, "what the medium holds and what the books count");
}

fn blocks(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).unwrap().blocks() * 512
}

fn index_bytes(usage: &Usage) -> u64 {
    blocks(&usage.path.join("index"))
}

fn moments() -> impl Iterator<Item = Duration> {
    [0, 3, 7, 12, 19, 31, 44].into_iter().map(Duration::from_millis)
}

#[test]
fn blocks_that_were_committed_survive_and_half_filled_ones_do_not_show() {
    let mut promised = 0;
    for after in moments() {
        let home = bare();
        let said = killed(home.path(), "fill", after);
        let _quiet = quiet();
        let (store, _) = open(tiers(home.path()));
        for (_, file, index) in said.iter().filter(|(word, ..)| word == "kept") {
            assert!(is_right(&store, block(*file, *index)), "{file}.{index} was acknowledged");
            promised += 1;
        }
        check(&store);
    }
    assert!(promised > 0, "no child did anything");
}

#[test]
fn eviction_and_free_can_end_anywhere() {
    let home = bare();
    for after in moments() {
        killed(home.path(), "churn", after * 4);
        let _quiet = quiet();
        let (store, _) = open(tiers(home.path()));
        check(&store);
    }
}

#[test]
fn sealed_files_wait_and_committed_ones_are_there() {
    for after in moments() {
        let home = bare();
        let said = killed(home.path(), "seal", after);
        let of = |wanted: &str| -> BTreeSet<u64> {
            said.iter().filter(|(word, ..)| word == wanted).map(|(_, file, _)| *file).collect()
        };
        let _quiet = quiet();
        let (store, _) = open(tiers(home.path()));
        let waiting: BTreeSet<u64> = store.uncommitted().iter().filter(|u| u.sealed).map(|u| u.file.0).collect();
        // The last one may have been marked and freed without the word having been heard.
        let freed = of("freed");
        let going = freed.iter().max().map_or(0, |f| f + 1);
        for file in of("sealed").difference(&freed).filter(|f| **f != going) {
            let whole = is_right(&store, block(*file, 0));
            assert!(whole || (waiting.contains(file) && !of("kept").contains(file)), "file {file}");
        }
        for file in waiting {
            let resumed = store.resume(LeaseId(file + 1000)).unwrap().unwrap();
            let mut sealed = resumed.seal(300_000, None).unwrap();
            sealed.commit(key(file).generation, false).unwrap();
            assert!(is_right(&store, block(file, 0)));
        }
        for left in store.uncommitted() {
            assert!(store.abandon(left.lease).unwrap());
        }
        check(&store);
    }
}
