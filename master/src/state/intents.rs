//! Intents: what their outcome comes to.

use larder_common::{FileId, Generation, LeaseId, SessionId, Timestamp};

use super::{
    State,
    entry::{AddInode, Change, ChangeRecord, CloseIntent, EndLease, Entry, EntryRecord, IntentRecord, SetStored},
    loading::seen_record,
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
            UnderResult::Done(done) => Self::done(record, done, &mut entry),
            UnderResult::Failed(_) => {
                entry.changes.extend(record.failure.iter().cloned());
                entry.changes.extend(self.leases_left(record));
            }
        }
        Entry(entry)
    }

    fn done(record: &IntentRecord, done: &Done, entry: &mut EntryRecord) {
        entry.changes.extend(record.success.iter().cloned());
        if let Some(print) = done.fingerprint.as_ref().filter(|_| record.file != 0) {
            let (file, fingerprint) = (record.file, Some(print.into()));
            entry.changes.push(SetStored { file, stored: Some(true), fingerprint, ..SetStored::default() }.into());
        }
        if let Some(seen) = done.aside.as_ref().filter(|_| record.aside != 0) {
            let inode = Some(seen_record(seen, FileId(record.aside_id), Generation(record.aside_id + 1)));
            let (parent, name) = (record.aside, seen.name.as_bytes().to_vec());
            entry.changes.push(AddInode { parent, name, inode, found: true }.into());
        }
        entry.request = record.request;
        entry.outcome.clone_from(&record.outcome);
        // What the intent was planned at counts for the times of what it changes.
        entry.time = record.since;
    }

    /// Leases that the intent would have committed and whose session has ended meanwhile.
    fn leases_left<'a>(&'a self, record: &'a IntentRecord) -> impl Iterator<Item = ChangeRecord> + 'a {
        let leases = record.success.iter().filter_map(|change| match &change.change {
            Some(Change::EndLease(end)) => Some(end.lease),
            _ => None,
        });
        let left = leases.filter(|lease| {
            let plain = self.leases.get(&LeaseId(*lease)).filter(|lease| !lease.edit);
            let session = plain.map(|lease| SessionId(lease.session));
            session.is_some_and(|session| !self.sessions.contains(&session))
        });
        left.map(|lease| EndLease { lease, committed: false }.into())
    }
}
