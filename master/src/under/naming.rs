//! Names that this module gives in under stores, and the way between the state's paths and the stores'.
//!
//! What is made on the way of an action is named after its intent, a number that is never given twice: so the next
//! master finds it again after a crash, and nobody else has it. Names in plain sight begin with [`HIDDEN`] and are
//! never taken into the namespace.

use larder_common::{Generation, Name, Result};
use larder_ufs::{ObjectPath, OrphanName, TemporaryName};

use crate::state::{IntentId, Relative};

/// How names begin that stand in a user's directory for a moment, while two others are swapped.
pub const HIDDEN: &[u8] = b".larder-exchange-";

/// A path of the state, as the store takes it.
///
/// # Errors
/// `Invalid`, `NameTooLong`.
pub fn object(path: &Relative) -> Result<ObjectPath> {
    ObjectPath::new(&path.0)
}

/// A path of the store, as the state has it.
#[must_use]
pub fn relative(path: &ObjectPath) -> Relative {
    Relative(path.as_bytes().to_vec())
}

/// The path of a name in a directory.
///
/// # Errors
/// `NameTooLong`.
pub fn child(directory: &ObjectPath, name: &[u8]) -> Result<ObjectPath> {
    directory.join(&Name::new(name)?)
}

/// The directory of a path, and its name in it; `None` for the root.
#[must_use]
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    match path.iter().rposition(|b| *b == b'/') {
        Some(cut) => Some((&path[..cut], &path[cut + 1..])),
        None => Some((b"", path)),
    }
}

/// A bound such that no name lies between it and `name`: the longest one that begins with what comes before the last
/// byte, so that the range after it and through `name` is that name alone. `None` for the very first name.
#[must_use]
pub fn just_before(name: &Name) -> Option<Name> {
    let (last, first) = name.as_bytes().split_last()?;
    // A slash is no part of a name, and nothing comes before the byte 1.
    let before = match last - 1 {
        0 => return Name::new(first).ok(),
        b'/' => b'/' - 1,
        byte => byte,
    };
    let mut bound = [first, &[before]].concat();
    bound.resize(larder_common::path::NAME_MAX, 0xff);
    Name::new(bound).ok()
}

/// Whether a name is never taken into the namespace.
#[must_use]
pub fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(HIDDEN)
}

/// The temporary of an empty file that an intent publishes.
#[must_use]
pub fn empty(intent: IntentId, target: &ObjectPath) -> TemporaryName {
    TemporaryName::new(target.clone(), plain(&format!("{EMPTY}{}", intent.0)))
}

/// A temporary under the name that the state gave it.
///
/// # Errors
/// `Invalid` for a name that is none.
pub fn temporary(target: &ObjectPath, name: &str) -> Result<TemporaryName> {
    Ok(TemporaryName::new(target.clone(), Name::new(name)?))
}

/// Where something stays on its way out: under the name that the state gave it, else under one of the intent's.
///
/// # Errors
/// `Invalid` for a name that is none.
pub fn orphan(intent: IntentId, origin: &ObjectPath, kept: Option<&str>) -> Result<OrphanName> {
    let name = kept.map_or_else(|| Ok(plain(&format!("{REMOVED}{}", intent.0))), Name::new)?;
    Ok(OrphanName::new(origin.clone(), name))
}

/// The same for the `number`th file of a tree that goes.
#[must_use]
pub fn orphan_of_tree(intent: IntentId, origin: &ObjectPath, number: u64) -> OrphanName {
    OrphanName::new(origin.clone(), plain(&format!("{REMOVED}{}.{number}", intent.0)))
}

/// Where one of two names waits while they are swapped.
///
/// # Errors
/// `NameTooLong` in a directory whose path nearly is.
pub fn exchange(intent: IntentId, from: &ObjectPath) -> Result<ObjectPath> {
    let name = [HIDDEN, intent.0.to_string().as_bytes()].concat();
    child(&from.parent().unwrap_or_else(ObjectPath::root), &name)
}

/// A further name for what is moved aside: `path` itself for 0, then `path.1`, `path.2`, cut where it gets too long.
///
/// # Errors
/// `NameTooLong` in a directory whose path nearly is.
pub fn aside(path: &ObjectPath, number: u32) -> Result<ObjectPath> {
    if number == 0 {
        return Ok(path.clone());
    }
    let suffix = format!(".{number}");
    let name = path.name().unwrap_or(b"root");
    let cut = name.len().min(larder_common::path::NAME_MAX - suffix.len());
    child(&path.parent().unwrap_or_else(ObjectPath::root), &[&name[..cut], suffix.as_bytes()].concat())
}

/// The name beside `target` under which foreign content is kept.
///
/// # Errors
/// `NameTooLong` in a directory whose path nearly is.
pub fn conflict(target: &ObjectPath, generation: Generation) -> Result<ObjectPath> {
    let suffix = format!(".larder-conflict-{generation}");
    let name = target.name().unwrap_or(b"root");
    let cut = name.len().min(larder_common::path::NAME_MAX - suffix.len());
    child(&target.parent().unwrap_or_else(ObjectPath::root), &[&name[..cut], suffix.as_bytes()].concat())
}

/// Whether a temporary or orphan is named after an intent, and which.
#[must_use]
pub fn intent_of(name: &Name) -> Option<IntentId> {
    let text = std::str::from_utf8(name.as_bytes()).ok()?;
    let number = text.strip_prefix(EMPTY).or_else(|| text.strip_prefix(REMOVED))?;
    number.split('.').next()?.parse().ok().map(IntentId)
}

/// Whether an orphan that is named after an intent is one file of a tree that goes.
#[must_use]
pub fn is_of_tree(name: &Name) -> bool {
    name.as_bytes().starts_with(REMOVED.as_bytes()) && name.as_bytes().contains(&b'.')
}

const EMPTY: &str = "empty-";
const REMOVED: &str = "removed-";

fn plain(text: &str) -> Name {
    Name::new(text).expect("letters and digits are a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_an_intent_are_found_again() {
        let path = ObjectPath::new("a/b").unwrap();
        for name in [empty(IntentId(7), &path).name, orphan_of_tree(IntentId(7), &path, 3).name] {
            assert_eq!(intent_of(&name), Some(IntentId(7)));
        }
        assert_eq!(orphan(IntentId(7), &path, None).map(|o| intent_of(&o.name)), Ok(Some(IntentId(7))));
        assert_eq!(intent_of(&Name::new("12.13").unwrap()), None);
        assert!(is_hidden(exchange(IntentId(7), &path).unwrap().name().unwrap()));
    }

    #[test]
    fn names_beside_another_fit_in_255_bytes() {
        let long = ObjectPath::new([b"d/".as_slice(), &[b'x'; 255]].concat()).unwrap();
        for beside in [aside(&long, 3), conflict(&long, Generation(123))] {
            let beside = beside.unwrap();
            assert_eq!(beside.name().unwrap().len(), 255);
            assert_eq!(beside.parent(), long.parent());
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_lies_between_a_name_and_the_bound_before_it(
            one in proptest::collection::vec(1u8..6, 1..4),
            other in proptest::collection::vec(0x2du8..0x32, 1..4),
            third in proptest::collection::vec(0u8..=255, 1..4),
        ) {
            let names: Vec<Name> = [one, other, third].iter().filter_map(|name| Name::new(name).ok()).collect();
            for name in &names {
                let before = just_before(name);
                assert!(before.as_ref().is_none_or(|before| before < name));
                for another in names.iter().filter(|another| *another < name) {
                    assert!(before.as_ref().is_some_and(|before| another <= before), "{another:?} {before:?} {name:?}");
                }
            }
        }
    }

    #[test]
    fn a_path_is_its_directory_and_its_name() {
        assert_eq!(split(b"a/b/c"), Some((&b"a/b"[..], &b"c"[..])));
        assert_eq!(split(b"c"), Some((&b""[..], &b"c"[..])));
        assert_eq!(split(b""), None);
    }
}
