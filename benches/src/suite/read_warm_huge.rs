//! `read-warm-huge`: the same where the worker keeps its memory tier on huge pages, against an ordinary tmpfs.

use larder_common::Result;

use super::{large_file::LargeFile, read_warm};
use crate::{
    bench::Bench,
    cluster::Pages,
    lab::Lab,
    outcome::{Asked, Outcome},
};

pub(crate) const BENCH: Bench = Bench {
    name: "read-warm-huge",
    measures: "the same with the worker's own huge-page tier (root)",
    baseline: "pread on a file of an ordinary tmpfs",
    asked: Asked::Ratio(2.0),
    needs_root: true,
    on_existing: false,
    run,
};

fn run(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let large = LargeFile::prepare(lab, Pages::Huge)?;
    read_warm::threads(lab, bench, &large)
}
