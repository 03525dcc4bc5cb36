//! What the value of a setting can be, and how its text becomes one. Pure; every type says what it accepts in `KIND`,
//! and its errors say how to write it. Text arrives trimmed and, except for `Option`, not empty.

use std::{fmt, num::NonZeroUsize, path::PathBuf, str::FromStr, time::Duration};

use crate::{BlockSize, ByteSize, Error, ErrorKind, Medium, ReadType, Result, TierSpec, WriteType, tier::Quota};

/// A type that a setting can have.
pub trait Value: Sized {
    /// What to write, in a few words, for documentation.
    const KIND: &'static str;

    /// Reads the text of a value.
    ///
    /// # Errors
    /// `Invalid`, naming the text and the form that is wanted.
    fn parse(text: &str) -> Result<Self>;
}

fn wrong(text: &str, wanted: &str, advice: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("{text:?} is not {wanted}")).advise(advice)
}

macro_rules! by_from_str {
    ($($type:ty = $kind:literal;)*) => { $(
        impl Value for $type {
            const KIND: &'static str = $kind;
            fn parse(text: &str) -> Result<Self> {
                text.parse()
            }
        }
    )* };
}

by_from_str! {
    TierSpec = "tier";
    Medium = "medium";
    ByteSize = "size";
    Quota = "size, share or `auto`";
    ReadType = "read type";
    WriteType = "write type";
    Percent = "percent";
    PolicyName = "policy";
    HugePages = "`auto`, `never`, `always`";
    Freshness = "`auto`, `never`, `once`, `always`, duration";
    Authentication = "`auto`, `simple`, `token`";
    LogFormat = "`text`, `json`";
    LogOutput = "`stderr`, `stdout`";
    FuseProfile = "`general`, `dataset`";
}

impl Value for String {
    const KIND: &'static str = "text";
    fn parse(text: &str) -> Result<Self> {
        Ok(text.to_owned())
    }
}

impl Value for bool {
    const KIND: &'static str = "`true`, `false`";
    fn parse(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err(wrong(text, "true or false", "write true or false")),
        }
    }
}

impl Value for u16 {
    const KIND: &'static str = "port";
    fn parse(text: &str) -> Result<Self> {
        text.parse().map_err(|_| wrong(text, "a port", "give a number from 1 to 65535, or 0 for any free port"))
    }
}

impl Value for u32 {
    const KIND: &'static str = "number";
    fn parse(text: &str) -> Result<Self> {
        text.parse().map_err(|_| wrong(text, "a number", "give a whole number from 0 to 4294967295"))
    }
}

impl Value for u64 {
    const KIND: &'static str = "number";
    fn parse(text: &str) -> Result<Self> {
        text.parse().map_err(|_| wrong(text, "a number", "give a whole number, not negative"))
    }
}

impl Value for NonZeroUsize {
    const KIND: &'static str = "number from 1";
    fn parse(text: &str) -> Result<Self> {
        text.parse().map_err(|_| wrong(text, "a number from 1", "give a whole number, at least 1"))
    }
}

impl Value for Duration {
    const KIND: &'static str = "duration";
    fn parse(text: &str) -> Result<Self> {
        humantime::parse_duration(text)
            .map_err(|e| wrong(text, &format!("a duration: {e}"), "write it as 500ms, 30s or 2h"))
    }
}

impl Value for BlockSize {
    const KIND: &'static str = "block size";
    fn parse(text: &str) -> Result<Self> {
        BlockSize::new(text.parse::<ByteSize>()?.0)
    }
}

impl Value for PathBuf {
    const KIND: &'static str = "path";
    fn parse(text: &str) -> Result<Self> {
        match text.starts_with('/') {
            true => Ok(text.into()),
            false => Err(wrong(text, "an absolute path", "begin it with `/`")),
        }
    }
}

impl Value for Vec<String> {
    const KIND: &'static str = "words with commas";
    fn parse(text: &str) -> Result<Self> {
        Ok(words(text).map(str::to_owned).collect())
    }
}

macro_rules! lists {
    ($($type:ty = $kind:literal;)*) => { $(
        impl Value for Vec<$type> {
            const KIND: &'static str = $kind;
            fn parse(text: &str) -> Result<Self> {
                words(text).map(<$type>::parse).collect()
            }
        }
    )* };
}

lists! {
    TierSpec = "tiers";
    PathBuf = "paths with commas";
    Medium = "media with commas";
    Quota = "sizes with commas";
}

impl<T: Value> Value for Option<T> {
    const KIND: &'static str = T::KIND;
    fn parse(text: &str) -> Result<Self> {
        match text {
            "" => Ok(None),
            text => T::parse(text).map(Some),
        }
    }
}

/// The parts between commas, without blanks and empty ones.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// A name or address of a host, without a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host(String);

impl Host {
    /// The name or address as it was given; an IPv6 address has no brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// This host with a port.
    #[must_use]
    pub fn port(&self, port: u16) -> HostPort {
        HostPort { host: self.0.clone(), port }
    }
}

impl Value for Host {
    const KIND: &'static str = "host";
    fn parse(text: &str) -> Result<Self> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let is_name = bare.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        match bare.parse::<std::net::Ipv6Addr>().is_ok() || (is_name && !bare.is_empty()) {
            true => Ok(Self(bare.to_owned())),
            false => Err(wrong(text, "a host name or address", "give it without scheme, port or path")),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Where to connect or to listen. The name is resolved anew at each connect, never once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Name or address; an IPv6 address has no brackets.
    pub host: String,
    /// The port; 0 where any free one will do.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Something that is never printed: it shows as `***` everywhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// What stands where a secret would be printed.
    pub const HIDDEN: &'static str = "***";

    /// Keeps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Value for Secret {
    const KIND: &'static str = "secret";
    fn parse(text: &str) -> Result<Self> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::HIDDEN)
    }
}

/// A share, kept as a fraction from 0 to 1; written `90%`, or as Alluxio writes it, `0.9`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// The share as a fraction from 0 to 1.
    #[must_use]
    pub fn fraction(self) -> f64 {
        self.0
    }

    /// This share of so many bytes, rounded down.
    #[must_use]
    pub fn of(self, size: ByteSize) -> ByteSize {
        ByteSize((size.0 as f64 * self.0) as u64)
    }
}

impl FromStr for Percent {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fraction = match text.strip_suffix('%') {
            Some(number) => number.trim().parse::<f64>().map(|percent| percent / 100.0),
            None => text.parse::<f64>(),
        };
        match fraction {
            Ok(fraction) if (0.0..=1.0).contains(&fraction) => Ok(Self(fraction)),
            _ => Err(wrong(text, "a share", "write it as 90% or 0.9")),
        }
    }
}

/// The name of an eviction policy in capitals without `-` and `_`. Whether there is such a policy is known by the
/// registry of policies in the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyName(String);

impl PolicyName {
    /// The name as the registry of policies spells it: `AUTO`, `S3FIFO`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PolicyName {
    type Err = Error;

    /// A policy's name, or one of Alluxio's classes (`alluxio.worker.block.evictor.LRUEvictor`).
    fn from_str(text: &str) -> Result<Self> {
        let class = text.rsplit('.').next().unwrap_or(text);
        let bare = class.strip_suffix("Evictor").or_else(|| class.strip_suffix("Annotator")).unwrap_or(class);
        let name = bare.replace(['-', '_'], "").to_ascii_uppercase();
        match !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric()) {
            true => Ok(Self(name)),
            false => Err(wrong(text, "the name of a policy", "give AUTO, LRU, LRFU, S3FIFO or UNIFORM")),
        }
    }
}

macro_rules! choice {
    ($(#[$outer:meta])* $type:ident { $($(#[$doc:meta])* $variant:ident = $text:literal $(| $other:literal)*,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type { $($(#[$doc])* $variant,)* }

        impl $type {
            /// As it is written in settings.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $($type::$variant => $text,)* }
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                match text.to_ascii_lowercase().as_str() {
                    $($text $(| $other)* => Ok($type::$variant),)*
                    _ => Err(wrong(text, "a choice here", &format!("use one of {}", [$($text),*].join(", ")))),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

choice! {
    /// Whether a worker mounts a tmpfs with huge pages for its MEM tier.
    HugePages {
        /// Where it may mount.
        Auto = "auto",
        /// Not even where it may.
        Never = "never",
        /// It does not start without.
        Always = "always",
    }
}

choice! {
    /// How a server decides whom it believes.
    Authentication {
        /// By token if one is set; else only loopback is served, and the caller's claim believed there.
        Auto = "auto",
        /// The caller's claim is believed, from any address.
        Simple = "simple" | "nosasl",
        /// By token only.
        Token = "token",
    }
}

choice! {
    /// How log lines look.
    LogFormat {
        /// For people.
        Text = "text",
        /// One object a line.
        Json = "json",
    }
}

choice! {
    /// Where servers log.
    LogOutput {
        /// Standard error.
        Stderr = "stderr",
        /// Standard output.
        Stdout = "stdout",
    }
}

choice! {
    /// What a mount is tuned for.
    FuseProfile {
        /// Full POSIX.
        General = "general",
        /// Trees that do not change while they are mounted.
        Dataset = "dataset",
    }
}

/// How long what is known of the under store is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Watch local directories; 1 s where watching cannot work, 60 s for object stores.
    Auto,
    /// Never look: what is not in the namespace is not there.
    Never,
    /// Look once, at the first touch.
    Once,
    /// Look at every touch.
    Always,
    /// Look again after so long.
    Every(Duration),
}

impl FromStr for Freshness {
    type Err = Error;

    /// A word or a duration; Alluxio's `-1` is `once` and its `0` is `always`.
    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Freshness::Auto),
            "never" => Ok(Freshness::Never),
            "once" | "-1" => Ok(Freshness::Once),
            "always" | "0" | "0ms" => Ok(Freshness::Always),
            other => Duration::parse(other)
                .map(Freshness::Every)
                .map_err(|_| wrong(text, "a freshness", "use auto, never, once, always or a duration such as 30s")),
        }
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Freshness::Auto => f.pad("auto"),
            Freshness::Never => f.pad("never"),
            Freshness::Once => f.pad("once"),
            Freshness::Always => f.pad("always"),
            Freshness::Every(duration) => write!(f, "{}", humantime::format_duration(*duration)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alluxio_s_spellings_are_understood() {
        assert_eq!(Duration::parse("10sec").unwrap(), Duration::from_secs(10));
        assert_eq!(Duration::parse("1day").unwrap(), Duration::from_secs(86_400));
        assert_eq!(Percent::parse("0.95").unwrap().fraction(), 0.95);
        let class = "alluxio.worker.block.annotator.LRFUAnnotator";
        assert_eq!(PolicyName::parse(class).unwrap().as_str(), "LRFU");
        assert_eq!(Freshness::parse("-1").unwrap(), Freshness::Once);
        assert_eq!(Authentication::parse("NOSASL").unwrap(), Authentication::Simple);
    }

    #[test]
    fn policies_are_named_in_one_way() {
        for text in ["s3-fifo", "S3_FIFO", "s3fifo"] {
            assert_eq!(PolicyName::parse(text).unwrap().as_str(), "S3FIFO");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in ["alluxio://a", "a:1", "a b", "a/b", "[", ""] {
            assert!(Host::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Host::parse("[::1]").unwrap().port(1).to_string(), "[::1]:1");
        assert_eq!(Host::parse("my_host.local").unwrap().port(9).to_string(), "my_host.local:9");
    }

    #[test]
    fn shares_have_bounds() {
        assert_eq!(Percent::parse("90%").unwrap().of(ByteSize(1000)), ByteSize(900));
        for bad in ["101%", "-1%", "1.5", "NaN", "most"] {
            assert!(Percent::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let secret = Some(Secret::new("hunter2"));
        assert_eq!(format!("{secret:?}"), "Some(***)");
        assert!(!format!("{secret:#?}").contains("hunter2"));
    }

    #[test]
    fn errors_say_how_to_write_it() {
        let error = Duration::parse("30").unwrap_err();
        assert!(error.message().contains("30") && error.advice().unwrap().contains("30s"), "{error}");
        assert!(u16::parse("70000").is_err());
        assert!(PathBuf::parse("relative").is_err());
    }
}
