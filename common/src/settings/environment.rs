//! Settings from the environment: `LARDER_*`, `ALLUXIO_*`, and options for Java. Pure.
//!
//! Passed over is what Kubernetes and Docker inject for a service whose name begins with `larder` or `alluxio`: it names
//! a service, not a setting, and would otherwise stop every pod beside such a service.

use std::ffi::{OsStr, OsString};

use super::{
    java,
    registry::{self, Dialect},
    setting::{Role, Setting},
    sources::{Origin, Sources},
    value::Secret,
    values::Collector,
};
use crate::{Error, ErrorKind, Result};

const OURS: &str = "LARDER_";
const THEIRS: &str = "ALLUXIO_";

/// Known variables that are no settings: the configuration file, and what only the image's build reads.
const KNOWN: &[&str] = &["LARDER_CONFIG", "LARDER_TARBALL", "ALLUXIO_TARBALL", "ALLUXIO_CONF_DIR", "ALLUXIO_HOME"];

/// Options for Java, and the role that alone reads them. Later ones are asked first.
const JAVA: &[(&str, Option<Role>)] = &[
    ("ALLUXIO_JAVA_OPTS", None),
    ("ALLUXIO_USER_JAVA_OPTS", Some(Role::Client)),
    ("ALLUXIO_FUSE_JAVA_OPTS", Some(Role::Fuse)),
    ("ALLUXIO_WORKER_JAVA_OPTS", Some(Role::Worker)),
    ("ALLUXIO_MASTER_JAVA_OPTS", Some(Role::Master)),
];

/// Takes all settings of the environment, in the order of the variables' names.
///
/// # Errors
/// `Config` for an unknown `LARDER_*` name, or a value that cannot be read.
pub(super) fn collect(sources: &Sources<'_>, collector: &mut Collector<'_>) -> Result<()> {
    let mut unused = Vec::new();
    for (name, value) in in_order(&sources.environment) {
        let Some(name) = name.to_str() else { continue };
        let concerns = name.starts_with(OURS) || name.starts_with(THEIRS) || is_bare(name);
        if !concerns || KNOWN.contains(&name) || is_injected(name, value) || JAVA.iter().any(|(java, _)| *java == name)
        {
            continue;
        }
        if !variable(name, value, sources.role, collector)? {
            unused.push(described(name));
        }
    }
    if sources
        .environment
        .iter()
        .rev()
        .find(|(name, _)| name == "LARDER_CONFIG")
        .is_some_and(|(_, path)| path.is_empty())
    {
        collector.warn("LARDER_CONFIG is empty and counts as not set".to_owned());
    }
    if !unused.is_empty() {
        collector.warn(format!("Larder has no use for {}", unused.join(", ")));
    }
    for (variable, _) in JAVA.iter().rev().filter(|(_, role)| applies(*role, sources.role)) {
        if let Some(options) = sources.variable(variable) {
            java::collect(variable, options, collector)?;
        }
    }
    Ok(())
}

/// The variables by name, the last of those with one name.
fn in_order(environment: &[(OsString, OsString)]) -> impl Iterator<Item = (&OsStr, &OsStr)> {
    let pairs = environment.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
    pairs.collect::<std::collections::BTreeMap<_, _>>().into_iter()
}

fn applies(only: Option<Role>, role: Option<Role>) -> bool {
    match (only, role) {
        (None, _) | (_, None | Some(Role::Local)) => true,
        (Some(only), Some(role)) => only == role || (only == Role::Client && role == Role::Fuse),
    }
}

/// Variables without a prefix, with what they set. Their names are not ours alone, so only the roles that use the setting
/// look at them.
fn bare_settings() -> impl Iterator<Item = (&'static str, &'static Setting)> {
    registry::all().flat_map(|setting| setting.variables.iter().map(move |name| (*name, setting)))
}

fn is_bare(name: &str) -> bool {
    bare_settings().any(|(variable, _)| variable == name)
}

/// Takes one variable; answers whether anything has a use for it.
fn variable(name: &str, value: &OsStr, role: Option<Role>, collector: &mut Collector<'_>) -> Result<bool> {
    let not_text = || Error::new(ErrorKind::Config, format!("{name}: {value:?} is not UTF-8"));
    if let Some(key) = name.strip_prefix(OURS) {
        let text = value.to_str().ok_or_else(not_text)?;
        let known = collector.take(key, Dialect::Larder, text, Origin::Variable(name.to_owned()))?;
        return if known { Ok(true) } else { Err(unknown(name, key, text)) };
    }
    let origin = Origin::AlluxioVariable(name.to_owned());
    if let Some((_, setting)) = bare_settings().find(|(variable, _)| *variable == name) {
        return match value.to_str() {
            Some(text) if role.is_none_or(|role| setting.roles.contains(&role)) => {
                collector.take(setting.name, Dialect::Larder, text, origin)
            }
            _ => Ok(true),
        };
    }
    let key = name.strip_prefix(THEIRS).unwrap_or(name);
    match value.to_str() {
        Some(text) => collector.take(key, Dialect::Alluxio, text, origin),
        None if registry::find(key, Dialect::Alluxio).is_some() => Err(not_text()),
        None => Ok(false),
    }
}

/// The error for a name that nobody knows; `key` is the name without the prefix of its source.
fn unknown(name: &str, key: &str, value: &str) -> Error {
    let near = registry::nearest(key, Dialect::Larder);
    let error = Error::new(ErrorKind::Config, format!("{name}={} is not a setting", printable(key, value)));
    match near {
        Some(near) => error.advise(format!("did you mean {OURS}{near}?")),
        None => error.advise("`larder config show` lists all settings"),
    }
}

/// The value of a name that nobody knows, hidden where it could be a secret with its name misspelt.
pub(super) fn printable<'a>(key: &str, value: &'a str) -> &'a str {
    const HINTS: [&str; 5] = ["TOKEN", "SECRET", "KEY", "PASS", "CREDENTIAL"];
    let key = key.to_ascii_uppercase();
    let near = registry::nearest(&key, Dialect::Larder).and_then(|near| registry::find(&near, Dialect::Larder));
    let looks_secret = HINTS.iter().any(|hint| key.contains(hint)) || near.is_some_and(|near| near.setting.secret);
    if looks_secret { Secret::HIDDEN } else { value }
}

fn described(name: &str) -> String {
    let near = name.strip_prefix(THEIRS).and_then(|key| registry::nearest(key, Dialect::Alluxio));
    near.map_or_else(|| name.to_owned(), |near| format!("{name} (did you mean {THEIRS}{near}?)"))
}

/// Whether Kubernetes or Docker put this variable here for a service.
fn is_injected(name: &str, value: &OsStr) -> bool {
    let value = value.to_string_lossy();
    let points_at_service = PROTOCOLS
        .iter()
        .any(|protocol| value.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case(protocol)));
    // The last two are of Docker's links: `/CONSUMER/ALIAS`, and the environment of what is linked.
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_NAME") && value.starts_with('/'))
        || name.contains("_ENV_")
        || (name.ends_with("_PORT") && points_at_service)
        || name.match_indices("_PORT_").any(|(at, found)| names_a_port(&name[at + found.len()..]))
}

/// What a service's port may speak.
const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];

/// Whether this is `<n>_TCP…`, or with another protocol.
fn names_a_port(rest: &str) -> bool {
    let named = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let protocol = named.strip_prefix('_').unwrap_or_default();
    named.len() < rest.len() && PROTOCOLS.iter().any(|known| protocol.starts_with(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_injected_for_services_is_seen() {
        for (name, value) in [
            ("LARDER_SERVICE_HOST", "10.0.0.1"),
            ("LARDER_MASTER_SERVICE_PORT", "19998"),
            ("LARDER_MASTER_SERVICE_PORT_RPC", "19998"),
            ("LARDER_MASTER_PORT", "tcp://10.0.0.1:19998"),
            ("LARDER_FUSE_PORT", "udp://10.0.0.1:1"),
            ("LARDER_MASTER_PORT_19998_TCP", "tcp://10.0.0.1:19998"),
            ("LARDER_MASTER_PORT_19998_TCP_ADDR", "10.0.0.1"),
            ("ALLUXIO_WORKER_PORT_53_UDP_PROTO", "udp"),
            ("LARDER_PORT", "sctp://10.0.0.1:1"),
            ("LARDER_PORT_1_SCTP_ADDR", "10.0.0.1"),
            ("LARDER_MASTER_NAME", "/consumer/larder-master"),
            ("LARDER_MASTER_ENV_LARDER_PROCESS_IMAGE", "true"),
        ] {
            assert!(is_injected(name, OsStr::new(value)), "{name}");
        }
        for (name, value) in [
            ("LARDER_MASTER_RPC_PORT", "19998"),
            ("LARDER_PORT_X_TCP", "1"),
            ("LARDER_PORT__TCP", "1"),
            ("LARDER_NAME", "x"),
        ] {
            assert!(!is_injected(name, OsStr::new(value)), "{name}");
        }
    }

    #[test]
    fn no_setting_looks_like_a_service() {
        for setting in registry::all() {
            for name in setting.names() {
                let variable = format!("{OURS}{}", super::super::setting::upper(name));
                assert!(!is_injected(&variable, OsStr::new("1")), "{variable}");
            }
        }
    }
}
