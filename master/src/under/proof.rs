//! Whether a worker sees the same directory as the master under the same name.
//!
//! Where the store can be written, the master plants a file with a random name and random bytes, which nobody can guess
//! and no older copy of the directory has; else it takes a sample of the root: inode, size and time of change of its
//! first entries. The worker is sent either, looks, and answers; one that does not see the same is never chosen to fetch
//! or persist there.

use std::{sync::Arc, time::Instant};

use larder_common::{Error, ErrorKind, Name, Result};
use larder_proto::v1;
use larder_ufs::SampleEntry;

use super::{mount::LiveMount, mounts};

/// How many entries a sample has at most.
pub const SAMPLE: usize = 64;

/// What a worker is to find in a mount.
#[derive(Debug)]
pub struct Proof {
    mount: Arc<LiveMount>,
    what: What,
}

#[derive(Debug)]
enum What {
    Planted { name: Name, content: Vec<u8> },
    Sample(Vec<SampleEntry>),
}

/// What comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It sees the same.
    Proven,
    /// It sees something else; the text says what differs.
    Refuted(String),
    /// It is not known, and must be asked again.
    Unknown(Error),
}

impl Proof {
    /// Plants or samples.
    ///
    /// # Errors
    /// The store's; at once when the mount is in trouble.
    pub async fn prepare(mount: &Arc<LiveMount>, deadline: Instant) -> Result<Self> {
        let store = mount.store()?;
        let what = if mount.row().read_only || !store.capabilities().writable {
            What::Sample(mount.call(deadline, store.sample(SAMPLE)).await?)
        } else {
            let (name, content) = (Name::new(hex(&random::<16>()?))?, random::<32>()?.to_vec());
            match mount.call(deadline, store.plant_proof(&name, &content)).await {
                Ok(()) => What::Planted { name, content },
                Err(error) if matches!(error.kind(), ErrorKind::ReadOnly | ErrorKind::Denied | ErrorKind::NoSpace) => {
                    What::Sample(mount.call(deadline, store.sample(SAMPLE)).await?)
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Self { mount: Arc::clone(mount), what })
    }

    /// What the worker is asked.
    #[must_use]
    pub fn order(&self) -> v1::OrderProve {
        let mut order = v1::OrderProve { mount: Some(mounts::info(&self.mount)), ..v1::OrderProve::default() };
        match &self.what {
            What::Planted { name, content } => {
                order.name = name.as_bytes().to_vec().into();
                order.content = content.clone().into();
            }
            What::Sample(sample) => order.sample = sample.iter().map(entry).collect(),
        }
        order
    }

    /// What the worker's answer to the order means.
    #[must_use]
    pub fn verdict(&self, answer: &Result<v1::OrderDone>) -> Verdict {
        let error = match answer {
            Ok(_) => return Verdict::Proven,
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::Deadline | ErrorKind::Unavailable | ErrorKind::Busy => Verdict::Unknown(error.clone()),
            _ => Verdict::Refuted(format!(
                "{error}; give the worker the same directory: mount the volume of {} at that path",
                self.mount.row().uri
            )),
        }
    }

    /// Takes what was planted away again. What a master that dies in between leaves stays behind, and proves nothing: its
    /// name is never asked for again.
    pub async fn clean(&self, deadline: Instant) {
        let What::Planted { name, .. } = &self.what else { return };
        let Ok(store) = self.mount.store() else { return };
        if let Err(error) = self.mount.call(deadline, store.remove_proof(name)).await {
            tracing::debug!(mount = %self.mount.row().path, %error, "a proof stays in the under store");
        }
    }
}

fn entry(sample: &SampleEntry) -> v1::ProofEntry {
    v1::ProofEntry {
        name: sample.name.as_bytes().to_vec().into(),
        inode: sample.inode,
        size: sample.size,
        modified: sample.modified.0,
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Error::new(ErrorKind::Unavailable, format!("no random numbers: {e}")))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
