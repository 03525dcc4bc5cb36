//! What images are made from: a tarball in the directory, one that is named as a file or a URL, the sources; and what they
//! are put on. Releases and compilers are small scripts here: what counts is which of them is taken.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use larder_tests::docker::{FUSE_IMAGE, Image, docker, engine, ok, repository};
use tempfile::TempDir;

/// A directory with files, some of which can be run.
fn directory(files: &[(&str, &str)]) -> Result<TempDir> {
    let directory = tempfile::tempdir()?;
    for (name, content) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().context("a place")?)?;
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(directory)
}

/// A file of `docker/`.
fn ours(name: &str) -> Result<String> {
    Ok(fs::read_to_string(repository().join(name))?)
}

/// A release that says its name.
fn tarball(at: &Path, says: &str) -> Result<()> {
    let release = directory(&[("release/bin/larder", &format!("#!/bin/sh\necho {says}\n"))])?;
    let made = Command::new("tar").arg("-C").arg(release.path()).arg("-czf").arg(at).arg("release").status()?;
    ensure!(made.success());
    Ok(())
}

/// Which release the first stage takes.
fn taken(arguments: &[&str]) -> Result<String> {
    let image = Image::build(&[&["--target", "release"], arguments].concat())?;
    ok(&["run", "--rm", "--entrypoint", "/release/image/opt/larder/bin/larder", image.name()])
}

/// Serves a file to everybody until the test's process ends; gives the port.
fn serve(file: &Path) -> Result<u16> {
    let content = fs::read(file)?;
    let listener = TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len());
            // Who has gone asks again.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&content));
        }
    });
    Ok(port)
}

#[test]
fn an_image_is_made_from_the_tarball_that_is_named() -> Result<()> {
    let Some(engine) = engine("an_image_is_made_from_the_tarball_that_is_named") else { return Ok(()) };
    let context = directory(&[("Dockerfile", &ours("docker/Dockerfile")?), ("unpack", &ours("docker/unpack")?)])?;
    let place = context.path().to_string_lossy().into_owned();
    let none = docker(&["build", "-q", "--force-rm", "--target", "release", &place])?;
    let said = String::from_utf8_lossy(&none.stderr).into_owned() + &String::from_utf8_lossy(&none.stdout);
    ensure!(!none.status.success() && said.contains("make dist") && said.contains("LARDER_TARBALL"), "{said}");
    tarball(&context.path().join("larder-1.tar.gz"), "lies-there")?;
    tarball(&context.path().join("alluxio-snapshot.tar.gz"), "named")?;
    ensure!(taken(&[&place])? == "lies-there");
    ensure!(taken(&["--build-arg", "ALLUXIO_TARBALL=alluxio-snapshot.tar.gz", &place])? == "named");
    let elsewhere = tempfile::tempdir()?;
    let file = elsewhere.path().join("remote.tar.gz");
    tarball(&file, "remote")?;
    let url = format!("LARDER_TARBALL=http://{}:{}/remote.tar.gz", engine.host_address()?, serve(&file)?);
    ensure!(taken(&["--build-arg", &url, &place])? == "remote");
    Ok(())
}

/// Stands for cargo and make of a builder: says how it was called where the binary would be.
const MAKE: &str = r#"#!/bin/sh
set -eu
tree=${4#TREE=}
mkdir -p "$tree/bin"
printf '#!/bin/sh\necho "made: %s %s %s; left out: %s"\n' "$1" "$2" "$3" "$(ls /context/target 2>&1 | wc -l)" >"$tree/bin/larder"
chmod +x "$tree/bin/larder"
"#;

#[test]
fn without_a_tarball_the_sources_are_compiled() -> Result<()> {
    if engine("without_a_tarball_the_sources_are_compiled").is_none() {
        return Ok(());
    }
    let builder = directory(&[
        ("Dockerfile", "FROM debian:bookworm-slim\nCOPY make cargo /usr/local/bin/\n"),
        ("make", MAKE),
        ("cargo", "#!/bin/sh\nexit 1\n"),
    ])?;
    let builder = Image::build(&[&builder.path().to_string_lossy()])?;
    let sources = directory(&[
        (".dockerignore", &ours(".dockerignore")?),
        ("Cargo.toml", ""),
        ("docker/Dockerfile", &ours("docker/Dockerfile")?),
        ("docker/unpack", &ours("docker/unpack")?),
        ("target/release/junk", ""),
    ])?;
    tarball(&sources.path().join("docker/larder-1.tar.gz"), "a release that is not of these sources")?;
    let (place, file) = (sources.path().to_string_lossy(), sources.path().join("docker/Dockerfile"));
    let builder = format!("BUILDER={}", builder.name());
    let said = taken(&["--build-arg", &builder, "-f", &file.to_string_lossy(), &place])?;
    // One line: that there is no such directory.
    ensure!(said == "made: -C /context tree; left out: 1", "{said}");
    Ok(())
}

#[test]
fn the_image_for_mounts_is_put_on_the_image_that_programs_need() -> Result<()> {
    if engine("the_image_for_mounts_is_put_on_the_image_that_programs_need").is_none() {
        return Ok(());
    }
    let base = directory(&[("Dockerfile", "FROM debian:bookworm-slim\nRUN echo tensors >/learning\n")])?;
    let base = Image::build(&[&base.path().to_string_lossy()])?;
    let (folder, argument) = (repository().join("docker"), format!("BASE={}", base.name()));
    let file = folder.join("Dockerfile.fuse");
    let image = Image::build(&["-f", &file.to_string_lossy(), "--build-arg", &argument, &folder.to_string_lossy()])?;
    let ran = ok(&["run", "--rm", image.name(), "sh", "-c", "cat /learning && larder version"])?;
    ensure!(ran.starts_with("tensors\n") && ran.contains(env!("CARGO_PKG_VERSION")), "{ran}");
    ensure!(ok(&["inspect", "-f", "{{.Config.Cmd}}", FUSE_IMAGE])? == "[fuse]");
    Ok(())
}
