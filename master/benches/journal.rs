//! Group commit measured: durable appends of 100 bytes by 1 and by 16 at once, against one thread's plain append and
//! `fdatasync` on a file as well prepared. Rounds alternate, and the best of each is printed.
//!
//! `cargo bench -p larder-master --bench journal [-- DIRECTORY]`; the directory should be on a disk, not a tmpfs.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use larder_master::journal::{EmbeddedJournal, Journal, Settings};

const ROUND: Duration = Duration::from_millis(700);
const ROUNDS: usize = 5;
const PAYLOAD: usize = 100;
const FRAME: usize = 144;

fn far() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// One thread, `pwrite` and `fdatasync` into a file of written zeros: what there is to beat.
fn plain(directory: &Path) -> f64 {
    let path = directory.join("plain");
    let file = File::create(&path).expect("the directory can be written");
    file.write_all_at(&vec![0; 16 << 20], 0).expect("there is room");
    file.sync_all().expect("the disk works");
    let (begin, mut count) = (Instant::now(), 0);
    while begin.elapsed() < ROUND {
        file.write_all_at(&[7; FRAME], count * FRAME as u64).expect("there is room");
        file.sync_data().expect("the disk works");
        count += 1;
    }
    count as f64 / begin.elapsed().as_secs_f64()
}

/// Threads that wait themselves.
fn threads(journal: &Arc<EmbeddedJournal>, count: usize) -> f64 {
    let begin = Instant::now();
    let workers: Vec<_> = (0..count)
        .map(|_| {
            let journal = journal.clone();
            std::thread::spawn(move || {
                let (entry, mut done) = ([Bytes::from(vec![7; PAYLOAD])], 0u64);
                while begin.elapsed() < ROUND {
                    let position = journal.append(&entry).expect("there is room");
                    journal.sync_to(position, far()).expect("the disk works");
                    done += 1;
                }
                done
            })
        })
        .collect();
    let done: u64 = workers.into_iter().map(|worker| worker.join().expect("no worker panics")).sum();
    done as f64 / begin.elapsed().as_secs_f64()
}

/// Tasks that wait without a thread.
fn tasks(runtime: &tokio::runtime::Runtime, journal: &Arc<EmbeddedJournal>, count: usize) -> f64 {
    let begin = Instant::now();
    let done: u64 = runtime.block_on(async {
        let mut set = tokio::task::JoinSet::new();
        for _ in 0..count {
            let journal = journal.clone();
            set.spawn(async move {
                let (entry, mut done) = ([Bytes::from(vec![7; PAYLOAD])], 0u64);
                while begin.elapsed() < ROUND {
                    let position = journal.append(&entry).expect("there is room");
                    journal.wait_durable(position, far()).await.expect("the disk works");
                    done += 1;
                }
                done
            });
        }
        set.join_all().await.into_iter().sum()
    });
    done as f64 / begin.elapsed().as_secs_f64()
}

#[expect(clippy::print_stdout, reason = "a benchmark prints")]
fn main() {
    let place = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_else(|| ".".into());
    let temp = tempfile::tempdir_in(place).expect("the directory can be written");
    let opened = EmbeddedJournal::open(&Settings::new(temp.path().join("journal"))).expect("a new journal opens");
    let journal = Arc::new(opened.journal);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    let runtime = runtime.expect("a runtime starts");
    let mut best = [0f64; 5];
    for _ in 0..ROUNDS {
        let round = [
            plain(temp.path()),
            threads(&journal, 1),
            threads(&journal, 16),
            tasks(&runtime, &journal, 1),
            tasks(&runtime, &journal, 16),
        ];
        best = std::array::from_fn(|i| best[i].max(round[i]));
    }
    let names = [
        "plain append + fdatasync, 1 thread",
        "journal, 1 thread",
        "journal, 16 threads",
        "journal, 1 task",
        "journal, 16 tasks",
    ];
    for (name, rate) in names.iter().zip(best) {
        println!("{name:36} {rate:9.0}/s  {:5.2}", rate / best[0]);
    }
}
