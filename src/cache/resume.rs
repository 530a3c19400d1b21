//! Finding the caches of a dataset.

use std::path::{Path, PathBuf};

use crate::cache::manifest::Manifest;
use crate::error::{Error, Result};
use crate::store::disk_usage;

/// Between the base name and the time stamp.
const INFIX: &str = "_superres_cache_";

/// A cache on disk, readable or not.
#[derive(Debug)]
pub struct Candidate {
    /// Its folder.
    pub path: PathBuf,
    /// Its manifest, or why that cannot be read.
    pub manifest: Result<Manifest>,
}

impl Candidate {
    /// Bytes that it occupies.
    pub fn bytes(&self) -> u64 {
        let unfinished = self.manifest.as_ref().ok().and_then(Manifest::unfinished_file);
        disk_usage(&self.path) + unfinished.map_or(0, disk_usage)
    }
}

/// The name of a cache of `base` made at `timestamp`.
pub(super) fn folder_name(base: &str, timestamp: &str) -> String {
    format!("{base}{INFIX}{timestamp}.zarr")
}

/// All caches in `folder`, oldest first; of one base name when given.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io) when the folder cannot be listed.
pub fn list(folder: &Path, base: Option<&str>) -> Result<Vec<Candidate>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(folder, "list", e)),
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            let Some(stem) = name.strip_suffix(".zarr") else { return false };
            stem.rsplit_once(INFIX).is_some_and(|(b, _)| base.is_none_or(|base| b == base)) && path.is_dir()
        })
        .collect();
    found.sort();
    Ok(found.into_iter().map(|path| Candidate { manifest: Manifest::read(&path), path }).collect())
}

/// The caches in `folder` that were made from a file called `source` (by its name, wherever it lay), oldest first.
/// Those whose manifest cannot be read are among them when their name fits.
///
/// # Errors
/// As [`list`].
pub fn find(folder: &Path, base: &str, source: &Path) -> Result<Vec<Candidate>> {
    let mut found = list(folder, Some(base))?;
    found.retain(|candidate| match &candidate.manifest {
        Ok(manifest) => manifest.source.path.file_name() == source.file_name(),
        Err(_) => true,
    });
    Ok(found)
}
