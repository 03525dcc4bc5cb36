//! `worker.tiers` out of all the ways in which Alluxio's users give tiers: the ramdisk's folder and size, and levels with
//! directories. Pure.
//!
//! Levels are a whole list, so that list or `worker.tiers` holds, whichever source is asked first. The ramdisk's folder
//! and size are parts of the MEM tier: they fill what the list leaves open, and change it where their source is asked
//! before the list's.

use std::{collections::BTreeMap, num::NonZeroUsize, path::PathBuf};

use super::{
    registry::TIERS,
    setting::Setting,
    sources::{Origin, Warning},
    value::Value,
    values::{Given, Values},
};
use crate::{ByteSize, Error, ErrorKind, Medium, Result, TierSpec, tier::Quota};

/// Where the MEM tier is unless told otherwise.
const DEFAULT_FOLDER: &str = "/dev/shm";
const TIERS_NAME: &str = "worker.tiers";
const FOLDER: &str = "worker.ram.folder";
const SIZE: &str = "worker.ramdisk.size";
const LEVELS: &str = "worker.tieredstore.levels";

/// A list of tiers and where it comes from.
struct List {
    tiers: Vec<TierSpec>,
    origins: Vec<Origin>,
    rank: u8,
}

/// Puts the list that holds in the place of `worker.tiers`.
///
/// # Errors
/// `Config` for levels that make no list.
pub(super) fn fill(values: &mut Values, warnings: &mut Vec<Warning>) -> Result<()> {
    let direct = values.get(TIERS_NAME).cloned();
    let levels = Levels::of(values)?;
    let has_parts = values.get(FOLDER).is_some() || values.get(SIZE).is_some();
    if levels.is_none() && !has_parts {
        return Ok(());
    }
    let mut list = choose(direct, levels, values, warnings)?;
    apply_parts(&mut list, values, warnings)?;
    let text: Vec<_> = list.tiers.iter().map(written).collect::<Result<_>>()?;
    let setting = super::registry::find(TIERS_NAME, super::registry::Dialect::Larder)
        .expect("worker.tiers is declared: a test looks for it")
        .setting;
    let given = Given { setting, text: text.join(","), origin: Origin::Together(list.origins) };
    values.0.insert(TIERS_NAME.to_owned(), given);
    Ok(())
}

/// The list before the parts are applied.
fn choose(direct: Option<Given>, levels: Option<Levels>, values: &Values, warnings: &mut Vec<Warning>) -> Result<List> {
    match (direct, levels) {
        (Some(direct), Some(levels)) if levels.rank() < direct.origin.rank() => {
            warnings.push(Warning(format!("{TIERS_NAME}: its levels are used; {} is not", direct.origin)));
            levels.list(values, warnings)
        }
        (Some(direct), levels) => {
            if levels.is_some() {
                warnings.push(Warning(format!("{TIERS_NAME}: {} is used; worker.tieredstore.* is not", direct.origin)));
            }
            let tiers = Vec::<TierSpec>::parse(&direct.text)?;
            Ok(List { tiers, rank: direct.origin.rank(), origins: vec![direct.origin] })
        }
        (None, Some(levels)) => levels.list(values, warnings),
        (None, None) => Ok(List { tiers: Vec::new(), rank: Origin::Default.rank(), origins: Vec::new() }),
    }
}

/// Changes the MEM tier of the list by the ramdisk's folder and size.
fn apply_parts(list: &mut List, values: &Values, warnings: &mut Vec<Warning>) -> Result<()> {
    let parts: Vec<&Given> = [FOLDER, SIZE].into_iter().filter_map(|name| values.get(name)).collect();
    for part in parts {
        let holds = part.origin.rank() < list.rank;
        let memory = memory_tier(list, holds);
        let Some(tier) = memory else { continue };
        let mut changed = tier.clone();
        match part.setting.name {
            FOLDER => changed.directory = PathBuf::parse(&part.text)?,
            _ => changed.quota = part.text.parse()?,
        }
        if holds {
            *tier = changed;
            list.origins.push(part.origin.clone());
        } else if *tier != changed && !list.origins.contains(&part.origin) {
            let text = format!(
                "{TIERS_NAME}: {} is used; {} says {}",
                Origin::Together(list.origins.clone()),
                part.origin,
                part.text
            );
            warnings.push(Warning(text));
        }
    }
    Ok(())
}

/// The first MEM tier; where there is none, a new one in front if it is asked for.
fn memory_tier(list: &mut List, make: bool) -> Option<&mut TierSpec> {
    let at = list.tiers.iter().position(|tier| tier.medium == Medium::Mem);
    if at.is_none() && make {
        let tier = TierSpec { medium: Medium::Mem, directory: DEFAULT_FOLDER.into(), quota: Quota::Auto };
        list.tiers.insert(0, tier);
        return list.tiers.first_mut();
    }
    list.tiers.get_mut(at?)
}

/// What was given of one level.
#[derive(Default)]
struct Level<'a> {
    alias: Option<&'a Given>,
    paths: Option<&'a Given>,
    quotas: Option<&'a Given>,
    media: Option<&'a Given>,
}

/// What was given of all levels.
struct Levels {
    count: Option<(usize, Origin)>,
    /// Level, property, value.
    given: BTreeMap<(usize, &'static str), Given>,
}

impl Levels {
    /// What was given, or `None` if nothing was.
    fn of(values: &Values) -> Result<Option<Self>> {
        let count = match values.get(LEVELS) {
            Some(given) => Some((NonZeroUsize::parse(&given.text)?.get(), given.origin.clone())),
            None => None,
        };
        let mut given = BTreeMap::new();
        for family in TIERS.iter().filter(|setting| setting.is_family()) {
            for (word, value) in values.family(family.name) {
                given.insert((number(word, family, &value.origin)?, family.name), value.clone());
            }
        }
        Ok((count.is_some() || !given.is_empty()).then_some(Self { count, given }))
    }

    fn origins(&self) -> Vec<Origin> {
        let counted = self.count.iter().map(|(_, origin)| origin.clone());
        counted.chain(self.given.values().map(|given| given.origin.clone())).collect()
    }

    fn rank(&self) -> u8 {
        Origin::Together(self.origins()).rank()
    }

    fn level(&self, number: usize) -> Level<'_> {
        let get = |property: &str| {
            let mut all =
                self.given.iter().filter(move |((level, name), _)| *level == number && name.ends_with(property));
            all.next().map(|(_, given)| given)
        };
        Level { alias: get(".alias"), paths: get(".dirs.path"), quotas: get(".dirs.quota"), media: get(".mediumtype") }
    }

    fn list(self, values: &Values, warnings: &mut Vec<Warning>) -> Result<List> {
        let beyond = self.given.keys().map(|(level, _)| level + 1).max().unwrap_or(1);
        let count = self.count.as_ref().map_or(beyond, |(count, _)| *count).min(9);
        if count < beyond {
            warnings.push(Warning(format!("{LEVELS}={count}: what is given for level {count} and above is not used")));
        }
        let mut list = List { tiers: Vec::new(), rank: self.rank(), origins: self.origins() };
        for number in 0..count {
            let level = self.level(number);
            if number == 0 {
                list.origins.extend(parts_used(&level, values));
            }
            list.tiers.extend(level.tiers(number, values)?);
        }
        Ok(list)
    }
}

/// The ramdisk's folder and size fill what level 0 leaves open.
fn parts_used(level: &Level<'_>, values: &Values) -> Vec<Origin> {
    let open = [(FOLDER, level.paths.is_none()), (SIZE, level.quotas.is_none())];
    let used = open.into_iter().filter(|(_, open)| *open).filter_map(|(name, _)| values.get(name));
    used.map(|given| given.origin.clone()).collect()
}

impl Level<'_> {
    fn tiers(&self, number: usize, values: &Values) -> Result<Vec<TierSpec>> {
        let text = |given: Option<&Given>| given.map(|given| given.text.clone());
        let part = |name: &str| if number == 0 { text(values.get(name)) } else { None };
        let paths = text(self.paths).or_else(|| part(FOLDER));
        let paths = match (paths, number) {
            (Some(paths), _) => Vec::<PathBuf>::parse(&paths)?,
            (None, 0) => vec![PathBuf::from(DEFAULT_FOLDER)],
            (None, _) => return Err(no_path(number)),
        };
        let quotas = Vec::<Quota>::parse(&text(self.quotas).or_else(|| part(SIZE)).unwrap_or_default())?;
        let media = Vec::<Medium>::parse(&text(self.media).or_else(|| text(self.alias)).unwrap_or_default())?;
        let usual = Medium::ALL[number.min(Medium::ALL.len() - 1)];
        let tier = |(at, directory)| TierSpec {
            medium: nth(&media, at).unwrap_or(usual),
            directory,
            quota: nth(&quotas, at).unwrap_or(Quota::Auto),
        };
        Ok(paths.into_iter().enumerate().map(tier).collect())
    }
}

fn no_path(number: usize) -> Error {
    Error::new(ErrorKind::Config, format!("level {number} of the tiers has no directory"))
        .advise(format!("give worker.tieredstore.level{number}.dirs.path, or all tiers as worker.tiers"))
}

/// The one at this place, else the last.
fn nth<T: Copy>(all: &[T], at: usize) -> Option<T> {
    all.get(at).or(all.last()).copied()
}

fn number(word: &str, family: &Setting, origin: &Origin) -> Result<usize> {
    word.parse::<usize>().ok().filter(|number| *number < 9).ok_or_else(|| {
        let message = format!("{origin}: {word:?} is not the number of a level");
        Error::new(ErrorKind::Config, message).advise(format!("write {}", family.name.replace('*', "0")))
    })
}

/// A tier as one writes it in `worker.tiers`.
fn written(tier: &TierSpec) -> Result<String> {
    let directory = tier.directory.to_string_lossy();
    if directory.contains(',') {
        let error = Error::new(ErrorKind::Config, "the directory of a tier cannot have a comma in its name");
        return Err(error.at(directory.as_bytes()));
    }
    Ok(format!("{}:{directory}:{}", tier.medium, quota(tier.quota)))
}

fn quota(quota: Quota) -> String {
    const UNITS: [(&str, u64); 4] = [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)];
    match quota {
        Quota::Auto => "auto".into(),
        Quota::Percent(percent) => format!("{percent}%"),
        Quota::Bytes(ByteSize(bytes)) => match UNITS.iter().find(|(_, unit)| bytes > 0 && bytes % unit == 0) {
            Some((name, unit)) => format!("{}{name}", bytes / unit),
            None => bytes.to_string(),
        },
    }
}
