//! The registry of benches. A new one is a file in `suite` with a constant [`Bench`], and one line in [`ALL`].

use larder_common::{Error, ErrorKind, Result};

use crate::{
    cluster::Announcements,
    lab::Lab,
    machine,
    outcome::{Asked, Outcome, Series},
    rounds::{Side, interleave},
    suite,
};

/// One bench.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    /// What it is called.
    pub name: &'static str,
    /// What is measured.
    pub measures: &'static str,
    /// What it is compared with, in the same run.
    pub baseline: &'static str,
    /// What is asked of it.
    pub asked: Asked,
    /// Whether only root can run it.
    pub needs_root: bool,
    /// Whether it says something about an existing cluster, too.
    pub on_existing: bool,
    /// Runs it.
    pub run: fn(&Lab<'_>, &Bench) -> Result<Vec<Outcome>>,
}

/// Every bench, in the order of the table.
pub const ALL: &[Bench] = &[
    suite::read_warm::BENCH,
    suite::read_warm_huge::BENCH,
    suite::view_warm::BENCH,
    suite::random_4k::BENCH,
    suite::small_warm::BENCH,
    suite::small_cold::BENCH,
    suite::remote::BENCH,
    suite::create::BENCH,
    suite::stat::BENCH,
    suite::write_through::BENCH,
    suite::master_memory::BENCH,
    suite::ufs_load::SMALL,
    suite::ufs_load::LARGE,
    suite::ufs_list::BENCH,
    suite::ufs_async::BENCH,
    suite::ufs_epoch::BENCH,
    suite::fuse::read::READ,
    suite::fuse::read::RANDOM,
    suite::fuse::read::MMAP,
    suite::fuse::small::DATASET,
    suite::fuse::small::GENERAL,
    suite::fuse::small::COLD,
    suite::fuse::write::WRITE,
    suite::fuse::names::STAT,
    suite::fuse::names::LIST,
    suite::fuse::names::CREATE,
    suite::fuse::read::HUGE,
    suite::fuse::read::FALL_BACK,
    suite::fuse::small::MEMORY,
];

/// How wide the listing is, in columns.
const WIDTH: u16 = 120;

/// The benches that are named; `all` names every one.
///
/// # Errors
/// `Invalid` for a name that is none, with those that there are.
pub fn select(names: &[String]) -> Result<Vec<&'static Bench>> {
    if names.iter().any(|name| name == "all") {
        return Ok(ALL.iter().collect());
    }
    names.iter().map(|name| find(name)).collect()
}

fn find(name: &str) -> Result<&'static Bench> {
    ALL.iter().find(|bench| bench.name == name).ok_or_else(|| {
        let names: Vec<_> = ALL.iter().map(|bench| bench.name).collect();
        Error::new(ErrorKind::Invalid, format!("{name:?} is not a bench"))
            .advise(format!("use all, or one of {}", names.join(", ")))
    })
}

impl Bench {
    /// Why it cannot be run here; `None` if it can.
    #[must_use]
    pub fn obstacle(&self, lab: &Lab<'_>) -> Option<Error> {
        if self.needs_root && !machine::is_root() {
            let error = Error::new(ErrorKind::Denied, format!("{} needs root", self.name));
            return Some(error.advise(format!("run sudo larder bench {}", self.name)));
        }
        if lab.options().existing.is_some() && !self.on_existing {
            let error = Error::new(ErrorKind::Invalid, format!("{} needs a cluster of its own", self.name));
            return Some(error.advise("leave --master away"));
        }
        None
    }

    /// Runs it.
    ///
    /// # Errors
    /// What stands in its way, or went wrong; `Busy` when a signal came.
    pub fn run(&self, lab: &Lab<'_>) -> Result<Vec<Outcome>> {
        match self.obstacle(lab) {
            Some(error) => Err(error),
            None => {
                let (_inside, _announcements) = (lab.enter(), Announcements::remember());
                (self.run)(lab, self)
            }
        }
    }

    /// Takes as many pairs of rounds as are wanted.
    pub(crate) fn compare(&self, lab: &Lab<'_>, measured: Side<'_>, baselines: &mut [Side<'_>]) -> Result<Series> {
        let pairs = lab.options().pairs;
        interleave(pairs, measured, baselines, &mut |pair| {
            match pair {
                0 => lab.progress(&format!("{}: warming up", self.name)),
                _ => lab.progress(&format!("{}: pair {pair} of {pairs}", self.name)),
            }
            lab.check()
        })
    }
}

/// The benches with what they measure and what is asked, as people read them.
#[must_use]
pub fn listing() -> String {
    let mut table = crate::outcome::plain_table(&["bench", "measures", "against", "asked"]);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic).set_width(WIDTH);
    for column in table.column_iter_mut() {
        column.set_cell_alignment(comfy_table::CellAlignment::Left);
    }
    for bench in ALL {
        let asked = match bench.asked {
            Asked::Ratio(least) => format!("≥ {least}"),
            Asked::AtMost(limit) => format!("≤ {limit}"),
            Asked::Nothing => "-".into(),
        };
        table.add_row([bench.name, bench.measures, bench.baseline, &asked]);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_say_what_is_asked() {
        let names: HashSet<_> = ALL.iter().map(|bench| bench.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.iter().all(|bench| bench.asked != Asked::Nothing));
        let listing = listing();
        assert!(ALL.iter().all(|bench| listing.contains(bench.name)), "{listing}");
        assert!(listing.contains("≥ 0.95") && listing.contains("≤ 200"));
    }

    #[test]
    fn benches_are_chosen_by_name() {
        let named = |names: &[&str]| select(&names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(named(&["all"]).unwrap().len(), ALL.len());
        let two: Vec<_> = named(&["stat", "create"]).unwrap().iter().map(|bench| bench.name).collect();
        assert_eq!(two, ["stat", "create"]);
        let error = named(&["stats"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.advice().unwrap().contains("read-warm-huge"));
    }
}
