//! Cases about writing into a published file in place: the same file under the same names, with other bytes.

use larder_common::{ErrorKind, Fingerprint};

use super::{Case, Outcome, Stage, bytes, case, refusal, same};
use crate::{ObjectPath, Patch};

pub(super) const CASES: &[Case] = &[
    case!(patched_ranges_are_there_and_nothing_else_has_changed, writable, patch),
    case!(a_patch_cuts_and_extends, writable, patch),
    case!(every_name_sees_a_patch, writable, patch, hard_links),
    case!(a_patch_of_another_version_is_refused, writable, patch),
    case!(a_patch_from_a_source_that_ends_early_is_an_error, writable, patch),
];

impl Stage {
    async fn patch(
        &self,
        path: &ObjectPath,
        expected: &Fingerprint,
        (source, ranges, length): (&[u8], &[std::ops::Range<u64>], u64),
    ) -> larder_common::Result<Fingerprint> {
        let patch = Patch { source: bytes::file_with(source)?, ranges: ranges.to_vec(), length, sync: true };
        self.store.patch(path, expected, patch).await
    }
}

async fn patched_ranges_are_there_and_nothing_else_has_changed(stage: &Stage) -> Outcome {
    let (path, old) = (stage.path("f")?, bytes::pattern(3 << 20));
    let before = stage.file(&path, &old).await?;
    let new: Vec<u8> = old.iter().map(|byte| byte ^ 0xff).collect();
    let ranges = [0..1, 4095..4097, 1_000_000..2_500_000, (3 << 20) - 1..3 << 20];
    let after = stage.patch(&path, &before, (&new, &ranges, 3 << 20)).await?;
    let mut wanted = old;
    for range in ranges {
        let range = range.start as usize..range.end as usize;
        wanted[range.clone()].copy_from_slice(&new[range]);
    }
    let (read, fetched) = stage.read(&path).await?;
    same!(read == wanted, true, "the content");
    same!((after.inode, after.born), (before.inode, before.born), "the file");
    same!(fetched.fingerprint, after, "the fingerprint");
    same!(after == before, false, "the fingerprint stays");
    same!(stage.store.list_temporaries().await?.iter().any(|t| t.target == path), false, "a temporary is left");
    Ok(())
}

async fn a_patch_cuts_and_extends(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    let print = stage.file(&path, b"0123456789").await?;
    let ranges = std::slice::from_ref(&(1..2));
    let print = stage.patch(&path, &print, (b"_a", ranges, 4)).await?;
    same!(stage.read(&path).await?.0, b"0a23", "what was cut");
    let print = stage.patch(&path, &print, (b"_______z", std::slice::from_ref(&(7..8)), 9)).await?;
    same!(stage.read(&path).await?.0, b"0a23\0\0\0z\0", "what was extended");
    same!(print.size, 9, "the size in the fingerprint");
    Ok(())
}

async fn every_name_sees_a_patch(stage: &Stage) -> Outcome {
    let (a, b) = (stage.path("a")?, stage.path("b")?);
    let print = stage.file(&a, b"abc").await?;
    let linked = stage.store.link(&a, &print, &b).await?;
    stage.patch(&a, &linked.fingerprint, (b"XYZ", std::slice::from_ref(&(1..2)), 3)).await?;
    same!(stage.read(&b).await?.0, b"aYc", "the content under the other name");
    same!(stage.store.status(&b).await?.links, 2, "links");
    Ok(())
}

async fn a_patch_of_another_version_is_refused(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    let first = stage.file(&path, b"first").await?;
    stage.publish(&path, b"again", crate::Publish::replacing(first.clone())).await?;
    let patched = stage.patch(&path, &first, (b"zzzzz", std::slice::from_ref(&(0..5)), 5)).await;
    same!(refusal(patched)?, ErrorKind::Changed, "a patch of the old version");
    same!(stage.read(&path).await?.0, b"again", "the new version");
    let none = stage.path("none")?;
    let patched = stage.patch(&none, &first, (b"", &[], 0)).await;
    same!(refusal(patched)?, ErrorKind::NotFound, "a patch of nothing");
    Ok(())
}

async fn a_patch_from_a_source_that_ends_early_is_an_error(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    let print = stage.file(&path, b"0123456789").await?;
    let patched = stage.patch(&path, &print, (b"short", std::slice::from_ref(&(0..10)), 10)).await;
    same!(refusal(patched)?, ErrorKind::Corrupt, "the answer");
    Ok(())
}
