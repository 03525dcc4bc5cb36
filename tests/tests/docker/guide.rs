//! The guide, `docker/README.md`: every block of commands in it is run, from top to bottom, in one shell.
//!
//! Three words mean something else here: `make dist` was done before the tests, `sudo` is not needed by root, and the images
//! have names of their own so that nobody's are replaced. All that the commands start has the label of tests.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use larder_tests::{
    docker::{FUSE_IMAGE, HostDirectory, IMAGE, LABEL, both, docker, engine, repository},
    skip,
};

const PRELUDE: &str = r#"
set -euo pipefail
make() { [ "$*" = dist ]; }
sudo() { "$@"; }
docker() {
    local words=() word verb=$1
    shift
    [ "$verb" != run ] || words=(--label "$LABEL")
    for word in "$@"; do
        case "$verb $word" in
        "run larder" | "build larder") word=$IMAGE ;;
        "run larder-fuse" | "build larder-fuse") word=$FUSE_IMAGE ;;
        esac
        words+=("$word")
    done
    command docker "$verb" "${words[@]}"
}
docker-compose() {
    if command -v docker-compose >/dev/null; then command docker-compose "$@"; else command docker compose "$@"; fi
}
# What never gets ready fails the test.
slept=0
sleep() {
    slept=$((slept + 1))
    [ $slept -lt 240 ] || { echo "it does not get ready" >&2; exit 1; }
    command sleep "$@"
}
tidy() {
    command docker ps -aq --filter "label=$LABEL" | xargs -r docker rm -f -v >/dev/null 2>&1 || true
    [ ! -d mnt ] || umount -l mnt/larder mnt 2>/dev/null || true
    ! mountpoint -q /mnt/ramdisk || umount /mnt/ramdisk
    [ ! -d /mnt/ramdisk ] || rmdir /mnt/ramdisk
}
trap tidy EXIT
set -x
"#;

/// The blocks of commands of a page.
fn commands(page: &str) -> String {
    let (mut inside, mut all) = (false, String::new());
    for line in page.lines() {
        match line.trim_end() {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => all.push_str(&format!("{line}\n")),
            _ => {}
        }
    }
    all
}

#[test]
fn every_command_of_the_guide_works() -> Result<()> {
    let test = "every_command_of_the_guide_works";
    if engine(test).is_none() || !skip::needs_root(test) {
        return Ok(());
    }
    if Path::new("/mnt/ramdisk").exists() {
        skip::skip(test, "/mnt/ramdisk is somebody's");
        return Ok(());
    }
    let here = HostDirectory::new()?;
    let copied = Command::new("cp").arg("-r").arg(repository().join("docker")).arg(here.path()).status()?;
    ensure!(copied.success());
    let page = fs::read_to_string(repository().join("docker/README.md"))?;
    let script = format!("{PRELUDE}{}", commands(&page));
    ensure!(script.matches("docker ").count() > 20, "the commands were not found");
    fs::write(here.path().join("guide.sh"), script)?;
    let output = Command::new("bash")
        .arg("guide.sh")
        .current_dir(here.path())
        .envs([
            ("IMAGE", IMAGE),
            ("FUSE_IMAGE", FUSE_IMAGE),
            ("LARDER_IMAGE", IMAGE),
            ("LARDER_FUSE_IMAGE", FUSE_IMAGE),
        ])
        .env("LABEL", format!("{LABEL}=guide"))
        .env("COMPOSE_PROJECT_NAME", format!("larder-test-{}", std::process::id()))
        .stdin(Stdio::null())
        .output()
        .context("bash")?;
    ensure!(output.status.success(), "{}", both(&output));
    let printed = String::from_utf8_lossy(&output.stdout);
    let greetings = printed.lines().filter(|line| *line == "hello").count();
    ensure!(greetings == 7 && printed.contains("1 by short circuit from here"), "{}", both(&output));
    ensure!(printed.contains("0 by short circuit from here") && printed.contains("no socket"), "{printed}");
    ensure!(printed.lines().any(|line| line == "from a program"), "{}", both(&output));
    ensure!(printed.matches("Passed: ").count() >= 2 && !printed.contains("FAILED"), "{printed}");
    drop(docker(&["network", "rm", "larder-net"])?);
    Ok(())
}
