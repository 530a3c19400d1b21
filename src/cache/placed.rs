//! Large arrays that lie outside of the cache's folder: in the HDF5 cache that the user asked for, so that the same
//! numbers need not be written twice.

use std::fmt::Write;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::store::{Io, Place, PlacedArray};

/// Spots of an array by which it is recognised.
const SPOTS: u64 = 16;
/// Exit code of [`PlacedArray::open`] for a file that is too short.
const CUT_SHORT: u8 = 6;

/// Where a large array lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placed {
    /// The HDF5 file, which belongs to the user once it is finished: it is never written to after that.
    pub file: PathBuf,
    /// Where in the file the array lies.
    pub place: Place,
    /// A hash of some of the array's bytes, once the file is finished: by that another file, or one that was packed
    /// anew by another program, is told from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spots: Option<String>,
}

impl Placed {
    /// Whether the file is still this cache's to write to.
    pub fn is_unfinished(&self) -> bool {
        self.spots.is_none()
    }

    /// Opens the array of the cache in `folder`; for writing only while the file is unfinished.
    ///
    /// # Errors
    /// As [`PlacedArray::open`].
    pub fn open(&self, folder: &Path, io: Io) -> Result<PlacedArray> {
        PlacedArray::open(&self.locate(folder), self.place, self.is_unfinished(), io)
    }

    /// The file: where it was, or beside the cache, should both have been moved together.
    pub fn locate(&self, folder: &Path) -> PathBuf {
        let beside = || Some(folder.parent()?.join(self.file.file_name()?)).filter(|path| path.is_file());
        if self.file.is_file() { self.file.clone() } else { beside().unwrap_or_else(|| self.file.clone()) }
    }

    /// Whether the array is there, and the one that was written.
    ///
    /// # Errors
    /// [`Cache`](crate::error::ErrorKind::Cache) when nobody can tell: a disk that is not mounted, a file that cannot be
    /// read now. What is there then is not to be forgotten, and least of all deleted.
    pub(super) fn is_there(&self, folder: &Path) -> Result<bool> {
        let file = self.locate(folder);
        let unknown = |found: String| {
            Error::cache(folder, format!("bigFT and correlations are in `{}`: {found}", file.display()))
                .with_hint(
                "mount that disk, or make the file readable again; if you deleted the folder, make an empty one of that name, and the run goes on without them",
            )
        };
        match file.symlink_metadata() {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let beside = file.parent().is_some_and(Path::is_dir);
                return if beside { Ok(false) } else { Err(unknown("its folder is not there".to_owned())) };
            }
            Err(e) => return Err(unknown(e.to_string())),
        }
        let array = match self.open(folder, Io::LOOK) {
            Ok(array) => array,
            // Too short.
            Err(e) if e.exit_code() == CUT_SHORT => return Ok(false),
            Err(e) => return Err(unknown(e.to_string())),
        };
        let Some(spots) = &self.spots else { return Ok(true) };
        hash_of(&array).map(|hash| hash == *spots).map_err(|e| unknown(e.to_string()))
    }

    /// The same array in a file that is finished and called `file`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn finished(&self, file: &Path) -> Result<Self> {
        let array = PlacedArray::open(file, self.place, false, Io::LOOK)?;
        Ok(Self { file: file.to_owned(), place: self.place, spots: Some(hash_of(&array)?) })
    }
}

fn hash_of(array: &PlacedArray) -> Result<String> {
    let mut text = String::with_capacity(64);
    for byte in &Sha256::digest(array.spots(SPOTS)?) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}
