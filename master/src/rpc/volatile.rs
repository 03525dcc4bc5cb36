//! What is to be put into the under store later, and lies only in memory that goes with its worker's container: it is
//! acknowledged when it is there, or when two workers have it. Whoever is not answered in time hears why; the file stays, and
//! is tried again.

use std::time::Duration;

use larder_common::{Error, ErrorKind, FileId, Generation, Result};
use larder_proto::v1;

use crate::master::Master;

/// The first pause between two looks, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];

/// Whether the end of one container would take all that these workers say they keep.
pub(super) fn is_volatile(receipts: &[v1::Receipt]) -> bool {
    let kept: Vec<_> = receipts.iter().filter(|receipt| receipt.cached).collect();
    let elsewhere = kept.first().is_some_and(|first| kept.iter().any(|other| other.worker != first.worker));
    !kept.is_empty() && !elsewhere && !kept.iter().any(|receipt| receipt.lasting)
}

/// Waits until a version does not wait for the under store any more.
///
/// # Errors
/// `Unavailable` where that takes too long, with the reason of the last attempt.
pub(super) async fn stored(master: &Master, file: FileId, generation: Generation) -> Result<()> {
    let (until, [mut pause, longest]) = (tokio::time::Instant::from_std(master.core.deadline()), PAUSES);
    while master.core.read().is_pending(generation) {
        if tokio::time::Instant::now() >= until {
            return Err(too_long(master, file));
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(longest);
    }
    Ok(())
}

fn too_long(master: &Master, file: FileId) -> Error {
    let reason = master.attempts.lock().reason(file).map(|reason| format!(" ({})", reason.message()));
    let message = format!(
        "the file is in memory that goes with its worker's container, and not in the under store yet{}",
        reason.unwrap_or_default()
    );
    Error::new(ErrorKind::Unavailable, message)
        .advise("it is tried again; see `larder fsadmin report persistence`, or give the worker a tier that lasts")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(worker: u8, cached: bool, lasting: bool) -> v1::Receipt {
        v1::Receipt { worker: vec![worker; 16].into(), cached, lasting, ..v1::Receipt::default() }
    }

    #[test]
    fn one_container_takes_what_has_no_second_copy_and_no_lasting_one() {
        assert!(is_volatile(&[receipt(1, true, false)]));
        assert!(is_volatile(&[receipt(1, true, false), receipt(2, false, false)]), "the second keeps nothing");
        assert!(!is_volatile(&[receipt(1, true, false), receipt(2, true, false)]));
        assert!(!is_volatile(&[receipt(1, true, true)]));
        assert!(!is_volatile(&[]), "nothing is kept by anybody");
    }
}
