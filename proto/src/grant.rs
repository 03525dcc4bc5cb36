//! Grants: what a worker may serve to whoever shows one, signed by the master with HMAC-SHA256 (RFC 2104).
//!
//! A worker never sees a path of the namespace and a client never holds a credential of an under store: the grant names
//! file, generation, rights, and the object that may be fetched. It has no time in it: it is good while the worker
//! holds its key. A grant whose key is unknown is answered [`ErrorKind::Regrant`], a forged one [`ErrorKind::Denied`].

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use larder_common::{
    BlockSize, Error, ErrorKind, FileId, Fingerprint, Generation, GroupPolicy, LeaseId, MountId, Result, WriteType,
};
use prost::Message;
use sha2::Sha256;

use crate::{convert, v1};

/// A key that the master signs with and hands to its workers.
#[derive(Clone, PartialEq, Eq)]
pub struct GrantKey {
    /// Its number; new ones are greater.
    pub id: u64,
    /// 256 random bits.
    pub secret: [u8; 32],
}

impl std::fmt::Debug for GrantKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GrantKey({}, ***)", self.id)
    }
}

/// What may be done with one generation of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The file.
    pub file: FileId,
    /// The version of its content.
    pub generation: Generation,
    /// Length in bytes; 0 for a write grant without a base.
    pub length: u64,
    /// The size of its blocks.
    pub block_size: BlockSize,
    /// The mount that it belongs to.
    pub mount: MountId,
    /// The object in the under store, relative to the mount's root.
    pub object: Bytes,
    /// What the object looked like; `None` if the content is not in the under store.
    pub fingerprint: Option<Fingerprint>,
    /// The directory whose eviction policy counts.
    pub group: FileId,
    /// What was fixed for that directory.
    pub policy: GroupPolicy,
    /// Where the content is that is over but open: its name among the under store's orphans. Empty for all other.
    pub orphan: Bytes,
    /// Whether the content is in the under store, so that its blocks may be dropped.
    pub persisted: bool,
    /// Whether its blocks stay in the cache.
    pub pinned: bool,
    /// The right to write, or `None` for the right to read.
    pub write: Option<WriteRight>,
}

/// The right to write one new generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRight {
    /// Under this write lease.
    pub lease: LeaseId,
    /// Where the bytes have to be before the write is reported.
    pub write_type: WriteType,
    /// The temporary in the under store that takes them; empty where none is made.
    pub temporary: Bytes,
    /// Whether the temporary is synced before that.
    pub sync: bool,
    /// Of an edit: the committed generation that the content begins as, which the grant's other fields describe.
    pub base: Option<Base>,
}

/// What an edit begins as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// The committed generation.
    pub generation: Generation,
    /// Its bytes that the content begins with: all, or none.
    pub length: u64,
}

impl Grant {
    /// The grant, signed, as it travels.
    #[must_use]
    pub fn sign(&self, key: &GrantKey) -> Bytes {
        let body = Bytes::from(v1::GrantBody::from(self).encode_to_vec());
        let signature = mac(key, &body).finalize().into_bytes().to_vec();
        v1::Grant { key: key.id, body, signature: signature.into() }.encode_to_vec().into()
    }

    /// Checks a grant against the keys that are valid now, found by their number.
    ///
    /// # Errors
    /// `Regrant` if its key is not known (any more), `Denied` if it was not signed with it, `Invalid` if it is no grant.
    pub fn verify(bytes: &[u8], key: impl FnOnce(u64) -> Option<GrantKey>) -> Result<Self> {
        let malformed = |e: prost::DecodeError| Error::new(ErrorKind::Invalid, format!("not a grant: {e}"));
        let grant = v1::Grant::decode(bytes).map_err(malformed)?;
        let key = key(grant.key).ok_or_else(|| {
            Error::new(ErrorKind::Regrant, format!("grant key {} is not known (any more)", grant.key))
        })?;
        mac(&key, &grant.body)
            .verify_slice(&grant.signature)
            .map_err(|_| Error::new(ErrorKind::Denied, "the grant was not signed by this cluster's master"))?;
        v1::GrantBody::decode(grant.body).map_err(malformed)?.try_into()
    }

    /// What a grant says, unchecked: for its holder, who cannot check it.
    ///
    /// # Errors
    /// `Invalid` if it is no grant.
    pub fn peek(bytes: &[u8]) -> Result<Self> {
        let malformed = |e: prost::DecodeError| Error::new(ErrorKind::Invalid, format!("not a grant: {e}"));
        let grant = v1::Grant::decode(bytes).map_err(malformed)?;
        v1::GrantBody::decode(grant.body).map_err(malformed)?.try_into()
    }
}

fn mac(key: &GrantKey, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&key.secret).expect("HMAC takes keys of any length");
    mac.update(&key.id.to_be_bytes());
    mac.update(body);
    mac
}

impl From<&Grant> for v1::GrantBody {
    fn from(grant: &Grant) -> Self {
        Self {
            file: grant.file.0,
            generation: grant.generation.0,
            length: grant.length,
            block_size: grant.block_size.bytes(),
            mount: grant.mount.0,
            object: grant.object.clone(),
            fingerprint: grant.fingerprint.as_ref().map(Into::into),
            group: grant.group.0,
            policy: grant.policy.number(),
            orphan: grant.orphan.clone(),
            persisted: grant.persisted,
            pinned: grant.pinned,
            write: grant.write.as_ref().map(|right| v1::GrantWrite {
                lease: right.lease.0,
                write_type: v1::WriteType::from(right.write_type).into(),
                temporary: right.temporary.clone(),
                sync: right.sync,
                base: right.base.map_or(0, |base| base.generation.0),
                base_length: right.base.map_or(0, |base| base.length),
            }),
        }
    }
}

impl TryFrom<v1::GrantBody> for Grant {
    type Error = Error;

    fn try_from(body: v1::GrantBody) -> Result<Self> {
        let right = |write: v1::GrantWrite| {
            Ok::<_, Error>(WriteRight {
                lease: LeaseId(write.lease),
                write_type: convert::write_type(write.write_type)?,
                temporary: write.temporary,
                sync: write.sync,
                base: (write.base != 0)
                    .then_some(Base { generation: Generation(write.base), length: write.base_length }),
            })
        };
        Ok(Self {
            file: FileId(body.file),
            generation: Generation(body.generation),
            length: body.length,
            block_size: BlockSize::new(body.block_size)?,
            mount: MountId(body.mount),
            object: body.object,
            fingerprint: body.fingerprint.map(Into::into),
            group: FileId(body.group),
            policy: GroupPolicy::from_number(body.policy),
            orphan: body.orphan,
            persisted: body.persisted,
            pinned: body.pinned,
            write: body.write.map(right).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grant() -> Grant {
        Grant {
            file: FileId(5),
            generation: Generation(6),
            length: 100,
            block_size: BlockSize::DEFAULT,
            mount: MountId::ROOT,
            object: Bytes::from_static(b"a/\xff"),
            fingerprint: Some(Fingerprint { inode: 1, size: 100, ..Fingerprint::default() }),
            group: FileId(2),
            policy: GroupPolicy::Uniform,
            orphan: Bytes::from_static(b"o"),
            persisted: true,
            pinned: false,
            write: Some(WriteRight {
                lease: LeaseId(9),
                write_type: WriteType::Through,
                temporary: Bytes::from_static(b"t"),
                sync: true,
                base: Some(Base { generation: Generation(4), length: 100 }),
            }),
        }
    }

    fn key(id: u64, fill: u8) -> GrantKey {
        GrantKey { id, secret: [fill; 32] }
    }

    #[test]
    fn a_signed_grant_is_honoured() {
        let signed = grant().sign(&key(3, 1));
        assert_eq!(Grant::verify(&signed, |id| (id == 3).then(|| key(3, 1))).unwrap(), grant());
        assert_eq!(Grant::peek(&signed).unwrap(), grant());
    }

    #[test]
    fn forged_and_outdated_grants_are_told_apart() {
        let signed = grant().sign(&key(3, 1));
        assert_eq!(Grant::verify(&signed, |_| Some(key(3, 2))).unwrap_err().kind(), ErrorKind::Denied);
        assert_eq!(Grant::verify(&signed, |_| Some(key(4, 1))).unwrap_err().kind(), ErrorKind::Denied);
        assert_eq!(Grant::verify(&signed, |_| None).unwrap_err().kind(), ErrorKind::Regrant);
    }

    proptest! {
        #[test]
        fn no_change_of_a_grant_is_honoured(at in 0usize..400, flip in 1u8..) {
            let mut signed = grant().sign(&key(3, 1)).to_vec();
            let at = at % signed.len();
            signed[at] ^= flip;
            if let Ok(found) = Grant::verify(&signed, |id| (id == 3).then(|| key(3, 1))) {
                prop_assert_eq!(found, grant());
            }
        }
    }
}
