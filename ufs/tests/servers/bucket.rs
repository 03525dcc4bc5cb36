//! What is behind the S3 server of the tests: one bucket in memory, as the real service is: flat keys, ETags, conditions
//! on puts, copies, deletions and reads, uploads in parts. `s3s` speaks the protocol and checks signatures. (The server
//! over a directory that comes with `s3s` lists no ETags, keeps no key that ends in `/`, and heeds no condition on copies.)

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use larder_common::clock::SystemClock;
use parking_lot::Mutex;
use s3s::{
    S3, S3Request, S3Response, S3Result,
    dto::{
        AbortMultipartUploadInput, AbortMultipartUploadOutput, CommonPrefix, CompleteMultipartUploadInput,
        CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource,
        CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteObjectInput, DeleteObjectOutput, ETag,
        GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output,
        Metadata, Object, PutObjectInput, PutObjectOutput, StreamingBlob, Timestamp, UploadPartInput, UploadPartOutput,
    },
    s3_error,
};

/// The name of the bucket that there is.
pub const BUCKET: &str = "bucket";

/// An object.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its bytes.
    pub content: Bytes,
    etag: String,
    metadata: Option<Metadata>,
    modified: SystemTime,
}

/// An upload in parts: its key, what it carries, its parts.
type Parts = (String, Option<Metadata>, BTreeMap<i32, Bytes>);

/// The bucket.
#[derive(Clone, Debug, Default)]
pub struct Bucket {
    /// All objects.
    pub objects: Arc<Mutex<BTreeMap<String, Stored>>>,
    parts: Arc<Mutex<HashMap<String, Parts>>>,
    next: Arc<AtomicU64>,
    /// Whether conditions on copies are not known, as on many servers.
    pub copies_blindly: Arc<AtomicBool>,
}

fn stored(content: Bytes, etag: String, metadata: Option<Metadata>) -> Stored {
    Stored { content, etag, metadata, modified: now() }
}

fn now() -> SystemTime {
    let now = SystemClock::shared().now();
    SystemTime::UNIX_EPOCH + std::time::Duration::new(now.seconds() as u64, now.nanos() as u32)
}

/// As good as the real one: the same for the same bytes.
fn etag(content: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(&sha2::Sha256::digest(content)[..16])
}

fn check_bucket(name: &str) -> S3Result<()> {
    if name == BUCKET { Ok(()) } else { Err(s3_error!(NoSuchBucket, "The specified bucket does not exist")) }
}

async fn collect(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let mut all = BytesMut::new();
    let Some(mut body) = body else { return Ok(all.freeze()) };
    while let Some(part) = body.next().await {
        all.extend_from_slice(&part.map_err(|_| s3_error!(IncompleteBody))?);
    }
    Ok(all.freeze())
}

/// Checks the conditions of a request on what it would replace, remove or read.
fn check(headers: &hyper::HeaderMap, found: Option<&Stored>) -> S3Result<()> {
    let named = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(|text| text.trim_matches('"'));
    let wrong = || Err(s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold"));
    match (named("if-match"), found) {
        (Some(etag), Some(stored)) if etag != "*" && etag != stored.etag => return wrong(),
        (Some(_), None) => return wrong(),
        _ => {}
    }
    match (named("if-none-match"), found) {
        (Some("*"), Some(_)) => wrong(),
        _ => Ok(()),
    }
}

#[async_trait::async_trait]
impl S3 for Bucket {
    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        check_bucket(&req.input.bucket)?;
        let found = self.objects.lock().get(&req.input.key).cloned().ok_or_else(|| s3_error!(NoSuchKey))?;
        check(&req.headers, Some(&found))?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(found.content.len() as i64),
            e_tag: Some(ETag::Strong(found.etag)),
            last_modified: Some(Timestamp::from(found.modified)),
            metadata: found.metadata,
            ..Default::default()
        }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        check_bucket(&req.input.bucket)?;
        let found = self.objects.lock().get(&req.input.key).cloned().ok_or_else(|| s3_error!(NoSuchKey))?;
        check(&req.headers, Some(&found))?;
        let size = found.content.len() as u64;
        let range = match req.input.range {
            None => 0..size,
            Some(range) => range.check(size)?,
        };
        let content_range = req.input.range.map(|_| format!("bytes {}-{}/{size}", range.start, range.end - 1));
        let content = found.content.slice(range.start as usize..range.end as usize);
        let length = content.len() as i64;
        let pieces: Vec<_> = (0..content.len())
            .step_by(1 << 16)
            .map(|at| Ok::<_, std::io::Error>(content.slice(at..content.len().min(at + (1 << 16)))))
            .collect();
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::wrap(futures_util::stream::iter(pieces))),
            content_length: Some(length),
            content_range,
            e_tag: Some(ETag::Strong(found.etag)),
            last_modified: Some(Timestamp::from(found.modified)),
            metadata: found.metadata,
            ..Default::default()
        }))
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        check_bucket(&req.input.bucket)?;
        let content = collect(req.input.body).await?;
        let mut objects = self.objects.lock();
        check(&req.headers, objects.get(&req.input.key))?;
        let etag = etag(&content);
        objects.insert(req.input.key, stored(content, etag.clone(), req.input.metadata));
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() }))
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let CopySource::Bucket { bucket, key, .. } = &req.input.copy_source else {
            return Err(s3_error!(NotImplemented));
        };
        check_bucket(bucket)?;
        let mut objects = self.objects.lock();
        let source = objects.get(&**key).cloned().ok_or_else(|| s3_error!(NoSuchKey))?;
        if !self.copies_blindly.load(Ordering::SeqCst) {
            check(&req.headers, objects.get(&req.input.key))?;
        }
        let copy = Stored { modified: now(), ..source };
        let result = CopyObjectResult {
            e_tag: Some(ETag::Strong(copy.etag.clone())),
            last_modified: Some(Timestamp::from(copy.modified)),
            ..Default::default()
        };
        objects.insert(req.input.key, copy);
        Ok(S3Response::new(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() }))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        check_bucket(&req.input.bucket)?;
        let mut objects = self.objects.lock();
        if let Some(found) = objects.get(&req.input.key) {
            check(&req.headers, Some(found))?;
            objects.remove(&req.input.key);
        }
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        check_bucket(&input.bucket)?;
        let (prefix, delimiter) = (input.prefix.unwrap_or_default(), input.delimiter.unwrap_or_default());
        let after = input.continuation_token.or(input.start_after).unwrap_or_default();
        let limit = input.max_keys.unwrap_or(1000).clamp(1, 1000) as usize;
        let (mut contents, mut prefixes, mut last, mut truncated) = (Vec::new(), Vec::new(), String::new(), false);
        for (key, object) in self.objects.lock().iter().filter(|(key, _)| key.starts_with(&prefix)) {
            let below = &key[prefix.len()..];
            let cut = (!delimiter.is_empty()).then(|| below.find(&delimiter)).flatten();
            let name = cut.map_or_else(|| key.clone(), |at| key[..prefix.len() + at + delimiter.len()].to_owned());
            if name <= after || name == last {
                continue;
            }
            if contents.len() + prefixes.len() == limit {
                truncated = true;
                break;
            }
            last.clone_from(&name);
            match cut {
                Some(_) => prefixes.push(CommonPrefix { prefix: Some(name) }),
                None => contents.push(Object {
                    key: Some(name),
                    size: Some(object.content.len() as i64),
                    e_tag: Some(ETag::Strong(object.etag.clone())),
                    last_modified: Some(Timestamp::from(object.modified)),
                    ..Default::default()
                }),
            }
        }
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: Some((contents.len() + prefixes.len()) as i32),
            contents: Some(contents),
            common_prefixes: Some(prefixes),
            is_truncated: Some(truncated),
            next_continuation_token: truncated.then_some(last),
            name: Some(input.bucket),
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        check_bucket(&req.input.bucket)?;
        let id = format!("upload-{}", self.next.fetch_add(1, Ordering::SeqCst));
        self.parts.lock().insert(id.clone(), (req.input.key, req.input.metadata, BTreeMap::new()));
        Ok(S3Response::new(CreateMultipartUploadOutput { upload_id: Some(id), ..Default::default() }))
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let content = collect(req.input.body).await?;
        let etag = etag(&content);
        let mut parts = self.parts.lock();
        let upload = parts.get_mut(&req.input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        upload.2.insert(req.input.part_number, content);
        Ok(S3Response::new(UploadPartOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let mut objects = self.objects.lock();
        check(&req.headers, objects.get(&req.input.key))?;
        let upload = self.parts.lock().remove(&req.input.upload_id);
        let (key, metadata, parts) = upload.ok_or_else(|| s3_error!(NoSuchUpload))?;
        let content: Bytes = parts.values().flatten().copied().collect::<Vec<u8>>().into();
        let etag = format!("{}-{}", etag(&content), parts.len());
        objects.insert(key, stored(content, etag.clone(), metadata));
        let output = CompleteMultipartUploadOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() };
        Ok(S3Response::new(output))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.parts.lock().remove(&req.input.upload_id);
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}

impl Bucket {
    /// Uploads that were begun and neither completed nor given up.
    pub fn open_uploads(&self) -> usize {
        self.parts.lock().len()
    }

    /// What somebody else puts there.
    pub fn put_foreign(&self, key: &str, content: &[u8]) {
        let content = Bytes::copy_from_slice(content);
        let etag = etag(&content);
        self.objects.lock().insert(key.to_owned(), stored(content, etag, None));
    }
}
