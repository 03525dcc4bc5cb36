//! Changes by others show up, our own do not show up twice, and a check that fails is no answer.

use super::*;
use larder_common::{ErrorKind, FileKind, Name};
use larder_ufs::Capabilities;

use super::super::{Ledger, Validity};

#[tokio::test]
async fn a_direct_change_is_seen_within_a_tenth_of_a_second() {
    let rig = Rig::new().await;
    rig.list().await.unwrap();
    eventually("it is watched", || rig.under.watched_directories(MountId::ROOT) == 1).await;
    for (change, is_so) in [
        (
            Box::new(|rig: &Rig| rig.store.write("f", "one")) as Box<dyn Fn(&Rig)>,
            Box::new(|rig: &Rig| rig.namespace.has("f")) as Box<dyn Fn(&Rig) -> bool>,
        ),
        (Box::new(|rig| rig.store.write("f", "longer")), Box::new(|rig| rig.recorded("f").size == 6)),
        (
            Box::new(|rig| rig.store.make("d", FileKind::Directory)),
            Box::new(|rig| rig.namespace.at("d").is_some_and(|d| d.directory)),
        ),
        (Box::new(|rig| rig.store.delete("f")), Box::new(|rig| !rig.namespace.has("f"))),
    ] {
        let begun = Instant::now();
        change(&rig);
        eventually("the change is seen", || is_so(&rig)).await;
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    }
    assert_eq!(rig.fresh("/d").await.unwrap(), Validity::Session);
}

#[tokio::test]
async fn our_own_changes_are_no_news() {
    let rig = Rig::new().await;
    rig.list().await.unwrap();
    eventually("it is watched", || rig.under.watched_directories(MountId::ROOT) == 1).await;
    rig.namespace.told();
    rig.publish("f", "one").await;
    rig.done(publish("f", rig.store.temporary("two"), Expected::Fingerprint(rig.recorded("f")), Foreign::Refuse)).await;
    rig.done(rename("f", "g", Expected::Fingerprint(rig.recorded("f")), Expected::Absent)).await;
    rig.publish("h", "x").await;
    rig.done(remove("h", Expected::Fingerprint(rig.recorded("h")), false)).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(rig.namespace.told(), Vec::<String>::new());
    assert!(rig.namespace.has("g"));
}

#[tokio::test]
async fn a_look_that_crosses_our_own_change_is_not_believed() {
    let unwatched = Capabilities { watch: false, ..Capabilities::ALL };
    let rig = Rig::on(MemoryStore::with(unwatched, 1000), Namespace::new(row()), settings()).await;
    rig.list().await.unwrap();
    rig.namespace.told();
    // The answer was true when it was given, and our own change was made and concluded before it arrived.
    for (path, name) in [("f", None), ("g", Some("g"))] {
        rig.store.delay_next(40);
        let (looked, ()) = tokio::join!(rig.load(FileId::ROOT, "", name), async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            rig.publish(path, "x").await;
        });
        assert_eq!(looked.unwrap(), []);
        assert!(rig.namespace.has(path), "{path} was made");
        rig.store.delay_next(40);
        let (looked, _) = tokio::join!(rig.load(FileId::ROOT, "", name), async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            rig.done(remove(path, Expected::Fingerprint(rig.recorded(path)), false)).await
        });
        looked.unwrap();
        assert!(!rig.namespace.has(path), "{path} was removed");
    }
    assert_eq!(rig.namespace.told(), Vec::<String>::new());
}

#[tokio::test]
async fn lost_events_become_a_scan() {
    let rig = Rig::new().await;
    rig.list().await.unwrap();
    eventually("it is watched", || rig.under.watched_directories(MountId::ROOT) == 1).await;
    rig.store.write("f", "one");
    rig.store.lose_events();
    eventually("it is seen all the same", || rig.namespace.has("f")).await;
}

#[tokio::test]
async fn ten_thousand_entries_and_strange_names() {
    let rig = Rig::new().await;
    for number in 0..10_000 {
        rig.store.write(format!("{number:05}"), "");
    }
    let strange = [b"\xff\xfe".to_vec(), vec![b'x'; 255], b"new\nline".to_vec()];
    for name in &strange {
        rig.store.write(name, "strange");
    }
    rig.list().await.unwrap();
    let known = rig.namespace.known(FileId::ROOT).unwrap();
    assert!(known.loaded);
    assert_eq!(rig.namespace.children(FileId::ROOT, None, 20_000).len(), 10_003);
    for name in &strange {
        assert!(rig.namespace.child(FileId::ROOT, name).is_some());
    }
    // A page that has not changed is no news; one name that is gone is.
    rig.namespace.told();
    tokio::time::sleep(Duration::from_millis(30)).await;
    rig.list().await.unwrap();
    assert_eq!(rig.namespace.told(), Vec::<String>::new());
}

#[tokio::test]
async fn a_name_is_looked_up_by_itself() {
    let rig = Rig::new().await;
    rig.store.write("here", "x");
    assert_eq!(rig.load(FileId::ROOT, "", Some("here")).await.unwrap(), []);
    assert!(rig.namespace.has("here") && !rig.namespace.known(FileId::ROOT).unwrap().loaded);
    assert_eq!(rig.load(FileId::ROOT, "", Some("gone")).await.unwrap(), [Name::new("gone").unwrap()]);
}

#[tokio::test]
async fn a_check_that_fails_is_not_an_answer() {
    let rig = Rig::new().await;
    rig.store.write("f", "x");
    rig.store.hang(true);
    let error = within(Duration::from_secs(2), rig.load(FileId::ROOT, "", Some("f"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(within(Duration::from_secs(2), rig.list()).await.is_err());
    rig.store.hang(false);
    rig.mount().until_working(soon()).await.unwrap();
    assert_eq!(rig.load(FileId::ROOT, "", Some("f")).await.unwrap(), []);
    rig.list().await.unwrap();
    assert!(rig.namespace.has("f"));
}

#[tokio::test]
async fn an_interval_is_kept_and_no_look_is_made_before() {
    let unwatched = Capabilities { watch: false, ..Capabilities::ALL };
    let namespace = Namespace::new(row_with(&[("freshness", "200ms")]));
    let rig = Rig::on(MemoryStore::with(unwatched, 1000), namespace, settings()).await;
    rig.store.write("f", "one");
    rig.list().await.unwrap();
    let Validity::For(kept) = rig.fresh("/f").await.unwrap() else { panic!("nobody watches") };
    assert!(kept <= Duration::from_millis(200));
    rig.store.write("f", "longer");
    let calls = rig.store.calls();
    rig.fresh("/f").await.unwrap();
    assert_eq!((rig.store.calls(), rig.recorded("f").size), (calls, 3));
    tokio::time::sleep(Duration::from_millis(210)).await;
    rig.fresh("/f").await.unwrap();
    assert_eq!(rig.recorded("f").size, 6);
    rig.store.delete("f");
    rig.store.write("new", "x");
    tokio::time::sleep(Duration::from_millis(210)).await;
    rig.fresh("/f").await.unwrap();
    rig.fresh("/new").await.unwrap();
    assert!(!rig.namespace.has("f") && rig.namespace.has("new"));
    rig.store.write("third", "x");
    tokio::time::sleep(Duration::from_millis(210)).await;
    rig.under.ensure_listing_fresh(FileId::ROOT, soon()).await.unwrap();
    assert!(rig.namespace.has("third"));
}

#[tokio::test]
async fn after_a_restart_what_is_known_is_looked_at_again() {
    let rig = Rig::new().await;
    rig.store.write("f", "one");
    rig.list().await.unwrap();
    let rig = rig.restart().await;
    rig.store.drop_events();
    rig.store.write("f", "longer");
    rig.store.drop_events();
    rig.fresh("/f").await.unwrap();
    assert_eq!(rig.recorded("f").size, 6);
}

#[tokio::test]
async fn links_that_leave_the_store_are_kept_and_named_or_refused() {
    let rig = Rig::new().await;
    rig.store.make("out", FileKind::Symlink(b"/etc/passwd".into()));
    rig.list().await.unwrap();
    assert!(rig.namespace.has("out"));
    assert_eq!(rig.under.outside_links(MountId::ROOT).len(), 1);
    let strict = Namespace::new(row_with(&[(super::super::OUTSIDE_LINKS, "refuse")]));
    let rig = Rig::on(Arc::clone(&rig.store), strict, settings()).await;
    rig.list().await.unwrap();
    assert!(!rig.namespace.has("out"));
}

#[tokio::test]
async fn a_proof_is_planted_judged_and_taken_away() {
    let rig = Rig::new().await;
    let proof = super::super::Proof::prepare(&rig.mount(), soon()).await.unwrap();
    let order = proof.order();
    let name = Name::new(&order.name[..]).unwrap();
    assert_eq!(rig.store.as_store().read_proof(&name).await.unwrap(), order.content);
    assert_eq!(proof.verdict(&Ok(Default::default())), super::super::Verdict::Proven);
    let differs = larder_common::Error::new(ErrorKind::Mismatch, "there is no such proof");
    assert!(
        matches!(proof.verdict(&Err(differs)), super::super::Verdict::Refuted(text) if text.contains("no such proof"))
    );
    proof.clean(soon()).await;
    assert!(rig.store.as_store().read_proof(&name).await.is_err());
}
