//! Judging what lies in the segments at start: where the journal ends, and whether what ends it is a torn tail or
//! damage. Pure: takes the bytes of one segment after another, in order of their numbers, and gives a verdict.
//!
//! The rules:
//! - A bad frame with nothing good behind it is a torn tail, cut and reported, unless a frame or a checkpoint calls its
//!   Position durable: then it is damage.
//! - A bad frame with good ones behind it is damage, with one exception: when the machine has been started anew since
//!   and no good frame calls the bad one's Position durable, then the kernel wrote the pages of a batch that nobody had
//!   been promised in another order before the power went, and the tail is cut there. (Within one start of the machine
//!   the kernel loses nothing, so there a hole is damage whatever the frames say.)
//! - Zeros where a frame would begin are an orderly end if nothing good is behind them, otherwise a bad frame.

use larder_common::{Error, Position};

use super::{
    frame::{self, Chain, Flaw, Kind},
    header::{HEADER, Header},
};

/// One start of the machine, as its kernel names it.
pub(super) type Boot = [u8; 16];

/// What a process says in its [`Kind::Start`] frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StartNote {
    pub(super) boot: Boot,
    pub(super) created_by: String,
}

impl StartNote {
    pub(super) fn encode(&self) -> Vec<u8> {
        [&self.boot[..], self.created_by.as_bytes()].concat()
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let (boot, name) = payload.split_at_checked(16)?;
        Some(Self { boot: boot.try_into().ok()?, created_by: String::from_utf8_lossy(name).into_owned() })
    }
}

/// A segment that is part of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) number: u64,
    /// The last Position before its first entry.
    pub(super) before: Position,
}

/// Good frames behind a bad one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Behind {
    pub(super) number: u64,
    pub(super) offset: usize,
    pub(super) last: Position,
    durable: Position,
}

/// Where the journal ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) number: u64,
    pub(super) offset: usize,
    pub(super) chain: Chain,
    /// What was found at the end if it is not an orderly one.
    pub(super) torn: Option<Flaw>,
    /// Frames that were written behind the tear and go with it.
    pub(super) behind: Option<Behind>,
    /// Whether the last process closed the journal.
    pub(super) closed: bool,
}

/// Why the journal cannot be used as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// A header that should be whole is not.
    Header(u64, Error),
    /// A segment is not there though the one before continues in it: its number, and where the one before ends.
    Missing(u64, usize),
    /// A bad frame that is no torn tail.
    Frame { number: u64, offset: usize, position: Position, flaw: Flaw, behind: Option<Behind>, durable: Position },
}

/// Takes the segments one by one and remembers what the verdict needs.
#[derive(Debug, Default)]
pub(super) struct Walk {
    chain: Chain,
    kept: Vec<Kept>,
    start: Option<StartNote>,
    end: Option<(u64, usize, Flaw)>,
    rolled_at: usize,
    closed: bool,
    behind: Option<Behind>,
}

impl Walk {
    /// Takes the next segment: its number, bytes, and header.
    pub(super) fn take(
        &mut self,
        number: u64,
        image: &[u8],
        header: Result<(Header, u32), Error>,
    ) -> Result<(), Damage> {
        if self.end.is_some() {
            if let Ok((_, seed)) = header {
                self.look_behind(number, image, HEADER, seed);
            }
            return Ok(());
        }
        if let Some(last) = self.kept.last()
            && number != last.number + 1
        {
            return Err(Damage::Missing(last.number + 1, self.rolled_at));
        }
        let (_, seed) = header.map_err(|error| Damage::Header(number, error))?;
        self.read(number, image, seed);
        Ok(())
    }

    fn read(&mut self, number: u64, image: &[u8], seed: u32) {
        let mut at = HEADER;
        let mut before = None;
        let flaw = loop {
            let next = frame::parse(&image[at..], seed).and_then(|(frame, size)| {
                let held = self.chain.last();
                let known = self.chain.position.is_some();
                if !known && frame.kind != Kind::Start {
                    return Err(Flaw::Order("a segment begins with a frame that says so"));
                }
                self.chain.accept(&frame)?;
                before.get_or_insert(if known { held } else { frame.position });
                self.note(&frame);
                Ok((frame.kind, size))
            });
            match next {
                Ok((Kind::Roll, _)) => {
                    self.rolled_at = at;
                    break None;
                }
                Ok((_, size)) => at += size,
                Err(flaw) => break Some(flaw),
            }
        };
        self.kept.push(Kept { number, before: before.unwrap_or(self.chain.last()) });
        if let Some(flaw) = flaw {
            self.end = Some((number, at, flaw));
            self.look_behind(number, image, at, seed);
        }
    }

    fn note(&mut self, frame: &frame::Frame<'_>) {
        self.closed = frame.kind == Kind::Close;
        if frame.kind == Kind::Start
            && let Some(start) = StartNote::decode(frame.payload)
        {
            self.start = Some(start);
        }
    }

    fn look_behind(&mut self, number: u64, image: &[u8], from: usize, seed: u32) {
        let mut at = from;
        while let Some((offset, frame, size)) = frame::find(&image[at..], seed, self.chain.last()) {
            let found = self.behind.get_or_insert(Behind {
                number,
                offset: at + offset,
                last: frame.position,
                durable: frame.durable,
            });
            found.last = found.last.max(frame.position);
            found.durable = found.durable.max(frame.durable);
            at += offset + size;
        }
    }

    /// The segments that are part of the journal, oldest first.
    pub(super) fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// Whether not one good frame was found in order.
    pub(super) fn is_blank(&self) -> bool {
        self.chain.crc.is_none()
    }

    /// The last entry's Position that is in good order.
    pub(super) fn last(&self) -> Position {
        self.chain.last()
    }

    /// The newest epoch seen.
    pub(super) fn epoch(&self) -> u64 {
        self.chain.epoch
    }

    /// Who wrote last.
    pub(super) fn written_by(&self) -> &str {
        self.start.as_ref().map_or("an unknown version", |start| &start.created_by)
    }

    /// Where the journal ends, given what checkpoints call durable and the machine's present start.
    pub(super) fn verdict(&self, durable: Position, here: &Boot) -> Result<Tail, Damage> {
        let Some((number, offset, flaw)) = self.end.clone() else {
            let next = self.kept.last().map_or(1, |kept| kept.number + 1);
            return Err(Damage::Missing(next, self.rolled_at));
        };
        let position = self.chain.last().next();
        let called = self.behind.map_or(durable, |behind| durable.max(behind.durable));
        // Without a start frame nobody can say that the machine went down meanwhile.
        let same_start = self.start.as_ref().is_none_or(|start| start.boot == *here);
        if called >= position || (self.behind.is_some() && (same_start || self.closed)) {
            return Err(Damage::Frame { number, offset, position, flaw, behind: self.behind, durable: called });
        }
        let torn = (flaw != Flaw::End || self.behind.is_some()).then_some(flaw);
        Ok(Tail { number, offset, chain: self.chain, torn, behind: self.behind, closed: self.closed })
    }
}

#[cfg(test)]
mod tests {
    use larder_common::ClusterId;

    use super::{super::header::FileKind, *};

    const HERE: Boot = [1; 16];

    /// A segment with a start frame and these many entries; frame offsets.
    fn segment(chain: &mut Chain, entries: usize, boot: Boot) -> (Vec<u8>, u32, Vec<usize>) {
        let header = Header::new(FileKind::Segment, ClusterId([1; 16]), 1, "larder").unwrap();
        let (mut image, seed) = header.encode();
        let mut offsets = vec![image.len()];
        chain.push(&mut image, seed, Kind::Start, &StartNote { boot, created_by: "larder".into() }.encode());
        for _ in 0..entries {
            offsets.push(image.len());
            chain.push(&mut image, seed, Kind::Entry, b"payload");
        }
        offsets.push(image.len());
        image.resize(16 << 10, 0);
        (image, seed, offsets)
    }

    fn judge(images: &[&[u8]], durable: u64, boot: Boot) -> Result<Tail, Damage> {
        let mut walk = Walk::default();
        for (i, image) in images.iter().enumerate() {
            let header = Header::decode(image, std::path::Path::new("x"), FileKind::Segment);
            walk.take(i as u64 + 1, image, header)?;
        }
        walk.verdict(Position(durable), &boot)
    }

    #[test]
    fn an_orderly_end_is_found() {
        let mut chain = Chain::after(Position(0));
        let (image, _, offsets) = segment(&mut chain, 3, HERE);
        let tail = judge(&[&image], 0, HERE).unwrap();
        assert_eq!((tail.offset, tail.chain, tail.torn), (offsets[4], chain, None));
    }

    #[test]
    fn a_bad_last_frame_is_torn_unless_something_calls_it_durable() {
        let (mut image, _, offsets) = segment(&mut Chain::after(Position(0)), 3, HERE);
        image[offsets[3] + 45] ^= 1;
        let tail = judge(&[&image], 2, HERE).unwrap();
        assert_eq!((tail.offset, tail.torn, tail.chain.last()), (offsets[3], Some(Flaw::Checksum), Position(2)));
        assert!(matches!(judge(&[&image], 3, HERE), Err(Damage::Frame { position: Position(3), .. })));
    }

    #[test]
    fn a_bad_frame_with_good_ones_behind_it_is_damage_while_the_machine_runs() {
        let (mut image, _, offsets) = segment(&mut Chain::after(Position(0)), 3, HERE);
        image[offsets[2]..offsets[3]].fill(0);
        assert!(matches!(judge(&[&image], 0, HERE), Err(Damage::Frame { position: Position(2), .. })));
        let tail = judge(&[&image], 0, [2; 16]).unwrap();
        assert_eq!((tail.chain.last(), tail.behind.unwrap().last), (Position(1), Position(3)));
        assert!(judge(&[&image], 2, [2; 16]).is_err(), "a checkpoint calls it durable");
    }

    #[test]
    fn a_later_frame_that_calls_the_bad_one_durable_makes_it_damage() {
        let mut chain = Chain::after(Position(0));
        let (mut image, seed, offsets) = segment(&mut chain, 2, HERE);
        chain.durable = Position(2);
        let mut mark = Vec::new();
        chain.push(&mut mark, seed, Kind::Mark, b"");
        image[offsets[3]..offsets[3] + mark.len()].copy_from_slice(&mark);
        image[offsets[2] + 41] ^= 4;
        assert!(matches!(judge(&[&image], 0, [2; 16]), Err(Damage::Frame { durable: Position(2), .. })));
    }

    #[test]
    fn a_segment_that_should_follow_is_missed() {
        let mut chain = Chain::after(Position(0));
        let (mut image, seed, offsets) = segment(&mut chain, 2, HERE);
        let mut roll = Vec::new();
        chain.push(&mut roll, seed, Kind::Roll, b"");
        image[offsets[3]..offsets[3] + roll.len()].copy_from_slice(&roll);
        assert_eq!(judge(&[&image], 0, HERE), Err(Damage::Missing(2, offsets[3])));
        let (next, _, _) = segment(&mut chain, 2, HERE);
        assert_eq!(judge(&[&image, &next], 0, HERE).unwrap().chain.last(), Position(4));
    }
}
