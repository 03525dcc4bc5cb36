//! Opening a journal's directory: what is there, what of it is good, where it goes on.
//!
//! Nothing is changed before the verdict of [`super::scan`] is known, except that unfinished files are removed. A start
//! that is refused leaves the directory as it was.

use std::{fmt, path::PathBuf};

use larder_common::{ClusterId, Error, ErrorKind, Position, Result};

use super::{
    checkpoint::FrameReader,
    directory::{Directory, Listing, failed},
    header::{FileKind, Header},
    scan::{Boot, Damage, Kept, Tail, Walk},
    segment::{Mould, Segment},
    stream::check_cluster,
};

/// Something that the start found and went on from; for the log and the report.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// The end of the journal was written only in part, and was cut.
    TornTail {
        /// The file.
        file: PathBuf,
        /// Where it was cut.
        offset: u64,
        /// The first Position that is not there.
        position: Position,
        /// The last Position seen behind the tear, if any was.
        behind: Option<Position>,
        /// What was wrong with the bytes.
        reason: String,
    },
    /// A checkpoint that is not used.
    BadCheckpoint {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The newest usable checkpoint is not the newest one; the journal fills the difference.
    FellBack {
        /// The checkpoint used; 0 is "none, from the first entry".
        to: Position,
    },
    /// Segments that belong to nothing: some of those between them and the journal are gone.
    Stray {
        /// The highest of them.
        file: PathBuf,
    },
    /// An installed checkpoint replaced what the journal held, and the last process did not come to remove that.
    Replaced {
        /// The Position of the checkpoint.
        at: Position,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::TornTail { file, offset, position, behind, reason } => {
                let file = file.display();
                write!(
                    f,
                    "{file}: torn tail cut at offset {offset}: {reason}; the journal ends before Position {position}"
                )?;
                behind.map_or(Ok(()), |last| {
                    write!(f, "; what followed, up to Position {last}, was never confirmed as synced and went with it")
                })
            }
            Finding::BadCheckpoint { file, reason } => write!(f, "{}: checkpoint not used: {reason}", file.display()),
            Finding::FellBack { to: Position(0) } => {
                f.write_str("no checkpoint is usable: replaying the whole journal")
            }
            Finding::FellBack { to } => {
                write!(f, "using the older checkpoint at Position {to} and the journal after it")
            }
            Finding::Stray { file } => write!(f, "{}: not used: segments after it are missing", file.display()),
            Finding::Replaced { at } => write!(f, "the journal begins anew after the installed checkpoint at {at}"),
        }
    }
}

/// A checkpoint that proved itself.
#[derive(Clone, Debug)]
pub(super) struct Usable {
    pub(super) position: Position,
    pub(super) epoch: u64,
    installed: bool,
}

/// What opening found out.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) cluster: ClusterId,
    /// Usable checkpoints, oldest first.
    pub(super) checkpoints: Vec<Usable>,
    /// Checkpoint files that are not usable.
    pub(super) bad_checkpoints: Vec<Position>,
    pub(super) kept: Vec<Kept>,
    pub(super) segment: Segment,
    pub(super) reserve: Option<Segment>,
    pub(super) tail: Tail,
    /// The newest epoch anywhere.
    pub(super) epoch: u64,
    pub(super) findings: Vec<Finding>,
    pub(super) created: bool,
}

/// Verifies what is in the directory and opens its end for writing; makes a journal where none is.
pub(super) fn recover(
    directory: &Directory,
    cluster: Option<ClusterId>,
    mould: impl Fn(ClusterId) -> Mould,
    boot: &Boot,
) -> Result<Recovered> {
    let listing = directory.list()?;
    for path in &listing.unfinished {
        directory.remove(path)?;
    }
    if listing.segments.is_empty() {
        return create(directory, &listing, cluster, &mould);
    }
    let mut findings = Vec::new();
    let (checkpoints, bad, claimed) = read_checkpoints(directory, &listing, cluster, &mut findings)?;
    let found = read_segments(directory, &listing, cluster, &mut findings)?;
    let newest = checkpoints.last().cloned();
    let at = newest.as_ref().map_or(Position(0), |checkpoint| checkpoint.position);
    if bad.iter().any(|position| *position > at) {
        findings.push(Finding::FellBack { to: at });
    }
    let mould = mould(found.cluster);
    let replaced = newest.is_some_and(|n| n.installed) && found.walk.last() < at;
    let (tail, kept, segment) = if replaced {
        findings.push(Finding::Replaced { at });
        begin_anew(directory, &mould, &listing.segments, at)?
    } else {
        check_reach(directory, &found.walk, at)?;
        found.check_beginning(&listing).map_err(|d| explain(directory, &found.walk, d, at))?;
        let tail = found.walk.verdict(claimed.max(at), boot).map_err(|d| explain(directory, &found.walk, d, at))?;
        let segment = settle(directory, &mould, &found, &tail, &mut findings)?;
        (tail, found.walk.kept().to_vec(), segment)
    };
    let reserve = if replaced { None } else { keep_reserve(directory, &mould, &found, segment.number())? };
    let epoch = checkpoints.iter().map(|c| c.epoch).fold(found.walk.epoch(), u64::max);
    let (cluster, created) = (found.cluster, false);
    Ok(Recovered { cluster, checkpoints, bad_checkpoints: bad, kept, segment, reserve, tail, epoch, findings, created })
}

fn create(
    directory: &Directory,
    listing: &Listing,
    cluster: Option<ClusterId>,
    mould: &impl Fn(ClusterId) -> Mould,
) -> Result<Recovered> {
    if let Some(position) = listing.checkpoints.last() {
        let path = directory.path().display();
        let message = format!("{path}: there is a checkpoint at Position {position} but no journal segment");
        return Err(Error::new(ErrorKind::Corrupt, message).advise(
            "put the journal-*.log files back from where they were moved, or restore all of the directory from a copy",
        ));
    }
    let cluster = cluster.map_or_else(ClusterId::random, Ok)?;
    let (tail, kept, segment) = begin_anew(directory, &mould(cluster), &[], Position(0))?;
    let (checkpoints, bad_checkpoints, findings) = Default::default();
    Ok(Recovered {
        cluster,
        checkpoints,
        bad_checkpoints,
        kept,
        segment,
        reserve: None,
        tail,
        epoch: 0,
        findings,
        created: true,
    })
}

/// Removes these segments and begins one that goes on after this Position.
pub(super) fn begin_anew(
    directory: &Directory,
    mould: &Mould,
    old: &[u64],
    at: Position,
) -> Result<(Tail, Vec<Kept>, Segment)> {
    let number = old.last().map_or(1, |last| last + 1);
    // Made first, so that there is never a moment without a segment; until it holds a frame it is a mere reserve.
    let segment = Segment::prepare(directory, mould, number)?;
    for old in old {
        directory.remove(&directory.segment(*old))?;
    }
    directory.sync()?;
    let chain = super::frame::Chain::after(at);
    let tail = Tail { number, offset: super::header::HEADER, chain, torn: None, behind: None, closed: false };
    Ok((tail, vec![Kept { number, before: at }], segment))
}

type Checkpoints = (Vec<Usable>, Vec<Position>, Position);

/// The usable checkpoints, the others, and the highest Position that any of them calls durable.
fn read_checkpoints(
    directory: &Directory,
    listing: &Listing,
    cluster: Option<ClusterId>,
    findings: &mut Vec<Finding>,
) -> Result<Checkpoints> {
    let (mut usable, mut bad, mut claimed) = (Vec::new(), Vec::new(), Position(0));
    for &position in &listing.checkpoints {
        let file = directory.checkpoint(position);
        let opened = FrameReader::open(&file, position, cluster).and_then(|mut reader| {
            claimed = claimed.max(if reader.header().installed { Position(0) } else { position });
            reader.verify()?;
            let header = reader.header();
            Ok(Usable { position, epoch: header.epoch, installed: header.installed })
        });
        match opened {
            Ok(checkpoint) => usable.push(checkpoint),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                bad.push(position);
                findings.push(Finding::BadCheckpoint { file, reason: error.message().to_owned() });
            }
            Err(error) => return Err(error),
        }
    }
    Ok((usable, bad, claimed))
}

struct Found {
    walk: Walk,
    cluster: ClusterId,
    /// The last segments' seeds, by number.
    seeds: Vec<(u64, u32)>,
}

impl Found {
    /// An empty journal is one only if its first segment is there: a reserve alone means that the rest is lost.
    fn check_beginning(&self, listing: &Listing) -> Result<(), Damage> {
        let first = self.walk.kept().first().map_or(1, |kept| kept.number);
        if self.walk.is_blank() && (first != 1 || listing.segments.first() != Some(&1)) {
            return Err(Damage::Missing(first.saturating_sub(1), super::header::HEADER));
        }
        Ok(())
    }
}

fn read_segments(
    directory: &Directory,
    listing: &Listing,
    expected: Option<ClusterId>,
    findings: &mut Vec<Finding>,
) -> Result<Found> {
    let mut run = listing.segments.len();
    while run > 1 && listing.segments[run - 2] + 1 == listing.segments[run - 1] {
        run -= 1;
    }
    let (stray, numbers) = listing.segments.split_at(run - 1);
    if let Some(number) = stray.last() {
        findings.push(Finding::Stray { file: directory.segment(*number) });
    }
    let (mut walk, mut cluster, mut seeds) = (Walk::default(), expected, Vec::new());
    for &number in numbers {
        let path = directory.segment(number);
        let image = std::fs::read(&path).map_err(|e| failed("read", &path, e))?;
        let header = read_header(&image, &path, number);
        match &header {
            Ok((header, seed)) => {
                check_cluster(&path, header.cluster, cluster)?;
                cluster = Some(header.cluster);
                seeds.push((number, *seed));
            }
            Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error.clone()),
            Err(_) => {}
        }
        walk.take(number, &image, header).map_err(|damage| explain(directory, &walk, damage, Position(0)))?;
    }
    let cluster = cluster.ok_or_else(|| Error::new(ErrorKind::Corrupt, "no segment of the journal has a header"))?;
    Ok(Found { walk, cluster, seeds })
}

fn read_header(image: &[u8], path: &std::path::Path, number: u64) -> Result<(Header, u32)> {
    let (header, seed) = Header::decode(image, path, FileKind::Segment)?;
    if header.number != number {
        let message = format!("{}: the file holds segment {}", path.display(), header.number);
        return Err(Error::new(ErrorKind::Corrupt, message).advise("give the file its own name back"));
    }
    Ok((header, seed))
}

/// Whether the journal begins where the checkpoint (0: none) ends, or before.
fn check_reach(directory: &Directory, walk: &Walk, at: Position) -> Result<()> {
    let first = walk.kept().first().map_or(Position(0), |kept| kept.before);
    if first <= at {
        return Ok(());
    }
    let (path, from) = (directory.path().display(), at.next());
    let message =
        format!("{path}: the entries from Position {from} to {first} are missing, no usable checkpoint has them");
    Err(Error::new(ErrorKind::Corrupt, message)
        .advise("restore the missing journal-*.log or checkpoint-*.ckpt files from a copy"))
}

/// Cuts what is torn, removes what lay behind, syncs the rest, and opens the end for writing.
fn settle(
    directory: &Directory,
    mould: &Mould,
    found: &Found,
    tail: &Tail,
    findings: &mut Vec<Finding>,
) -> Result<Segment> {
    let path = directory.segment(tail.number);
    let used_behind = tail.behind.is_some_and(|behind| behind.number > tail.number);
    if used_behind {
        let later = found.seeds.iter().rev().filter(|(number, _)| *number > tail.number);
        for (number, _) in later {
            directory.remove(&directory.segment(*number))?;
        }
        directory.sync()?;
    }
    for kept in found.walk.kept().iter().filter(|kept| kept.number < tail.number) {
        let path = directory.segment(kept.number);
        let synced = std::fs::File::open(&path).and_then(|file| file.sync_data());
        synced.map_err(|e| failed("sync", &path, e))?;
    }
    let seed = found.seeds.iter().find(|(number, _)| *number == tail.number).map(|(_, seed)| *seed);
    let seed = seed.ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("{}: no header", path.display())))?;
    let segment = Segment::open(directory, mould, tail.number, seed)?;
    if let Some(flaw) = &tail.torn {
        segment.cut(tail.offset as u64)?;
        findings.push(Finding::TornTail {
            file: segment.path().to_owned(),
            offset: tail.offset as u64,
            position: tail.chain.last().next(),
            behind: tail.behind.map(|behind| behind.last),
            reason: flaw.reason().to_owned(),
        });
    }
    segment.sync()?;
    directory.sync()?;
    Ok(segment)
}

/// Opens the empty segment after the last one as the reserve; removes what else is there with a higher number.
fn keep_reserve(directory: &Directory, mould: &Mould, found: &Found, last: u64) -> Result<Option<Segment>> {
    let mut reserve = None;
    for number in directory.list()?.segments.into_iter().filter(|number| *number > last).rev() {
        let seed = found.seeds.iter().find(|(n, _)| *n == number).map(|(_, seed)| *seed);
        match seed {
            Some(seed) if number == last + 1 => reserve = Segment::open(directory, mould, number, seed).ok(),
            _ => {}
        }
        if reserve.is_none() {
            directory.remove(&directory.segment(number))?;
        }
    }
    Ok(reserve)
}

/// Damage in words: file, offset, Position, and what to do.
fn explain(directory: &Directory, walk: &Walk, damage: Damage, checkpoint: Position) -> Error {
    let who = format!("last written by {}", walk.written_by());
    match damage {
        Damage::Header(_, error) => error.context(format!("the journal is damaged ({who})")).advise(
            "restore this file from a copy; the frames behind a damaged header cannot be proved and are not used",
        ),
        Damage::Missing(number, at) => {
            let (missing, before) = (directory.segment(number), directory.segment(number.saturating_sub(1)));
            let message =
                format!("{}: the segment is missing, {} goes on in it ({who})", missing.display(), before.display());
            Error::new(ErrorKind::Corrupt, message).advise(format!(
                "put it back; or, to give up what it held, copy the directory away and run: truncate -s {at} {}",
                before.display()
            ))
        }
        Damage::Frame { number, offset, position, flaw, behind, durable } => {
            let file = directory.segment(number).display().to_string();
            let mut message =
                format!("{file}: damage at offset {offset}, Position {position}: {} ({who})", flaw.reason());
            if let Some(behind) = behind {
                let place = directory.segment(behind.number);
                message.push_str(&format!(
                    "; good frames up to Position {} follow from offset {} of {}",
                    behind.last,
                    behind.offset,
                    place.display()
                ));
            }
            if durable >= position {
                message.push_str(&format!("; it was on disk: everything up to Position {durable} had been synced"));
            }
            Error::new(ErrorKind::Corrupt, message).advise(frame_advice(&file, offset, position, checkpoint))
        }
    }
}

fn frame_advice(file: &str, offset: usize, position: Position, checkpoint: Position) -> String {
    if checkpoint >= position {
        return format!(
            "restore the file from a copy; the whole checkpoint at Position {checkpoint} does not need it, so it and the \
             segments before it may also be moved away if segments after it exist"
        );
    }
    format!(
        "restore the file from a copy; or, to lose every entry from Position {position} on, copy the directory away, \
         run: truncate -s {offset} {file}, and remove the segments and checkpoints with higher numbers"
    )
}
