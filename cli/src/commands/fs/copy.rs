//! `larder fs cp`, `copyFromLocal`, `copyToLocal`: trees between the cluster and this machine, several files at a time.
//!
//! What fails is named and does not keep the rest from being copied. Directories are walked as the copy goes, so memory
//! does not grow with the tree beyond one directory a level.

use std::path::PathBuf;

use clap::Args;
use larder_client::{Error, ErrorKind};

use super::{
    Act, path, place,
    places::{Authority, Place, Typed, local},
    rename::directory,
    shell::Shell,
    transfer::{How, download_stream, local_error, upload_stream},
    tree::{End, Tree},
};
use crate::exit::Exit;

/// Copy files and directories; file:///… is this machine
#[derive(Args, Debug)]
pub(crate) struct Cp {
    /// What to copy, and where to; into the last if it is a directory
    #[arg(value_name = "PATH", required = true, num_args = 2.., value_parser = place())]
    paths: Vec<Place>,
    /// Directories with everything below
    #[arg(short = 'R', long, short_alias = 'r')]
    recursive: bool,
    #[command(flatten)]
    options: Options,
}

/// Copy files and directories of this machine into the cluster
#[derive(Args, Debug)]
pub(crate) struct CopyFromLocal {
    /// What to copy; `-` for standard input
    #[arg(value_name = "LOCAL", required = true)]
    sources: Vec<std::ffi::OsString>,
    /// Where to; into it if it is a directory
    #[arg(value_name = "PATH", value_parser = path())]
    target: Typed,
    #[command(flatten)]
    options: Options,
}

/// Copy files and directories of the cluster to this machine
#[derive(Args, Debug)]
pub(crate) struct CopyToLocal {
    /// What to copy
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    sources: Vec<Typed>,
    /// Where to; into it if it is a directory; `-` for standard output
    #[arg(value_name = "LOCAL")]
    target: std::ffi::OsString,
    #[command(flatten)]
    options: Options,
}

#[derive(Args, Clone, Copy, Debug)]
struct Options {
    /// Replace files that are there
    #[arg(short, long)]
    force: bool,
    /// Keep times and rights, and as root owners
    #[arg(short, long)]
    preserve: bool,
    /// How many files are copied at the same time
    #[arg(long, alias = "thread", value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    parallel: u16,
}

impl Options {
    fn how(self) -> How {
        How { overwrite: self.force, preserve: self.preserve }
    }

    fn tree<'a>(self, shell: &'a Shell<'a>, recursive: bool) -> Tree<'a> {
        Tree { shell, how: self.how(), recursive, parallel: self.parallel.into() }
    }
}

impl Act for Cp {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        self.paths.iter().map(Place::authority).collect()
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let Some((target, sources)) = self.paths.split_last() else { return Ok(Exit::Usage) };
        if let (Place::Local(_), true) = (target, sources.iter().any(|source| matches!(source, Place::Local(_)))) {
            let error = Error::new(ErrorKind::Invalid, "both are on this machine, and not in the cluster");
            return Err(error.advise("use cp").into());
        }
        let mut ends = Vec::new();
        for source in sources {
            match source {
                Place::Cluster(typed) => {
                    ends.extend(shell.expand(std::slice::from_ref(typed)).await.into_iter().map(End::Cluster));
                }
                Place::Local(path) => ends.push(End::Local(path.clone())),
            }
        }
        copy(&self.options.tree(shell, self.recursive), ends, target).await
    }
}

impl Act for CopyFromLocal {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        vec![self.target.authority.as_ref()]
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        if self.sources.iter().any(|source| source == "-") {
            return self.take_standard_input(shell).await;
        }
        let mut sources = Vec::new();
        for source in &self.sources {
            sources.extend(shell.ok(local(source.clone())).map(End::Local));
        }
        copy(&self.options.tree(shell, true), sources, &Place::Cluster(self.target)).await
    }
}

impl CopyFromLocal {
    async fn take_standard_input(&self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        if self.sources.len() > 1 {
            let error = Error::new(ErrorKind::Invalid, "standard input is one file");
            return Err(error.advise("give `-` alone").into());
        }
        let target = self.target.exact()?;
        if directory(shell, &self.target, 1).await? {
            let error = Error::new(ErrorKind::IsDirectory, "what comes from standard input has no name").at(&target);
            return Err(error.advise("name the file").into());
        }
        let bar = super::progress::Bar::new(shell);
        upload_stream(&shell.fs, &mut tokio::io::stdin(), &target, self.options.how(), &bar.meter()).await?;
        drop(bar);
        shell.done("copyFromLocal", "Copied - to ", &target, "")?;
        Ok(Exit::Done)
    }
}

impl Act for CopyToLocal {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        self.sources.iter().map(|source| source.authority.as_ref()).collect()
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        if self.target == "-" {
            let mut out = tokio::io::stdout();
            for path in shell.expand(&self.sources).await {
                let written = download_stream(&shell.fs, &path, &mut out).await;
                shell.pass(&path, written)?;
            }
            return Ok(shell.exit());
        }
        let sources = shell.expand(&self.sources).await.into_iter().map(End::Cluster).collect();
        copy(&self.options.tree(shell, true), sources, &Place::Local(local(self.target)?)).await
    }
}

/// Copies each source to the target, or into it if that is a directory.
async fn copy(tree: &Tree<'_>, sources: Vec<End>, target: &Place) -> anyhow::Result<Exit> {
    let (into, target) = match target {
        Place::Cluster(typed) => (directory(tree.shell, typed, sources.len()).await?, End::Cluster(typed.exact()?)),
        Place::Local(path) => (local_directory(path, sources.len())?, End::Local(path.clone())),
    };
    for source in sources {
        let to = match (into, source.name()) {
            (false, _) => Ok(target.clone()),
            (true, Some(name)) => target.join(&name),
            // The root has no name: what is in it goes into the target.
            (true, None) => Ok(target.clone()),
        };
        if let Some(to) = tree.shell.ok(to) {
            tree.copy(source, to).await?;
        }
    }
    Ok(tree.shell.exit())
}

fn local_directory(path: &PathBuf, sources: usize) -> Result<bool, Error> {
    let is_directory = match std::fs::metadata(path) {
        Ok(metadata) => metadata.is_dir(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(local_error(e, path)),
    };
    let wants = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    match is_directory {
        false if sources > 1 || wants => {
            let error = Error::new(ErrorKind::NotDirectory, "not a directory of this machine");
            Err(error.at(path.as_os_str().as_encoded_bytes()).advise("make it first: mkdir"))
        }
        is_directory => Ok(is_directory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_things_go_into_directories_only() {
        let folder = tempfile::tempdir().unwrap();
        assert!(local_directory(&folder.path().to_owned(), 2).unwrap());
        let new = folder.path().join("new");
        assert!(!local_directory(&new, 1).unwrap());
        assert_eq!(local_directory(&new, 2).unwrap_err().kind(), ErrorKind::NotDirectory);
        let mut slash = new.into_os_string();
        slash.push("/");
        assert_eq!(local_directory(&slash.into(), 1).unwrap_err().kind(), ErrorKind::NotDirectory);
    }
}
