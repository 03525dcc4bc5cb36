//! Cases about listings: byte order, pages, names of every kind, and changes meanwhile.

use larder_common::{ErrorKind, Name};

use super::{Case, Outcome, Stage, case, refusal, same};
use crate::{ObjectPath, PRIVATE_DIRECTORY};

pub(super) const CASES: &[Case] = &[
    case!(pages_are_in_byte_order, writable, lists),
    case!(directories_are_in_byte_order, writable, lists),
    case!(paging_survives_changes, writable, lists),
    case!(a_page_after_a_name_that_is_gone, writable, lists),
    case!(listing_what_is_no_directory, writable, lists),
    case!(its_own_directory_is_hidden, writable, lists),
    case!(too_deep_is_an_error),
];

async fn walk(stage: &Stage, limit: usize) -> larder_common::Result<Vec<Vec<u8>>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut after: Option<Name> = None;
    loop {
        let page = stage.store.list(stage.base(), after.as_ref(), limit).await?;
        names.extend(page.entries.iter().map(|(name, _)| name.as_bytes().to_vec()));
        after = page.entries.last().map(|(name, _)| name.clone()).or(after);
        if !page.more {
            return Ok(names);
        }
    }
}

async fn pages_are_in_byte_order(stage: &Stage) -> Outcome {
    let mut wanted: Vec<Vec<u8>> =
        vec![b"a".into(), b"a-b".into(), b"a0".into(), vec![b'x'; 100], "\u{e4} \u{1f980}%2F+&".into()];
    if stage.store.capabilities().any_names {
        wanted.extend([b"\xff\xfe".to_vec(), b"\n \t".to_vec(), vec![b'x'; 255]]);
    }
    wanted.extend((0..40).map(|i| format!("file-{i}").into_bytes()));
    for name in &wanted {
        stage.file(&stage.path(name)?, name).await?;
    }
    wanted.sort();
    for limit in [1, 7, wanted.len(), 1000] {
        same!(walk(stage, limit).await?, wanted, "pages of {limit}");
    }
    let page = stage.store.list(stage.base(), None, 1000).await?;
    for (name, status) in &page.entries {
        same!(status.length, name.as_bytes().len() as u64, "the length of {name}");
        let one = stage.store.status(&stage.path(name)?).await?;
        same!(status.fingerprint, one.fingerprint, "listing and status of {name}");
    }
    Ok(())
}

/// A directory's name comes before all that begin with it, also where `/` does not.
async fn directories_are_in_byte_order(stage: &Stage) -> Outcome {
    let below = |name: &str| -> larder_common::Result<ObjectPath> { stage.path(name)?.join(&Name::new("f")?) };
    for name in ["a-b", "a.b", "a0", "b!"] {
        stage.file(&stage.path(name)?, b"x").await?;
    }
    for name in ["a", "a-b-c", "b", "b!!"] {
        if stage.store.capabilities().firm_directories {
            stage.store.make_directory(&stage.path(name)?, crate::Attributes::default()).await?;
        }
        stage.file(&below(name)?, b"x").await?;
    }
    let wanted: Vec<Vec<u8>> =
        ["a", "a-b", "a-b-c", "a.b", "a0", "b", "b!", "b!!"].iter().map(|name| name.as_bytes().to_vec()).collect();
    for limit in 1..10 {
        same!(walk(stage, limit).await?, wanted, "pages of {limit}");
    }
    Ok(())
}

async fn paging_survives_changes(stage: &Stage) -> Outcome {
    let mut prints = Vec::new();
    for i in 0..60 {
        let path = stage.path(format!("{i:02}"))?;
        prints.push((path.clone(), stage.file(&path, b"x").await?));
    }
    let (mut seen, mut after, mut round) = (Vec::new(), None::<Name>, 0);
    loop {
        let page = stage.store.list(stage.base(), after.as_ref(), 10).await?;
        seen.extend(page.entries.iter().map(|(name, _)| name.clone()));
        after = page.entries.last().map(|(name, _)| name.clone()).or(after);
        if !page.more {
            break;
        }
        // Every name that ends in 5 goes, new ones come in between and at both ends.
        if let Some((path, print)) = prints.iter().find(|(p, _)| p.as_bytes().ends_with(format!("{round}5").as_bytes()))
        {
            stage.store.remove(path, stage.removal(path, print.clone())?).await?;
        }
        stage.file(&stage.path(format!("{round}5-new"))?, b"n").await?;
        stage.file(&stage.path(format!("z{round}"))?, b"n").await?;
        round += 1;
    }
    let sorted = seen.windows(2).all(|pair| pair[0] < pair[1]);
    same!(sorted, true, "order, each once");
    for (path, _) in prints.iter().filter(|(p, _)| !p.as_bytes().ends_with(b"5")) {
        let name = Name::new(path.name().unwrap_or_default())?;
        same!(seen.contains(&name), true, "{name}, which was there all the time");
    }
    Ok(())
}

async fn a_page_after_a_name_that_is_gone(stage: &Stage) -> Outcome {
    stage.file(&stage.path("b")?, b"").await?;
    stage.file(&stage.path("d")?, b"").await?;
    let page = stage.store.list(stage.base(), Some(&Name::new("c")?), 10).await?;
    let names: Vec<_> = page.entries.iter().map(|(name, _)| name.to_string()).collect();
    same!((names, page.more), (vec!["d".to_owned()], false), "the page after `c`");
    let page = stage.store.list(stage.base(), Some(&Name::new("d")?), 10).await?;
    same!((page.entries.len(), page.more), (0, false), "the page after the last");
    Ok(())
}

async fn listing_what_is_no_directory(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    stage.file(&path, b"x").await?;
    same!(refusal(stage.store.list(&path, None, 1).await)?, ErrorKind::NotDirectory, "a file");
    let none = stage.path("none")?;
    same!(refusal(stage.store.list(&none, None, 1).await)?, ErrorKind::NotFound, "nothing");
    Ok(())
}

async fn its_own_directory_is_hidden(stage: &Stage) -> Outcome {
    let temporary = stage.temporary(&ObjectPath::new("f")?)?;
    let upload = stage.store.start_upload(&temporary).await?;
    upload.write_at(0, ::bytes::Bytes::from_static(b"x")).await?;
    let page = stage.store.list(&ObjectPath::root(), None, usize::MAX).await?;
    let own = Name::new(PRIVATE_DIRECTORY)?;
    same!(page.entries.iter().any(|(name, _)| *name == own), false, "listed");
    same!(stage.store.sample(1000).await?.iter().any(|e| e.name == own), false, "sampled");
    let path = ObjectPath::new(PRIVATE_DIRECTORY)?;
    same!(refusal(stage.store.status(&path).await)?, ErrorKind::NotFound, "its status");
    let inside = path.join(&Name::new("f")?)?;
    same!(refusal(stage.file(&inside, b"x").await)?, ErrorKind::NotFound, "publishing into it");
    Ok(())
}

async fn too_deep_is_an_error(stage: &Stage) -> Outcome {
    let deep = "d/".repeat(2047) + "d";
    let path = ObjectPath::new(&deep)?;
    same!(refusal(stage.store.status(&path).await)?, ErrorKind::NotFound, "a path of 4095 bytes");
    same!(refusal(ObjectPath::new(deep + "/d"))?, ErrorKind::NameTooLong, "a path of 4097 bytes");
    Ok(())
}
