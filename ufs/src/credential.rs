//! Credentials by name: where a server finds the secrets of an under store. They are given to servers only, never kept
//! in the journal, never in a URI or an option of a mount, and show as `***` wherever they are printed.

use std::{collections::BTreeMap, sync::Arc};

use larder_common::{Error, ErrorKind, Result, settings::Secret};

/// All credentials that a server was given, by name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Credentials(Arc<BTreeMap<String, BTreeMap<String, Secret>>>);

/// The option of a mount that names its credential.
pub const CREDENTIAL: &str = "credential";

impl From<BTreeMap<String, BTreeMap<String, Secret>>> for Credentials {
    fn from(by_name: BTreeMap<String, BTreeMap<String, Secret>>) -> Self {
        Self(Arc::new(by_name))
    }
}

impl Credentials {
    /// The values of the credential that a mount names, else of the one named `usual`, else none (then the provider's
    /// own chain is asked). Keys are [`plain`].
    ///
    /// # Errors
    /// `Config` when a name is given that this server does not know.
    pub fn named(&self, named: Option<&str>, usual: &str) -> Result<BTreeMap<String, Secret>> {
        let found = match named {
            None => self.0.get(usual),
            Some(name) => Some(self.0.get(name).ok_or_else(|| self.unknown(name))?),
        };
        let values = found.into_iter().flatten();
        Ok(values.map(|(key, secret)| (plain(key), secret.clone())).collect())
    }

    fn unknown(&self, name: &str) -> Error {
        let known: Vec<_> = self.0.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Error::new(ErrorKind::Config, format!("no credential is named {name} on this server; known: {known}"))
            .advise(format!("put [credential.{name}] into the settings of the master and of every worker"))
    }
}

/// A key without case and punctuation, so that `accessKeyId`, `access_key_id` and `access-key-id` are one.
#[must_use]
pub fn plain(key: &str) -> String {
    key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}

/// Whether an option of this name holds what nobody else may see.
#[must_use]
pub fn is_secret(key: &str) -> bool {
    const WORDS: [&str; 9] = [
        "secret",
        "password",
        "passwd",
        "accesskey",
        "privatekey",
        "accountkey",
        "token",
        "customerkey",
        "encryptionkey",
    ];
    let key = plain(key);
    WORDS.iter().any(|word| key.contains(word))
}

/// Refuses secrets in what would be kept in the journal and shown to everybody: a mount's options and its URI. The
/// answer never repeats them.
///
/// # Errors
/// `Config`, with the way to name a credential instead.
pub fn check_public(uri: &str, options: &BTreeMap<String, String>) -> Result<()> {
    const ADVICE: &str = "put it into the servers' settings as [credential.NAME], and say --option credential=NAME";
    if let Some(key) = options.keys().find(|key| *key != CREDENTIAL && is_secret(key)) {
        let message = format!("{key} is a secret, and the options of a mount are kept and shown");
        return Err(Error::new(ErrorKind::Config, message).advise(ADVICE));
    }
    let authority = uri.split_once("://").map_or("", |(_, rest)| rest.split(['/', '?']).next().unwrap_or_default());
    let with_password = authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
    let query = uri.split_once("://").and_then(|(_, rest)| rest.split_once('?')).map_or("", |(_, query)| query);
    let with_secret =
        query.split('&').filter_map(|pair| pair.split('=').next()).any(|key| key == "sig" || is_secret(key));
    if with_password || with_secret {
        let message = "the URI of a mount holds a secret, and URIs are kept and shown";
        return Err(Error::new(ErrorKind::Config, message).advise(ADVICE));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        let values = BTreeMap::from([("access_key_id".to_owned(), Secret::new("AKIA"))]);
        BTreeMap::from([("prod".to_owned(), values)]).into()
    }

    #[test]
    fn a_credential_is_found_by_name_and_not_printed() {
        let all = credentials();
        assert_eq!(all.named(Some("prod"), "aws").unwrap()["accesskeyid"].expose(), "AKIA");
        assert!(all.named(None, "aws").unwrap().is_empty());
        let unknown = all.named(Some("test"), "aws").unwrap_err();
        assert!(unknown.to_string().contains("known: prod") && unknown.advice().unwrap().contains("[credential.test]"));
        assert!(!format!("{all:?}").contains("AKIA"));
    }

    #[test]
    fn secrets_in_the_open_are_refused_and_not_repeated() {
        let option = |key: &str| BTreeMap::from([(key.to_owned(), "hunter2".to_owned())]);
        for key in ["aws.secretKey", "s3a.accessKeyId", "fs.azure.account-key", "password", "sas_token"] {
            let error = check_public("s3://b/", &option(key)).unwrap_err();
            assert!(error.advice().unwrap().contains("credential=NAME") && !error.to_string().contains("hunter2"));
        }
        for uri in ["s3://key:hunter2@b/p", "https://h/p?sig=hunter2", "webdav://h/?access_token=hunter2"] {
            let error = check_public(uri, &BTreeMap::new()).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        check_public("wasb://c@account.blob.core.windows.net/p", &option("region")).unwrap();
        check_public("/data/a:b@c", &option(CREDENTIAL)).unwrap();
    }
}
