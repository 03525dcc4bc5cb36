//! `Blocks.Read` on the wire, written by hand: gRPC as generated copies every message into a buffer of its own; here the
//! bytes of a frame go from the mapping of the cache file to the socket as they are.
//!
//! A message of gRPC is five bytes (not compressed, length) and the message, which for a `ReadFrame` is its small fields
//! followed by the tag and length of `data` and the bytes themselves. The order of fields is free in protobuf, so `data`
//! comes last, as a body frame of its own. Everything else (request, trailers) is as generated, and all other methods go
//! to the generated service.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_core::Stream;
use http_body::Frame as BodyFrame;
use larder_common::{Error, ErrorKind, Result};
use larder_proto::{dial::MESSAGE_MAX, from_status, into_status, v1};
use prost::encoding::{WireType, encode_key, encode_varint};
use tonic::{
    Status, Streaming,
    body::Body,
    codec::{DecodeBuf, Decoder},
    codegen::http::{self, HeaderMap, HeaderValue},
    metadata::MetadataMap,
    server::NamedService,
};
use tower::Service;

use super::blocks::{self, BlocksService};
use crate::{content::Frame, services::Services};

/// The path of the method that is answered here.
const READ: &str = "/larder.v1.Blocks/Read";

/// The whole `Blocks` service: `Read` by hand, the rest as generated.
#[derive(Clone, Debug)]
pub(crate) struct Blocks {
    services: Arc<Services>,
    generated: v1::blocks_server::BlocksServer<BlocksService>,
}

impl Blocks {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        let service = BlocksService::new(services.clone());
        let generated = v1::blocks_server::BlocksServer::new(service).max_decoding_message_size(MESSAGE_MAX);
        Self { services, generated }
    }
}

impl NamedService for Blocks {
    const NAME: &'static str = <v1::blocks_server::BlocksServer<BlocksService> as NamedService>::NAME;
}

impl Service<http::Request<Body>> for Blocks {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != READ {
            return Box::pin(self.generated.call(request));
        }
        let services = self.services.clone();
        Box::pin(async move { Ok(answer(services, request).await) })
    }
}

async fn answer(services: Arc<Services>, request: http::Request<Body>) -> http::Response<Body> {
    match begin(services, request).await {
        Ok(body) => {
            let mut response = http::Response::new(Body::new(body));
            response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            response
        }
        Err(error) => into_status(&error).into_http(),
    }
}

async fn begin(services: Arc<Services>, request: http::Request<Body>) -> Result<FrameBody> {
    let (parts, body) = request.into_parts();
    services.greet(&MetadataMap::from_headers(parts.headers))?;
    let mut messages = Streaming::new_request(ReadRequests, body, None, Some(MESSAGE_MAX));
    let first = tokio::time::timeout(services.config.patience, messages.message()).await;
    let late = |_| Error::new(ErrorKind::Deadline, "the request did not come");
    let first = first.map_err(late)?.map_err(|status| from_status(&status))?;
    let message = first.ok_or_else(|| Error::new(ErrorKind::Invalid, "a read without a request"))?;
    let reading = blocks::reading(&services, &message)?;
    Ok(FrameBody { frames: Box::pin(services.frames(reading)), data: None, ended: false })
}

/// Decodes requests.
struct ReadRequests;

impl Decoder for ReadRequests {
    type Item = v1::ReadRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        let message = prost::Message::decode(bytes);
        message.map(Some).map_err(|e| Status::invalid_argument(format!("not a request to read: {e}")))
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<Frame>> + Send>>;

/// Frames as the body of a response.
struct FrameBody {
    frames: Frames,
    /// The bytes of the frame whose head has been given.
    data: Option<Bytes>,
    ended: bool,
}

impl http_body::Body for FrameBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Status>>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(BodyFrame::data(data))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        match self.frames.as_mut().poll_next(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                let head = head(&frame);
                self.data = Some(frame.data).filter(|data| !data.is_empty());
                Poll::Ready(Some(Ok(BodyFrame::data(head))))
            }
            Poll::Ready(Some(Err(error))) => {
                self.ended = true;
                Poll::Ready(Some(Ok(BodyFrame::trailers(trailers(&into_status(&error))))))
            }
            Poll::Ready(None) => {
                self.ended = true;
                Poll::Ready(Some(Ok(BodyFrame::trailers(trailers(&Status::ok(""))))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        // A message that cannot be a header; the code at least can.
        headers.insert("grpc-status", HeaderValue::from(status.code() as i32));
    }
    headers
}

/// What comes before the bytes of a frame.
fn head(frame: &Frame) -> Bytes {
    let mut fields = BytesMut::with_capacity(40);
    encode_key(1, WireType::Varint, &mut fields);
    encode_varint(frame.offset, &mut fields);
    encode_key(3, WireType::Varint, &mut fields);
    encode_varint(u64::from(frame.crc), &mut fields);
    encode_key(4, WireType::Varint, &mut fields);
    encode_varint(frame.served as u64, &mut fields);
    encode_key(2, WireType::LengthDelimited, &mut fields);
    encode_varint(frame.data.len() as u64, &mut fields);
    let mut head = BytesMut::with_capacity(fields.len() + 5);
    head.put_u8(0);
    // A frame has at most a few MiB.
    head.put_u32((fields.len() + frame.data.len()) as u32);
    head.extend_from_slice(&fields);
    head.freeze()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_frame_is_what_the_generated_code_reads() {
        let (cache, under) = (v1::Served::FromCache, v1::Served::FromUnderStore);
        for (offset, data, crc, served) in [(0, &b""[..], 0, cache), (u64::MAX, &b"content"[..], u32::MAX, under)] {
            let frame = Frame { offset, data: Bytes::from_static(data), crc, served };
            let mut wire = head(&frame).to_vec();
            wire.extend_from_slice(&frame.data);
            assert_eq!(wire[0], 0);
            assert_eq!(u32::from_be_bytes(wire[1..5].try_into().unwrap()) as usize, wire.len() - 5);
            let read = v1::ReadFrame::decode(&wire[5..]).unwrap();
            let expected = v1::ReadFrame { offset, data: frame.data, crc32c: crc, served: served.into() };
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn an_error_travels_in_the_trailers() {
        let error = Error::new(ErrorKind::Regrant, "the object has changed");
        let status = Status::from_header_map(&trailers(&into_status(&error))).unwrap();
        assert_eq!(from_status(&status), error);
    }
}
