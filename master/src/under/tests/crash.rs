//! The master is killed between intent and outcome, at every call that changes the store, before and after the change. The
//! next one must end in exactly one of the two allowed states, with nothing left over; and a store that hangs must not
//! hang anybody.

use super::*;
use larder_common::{ErrorKind, FileKind};

use super::store::Fault;

/// Everything that the store shows: names with their content.
fn shown(rig: &Rig) -> BTreeMap<String, String> {
    let names = rig.store.names();
    names.into_iter().map(|name| (name.clone(), rig.store.read(&name).unwrap())).collect()
}

struct Case {
    name: &'static str,
    /// Files that are there before.
    before: &'static [(&'static str, &'static str)],
    operation: fn(&Rig) -> Operation,
    /// Files that are there when it was done.
    after: &'static [(&'static str, &'static str)],
}

const CASES: &[Case] = &[
    Case {
        name: "publish",
        before: &[],
        operation: |rig| publish("f", rig.store.temporary("new"), Expected::Absent, Foreign::Refuse),
        after: &[("f", "new")],
    },
    Case {
        name: "publish an empty file",
        before: &[],
        operation: |_| publish("f", Source::Empty, Expected::Absent, Foreign::Refuse),
        after: &[("f", "")],
    },
    Case {
        name: "replace",
        before: &[("f", "old")],
        operation: |rig| {
            let old = Expected::Fingerprint(rig.recorded("f"));
            publish("f", rig.store.temporary("new"), old, Foreign::Refuse)
        },
        after: &[("f", "new")],
    },
    Case {
        name: "replace something foreign that stays beside",
        before: &[("f", "old")],
        operation: |rig| {
            let keep = Foreign::KeepAside(rel("f.larder-conflict-1"));
            publish("f", rig.store.temporary("new"), Expected::Absent, keep)
        },
        after: &[("f", "new"), ("f.larder-conflict-1", "old")],
    },
    Case {
        name: "remove",
        before: &[("f", "old"), ("g", "other")],
        operation: |rig| remove("f", Expected::Fingerprint(rig.recorded("f")), false),
        after: &[("g", "other")],
    },
    Case {
        name: "rename",
        before: &[("f", "one"), ("g", "two")],
        operation: |rig| {
            let of = |path| Expected::Fingerprint(rig.recorded(path));
            rename("f", "g", of("f"), of("g"))
        },
        after: &[("g", "one")],
    },
    Case {
        name: "exchange",
        before: &[("f", "one"), ("g", "two")],
        operation: |_| Operation::Exchange { from: rel("f"), to: rel("g") },
        after: &[("f", "two"), ("g", "one")],
    },
    Case {
        name: "link",
        before: &[("f", "one")],
        operation: |_| Operation::Link { from: rel("f"), to: rel("g") },
        after: &[("f", "one"), ("g", "one")],
    },
    Case {
        name: "symlink",
        before: &[],
        operation: |_| Operation::Symlink { target: rel("s"), text: b"f".into(), owner: owner() },
        after: &[("s", "")],
    },
];

fn files(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    files.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect()
}

/// Runs one case with the fault, restarts, and compares.
async fn crash(case: &Case, step: u64, fault: Fault) {
    let what = format!("{}, step {step}, {fault:?}", case.name);
    let rig = Rig::new().await;
    for (path, content) in case.before {
        rig.publish(path, content).await;
    }
    let operation = (case.operation)(&rig);
    let action = action(operation);
    rig.store.fail_at(step, fault);
    let intent = rig.namespace.open(&action);
    let acting = rig.under.act(intent, action, Instant::now() + Duration::from_millis(40));
    if let Some(result) = acting.await {
        // So many steps it does not have.
        super::super::Ledger::conclude(&*rig.namespace, intent, &result).unwrap();
    }
    let rig = rig.restart().await;
    eventually(&what, || rig.namespace.intents() == 0).await;
    let (store, result) = (shown(&rig), rig.namespace.result(intent).unwrap());
    match result {
        UnderResult::Done(_) => assert_eq!(store, files(case.after), "{what}"),
        UnderResult::Failed(_) => assert_eq!(store, files(case.before), "{what}"),
    }
    for name in store.keys() {
        assert!(rig.namespace.has(name), "{what}: {name} is not known");
        let seen = rig.namespace.at(name).unwrap().fingerprint.map(|print| (print.inode, print.size));
        let status = rig.store.status_of(name);
        assert_eq!(seen, Some((status.inode, status.size)), "{what}: {name}");
    }
    rig.under.sweep(MountId::ROOT).await.unwrap();
    assert_eq!(rig.store.private(), (0, 0), "{what}");
}

#[tokio::test]
async fn a_crash_at_every_step_ends_in_one_of_two_states() {
    let cases = CASES.iter().flat_map(|case| (0..5).map(move |step| (case, step)));
    let all =
        cases.flat_map(|(case, step)| [Fault::HangBefore, Fault::HangAfter].map(|fault| crash(case, step, fault)));
    futures_util::future::join_all(all).await;
}

#[tokio::test]
async fn a_tree_is_removed_to_the_end_after_a_crash() {
    for step in 0..12 {
        let rig = Rig::new().await;
        rig.store.make("d", FileKind::Directory);
        rig.store.make("d/e", FileKind::Directory);
        for path in ["d/1", "d/e/2", "d/e/3"] {
            rig.store.write(path, "x");
        }
        rig.list().await.unwrap();
        let action = action(remove("d", Expected::Any, true));
        let intent = rig.namespace.open(&action);
        rig.store.fail_at(step, Fault::HangAfter);
        if let Some(result) = rig.under.act(intent, action, Instant::now() + Duration::from_millis(30)).await {
            super::super::Ledger::conclude(&*rig.namespace, intent, &result).unwrap();
        }
        let rig = rig.restart().await;
        eventually("the tree is gone", || rig.namespace.intents() == 0).await;
        assert!(rig.store.names().is_empty(), "step {step}: {:?}", rig.store.names());
    }
}

#[tokio::test]
async fn a_call_of_unknown_outcome_is_settled_without_a_restart() {
    let rig = Rig::new().await;
    let operation = publish("f", rig.store.temporary("new"), Expected::Absent, Foreign::Refuse);
    rig.store.fail_at(0, Fault::HangAfter);
    let begun = Instant::now();
    assert!(rig.act(operation).await.is_none());
    assert!(begun.elapsed() < Duration::from_secs(1), "a store that hangs hangs nobody");
    assert_eq!(rig.namespace.intents(), 1);
    rig.store.revive();
    eventually("it is settled", || rig.namespace.intents() == 0).await;
    assert!(rig.namespace.has("f"));
}

#[tokio::test]
async fn a_mount_that_hangs_fails_fast_and_comes_back() {
    let rig = Rig::new().await;
    rig.publish("f", "one").await;
    rig.list().await.unwrap();
    rig.store.hang(true);
    let mode = || Operation::SetAttributes {
        target: rel("f"),
        mode: Some(0o600),
        uid: None,
        gid: None,
        accessed: None,
        modified: None,
    };
    // Nothing has been changed by then: that is known to have failed.
    assert!(matches!(rig.act(mode()).await, Some(UnderResult::Failed(error)) if error.kind() == ErrorKind::Deadline));
    assert!(rig.mount().trouble().is_some());
    let begun = Instant::now();
    assert!(
        matches!(rig.act(mode()).await, Some(UnderResult::Failed(error)) if error.kind() == ErrorKind::Unavailable)
    );
    assert_eq!(rig.fresh("/f").await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(begun.elapsed() < Duration::from_millis(100));
    assert!(!rig.under.mounts().info()[0].trouble.is_empty());
    rig.store.hang(false);
    eventually("it works again", || rig.mount().trouble().is_none()).await;
    rig.done(mode()).await;
    rig.fresh("/f").await.unwrap();
}

#[tokio::test]
async fn what_nobody_owns_goes_at_the_start() {
    let rig = Rig::new().await;
    rig.store.temporary("of a worker that died");
    let rig = rig.restart().await;
    eventually("it is gone", || rig.store.private() == (0, 0)).await;
}
