//! How fast a disk is, for files like those of this program: large, in order, in blocks of some MiB.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::memory::AlignedBytes;
use crate::progress::CancelToken;
use crate::store::direct::{DirectFile, open_past};

/// Bytes written or read at once.
const BLOCK: usize = 8 << 20;

/// Writes a new file of `bytes` (at least one block) past the page cache, where the system can, and brings it to the disk, as
/// runs write their large arrays; seconds and bytes.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io), [`Disk`](crate::error::ErrorKind::Disk),
/// [`Interrupted`](crate::error::ErrorKind::Interrupted). The file is the caller's to delete in any case.
pub fn time_writing(path: &Path, bytes: u64, cancel: &CancelToken) -> Result<(f64, u64)> {
    let failed = |e| Error::io(path, "write a file to measure the disk", e);
    let mut stage = AlignedBytes::zeroed(BLOCK);
    // Not zeros, which some file systems and disks do not store.
    let numbers = (0u64..).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8);
    stage.iter_mut().zip(numbers).for_each(|(byte, number)| *byte = number);
    let blocks = bytes.div_ceil(BLOCK as u64).max(1);
    let start = Instant::now();
    let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    let file = DirectFile::new(path, file, true, None);
    for block in 0..blocks {
        cancel.check()?;
        file.write(&stage, block * BLOCK as u64).map_err(failed)?;
    }
    file.file().sync_all().map_err(failed)?;
    Ok((start.elapsed().as_secs_f64(), blocks * BLOCK as u64))
}

/// Reads a file that need not stay in memory, as runs read a source that is larger than memory: past the page cache where
/// the system can, by as many threads as take part.
#[derive(Debug)]
pub struct ColdRead {
    path: PathBuf,
    file: File,
    past: Option<File>,
    refused: AtomicBool,
    next: AtomicU64,
}

impl ColdRead {
    /// Opens the file and asks the system to let go of what it holds of it.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io).
    pub fn open(path: &Path) -> Result<Self> {
        drop_pages(path)?;
        let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
        let (past, refused) = (open_past(path, false), AtomicBool::new(false));
        Ok(Self { path: path.to_owned(), file, past, refused, next: AtomicU64::new(0) })
    }

    /// Reads block after block that nobody has read yet, up to the end; bytes.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io), [`Interrupted`](crate::error::ErrorKind::Interrupted).
    pub fn take_part(&self, cancel: &CancelToken) -> Result<u64> {
        let mut stage = AlignedBytes::zeroed(BLOCK);
        let mut total = 0;
        loop {
            cancel.check()?;
            let at = self.next.fetch_add(BLOCK as u64, Ordering::Relaxed);
            let past = self.past.as_ref().filter(|_| !self.refused.load(Ordering::Relaxed));
            let read = match past.map(|past| past.read_at(&mut stage, at)) {
                Some(Err(e)) if e.kind() == ErrorKind::InvalidInput => {
                    self.refused.store(true, Ordering::Relaxed);
                    self.file.read_at(&mut stage, at)
                }
                Some(read) => read,
                None => self.file.read_at(&mut stage, at),
            };
            match read.map_err(|e| Error::io(&self.path, "read a file to measure the disk", e))? {
                0 => return Ok(total),
                read => total += read as u64,
            }
        }
    }
}

/// Reads a file from its beginning to its end, or its first `most` bytes; seconds and bytes.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io), [`Interrupted`](crate::error::ErrorKind::Interrupted).
pub fn time_reading(path: &Path, most: u64, cancel: &CancelToken) -> Result<(f64, u64)> {
    let failed = |e| Error::io(path, "read a file to measure the disk", e);
    let mut block = vec![0; BLOCK];
    let mut total = 0;
    let start = Instant::now();
    let mut file = File::open(path).map_err(failed)?;
    while total < most {
        cancel.check()?;
        let read = file.read(&mut block).map_err(failed)?;
        if read == 0 {
            break;
        }
        total += read as u64;
    }
    Ok((start.elapsed().as_secs_f64(), total))
}

/// Asks the system to let go of what it holds of a file in memory, so that the next read comes from the disk. Only a
/// hint: pages that wait for the disk, or that another process uses, stay. The file is not changed.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io) when the file cannot be opened.
pub fn drop_pages(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_an_existing_file_is_left_alone() {
        let folder = tempfile::tempdir().expect("tempdir");
        let (path, cancel) = (folder.path().join("speed"), CancelToken::new());
        let (seconds, bytes) = time_writing(&path, 10 << 20, &cancel).expect("written");
        assert!(seconds > 0.0 && bytes == 16 << 20, "whole blocks");
        drop_pages(&path).expect("there");
        assert_eq!(time_reading(&path, u64::MAX, &cancel).expect("read").1, bytes);
        assert_eq!(time_reading(&path, 1, &cancel).expect("read").1, BLOCK as u64);
        let cold = ColdRead::open(&path).expect("there");
        assert_eq!(cold.take_part(&cancel).expect("read"), bytes);
        assert_eq!(cold.take_part(&cancel).expect("read"), 0, "nothing is left");
        assert_eq!(time_writing(&path, 1, &cancel).map_err(|e| e.exit_code()), Err(2));
        cancel.cancel();
        assert_eq!(time_reading(&path, 1, &cancel).map_err(|e| e.exit_code()), Err(130));
        assert_eq!(cold.take_part(&cancel).map_err(|e| e.exit_code()), Err(130));
    }
}
