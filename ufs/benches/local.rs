//! A directory under store beside what it is measured against: open + read + close for fetches, and a plain copy for
//! uploads. Run with `cargo bench -p larder-ufs`; the directory is `LARDER_BENCH_DIR`, else the system's temporary one.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program that is run by hand")]

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use larder_common::{ClusterId, Name};
use larder_ufs::{Content, ObjectPath, OpenOptions, Publish, TemporaryName, UnderStore, local::LocalStore};

const FILES: usize = 2000;
const SIZE: usize = 100 << 10;
const LARGE: u64 = 1 << 30;

fn forget(dir: &Path) {
    for i in 0..FILES {
        let file = File::open(dir.join(format!("{i:05}"))).unwrap();
        let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        nix::fcntl::posix_fadvise(&file, 0, 0, advice).unwrap();
    }
}

fn plain(dir: &Path) -> Duration {
    let mut buffer = vec![0; SIZE];
    let start = Instant::now();
    for i in 0..FILES {
        File::open(dir.join(format!("{i:05}"))).unwrap().read_exact(&mut buffer).unwrap();
    }
    start.elapsed()
}

async fn fetched(store: &LocalStore) -> Duration {
    let start = Instant::now();
    for i in 0..FILES {
        let path = ObjectPath::new(format!("{i:05}")).unwrap();
        let mut total = 0;
        let sink = move |_: u64, bytes: &[u8]| {
            total += bytes.len();
            std::hint::black_box(total);
            Ok(())
        };
        store.fetch(&path, None, 0..u64::MAX, Box::new(sink)).await.unwrap();
    }
    start.elapsed()
}

fn report(what: &str, ours: Duration, baseline: Duration, each: usize) {
    let micros = |d: Duration| d.as_secs_f64() * 1e6 / each as f64;
    let ratio = baseline.as_secs_f64() / ours.as_secs_f64();
    println!("{what:28} {:10.1} us, baseline {:10.1} us, ratio {ratio:.2}", micros(ours), micros(baseline));
}

async fn small(dir: &Path, store: &LocalStore) {
    for i in 0..FILES {
        fs::write(dir.join(format!("{i:05}")), vec![i as u8; SIZE]).unwrap();
    }
    nix::unistd::sync();
    for _ in 0..3 {
        forget(dir);
        let cold_plain = plain(dir);
        let warm_plain = plain(dir);
        forget(dir);
        let cold = fetched(store).await;
        let warm = fetched(store).await;
        report("fetch of 100 KiB, cold", cold, cold_plain, FILES);
        report("fetch of 100 KiB, warm", warm, warm_plain, FILES);
    }
}

async fn statuses(store: &LocalStore, dir: &Path) {
    let start = Instant::now();
    for i in 0..FILES {
        store.status(&ObjectPath::new(format!("{i:05}")).unwrap()).await.unwrap();
    }
    let ours = start.elapsed();
    let start = Instant::now();
    for i in 0..FILES {
        fs::symlink_metadata(dir.join(format!("{i:05}"))).unwrap();
    }
    report("status, warm", ours, start.elapsed(), FILES);
}

async fn publications(store: &LocalStore, dir: &Path) {
    let content = bytes::Bytes::from(vec![1; 4096]);
    let start = Instant::now();
    for i in 0..FILES {
        let target = ObjectPath::new(format!("p{i:05}")).unwrap();
        let temporary = TemporaryName::new(target.clone(), Name::new(format!("t{i}")).unwrap());
        store.upload_whole(&temporary, Content::Bytes(content.clone()), false).await.unwrap();
        store.publish(&temporary, &target, Publish::new_file()).await.unwrap();
    }
    let ours = start.elapsed();
    let start = Instant::now();
    for i in 0..FILES {
        fs::write(dir.join("q.tmp"), &content).unwrap();
        fs::rename(dir.join("q.tmp"), dir.join(format!("q{i:05}"))).unwrap();
    }
    report("4 KiB file, published", ours, start.elapsed(), FILES);
}

async fn large(dir: &Path, store: &LocalStore, source: &Path) {
    let block = vec![7; 1 << 20];
    let mut file = File::create(source).unwrap();
    for _ in 0..LARGE >> 20 {
        std::io::Write::write_all(&mut file, &block).unwrap();
    }
    let file = Arc::new(File::open(source).unwrap());
    for _ in 0..3 {
        let start = Instant::now();
        assert!(std::process::Command::new("cp").arg(source).arg(dir.join("copy")).status().unwrap().success());
        File::open(dir.join("copy")).unwrap().sync_all().unwrap();
        let baseline = start.elapsed();
        fs::remove_file(dir.join("copy")).unwrap();
        let temporary = TemporaryName::new(ObjectPath::new("big").unwrap(), Name::new("big").unwrap());
        let start = Instant::now();
        let upload = store.start_upload(&temporary).await.unwrap();
        for block in 0..16 {
            let range = block * (LARGE / 16)..(block + 1) * (LARGE / 16);
            upload.copy_from(Arc::clone(&file), range.clone(), range.start).await.unwrap();
        }
        upload.finish(true).await.unwrap();
        report("upload of 1 GiB, synced", start.elapsed(), baseline, 1);
        store.destroy_temporary(&temporary).await.unwrap();
    }
    fs::remove_file(source).unwrap();
}

#[tokio::main]
async fn main() {
    // Cargo says so only when it was asked for benches; a run of all tests must not copy gigabytes.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let base = std::env::var_os("LARDER_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(base).unwrap();
    let store = LocalStore::open(dir.path(), OpenOptions::new(ClusterId::default())).await.unwrap();
    small(dir.path(), &store).await;
    statuses(&store, dir.path()).await;
    publications(&store, dir.path()).await;
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    large(dir.path(), &store, &memory.path().join("source")).await;
}
