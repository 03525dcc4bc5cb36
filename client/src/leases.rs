//! What lies open here of a file on a co-located worker: a descriptor, or for a small file a mapping.
//!
//! [`Local`] holds the lease; when the last user drops it, the descriptor is closed and the lease is given back. Reads are
//! system calls or copies on the caller's own thread. A view keeps its `Local`, and so the lease, for as long as it lives:
//! that is what "frozen" means.

use std::{
    ops::Range,
    os::fd::OwnedFd,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use larder_common::{BlockSize, Error, ErrorKind, FileId, Generation, Medium, Result, WorkerId};
use larder_proto::{convert, v1};
use nix::{errno::Errno, sys::uio::pread};

use crate::{
    bits::Bits,
    descriptors::{Residents, Share},
    mapping::{HUGE, Mapping},
    plan,
    short::LeaseGuard,
    view::View,
};

/// Files up to this size are kept mapped and not open, in bytes. A copy from a mapping costs less than `pread`, and no
/// descriptor; larger ones would cost too many page-table entries.
pub(crate) const SMALL: u64 = 1 << 20;

#[derive(Debug)]
enum Source {
    Descriptor(OwnedFd),
    Mapped(Arc<Mapping>),
}

/// An open cache file of one generation.
#[derive(Debug)]
pub(crate) struct Local {
    source: Source,
    /// Of a larger file, made at the first view.
    mapping: OnceLock<Arc<Mapping>>,
    length: u64,
    block_size: BlockSize,
    whole: Bits,
    pub(crate) used: AtomicBool,
    touched: Bits,
    touches: AtomicU32,
    pub(crate) name: (FileId, Generation),
    // The order matters: the descriptor and mappings above are gone before the lease is given back.
    pub(crate) lease: LeaseGuard,
    _share: Share,
}

/// What a worker answered to a request for a lease.
#[derive(Debug)]
pub(crate) struct Leased {
    pub(crate) guard: LeaseGuard,
    pub(crate) descriptor: OwnedFd,
    pub(crate) answer: v1::ShortLeaseAnswer,
}

impl Local {
    /// # Errors
    /// `Changed` if the worker leased something else than was asked for.
    pub(crate) fn new(
        leased: Leased,
        name: (FileId, Generation),
        (length, block_size): (u64, BlockSize),
        residents: &Residents,
    ) -> Result<Self> {
        let Leased { guard, descriptor, answer } = leased;
        if (FileId(answer.file), Generation(answer.generation)) != name || answer.length != length {
            return Err(Error::new(ErrorKind::Changed, "the worker leased another version than was asked for"));
        }
        let blocks = block_size.count(length);
        let whole = Bits::new(blocks);
        whole.insert(convert::from_runs(&answer.whole, blocks));
        let medium = convert::medium(answer.medium).ok();
        let small = whole.is_all() && (1..=SMALL).contains(&length) && medium == Some(Medium::Mem);
        let mapped = small.then(|| residents.mapping(length)).flatten();
        let mapped = mapped.and_then(|share| Some((Mapping::new(&descriptor, length, true).ok()?, share)));
        let (source, share) = match mapped {
            Some((mapping, share)) => (Source::Mapped(Arc::new(mapping)), share),
            None => (Source::Descriptor(descriptor), residents.descriptor()),
        };
        Ok(Self {
            source,
            mapping: OnceLock::new(),
            length,
            block_size,
            whole,
            used: AtomicBool::new(true),
            touched: Bits::new(blocks),
            touches: AtomicU32::new(0),
            name,
            lease: guard,
            _share: share,
        })
    }

    pub(crate) fn worker(&self) -> WorkerId {
        self.lease.worker()
    }

    /// Whether every block can be read here.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole.is_all()
    }

    /// Blocks have become whole.
    pub(crate) fn became_whole(&self, runs: &[v1::BlockRun]) {
        self.whole.insert(convert::from_runs(runs, self.block_size.count(self.length)));
    }

    /// Whether these bytes can be read here now. The range lies within the file.
    #[inline]
    pub(crate) fn covers(&self, range: &Range<u64>) -> bool {
        self.whole.is_all() || self.whole.contains(plan::blocks(self.block_size, range))
    }

    /// Reads bytes that are there. Returns true if these blocks were not touched since the last hint.
    ///
    /// # Errors
    /// `Lost` if the cache file is shorter than it was said to be; what the system says.
    #[inline]
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<bool> {
        match &self.source {
            Source::Mapped(mapping) => {
                let start = offset as usize;
                buffer.copy_from_slice(mapping.bytes(start, start + buffer.len()));
            }
            Source::Descriptor(descriptor) => read_descriptor(descriptor, offset, buffer)?,
        }
        Ok(self.touch(&(offset..offset + buffer.len() as u64)))
    }

    #[inline]
    fn touch(&self, range: &Range<u64>) -> bool {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        let first = self.touches.load(Ordering::Relaxed) == 0;
        self.touches.fetch_add(1, Ordering::Relaxed);
        let blocks = plan::blocks(self.block_size, range);
        if !self.touched.contains(blocks.clone()) {
            self.touched.insert(blocks);
        }
        first
    }

    /// What was touched since this was last asked.
    pub(crate) fn take_touched(&self) -> Option<v1::Touched> {
        let count = self.touches.swap(0, Ordering::Relaxed);
        let runs = convert::to_runs(self.touched.take());
        let (file, generation) = (self.name.0.0, self.name.1.0);
        (count > 0).then_some(v1::Touched { file, generation, runs, count })
    }

    /// A view of bytes that are there; with whether they were not touched since the last hint.
    ///
    /// # Errors
    /// Where the file cannot be mapped.
    pub(crate) fn view(self: &Arc<Self>, range: &Range<u64>) -> Result<(View, bool)> {
        let mapping = match &self.source {
            Source::Mapped(mapping) => mapping,
            Source::Descriptor(descriptor) => match self.mapping.get() {
                Some(mapping) => mapping,
                None => {
                    let made = Arc::new(Mapping::new(descriptor, self.length, false)?);
                    self.mapping.get_or_init(|| made)
                }
            },
        };
        let (start, end) = (range.start as usize, range.end as usize);
        let around = range.start / HUGE as u64 * HUGE as u64..range.end.next_multiple_of(HUGE as u64).min(self.length);
        if self.covers(&around) {
            mapping.fill(start, end);
        }
        let first = self.touch(range);
        Ok((View::mapped(Arc::clone(mapping), start, end, Arc::clone(self)), first))
    }
}

fn read_descriptor(descriptor: &OwnedFd, mut offset: u64, mut buffer: &mut [u8]) -> Result<()> {
    while !buffer.is_empty() {
        let at = i64::try_from(offset).map_err(|_| Error::new(ErrorKind::Invalid, "an offset above 2^63"))?;
        match pread(descriptor, buffer, at) {
            Ok(0) => return Err(Error::new(ErrorKind::Lost, "the cache file is shorter than its worker said")),
            Ok(read) => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(std::io::Error::from(errno).into()),
        }
    }
    Ok(())
}
