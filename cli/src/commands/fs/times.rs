//! Times as commands print and take them: Alluxio's `MM-dd-yyyy HH:mm:ss:SSS` in the local zone, RFC 3339 for programs,
//! and spans as `setTtl` and `find` take them. Pure but for [`Zone::Local`], which asks the system's time zone.

use std::time::Duration;

use larder_common::{Error, ErrorKind, Result, Timestamp};

const DAY: i64 = 86_400;

/// Where the clock on the wall is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    /// Greenwich.
    Utc,
    /// Where this process is.
    Local,
}

/// A time as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Civil {
    /// `civil_from_days` of Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms".
    fn of(seconds: i64) -> Self {
        let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let of_era = shifted.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month,
            day: of_year - (153 * march_month + 2) / 5 + 1,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }

    fn in_zone(seconds: i64, zone: Zone) -> Self {
        Self::of(match zone {
            Zone::Utc => seconds,
            Zone::Local => seconds.saturating_add(local_offset(seconds)),
        })
    }
}

/// How far the local zone is ahead of Greenwich at a time, in seconds; 0 where the system does not know.
fn local_offset(seconds: i64) -> i64 {
    // SAFETY: all of `tm` may be zero: numbers, and a pointer that may be null.
    let mut broken_down: libc::tm = unsafe { std::mem::zeroed() };
    let seconds: libc::time_t = seconds;
    // SAFETY: both pointers are to locals that outlive the call; `localtime_r` keeps neither.
    let done = unsafe { libc::localtime_r(&raw const seconds, &raw mut broken_down) };
    if done.is_null() { 0 } else { broken_down.tm_gmtoff }
}

/// `11-21-2024 10:35:04:123`, as Alluxio's `ls`.
pub(crate) fn listed(time: Timestamp, zone: Zone) -> String {
    let Civil { year, month, day, hour, minute, second } = Civil::in_zone(time.seconds(), zone);
    let millis = time.nanos() / 1_000_000;
    format!("{month:02}-{day:02}-{year:04} {hour:02}:{minute:02}:{second:02}:{millis:03}")
}

/// `2024-11-21 10:35:04`, as `stat -f %y`.
pub(crate) fn plain(time: Timestamp, zone: Zone) -> String {
    let Civil { year, month, day, hour, minute, second } = Civil::in_zone(time.seconds(), zone);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// `2024-11-21T10:35:04.123456789Z`, for programs.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    let Civil { year, month, day, hour, minute, second } = Civil::of(time.seconds());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", time.nanos())
}

/// A time to live as Alluxio takes it: a bare number is milliseconds; else as `30s`, `12h`, `7days`.
///
/// # Errors
/// `Invalid` for what is neither, or zero.
pub(crate) fn time_to_live(text: &str) -> Result<Duration> {
    let wrong = || {
        Error::new(ErrorKind::Invalid, format!("{text:?} is not a time to live"))
            .advise("give milliseconds, or a time as 30s, 12h or 7d")
    };
    let span = match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse().map(Duration::from_millis).map_err(|_| wrong())?,
        false => humantime::parse_duration(text).map_err(|_| wrong())?,
    };
    if span.is_zero() { Err(wrong()) } else { Ok(span) }
}

/// A span for people: `45s`, `12m 5s`, `3h 20m`, `2d 4h`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 if span.is_zero() => "0s".into(),
        0 => format!("{}ms", span.as_millis().max(1)),
        1..60 => format!("{seconds}s"),
        60..3600 => pair(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => pair(seconds / 3600, "h", seconds / 60 % 60, "m"),
        _ => pair(seconds / 86_400, "d", seconds / 3600 % 24, "h"),
    }
}

fn pair(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit} {small}{small_unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        let time = Timestamp::new(1_732_185_304, 123_456_789);
        assert_eq!(rfc3339(time), "2024-11-21T10:35:04.123456789Z");
        assert_eq!(listed(time, Zone::Utc), "11-21-2024 10:35:04:123");
        assert_eq!(plain(time, Zone::Utc), "2024-11-21 10:35:04");
        assert_eq!(rfc3339(Timestamp(0)), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(Timestamp::new(951_782_400, 0)), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(rfc3339(Timestamp(-1)), "1969-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn the_system_agrees_about_every_day_of_four_centuries() {
        for day in (-73_000..73_000).step_by(97) {
            let seconds = day * DAY + 12_345;
            let ours = plain(Timestamp::new(seconds, 0), Zone::Utc);
            if let Ok(since) = u64::try_from(seconds) {
                let theirs = std::time::UNIX_EPOCH + Duration::from_secs(since);
                let theirs = humantime::format_rfc3339_seconds(theirs).to_string();
                assert_eq!(ours, theirs.replace('T', " ").replace('Z', ""));
            }
        }
    }

    #[test]
    fn the_local_zone_is_at_most_a_day_away() {
        assert!(local_offset(1_732_185_304).abs() < DAY);
        assert_eq!(listed(Timestamp(0), Zone::Local).len(), "11-21-2024 10:35:04:123".len());
    }

    #[test]
    fn times_to_live() {
        assert_eq!(time_to_live("1500").unwrap(), Duration::from_millis(1500));
        assert_eq!(time_to_live("12h").unwrap(), Duration::from_secs(43_200));
        assert_eq!(time_to_live("7d").unwrap(), Duration::from_secs(7 * 86_400));
        for bad in ["", "0", "-1", "soon", "99999999999999999999999"] {
            assert!(time_to_live(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (seconds, text) in
            [(0, "0s"), (45, "45s"), (725, "12m 5s"), (3600, "1h"), (12_000, "3h 20m"), (187_200, "2d 4h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
        assert_eq!(span(Duration::from_micros(20)), "1ms");
    }
}
