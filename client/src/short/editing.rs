//! What an edit in place asks of a co-located worker.

use std::os::fd::OwnedFd;

use bytes::Bytes;
use larder_common::{Error, ErrorKind, Result};
use larder_proto::v1::{self, short_reply::What as Reply, short_request::What};

use super::{Short, Ticket, unexpected};
use crate::retry::Deadline;

impl Short {
    /// Takes a file over, or makes a new one: its ticket, its descriptor, and what may be done with it at once.
    pub(crate) async fn edit(
        &self,
        grant: Bytes,
        shared: bool,
        deadline: Deadline,
    ) -> Result<(Ticket, OwnedFd, v1::ShortWritable)> {
        let write = v1::ShortWrite { grant, edit: true, shared, reserve: 0 };
        let mut answer = self.ask(What::Write(write), deadline).await?;
        let (Reply::Writable(writable), Some(ticket)) = (answer.what, answer.ticket) else { return Err(unexpected()) };
        match answer.descriptors.pop() {
            Some(descriptor) => Ok((ticket, descriptor, writable)),
            None => Err(Error::new(ErrorKind::NoSpace, "this process may open no more descriptors")
                .advise("raise the limit of open files (ulimit -n)")),
        }
    }

    /// Has the blocks of these bytes in the descriptor.
    pub(crate) async fn fill(&self, fill: v1::ShortFill, deadline: Deadline) -> Result<v1::ShortFilled> {
        self.filled(What::Fill(fill), deadline).await
    }

    /// Gives the file another length.
    pub(crate) async fn resize(&self, ticket: u64, length: u64, deadline: Deadline) -> Result<v1::ShortFilled> {
        self.filled(What::Resize(v1::ShortResize { ticket, length }), deadline).await
    }

    /// Begins the next generation.
    pub(crate) async fn go_on(&self, ticket: u64, grant: Bytes, deadline: Deadline) -> Result<v1::ShortFilled> {
        self.filled(What::GoOn(v1::ShortGoOn { ticket, grant }), deadline).await
    }

    async fn filled(&self, what: What, deadline: Deadline) -> Result<v1::ShortFilled> {
        match self.ask(what, deadline).await?.what {
            Reply::Filled(filled) => Ok(filled),
            _ => Err(unexpected()),
        }
    }

    /// Seals a generation.
    pub(crate) async fn commit(&self, commit: v1::ShortCommit, deadline: Deadline) -> Result<v1::Receipt> {
        match self.ask(What::Commit(commit), deadline).await?.what {
            Reply::Sealed(receipt) => Ok(receipt),
            _ => Err(unexpected()),
        }
    }

    /// Gives the file back. The descriptor must be closed.
    pub(crate) async fn end(&self, mut ticket: Ticket, deadline: Deadline) -> Result<bool> {
        match self.ask(What::End(v1::ShortEnd { ticket: ticket.number }), deadline).await?.what {
            Reply::Ended(ended) => {
                ticket.sealed = true;
                Ok(ended.kept)
            }
            _ => Err(unexpected()),
        }
    }
}
