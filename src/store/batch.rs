//! Small files that are brought to the disk together.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::store::file::sync_folder_of;
use crate::store::stream::Stream;

/// Files that get their names when all of them are on the disk: a reader, or a run after a crash, sees of each the old or the
/// new one, never a part.
///
/// Bringing a file to the disk takes a wait, for the disk and for the file system's journal. Where many are written first,
/// and the system is told to begin with them, the first wait is about as long as all others together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    files: Vec<Unnamed>,
}

#[derive(Debug)]
struct Unnamed {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl Batch {
    /// Writes a file that will replace the one at `path`, or be new. Its folder is there.
    pub(super) fn write(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        let temporary = path.with_added_extension("tmp");
        let file = File::create(&temporary).map_err(|e| Error::io(path, "write", e))?;
        let mut out = Stream::new(&temporary, file);
        let written = out.write_all(bytes).and_then(|()| out.finish());
        let file = written.map_err(|e| {
            let _ = fs::remove_file(&temporary);
            Error::io(path, "write", e)
        })?;
        begin_writing_out(&file);
        self.files.push(Unnamed { file, temporary, path: path.to_owned() });
        Ok(())
    }

    /// Brings all files to the disk, and gives them their names.
    pub(super) fn finish(mut self) -> Result<()> {
        for Unnamed { file, path, .. } in &self.files {
            file.sync_all().map_err(|e| Error::io(path, "write", e))?;
        }
        let mut folders = BTreeSet::new();
        for Unnamed { temporary, path, .. } in &self.files {
            fs::rename(temporary, path).map_err(|e| Error::io(path, "write", e))?;
            folders.extend(path.parent());
        }
        for folder in &folders {
            sync_folder_of(&folder.join("file")).map_err(|e| Error::io(folder, "write", e))?;
        }
        self.files.clear();
        Ok(())
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        for Unnamed { temporary, .. } in &self.files {
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Has the system begin to write a file to the disk, where it understands that; nobody waits.
pub fn begin_writing_out(file: &File) {
    // Of pages that are not on the disk yet the advice means no more.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_get_their_names_together_and_nothing_stays_of_those_that_do_not() {
        let folder = tempfile::tempdir().expect("tempdir");
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        fs::write(&a, b"old").expect("write");
        let mut batch = Batch::default();
        batch.write(&a, b"new").expect("write");
        batch.write(&b, b"too").expect("write");
        assert!(fs::read(&a).expect("read") == b"old" && !b.exists());
        batch.finish().expect("finish");
        assert!(fs::read(&a).expect("read") == b"new" && fs::read(&b).expect("read") == b"too");
        let mut batch = Batch::default();
        batch.write(&a, b"other").expect("write");
        assert!(batch.write(&folder.path().join("no/c"), b"x").is_err());
        drop(batch);
        assert_eq!(fs::read(&a).expect("read"), b"new");
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 2, "no temporary file may stay");
    }
}
