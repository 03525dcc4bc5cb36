//! Where a worker is reached that announces no name: at the address from which the master sees it, or at its own.
//!
//! The two differ where addresses are translated on the way, as a container engine does between networks (and, with a
//! rule that an earlier network left over, within one). Seen is then the translator, where as a rule nobody serves. So
//! whoever listens at the worker's own address is asked for its id first; only the worker itself can give the right one, and
//! two hosts may well have the same private address. Where that leads nowhere, the address that is seen counts: the
//! worker's port may be published there.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use larder_common::{Result, WorkerId};
use larder_proto::{Channel, Greeting, convert::WorkerAddress, v1, v1::blocks_client::BlocksClient};

/// So long a worker may take to say who it is. It listens before it registers.
const PATIENCE: Duration = Duration::from_secs(2);

/// The host of a worker that is seen as `peer` and that calls itself `own`.
pub(super) async fn host(
    own: Option<IpAddr>,
    peer: Option<SocketAddr>,
    worker: &WorkerAddress,
    greeting: Greeting,
) -> String {
    let seen = peer.map(|peer| peer.ip().to_canonical());
    let Some(own) = own.filter(|own| Some(*own) != seen && is_of_use(*own)) else {
        return seen.map_or_else(|| "localhost".to_owned(), |seen| seen.to_string());
    };
    let asked = tokio::time::timeout(PATIENCE, ask(own, worker.port, greeting)).await;
    match (asked, seen) {
        (Ok(Ok(id)), _) if id == worker.id => {
            tracing::info!(worker = %worker.id, %own, ?seen, "addresses are translated on the way from a worker");
            own.to_string()
        }
        (_, Some(seen)) => {
            tracing::info!(worker = %worker.id, %own, %seen, "a worker is not reached at its own address");
            seen.to_string()
        }
        (_, None) => own.to_string(),
    }
}

/// A worker on this host may see the master at loopback and be seen there; another one is never reached so.
fn is_of_use(own: IpAddr) -> bool {
    !own.is_unspecified() && !own.is_loopback() && !own.is_multicast()
}

async fn ask(host: IpAddr, port: u16, greeting: Greeting) -> Result<WorkerId> {
    let channel = Channel::to(&host.to_string(), port)?;
    channel.greet(&greeting);
    let info = BlocksClient::new(channel).get_info(v1::Empty {}).await;
    let info = info.map_err(|status| larder_proto::from_status(&status))?.into_inner();
    WorkerId::try_from(&info.address.unwrap_or_default().id[..])
}

#[cfg(test)]
mod tests {
    use larder_common::{Incarnation, Locality};
    use larder_proto::greeting::Token;

    use super::*;

    fn worker(port: u16) -> WorkerAddress {
        WorkerAddress {
            id: WorkerId([7; 16]),
            incarnation: Incarnation(1),
            host: String::new(),
            port,
            sockets: Vec::new(),
            locality: Locality::default(),
            features: 0,
        }
    }

    async fn found(own: &str, peer: &str) -> String {
        let greeting = Greeting::of_server("m", Token::default());
        let (own, peer) = (own.parse().ok(), format!("{peer}:4711").parse().ok());
        // Port 1: nobody answers there.
        host(own, peer, &worker(1), greeting).await
    }

    #[tokio::test]
    async fn what_is_seen_counts_unless_the_worker_itself_answers_elsewhere() {
        assert_eq!(found("10.1.2.3", "10.1.2.3").await, "10.1.2.3", "nothing is translated");
        assert_eq!(found("10.1.2.3", "[::ffff:10.1.2.3]").await, "10.1.2.3", "the same in two families");
        assert_eq!(found("127.0.0.1", "10.1.2.3").await, "10.1.2.3");
        assert_eq!(found("0.0.0.0", "10.1.2.3").await, "10.1.2.3");
        assert_eq!(found("none", "127.0.0.1").await, "127.0.0.1", "an older worker does not say");
    }
}
