//! Writing past the page cache: numbers that nobody reads again soon go from our buffer to the disk, without a copy in the
//! system's memory that pushes others out. It costs a tenth of the processor time, and where the system has to find new
//! pages first (a virtual machine that gives its free memory back), several times less wall time.
//!
//! Only whole blocks can be written so, from memory that is aligned like them; what is left at both ends goes the usual way.
//! Where the system refuses (not every file system can), all does, and then a writer waits for the disk from time to time
//! and lets the pages go.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::memory::BLOCK;
use crate::store::file::write_out;

/// Bytes that may wait for the disk where the usual way has to do and nobody says how many.
const WINDOW: u64 = 64 << 20;

/// Opens an existing file past the page cache, to read it or to write to it; `None` where the system cannot.
#[cfg(target_os = "linux")]
pub(super) fn open_past(path: &Path, write: bool) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    File::options().read(!write).write(write).custom_flags(flags).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn open_past(_: &Path, _: bool) -> Option<File> {
    None
}

/// An existing file, for writing at known places.
#[derive(Debug)]
pub(super) struct DirectFile {
    /// The usual way.
    file: File,
    /// The way past the page cache, as long as the system goes along.
    past: Option<File>,
    refused: AtomicBool,
    /// How much may wait for the disk.
    window: u64,
    waiting: AtomicU64,
}

impl DirectFile {
    /// Opens `path` a second time, past the page cache where `direct` says so and the system can. `file` is the same file,
    /// open for writing; `window` is how much may wait for the disk where it does not go that way.
    pub(super) fn new(path: &Path, file: File, direct: bool, window: Option<u64>) -> Self {
        let past = if direct { open_past(path, true) } else { None };
        let waiting = AtomicU64::new(0);
        Self { file, past, refused: AtomicBool::new(false), window: window.unwrap_or(WINDOW), waiting }
    }

    /// The file as usual.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Whether whole blocks are written past the page cache.
    pub(super) fn is_direct(&self) -> bool {
        self.past.is_some() && !self.refused.load(Ordering::Relaxed)
    }

    /// Writes `bytes` from byte `at` on: past the page cache when both are multiples of [`BLOCK`] and the bytes begin
    /// with a block in memory too ([`AlignedBytes`](crate::memory::AlignedBytes)), else as usual.
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let aligned = (bytes.as_ptr() as usize).is_multiple_of(BLOCK) && at.is_multiple_of(BLOCK as u64);
        let whole = aligned && bytes.len().is_multiple_of(BLOCK);
        if let Some(past) = self.past.as_ref().filter(|_| whole && self.is_direct()) {
            match past.write_all_at(bytes, at) {
                // Not on this file system, or in larger blocks only: whatever was written is written again.
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => self.refused.store(true, Ordering::Relaxed),
                done => return done,
            }
        }
        self.file.write_all_at(bytes, at)?;
        let length = bytes.len() as u64;
        if self.waiting.fetch_add(length, Ordering::Relaxed) + length >= self.window {
            self.waiting.store(0, Ordering::Relaxed);
            write_out(&self.file)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::AlignedBytes;

    fn opened(file: &tempfile::NamedTempFile, direct: bool) -> DirectFile {
        let usual = file.reopen().expect("open");
        DirectFile::new(file.path(), usual, direct, Some(1))
    }

    #[test]
    fn both_ways_write_the_same() {
        let mut stage = AlignedBytes::zeroed(3 * BLOCK);
        stage.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i % 251) as u8 + 1);
        for direct in [true, false] {
            let file = tempfile::NamedTempFile::new().expect("file");
            let out = opened(&file, direct);
            assert!(direct || !out.is_direct());
            // Blocks, half a block before them, an odd piece behind.
            out.write(&stage[..2 * BLOCK], BLOCK as u64).expect("blocks");
            out.write(&stage[..BLOCK / 2], BLOCK as u64 / 2).expect("before");
            out.write(&stage[..7], 3 * BLOCK as u64).expect("behind");
            let mut expected = vec![0; BLOCK / 2];
            expected.extend_from_slice(&stage[..BLOCK / 2]);
            expected.extend_from_slice(&stage[..2 * BLOCK]);
            expected.extend_from_slice(&stage[..7]);
            assert!(std::fs::read(file.path()).expect("read") == expected, "direct: {direct}");
        }
    }

    #[test]
    fn memory_that_begins_anywhere_goes_the_usual_way() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let out = opened(&file, true);
        let mut bytes = AlignedBytes::zeroed(2 * BLOCK);
        bytes.fill(7);
        out.write(&bytes[1..=BLOCK], 0).expect("as usual");
        assert!(std::fs::read(file.path()).expect("read").iter().all(|byte| *byte == 7));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn where_the_system_refuses_the_usual_way_is_taken() {
        let file = tempfile::NamedTempFile::new().expect("file");
        // Of the kernel's files that say "invalid argument" to whatever is no number, one that every process has.
        let past = File::options().write(true).open("/proc/self/oom_score_adj").expect("open");
        let out = DirectFile { past: Some(past), ..opened(&file, false) };
        let mut bytes = AlignedBytes::zeroed(BLOCK);
        bytes.fill(b'x');
        assert!(out.is_direct());
        out.write(&bytes, 0).expect("the usual way");
        assert!(!out.is_direct(), "nobody asks again");
        out.write(&bytes, BLOCK as u64).expect("the usual way at once");
        assert!(std::fs::read(file.path()).expect("read") == [b'x'; 2 * BLOCK]);
    }
}
