//! Cases about what a store cannot do: each missing capability is answered with its kind, and nothing changes.

use larder_common::{ErrorKind, FileKind, Fingerprint};

use super::{Case, Kept, Outcome, Stage, case, refusal, same};
use crate::{Attributes, Displaced, Expected, OrphanName, Publish, Rename, XattrChange};

pub(super) const CASES: &[Case] = &[case!(what_is_missing_is_unsupported), case!(read_only_refuses_every_change)];

/// Asks for each change that needs a capability, and for `put`; gives what was answered where it lacks it.
async fn what_is_missing_is_unsupported(stage: &Stage) -> Outcome {
    let (store, has, path) = (&stage.store, stage.store.capabilities(), stage.path("f")?);
    if !has.writable {
        return Ok(());
    }
    let plain = Attributes::default;
    let orphan = OrphanName::new(path.clone(), super::fresh("o")?);
    let print = Fingerprint::default();
    let rename = Rename { source: print.clone(), target: Expected::Absent, displaced: Displaced::Unlink, sync: false };
    let unsupported = ErrorKind::Unsupported;
    if !has.directories {
        same!(refusal(store.make_directory(&path, plain()).await)?, unsupported, "make_directory");
        same!(refusal(store.remove_directory(&path).await)?, unsupported, "remove_directory");
    }
    if !has.patch {
        let source = super::bytes::file_with(b"x")?;
        let patch = crate::Patch { source, ranges: Vec::new(), length: 1, sync: false };
        same!(refusal(store.patch(&path, &print, patch).await)?, unsupported, "patch");
    }
    if !has.rename {
        same!(refusal(store.rename(&path, &stage.path("g")?, rename).await)?, unsupported, "rename");
    }
    if !has.hard_links {
        same!(refusal(store.link(&path, &print, &stage.path("g")?).await)?, unsupported, "link");
    }
    if !has.symlinks {
        same!(refusal(store.symlink(&path, b"x", plain()).await)?, unsupported, "symlink");
        same!(refusal(store.read_link(&path).await)?, unsupported, "read_link");
    }
    if !has.special_files {
        let kind = FileKind::Special(0o010_000, 0);
        same!(refusal(store.make_special(&path, kind, plain()).await)?, unsupported, "make_special");
    }
    if !has.attributes {
        same!(refusal(store.set_attributes(&path, plain()).await)?, unsupported, "set_attributes");
    }
    if !has.xattrs {
        same!(refusal(store.xattrs(&path).await)?, unsupported, "xattrs");
        same!(refusal(store.set_xattr(&path, b"user.x", XattrChange::Remove).await)?, unsupported, "set_xattr");
    }
    if !has.conditional_put {
        same!(refusal(store.put(&path, "x".into(), Publish::new_file()).await)?, unsupported, "put");
    }
    if !has.orphans {
        same!(refusal(store.destroy_orphan(&orphan).await)?, unsupported, "destroy_orphan");
        same!(refusal(store.list_orphans().await)?, unsupported, "list_orphans");
        let fetched = store.fetch_orphan(&orphan, None, 0..1, Kept::default().sink()).await;
        same!(refusal(fetched)?, unsupported, "fetch_orphan");
        let file = stage.file(&path, b"x").await?;
        let keep = Publish { displaced: Displaced::Keep(orphan), ..Publish::replacing(file) };
        same!(refusal(stage.publish(&path, b"y", keep).await)?, unsupported, "publish that keeps");
        same!(stage.read(&path).await?.0, b"x", "what is there afterwards");
    }
    if !has.any_names {
        for name in [&b"\xff"[..], b"f "] {
            let odd = stage.path(name)?;
            same!(refusal(stage.file(&odd, b"x").await)?, ErrorKind::Invalid, "a name that it cannot take");
            same!(refusal(store.status(&odd).await)?, ErrorKind::Invalid, "asking for such a name");
        }
    }
    if !has.watch {
        same!(refusal(store.watch())?, unsupported, "watch");
    }
    Ok(())
}

async fn read_only_refuses_every_change(stage: &Stage) -> Outcome {
    let (store, has, path) = (&stage.store, stage.store.capabilities(), stage.path("f")?);
    if has.writable {
        return Ok(());
    }
    let read_only = ErrorKind::ReadOnly;
    let temporary = stage.temporary(&path)?;
    same!(refusal(store.start_upload(&temporary).await)?, read_only, "start_upload");
    same!(refusal(stage.file(&path, b"x").await)?, read_only, "upload_whole");
    same!(refusal(store.publish(&temporary, &path, Publish::new_file()).await)?, read_only, "publish");
    let removal = stage.removal(&path, Fingerprint::default())?;
    same!(refusal(store.remove(&path, removal).await)?, read_only, "remove");
    let source = super::bytes::file_with(b"x")?;
    let patch = crate::Patch { source, ranges: Vec::new(), length: 1, sync: false };
    same!(refusal(store.patch(&path, &Fingerprint::default(), patch).await)?, read_only, "patch");
    same!(refusal(store.plant_proof(&super::fresh("p")?, b"x").await)?, read_only, "plant_proof");
    same!(refusal(store.make_directory(&path, Attributes::default()).await)?, read_only, "make_directory");
    Ok(())
}
