//! `larder fs mkdir`, `touch`. Their paths are names to be made, so they are not taken as patterns.

use clap::Args;
use larder_client::{AttributeChanges, CreateOptions, ErrorKind, MkdirOptions, SetTime};

use super::{
    Act, path,
    places::{Authority, Typed},
    shell::{Shell, authorities},
};
use crate::exit::Exit;

/// Make directories, and those above them that are missing
#[derive(Args, Debug)]
pub(crate) struct Mkdir {
    /// The directories
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
    /// One that is there already is no error
    #[arg(short = 'p', long = "parents")]
    parents: bool,
}

/// Make empty files; of those that exist, set the time to now
#[derive(Args, Debug)]
pub(crate) struct Touch {
    /// The files
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
}

impl Act for Mkdir {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let options = MkdirOptions { recursive: true, allow_exists: self.parents, ..MkdirOptions::default() };
        for typed in &self.paths {
            let Some(path) = shell.ok(typed.exact()) else { continue };
            let made = async {
                shell.fs.mkdir(&path, options.clone()).await?;
                shell.done("mkdir", "Successfully created directory ", &path, "")
            };
            shell.pass(&path, made.await)?;
        }
        Ok(shell.exit())
    }
}

impl Act for Touch {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        for typed in &self.paths {
            let Some(path) = shell.ok(typed.exact()) else { continue };
            let touched = async {
                let options = CreateOptions { recursive: true, ..CreateOptions::default() };
                match shell.fs.write(&path, bytes::Bytes::new(), options).await {
                    Ok(_) => shell.done("touch", "", &path, " has been created"),
                    Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::IsDirectory) => {
                        let now = Some(SetTime::Now);
                        let changes = AttributeChanges { accessed: now, modified: now, ..AttributeChanges::default() };
                        shell.fs.set_attributes(&path, changes).await?;
                        shell.done("touch", "", &path, " has been touched")
                    }
                    Err(error) => Err(error.into()),
                }
            };
            shell.pass(&path, touched.await)?;
        }
        Ok(shell.exit())
    }
}
