//! Where settings come from: what the caller hands in, what a value's origin is called, and the door to files. Nothing
//! here looks at the process's environment or disk by itself; a test hands in maps.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use super::setting::Role;

/// Reads files; the only I/O of settings.
pub trait Files: fmt::Debug {
    /// The content of a file.
    ///
    /// # Errors
    /// As [`std::fs::read`].
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
}

/// The files of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemFiles;

impl Files for SystemFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }
}

impl Files for BTreeMap<PathBuf, String> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.get(path).map(|text| text.clone().into_bytes()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// A setting given on the command line. Its value is not printed by `Debug`, for it could be a secret.
#[derive(Clone)]
pub struct Flag {
    /// The flag as people see it, `--mem`.
    pub shown: String,
    /// The setting's name.
    pub name: String,
    /// The value.
    pub value: String,
}

impl fmt::Debug for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.shown, self.name)
    }
}

/// All that settings are read from. The environment's values are not printed by `Debug`: there are secrets among them.
#[derive(Clone)]
pub struct Sources<'a> {
    /// Settings from the command line. Of two with one name the later holds.
    pub flags: Vec<Flag>,
    /// The environment. Of two with one name the later holds.
    pub environment: Vec<(OsString, OsString)>,
    /// The configuration file that was asked for, instead of the usual ones.
    pub config: Option<PathBuf>,
    /// What this process is, for what is meant for one role only; `None` takes all.
    pub role: Option<Role>,
    /// How files are read.
    pub files: &'a dyn Files,
}

impl fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.environment.iter().map(|(name, _)| name).collect();
        let mut all = f.debug_struct("Sources");
        all.field("flags", &self.flags).field("environment", &names).field("config", &self.config);
        all.field("role", &self.role).field("files", &self.files).finish()
    }
}

impl<'a> Sources<'a> {
    /// No flags, this environment, the usual files.
    pub fn new(environment: impl IntoIterator<Item = (OsString, OsString)>, files: &'a dyn Files) -> Self {
        Self { flags: Vec::new(), environment: environment.into_iter().collect(), config: None, role: None, files }
    }

    /// The same with one more setting from the command line.
    #[must_use]
    pub fn flag(mut self, shown: &str, name: &str, value: impl Into<String>) -> Self {
        self.flags.push(Flag { shown: shown.to_owned(), name: name.to_owned(), value: value.into() });
        self
    }

    /// The same for one role.
    #[must_use]
    pub fn role(mut self, role: Role) -> Self {
        self.role = Some(role);
        self
    }

    /// The last value of a variable, if it is text and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        let (_, value) = self.environment.iter().rev().find(|(variable, _)| variable == name)?;
        value.to_str().filter(|text| !text.is_empty())
    }
}

/// Where a value comes from. The order of the variants is the order of precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag of the command line, as people see it.
    Flag(String),
    /// An environment variable of Larder's own.
    Variable(String),
    /// `-D` in the variable that holds options for Java.
    JavaOption {
        /// The variable.
        variable: String,
        /// The property.
        key: String,
    },
    /// An environment variable in Alluxio's words.
    AlluxioVariable(String),
    /// A key of a TOML file.
    Config {
        /// The file.
        file: PathBuf,
        /// The key in it.
        key: String,
    },
    /// A key of an `alluxio-site.properties`.
    Properties {
        /// The file.
        file: PathBuf,
        /// The key in it.
        key: String,
    },
    /// Nobody gave it.
    Default,
    /// The content of a file that another source names.
    Content {
        /// The source that names the file.
        of: Box<Origin>,
        /// The file.
        file: PathBuf,
    },
    /// Put together from several.
    Together(Vec<Origin>),
}

impl Origin {
    /// The place in the order of precedence; 0 is asked first.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Origin::Flag(_) => 0,
            Origin::Variable(_) => 1,
            Origin::JavaOption { .. } => 2,
            Origin::AlluxioVariable(_) => 3,
            Origin::Config { .. } => 4,
            Origin::Properties { .. } => 5,
            Origin::Default => 6,
            Origin::Content { of, .. } => of.rank(),
            Origin::Together(parts) => parts.iter().map(Origin::rank).min().unwrap_or(6),
        }
    }

    /// Whether it speaks in Alluxio's words.
    pub(super) fn is_alluxio(&self) -> bool {
        matches!(self, Origin::JavaOption { .. } | Origin::AlluxioVariable(_) | Origin::Properties { .. })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(name) | Origin::Variable(name) | Origin::AlluxioVariable(name) => f.write_str(name),
            Origin::JavaOption { variable, key } => write!(f, "-D{key} in {variable}"),
            Origin::Config { file, key } | Origin::Properties { file, key } => {
                write!(f, "{key} in {}", file.display())
            }
            Origin::Default => f.write_str("default"),
            Origin::Content { of, file } => write!(f, "{of} ({})", file.display()),
            Origin::Together(parts) => {
                let parts: Vec<_> = parts.iter().map(Origin::to_string).collect();
                f.write_str(&parts.join(", "))
            }
        }
    }
}

/// Something about the settings that people should know, and that stops nothing. One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
