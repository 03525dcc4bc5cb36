//! Which paths a command names: what may have to be looked at in the under store before the command is planned. Pure.

use larder_common::FsPath;

use crate::state::{Command, Place, Target};

/// The paths that a command names. By id nothing is named: who has an id was told of it in time.
#[must_use]
pub fn named(command: &Command) -> Vec<&FsPath> {
    match command {
        Command::CreateDirectory(c) => places(&[&c.place]),
        Command::Symlink(c) => places(&[&c.place]),
        Command::MakeSpecial(c) => places(&[&c.place]),
        Command::CreateFile(c) => places(&[&c.place]),
        Command::EditFile(c) => targets(&[&c.target]),
        Command::CreateComplete(c) => places(&[&c.create.place]),
        Command::Rename(c) => places(&[&c.from, &c.to]),
        Command::Remove(c) => places(&[&c.place]),
        Command::Link(c) => targets(&[&c.target]).into_iter().chain(places(&[&c.place])).collect(),
        Command::SetAttributes(c) => targets(&[&c.target]),
        Command::SetXattr(c) => targets(&[&c.target]),
        Command::RemoveXattr(c) => targets(&[&c.target]),
        Command::SetPin(c) => targets(&[&c.target]),
        Command::SetTtl(c) => targets(&[&c.target]),
        Command::SetReplication(c) => targets(&[&c.target]),
        Command::SetPolicy(c) => targets(&[&c.target]),
        Command::Persist(c) => targets(&[&c.target]),
        _ => Vec::new(),
    }
}

fn places<'a>(places: &[&'a Place]) -> Vec<&'a FsPath> {
    let path = |place: &&'a Place| match place {
        Place::Path(path) => Some(path),
        Place::Child(..) => None,
    };
    places.iter().filter_map(path).collect()
}

fn targets<'a>(targets: &[&'a Target]) -> Vec<&'a FsPath> {
    let path = |target: &&'a Target| match target {
        Target::Path(path) => Some(path),
        Target::Id(_) => None,
    };
    targets.iter().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use larder_common::FileId;

    use super::*;
    use crate::state::{Link, SetPin};

    #[test]
    fn both_ends_of_a_link_are_named_and_ids_are_not() {
        let path = |text: &str| FsPath::parse(text).unwrap();
        let link = Link { target: path("/a").into(), place: path("/b").into() };
        assert_eq!(named(&link.into()), [&path("/a"), &path("/b")]);
        assert!(named(&SetPin { target: Target::Id(FileId(1)), pinned: true }.into()).is_empty());
    }
}
