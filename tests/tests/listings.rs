//! Listings of very large directories while names come and go in them: at the master, page by page, without the wire.

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use larder_common::{FileId, FileKind, Fingerprint, FsPath, Name, Times, Timestamp, WriteType};
use larder_master::{
    master::Master,
    rpc::listing,
    state::{Covered, CreateDirectory, LoadChildren, Outcome, Remove, RemoveKind, Rename, RenameMode, Seen},
};
use larder_proto::{Greeting, greeting::Token, v1};
use larder_tests::masters::Alone;

/// Names that stay. In a debug build a million take long: there it is 300,000, which are still three hundred pages.
const STAY: u64 = if cfg!(debug_assertions) { 300_000 } else { 1_000_000 };
/// Changes between two pages.
const CHANGES: usize = 12;

/// A directory that the master believes to have all names that stay; nobody asks the under store.
async fn filled(master: &Master) -> Result<FileId> {
    let (mode, recursive, allow_exists) = (0o755, false, false);
    let place = FsPath::parse("/big")?.into();
    let made = CreateDirectory { place, mode, recursive, allow_exists, write_type: WriteType::Through };
    let Outcome::Made(directory) = master.execute(made).await?.outcome else { bail!("no directory") };
    for first in (0..STAY).step_by(10_000) {
        let entries = (first..(first + 10_000).min(STAY)).map(seen).collect::<Result<_>>()?;
        let (covered, complete) = (Covered::Shown, first + 10_000 >= STAY);
        master.execute(LoadChildren { directory, entries, covered, complete }).await?;
    }
    Ok(directory)
}

fn stays(number: u64) -> String {
    format!("{number:07}")
}

fn seen(number: u64) -> Result<Seen> {
    let time = Timestamp(1_700_000_000_000_000_000);
    let times = Times { accessed: time, modified: time, changed: time };
    let fingerprint =
        Fingerprint { inode: number + 1, size: 0, modified: time, changed: time, born: time, etag: String::new() };
    let (name, kind) = (Name::new(stays(number))?, FileKind::File);
    Ok(Seen { name, kind, length: 0, mode: 0o644, uid: 0, gid: 0, times, links: 1, fingerprint })
}

/// Names that come and go, all over the directory.
struct Churn {
    master: Arc<Master>,
    there: BTreeSet<String>,
    state: u64,
}

impl Churn {
    fn random(&mut self) -> u64 {
        // xorshift64 (Marsaglia, 2003)
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// A name that is free, right after one that stays.
    fn free(&mut self) -> String {
        loop {
            let name = format!("{}+{}", stays(self.random() % STAY), self.random() % 1_000);
            if !self.there.contains(&name) {
                return name;
            }
        }
    }

    fn some(&mut self) -> Option<String> {
        let from = stays(self.random() % STAY);
        self.there.range(from..).next().or_else(|| self.there.first()).cloned()
    }

    /// Adds, renames or removes a name. More come than go, so that the directory's leaves split, too.
    async fn change(&mut self) -> Result<()> {
        let place = |name: &str| Ok::<_, larder_common::Error>(FsPath::parse(format!("/big/{name}"))?.into());
        let old = self.some();
        let (new, which) = (self.free(), self.random() % 4);
        match old.filter(|_| which > 1) {
            None => {
                let (mode, recursive, allow_exists) = (0o755, false, false);
                let (place, write_type) = (place(&new)?, WriteType::MustCache);
                self.master.execute(CreateDirectory { place, mode, recursive, allow_exists, write_type }).await?;
                self.there.insert(new);
            }
            Some(old) if which == 2 => {
                let (expected, replaced, holders) = (None, None, Vec::new());
                let (from, to, mode) = (place(&old)?, place(&new)?, RenameMode::NoReplace);
                self.master.execute(Rename { from, to, mode, expected, replaced, holders }).await?;
                self.there.remove(&old);
                self.there.insert(new);
            }
            Some(old) => {
                let (kind, expected, holders) = (RemoveKind::Any, None, Vec::new());
                let (place, recursive, cache_only) = (place(&old)?, false, false);
                self.master.execute(Remove { place, recursive, kind, cache_only, expected, holders }).await?;
                self.there.remove(&old);
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_misses_and_doubles_nothing_while_names_come_and_go() -> Result<()> {
    let alone = Alone::with(|config| config.freshness = "never".into()).await?;
    let master = Arc::clone(alone.master());
    let directory = filled(&master).await?;
    let mut churn = Churn { master: Arc::clone(&master), there: BTreeSet::new(), state: 0x9e37_79b9_7f4a_7c15 };
    for round in 0..2 {
        let asked = v1::ListRequest { id: directory.0, ..Default::default() };
        let greeting = Greeting::of_server("test", Token::default());
        let mut pages = pin!(listing::pages(Arc::clone(&master), greeting, asked));
        let (mut last, mut next, mut listed) = (Vec::new(), 0, 0);
        let always = churn.there.clone();
        let mut kept = always.clone();
        let mut found = BTreeSet::new();
        while let Some(page) = tokio::time::timeout(Duration::from_secs(30), pages.next()).await? {
            for entry in page?.entries {
                let name = entry.status.context("an entry has a status")?.name.to_vec();
                ensure!(last < name, "{} comes after {}", name.escape_ascii(), last.escape_ascii());
                if name.len() == 7 {
                    let due = stays(next);
                    ensure!(name == due.as_bytes(), "{due} was there all the time; {} comes", name.escape_ascii());
                    next += 1;
                } else {
                    found.insert(String::from_utf8(name.clone())?);
                }
                last = name;
                listed += 1;
            }
            for _ in 0..CHANGES {
                churn.change().await?;
                kept.retain(|name| churn.there.contains(name));
            }
        }
        ensure!(next == STAY, "the listing ends at {next} of {STAY}");
        ensure!(kept.is_subset(&found), "names that were there all the time are missing (round {round})");
        ensure!(listed > STAY && churn.there != always, "nothing came or went");
    }
    Ok(())
}
