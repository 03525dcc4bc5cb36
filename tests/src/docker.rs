//! A real container engine, as the tests of the images use it: images built once, and containers, networks and directories
//! that go when their value goes.
//!
//! Where there is no engine a test says that it was skipped; with `DOCKER_TESTS=required` it fails. Nothing is pulled: the
//! base image is made by `scripts/docker-engine`, and the release by `make dist`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{processes::pause, skip::skip};

/// The name of the image that is tested.
pub const IMAGE: &str = "larder-test";
/// The image for mounts.
pub const FUSE_IMAGE: &str = "larder-test-fuse";
/// The image of nothing but the binary.
pub const TINY_IMAGE: &str = "larder-test-tiny";
/// The label of everything that tests make.
pub const LABEL: &str = "larder-test";
/// How long a server may take to be ready.
const READY: Duration = Duration::from_secs(40);

/// The engine.
#[derive(Debug)]
pub struct Engine {
    _built: (),
}

/// The engine with its images; `None` where there is none, which is noted for this test.
///
/// # Panics
/// Where one is required and missing, or an image cannot be built.
#[must_use]
pub fn engine(test: &str) -> Option<&'static Engine> {
    static ENGINE: OnceLock<Result<Engine, String>> = OnceLock::new();
    let found = ENGINE.get_or_init(|| {
        Engine::find().map_err(|error| {
            let required = std::env::var("DOCKER_TESTS").is_ok_and(|value| value == "required");
            assert!(!required, "a container engine is required: {error:#}");
            format!("{error:#}")
        })
    });
    match found {
        Ok(engine) => Some(engine),
        Err(reason) => {
            skip(test, reason);
            None
        }
    }
}

/// The repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

/// Runs the client of the engine.
///
/// # Errors
/// Where there is none.
pub fn docker(arguments: &[&str]) -> Result<Output> {
    let output = Command::new("docker").args(arguments).stdin(Stdio::null()).output();
    output.context("there is no docker; scripts/docker-engine installs and starts it")
}

/// Runs the client, which must succeed; gives what it printed.
///
/// # Errors
/// With what it said.
pub fn ok(arguments: &[&str]) -> Result<String> {
    let output = docker(arguments)?;
    if !output.status.success() {
        bail!("docker {}: {}", arguments.join(" "), both(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// What a command printed and said.
#[must_use]
pub fn both(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}: {}{}", output.status, text(&output.stdout), text(&output.stderr))
}

fn number() -> u32 {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

fn name() -> String {
    format!("larder-test-{}-{}", std::process::id(), number())
}

impl Engine {
    fn find() -> Result<Self> {
        ok(&["info"]).context("no engine answers; scripts/docker-engine starts one")?;
        let folder = repository().join("docker");
        let is_release = |entry: &fs::DirEntry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with("larder-") && name.to_string_lossy().ends_with(".tar.gz")
        };
        if !fs::read_dir(&folder)?.flatten().any(|entry| is_release(&entry)) {
            bail!("there is no release in docker/; run `make dist`");
        }
        ok(&["image", "inspect", "debian:bookworm-slim"]).context("no base image; scripts/docker-engine makes it")?;
        let folder = folder.to_string_lossy().into_owned();
        let fuse = format!("{folder}/Dockerfile.fuse");
        for (image, more) in
            [(IMAGE, &[][..]), (TINY_IMAGE, &["--target", "tiny"][..]), (FUSE_IMAGE, &["-f", &fuse][..])]
        {
            let arguments = [&["build", "-q", "-t", image][..], more, &[&folder]].concat();
            if let Err(error) = ok(&arguments) {
                panic!("the image {image} cannot be built: {error:#}");
            }
        }
        Ok(Self { _built: () })
    }

    /// Starts a container of the image with these options, and this role or command.
    ///
    /// # Errors
    /// Where the engine refuses it.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Result<Container> {
        self.run_image(IMAGE, options, command)
    }

    /// The same with another image.
    ///
    /// # Errors
    /// Where the engine refuses it.
    pub fn run_image(&self, image: &str, options: &[&str], command: &[&str]) -> Result<Container> {
        let name = name();
        let start = ["run", "-d", "--name", &name, "--label", LABEL];
        ok(&[&start[..], options, &[image], command].concat())?;
        Ok(Container { name })
    }

    /// Runs a command in a container of its own to its end.
    ///
    /// # Errors
    /// Where the engine cannot be asked.
    pub fn once(&self, options: &[&str], command: &[&str]) -> Result<Output> {
        let start = ["run", "--rm", "--label", LABEL];
        docker(&[&start[..], options, &[IMAGE], command].concat())
    }

    /// A bridge network of its own, with names.
    ///
    /// # Errors
    /// Where the engine refuses it.
    pub fn network(&self) -> Result<Network> {
        let name = name();
        ok(&["network", "create", "--label", LABEL, &name])?;
        Ok(Network(name))
    }

    /// Where the host is reached from every network: the gateway of the default bridge, as good as a public address.
    ///
    /// # Errors
    /// Where there is no such bridge.
    pub fn host_address(&self) -> Result<String> {
        let form = "{{with index .IPAM.Config 0}}{{.Gateway}},{{.Subnet}}{{end}}";
        let described = ok(&["network", "inspect", "bridge", "-f", form])?;
        gateway(&described).with_context(|| format!("no gateway in {described}"))
    }
}

/// An engine that has started for the first time names no gateway: it takes the first address of the subnet.
fn gateway(described: &str) -> Option<String> {
    let (gateway, subnet) = described.split_once(',')?;
    if !gateway.is_empty() {
        return Some(gateway.to_owned());
    }
    let network: std::net::Ipv4Addr = subnet.split('/').next()?.parse().ok()?;
    Some(std::net::Ipv4Addr::from(u32::from(network) + 1).to_string())
}

/// What makes images of a Dockerfile: BuildKit, which clients of today use, and the builder before it. They differ in
/// what they take.
#[derive(Debug)]
pub struct Builder {
    client: PathBuf,
    buildkit: &'static str,
}

impl Builder {
    /// Those that can be had here; a missing one is noted for this test.
    ///
    /// # Errors
    /// Where there is none.
    pub fn all(test: &str) -> Result<Vec<Self>> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let clients: Vec<_> = std::env::split_paths(&path).map(|folder| folder.join("docker")).collect();
        let mut all = Vec::new();
        for (buildkit, called) in [("0", "the builder before BuildKit"), ("1", "BuildKit")] {
            let each = clients.iter().map(|client| Self { client: client.clone(), buildkit });
            match each.into_iter().find(Self::works) {
                Some(builder) => all.push(builder),
                None => skip(test, &format!("no docker client here has {called}")),
            }
        }
        if all.is_empty() {
            bail!("no docker client builds anything");
        }
        Ok(all)
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.client);
        command.arg("build").args(arguments).env("DOCKER_BUILDKIT", self.buildkit).stdin(Stdio::null());
        command.output().with_context(|| self.client.display().to_string())
    }

    /// Tried with an image that can be made everywhere.
    fn works(&self) -> bool {
        let Ok(context) = tempfile::tempdir() else { return false };
        let dockerfile = "FROM scratch\nCOPY Dockerfile /\n";
        let written = fs::write(context.path().join("Dockerfile"), dockerfile).is_ok();
        let built = || self.image(&[&context.path().to_string_lossy()]).is_ok();
        written && self.client.exists() && built()
    }

    /// Builds an image with these arguments.
    ///
    /// # Errors
    /// What the build said.
    pub fn image(&self, arguments: &[&str]) -> Result<Image> {
        let image = Image(name());
        let output = self.run(&[&["-q", "-t", &image.0][..], arguments].concat())?;
        if !output.status.success() {
            bail!("DOCKER_BUILDKIT={} docker build {}: {}", self.buildkit, arguments.join(" "), both(&output));
        }
        Ok(image)
    }
}

/// An image that one test needs. It goes when dropped.
#[derive(Debug)]
pub struct Image(String);

impl Image {
    /// Builds it with these arguments.
    ///
    /// # Errors
    /// What the build said.
    pub fn build(arguments: &[&str]) -> Result<Self> {
        let image = Self(name());
        ok(&[&["build", "-q", "-t", &image.0][..], arguments].concat())?;
        Ok(image)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // What cannot be removed has a name that says where it comes from.
        let _ = docker(&["rmi", "-f", &self.0]);
    }
}

/// A network. It goes when dropped, and before it its containers must.
#[derive(Debug)]
pub struct Network(String);

impl Network {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What cannot be removed has the label of tests on it.
        let _ = docker(&["network", "rm", &self.0]);
    }
}

/// A container. It is removed with its volumes when dropped.
#[derive(Debug)]
pub struct Container {
    name: String,
}

impl Container {
    /// Its name, which is also its name on networks.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has logged.
    #[must_use]
    pub fn logs(&self) -> String {
        docker(&["logs", &self.name]).map_or_else(|error| error.to_string(), |output| both(&output))
    }

    /// Runs a command in it.
    ///
    /// # Errors
    /// Where the engine cannot be asked.
    pub fn exec(&self, command: &[&str]) -> Result<Output> {
        docker(&[&["exec", &self.name][..], command].concat())
    }

    /// Runs a command in it that must succeed.
    ///
    /// # Errors
    /// With what it said, and the container's log.
    pub fn ok(&self, command: &[&str]) -> Result<String> {
        let output = self.exec(command)?;
        if !output.status.success() {
            bail!("{}: {}\n{}", command.join(" "), both(&output), self.logs());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Waits until its servers serve.
    ///
    /// # Errors
    /// Where they do not, with the log.
    pub fn ready(&self) -> Result<()> {
        self.until("ready", || Ok(self.exec(&["larder", "health", "--ready"])?.status.success()))
    }

    /// Waits until its log holds a text.
    ///
    /// # Errors
    /// Where it does not come, with the log.
    pub fn says(&self, text: &str) -> Result<()> {
        self.until(text, || Ok(self.logs().contains(text)))
    }

    fn until(&self, what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + READY;
        while !is_so()? {
            if Instant::now() > deadline {
                bail!("not {what} within {READY:?}; its log:\n{}", self.logs());
            }
            for _ in 0..5 {
                pause();
            }
        }
        Ok(())
    }

    /// A field of what the engine knows of it.
    ///
    /// # Errors
    /// Where the engine cannot be asked.
    pub fn inspect(&self, field: &str) -> Result<String> {
        ok(&["inspect", "-f", field, &self.name])
    }

    /// A counter of its server.
    ///
    /// # Errors
    /// Where there is no such counter.
    pub fn counter(&self, counter: &str) -> Result<u64> {
        let text = self.ok(&["larder", "health", "--metrics"])?;
        let value = text.lines().find_map(|line| line.strip_prefix(counter)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).with_context(|| format!("no {counter} in {text}"))
    }

    /// Waits for its end and gives its exit code.
    ///
    /// # Errors
    /// Where it does not end in time.
    pub fn wait(&self) -> Result<i32> {
        self.until("ended", || Ok(self.inspect("{{.State.Running}}")? == "false"))?;
        Ok(self.inspect("{{.State.ExitCode}}")?.parse()?)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // What cannot be removed has the label of tests on it.
        let _ = docker(&["rm", "-f", "-v", &self.name]);
    }
}

/// A directory of the host for containers, tidied up as root, since other users wrote to it.
#[derive(Debug)]
pub struct HostDirectory {
    path: PathBuf,
    is_mounted: bool,
}

impl HostDirectory {
    /// An empty directory that everybody may write to.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(name());
        fs::create_dir(&path)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        Ok(Self { path, is_mounted: false })
    }

    /// A ramdisk of the host, made as in the guide.
    ///
    /// # Errors
    /// The system's; only root may mount.
    pub fn ramdisk() -> Result<Self> {
        let mut directory = Self::new()?;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("ramfs"), &directory.path, Some("ramfs"), flags, Some("size=1G"))?;
        directory.is_mounted = true;
        fs::set_permissions(&directory.path, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        Ok(directory)
    }

    /// Gives it to a user.
    ///
    /// # Errors
    /// The system's.
    pub fn owned_by(self, uid: u32) -> Result<Self> {
        std::os::unix::fs::chown(&self.path, Some(uid), Some(uid))?;
        fs::set_permissions(&self.path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(self)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The option that mounts it into a container.
    #[must_use]
    pub fn at(&self, target: &str) -> String {
        format!("{}:{target}", self.path.display())
    }
}

impl Drop for HostDirectory {
    fn drop(&mut self) {
        if self.is_mounted {
            // The containers that used it are gone.
            let _ = nix::mount::umount2(&self.path, nix::mount::MntFlags::MNT_DETACH);
        }
        // Left behind in the directory for temporary files if not.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_is_the_first_address_where_none_is_named() {
        assert_eq!(gateway("172.18.0.9,172.18.0.0/16").as_deref(), Some("172.18.0.9"));
        assert_eq!(gateway(",172.17.0.0/16").as_deref(), Some("172.17.0.1"));
        assert_eq!(gateway("<no value>"), None);
    }
}
