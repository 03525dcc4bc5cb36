//! What is logged, as `log.filter` says it. Checked here, because the machinery behind it takes a misspelt level for the
//! name of a part, and then logs nothing without a word.

use std::str::FromStr;

use super::value::words;
use crate::{Error, ErrorKind, Result, settings::Value};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Levels of logging: one for all, or one for each part; `info,larder_worker=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The text, with blanks removed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LogFilter {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<_> = words(text).collect();
        for part in &parts {
            let (target, level) = part.rsplit_once('=').map_or(("all", *part), |(target, level)| (target, level));
            let names_a_part = !target.is_empty() && !target.contains(char::is_whitespace);
            if !names_a_part || !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
                let error = Error::new(ErrorKind::Invalid, format!("{part:?} is not a level or PART=LEVEL"));
                return Err(
                    error.advise(format!("the levels are {}; write info,larder_worker=debug", LEVELS.join(", ")))
                );
            }
        }
        Ok(Self(parts.join(",")))
    }
}

impl Value for LogFilter {
    const KIND: &'static str = "levels";
    fn parse(text: &str) -> Result<Self> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_no_part() {
        assert_eq!(LogFilter::parse("INFO, larder_worker=debug").unwrap().as_str(), "INFO,larder_worker=debug");
        for bad in ["inof", "larder_worker=loud", "=info", "a b=info"] {
            assert!(LogFilter::parse(bad).is_err(), "{bad}");
        }
    }
}
