//! What the worker counts: plain counters, exported by name in every beat and for `/metrics`.
//!
//! Names are a contract with operators; a counter only grows, a gauge says how it is now. Nothing here reads the store:
//! whoever exports adds what the store counts itself.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use larder_proto::v1;

/// A number that only grows, or (with [`Count::lower`]) says how many there are now.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds one.
    pub fn one(&self) {
        self.add(1);
    }

    /// Adds so much.
    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    /// Takes so much away again, of a gauge.
    pub fn lower(&self, number: u64) {
        self.0.fetch_sub(number, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! metrics {
    ($($(#[$doc:meta])* $field:ident = $name:literal;)*) => {
        /// Everything that is counted outside the store.
        #[derive(Debug, Default)]
        pub struct Metrics { $($(#[$doc])* pub $field: Count,)* }

        impl Metrics {
            /// All of them by name.
            #[must_use]
            pub fn snapshot(&self) -> BTreeMap<String, u64> {
                BTreeMap::from([$(($name.to_owned(), self.$field.get())),*])
            }
        }
    };
}

metrics! {
    /// Bytes sent to readers from cache files.
    stream_bytes = "larder_read_bytes_total{path=\"stream\"}";
    /// Bytes sent to readers straight from the under store or a peer, without being kept.
    unkept_bytes = "larder_read_bytes_total{path=\"ufs\"}";
    /// Leases given to co-located clients.
    leased = "larder_open_total{path=\"local\",reason=\"cached\"}";
    /// Streams for clients that can open no socket of this worker.
    streamed_no_socket = "larder_open_total{path=\"stream\",reason=\"no socket\"}";
    /// Streams for clients whose settings forbid short circuit.
    streamed_off = "larder_open_total{path=\"stream\",reason=\"switched off\"}";
    /// Streams for co-located clients that may open no more descriptors.
    streamed_descriptors = "larder_open_total{path=\"stream\",reason=\"no descriptors\"}";
    /// Streams for co-located clients that were given no lease, because they hold too many, or one of another worker.
    streamed_unleased = "larder_open_total{path=\"stream\",reason=\"not leased\"}";
    /// Streams for co-located clients of what cannot be kept: there is no room, or it is being edited.
    streamed_unkept = "larder_open_total{path=\"stream\",reason=\"not kept\"}";
    /// Leases that clients hold now.
    leases = "larder_leases";
    /// Short-circuit connections now.
    connections = "larder_short_circuit_connections";
    /// Connections of the data protocol now.
    data_connections = "larder_data_connections";
    /// Leases that clients were asked to give back.
    recalled = "larder_leases_recalled_total";
    /// Connections that were closed because their client did not take what it was sent.
    stuck_clients = "larder_short_circuit_stuck_total";
    /// Blocks fetched into the cache.
    fetched_blocks = "larder_fetched_blocks_total";
    /// Bytes fetched from under stores.
    under_bytes = "larder_fetched_bytes_total{from=\"ufs\"}";
    /// Bytes fetched from other workers.
    peer_bytes = "larder_fetched_bytes_total{from=\"peer\"}";
    /// Fetches that failed.
    fetch_failed = "larder_fetch_failed_total";
    /// Fetches whose object was not the one that the grant names.
    fetch_changed = "larder_fetch_changed_total";
    /// Readers that joined a fetch which another had begun.
    joined = "larder_fetch_joined_total";
    /// Reads that were streamed because there was no room.
    unkept_full = "larder_unkept_total{reason=\"full\"}";
    /// Reads that were streamed because the eviction policy would not keep them.
    unkept_policy = "larder_unkept_total{reason=\"policy\"}";
    /// Reads that were streamed because the reader asked not to keep them.
    unkept_asked = "larder_unkept_total{reason=\"asked\"}";
    /// Blocks fetched ahead of their readers.
    ahead_blocks = "larder_read_ahead_blocks_total";
    /// Blocks that read-ahead left alone, because the eviction policy would not keep them.
    ahead_refused = "larder_read_ahead_refused_total";
    /// Grants that were not signed by the master.
    grants_forged = "larder_grants_refused_total{reason=\"forged\"}";
    /// Grants whose key is not known (any more).
    grants_outdated = "larder_grants_refused_total{reason=\"outdated\"}";
    /// Greetings that were refused.
    greetings_refused = "larder_greetings_refused_total";
    /// Bytes written by clients.
    written_bytes = "larder_written_bytes_total";
    /// Files written by clients.
    written_files = "larder_written_files_total";
    /// Writes that were abandoned.
    abandoned_files = "larder_abandoned_files_total";
    /// Bytes uploaded to under stores.
    uploaded_bytes = "larder_uploaded_bytes_total";
    /// Bytes that are written and not yet in their temporary.
    persist_pending = "larder_persist_pending_bytes";
    /// Uploads that failed.
    upload_failed = "larder_upload_failed_total";
    /// Orders of the master that were carried out.
    orders_done = "larder_orders_total{result=\"done\"}";
    /// Orders of the master that failed.
    orders_failed = "larder_orders_total{result=\"failed\"}";
    /// Registrations at the master.
    registrations = "larder_registrations_total";
    /// Bytes that the slow scrub has compared.
    scrubbed_bytes = "larder_scrubbed_bytes_total";
    /// Blocks that the slow scrub found wrong.
    scrubbed_corrupt = "larder_scrubbed_corrupt_total";
}

impl Metrics {
    /// Counts a stream that was opened, by what its reader says of it.
    pub fn streamed(&self, why: v1::WhyStreamed) {
        match why {
            v1::WhyStreamed::Unspecified => {}
            v1::WhyStreamed::NoSocket => self.streamed_no_socket.one(),
            v1::WhyStreamed::SwitchedOff => self.streamed_off.one(),
            v1::WhyStreamed::NoDescriptors => self.streamed_descriptors.one(),
            v1::WhyStreamed::NotLeased => self.streamed_unleased.one(),
            v1::WhyStreamed::NotKept => self.streamed_unkept.one(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_exported_by_name() {
        let metrics = Metrics::default();
        metrics.under_bytes.add(7);
        metrics.leases.one();
        metrics.leases.lower(1);
        let all = metrics.snapshot();
        assert_eq!(all["larder_fetched_bytes_total{from=\"ufs\"}"], 7);
        assert_eq!(all["larder_leases"], 0);
    }
}
