//! Several stores as one tree: `union:///patch:rw,/base:ro`. What the first of them has is what is seen.
//!
//! Only the first branch can take changes, and only if it says `rw`; the others are read. In it, a file `.wh.NAME` (a
//! whiteout) says that `NAME` is not to be seen in the branches below it, whether the first one has something of that name
//! or not. So whiteouts are only ever added (with one exception: a directory that goes takes those in it along), and every
//! change is safe to cut off: the whiteout comes first, then the removal. Directories are made in the first branch when
//! something is put into them; the content of a file comes up when it is written anew.
//!
//! What would have to move bytes from one branch to another is answered `CrossesMounts`, as between mounts: renaming what
//! is below, linking it. What would change a file in place that is below is answered `ReadOnly`.

mod store;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use larder_common::{Error, ErrorKind, Fingerprint, Name, Result};

use crate::{
    Attributes, Content, Displaced, Expected, ListPage, ObjectPath, ObjectStatus, OpenOptions, Publish, Removal,
    Rename, TemporaryName, UnderStore, object::same_identity, read_only::ReadOnly,
};

/// How the names of whiteouts begin.
const WHITEOUT: &[u8] = b".wh.";
/// How many entries of a branch are asked for at once.
const PAGE: usize = 512;
/// The longest union that anybody needs.
const BRANCHES_MAX: usize = 16;

/// The union.
#[derive(Debug)]
pub struct UnionStore {
    branches: Vec<Arc<dyn UnderStore>>,
    writable: bool,
}

/// What is seen at a path, and in which branch.
struct Seen {
    branch: usize,
    status: ObjectStatus,
}

fn present<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

fn missing(path: &ObjectPath) -> Error {
    Error::new(ErrorKind::NotFound, "in no branch of the union").at(path)
}

fn crosses(path: &ObjectPath) -> Error {
    Error::new(ErrorKind::CrossesMounts, "it is in a branch of the union that is only read").at(path)
}

fn taken(path: &ObjectPath) -> Error {
    Error::new(ErrorKind::AlreadyExists, "something is there already").at(path)
}

fn changed(path: &ObjectPath) -> Error {
    Error::new(ErrorKind::Changed, "it is not what was expected").at(path)
}

/// The whiteout of a path; `None` for the root, and for names and paths that are too long to have one.
fn whiteout(path: &ObjectPath) -> Option<ObjectPath> {
    let (name, parent) = (path.name()?, path.parent()?);
    parent.join(&Name::new([WHITEOUT, name].concat()).ok()?).ok()
}

/// Whiteouts are nobody's to see.
fn check(path: &ObjectPath) -> Result<()> {
    match path.names().any(|name| name.starts_with(WHITEOUT)) {
        true => Err(Error::new(ErrorKind::NotFound, "this name is the union's own").at(path)),
        false => Ok(()),
    }
}

/// The entries of one branch's directory, in order.
struct Cursor<'a> {
    store: &'a dyn UnderStore,
    read: VecDeque<(Name, ObjectStatus)>,
    after: Option<Name>,
    more: bool,
}

impl Cursor<'_> {
    async fn fill(&mut self, directory: &ObjectPath) -> Result<()> {
        if !self.read.is_empty() || !self.more {
            return Ok(());
        }
        let page = self.store.list(directory, self.after.as_ref(), PAGE).await?;
        self.more = page.more;
        self.after = page.entries.last().map(|(name, _)| name.clone()).or(self.after.take());
        self.read = page.entries.into();
        Ok(())
    }
}

/// The branches that a union's URI names, without its scheme: each with whether it takes changes.
///
/// # Errors
/// `Config` for what is not `BRANCH:rw` or `BRANCH:ro`, and for an `rw` that is not the first.
pub fn branches(text: &str) -> Result<Vec<(String, bool)>> {
    let wrong = |why: String| Error::new(ErrorKind::Config, why).advise("write it as union:///patch:rw,/base:ro");
    let mut all = Vec::new();
    for (at, part) in text.split(',').enumerate() {
        let (uri, writable) = match part.rsplit_once(':') {
            Some((uri, "rw")) => (uri, true),
            Some((uri, "ro")) => (uri, false),
            _ => return Err(wrong(format!("branch {} of a union says neither :rw nor :ro", at + 1))),
        };
        if uri.is_empty() || uri.starts_with("union:") {
            return Err(wrong(format!("branch {} of a union is no store", at + 1)));
        }
        if writable && at > 0 {
            return Err(wrong("only the first branch of a union can take changes".to_owned()));
        }
        all.push((uri.to_owned(), writable));
    }
    match all.len() {
        2..=BRANCHES_MAX => Ok(all),
        count => Err(wrong(format!("a union has 2 to {BRANCHES_MAX} branches, not {count}"))),
    }
}

impl UnionStore {
    /// Opens all branches, each with these options.
    ///
    /// # Errors
    /// Of [`branches`], and of each store.
    pub async fn open(text: &str, options: OpenOptions) -> Result<Self> {
        let mut stores: Vec<Arc<dyn UnderStore>> = Vec::new();
        let mut first = false;
        for (at, (uri, writable)) in branches(text)?.into_iter().enumerate() {
            first |= at == 0 && writable && !options.read_only;
            let options = OpenOptions { read_only: !(at == 0 && first), ..options.clone() };
            stores.push(Box::pin(crate::open(&uri, options)).await?);
        }
        Ok(Self::new(stores, first))
    }

    /// A union of these, the first on top.
    #[must_use]
    pub fn new(branches: Vec<Arc<dyn UnderStore>>, writable: bool) -> Self {
        let lower = |(at, store): (usize, Arc<dyn UnderStore>)| match at > 0 || !writable {
            true => Arc::new(ReadOnly::around(store)) as Arc<dyn UnderStore>,
            false => store,
        };
        Self { branches: branches.into_iter().enumerate().map(lower).collect(), writable }
    }

    fn top(&self) -> &dyn UnderStore {
        &*self.branches[0]
    }

    /// Whether the first branch hides a path from those below.
    async fn is_hidden(&self, path: &ObjectPath) -> Result<bool> {
        let mut at = Some(path.clone());
        while let Some(here) = at {
            if let Some(whiteout) = whiteout(&here)
                && present(self.top().status(&whiteout).await)?.is_some()
            {
                return Ok(true);
            }
            at = here.parent();
            let above = at.as_ref().filter(|above| !above.is_root());
            if let Some(above) = above
                && present(self.top().status(above).await)?.is_some_and(|status| !status.kind.is_directory())
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is at a path in a branch below the first that is not hidden by one above it.
    async fn below(&self, path: &ObjectPath) -> Result<Option<Seen>> {
        if self.is_hidden(path).await? {
            return Ok(None);
        }
        for (branch, store) in self.branches.iter().enumerate().skip(1) {
            if let Some(status) = present(store.status(path).await)? {
                return Ok(Some(Seen { branch, status }));
            }
        }
        Ok(None)
    }

    async fn find(&self, path: &ObjectPath) -> Result<Option<Seen>> {
        check(path)?;
        match self.top().status(path).await {
            Ok(status) => Ok(Some(Seen { branch: 0, status })),
            Err(error) if error.kind() == ErrorKind::NotFound => self.below(path).await,
            // Also what is no directory on the way: it hides all below.
            Err(error) => Err(error),
        }
    }

    async fn found(&self, path: &ObjectPath) -> Result<Seen> {
        self.find(path).await?.ok_or_else(|| missing(path))
    }

    /// Where the branch has it in which a path is seen.
    async fn located(&self, path: &ObjectPath) -> Result<String> {
        let seen = self.found(path).await?;
        self.branches[seen.branch].which(path).await
    }

    /// Makes the directories above a path in the first branch, as they are below.
    async fn come_up(&self, path: &ObjectPath) -> Result<()> {
        check(path)?;
        if !self.top().capabilities().firm_directories {
            return Ok(());
        }
        let mut missing = Vec::new();
        let mut at = path.parent();
        while let Some(here) = at.filter(|here| !here.is_root()) {
            match self.find(&here).await? {
                None => return Err(self::missing(&here)),
                Some(seen) if !seen.status.kind.is_directory() => {
                    return Err(Error::new(ErrorKind::NotDirectory, "not a directory").at(&here));
                }
                Some(seen) if seen.branch == 0 => break,
                Some(seen) => missing.push((here.clone(), seen.status)),
            }
            at = here.parent();
        }
        for (directory, status) in missing.into_iter().rev() {
            self.make_as(&directory, &status).await?;
        }
        Ok(())
    }

    /// Makes a directory in the first branch like one below.
    async fn make_as(&self, directory: &ObjectPath, status: &ObjectStatus) -> Result<()> {
        let (mode, uid, gid) = (Some(status.mode), Some(status.uid), Some(status.gid));
        let attributes = Attributes { mode, uid, gid, ..Attributes::default() };
        let made = match self.top().make_directory(directory, attributes).await {
            Err(error) if error.kind() == ErrorKind::Denied => {
                let attributes = Attributes { mode, ..Attributes::default() };
                self.top().make_directory(directory, attributes).await
            }
            made => made,
        };
        match made {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            made => made.map(drop),
        }
    }

    /// Sees to it that nothing is seen below at a path.
    async fn hide(&self, path: &ObjectPath, sync: bool) -> Result<()> {
        if self.below(path).await?.is_none() {
            return Ok(());
        }
        let Some(whiteout) = whiteout(path) else {
            let text = "the name is too long to be hidden in a union";
            return Err(Error::new(ErrorKind::NameTooLong, text).at(path));
        };
        self.come_up(path).await?;
        let mut random = [0; 12];
        getrandom::fill(&mut random).map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string()))?;
        let temporary = TemporaryName::new(whiteout.clone(), Name::new(format!("whiteout-{}", hex::encode(random)))?);
        let receipt = self.top().upload_whole(&temporary, Content::Bytes(Bytes::new()), sync).await?;
        let publish = Publish { sync, token: receipt.token, ..Publish::new_file() };
        match self.top().publish(&temporary, &whiteout, publish).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => self.top().destroy_temporary(&temporary).await,
            published => published.map(drop),
        }
    }

    /// The branches in which a directory is seen.
    async fn layers(&self, directory: &ObjectPath) -> Result<Vec<usize>> {
        check(directory)?;
        let hidden = self.is_hidden(directory).await?;
        let mut layers = Vec::new();
        for (branch, store) in self.branches.iter().enumerate() {
            if branch > 0 && hidden {
                break;
            }
            match present(store.status(directory).await)? {
                Some(status) if status.kind.is_directory() => layers.push(branch),
                // What is no directory hides those below, and is hidden by those above.
                Some(_) if layers.is_empty() => {
                    return Err(Error::new(ErrorKind::NotDirectory, "not a directory").at(directory));
                }
                Some(_) => break,
                None => {}
            }
        }
        match layers.is_empty() {
            true => Err(missing(directory)),
            false => Ok(layers),
        }
    }

    /// The names in a directory that the first branch hides.
    async fn hidden_names(&self, directory: &ObjectPath) -> Result<BTreeSet<Vec<u8>>> {
        let mut names = BTreeSet::new();
        let mut after = Name::new(WHITEOUT)?;
        loop {
            let page = self.top().list(directory, Some(&after), PAGE).await?;
            for (name, _) in &page.entries {
                let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) else { return Ok(names) };
                names.insert(hidden.to_vec());
            }
            match page.entries.into_iter().next_back() {
                Some((last, _)) if page.more => after = last,
                _ => return Ok(names),
            }
        }
    }

    async fn merged(&self, directory: &ObjectPath, after: Option<&Name>, limit: usize) -> Result<ListPage> {
        let layers = self.layers(directory).await?;
        let hidden = match layers.first() {
            Some(0) => self.hidden_names(directory).await?,
            _ => BTreeSet::new(),
        };
        let cursor = |branch: &usize| Cursor {
            store: &*self.branches[*branch],
            read: VecDeque::new(),
            after: after.cloned(),
            more: true,
        };
        let mut cursors: Vec<(usize, Cursor<'_>)> = layers.iter().map(|at| (*at, cursor(at))).collect();
        let mut page = ListPage::default();
        loop {
            for (_, cursor) in &mut cursors {
                cursor.fill(directory).await?;
            }
            let heads = cursors.iter().filter_map(|(_, cursor)| cursor.read.front().map(|(name, _)| name));
            let Some(next) = heads.min().cloned() else { return Ok(page) };
            let mut winner = None;
            for (branch, cursor) in &mut cursors {
                if let Some(entry) = cursor.read.pop_front_if(|(name, _)| *name == next) {
                    winner = winner.or(Some((*branch, entry)));
                }
            }
            let Some((branch, entry)) = winner else { return Ok(page) };
            if next.as_bytes().starts_with(WHITEOUT) || (branch > 0 && hidden.contains(next.as_bytes())) {
                continue;
            }
            if page.entries.len() == limit {
                page.more = true;
                return Ok(page);
            }
            page.entries.push(entry);
        }
    }

    /// The branch whose file may be changed in place: the first.
    async fn changeable(&self, path: &ObjectPath) -> Result<()> {
        let seen = self.found(path).await?;
        match (seen.branch, seen.status.kind.is_directory()) {
            (0, _) => Ok(()),
            (_, true) => {
                self.come_up(path).await?;
                self.make_as(path, &seen.status).await
            }
            (_, false) => {
                let error = Error::new(ErrorKind::ReadOnly, "it is in a branch of the union that is only read");
                Err(error.advise("write the file anew: then it is in the first branch").at(path))
            }
        }
    }

    /// Whether something new can be put at a path.
    async fn room(&self, path: &ObjectPath) -> Result<()> {
        if self.find(path).await?.is_some() {
            return Err(taken(path));
        }
        self.come_up(path).await
    }

    async fn publish_up(
        &self,
        temporary: &TemporaryName,
        target: &ObjectPath,
        publish: Publish,
    ) -> Result<Fingerprint> {
        if publish.displaced != Displaced::Unlink {
            return Err(Error::new(ErrorKind::Unsupported, "a union keeps no orphans").at(target));
        }
        let seen = self.find(target).await?.filter(|seen| seen.branch > 0);
        self.come_up(target).await?;
        let Some(seen) = seen else { return self.top().publish(temporary, target, publish).await };
        match &publish.expected {
            Expected::Absent => return Err(taken(target)),
            Expected::Fingerprint(known) if !same_identity(known, &seen.status.fingerprint) => {
                return Err(changed(target));
            }
            Expected::Fingerprint(_) if seen.status.kind.is_directory() => return Err(changed(target)),
            Expected::Fingerprint(_) => {}
        }
        let attributes = Attributes { mode: publish.attributes.mode.or(Some(seen.status.mode)), ..publish.attributes };
        let publish = Publish { expected: Expected::Absent, attributes, ..publish };
        self.top().publish(temporary, target, publish).await
    }

    async fn take_away(&self, path: &ObjectPath, removal: Removal) -> Result<()> {
        let seen = self.found(path).await?;
        if removal.keep {
            return Err(Error::new(ErrorKind::Unsupported, "a union keeps no orphans").at(path));
        }
        if seen.status.kind.is_directory() {
            return Err(Error::new(ErrorKind::IsDirectory, "a directory").at(path));
        }
        if !same_identity(&removal.expected, &seen.status.fingerprint) {
            return Err(changed(path));
        }
        self.hide(path, removal.sync).await?;
        match seen.branch {
            0 => self.top().remove(path, removal).await,
            _ => Ok(()),
        }
    }

    async fn take_directory_away(&self, path: &ObjectPath) -> Result<()> {
        if !self.top().capabilities().directories {
            return self.top().remove_directory(path).await;
        }
        if !self.merged(path, None, 1).await?.entries.is_empty() {
            return Err(Error::new(ErrorKind::NotEmpty, "it has entries").at(path));
        }
        self.hide(path, false).await?;
        if present(self.top().status(path).await)?.is_none() {
            return Ok(());
        }
        for hidden in self.hidden_names(path).await? {
            let whiteout = path.join(&Name::new([WHITEOUT, &hidden].concat())?)?;
            if let Some(status) = present(self.top().status(&whiteout).await)? {
                let orphan = crate::OrphanName::new(
                    whiteout.clone(),
                    Name::new(format!("whiteout-{}", hex::encode(&hidden[..hidden.len().min(64)])))?,
                );
                let removal = Removal { expected: status.fingerprint, orphan, keep: false, sync: false };
                present(self.top().remove(&whiteout, removal).await)?;
            }
        }
        self.top().remove_directory(path).await
    }

    async fn rename_up(&self, from: &ObjectPath, to: &ObjectPath, rename: Rename) -> Result<ObjectStatus> {
        let source = self.found(from).await?;
        if rename.displaced != Displaced::Unlink {
            return Err(Error::new(ErrorKind::Unsupported, "a union keeps no orphans").at(to));
        }
        let merged = source.status.kind.is_directory() && self.below(from).await?.is_some();
        if source.branch > 0 || merged {
            return Err(crosses(from));
        }
        let target = self.find(to).await?.filter(|seen| seen.branch > 0);
        let rename = match (target, &rename.target) {
            (None, _) => rename,
            (Some(_), Expected::Absent) => return Err(taken(to)),
            (Some(seen), _) if seen.status.kind.is_directory() => return Err(crosses(to)),
            (Some(seen), Expected::Fingerprint(known)) if same_identity(known, &seen.status.fingerprint) => {
                Rename { target: Expected::Absent, ..rename }
            }
            (Some(_), Expected::Fingerprint(_)) => return Err(changed(to)),
        };
        if !same_identity(&rename.source, &source.status.fingerprint) && !source.status.kind.is_directory() {
            return Err(changed(from));
        }
        self.come_up(to).await?;
        self.hide(from, rename.sync).await?;
        self.top().rename(from, to, rename).await
    }
}
