//! Any commands in any order: nothing panics, and every way to the state leads to the same one.

use proptest::prelude::*;

use larder_common::{JobId, JobState};

use super::{
    super::{
        AdvanceJob, Changed, Closed, EndJob, EndSession, Freed, JobStep, MakeSpecial, Persist, PersistFailed,
        RemoveXattr, SetPolicy, SetReplication, Stage, StepDone, StepKey, StepKind, SubmitJob,
        entry::{Change, ChangeRecord},
    },
    *,
};

const NAMES: [&str; 10] = ["/a", "/b", "/a/c", "/a/d", "/a/c/e", "/a/c/g", "/m", "/m/f", "/d", "/"];

#[derive(Clone, Debug)]
struct Step {
    what: u8,
    one: usize,
    other: usize,
    flags: u8,
    number: u64,
}

fn step() -> impl Strategy<Value = Step> {
    (0u8..44, 0usize..10, 0usize..10, any::<u8>(), 0u64..6).prop_map(|(what, one, other, flags, number)| Step {
        what,
        one,
        other,
        flags,
        number,
    })
}

impl Machine {
    fn some_file(&self, number: usize) -> FileId {
        let all: Vec<FileId> = self.state.tree.iter().map(|inode| inode.id()).collect();
        let mut all = all;
        all.sort();
        all[number % all.len()]
    }

    fn some_lease(&self, number: usize) -> LeaseId {
        let all: Vec<LeaseId> = self.state.leases.iter().map(|(lease, _)| *lease).collect();
        all.get(number % all.len().max(1)).copied().unwrap_or(LeaseId(3))
    }

    fn create_command(&self, step: &Step) -> CreateFile {
        let flag = |bit: u8| step.flags >> bit & 1 == 1;
        let ttl = Ttl { after: Duration::from_secs(step.number), action: TtlAction::Free };
        CreateFile {
            overwrite: flag(2),
            recursive: step.flags & 24 != 0,
            ttl: flag(4).then_some(ttl),
            edit: flag(6),
            replication_min: u32::from(flag(5)),
            ..self.create(NAMES[step.one], WriteType::ALL[usize::from(step.flags & 3)])
        }
    }

    fn command(&self, step: &Step) -> Command {
        let flag = |bit: u8| step.flags >> bit & 1 == 1;
        let (one, other) = (NAMES[step.one], NAMES[step.other]);
        let file = self.some_file(step.one + step.other);
        let target: Target = if flag(0) { path(one).into() } else { file.into() };
        let (session, number) = (self.session, step.number);
        let holders = if flag(6) { vec![session] } else { Vec::new() };
        match step.what {
            0..=3 => self.create_command(step).into(),
            4..=6 => CompleteFile {
                holders,
                persisted: step.flags & 3 != 0,
                ..self.complete(self.some_lease(step.one), number)
            }
            .into(),
            7 => CreateComplete { create: self.create_command(step), held: None, sync: flag(6) }.into(),
            8 => AbandonFile { lease: self.some_lease(step.one) }.into(),
            9 => HoldFiles { session, count: number as u32 }.into(),
            10 | 11 => {
                let write_type = WriteType::ALL[usize::from(step.flags & 3)];
                let (recursive, allow_exists) = (flag(3), flag(4));
                CreateDirectory { place: place(one), mode: 0o777, recursive, allow_exists, write_type }.into()
            }
            12..=14 => {
                let mode =
                    [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][usize::from(step.flags % 3)];
                Rename { holders, ..self.rename(one, other, mode) }.into()
            }
            15 | 16 => Remove { holders, cache_only: flag(1), ..self.remove(one, flag(0)) }.into(),
            17 => Link { target, place: place(other) }.into(),
            18 => Symlink { place: place(one), text: vec![b'x'; step.number as usize] }.into(),
            19 => MakeSpecial { place: place(one), format: 0o010_000, device: number, mode: 0o600 }.into(),
            _ => self.other_command(step),
        }
    }

    fn commit_command(&self, step: &Step, holders: Vec<SessionId>) -> CommitEdit {
        let flag = |bit: u8| step.flags >> bit & 1 == 1;
        let edits: Vec<LeaseId> = self.state.leases.iter().filter(|(_, r)| r.edit).map(|(lease, _)| *lease).collect();
        let lease = edits.get(step.one % edits.len().max(1)).copied().unwrap_or(LeaseId(3));
        let receipts = if step.number == 0 { Vec::new() } else { vec![receipt(step.number)] };
        let ranges = vec![ByteRange { offset: 0, length: step.number }];
        let bytes = match step.flags & 3 {
            0 => EditBytes::Cache,
            1 => EditBytes::Uploaded,
            _ => EditBytes::Patch { worker: WorkerId([3; 16]), ranges },
        };
        let session = flag(3).then_some(self.session);
        let changed = [Changed::Now, Changed::Not, Changed::At(Timestamp(9))][step.number as usize % 3];
        let (go_on, sync) = (flag(4), flag(5));
        CommitEdit { lease, session, length: step.number, receipts, bytes, go_on, sync, holders, changed }
    }

    fn other_command(&self, step: &Step) -> Command {
        let flag = |bit: u8| step.flags >> bit & 1 == 1;
        let one = NAMES[step.one];
        let file = self.some_file(step.one + step.other);
        let generation = self.state.status(file).map_or(Generation(0), |status| status.generation);
        let target: Target = if flag(0) { path(one).into() } else { file.into() };
        let (session, number) = (self.session, step.number);
        let holders = if flag(6) { vec![session] } else { Vec::new() };
        let pending = self.state.pending().next();
        let (pending_file, pending_generation) =
            pending.as_ref().map_or((file, generation), |p| (p.file, p.generation));
        let attempt =
            pending.and_then(|p| p.attempt).map_or(larder_common::AttemptId(number), |attempt| attempt.attempt);
        let kind = if flag(1) { FileKind::Directory } else { FileKind::File };
        let owner = Owner { mode: 0o777, uid: 0, gid: 0 };
        match step.what {
            20 => {
                let length = flag(5).then_some(number / 3);
                SetAttributes { mode: flag(1).then_some(0o6777), length, holders, ..SetAttributes::of(target) }.into()
            }
            21 => SetXattr { target, name: b"user.x".to_vec(), value: vec![1; number as usize], mode: XattrMode::Any }
                .into(),
            22 => RemoveXattr { target, name: b"user.x".to_vec() }.into(),
            23 => SetPin { target, pinned: flag(1) }.into(),
            24 => {
                let action = if flag(2) { TtlAction::Delete } else { TtlAction::Free };
                SetTtl { target, ttl: flag(1).then_some(Ttl { after: Duration::from_nanos(number * 500), action }) }
                    .into()
            }
            25 if flag(2) => SetReplication { target, min: number as u32 }.into(),
            25 => SetPolicy { target, policy: flag(1).then(|| "lru".to_owned()) }.into(),
            26 => TtlExpired { file: self.state.ttls_due(self.now).next().map_or(file, |(file, _)| file) }.into(),
            27 if flag(0) => {
                let (uri, read_only, options) = (format!("/u{number}"), flag(1), std::collections::BTreeMap::new());
                Mount { path: path(one), uri, read_only, options, owner }.into()
            }
            27 => Unmount { path: path(one) }.into(),
            28 | 29 => {
                let names = ["a", "b", "c", "d", "m"].iter().take(step.number as usize);
                let entries = names.map(|name| seen(name, kind.clone(), u64::from(step.flags))).collect();
                let covered = if flag(3) { Covered::Range { after: None, through: None } } else { Covered::Shown };
                LoadChildren { directory: self.some_file(step.one), entries, covered, complete: flag(4) }.into()
            }
            30 => {
                let change = Look::Changed(Box::new(seen("c", kind, number)));
                Refresh { file, seen: [Look::Same, Look::Gone, change][usize::from(step.flags % 3)].clone() }.into()
            }
            31 if flag(1) => Persist { target }.into(),
            31 => PersistStarted { file: pending_file, generation: pending_generation }.into(),
            32 if flag(1) => PersistFailed { file: pending_file, attempt }.into(),
            32 => Persisted { file: pending_file, generation: pending_generation, attempt, sync: flag(2) }.into(),
            33 => Freed { file, generation, lose: flag(1) }.into(),
            34 if step.flags < 20 => EndSession { session }.into(),
            34 => self.state.orphans.iter().next().map_or(Reclaim { budget: 2 }.into(), |((file, generation), _)| {
                Closed { session, file: *file, generation: *generation }.into()
            }),
            35 | 36 => {
                let write_type = flag(2).then(|| WriteType::ALL[usize::from(step.flags & 3)]);
                EditFile { target, generation: Generation(0), truncate: flag(3), write_type, session }.into()
            }
            37..=39 => self.commit_command(step, holders).into(),
            40 => RetryEdit { lease: self.some_lease(step.one) }.into(),
            42 | 43 => self.job_command(step),
            _ => Reclaim { budget: number as u32 }.into(),
        }
    }

    fn job_command(&self, step: &Step) -> Command {
        let flag = |bit: u8| step.flags >> bit & 1 == 1;
        let all: Vec<JobId> = self.state.jobs().map(|(id, _)| id).collect();
        let job = all.get(step.other % all.len().max(1)).copied().unwrap_or(JobId(3));
        let key = |name: usize| StepKey(NAMES[name].trim_start_matches('/').as_bytes().to_vec());
        let stage = if flag(3) { Stage::Copied } else { Stage::Done };
        let failure = flag(4).then(|| Error::new(ErrorKind::NoSpace, "full").at("/a").advise("free something"));
        let kind = [StepKind::File, StepKind::Directory, StepKind::Nothing][step.one % 3];
        let done = StepDone { key: key(step.one), stage, kind, bytes: step.number, failure };
        match step.flags & 3 {
            0 => SubmitJob { spec: super::jobs::spec(NAMES[step.one]), nonce: step.number }.into(),
            1 => {
                let cursor = flag(5).then(|| key(step.other));
                AdvanceJob { job, steps: vec![done], cursor }.into()
            }
            2 => {
                let what = Step { what: (step.number as u8) * 5, flags: step.flags >> 2, ..step.clone() };
                JobStep { job, step: done, command: Box::new(self.command(&what)) }.into()
            }
            _ if step.number < 4 => Reclaim { budget: 1 }.into(),
            _ => EndJob { job, state: JobState::Failed, reason: Some(Error::new(ErrorKind::Busy, "why")) }.into(),
        }
    }

    /// One step: the command, with the under store answering at once, later, or with a refusal.
    fn take(&mut self, step: &Step) {
        let open = self.state.open_intents().next().map(|(intent, _)| intent);
        if let Some(intent) = open.filter(|_| step.number > 1) {
            let failed = UnderResult::Failed(Error::new(ErrorKind::Changed, "changed"));
            let done = Done { fingerprint: (step.flags & 1 == 0).then(|| fingerprint(step.number)), aside: None };
            self.conclude(intent, &if step.flags & 6 == 6 { failed } else { UnderResult::Done(done) });
        }
        if !self.state.has_session(self.session) {
            self.request = None;
            let opened = self.run(OpenSession { name: "next".into(), lease: Duration::from_secs(1) });
            let Ok(Outcome::Session(session)) = opened else { panic!("{opened:?}") };
            self.session = session;
        }
        let number = self.entries.len() as u64 + 1;
        self.request =
            (step.flags & 128 != 0).then_some(Request { session: self.session, slot: u32::from(step.what), number });
        self.caller = if step.flags.is_multiple_of(5) {
            Caller { uid: 5, gids: vec![5], name: String::new() }
        } else {
            Caller::root()
        };
        let command = self.command(step);
        let first = match self.plan(command.clone()) {
            Ok(Planned::Apply(entry)) => Some(self.apply(entry)),
            Ok(Planned::Intent { entry, intent, .. }) => {
                self.apply(entry);
                assert!(self.state.is_open(intent));
                None
            }
            Ok(_) => None,
            Err(_) => None,
        };
        let ended = !self.state.has_session(self.session);
        if let (Some(first), Some(_), false) = (first, self.request, ended) {
            let again = self.plan(command).unwrap();
            let same = Planned::Again(first);
            assert!(
                again == same || matches!(again, Planned::Again(Outcome::Reclaimed { .. })),
                "{again:?} is not {same:?}"
            );
        }
    }
}

fn is_committed_by_an_intent(state: &State, lease: LeaseId) -> bool {
    let ends = |change: &ChangeRecord| matches!(&change.change, Some(Change::EndLease(end)) if end.lease == lease.0);
    state.intents.iter().any(|(_, intent)| intent.success.iter().any(ends))
}

/// What must be so in every state.
fn check_invariants(state: &State) {
    for (lease, record) in state.leases.iter() {
        assert_eq!(state.lease_of.get(&FileId(record.file)), Some(lease));
        assert!(state.tree.get(FileId(record.file)).is_some(), "what is written exists");
        let open = state.sessions.contains(&SessionId(record.session));
        match record.edit {
            true => assert_eq!(open, record.session != 0, "an edit has a session, or is adrift"),
            // It goes with its session, unless an intent is about to commit it: then with the outcome.
            false => assert!(open || is_committed_by_an_intent(state, *lease), "a lease has a session"),
        }
    }
    for (generation, record) in state.pending.iter() {
        let inode = state.tree.get(FileId(record.file)).expect("pending content has an inode");
        assert_eq!(inode.generation(), *generation);
        assert_eq!(inode.persistence(), Persistence::ToBePersisted);
    }
    for (file, _) in state.side.holders.iter() {
        assert!(state.tree.get(*file).is_some_and(|inode| state.is_unpersisted(inode)), "{file} has holders");
    }
    for ((file, _), orphan) in state.orphans.iter().filter(|(_, orphan)| orphan.nameless) {
        assert!(state.tree.get(*file).is_some(), "{orphan:?} has no inode");
    }
    for mount in state.mounts.iter() {
        assert_eq!(state.path(mount.root).as_ref(), Some(&mount.path), "a mount stays at its place");
    }
    for (file, ()) in state.side.pins.iter() {
        assert!(state.tree.get(*file).is_some(), "what is pinned exists");
    }
    assert_eq!(state.side.ttls.len(), state.side.due.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn every_way_leads_to_the_same_state(steps in proptest::collection::vec(step(), 1..120), cut in 0usize..100) {
        let mut machine = Machine::new();
        if cut % 3 > 0 {
            machine.mkdir("/a/c", WriteType::ALL[cut % 4]).unwrap();
            machine.mkdir("/m", WriteType::MustCache).unwrap();
        }
        let mut frozen = None;
        for (index, step) in steps.iter().enumerate() {
            machine.take(step);
            check_invariants(&machine.state);
            if index == cut {
                frozen = Some((machine.state.clone(), dump(&machine.state)));
            }
        }
        check_replay(&machine, cut);
        if let Some((state, was)) = frozen {
            prop_assert_eq!(dump(&state), was, "a clone never changes");
        }
        machine.request = None;
        while machine.state.has_garbage() {
            machine.run(Reclaim { budget: 5 }).unwrap();
        }
        check_invariants(&machine.state);
    }

    #[test]
    fn entries_in_a_wrong_place_do_not_panic(
        steps in proptest::collection::vec(step(), 1..60),
        order in proptest::collection::vec(any::<u16>(), 1..60),
        bytes in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut machine = Machine::new();
        steps.iter().for_each(|step| machine.take(step));
        let mut state = State::new();
        for (index, number) in order.iter().enumerate() {
            let entry = &machine.entries[usize::from(*number) % machine.entries.len()];
            state.apply(Position(index as u64), entry);
        }
        let _ = state.checkpoint().count();
        if let Ok(entry) = Entry::decode(&bytes) {
            state.apply(Position(9), &entry);
        }
    }
}
