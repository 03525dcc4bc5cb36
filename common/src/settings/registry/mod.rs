//! Every setting that there is, by group, and finding one by any of its names. A new setting is one declaration in the
//! file of its group; parsing, names in the environment, documentation and `config show` follow from it.
//!
//! Invariants, held by tests: no name, in any form, stands for two settings; no name is the beginning of another
//! followed by a dot (TOML could not hold both); every default parses.

mod client;
mod fuse;
mod local;
mod master;
mod security;
mod ufs;
mod worker;

use std::{collections::HashMap, sync::OnceLock};

pub use client::ClientSettings;
pub use fuse::FuseSettings;
pub use local::{LocalSettings, LogSettings};
pub use master::MasterSettings;
pub use security::SecuritySettings;
pub use ufs::UfsSettings;
pub use worker::WorkerSettings;
pub(super) use {local::LOCALITY, security::CREDENTIALS, worker::TIERS};

use super::setting::{Setting, upper};

/// All declarations with the title of their group.
pub const GROUPS: &[(&str, &[Setting])] = &[
    ("Master", MasterSettings::SETTINGS),
    ("Under stores", UfsSettings::SETTINGS),
    ("Worker", WorkerSettings::SETTINGS),
    ("Worker: the tiers, in Alluxio's words", TIERS),
    ("Clients", ClientSettings::SETTINGS),
    ("Mounts (FUSE)", FuseSettings::SETTINGS),
    ("Security", SecuritySettings::SETTINGS),
    ("Security: credentials of under stores", CREDENTIALS),
    ("Locality", LOCALITY),
    ("Everything in one process", LocalSettings::SETTINGS),
    ("Logs and processes", LogSettings::SETTINGS),
];

/// Every declaration.
pub fn all() -> impl Iterator<Item = &'static Setting> {
    GROUPS.iter().flat_map(|(_, settings)| settings.iter())
}

/// Whose names a source may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// All names of a setting.
    Larder,
    /// Only those that Alluxio has.
    Alluxio,
}

/// A setting found by one of its names.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) setting: &'static Setting,
    /// The setting's own full name, with the word for `*` put in.
    pub(super) name: String,
    /// 0 for the setting's own name, more for each further one.
    pub(super) preference: usize,
    /// Whether the value is a path whose content is the value.
    pub(super) from_file: bool,
}

/// Finds a setting by a name in any form (`master.hostname`, `MASTER_HOSTNAME`), without prefix.
pub(super) fn find(name: &str, dialect: Dialect) -> Option<Found> {
    let key = upper(name);
    let stripped = key.strip_suffix("_FILE");
    exact(&key, dialect)
        .or_else(|| in_file(exact(stripped?, dialect)?))
        .or_else(|| in_file(in_family(stripped?, dialect)?))
        .or_else(|| in_family(&key, dialect))
}

fn in_file(found: Found) -> Option<Found> {
    Some(Found { from_file: true, ..found })
}

type Index = HashMap<String, (&'static Setting, usize)>;

fn index(dialect: Dialect) -> &'static Index {
    static LARDER: OnceLock<Index> = OnceLock::new();
    static ALLUXIO: OnceLock<Index> = OnceLock::new();
    let entries = |names: fn(&'static Setting) -> Vec<&'static str>| {
        let numbered =
            move |setting| names(setting).into_iter().enumerate().map(move |(i, name)| (upper(name), (setting, i)));
        all().flat_map(numbered).collect()
    };
    match dialect {
        Dialect::Larder => LARDER.get_or_init(|| entries(|setting| setting.names().collect())),
        Dialect::Alluxio => ALLUXIO.get_or_init(|| entries(|setting| setting.alluxio.to_vec())),
    }
}

fn exact(key: &str, dialect: Dialect) -> Option<Found> {
    let (setting, preference) = index(dialect).get(key)?;
    let found = Found { setting, name: setting.name.to_owned(), preference: *preference, from_file: false };
    (!key.contains('*')).then_some(found)
}

fn in_family(key: &str, dialect: Dialect) -> Option<Found> {
    index(dialect).iter().find_map(|(pattern, (setting, preference))| {
        let (before, after) = pattern.split_once('*')?;
        let word = key.strip_prefix(before)?.strip_suffix(after)?;
        let open_ended = setting.name.ends_with(".*") && setting.secret;
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || (b == b'_' && open_ended);
        (!word.is_empty() && word.bytes().all(fits)).then(|| Found {
            setting,
            name: setting.name.replace('*', &word.to_ascii_lowercase()),
            preference: *preference,
            from_file: false,
        })
    })
}

/// The known name that a wrong one was most likely meant to be, in the form of the environment without prefix.
pub(super) fn nearest(name: &str, dialect: Dialect) -> Option<String> {
    let key = upper(name);
    let distance = |known: &str| strsim::damerau_levenshtein(known, &key);
    let (best, far) =
        index(dialect).keys().map(|known| (known, distance(known))).min_by(|(a, x), (b, y)| x.cmp(y).then(a.cmp(b)))?;
    (far <= (key.len() / 3).max(2)).then(|| best.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_name_stands_for_one_setting() {
        let mut seen = BTreeSet::new();
        for setting in all() {
            for name in setting.names().map(upper).collect::<BTreeSet<_>>() {
                assert!(seen.insert(name.clone()), "{name} is declared twice");
            }
        }
    }

    #[test]
    fn no_name_hides_another_in_toml() {
        let names: Vec<_> = all().map(|setting| setting.name).collect();
        for name in &names {
            let below = format!("{name}.");
            assert!(!names.iter().any(|other| other.starts_with(&below)), "{name} is the beginning of another name");
        }
    }

    #[test]
    fn declarations_are_whole() {
        for setting in all() {
            assert!(setting.doc.trim().ends_with('.'), "{}: {:?}", setting.name, setting.doc);
            assert!(!setting.roles.is_empty(), "{}", setting.name);
            assert!(
                setting.name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'*')),
                "{}",
                setting.name
            );
            if !setting.default.is_empty() {
                (setting.check)(setting.default).unwrap_or_else(|e| panic!("{}: {e}", setting.name));
            }
        }
    }

    #[test]
    fn all_forms_of_a_name_lead_to_it() {
        for name in ["master.hostname", "MASTER_HOSTNAME"] {
            assert_eq!(find(name, Dialect::Larder).unwrap().name, "master.hostname");
        }
        let found = find("UNDERFS_ADDRESS", Dialect::Alluxio).unwrap();
        assert_eq!((found.name.as_str(), found.from_file), ("master.mount.root", false));
        assert!(find("SECURITY_TOKEN_FILE", Dialect::Larder).unwrap().from_file);
        assert_eq!(
            find("worker.tieredstore.level1.dirs.path", Dialect::Alluxio).unwrap().name,
            "worker.tieredstore.level1.dirs.path"
        );
        assert!(find("MASTER_SESSION_LEASE", Dialect::Alluxio).is_none(), "Alluxio has no such name");
        let credential = find("credential.prod.secret_access_key", Dialect::Larder).unwrap();
        assert_eq!(credential.name, "credential.prod_secret_access_key");
    }

    #[test]
    fn a_slip_of_the_pen_finds_its_name() {
        assert_eq!(nearest("MASTER_HOSTNAM", Dialect::Larder).as_deref(), Some("MASTER_HOSTNAME"));
        assert_eq!(nearest("master.hostnaem", Dialect::Larder).as_deref(), Some("MASTER_HOSTNAME"));
        assert_eq!(nearest("QQQQQQ", Dialect::Larder), None);
    }
}
