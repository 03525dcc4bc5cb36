//! Exit codes: the one mapping from what went wrong to what the shell is told. The codes are a contract.

use std::process::ExitCode;

use larder_common::ErrorKind;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// All was done.
    Done = 0,
    /// Something failed; what failed is listed.
    Failed = 1,
    /// The command line or a setting is wrong.
    Usage = 2,
    /// A path does not exist.
    NoSuchPath = 3,
    /// The cluster was not reached in time.
    NotReached = 4,
    /// Rights, a read-only mount, or no room.
    Refused = 5,
    /// The cluster was reached, and then the deadline passed.
    Deadline = 124,
}

/// Every code with what it means, as `--help` ends with it.
pub(crate) const MEANINGS: &[(Exit, &str)] = &[
    (Exit::Done, "done"),
    (Exit::Failed, "failed, or partly failed; what failed is listed"),
    (Exit::Usage, "the command line or a setting is wrong"),
    (Exit::NoSuchPath, "no such path"),
    (Exit::NotReached, "the cluster was not reached within 30s, or --timeout"),
    (Exit::Refused, "refused: rights, read-only, no room"),
    (Exit::Deadline, "the deadline passed after the cluster was reached"),
];

impl Exit {
    /// What a process of ours ended with; `None` for a code that is none of these.
    pub(crate) fn from_code(code: u8) -> Option<Exit> {
        MEANINGS.iter().map(|(exit, _)| *exit).find(|exit| *exit as u8 == code)
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Invalid | ErrorKind::Config => Exit::Usage,
            ErrorKind::NotFound => Exit::NoSuchPath,
            ErrorKind::Unavailable => Exit::NotReached,
            ErrorKind::Denied | ErrorKind::NotPermitted | ErrorKind::ReadOnly | ErrorKind::NoSpace => Exit::Refused,
            ErrorKind::Deadline => Exit::Deadline,
            _ => Exit::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_the_code_of_the_contract() {
        let code = |kind: ErrorKind| Exit::from(kind) as u8;
        for kind in ErrorKind::ALL {
            let expected = match kind.as_str() {
                "invalid" | "wrong setting" => 2,
                "not found" => 3,
                "unavailable" => 4,
                "permission denied" | "operation not permitted" | "read-only" | "no space left" => 5,
                "deadline passed" => 124,
                _ => 1,
            };
            assert_eq!(code(*kind), expected, "{kind:?}");
        }
    }
}
