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
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
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
    rustix::fs::statvfs(existing(path)).ok().map(|s| s.f_bavail.saturating_mul(s.f_frsize))
}

/// The existing folder that `path` is, or will be made in.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|p| p.exists()).filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The device number of the file system that `path` is on, or will be made on; `None` where nobody knows.
pub fn device(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(existing(path)).ok().map(|metadata| metadata.dev())
}

/// Whether `path` is on a file system of the network, where memory maps are not to be trusted.
pub fn is_network(path: &Path) -> bool {
    network_kind(path).is_some()
}

/// The kind of network file system that `path` is on, or will be made on; `None` for local ones.
pub fn network_kind(path: &Path) -> Option<&'static str> {
    file_system(path).and_then(network_name)
}

fn file_system(path: &Path) -> Option<u64> {
    rustix::fs::statfs(existing(path)).ok().map(|s| s.f_type as u64 & 0xFFFF_FFFF)
}

/// The name of a network file system by its magic number in `statfs(2)`.
fn network_name(magic: u64) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517B => "SMB",
        0xFE53_4D42 => "SMB2",
        0xFF53_4D42 => "CIFS",
        0x6573_5546 => "FUSE",
        0x0BD0_0BD0 => "Lustre",
        0x4750_4653 => "GPFS",
        0x1983_0326 => "BeeGFS",
        0x00C3_6400 => "Ceph",
        0x0102_1997 => "9P",
        0x5346_414F | 0x6B41_4653 => "AFS",
        0xAAD7_AAEA => "PanFS",
        0x2003_0528 => "OrangeFS",
        _ => return None,
    })
}

/// A local folder with room for `needed` bytes where a cache could go: the first of `$TMPDIR`, `/scratch`, `/local`,
/// `/var/tmp` and `/tmp` that exists and lies neither on the network nor in memory.
pub fn local_scratch(needed: u64) -> Option<PathBuf> {
    let wanted = std::env::var_os("TMPDIR").map(PathBuf::from);
    let usual = ["/scratch", "/local", "/var/tmp", "/tmp"].map(PathBuf::from);
    first_local(wanted.into_iter().chain(usual), needed)
}

fn first_local(mut folders: impl Iterator<Item = PathBuf>, needed: u64) -> Option<PathBuf> {
    const TMPFS: u64 = 0x0102_1994;
    folders.find(|folder| {
        let local = file_system(folder).is_some_and(|magic| magic != TMPFS && network_name(magic).is_none());
        folder.is_absolute() && folder.is_dir() && local && free_disk(folder).is_some_and(|free| free >= needed)
    })
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
        assert_eq!(device(&folder.path().join("not/there/yet")), device(folder.path()));
    }

    #[test]
    fn network_file_systems_are_known_by_their_magic_number() {
        for (magic, name) in [(0x6969, "NFS"), (0xFF53_4D42, "CIFS"), (0x0BD0_0BD0, "Lustre"), (0x6573_5546, "FUSE")] {
            assert_eq!(network_name(magic), Some(name));
        }
        // ext4, XFS, Btrfs, ZFS, overlayfs, tmpfs.
        for magic in [0xEF53, 0x5846_5342, 0x9123_683E, 0x2FC1_2FC1, 0x794C_7630, 0x0102_1994] {
            assert_eq!(network_name(magic), None, "{magic:x}");
        }
    }

    #[test]
    fn scratch_is_suggested_where_there_is_room() {
        let folder = tempfile::tempdir().expect("tempdir");
        let all = || [folder.path().join("missing"), folder.path().to_owned()].into_iter();
        let suggested = first_local(all(), 1);
        assert!(suggested.is_none_or(|path| path == folder.path()), "never one that does not exist");
        assert_eq!(first_local(all(), u64::MAX), None, "never one without room");
    }
}
