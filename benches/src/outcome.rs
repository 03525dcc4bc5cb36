//! What a bench found: one line of the table, one object of `--json`. Pure.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::statistics::{Latencies, Spread};

/// What was asked of a bench.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Asked {
    /// Measured ÷ baseline is at least this.
    Ratio(f64),
    /// The value is at most this.
    AtMost(f64),
    /// Reported for comparison only.
    Nothing,
}

/// What a value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// 10^9 bytes a second.
    Gigabytes,
    /// Files a second.
    Files,
    /// Operations a second.
    Operations,
    /// Bytes of memory a file.
    BytesPerFile,
    /// Nothing: it is a ratio.
    Times,
    /// 2^20 bytes of memory.
    Mebibytes,
    /// Bytes moved for each that was asked for.
    BytesPerByte,
}

impl Unit {
    /// As it is printed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Unit::Gigabytes => "GB/s",
            Unit::Files => "files/s",
            Unit::Operations => "ops/s",
            Unit::BytesPerFile => "B/file",
            Unit::Times => "x",
            Unit::Mebibytes => "MiB",
            Unit::BytesPerByte => "B/B",
        }
    }
}

/// Rates of rounds that were taken in turn. `measured[i]` and `baseline[i]` are a pair.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Rates of the measured side.
    pub measured: Vec<f64>,
    /// Rates of each baseline.
    pub baselines: Vec<Vec<f64>>,
    /// Single operations of the measured side, of all rounds.
    pub latencies: Latencies,
}

/// One line of results.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The bench, with `/` and the variant where there are several.
    pub name: String,
    /// Median of the measured rounds.
    pub value: f64,
    /// What `value` and `baseline` count.
    pub unit: Unit,
    /// Median of the baseline's rounds.
    pub baseline: Option<f64>,
    /// Measured ÷ baseline over the pairs.
    pub ratio: Option<Spread>,
    /// Median latency of a single operation in microseconds.
    pub p50_us: Option<f64>,
    /// What 99 % of the operations did not exceed, in microseconds.
    pub p99_us: Option<f64>,
    /// What was asked.
    pub asked: Asked,
    /// How many pairs.
    pub pairs: usize,
}

impl Outcome {
    /// The outcome of a series against its baseline number `baseline`.
    #[must_use]
    pub fn of(name: impl Into<String>, unit: Unit, asked: Asked, series: &Series, baseline: usize) -> Self {
        let baseline = series.baselines.get(baseline).map(Vec::as_slice).unwrap_or_default();
        let median = |values: &[f64]| Spread::of(values).map(|spread| spread.median);
        let latencies = series.latencies.clone().percentiles([0.5, 0.99]);
        Self {
            name: name.into(),
            value: median(&series.measured).unwrap_or(0.0),
            unit,
            baseline: median(baseline),
            ratio: Spread::of_ratios(&series.measured, baseline),
            p50_us: latencies.map(|[p50, _]| p50),
            p99_us: latencies.map(|[_, p99]| p99),
            asked,
            pairs: series.measured.len(),
        }
    }

    /// A single value without a baseline.
    #[must_use]
    pub fn single(name: impl Into<String>, unit: Unit, asked: Asked, value: f64) -> Self {
        let none = Series::default();
        Self { value, pairs: 1, ..Self::of(name, unit, asked, &none, 0) }
    }

    /// Whether what was asked was reached; `None` where nothing was.
    #[must_use]
    pub fn is_met(&self) -> Option<bool> {
        match self.asked {
            Asked::Nothing => None,
            Asked::AtMost(limit) => Some(self.value <= limit),
            Asked::Ratio(least) => Some(self.ratio.is_some_and(|ratio| ratio.median >= least)),
        }
    }

    /// The object that programs read.
    #[must_use]
    pub fn line(&self, cores: usize, quick: bool) -> Line<'_> {
        Line {
            name: &self.name,
            value: rounded(self.value),
            unit: self.unit.as_str(),
            baseline: self.baseline.map(rounded),
            ratio: self.ratio.map(|ratio| rounded(ratio.median)),
            ratio_min: self.ratio.map(|ratio| rounded(ratio.min)),
            ratio_max: self.ratio.map(|ratio| rounded(ratio.max)),
            p50_us: self.p50_us.map(rounded),
            p99_us: self.p99_us.map(rounded),
            asked: match self.asked {
                Asked::Ratio(value) | Asked::AtMost(value) => Some(value),
                Asked::Nothing => None,
            },
            met: self.is_met(),
            pairs: self.pairs,
            cores,
            quick,
        }
    }
}

/// An outcome for programs. The names are a contract.
#[derive(Clone, Debug, Serialize)]
pub struct Line<'a> {
    name: &'a str,
    value: f64,
    unit: &'a str,
    baseline: Option<f64>,
    ratio: Option<f64>,
    ratio_min: Option<f64>,
    ratio_max: Option<f64>,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    asked: Option<f64>,
    met: Option<bool>,
    pairs: usize,
    cores: usize,
    quick: bool,
}

/// Four digits are more than a measurement has.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// A number as people read it: three digits, thousands parted.
fn shown(value: f64) -> String {
    match value {
        v if v >= 1000.0 => thousands(v.round() as u64),
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// `1234567` as `1,234,567`.
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A table without lines, whose numbers stand right.
pub(crate) fn plain_table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head);
    for column in table.column_iter_mut() {
        column.set_cell_alignment(if column.index == 0 { CellAlignment::Left } else { CellAlignment::Right });
    }
    table
}

/// The outcomes as people read them.
#[must_use]
pub fn table(outcomes: &[Outcome]) -> String {
    let mut table =
        plain_table(&["bench", "measured", "baseline", "ratio", "min to max", "asked", "met", "p50 µs", "p99 µs"]);
    for outcome in outcomes {
        table.add_row(row(outcome));
    }
    table.trim_fmt()
}

fn row(outcome: &Outcome) -> [String; 9] {
    let unit = outcome.unit.as_str();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let asked = match outcome.asked {
        Asked::Ratio(least) => format!("≥ {least}"),
        Asked::AtMost(limit) => format!("≤ {limit} {unit}"),
        Asked::Nothing => "-".into(),
    };
    let met = outcome.is_met().map(|met| if met { "yes" } else { "no" }.to_owned());
    [
        outcome.name.clone(),
        format!("{} {unit}", shown(outcome.value)),
        or_dash(outcome.baseline.map(|value| format!("{} {unit}", shown(value)))),
        or_dash(outcome.ratio.map(|ratio| format!("{:.2}", ratio.median))),
        or_dash(outcome.ratio.map(|ratio| format!("{:.2} to {:.2}", ratio.min, ratio.max))),
        asked,
        or_dash(met),
        or_dash(outcome.p50_us.map(shown)),
        or_dash(outcome.p99_us.map(shown)),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn series() -> Series {
        let mut latencies = Latencies::default();
        latencies.add(Duration::from_micros(250));
        Series {
            measured: vec![5.0, 6.0, 7.0],
            baselines: vec![vec![5.0, 5.0, 5.0], vec![10.0, 12.0, 14.0]],
            latencies,
        }
    }

    #[test]
    fn an_outcome_is_medians_and_the_median_of_ratios() {
        let outcome = Outcome::of("a/b", Unit::Gigabytes, Asked::Ratio(1.2), &series(), 0);
        assert_eq!((outcome.value, outcome.baseline), (6.0, Some(5.0)));
        assert_eq!(outcome.ratio.unwrap().median, 1.2);
        assert_eq!(outcome.is_met(), Some(true));
        assert_eq!(outcome.p50_us, Some(250.0));
        let other = Outcome::of("a/c", Unit::Gigabytes, Asked::Ratio(0.95), &series(), 1);
        assert_eq!(other.is_met(), Some(false));
        assert_eq!(Outcome::single("m", Unit::BytesPerFile, Asked::AtMost(200.0), 180.0).is_met(), Some(true));
        assert_eq!(Outcome::single("m", Unit::BytesPerFile, Asked::Nothing, 180.0).is_met(), None);
    }

    #[test]
    fn an_unmeasured_ratio_is_not_met() {
        assert_eq!(Outcome::of("x", Unit::Files, Asked::Ratio(1.0), &Series::default(), 0).is_met(), Some(false));
    }

    #[test]
    fn programs_get_stable_names() {
        let outcome = Outcome::of("a/b", Unit::Files, Asked::Ratio(0.8), &series(), 0);
        let json = serde_json::to_value(outcome.line(4, false)).unwrap();
        let names: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        for name in ["name", "value", "unit", "baseline", "ratio", "p50_us", "p99_us", "asked", "pairs", "cores"] {
            assert!(names.iter().any(|n| n == name), "{name} is missing");
        }
        assert_eq!(json["ratio"], 1.2);
        assert_eq!(json["unit"], "files/s");
        let single = Outcome::single("m", Unit::BytesPerFile, Asked::AtMost(200.0), 0.0);
        assert!(serde_json::to_value(single.line(1, true)).unwrap()["ratio"].is_null());
    }

    #[test]
    fn people_get_a_line_for_each() {
        let outcomes = [
            Outcome::of("read", Unit::Gigabytes, Asked::Ratio(0.95), &series(), 0),
            Outcome::single("memory", Unit::BytesPerFile, Asked::AtMost(200.0), 1234.0),
        ];
        let text = table(&outcomes);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        for part in ["read", "6.00 GB/s", "1.20", "1.00 to 1.40", "≥ 0.95", "yes", "250"] {
            assert!(lines[1].contains(part), "{part} is not in {}", lines[1]);
        }
        for part in ["1,234 B/file", "≤ 200 B/file", "no"] {
            assert!(lines[2].contains(part), "{part} is not in {}", lines[2]);
        }
    }

    #[test]
    fn numbers_have_four_digits_at_most() {
        assert_eq!(rounded(123_456.0), 123_500.0);
        assert_eq!(rounded(0.000_123_456), 0.000_123_5);
        assert_eq!(rounded(f64::INFINITY), 0.0);
        assert_eq!(
            (thousands(0), thousands(999), thousands(1_000_000)),
            ("0".into(), "999".into(), "1,000,000".into())
        );
    }
}
