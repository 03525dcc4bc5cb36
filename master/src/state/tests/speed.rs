//! How long the common calls take. The limits are wide in a debug build; `--release --nocapture` prints the figures.

use std::time::Instant;

use super::*;

#[test]
fn creates_and_lookups_are_quick() {
    let count = if cfg!(debug_assertions) { 5_000 } else { 300_000 };
    let name = |n: u32| format!("/a/b/dir-{}/part-{n:07}", n / 1000);
    let mut machine = Machine::new();
    machine.mkdir("/a/b/c", WriteType::MustCache).unwrap();
    machine.run(ReserveIds { count: 10_000_000, start: false }).unwrap();
    let commands: Vec<Command> = (0..count).map(|n| machine.create(&name(n), WriteType::MustCache).into()).collect();
    let mut context = machine.context();
    let start = Instant::now();
    for (index, command) in commands.iter().enumerate() {
        context.request = Some(Request { session: machine.session, slot: 1, number: index as u64 + 1 });
        let Ok(Planned::Apply(entry)) = machine.state.plan(command, &context) else { panic!("refused") };
        machine.state.apply(Position(index as u64 + 10), &entry);
    }
    let create = start.elapsed() / count;
    let paths: Vec<FsPath> = (0..count).map(|n| path(&name((u64::from(n) * 7919 % u64::from(count)) as u32))).collect();
    let root = Caller::root();
    let start = Instant::now();
    let found = paths.iter().filter(|path| machine.state.resolve(path, &root, &[]).is_ok()).count();
    let resolve = start.elapsed() / count;
    let start = Instant::now();
    let hot = paths.iter().take(1000).cycle().take(count as usize);
    let hot = hot.filter(|path| machine.state.resolve(path, &root, &[]).is_ok()).count();
    let warm = start.elapsed() / count;
    assert_eq!(hot as u32, count);
    let start = Instant::now();
    let copy = machine.state.clone();
    let clone = start.elapsed();
    let start = Instant::now();
    let bytes: usize = copy.checkpoint().map(|frame| frame.len()).sum();
    let checkpoint = start.elapsed();
    println!(
        "{count} files: create {create:?}, resolve {resolve:?} (a thousand paths again and again: {warm:?}), clone {clone:?}, checkpoint {bytes} bytes in {checkpoint:?}"
    );
    assert_eq!(found as u32, count);
    if !cfg!(debug_assertions) {
        assert!(create < Duration::from_micros(20) && resolve < Duration::from_micros(5), "{create:?} {resolve:?}");
    }
}
