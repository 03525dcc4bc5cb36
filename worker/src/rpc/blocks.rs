//! The `Blocks` service as generated. Each method checks who asks, turns the message into domain types, makes one call,
//! and translates the answer.

use std::{pin::Pin, sync::Arc};

use futures_core::Stream;
use futures_util::StreamExt;
use larder_common::{BlockIndex, Error, ErrorKind, Result};
use larder_proto::{convert, greeting, into_status, v1};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    content::{Frame, Reading},
    services::Services,
    source::Want,
    store::Purpose,
};

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct BlocksService(Arc<Services>);

impl BlocksService {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self(services)
    }

    fn greet<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.0.greet(request.metadata()).map(drop).map_err(|error| into_status(&error))
    }
}

/// What a request to read asks for, checked.
pub(crate) fn reading(services: &Services, request: &v1::ReadRequest) -> Result<Reading> {
    let granted = services.read_grant(&request.grant)?;
    let length = granted.grant.length;
    let end = request.offset.checked_add(request.length).filter(|end| *end <= length);
    let Some(end) = end else {
        let message = format!("{} bytes at {} of a file of {length}", request.length, request.offset);
        return Err(Error::new(ErrorKind::Invalid, message));
    };
    let want = Want { granted, index: BlockIndex(0), peers: Arc::from([]), purpose: Purpose::Read };
    services.metrics.streamed(request.why());
    let (range, read_type) = (request.offset..end, convert::read_type(request.read_type)?);
    Ok(Reading { want, range, read_type, frame: u64::from(request.frame) })
}

fn message(frame: Result<Frame>) -> Result<v1::ReadFrame, Status> {
    let frame = frame.map_err(|error| into_status(&error))?;
    Ok(v1::ReadFrame { offset: frame.offset, data: frame.data, crc32c: frame.crc, served: frame.served.into() })
}

#[tonic::async_trait]
impl v1::blocks_server::Blocks for BlocksService {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<v1::ReadFrame, Status>> + Send>>;
    type EditStream = Pin<Box<dyn Stream<Item = Result<v1::EditReply, Status>> + Send>>;
    type LoadStream = Pin<Box<dyn Stream<Item = Result<v1::LoadReply, Status>> + Send>>;

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        self.greet(&request)?;
        let reading = reading(&self.0, request.get_ref()).map_err(|error| into_status(&error))?;
        Ok(Response::new(Box::pin(self.0.clone().frames(reading).map(message))))
    }

    async fn write(&self, request: Request<Streaming<v1::WriteFrame>>) -> Result<Response<v1::WriteReply>, Status> {
        self.greet(&request)?;
        let written = self.0.clone().take_stream(request.into_inner()).await;
        written.map(Response::new).map_err(|error| into_status(&error))
    }

    async fn edit(&self, request: Request<Streaming<v1::EditRequest>>) -> Result<Response<Self::EditStream>, Status> {
        self.greet(&request)?;
        let replies = self.0.clone().edit_stream(request.into_inner());
        Ok(Response::new(Box::pin(replies.map(|reply| reply.map_err(|error| into_status(&error))))))
    }

    async fn load(&self, request: Request<v1::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        self.greet(&request)?;
        let replies = self.0.clone().load(request.into_inner()).map_err(|error| into_status(&error))?;
        Ok(Response::new(Box::pin(replies.map(Ok))))
    }

    async fn touch(&self, request: Request<v1::Touches>) -> Result<Response<v1::Empty>, Status> {
        self.greet(&request)?;
        self.0.touched(request.get_ref());
        Ok(Response::new(v1::Empty {}))
    }

    async fn get_info(&self, request: Request<v1::Empty>) -> Result<Response<v1::WorkerInfo>, Status> {
        self.greet(&request)?;
        Ok(Response::new(v1::WorkerInfo {
            address: Some((&*self.0.address.read()).into()),
            cluster: self.0.cluster.to_bytes().into(),
            version: greeting::VERSION.to_owned(),
            tiers: self.0.tier_usage(),
            counters: self.0.counters().into_iter().collect(),
        }))
    }
}
