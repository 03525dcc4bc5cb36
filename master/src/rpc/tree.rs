//! What is done to every file below a path: free, persist, recursive attributes. Walks the namespace in pages, so that a
//! large tree holds no lock long, and goes on after a file that fails; the first failure is told at the end.

use larder_common::{Error, FileId, Result};
use larder_proto::v1;

use super::{
    command::{Each, Tree},
    filesystem::How,
};
use crate::{
    core::Asker,
    master::Master,
    state::{Command, Persist, SetReplication, Target},
};

/// Names of a directory that are looked at under one lock.
const PAGE: usize = 1000;

/// Carries it out and counts.
///
/// # Errors
/// The first that a file met; the others were done all the same.
pub async fn carry_out(master: &Master, tree: &Tree, asker: &Asker) -> Result<v1::Counted> {
    let how = How { follow: true, fresh: false };
    let root = master.look_up(&tree.path, &asker.caller, how).await?;
    let asker = Asker { request: None, ..asker.clone() };
    let mut counted = v1::Counted::default();
    let mut first: Option<Error> = None;
    let mut todo = vec![root];
    while let Some(file) = todo.pop() {
        if let Err(error) = one(master, &tree.each, file, &asker, &mut counted).await {
            first.get_or_insert(error);
        }
        let directory = master.core.read().status(file).is_some_and(|status| status.kind.is_directory());
        if directory && (tree.recursive || file == root) {
            children(master, file, tree.recursive, &asker, &mut todo).await?;
        }
    }
    match first {
        Some(error) => Err(error.context(format!("done for {} files, but not for all", counted.files))),
        None => Ok(counted),
    }
}

async fn children(master: &Master, directory: FileId, deep: bool, asker: &Asker, todo: &mut Vec<FileId>) -> Result<()> {
    master.core.read().may(directory, &asker.caller, 5)?;
    master.load_all(directory).await?;
    let mut after: Option<Vec<u8>> = None;
    loop {
        let state = master.core.read();
        let page = state.list(directory, after.as_deref(), PAGE);
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.name.to_vec());
        let wanted = |id: &FileId| deep || state.status(*id).is_some_and(|status| status.kind.is_file());
        todo.extend(page.iter().map(|entry| entry.id).filter(wanted));
    }
}

async fn one(master: &Master, each: &Each, file: FileId, asker: &Asker, counted: &mut v1::Counted) -> Result<()> {
    let Some(status) = master.core.read().status(file) else { return Ok(()) };
    let command: Command = match each {
        Each::Free { forced } if status.kind.is_file() => {
            master.core.read().may(file, &asker.caller, 4)?;
            if master.free(file, *forced) {
                counted.files += 1;
                counted.bytes += status.length;
            }
            return Ok(());
        }
        Each::Persist if status.kind.is_file() => Persist { target: Target::Id(file) }.into(),
        Each::SetReplication(min) if status.kind.is_file() => {
            SetReplication { target: Target::Id(file), min: *min }.into()
        }
        Each::SetAttributes(change) => {
            let mut change = (**change).clone();
            change.target = Target::Id(file);
            change.into()
        }
        _ => return Ok(()),
    };
    let mut finished = master.core.execute(&master.under, command, asker).await?;
    let acknowledged = master.follow(&mut finished, None);
    acknowledged.all().await;
    if status.kind.is_directory() {
        counted.directories += 1;
    } else {
        counted.files += 1;
        counted.bytes += status.length;
    }
    Ok(())
}
