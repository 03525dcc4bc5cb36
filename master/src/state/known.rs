//! Whether all that an entry or a checkpoint says is known to this binary. A change, action or outcome that is skipped, or
//! taken for another, gives a namespace that nobody has ever seen, so what is newer stops the start and is named.
//!
//! Fields that are not known cannot be found out here: they raise the feature bits of the journal's files first.

use larder_common::{Error, ErrorKind, Result};
use prost::Message;

use super::{
    encoding::OUTCOMES,
    encoding_action::{EXPECTATIONS, OPERATIONS},
    entry::{ActionRecord, Change, ChangeRecord, IntentRecord, OpenIntent, OutcomeRecord},
};

/// Fails where something is not known; `place` says where it stands.
///
/// # Errors
/// `Mismatch`, naming it and what to do.
pub(super) fn check(place: &str, changes: &[ChangeRecord], outcome: Option<&OutcomeRecord>) -> Result<()> {
    unknown(changes, outcome).map_or(Ok(()), |what| Err(newer(place, &what)))
}

/// The same for the outcome in a slot.
///
/// # Errors
/// `Mismatch`; `Corrupt` for bytes that are none.
pub(super) fn check_outcome(place: &str, bytes: &[u8]) -> Result<()> {
    let outcome = OutcomeRecord::decode(bytes);
    let outcome = outcome
        .map_err(|e| Error::new(ErrorKind::Corrupt, format!("{place} has an outcome that cannot be read: {e}")))?;
    check(place, &[], Some(&outcome))
}

fn newer(place: &str, what: &str) -> Error {
    let message = format!("{place} has {what}, which this version of larder does not know: a newer one has written it");
    Error::new(ErrorKind::Mismatch, message)
        .advise("start the newest version that has run on this journal, or a newer one; nothing was changed")
}

fn unknown(changes: &[ChangeRecord], outcome: Option<&OutcomeRecord>) -> Option<String> {
    let outcome = outcome.filter(|outcome| outcome.kind >= OUTCOMES);
    let outcome = outcome.map(|outcome| format!("an outcome of kind {}", outcome.kind));
    outcome.or_else(|| changes.iter().find_map(unknown_change))
}

fn unknown_change(record: &ChangeRecord) -> Option<String> {
    match &record.change {
        None => Some("a change of another kind".to_owned()),
        Some(Change::OpenIntent(OpenIntent { record: Some(intent), .. })) => unknown_intent(intent),
        Some(_) => None,
    }
}

fn unknown_intent(intent: &IntentRecord) -> Option<String> {
    let action = intent.action.as_ref().and_then(unknown_action);
    action.or_else(|| unknown(&intent.success, intent.outcome.as_ref())).or_else(|| unknown(&intent.failure, None))
}

fn unknown_action(action: &ActionRecord) -> Option<String> {
    if action.kind >= OPERATIONS {
        return Some(format!("an action of kind {} in an under store", action.kind));
    }
    let expected = [&action.expected, &action.replaced].into_iter().flatten().find(|e| e.kind >= EXPECTATIONS);
    expected.map(|expected| format!("an expectation of kind {}", expected.kind))
}
