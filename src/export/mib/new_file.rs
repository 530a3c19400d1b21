//! Files that get their names when they are complete.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file under its hidden name, removed again unless it is published.
#[derive(Debug)]
pub(super) struct NewFile {
    pub(super) path: PathBuf,
    pub(super) part: PathBuf,
    published: bool,
}

impl NewFile {
    pub(super) fn create(path: &Path) -> Result<(Self, File)> {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}.part", std::process::id()));
        let part = path.with_file_name(name);
        // A leftover of a crashed process that had the same number.
        let _ = fs::remove_file(&part);
        let file = OpenOptions::new().write(true).create_new(true).open(&part);
        let file = file.map_err(|e| Error::io(path, "create the file", e))?;
        Ok((Self { path: path.to_owned(), part, published: false }, file))
    }

    pub(super) fn failed(&self, action: &str, source: io::Error) -> Error {
        Error::io(&self.path, action, source)
    }

    /// Brings the file to the disk and gives it its name, which must still be free.
    pub(super) fn publish(&mut self) -> Result<()> {
        let synced = File::open(&self.part).and_then(|file| file.sync_all());
        synced.map_err(|e| self.failed("bring the file to the disk", e))?;
        // A hard link fails when the name is taken; a rename would silently replace the other file.
        if fs::hard_link(&self.part, &self.path).is_ok() {
            let _ = fs::remove_file(&self.part);
        } else {
            refuse_existing(&self.path)?;
            // File systems without hard links.
            fs::rename(&self.part, &self.path).map_err(|e| self.failed("give the finished file its name", e))?;
        }
        self.published = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.part);
        }
    }
}

pub(super) fn refuse_existing(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(Error::config(format!("`{}` is there already and is not overwritten", path.display()))
            .with_hint("choose another name, or remove the file first"));
    }
    Ok(())
}
