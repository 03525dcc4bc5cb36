//! Changing calls on their way to the master: which slot and number each has, and who waits for its outcome.
//!
//! [`Table`] is pure: calls go in, messages and waiters come out. [`Calls`] is its lock and its wake-up.
//!
//! Invariants: a slot has at most one call under way; its number grows by one with each call; a call that was sent once
//! keeps slot and number until it is answered or the session is lost, also when nobody waits for it any more (so a
//! dropped future cannot corrupt a slot). A write lease that arrives for somebody who is gone is given back.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use larder_common::{Error, ErrorKind, FileId, FileStatus, Generation, LeaseId, Position, Result};
use larder_proto::v1::{self, command::What};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::retry::Deadline;

/// A call and who waits for it.
#[derive(Debug)]
pub(crate) struct Waiting<W> {
    pub(crate) command: v1::Command,
    /// In whose name; `None`: of who has opened the session.
    pub(crate) caller: Option<v1::CallerInfo>,
    pub(crate) durable: bool,
    /// Done twice it comes to the same.
    pub(crate) repeatable: bool,
    pub(crate) waiter: W,
}

#[derive(Debug)]
struct Slot<W> {
    number: u64,
    under_way: Option<Waiting<W>>,
}

/// Calls in slots, and calls that wait for one.
#[derive(Debug)]
pub(crate) struct Table<W> {
    slots: Vec<Slot<W>>,
    queue: VecDeque<Waiting<W>>,
}

impl<W> Table<W> {
    /// Nothing can be sent before [`Self::opened`].
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), queue: VecDeque::new() }
    }

    pub(crate) fn push(&mut self, call: Waiting<W>) {
        self.queue.push_back(call);
    }

    /// The calls that can be sent now, each in a slot. Those that `is_gone` says nobody waits for are dropped unsent.
    pub(crate) fn batch(&mut self, max: usize, is_gone: impl Fn(&W) -> bool) -> Vec<v1::Call> {
        let mut calls = Vec::new();
        for (at, slot) in (0u32..).zip(&mut self.slots) {
            if slot.under_way.is_some() {
                continue;
            }
            while self.queue.front().is_some_and(|call| is_gone(&call.waiter)) {
                self.queue.pop_front();
            }
            if calls.len() == max {
                break;
            }
            let Some(call) = self.queue.pop_front() else { break };
            slot.number += 1;
            calls.push(message(at, slot.number, &call));
            slot.under_way = Some(call);
        }
        calls
    }

    /// Whether something waits and could be sent.
    pub(crate) fn can_send(&self) -> bool {
        !self.queue.is_empty() && self.slots.iter().any(|slot| slot.under_way.is_none())
    }

    /// Who waits for this outcome; `None` for one that is not under way.
    pub(crate) fn answered(&mut self, slot: u32, number: u64) -> Option<W> {
        let slot = self.slots.get_mut(usize::try_from(slot).ok()?)?;
        (slot.number == number).then(|| slot.under_way.take())?.map(|call| call.waiter)
    }

    /// A connection is open. Resumed: gives what is to be sent again with the same numbers. New: numbers begin anew,
    /// what can be repeated waits again, and the others come back: nobody knows whether they happened.
    pub(crate) fn opened(&mut self, resumed: bool, slots: u32) -> (Vec<v1::Call>, Vec<W>) {
        if resumed {
            let again = (0u32..).zip(&self.slots);
            let again = again.filter_map(|(at, slot)| Some(message(at, slot.number, slot.under_way.as_ref()?)));
            return (again.collect(), Vec::new());
        }
        let mut unknown = Vec::new();
        for call in self.slots.drain(..).filter_map(|slot| slot.under_way).rev() {
            if call.repeatable {
                self.queue.push_front(call);
            } else {
                unknown.push(call.waiter);
            }
        }
        self.slots = (0..slots.clamp(1, 1024)).map(|_| Slot { number: 0, under_way: None }).collect();
        (Vec::new(), unknown)
    }

    /// Takes everybody out.
    pub(crate) fn close(&mut self) -> Vec<W> {
        let under_way = self.slots.drain(..).filter_map(|slot| slot.under_way);
        under_way.chain(self.queue.drain(..)).map(|call| call.waiter).collect()
    }
}

fn message<W>(slot: u32, number: u64, call: &Waiting<W>) -> v1::Call {
    let (command, caller) = (Some(call.command.clone()), call.caller.clone());
    v1::Call { slot, number, command, caller, durable: call.durable }
}

/// What a call came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done,
    Status(Box<FileStatus>),
    Created(Box<v1::Created>, WriteLease),
    Counted(v1::Counted),
}

/// What came with an outcome.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    /// Of the entry that made it so; 0 for none.
    pub(crate) position: u64,
    /// How long a status may be kept.
    pub(crate) validity: v1::Validity,
    /// The directory that it is under.
    pub(crate) parent: FileId,
    /// The directory in which something was made, as it is now.
    pub(crate) directory: Option<Box<v1::StatusReply>>,
}

/// How long a failed write waits for its lease to be given back.
const GIVE_BACK: Duration = Duration::from_secs(2);

/// The right to write, given back when dropped.
#[derive(Debug)]
pub(crate) struct WriteLease {
    pub(crate) id: LeaseId,
    calls: Option<Arc<Calls>>,
}

impl WriteLease {
    /// It was completed: there is nothing to give back.
    pub(crate) fn used(mut self) {
        self.calls = None;
    }

    /// Gives it back and waits for that, so that who is told of a failure no longer sees the file that was begun.
    pub(crate) async fn give_back(&mut self, deadline: Deadline) {
        let Some(calls) = &self.calls else { return };
        let abandon = What::AbandonFile(v1::AbandonFile { lease: self.id.0 });
        let how = How { durable: false, repeatable: true };
        if calls.call(abandon, how, deadline.within(GIVE_BACK)).await.is_ok() {
            self.calls = None;
        }
    }
}

impl Drop for WriteLease {
    fn drop(&mut self) {
        if let Some(calls) = self.calls.take() {
            let (waiter, _nobody) = oneshot::channel();
            let command = v1::Command { what: Some(What::AbandonFile(v1::AbandonFile { lease: self.id.0 })) };
            calls.add(Waiting {
                command,
                caller: None,
                durable: false,
                repeatable: true,
                waiter: Waiter { reply: waiter, forced: true },
            });
        }
    }
}

/// Who waits for an outcome.
#[derive(Debug)]
pub(crate) struct Waiter {
    reply: oneshot::Sender<Result<(Outcome, Said)>>,
    /// It is sent although nobody waits.
    forced: bool,
}

/// The most calls of one message.
const BATCH_MAX: usize = 64;

/// The calls of one client.
#[derive(Debug)]
pub(crate) struct Calls {
    table: Mutex<Table<Waiter>>,
    closed: Mutex<Option<Error>>,
    wake: Notify,
}

impl Calls {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { table: Mutex::new(Table::new()), closed: Mutex::new(None), wake: Notify::new() })
    }

    fn add(&self, call: Waiting<Waiter>) {
        if let Some(error) = &*self.closed.lock() {
            // Nobody waits for what was forced; everybody else hears it.
            let _ = call.waiter.reply.send(Err(error.clone()));
            return;
        }
        self.table.lock().push(call);
        self.wake.notify_one();
    }

    /// Makes a call and waits for its outcome.
    ///
    /// # Errors
    /// What the master says; `Deadline` or `Unavailable`, saying that it may have happened.
    pub(crate) async fn call(&self, what: What, how: How, deadline: Deadline) -> Result<Outcome> {
        self.call_as(None, what, how, deadline).await.map(|(outcome, _)| outcome)
    }

    /// The same in somebody's name, with what came with the outcome.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(crate) async fn call_as(
        &self,
        caller: Option<v1::CallerInfo>,
        what: What,
        how: How,
        deadline: Deadline,
    ) -> Result<(Outcome, Said)> {
        let (reply, outcome) = oneshot::channel();
        let command = v1::Command { what: Some(what) };
        let How { durable, repeatable } = how;
        self.add(Waiting { command, caller, durable, repeatable, waiter: Waiter { reply, forced: false } });
        match deadline.bound("the master", outcome).await {
            Ok(Ok(result)) => result,
            Ok(Err(_dropped)) => Err(unknown()),
            Err(late) => Err(late.advise("it may or may not have happened: look before you repeat it")),
        }
    }

    /// Says that this session has a version open no more. Nobody waits for it.
    pub(crate) fn closed(&self, file: FileId, generation: Generation) {
        let close = What::CloseFile(v1::CloseFile { id: file.0, generation: generation.0 });
        let (reply, _nobody) = oneshot::channel();
        let (command, waiter) = (v1::Command { what: Some(close) }, Waiter { reply, forced: true });
        self.add(Waiting { command, caller: None, durable: false, repeatable: true, waiter });
    }

    /// Waits until something can be sent.
    pub(crate) async fn ready(&self) {
        while !self.table.lock().can_send() {
            self.wake.notified().await;
        }
    }

    pub(crate) fn batch(&self) -> Vec<v1::Call> {
        self.table.lock().batch(BATCH_MAX, |waiter| !waiter.forced && waiter.reply.is_closed())
    }

    /// A connection is open: gives what is to be sent again.
    pub(crate) fn opened(&self, resumed: bool, slots: u32) -> Vec<v1::Call> {
        let (again, lost) = self.table.lock().opened(resumed, slots);
        for waiter in lost {
            let _ = waiter.reply.send(Err(unknown()));
        }
        self.wake.notify_one();
        again
    }

    /// An outcome came.
    pub(crate) fn outcome(self: &Arc<Self>, outcome: v1::Outcome) -> Option<Position> {
        let position = Position(outcome.position);
        let said = Said {
            position: outcome.position,
            validity: outcome.validity.unwrap_or_default(),
            parent: FileId(outcome.parent),
            directory: outcome.directory.map(Box::new),
        };
        let result = self.read(outcome.result).map(|result| (result, said));
        // The guard must not live into `send`: what comes back from it may queue a call.
        let waiter = self.table.lock().answered(outcome.slot, outcome.number);
        self.wake.notify_one();
        if let Some(waiter) = waiter {
            // Whoever is gone leaves the outcome to be dropped, and with it a lease to be given back.
            let _ = waiter.reply.send(result);
        }
        Some(position).filter(|position| position.0 > 0)
    }

    fn read(self: &Arc<Self>, result: Option<v1::outcome::Result>) -> Result<Outcome> {
        use v1::outcome::Result as Wire;
        match result {
            Some(Wire::Failure(failure)) => Err(failure.into()),
            Some(Wire::Done(_)) => Ok(Outcome::Done),
            Some(Wire::Status(status)) => Ok(Outcome::Status(Box::new(status.try_into()?))),
            Some(Wire::Created(created)) => {
                let calls = (created.lease != 0).then(|| Arc::clone(self));
                let lease = WriteLease { id: LeaseId(created.lease), calls };
                Ok(Outcome::Created(Box::new(created), lease))
            }
            Some(Wire::Counted(counted)) => Ok(Outcome::Counted(counted)),
            None => Err(Error::new(ErrorKind::Mismatch, "an outcome that this client does not know")),
        }
    }

    /// The end: everybody who waits hears this, now and later.
    pub(crate) fn close(&self, error: &Error) {
        *self.closed.lock() = Some(error.clone());
        let waiters = self.table.lock().close();
        for waiter in waiters {
            let _ = waiter.reply.send(Err(error.clone()));
        }
    }
}

/// How a call is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) durable: bool,
    pub(crate) repeatable: bool,
}

impl How {
    /// On disk before the answer, never twice.
    pub(crate) const ONCE: How = How { durable: true, repeatable: false };
    /// In the journal's kernel before the answer, as a local file system promises.
    pub(crate) const RELAXED: How = How { durable: false, repeatable: false };
    /// The same; twice is as good as once.
    pub(crate) const RELAXED_AGAIN: How = How { durable: false, repeatable: true };
    /// On disk before the answer; twice is as good as once.
    pub(crate) const AGAIN: How = How { durable: true, repeatable: true };
}

fn unknown() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the session at the master was lost before the answer: it may or may not have happened",
    )
    .advise("look before you repeat it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, repeatable: bool) -> Waiting<String> {
        let what = What::Unmount(v1::Unmount { path: name.to_owned().into() });
        let command = v1::Command { what: Some(what) };
        Waiting { command, caller: None, durable: true, repeatable, waiter: name.to_owned() }
    }

    fn places(calls: &[v1::Call]) -> Vec<(u32, u64)> {
        calls.iter().map(|call| (call.slot, call.number)).collect()
    }

    fn never(_: &String) -> bool {
        false
    }

    #[test]
    fn calls_go_out_together_and_wait_for_slots() {
        let mut table = Table::new();
        ["a", "b", "c"].iter().for_each(|name| table.push(call(name, false)));
        assert!(table.batch(9, never).is_empty() && !table.can_send(), "nothing before a session is open");
        table.opened(false, 2);
        assert_eq!(places(&table.batch(9, never)), [(0, 1), (1, 1)]);
        assert!(table.batch(9, never).is_empty() && !table.can_send());
        assert_eq!(table.answered(0, 1).as_deref(), Some("a"));
        assert_eq!(table.answered(0, 1), None, "answered once");
        assert_eq!(table.answered(1, 7), None, "a number that is not under way");
        assert_eq!(table.answered(9, 1), None);
        assert_eq!(places(&table.batch(9, never)), [(0, 2)]);
    }

    #[test]
    fn a_resumed_session_gets_the_same_numbers_again() {
        let mut table = Table::new();
        table.opened(false, 3);
        ["a", "b"].iter().for_each(|name| table.push(call(name, false)));
        table.batch(9, never);
        table.answered(0, 1);
        let (again, unknown) = table.opened(true, 3);
        assert_eq!((places(&again), unknown.len()), (vec![(1, 1)], 0));
    }

    #[test]
    fn a_lost_session_leaves_what_cannot_be_repeated_unknown() {
        let mut table = Table::new();
        table.opened(false, 3);
        for (name, repeatable) in [("once", false), ("again", true), ("queued", false)] {
            table.push(call(name, repeatable));
            if name != "queued" {
                table.batch(9, never);
            }
        }
        let (again, unknown) = table.opened(false, 3);
        assert_eq!((again.len(), unknown), (0, vec!["once".to_owned()]));
        let sent = table.batch(9, never);
        assert_eq!(places(&sent), [(0, 1), (1, 1)], "numbers begin anew");
        assert_eq!(table.answered(0, 1).as_deref(), Some("again"), "what waited longest goes first");
    }

    #[test]
    fn who_is_gone_before_sending_is_not_sent_and_who_is_gone_later_keeps_the_slot() {
        let mut table = Table::new();
        table.opened(false, 1);
        ["gone", "here"].iter().for_each(|name| table.push(call(name, false)));
        assert_eq!(places(&table.batch(9, |name| name == "gone")), [(0, 1)]);
        table.push(call("next", false));
        assert!(table.batch(9, |_| true).is_empty(), "the slot is taken until the outcome comes");
        assert_eq!(table.answered(0, 1).as_deref(), Some("here"));
    }

    #[tokio::test]
    async fn a_lease_that_nobody_takes_is_given_back() {
        let calls = Calls::new();
        calls.opened(false, 4);
        let task = tokio::spawn({
            let calls = Arc::clone(&calls);
            let what = What::CreateFile(v1::CreateFile::default());
            async move { calls.call(what, How::ONCE, Deadline::after(std::time::Duration::from_secs(9))).await }
        });
        calls.ready().await;
        let sent = calls.batch();
        task.abort();
        assert!(task.await.is_err());
        let created = v1::Created { lease: 77, ..Default::default() };
        let (slot, number) = (sent[0].slot, sent[0].number);
        let result = Some(v1::outcome::Result::Created(created));
        calls.outcome(v1::Outcome { slot, number, position: 3, result, ..v1::Outcome::default() });
        calls.ready().await;
        let back = calls.batch();
        let what = back[0].command.clone().unwrap().what.unwrap();
        assert_eq!(what, What::AbandonFile(v1::AbandonFile { lease: 77 }));
        assert_eq!((back[0].slot, back[0].number), (slot, number + 1));
    }
}
