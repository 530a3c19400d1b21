//! The bytes of one stored chunk: mapped, or read where maps are not to be trusted.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memmap2::{Advice, Mmap};

use crate::error::{Error, Result};
use crate::store::mmap;

/// A whole chunk, aligned for any number type.
#[derive(Debug)]
pub struct ChunkBytes(Bytes);

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Read { words: Vec<u128>, len: usize },
}

impl ChunkBytes {
    /// Opens a chunk file of exactly `len` bytes; `map` says whether through a memory map.
    ///
    /// # Errors
    /// [`Cache`](crate::error::ErrorKind::Cache) when the file is missing or has another length.
    pub(super) fn open(path: &Path, len: usize, map: bool) -> Result<Self> {
        let file = open_chunk(path, len)?;
        if map {
            return mmap::map(&file).map(|m| Self(Bytes::Mapped(m))).map_err(|e| Error::io(path, "map", e));
        }
        let mut words = vec![0u128; len.div_ceil(16)];
        file.read_exact_at(&mut bytemuck::cast_slice_mut(&mut words)[..len], 0)
            .map_err(|e| Error::io(path, "read", e))?;
        Ok(Self(Bytes::Read { words, len }))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Mapped(map) => map,
            Bytes::Read { words, len } => &bytemuck::cast_slice(words)[..*len],
        }
    }

    /// Has the system fetch a range of bytes in the background. A hint: where it is not understood, nothing happens.
    pub fn will_read(&self, range: Range<usize>) {
        let Bytes::Mapped(map) = &self.0 else { return };
        let range = range.start.min(map.len())..range.end.min(map.len());
        let _ = map.advise_range(Advice::WillNeed, range.start, range.len());
    }

    /// Says that nothing is read but what [`will_read`](Self::will_read) announces.
    pub fn read_as_announced(&self) {
        if let Bytes::Mapped(map) = &self.0 {
            let _ = map.advise(Advice::Random);
        }
    }

    /// The chunk as numbers.
    ///
    /// # Panics
    /// When the chunk's length is not a multiple of the number's size.
    pub fn cast<T: bytemuck::Pod>(&self) -> &[T] {
        bytemuck::cast_slice(self.bytes())
    }
}

/// The file of a chunk of exactly `len` bytes.
///
/// # Errors
/// [`Cache`](crate::error::ErrorKind::Cache) when it is missing or has another length.
pub(super) fn open_chunk(path: &Path, len: usize) -> Result<File> {
    let damaged = |what: String| {
        Error::cache(path, what)
            .with_hint("the cache is damaged; start over with `--fresh`, or delete it with `stemstream cache rm`")
    };
    let file = File::open(path).map_err(|e| damaged(format!("failed to open the chunk: {e}")))?;
    let found = file.metadata().map_err(|e| Error::io(path, "read the length of", e))?.len();
    if found == len as u64 { Ok(file) } else { Err(damaged(format!("expected a chunk of {len} bytes, found {found}"))) }
}
