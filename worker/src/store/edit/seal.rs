//! Sealing: what an edit has now becomes a generation, and the edit goes on.
//!
//! Only chunks that may have changed are summed anew. Bytes come before the record that names them; the record also says
//! what the file was before, until [`EditedFile::stands`]: whichever of the two the master knows is found here after a
//! crash.

use std::{collections::BTreeMap, fs::File, io, ops::Range};

use larder_common::{BlockIndex, Error, ErrorKind, Generation, Result, checksum};

use super::{
    super::{
        cache_file::Receipt,
        feed::Change,
        index::{Weight, record::Record},
        kernel,
        key::{Extent, FileKey, GenerationSpec},
    },
    EditedFile,
};

impl EditedFile {
    /// Makes the first `length` bytes a generation. `dirty` are the bytes that may have changed since the last one, or
    /// since the beginning. Answers a receipt for each block that is here.
    ///
    /// # Errors
    /// `Invalid` where the file is shorter, or a block that has changed is missing; the system's error. The edit is as it
    /// was.
    pub fn seal(&mut self, generation: Generation, length: u64, dirty: &[Range<u64>]) -> Result<Vec<Receipt>> {
        if self.length()? < length {
            let message = format!("an edit has {} bytes, its writer says {length}", self.length()?);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let spec = GenerationSpec { length, persisted: false, ..self.geometry };
        let gone = || Error::new(ErrorKind::Changed, "the edit is over");
        let looked = self.listed(|edited| (edited.key, edited.spec, edited.sums.clone(), edited.missing.clone()));
        let (key, old, sums, missing) = looked.ok_or_else(gone)?;
        let touched = missing.iter().find(|index| is_touched(**index, &old, &spec, dirty));
        if let Some(index) = touched {
            return Err(Error::new(ErrorKind::Invalid, format!("block {index} was changed before it was here")));
        }
        let before = kernel::status(self.file()).map_err(|e| self.failed(e))?;
        let mut fresh = BTreeMap::new();
        for index in (0..spec.blocks()).map(BlockIndex).filter(|index| !missing.contains(index)) {
            let known = sums.get(&index).map(|crcs| (&**crcs, old.extent(index)));
            let crcs = renewed(self.file(), spec.extent(index), known, dirty).map_err(|e| self.failed(e))?;
            fresh.insert(index, crcs);
        }
        let sealed = FileKey { file: key.file, generation };
        let (serial, lease) = (self.name.serial, Some(self.lease));
        let edit = Some(if key == sealed { Generation(0) } else { key.generation });
        let mut records = vec![Record::Create { serial, key: sealed, spec, lease, committed: true, edit }];
        records.extend(fresh.iter().map(|(index, crcs)| Record::Block(serial, *index, crcs.clone())));
        self.directory.record(&records, Weight::Removes)?;
        let receipts = receipts(&spec, &fresh);
        self.listed(|edited| {
            edited.was = edit.filter(|was| was.0 != 0);
            (edited.key, edited.spec, edited.sums, edited.committed) = (sealed, spec, fresh, true);
            (edited.known, edited.changed) = (Some(kernel::change_time(&before)), false);
        });
        if let Some(first) = receipts.first() {
            self.inner.feed.push(Change::Present(sealed.block(first.index), self.directory.tier()));
            self.inner.feed.wake();
        }
        Ok(receipts)
    }

    /// The master has committed what was sealed last.
    pub fn stands(&mut self) {
        self.listed(|edited| edited.was = None);
    }
}

/// Whether a block has other bytes now than it had.
fn is_touched(index: BlockIndex, old: &GenerationSpec, new: &GenerationSpec, dirty: &[Range<u64>]) -> bool {
    let range = new.block_size.range(index, new.length);
    let was = old.block_size.range(index, old.length);
    was != range || dirty.iter().any(|d| d.start < range.end && range.start < d.end)
}

/// The checksums of a block; those of chunks that have not changed are taken over.
fn renewed(file: &File, new: Extent, known: Option<(&[u32], Extent)>, dirty: &[Range<u64>]) -> io::Result<Box<[u32]>> {
    let mut buffer = vec![0; checksum::CHUNK.min(new.length) as usize];
    let sum = |chunk: usize| {
        let start = new.start + chunk as u64 * checksum::CHUNK;
        let length = new.chunk_length(chunk);
        let is_dirty = dirty.iter().any(|d| d.start < start + length && start < d.end);
        let same = known.filter(|(crcs, old)| !is_dirty && crcs.len() > chunk && old.chunk_length(chunk) == length);
        if let Some((crcs, _)) = same {
            return Ok(crcs[chunk]);
        }
        let part = &mut buffer[..length as usize];
        kernel::read_all(file, part, start)?;
        Ok(checksum::crc32c(part))
    };
    (0..new.chunks()).map(sum).collect()
}

/// What the master is told of each block.
fn receipts(spec: &GenerationSpec, sums: &BTreeMap<BlockIndex, Box<[u32]>>) -> Vec<Receipt> {
    let mut all = Vec::with_capacity(sums.len());
    for (index, crcs) in sums {
        let extent = spec.extent(*index);
        let parts = crcs.iter().enumerate().map(|(chunk, crc)| (*crc, extent.chunk_length(chunk)));
        let crc = parts.fold(0, |sum, (crc, length)| checksum::combine(sum, crc, length));
        all.push(Receipt { index: *index, length: extent.length, crc });
    }
    all
}
