//! Random publications, removals and renames, compared after each step with a map from names to versions: what was
//! expected decides the outcome, and a refused change changes nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use larder_common::{ClusterId, ErrorKind, Fingerprint, Name, Result};
use larder_ufs::{
    Content, Displaced, Expected, ObjectPath, OpenOptions, OrphanName, Publish, Removal, Rename, TemporaryName,
    UnderStore, local::LocalStore, memory::MemoryStore,
};
use parking_lot::Mutex;
use proptest::prelude::*;

/// Names are 0 to 3; an expectation is "nothing", or the version that was last seen under a name (perhaps another).
#[derive(Clone, Debug)]
enum Step {
    Publish(usize, Option<usize>),
    Remove(usize, usize),
    Rename(usize, usize, usize, Option<usize>),
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..4usize;
    prop_oneof![
        4 => (name.clone(), proptest::option::of(name.clone())).prop_map(|(n, e)| Step::Publish(n, e)),
        2 => (name.clone(), name.clone()).prop_map(|(n, e)| Step::Remove(n, e)),
        // Mostly the right source, so that renames happen.
        2 => (name.clone(), name.clone(), proptest::option::of(name)).prop_map(|(f, t, e)| Step::Rename(f, t, f, e)),
    ]
}

struct Play {
    store: Arc<dyn UnderStore>,
    model: BTreeMap<usize, (Vec<u8>, Fingerprint)>,
    /// The fingerprint last seen under each name, also when it is gone.
    known: BTreeMap<usize, Fingerprint>,
    serial: u64,
}

fn path(name: usize) -> ObjectPath {
    ObjectPath::new(format!("n{name}")).unwrap()
}

impl Play {
    fn fresh(&mut self) -> Name {
        self.serial += 1;
        Name::new(format!("s{}", self.serial)).unwrap()
    }

    fn known(&self, name: usize) -> Fingerprint {
        let unknown = Fingerprint { size: 999, etag: "none".into(), ..Fingerprint::default() };
        self.known.get(&name).cloned().unwrap_or(unknown)
    }

    fn expected(&self, seen: Option<usize>) -> Expected {
        seen.map_or(Expected::Absent, |name| Expected::Fingerprint(self.known(name)))
    }

    /// What the target's state makes of an expectation.
    fn verdict(&self, target: usize, expected: &Expected) -> Option<ErrorKind> {
        match (self.model.get(&target), expected) {
            (None, Expected::Absent) => None,
            (Some(_), Expected::Absent) => Some(ErrorKind::AlreadyExists),
            (Some((_, there)), Expected::Fingerprint(print)) if there == print => None,
            (_, Expected::Fingerprint(_)) => Some(ErrorKind::Changed),
        }
    }

    fn set(&mut self, name: usize, content: Vec<u8>, print: Fingerprint) {
        self.known.insert(name, print.clone());
        self.model.insert(name, (content, print));
    }

    async fn publish(&mut self, name: usize, expected: Expected) -> (Option<ErrorKind>, Option<ErrorKind>) {
        let wanted = self.verdict(name, &expected);
        let temporary = TemporaryName::new(path(name), self.fresh());
        let content = format!("content {}", self.serial).into_bytes();
        let bytes = Content::Bytes(Bytes::from(content.clone()));
        let token = self.store.upload_whole(&temporary, bytes, false).await.unwrap().token;
        let publish = Publish { expected, token, ..Publish::new_file() };
        let done = self.store.publish(&temporary, &path(name), publish).await;
        self.store.destroy_temporary(&temporary).await.unwrap();
        if let Ok(print) = &done {
            self.set(name, content, print.clone());
        }
        (wanted, kind(done))
    }

    async fn remove(&mut self, name: usize, expected: Fingerprint) -> (Option<ErrorKind>, Option<ErrorKind>) {
        let wanted = match self.model.get(&name) {
            None => Some(ErrorKind::NotFound),
            Some((_, print)) => (*print != expected).then_some(ErrorKind::Changed),
        };
        let orphan = OrphanName::new(path(name), self.fresh());
        let done = self.store.remove(&path(name), Removal { expected, orphan, keep: false, sync: false }).await;
        if done.is_ok() {
            self.model.remove(&name);
        }
        (wanted, kind(done))
    }

    async fn rename(&mut self, from: usize, to: usize, rename: Rename) -> (Option<ErrorKind>, Option<ErrorKind>) {
        let wanted = match self.model.get(&from) {
            None => Some(ErrorKind::NotFound),
            Some((_, print)) if *print != rename.source => Some(ErrorKind::Changed),
            Some(_) => self.verdict(to, &rename.target),
        };
        let done = self.store.rename(&path(from), &path(to), rename).await;
        if let (Ok(status), true) = (&done, from != to) {
            let (content, _) = self.model.remove(&from).unwrap();
            self.set(to, content, status.fingerprint.clone());
        }
        (wanted, kind(done))
    }

    async fn check(&self) {
        let page = self.store.list(&ObjectPath::root(), None, 100).await.unwrap();
        let listed: Vec<_> = page.entries.iter().map(|(n, s)| (n.to_string(), s.fingerprint.clone())).collect();
        let wanted: Vec<_> = self.model.iter().map(|(n, (_, p))| (format!("n{n}"), p.clone())).collect();
        assert_eq!(listed, wanted);
        for (name, (content, print)) in &self.model {
            let kept = Arc::new(Mutex::new(Vec::new()));
            let into = Arc::clone(&kept);
            let sink = move |_: u64, bytes: &[u8]| {
                into.lock().extend_from_slice(bytes);
                Ok(())
            };
            self.store.fetch(&path(*name), Some(print), 0..u64::MAX, Box::new(sink)).await.unwrap();
            assert_eq!(&*kept.lock(), content);
        }
    }
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

async fn play(store: Arc<dyn UnderStore>, steps: Vec<Step>) {
    let renames = store.capabilities().rename;
    let mut play = Play { store, model: BTreeMap::new(), known: BTreeMap::new(), serial: 0 };
    for step in steps {
        let (wanted, got) = match step.clone() {
            Step::Publish(name, seen) => play.publish(name, play.expected(seen)).await,
            Step::Remove(name, seen) => play.remove(name, play.known(seen)).await,
            Step::Rename(from, to, source, target) if renames => {
                let (source, target) = (play.known(source), play.expected(target));
                play.rename(from, to, Rename { source, target, displaced: Displaced::Unlink, sync: false }).await
            }
            Step::Rename(..) => continue,
        };
        assert_eq!(got, wanted, "{step:?}");
        play.check().await;
    }
    assert!(play.store.list_temporaries().await.unwrap().is_empty());
    if play.store.capabilities().orphans {
        assert!(play.store.list_orphans().await.unwrap_or_default().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stores_do_what_a_map_does(steps in proptest::collection::vec(step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let options = OpenOptions::new(ClusterId::default());
            let dir = tempfile::tempdir().unwrap();
            play(Arc::new(LocalStore::open(dir.path(), options.clone()).await.unwrap()), steps.clone()).await;
            play(Arc::new(MemoryStore::new("model", options)), steps.clone()).await;
        });
    }
}
