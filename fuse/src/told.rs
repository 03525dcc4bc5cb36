//! What a mount says of itself: as extended attributes that are not stored and not listed, so that anybody on this host can ask
//! (`getfattr -n larder.served FILE`), and as counters for its endpoints.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    accounts::Reason,
    errno::{Answer, Errno},
    nodes::NodeId,
    server::Server,
};

/// What begins so is answered by the mount itself.
const OWN: &[u8] = b"larder.";
/// How reads of a file are served.
pub(crate) const SERVED: &[u8] = b"larder.served";
/// The cluster, and the directory of it that is mounted.
pub(crate) const MOUNT: &[u8] = b"larder.mount";

/// How reads of a file are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    /// The kernel reads it itself.
    Passthrough,
    /// Each read comes through the mount's process, for this reason.
    Direct(Reason),
    /// What was read once is in the page cache.
    PageCache,
    /// It is not open, and who opens it is served as it is then.
    Unopened,
}

impl Service {
    fn text(self) -> String {
        match self {
            Self::Passthrough => "passthrough".to_owned(),
            Self::Direct(why) => format!("direct: {}", why.as_str()),
            Self::PageCache => "page cache".to_owned(),
            Self::Unopened => "not open".to_owned(),
        }
    }
}

/// Looks at a mount from outside, also after its end.
#[derive(Clone)]
pub struct Watch(pub(crate) Arc<Server>);

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch {
    /// What the mount counts, by the names of its metrics.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let mut all = self.0.accounts.counters();
        let mut gauge = |name: &str, value: usize| all.insert(name.to_owned(), value as u64);
        gauge("larder_fuse_nodes", self.0.table.lock().len());
        gauge("larder_fuse_handles", self.0.handles.len());
        gauge("larder_fuse_backing_ids", self.0.backings.len());
        all
    }
}

impl Server {
    /// `GETXATTR` of what is answered here; `None` for what is an attribute of the file.
    pub(crate) fn told(&self, node: NodeId, name: &[u8]) -> Option<Answer<Vec<u8>>> {
        if !name.starts_with(OWN) {
            return None;
        }
        Some(match name {
            SERVED => self.service(node).map(|service| service.text().into_bytes()),
            MOUNT => Ok(self.place()),
            _ => Err(Errno(libc::ENODATA)),
        })
    }

    fn service(&self, node: NodeId) -> Answer<Service> {
        if self.view.is_unchanging() {
            return Ok(Service::PageCache);
        }
        if let Some(opened) = self.opened(node) {
            return Ok(match (opened.is_passed_through(), opened.work().is_some()) {
                (true, _) => Service::Passthrough,
                (false, true) => Service::Direct(Reason::BeingWritten),
                (false, false) => Service::Direct(opened.why().unwrap_or(Reason::NotWhole)),
            });
        }
        let version = self.version(node)?;
        Ok(match self.without_passthrough() {
            Some(why) => Service::Direct(why),
            None if self.backings.has(version) => Service::Passthrough,
            None => Service::Unopened,
        })
    }

    fn place(&self) -> Vec<u8> {
        let cluster = self.nodes.cluster().map(|cluster| cluster.to_string()).unwrap_or_default();
        [cluster.as_bytes(), b" ", self.path.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_told_with_their_reason() {
        assert_eq!(Service::Passthrough.text(), "passthrough");
        assert_eq!(Service::Direct(Reason::OpenedBefore).text(), "direct: opened before whole");
        assert_eq!(Service::PageCache.text(), "page cache");
    }
}
