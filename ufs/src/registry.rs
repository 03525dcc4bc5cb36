//! From a URI to a store: one line per scheme, and the options that all of them take.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use larder_common::{
    ClusterId, Error, ErrorKind, Result,
    clock::{Clock, SystemClock},
};

use crate::{
    Credentials, UnderStore, credential,
    local::LocalStore,
    memory::MemoryStore,
    read_only::ReadOnly,
    remote::{self, RemoteStore},
    union::UnionStore,
};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Whose temporaries, orphans and proofs it holds.
    pub cluster: ClusterId,
    /// Refuse every change, whatever the store would do.
    pub read_only: bool,
    /// At most so many calls at the same time, 1 or more (threads of a directory, requests of a service).
    pub threads: usize,
    /// How long a call may show no progress.
    pub deadline: Duration,
    /// What the mount was given, by name.
    pub options: BTreeMap<String, String>,
    /// The credentials that this server has.
    pub credentials: Credentials,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

impl OpenOptions {
    /// The defaults: 16 calls at a time, each with 30 s.
    #[must_use]
    pub fn new(cluster: ClusterId) -> Self {
        let clock = SystemClock::shared();
        let (options, credentials) = (BTreeMap::new(), Credentials::default());
        Self { cluster, read_only: false, threads: 16, deadline: Duration::from_secs(30), options, credentials, clock }
    }
}

type Opening = Pin<Box<dyn Future<Output = Result<Arc<dyn UnderStore>>> + Send>>;
/// Gets what follows the scheme's `://`.
type Opener = fn(String, OpenOptions) -> Opening;

/// All that is built in.
const SCHEMES: &[(&str, Opener)] = &[
    ("file", |path, options| {
        Box::pin(async move { Ok(Arc::new(LocalStore::open(file_path(path)?, options).await?) as _) })
    }),
    ("union", |text, options| Box::pin(async move { Ok(Arc::new(UnionStore::open(&text, options).await?) as _) })),
    ("memory", |name, options| Box::pin(async move { Ok(Arc::new(MemoryStore::named(&name, options)) as _) })),
];

/// `//host/path` would be another host's.
fn file_path(rest: String) -> Result<String> {
    let path = rest.strip_prefix("localhost").unwrap_or(&rest);
    match path.starts_with('/') {
        true => Ok(path.to_owned()),
        false => Err(Error::new(ErrorKind::Config, format!("file://{rest} is not an absolute path"))
            .advise(format!("write it as /{rest} or file:///{rest}"))),
    }
}

/// Opens a store: an absolute path, `file:///path`, `memory://name` (one per name in this process), or a URI of a service
/// ([`RemoteStore`]).
///
/// # Errors
/// `Config` for a URI that names no store that is built in, with the nearest that is, and for a secret in the URI or the
/// options; else as the store says.
pub async fn open(uri: &str, options: OpenOptions) -> Result<Arc<dyn UnderStore>> {
    credential::check_public(uri, &options.options)?;
    let read_only = options.read_only;
    let (scheme, rest) = match uri.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None if uri.starts_with('/') => ("file".to_owned(), uri),
        None => return Err(unknown(uri)),
    };
    let built_in = SCHEMES.iter().find(|(name, _)| *name == scheme);
    let store: Arc<dyn UnderStore> = match built_in {
        Some((_, opener)) => opener(rest.to_owned(), options).await?,
        None if RemoteStore::knows(&scheme) => Arc::new(RemoteStore::open(&scheme, rest, options).await?),
        None => return Err(unknown(uri)),
    };
    Ok(if read_only { Arc::new(ReadOnly::around(store)) } else { store })
}

/// Says what would be understood. Never repeats what follows the scheme, which may hold a secret.
fn unknown(uri: &str) -> Error {
    let names: Vec<_> = SCHEMES.iter().map(|(name, _)| *name).chain(RemoteStore::schemes()).collect();
    let all: Vec<_> = names.iter().map(|name| format!("{name}://")).collect();
    let Some((scheme, _)) = uri.split_once("://") else {
        return Error::new(ErrorKind::Config, format!("{uri:?} is neither an absolute path nor a URI"))
            .advise(format!("begin it with `/` or one of {}", all.join(", ")));
    };
    if let Some(feature) = remote::service::absent(scheme) {
        return Error::new(ErrorKind::Config, format!("{scheme}:// is not in this build"))
            .advise(format!("build it with the feature {feature} of larder-ufs"));
    }
    let near = |name: &str| strsim::damerau_levenshtein(name, scheme);
    let nearest = names.iter().copied().min_by_key(|name| near(name)).filter(|name| near(name) <= 2);
    let hint = nearest.map(|name| format!("did you mean {name}://? ")).unwrap_or_default();
    Error::new(ErrorKind::Config, format!("no under store for {scheme}://"))
        .advise(format!("{hint}built in are {} and plain absolute paths", all.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(uri: &str) -> String {
        let error = open(uri, OpenOptions::new(ClusterId::default())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        error.to_string()
    }

    #[tokio::test]
    async fn what_is_not_built_in_is_answered_with_what_is() {
        assert!(refused("flie:///data").await.contains("did you mean file://?"));
        let other = refused("other://key@bucket/").await;
        assert!(other.contains("memory://") && other.contains("s3://") && !other.contains("key"), "{other}");
        let secret = refused("s3://key:hunter2@bucket/").await;
        assert!(secret.contains("credential=NAME") && !secret.contains("hunter2"), "{secret}");
        #[cfg(not(feature = "gcs"))]
        assert!(refused("gs://bucket/").await.contains("feature gcs"));
        assert!(refused("data").await.contains("begin it with `/`"));
        assert!(refused("file://data").await.contains("file:///data"));
    }

    #[tokio::test]
    async fn paths_and_uris_open_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        for uri in [path.to_owned(), format!("file://{path}"), format!("FILE://localhost{path}")] {
            let store = open(&uri, OpenOptions::new(ClusterId::default())).await.unwrap();
            assert!(store.describe().starts_with("file:///"), "{store:?}");
        }
        let options = OpenOptions { read_only: true, ..OpenOptions::new(ClusterId::default()) };
        assert!(!open(path, options).await.unwrap().capabilities().writable);
    }
}
