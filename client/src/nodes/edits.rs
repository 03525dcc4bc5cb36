//! Files opened for writing by id, or made by directory and name, and edited in place.

use larder_common::{Caller, Error, ErrorKind, FileId, FsPath, Name, Result, WriteType};
use larder_proto::v1::{self, command::What};

use super::{NodeCreate, NodeStatus, Nodes, info};
use crate::{
    calls::{How, Outcome},
    edit::{Edit, EditOptions, Target},
    metadata::Key,
};

impl Nodes {
    /// Begins to edit a file. One edit is shared by all handles of a process on one file.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory`, `Denied`, `ReadOnly`; `Changed` if it has another generation than was said; `Busy` while
    /// another process edits it and does not give it up; `Unavailable` or `Deadline`.
    pub async fn edit(&self, caller: &Caller, file: FileId, options: EditOptions) -> Result<Edit> {
        let target = Target { path: None::<FsPath>, id: file, caller: Some(info(caller)) };
        Box::pin(self.core.edit(target, EditOptions { relaxed: true, ..options })).await
    }

    /// Where what is written goes, unless something else is asked for.
    #[must_use]
    pub fn write_type(&self) -> WriteType {
        self.core.config.write_type
    }

    /// Makes a file and begins to edit it.
    ///
    /// # Errors
    /// As [`Nodes::make_file`] and [`Nodes::edit`].
    pub async fn create(
        &self,
        caller: &Caller,
        parent: FileId,
        name: &Name,
        create: &NodeCreate,
    ) -> Result<(NodeStatus, Edit)> {
        let epoch = self.core.caches.metadata.epoch();
        let message = v1::CreateFile { edit: true, ..self.create_message(parent, name, create) };
        let made = self.change(caller, What::CreateFile(message), How::RELAXED).await;
        let (Outcome::Created(created, lease), said) = made.map_err(|error| error.at(name))? else {
            return Err(Error::new(ErrorKind::Mismatch, "the master gave no right to write").at(name));
        };
        let target = Target { path: None, id: FileId(0), caller: Some(info(caller)) };
        let options = EditOptions { write_type: create.write_type, relaxed: true, ..EditOptions::default() };
        let edit = Box::pin(self.core.edit_created(target, options, *created, lease)).await?;
        let mut status = edit.status();
        status.name = Some(name.clone());
        Ok((self.said(Some(Key::child(parent, name)), status, said, epoch), edit))
    }
}
