//! Renames. Where the service has none: copies, then deletions, entry by entry.
//!
//! Before the first copy a record is written under `.larder/<cluster>/renames`, named after both paths; it goes when all
//! is done. A rename that was cut off is asked for again by whoever journaled it; it finds its record and goes on, past
//! the questions that its own first half would now answer wrongly. Copies are made before anything is deleted, and only
//! what was copied, in the version that was copied, is deleted: nothing is lost at any point, but others see both halves
//! for a while.

use futures_util::{StreamExt, TryStreamExt, stream};
use larder_common::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};

use super::{
    Inner, Moves, failure,
    key::{self, Private},
    look::{self, Found, missing},
    publish::{check, check_displaced},
};
use crate::{Expected, ObjectPath, ObjectStatus, Rename, TemporaryName};

/// How often a tree is gone through while others write into it.
const ROUNDS: usize = 8;

/// The two ends of a rename.
struct Way<'a> {
    from: &'a ObjectPath,
    to: &'a ObjectPath,
    /// Whether it has begun already.
    begun: bool,
}

impl Inner {
    /// Renames.
    pub(super) async fn rename(&self, from: &ObjectPath, to: &ObjectPath, rename: &Rename) -> Result<ObjectStatus> {
        let (key_from, key_to) = (key::file(from)?, key::file(to)?);
        self.check_length(&key_to)?;
        check_displaced(&rename.displaced, to)?;
        if from.contains(to) {
            return Err(Error::new(ErrorKind::Invalid, "the new name is below the old one").at(to));
        }
        let _turns = self.turns.take(&[&key_from, &key_to]).await;
        let record = self.record(&key_from, &key_to);
        let (source, target, begun) =
            tokio::join!(self.look(from), self.look(to), self.ask(self.operator.stat(&record)));
        let (source, target) = (source?, target?);
        let way = Way { from, to, begun: failure::present(begun, from)?.is_some() };
        match (source, &target) {
            (None, Some(_)) if way.begun => {}
            (None, _) => return Err(missing(from)),
            (Some(Found::Directory), _) => {
                self.check_tree(&way, target.as_ref(), &rename.target).await?;
                self.begin(&way, &record).await?;
                self.move_tree(&way).await?;
            }
            (Some(found @ Found::File(_)), _) => {
                check(Some(&found), &Expected::Fingerprint(rename.source.clone()), from)?;
                if !way.begun {
                    check(target.as_ref(), &rename.target, to)?;
                }
                self.begin(&way, &record).await?;
                self.move_file(&way, &found, &rename.target).await?;
            }
        }
        self.keep_directory(from.parent().as_ref()).await?;
        if self.manner.moves == Moves::Copy {
            failure::present(self.ask(self.operator.delete(&record)).await, from)?;
        }
        self.status(to).await
    }

    fn record(&self, from: &str, to: &str) -> String {
        let mut hasher = Sha256::new();
        hasher.update(from.as_bytes());
        hasher.update([0]);
        hasher.update(to.as_bytes());
        key::private(self.cluster, Private::Renames) + &hex::encode(hasher.finalize())
    }

    async fn begin(&self, way: &Way<'_>, record: &str) -> Result<()> {
        if way.begun || self.manner.moves != Moves::Copy {
            return Ok(());
        }
        let text = format!("{}\n{}\n", way.from, way.to);
        self.call(way.from, self.operator.write(record, text)).await.map(drop)
    }

    async fn move_file(&self, way: &Way<'_>, found: &Found, expected: &Expected) -> Result<()> {
        let (from, to) = (key::file(way.from)?, key::file(way.to)?);
        let Found::File(metadata) = found else { return Err(missing(way.from)) };
        let given = match way.begun {
            // The copy may be there already: then it is made again, whatever is there.
            true => self.copy_over(&from, &to).await,
            false => self.give(&from, &to, metadata, expected).await,
        };
        given.map_err(|error| failure::of(&error, way.to))?;
        if self.manner.moves == Moves::Copy {
            let gone = self.delete_version(&from, &look::fingerprint(metadata)).await;
            gone.map_err(|error| failure::of(&error, way.from))?;
        }
        Ok(())
    }

    async fn copy_over(&self, from: &str, to: &str) -> opendal::Result<()> {
        self.ask(self.operator.copy(from, to)).await.map(drop)
    }

    async fn check_tree(&self, way: &Way<'_>, target: Option<&Found>, expected: &Expected) -> Result<()> {
        if way.begun {
            return Ok(());
        }
        let (kind, text) = match (target, expected) {
            (None, Expected::Absent) => return Ok(()),
            (Some(_), Expected::Absent) => (ErrorKind::AlreadyExists, "something is there already"),
            (None, Expected::Fingerprint(_)) => (ErrorKind::Changed, "the directory is gone"),
            (Some(Found::File(_)), _) => (ErrorKind::NotDirectory, "an object is there"),
            (Some(Found::Directory), _) if self.list(way.to, None, 1).await?.entries.is_empty() => return Ok(()),
            (Some(Found::Directory), _) => (ErrorKind::NotEmpty, "the directory there has entries"),
        };
        Err(Error::new(kind, text).at(way.to))
    }

    async fn move_tree(&self, way: &Way<'_>) -> Result<()> {
        if self.manner.moves == Moves::Rename {
            let to = key::directory(way.to)?;
            failure::present(self.ask(self.operator.delete(&to)).await, way.to)?;
            let (from, to) = (key::file(way.from)?, key::file(way.to)?);
            return self.call(way.from, self.operator.rename(&from, &to)).await;
        }
        let (from, to) = (key::directory(way.from)?, key::directory(way.to)?);
        self.call(way.to, self.operator.create_dir(&to)).await?;
        for _ in 0..ROUNDS {
            let keys = self.copy_below(way, &from, &to).await?;
            if keys.is_empty() {
                return Ok(());
            }
            self.delete_all(way, keys).await?;
        }
        Err(Error::new(ErrorKind::Busy, "somebody else keeps writing into a directory that is being renamed")
            .at(way.from))
    }

    /// Copies all that is below, and gives what was copied, in which version.
    async fn copy_below(&self, way: &Way<'_>, from: &str, to: &str) -> Result<Vec<(String, opendal::Metadata)>> {
        let asked = self.operator.lister_with(from).recursive(true);
        let listed = self.call(way.from, async { asked.await }).await?;
        let failed = |error: opendal::Error| failure::of(&error, way.from);
        let entries = listed.map_err(failed).map_ok(|entry| async move {
            let (key, metadata) = entry.into_parts();
            let Some(below) = key.strip_prefix(from) else { return Ok(None) };
            let target = format!("{to}{below}");
            match key.ends_with('/') {
                true => self.call(way.to, self.operator.create_dir(&target)).await?,
                false => self.call(&key, self.copy_over(&key, &target)).await?,
            }
            Ok(Some((key, metadata)))
        });
        let copied: Vec<_> = entries.try_buffer_unordered(self.parallel).try_collect().await?;
        Ok(copied.into_iter().flatten().collect())
    }

    /// Deletes what was copied; what was changed since stays for the next round.
    async fn delete_all(&self, way: &Way<'_>, keys: Vec<(String, opendal::Metadata)>) -> Result<()> {
        let deletions = stream::iter(keys).map(|(key, metadata)| async move {
            match self.delete_version(&key, &look::fingerprint(&metadata)).await {
                Err(error) if error.kind() == opendal::ErrorKind::ConditionNotMatch => Ok(()),
                result => result.map_err(|error| failure::of(&error, way.from)),
            }
        });
        deletions.buffer_unordered(self.parallel).try_collect().await
    }

    /// Gives a temporary another name.
    pub(super) async fn rename_temporary(&self, from: &TemporaryName, to: &TemporaryName) -> Result<()> {
        let (key_from, key_to) = (self.staged(&from.name)?, self.staged(&to.name)?);
        let moved = match self.manner.moves {
            Moves::Rename => self.ask(self.operator.rename(&key_from, &key_to)).await,
            _ => self.copy_over(&key_from, &key_to).await,
        };
        moved.map_err(|error| failure::of(&error, &from.name))?;
        let gone = self.ask(self.operator.delete(&key_from)).await;
        failure::present(gone, &from.name).map(drop)
    }
}
