//! Edits: one lease a file, version after version, patches that fail, sessions that die, names that go.

use super::*;
use crate::state::{Changed, Closed, EndSession, Expected};

impl Machine {
    fn edit(&mut self, file: FileId) -> Result<(LeaseId, Generation)> {
        self.edit_with(file, false, None)
    }

    fn edit_with(
        &mut self,
        file: FileId,
        truncate: bool,
        write_type: Option<WriteType>,
    ) -> Result<(LeaseId, Generation)> {
        let (target, session) = (file.into(), self.session);
        match self.run(EditFile { target, generation: Generation(0), truncate, write_type, session })? {
            Outcome::Writing { lease, generation, .. } => Ok((lease, generation)),
            other => panic!("{other:?}"),
        }
    }

    fn commit(&self, lease: LeaseId, length: u64, bytes: EditBytes) -> CommitEdit {
        let receipts = if length == 0 { Vec::new() } else { vec![receipt(length)] };
        let session = Some(self.session);
        CommitEdit {
            lease,
            session,
            length,
            receipts,
            bytes,
            go_on: false,
            sync: false,
            holders: Vec::new(),
            changed: Changed::Now,
        }
    }

    fn patch(&self, lease: LeaseId, length: u64) -> CommitEdit {
        let ranges = vec![ByteRange { offset: 1, length: 2 }];
        self.commit(lease, length, EditBytes::Patch { worker: WorkerId([3; 16]), ranges })
    }

    fn status(&self, file: FileId) -> larder_common::FileStatus {
        self.state.status(file).unwrap()
    }

    fn another_session(&mut self) -> SessionId {
        match self.run(OpenSession { name: "other".into(), lease: Duration::from_secs(10) }) {
            Ok(Outcome::Session(session)) => session,
            other => panic!("{other:?}"),
        }
    }

    fn has(&self, effect: &Effect) -> bool {
        self.effects.contains(effect)
    }
}

#[test]
fn an_edit_commits_version_after_version() {
    let mut machine = Machine::new();
    let file = machine.write("/f", WriteType::CacheThrough);
    let first = machine.status(file).generation;
    let (lease, second) = machine.edit(file).unwrap();
    let record = machine.state.lease(lease).unwrap();
    assert_eq!((record.base, record.write_type, record.edit), (Some((first, 7)), WriteType::CacheThrough, true));
    assert_eq!(machine.status(file).generation, first, "what is committed stays while it is written");
    let go_on = CommitEdit { go_on: true, ..machine.commit(lease, 9, EditBytes::Uploaded) };
    let Ok(Outcome::Writing { generation: third, temporary, .. }) = machine.run(go_on) else { panic!("it ended") };
    let status = machine.status(file);
    assert_eq!((status.generation, status.length, status.persistence), (second, 9, Persistence::Persisted));
    assert!(machine.has(&Effect::ContentOver { file, generation: first }));
    let Some(Operation::Publish { source, foreign, .. }) = machine.actions.last() else { panic!("not published") };
    assert!(matches!(foreign, Foreign::KeepAside(_)), "what others wrote meanwhile is kept");
    let record = machine.state.lease(lease).unwrap();
    assert_eq!((record.generation, record.base), (third, Some((second, 9))));
    assert_ne!(crate::state::Source::Temporary(temporary.unwrap()), *source, "each version has a temporary of its own");
    machine.run(machine.commit(lease, 0, EditBytes::Cache)).unwrap();
    assert_eq!((machine.status(file).generation, machine.status(file).length), (third, 0));
    assert!(machine.state.lease(lease).is_none() && machine.has(&Effect::EditFree(lease)));
    assert_eq!(machine.refused(machine.commit(lease, 0, EditBytes::Cache)), ErrorKind::Changed);
    check_replay(&machine, 6);
}

#[test]
fn one_session_edits_a_file() {
    let mut machine = Machine::new();
    let file = machine.write("/f", WriteType::MustCache);
    let generation = machine.status(file).generation;
    let (lease, _) = machine.edit(file).unwrap();
    assert_eq!(machine.edit(file).unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(machine.refused(machine.create("/f", WriteType::MustCache)), ErrorKind::Busy);
    let mut cut = SetAttributes::of(file.into());
    cut.length = Some(0);
    assert_eq!(machine.refused(cut), ErrorKind::Busy);
    let other = machine.another_session();
    let theirs = CommitEdit { session: Some(other), ..machine.commit(lease, 7, EditBytes::Cache) };
    assert_eq!(machine.refused(theirs), ErrorKind::Denied);
    assert_eq!(machine.refused(machine.complete(lease, 7)), ErrorKind::Changed, "an edit is committed as one");
    machine.run(AbandonFile { lease }).unwrap();
    assert_eq!(machine.status(file).generation, generation);
    assert!(machine.effects.iter().any(|effect| matches!(effect, Effect::EditOver { .. })));
    let session = machine.session;
    let seen = |generation| EditFile { target: file.into(), generation, truncate: false, write_type: None, session };
    assert_eq!(machine.refused(seen(Generation(generation.0 + 1))), ErrorKind::Changed);
    machine.run(seen(generation)).unwrap();
    check_replay(&machine, 6);
}

#[test]
fn who_may_not_write_may_not_edit() {
    let mut machine = Machine::new();
    let file = machine.write("/f", WriteType::MustCache);
    machine.mkdir("/d", WriteType::MustCache).unwrap();
    let directory = machine.id("/d");
    assert_eq!(machine.edit(directory).unwrap_err().kind(), ErrorKind::IsDirectory);
    machine.caller = Caller { uid: 5, gids: vec![5], name: String::new() };
    assert_eq!(machine.edit(file).unwrap_err().kind(), ErrorKind::Denied);
    machine.caller = Caller::root();
    let mut open = SetAttributes::of(file.into());
    open.mode = Some(0o4666);
    machine.run(open).unwrap();
    machine.caller = Caller { uid: 5, gids: vec![5], name: String::new() };
    let (lease, _) = machine.edit(file).unwrap();
    machine.run(machine.commit(lease, 7, EditBytes::Cache)).unwrap();
    assert_eq!(machine.status(file).mode, 0o666, "a write takes setuid away");
}

#[test]
fn the_write_type_is_where_the_content_is() {
    let mut machine = Machine::new();
    for write_type in [WriteType::MustCache, WriteType::CacheThrough, WriteType::AsyncThrough] {
        let file = machine.write(&format!("/{write_type:?}"), write_type);
        let (lease, _) = machine.edit(file).unwrap();
        assert_eq!(machine.state.lease(lease).unwrap().write_type, write_type);
        let through = write_type == WriteType::CacheThrough;
        if through {
            assert_eq!(machine.refused(machine.commit(lease, 7, EditBytes::Cache)), ErrorKind::Invalid);
        }
        let bytes = if through { EditBytes::Uploaded } else { EditBytes::Cache };
        let before = machine.status(file).persistence;
        machine.run(machine.commit(lease, 7, bytes)).unwrap();
        assert_eq!(machine.status(file).persistence, before);
    }
    check_replay(&machine, 7);
}

#[test]
fn what_is_edited_is_not_persisted_meanwhile() {
    let mut machine = Machine::new();
    let file = machine.write("/f", WriteType::AsyncThrough);
    let generation = machine.status(file).generation;
    let Ok(Outcome::Attempt { temporary, .. }) = machine.run(PersistStarted { file, generation }) else {
        panic!("no attempt")
    };
    let (lease, _) = machine.edit(file).unwrap();
    assert!(machine.has(&Effect::TemporaryOver(temporary.clone())), "what an attempt would read is written now");
    let late = Persisted { file, generation, attempt: temporary.attempt, sync: false };
    assert_eq!(machine.refused(late), ErrorKind::Changed);
    assert_eq!(machine.refused(PersistStarted { file, generation }), ErrorKind::Busy);
    machine.run(machine.commit(lease, 7, EditBytes::Cache)).unwrap();
    let generation = machine.status(file).generation;
    machine.run(PersistStarted { file, generation }).unwrap();
    check_replay(&machine, 8);
}

#[test]
fn a_patch_that_fails_makes_the_file_count_as_changed_and_is_not_tried_again() {
    let mut machine = Machine::new();
    let file = machine.write("/f", WriteType::CacheThrough);
    let (first, print) = (machine.status(file).generation, machine.state.fingerprint(file).unwrap());
    let (lease, second) = machine.edit(file).unwrap();
    let (intent, operation) = machine.begin(machine.patch(lease, 7));
    assert!(matches!(operation, Operation::Patch { expected, .. } if expected == print));
    let failed = UnderResult::Failed(Error::new(ErrorKind::Unavailable, "the worker is away"));
    assert_eq!(machine.conclude(intent, &failed), Outcome::Undone);
    assert_ne!(machine.state.fingerprint(file), Some(print.clone()), "whatever the store says, it is another one");
    assert_eq!(machine.refused(machine.patch(lease, 7)), ErrorKind::Invalid);
    // The look that follows finds the half-written file, which is a version of its own.
    let half =
        Seen { fingerprint: Fingerprint { changed: Timestamp(5), ..print.clone() }, ..seen("f", FileKind::File, 9) };
    machine.run(Refresh { file, seen: Look::Changed(Box::new(half)) }).unwrap();
    assert_ne!(machine.status(file).generation, first);
    let Ok(Outcome::Writing { temporary: Some(fresh), .. }) = machine.run(RetryEdit { lease }) else { panic!("none") };
    machine.run(machine.commit(lease, 7, EditBytes::Uploaded)).unwrap();
    let Some(Operation::Publish { expected, source, .. }) = machine.actions.last() else { panic!("not replaced") };
    assert_eq!((expected, source), (&Expected::Inode(print), &crate::state::Source::Temporary(fresh)));
    assert_eq!((machine.status(file).generation, machine.status(file).length), (second, 7));
    check_replay(&machine, 7);
}

#[test]
fn a_patch_is_an_intent_that_a_restart_finds_open() {
    let mut machine = Machine::new();
    let file = machine.write("/f", WriteType::CacheThrough);
    let (lease, generation) = machine.edit(file).unwrap();
    let (intent, _) = machine.begin(CommitEdit { go_on: true, sync: true, ..machine.patch(lease, 7) });
    let mut restored = State::restore(dump(&machine.state)).unwrap();
    let (open, action) = restored.open_intents().next().unwrap();
    let Operation::Patch { ranges, generation: patched, length, .. } = action.operation else { panic!("not a patch") };
    assert_eq!((open, patched, length, action.sync), (intent, generation, 7, true));
    assert_eq!(ranges, [ByteRange { offset: 1, length: 2 }]);
    let entry = restored.plan_outcome(intent, &UnderResult::Done(Done::default()), machine.now);
    restored.apply(Position(99), &entry);
    assert_eq!(restored.status(file).unwrap().generation, generation);
    assert_eq!(restored.lease(lease).unwrap().base, Some((generation, 7)), "it goes on");
}

#[test]
fn what_makes_no_sense_is_not_patched() {
    let mut machine = Machine::new();
    let cached = machine.write("/cached", WriteType::MustCache);
    let (lease, _) = machine.edit_with(cached, false, Some(WriteType::CacheThrough)).unwrap();
    assert_eq!(machine.refused(machine.patch(lease, 7)), ErrorKind::Invalid, "it is not in the under store");
    let file = machine.write("/f", WriteType::CacheThrough);
    let (lease, _) = machine.edit(file).unwrap();
    for ranges in [
        vec![ByteRange { offset: 6, length: 2 }],
        vec![ByteRange { offset: 2, length: 2 }, ByteRange { offset: 1, length: 1 }],
        vec![ByteRange { offset: u64::MAX, length: 2 }],
    ] {
        let bytes = EditBytes::Patch { worker: WorkerId([3; 16]), ranges };
        assert_eq!(machine.refused(machine.commit(lease, 7, bytes)), ErrorKind::Invalid);
    }
}

#[test]
fn what_others_wrote_meanwhile_is_kept_beside() {
    let mut machine = Machine::new();
    let file = machine.write("/f", WriteType::CacheThrough);
    let (lease, _) = machine.edit(file).unwrap();
    machine.run(Refresh { file, seen: Look::Changed(Box::new(seen("f", FileKind::File, 77))) }).unwrap();
    machine.run(machine.commit(lease, 7, EditBytes::Uploaded)).unwrap();
    let Some(Operation::Publish { expected, foreign, .. }) = machine.actions.last() else { panic!("not published") };
    assert_eq!(expected, &Expected::Absent, "nothing of ours is there to be replaced");
    assert!(matches!(foreign, Foreign::KeepAside(path) if path.0.starts_with(b"f.larder-conflict-")));
}

#[test]
fn every_name_of_a_file_goes_with_a_replace() {
    let mut machine = Machine::new();
    let file = machine.write("/f", WriteType::CacheThrough);
    machine.mkdir("/d", WriteType::CacheThrough).unwrap();
    machine.run(Link { target: file.into(), place: place("/d/g") }).unwrap();
    let (lease, _) = machine.edit(file).unwrap();
    machine.run(machine.commit(lease, 7, EditBytes::Uploaded)).unwrap();
    let Some(Operation::Publish { target, links, .. }) = machine.actions.last() else { panic!("not published") };
    assert_eq!((&target.0[..], links.len()), (&b"f"[..], 1));
    assert_eq!(links[0].0, b"d/g");
    assert_eq!(machine.status(file).links, 2);
}

#[test]
fn a_dead_session_leaves_its_edits_adrift() {
    let mut machine = Machine::new();
    let file = machine.write("/f", WriteType::MustCache);
    let base = machine.status(file).generation;
    let (lease, written) = machine.edit(file).unwrap();
    let create = CreateFile { edit: true, ..machine.create("/new", WriteType::CacheThrough) };
    let Ok(Outcome::Writing { lease: new, file: created, .. }) = machine.run(create) else { panic!("not created") };
    machine.run(EndSession { session: machine.session }).unwrap();
    assert!(machine.has(&Effect::Adrift(lease)) && machine.has(&Effect::Adrift(new)));
    assert_eq!(machine.state.adrift().count(), 2);
    assert!(machine.knows("/new"), "what was written may be brought back");
    machine.session = machine.another_session();
    assert_eq!(machine.edit(file).unwrap_err().kind(), ErrorKind::Busy);
    check_replay(&machine, 5);
    // Forward: the server commits what a worker had.
    machine.run(CommitEdit { session: None, ..machine.commit(lease, 7, EditBytes::Cache) }).unwrap();
    assert_eq!(
        (machine.status(file).generation, machine.status(file).persistence),
        (written, Persistence::NotPersisted)
    );
    machine.run(CommitEdit { session: None, ..machine.commit(new, 7, EditBytes::Cache) }).unwrap();
    assert_eq!(machine.status(created).persistence, Persistence::ToBePersisted, "it goes to the under store after all");
    // Back.
    let (lease, _) = machine.edit(file).unwrap();
    machine.run(EndSession { session: machine.session }).unwrap();
    machine.run(AbandonFile { lease }).unwrap();
    assert_eq!(machine.status(file).generation, written);
    assert_ne!(written, base);
    check_replay(&machine, 9);
}

#[test]
fn who_cuts_a_file_needs_nobody_s_bytes() {
    let mut machine = Machine::new();
    let file = machine.write("/f", WriteType::MustCache);
    let (lease, written) = machine.edit(file).unwrap();
    machine.run(EndSession { session: machine.session }).unwrap();
    machine.session = machine.another_session();
    machine.edit_with(file, true, None).unwrap();
    assert!(machine.has(&Effect::EditOver { lease, file, generation: written }));
    assert_eq!(machine.state.adrift().count(), 0);
    check_replay(&machine, 6);
}

#[test]
fn a_session_that_dies_during_a_commit_leaves_what_follows_adrift() {
    let mut machine = Machine::new();
    let file = machine.write("/f", WriteType::CacheThrough);
    let (lease, second) = machine.edit(file).unwrap();
    let go_on = CommitEdit { go_on: true, ..machine.commit(lease, 7, EditBytes::Uploaded) };
    let (intent, _) = machine.begin(go_on.clone());
    machine.run(EndSession { session: machine.session }).unwrap();
    machine.conclude(intent, &UnderResult::Done(Done::default()));
    assert_eq!(machine.status(file).generation, second, "what was on its way is committed");
    assert_eq!(machine.state.lease(lease).unwrap().session, SessionId(0));
    machine.run(AbandonFile { lease }).unwrap();
    assert_eq!(machine.status(file).generation, second);
    check_replay(&machine, 7);
    machine.session = machine.another_session();
    let (lease, _) = machine.edit(file).unwrap();
    let (intent, _) = machine.begin(CommitEdit { lease, ..machine.commit(lease, 7, EditBytes::Uploaded) });
    machine.run(EndSession { session: machine.session }).unwrap();
    machine.conclude(intent, &UnderResult::Failed(Error::new(ErrorKind::NoSpace, "full")));
    assert_eq!(machine.state.adrift().count(), 1, "its bytes are not dropped for that");
    check_replay(&machine, 9);
}

#[test]
fn a_file_without_a_name_is_written_until_it_is_closed() {
    let mut machine = Machine::new();
    let file = machine.write("/f", WriteType::CacheThrough);
    let first = machine.status(file).generation;
    let (lease, _) = machine.edit(file).unwrap();
    machine.run(machine.remove("/f", false)).unwrap();
    let Some(Operation::Remove { orphan: Some(orphan), .. }) = machine.actions.last() else { panic!("not kept") };
    let orphan = orphan.clone();
    assert!(!machine.knows("/f"));
    assert_eq!(machine.status(file).links, 0);
    assert_eq!(machine.state.orphan_place(file, first).unwrap().name, Some(orphan.clone()));
    let go_on = CommitEdit { go_on: true, ..machine.commit(lease, 9, EditBytes::Cache) };
    let Ok(Outcome::Writing { generation: third, .. }) = machine.run(go_on) else { panic!("it ended") };
    assert_eq!(machine.status(file).length, 9);
    assert!(machine.has(&Effect::OrphanOver { mount: MountId::ROOT, name: orphan }), "all of it is in the cache now");
    check_replay(&machine, 6);
    machine.run(machine.commit(lease, 7, EditBytes::Cache)).unwrap();
    assert!(machine.state.persisted(file, third).is_some());
    // Opened once more by who has it open still, and closed under an edit.
    let (lease, _) = machine.edit(file).unwrap();
    let other = machine.another_session();
    let theirs = EditFile { target: file.into(), generation: third, truncate: false, write_type: None, session: other };
    assert_eq!(machine.refused(theirs), ErrorKind::NotFound);
    machine.run(Closed { session: machine.session, file, generation: Generation(0) }).unwrap();
    assert!(machine.state.status(file).is_none() && machine.state.lease(lease).is_none());
    check_replay(&machine, 9);
}

#[test]
fn a_rename_over_an_edited_file_leaves_it_to_its_writer() {
    let mut machine = Machine::new();
    let old = machine.write("/old", WriteType::MustCache);
    machine.write("/new", WriteType::MustCache);
    let (lease, _) = machine.edit(old).unwrap();
    machine.run(machine.rename("/new", "/old", RenameMode::Replace)).unwrap();
    machine.run(machine.commit(lease, 5, EditBytes::Cache)).unwrap();
    assert_eq!((machine.status(old).links, machine.status(old).length), (0, 5));
    machine.run(EndSession { session: machine.session }).unwrap();
    assert!(machine.state.status(old).is_none(), "its last holder has gone");
    machine.session = machine.another_session();
    let moved = machine.id("/old");
    let (lease, _) = machine.edit(moved).unwrap();
    machine.run(machine.rename("/old", "/again", RenameMode::Replace)).unwrap();
    machine.run(machine.commit(lease, 5, EditBytes::Cache)).unwrap();
    assert_eq!(machine.status(machine.id("/again")).length, 5, "a rename takes the edit along");
    check_replay(&machine, 9);
}

#[test]
fn records_of_before_edits_are_read_as_ever() {
    // A lease as it was written before there were edits: fields 1 to 5 only.
    let bytes = [0x08, 9, 0x10, 10, 0x18, 5, 0x20, 1, 0x28, 26];
    let record = <crate::state::entry::LeaseRecord as prost::Message>::decode(&bytes[..]).unwrap();
    assert_eq!((record.file, record.edit, record.base, record.patched), (9, false, 0, None));
}
