//! Intents: what their outcome comes to.

use larder_common::{FileId, Generation, LeaseId, SessionId, Timestamp};

use super::{
    State,
    entry::{AddInode, Change, ChangeRecord, CloseIntent, EndLease, Entry, EntryRecord, IntentRecord, SetStored},
    loading::{Seen, seen_record},
    outcome::{Done, IntentId, Outcome, UnderResult},
};

impl State {
    /// The entry that commits an intent, or undoes it. One for an intent that is not open changes nothing.
    #[must_use]
    pub fn plan_outcome(&self, intent: IntentId, result: &UnderResult, now: Timestamp) -> Entry {
        let mut entry = EntryRecord { time: now.0, outcome: Some((&Outcome::Undone).into()), ..EntryRecord::default() };
        let Some(record) = self.intents.get(&intent) else { return Entry(entry) };
        entry.command.clone_from(&record.command);
        entry.changes.push(CloseIntent { intent: intent.0 }.into());
        match result {
            UnderResult::Done(done) => self.done(record, done, &mut entry),
            UnderResult::Failed(_) => {
                entry.changes.extend(record.failure.iter().cloned());
                entry.changes.extend(self.leases_left(record));
            }
        }
        Entry(entry)
    }

    fn done(&self, record: &IntentRecord, done: &Done, entry: &mut EntryRecord) {
        entry.changes.extend(record.success.iter().cloned());
        if let Some(print) = done.fingerprint.as_ref().filter(|_| record.file != 0) {
            let (file, fingerprint) = (record.file, Some(print.into()));
            entry.changes.push(SetStored { file, stored: Some(true), fingerprint, ..SetStored::default() }.into());
        }
        let aside = done.aside.as_ref().filter(|_| record.aside != 0);
        if let Some(change) = aside.and_then(|seen| self.kept_aside(FileId(record.aside), seen)) {
            entry.changes.push(change);
            entry.numbers = self.counter.next + 2;
        }
        entry.request = record.request;
        entry.outcome.clone_from(&record.outcome);
        // What the intent was planned at counts for the times of what it changes.
        entry.time = record.since;
    }

    /// What was moved aside appears under its new name. Where no numbers are left, the next listing finds it.
    fn kept_aside(&self, parent: FileId, seen: &Seen) -> Option<ChangeRecord> {
        let first = self.counter.next;
        if first.saturating_add(2) > self.counter.safe {
            return None;
        }
        let record = seen_record(seen, FileId(first), Generation(first + 1));
        let name = seen.name.as_bytes().to_vec();
        Some(AddInode { parent: parent.0, name, inode: Some(record), found: true }.into())
    }

    /// Leases that the intent would have committed and whose session has ended meanwhile.
    fn leases_left<'a>(&'a self, record: &'a IntentRecord) -> impl Iterator<Item = ChangeRecord> + 'a {
        let leases = record.success.iter().filter_map(|change| match &change.change {
            Some(Change::EndLease(end)) => Some(end.lease),
            _ => None,
        });
        let left = leases.filter(|lease| {
            let session = self.leases.get(&LeaseId(*lease)).map(|lease| SessionId(lease.session));
            session.is_some_and(|session| !self.sessions.contains(&session))
        });
        left.map(|lease| EndLease { lease, committed: false }.into())
    }
}
