//! The fake worker's edits: a plain file of its own for each lease, without room to run out of or blocks to miss.

use std::{fs::File, os::unix::fs::FileExt, path::PathBuf, sync::Arc};

use futures_core::Stream;
use larder_common::{Error, ErrorKind, Generation};
use larder_proto::{
    Grant, into_status,
    v1::{self, edit_reply::What as Reply, edit_request::What},
};
use tonic::{Status, Streaming};

use super::{Version, worker::Worker};

/// One edit.
pub(crate) struct Edit {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) grant: Grant,
}

impl Edit {
    pub(crate) fn begin(worker: &Worker, signed: &[u8]) -> Result<Self, Error> {
        let grant = worker.verify(signed)?;
        let right = grant.write.clone().ok_or_else(|| Error::new(ErrorKind::Denied, "no right to write"))?;
        let base = right.base.filter(|base| base.length > 0);
        let bytes = base.map(|base| worker.under.lock()[&(grant.file.0, base.generation.0)].clone());
        let path = worker.folder.join(format!("edit-{}", right.lease.0));
        std::fs::write(&path, bytes.unwrap_or_default())?;
        let file = File::options().read(true).write(true).open(&path)?;
        Ok(Self { path, file, grant })
    }

    pub(crate) fn length(&self) -> u64 {
        self.file.metadata().unwrap().len()
    }

    fn version(&self) -> Version {
        (self.grant.file.0, self.grant.generation.0)
    }

    pub(crate) fn commit(&self, worker: &Worker, length: u64) -> v1::Receipt {
        let mut bytes = std::fs::read(&self.path).unwrap();
        assert!(bytes.len() as u64 >= length);
        bytes.truncate(length as usize);
        worker.receipt(self.version(), bytes)
    }

    pub(crate) fn go_on(&mut self, worker: &Worker, signed: &[u8]) -> Result<(), Error> {
        let next = worker.verify(signed)?;
        let base = next.write.as_ref().unwrap().base.unwrap().generation;
        assert_eq!(base, Generation(self.version().1));
        self.grant = next;
        Ok(())
    }

    fn answer(&mut self, worker: &Worker, what: What) -> Result<Reply, Error> {
        match what {
            What::Read(read) => {
                let mut bytes = vec![0; read.length as usize];
                let count = self.file.read_at(&mut bytes, read.offset)?;
                bytes.truncate(count);
                return Ok(Reply::Data(bytes.into()));
            }
            What::Write(write) => self.file.write_all_at(&write.data, write.offset)?,
            What::Resize(resize) => self.file.set_len(resize.length)?,
            What::Allocate(allocate) if allocate.zero => {
                self.file.write_all_at(&vec![0; allocate.length as usize], allocate.offset)?;
            }
            What::Commit(commit) => return Ok(Reply::Sealed(self.commit(worker, commit.length))),
            What::GoOn(go_on) => self.go_on(worker, &go_on.grant)?,
            What::Allocate(_) | What::End(_) | What::Drop(_) => {}
            What::Begin(_) => return Err(Error::new(ErrorKind::Invalid, "begun already")),
        }
        Ok(Reply::Done(v1::EditState { length: self.length() }))
    }
}

pub(crate) fn serve(
    worker: Arc<Worker>,
    mut requests: Streaming<v1::EditRequest>,
) -> impl Stream<Item = Result<v1::EditReply, Status>> + Send {
    async_stream::try_stream! {
        let mut edit: Option<Edit> = None;
        while let Some(request) = requests.message().await? {
            let what = request.what.unwrap();
            let answer = match (&mut edit, what) {
                (None, What::Begin(begin)) => {
                    let begun = Edit::begin(&worker, &begin.grant).map_err(|error| into_status(&error))?;
                    let length = begun.length();
                    edit = Some(begun);
                    Ok(Reply::Done(v1::EditState { length }))
                }
                (Some(edit), what) => edit.answer(&worker, what),
                (None, _) => Err(Error::new(ErrorKind::Invalid, "begin first")),
            };
            let what = answer.unwrap_or_else(|error| Reply::Failure((&error).into()));
            yield v1::EditReply { what: Some(what) };
        }
    }
}
