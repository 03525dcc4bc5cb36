//! What a service claims and its server may not do, tried at opening.
//!
//! The library speaks for the service (S3), but there are many servers that look like it, and a condition that a server
//! does not know it ignores: the very thing that would replace a foreign object. So two objects are written under
//! `.larder/<cluster>/probe`, once more under a condition that cannot hold, and removed. This also finds out whether
//! anything may be written at all, at the time when somebody reads the answer.

use larder_common::{Error, ErrorKind, Result};
use opendal::{
    ErrorKind as Theirs,
    options::{CopyOptions, WriteOptions},
};

use super::{
    Inner, Manner, Moves, failure,
    key::{self, Private},
};

impl Inner {
    /// What the service really does.
    pub(super) async fn prove(&self) -> Result<Manner> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string()))?;
        let prefix = key::private(self.cluster, Private::Probes) + &hex::encode(random);
        let (one, two) = (format!("{prefix}-1"), format!("{prefix}-2"));
        let proved = self.try_conditions(&one, &two).await;
        for key in [&one, &two] {
            // One that stays is a few bytes that nobody lists.
            let _ = self.ask(self.operator.delete(key)).await;
        }
        proved.map_err(|error| {
            let ours = failure::of(&error, "");
            let text = format!("nothing can be written there: {}", ours.message());
            Error::new(ours.kind(), text).advise("check the credential, or mount it with --readonly")
        })
    }

    async fn try_conditions(&self, one: &str, two: &str) -> opendal::Result<Manner> {
        let mut manner = self.manner;
        self.ask(self.operator.write(one, "1")).await?;
        if manner.conditional_put {
            let options = WriteOptions { if_not_exists: true, ..WriteOptions::default() };
            manner.conditional_put = refuses(self.ask(self.operator.write_options(one, "2", options)).await)?;
        }
        if manner.moves != Moves::Copy {
            return Ok(manner);
        }
        self.ask(self.operator.copy(one, two)).await?;
        if manner.conditional_copy {
            let options = CopyOptions { if_not_exists: true, ..CopyOptions::default() };
            manner.conditional_copy = refuses(self.ask(self.operator.copy_options(one, two, options)).await)?;
        }
        if manner.conditional_copy {
            let etag = "\"0123456789abcdef0123456789abcdef\"".to_owned();
            let options = CopyOptions { if_match: Some(etag), ..CopyOptions::default() };
            manner.conditional_copy = refuses(self.ask(self.operator.copy_options(one, two, options)).await)?;
        }
        Ok(manner)
    }
}

/// Whether a change under a condition that does not hold was refused for that reason. A server that does not know the
/// condition makes the change, or calls the request wrong; one that is away has said nothing.
fn refuses<T>(result: opendal::Result<T>) -> opendal::Result<bool> {
    match result {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == Theirs::ConditionNotMatch => Ok(true),
        Err(error) if error.is_temporary() => Err(error),
        Err(_) => Ok(false),
    }
}
