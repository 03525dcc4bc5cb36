//! The way to a cluster: settings from which connections are made, with this or that changed.

use std::{collections::BTreeMap, ffi::OsString, fmt, path::PathBuf, sync::Arc};

use larder_client::Config;
use larder_common::{
    Result,
    settings::{Flag, Secret, Settings, Sources},
};
use larder_proto::{Channel, Greeting, greeting::Token};

type Load = dyn Fn(Vec<Flag>) -> Result<Settings> + Send + Sync;

/// The way to a cluster.
#[derive(Clone)]
pub struct Door(Arc<Load>);

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Door")
    }
}

impl Door {
    /// The cluster of these settings; `load` reads them anew with some more.
    pub fn new(load: impl Fn(Vec<Flag>) -> Result<Settings> + Send + Sync + 'static) -> Self {
        Self(Arc::new(load))
    }

    /// The master at this address of the loopback interface. Nothing is read from the environment.
    #[must_use]
    pub fn of_own(port: u16, token: Option<String>) -> Self {
        Self::new(move |flags| {
            let files = BTreeMap::<PathBuf, String>::new();
            let mut sources = Sources::new(Vec::<(OsString, OsString)>::new(), &files);
            sources.flags = flags;
            sources = sources.flag("-", "master.hostname", "127.0.0.1").flag("-", "master.rpc.port", port.to_string());
            if let Some(token) = &token {
                sources = sources.flag("-", "security.token", token.clone());
            }
            Settings::load(&sources).map(|(settings, _warnings)| settings)
        })
    }

    /// What a client is told, with these settings changed.
    ///
    /// # Errors
    /// `Config` for a wrong setting.
    pub fn config(&self, changes: &[(&str, &str)]) -> Result<Config> {
        let flag = |(name, value): &(&str, &str)| Flag {
            shown: "larder bench".into(),
            name: (*name).into(),
            value: (*value).into(),
        };
        Ok(Config::from_settings(&(self.0)(changes.iter().map(flag).collect())?))
    }

    /// A bare connection to the master.
    ///
    /// # Errors
    /// `Config` for an address that is none.
    pub fn channel(&self) -> Result<Channel> {
        let settings = (self.0)(Vec::new())?;
        let address = settings.master_address();
        let channel = Channel::to(&address.host, address.port)?;
        let token = settings.security.token.as_ref().map(Secret::expose).unwrap_or_default();
        channel.greet(&Greeting::of_server("larder-bench", Token::new(token)));
        Ok(channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_reach_the_client() {
        let door = Door::of_own(1234, Some("secret".into()));
        let config = door.config(&[("user.rpc.timeout", "7s")]).unwrap();
        assert_eq!(config.timeout(), std::time::Duration::from_secs(7));
        assert!(!format!("{config:?} {door:?}").contains("secret"));
        assert!(door.config(&[("user.rpc.timeout", "soon")]).is_err());
    }
}
