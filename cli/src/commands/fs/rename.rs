//! `larder fs mv`.

use clap::Args;
use larder_client::{Error, ErrorKind, FsPath, Name, RenameOptions};

use super::{
    Act, path,
    places::{Authority, Typed},
    rows::printed,
    shell::{Shell, authorities},
};
use crate::exit::Exit;

/// Move or rename; into a directory if the last path is one
#[derive(Args, Debug)]
pub(crate) struct Mv {
    /// What to move, and where to
    #[arg(value_name = "PATH", required = true, num_args = 2.., value_parser = path())]
    paths: Vec<Typed>,
    /// Take the place of a file that is there
    #[arg(short, long)]
    force: bool,
}

impl Act for Mv {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let Some((target, sources)) = self.paths.split_last() else { return Ok(Exit::Usage) };
        let sources = shell.expand(sources).await;
        let into = directory(shell, target, sources.len()).await?;
        let target = target.exact()?;
        for source in &sources {
            let moved = async {
                let to = match (into, source.name()) {
                    (true, Some(name)) => target.join(&Name::new(name)?),
                    (true, None) => return Err(Error::new(ErrorKind::Invalid, "the root cannot be moved").into()),
                    (false, _) => target.clone(),
                };
                let options = RenameOptions { no_replace: !self.force, ..RenameOptions::default() };
                shell.fs.rename(source, &to, options).await?;
                said(shell, source, &to)
            };
            shell.pass(source, moved.await)?;
        }
        Ok(shell.exit())
    }
}

/// Whether things go into the target because it is a directory.
///
/// # Errors
/// `NotDirectory` where several things are to go into what is none.
pub(crate) async fn directory(shell: &Shell<'_>, target: &Typed, sources: usize) -> Result<bool, Error> {
    let path = target.exact()?;
    let is_directory = match shell.fs.status(&path).await {
        Ok(status) => status.kind.is_directory(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) => false,
        Err(error) => return Err(error),
    };
    match is_directory {
        false if sources > 1 || target.wants_directory() => Err(Error::new(ErrorKind::NotDirectory, "not a directory")
            .at(&path)
            .advise("make it first: larder fs mkdir")),
        is_directory => Ok(is_directory),
    }
}

fn said(shell: &Shell<'_>, from: &FsPath, to: &FsPath) -> anyhow::Result<()> {
    match shell.output.json {
        true => shell.output.object(&serde_json::json!({
            "action": "mv", "path": from.to_string(), "to": to.to_string(),
        })),
        false => shell.output.bytes(&[b"Renamed ", &printed(from)[..], b" to ", &printed(to), b"\n"].concat()),
    }
}
