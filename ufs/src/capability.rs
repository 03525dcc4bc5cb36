//! What a store can do, as data: callers ask before they plan, the contract suite prints what is missing.

use std::fmt;

macro_rules! capabilities {
    ($($(#[$doc:meta])* $name:ident, $text:literal;)*) => {
        /// What a store can do. Asking for what it cannot is answered with the kind `Unsupported`.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Capabilities { $($(#[$doc])* pub $name: bool,)* }

        impl Capabilities {
            /// All of them.
            pub const ALL: Capabilities = Capabilities { $($name: true,)* };

            /// Each with its name for people.
            #[must_use]
            pub fn named(&self) -> Vec<(&'static str, bool)> {
                vec![$(($text, self.$name)),*]
            }
        }
    };
}

capabilities! {
    /// Takes changes at all: not mounted or opened read-only.
    writable, "writable";
    /// Its directories can be listed.
    lists, "listings";
    /// Takes names of any bytes; else of UTF-8 text that neither begins nor ends in white space.
    any_names, "names of any bytes";
    /// Keeps mode, owner, group and times, and lets them be set.
    attributes, "posix attributes";
    /// Has directories that exist without entries and can be made and removed.
    directories, "directories";
    /// Nothing gets a name in a directory that was not made before.
    firm_directories, "firm directories";
    /// Renames files and directories.
    rename, "rename";
    /// Renames in one step. Without it others see a copy come and the original go, entry by entry.
    atomic_rename, "rename in one step";
    /// Gives one inode several names.
    hard_links, "hard links";
    /// Has symbolic links.
    symlinks, "symbolic links";
    /// Has pipes, sockets and device nodes.
    special_files, "special files";
    /// Has extended attributes.
    xattrs, "extended attributes";
    /// A published file can be written in place.
    patch, "patch in place";
    /// `put` of a whole small object with a condition on the previous version.
    conditional_put, "conditional put";
    /// An upload consists of parts that several workers could share.
    multipart, "multipart";
    /// Tells about changes that others make.
    watch, "watch";
    /// Publishing is a step of its own, apart from writing, and refuses when the target is not what was expected, so
    /// that a writer that wakes late can publish nothing. A store without it gets one writer at a time.
    fences, "fences";
    /// What lost its name can be kept readable (`orphans`).
    orphans, "orphans";
}

impl Capabilities {
    /// The names of those that are missing.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        self.named().into_iter().filter(|(_, has)| !has).map(|(name, _)| name).collect()
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.missing().as_slice() {
            [] => f.write_str("everything"),
            missing => write!(f, "everything but {}", missing.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_what_is_missing() {
        assert_eq!(Capabilities::ALL.to_string(), "everything");
        let some = Capabilities { rename: false, watch: false, ..Capabilities::ALL };
        assert_eq!(some.to_string(), "everything but rename, watch");
        assert_eq!(Capabilities::default().missing().len(), Capabilities::ALL.named().len());
    }
}
