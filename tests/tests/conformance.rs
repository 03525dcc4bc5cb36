//! Whether a mount is a file system as any other: public suites, real programs, and random operations beside a plain directory.
//!
//! `pjdfstest` and `fsx` are installed by cargo, once, into a cache directory of the user (`tests/src/tools.rs`). A test whose
//! tool cannot be had is noted as skipped, never as passed. Each runs twice: with all that the kernel can do, and as if on Linux
//! 6.1, which reads no cache files itself, maps nothing for everybody that it does not keep, and calls no names back.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{FileExt, PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use larder_tests::{
    Cluster,
    mounts::{Mount, tree},
    skip::{needs_fuse, skip},
    tools::{PJDFSTEST, cargo_tool, is_there},
};
use nix::fcntl::{FallocateFlags, copy_file_range, fallocate};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// Tests of `pjdfstest` that pass on the under store's own file system and need not pass on a mount, each with its reason.
const EXCEPTIONS: &[(&str, &str)] = &[(
    "link::link_count_max",
    "skipped by the suite: the C library answers pathconf(_PC_LINK_MAX) from a table of file systems and knows none of FUSE",
)];

/// Operations of `fsx` for each seed, unless `LARDER_FSX_OPERATIONS` says more.
const FSX_OPERATIONS: &str = "1000";

/// Operations of each thread of the model test, unless `LARDER_MODEL_OPERATIONS` says more.
const MODEL_OPERATIONS: &str = "400";

/// How long one program may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(1200);

/// `fuse.kernel.features` of a mount that uses what there is.
const NEWEST: &str = "all";
/// Of one that does as on Linux 6.1.
const AS_ON_6_1: &str = "none";

/// A cluster of one worker and a mount of it, which root lets all users use.
fn mounted(features: &str) -> Result<(Cluster, Mount)> {
    let cluster = Cluster::start(1)?;
    let mount = Mount::start(&cluster, &[("LARDER_FUSE_KERNEL_FEATURES", features)])?;
    if features == AS_ON_6_1 {
        let log = mount.part.log();
        ensure!(log.contains("passthrough=false mmap=false epoch=false"), "it does not do as on Linux 6.1:\n{log}");
    }
    Ok((cluster, mount))
}

/// Runs a program to its end within the patience, and says whether it succeeded and what it printed.
fn run(program: impl AsRef<OsStr>, arguments: &[&OsStr], directory: &Path) -> Result<(bool, String)> {
    let output = tempfile::NamedTempFile::new()?;
    // One place in the file for both, so that neither writes over the other.
    let printed = output.reopen()?;
    let status = Command::new("timeout")
        .args(["--signal=KILL", &PATIENCE.as_secs().to_string()])
        .arg(program)
        .args(arguments)
        .current_dir(directory)
        .env("HOME", directory)
        .stdin(Stdio::null())
        .stdout(printed.try_clone()?)
        .stderr(printed)
        .status()?;
    let bytes = fs::read(output.path())?;
    Ok((status.success(), String::from_utf8_lossy(&bytes).into_owned()))
}

/// What `pjdfstest` says of each of its tests, or of those with these names, run in a directory: the name, and `ok`, `FAILED` or
/// `skipped`.
fn pjdfstest(tool: &Path, configuration: &Path, directory: &Path, which: &[&str]) -> Result<(Verdicts, String)> {
    fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    let arguments = ["-c".as_ref(), configuration.as_os_str(), "-p".as_ref(), directory.as_os_str()];
    let which: Vec<_> = which.iter().map(OsStr::new).collect();
    let (_, output) = run(tool, &[&arguments[..], &which].concat(), Path::new("/"))?;
    let verdicts: Verdicts = output
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, verdict)| (name.to_owned(), verdict.trim().to_owned()))
        .filter(|(_, verdict)| matches!(verdict.as_str(), "ok" | "FAILED" | "skipped"))
        .collect();
    Ok((verdicts, output))
}

#[test]
fn every_test_of_pjdfstest_that_passes_on_the_under_store_passes_on_a_mount() -> Result<()> {
    let (expected, found, output) =
        match suite("every_test_of_pjdfstest_that_passes_on_the_under_store_passes_on_a_mount", NEWEST, &[])? {
            Some(verdicts) => verdicts,
            None => return Ok(()),
        };
    ensure!(passing(&expected).count() > 200, "the suite did not run on the plain directory: {expected:?}");
    are_no_worse(&expected, &found, &output)?;
    for (name, reason) in EXCEPTIONS {
        ensure!(found.get(*name).is_some_and(|verdict| verdict != "ok"), "{name} passes now; strike out: {reason}");
    }
    Ok(())
}

/// Those of the suite that look at content and lengths.
const ON_6_1: &[&str] = &["open::", "ftruncate::", "posix_fallocate::"];

#[test]
fn tests_of_pjdfstest_pass_as_on_linux_6_1() -> Result<()> {
    let Some((expected, found, output)) = suite("tests_of_pjdfstest_pass_as_on_linux_6_1", AS_ON_6_1, ON_6_1)? else {
        return Ok(());
    };
    ensure!(passing(&expected).count() > 20, "the suite did not run on the plain directory: {expected:?}");
    are_no_worse(&expected, &found, &output)
}

type Verdicts = BTreeMap<String, String>;

fn passing(verdicts: &Verdicts) -> impl Iterator<Item = &String> {
    verdicts.iter().filter(|(_, verdict)| *verdict == "ok").map(|(name, _)| name)
}

/// Whether what passes on the plain directory passes on the mount.
fn are_no_worse(expected: &Verdicts, found: &Verdicts, output: &str) -> Result<()> {
    let worse: Vec<_> = passing(expected)
        .filter(|name| found.get(*name).is_none_or(|verdict| verdict != "ok"))
        .filter(|name| !EXCEPTIONS.iter().any(|(exception, _)| exception == name))
        .collect();
    ensure!(worse.is_empty(), "{} tests fail on the mount: {worse:#?}\n{output}", worse.len());
    Ok(())
}

/// What the suite says of the under store's file system and of a mount; `None` where it cannot run.
fn suite(test: &str, features: &str, which: &[&str]) -> Result<Option<(Verdicts, Verdicts, String)>> {
    if !needs_fuse(test) {
        return Ok(None);
    }
    let tool = match cargo_tool(PJDFSTEST) {
        Ok(tool) => tool,
        Err(reason) => {
            skip(test, &reason);
            return Ok(None);
        }
    };
    let place = tempfile::tempdir()?;
    let configuration = place.path().join("pjdfstest.toml");
    fs::write(
        &configuration,
        "[features]\nposix_fallocate = {}\n[settings]\nnaptime = 0.01\n\
         [dummy_auth]\nentries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]\n",
    )?;
    let plain = tempfile::tempdir()?;
    let (_cluster, mount) = mounted(features)?;
    let (expected, _) = pjdfstest(&tool, &configuration, plain.path(), which)?;
    fs::create_dir(mount.at("suite"))?;
    let (found, output) = pjdfstest(&tool, &configuration, &mount.at("suite"), which)?;
    Ok(Some((expected, found, output)))
}

/// What `fsx` does, beside reads and writes.
const FSX: &str = "[weights]\nclose_open = 1\ninvalidate = 1\nmapread = 5\nmapwrite = 5\nread = 10\nwrite = 10\ntruncate = 5\n\
                   fsync = 1\nfdatasync = 1\nposix_fallocate = 2\npunch_hole = 3\nsendfile = 2\nposix_fadvise = 1\n\
                   copy_file_range = 3\n";

#[test]
fn random_operations_on_one_file_read_what_was_written() -> Result<()> {
    fsx("random_operations_on_one_file_read_what_was_written", NEWEST, &["1", "2", "3"])
}

#[test]
fn random_operations_on_one_file_as_on_linux_6_1() -> Result<()> {
    fsx("random_operations_on_one_file_as_on_linux_6_1", AS_ON_6_1, &["4"])
}

fn fsx(test: &str, features: &str, seeds: &[&str]) -> Result<()> {
    if !needs_fuse(test) {
        return Ok(());
    }
    let tool = match cargo_tool(larder_tests::tools::FSX) {
        Ok(tool) => tool,
        Err(reason) => {
            skip(test, &reason);
            return Ok(());
        }
    };
    let operations = std::env::var("LARDER_FSX_OPERATIONS").unwrap_or_else(|_| FSX_OPERATIONS.to_owned());
    let place = tempfile::tempdir()?;
    let configuration = place.path().join("fsx.toml");
    fs::write(&configuration, FSX)?;
    let (cluster, mount) = mounted(features)?;
    for seed in seeds {
        let file = mount.at(&format!("fsx{seed}"));
        let options = ["-S", *seed, "-N", &operations, "-f"].map(OsStr::new);
        let rest = [configuration.as_os_str(), "-P".as_ref(), place.path().as_os_str(), file.as_os_str()];
        let (good, output) = run(&tool, &[&options[..], &rest[..]].concat(), place.path())?;
        ensure!(good, "fsx with seed {seed}:\n{output}");
        let under = cluster.under().join(format!("fsx{seed}"));
        ensure!(fs::read(&file)? == fs::read(under)?, "what is in the under store after seed {seed} differs");
    }
    Ok(())
}

/// A script of a real program on a mount; `$?` says whether it worked.
struct Program {
    /// What it is called in messages.
    name: &'static str,
    /// The commands that it needs.
    needs: &'static [&'static str],
    /// For `bash -e`, in an empty directory of the mount.
    script: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "git",
        needs: &["git"],
        script: "
            git init -q r; cd r
            for i in 1 2 3 4; do
                mkdir d$i; for j in 1 2 3 4; do echo $i $j > d$i/f$j; done; git add .
                git -c user.name=a -c user.email=a@b commit -q -m $i
            done
            git gc -q; git fsck --full --strict; cd ..
            git clone -q r c; git -C c fsck --full --strict
            test -z \"$(git -C c status --porcelain)\"; diff -r --exclude=.git r c",
    },
    Program {
        name: "sqlite",
        needs: &["sqlite3"],
        script: "
            for mode in delete wal; do
                sqlite3 $mode.db \"pragma journal_mode=$mode; create table t(w, i);\"
                for w in 1 2 3 4; do
                    (for i in 1 2 3 4 5; do sqlite3 -cmd '.timeout 60000' $mode.db \"insert into t values($w, $i)\"; done) &
                done
                wait
                test \"$(sqlite3 $mode.db 'select count(distinct w * 10 + i) from t')\" = 20
                test \"$(sqlite3 $mode.db 'pragma integrity_check')\" = ok
            done",
    },
    Program {
        name: "tar",
        needs: &["tar"],
        script: "
            mkdir t; tar -C /usr/include -cf - asm-generic | tar -C t -xpf -
            diff -r /usr/include/asm-generic t/asm-generic
            tar -C t -cf t.tar .; tar -C t -df t.tar",
    },
    Program {
        name: "rsync",
        needs: &["rsync"],
        script: "
            rsync -a --checksum /usr/include/asm-generic .
            test -z \"$(rsync -ain --checksum /usr/include/asm-generic .)\"
            echo changed >> asm-generic/types.h
            rsync -a --inplace --checksum /usr/include/asm-generic .
            test -z \"$(rsync -ain --checksum /usr/include/asm-generic .)\"",
    },
    Program {
        name: "fio",
        needs: &["fio"],
        script: "
            common='--directory=. --verify=crc32c --do_verify=1 --output=/dev/null'
            fio --name=calls --size=16M --rw=randrw --bs=4k-64k --ioengine=psync --fsync=200 $common
            fio --name=mapped --size=4M --rw=randwrite --bs=4k --ioengine=mmap $common",
    },
    Program {
        name: "a build",
        needs: &["make", "cc"],
        script: "
            objects=main.o
            for i in 1 2 3 4 5 6; do echo \"int f$i(void){return $i;}\" > f$i.c; objects=\"$objects f$i.o\"; done
            for i in 1 2 3 4 5 6; do echo \"int f$i(void);\"; done > main.c
            echo 'int main(void){return f1()+f2()+f3()+f4()+f5()+f6()-21;}' >> main.c
            printf 'p: %s\\n\\tcc -o $@ $^\\n' \"$objects\" > Makefile
            make -s -j4; ./p; make -q",
    },
    Program {
        name: "a virtual environment",
        needs: &["python3"],
        script: "
            python3 -m venv --without-pip v
            echo 'x = 5' > \"$(ls -d v/lib/python3*/site-packages)/mine.py\"
            v/bin/python -c 'import mine, sys; assert mine.x == 5 and sys.prefix.endswith(\"/v\")'",
    },
];

#[test]
fn programs_work_on_a_mount_as_anywhere() -> Result<()> {
    programs("programs_work_on_a_mount_as_anywhere", NEWEST, |_| true)
}

#[test]
fn programs_work_as_on_linux_6_1() -> Result<()> {
    let maps = |program: &Program| ["sqlite", "fio"].contains(&program.name);
    programs("programs_work_as_on_linux_6_1", AS_ON_6_1, maps)
}

fn programs(test: &str, features: &str, wanted: impl Fn(&Program) -> bool) -> Result<()> {
    if !needs_fuse(test) {
        return Ok(());
    }
    let (cluster, mount) = mounted(features)?;
    for (number, program) in PROGRAMS.iter().enumerate().filter(|(_, program)| wanted(program)) {
        if let Some(missing) = program.needs.iter().find(|name| !is_there(name)) {
            skip(&format!("{test}: {}", program.name), &format!("there is no {missing}"));
            continue;
        }
        let directory = mount.at(&format!("program{number}"));
        fs::create_dir(&directory)?;
        let (good, output) = run("bash", &["-ec".as_ref(), program.script.as_ref()], &directory)?;
        ensure!(good, "{}:\n{output}", program.name);
    }
    assert_eq!(tree(&mount.path())?, tree(&cluster.under())?);
    Ok(())
}

/// One random operation on a directory: what it answers is the same on every file system.
#[derive(Debug, Clone)]
enum Operation {
    Write { name: String, at: u64, length: usize, byte: u8 },
    Append { name: String, length: usize, byte: u8 },
    Truncate { name: String, length: u64 },
    Punch { name: String, at: i64, length: i64 },
    Zero { name: String, at: i64, length: i64 },
    Copy { from: String, to: String, length: usize },
    Read { name: String },
    Rename { from: String, to: String },
    Link { from: String, to: String },
    Symlink { name: String },
    Unlink { name: String },
    MakeDirectory { name: String },
    RemoveDirectory { name: String },
    Mode { name: String, mode: u32 },
}

/// A name among few, so that operations meet.
fn name(random: &mut SmallRng) -> String {
    let last = ["a", "b", "c", "d"][random.random_range(0..4)];
    match random.random_range(0..4) {
        0 => format!("d/{last}"),
        1 => format!("c/{last}"),
        _ => last.to_owned(),
    }
}

impl Operation {
    fn random(random: &mut SmallRng) -> Self {
        let (name, other) = (name(random), name(random));
        let (at, length) = (random.random_range(0..150_000), random.random_range(1..70_000));
        let (start, size) = (random.random_range(0..150_000), random.random_range(1..70_000));
        let byte = random.random_range(1..=255);
        match random.random_range(0..17) {
            0..3 => Self::Write { name, at, length, byte },
            3 => Self::Append { name, length, byte },
            4 => Self::Truncate { name, length: at },
            5 => Self::Punch { name, at: start, length: size },
            6 => Self::Zero { name, at: start, length: size },
            7 => Self::Copy { from: name, to: other, length },
            8 | 9 => Self::Read { name },
            10 => Self::Rename { from: name, to: other },
            11 => Self::Link { from: name, to: other },
            12 => Self::Symlink { name },
            13 => Self::Unlink { name },
            14 => Self::MakeDirectory { name },
            15 => Self::RemoveDirectory { name },
            _ => Self::Mode { name, mode: [0o600, 0o644, 0o755, 0o640][random.random_range(0..4)] },
        }
    }

    /// Does it below a directory.
    fn apply(&self, top: &Path) -> io::Result<Vec<u8>> {
        let of = |name: &str| top.join(name);
        let writable = |name: &str| File::options().read(true).write(true).open(of(name));
        match self {
            Self::Write { name, at, length, byte } => {
                let file = OpenOptions::new().create(true).truncate(false).write(true).open(of(name))?;
                file.write_all_at(&vec![*byte; *length], *at)?;
            }
            Self::Append { name, length, byte } => {
                OpenOptions::new().append(true).open(of(name))?.write_all(&vec![*byte; *length])?;
            }
            Self::Truncate { name, length } => writable(name)?.set_len(*length)?,
            Self::Punch { name, at, length } => {
                let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                fallocate(writable(name)?, how, *at, *length)?;
            }
            Self::Zero { name, at, length } => {
                fallocate(writable(name)?, FallocateFlags::FALLOC_FL_ZERO_RANGE, *at, *length)?;
            }
            Self::Copy { from, to, length } => {
                // Within one file the ranges may meet, which is an error wherever it is asked.
                copy_file_range(File::open(of(from))?, None, writable(to)?, None, *length)?;
            }
            Self::Read { name } => return fs::read(of(name)),
            Self::Rename { from, to } => fs::rename(of(from), of(to))?,
            Self::Link { from, to } => fs::hard_link(of(from), of(to))?,
            Self::Symlink { name } => symlink("a", of(name))?,
            Self::Unlink { name } => fs::remove_file(of(name))?,
            Self::MakeDirectory { name } => fs::create_dir(of(name))?,
            Self::RemoveDirectory { name } => fs::remove_dir(of(name))?,
            Self::Mode { name, mode } => fs::set_permissions(of(name), Permissions::from_mode(*mode))?,
        }
        Ok(Vec::new())
    }
}

/// Random operations in a directory of the mount and in a plain one.
fn compare(seed: u64, operations: usize, mount: &Path, plain: &Path) -> Result<()> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut done = Vec::new();
    for _ in 0..operations {
        let operation = Operation::random(&mut random);
        let (found, expected) = (operation.apply(mount), operation.apply(plain));
        done.push(format!("{operation:?}"));
        let same = match (&found, &expected) {
            (Ok(found), Ok(expected)) => found == expected,
            (Err(found), Err(expected)) => found.raw_os_error() == expected.raw_os_error(),
            _ => false,
        };
        if !same {
            let short = |answer: io::Result<Vec<u8>>| answer.map(|bytes| bytes.len());
            let last = done.split_off(done.len().saturating_sub(30)).join("\n");
            bail!("seed {seed}: {:?} instead of {:?} after\n{last}", short(found), short(expected));
        }
    }
    ensure!(tree(mount)? == tree(plain)?, "seed {seed}: the trees differ after\n{}", done.join("\n"));
    Ok(())
}

#[test]
fn random_operations_of_several_threads_do_what_they_do_in_a_plain_directory() -> Result<()> {
    model("random_operations_of_several_threads_do_what_they_do_in_a_plain_directory", NEWEST)
}

#[test]
fn random_operations_of_several_threads_as_on_linux_6_1() -> Result<()> {
    model("random_operations_of_several_threads_as_on_linux_6_1", AS_ON_6_1)
}

fn model(test: &str, features: &str) -> Result<()> {
    if !needs_fuse(test) {
        return Ok(());
    }
    let operations = std::env::var("LARDER_MODEL_OPERATIONS").unwrap_or_else(|_| MODEL_OPERATIONS.to_owned());
    let operations: usize = operations.parse().context("LARDER_MODEL_OPERATIONS is a number")?;
    let plain = tempfile::tempdir()?;
    let (cluster, mount) = mounted(features)?;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4_u64)
            .map(|seed| {
                let name = format!("t{seed}");
                let (on_mount, on_plain) = (mount.at(&name), plain.path().join(&name));
                scope.spawn(move || {
                    fs::create_dir(&on_mount)?;
                    fs::create_dir(&on_plain)?;
                    compare(seed, operations, &on_mount, &on_plain)
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread died"))?)
    })?;
    assert_eq!(tree(&cluster.under())?, tree(plain.path())?);
    Ok(())
}
