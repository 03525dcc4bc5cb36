//! The meter of servers: the histogram `larder_ufs_seconds{op,mount}`, recorded wherever the process records its metrics
//! (nowhere, if it does not).

use std::{sync::OnceLock, time::Duration};

use larder_common::ErrorKind;
use metrics::Histogram;

use crate::{Operation, measured::Meter};

/// The histogram's name, a contract with operators.
pub const UFS_SECONDS: &str = "larder_ufs_seconds";

/// Records for one mount. An operation that was never made has no row.
#[derive(Debug)]
pub struct Seconds {
    mount: String,
    operations: Vec<OnceLock<Histogram>>,
}

impl Seconds {
    /// For the mount at this path.
    #[must_use]
    pub fn of(mount: impl Into<String>) -> Self {
        Self { mount: mount.into(), operations: Operation::ALL.iter().map(|_| OnceLock::new()).collect() }
    }
}

impl Meter for Seconds {
    fn ended(&self, operation: Operation, elapsed: Duration, _failed: Option<ErrorKind>) {
        let Some(histogram) = self.operations.get(operation as usize) else { return };
        let register = || metrics::histogram!(UFS_SECONDS, "op" => operation.as_str(), "mount" => self.mount.clone());
        histogram.get_or_init(register).record(elapsed);
    }

    fn moved(&self, _operation: Operation, _bytes: u64) {}
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn what_was_made_has_a_row() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let meter = Seconds::of("/data");
            meter.ended(Operation::Fetch, Duration::from_millis(2), None);
            meter.ended(Operation::Fetch, Duration::from_millis(2), Some(ErrorKind::NotFound));
            meter.ended(Operation::Watch, Duration::from_millis(2), None);
        });
        let text = handle.render();
        for (operation, count) in [("fetch", 2), ("watch", 1)] {
            let row = format!("larder_ufs_seconds_count{{op=\"{operation}\",mount=\"/data\"}} {count}");
            assert!(text.contains(&row), "{text}");
        }
        assert!(!text.contains("\"rename\""), "{text}");
    }
}
