//! The calls of the trait as data, for decorators: what to count, slow down, fail or refuse.

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident, $text:literal, $changes:literal;)*) => {
        /// One call of [`crate::UnderStore`] or [`crate::Upload`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Operation { $($(#[$doc])* $name,)* }

        impl Operation {
            /// All of them.
            pub const ALL: &[Operation] = &[$(Operation::$name),*];

            /// Its name, as in metrics.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Operation::$name => $text,)* }
            }

            /// Whether it changes the store.
            #[must_use]
            pub fn changes(self) -> bool {
                match self { $(Operation::$name => $changes,)* }
            }
        }
    };
}

operations! {
    /// `space`
    Space, "space", false;
    /// `status`
    Status, "status", false;
    /// `list`
    List, "list", false;
    /// `fetch`, `fetch_temporary`, `fetch_orphan`
    Fetch, "fetch", false;
    /// `start_upload`
    StartUpload, "start_upload", true;
    /// `Upload::write_at` and `Upload::set_length`
    Write, "write", true;
    /// `Upload::copy_from`
    Copy, "copy", true;
    /// `Upload::finish`
    Finish, "finish", true;
    /// `upload_whole`
    UploadWhole, "upload_whole", true;
    /// `put`
    Put, "put", true;
    /// `rename_temporary`
    RenameTemporary, "rename_temporary", true;
    /// `destroy_temporary`, `destroy_orphan`
    Destroy, "destroy", true;
    /// `list_temporaries`, `list_orphans`
    ListPrivate, "list_private", false;
    /// `publish`
    Publish, "publish", true;
    /// `patch`
    Patch, "patch", true;
    /// `remove`
    Remove, "remove", true;
    /// `rename`
    Rename, "rename", true;
    /// `make_directory`
    MakeDirectory, "make_directory", true;
    /// `remove_directory`
    RemoveDirectory, "remove_directory", true;
    /// `symlink`
    Symlink, "symlink", true;
    /// `read_link`
    ReadLink, "read_link", false;
    /// `link`
    Link, "link", true;
    /// `make_special`
    MakeSpecial, "make_special", true;
    /// `set_attributes`
    SetAttributes, "set_attributes", true;
    /// `xattrs`
    Xattrs, "xattrs", false;
    /// `set_xattr`
    SetXattr, "set_xattr", true;
    /// `sync_directory`
    SyncDirectory, "sync_directory", false;
    /// `plant_proof`, `remove_proof`
    PlantProof, "plant_proof", true;
    /// `read_proof`
    ReadProof, "read_proof", false;
    /// `sample`
    Sample, "sample", false;
    /// `Watch::add`
    Watch, "watch", false;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct() {
        let mut names: Vec<_> = Operation::ALL.iter().map(|o| o.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Operation::ALL.len());
    }
}
