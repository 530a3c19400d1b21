//! How fast a disk is, for files like those of this program: large, in order, in blocks of some MiB.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::progress::CancelToken;

/// Bytes written or read at once.
const BLOCK: usize = 8 << 20;

/// Writes a new file of `bytes` (at least one block) and brings it to the disk; seconds and bytes.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io), [`Disk`](crate::error::ErrorKind::Disk),
/// [`Interrupted`](crate::error::ErrorKind::Interrupted). The file is the caller's to delete in any case.
pub fn time_writing(path: &Path, bytes: u64, cancel: &CancelToken) -> Result<(f64, u64)> {
    let failed = |e| Error::io(path, "write a file to measure the disk", e);
    // Not zeros, which some file systems and disks do not store.
    let block: Vec<u8> = (0..BLOCK as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
    let blocks = bytes.div_ceil(BLOCK as u64).max(1);
    let start = Instant::now();
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    for _ in 0..blocks {
        cancel.check()?;
        file.write_all(&block).map_err(failed)?;
    }
    file.sync_all().map_err(failed)?;
    Ok((start.elapsed().as_secs_f64(), blocks * BLOCK as u64))
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
        assert_eq!(time_writing(&path, 1, &cancel).map_err(|e| e.exit_code()), Err(2));
        cancel.cancel();
        assert_eq!(time_reading(&path, 1, &cancel).map_err(|e| e.exit_code()), Err(130));
    }
}
