//! Jobs in the journal and in checkpoints. Part of the format: a tag is never used again for something else.

use prost::Message;

/// A job as it is from now on; `record` absent: it is not known any more.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SetJob {
    #[prost(uint64, tag = "1")]
    pub job: u64,
    #[prost(message, optional, tag = "2")]
    pub record: Option<JobRecord>,
}

/// Steps of a job are done, and all steps up to the cursor.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct JobSteps {
    #[prost(uint64, tag = "1")]
    pub job: u64,
    #[prost(message, repeated, tag = "2")]
    pub steps: Vec<StepRecord>,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub cursor: Option<Vec<u8>>,
}

/// One step.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StepRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// Of a move: copied, and not removed yet.
    #[prost(bool, tag = "2")]
    pub half: bool,
    /// 0 file, 1 directory, 2 nothing that counts.
    #[prost(uint32, tag = "3")]
    pub kind: u32,
    #[prost(uint64, tag = "4")]
    pub bytes: u64,
    #[prost(message, optional, tag = "5")]
    pub failure: Option<FailureRecord>,
}

/// Why a step failed.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FailureRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// Number of the error's kind.
    #[prost(uint32, tag = "2")]
    pub kind: u32,
    #[prost(string, tag = "3")]
    pub message: String,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub path: Option<Vec<u8>>,
    #[prost(string, optional, tag = "5")]
    pub advice: Option<String>,
}

/// A step after the cursor that is done, or half done.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AheadRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    #[prost(bool, tag = "2")]
    pub half: bool,
}

/// A job in full.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct JobRecord {
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub path: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub target: Option<Vec<u8>>,
    #[prost(bool, tag = "4")]
    pub forced: bool,
    #[prost(uint32, tag = "5")]
    pub replication: u32,
    #[prost(bool, tag = "6")]
    pub overwrite: bool,
    /// As in a write lease.
    #[prost(uint32, tag = "7")]
    pub write_type: u32,
    #[prost(uint32, tag = "8")]
    pub parallel: u32,
    #[prost(uint32, tag = "9")]
    pub uid: u32,
    #[prost(uint32, repeated, tag = "10")]
    pub gids: Vec<u32>,
    #[prost(string, tag = "11")]
    pub user: String,
    #[prost(uint64, tag = "12")]
    pub nonce: u64,
    #[prost(int64, tag = "13")]
    pub begun: i64,
    #[prost(int64, optional, tag = "14")]
    pub ended: Option<i64>,
    #[prost(uint32, tag = "15")]
    pub state: u32,
    #[prost(message, optional, tag = "16")]
    pub reason: Option<FailureRecord>,
    #[prost(bytes = "vec", optional, tag = "17")]
    pub cursor: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "18")]
    pub ahead: Vec<AheadRecord>,
    #[prost(uint64, tag = "19")]
    pub files: u64,
    #[prost(uint64, tag = "20")]
    pub directories: u64,
    #[prost(uint64, tag = "21")]
    pub bytes: u64,
    #[prost(uint64, tag = "22")]
    pub failed: u64,
    #[prost(message, repeated, tag = "23")]
    pub failures: Vec<FailureRecord>,
}
