//! Small file operations that everything on disk shares.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Replaces a small file so that a reader sees the old or the new content, never a part: temporary file in the same
/// folder, fsync, rename, fsync of the folder.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io); the old file is then still there.
pub fn atomic_write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_added_extension("tmp");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_folder_of(path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        Error::io(path, "write", e)
    })
}

/// Waits until the folder that holds `path` knows it: a new file is there for sure only then.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Creates a folder and its parents.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io).
pub fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io(path, "create the folder", e))
}

/// Deletes a folder with everything in it; one that is not there is no error.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io).
pub fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(path, "delete", e)),
        _ => Ok(()),
    }
}

/// Deletes a file; one that is not there is no error.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io).
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(path, "delete", e)),
        _ => Ok(()),
    }
}

/// Waits until what was written to a file is on disk, and lets its pages go.
pub(super) fn write_out(file: &File) -> io::Result<()> {
    file.sync_data()?;
    // Only a hint: where it is not understood, the pages stay a little longer.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    Ok(())
}

/// Waits until what was written to a growing file is on disk, and lets its pages go; for files that another library
/// writes.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io).
pub fn write_out_path(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| write_out(&file)).map_err(|e| Error::io(path, "flush to disk", e))
}

/// As [`write_out_path`], with the pages kept.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io).
pub fn sync_path(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_data()).map_err(|e| Error::io(path, "flush to disk", e))
}

/// Waits until a chunk's data and the folders that it was put into are on disk.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io).
pub fn sync_chunk(path: &Path) -> Result<()> {
    let sync = || {
        File::open(path)?.sync_data()?;
        // The chunk's own folder may be new as well.
        sync_folder_of(path)?;
        path.parent().map_or(Ok(()), sync_folder_of)
    };
    sync().map_err(|e| Error::io(path, "flush to disk", e))
}

/// Bytes that a file or a folder with everything in it occupies.
pub fn disk_usage(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut total = 0;
    let mut open: Vec<PathBuf> = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        total += metadata.blocks() * 512;
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    total
}

/// Free bytes for an ordinary user on the file system that holds `path` (or its nearest existing parent).
pub fn free_disk(path: &Path) -> Option<u64> {
    let existing =
        path.ancestors().find(|p| p.exists()).filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    rustix::fs::statvfs(existing).ok().map(|s| s.f_bavail.saturating_mul(s.f_frsize))
}

/// Whether `path` lies on a network or user-space file system, where a memory map can fail long after it was made.
pub fn is_network(path: &Path) -> bool {
    // NFS, SMB, SMB2, CIFS, FUSE, Lustre, GPFS, BeeGFS, Ceph, 9P: magic numbers of statfs(2).
    const MAGIC: [u64; 10] = [
        0x6969,
        0x517B,
        0xFE53_4D42,
        0xFF53_4D42,
        0x6573_5546,
        0x0BD0_0BD0,
        0x4750_4653,
        0x1983_0326,
        0x00C3_6400,
        0x0102_1997,
    ];
    let existing =
        path.ancestors().find(|p| p.exists()).filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    rustix::fs::statfs(existing).is_ok_and(|s| MAGIC.contains(&(s.f_type as u64 & 0xFFFF_FFFF)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_atomic_write_replaces_the_file_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("a.json");
        atomic_write(&path, b"one").expect("write");
        atomic_write(&path, b"two").expect("write");
        assert_eq!(fs::read(&path).expect("read"), b"two");
        assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
        assert_eq!(atomic_write(&folder.path().join("no/a.json"), b"x").map_err(|e| e.exit_code()), Err(2));
    }

    #[test]
    fn a_bare_file_name_is_written_in_the_current_folder() {
        let name = format!("atomic_write_test_{}", std::process::id());
        atomic_write(Path::new(&name), b"x").expect("write");
        fs::remove_file(&name).expect("it was there");
    }

    #[test]
    fn free_disk_is_known_even_for_a_folder_that_does_not_exist_yet() {
        let folder = tempfile::tempdir().expect("tempdir");
        assert!(free_disk(&folder.path().join("not/there/yet")).is_some_and(|free| free > 0));
        assert!(!is_network(folder.path()) || cfg!(not(target_os = "linux")));
    }
}
