//! A data file that is read by positioned reads: several threads may read at once, nothing is mapped.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::memory::ByteSize;

/// An open data file and its length at the time of opening.
#[derive(Debug)]
pub(super) struct DataFile {
    file: File,
    path: PathBuf,
    len: u64,
}

impl DataFile {
    /// Opens an existing regular file for reading.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| unreadable(path, &e))?;
        let len = file.metadata().map_err(|e| unreadable(path, &e))?.len();
        Ok(Self { file, path: path.to_owned(), len })
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes when the file was opened.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buffer` from byte `offset` on.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|e| {
            if e.kind() == ErrorKind::UnexpectedEof {
                let end = offset.saturating_add(buffer.len() as u64);
                let now = self.file.metadata().map_or(self.len, |m| m.len());
                Error::input(&self.path, format!("at least {end} bytes"), format!("a file of {now} bytes"))
                    .with_hint("the file is cut short or is being changed by another program; copy it again")
            } else {
                unreadable(&self.path, &e)
            }
        })
    }

    /// Up to `count` bytes from byte `offset` on; fewer where the file ends.
    pub(super) fn read_some(&self, offset: u64, count: usize) -> Result<Vec<u8>> {
        let left = self.len.saturating_sub(offset).min(count as u64) as usize;
        let mut bytes = vec![0; left];
        self.read_at(offset, &mut bytes)?;
        Ok(bytes)
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
