//! Copying and moving: the master names the new file and its lease, a worker that holds the old one writes it, the master
//! commits it. No byte of either comes here.
//!
//! A copy and the note that it is there are one entry, and so are a removal and its note: a job that goes on after a crash
//! copies nothing twice, and never takes its own copy for somebody else's file. A move that cannot be a rename is a copy of
//! each file, then the removal of its source; what came into the source meanwhile stays there.

use std::time::Duration;

use larder_common::{
    Error, ErrorKind, FileId, FileKind, FileStatus, FsPath, Generation, LeaseId, Name, Result, WorkerId,
};
use larder_proto::v1::{self, order, outcome};

use super::{
    steps::{Did, Stepper, nobody, patiently},
    walk::{Item, Walk},
};
use crate::{
    cluster::placement::Preference,
    rpc::{answer, command, filesystem::How},
    state::{
        AbandonFile, CreateComplete, CreateDirectory, CreateFile, MakeSpecial, Outcome, Place, Remove, RemoveKind,
        Rename, RenameMode, SetAttributes, SetTime, SetXattr, Stage, StepKey, StepKind, Symlink, Target, XattrMode,
    },
};

/// How long a worker may take for one file of so many bytes: what a slow disk needs, and no less than this.
const COPY: Duration = Duration::from_secs(300);
/// Bytes in a second that the slowest under store is expected to take.
const SLOW: u64 = 2 << 20;

/// Where something of the source is to be.
fn target(stepper: &Stepper, key: &StepKey) -> Result<FsPath> {
    let missing = || Error::new(ErrorKind::Invalid, "a copy without a target");
    let mut path = stepper.job.spec.target.clone().ok_or_else(missing)?;
    for name in key.names() {
        path = path.join(&Name::new(name)?);
    }
    Ok(path)
}

fn is_move(stepper: &Stepper) -> bool {
    stepper.job.spec.kind == larder_common::JobKind::Move
}

/// Moves everything at once.
///
/// # Errors
/// `CrossesMounts` where it must be copied; those of a rename.
pub async fn rename(stepper: &Stepper) -> Result<()> {
    let to = target(stepper, &StepKey::default())?;
    let mode = if stepper.job.spec.overwrite { RenameMode::Replace } else { RenameMode::NoReplace };
    let whole = Item { key: StepKey::default(), file: FileId(0), kind: FileKind::Directory, length: 0 };
    let work = patiently(|| {
        let (from, to) = (Place::Path(stepper.job.spec.path.clone()), Place::Path(to.clone()));
        let rename = Rename { from, to, mode, expected: None, replaced: None, holders: Vec::new() };
        stepper.execute_step(&whole, Stage::Done, rename.into())
    });
    stepper.live.unless_over(work).await.map(drop)
}

/// Makes the copy of a directory. One that is there is taken as it is.
///
/// # Errors
/// Those of making it.
pub async fn directory(stepper: &Stepper, item: &Item) -> Result<()> {
    let status = stepper.status(item.file).await?;
    let make = CreateDirectory {
        place: target(stepper, &item.key)?.into(),
        mode: status.mode,
        recursive: item.key == StepKey::default(),
        allow_exists: true,
        write_type: stepper.job.spec.write_type,
    };
    let made = stepper.execute(make.into()).await?.outcome;
    match (made, is_move(stepper)) {
        (Outcome::Made(file), true) => alike(stepper, &status, file).await,
        _ => Ok(()),
    }
}

/// Copies or moves what is no directory. `copied`: the copy is there, and only the source is to go.
///
/// # Errors
/// Why it was not done.
pub async fn one(stepper: &Stepper, item: &Item, copied: bool) -> Result<Did> {
    let done = Did { kind: StepKind::File, bytes: item.length, told: true };
    if !copied {
        patiently(|| make(stepper, item)).await?;
    }
    if is_move(stepper) {
        stepper.live.unless_over(patiently(|| finish(stepper, item))).await?;
    }
    Ok(done)
}

async fn make(stepper: &Stepper, item: &Item) -> Result<()> {
    if stepper.live.stop.is_cancelled() {
        return Err(Error::new(ErrorKind::Invalid, "the job is over"));
    }
    let stage = if is_move(stepper) { Stage::Copied } else { Stage::Done };
    if stepper.stage(&item.key) >= Some(stage) {
        // An earlier try of which it was not known how it would end.
        return Ok(());
    }
    let status = stepper.status(item.file).await?;
    let place = Place::Path(target(stepper, &item.key)?);
    let (uid, mode) = (stepper.asker.caller.uid, status.mode & 0o7777);
    match &status.kind {
        FileKind::File => file(stepper, item, &status, place, stage).await,
        FileKind::Symlink(text) => {
            let link = Symlink { place, text: text.clone() };
            stepper.execute_step(item, stage, link.into()).await.map(drop)
        }
        FileKind::Special(format, device) => {
            if uid != 0 && !matches!(*format, 0o010_000 | 0o140_000) {
                return Err(Error::new(ErrorKind::NotPermitted, "only root may make devices"));
            }
            let special = MakeSpecial { place, format: *format, device: *device, mode };
            stepper.execute_step(item, stage, special.into()).await.map(drop)
        }
        FileKind::Directory => Err(Error::new(ErrorKind::Changed, "it has become a directory")),
    }
}

/// Copies a file.
async fn file(stepper: &Stepper, item: &Item, status: &FileStatus, place: Place, stage: Stage) -> Result<()> {
    stepper.master.core.read().may(status.id, &stepper.asker.caller, 4)?;
    if !status.complete {
        return Err(Error::new(ErrorKind::Busy, "somebody is writing the file"));
    }
    let create = CreateFile {
        place,
        mode: status.mode & 0o777,
        block_size: status.block_size,
        write_type: stepper.job.spec.write_type,
        overwrite: stepper.job.spec.overwrite,
        recursive: item.key == StepKey::default(),
        session: stepper.master.jobs.session(&stepper.master).await?,
        ttl: None,
        replication_min: 0,
        expected: None,
        edit: false,
    };
    if status.length == 0 {
        let empty = CreateComplete { create, held: None, sync: true };
        return stepper.execute_step(item, stage, empty.into()).await.map(drop);
    }
    let begun = stepper.execute(create.into()).await?.outcome;
    let Outcome::Writing { file, generation, lease, .. } = begun else { return Ok(()) };
    let new = New { file, generation, lease };
    let written = stepper.live.unless_over(write(stepper, status, &begun)).await;
    let committed = match written {
        Ok(receipt) => commit(stepper, item, status, &new, receipt, stage).await,
        Err(error) => Err(error),
    };
    if committed.is_err() {
        // Where this fails, the lease ends with the session.
        let _ = stepper.master.execute(AbandonFile { lease }).await;
    }
    committed
}

/// A file that is being written.
struct New {
    file: FileId,
    generation: Generation,
    lease: LeaseId,
}

/// Has a worker write the new file.
async fn write(stepper: &Stepper, status: &FileStatus, begun: &Outcome) -> Result<v1::Receipt> {
    let master = &stepper.master;
    let holders = answer::open(master, &nobody(), &Preference::default(), status.id)?;
    let held = |worker: u32| -> u32 {
        holders.holders.iter().filter(|h| h.worker == worker).flat_map(|h| &h.runs).map(|run| run.count).sum()
    };
    let most = holders.holders.iter().max_by_key(|holder| held(holder.worker));
    let near = most.and_then(|holder| holders.workers.get(holder.worker as usize));
    let near = near.and_then(|worker| WorkerId::try_from(&worker.id[..]).ok());
    let preference = Preference { near, ..Preference::default() };
    let created = answer::outcome(master, &nobody(), &preference, begun.clone())?;
    let outcome::Result::Created(created) = created else {
        return Err(Error::new(ErrorKind::Unavailable, "the file cannot be written now"));
    };
    let away = || Error::new(ErrorKind::Unavailable, "there is no worker that could write it");
    let worker = created.workers.first().and_then(|worker| stepper.slot(worker)).ok_or_else(away)?;
    let copy = v1::OrderCopy { read: holders.grant, write: created.grant, peers: holders.workers };
    let within = COPY + Duration::from_secs(status.length / SLOW);
    let done = master.links.order(worker, order::What::Copy(copy), within).await?;
    done.receipt.ok_or_else(|| Error::new(ErrorKind::Mismatch, "the worker gave no receipt for what it copied"))
}

async fn commit(
    stepper: &Stepper,
    item: &Item,
    status: &FileStatus,
    new: &New,
    receipt: v1::Receipt,
    stage: Stage,
) -> Result<()> {
    let (worker, cached) = (WorkerId::try_from(&receipt.worker[..])?, receipt.cached);
    let (lease, length) = (new.lease.0, receipt.length);
    let complete = v1::CompleteFile { lease, length, receipts: vec![receipt], ..v1::CompleteFile::default() };
    let session = stepper.master.jobs.session(&stepper.master).await?;
    let defaults = command::Defaults { block_size: status.block_size, session, sync: true };
    let complete = command::complete_file(complete, status.block_size, defaults)?;
    let item = Item { length, ..item.clone() };
    stepper.execute_step(&item, stage, complete.into()).await?;
    if cached {
        stepper.master.committed(new.file, new.generation, &[worker]);
    }
    Ok(())
}

/// Gives a copy the attributes of what was moved; owners as root only, for nobody else may give files away.
async fn alike(stepper: &Stepper, status: &FileStatus, copy: FileId) -> Result<()> {
    let is_root = stepper.asker.caller.is_root();
    let link = matches!(status.kind, FileKind::Symlink(_));
    if !link {
        let directory = status.kind.is_directory();
        let time = |time| (!directory).then_some(SetTime::At(time));
        let change = SetAttributes {
            mode: Some(status.mode),
            uid: is_root.then_some(status.uid),
            gid: is_root.then_some(status.gid),
            accessed: time(status.times.accessed),
            modified: time(status.times.modified),
            ..SetAttributes::of(Target::Id(copy))
        };
        stepper.execute(change.into()).await?;
        let xattrs = stepper.master.core.read().xattrs(status.id).to_vec();
        for (name, value) in xattrs {
            let set = SetXattr { target: Target::Id(copy), name, value, mode: XattrMode::Any };
            stepper.execute(set.into()).await?;
        }
    }
    Ok(())
}

/// Makes the copy like its source, and removes that, if it is still what was copied.
async fn finish(stepper: &Stepper, item: &Item) -> Result<()> {
    let (to, how) = (target(stepper, &item.key)?, How { follow: false, fresh: false });
    let copy = stepper.master.look_up(&to, &stepper.asker.caller, how).await?;
    let status = stepper.status(item.file).await?;
    alike(stepper, &status, copy).await?;
    let mut path = stepper.job.spec.path.clone();
    for name in item.key.names() {
        path = path.join(&Name::new(name)?);
    }
    let remove = Remove {
        place: path.into(),
        recursive: false,
        kind: RemoveKind::File,
        cache_only: false,
        expected: Some(item.file),
        holders: Vec::new(),
    };
    stepper.execute_step(item, Stage::Done, remove.into()).await.map(drop)
}

/// Removes the directories of a source from which all was moved, the innermost first. What is not empty stays: something
/// could not be moved, or has come meanwhile.
pub async fn remove_directories(stepper: &Stepper, root: FileId) {
    let mut walk = Walk::resume(&stepper.master, root, None, &stepper.asker.caller);
    let mut directories = Vec::new();
    loop {
        match walk.next(&stepper.master).await {
            Ok(Some(item)) if item.kind.is_directory() => directories.push(item.file),
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => break,
        }
    }
    for directory in directories.into_iter().rev() {
        let Some(path) = stepper.master.core.read().path(directory) else { continue };
        let remove = Remove {
            place: path.into(),
            recursive: false,
            kind: RemoveKind::Directory,
            cache_only: false,
            expected: Some(directory),
            holders: Vec::new(),
        };
        let removed = stepper.live.unless_over(patiently(|| stepper.execute(remove.clone().into()))).await;
        if let Err(error) = removed {
            tracing::info!(job = stepper.id.0, %error, "a directory stays where it was");
        }
    }
}
