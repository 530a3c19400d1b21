//! Groups: folders with arrays, and how their files are read and written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use zarrs::filesystem::FilesystemStore;
use zarrs::group::GroupBuilder;
use zarrs::storage::StorageError;

use crate::error::{Error, Result};
use crate::memory::write_window;
use crate::store::file::{create_folder, is_network, remove_folder};

/// A Zarr v3 group: a folder with arrays.
#[derive(Debug, Clone)]
pub struct Group {
    pub(super) path: PathBuf,
    pub(super) store: Arc<FilesystemStore>,
    pub(super) io: Io,
}

/// How chunks are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Io {
    /// Whether they are mapped; else they are read by positioned reads.
    pub map: bool,
    /// Bytes of a file that may wait for the disk; `None`: as much as the system lets wait.
    pub window: Option<u64>,
    /// Whether large arrays are written past the page cache, where the system can.
    pub direct: bool,
}

impl Io {
    /// To look at what is there.
    pub const LOOK: Self = Self { map: false, window: None, direct: false };

    /// What suits a folder: maps on local file systems, and a window in a memory control group.
    pub fn of(folder: &Path) -> Self {
        Self { map: !is_network(folder), window: write_window(), direct: true }
    }
}

impl Group {
    /// Creates the folder and the group's metadata, or replaces the metadata of an existing group.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io) when the folder cannot be written.
    pub fn create(path: &Path, attributes: Map<String, Value>) -> Result<Self> {
        create_folder(path)?;
        let group = Self::open(path)?;
        GroupBuilder::new()
            .attributes(attributes)
            .build(group.store.clone(), "/")
            .map_err(|e| Error::bug(format!("zarr group metadata: {e}")))?
            .store_metadata()
            .map_err(|e| storage_error(path, "write the group's metadata", &e))?;
        Ok(group)
    }

    /// Opens a group's folder.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io) when it is not there.
    pub fn open(path: &Path) -> Result<Self> {
        let store = FilesystemStore::new(path)
            .map_err(|e| Error::io(path, "open the folder", std::io::Error::other(e.to_string())))?;
        Ok(Self { path: path.to_owned(), store: Arc::new(store), io: Io::of(path) })
    }

    /// Chooses how chunks of arrays that are opened from now on are read and written.
    pub fn set_io(&mut self, io: Io) {
        self.io = io;
    }

    /// The group's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether an array of this name is there.
    pub fn contains(&self, name: &str) -> bool {
        self.path.join(name).join("zarr.json").is_file()
    }

    /// Deletes an array; one that is not there is no error.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io).
    pub fn remove(&self, name: &str) -> Result<()> {
        remove_folder(&self.path.join(name))
    }
}

/// What zarrs says about the file system, with the kind of failure kept: a full disk has its own exit code and hint.
pub(super) fn storage_error(path: &Path, action: &str, error: &StorageError) -> Error {
    let source = match error {
        StorageError::IOError(io) => std::io::Error::new(io.kind(), io.to_string()),
        other => std::io::Error::other(other.to_string()),
    };
    Error::io(path, action, source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_under_the_metadata_is_called_by_its_name() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = storage_error(Path::new("a"), "write array metadata", &StorageError::IOError(Arc::new(full)));
        assert_eq!(error.exit_code(), 5, "{error}");
    }
}
