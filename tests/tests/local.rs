//! `larder local` serves its own user on its own host: from another network namespace nothing of it is reached, and another
//! user, who can reach its ports, is given nothing.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use larder_tests::{
    processes::{free_port, larder},
    skip::{needs_root, skip},
};
use tempfile::TempDir;

/// Nobody in particular.
const SOMEBODY: u32 = 54321;

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A `larder local` over one file. It is stopped when dropped.
struct Local {
    home: TempDir,
    namespace: Option<String>,
    /// Its master's. Others who run here at the same time, in another network too, have another one.
    port: u16,
}

impl Local {
    /// In this network namespace, or ours.
    fn start(namespace: Option<&str>) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("larder-test-").tempdir()?;
        // Whoever else may look into it as far as the rights of what is in it go.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755))?;
        for directory in ["under", "memory"] {
            fs::create_dir(home.path().join(directory))?;
        }
        fs::write(home.path().join("under/file"), "content")?;
        let local = Self { home, namespace: namespace.map(str::to_owned), port: free_port() };
        let started = local.run(&["local", "--ufs", &local.at("under"), "--background"])?;
        ensure!(started.status.success(), "{}", text(&started));
        let read = local.run(&["fs", "--master", &local.status()?.0, "cat", "/file"])?;
        ensure!(read.stdout == b"content", "its own user: {}", text(&read));
        Ok(local)
    }

    fn at(&self, name: &str) -> String {
        self.home.path().join(name).to_string_lossy().into_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut ip = Command::new("ip");
                ip.args(["netns", "exec", namespace]).arg(larder());
                ip
            }
            None => Command::new(larder()),
        };
        command.args(arguments).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("LARDER_STATE_FOLDER", self.at("state")).env("LARDER_MASTER_RPC_PORT", self.port.to_string());
        command
            .env("LARDER_WORKER_TIERS", format!("MEM:{}:64MB", self.at("memory")))
            .env("LARDER_WORKER_HUGEPAGES", "never");
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.command(arguments).output()?)
    }

    /// Where its master is, and its process.
    fn status(&self) -> Result<(String, u64)> {
        let shown = self.run(&["local", "--status", "--json", "--ufs", &self.at("under")])?;
        let status: serde_json::Value = serde_json::from_slice(&shown.stdout).context(text(&shown))?;
        let (master, process) = (status["master"].as_str(), status["pid"].as_u64());
        Ok((master.with_context(|| text(&shown))?.to_owned(), process.with_context(|| text(&shown))?))
    }

    /// Its ports, as the kernel knows them.
    fn ports(&self) -> Result<BTreeSet<u16>> {
        let (_, process) = self.status()?;
        let sockets: BTreeSet<String> = fs::read_dir(format!("/proc/{process}/fd"))?
            .filter_map(|fd| Some(fs::read_link(fd.ok()?.path()).ok()?.to_string_lossy().into_owned()))
            .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        let mut ports = BTreeSet::new();
        for table in ["tcp", "tcp6"] {
            for line in fs::read_to_string(format!("/proc/{process}/net/{table}"))?.lines().skip(1) {
                let fields: Vec<_> = line.split_whitespace().collect();
                let [_, address, _, state, _, _, _, _, _, inode, ..] = fields[..] else { continue };
                // It listens, and is one of its own.
                if state == "0A" && sockets.contains(inode) {
                    let port = address.rsplit_once(':').context("an address")?.1;
                    ports.insert(u16::from_str_radix(port, 16)?);
                }
            }
        }
        ensure!(ports.len() >= 3, "RPC, data and health: {ports:?}");
        Ok(ports)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // The test has its result already.
        let _ = self.run(&["local", "--stop", "--ufs", &self.at("under")]);
    }
}

/// Two network namespaces with a wire between them. They go when dropped.
struct Wire([String; 2]);

/// Where the first of them is reached from the second.
const HERE: Ipv4Addr = Ipv4Addr::new(10, 213, 77, 1);

impl Wire {
    /// `None`, and said, where there can be none.
    fn new(test: &str) -> Option<Self> {
        if !needs_root(test) {
            return None;
        }
        let wire = Self([1, 2].map(|n| format!("larder-{}-{n}", std::process::id())));
        match wire.make() {
            Ok(()) => Some(wire),
            Err(error) => {
                skip(test, &format!("no network namespaces can be made here (ip netns): {error:#}"));
                None
            }
        }
    }

    fn make(&self) -> Result<()> {
        let [one, two] = &self.0;
        let names = [format!("lt{}a", std::process::id()), format!("lt{}b", std::process::id())];
        self.0.iter().try_for_each(|name| ip(&["netns", "add", name]))?;
        ip(&["link", "add", &names[0], "netns", one, "type", "veth", "peer", "name", &names[1], "netns", two])?;
        for (n, (space, link)) in self.0.iter().zip(&names).enumerate() {
            ip(&["-n", space, "addr", "add", &format!("10.213.77.{}/30", n + 1), "dev", link])?;
            ip(&["-n", space, "link", "set", link, "up"])?;
            ip(&["-n", space, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // What is left is seen by `ip netns`.
        self.0.iter().for_each(|name| drop(ip(&["netns", "del", name])));
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), text(&output));
    Ok(())
}

/// Does something on a thread that is in this network namespace.
fn within<T: Send + 'static>(namespace: &str, what: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let file = fs::File::open(Path::new("/run/netns").join(namespace))?;
    let thread = std::thread::spawn(move || {
        nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET)?;
        what()
    });
    thread.join().map_err(|_| anyhow::anyhow!("the thread panicked"))?
}

#[test]
fn from_another_network_namespace_nothing_of_it_is_reached() -> Result<()> {
    let Some(wire) = Wire::new("from_another_network_namespace_nothing_of_it_is_reached") else { return Ok(()) };
    let [one, two] = &wire.0;
    let local = Local::start(Some(one))?;
    let open = within(one, || Ok(TcpListener::bind("0.0.0.0:0")?))?;
    let mut all = local.ports()?;
    all.insert(open.local_addr()?.port());
    let reached = within(two, move || {
        let connect = |port: &u16| TcpStream::connect_timeout(&SocketAddr::from((HERE, *port)), Duration::from_secs(5));
        Ok(all.into_iter().filter(|port| connect(port).is_ok()).collect::<Vec<_>>())
    })?;
    ensure!(reached == [open.local_addr()?.port()], "beside what listens for everybody are reached: {reached:?}");
    Ok(())
}

#[test]
fn another_user_is_given_nothing() -> Result<()> {
    let test = "another_user_is_given_nothing";
    if !needs_root(test) {
        return Ok(());
    }
    let by_somebody = |command: &mut Command| command.uid(SOMEBODY).gid(SOMEBODY).current_dir("/").output();
    if !by_somebody(Command::new(larder()).arg("version")).is_ok_and(|output| output.status.success()) {
        skip(test, "another user may not run the binary where it lies");
        return Ok(());
    }
    let local = Local::start(None)?;
    // He knows where it is, and tries with no token, and with a wrong one.
    let (master, _) = local.status()?;
    for token in [None, Some("guessed")] {
        for asked in [&["fs", "ls", "/"][..], &["fs", "cat", "/file"], &["fs", "rm", "/file"], &["fsadmin", "report"]] {
            let mut command = local.command(&[&["--master", &master], asked].concat());
            command.envs(token.map(|token| ("LARDER_SECURITY_TOKEN", token)));
            let refused = by_somebody(&mut command)?;
            let said = text(&refused);
            ensure!(refused.status.code() == Some(5) && said.contains("token"), "{asked:?} with {token:?}: {said}");
            ensure!(!said.contains("content"), "{said}");
        }
    }
    // Without knowing: what is announced is for its user alone.
    let lost = by_somebody(&mut local.command(&["--timeout", "2s", "fs", "cat", "/file"]))?;
    ensure!(!lost.status.success() && !text(&lost).contains("content"), "{}", text(&lost));
    // Nor is there anything to read beside: the token, and what is cached.
    let find = "find \"$1\" -path \"$2\" -prune -o -type f -readable -print 2>/dev/null; true";
    let readable =
        by_somebody(Command::new("sh").args(["-c", find, "sh"]).arg(local.home.path()).arg(local.at("under")))?;
    ensure!(readable.stdout.is_empty(), "another user reads {}", text(&readable));
    Ok(())
}
