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
use larder_tests::docker::{Builder, FUSE_IMAGE, Image, engine, ok, repository};
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
fn taken(builder: &Builder, arguments: &[&str]) -> Result<String> {
    let image = builder.image(&[&["--target", "release"], arguments].concat())?;
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
    let test = "an_image_is_made_from_the_tarball_that_is_named";
    let Some(engine) = engine(test) else { return Ok(()) };
    for builder in Builder::all(test)? {
        let context = directory(&[("Dockerfile", &ours("docker/Dockerfile")?), ("unpack", &ours("docker/unpack")?)])?;
        let place = context.path().to_string_lossy().into_owned();
        let none = builder.image(&["--force-rm", "--target", "release", &place]).err().context("made from nothing")?;
        let said = none.to_string();
        ensure!(said.contains("make dist") && said.contains("LARDER_TARBALL"), "{said}");
        tarball(&context.path().join("larder-1.tar.gz"), "lies-there")?;
        tarball(&context.path().join("alluxio-snapshot.tar.gz"), "named")?;
        ensure!(taken(&builder, &[&place])? == "lies-there");
        ensure!(taken(&builder, &["--build-arg", "ALLUXIO_TARBALL=alluxio-snapshot.tar.gz", &place])? == "named");
        let elsewhere = tempfile::tempdir()?;
        let file = elsewhere.path().join("remote.tar.gz");
        tarball(&file, "remote")?;
        let url = format!("LARDER_TARBALL=http://{}:{}/remote.tar.gz", engine.host_address()?, serve(&file)?);
        ensure!(taken(&builder, &["--build-arg", &url, &place])? == "remote");
    }
    Ok(())
}

/// Stands for cargo and make of a builder: says how it was called where the binary would be.
const MAKE: &str = r#"#!/bin/sh
set -eu
tree=${4#TREE=}
mkdir -p "$tree/bin"
printf '#!/bin/sh\necho "made: %s %s %s with %s; left out: %s"\n' \
    "$1" "$2" "$3" "$(command -v cargo)" "$(ls /context/target 2>&1 | wc -l)" >"$tree/bin/larder"
chmod +x "$tree/bin/larder"
"#;

/// Stands for what gets rustup's installer, and for the installer.
const CURL: &str = r#"#!/bin/sh
echo 'mkdir -p "$HOME/.cargo/bin" && ln -s /bin/true "$HOME/.cargo/bin/cargo"'
"#;

#[test]
fn without_a_tarball_the_sources_are_compiled() -> Result<()> {
    let test = "without_a_tarball_the_sources_are_compiled";
    if engine(test).is_none() {
        return Ok(());
    }
    let with_cargo = directory(&[
        ("Dockerfile", "FROM debian:bookworm-slim\nCOPY make cargo /usr/local/bin/\n"),
        ("make", MAKE),
        ("cargo", "#!/bin/sh\nexit 1\n"),
    ])?;
    let with_nothing = directory(&[
        ("Dockerfile", "FROM debian:bookworm-slim\nCOPY make apt-get curl /usr/local/bin/\n"),
        ("make", MAKE),
        ("apt-get", "#!/bin/sh\nexit 0\n"),
        ("curl", CURL),
    ])?;
    let sources = directory(&[
        (".dockerignore", &ours(".dockerignore")?),
        ("Cargo.toml", ""),
        ("docker/Dockerfile", &ours("docker/Dockerfile")?),
        ("docker/unpack", &ours("docker/unpack")?),
        ("target/release/junk", ""),
    ])?;
    tarball(&sources.path().join("docker/larder-1.tar.gz"), "a release that is not of these sources")?;
    let (place, file) = (sources.path().to_string_lossy(), sources.path().join("docker/Dockerfile"));
    for (compilers, cargo) in [(with_cargo, "/usr/local/bin/cargo"), (with_nothing, "/root/.cargo/bin/cargo")] {
        let compilers = Image::build(&[&compilers.path().to_string_lossy()])?;
        let compilers = format!("BUILDER={}", compilers.name());
        for builder in Builder::all(test)? {
            let said = taken(&builder, &["--build-arg", &compilers, "-f", &file.to_string_lossy(), &place])?;
            // One line: that there is no such directory.
            ensure!(said == format!("made: -C /context tree with {cargo}; left out: 1"), "{said}");
        }
    }
    Ok(())
}

#[test]
fn the_image_for_mounts_is_put_on_the_image_that_programs_need() -> Result<()> {
    let test = "the_image_for_mounts_is_put_on_the_image_that_programs_need";
    if engine(test).is_none() {
        return Ok(());
    }
    let base = directory(&[("Dockerfile", "FROM debian:bookworm-slim\nRUN echo tensors >/learning\n")])?;
    let base = Image::build(&[&base.path().to_string_lossy()])?;
    let (folder, argument) = (repository().join("docker"), format!("BASE={}", base.name()));
    let file = folder.join("Dockerfile.fuse");
    for builder in Builder::all(test)? {
        let arguments = ["-f", &file.to_string_lossy(), "--build-arg", &argument, &folder.to_string_lossy()];
        let image = builder.image(&arguments)?;
        let ran = ok(&["run", "--rm", image.name(), "sh", "-c", "cat /learning && larder version"])?;
        ensure!(ran.starts_with("tensors\n") && ran.contains(env!("CARGO_PKG_VERSION")), "{ran}");
        // Whoever runs in it can use what is meant for him, and nothing else has become somebody's.
        let places = ["/", "/opt", "/var/lib", "/opt/ramdisk", "/opt/domain", "/var/lib/larder"];
        let stat = [&["run", "--rm", image.name(), "stat", "-c", "%a %u"][..], &places].concat();
        ensure!(ok(&stat)? == "755 0\n755 0\n755 0\n1777 1000\n1777 1000\n1777 1000", "{}", ok(&stat)?);
    }
    ensure!(ok(&["inspect", "-f", "{{.Config.Cmd}}", FUSE_IMAGE])? == "[fuse]");
    Ok(())
}

/// What a clone of the repository holds, as it lies here.
fn clone() -> Result<TempDir> {
    let clone = tempfile::tempdir()?;
    let script = "git -C \"$1\" ls-files -z | tar -C \"$1\" --null --files-from=- -c | tar -C \"$2\" -x";
    let copied = Command::new("sh").args(["-c", script, "sh"]).arg(repository()).arg(clone.path()).status()?;
    ensure!(copied.success() && clone.path().join("Cargo.lock").exists(), "the repository cannot be copied");
    Ok(clone)
}

#[test]
#[ignore = "compiles everything, for many minutes; BUILDER may name an image that has cargo"]
fn the_sources_make_every_image() -> Result<()> {
    let test = "the_sources_make_every_image";
    let Some(engine) = engine(test) else { return Ok(()) };
    let clone = clone()?;
    let place = clone.path().to_string_lossy();
    let compilers = format!("BUILDER={}", std::env::var("BUILDER").unwrap_or("debian:bookworm-slim".into()));
    for builder in Builder::all(test)? {
        // The first stage is the same for all, and made once.
        let image = |file: &str, more: &[&str]| {
            let file = clone.path().join(file);
            let common = ["-f", &file.to_string_lossy(), "--build-arg", &compilers];
            builder.image(&[&common[..], more, &[&place]].concat())
        };
        let main = image("docker/Dockerfile", &[])?;
        let local = engine.run_image(main.name(), &["--shm-size=128m"], &["local", "--ufs", "/underStorage"])?;
        local.ready()?;
        local.ok(&["sh", "-c", "echo hello >/tmp/f && larder fs copyFromLocal /tmp/f /f"])?;
        ensure!(local.ok(&["larder", "fs", "cat", "/f"])? == "hello");
        for made in [image("docker/Dockerfile.fuse", &[])?, image("docker/Dockerfile", &["--target", "tiny"])?] {
            let version = ["run", "--rm", "--entrypoint=/opt/larder/bin/larder", made.name(), "version"];
            ensure!(ok(&version)? == format!("larder {}", env!("CARGO_PKG_VERSION")));
        }
    }
    Ok(())
}
