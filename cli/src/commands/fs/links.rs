//! `larder fs ln`: hard and symbolic links.

use std::os::unix::ffi::OsStrExt;

use clap::Args;
use larder_client::{Error, ErrorKind, FsPath, Name};

use super::{
    Act, path,
    places::{Authority, Typed, place, typed},
    shell::Shell,
};
use crate::exit::Exit;

/// Make another name of a file, or a symbolic link
#[derive(Args, Debug)]
pub(crate) struct Ln {
    /// A symbolic link: the target is taken as it is, and may be relative or missing
    #[arg(short, long)]
    symbolic: bool,
    /// What it leads to
    #[arg(value_name = "TARGET")]
    target: std::ffi::OsString,
    /// The new name, or a directory to put it in
    #[arg(value_name = "PATH", value_parser = path())]
    path: Typed,
}

impl Act for Ln {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        vec![self.path.authority.as_ref()]
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let exact = self.path.exact()?;
        let path = self.name(shell, &exact).await?;
        if self.symbolic {
            // A target with a scheme means a path of this cluster; else it is kept byte for byte.
            let target = match place(&self.target) {
                Ok(_) if !self.target.as_bytes().starts_with(b"/") => typed(self.target.clone())?.bytes,
                _ => self.target.as_bytes().to_vec(),
            };
            shell.fs.symlink(&target, &path).await.map_err(|error| error.at(&path))?;
        } else {
            let existing = typed(self.target.clone())?.exact()?;
            shell.fs.link(&existing, &path).await.map_err(|error| error.at(&path))?;
        }
        shell.done("ln", "Linked ", &path, "")?;
        Ok(Exit::Done)
    }
}

impl Ln {
    /// Below a directory that exists the link gets the target's name.
    async fn name(&self, shell: &Shell<'_>, path: &FsPath) -> Result<FsPath, Error> {
        match shell.fs.status(path).await {
            Ok(status) if status.kind.is_directory() => {
                let name = self.target.as_bytes().rsplit(|b| *b == b'/').find(|part| !part.is_empty());
                let name =
                    name.ok_or_else(|| Error::new(ErrorKind::Invalid, "the target has no name to give the link"))?;
                Ok(path.join(&Name::new(name)?))
            }
            _ => Ok(path.clone()),
        }
    }
}
