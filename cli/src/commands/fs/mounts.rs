//! `larder fs mount`, `updateMount`, `unmount`, `which`. Secrets are refused as options: a mount names a credential.

use std::collections::BTreeMap;

use clap::Args;
use larder_client::{Error, ErrorKind, FsPath, Mount as Mounted, MountChanges, MountOptions};
use serde::Serialize;

use super::{
    Act, path,
    places::{Authority, Typed},
    rows::size,
    shell::{Shell, authorities},
};
use crate::exit::Exit;

/// Mount an under store; without arguments, list the mounts
#[derive(Args, Debug)]
pub(crate) struct Mount {
    /// Nothing below can be changed
    #[arg(long)]
    readonly: bool,
    /// An option of the under store; a credential is named: --option credential=NAME
    #[arg(long, value_name = "KEY=VALUE", value_parser = option)]
    option: Vec<(String, String)>,
    /// Several under stores as one tree: what the first has is seen, and it takes the changes if it says rw
    #[arg(long, value_name = "PATH=BRANCH:rw,BRANCH:ro", value_parser = union, conflicts_with = "path")]
    union: Option<(String, String)>,
    /// Accepted for the sake of scripts: rights are always those of the cluster
    #[arg(long, hide = true)]
    shared: bool,
    /// Where in the cluster
    #[arg(value_name = "PATH", requires = "uri", value_parser = path())]
    path: Option<Typed>,
    /// What: a directory or a URI
    #[arg(value_name = "URI")]
    uri: Option<String>,
}

/// Change how an under store is mounted; what is cached of it stays
#[derive(Args, Debug)]
pub(crate) struct UpdateMount {
    /// Nothing below can be changed
    #[arg(long, conflicts_with = "readwrite")]
    readonly: bool,
    /// What is below can be changed
    #[arg(long)]
    readwrite: bool,
    /// An option of the under store; KEY= takes it away
    #[arg(long, value_name = "KEY=VALUE", value_parser = option)]
    option: Vec<(String, String)>,
    /// Accepted for the sake of scripts: rights are always those of the cluster
    #[arg(long, hide = true)]
    shared: bool,
    /// Where it is mounted
    #[arg(value_name = "PATH", value_parser = path())]
    path: Typed,
}

/// Where the under store has a file: its URI, in a union that of the branch which has it
#[derive(Args, Debug)]
pub(crate) struct Which {
    /// Of what
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
}

/// Take mounts away; what is in their under stores stays there
#[derive(Args, Debug)]
pub(crate) struct Unmount {
    /// Where they are mounted
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
}

/// A mount for programs.
#[derive(Serialize)]
struct Row<'a> {
    path: String,
    uri: &'a str,
    mount_id: u32,
    read_only: bool,
    capacity: Option<u64>,
    used: u64,
    options: &'a BTreeMap<String, String>,
    freshness: &'a str,
    trouble: Option<&'a str>,
}

impl<'a> Row<'a> {
    fn of(mount: &'a Mounted) -> Self {
        Self {
            path: mount.path.to_string(),
            uri: &mount.uri,
            mount_id: mount.id.0,
            read_only: mount.read_only,
            capacity: mount.capacity,
            used: mount.used,
            options: &mount.options,
            freshness: &mount.freshness,
            trouble: mount.trouble.as_deref(),
        }
    }
}

fn option(text: &str) -> Result<(String, String), Error> {
    let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.is_empty()) else {
        return Err(Error::new(ErrorKind::Invalid, "not KEY=VALUE").advise("write it as --option credential=prod"));
    };
    Ok((key.to_owned(), value.to_owned()))
}

/// Refuses secrets among the options. Not while arguments are parsed: what is wrong there is printed with its value.
fn check_public(options: &[(String, String)]) -> Result<(), Error> {
    let Some((key, _)) = options.iter().find(|(key, _)| is_secret(key)) else { return Ok(()) };
    Err(Error::new(ErrorKind::Invalid, format!("{key} is a secret, and options are kept in the journal"))
        .advise("put it into the settings as [credential.NAME], and say --option credential=NAME"))
}

/// `PATH=BRANCH:rw,BRANCH:ro`, as the path and the URI of the union.
fn union(text: &str) -> Result<(String, String), Error> {
    match text.split_once('=') {
        Some((path, branches)) if path.starts_with('/') && branches.contains(',') => {
            Ok((path.to_owned(), format!("union://{branches}")))
        }
        _ => Err(Error::new(ErrorKind::Invalid, "not PATH=BRANCH:rw,BRANCH:ro")
            .advise("write it as --union /path=/patch:rw,/base:ro")),
    }
}

/// Whether an option of this name holds what nobody else may see.
fn is_secret(key: &str) -> bool {
    let plain: String = key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let secret = ["secret", "password", "passwd", "accesskey", "privatekey", "accountkey", "token", "sastoken"];
    secret.iter().any(|word| plain.contains(word))
}

impl Act for Mount {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        self.path.iter().map(|path| path.authority.as_ref()).collect()
    }

    fn check(&self) -> Result<(), Error> {
        check_public(&self.option)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let (path, uri) = match (self.union, self.path, self.uri) {
            (Some((path, uri)), ..) => (FsPath::parse(path.as_bytes())?, uri),
            (None, Some(path), Some(uri)) => (path.exact()?, uri),
            _ => return list(shell).await,
        };
        let options = MountOptions { read_only: self.readonly, options: self.option.into_iter().collect() };
        shell.fs.mount(&path, &uri, options).await.map_err(|error| error.at(&path))?;
        shell.done("mount", &format!("Mounted {uri} at "), &path, "")?;
        Ok(Exit::Done)
    }
}

impl Act for UpdateMount {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        vec![self.path.authority.as_ref()]
    }

    fn check(&self) -> Result<(), Error> {
        check_public(&self.option)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let path = self.path.exact()?;
        let read_only = (self.readonly || self.readwrite).then_some(self.readonly);
        let (removed, set): (Vec<_>, Vec<_>) = self.option.into_iter().partition(|(_, value)| value.is_empty());
        let removed = removed.into_iter().map(|(name, _)| name).collect();
        let changes = MountChanges { read_only, options: set.into_iter().collect(), removed };
        shell.fs.update_mount(&path, changes).await.map_err(|error| error.at(&path))?;
        shell.done("updateMount", "Updated the mount at ", &path, "")?;
        Ok(Exit::Done)
    }
}

impl Act for Which {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        shell
            .each(&self.paths, async |path| {
                let found = shell.fs.which(path).await?;
                if shell.output.json {
                    return shell.output.object(&serde_json::json!({
                        "path": path.to_string(),
                        "uri": found.uri,
                        "stored": found.stored,
                        "mount": found.mount.to_string(),
                    }));
                }
                shell.output.line(format!("{}{}", found.uri, if found.stored { "" } else { " (not there yet)" }))
            })
            .await
    }
}

async fn list(shell: &Shell<'_>) -> anyhow::Result<Exit> {
    for mount in shell.fs.mounts().await? {
        match shell.output.json {
            true => shell.output.object(&Row::of(&mount))?,
            false => shell.output.line(line(&mount))?,
        }
    }
    Ok(Exit::Done)
}

/// A mount in Alluxio's form.
fn line(mount: &Mounted) -> String {
    let capacity = mount.capacity.map_or_else(|| "unknown".to_owned(), |bytes| size(bytes, true));
    let properties: Vec<_> = mount.options.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut text = format!(
        "{:<30} on {:<20} (capacity={capacity}, used={}, {}read-only, properties={{{}}})",
        mount.uri,
        mount.path.to_string(),
        size(mount.used, true),
        if mount.read_only { "" } else { "not " },
        properties.join(", "),
    );
    if let Some(trouble) = &mount.trouble {
        text.push_str(&format!("; does not work now: {trouble}"));
    }
    text
}

impl Act for Unmount {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        shell
            .each(&self.paths, async |path| {
                shell.fs.unmount(path).await?;
                shell.done("unmount", "Unmounted ", path, "; what is in its under store stays there")
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use larder_client::MountId;

    use super::*;

    #[test]
    fn a_mount_is_one_line() {
        let mut mount = Mounted {
            id: MountId(2),
            path: "/data".parse().unwrap(),
            uri: "/under".into(),
            read_only: false,
            options: BTreeMap::from([("a".into(), "1".into())]),
            capacity: Some(1 << 30),
            used: 1 << 20,
            freshness: "watched".into(),
            unproven_workers: Vec::new(),
            trouble: None,
        };
        let under = format!("{:<30}", "/under");
        assert_eq!(
            line(&mount),
            format!(
                "{under} on /data                (capacity=1.00GB, used=1.00MB, not read-only, properties={{a=1}})"
            )
        );
        mount.trouble = Some("it is gone".into());
        assert!(line(&mount).ends_with("; does not work now: it is gone"));
    }

    #[test]
    fn secrets_are_no_options() {
        for secret in ["aws.secretKey=x", "s3a.accessKeyId=x", "fs.azure.account-key=x", "password=x"] {
            let error = check_public(&[option(secret).unwrap()]).unwrap_err();
            assert!(
                error.advice().unwrap().contains("credential=NAME") && !error.to_string().contains("=x"),
                "{secret}"
            );
        }
        assert_eq!(option("region=eu=1").unwrap(), ("region".into(), "eu=1".into()));
        assert!(option("region").is_err() && option("=x").is_err());
        check_public(&[option("credential=prod").unwrap()]).unwrap();
    }

    #[test]
    fn unions_are_written_with_their_path() {
        let (path, uri) = union("/data=/patch:rw,s3://bucket/base:ro").unwrap();
        assert_eq!((&*path, &*uri), ("/data", "union:///patch:rw,s3://bucket/base:ro"));
        assert!(union("/data").is_err() && union("data=/a:rw,/b:ro").is_err() && union("/data=/a:rw").is_err());
    }
}
