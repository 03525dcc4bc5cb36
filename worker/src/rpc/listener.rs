//! The worker's one port: whoever speaks the data protocol is served here, everybody else is passed to the gRPC server.

use std::{sync::Arc, time::Duration};

use larder_common::{Error, ErrorKind, Result};
use larder_proto::data::{Connection, Kind, door};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{data, frames::Blocks};
use crate::services::Services;

/// How long somebody who has connected may say nothing.
const FIRST_BYTE: Duration = Duration::from_secs(10);
/// Connections of the data protocol at once; whoever comes then is told to take gRPC.
const CONNECTIONS_MAX: usize = 1024;
/// Connections that wait for the gRPC server to take them.
const WAITING: usize = 64;
/// Between two tries when this process may open no more descriptors.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a refusal may take.
const REFUSAL: Duration = Duration::from_secs(1);

type ToGrpc = mpsc::Sender<std::io::Result<TcpStream>>;

/// Serves both until `stop`, and then what is under way.
///
/// # Errors
/// What ended the gRPC server.
pub(crate) async fn serve(services: Arc<Services>, listener: TcpListener, stop: CancellationToken) -> Result<()> {
    let (to_grpc, incoming) = mpsc::channel(WAITING);
    let server = larder_proto::dial::server().add_service(Blocks::new(services.clone()));
    let grpc = server.serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.clone().cancelled_owned());
    let ((), served) = tokio::join!(accept(services, listener, to_grpc, stop), grpc);
    served.map_err(|error| Error::new(ErrorKind::Unavailable, format!("the RPC server ended: {error}")))
}

/// Takes whoever comes. Dropped, it cuts all connections of the data protocol.
async fn accept(services: Arc<Services>, listener: TcpListener, to_grpc: ToGrpc, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut visitors = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = visitors.join_next() => continue,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let visit = visit(services.clone(), stream, to_grpc.clone(), room.clone(), stop.clone());
                visitors.spawn(visit);
            }
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop((listener, to_grpc));
    while visitors.join_next().await.is_some() {}
}

async fn visit(
    services: Arc<Services>,
    stream: TcpStream,
    to_grpc: ToGrpc,
    room: Arc<Semaphore>,
    stop: CancellationToken,
) {
    // Whoever cannot have it has a slower connection.
    let _ = stream.set_nodelay(true);
    let recognized = tokio::select! {
        recognized = door::recognize(stream, FIRST_BYTE) => recognized,
        () = stop.cancelled() => return,
    };
    match recognized {
        None => {}
        Some(door::Visitor::Other(stream)) => {
            // A server that has stopped takes nobody.
            let _ = to_grpc.send(Ok(stream)).await;
        }
        Some(door::Visitor::Data(connection)) => match room.try_acquire_owned() {
            Ok(_permit) => data::serve(services, connection, stop).await,
            Err(_) => refuse(connection).await,
        },
    }
}

async fn refuse(mut connection: Connection) {
    let full = Error::new(ErrorKind::Busy, format!("this worker has {CONNECTIONS_MAX} data connections"));
    // Who does not hear it finds the connection closed.
    let _ = connection.receive(REFUSAL).await;
    let _ = connection.send(Kind::Failure, &larder_proto::v1::Failure::from(full), REFUSAL).await;
}
