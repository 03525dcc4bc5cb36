//! What the store is told when it opens: settings as data, components as arguments.

use std::{fmt, sync::Arc, time::Duration};

use larder_common::{ByteSize, ClusterId, Medium, TierSpec, WorkerId, clock::Clock};

use crate::eviction::{EvictionPolicy, Watermarks};

/// The settings of a block store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The cluster whose content it keeps.
    pub cluster: ClusterId,
    /// The worker; `None` takes the id found in the directories, else draws one.
    pub worker: Option<WorkerId>,
    /// The directories, in any order. Those of one medium are one tier.
    pub tiers: Vec<TierSpec>,
    /// How much stays free.
    pub watermarks: Watermarks,
    /// The share of a tier that content which is nowhere else may take, in percent (80).
    pub unpersisted_ceiling: u8,
    /// Whether MEM tiers get a tmpfs of their own with huge pages.
    pub huge_pages: HugePages,
    /// Whether MEM tiers outlive the process; `None` finds out, and says no when in doubt.
    pub lasting: Option<bool>,
    /// How long a file that was being written when the last process ended waits for its holder (one session lease).
    pub resume_within: Duration,
    /// How long one call may look for victims before it answers that there is no room.
    pub inline_eviction: Duration,
}

impl StoreConfig {
    /// The defaults for a cluster and its directories.
    #[must_use]
    pub fn new(cluster: ClusterId, tiers: Vec<TierSpec>) -> Self {
        Self {
            cluster,
            worker: None,
            tiers,
            watermarks: Watermarks::default(),
            unpersisted_ceiling: 80,
            huge_pages: HugePages::Off,
            lasting: None,
            resume_within: Duration::from_secs(10),
            inline_eviction: Duration::from_millis(5),
        }
    }
}

/// Whether a MEM tier is put on its own tmpfs with `huge=within_size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// Use the directory as it is.
    Off,
    /// Mount one where the worker may, else say why not and use the directory as it is.
    Auto,
}

/// Makes the policy of a tier; the size is the level that reclaim leaves alone.
pub type PolicyFactory = dyn Fn(Medium, ByteSize) -> Box<dyn EvictionPolicy> + Send + Sync;

/// What the store calls: its policies, its clock, and who wants to know that something changed.
#[derive(Clone)]
pub struct Listeners {
    /// Makes one policy for each tier.
    pub policies: Arc<PolicyFactory>,
    /// Monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Called without any lock, from any thread, after something was put into the change feed. Must not block.
    pub changed: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listeners").field("clock", &self.clock).finish_non_exhaustive()
    }
}
