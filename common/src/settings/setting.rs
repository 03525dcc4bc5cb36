//! The declaration of one setting, and the macro that turns declarations into a struct with typed fields. Pure data:
//! names, forms of names, documentation and parsing all come from here.

use crate::{Result, settings::Value};

/// The processes that a setting is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The namespace.
    Master,
    /// Blocks in tiers.
    Worker,
    /// Commands and programs that use the library.
    Client,
    /// A mount.
    Fuse,
    /// Master, worker and mount in one process.
    Local,
}

impl Role {
    /// Every role.
    pub const ALL: &[Role] = &[Role::Master, Role::Worker, Role::Client, Role::Fuse, Role::Local];

    /// The name in documentation.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Master => "master",
            Role::Worker => "worker",
            Role::Client => "client",
            Role::Fuse => "fuse",
            Role::Local => "local",
        }
    }
}

/// One setting. A `*` in a name stands for one word, so that one declaration can stand for a family.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The name: lower-case words with dots between them.
    pub name: &'static str,
    /// What to write, in a few words.
    pub kind: &'static str,
    /// The default as one would write it, empty for none.
    pub default: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// Alluxio's names for the same thing, without `alluxio.`.
    pub alluxio: &'static [&'static str],
    /// Other names of our own.
    pub also: &'static [&'static str],
    /// Environment variables without a prefix that give it too.
    pub variables: &'static [&'static str],
    /// The version in which it appeared.
    pub since: &'static str,
    /// Whether the value is never printed.
    pub secret: bool,
    /// Who uses it.
    pub roles: &'static [Role],
    /// Whether bare numbers from Alluxio's sources are milliseconds, as they are there.
    pub(super) milliseconds: bool,
    /// Whether the value parses.
    pub(super) check: fn(&str) -> Result<()>,
}

impl Setting {
    /// A text without default.
    pub(super) const fn named(name: &'static str) -> Self {
        Self {
            name,
            kind: "text",
            default: "",
            doc: "",
            alluxio: &[],
            also: &[],
            variables: &[],
            since: "0.1.0",
            secret: false,
            roles: &[],
            milliseconds: false,
            check: |_| Ok(()),
        }
    }

    pub(super) const fn default(mut self, text: &'static str) -> Self {
        self.default = text;
        self
    }

    pub(super) const fn alluxio(mut self, names: &'static [&'static str]) -> Self {
        self.alluxio = names;
        self
    }

    pub(super) const fn also(mut self, names: &'static [&'static str]) -> Self {
        self.also = names;
        self
    }

    pub(super) const fn variables(mut self, names: &'static [&'static str]) -> Self {
        self.variables = names;
        self
    }

    pub(super) const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    pub(super) const fn roles(mut self, roles: &'static [Role]) -> Self {
        self.roles = roles;
        self
    }

    pub(super) const fn milliseconds(mut self) -> Self {
        self.milliseconds = true;
        self
    }

    pub(super) const fn of<T: Value>(mut self, doc: &'static str, roles: &'static [Role]) -> Self {
        self.kind = T::KIND;
        self.check = |text| T::parse(text).map(drop);
        self.doc = doc;
        if self.roles.is_empty() {
            self.roles = roles;
        }
        self
    }

    /// Whether one declaration stands for many settings.
    #[must_use]
    pub fn is_family(&self) -> bool {
        self.name.contains('*')
    }

    /// The environment variable of Larder's own.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("LARDER_{}", upper(self.name))
    }

    /// Every name in Larder's dialect, its own first.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.also.iter().copied()).chain(self.alluxio.iter().copied())
    }
}

/// A name as in the environment: capitals, `_` for each dot.
pub(super) fn upper(name: &str) -> String {
    name.replace('.', "_").to_ascii_uppercase()
}

/// Declares a group of settings: a struct with a typed field for each, the declarations, and how it is read.
macro_rules! group {
    (
        $(#[$outer:meta])*
        $group:ident for $roles:expr;
        $($(#[doc = $doc:literal])+ $field:ident: $type:ty = $declaration:expr;)*
    ) => {
        $(#[$outer])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $group {
            $($(#[doc = $doc])+ pub $field: $type,)*
        }

        impl $group {
            /// The declarations, in the order of the fields.
            pub const SETTINGS: &'static [$crate::settings::Setting] =
                &[$($declaration.of::<$type>(concat!($($doc),+), $roles)),*];

            pub(in crate::settings) fn read(values: &$crate::settings::Values) -> $crate::Result<Self> {
                Ok(Self { $($field: values.typed(&const { $declaration })?,)* })
            }
        }

        impl Default for $group {
            fn default() -> Self {
                Self::read(&$crate::settings::Values::default()).expect("defaults parse: a test reads them all")
            }
        }
    };
}
pub(super) use group;
