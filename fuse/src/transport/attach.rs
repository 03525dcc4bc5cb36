//! Mounting: by the system call where this process may, else by the helper `fusermount3`, which may in everybody's name.
//!
//! The transport's library could mount, too, but it unmounts again at the session's end whatever lies at that path by then, and
//! asks the helper only where `/dev/fuse` can be opened without it. Here unmounting is left to who asked for it: a session that
//! ends has been unmounted already.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSliceMut},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
    unistd::{getgid, getuid},
};

use crate::options::MountOptions;

const DEVICE: &str = "/dev/fuse";
const KIND: &str = "larder";
/// The helper, and where it is if the search path does not say.
const HELPERS: [&str; 3] = ["fusermount3", "/bin/fusermount3", "/usr/bin/fusermount3"];
/// Where the helper looks for the socket that it hands the device over.
const HANDOVER: &str = "_FUSE_COMMFD";
/// So long the helper may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks whether it has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// Mounts at a directory; gives the device that the kernel's requests come by.
///
/// # Errors
/// What the kernel or the helper says.
pub(super) fn attach(mount_point: &Path, options: &MountOptions) -> io::Result<OwnedFd> {
    let denied = match by_call(mount_point, options) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => error,
        other => return other,
    };
    match by_helper(mount_point, options) {
        // What the system says of a program that is not there says nothing of the mount.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(denied),
        other => other,
    }
}

fn by_call(mount_point: &Path, options: &MountOptions) -> io::Result<OwnedFd> {
    let root_mode = fs::metadata(mount_point)?.permissions().mode();
    let device = OpenOptions::new().read(true).write(true).open(DEVICE)?;
    let mut data = format!(
        "fd={},rootmode={root_mode:o},user_id={},group_id={}",
        device.as_raw_fd(),
        getuid().as_raw(),
        getgid().as_raw()
    );
    for option in of_the_kernel(options) {
        data.push(',');
        data.push_str(&option);
    }
    let kind = format!("fuse.{KIND}");
    mount(Some(source(options)), mount_point, Some(kind.as_str()), flags(options), Some(data.as_str()))?;
    Ok(device.into())
}

fn source(options: &MountOptions) -> &str {
    options.fsname.as_deref().unwrap_or(KIND)
}

/// What the file system itself is told.
fn of_the_kernel(options: &MountOptions) -> Vec<String> {
    let mut all = vec!["default_permissions".to_owned()];
    if options.allow_other || options.allow_root {
        // Who else may is then looked at with each request.
        all.push("allow_other".into());
    }
    all.extend(options.max_read.map(|max| format!("max_read={max}")));
    all
}

fn flags(options: &MountOptions) -> MsFlags {
    let mut flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    flags.set(MsFlags::MS_RDONLY, options.read_only);
    for flag in &options.flags {
        match *flag {
            "dev" => flags.remove(MsFlags::MS_NODEV),
            "suid" => flags.remove(MsFlags::MS_NOSUID),
            "noexec" => flags.insert(MsFlags::MS_NOEXEC),
            "noatime" => flags.insert(MsFlags::MS_NOATIME),
            "sync" => flags.insert(MsFlags::MS_SYNCHRONOUS),
            "dirsync" => flags.insert(MsFlags::MS_DIRSYNC),
            // The others are how it is without them.
            _ => {}
        }
    }
    flags
}

/// The same as one list, as the helper reads it.
fn list(options: &MountOptions) -> String {
    let mut all = vec![format!("fsname={}", escaped(source(options))), format!("subtype={KIND}")];
    all.push(if options.read_only { "ro" } else { "rw" }.to_owned());
    all.extend(options.flags.iter().map(|flag| (*flag).to_owned()));
    all.extend(of_the_kernel(options));
    all.join(",")
}

/// A value within a list.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,")
}

fn by_helper(mount_point: &Path, options: &MountOptions) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(PATIENCE))?;
    // Its standard input is the socket: a descriptor that it inherits without a number of its own.
    let helper = start(mount_point, &list(options), &theirs)?;
    drop(theirs);
    let device = receive(&ours);
    drop(ours);
    let said = finish(helper)?;
    match device {
        Ok(Some(device)) => Ok(device),
        Ok(None) if said.contains("user_allow_other") => Err(io::Error::new(io::ErrorKind::PermissionDenied, said)),
        Ok(None) => Err(io::Error::other(said)),
        Err(error) if said.is_empty() => Err(error),
        Err(_) => Err(io::Error::other(said)),
    }
}

fn start(mount_point: &Path, options: &str, socket: &UnixStream) -> io::Result<Child> {
    let mut missing = io::Error::from(io::ErrorKind::NotFound);
    for helper in HELPERS {
        let mut command = Command::new(helper);
        command.arg("-o").arg(options).arg("--").arg(mount_point).env(HANDOVER, "0");
        command.stdin(OwnedFd::from(socket.try_clone()?)).stdout(Stdio::null()).stderr(Stdio::piped());
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing = error,
            other => return other,
        }
    }
    Err(missing)
}

/// The device, or `None` where the helper has ended without giving one.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let (mut byte, mut room) = ([0; 1], nix::cmsg_space!(RawFd));
    let mut parts = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let Some(first) = descriptors.first()
        {
            // SAFETY: the kernel has just made this descriptor for this process, and nobody else knows of it.
            return Ok(Some(unsafe { OwnedFd::from_raw_fd(*first) }));
        }
    }
    Ok(None)
}

/// Waits for the helper's end; gives what it said.
fn finish(mut helper: Child) -> io::Result<String> {
    let until = Instant::now() + PATIENCE;
    while helper.try_wait()?.is_none() {
        if Instant::now() >= until {
            helper.kill()?;
            helper.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "fusermount3 does not end"));
        }
        std::thread::park_timeout(PAUSE);
    }
    let mut said = String::new();
    if let Some(stderr) = helper.stderr.take() {
        io::Read::read_to_string(&mut File::from(OwnedFd::from(stderr)), &mut said)?;
    }
    Ok(said.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_flags_and_a_list() {
        let options = MountOptions::parse(["ro,suid,noexec,allow_root,max_read=65536,fsname=a\\b"]).unwrap();
        let flags = flags(&options);
        assert!(flags.contains(MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC));
        assert!(!flags.contains(MsFlags::MS_NOSUID));
        let expected = "fsname=a\\\\b,subtype=larder,ro,suid,noexec,default_permissions,allow_other,max_read=65536";
        assert_eq!(list(&options), expected);
        assert_eq!(escaped("a,b"), "a\\,b");
        assert_eq!(list(&MountOptions::default()), "fsname=larder,subtype=larder,rw,default_permissions");
    }

    #[test]
    fn a_helper_that_gives_nothing_is_no_device() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(receive(&ours).unwrap().is_none());
    }
}
