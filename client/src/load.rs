//! Bringing files into the cache: the client lists, opens many at a time, and asks the workers that are assigned to the
//! missing blocks, several at the same time. What is cached already is counted and not moved.

use std::{collections::VecDeque, sync::Arc};

use futures_core::Stream;
use futures_util::StreamExt;
use larder_common::{BlockIndex, Error, ErrorKind, FsPath, Result};
use larder_proto::{from_status, v1};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    content::{Access, Content},
    core::Core,
    file_system::FileSystem,
    options::{ListOptions, LoadOptions},
};

/// Files that one message opens.
const BATCH: usize = 64;

/// How far a load is. All numbers only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadProgress {
    /// Files to load.
    pub files: u64,
    /// Of these, done or failed.
    pub files_done: u64,
    /// Blocks of these.
    pub blocks: u64,
    /// Of these, in the cache now.
    pub blocks_done: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Of these, in the cache now.
    pub bytes_done: u64,
    /// Of these, in the cache before.
    pub bytes_cached: u64,
    /// What failed so far.
    pub failures: Vec<LoadFailure>,
}

/// A file that could not be loaded wholly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadFailure {
    /// The file.
    pub path: FsPath,
    /// The block, where it concerns one.
    pub block: Option<u32>,
    /// Why.
    pub error: Error,
}

#[derive(Debug)]
enum Event {
    Block { bytes: u64, was_cached: bool },
    Failed(LoadFailure),
    FileDone,
}

impl LoadProgress {
    fn take(&mut self, event: Event) {
        match event {
            Event::Block { bytes, was_cached } => {
                self.blocks_done += 1;
                self.bytes_done += bytes;
                self.bytes_cached += if was_cached { bytes } else { 0 };
            }
            Event::Failed(failure) => self.failures.push(failure),
            Event::FileDone => self.files_done += 1,
        }
    }
}

pub(crate) fn load(
    fs: FileSystem,
    path: Result<FsPath>,
    options: LoadOptions,
) -> impl Stream<Item = Result<LoadProgress>> + Send {
    async_stream::try_stream! {
        let path = path?;
        let mut progress = LoadProgress::default();
        let mut files = VecDeque::new();
        let mut entries = fs.list(&path, ListOptions { recursive: true, ..ListOptions::default() });
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            if entry.status.kind.is_file() {
                progress.files += 1;
                progress.blocks += u64::from(entry.status.block_size.count(entry.status.length));
                progress.bytes += entry.status.length;
                files.push_back(entry.path);
            }
        }
        yield progress.clone();
        let (events, mut happened) = mpsc::channel(256);
        // Dropping the stream drops the set, which ends all tasks.
        let mut tasks = JoinSet::new();
        tasks.spawn(Loading { core: Arc::clone(&fs.0), events, options }.run(files));
        while let Some(event) = happened.recv().await {
            progress.take(event);
            while let Ok(event) = happened.try_recv() {
                progress.take(event);
            }
            yield progress.clone();
        }
        drop(tasks);
    }
}

#[derive(Clone)]
struct Loading {
    core: Arc<Core>,
    events: mpsc::Sender<Event>,
    options: LoadOptions,
}

impl Loading {
    async fn run(self, mut files: VecDeque<FsPath>) {
        let mut tasks: JoinSet<()> = JoinSet::new();
        let parallel = self.options.parallel.max(1);
        while !files.is_empty() {
            let batch: Vec<FsPath> = files.drain(..files.len().min(BATCH)).collect();
            for (path, opened) in self.open(batch).await {
                while tasks.len() >= parallel {
                    tasks.join_next().await;
                }
                match opened {
                    Ok(content) => {
                        tasks.spawn(self.clone().file(content));
                    }
                    Err(error) => self.failed(&path, None, error).await,
                }
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn tell(&self, event: Event) {
        // Whoever dropped the stream wants to hear no more.
        let _ = self.events.send(event).await;
    }

    /// A file that failed as a whole.
    async fn failed(&self, path: &FsPath, block: Option<u32>, error: Error) {
        let whole = block.is_none();
        self.tell(Event::Failed(LoadFailure { path: path.clone(), block, error })).await;
        if whole {
            self.tell(Event::FileDone).await;
        }
    }

    async fn open(&self, paths: Vec<FsPath>) -> Vec<(FsPath, Result<Arc<Content>>)> {
        let epoch = self.core.caches.metadata.epoch();
        let request = |path: &FsPath| v1::OpenRequest { path: path.as_bytes().to_vec().into(), ..Default::default() };
        let requests = v1::OpenManyRequest { requests: paths.iter().map(request).collect() };
        let reply = self.core.link.ask(self.core.link.deadline(), |mut client| {
            let requests = requests.clone();
            async move { client.open_many(requests).await }
        });
        let results = match reply.await {
            Ok(reply) => reply.results,
            Err(error) => return paths.into_iter().map(|path| (path, Err(error.clone()))).collect(),
        };
        let missing = || Error::new(ErrorKind::Mismatch, "the master did not answer for this file");
        let mut results = results.into_iter();
        let open = |path: FsPath| {
            let opened = match results.next().and_then(|result| result.what) {
                Some(v1::open_result::What::Reply(reply)) => {
                    let known = self.core.caches.opened(&path, &reply, &reply.workers, epoch);
                    known.and_then(|known| known.content.ok_or_else(missing))
                }
                Some(v1::open_result::What::Failure(failure)) => Err(failure.into()),
                None => Err(missing()),
            };
            (path, opened)
        };
        paths.into_iter().map(open).collect()
    }

    async fn file(self, content: Arc<Content>) {
        let access = content.access.load_full();
        let mut todo: Vec<(usize, Vec<u32>)> = Vec::new();
        for block in 0..content.blocks() {
            if access.places.holder(block).is_some() {
                let bytes = content.block_size.length(BlockIndex(block), content.length);
                self.tell(Event::Block { bytes, was_cached: true }).await;
                continue;
            }
            let assigned = access.places.assignments.iter().find(|a| a.blocks.iter().any(|run| run.contains(&block)));
            let Some(assigned) = assigned else {
                let error = Error::new(ErrorKind::Unavailable, "no worker can fetch this block")
                    .advise("see `larder fsadmin report workers`");
                self.failed(&content.path, Some(block), error).await;
                continue;
            };
            match todo.iter_mut().find(|(worker, _)| *worker == assigned.worker) {
                Some((_, blocks)) => blocks.push(block),
                None => todo.push((assigned.worker, vec![block])),
            }
        }
        let at_workers = todo.into_iter().map(|(worker, blocks)| self.at_worker(&content, &access, worker, blocks));
        futures_util::future::join_all(at_workers).await;
        self.tell(Event::FileDone).await;
    }

    async fn at_worker(&self, content: &Content, access: &Access, worker: usize, blocks: Vec<u32>) {
        let mut left = blocks.clone();
        if let Err(error) = self.ask(content, access, worker, &mut left).await {
            for block in left {
                self.failed(&content.path, Some(block), error.clone()).await;
            }
        }
    }

    async fn ask(&self, content: &Content, access: &Access, worker: usize, left: &mut Vec<u32>) -> Result<()> {
        let worker = self.core.workers.get(&access.places.workers[worker])?;
        let runs = larder_proto::convert::to_runs(left.iter().copied());
        let peers = access.places.holders.iter().map(|h| (&access.places.workers[h.worker]).into()).collect();
        let request = v1::LoadRequest { grant: access.grant.clone(), runs, peers };
        let mut client = worker.client();
        let stall = |_| crate::retry::late("the worker");
        let replies = tokio::time::timeout(self.options.stall, client.load(request)).await.map_err(stall)?;
        let mut replies = replies.map_err(|status| from_status(&status))?.into_inner();
        loop {
            let reply = tokio::time::timeout(self.options.stall, replies.message()).await.map_err(stall)?;
            let Some(reply) = reply.map_err(|status| from_status(&status))? else { break };
            left.retain(|block| *block != reply.block);
            match reply.failure {
                Some(failure) => self.failed(&content.path, Some(reply.block), failure.into()).await,
                None => self.tell(Event::Block { bytes: reply.bytes, was_cached: reply.was_cached }).await,
            }
        }
        match left.is_empty() {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Unavailable, "the worker did not say how it ended")),
        }
    }
}
