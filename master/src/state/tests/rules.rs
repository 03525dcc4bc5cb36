//! The rules, one by one.

use super::*;

fn user(uid: u32) -> Caller {
    Caller { uid, gids: vec![uid], name: String::new() }
}

#[test]
fn a_file_goes_through_to_the_under_store() {
    let mut machine = Machine::new();
    let file = machine.write("/a/b/f", WriteType::CacheThrough);
    let status = machine.state.status(file).unwrap();
    assert_eq!((status.length, status.complete, status.persistence), (7, true, Persistence::Persisted));
    assert!(machine.state.is_stored(machine.id("/a")) && machine.state.is_stored(machine.id("/a/b")));
    let Some(Operation::Publish { target, expected, .. }) = machine.actions.last() else { panic!("not published") };
    assert_eq!((&target.0[..], expected), (&b"a/b/f"[..], &super::super::Expected::Absent));
    let before = machine.state.fingerprint(file);
    machine.write("/a/b/f", WriteType::CacheThrough);
    let Some(Operation::Publish { expected, .. }) = machine.actions.last() else { panic!("not published") };
    assert_eq!(Some(expected), before.map(super::super::Expected::Fingerprint).as_ref());
    assert!(machine.effects.contains(&Effect::ContentOver { file, generation: status.generation }));
    check_replay(&machine, 6);
}

#[test]
fn a_retry_gets_the_first_outcome() {
    let mut machine = Machine::new();
    machine.request = Some(Request { session: machine.session, slot: 3, number: 1 });
    let create = machine.create("/f", WriteType::CacheThrough);
    let first = machine.run(create.clone()).unwrap();
    let entries = machine.entries.len();
    assert_eq!(machine.run(create.clone()).unwrap(), first);
    assert_eq!(machine.entries.len(), entries, "nothing was executed");
    let Outcome::Writing { lease, .. } = first else { panic!("{first:?}") };
    machine.request = Some(Request { session: machine.session, slot: 3, number: 2 });
    let complete = machine.complete(lease, 7);
    let (intent, _) = machine.begin(complete.clone());
    assert!(matches!(machine.plan(complete.clone()), Ok(Planned::Wait(open)) if open == intent));
    let done = machine.conclude(intent, &UnderResult::Done(Done::default()));
    assert!(matches!(done, Outcome::Committed { .. }));
    assert_eq!(machine.run(complete).unwrap(), done);
    machine.request = Some(Request { session: machine.session, slot: 3, number: 1 });
    assert_eq!(machine.refused(create), ErrorKind::Invalid);
    machine.request = Some(Request { session: SessionId(5), slot: 3, number: 1 });
    assert_eq!(machine.refused(ReserveIds { count: 1, start: false }), ErrorKind::Denied);
    check_replay(&machine, 5);
}

#[test]
fn names_under_an_intent_wait() {
    let mut machine = Machine::new();
    machine.mkdir("/d/e", WriteType::CacheThrough).unwrap();
    let Ok(Outcome::Writing { lease, file, .. }) = machine.run(machine.create("/d/e/f", WriteType::CacheThrough))
    else {
        panic!("not created")
    };
    let (intent, _) = machine.begin(machine.complete(lease, 7));
    let waits: Vec<Command> = vec![
        machine.remove("/d/e/f", false).into(),
        machine.remove("/d", true).into(),
        machine.rename("/d/e", "/g", RenameMode::Replace).into(),
        machine.create("/d/e/f", WriteType::MustCache).into(),
        SetXattr { target: file.into(), name: b"user.a".to_vec(), value: vec![1], mode: XattrMode::Any }.into(),
    ];
    for command in waits {
        assert!(matches!(machine.plan(command.clone()), Ok(Planned::Wait(open)) if open == intent), "{command:?}");
    }
    machine.write("/d/e/other", WriteType::MustCache);
    let failed = UnderResult::Failed(Error::new(ErrorKind::NoSpace, "full"));
    assert_eq!(machine.conclude(intent, &failed), Outcome::Undone);
    assert!(machine.state.lease(lease).is_some(), "the writer can try again");
    assert!(!machine.state.status(file).unwrap().complete);
    machine.run(machine.complete(lease, 7)).unwrap();
    machine.run(machine.remove("/d", true)).unwrap();
    assert!(machine.state.has_garbage());
    machine.run(Reclaim { budget: 100 }).unwrap();
    assert!(machine.state.status(file).is_none());
    check_replay(&machine, 9);
}

#[test]
fn an_ended_session_leaves_nothing() {
    let mut machine = Machine::new();
    machine.write("/kept", WriteType::MustCache);
    let old = machine.state.status(machine.id("/kept")).unwrap().generation;
    machine.run(machine.create("/kept", WriteType::CacheThrough)).unwrap();
    machine.run(machine.create("/half", WriteType::CacheThrough)).unwrap();
    assert_eq!(machine.state.leases_of(machine.session).count(), 2);
    assert_eq!(machine.refused(machine.create("/half", WriteType::MustCache)), ErrorKind::Busy);
    machine.run(super::super::EndSession { session: machine.session }).unwrap();
    assert!(machine.knows("/kept") && !machine.knows("/half"));
    assert_eq!(machine.state.status(machine.id("/kept")).unwrap().generation, old);
    assert_eq!(machine.state.temporaries().count(), 0);
    let over = machine.effects.iter().filter(|effect| matches!(effect, Effect::TemporaryOver(_))).count();
    assert_eq!(over, 2);
    check_replay(&machine, 5);
}

#[test]
fn what_is_not_known_is_asked_for() {
    let mut machine = Machine::new();
    machine.load("/", vec![seen("d", FileKind::Directory, 1)], false);
    let needs = machine.state.resolve(&path("/d/x/y"), &Caller::root(), &[]).unwrap();
    let super::super::Resolve::NeedsLoad(needs) = needs else { panic!("{needs:?}") };
    assert_eq!((needs.directory, needs.mount, &needs.path.0[..]), (machine.id("/d"), MountId::ROOT, &b"d"[..]));
    assert_eq!(needs.name, Some(Name::new("x").unwrap()));
    let context = machine.context();
    let planned = machine.state.plan(&machine.remove("/d/x", false).into(), &context).unwrap();
    assert!(matches!(planned, Planned::Load(_)));
    let absent = [(machine.id("/d"), Name::new("x").unwrap())];
    let missing = machine.state.resolve(&path("/d/x"), &Caller::root(), &absent).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let listing = vec![seen("a", FileKind::File, 2), seen("b", FileKind::File, 3)];
    let loaded = machine.load("/d", listing.clone(), true);
    assert_eq!(loaded, Outcome::Loaded { added: 2, changed: 0, gone: 0, conflicts: vec![] });
    assert!(machine.state.children_loaded(machine.id("/d")));
    assert_eq!(machine.state.list(machine.id("/d"), Some(b"a"), 9).len(), 1);
    let again = machine.load("/d", listing, true);
    assert_eq!(again, Outcome::Loaded { added: 0, changed: 0, gone: 0, conflicts: vec![] });
    assert_eq!(machine.state.resolve(&path("/d/x"), &Caller::root(), &[]).unwrap_err().kind(), ErrorKind::NotFound);
    check_replay(&machine, 4);
}

#[test]
fn foreign_changes_win_over_persisted_content_only() {
    let mut machine = Machine::new();
    let persisted = machine.write("/p", WriteType::CacheThrough);
    let ours = machine.write("/o", WriteType::AsyncThrough);
    let old = machine.state.status(persisted).unwrap().generation;
    let change = Look::Changed(Box::new(seen("p", FileKind::File, 500)));
    machine.run(Refresh { file: persisted, seen: change }).unwrap();
    let status = machine.state.status(persisted).unwrap();
    assert!(status.generation > old && status.uid == 1000);
    let loaded = machine.load("/", vec![seen("o", FileKind::File, 600)], false);
    assert_eq!(loaded, Outcome::Loaded { added: 0, changed: 0, gone: 0, conflicts: vec![ours] });
    let refresh = Refresh { file: ours, seen: Look::Changed(Box::new(seen("o", FileKind::File, 600))) };
    machine.run(refresh).unwrap();
    let generation = machine.state.status(ours).unwrap().generation;
    let aside = format!("/o.larder-conflict-{generation}");
    assert_eq!(machine.state.status(machine.id(&aside)).unwrap().persistence, Persistence::Persisted);
    assert_eq!(machine.id("/o"), ours);
    machine.load("/", vec![seen("p", FileKind::File, 500)], true);
    assert!(machine.knows("/o") && !machine.knows(&aside), "what is gone is gone, what is ours stays");
    machine.run(Refresh { file: persisted, seen: Look::Gone }).unwrap();
    assert!(!machine.knows("/p"));
    check_replay(&machine, 8);
}

#[test]
fn pending_content_is_persisted_by_attempts() {
    let mut machine = Machine::new();
    let file = machine.write("/d/f", WriteType::AsyncThrough);
    let generation = machine.state.status(file).unwrap().generation;
    assert_eq!(machine.state.status(file).unwrap().persistence, Persistence::ToBePersisted);
    assert_eq!(machine.state.holders(file).len(), 1);
    assert_eq!(machine.state.pending().map(|pending| pending.file).collect::<Vec<_>>(), [file]);
    let Ok(Outcome::Attempt { temporary, .. }) = machine.run(PersistStarted { file, generation }) else {
        panic!("refused")
    };
    let Ok(Outcome::Attempt { temporary: second, .. }) = machine.run(PersistStarted { file, generation }) else {
        panic!("refused")
    };
    assert!(machine.effects.contains(&Effect::TemporaryOver(temporary.clone())));
    let persisted = |attempt| Persisted { file, generation, attempt, sync: false };
    assert_eq!(machine.refused(persisted(temporary.attempt)), ErrorKind::Changed);
    machine.run(machine.rename("/d/f", "/e", RenameMode::Replace)).unwrap();
    let (intent, operation) = machine.begin(persisted(second.attempt));
    let Operation::Publish { target, foreign: Foreign::KeepAside(aside), .. } = operation else {
        panic!("{operation:?}")
    };
    assert_eq!((&target.0[..], aside.0.starts_with(b"e.larder-conflict-")), (&b"e"[..], true));
    let aside = Seen { name: Name::new(&aside.0).unwrap(), ..seen("x", FileKind::File, 9) };
    let done = Done { fingerprint: Some(fingerprint(8)), aside: Some(aside.clone()) };
    machine.conclude(intent, &UnderResult::Done(done));
    assert_eq!(machine.state.status(file).unwrap().persistence, Persistence::Persisted);
    assert_eq!((machine.state.pending().count(), machine.state.holders(file).len()), (0, 0));
    assert!(machine.effects.contains(&Effect::ContentPersisted { file, generation }));
    assert!(machine.state.child(FileId::ROOT, aside.name.as_bytes()).is_some());
    check_replay(&machine, 7);
}

/// A worker may report all of a version before it is committed. Told that the under store has it, it would let it go.
#[test]
fn a_version_that_is_being_written_is_not_in_the_under_store() {
    for write_type in [WriteType::MustCache, WriteType::AsyncThrough] {
        let mut machine = Machine::new();
        let file = machine.write("/f", WriteType::CacheThrough);
        let first = machine.state.status(file).unwrap().generation;
        let Ok(Outcome::Writing { lease, generation, .. }) = machine.run(machine.create("/f", write_type)) else {
            panic!("not created")
        };
        let persisted = |machine: &Machine, of| machine.state.persisted(file, of);
        assert_eq!((persisted(&machine, first), persisted(&machine, generation)), (Some(true), Some(false)));
        machine.run(CompleteFile { persisted: false, ..machine.complete(lease, 7) }).unwrap();
        assert_eq!((persisted(&machine, first), persisted(&machine, generation)), (None, Some(false)));
    }
}

#[test]
fn removed_and_replaced_files_stay_for_those_that_have_them_open() {
    let mut machine = Machine::new();
    let file = machine.write("/f", WriteType::CacheThrough);
    let first = machine.state.status(file).unwrap().generation;
    let Ok(Outcome::Writing { lease, generation, .. }) = machine.run(machine.create("/f", WriteType::CacheThrough))
    else {
        panic!("not created")
    };
    let complete = CompleteFile { holders: vec![machine.session], ..machine.complete(lease, 7) };
    machine.run(complete).unwrap();
    let persisted = |of| machine.state.persisted(file, of);
    assert_eq!((persisted(first), persisted(generation)), (Some(true), Some(true)));
    machine.run(Remove { holders: vec![machine.session], ..machine.remove("/f", false) }).unwrap();
    assert!(!machine.knows("/f"));
    assert_eq!(machine.state.status(file).unwrap().links, 0);
    assert_eq!(machine.state.orphans().count(), 2);
    check_replay(&machine, 7);
    for generation in [first, generation] {
        machine.run(super::super::Closed { session: machine.session, file, generation }).unwrap();
        assert_eq!(machine.state.persisted(file, generation), None);
    }
    assert!(machine.state.status(file).is_none());
    let over = machine.effects.iter().filter(|effect| matches!(effect, Effect::OrphanOver { .. })).count();
    assert_eq!(over, 2);
    check_replay(&machine, 9);
}

#[test]
fn mounts_hold_their_place() {
    let mut machine = Machine::new();
    machine.mkdir("/m", WriteType::CacheThrough).unwrap();
    let (owner, options) = (Owner { mode: 0o755, uid: 0, gid: 0 }, std::collections::BTreeMap::new());
    let mount = |text: &str, uri: &str, read_only: bool| Mount {
        path: path(text),
        uri: uri.into(),
        read_only,
        options: options.clone(),
        owner,
    };
    assert_eq!(machine.refused(mount("/m", "/x", false)), ErrorKind::AlreadyExists);
    assert_eq!(machine.refused(mount("/none/x", "/x", false)), ErrorKind::NotFound);
    assert_eq!(machine.run(mount("/m/n", "/x", false)).unwrap(), Outcome::Mounted(MountId(2)));
    assert_eq!(machine.run(mount("/m/r", "/y", true)).unwrap(), Outcome::Mounted(MountId(3)));
    assert_eq!(machine.state.list(machine.id("/m"), None, 9).len(), 2);
    let file = machine.write("/m/n/f", WriteType::CacheThrough);
    assert_eq!(machine.state.under_path(file).unwrap(), (MountId(2), super::super::Relative(b"f".to_vec())));
    assert_eq!(machine.refused(machine.create("/m/r/f", WriteType::MustCache)), ErrorKind::ReadOnly);
    assert_eq!(machine.refused(machine.rename("/m/n/f", "/m/f", RenameMode::Replace)), ErrorKind::CrossesMounts);
    let link = Link { target: path("/m/n/f").into(), place: place("/l") };
    assert_eq!(machine.refused(link), ErrorKind::CrossesMounts);
    for text in ["/m", "/m/n"] {
        assert_eq!(machine.refused(machine.rename(text, "/z", RenameMode::Replace)), ErrorKind::Busy, "{text}");
        assert_eq!(machine.refused(machine.remove(text, true)), ErrorKind::Busy, "{text}");
    }
    machine.write("/m/n/g", WriteType::AsyncThrough);
    assert_eq!(machine.refused(Unmount { path: path("/m/n") }), ErrorKind::Busy);
    machine.run(machine.remove("/m/n/g", false)).unwrap();
    machine.run(Unmount { path: path("/m/n") }).unwrap();
    assert_eq!(machine.refused(Unmount { path: path("/m/n") }), ErrorKind::Invalid);
    assert!(!machine.knows("/m/n") && machine.state.mounts().get(MountId(2)).is_none());
    check_replay(&machine, 8);
}

#[test]
fn rights_are_checked() {
    let mut machine = Machine::new();
    machine.mkdir("/d", WriteType::CacheThrough).unwrap();
    machine.write("/d/f", WriteType::CacheThrough);
    let mode = |text: &str, mode: u32| SetAttributes { mode: Some(mode), ..SetAttributes::of(path(text).into()) };
    machine.caller = user(7);
    assert_eq!(machine.refused(machine.create("/d/new", WriteType::MustCache)), ErrorKind::Denied);
    assert_eq!(machine.refused(machine.create("/d/f", WriteType::MustCache)), ErrorKind::Denied);
    assert_eq!(machine.refused(machine.remove("/d/f", false)), ErrorKind::Denied);
    assert_eq!(machine.refused(mode("/d/f", 0o777)), ErrorKind::NotPermitted);
    machine.caller = Caller::root();
    machine.run(mode("/d", 0o1777)).unwrap();
    machine.caller = user(7);
    machine.write("/d/mine", WriteType::CacheThrough);
    machine.caller = user(8);
    assert_eq!(machine.refused(machine.remove("/d/mine", false)), ErrorKind::NotPermitted, "sticky");
    machine.caller = user(7);
    machine.run(mode("/d/mine", 0o4755)).unwrap();
    let chown = SetAttributes { uid: Some(8), ..SetAttributes::of(path("/d/mine").into()) };
    assert_eq!(machine.refused(chown.clone()), ErrorKind::NotPermitted);
    machine.caller = Caller::root();
    machine.run(chown).unwrap();
    let status = machine.state.status(machine.id("/d/mine")).unwrap();
    assert_eq!((status.uid, status.mode), (8, 0o755), "a change of owner takes setuid away");
    machine.run(mode("/d", 0o700)).unwrap();
    machine.caller = user(8);
    let touch = SetAttributes { modified: Some(SetTime::Now), ..SetAttributes::of(path("/d/mine").into()) };
    assert_eq!(machine.refused(touch), ErrorKind::Denied);
    let hidden = machine.state.resolve(&path("/d/mine"), &user(8), &[]).unwrap_err();
    assert_eq!(hidden.kind(), ErrorKind::Denied);
}

#[test]
fn renames_do_as_posix_says() {
    let mut machine = Machine::new();
    machine.mkdir("/a/sub", WriteType::CacheThrough).unwrap();
    machine.mkdir("/empty", WriteType::CacheThrough).unwrap();
    let (f, g) = (machine.write("/a/f", WriteType::CacheThrough), machine.write("/a/g", WriteType::MustCache));
    assert_eq!(machine.refused(machine.rename("/a", "/a/sub/x", RenameMode::Replace)), ErrorKind::Invalid);
    assert_eq!(machine.refused(machine.rename("/a/f", "/a/g", RenameMode::NoReplace)), ErrorKind::AlreadyExists);
    assert_eq!(machine.refused(machine.rename("/empty", "/a", RenameMode::Replace)), ErrorKind::NotEmpty);
    assert_eq!(machine.refused(machine.rename("/a/f", "/empty", RenameMode::Replace)), ErrorKind::IsDirectory);
    assert_eq!(machine.refused(machine.rename("/empty", "/a/f", RenameMode::Replace)), ErrorKind::NotDirectory);
    assert_eq!(machine.refused(machine.rename("/no", "/x", RenameMode::Replace)), ErrorKind::NotFound);
    let wrong = Rename { expected: Some(g), ..machine.rename("/a/f", "/x", RenameMode::Replace) };
    assert_eq!(machine.refused(wrong), ErrorKind::Changed);
    machine.run(machine.rename("/a/f", "/a/g", RenameMode::Exchange)).unwrap();
    assert_eq!((machine.id("/a/f"), machine.id("/a/g")), (g, f));
    let links = machine.state.status(FileId::ROOT).unwrap().links;
    machine.run(machine.rename("/a", "/empty", RenameMode::Replace)).unwrap();
    assert_eq!(machine.state.status(FileId::ROOT).unwrap().links, links - 1);
    machine.run(machine.rename("/empty/f", "/empty/g", RenameMode::Replace)).unwrap();
    assert_eq!(machine.id("/empty/g"), g);
    assert!(
        matches!(machine.actions.last(), Some(Operation::Remove { .. })),
        "what was replaced was in the under store"
    );
    check_replay(&machine, 9);
}

#[test]
fn small_files_use_ids_that_are_held() {
    let mut machine = Machine::new();
    let Ok(Outcome::Held { first, count: 3 }) = machine.run(HoldFiles { session: machine.session, count: 3 }) else {
        panic!("refused")
    };
    let held = |id: u64| HeldContent {
        file: FileId(id),
        generation: Generation(id + 1),
        length: 7,
        receipts: vec![receipt(7)],
        persisted: true,
    };
    let create = |machine: &Machine, text: &str, id: u64| {
        let create = machine.create(text, WriteType::CacheThrough);
        CreateComplete { create, held: Some(held(id)), sync: false }
    };
    machine.run(create(&machine, "/x/a", first + 2)).unwrap();
    assert_eq!(machine.id("/x/a"), FileId(first + 2));
    for used in [first, first + 2, first + 3, first + 6] {
        assert_eq!(machine.refused(create(&machine, "/x/b", used)), ErrorKind::Invalid, "{used}");
    }
    machine.run(create(&machine, "/x/b", first + 4)).unwrap();
    let empty = CreateComplete { create: machine.create("/x/e", WriteType::MustCache), held: None, sync: false };
    assert!(matches!(machine.run(empty).unwrap(), Outcome::Committed { .. }));
    assert_eq!(machine.state.status(machine.id("/x/e")).unwrap().in_cache_percent, 100);
    check_replay(&machine, 5);
}

#[test]
fn numbers_wait_for_the_disk_and_are_never_given_twice() {
    let mut machine = Machine::new();
    let Planned::Apply(entry) = machine.plan(ReserveIds { count: 10, start: true }).unwrap() else {
        panic!("no entry")
    };
    machine.apply(entry);
    let context = Context { durable: Position(machine.entries.len() as u64 - 1), ..machine.context() };
    let open = OpenSession { name: String::new(), lease: Duration::from_secs(1) }.into();
    assert_eq!(machine.state.plan(&open, &context).unwrap_err().kind(), ErrorKind::Unavailable);
    let Ok(Outcome::Session(second)) = machine.run(open.clone()) else { panic!("refused") };
    assert!(second.0 >= 1_700_000_000 << 22 && second > machine.session);
    machine.now = Timestamp(1_800_000_000 * SECOND);
    machine.run(ReserveIds { count: 10, start: true }).unwrap();
    let Ok(Outcome::Session(third)) = machine.run(open) else { panic!("refused") };
    assert!(third.0 >= 1_800_000_000 << 22);
    assert_eq!(machine.state.numbers_left(), 9);
}

#[test]
fn times_to_live_end() {
    let mut machine = Machine::new();
    machine.write("/d/f", WriteType::CacheThrough);
    let (file, after) = (machine.id("/d"), Duration::from_secs(60));
    let ttl = |action| SetTtl { target: path("/d").into(), ttl: Some(Ttl { after, action }) };
    machine.run(ttl(TtlAction::Delete)).unwrap();
    assert_eq!(machine.state.ttls_due(machine.now).count(), 0);
    machine.run(TtlExpired { file }).unwrap();
    assert!(machine.knows("/d"), "it is not over");
    machine.now = machine.now.plus(Duration::from_secs(61));
    assert_eq!(machine.state.ttls_due(machine.now).collect::<Vec<_>>(), [(file, TtlAction::Delete)]);
    machine.run(TtlExpired { file }).unwrap();
    assert!(!machine.knows("/d"));
    machine.run(Reclaim { budget: 10 }).unwrap();
    assert_eq!(machine.state.ttls_due(machine.now).count(), 0);
    check_replay(&machine, 6);
}

#[test]
fn broken_checkpoints_are_refused() {
    let mut machine = Machine::new();
    for n in 0..2000 {
        machine.write(&format!("/d/{n}"), WriteType::MustCache);
    }
    let frames = dump(&machine.state);
    assert!(frames.len() > 2 && frames.iter().all(|frame| frame.len() < 80 << 10), "{} frames", frames.len());
    let mut swapped = frames.clone();
    swapped.swap(0, 1);
    for bad in [&frames[..frames.len() - 1], &frames[1..], &swapped, &[vec![255; 9]], &[]] {
        assert_eq!(State::restore(bad).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    assert!(Entry::decode(&[0xff, 0xff, 1]).is_err());
}

#[test]
fn an_abandoned_file_is_as_before() {
    let mut machine = Machine::new();
    let before = dump(&machine.state).len();
    let Ok(Outcome::Writing { lease, .. }) = machine.run(machine.create("/f", WriteType::Through)) else {
        panic!("refused")
    };
    machine.run(AbandonFile { lease }).unwrap();
    assert_eq!(machine.run(AbandonFile { lease }).unwrap(), Outcome::Done);
    assert!(!machine.knows("/f") && dump(&machine.state).len() == before);
    assert_eq!(machine.refused(machine.complete(lease, 0)), ErrorKind::Changed);
}

#[test]
fn links_and_pins() {
    let mut machine = Machine::new();
    machine.write("/f", WriteType::CacheThrough);
    machine.run(Link { target: path("/f").into(), place: place("/g") }).unwrap();
    machine.run(Symlink { place: place("/s"), text: b"f".to_vec() }).unwrap();
    machine.run(SetPin { target: Target::Path(path("/g")), pinned: true }).unwrap();
    let file = machine.id("/g");
    assert_eq!((machine.state.status(file).unwrap().links, machine.state.pins().collect::<Vec<_>>()), (2, vec![file]));
    machine.run(machine.remove("/f", false)).unwrap();
    let status = machine.state.status(file).unwrap();
    assert_eq!((status.links, status.pinned, status.name), (1, true, Some(Name::new("g").unwrap())));
    check_replay(&machine, 6);
    machine.run(machine.remove("/g", false)).unwrap();
    assert_eq!(machine.state.pins().count(), 0);
    assert_eq!(machine.state.status(machine.id("/s")).unwrap().kind, FileKind::Symlink(b"f".to_vec()));
}
