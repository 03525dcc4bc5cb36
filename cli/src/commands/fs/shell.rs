//! What every command of `larder fs` is run with.

use std::cell::RefCell;

use larder_client::{Error, FileStatus, FileSystem, FsPath, StatusOptions};

use super::{
    expand::expand,
    failures::Failures,
    owners::Owners,
    places::{Authority, Typed},
    rows::printed,
};
use crate::{context::Context, exit::Exit, output::Output};

/// The cluster, where to print, and what failed so far.
#[derive(Debug)]
pub(crate) struct Shell<'a> {
    /// The cluster.
    pub(crate) fs: FileSystem,
    /// Flags and environment.
    pub(crate) context: &'a Context,
    /// Where to print.
    pub(crate) output: Output,
    /// Names of users and groups.
    pub(crate) owners: Owners,
    failures: RefCell<Failures>,
}

impl<'a> Shell<'a> {
    pub(crate) fn new(fs: FileSystem, context: &'a Context) -> Self {
        let failures = RefCell::new(Failures::new(context.output));
        Self { fs, context, output: context.output, owners: Owners::default(), failures }
    }

    /// The paths that these stand for. What stands for nothing is named as a failure.
    pub(crate) async fn expand(&self, typed: &[Typed]) -> Vec<FsPath> {
        let mut paths = Vec::new();
        for one in typed {
            paths.extend(self.ok(expand(&self.fs, one).await).unwrap_or_default());
        }
        paths
    }

    /// Does something with each path that these stand for, whatever becomes of the others.
    ///
    /// # Errors
    /// What is not an error of the cluster, as when nobody reads the output any more.
    pub(crate) async fn each(
        &self,
        typed: &[Typed],
        mut work: impl AsyncFnMut(&FsPath) -> anyhow::Result<()>,
    ) -> anyhow::Result<Exit> {
        for path in self.expand(typed).await {
            self.pass(&path, work(&path).await)?;
        }
        Ok(self.exit())
    }

    /// The value, or `None` after naming why there is none.
    pub(crate) fn ok<T>(&self, result: Result<T, Error>) -> Option<T> {
        self.failures.borrow_mut().ok(result)
    }

    /// The same for what was done with a path, and for errors that can also be others than the cluster's.
    ///
    /// # Errors
    /// Those others.
    pub(crate) fn pass<T>(&self, path: &FsPath, result: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
        let named = result.map_err(|error| match error.downcast::<Error>() {
            Ok(error) => error.at(path).into(),
            Err(other) => other,
        });
        self.failures.borrow_mut().pass(named)
    }

    /// How the command ends after all that failed.
    pub(crate) fn exit(&self) -> Exit {
        self.failures.borrow().exit()
    }

    /// How much has failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.borrow().count()
    }

    /// The status of what a name is, a symbolic link included.
    ///
    /// # Errors
    /// The cluster's.
    pub(crate) async fn status_of_name(&self, path: &FsPath) -> Result<FileStatus, Error> {
        let options = StatusOptions { no_follow: true, ..StatusOptions::default() };
        self.fs.status_with(path, options).await
    }

    /// Says to a person what was done: `before`, the path, `after`. Programs get one object: what was done to what.
    ///
    /// # Errors
    /// Where standard output cannot be written.
    pub(crate) fn done(&self, action: &str, before: &str, path: &FsPath, after: &str) -> anyhow::Result<()> {
        match self.output.json {
            true => self.output.object(&serde_json::json!({ "action": action, "path": path.to_string() })),
            false => self.output.bytes(&[before.as_bytes(), &printed(path), after.as_bytes(), b"\n"].concat()),
        }
    }
}

/// The authorities of several paths.
pub(crate) fn authorities(typed: &[Typed]) -> Vec<Option<&Authority>> {
    typed.iter().map(|typed| typed.authority.as_ref()).collect()
}
