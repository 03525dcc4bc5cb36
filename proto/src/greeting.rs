//! The greeting: format, cluster, caller and what vouches for it, in the metadata of every request.
//!
//! The format number is that of the protocol; features are bits that both sides must have before one is used. A server
//! refuses a greeting of another cluster, of a newer format, and (where a token is set) one without it.

use larder_common::{Caller, ClusterId, Error, ErrorKind, Locality, Result, SessionId};
use prost::Message;
use tonic::metadata::{BinaryMetadataValue, MetadataMap};

use crate::v1;

/// The format of the protocol that this binary speaks.
pub const FORMAT: u32 = 1;
/// The oldest format that it understands.
pub const OLDEST_FORMAT: u32 = 1;
/// A worker that takes `ShortAhead`.
pub const FEATURE_AHEAD: u64 = 1;
/// A worker that speaks the data protocol ([`crate::data`]) at its port.
pub const FEATURE_DATA: u64 = 2;
/// The feature bits that it has.
pub const FEATURES: u64 = FEATURE_AHEAD | FEATURE_DATA;
/// The version of the binary, for messages.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

const KEY: &str = "larder-greeting-bin";

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The cluster that the sender takes this for; `None` while it does not know.
    pub cluster: Option<ClusterId>,
    /// In whose name.
    pub caller: Caller,
    /// What vouches for the caller; empty where nothing does.
    pub token: Token,
    /// The sender's session at the master; 0 for none.
    pub session: SessionId,
    /// The sender's host name.
    pub hostname: String,
    /// Where the sender runs.
    pub locality: Locality,
}

/// The cluster token. It prints as `***`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Token(Vec<u8>);

impl Token {
    /// Keeps a token.
    pub fn new(secret: impl Into<Vec<u8>>) -> Self {
        Self(secret.into())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares in a time that does not tell where the two differ.
    #[must_use]
    pub fn matches(&self, other: &Token) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_empty() { "none" } else { "***" })
    }
}

impl Greeting {
    /// The greeting of a server acting for itself.
    #[must_use]
    pub fn of_server(hostname: &str, token: Token) -> Self {
        Self {
            cluster: None,
            caller: Caller::root(),
            token,
            session: SessionId(0),
            hostname: hostname.to_owned(),
            locality: Locality::node(hostname),
        }
    }

    /// The metadata value, to be made once and attached to each request.
    #[must_use]
    pub fn to_metadata(&self) -> BinaryMetadataValue {
        BinaryMetadataValue::from_bytes(&self.to_message().encode_to_vec())
    }

    /// The greeting as a message.
    #[must_use]
    pub fn to_message(&self) -> v1::Greeting {
        v1::Greeting {
            format: FORMAT,
            features: FEATURES,
            cluster: self.cluster.map(ClusterId::to_bytes).unwrap_or_default().into(),
            uid: self.caller.uid,
            gids: self.caller.gids.clone(),
            user: self.caller.name.clone(),
            token: self.token.0.clone().into(),
            session: self.session.0,
            hostname: self.hostname.clone(),
            locality: self.locality.to_string(),
            version: VERSION.to_owned(),
        }
    }

    /// Puts a value made by [`Self::to_metadata`] into a request's metadata.
    pub fn attach(value: &BinaryMetadataValue, metadata: &mut MetadataMap) {
        metadata.insert_bin(KEY, value.clone());
    }

    /// Reads the greeting of a request.
    ///
    /// # Errors
    /// `Mismatch` where it is missing, malformed or of a format that this binary does not speak.
    pub fn from_metadata(metadata: &MetadataMap) -> Result<Self> {
        let mismatch = |message: String| Error::new(ErrorKind::Mismatch, message);
        let value = metadata.get_bin(KEY).ok_or_else(|| {
            mismatch("the request has no Larder greeting".into())
                .advise("is something else than a Larder client asking?")
        })?;
        let bytes = value.to_bytes().map_err(|_| mismatch("the greeting is not base64".into()))?;
        Self::decode(bytes)
    }

    /// Reads an encoded greeting.
    ///
    /// # Errors
    /// As [`Self::from_metadata`].
    pub fn decode(bytes: bytes::Bytes) -> Result<Self> {
        let message = v1::Greeting::decode(bytes)
            .map_err(|e| Error::new(ErrorKind::Mismatch, format!("the greeting is malformed: {e}")))?;
        check_format(message.format, &message.version)?;
        message.try_into()
    }

    /// Refuses a greeting that takes us for another cluster, or (where `token` is set) comes without it.
    ///
    /// # Errors
    /// `Mismatch` for another cluster, `Denied` for a wrong token.
    pub fn check(&self, cluster: ClusterId, token: &Token) -> Result<()> {
        if let Some(theirs) = self.cluster.filter(|c| *c != cluster) {
            let message = format!("this is cluster {cluster}, not {theirs}");
            return Err(Error::new(ErrorKind::Mismatch, message)
                .advise("check master.hostname; a master that lost its journal begins a new cluster"));
        }
        if !token.is_empty() && !token.matches(&self.token) {
            let what = if self.token.is_empty() { "no cluster token" } else { "a wrong cluster token" };
            return Err(Error::new(ErrorKind::Denied, what).advise("set security.token to the cluster's"));
        }
        Ok(())
    }
}

/// Refuses a format that this binary does not speak.
///
/// # Errors
/// `Mismatch`, naming the version of the peer.
pub fn check_format(format: u32, version: &str) -> Result<()> {
    if (OLDEST_FORMAT..=FORMAT).contains(&format) {
        return Ok(());
    }
    let message = format!("the peer ({version}) speaks format {format}; {VERSION} speaks {OLDEST_FORMAT} to {FORMAT}");
    Err(Error::new(ErrorKind::Mismatch, message).advise("bring both to the same version"))
}

impl TryFrom<v1::Greeting> for Greeting {
    type Error = Error;

    fn try_from(message: v1::Greeting) -> Result<Self> {
        let cluster = match &message.cluster[..] {
            [] => None,
            bytes => Some(ClusterId::try_from(bytes)?),
        };
        let gids = if message.gids.is_empty() { vec![message.uid] } else { message.gids };
        Ok(Self {
            cluster,
            caller: Caller { uid: message.uid, gids, name: message.user },
            token: Token::new(message.token),
            session: SessionId(message.session),
            hostname: message.hostname,
            locality: message.locality.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting() -> Greeting {
        Greeting { cluster: Some(ClusterId([7; 16])), ..Greeting::of_server("a", Token::new("secret")) }
    }

    #[test]
    fn it_survives_the_wire() {
        let mut metadata = MetadataMap::new();
        Greeting::attach(&greeting().to_metadata(), &mut metadata);
        assert_eq!(Greeting::from_metadata(&metadata).unwrap(), greeting());
        assert_eq!(Greeting::from_metadata(&MetadataMap::new()).unwrap_err().kind(), ErrorKind::Mismatch);
    }

    #[test]
    fn other_clusters_and_tokens_are_refused() {
        let token = Token::new("secret");
        assert!(greeting().check(ClusterId([7; 16]), &token).is_ok());
        assert!(greeting().check(ClusterId([7; 16]), &Token::default()).is_ok(), "no token is asked for");
        assert_eq!(greeting().check(ClusterId([8; 16]), &token).unwrap_err().kind(), ErrorKind::Mismatch);
        assert_eq!(greeting().check(ClusterId([7; 16]), &Token::new("x")).unwrap_err().kind(), ErrorKind::Denied);
    }

    #[test]
    fn newer_formats_are_refused_by_name() {
        assert!(check_format(FORMAT + 1, "9.9").unwrap_err().to_string().contains("9.9"));
    }

    #[test]
    fn a_token_is_never_printed() {
        assert!(!format!("{:?}", greeting()).contains("secret"));
    }
}
