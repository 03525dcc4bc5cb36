//! Cases about names: publications, removals and renames do what was asked to what was expected, and to nothing else.

use larder_common::{ErrorKind, FileKind, Fingerprint, Timestamp};

use super::{Broken, Case, Kept, Outcome, Stage, case, refusal, same};
use crate::{Attributes, Displaced, Expected, ObjectPath, OrphanName, Publish, Rename, XattrChange};

pub(super) const CASES: &[Case] = &[
    case!(a_new_name_must_be_free, writable),
    case!(a_foreign_change_is_kept, writable),
    case!(what_is_gone_is_not_replaced, writable),
    case!(one_of_many_new_names_wins, writable),
    case!(one_of_many_replacements_wins, writable),
    case!(a_removal_names_its_content, writable),
    case!(small_objects_are_put_with_a_condition, writable, conditional_put),
    case!(orphans_stay_readable, writable, orphans),
    case!(renames_name_both_ends, writable, rename, directories),
    case!(directories_are_renamed_and_removed, writable, rename, directories),
    case!(temporaries_change_names, writable, rename),
    case!(attributes_are_set_and_carried_over, writable, attributes),
    case!(links_name_one_inode, writable, hard_links),
    case!(symlinks_are_kept_as_written, writable, symlinks),
    case!(links_that_leave_the_root_are_not_followed, writable, symlinks, directories),
    case!(extended_attributes_come_back, writable, xattrs),
    case!(pipes_are_made, writable, special_files),
];

async fn a_new_name_must_be_free(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    stage.file(&path, b"theirs").await?;
    same!(refusal(stage.file(&path, b"ours").await)?, ErrorKind::AlreadyExists, "publishing over a file");
    same!(stage.read(&path).await?.0, b"theirs", "what was there");
    let none = stage.path("none")?.join(&larder_common::Name::new("f")?)?;
    if stage.store.capabilities().firm_directories {
        same!(refusal(stage.file(&none, b"x").await)?, ErrorKind::NotFound, "publishing into no directory");
    }
    Ok(())
}

async fn a_foreign_change_is_kept(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    let known = stage.file(&path, b"known").await?;
    let foreign = stage.publish(&path, b"foreign", Publish::replacing(known.clone())).await?;
    let ours = stage.publish(&path, b"ours", Publish::replacing(known.clone())).await;
    same!(refusal(ours)?, ErrorKind::Changed, "replacing what we knew");
    same!(stage.read(&path).await?.0, b"foreign", "the foreign content");
    same!(stage.store.status(&path).await?.fingerprint, foreign, "the foreign fingerprint");
    let removed = stage.store.remove(&path, stage.removal(&path, known)?).await;
    same!(refusal(removed)?, ErrorKind::Changed, "removing what we knew");
    same!(stage.read(&path).await?.0, b"foreign", "the foreign content after the removal");
    Ok(())
}

async fn what_is_gone_is_not_replaced(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    let known = stage.file(&path, b"known").await?;
    stage.store.remove(&path, stage.removal(&path, known.clone())?).await?;
    let ours = stage.publish(&path, b"ours", Publish::replacing(known.clone())).await;
    same!(refusal(ours)?, ErrorKind::Changed, "replacing what is gone");
    let removed = stage.store.remove(&path, stage.removal(&path, known)?).await;
    same!(refusal(removed)?, ErrorKind::NotFound, "removing what is gone");
    Ok(())
}

/// Publishes by many at once and gives the winner's fingerprint and content, which must be there. No two of all contents
/// are the same: an ETag may be the content's, and what is replaced by itself is not replaced.
async fn race(stage: &Stage, path: &ObjectPath, publish: &Publish, loses: ErrorKind) -> Result<Fingerprint, Broken> {
    let round = super::fresh("content")?;
    let contents: Vec<_> = (0..12).map(|i| format!("{round} {i:02}").into_bytes()).collect();
    let all = contents.iter().map(|content| stage.publish(path, content, publish.clone()));
    let results = futures_util::future::join_all(all).await;
    let mut winner = None;
    for (content, result) in contents.iter().zip(results) {
        match result {
            Ok(print) if winner.is_none() => winner = Some((content, print)),
            Ok(_) => return Err(Broken("two publications won".into())),
            Err(error) if error.kind() == loses => {}
            Err(error) => return Err(Broken(format!("a loser got {error:?}"))),
        }
    }
    let Some((content, print)) = winner else { return Err(Broken("no publication won".into())) };
    let (read, fetched) = stage.read(path).await?;
    match (&read == content, fetched.fingerprint == print) {
        (true, true) => Ok(print),
        _ => Err(Broken("not the winner's content is there".into())),
    }
}

async fn one_of_many_new_names_wins(stage: &Stage) -> Outcome {
    race(stage, &stage.path("f")?, &Publish::new_file(), ErrorKind::AlreadyExists).await.map(drop)
}

async fn one_of_many_replacements_wins(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    let mut known = stage.file(&path, b"first").await?;
    for _ in 0..5 {
        known = race(stage, &path, &Publish::replacing(known), ErrorKind::Changed).await?;
    }
    Ok(())
}

async fn a_removal_names_its_content(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    let known = stage.file(&path, b"x").await?;
    let other = Fingerprint { size: 2, etag: "other".into(), ..known.clone() };
    let removed = stage.store.remove(&path, stage.removal(&path, other)?).await;
    same!(refusal(removed)?, ErrorKind::Changed, "another fingerprint");
    stage.store.remove(&path, stage.removal(&path, known.clone())?).await?;
    same!(refusal(stage.store.status(&path).await)?, ErrorKind::NotFound, "afterwards");
    if stage.store.capabilities().directories {
        let removed = stage.store.remove(stage.base(), stage.removal(stage.base(), known)?).await;
        same!(refusal(removed)?, ErrorKind::IsDirectory, "removing a directory");
    }
    Ok(())
}

async fn small_objects_are_put_with_a_condition(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    let put = |content: &'static [u8], publish| stage.store.put(&path, content.into(), publish);
    let first = put(b"first", Publish::new_file()).await?;
    same!(refusal(put(b"again", Publish::new_file()).await)?, ErrorKind::AlreadyExists, "a name that is taken");
    let second = put(b"second", Publish::replacing(first.clone())).await?;
    same!(refusal(put(b"third", Publish::replacing(first)).await)?, ErrorKind::Changed, "an old version");
    same!(stage.store.status(&path).await?.fingerprint, second, "what is there");
    Ok(())
}

async fn orphans_stay_readable(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    let first = stage.file(&path, b"first").await?;
    let orphan = OrphanName::new(path.clone(), super::fresh("o")?);
    let publish = Publish { displaced: Displaced::Keep(orphan.clone()), ..Publish::replacing(first) };
    let second = stage.publish(&path, b"second", publish).await?;
    let kept = Kept::default();
    stage.store.fetch_orphan(&orphan, None, 0..9, kept.sink()).await?;
    same!(kept.bytes(), b"first", "the replaced content");
    let mut removal = stage.removal(&path, second)?;
    removal.keep = true;
    stage.store.remove(&path, removal.clone()).await?;
    let kept = Kept::default();
    stage.store.fetch_orphan(&removal.orphan, None, 0..9, kept.sink()).await?;
    same!(kept.bytes(), b"second", "the removed content");
    let listed = stage.store.list_orphans().await?;
    for orphan in [&orphan, &removal.orphan] {
        same!(listed.iter().any(|(o, _)| o.name == orphan.name), true, "listed");
        stage.store.destroy_orphan(orphan).await?;
        stage.store.destroy_orphan(orphan).await?;
        let fetched = stage.store.fetch_orphan(orphan, None, 0..9, Kept::default().sink()).await;
        same!(refusal(fetched)?, ErrorKind::NotFound, "after it was destroyed");
    }
    Ok(())
}

fn moving(source: Fingerprint, target: Expected) -> Rename {
    Rename { source, target, displaced: Displaced::Unlink, sync: false }
}

async fn renames_name_both_ends(stage: &Stage) -> Outcome {
    let (a, b, c) = (stage.path("a")?, stage.path("b")?, stage.path("c")?);
    let (print_a, print_b) = (stage.file(&a, b"aa").await?, stage.file(&b, b"bbb").await?);
    let taken = stage.store.rename(&a, &b, moving(print_a.clone(), Expected::Absent)).await;
    same!(refusal(taken)?, ErrorKind::AlreadyExists, "a name that is taken");
    let wrong = stage.store.rename(&a, &c, moving(print_b.clone(), Expected::Absent)).await;
    same!(refusal(wrong)?, ErrorKind::Changed, "another source than expected");
    let wrong = Expected::Fingerprint(print_a.clone());
    let wrong = stage.store.rename(&a, &b, moving(print_a.clone(), wrong)).await;
    same!(refusal(wrong)?, ErrorKind::Changed, "another target than expected");
    same!((stage.read(&a).await?.0, stage.read(&b).await?.0), (b"aa".into(), b"bbb".into()), "both files");
    let over = moving(print_a, Expected::Fingerprint(print_b));
    let status = stage.store.rename(&a, &b, over).await?;
    same!(stage.read(&b).await?.0, b"aa", "the file that moved");
    same!(refusal(stage.store.status(&a).await)?, ErrorKind::NotFound, "the old name");
    same!(stage.store.status(&b).await?.fingerprint, status.fingerprint, "the fingerprint");
    let status = stage.store.rename(&b, &c, moving(status.fingerprint, Expected::Absent)).await?;
    same!(stage.store.status(&c).await?.fingerprint, status.fingerprint, "the fingerprint at a free name");
    Ok(())
}

async fn directories_are_renamed_and_removed(stage: &Stage) -> Outcome {
    let (a, b) = (stage.path("a")?, stage.path("b")?);
    let (inside, moved) = (a.join(&super::fresh("f")?)?, b.clone());
    let print = stage.store.make_directory(&a, Attributes::default()).await?.fingerprint;
    let again = stage.store.make_directory(&a, Attributes::default()).await;
    same!(refusal(again)?, ErrorKind::AlreadyExists, "making it twice");
    stage.file(&inside, b"inside").await?;
    same!(refusal(stage.store.remove_directory(&a).await)?, ErrorKind::NotEmpty, "removing it with an entry");
    let within = stage.store.rename(&a, &inside, moving(print.clone(), Expected::Absent)).await;
    same!(refusal(within)?, ErrorKind::Invalid, "moving it into itself");
    let empty = stage.store.make_directory(&b, Attributes::default()).await?.fingerprint;
    stage.store.rename(&a, &b, moving(print.clone(), Expected::Fingerprint(empty))).await?;
    let name = larder_common::Name::new(inside.name().unwrap_or_default())?;
    same!(stage.read(&moved.join(&name)?).await?.0, b"inside", "what was in it");
    let empty = stage.store.make_directory(&a, Attributes::default()).await?.fingerprint;
    let full = moving(empty, Expected::Fingerprint(print));
    same!(refusal(stage.store.rename(&a, &b, full).await)?, ErrorKind::NotEmpty, "over one with an entry");
    same!(stage.read(&moved.join(&name)?).await?.0, b"inside", "what is still in it");
    stage.store.remove_directory(&a).await?;
    same!(refusal(stage.store.remove_directory(&a).await)?, ErrorKind::NotFound, "removing it twice");
    Ok(())
}

async fn temporaries_change_names(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    let (old, new) = (stage.temporary(&path)?, stage.temporary(&path)?);
    let content = crate::Content::Bytes(::bytes::Bytes::from_static(b"x"));
    stage.store.upload_whole(&old, content, false).await?;
    stage.store.rename_temporary(&old, &new).await?;
    let late = stage.store.publish(&old, &path, Publish::new_file()).await;
    same!(refusal(late)?, ErrorKind::NotFound, "publishing by the old name");
    same!(refusal(stage.store.rename_temporary(&old, &new).await)?, ErrorKind::NotFound, "renaming it twice");
    stage.store.publish(&new, &path, Publish::new_file()).await?;
    same!(stage.read(&path).await?.0, b"x", "the content");
    Ok(())
}

async fn attributes_are_set_and_carried_over(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    let modified = Timestamp::new(1_000_000_000, 123_456_789);
    let wanted = Attributes { mode: Some(0o640), modified: Some(modified), ..Attributes::default() };
    let publish = Publish { attributes: wanted, ..Publish::new_file() };
    let first = stage.publish(&path, b"one", publish).await?;
    let status = stage.store.status(&path).await?;
    same!((status.mode, status.times.modified), (0o640, modified), "what was asked");
    same!(status.fingerprint, first, "the fingerprint with attributes");
    stage.publish(&path, b"two", Publish::replacing(first)).await?;
    let carried = stage.store.status(&path).await?;
    same!((carried.mode, carried.uid, carried.gid), (0o640, status.uid, status.gid), "carried over");
    let change = Attributes { mode: Some(0o4751), accessed: Some(Timestamp::new(-5, 7)), ..Attributes::default() };
    let set = stage.store.set_attributes(&path, change).await?;
    same!((set.mode, set.times.accessed), (0o4751, Timestamp::new(-5, 7)), "what was set");
    same!(stage.store.status(&path).await?.fingerprint, set.fingerprint, "the fingerprint");
    Ok(())
}

async fn links_name_one_inode(stage: &Stage) -> Outcome {
    let (a, b) = (stage.path("a")?, stage.path("b")?);
    let print = stage.file(&a, b"x").await?;
    let wrong = Fingerprint { size: 9, ..print.clone() };
    same!(refusal(stage.store.link(&a, &wrong, &b).await)?, ErrorKind::Changed, "another file than expected");
    let status = stage.store.link(&a, &print, &b).await?;
    same!((status.links, status.fingerprint.inode), (2, print.inode), "the second name");
    same!(stage.store.status(&a).await?.fingerprint, status.fingerprint, "both names");
    let taken = stage.store.link(&a, &status.fingerprint, &b).await;
    same!(refusal(taken)?, ErrorKind::AlreadyExists, "a name that is taken");
    stage.store.remove(&b, stage.removal(&b, status.fingerprint)?).await?;
    same!(stage.store.status(&a).await?.links, 1, "links after one was removed");
    Ok(())
}

async fn symlinks_are_kept_as_written(stage: &Stage) -> Outcome {
    let path = stage.path("l")?;
    for target in [&b"../else/where"[..], b"/etc/passwd", b"not \xff text"] {
        let made = stage.store.symlink(&path, target, Attributes::default()).await?;
        same!(made.kind, FileKind::Symlink(target.to_vec()), "its kind");
        same!(stage.store.read_link(&path).await?, target, "what it says");
        same!(stage.store.status(&path).await?.fingerprint, made.fingerprint, "its status");
        let fetched = stage.store.fetch(&path, None, 0..1, Kept::default().sink()).await;
        same!(refusal(fetched)?, ErrorKind::Invalid, "its bytes");
        stage.store.remove(&path, stage.removal(&path, made.fingerprint)?).await?;
    }
    let file = stage.path("f")?;
    stage.file(&file, b"x").await?;
    same!(refusal(stage.store.read_link(&file).await)?, ErrorKind::Invalid, "what a file says");
    Ok(())
}

async fn links_that_leave_the_root_are_not_followed(stage: &Stage) -> Outcome {
    for (name, target) in [("up", &b"../../../../../../../../../../etc"[..]), ("abs", b"/etc"), ("self", b"self")] {
        let link = stage.path(name)?;
        stage.store.symlink(&link, target, Attributes::default()).await?;
        let through = link.join(&larder_common::Name::new("passwd")?)?;
        let refused = [
            refusal(stage.store.status(&through).await)?,
            refusal(stage.store.fetch(&through, None, 0..1, Kept::default().sink()).await)?,
            refusal(stage.file(&through, b"x").await)?,
            refusal(stage.store.list(&link, None, 1).await)?,
        ];
        for kind in refused {
            let good = matches!(kind, ErrorKind::Denied | ErrorKind::NotDirectory | ErrorKind::Invalid);
            same!((name, kind, good), (name, kind, true), "a path through a link");
        }
    }
    Ok(())
}

async fn extended_attributes_come_back(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    let first = stage.file(&path, b"x").await?;
    let name = b"user.larder";
    let set = |change| stage.store.set_xattr(&path, name, change);
    let kind = match set(XattrChange::Replace(b"v".into())).await {
        // The file system below has none, which only a try can tell.
        Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(()),
        other => refusal(other)?,
    };
    same!(kind, ErrorKind::NotFound, "replacing what is not there");
    let status = set(XattrChange::Create(b"v\0w".into())).await?;
    same!(status.fingerprint == first, false, "the change shows");
    same!(refusal(set(XattrChange::Create(b"z".into())).await)?, ErrorKind::AlreadyExists, "creating it twice");
    let has = |all: crate::Xattrs| all.into_iter().find(|(n, _)| n == name).map(|(_, value)| value);
    same!(has(stage.store.xattrs(&path).await?), Some(b"v\0w".to_vec()), "its value");
    stage.publish(&path, b"y", Publish::replacing(status.fingerprint)).await?;
    same!(has(stage.store.xattrs(&path).await?), Some(b"v\0w".to_vec()), "carried over to the new file");
    set(XattrChange::Remove).await?;
    same!(refusal(set(XattrChange::Remove).await)?, ErrorKind::NotFound, "removing it twice");
    Ok(())
}

async fn pipes_are_made(stage: &Stage) -> Outcome {
    let path = stage.path("p")?;
    let kind = FileKind::Special(0o010_000, 0);
    let made = stage.store.make_special(&path, kind.clone(), Attributes::default()).await?;
    same!(made.kind, kind, "its kind");
    let fetched = stage.store.fetch(&path, None, 0..1, Kept::default().sink()).await;
    same!(refusal(fetched)?, ErrorKind::Invalid, "its bytes");
    stage.store.remove(&path, stage.removal(&path, made.fingerprint)?).await?;
    Ok(())
}
