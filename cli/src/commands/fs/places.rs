//! Paths as people type them: `/p`, `larder://host:port/p`, `alluxio://…`, `file:///…`. Pure: nothing is looked up.
//!
//! What is typed may be any bytes. [`Typed`] is a path of the cluster in which a pattern may be; it becomes an [`FsPath`]
//! as it stands ([`Typed::exact`]) or by looking at names (see `expand`).

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

use larder_common::{
    Error, ErrorKind, FsPath, Result,
    settings::{Flag, Host, Value},
};

/// A master named inside of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    host: String,
    port: Option<u16>,
}

impl Authority {
    /// The settings that this is; `shown` is the path that it came from.
    pub(crate) fn flags(&self, shown: &str) -> Vec<Flag> {
        let flag = |name: &str, value: String| Flag { shown: shown.to_owned(), name: name.to_owned(), value };
        let port = self.port.map(|port| flag("master.rpc.port", port.to_string()));
        std::iter::once(flag("master.hostname", self.host.clone())).chain(port).collect()
    }

    fn parse(text: &[u8]) -> Result<Option<Self>> {
        if text.is_empty() {
            return Ok(None);
        }
        let wrong =
            || Error::new(ErrorKind::Invalid, "this is not a master").at(text).advise("write larder://host:port/path");
        let text = std::str::from_utf8(text).map_err(|_| wrong())?;
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') && (!host.contains(':') || host.ends_with(']')) => {
                (host, Some(port))
            }
            _ => (text, None),
        };
        let port = port.map(|port| port.parse::<u16>().map_err(|_| wrong())).transpose()?;
        let host = Host::parse(host).map_err(|_| wrong())?.as_str().to_owned();
        Ok(Some(Self { host, port }))
    }
}

/// A path of the cluster as it was typed. Begins with `/`; may be a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Typed {
    /// The master that it names.
    pub(crate) authority: Option<Authority>,
    /// The path, from its first `/`.
    pub(crate) bytes: Vec<u8>,
}

impl Typed {
    /// The path as it stands, whatever it looks like as a pattern.
    ///
    /// # Errors
    /// As [`FsPath::parse`].
    pub(crate) fn exact(&self) -> Result<FsPath> {
        FsPath::parse(&self.bytes)
    }

    /// Whether a slash at its end says that it must be a directory.
    pub(crate) fn wants_directory(&self) -> bool {
        self.bytes.ends_with(b"/")
    }
}

/// A path of the cluster or of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the cluster.
    Cluster(Typed),
    /// On this machine.
    Local(PathBuf),
}

impl Place {
    /// The authority, if it names one.
    pub(crate) fn authority(&self) -> Option<&Authority> {
        match self {
            Place::Cluster(typed) => typed.authority.as_ref(),
            Place::Local(_) => None,
        }
    }
}

/// What stands before the path.
fn scheme(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = text.iter().position(|b| *b == b':')?;
    let (scheme, rest) = (&text[..colon], &text[colon + 1..]);
    let is_scheme = scheme.first().is_some_and(u8::is_ascii_alphabetic) && scheme.iter().all(u8::is_ascii_alphanumeric);
    (is_scheme && rest.starts_with(b"/")).then_some((scheme, rest))
}

/// `//authority/path` or `/path`.
fn authority_and_path(rest: &[u8]) -> (&[u8], &[u8]) {
    let Some(after) = rest.strip_prefix(b"//") else { return (b"", rest) };
    let slash = after.iter().position(|b| *b == b'/').unwrap_or(after.len());
    (&after[..slash], &after[slash..])
}

/// Reads a path that may be in the cluster or, as `file:///…`, on this machine.
///
/// # Errors
/// `Invalid` for a relative path, an unknown scheme, or an authority that is none.
pub(crate) fn place(text: &OsStr) -> Result<Place> {
    let bytes = text.as_bytes();
    if let Some((scheme, rest)) = scheme(bytes) {
        let (authority, path) = authority_and_path(rest);
        return match scheme {
            b"larder" | b"alluxio" => {
                let path = if path.is_empty() { b"/" } else { path };
                Ok(Place::Cluster(Typed { authority: Authority::parse(authority)?, bytes: path.to_vec() }))
            }
            b"file" if authority.is_empty() || authority == b"localhost" => {
                Ok(Place::Local(OsStr::from_bytes(if path.is_empty() { b"/" } else { path }).into()))
            }
            b"file" => {
                Err(Error::new(ErrorKind::Invalid, "a file of another host").at(bytes).advise("write file:///path"))
            }
            other => {
                let message = format!("{}:// is no place for a path of the cluster", other.escape_ascii());
                Err(Error::new(ErrorKind::Invalid, message)
                    .at(bytes)
                    .advise("mount it first: larder fs mount PATH URI"))
            }
        };
    }
    match bytes.first() {
        Some(b'/') => Ok(Place::Cluster(Typed { authority: None, bytes: bytes.to_vec() })),
        _ => Err(Error::new(ErrorKind::Invalid, "not an absolute path").at(bytes).advise("begin it with `/`")),
    }
}

/// Reads a path that must be in the cluster.
///
/// # Errors
/// As [`place`]; `Invalid` for a path of this machine.
pub(crate) fn typed(text: OsString) -> Result<Typed> {
    match place(&text)? {
        Place::Cluster(typed) => Ok(typed),
        Place::Local(_) => Err(Error::new(ErrorKind::Invalid, "this is a path of this machine, not of the cluster")
            .at(text.as_bytes())
            .advise("give /path or larder://host:port/path")),
    }
}

/// Reads a path that must be on this machine: with `file://`, or as any program takes it.
///
/// # Errors
/// `Invalid` for a path of the cluster.
pub(crate) fn local(text: OsString) -> Result<PathBuf> {
    match scheme(text.as_bytes()).map(|(scheme, _)| scheme) {
        Some(b"file") => match place(&text)? {
            Place::Local(path) => Ok(path),
            Place::Cluster(_) => Ok(text.into()),
        },
        Some(b"larder" | b"alluxio") => {
            Err(Error::new(ErrorKind::Invalid, "this is a path of the cluster, not of this machine")
                .at(text.as_bytes())
                .advise("use `larder fs cp`"))
        }
        _ => Ok(text.into()),
    }
}

/// The one master that paths name, as settings.
///
/// # Errors
/// `Invalid` where two paths name different ones.
pub(crate) fn flags<'a>(authorities: impl IntoIterator<Item = Option<&'a Authority>>) -> Result<Vec<Flag>> {
    let mut named = authorities.into_iter().flatten();
    let Some(first) = named.next() else { return Ok(Vec::new()) };
    if named.any(|other| other != first) {
        let error = Error::new(ErrorKind::Invalid, "the paths name different masters");
        return Err(error.advise("copy by way of file:///…, or mount one under store in both clusters"));
    }
    Ok(first.flags("the path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(text: &str) -> (Option<(String, Option<u16>)>, String) {
        match place(OsStr::new(text)).unwrap() {
            Place::Cluster(typed) => (
                typed.authority.map(|authority| (authority.host, authority.port)),
                String::from_utf8(typed.bytes).unwrap(),
            ),
            Place::Local(path) => panic!("{path:?} is local"),
        }
    }

    #[test]
    fn every_way_to_write_a_path_of_the_cluster() {
        assert_eq!(cluster("/a/b"), (None, "/a/b".into()));
        assert_eq!(cluster("larder://h:7/a"), (Some(("h".into(), Some(7))), "/a".into()));
        assert_eq!(cluster("alluxio://h/a"), (Some(("h".into(), None)), "/a".into()));
        assert_eq!(cluster("alluxio://[::1]:7/a").0, Some(("::1".into(), Some(7))));
        assert_eq!(cluster("alluxio:///a"), (None, "/a".into()));
        assert_eq!(cluster("alluxio:/a"), (None, "/a".into()));
        assert_eq!(cluster("larder://h"), (Some(("h".into(), None)), "/".into()));
        assert_eq!(cluster("/a://b"), (None, "/a://b".into()), "a colon in a name is no scheme");
    }

    #[test]
    fn paths_of_this_machine() {
        assert_eq!(place(OsStr::new("file:///tmp/x")).unwrap(), Place::Local("/tmp/x".into()));
        assert_eq!(place(OsStr::new("file:/tmp/x")).unwrap(), Place::Local("/tmp/x".into()));
        assert_eq!(local("x/y".into()).unwrap(), PathBuf::from("x/y"));
        assert_eq!(local("file:///x".into()).unwrap(), PathBuf::from("/x"));
        assert!(local("larder:///x".into()).is_err());
        assert!(typed("file:///x".into()).is_err());
    }

    #[test]
    fn names_of_any_bytes_stay_as_they_are() {
        let name = OsStr::from_bytes(b"/\xff\xfe");
        assert_eq!(typed(name.to_owned()).unwrap().exact().unwrap().as_bytes(), b"/\xff\xfe");
    }

    #[test]
    fn what_is_no_path_is_refused_with_advice() {
        for bad in ["a/b", "", "s3://bucket/x", "file://elsewhere/x", "larder://h:x/a", "larder://a b/c"] {
            let error = place(OsStr::new(bad)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{bad}");
            assert!(error.advice().is_some(), "{bad}: {error}");
        }
    }

    #[test]
    fn paths_name_at_most_one_master() {
        let named = |text: &str| typed(text.into()).unwrap();
        let (a, b, none) = (named("larder://a:1/x"), named("larder://b/x"), named("/x"));
        let of = |paths: &[&Typed]| flags(paths.iter().map(|typed| typed.authority.as_ref()));
        assert_eq!(of(&[&none]).unwrap().len(), 0);
        let given: Vec<_> = of(&[&none, &a, &a]).unwrap().into_iter().map(|flag| (flag.name, flag.value)).collect();
        assert_eq!(given, [("master.hostname".into(), "a".into()), ("master.rpc.port".into(), "1".into())]);
        assert!(of(&[&a, &b]).is_err());
    }
}
