//! A data file that is read by positioned reads: several threads may read at once, nothing is mapped.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, fadvise};

use crate::error::{Error, Result};
use crate::memory::ByteSize;

/// An open data file and its length at the time of opening.
#[derive(Debug)]
pub(super) struct DataFile {
    file: File,
    path: PathBuf,
    state: FileState,
    /// Whether the page cache need not keep what was read.
    forget: AtomicBool,
}

/// Shorter reads, of headers, leave their pages where they are.
const FORGOTTEN_READ: usize = 64 << 10;

impl DataFile {
    /// Opens an existing regular file for reading.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| unreadable(path, &e))?;
        let state = FileState::of(&file.metadata().map_err(|e| unreadable(path, &e))?);
        Ok(Self { file, path: path.to_owned(), state, forget: AtomicBool::new(false) })
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes when the file was opened.
    pub(super) fn len(&self) -> u64 {
        self.state.len
    }

    /// What the file looked like when it was opened.
    pub(super) fn state(&self) -> FileState {
        self.state
    }

    /// Says that the file is now read once from front to back, and whether its pages may leave the page cache as soon as
    /// they were read. Both are hints: a system that does not know them reads all the same.
    pub(super) fn begin_pass(&self, forget: bool) {
        self.forget.store(forget, Ordering::Relaxed);
        let _ = fadvise(&self.file, 0, None, Advice::Sequential);
    }

    /// Asks the system to fetch the bytes `[offset, offset + len)` in the background.
    pub(super) fn will_read(&self, offset: u64, len: u64) {
        let _ = fadvise(&self.file, offset, NonZeroU64::new(len), Advice::WillNeed);
    }

    /// Fills `buffer` from byte `offset` on.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.fill(offset, buffer)?;
        if buffer.len() >= FORGOTTEN_READ && self.forget.load(Ordering::Relaxed) {
            let _ = fadvise(&self.file, offset, NonZeroU64::new(buffer.len() as u64), Advice::DontNeed);
        }
        Ok(())
    }

    fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|e| {
            if e.kind() == ErrorKind::UnexpectedEof {
                let end = offset.saturating_add(buffer.len() as u64);
                let now = self.file.metadata().map_or(self.state.len, |m| m.len());
                Error::input(&self.path, format!("at least {end} bytes"), format!("a file of {now} bytes"))
                    .with_hint("the file is cut short or is being changed by another program; copy it again")
            } else {
                unreadable(&self.path, &e)
            }
        })
    }

    /// Up to `count` bytes from byte `offset` on; fewer where the file ends.
    pub(super) fn read_some(&self, offset: u64, count: usize) -> Result<Vec<u8>> {
        let left = self.state.len.saturating_sub(offset).min(count as u64) as usize;
        let mut bytes = vec![0; left];
        self.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }
}

/// What tells that a file is still the one that was opened, and as it was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileState {
    len: u64,
    modified: (i64, i64),
    /// Device and number: another file under the same name has others.
    identity: (u64, u64),
}

impl FileState {
    fn of(metadata: &Metadata) -> Self {
        Self {
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            identity: (metadata.dev(), metadata.ino()),
        }
    }

    /// Fails when the file at `path` is not in this state any more: an acquisition that still writes, or another
    /// program, may change a file under our hands.
    pub(super) fn check(self, path: &Path) -> Result<()> {
        let now = Self::of(&std::fs::metadata(path).map_err(|e| unreadable(path, &e))?);
        let found = if now.len != self.len {
            format!("{} bytes now", now.len)
        } else if now.identity != self.identity {
            "another file under this name".to_owned()
        } else if now.modified != self.modified {
            "one that was written to since".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::input(path, format!("the file of {} bytes that the run began with", self.len), found)
            .with_hint("the file changed while it was read: wait until the acquisition has finished, then run again"))
    }
}

/// The error for an input that the operating system does not let us read.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> Error {
    let input = |found: String| Error::input(path, "a file that can be read", found);
    match error.kind() {
        ErrorKind::NotFound => input("no such file".to_owned()).with_hint("check the path and its spelling"),
        ErrorKind::PermissionDenied => {
            input("permission denied".to_owned()).with_hint("ask for the right to read this file, or copy it")
        }
        _ => input(error.to_string()),
    }
}

/// `a × b × …` as u64, or an error that names the file when the product does not fit.
pub(super) fn checked_product(path: &Path, factors: &[usize], what: &str) -> Result<u64> {
    factors
        .iter()
        .try_fold(1u64, |product, &factor| product.checked_mul(factor as u64))
        .filter(|&product| i64::try_from(product).is_ok())
        .ok_or_else(|| {
            Error::input(path, format!("{what} of a possible size"), format!("sizes {factors:?}"))
                .with_hint("the header is damaged: copy the file again from where it was recorded")
        })
}

/// The error for a file that is shorter than its headers say.
pub(super) fn too_short(path: &Path, need: u64, have: u64, what: &str) -> Error {
    Error::input(
        path,
        format!("{need} bytes ({what})"),
        format!("{have} bytes: {} missing", ByteSize(need.saturating_sub(have))),
    )
    .with_hint("the file is cut short: copy it again from where it was recorded")
}
