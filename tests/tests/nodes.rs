//! Calls by id, or by directory and name, against a real master: what POSIX and `xattr(7)` ask of them, what two sessions see
//! of each other, and pages of large directories.

use std::{
    os::unix::ffi::OsStrExt,
    time::{Duration, Instant},
};

use anyhow::Result;
use larder_client::{
    AttributeChanges, Caller, ErrorKind, FileId, FileKind, FileStatus, Invalidated, Name, NodeCreate, NodeRename,
    Nodes, SetTime, Timestamp, Trust, WriteType, XattrMode,
};
use larder_tests::masters::Alone;

const ROOT: FileId = FileId(1);

fn name(bytes: impl AsRef<[u8]>) -> Name {
    Name::new(bytes).expect("a name")
}

fn user(uid: u32) -> Caller {
    Caller { uid, gids: vec![uid], name: String::new() }
}

fn root() -> Caller {
    Caller::root()
}

fn kind<T: std::fmt::Debug>(result: larder_client::Result<T>) -> ErrorKind {
    result.expect_err("an error").kind()
}

fn mode(mode: u32) -> AttributeChanges {
    AttributeChanges { mode: Some(mode), ..AttributeChanges::default() }
}

async fn directory(nodes: &Nodes, parent: FileId, text: &str, mode: u32) -> Result<FileId> {
    Ok(nodes.mkdir(&root(), parent, &name(text), mode).await?.status.id)
}

async fn file(nodes: &Nodes, caller: &Caller, parent: FileId, text: &str) -> Result<FileStatus> {
    let create = NodeCreate { mode: 0o644, write_type: None };
    Ok(nodes.make_file(caller, parent, &name(text), &create).await?.status)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_any_bytes_and_every_kind_of_file() -> Result<()> {
    let alone = Alone::start().await?;
    let (fs, other) = (alone.connect().await?, alone.connect().await?);
    let (nodes, other) = (fs.nodes(), other.nodes());
    let odd: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').chain([b'x']).collect();
    assert_eq!(odd.len(), 255);
    let d = nodes.mkdir(&root(), ROOT, &name(&odd), 0o2775).await?.status;
    assert_eq!((d.name, d.mode, d.links, &d.kind), (Some(name(&odd)), 0o2775, 2, &FileKind::Directory));
    let f = file(&nodes, &root(), d.id, "f").await?;
    nodes.symlink(&root(), d.id, &name("s"), b"\xff/..").await?;
    nodes.mknod(&root(), d.id, &name("p"), 0o010_644, 0).await?;
    nodes.mknod(&root(), d.id, &name("c"), 0o020_644, 0x0103).await?;
    nodes.mknod(&root(), d.id, &name("k"), 0o140_600, 0).await?;
    let linked = nodes.link(&root(), f.id, d.id, &name(b"\xfe")).await?.status;
    assert_eq!((linked.id, linked.links, linked.name), (f.id, 2, Some(name(b"\xfe"))));
    let page = other.list(&root(), d.id, None, 100).await?;
    let found: Vec<_> = page.entries.iter().map(|e| (e.name.clone().expect("named"), e.kind.clone())).collect();
    assert_eq!(
        found,
        [
            (name("c"), FileKind::Special(0o020_000, 0x0103)),
            (name("f"), FileKind::File),
            (name("k"), FileKind::Special(0o140_000, 0)),
            (name("p"), FileKind::Special(0o010_000, 0)),
            (name("s"), FileKind::Symlink(b"\xff/..".to_vec())),
            (name(b"\xfe"), FileKind::File),
        ]
    );
    assert!(!page.more && page.trusted == Trust::Session, "{:?}", page.trusted);
    assert_eq!(other.lookup(&root(), ROOT, &name(&odd)).await?.status.id, d.id);
    assert_eq!(other.status(f.id).await?.status.links, 2);
    let mut on_disk = std::fs::read_dir(alone.under())?.filter_map(|entry| Some(entry.ok()?.file_name()));
    assert!(on_disk.any(|name| name.as_bytes() == odd), "in the under store, too");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_is_the_one_that_posix_names() -> Result<()> {
    let alone = Alone::start().await?;
    let fs = alone.connect().await?;
    let nodes = fs.nodes();
    let (open, tight) = (directory(&nodes, ROOT, "open", 0o777).await?, directory(&nodes, ROOT, "tight", 0o755).await?);
    let sub = directory(&nodes, open, "sub", 0o755).await?;
    let mine = file(&nodes, &user(7), open, "mine").await?;
    let (f, n) = (file(&nodes, &root(), tight, "f").await?, name("n"));
    // Rights by mode bits: EACCES.
    assert_eq!(kind(nodes.mkdir(&user(7), tight, &n, 0o755).await), ErrorKind::Denied);
    assert_eq!(kind(nodes.unlink(&user(7), tight, &name("f")).await), ErrorKind::Denied);
    assert_eq!(
        kind(nodes.rename(&user(7), (tight, &name("f")), (open, &n), NodeRename::Replace).await),
        ErrorKind::Denied
    );
    let touch = AttributeChanges { modified: Some(SetTime::Now), ..AttributeChanges::default() };
    assert_eq!(kind(nodes.set_attributes(&user(7), f.id, &touch).await), ErrorKind::Denied);
    // Ownership: EPERM.
    let set = AttributeChanges { modified: Some(SetTime::At(Timestamp(5))), ..AttributeChanges::default() };
    for changes in [mode(0o777), set, AttributeChanges { uid: Some(7), ..AttributeChanges::default() }] {
        assert_eq!(kind(nodes.set_attributes(&user(7), f.id, &changes).await), ErrorKind::NotPermitted);
    }
    assert_eq!(kind(nodes.mknod(&user(7), open, &n, 0o060_644, 1).await), ErrorKind::NotPermitted);
    assert_eq!(kind(nodes.link(&root(), sub, open, &n).await), ErrorKind::NotPermitted);
    // Kinds and names.
    assert_eq!(kind(nodes.lookup(&root(), open, &n).await), ErrorKind::NotFound);
    assert_eq!(kind(nodes.lookup(&root(), mine.id, &n).await), ErrorKind::NotDirectory);
    assert_eq!(kind(nodes.mkdir(&root(), mine.id, &n, 0o755).await), ErrorKind::NotDirectory);
    assert_eq!(kind(nodes.mkdir(&root(), open, &name("sub"), 0o755).await), ErrorKind::AlreadyExists);
    assert_eq!(kind(nodes.unlink(&root(), open, &name("sub")).await), ErrorKind::IsDirectory);
    assert_eq!(kind(nodes.rmdir(&root(), open, &name("mine")).await), ErrorKind::NotDirectory);
    assert_eq!(kind(nodes.rmdir(&root(), ROOT, &name("open")).await), ErrorKind::NotEmpty);
    assert_eq!(kind(nodes.status(FileId(999_999)).await), ErrorKind::NotFound);
    let moved = |from: (FileId, &'static str), to: (FileId, &'static str), how| {
        let nodes = nodes.clone();
        async move { nodes.rename(&root(), (from.0, &name(from.1)), (to.0, &name(to.1)), how).await }
    };
    assert_eq!(kind(moved((open, "mine"), (open, "sub"), NodeRename::Replace).await), ErrorKind::IsDirectory);
    assert_eq!(kind(moved((open, "sub"), (open, "mine"), NodeRename::Replace).await), ErrorKind::NotDirectory);
    assert_eq!(kind(moved((ROOT, "open"), (sub, "x"), NodeRename::Replace).await), ErrorKind::Invalid);
    assert_eq!(kind(moved((open, "mine"), (tight, "f"), NodeRename::NoReplace).await), ErrorKind::AlreadyExists);
    assert_eq!(kind(moved((open, "none"), (tight, "x"), NodeRename::Replace).await), ErrorKind::NotFound);
    assert_eq!(kind(moved((open, "mine"), (tight, "none"), NodeRename::Exchange).await), ErrorKind::NotFound);
    moved((open, "mine"), (tight, "f"), NodeRename::Exchange).await?;
    assert_eq!(nodes.lookup(&root(), tight, &name("f")).await?.status.id, mine.id);
    // A directory that is gone takes nothing.
    nodes.rmdir(&root(), open, &name("sub")).await?;
    assert_eq!(kind(file_in(&nodes, sub).await), ErrorKind::NotFound);
    Ok(())
}

async fn file_in(nodes: &Nodes, directory: FileId) -> larder_client::Result<()> {
    nodes.make_file(&root(), directory, &name("late"), &NodeCreate::default()).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn sticky_directories_setgid_and_privileges() -> Result<()> {
    let alone = Alone::start().await?;
    let fs = alone.connect().await?;
    let nodes = fs.nodes();
    let sticky = directory(&nodes, ROOT, "tmp", 0o1777).await?;
    let f = file(&nodes, &user(7), sticky, "f").await?;
    assert_eq!(kind(nodes.unlink(&user(8), sticky, &name("f")).await), ErrorKind::NotPermitted);
    let away = nodes.rename(&user(8), (sticky, &name("f")), (sticky, &name("g")), NodeRename::Replace).await;
    assert_eq!(kind(away), ErrorKind::NotPermitted);
    file(&nodes, &user(8), sticky, "g").await?;
    let over = nodes.rename(&user(8), (sticky, &name("g")), (sticky, &name("f")), NodeRename::Replace).await;
    assert_eq!(kind(over), ErrorKind::NotPermitted, "what is replaced is another one's");
    // setuid and setgid: kept by who may, dropped by writing and by a new owner.
    let set = nodes.set_attributes(&user(7), f.id, &mode(0o6755)).await?;
    assert_eq!(set.status.mode, 0o6755);
    let written = AttributeChanges { drop_privileges: true, ..AttributeChanges::default() };
    assert_eq!(nodes.set_attributes(&user(7), f.id, &written).await?.status.mode, 0o755);
    assert_eq!(kind(nodes.set_attributes(&user(8), f.id, &written).await), ErrorKind::Denied);
    nodes.set_attributes(&user(7), f.id, &mode(0o6745)).await?;
    let kept = nodes.set_attributes(&user(7), f.id, &written).await?.status.mode;
    assert_eq!(kept, 0o2745, "setgid without the group's x is a kind of locking, not a privilege");
    nodes.set_attributes(&root(), f.id, &AttributeChanges { gid: Some(99), ..AttributeChanges::default() }).await?;
    assert_eq!(nodes.set_attributes(&user(7), f.id, &mode(0o2755)).await?.status.mode, 0o755, "not of the group");
    // A setgid directory hands its group on.
    let shared = directory(&nodes, ROOT, "shared", 0o2777).await?;
    nodes.set_attributes(&root(), shared, &AttributeChanges { gid: Some(50), ..AttributeChanges::default() }).await?;
    assert_eq!(file(&nodes, &user(7), shared, "f").await?.gid, 50);
    let below = nodes.mkdir(&user(7), shared, &name("d"), 0o755).await?.status;
    assert_eq!((below.gid, below.mode), (50, 0o2755));
    Ok(())
}

/// Changed and modified times of some inodes.
async fn times(nodes: &Nodes, files: &[FileId]) -> Result<Vec<(Timestamp, Timestamp)>> {
    let mut all = Vec::new();
    for file in files {
        let times = nodes.status(*file).await?.status.times;
        all.push((times.changed, times.modified));
    }
    Ok(all)
}

/// Which inodes got a new ctime and mtime by a change, as `(ctime, mtime)` for each.
async fn moved_by(
    nodes: &Nodes,
    files: &[FileId],
    change: impl Future<Output = Result<()>>,
) -> Result<Vec<(bool, bool)>> {
    // The under store's own times of the change before, a moment later than ours, come with the next look at it.
    let mut before = times(nodes, files).await?;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = times(nodes, files).await?;
        if now == before {
            break;
        }
        before = now;
    }
    change.await?;
    let after = times(nodes, files).await?;
    Ok(before.iter().zip(&after).map(|(b, a)| (a.0 > b.0, a.1 > b.1)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn times_follow_changes_as_posix_says() -> Result<()> {
    let alone = Alone::start().await?;
    let fs = alone.connect().await?;
    let (nodes, who) = (fs.nodes(), root());
    let (a, b) = (directory(&nodes, ROOT, "a", 0o755).await?, directory(&nodes, ROOT, "b", 0o755).await?);
    let f = file(&nodes, &who, a, "f").await?.id;
    let all = [a, b, f];
    const NONE: (bool, bool) = (false, false);
    const BOTH: (bool, bool) = (true, true);
    const CTIME: (bool, bool) = (true, false);
    let (n, o) = (&nodes, &who);
    let linked = moved_by(n, &all, async { Ok(n.link(o, f, b, &name("l")).await.map(drop)?) }).await?;
    assert_eq!(linked, [NONE, BOTH, CTIME], "link");
    let unlinked = Box::pin(moved_by(n, &all, async { Ok(n.unlink(o, b, &name("l")).await?) })).await?;
    assert_eq!(unlinked, [NONE, BOTH, CTIME], "unlink of one of two names");
    let rename = n.rename(o, (a, &Name::new("f")?), (b, &Name::new("g")?), NodeRename::Replace).await;
    assert!(rename.is_ok());
    let back = moved_by(n, &all, async {
        Ok(n.rename(o, (b, &name("g")), (a, &name("f")), NodeRename::Replace).await.map(drop)?)
    });
    assert_eq!(Box::pin(back).await?, [BOTH, BOTH, CTIME], "rename");
    let chmod = moved_by(n, &all, async { Ok(n.set_attributes(o, f, &mode(0o600)).await.map(drop)?) }).await?;
    assert_eq!(chmod, [NONE, NONE, CTIME], "chmod");
    let xattr = moved_by(n, &all, async { Ok(n.set_xattr(o, f, b"user.x", "1", XattrMode::Any).await?) }).await?;
    assert_eq!(xattr, [NONE, NONE, CTIME], "setxattr");
    let made = moved_by(n, &all, async { Ok(n.mkdir(o, a, &name("d"), 0o755).await.map(drop)?) }).await?;
    assert_eq!(made, [BOTH, NONE, NONE], "mkdir");
    let exact = Timestamp::new(1_234_567_890, 123_456_789);
    let set =
        AttributeChanges { accessed: Some(SetTime::At(exact)), modified: Some(exact.into()), ..Default::default() };
    let status = n.set_attributes(o, f, &set).await?.status;
    assert_eq!((status.times.accessed, status.times.modified), (exact, exact), "to the nanosecond");
    assert!(status.times.changed > exact);
    let before_1970 = AttributeChanges { modified: Some(Timestamp::new(-5, 7).into()), ..Default::default() };
    assert_eq!(n.set_attributes(o, f, &before_1970).await?.status.times.modified, Timestamp::new(-5, 7));
    assert_eq!(n.status(a).await?.status.links, 3, "a directory counts the directories in it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn extended_attributes_are_bytes_with_the_rules_of_linux() -> Result<()> {
    let alone = Alone::start().await?;
    let fs = alone.connect().await?;
    let nodes = fs.nodes();
    let d = directory(&nodes, ROOT, "d", 0o777).await?;
    let f = file(&nodes, &user(7), d, "f").await?.id;
    let odd: &[u8] = b"user.\xff\x01";
    nodes.set_xattr(&user(7), f, odd, &b"\0\xff"[..], XattrMode::Create).await?;
    assert_eq!(&nodes.xattr(&user(8), f, odd).await?[..], b"\0\xff");
    assert_eq!(kind(nodes.set_xattr(&user(7), f, odd, "", XattrMode::Create).await), ErrorKind::AlreadyExists);
    assert_eq!(kind(nodes.set_xattr(&user(7), f, b"user.no", "", XattrMode::Replace).await), ErrorKind::NoAttribute);
    assert_eq!(kind(nodes.xattr(&user(7), f, b"user.no").await), ErrorKind::NoAttribute);
    assert_eq!(kind(nodes.remove_xattr(&user(7), f, b"user.no").await), ErrorKind::NoAttribute);
    assert_eq!(kind(nodes.set_xattr(&user(8), f, b"user.x", "", XattrMode::Any).await), ErrorKind::Denied);
    assert_eq!(kind(nodes.set_xattr(&user(7), f, b"trusted.x", "", XattrMode::Any).await), ErrorKind::NotPermitted);
    let acl = nodes.set_xattr(&root(), f, b"system.posix_acl_access", "", XattrMode::Any).await;
    assert_eq!(kind(acl), ErrorKind::Unsupported);
    nodes.set_xattr(&root(), f, b"trusted.x", "t", XattrMode::Any).await?;
    nodes.set_xattr(&root(), f, b"security.x", "s", XattrMode::Any).await?;
    let (of_user, of_root) = (nodes.xattrs(&user(8), f).await?, nodes.xattrs(&root(), f).await?);
    assert_eq!(of_user, [&b"security.x"[..], odd], "trusted is hidden");
    assert_eq!(of_root.len(), 3);
    nodes.set_attributes(&user(7), f, &mode(0)).await?;
    assert_eq!(kind(nodes.xattr(&user(8), f, odd).await), ErrorKind::Denied);
    nodes.remove_xattr(&root(), f, odd).await?;
    assert_eq!(nodes.xattrs(&root(), f).await?.len(), 2);
    Ok(())
}

async fn invalidated(watcher: &mut larder_client::Invalidations) -> Invalidated {
    let next = tokio::time::timeout(Duration::from_secs(10), watcher.next());
    next.await.expect("an invalidation in time").expect("the file system is open")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_answered_when_who_caches_it_has_dropped_it() -> Result<()> {
    let alone = Alone::start().await?;
    let (fs, other) = (alone.connect().await?, alone.connect().await?);
    let (nodes, other) = (fs.nodes(), other.nodes());
    let d = directory(&nodes, ROOT, "d", 0o755).await?;
    let (f, g) = (file(&nodes, &root(), d, "f").await?, file(&nodes, &root(), d, "g").await?);
    let (mut watcher, mut own) = (other.invalidations(), nodes.invalidations());
    assert_eq!(other.lookup(&root(), d, &name("f")).await?.trusted, Trust::Session);
    assert_eq!(other.lookup(&root(), d, &name("g")).await?.status.id, g.id);
    let mut unlink = tokio::spawn({
        let nodes = nodes.clone();
        async move { nodes.unlink(&root(), d, &name("f")).await }
    });
    // First it is asked who has it open; then it is gone.
    let asked = invalidated(&mut watcher).await;
    assert!(asked.names.is_empty() && asked.files.contains(&f.id), "{asked:?}");
    asked.acknowledge([]);
    let event = tokio::select! {
        event = invalidated(&mut watcher) => event,
        unlinked = &mut unlink => panic!("unlinked before anybody was told: {unlinked:?}"),
    };
    assert_eq!(event.names, [(d, name("f"))]);
    assert!(event.files.contains(&f.id) && event.files.contains(&d), "{event:?}");
    assert!(!event.own && !event.everything && !event.moved);
    let mine = loop {
        let mine = invalidated(&mut own).await;
        assert!(mine.own, "{mine:?}");
        if !mine.names.is_empty() {
            break mine;
        }
    };
    assert_eq!(mine.names, event.names);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!unlink.is_finished(), "who made the change waits for who has cached it");
    event.acknowledge([]);
    unlink.await??;
    assert_eq!(kind(other.lookup(&root(), d, &name("f")).await), ErrorKind::NotFound);
    assert!(other.trusted_until() > Instant::now() + Duration::from_secs(4));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_session_changes_leaves_the_neighbours_cached() -> Result<()> {
    let alone = Alone::start().await?;
    let fs = alone.connect().await?;
    let nodes = fs.nodes();
    let d = directory(&nodes, ROOT, "d", 0o755).await?;
    // Many at a time, so that each outcome comes after the invalidations of the others.
    let make = |i: usize| {
        let nodes = nodes.clone();
        async move {
            let create = NodeCreate { mode: 0o644, write_type: Some(WriteType::MustCache) };
            nodes.make_file(&root(), d, &name(format!("{i:04}")), &create).await
        }
    };
    let made = futures_util::future::join_all((0..200).map(make)).await;
    let trusted = made.iter().filter(|one| matches!(one, Ok(node) if node.trusted == Trust::Session)).count();
    assert_eq!(trusted, 200, "an answer is only outdated by what it is about");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_acknowledge_loses_its_session_and_stops_nobody() -> Result<()> {
    let alone = Alone::with(|config| config.session_lease = Duration::from_secs(2)).await?;
    let (fs, silent) = (alone.connect().await?, alone.connect().await?);
    let (nodes, silent) = (fs.nodes(), silent.nodes());
    let d = directory(&nodes, ROOT, "d", 0o755).await?;
    let mut watcher = silent.invalidations();
    silent.status(d).await?;
    let change = tokio::spawn({
        let nodes = nodes.clone();
        async move { nodes.set_attributes(&root(), d, &mode(0o700)).await }
    });
    drop(invalidated(&mut watcher).await);
    tokio::time::timeout(Duration::from_secs(15), change).await???;
    while !invalidated(&mut watcher).await.lost {}
    assert_eq!(silent.status(d).await?.status.mode, 0o700);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_directory_comes_in_pages() -> Result<()> {
    const FILES: usize = 9000;
    let alone = Alone::start().await?;
    (0..FILES).try_for_each(|i| std::fs::write(alone.under().join(format!("{i:06}")), b"x"))?;
    let fs = alone.connect().await?;
    let nodes = fs.nodes();
    let began = Instant::now();
    let first = nodes.list(&root(), ROOT, None, 10).await?;
    println!("the first page, with the listing of the under store: {:?}", began.elapsed());
    assert!(first.more && first.entries.len() == 10);
    let (mut all, mut after, began) = (Vec::new(), None, Instant::now());
    loop {
        let page = nodes.list(&root(), ROOT, after.as_ref(), 4096).await?;
        after = page.entries.last().and_then(|entry| entry.name.clone());
        all.extend(page.entries);
        if !page.more {
            break;
        }
    }
    println!("{FILES} entries by pages of 4096: {:?}", began.elapsed());
    assert_eq!(all.len(), FILES);
    assert!(all.iter().enumerate().all(|(i, e)| e.name == Some(name(format!("{i:06}"))) && e.length == 1));
    let room = nodes.room(ROOT).await?;
    assert!(room.total >= room.free && room.free > 0 && room.files > FILES as u64, "{room:?}");
    nodes.sync_directory(ROOT).await?;
    nodes.sync().await?;
    Ok(())
}

/// What is in the under store's orphans.
fn orphans(alone: &Alone) -> usize {
    let mut todo = vec![alone.under().join(".larder")];
    let mut found = 0;
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            found += usize::from(path.is_file() && path.parent().is_some_and(|above| above.ends_with("orphans")));
            todo.extend(Some(path).filter(|path| path.is_dir()));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_removed_while_it_is_open_goes_with_the_last_handle() -> Result<()> {
    let alone = Alone::start().await?;
    let (fs, other) = (alone.connect().await?, alone.connect().await?);
    let (nodes, other) = (fs.nodes(), other.nodes());
    for (opener, which) in [(&nodes, "by the one who removes it"), (&other, "by another session")] {
        std::fs::write(alone.under().join("f"), "content")?;
        let id = opener.lookup(&root(), ROOT, &name("f")).await?.status.id;
        let file = opener.open(&root(), id, Default::default()).await?;
        nodes.unlink(&root(), ROOT, &name("f")).await?;
        assert_eq!(kind(other.lookup(&root(), ROOT, &name("f")).await), ErrorKind::NotFound, "{which}");
        assert_eq!((orphans(&alone), opener.status(id).await?.status.links), (1, 0), "{which}");
        opener.open(&root(), id, file.status().generation).await?;
        drop(file);
        let began = Instant::now();
        while orphans(&alone) > 0 || nodes.status(id).await.is_ok() {
            assert!(began.elapsed() < Duration::from_secs(5), "it stays: {which}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(())
}
