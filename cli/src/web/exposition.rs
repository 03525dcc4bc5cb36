//! Counters as Prometheus reads them. Pure: names with their labels and values in, text out.
//!
//! A name is `family` or `family{label="value",…}`, as the parts of the system call their counters; the names of section
//! 10 of the design are a contract with operators. A family that ends in `_total` only grows; every other one is a gauge.

use std::{collections::BTreeMap, fmt::Write};

/// Samples by family, in the order of their names.
#[derive(Debug, Default)]
pub(crate) struct Exposition(BTreeMap<String, BTreeMap<String, u64>>);

impl Exposition {
    /// Takes a sample; of two with one name the later holds.
    pub(crate) fn add(&mut self, name: &str, value: u64) {
        let family = name.split('{').next().unwrap_or(name);
        self.0.entry(family.to_owned()).or_default().insert(name.to_owned(), value);
    }

    /// The text format of Prometheus, version 0.0.4.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (family, samples) in &self.0 {
            let kind = if family.ends_with("_total") { "counter" } else { "gauge" };
            // Writing into a string cannot fail.
            let _ = writeln!(text, "# TYPE {family} {kind}");
            for (name, value) in samples {
                let _ = writeln!(text, "{name} {value}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_named_once_above_its_samples() {
        let mut all = Exposition::default();
        all.add("larder_read_bytes_total{path=\"ufs\"}", 7);
        all.add("larder_leases", 1);
        all.add("larder_read_bytes_total{path=\"stream\"}", 2);
        all.add("larder_leases", 3);
        let expected = "# TYPE larder_leases gauge\nlarder_leases 3\n# TYPE larder_read_bytes_total counter\n\
                        larder_read_bytes_total{path=\"stream\"} 2\nlarder_read_bytes_total{path=\"ufs\"} 7\n";
        assert_eq!(all.text(), expected);
    }
}
