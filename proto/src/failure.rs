//! Errors on the wire: inside messages as [`v1::Failure`], and as the details of a gRPC status.
//!
//! A status without our details comes from the transport (a connection refused, a deadline, a server that is gone) and
//! becomes `Unavailable` or `Deadline`.

use bytes::Bytes;
use larder_common::{Error, ErrorKind};
use prost::Message;
use tonic::{Code, Status};

use crate::v1;

impl From<&Error> for v1::Failure {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind() as u32,
            message: error.message().to_owned(),
            path: Bytes::copy_from_slice(error.path().unwrap_or_default()),
            advice: error.advice().unwrap_or_default().to_owned(),
        }
    }
}

impl From<Error> for v1::Failure {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl From<v1::Failure> for Error {
    fn from(failure: v1::Failure) -> Self {
        let kind = ErrorKind::from_number(failure.kind).unwrap_or(ErrorKind::Unavailable);
        let mut error = Error::new(kind, failure.message);
        if !failure.path.is_empty() {
            error = error.at(&failure.path);
        }
        match failure.advice.as_str() {
            "" => error,
            advice => error.advise(advice),
        }
    }
}

/// The status that carries this error.
#[must_use]
pub fn into_status(error: &Error) -> Status {
    let code = match error.kind() {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::Denied | ErrorKind::NotPermitted => Code::PermissionDenied,
        ErrorKind::Invalid | ErrorKind::Config | ErrorKind::NameTooLong => Code::InvalidArgument,
        ErrorKind::NoSpace => Code::ResourceExhausted,
        ErrorKind::Corrupt | ErrorKind::Lost => Code::DataLoss,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Deadline => Code::DeadlineExceeded,
        ErrorKind::Unsupported => Code::Unimplemented,
        _ => Code::FailedPrecondition,
    };
    let details = v1::Failure::from(error).encode_to_vec();
    Status::with_details(code, error.message(), details.into())
}

/// The error that a status carries, or what its code says if it came from the transport.
#[must_use]
pub fn from_status(status: &Status) -> Error {
    if let Some(failure) = Some(status.details()).filter(|d| !d.is_empty()).and_then(|d| v1::Failure::decode(d).ok()) {
        return failure.into();
    }
    let kind = match status.code() {
        Code::DeadlineExceeded => ErrorKind::Deadline,
        Code::Unimplemented => ErrorKind::Mismatch,
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::Invalid,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Denied,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, reason(status))
}

/// The deepest cause that the status names: "Connection refused" tells more than "transport error".
fn reason(status: &Status) -> String {
    let mut cause = std::error::Error::source(status);
    let mut text = status.message().to_owned();
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    match text.as_str() {
        "" => status.code().description().to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_wire() {
        for kind in ErrorKind::ALL {
            let error = Error::new(*kind, "the tier is full").at(b"/a/\xff").advise("make it larger");
            assert_eq!(from_status(&into_status(&error)), error);
        }
        let plain = Error::new(ErrorKind::Busy, "held");
        assert_eq!(from_status(&into_status(&plain)), plain);
    }

    #[test]
    fn the_transport_s_own_errors_are_told_apart() {
        assert_eq!(from_status(&Status::unavailable("gone")).kind(), ErrorKind::Unavailable);
        assert_eq!(from_status(&Status::deadline_exceeded("late")).kind(), ErrorKind::Deadline);
        assert_eq!(from_status(&Status::cancelled("cut")).kind(), ErrorKind::Unavailable);
    }
}
