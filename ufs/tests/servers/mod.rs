//! Real servers for tests, on loopback, in this process: S3 over a bucket in memory, WebDAV over a directory, with faults to order: answers
//! that are slow, refused, cut off in the middle or of another version.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "helpers of tests, which do not use all of them")]

mod bucket;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

pub use bucket::Bucket;
use bytes::Bytes;
use dav_server::{DavHandler, fakels::FakeLs, localfs::LocalFs};
use hyper::{Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use larder_common::settings::Secret;
use larder_ufs::Credentials;
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// The key that the S3 server takes.
pub const KEY: &str = "AKIATESTTESTTESTTEST";
/// And its secret, which must never show.
pub const SECRET: &str = "hunter2hunter2hunter2";

/// What goes wrong from now on.
#[derive(Debug, Default)]
pub struct Faults {
    slow: AtomicU64,
    refusals: AtomicI64,
    cut: AtomicI64,
    etags: AtomicI64,
    /// Requests that arrived.
    pub requests: AtomicU64,
}

impl Faults {
    /// Each answer comes so much later.
    pub fn slow(&self, by: Duration) {
        self.slow.store(by.as_millis() as u64, Ordering::SeqCst);
    }

    /// The next so many requests are answered 503.
    pub fn refuse(&self, requests: i64) {
        self.refusals.store(requests, Ordering::SeqCst);
    }

    /// The connection that brings this byte of answers is cut there, once.
    pub fn cut_after(&self, bytes: i64) {
        self.cut.store(bytes.max(1), Ordering::SeqCst);
    }

    /// The next so many answers name another version.
    pub fn wrong_etags(&self, answers: i64) {
        self.etags.store(answers, Ordering::SeqCst);
    }

    fn is_next(counter: &AtomicI64) -> bool {
        counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| (left > 0).then(|| left - 1)).is_ok()
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: String,
    /// What to order.
    pub faults: Arc<Faults>,
}

/// Serves S3 over a bucket.
pub async fn s3(bucket: Bucket) -> Server {
    let service = {
        let mut builder = S3ServiceBuilder::new(bucket);
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        builder.build()
    };
    serve(move |request: Request<Incoming>| {
        let service = service.clone();
        async move {
            let answer = hyper::service::Service::call(&service, request).await;
            answer
                .map(|answer| answer.map(s3s::Body::from))
                .map_err(|error| std::io::Error::other(format!("{error:?}")))
        }
    })
    .await
}

/// Serves WebDAV over a directory.
pub async fn webdav(root: &Path) -> Server {
    let handler = DavHandler::builder()
        .filesystem(LocalFs::new(root, false, false, false))
        .locksystem(FakeLs::new())
        .build_handler();
    serve(move |request: Request<Incoming>| {
        let handler = handler.clone();
        async move { Ok(handler.handle(request).await) }
    })
    .await
}

async fn serve<F, R, B>(handle: F) -> Server
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = std::io::Result<Response<B>>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let faults = Arc::new(Faults::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let behind = listener.local_addr().unwrap();
    let ordered = Arc::clone(&faults);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (handle, faults) = (handle.clone(), Arc::clone(&ordered));
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(handle.clone(), Arc::clone(&faults), request));
                let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    Server { address: proxy(behind, Arc::clone(&faults)).await, faults }
}

/// Either the server's answer, or a fault's.
type Answer<B> = Response<http_body_util::Either<B, http_body_util::Empty<Bytes>>>;

async fn answer<F, R, B>(handle: F, faults: Arc<Faults>, request: Request<Incoming>) -> std::io::Result<Answer<B>>
where
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = std::io::Result<Response<B>>>,
{
    faults.requests.fetch_add(1, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(faults.slow.load(Ordering::SeqCst))).await;
    if Faults::is_next(&faults.refusals) {
        let mut refused = Response::new(http_body_util::Either::Right(http_body_util::Empty::new()));
        *refused.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(refused);
    }
    let mut answer = handle(request).await?.map(http_body_util::Either::Left);
    if answer.headers().contains_key(header::ETAG) && Faults::is_next(&faults.etags) {
        answer.headers_mut().insert(header::ETAG, header::HeaderValue::from_static("\"another-version\""));
    }
    Ok(answer)
}

/// Passes bytes on, and cuts connections.
async fn proxy(behind: std::net::SocketAddr, faults: Arc<Faults>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let faults = Arc::clone(&faults);
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(behind).await else { return };
                let (mut from_client, to_client) = client.into_split();
                let (from_server, mut to_server) = server.into_split();
                tokio::select! {
                    _ = async {
                        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
                        std::future::pending::<Infallible>().await
                    } => {}
                    () = pass(from_server, to_client, &faults) => {}
                }
            });
        }
    });
    address
}

async fn pass(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, faults: &Faults) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let left = faults.cut.load(Ordering::SeqCst);
        if left > 0 {
            let after = (left - count as i64).max(0);
            faults.cut.store(after, Ordering::SeqCst);
            if after == 0 {
                let _ = to.write_all(&buffer[..count / 2]).await;
                return;
            }
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// What a mount of the S3 server is given.
pub fn s3_options(server: &Server) -> BTreeMap<String, String> {
    let pairs = [
        ("endpoint", format!("http://{}", server.address)),
        ("region", "us-east-1".into()),
        ("credential", "test".into()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The credential of the S3 server, named `test`.
pub fn credentials() -> Credentials {
    let values = [("access_key_id", KEY), ("secret_access_key", SECRET)];
    let values = values.into_iter().map(|(key, value)| (key.to_owned(), Secret::new(value))).collect();
    BTreeMap::from([("test".to_owned(), values)]).into()
}
