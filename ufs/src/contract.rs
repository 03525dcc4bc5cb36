//! The suite that every store, and every stack of decorators, runs on itself: what [`crate::UnderStore`] promises, as
//! checks.
//!
//! A case says which capabilities it needs and is skipped without them; that each missing capability is answered
//! `Unsupported` is a case of its own. Everything happens below one fresh name in the store, which must be writable, so
//! that the suite can run on a store that holds other things; it leaves only an empty directory there when all is well.

mod bytes;
mod listing;
mod names;
mod patches;
mod refusals;

use std::{fmt, pin::Pin, sync::Arc};

use ::bytes::Bytes;
use larder_common::{Error, ErrorKind, Fingerprint, Name, Result};
use parking_lot::Mutex;

use crate::{
    Attributes, Capabilities, Content, Fetched, ObjectPath, OrphanName, Publish, Removal, TemporaryName, UnderStore,
};

/// Why a case failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(pub String);

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self(format!("unexpected {error:?}"))
    }
}

pub(crate) type Outcome = std::result::Result<(), Broken>;
type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// One promise.
struct Case {
    name: &'static str,
    needs: fn(&Capabilities) -> bool,
    run: for<'a> fn(&'a Stage) -> Running<'a>,
}

/// `case!(function, needed_capability, …)`.
macro_rules! case {
    ($function:path $(, $need:ident)*) => {
        $crate::contract::Case {
            name: stringify!($function),
            #[allow(unused_variables, reason = "a case may need nothing")]
            needs: |has| true $(&& has.$need)*,
            run: |stage| Box::pin($function(stage)),
        }
    };
}
use case;

/// Fails the case, naming the values.
macro_rules! same {
    ($left:expr, $right:expr, $($what:tt)+) => {{
        let (left, right) = (&$left, &$right);
        if left != right {
            let what = format!($($what)+);
            return Err($crate::contract::Broken(format!("{what}: found {left:?}, promised {right:?}")));
        }
    }};
}
use same;

/// What the suite found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The store.
    pub store: String,
    /// Capabilities that it lacks.
    pub missing: Vec<&'static str>,
    /// Cases that held.
    pub held: Vec<&'static str>,
    /// Cases that need what it lacks.
    pub skipped: Vec<&'static str>,
    /// Cases that broke, and how.
    pub broken: Vec<(&'static str, Broken)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} held, {} skipped", self.store, self.held.len(), self.skipped.len())?;
        writeln!(f, "  lacks: {}", self.missing.join(", "))?;
        if self.missing.contains(&"fences") && self.missing.contains(&"conditional put") {
            writeln!(f, "  cannot fence: it gets one writer at a time")?;
        }
        for (case, why) in &self.broken {
            writeln!(f, "  BROKEN {case}: {}", why.0)?;
        }
        Ok(())
    }
}

/// Runs every case on a store.
pub async fn run(store: Arc<dyn UnderStore>) -> Report {
    let has = store.capabilities();
    let mut report = Report { store: store.describe(), missing: has.missing(), ..Report::default() };
    let all =
        bytes::CASES.iter().chain(names::CASES).chain(patches::CASES).chain(listing::CASES).chain(refusals::CASES);
    for case in all {
        if !(case.needs)(&has) {
            report.skipped.push(case.name);
            continue;
        }
        let outcome = match Stage::set(&store, case.name).await {
            Ok(stage) => (case.run)(&stage).await,
            Err(broken) => Err(broken),
        };
        match outcome {
            Ok(()) => report.held.push(case.name),
            Err(broken) => report.broken.push((case.name, broken)),
        }
    }
    report
}

/// Where one case plays: a store and a fresh directory in it.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) store: Arc<dyn UnderStore>,
    base: ObjectPath,
}

/// A sink that keeps all, and checks that offsets go on where they ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept(Arc<Mutex<(Option<u64>, Vec<u8>)>>);

impl Kept {
    pub(crate) fn sink(&self) -> Box<dyn crate::Sink> {
        let kept = Arc::clone(&self.0);
        Box::new(move |offset: u64, bytes: &[u8]| {
            let mut kept = kept.lock();
            if kept.0.is_some_and(|next| next != offset) {
                return Err(Error::new(ErrorKind::Corrupt, "bytes out of order"));
            }
            kept.0 = Some(offset + bytes.len() as u64);
            kept.1.extend_from_slice(bytes);
            Ok(())
        })
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().1.clone()
    }
}

pub(crate) fn fresh(prefix: &str) -> Result<Name> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| Error::new(ErrorKind::Unavailable, e.to_string()))?;
    Name::new(format!("{prefix}-{}", hex::encode(random)))
}

impl Stage {
    async fn set(store: &Arc<dyn UnderStore>, case: &str) -> std::result::Result<Self, Broken> {
        let base = ObjectPath::root().join(&fresh(case.rsplit("::").next().unwrap_or(case))?)?;
        if store.capabilities().directories && store.capabilities().writable {
            store.make_directory(&base, Attributes::default()).await?;
        }
        Ok(Self { store: Arc::clone(store), base })
    }

    /// The case's own directory.
    pub(crate) fn base(&self) -> &ObjectPath {
        &self.base
    }

    /// A path in it.
    pub(crate) fn path(&self, name: impl AsRef<[u8]>) -> Result<ObjectPath> {
        self.base.join(&Name::new(name)?)
    }

    pub(crate) fn temporary(&self, target: &ObjectPath) -> Result<TemporaryName> {
        Ok(TemporaryName::new(target.clone(), fresh("t")?))
    }

    /// Writes and publishes.
    pub(crate) async fn publish(&self, target: &ObjectPath, content: &[u8], publish: Publish) -> Result<Fingerprint> {
        let temporary = self.temporary(target)?;
        let content = Content::Bytes(Bytes::copy_from_slice(content));
        let receipt = self.store.upload_whole(&temporary, content, publish.sync).await?;
        let published = self.store.publish(&temporary, target, Publish { token: receipt.token, ..publish }).await;
        if published.is_err() {
            self.store.destroy_temporary(&temporary).await?;
        }
        published
    }

    /// A new file.
    pub(crate) async fn file(&self, target: &ObjectPath, content: &[u8]) -> Result<Fingerprint> {
        self.publish(target, content, Publish::new_file()).await
    }

    /// All of a file.
    pub(crate) async fn read(&self, path: &ObjectPath) -> Result<(Vec<u8>, Fetched)> {
        let kept = Kept::default();
        let fetched = self.store.fetch(path, None, 0..u64::MAX, kept.sink()).await?;
        Ok((kept.bytes(), fetched))
    }

    pub(crate) fn removal(&self, path: &ObjectPath, expected: Fingerprint) -> Result<Removal> {
        Ok(Removal { expected, orphan: OrphanName::new(path.clone(), fresh("o")?), keep: false, sync: false })
    }
}

/// The kind of an error, or the success that should not have been.
pub(crate) fn refusal<T: fmt::Debug>(result: Result<T>) -> std::result::Result<ErrorKind, Broken> {
    match result {
        Ok(value) => Err(Broken(format!("succeeded with {value:?} and should not"))),
        Err(error) => Ok(error.kind()),
    }
}
