//! Whose rights a server has, and whether they suffice.
//!
//! The container image starts as root, because whoever typed `mkdir underStorage` is not known before. Before it starts a
//! thread, a server becomes the user that `process.uid` and `process.gid` name; in the image, without them, the owner of
//! the under-store directory, and without such a directory the owner of the state directory, which the image gives to an
//! ordinary user. Who was not started as root (`docker run --user`) stays who it is. Directories of the server's own that
//! are missing, or empty and root's, are made and handed over before root's rights are given up.
//!
//! Then the server tries its directories, and an error names user, path and fix before anything is served.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use larder_common::{Error, ErrorKind, Result, settings::Settings};
use nix::{
    errno::Errno,
    sys::prctl,
    unistd::{AccessFlags, Gid, Uid, access, chown, getegid, geteuid, getgroups, setgroups, setresgid, setresuid},
};

/// A user and a group by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    uid: u32,
    gid: u32,
}

/// What is known before it is decided who to be.
#[derive(Clone, Copy, Debug, Default)]
struct Facts {
    is_image: bool,
    is_root: bool,
    uid: Option<u32>,
    gid: Option<u32>,
    /// Owner and group of the under-store directory.
    under_store: Option<Identity>,
    /// Those of the state directory.
    state: Option<Identity>,
}

/// Who to be, and why; `None` to stay.
fn decide(facts: &Facts) -> Option<(Identity, &'static str)> {
    if !facts.is_root {
        return None;
    }
    let given = facts.uid.map(|uid| (Identity { uid, gid: facts.gid.unwrap_or(uid) }, "process.uid says so"));
    let owner = facts.under_store.map(|owner| (owner, "it owns the under store"));
    let state = facts.state.map(|owner| (owner, "it owns the state directory"));
    let found = given.or_else(|| owner.or(state).filter(|_| facts.is_image));
    let (identity, why) = found?;
    let identity = Identity { gid: facts.gid.unwrap_or(identity.gid), ..identity };
    (identity != Identity { uid: 0, gid: 0 }).then_some((identity, why))
}

/// The directories of a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directories {
    /// Its own: made where they are missing, and it must be able to write there.
    pub(crate) own: Vec<PathBuf>,
    /// The under store, if that is a directory: never made.
    pub(crate) under_store: Option<PathBuf>,
    /// Whether nothing is to be changed in the under store.
    pub(crate) read_only: bool,
}

impl Directories {
    /// Those of a server with these settings; `own` are its own beside the state directory.
    ///
    /// # Errors
    /// `Config` where no directory for state is known.
    pub(crate) fn of(settings: &Settings, own: Vec<PathBuf>) -> Result<Self> {
        let state = settings.state_folder(geteuid().is_root())?;
        let root = settings.master.mount_root.as_deref().map(|uri| uri.strip_prefix("file://").unwrap_or(uri));
        Ok(Self {
            own: std::iter::once(state).chain(own).collect(),
            under_store: root.filter(|root| root.starts_with('/')).map(PathBuf::from),
            read_only: settings.master.mount_readonly,
        })
    }
}

/// Becomes who this server is to be, and tries its directories. Called before the process has a second thread.
///
/// # Errors
/// `Denied` for a directory without the rights that are needed; those of the system where it refuses the change.
pub(crate) fn settle(settings: &Settings, directories: &Directories) -> Result<()> {
    let state = directories.own.first().expect("the state directory is always one of them");
    let facts = Facts {
        is_image: settings.log.image,
        is_root: geteuid().is_root(),
        uid: settings.log.uid,
        gid: settings.log.gid,
        under_store: directories.under_store.as_deref().and_then(owner),
        state: owner(state),
    };
    if let Some((identity, why)) = decide(&facts) {
        hand_over(&directories.own, identity)?;
        become_user(identity).map_err(|e| denied(identity, e))?;
        tracing::info!(uid = identity.uid, gid = identity.gid, "root's rights are given up: {why}");
    }
    directories.try_all()
}

fn owner(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|metadata| Identity { uid: metadata.uid(), gid: metadata.gid() })
}

fn denied(identity: Identity, errno: Errno) -> Error {
    let message = format!("cannot become uid {}, gid {}: {}", identity.uid, identity.gid, errno.desc());
    Error::new(ErrorKind::Denied, message).advise("keep the capabilities SETUID and SETGID, or start with --user")
}

/// Makes what is missing, and gives away what is empty and root's.
fn hand_over(own: &[PathBuf], to: Identity) -> Result<()> {
    for directory in own {
        let failed = |e: std::io::Error| Error::from(e).at(directory.as_os_str().as_encoded_bytes());
        let is_new = !directory.exists();
        fs::create_dir_all(directory).map_err(failed)?;
        let is_ours = owner(directory).is_some_and(|owner| owner.uid == 0);
        let is_free = is_new || (is_ours && !is_for_all(directory) && is_empty(directory));
        if is_free {
            chown(directory, Some(Uid::from_raw(to.uid)), Some(Gid::from_raw(to.gid))).map_err(|e| failed(e.into()))?;
        }
    }
    Ok(())
}

/// A directory in which everybody may make files needs no new owner.
fn is_for_all(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|metadata| metadata.mode() & 0o002 != 0)
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

fn become_user(identity: Identity) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    // What `--group-add` gave stays; root's own group goes.
    let mut groups: Vec<Gid> = getgroups()?.into_iter().filter(|group| group.as_raw() != 0).collect();
    groups.push(gid);
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    // Or /proc/self would be root's from now on, and with it every look at our own descriptors.
    prctl::set_dumpable(true)
}

impl Directories {
    fn try_all(&self) -> Result<()> {
        for directory in &self.own {
            fs::create_dir_all(directory)
                .map_err(|e| refused(directory, Errno::from_raw(e.raw_os_error().unwrap_or(0))))?;
            try_directory(directory, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK)?;
        }
        // One that is missing is named by whoever opens it.
        let Some(under_store) = self.under_store.as_ref().filter(|path| path.exists()) else { return Ok(()) };
        let write = if self.read_only { AccessFlags::empty() } else { AccessFlags::W_OK };
        try_directory(under_store, AccessFlags::R_OK | AccessFlags::X_OK | write)
    }
}

fn try_directory(directory: &Path, rights: AccessFlags) -> Result<()> {
    access(directory, rights).map_err(|errno| refused(directory, errno))
}

fn refused(directory: &Path, errno: Errno) -> Error {
    let (uid, gid) = (geteuid(), getegid());
    let whose = fs::metadata(directory).map_or_else(
        |_| String::new(),
        |m| format!("; it belongs to uid {}, gid {}, with mode {:o}", m.uid(), m.gid(), m.mode() & 0o7777),
    );
    let message = format!("uid {uid}, gid {gid} cannot use this directory: {}{whose}", errno.desc());
    let advice = match errno {
        Errno::EROFS => "mount it without `:ro`".to_owned(),
        _ => format!(
            "as root where it is made: chown {uid}:{gid} or chmod a+rwx on it; \
             or let the process be its owner: LARDER_UID and LARDER_GID, or docker run --user"
        ),
    };
    let kind = if errno == Errno::EROFS { ErrorKind::ReadOnly } else { ErrorKind::Denied };
    Error::new(kind, message).at(directory.as_os_str().as_encoded_bytes()).advise(advice)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn id(number: u32) -> Identity {
        Identity { uid: number, gid: number }
    }

    #[test]
    fn the_image_becomes_the_owner_of_the_under_store() {
        let image = Facts { is_image: true, is_root: true, ..Facts::default() };
        let under = Facts { under_store: Some(id(7)), state: Some(id(1000)), ..image };
        let who = |facts: &Facts| decide(facts).map(|(identity, _)| identity);
        assert_eq!(who(&under), Some(id(7)));
        assert_eq!(who(&Facts { under_store: None, ..under }), Some(id(1000)));
        assert_eq!(who(&Facts { under_store: Some(id(0)), ..under }), None, "what is root's needs root");
        assert_eq!(who(&Facts { uid: Some(5), ..under }), Some(id(5)));
        assert_eq!(who(&Facts { uid: Some(5), gid: Some(6), ..under }), Some(Identity { uid: 5, gid: 6 }));
        assert_eq!(who(&Facts { gid: Some(6), ..under }), Some(Identity { uid: 7, gid: 6 }));
        assert_eq!(who(&Facts { uid: Some(0), ..under }), None);
    }

    #[test]
    fn who_was_started_as_somebody_stays_and_so_does_root_outside_of_the_image() {
        let user = Facts { is_image: true, uid: Some(5), under_store: Some(id(7)), ..Facts::default() };
        assert_eq!(decide(&user), None);
        let host = Facts { is_root: true, under_store: Some(id(7)), ..Facts::default() };
        assert_eq!(decide(&host), None);
        assert_eq!(decide(&Facts { uid: Some(5), ..host }).map(|(identity, _)| identity), Some(id(5)));
    }

    #[test]
    fn a_directory_without_rights_is_named_with_user_path_and_fix() {
        let error = refused(Path::new("/proc/1"), Errno::EACCES).to_string();
        let uid = geteuid();
        for part in ["/proc/1", &format!("uid {uid}"), "chown", "LARDER_UID", "--user", "Permission denied"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(refused(Path::new("/x"), Errno::EROFS).to_string().contains(":ro"));
    }

    #[test]
    fn own_directories_are_made_and_an_under_store_is_not() {
        let home = tempfile::tempdir().unwrap();
        let directories = Directories {
            own: vec![home.path().join("state/deep")],
            under_store: Some(home.path().join("under")),
            read_only: false,
        };
        directories.try_all().unwrap();
        assert!(home.path().join("state/deep").is_dir() && !home.path().join("under").exists());
        if !geteuid().is_root() {
            fs::create_dir(home.path().join("under")).unwrap();
            fs::set_permissions(home.path().join("under"), fs::Permissions::from_mode(0o555)).unwrap();
            assert_eq!(directories.try_all().unwrap_err().kind(), ErrorKind::Denied);
            Directories { read_only: true, ..directories }.try_all().unwrap();
        }
    }

    #[test]
    fn only_what_is_new_or_empty_and_root_s_is_handed_over() {
        if !geteuid().is_root() {
            return;
        }
        let home = tempfile::tempdir().unwrap();
        let (new, empty, used, open) =
            (home.path().join("new"), home.path().join("empty"), home.path().join("used"), home.path().join("open"));
        for directory in [&empty, &used, &open] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(used.join("file"), "").unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
        hand_over(&[new.clone(), empty.clone(), used.clone(), open.clone()], id(12345)).unwrap();
        assert_eq!([&new, &empty, &used, &open].map(|path| owner(path).unwrap().uid), [12345, 12345, 0, 0]);
    }
}
