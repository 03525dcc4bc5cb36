//! Jobs in the state: they are kept, their steps count once, and the effect of a step is one entry with its note.

use larder_common::{JobId, JobKind, JobRequest, JobState};

use super::{
    super::{
        AdvanceJob, EndJob, JobStep, Stage, StepDone, StepKey, StepKind, SubmitJob,
        jobs::{ENDED_MAX, RUNNING_MAX},
    },
    *,
};

pub(super) fn spec(text: &str) -> JobRequest {
    JobRequest {
        kind: JobKind::Copy,
        path: path(text),
        target: Some(path("/to")),
        forced: true,
        replication: 2,
        overwrite: true,
        write_type: WriteType::AsyncThrough,
        parallel: 3,
    }
}

fn done(text: &str) -> StepDone {
    let key = StepKey(text.as_bytes().to_vec());
    StepDone { key, stage: Stage::Done, kind: StepKind::File, bytes: 7, failure: None }
}

fn submitted(machine: &mut Machine, nonce: u64) -> JobId {
    match machine.run(SubmitJob { spec: spec("/a"), nonce }).unwrap() {
        Outcome::Submitted(job) => job,
        other => panic!("{other:?}"),
    }
}

#[test]
fn asking_again_is_the_same_job() {
    let mut machine = Machine::new();
    let first = submitted(&mut machine, 5);
    assert_eq!(submitted(&mut machine, 5), first);
    assert_ne!(submitted(&mut machine, 6), first);
    assert_ne!(submitted(&mut machine, 0), submitted(&mut machine, 0));
    machine.caller = Caller { uid: 7, gids: vec![7], name: String::new() };
    assert_ne!(submitted(&mut machine, 5), first, "somebody else's number is another one");
}

#[test]
fn a_job_is_the_same_after_a_restart() {
    let mut machine = Machine::new();
    let job = submitted(&mut machine, 5);
    let failure = Some(Error::new(ErrorKind::Denied, "no").at("/a/y").advise("ask"));
    let steps = vec![done("x"), StepDone { failure, ..done("y") }, StepDone { stage: Stage::Copied, ..done("z") }];
    machine.run(AdvanceJob { job, steps, cursor: Some(StepKey(b"x".to_vec())) }).unwrap();
    let frames: Vec<_> = machine.state.checkpoint().collect();
    let restored = State::restore(&frames).unwrap();
    assert_eq!(restored.job(job), machine.state.job(job));
    let known = restored.job(job).unwrap();
    assert_eq!((known.progress.files, known.progress.failed, known.progress.bytes), (1, 1, 7));
    assert_eq!(known.progress.stage(&StepKey(b"z".to_vec())), Some(Stage::Copied));
    assert_eq!(known.progress.failures[0].1.advice(), Some("ask"));
    machine.run(EndJob { job, state: JobState::Failed, reason: Some(Error::new(ErrorKind::NoSpace, "full")) }).unwrap();
    let frames: Vec<_> = machine.state.checkpoint().collect();
    assert_eq!(State::restore(&frames).unwrap().job(job), machine.state.job(job));
}

#[test]
fn the_effect_of_a_step_and_its_note_are_one_entry() {
    let mut machine = Machine::new();
    let job = submitted(&mut machine, 5);
    let made = |name: &str| {
        let create = machine_create(name);
        JobStep { job, step: done(name), command: Box::new(create) }
    };
    fn machine_create(name: &str) -> Command {
        let (place, write_type) = (place(&format!("/{name}")), WriteType::MustCache);
        CreateDirectory { place, mode: 0o755, recursive: false, allow_exists: false, write_type }.into()
    }
    let before = machine.entries.len();
    machine.run(made("x")).unwrap();
    assert_eq!(machine.entries.len(), before + 1);
    assert_eq!(machine.state.job(job).unwrap().progress.files, 1);
    machine.run(made("x")).unwrap_err();
    assert_eq!(machine.state.job(job).unwrap().progress.files, 1, "what is refused is not noted");
    machine.run(EndJob { job, state: JobState::Cancelled, reason: None }).unwrap();
    let late = machine.run(made("y")).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Changed, "what was under way when it was ended has no effect");
    machine.run(AdvanceJob { job, steps: Vec::new(), cursor: None }).unwrap_err();
}

#[test]
fn only_its_owner_and_root_end_a_job_and_its_end_is_final() {
    let mut machine = Machine::new();
    machine.caller = Caller { uid: 7, gids: vec![7], name: String::new() };
    let job = submitted(&mut machine, 5);
    machine.caller = Caller { uid: 8, gids: vec![8], name: String::new() };
    let end = |state| EndJob { job, state, reason: None };
    assert_eq!(machine.run(end(JobState::Cancelled)).unwrap_err().kind(), ErrorKind::NotPermitted);
    machine.caller = Caller::root();
    machine.run(end(JobState::Cancelled)).unwrap();
    machine.run(end(JobState::Done)).unwrap();
    assert_eq!(machine.state.job(job).unwrap().state, JobState::Cancelled);
}

#[test]
fn jobs_are_bounded() {
    let mut machine = Machine::new();
    let first = submitted(&mut machine, 0);
    for _ in 0..ENDED_MAX + 5 {
        let job = submitted(&mut machine, 0);
        machine.run(EndJob { job, state: JobState::Done, reason: None }).unwrap();
    }
    let ended = machine.state.jobs().filter(|(_, job)| job.ended.is_some()).count();
    assert!((ENDED_MAX - 1..=ENDED_MAX).contains(&ended), "{ended}");
    assert!(machine.state.job(first).is_some(), "one that is under way is not forgotten");
    for _ in 1..RUNNING_MAX {
        submitted(&mut machine, 0);
    }
    let more = machine.run(SubmitJob { spec: spec("/a"), nonce: 0 }).unwrap_err();
    assert_eq!(more.kind(), ErrorKind::Busy);
}
