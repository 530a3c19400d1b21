//! The only place where memory maps are made.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a whole file for reading.
///
/// The law that callers keep: chunk files are never truncated while a cache is open. Writers hold the cache's lock and
/// overwrite chunks in place or unlink them, and an unlinked file stays mapped.
pub(super) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is read-only. Its bytes may change only if another process writes the same chunk, which the
    // cache's lock forbids; and they are viewed as plain numbers, for which every bit pattern is valid. Truncation is
    // excluded by the law above.
    unsafe { Mmap::map(file) }
}
