//! Makes a store misbehave on purpose, steered from a test while it runs.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use larder_common::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    BoxFuture, Operation, Sink, UnderStore,
    layered::{Layer, Layered},
};

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Rules {
    /// How often each operation was called.
    calls: HashMap<Operation, u64>,
    /// The call (counted from 1, over all) that fails, and with what.
    failing: Vec<(Operation, u64, Error)>,
    delays: HashMap<Operation, Duration>,
    hanging: Vec<Operation>,
    before: Vec<(Operation, Hook)>,
    read_only: bool,
    full: bool,
    /// Bytes that may still come or go before it breaks.
    fetch_left: Option<u64>,
    write_left: Option<u64>,
}

#[derive(Default)]
struct Shared {
    rules: Mutex<Rules>,
    changed: Notify,
}

/// The layer.
pub struct Faulty(Arc<Shared>);

/// Steers the faults of one store. Rules hold until [`Faults::clear`].
#[derive(Clone)]
pub struct Faults(Arc<Shared>);

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faults")
    }
}

impl Faulty {
    /// Puts it around a store; nothing is wrong until the handle says so.
    #[must_use]
    pub fn around(store: Arc<dyn UnderStore>) -> (Layered<Self>, Faults) {
        let shared = Arc::new(Shared::default());
        (Layered::new(store, Self(Arc::clone(&shared))), Faults(shared))
    }

    /// What happens to a call that comes now.
    fn judge(&self, operation: Operation) -> (Option<Hook>, Option<Duration>, Result<()>) {
        let mut rules = self.0.rules.lock();
        let count = rules.calls.entry(operation).or_default();
        *count += 1;
        let count = *count;
        let hook = rules.before.iter().position(|(o, _)| *o == operation).map(|i| rules.before.remove(i).1);
        let verdict = match rules.failing.iter().position(|(o, n, _)| *o == operation && *n == count) {
            Some(i) => Err(rules.failing.remove(i).2),
            None if rules.read_only && operation.changes() => {
                Err(Error::new(ErrorKind::ReadOnly, "the under store became read-only"))
            }
            None if rules.full && needs_room(operation) => {
                Err(Error::new(ErrorKind::NoSpace, "no space left in the under store"))
            }
            None => Ok(()),
        };
        (hook, rules.delays.get(&operation).copied(), verdict)
    }

    async fn wait_while_hanging(&self, operation: Operation) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.0.rules.lock().hanging.contains(&operation) {
                return;
            }
            changed.await;
        }
    }
}

fn needs_room(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::StartUpload
            | Operation::Write
            | Operation::Copy
            | Operation::Finish
            | Operation::UploadWhole
            | Operation::Put
            | Operation::MakeDirectory
            | Operation::Symlink
            | Operation::Link
            | Operation::MakeSpecial
    )
}

/// Takes up to `want` from what is left; the second is whether it ended there.
fn take(left: &mut Option<u64>, want: usize) -> (usize, bool) {
    match left {
        None => (want, false),
        Some(left) => {
            let given = usize::try_from(*left).unwrap_or(usize::MAX).min(want);
            *left -= given as u64;
            (given, given < want)
        }
    }
}

fn broke(what: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the under store broke off in the middle of {what}"))
}

impl Faults {
    fn rule(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.0.rules.lock());
        self.0.changed.notify_waiters();
    }

    /// Fails the call number `nth` from now (1 is the next) of an operation, once.
    pub fn fail(&self, operation: Operation, nth: u64, error: Error) {
        self.rule(|r| {
            let nth = r.calls.get(&operation).copied().unwrap_or(0) + nth;
            r.failing.push((operation, nth, error));
        });
    }

    /// Delays each call of an operation.
    pub fn slow(&self, operation: Operation, by: Duration) {
        self.rule(|r| {
            r.delays.insert(operation, by);
        });
    }

    /// Lets calls of an operation hang, those that wait included, until [`Faults::clear`].
    pub fn hang(&self, operation: Operation) {
        self.rule(|r| r.hanging.push(operation));
    }

    /// Runs this before the next call of an operation: what others do at the worst moment.
    pub fn before(&self, operation: Operation, hook: impl FnOnce() + Send + 'static) {
        self.rule(|r| r.before.push((operation, Box::new(hook))));
    }

    /// Refuses changes, or no longer.
    pub fn read_only(&self, yes: bool) {
        self.rule(|r| r.read_only = yes);
    }

    /// Has no room, or has again.
    pub fn full(&self, yes: bool) {
        self.rule(|r| r.full = yes);
    }

    /// Breaks fetches off once so many more bytes came, over all.
    pub fn break_fetch_after(&self, bytes: u64) {
        self.rule(|r| r.fetch_left = Some(bytes));
    }

    /// Breaks uploads off once so many more bytes were written, over all.
    pub fn break_upload_after(&self, bytes: u64) {
        self.rule(|r| r.write_left = Some(bytes));
    }

    /// How often an operation was called.
    #[must_use]
    pub fn calls(&self, operation: Operation) -> u64 {
        self.0.rules.lock().calls.get(&operation).copied().unwrap_or(0)
    }

    /// Everything works again; what hangs goes on.
    pub fn clear(&self) {
        self.rule(|r| *r = Rules { calls: std::mem::take(&mut r.calls), ..Rules::default() });
    }
}

impl Layer for Faulty {
    fn around<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        call: BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>> {
        Box::pin(async move {
            let (hook, delay, verdict) = self.judge(operation);
            if let Some(hook) = hook {
                hook();
            }
            if let Some(delay) = delay {
                tokio::time::sleep(delay).await;
            }
            self.wait_while_hanging(operation).await;
            verdict?;
            call.await
        })
    }

    fn sink(&self, mut sink: Box<dyn Sink>) -> Box<dyn Sink> {
        let shared = Arc::clone(&self.0);
        Box::new(move |offset: u64, bytes: &[u8]| {
            let (given, ended) = take(&mut shared.rules.lock().fetch_left, bytes.len());
            if given > 0 {
                sink.accept(offset, &bytes[..given])?;
            }
            if ended { Err(broke("a fetch")) } else { Ok(()) }
        })
    }

    fn write(&self, bytes: Bytes) -> (Bytes, Option<Error>) {
        let (given, ended) = take(&mut self.0.rules.lock().write_left, bytes.len());
        (bytes.slice(..given), ended.then(|| broke("an upload")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ObjectPath, OpenOptions, TemporaryName, memory::MemoryStore};

    #[tokio::test]
    async fn each_fault_is_as_asked_and_ends() {
        let memory = MemoryStore::new("m", OpenOptions::new(larder_common::ClusterId::default()));
        let path = ObjectPath::new("a").unwrap();
        memory.put_foreign(&path, "12345");
        let (store, faults) = Faulty::around(Arc::new(memory.clone()));
        faults.fail(Operation::Status, 2, Error::new(ErrorKind::Lost, "on purpose"));
        store.status(&path).await.unwrap();
        assert_eq!(store.status(&path).await.unwrap_err().kind(), ErrorKind::Lost);
        store.status(&path).await.unwrap();
        assert_eq!(faults.calls(Operation::Status), 3);

        let came = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&came);
        faults.break_fetch_after(3);
        let into = Box::new(move |_: u64, bytes: &[u8]| {
            sink.lock().extend_from_slice(bytes);
            Ok(())
        });
        assert_eq!(store.fetch(&path, None, 0..5, into).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(*came.lock(), b"123");

        let temporary = TemporaryName::new(path.clone(), larder_common::Name::new("t").unwrap());
        faults.break_upload_after(2);
        let upload = store.start_upload(&temporary).await.unwrap();
        assert!(upload.write_at(0, Bytes::from_static(b"abc")).await.is_err());
        faults.full(true);
        assert_eq!(upload.write_at(0, Bytes::new()).await.unwrap_err().kind(), ErrorKind::NoSpace);
        faults.clear();
        upload.write_at(2, Bytes::from_static(b"c")).await.unwrap();
        assert_eq!(upload.finish(false).await.unwrap().length, 3);

        let (other, copy) = (memory.clone(), path.clone());
        faults.before(Operation::Status, move || other.put_foreign(&copy, "longer than before"));
        assert_eq!(store.status(&path).await.unwrap().length, 18);
    }
}
