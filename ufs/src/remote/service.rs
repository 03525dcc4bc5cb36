//! The services: for each, the schemes of its URIs, which options a mount may give, which values a credential may hold,
//! and how these become an operator of the library. One entry of [`SERVICES`] for each.
//!
//! What is read from the options is a list of what may be said, so that no option reaches the library unseen. Values of
//! credentials (and only these) may be secret.

use std::collections::BTreeMap;

use larder_common::{Error, ErrorKind, Result, settings::Secret};
use opendal::{Builder, Operator, services};

use super::failure;
use crate::credential::{self, CREDENTIAL, Credentials};

/// Values by their names in the library.
type Values = BTreeMap<String, String>;

/// One kind of store.
pub(super) struct Service {
    /// Its name for people.
    pub(super) name: &'static str,
    /// Whether something can be published in it so that a reader sees the old or the new.
    pub(super) publishes: bool,
    /// How its URIs begin.
    pub(super) schemes: &'static [&'static str],
    /// The credential that is used where a mount names none.
    usual: &'static str,
    /// What a mount may say.
    options: &'static [&'static str],
    /// What a credential may hold: the library's name, and others for it, all [`credential::plain`].
    secrets: &'static [(&'static str, &'static [&'static str])],
    /// What the place in the URI becomes.
    place: fn(&str, &Place, &mut Values) -> Result<()>,
    build: fn(Values) -> opendal::Result<Operator>,
}

/// What follows the scheme.
pub(super) struct Place {
    authority: String,
    path: String,
}

impl Place {
    fn of(rest: &str) -> Self {
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        Self { authority: authority.to_owned(), path: path.trim_matches('/').to_owned() }
    }

    /// The directory that is the store's root.
    fn root(&self) -> String {
        format!("/{}", self.path)
    }
}

fn build<B: Builder>(values: Values) -> opendal::Result<Operator> {
    Operator::from_iter::<B>(values)
}

const KEY_ID: (&str, &[&str]) = ("access_key_id", &["accesskeyid", "accesskey", "awsaccesskeyid", "keyid"]);

/// All that are built in.
pub(super) const SERVICES: &[Service] = &[
    Service {
        name: "S3",
        publishes: true,
        schemes: &["s3", "s3a", "s3n"],
        usual: "aws",
        options: &[
            "endpoint",
            "region",
            "profile",
            "role_arn",
            "external_id",
            "role_session_name",
            "server_side_encryption",
            "server_side_encryption_aws_kms_key_id",
            "default_storage_class",
            "enable_virtual_host_style",
            "enable_request_payer",
            "checksum_algorithm",
            "disable_ec2_metadata",
            "disable_config_load",
            "disable_list_objects_v2",
            "skip_signature",
            "default_acl",
        ],
        secrets: &[
            KEY_ID,
            ("secret_access_key", &["secretaccesskey", "secretkey", "secret", "awssecretaccesskey"]),
            ("session_token", &["sessiontoken", "token", "awssessiontoken"]),
        ],
        place: |_, place, values| {
            values.entry("region".into()).or_insert_with(region);
            bucket("bucket", place, values)
        },
        build: build::<services::S3>,
    },
    Service {
        name: "Alibaba OSS",
        publishes: true,
        schemes: &["oss"],
        usual: "oss",
        options: &[
            "endpoint",
            "addressing_style",
            "server_side_encryption",
            "server_side_encryption_key_id",
            "role_arn",
            "role_session_name",
            "skip_signature",
        ],
        secrets: &[
            KEY_ID,
            ("access_key_secret", &["accesskeysecret", "secretaccesskey", "secretkey", "secret"]),
            ("security_token", &["securitytoken", "sessiontoken", "token"]),
        ],
        place: |_, place, values| {
            if !values.contains_key("endpoint") {
                return Err(needs("endpoint", "--option endpoint=https://oss-eu-central-1.aliyuncs.com"));
            }
            bucket("bucket", place, values)
        },
        build: build::<services::Oss>,
    },
    #[cfg(feature = "gcs")]
    Service {
        name: "Google Cloud Storage",
        publishes: true,
        schemes: &["gs", "gcs"],
        usual: "gcs",
        options: &[
            "endpoint",
            "scope",
            "service_account",
            "predefined_acl",
            "default_storage_class",
            "disable_vm_metadata",
            "disable_config_load",
            "skip_signature",
        ],
        secrets: &[
            ("credential", &["credential", "json"]),
            ("credential_path", &["credentialpath", "path"]),
            ("token", &["token"]),
        ],
        place: |_, place, values| bucket("bucket", place, values),
        build: build::<services::Gcs>,
    },
    #[cfg(feature = "azblob")]
    Service {
        name: "Azure Blob Storage",
        publishes: true,
        schemes: &["azblob", "wasb", "wasbs"],
        usual: "azblob",
        options: &["endpoint", "account_name", "skip_signature"],
        secrets: &[
            ("account_name", &["accountname"]),
            ("account_key", &["accountkey", "key"]),
            ("sas_token", &["sastoken", "token"]),
        ],
        place: azure,
        build: build::<services::Azblob>,
    },
    Service {
        name: "HTTP",
        publishes: false,
        schemes: &["http", "https"],
        usual: "http",
        options: &[],
        secrets: WEB,
        place: |scheme, place, values| endpoint(scheme, place, values),
        build: build::<services::Http>,
    },
    Service {
        name: "WebDAV",
        publishes: true,
        schemes: &["webdav", "webdavs", "dav", "davs"],
        usual: "webdav",
        options: &[],
        secrets: WEB,
        place: |scheme, place, values| endpoint(if scheme.ends_with("vs") { "https" } else { "http" }, place, values),
        build: build::<services::Webdav>,
    },
    Service {
        name: "WebHDFS",
        publishes: false,
        schemes: &["webhdfs", "swebhdfs"],
        usual: "webhdfs",
        options: &["user_name", "disable_list_batch"],
        secrets: &[("delegation", &["delegation", "delegationtoken", "token"]), ("user_name", &["username", "user"])],
        place: |scheme, place, values| endpoint(if scheme.starts_with('s') { "https" } else { "http" }, place, values),
        build: build::<services::Webhdfs>,
    },
    Service {
        name: "HDFS",
        publishes: false,
        schemes: &["hdfs"],
        usual: "hdfs",
        options: &[],
        secrets: &[],
        place: |_, place, values| {
            values.insert("name_node".into(), format!("hdfs://{}", place.authority));
            Ok(())
        },
        build: build::<services::HdfsNative>,
    },
];

const WEB: &[(&str, &[&str])] =
    &[("username", &["username", "user"]), ("password", &["password"]), ("token", &["token"])];

/// What is known, but not in this build.
#[cfg(not(all(feature = "gcs", feature = "azblob")))]
const ABSENT: &[(&str, &str)] = &[
    #[cfg(not(feature = "gcs"))]
    ("gs", "gcs"),
    #[cfg(not(feature = "gcs"))]
    ("gcs", "gcs"),
    #[cfg(not(feature = "azblob"))]
    ("azblob", "azblob"),
    #[cfg(not(feature = "azblob"))]
    ("wasb", "azblob"),
    #[cfg(not(feature = "azblob"))]
    ("wasbs", "azblob"),
];

/// The feature that would have to be built in for URIs of this scheme.
pub(crate) fn absent(scheme: &str) -> Option<&'static str> {
    #[cfg(not(all(feature = "gcs", feature = "azblob")))]
    return ABSENT.iter().find(|(absent, _)| *absent == scheme).map(|(_, feature)| *feature);
    #[cfg(all(feature = "gcs", feature = "azblob"))]
    None
}

/// The service of a scheme.
pub(super) fn of_scheme(scheme: &str) -> Option<&'static Service> {
    SERVICES.iter().find(|service| service.schemes.contains(&scheme))
}

fn needs(what: &str, advice: &str) -> Error {
    Error::new(ErrorKind::Config, format!("this under store needs the option {what}")).advise(format!("say {advice}"))
}

/// Services that only look like S3 ask for some region, and none in particular.
fn region() -> String {
    let named = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| std::env::var(name).ok());
    named.unwrap_or_else(|| "us-east-1".to_owned())
}

fn bucket(key: &str, place: &Place, values: &mut Values) -> Result<()> {
    if place.authority.is_empty() {
        return Err(Error::new(ErrorKind::Config, "the URI names no bucket").advise("write it as s3://BUCKET/PREFIX"));
    }
    values.insert(key.to_owned(), place.authority.clone());
    Ok(())
}

fn endpoint(scheme: &str, place: &Place, values: &mut Values) -> Result<()> {
    if place.authority.is_empty() {
        return Err(Error::new(ErrorKind::Config, "the URI names no host"));
    }
    values.insert("endpoint".to_owned(), format!("{scheme}://{}", place.authority));
    Ok(())
}

/// `wasb://CONTAINER@ACCOUNT.blob.core.windows.net/…`, or `azblob://CONTAINER/…` with the option `account_name`.
#[cfg(feature = "azblob")]
fn azure(_: &str, place: &Place, values: &mut Values) -> Result<()> {
    let (container, host) = match place.authority.split_once('@') {
        Some((container, host)) => (container, Some(host)),
        None => (place.authority.as_str(), None),
    };
    values.insert("container".to_owned(), container.to_owned());
    if let Some(host) = host {
        values.entry("endpoint".to_owned()).or_insert_with(|| format!("https://{host}"));
        let account = host.split('.').next().unwrap_or_default();
        values.entry("account_name".to_owned()).or_insert_with(|| account.to_owned());
    }
    if !values.contains_key("endpoint") {
        let account = values.get("account_name").ok_or_else(|| needs("account_name", "--option account_name=NAME"))?;
        let address = format!("https://{account}.blob.core.windows.net");
        values.insert("endpoint".to_owned(), address);
    }
    Ok(())
}

impl Service {
    /// An operator for a place, not yet asked anything.
    ///
    /// # Errors
    /// `Config`: an option that this service does not have, with the nearest that it has; a credential that is not
    /// known; what the library says of the values.
    pub(super) fn open(
        &self,
        (scheme, rest): (&str, &str),
        options: &BTreeMap<String, String>,
        credentials: &Credentials,
    ) -> Result<Operator> {
        let place = Place::of(rest);
        let secrets = credentials.named(options.get(CREDENTIAL).map(String::as_str), self.usual)?;
        let mut values = self.secrets(&secrets)?;
        for (key, value) in options.iter().filter(|(key, _)| !is_ours(key)) {
            values.insert(self.option(key)?.to_owned(), value.clone());
        }
        (self.place)(scheme, &place, &mut values)?;
        values.insert("root".to_owned(), place.root());
        (self.build)(values).map_err(|error| {
            Error::new(ErrorKind::Config, format!("{} cannot be used so: {}", self.name, failure::text(&error)))
        })
    }

    /// A credential may also hold what is not secret, such as the endpoint that it is for.
    fn secrets(&self, given: &BTreeMap<String, Secret>) -> Result<Values> {
        let mut values = Values::new();
        for (key, secret) in given {
            let known = self.secrets.iter().find(|(_, names)| names.contains(&key.as_str())).map(|(name, _)| *name);
            let name = known.map_or_else(|| self.option(key), Ok)?;
            values.insert(name.to_owned(), secret.expose().to_owned());
        }
        Ok(values)
    }

    /// The library's name of an option. Only what follows the last dot counts, so that `alluxio.underfs.s3.endpoint`
    /// is understood.
    fn option(&self, key: &str) -> Result<&'static str> {
        let asked = credential::plain(key.rsplit('.').next().unwrap_or(key));
        let found = self.options.iter().find(|name| credential::plain(name) == asked);
        found.copied().ok_or_else(|| self.unknown(key, &asked))
    }

    fn unknown(&self, key: &str, asked: &str) -> Error {
        let near = |name: &&&str| strsim::damerau_levenshtein(&credential::plain(name), asked);
        let nearest = self.options.iter().min_by_key(near).filter(|name| near(name) <= 3);
        let hint = nearest.map(|name| format!("did you mean {name}? ")).unwrap_or_default();
        let all = if self.options.is_empty() { "none".to_owned() } else { self.options.join(", ") };
        Error::new(ErrorKind::Config, format!("{} has no option {key}", self.name))
            .advise(format!("{hint}its options are {all}"))
    }
}

/// Options that the master understands, whatever the store.
fn is_ours(key: &str) -> bool {
    [CREDENTIAL, "freshness", "links.outside"].contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(uri: &str, options: &[(&str, &str)], credentials: &Credentials) -> Result<Operator> {
        let (scheme, rest) = uri.split_once("://").unwrap();
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        of_scheme(scheme).unwrap().open((scheme, rest), &options, credentials)
    }

    fn with(name: &str, values: &[(&str, &str)]) -> Credentials {
        let values = values.iter().map(|(k, v)| ((*k).to_owned(), Secret::new(*v))).collect();
        BTreeMap::from([(name.to_owned(), values)]).into()
    }

    #[test]
    fn places_become_buckets_and_prefixes() {
        let info = open("s3a://bucket/a/b/", &[("alluxio.underfs.s3.endpoint", "http://h:1")], &Credentials::default());
        let info = info.unwrap().info();
        assert_eq!((info.name(), info.root()), ("bucket".into(), "/a/b/".into()));
        assert_eq!(open("https://h/x", &[], &Credentials::default()).unwrap().info().root(), "/x/");
        assert!(open("s3:///x", &[], &Credentials::default()).unwrap_err().message().contains("no bucket"));
        assert!(open("oss://b", &[], &Credentials::default()).unwrap_err().message().contains("endpoint"));
    }

    #[test]
    fn options_are_those_of_the_service() {
        let none = Credentials::default();
        let error = open("s3://b", &[("regoin", "x")], &none).unwrap_err();
        assert!(error.advice().unwrap().contains("did you mean region?"), "{error:?}");
        assert!(open("s3://b", &[("root", "/etc")], &none).is_err());
        assert!(open("http://h", &[("region", "x")], &none).unwrap_err().advice().unwrap().contains("none"));
        open("s3://b", &[("freshness", "always"), ("links.outside", "keep")], &none).unwrap();
    }

    #[test]
    fn credentials_are_named_or_usual() {
        let prod = with("prod", &[("aws.accessKeyId", "AKIA"), ("secret_key", "hunter2")]);
        open("s3://b", &[("credential", "prod")], &prod).unwrap();
        let prod = with("prod", &[("accessKeyId", "AKIA"), ("secret_key", "hunter2"), ("endpoint", "http://h")]);
        let operator = open("s3://b", &[("credential", "prod")], &prod).unwrap();
        assert!(!format!("{operator:?}").contains("hunter2"));
        assert!(open("s3://b", &[("credential", "other")], &prod).unwrap_err().message().contains("known: prod"));
        let wrong = with("aws", &[("pasword", "hunter2")]);
        let error = open("s3://b", &[], &wrong).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}
