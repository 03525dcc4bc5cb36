//! A client that runs out of descriptors reads right, and does not hang.

use std::{io::Write, process::Command};

use anyhow::{Context, Result};
use larder_client::OpenOptions;
use larder_tests::{Cluster, processes::larder, trees};

#[test]
fn with_64_descriptors_everything_is_read_right() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let directory = cluster.under().join("d");
    std::fs::create_dir(&directory)?;
    let mut expected = Vec::new();
    for number in 0..400u64 {
        let content = trees::bytes(number + 1, 3000);
        std::fs::write(directory.join(format!("f{number:03}")), &content)?;
        expected.extend(content);
    }
    for pass in ["cold", "warm"] {
        let output = Command::new("timeout")
            .args(["60", "sh", "-c", "ulimit -n 64; exec \"$0\" \"$@\""])
            .arg(larder())
            .args(["fs", "cat", "/d/*"])
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(cluster.settings())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{pass}: {} {said}", output.status);
        assert!(output.stdout == expected, "{pass}: {} bytes differ from what was written", output.stdout.len());
    }
    Ok(())
}

/// All files are open at the same time, many more than there are descriptors.
#[test]
fn open_files_beyond_the_limit_of_descriptors_read_right_and_the_way_is_counted() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let files = trees::write_files(&cluster.under(), 300, 5000)?;
    let output = Command::new("timeout")
        .args(["90", "sh", "-c", "ulimit -n 64; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe()?)
        .args(["--exact", "reads_all_at_once", "--nocapture", "--ignored"])
        .env("DESCRIPTORS_PORT", cluster.port().to_string())
        .env("DESCRIPTORS_ROOT", cluster.under())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let line = said.lines().find(|line| line.contains("read right:")).context(said.clone())?;
    assert!(line.contains(&format!("read right: {}", files.len())), "{line}");
    Ok(())
}

/// The other side of the test above, in a process of its own.
#[test]
#[ignore = "started by another test, in a process with few descriptors"]
fn reads_all_at_once() -> Result<()> {
    let port: u16 = std::env::var("DESCRIPTORS_PORT")?.parse()?;
    let root = std::path::PathBuf::from(std::env::var("DESCRIPTORS_ROOT")?);
    let config = larder_client::Config::builder().master("127.0.0.1", port)?.build();
    let fs = larder_client::blocking::FileSystem::connect(config)?;
    let expected = trees::files(&root)?;
    let mut open = Vec::new();
    for (path, content) in &expected {
        let name = format!("/{}", path.display());
        open.push((fs.open(&name, OpenOptions::default())?, name, content));
    }
    let mut right = 0;
    for (file, name, content) in open.iter().chain(open.iter().rev()) {
        let mut bytes = vec![0; content.len()];
        let read = file.read_at(0, &mut bytes)?;
        assert!(read == content.len() && bytes == **content, "{name} differs");
        right += 1;
    }
    std::io::stdout().write_all(format!("read right: {}\n", right / 2).as_bytes())?;
    Ok(())
}
