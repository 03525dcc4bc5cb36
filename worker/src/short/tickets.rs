//! Files that one client has open for writing, by the tickets that it names them with.
//!
//! The lock is a leaf, held for no wait; nothing is dropped under it.

use std::sync::Arc;

use larder_common::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio_util::sync::CancellationToken;

/// The most files of each sort that one connection has.
const MOST: usize = 1024;

type Shared<T> = Arc<tokio::sync::Mutex<T>>;

/// What a client has open, by ticket. Letting go of a write abandons it; an edit is left to whoever comes back with its lease.
#[derive(Debug)]
pub(crate) struct Tickets<T> {
    open: Mutex<FxHashMap<u64, Shared<T>>>,
    /// What is done to a file here: "written".
    done: &'static str,
    /// What gives one back: "seal".
    end: &'static str,
}

impl<T: Send + 'static> Tickets<T> {
    pub(crate) fn new(done: &'static str, end: &'static str) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), done, end })
    }

    /// Refuses another one where there are as many as there may be.
    ///
    /// # Errors
    /// `Busy`.
    pub(crate) fn check_room(&self) -> Result<()> {
        if self.open.lock().len() < MOST {
            return Ok(());
        }
        let error = Error::new(ErrorKind::Busy, format!("{MOST} files are being {} by this connection", self.done));
        Err(error.advise(format!("{} some of them first", self.end)))
    }

    /// Takes one in, until it is removed, the master says that it is `over`, or the connection is `closed`.
    pub(crate) fn insert(
        self: &Arc<Self>,
        ticket: u64,
        file: Shared<T>,
        over: CancellationToken,
        closed: CancellationToken,
    ) {
        self.open.lock().insert(ticket, file);
        let tickets = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::select! {
                () = over.cancelled() => {}
                () = closed.cancelled() => {}
            }
            if let Some(tickets) = tickets.upgrade() {
                tickets.remove(ticket);
            }
        });
    }

    /// The file of a ticket.
    ///
    /// # Errors
    /// `Invalid` where there is none.
    pub(crate) fn get(&self, ticket: u64) -> Result<Shared<T>> {
        let found = self.open.lock().get(&ticket).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::Invalid, format!("no file is {} under ticket {ticket}", self.done)))
    }

    /// Whether a ticket is one of these.
    pub(crate) fn has(&self, ticket: u64) -> bool {
        self.open.lock().contains_key(&ticket)
    }

    /// Lets go of one.
    pub(crate) fn remove(&self, ticket: u64) {
        let gone = self.open.lock().remove(&ticket);
        drop(gone);
    }

    /// Lets go of all of them.
    pub(crate) fn clear(&self) {
        let gone = std::mem::take(&mut *self.open.lock());
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_goes_when_it_is_over_or_its_connection_is_closed() {
        let tickets = Tickets::new("written", "seal");
        let (over, closed) = (CancellationToken::new(), CancellationToken::new());
        for ticket in [1, 2] {
            let own = if ticket == 1 { over.clone() } else { CancellationToken::new() };
            tickets.insert(ticket, Arc::new(tokio::sync::Mutex::new(())), own, closed.clone());
        }
        over.cancel();
        tokio::time::timeout(std::time::Duration::from_secs(5), gone(&tickets, 1)).await.unwrap();
        assert!(tickets.has(2));
        closed.cancel();
        tokio::time::timeout(std::time::Duration::from_secs(5), gone(&tickets, 2)).await.unwrap();
        assert!(tickets.get(2).unwrap_err().to_string().contains("no file is written under ticket 2"));
    }

    async fn gone(tickets: &Tickets<()>, ticket: u64) {
        while tickets.has(ticket) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn there_is_a_bound() {
        let tickets = Tickets::new("edited", "close");
        let closed = CancellationToken::new();
        for ticket in 0..MOST as u64 {
            tickets.check_room().unwrap();
            tickets.insert(ticket, Arc::new(tokio::sync::Mutex::new(())), CancellationToken::new(), closed.clone());
        }
        assert_eq!(tickets.check_room().unwrap_err().kind(), ErrorKind::Busy);
        tickets.remove(7);
        tickets.check_room().unwrap();
        tickets.clear();
        assert!(!tickets.has(8));
    }
}
