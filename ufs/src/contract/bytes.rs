//! Cases about content: what was uploaded is what is fetched, and of the version that was expected.

use std::{fs::File, io::Write, sync::Arc};

use ::bytes::Bytes;
use larder_common::{ErrorKind, Fingerprint};

use super::{Case, Kept, Outcome, Stage, case, refusal, same};
use crate::{Content, Publish};

pub(super) const CASES: &[Case] = &[
    case!(sizes_come_back, writable),
    case!(ranges_are_cut_at_the_end, writable),
    case!(parts_in_any_order, writable),
    case!(ranges_of_files_are_copied, writable),
    case!(what_will_be_synced_is_copied_as_well, writable),
    case!(a_source_that_ends_early_is_an_error, writable),
    case!(holes_read_as_zeros, writable),
    case!(a_fetch_of_another_version_is_refused, writable),
    case!(an_error_of_the_sink_ends_the_fetch, writable),
    case!(directories_have_no_bytes),
    case!(a_dropped_upload_leaves_nothing, writable),
    case!(temporaries_are_read_back_listed_and_destroyed, writable),
    case!(a_temporary_has_one_owner, writable),
    case!(synced_is_the_same, writable),
    case!(proofs_are_found, writable),
    case!(samples_are_bounded),
];

pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

pub(super) fn file_with(content: &[u8]) -> larder_common::Result<Arc<File>> {
    let dir = std::env::temp_dir();
    let path = dir.join(String::from_utf8_lossy(super::fresh("larder-contract")?.as_bytes()).into_owned());
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    file.write_all(content)?;
    Ok(Arc::new(file))
}

async fn sizes_come_back(stage: &Stage) -> Outcome {
    for length in [0, 1, 4095, 4096, 1 << 20, (1 << 20) + 1, 3 << 20] {
        let (path, content) = (stage.path(format!("f{length}"))?, pattern(length));
        let fingerprint = stage.file(&path, &content).await?;
        let (read, fetched) = stage.read(&path).await?;
        same!(read == content, true, "the content of {length} bytes");
        same!((fetched.bytes, &fetched.fingerprint), (length as u64, &fingerprint), "what the fetch says");
        let status = stage.store.status(&path).await?;
        same!((status.length, status.fingerprint), (length as u64, fingerprint), "the status");
    }
    Ok(())
}

async fn ranges_are_cut_at_the_end(stage: &Stage) -> Outcome {
    let (path, content) = (stage.path("f")?, pattern(2_000_000));
    let fingerprint = stage.file(&path, &content).await?;
    for (start, end) in [(0, 10), (1_999_990, 3_000_000), (5_000_000, 6_000_000), (7, 7), (1_000, 1_900_000)] {
        let kept = Kept::default();
        let fetched = stage.store.fetch(&path, Some(&fingerprint), start..end, kept.sink()).await?;
        let (from, to) = ((start as usize).min(content.len()), (end as usize).min(content.len()));
        same!(kept.bytes() == content[from..to], true, "the bytes of {start}..{end}");
        same!(fetched.bytes, (to - from) as u64, "the count of {start}..{end}");
    }
    Ok(())
}

async fn parts_in_any_order(stage: &Stage) -> Outcome {
    let (path, content) = (stage.path("f")?, pattern(300_000));
    let temporary = stage.temporary(&path)?;
    let upload = stage.store.start_upload(&temporary).await?;
    for start in [200_000, 0, 100_000] {
        let part = Bytes::copy_from_slice(&content[start..start + 100_000]);
        upload.write_at(start as u64, part).await?;
    }
    let receipt = upload.finish(false).await?;
    same!(receipt.length, 300_000, "the receipt's length");
    stage.store.publish(&temporary, &path, Publish { token: receipt.token, ..Publish::new_file() }).await?;
    same!(stage.read(&path).await?.0 == content, true, "the content");
    Ok(())
}

async fn ranges_of_files_are_copied(stage: &Stage) -> Outcome {
    let (path, content) = (stage.path("f")?, pattern(3 << 20));
    let source = file_with(&content)?;
    let temporary = stage.temporary(&path)?;
    let upload = stage.store.start_upload(&temporary).await?;
    upload.copy_from(Arc::clone(&source), 100..2_500_000, 50).await?;
    upload.copy_from(Arc::clone(&source), 0..50, 0).await?;
    upload.set_length(2_000_000).await?;
    let receipt = upload.finish(false).await?;
    stage.store.publish(&temporary, &path, Publish { token: receipt.token, ..Publish::new_file() }).await?;
    let wanted = [&content[..50], &content[100..2_000_050]].concat();
    same!(stage.read(&path).await?.0 == wanted, true, "the content");

    let (whole, temporary) = (stage.path("w")?, stage.temporary(&stage.path("w")?)?);
    let receipt = stage.store.upload_whole(&temporary, Content::File(source, 10..5_000), false).await?;
    stage.store.publish(&temporary, &whole, Publish { token: receipt.token, ..Publish::new_file() }).await?;
    same!(stage.read(&whole).await?.0 == content[10..5_000], true, "a whole file from a range");
    Ok(())
}

async fn what_will_be_synced_is_copied_as_well(stage: &Stage) -> Outcome {
    let (path, content) = (stage.path("f")?, pattern((5 << 20) + 4097));
    let source = file_with(&content)?;
    let temporary = stage.temporary(&path)?;
    let upload = stage.store.start_upload(&temporary).await?;
    upload.expect_sync();
    let (first, second) = (2 << 20, content.len() as u64);
    upload.copy_from(Arc::clone(&source), 0..first + 7, 0).await?;
    upload.write_at(first, Bytes::copy_from_slice(&content[first as usize..first as usize + 10])).await?;
    upload.copy_from(Arc::clone(&source), first + 10..second, first + 10).await?;
    let receipt = upload.finish(true).await?;
    same!(receipt.length, second, "the receipt's length");
    stage.store.publish(&temporary, &path, Publish { token: receipt.token, ..Publish::new_file() }).await?;
    same!(stage.read(&path).await?.0 == content, true, "the content");
    Ok(())
}

async fn a_source_that_ends_early_is_an_error(stage: &Stage) -> Outcome {
    let temporary = stage.temporary(&stage.path("f")?)?;
    let upload = stage.store.start_upload(&temporary).await?;
    let copied = upload.copy_from(file_with(b"short")?, 0..100, 0).await;
    same!(refusal(copied)?, ErrorKind::Corrupt, "copying more than there is");
    Ok(())
}

async fn holes_read_as_zeros(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    let temporary = stage.temporary(&path)?;
    let upload = stage.store.start_upload(&temporary).await?;
    upload.write_at(1_000_000, Bytes::from_static(b"end")).await?;
    upload.set_length(1_500_000).await?;
    let receipt = upload.finish(false).await?;
    same!(receipt.length, 1_500_000, "the length with a hole at the end");
    stage.store.publish(&temporary, &path, Publish { token: receipt.token, ..Publish::new_file() }).await?;
    let read = stage.read(&path).await?.0;
    same!(&read[1_000_000..1_000_003], b"end", "what was written");
    same!(read.iter().filter(|b| **b != 0).count(), 3, "bytes that are not zero");
    Ok(())
}

async fn a_fetch_of_another_version_is_refused(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    let first = stage.file(&path, b"first").await?;
    let second = stage.publish(&path, b"again", Publish::replacing(first.clone())).await?;
    same!(first == second, false, "two versions have one fingerprint");
    let kept = Kept::default();
    let fetched = stage.store.fetch(&path, Some(&first), 0..5, kept.sink()).await;
    same!(refusal(fetched)?, ErrorKind::Changed, "a fetch of the old version");
    same!(kept.bytes(), b"", "bytes of the new version under the old name");
    stage.store.fetch(&path, Some(&second), 0..5, kept.sink()).await?;
    same!(kept.bytes(), b"again", "the new version");
    Ok(())
}

async fn an_error_of_the_sink_ends_the_fetch(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    stage.file(&path, &pattern(3 << 20)).await?;
    let sink = |_: u64, _: &[u8]| Err(larder_common::Error::new(ErrorKind::NoSpace, "full"));
    let fetched = stage.store.fetch(&path, None, 0..u64::MAX, Box::new(sink)).await;
    same!(refusal(fetched)?, ErrorKind::NoSpace, "the answer");
    Ok(())
}

async fn directories_have_no_bytes(stage: &Stage) -> Outcome {
    let root = crate::ObjectPath::root();
    let fetched = stage.store.fetch(&root, None, 0..1, Kept::default().sink()).await;
    same!(refusal(fetched)?, ErrorKind::IsDirectory, "a fetch of the root");
    let none = stage.base().join(&super::fresh("none")?)?;
    let fetched = stage.store.fetch(&none, None, 0..1, Kept::default().sink()).await;
    same!(refusal(fetched)?, ErrorKind::NotFound, "a fetch of nothing");
    same!(refusal(stage.store.status(&none).await)?, ErrorKind::NotFound, "the status of nothing");
    same!(stage.store.status(&root).await?.kind.is_directory(), true, "the root is a directory");
    Ok(())
}

async fn a_dropped_upload_leaves_nothing(stage: &Stage) -> Outcome {
    let temporary = stage.temporary(&stage.path("f")?)?;
    let upload = stage.store.start_upload(&temporary).await?;
    upload.write_at(0, Bytes::from_static(b"x")).await?;
    drop(upload);
    for _ in 0..200 {
        if !stage.store.list_temporaries().await?.iter().any(|t| t.name == temporary.name) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Err(super::Broken("the temporary of a dropped upload is still there".into()))
}

async fn temporaries_are_read_back_listed_and_destroyed(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    let temporary = stage.temporary(&path)?;
    let upload = stage.store.start_upload(&temporary).await?;
    upload.write_at(3, Bytes::from_static(b"abc")).await?;
    let kept = Kept::default();
    stage.store.fetch_temporary(&temporary, 3..6, kept.sink()).await?;
    same!(kept.bytes(), b"abc", "read back from a temporary that is being filled");
    upload.finish(false).await?;
    let listed = stage.store.list_temporaries().await?;
    same!(listed.iter().any(|t| t.name == temporary.name), true, "listed");
    stage.store.destroy_temporary(&temporary).await?;
    stage.store.destroy_temporary(&temporary).await?;
    let published = stage.store.publish(&temporary, &path, Publish::new_file()).await;
    same!(refusal(published)?, ErrorKind::NotFound, "publishing what was destroyed");
    same!(refusal(stage.store.status(&path).await)?, ErrorKind::NotFound, "the target");
    Ok(())
}

async fn a_temporary_has_one_owner(stage: &Stage) -> Outcome {
    let temporary = stage.temporary(&stage.path("f")?)?;
    let first = stage.store.start_upload(&temporary).await?;
    first.write_at(0, Bytes::from_static(b"mine")).await?;
    let second = match stage.store.start_upload(&temporary).await {
        Ok(upload) => upload.write_at(0, Bytes::from_static(b"late")).await,
        Err(error) => Err(error),
    };
    same!(refusal(second)?, ErrorKind::AlreadyExists, "a second upload of that name");
    first.finish(false).await?;
    let kept = Kept::default();
    stage.store.fetch_temporary(&temporary, 0..9, kept.sink()).await?;
    same!(kept.bytes(), b"mine", "the first one's bytes");
    stage.store.destroy_temporary(&temporary).await?;
    Ok(())
}

async fn synced_is_the_same(stage: &Stage) -> Outcome {
    let path = stage.path("f")?;
    let publish = Publish { sync: true, ..Publish::new_file() };
    let first: Fingerprint = stage.publish(&path, b"one", publish).await?;
    let publish = Publish { sync: true, ..Publish::replacing(first) };
    let second = stage.publish(&path, b"two", publish).await?;
    same!(stage.read(&path).await?.0, b"two", "the content");
    let removal = crate::Removal { sync: true, ..stage.removal(&path, second)? };
    stage.store.remove(&path, removal).await?;
    same!(refusal(stage.store.status(&path).await)?, ErrorKind::NotFound, "after the removal");
    Ok(())
}

async fn proofs_are_found(stage: &Stage) -> Outcome {
    let name = super::fresh("proof")?;
    same!(refusal(stage.store.read_proof(&name).await)?, ErrorKind::NotFound, "a proof that was not planted");
    stage.store.plant_proof(&name, b"content").await?;
    same!(stage.store.read_proof(&name).await?, b"content", "the proof");
    stage.store.remove_proof(&name).await?;
    stage.store.remove_proof(&name).await?;
    same!(refusal(stage.store.read_proof(&name).await)?, ErrorKind::NotFound, "after it was taken away");
    Ok(())
}

async fn samples_are_bounded(stage: &Stage) -> Outcome {
    let sample = stage.store.sample(2).await?;
    same!(sample.len() <= 2, true, "the length of a sample of 2");
    same!(stage.store.sample(2).await?, sample, "a second sample");
    Ok(())
}
