//! Writing what an edit has changed into the object of the under store in place, by order of the master, which has recorded
//! that it was about to.
//!
//! Done once: an order that comes again finds another object than the one that it names. Whatever fails here, the master takes
//! the file for changed, and replaces it next.

use std::{ops::Range, sync::Arc};

use larder_common::{Error, ErrorKind, Result};
use larder_proto::v1;
use larder_ufs::{ObjectPath, Patch};

use crate::{
    services::{Services, patiently},
    store::FileKey,
};

impl Services {
    /// Carries an order to patch out.
    pub(crate) async fn patch(self: &Arc<Self>, order: v1::OrderPatch) -> Result<v1::OrderDone> {
        let granted = self.grant(&order.grant)?;
        let grant = &granted.grant;
        let ranges = ranges(&order)?;
        let nothing = || Error::new(ErrorKind::Invalid, "an order to patch an object that nobody has described");
        let expected = grant.fingerprint.as_ref().ok_or_else(nothing)?;
        let key = FileKey { file: grant.file, generation: grant.generation };
        let source = self.store.edited_source(key)?.filter(|source| source.key == key);
        let absent = || Error::new(ErrorKind::NotFound, format!("no edit of {key} is at this worker"));
        let source = source.ok_or_else(absent)?;
        let block = grant.block_size.bytes();
        let touches = |range: &Range<u64>, index: u64| index * block < range.end && range.start < (index + 1) * block;
        if source.missing.iter().any(|index| ranges.iter().any(|range| touches(range, u64::from(index.0)))) {
            self.writings.edit(source.lease).ok_or_else(absent)?.lock().await.complete().await?;
        }
        let object = ObjectPath::new(&grant.object)?;
        let store = self.mounts.get(grant.mount).await?.store().await?;
        let bytes = ranges.iter().map(|range| range.end - range.start).sum();
        let patch = Patch { source: Arc::new(source.file), ranges, length: order.length, sync: order.sync };
        let _busy = self.writings.upload();
        let patched = store.patch(&object, expected, patch);
        // The store has a deadline of its own; all that is known of a patch on its way is that it has begun.
        let fingerprint = patiently(self.config.patience.saturating_mul(4), "a patch", || 0, patched).await;
        let fingerprint = fingerprint.inspect_err(|_| self.metrics.upload_failed.one())?;
        self.metrics.uploaded_bytes.add(bytes);
        Ok(v1::OrderDone { bytes, fingerprint: Some((&fingerprint).into()), ..v1::OrderDone::default() })
    }
}

/// The ranges of an order, rising and within the file.
fn ranges(order: &v1::OrderPatch) -> Result<Vec<Range<u64>>> {
    let mut at = 0;
    let range = |range: &v1::ByteRange| {
        let end = range.offset.checked_add(range.length).filter(|end| *end <= order.length && range.offset >= at);
        let wrong = || Error::new(ErrorKind::Invalid, "the ranges of a patch are not in order, or not within the file");
        at = end.ok_or_else(wrong)?;
        Ok(range.offset..at)
    };
    order.ranges.iter().map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_out_of_order_or_beyond_the_end_are_refused() {
        let order = |ranges: &[(u64, u64)]| v1::OrderPatch {
            ranges: ranges.iter().map(|(offset, length)| v1::ByteRange { offset: *offset, length: *length }).collect(),
            length: 10,
            ..v1::OrderPatch::default()
        };
        assert_eq!(ranges(&order(&[(0, 2), (2, 3), (9, 1)])).unwrap(), [0..2, 2..5, 9..10]);
        for wrong in [&[(2, 3), (4, 1)][..], &[(9, 2)], &[(u64::MAX, 2)]] {
            assert_eq!(ranges(&order(wrong)).unwrap_err().kind(), ErrorKind::Invalid, "{wrong:?}");
        }
    }
}
