//! Each operation, with and without somebody else in the way.

use super::*;
use larder_common::{ErrorKind, FileKind};

use crate::state::{Done, NewDirectory};

fn print(print: Fingerprint) -> Expected {
    Expected::Fingerprint(print)
}

fn failed(result: Option<UnderResult>) -> ErrorKind {
    match result {
        Some(UnderResult::Failed(error)) => error.kind(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_new_file_gets_its_name_mode_and_owner() {
    let rig = Rig::new().await;
    rig.publish("f", "one").await;
    let node = rig.store.node("f").unwrap();
    assert_eq!((node.content.as_slice(), node.mode, node.uid, node.gid), (&b"one"[..], 0o640, 7, 8));
    assert_eq!(rig.store.private(), (0, 0));
    rig.done(publish("empty", Source::Empty, Expected::Absent, Foreign::Refuse)).await;
    assert_eq!(rig.store.read("empty").unwrap(), "");
    assert_eq!(rig.store.private(), (0, 0));
}

#[tokio::test]
async fn directories_are_made_on_the_way_and_taken_back_when_it_fails() {
    let rig = Rig::new().await;
    let directory = |path| NewDirectory { file: FileId(1), path: rel(path), owner: owner() };
    let lost = Source::Temporary(crate::state::Temporary {
        attempt: larder_common::AttemptId(1),
        mount: MountId::ROOT,
        name: "never-made".into(),
    });
    let mut all = action(publish("a/b/f", lost, Expected::Absent, Foreign::Refuse));
    all.directories = vec![directory("a"), directory("a/b")];
    assert_eq!(failed(rig.act_all(all.clone()).await), ErrorKind::NotFound);
    assert!(rig.store.names().is_empty());
    all.operation = publish("a/b/f", rig.store.temporary("x"), Expected::Absent, Foreign::Refuse);
    assert!(matches!(rig.act_all(all).await, Some(UnderResult::Done(_))));
    assert_eq!(rig.store.names(), ["a", "a/b", "a/b/f"]);
    let again = UnderAction { directories: vec![directory("a")], ..action(Operation::MakeDirectories) };
    assert!(matches!(rig.act_all(again).await, Some(UnderResult::Done(Done { fingerprint: Some(_), .. }))));
}

#[tokio::test]
async fn what_is_foreign_is_never_replaced() {
    let rig = Rig::new().await;
    rig.store.write("f", "theirs");
    let new = rig.store.temporary("ours");
    assert_eq!(failed(rig.act(publish("f", new, Expected::Absent, Foreign::Refuse)).await), ErrorKind::AlreadyExists);
    rig.publish("g", "one").await;
    let old = rig.recorded("g");
    rig.store.write("g", "theirs");
    let new = rig.store.temporary("two");
    assert_eq!(failed(rig.act(publish("g", new, print(old), Foreign::Refuse)).await), ErrorKind::Changed);
    assert_eq!(rig.store.read("g").unwrap(), "theirs");
}

#[tokio::test]
async fn what_is_foreign_is_kept_beside_when_ours_has_the_name() {
    let rig = Rig::new().await;
    rig.store.write("f", "theirs");
    let ours = rig.store.temporary("ours");
    let keep = Foreign::KeepAside(rel("f.larder-conflict-9"));
    let Some(UnderResult::Done(done)) = rig.act(publish("f", ours, Expected::Absent, keep)).await else { panic!() };
    assert_eq!(done.aside.unwrap().name.as_bytes(), b"f.larder-conflict-9");
    assert_eq!(rig.store.read("f").unwrap(), "ours");
    assert_eq!(rig.store.read("f.larder-conflict-9").unwrap(), "theirs");
    assert!(rig.namespace.has("f.larder-conflict-9"));
}

#[tokio::test]
async fn a_rewrite_of_a_file_that_somebody_removed_is_not_lost() {
    let rig = Rig::new().await;
    rig.publish("f", "one").await;
    let old = rig.recorded("f");
    rig.store.delete("f");
    let new = rig.store.temporary("two");
    rig.done(publish("f", new, print(old), Foreign::Refuse)).await;
    assert_eq!(rig.store.read("f").unwrap(), "two");
}

#[tokio::test]
async fn attributes_of_the_replaced_file_are_carried_over() {
    let rig = Rig::new().await;
    rig.publish("f", "one").await;
    let attribute = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    rig.store.set_xattrs("f", vec![attribute("system.posix_acl_access", "acl"), attribute("user.a", "old")]);
    let mut change = publish("f", rig.store.temporary("two"), print(rig.recorded("f")), Foreign::Refuse);
    if let Operation::Publish { xattrs, .. } = &mut change {
        *xattrs = vec![attribute("user.a", "new")];
    }
    rig.done(change).await;
    let kept = rig.store.node("f").unwrap().xattrs;
    assert_eq!(kept, [attribute("system.posix_acl_access", "acl"), attribute("user.a", "new")]);
    rig.done(publish("f", rig.store.temporary("three"), print(rig.recorded("f")), Foreign::Refuse)).await;
    assert_eq!(rig.store.node("f").unwrap().xattrs, kept);
}

#[tokio::test]
async fn removals_go_by_identity() {
    let rig = Rig::new().await;
    rig.publish("f", "one").await;
    let old = rig.recorded("f");
    rig.store.write("f", "theirs");
    assert_eq!(failed(rig.act(remove("f", print(old.clone()), false)).await), ErrorKind::Changed);
    assert_eq!(rig.store.read("f").unwrap(), "theirs");
    rig.store.delete("f");
    rig.done(remove("f", print(old), false)).await;
    rig.publish("g", "open").await;
    let kept = Operation::Remove {
        target: rel("g"),
        expected: print(rig.recorded("g")),
        directory: false,
        orphan: Some("5.6".into()),
    };
    rig.done(kept).await;
    assert_eq!(rig.store.private(), (0, 1));
    rig.under.destroy_orphan(MountId::ROOT, "5.6").await;
    assert_eq!(rig.store.private(), (0, 0));
}

#[tokio::test]
async fn an_empty_directory_with_a_foreign_file_stays_and_a_tree_goes() {
    let rig = Rig::new().await;
    rig.store.make("d", FileKind::Directory);
    rig.list().await.unwrap();
    let directory = rig.namespace.at("d").unwrap().file;
    rig.load(directory, "d", None).await.unwrap();
    rig.store.drop_events();
    // Nobody has been told of this one yet.
    let hidden = [("d/new", "theirs")];
    rig.under.mounts().get(MountId::ROOT).unwrap();
    rig.store.write(hidden[0].0, hidden[0].1);
    rig.store.drop_events();
    if !rig.namespace.has("d/new") {
        assert_eq!(failed(rig.act(remove("d", Expected::Any, true)).await), ErrorKind::NotEmpty);
    }
    eventually("the file is seen after the failure", || rig.namespace.has("d/new")).await;
    for path in ["d/a", "d/b"] {
        rig.store.make(path, FileKind::Directory);
        for number in 0..30 {
            rig.store.write(format!("{path}/{number}"), "x");
        }
    }
    rig.done(remove("d", Expected::Any, true)).await;
    assert!(rig.store.names().is_empty());
    assert_eq!(rig.store.private(), (0, 0));
}

#[tokio::test]
async fn renames_go_by_identity_and_replace_only_what_is_expected() {
    let rig = Rig::new().await;
    rig.publish("a", "a").await;
    rig.publish("b", "b").await;
    let wrong = rename("a", "b", print(rig.recorded("a")), Expected::Absent);
    assert_eq!(failed(rig.act(wrong).await), ErrorKind::AlreadyExists);
    rig.done(rename("a", "b", print(rig.recorded("a")), print(rig.recorded("b")))).await;
    assert_eq!(rig.store.names(), ["b"]);
    assert_eq!(rig.store.read("b").unwrap(), "a");
    let old = rig.recorded("b");
    rig.store.write("b", "theirs");
    assert_eq!(failed(rig.act(rename("b", "c", print(old), Expected::Absent)).await), ErrorKind::Changed);
}

#[tokio::test]
async fn names_are_swapped() {
    let rig = Rig::new().await;
    rig.publish("a", "a").await;
    rig.publish("b", "b").await;
    rig.done(Operation::Exchange { from: rel("a"), to: rel("b") }).await;
    assert_eq!((rig.store.read("a").unwrap(), rig.store.read("b").unwrap()), ("b".into(), "a".into()));
    assert_eq!(rig.store.names(), ["a", "b"]);
}

#[tokio::test]
async fn a_change_of_mode_hides_no_change_of_content() {
    let rig = Rig::new().await;
    rig.publish("f", "one").await;
    let mode = || Operation::SetAttributes {
        target: rel("f"),
        mode: Some(0o600),
        uid: None,
        gid: None,
        accessed: None,
        modified: None,
    };
    assert!(rig.done(mode()).await.is_some());
    assert_eq!(rig.store.node("f").unwrap().mode, 0o600);
    rig.store.write("f", "theirs");
    assert!(rig.done(mode()).await.is_none());
    let xattr = |value: Option<&str>| Operation::SetXattr {
        target: rel("f"),
        name: b"user.a".into(),
        value: value.map(Into::into),
    };
    rig.done(xattr(Some("1"))).await;
    assert_eq!(rig.store.node("f").unwrap().xattrs.len(), 1);
    rig.done(xattr(None)).await;
    rig.done(xattr(None)).await;
    assert!(rig.store.node("f").unwrap().xattrs.is_empty());
}

#[tokio::test]
async fn links_and_special_files() {
    let rig = Rig::new().await;
    rig.publish("f", "one").await;
    rig.done(Operation::Link { from: rel("f"), to: rel("g") }).await;
    rig.done(Operation::Symlink { target: rel("s"), text: b"f".into(), owner: owner() }).await;
    rig.done(Operation::MakeSpecial { target: rel("p"), format: 0o010_000, device: 0, owner: owner() }).await;
    assert_eq!(rig.store.read("g").unwrap(), "one");
    assert_eq!(rig.store.node("s").unwrap().kind, FileKind::Symlink(b"f".into()));
    assert_eq!(rig.store.node("p").unwrap().kind, FileKind::Special(0o010_000, 0));
    let again = Operation::Symlink { target: rel("s"), text: b"x".into(), owner: owner() };
    assert_eq!(failed(rig.act(again).await), ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn a_mode_that_somebody_else_has_set_is_in_nobody_s_way() {
    let rig = Rig::new().await;
    rig.publish("f", "one").await;
    rig.store.chmod("f", 0o400);
    rig.done(publish("f", rig.store.temporary("two"), print(rig.recorded("f")), Foreign::Refuse)).await;
    rig.store.chmod("f", 0o400);
    rig.done(Operation::Link { from: rel("f"), to: rel("l") }).await;
    rig.store.chmod("f", 0o440);
    rig.done(rename("f", "g", print(rig.recorded("f")), Expected::Absent)).await;
    rig.store.chmod("g", 0o400);
    rig.done(remove("g", print(rig.recorded("g")), false)).await;
    assert_eq!(rig.store.names(), ["l"]);
}
