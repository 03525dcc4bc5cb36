//! The only dialler: every connection from one part of Larder to another is opened here, tuned and with its greeting.
//!
//! A [`Channel`] is either a connection over the network, which is opened when first used and again when it broke
//! (names are resolved anew each time), or a direct call of a service in the same process (`larder local`). Both attach
//! the greeting that [`Channel::greet`] was given last. Deadlines are the caller's: `tokio::time::timeout` around a
//! call, or the request's own timeout.

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use larder_common::{Error, ErrorKind, Result};
use tonic::{body::Body, codegen::http, metadata::MetadataMap, service::Routes, transport::Endpoint};
use tower::{
    Service,
    layer::util::{Identity, Stack},
};

use crate::{
    Greeting,
    timed::{self, Timed},
};

/// The longest message that is taken, apart from streams of frames; in bytes.
pub const MESSAGE_MAX: usize = 64 << 20;
/// Flow-control window of one stream, in bytes: what may be under way before the receiver has said that it took it.
pub const STREAM_WINDOW: u32 = 16 << 20;
/// Flow-control window of a connection, in bytes.
pub const CONNECTION_WINDOW: u32 = 64 << 20;
/// The largest HTTP/2 frame, in bytes.
pub const FRAME_MAX: u32 = 1 << 20;
/// Time to open a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that is silent for so long is asked whether it lives, and cut when it does not answer in as long.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A way to a server. Cheap to clone; all clones share the connection and the greeting.
#[derive(Clone)]
pub struct Channel {
    to: To,
    greeting: Arc<ArcSwapOption<http::HeaderValue>>,
}

#[derive(Clone)]
enum To {
    Network(tonic::transport::Channel),
    Here(Routes),
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.to {
            To::Network(_) => "Channel(network)",
            To::Here(_) => "Channel(same process)",
        })
    }
}

impl Channel {
    /// A connection to `host:port`, opened when first used.
    ///
    /// # Errors
    /// `Config` if these cannot be an address.
    pub fn to(host: &str, port: u16) -> Result<Self> {
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
        let endpoint = Endpoint::from_shared(format!("http://{host}:{port}")).map_err(|e| {
            Error::new(ErrorKind::Config, format!("{host}:{port} is not an address: {e}"))
                .advise("give a host name or an IP address, and a port")
        })?;
        Ok(Self::over(To::Network(tune(endpoint).connect_lazy())))
    }

    /// Direct calls of services in this process.
    #[must_use]
    pub fn here(services: Routes) -> Self {
        Self::over(To::Here(services))
    }

    fn over(to: To) -> Self {
        Self { to, greeting: Arc::default() }
    }

    /// Sends this greeting with every request from now on, on all clones.
    pub fn greet(&self, greeting: &Greeting) {
        let mut metadata = MetadataMap::new();
        Greeting::attach(&greeting.to_metadata(), &mut metadata);
        let value = metadata.into_headers().remove(HEADER);
        self.greeting.store(value.map(Arc::new));
    }
}

const HEADER: &str = "larder-greeting-bin";

fn tune(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_MAX)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
}

/// The same tuning for a server, whose answers are timed.
#[must_use]
pub fn server() -> tonic::transport::Server<Stack<Timed, Identity>> {
    tonic::transport::Server::builder()
        .layer(Timed)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.to {
            To::Network(channel) => channel.poll_ready(context).map_err(Into::into),
            To::Here(routes) => Service::<http::Request<Body>>::poll_ready(routes, context).map_err(never),
        }
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some(greeting) = &*self.greeting.load() {
            request.headers_mut().insert(HEADER, http::HeaderValue::clone(greeting));
        }
        match &mut self.to {
            To::Network(channel) => {
                let reply = channel.call(request);
                Box::pin(async { reply.await.map_err(Into::into) })
            }
            To::Here(routes) => {
                let name = timed::name(request.uri().path()).to_owned();
                let reply = timed::timed(name, routes.call(request));
                Box::pin(async { reply.await.map_err(never) })
            }
        }
    }
}

fn never(error: Infallible) -> BoxError {
    match error {}
}

#[cfg(test)]
mod tests {
    use larder_common::{Caller, Locality, SessionId};
    use tonic::{Request, Response, Status};

    use super::*;
    use crate::{
        from_status,
        greeting::Token,
        v1::{self, blocks_client::BlocksClient, blocks_server},
    };

    struct Echo;

    type Frames<T> = tokio_stream_stub::Empty<T>;

    mod tokio_stream_stub {
        //! A stream that has ended.
        use std::{
            marker::PhantomData,
            pin::Pin,
            task::{Context, Poll},
        };
        pub(super) struct Empty<T>(PhantomData<fn() -> T>);
        impl<T> tonic::codegen::tokio_stream::Stream for Empty<T> {
            type Item = T;
            fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<T>> {
                Poll::Ready(None)
            }
        }
    }

    #[tonic::async_trait]
    impl blocks_server::Blocks for Echo {
        type ReadStream = Frames<Result<v1::ReadFrame, Status>>;
        type EditStream = Frames<Result<v1::EditReply, Status>>;
        type LoadStream = Frames<Result<v1::LoadReply, Status>>;

        async fn read(&self, _: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
            Err(Status::internal("not asked"))
        }
        async fn write(
            &self,
            _: Request<tonic::Streaming<v1::WriteFrame>>,
        ) -> Result<Response<v1::WriteReply>, Status> {
            Err(Status::internal("not asked"))
        }
        async fn edit(
            &self,
            _: Request<tonic::Streaming<v1::EditRequest>>,
        ) -> Result<Response<Self::EditStream>, Status> {
            Err(Status::internal("not asked"))
        }
        async fn load(&self, _: Request<v1::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
            Err(Status::internal("not asked"))
        }
        async fn touch(&self, _: Request<v1::Touches>) -> Result<Response<v1::Empty>, Status> {
            Err(Status::internal("not asked"))
        }
        async fn get_info(&self, request: Request<v1::Empty>) -> Result<Response<v1::WorkerInfo>, Status> {
            let greeting = Greeting::from_metadata(request.metadata()).map_err(|e| crate::into_status(&e))?;
            Ok(Response::new(v1::WorkerInfo { version: greeting.caller.name, ..Default::default() }))
        }
    }

    fn greeting() -> Greeting {
        Greeting {
            cluster: None,
            caller: Caller { uid: 1, gids: vec![1], name: "ann".into() },
            token: Token::default(),
            session: SessionId(0),
            hostname: String::new(),
            locality: Locality::default(),
        }
    }

    #[tokio::test]
    async fn a_service_in_the_same_process_is_called_with_the_greeting() {
        let channel = Channel::here(Routes::new(blocks_server::BlocksServer::new(Echo)));
        let mut client = BlocksClient::new(channel.clone());
        assert!(client.get_info(v1::Empty {}).await.is_err(), "no greeting yet");
        channel.greet(&greeting());
        assert_eq!(client.get_info(v1::Empty {}).await.unwrap().into_inner().version, "ann");
    }

    #[tokio::test]
    async fn a_server_over_the_network_sees_it_too() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tokio::spawn(server().add_service(blocks_server::BlocksServer::new(Echo)).serve_with_incoming(incoming));
        let channel = Channel::to("127.0.0.1", port).unwrap();
        channel.greet(&greeting());
        assert_eq!(BlocksClient::new(channel).get_info(v1::Empty {}).await.unwrap().into_inner().version, "ann");
    }

    #[tokio::test]
    async fn nobody_there_is_unavailable_and_says_why() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let status =
            BlocksClient::new(Channel::to("127.0.0.1", port).unwrap()).get_info(v1::Empty {}).await.unwrap_err();
        let error = from_status(&status);
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().contains("refused"), "{error}");
    }
}
