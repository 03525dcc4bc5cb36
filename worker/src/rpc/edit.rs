//! An edit by messages, for a client that is not on this host: each request is answered once, in order.

use std::sync::Arc;

use futures_core::Stream;
use larder_common::{Error, ErrorKind, Result};
use larder_proto::{from_status, v1, v1::edit_reply::What as Reply, v1::edit_request::What};
use tonic::Streaming;

use crate::{
    editing::{Editing, Shared},
    services::Services,
    short::edit::ranges,
};

/// The most bytes that one read asks for.
const READ_MAX: u32 = 1 << 20;

impl Services {
    /// Serves one edit until its stream ends.
    pub(crate) fn edit_stream(
        self: Arc<Self>,
        mut requests: Streaming<v1::EditRequest>,
    ) -> impl Stream<Item = Result<v1::EditReply>> + Send {
        async_stream::try_stream! {
            let first = requests.message().await.map_err(|status| from_status(&status))?;
            let Some(What::Begin(begin)) = first.and_then(|request| request.what) else {
                Err(Error::new(ErrorKind::Invalid, "an edit must begin with its grant"))?;
                return;
            };
            let edit = self.begin_remote(&begin).await?;
            let over = edit.lock().await.over();
            yield v1::EditReply { what: Some(state(&edit).await?) };
            loop {
                // A mount may keep a file open for days: the stream is watched by its connection's keep-alive.
                let request = tokio::select! {
                    request = requests.message() => request.map_err(|status| from_status(&status)),
                    () = over.cancelled() => Err(Error::new(ErrorKind::Changed, "the write lease is over")),
                };
                let Some(request) = request? else { return };
                let is_last = matches!(request.what, Some(What::End(_) | What::Drop(_)));
                let answer = self.edit_request(&edit, request).await;
                let what = answer.unwrap_or_else(|error| Reply::Failure(error.into()));
                yield v1::EditReply { what: Some(what) };
                if is_last {
                    return;
                }
            }
        }
    }

    async fn begin_remote(self: &Arc<Self>, begin: &v1::EditBegin) -> Result<Shared> {
        let granted = self.grant(&begin.grant)?;
        let editing = Editing::begin(self, granted, 0).await?;
        let (lease, over) = (editing.lease(), editing.over());
        let shared = Arc::new(tokio::sync::Mutex::new(editing));
        self.writings.enter_edit(lease, &shared, over);
        Ok(shared)
    }

    async fn edit_request(&self, shared: &Shared, request: v1::EditRequest) -> Result<Reply> {
        let mut edit = shared.lock().await;
        match request.what {
            Some(What::Read(read)) => {
                let length = usize::try_from(read.length.min(READ_MAX)).unwrap_or(0);
                return edit.read(read.offset, length).await.map(Reply::Data);
            }
            Some(What::Write(write)) => edit.write(write.offset, write.data).await?,
            Some(What::Resize(resize)) => edit.resize(resize.length).await?,
            Some(What::Allocate(allocate)) => {
                let end = allocate.offset.saturating_add(allocate.length);
                match allocate.zero {
                    true => edit.zero(allocate.offset..end).await?,
                    false => drop(edit.reserve(end).await?),
                }
            }
            Some(What::Commit(commit)) => {
                return edit.commit(commit.length, ranges(&commit.dirty), false).await.map(Reply::Sealed);
            }
            Some(What::GoOn(go_on)) => edit.go_on(self.grant(&go_on.grant)?)?,
            Some(What::End(_)) => {
                edit.end().await?;
                return Ok(Reply::Done(v1::EditState::default()));
            }
            Some(What::Drop(_)) => return Ok(Reply::Done(v1::EditState::default())),
            Some(What::Begin(_)) | None => {
                return Err(Error::new(ErrorKind::Mismatch, "a request that is not known here"));
            }
        }
        drop(edit);
        state(shared).await
    }
}

async fn state(edit: &Shared) -> Result<Reply> {
    let (length, ..) = edit.lock().await.state()?;
    Ok(Reply::Done(v1::EditState { length }))
}
