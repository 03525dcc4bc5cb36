//! `larder fs find`: paths below a path for which every given test holds.

use std::{str::FromStr, time::Duration};

use clap::{Args, ValueEnum};
use futures_util::TryStreamExt;
use larder_client::{ByteSize, Entry, Error, ErrorKind, FileKind, FileStatus, FsPath, ListOptions, Timestamp};
use larder_common::clock::SystemClock;

use super::{
    Act,
    glob::{Pattern, alternatives},
    owners::{gid, uid},
    path,
    places::{Authority, Typed},
    rows::{Row, printed},
    shell::{Shell, authorities},
};
use crate::exit::Exit;

/// Find paths for which every given test holds
#[derive(Args, Debug)]
#[command(
    after_help = "N is a number for exactly so much, +N for more, -N for less. Tests may be written with one dash, \
                        as in find(1)."
)]
pub(crate) struct Find {
    /// Where to look
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
    #[command(flatten)]
    tests: Tests,
    /// End each path with a NUL byte and not with a line end
    #[arg(long)]
    print0: bool,
}

#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Tests")]
struct Tests {
    /// The name matches this pattern
    #[arg(long, value_name = "PATTERN", value_parser = OnePattern::from_str)]
    name: Option<OnePattern>,
    /// The same, whether letters of ASCII are small or large
    #[arg(long, value_name = "PATTERN", value_parser = OnePattern::small)]
    iname: Option<OnePattern>,
    /// The whole path matches this pattern; `*` takes slashes too
    #[arg(long, value_name = "PATTERN", value_parser = OnePattern::from_str)]
    path: Option<OnePattern>,
    /// What it is: f for files, d for directories, l for symbolic links
    #[arg(long = "type", value_name = "f|d|l")]
    kind: Option<Kind>,
    /// The size of a file: N bytes, or as 10KB, 1M
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = Bound::size)]
    size: Option<Bound>,
    /// Content changed N days ago, in whole days
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = Bound::number)]
    mtime: Option<Bound>,
    /// Content changed N minutes ago, in whole minutes
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = Bound::number)]
    mmin: Option<Bound>,
    /// N percent of it are in the cache
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = Bound::number)]
    cached: Option<Bound>,
    /// Its owner, by name or number
    #[arg(long, value_name = "USER", value_parser = uid)]
    user: Option<u32>,
    /// Its group, by name or number
    #[arg(long, value_name = "GROUP", value_parser = gid)]
    group: Option<u32>,
    /// An empty file or directory
    #[arg(long)]
    empty: bool,
    /// It is pinned
    #[arg(long)]
    pinned: bool,
    /// At most so many names below the path
    #[arg(long, value_name = "N")]
    maxdepth: Option<usize>,
    /// At least so many names below the path
    #[arg(long, value_name = "N")]
    mindepth: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    F,
    D,
    L,
}

/// A pattern with its braces taken apart.
#[derive(Clone, Debug)]
struct OnePattern(Vec<Pattern>);

impl FromStr for OnePattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(Self(alternatives(text.as_bytes())?.iter().map(|text| Pattern::parse(text)).collect()))
    }
}

impl OnePattern {
    fn small(text: &str) -> Result<Self, Error> {
        text.to_ascii_lowercase().parse()
    }

    fn matches(&self, text: &[u8]) -> bool {
        self.0.iter().any(|pattern| pattern.matches(text))
    }
}

/// `N`, `+N`, `-N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Exactly(u64),
    Above(u64),
    Below(u64),
}

impl Bound {
    fn parse(text: &str, number: impl Fn(&str) -> Option<u64>) -> Result<Self, Error> {
        let (make, digits): (fn(u64) -> Bound, &str) = match text.split_at_checked(1) {
            Some(("+", rest)) => (Bound::Above, rest),
            Some(("-", rest)) => (Bound::Below, rest),
            _ => (Bound::Exactly, text),
        };
        let begins = digits.starts_with(|c: char| c.is_ascii_digit());
        number(digits).filter(|_| begins).map(make).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("{text:?} is not N, +N or -N")).advise("write it as 10, +10 or -10")
        })
    }

    fn number(text: &str) -> Result<Self, Error> {
        Self::parse(text, |digits| digits.parse().ok())
    }

    /// Units as everywhere, and the `c` of find(1) for bytes.
    fn size(text: &str) -> Result<Self, Error> {
        Self::parse(text, |digits| {
            digits.strip_suffix('c').unwrap_or(digits).parse::<ByteSize>().ok().map(|size| size.0)
        })
    }

    fn holds(self, value: u64) -> bool {
        match self {
            Bound::Exactly(bound) => value == bound,
            Bound::Above(bound) => value > bound,
            Bound::Below(bound) => value < bound,
        }
    }
}

/// Whether what was asked holds; what was not asked always does.
fn all_hold<const N: usize>(answers: [Option<bool>; N]) -> bool {
    answers.into_iter().all(|answer| answer.unwrap_or(true))
}

impl Tests {
    /// Whether every test holds for an entry so many names below the path, at this time.
    fn hold(&self, path: &FsPath, depth: usize, status: &FileStatus, now: Timestamp) -> bool {
        let name = path.name().unwrap_or(b"/");
        let age = || now.since(status.times.modified);
        let ago = |unit: Duration| age().as_secs() / unit.as_secs();
        let is_file = status.kind.is_file();
        all_hold([
            self.name.as_ref().map(|pattern| pattern.matches(name)),
            self.iname.as_ref().map(|pattern| pattern.matches(&name.to_ascii_lowercase())),
            self.path.as_ref().map(|pattern| pattern.matches(path.as_bytes())),
            self.kind.map(|kind| kind.is(&status.kind)),
            self.size.map(|bound| is_file && bound.holds(status.length)),
            self.mtime.map(|bound| bound.holds(ago(Duration::from_secs(86_400)))),
            self.mmin.map(|bound| bound.holds(ago(Duration::from_secs(60)))),
            self.cached.map(|bound| is_file && bound.holds(status.in_cache_percent.into())),
            self.user.map(|uid| status.uid == uid),
            self.group.map(|gid| status.gid == gid),
            self.empty.then(|| status.length == 0 && (is_file || status.kind.is_directory())),
            self.pinned.then_some(status.pinned),
            self.maxdepth.map(|most| depth <= most),
            self.mindepth.map(|least| depth >= least),
        ])
    }
}

impl Kind {
    fn is(self, kind: &FileKind) -> bool {
        match self {
            Kind::F => kind.is_file(),
            Kind::D => kind.is_directory(),
            Kind::L => matches!(kind, FileKind::Symlink(_)),
        }
    }
}

impl Act for Find {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let now = SystemClock::shared().now();
        shell.each(&self.paths, async |path| self.below(shell, path, now).await).await
    }
}

impl Find {
    async fn below(&self, shell: &Shell<'_>, top: &FsPath, now: Timestamp) -> anyhow::Result<()> {
        let status = shell.fs.status(top).await?;
        let is_directory = status.kind.is_directory();
        self.print(shell, &Entry { path: top.clone(), status }, 0, now)?;
        if !is_directory || self.tests.maxdepth == Some(0) {
            return Ok(());
        }
        let recursive = self.tests.maxdepth != Some(1);
        let mut entries = shell.fs.list(top, ListOptions { recursive, ..ListOptions::default() });
        while let Some(entry) = entries.try_next().await? {
            let depth = entry.path.names().count() - top.names().count();
            self.print(shell, &entry, depth, now)?;
        }
        Ok(())
    }

    fn print(&self, shell: &Shell<'_>, entry: &Entry, depth: usize, now: Timestamp) -> anyhow::Result<()> {
        if !self.tests.hold(&entry.path, depth, &entry.status, now) {
            return Ok(());
        }
        match (shell.output.json, self.print0) {
            (true, _) => shell.output.object(&Row::new(&entry.path, &entry.status, &shell.owners)),
            (false, true) => shell.output.bytes(&[entry.path.as_bytes(), b"\0"].concat()),
            (false, false) => shell.output.bytes(&[&printed(&entry.path)[..], b"\n"].concat()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::rows::tests::status, *};

    const DAY: i64 = 86_400_000_000_000;

    fn holds(tests: &Tests, path: &str, status: &FileStatus) -> bool {
        let path = FsPath::parse(path).unwrap();
        tests.hold(&path, path.names().count(), status, Timestamp(10 * DAY))
    }

    fn file(length: u64, age: i64) -> FileStatus {
        let mut status = status("f", length);
        status.times.modified = Timestamp(10 * DAY - age);
        status
    }

    #[test]
    fn bounds() {
        assert_eq!(Bound::number("7").unwrap(), Bound::Exactly(7));
        assert_eq!(Bound::size("+1M").unwrap(), Bound::Above(1 << 20));
        assert_eq!(Bound::size("-10KB").unwrap(), Bound::Below(10 << 10));
        assert_eq!(Bound::size("512c").unwrap(), Bound::Exactly(512));
        for bad in ["", "+", "x", "--1", "+-1", "é"] {
            assert!(Bound::number(bad).is_err() && Bound::size(bad).is_err(), "{bad}");
        }
        assert!(Bound::Above(1).holds(2) && !Bound::Above(1).holds(1) && Bound::Below(1).holds(0));
    }

    #[test]
    fn every_test_can_say_no() {
        let none = Tests::default();
        let small = file(10, DAY * 3 / 2);
        assert!(holds(&none, "/a/f.txt", &small));
        let name = |text: &str| Some(text.parse::<OnePattern>().unwrap());
        for (yes, no) in [
            (Tests { name: name("*.{txt,md}"), ..none.clone() }, Tests { name: name("a"), ..none.clone() }),
            (
                Tests { iname: OnePattern::small("F.TXT").ok(), ..none.clone() },
                Tests { name: name("F.TXT"), ..none.clone() },
            ),
            (Tests { path: name("/a*txt"), ..none.clone() }, Tests { path: name("f.txt"), ..none.clone() }),
            (Tests { kind: Some(Kind::F), ..none.clone() }, Tests { kind: Some(Kind::D), ..none.clone() }),
            (
                Tests { size: Some(Bound::Below(11)), ..none.clone() },
                Tests { size: Some(Bound::Above(10)), ..none.clone() },
            ),
            (
                Tests { mtime: Some(Bound::Exactly(1)), ..none.clone() },
                Tests { mtime: Some(Bound::Above(1)), ..none.clone() },
            ),
            (
                Tests { mmin: Some(Bound::Above(2000)), ..none.clone() },
                Tests { mmin: Some(Bound::Below(2000)), ..none.clone() },
            ),
            (
                Tests { cached: Some(Bound::Below(100)), ..none.clone() },
                Tests { cached: Some(Bound::Exactly(100)), ..none.clone() },
            ),
            (Tests { user: Some(0), ..none.clone() }, Tests { user: Some(1), ..none.clone() }),
            (Tests { group: Some(0), ..none.clone() }, Tests { group: Some(1), ..none.clone() }),
            (Tests { mindepth: Some(2), ..none.clone() }, Tests { mindepth: Some(3), ..none.clone() }),
            (Tests { maxdepth: Some(2), ..none.clone() }, Tests { maxdepth: Some(1), ..none.clone() }),
            (none.clone(), Tests { empty: true, ..none.clone() }),
            (none.clone(), Tests { pinned: true, ..none.clone() }),
        ] {
            assert!(holds(&yes, "/a/f.txt", &small), "{yes:?}");
            assert!(!holds(&no, "/a/f.txt", &small), "{no:?}");
        }
    }

    #[test]
    fn directories_have_no_size() {
        let tests = Tests { size: Some(Bound::Below(100)), ..Tests::default() };
        assert!(!holds(&tests, "/a", &FileStatus { kind: FileKind::Directory, ..file(3, 0) }));
        assert!(holds(&Tests { name: "/".parse().ok(), ..Tests::default() }, "/", &file(3, 0)));
    }
}
