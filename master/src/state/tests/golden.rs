//! The format of entries and checkpoints, held to golden files of what was written in format 1.

mod samples;

use std::collections::BTreeSet;

use prost::Message;

use super::{
    super::{
        Expected, HoldFiles, Relative, SetPolicy, SetReplication, SubmitJob, UnderAction,
        encoding::OUTCOMES,
        encoding_action::{EXPECTATIONS, OPERATIONS},
        entry::{
            ActionRecord, Change, ChangeRecord, EntryRecord, ExpectedRecord, OpenIntent, OutcomeRecord, RequestRecord,
        },
        tables::{Counter, Side},
    },
    jobs::spec,
    *,
};
use crate::golden::Golden;

fn entry(command: &str, change: Option<ChangeRecord>, outcome: Option<OutcomeRecord>) -> Entry {
    Entry(EntryRecord {
        time: 1_700_000_000_123_456_789,
        command: command.to_owned(),
        numbers: 600,
        changes: change.into_iter().collect(),
        request: Some(RequestRecord { session: 601, slot: 7, number: 602 }),
        outcome,
    })
}

fn intent(action: ActionRecord) -> ChangeRecord {
    let record = super::super::entry::IntentRecord { action: Some(action), ..Default::default() };
    OpenIntent { intent: 603, record: Some(record) }.into()
}

/// An entry of every kind, by name.
fn entries() -> Vec<(String, Entry)> {
    let change = |change: ChangeRecord| {
        let name = change.change.as_ref().map_or("none", Change::name).to_owned();
        (format!("change-{name}"), entry(&name, Some(change), None))
    };
    let outcome = |outcome: Outcome| {
        let record = OutcomeRecord::from(&outcome);
        (format!("outcome-{:02}", record.kind), entry("outcome", None, Some(record)))
    };
    let operation = |operation: Operation| {
        let record = ActionRecord::from(&samples::action(operation));
        (format!("operation-{:02}", record.kind), entry("operation", Some(intent(record)), None))
    };
    let changes = samples::changes().into_iter().map(change);
    changes
        .chain(samples::outcomes().into_iter().map(outcome))
        .chain(samples::operations().into_iter().map(operation))
        .collect()
}

fn today() -> Vec<(String, Vec<u8>)> {
    entries().into_iter().map(|(name, entry)| (name, entry.encode())).collect()
}

#[test]
fn golden_entries_are_read_as_what_they_were() {
    let golden = Golden::read("entries-1.txt", &today());
    for (name, entry) in entries() {
        let bytes = golden.lines.get(&name).unwrap_or_else(|| panic!("no golden line for {name}"));
        assert_eq!(Entry::decode(bytes).unwrap(), entry, "{name}");
    }
    golden.assert_written(&today());
}

#[test]
fn golden_outcomes_and_actions_mean_what_they_meant() {
    for outcome in samples::outcomes() {
        assert_eq!(Outcome::from(&OutcomeRecord::from(&outcome)), outcome);
    }
    for operation in samples::operations() {
        let action = samples::action(operation);
        assert_eq!(UnderAction::from(&ActionRecord::from(&action)), action);
    }
}

#[test]
fn there_is_a_golden_entry_of_every_kind() {
    let lines = Golden::read("entries-1.txt", &today()).lines;
    let entries: Vec<Entry> = lines.values().map(|bytes| Entry::decode(bytes).unwrap()).collect();
    let changes: Vec<&Change> = entries.iter().flat_map(|e| &e.0.changes).filter_map(|c| c.change.as_ref()).collect();
    let kinds: BTreeSet<_> = changes.iter().map(|change| change.name()).collect();
    assert_eq!(kinds, Change::NAMES.iter().copied().collect(), "changes without a golden entry");
    let outcomes: BTreeSet<u32> = entries.iter().filter_map(|e| e.0.outcome.as_ref()).map(|o| o.kind).collect();
    assert_eq!(outcomes, (0..OUTCOMES).collect(), "outcomes without a golden entry");
    let action = |change: &&Change| match change {
        Change::OpenIntent(open) => open.record.clone()?.action,
        _ => None,
    };
    let actions: Vec<ActionRecord> = changes.iter().filter_map(action).collect();
    let operations: BTreeSet<u32> = actions.iter().map(|action| action.kind).collect();
    assert_eq!(operations, (0..OPERATIONS).collect(), "operations without a golden entry");
    let expected = actions.iter().flat_map(|a| [&a.expected, &a.replaced]).flatten();
    assert_eq!(expected.map(|e| e.kind).collect::<BTreeSet<_>>(), (0..EXPECTATIONS).collect());
}

/// The numbers of kinds end where the code says that they do.
#[test]
fn no_kind_is_known_beyond_the_last() {
    let temporary = Some(
        (&super::super::Temporary { attempt: larder_common::AttemptId(1), mount: MountId(1), name: "n".into() }).into(),
    );
    for kind in OUTCOMES..OUTCOMES + 100 {
        let record = OutcomeRecord { kind, temporary: temporary.clone(), ..OutcomeRecord::default() };
        assert_eq!(Outcome::from(&record), Outcome::Done, "OUTCOMES must be {}", kind + 1);
    }
    for kind in OPERATIONS..OPERATIONS + 100 {
        let action = UnderAction::from(&ActionRecord { kind, ..ActionRecord::default() });
        assert_eq!(action.operation, Operation::MakeDirectories, "OPERATIONS must be {}", kind + 1);
    }
}

#[test]
fn what_a_newer_version_has_written_is_refused_by_name() {
    let action = |action| Entry(entry("op", Some(intent(action)), None).0).encode();
    let expected = |kind| Some(ExpectedRecord { kind, fingerprint: None });
    // A change with a tag that is not known: field 4 of the entry holds a change with field 33.
    let mut change = entry("fly", None, None).encode();
    change.extend_from_slice(&[0x22, 0x03, 0x8a, 0x02, 0x00]);
    let newer = [
        (change, "a change of another kind"),
        (
            entry("fly", None, Some(OutcomeRecord { kind: OUTCOMES, ..Default::default() })).encode(),
            "an outcome of kind 13",
        ),
        (action(ActionRecord { kind: OPERATIONS, ..Default::default() }), "an action of kind 11"),
        (action(ActionRecord { expected: expected(EXPECTATIONS), ..Default::default() }), "an expectation of kind 4"),
        (action(ActionRecord { replaced: expected(EXPECTATIONS), ..Default::default() }), "an expectation of kind 4"),
    ];
    for (bytes, what) in newer {
        let error = Entry::decode(&bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.to_string().contains(what) && error.to_string().contains("entry"), "{what}: {error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("newest version")), "{error}");
    }
    let mut frames = dump(&Machine::new().state);
    frames[0].extend_from_slice(&[0x12, 0x03, 0x8a, 0x02, 0x00]);
    let error = State::restore(frames).unwrap_err();
    assert!(
        error.kind() == ErrorKind::Mismatch && error.to_string().contains("the checkpoint has a change"),
        "{error}"
    );
    let slot = OutcomeRecord { kind: OUTCOMES, ..Default::default() }.encode_to_vec();
    assert_eq!(super::super::known::check_outcome("a slot", &slot).unwrap_err().kind(), ErrorKind::Mismatch);
}

/// A state with something in each of its tables.
fn full() -> Machine {
    let mut machine = Machine::new();
    let pinned = machine.write("/d/pinned", WriteType::CacheThrough);
    machine.run(Link { target: pinned.into(), place: place("/d/link") }).unwrap();
    machine
        .run(SetXattr { target: pinned.into(), name: b"user.x".to_vec(), value: vec![1, 2], mode: XattrMode::Any })
        .unwrap();
    machine.run(SetPin { target: pinned.into(), pinned: true }).unwrap();
    let ttl = Some(Ttl { after: Duration::from_secs(3600), action: TtlAction::Free });
    machine.run(SetTtl { target: pinned.into(), ttl }).unwrap();
    machine.run(SetReplication { target: pinned.into(), min: 2 }).unwrap();
    machine.run(SetPolicy { target: path("/d").into(), policy: Some("LRU".into()) }).unwrap();
    machine.run(Symlink { place: place("/d/symlink"), text: b"pinned".to_vec() }).unwrap();
    machine.write("/d/pending", WriteType::AsyncThrough);
    machine.write("/gone/deep/file", WriteType::MustCache);
    machine.run(machine.remove("/gone", true)).unwrap();
    let open = machine.write("/open", WriteType::CacheThrough);
    let session = machine.session;
    machine.run(Remove { holders: vec![session], ..machine.remove("/open", false) }).unwrap();
    assert!(machine.state.status(open).is_some(), "it lives on for its holder");
    machine.run(HoldFiles { session, count: 3 }).unwrap();
    let owner = Owner { mode: 0o755, uid: 5, gid: 6 };
    let options = [("a".to_owned(), "b".to_owned())].into();
    machine.run(Mount { path: path("/mnt"), uri: "/other".into(), read_only: true, options, owner }).unwrap();
    machine.run(SubmitJob { spec: spec("/d"), nonce: 5 }).unwrap();
    machine.request = Some(Request { session, slot: 3, number: 9 });
    machine.mkdir("/slot", WriteType::MustCache).unwrap();
    machine.request = None;
    let victim = machine.write("/victim", WriteType::CacheThrough);
    machine.run(machine.create("/being-written", WriteType::CacheThrough)).unwrap();
    machine.begin(machine.remove("/victim", false));
    assert!(machine.state.status(victim).is_some());
    machine
}

fn checkpoint_lines(state: &State) -> Vec<(String, Vec<u8>)> {
    dump(state).into_iter().enumerate().map(|(at, frame)| (format!("frame-{at:03}"), frame)).collect()
}

#[test]
fn a_golden_checkpoint_is_read_as_what_it_was() {
    let golden = Golden::read("checkpoint-1.txt", &checkpoint_lines(&full().state));
    let state = State::restore(golden.lines.values()).unwrap();
    golden.assert_written(&checkpoint_lines(&state));
    // Each table is named, so that a new one does not compile before the golden checkpoint has something in it.
    let State {
        tree,
        cluster,
        position,
        counter,
        mounts,
        sessions,
        slots,
        leases,
        lease_of,
        intents,
        locks,
        pending,
        orphans,
        side,
        jobs,
    } = state.clone();
    assert_eq!((cluster, position > Position(20)), (Some(ClusterId([7; 16])), true));
    let Counter { next, end, at, safe } = counter;
    assert!(2 < next && next < end && at == Position(1) && safe == 0, "{counter:?}");
    assert!(tree.detached().count() > 0 && tree.more_names().count() > 0 && tree.all_xattrs().count() > 0);
    let lengths =
        [sessions.len(), slots.len(), leases.len(), lease_of.len(), intents.len(), locks.len(), pending.len()];
    assert!(lengths.iter().all(|length| *length > 0), "{lengths:?}");
    let Side { pins, ttls, due, replication, policies, holders } = side;
    let lengths = [pins.len(), ttls.len(), due.len(), replication.len(), policies.len(), holders.len()];
    assert!(lengths.iter().all(|length| *length > 0), "{lengths:?}");
    assert!(mounts.iter().count() == 2 && !orphans.is_empty() && !jobs.is_empty());
    let machine = Machine { state, ..full() };
    let status = machine.state.status(machine.id("/d/link")).unwrap();
    assert_eq!((status.length, status.links, status.mode, status.persistence), (7, 2, 0o644, Persistence::Persisted));
    assert_eq!(status.id, machine.id("/d/pinned"));
    let (slot, kept) = machine.state.slots.iter().next().unwrap();
    let outcome = Outcome::from(&OutcomeRecord::decode(&kept.outcome[..]).unwrap());
    assert_eq!((slot.1, kept.number, outcome), (3, 9, Outcome::Made(machine.id("/slot"))));
    let removed = machine.state.open_intents().map(|(_, action)| action.operation).next().unwrap();
    let Operation::Remove { target, expected: Expected::Fingerprint(_), .. } = removed else { panic!("{removed:?}") };
    assert_eq!(target, Relative(b"victim".to_vec()));
}
