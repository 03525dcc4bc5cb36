//! What comes from a worker: replies to who asked, leases with their descriptors, recalls, and the end.

use std::{os::fd::OwnedFd, sync::Arc, time::Instant};

use larder_common::Error;
use larder_proto::{
    shortcircuit::{Received, Socket},
    v1::{self, short_reply::What as Reply},
};

use super::{AheadTaker, Answer, Held, LeaseGuard, LeaseReply, Pending, Refused, Shared, Ticket};
use crate::leases::Leased;

pub(super) async fn receive_all(socket: Arc<Socket>, shared: Arc<Shared>) {
    while let Ok(Some(received)) = socket.receive::<v1::ShortReply>().await {
        shared.take(received);
    }
    shared.close();
}

impl Shared {
    fn take(self: &Arc<Self>, received: Received<v1::ShortReply>) {
        let Received { message, descriptors, truncated } = received;
        let Some(what) = message.what else { return };
        if let Reply::Recall(recall) = &what {
            return self.recall(&recall.leases);
        }
        let pending = self.pending.lock().remove(&message.tag);
        match (what, pending) {
            (Reply::Leased(leased), Some(Pending::Ahead(taker))) => {
                self.leased_ahead(message.tag, leased, descriptors, truncated, taker);
            }
            (Reply::Leased(leased), pending) => {
                let replies = match pending {
                    Some(Pending::Leases(replies)) => replies,
                    _ => Vec::new(),
                };
                self.leased(leased.answers, descriptors, truncated, replies);
            }
            (Reply::Failure(failure), Some(Pending::Leases(replies))) => {
                let error = Error::from(failure);
                replies.into_iter().for_each(|reply| drop(reply.send(Err(Refused::Failed(error.clone())))));
            }
            (what, pending) => {
                let number = if let Reply::Writable(writable) = &what { Some(writable.ticket) } else { None };
                let ticket = number.map(|number| Ticket { shared: Arc::clone(self), number, sealed: false });
                let answer = Answer { what, descriptors, ticket };
                if let Some(Pending::One(reply)) = pending {
                    // Nobody there: the answer is dropped, and what it gave is given back.
                    drop(reply.send(answer));
                }
            }
        }
    }

    /// Some of the leases that were asked for ahead. While the connection closes, nobody else takes their taker.
    fn leased_ahead(
        self: &Arc<Self>,
        tag: u64,
        leased: v1::ShortLeased,
        descriptors: Vec<OwnedFd>,
        truncated: bool,
        mut taker: Box<dyn AheadTaker>,
    ) {
        let crowded = truncated || leased.answers.len() != descriptors.len();
        let mut descriptors = descriptors.into_iter();
        for answer in leased.answers {
            // What was refused is asked for by itself when it is wanted.
            if let Ok(leased) = self.one(answer, crowded, &mut descriptors) {
                taker.leased(leased);
            }
        }
        if leased.more {
            self.pending.lock().insert(tag, Pending::Ahead(taker));
            if self.closed.get().is_some() {
                let taker = self.pending.lock().remove(&tag);
                drop(taker);
            }
        } else {
            taker.over();
        }
    }

    /// Pairs answers with descriptors, and gives each to who asked; what nobody takes is dropped and so given back.
    fn leased(
        self: &Arc<Self>,
        answers: Vec<v1::ShortLeaseAnswer>,
        descriptors: Vec<OwnedFd>,
        truncated: bool,
        replies: Vec<LeaseReply>,
    ) {
        let granted = answers.iter().filter(|answer| answer.failure.is_none()).count();
        let crowded = truncated || granted != descriptors.len();
        let mut descriptors = descriptors.into_iter();
        let mut replies = replies.into_iter();
        for answer in answers {
            let result = self.one(answer, crowded, &mut descriptors);
            if let Some(reply) = replies.next() {
                drop(reply.send(result));
            }
        }
    }

    fn one(
        self: &Arc<Self>,
        mut answer: v1::ShortLeaseAnswer,
        crowded: bool,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
    ) -> Result<Leased, Refused> {
        if let Some(failure) = answer.failure.take() {
            return Err(Refused::Failed(failure.into()));
        }
        let guard = LeaseGuard { shared: Arc::clone(self), number: answer.lease };
        match descriptors.next() {
            Some(descriptor) if !crowded => Ok(Leased { guard, descriptor, answer }),
            _ => Err(Refused::Crowded),
        }
    }

    /// The worker wants these back: what no view holds goes at once.
    fn recall(&self, leases: &[u64]) {
        for number in leases {
            let held = self.held.lock().insert(*number, Held::Recalled);
            match held {
                Some(Held::By(content, local)) => {
                    if let (Some(content), Some(local)) = (content.upgrade(), local.upgrade()) {
                        content.evict(&local);
                    }
                }
                Some(Held::Watched(on_recall)) => on_recall(),
                Some(Held::Recalled) | None => {}
            }
        }
    }

    pub(super) fn close(&self) {
        self.closed.get_or_init(Instant::now);
        let pending = std::mem::take(&mut *self.pending.lock());
        drop(pending);
    }
}
