//! By which of its addresses this host reaches another one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use larder_common::settings::HostPort;
use tokio::net::{UdpSocket, lookup_host};

/// The address that packets to there leave from, as the kernel's routes are now. Nothing is sent. `None` where the name or
/// a route is not known.
pub(crate) async fn source(to: &HostPort) -> Option<IpAddr> {
    for address in lookup_host((to.host.as_str(), to.port)).await.ok()? {
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let Ok(socket) = UdpSocket::bind((any, 0)).await else { continue };
        if socket.connect(address).await.is_ok()
            && let Ok(source) = socket.local_addr()
        {
            return Some(source.ip());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_host_is_reached_from_itself() {
        let to = |host: &str| HostPort { host: host.to_owned(), port: 1 };
        assert_eq!(source(&to("127.0.0.1")).await, Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(source(&to("no.such.host.invalid")).await, None);
    }
}
