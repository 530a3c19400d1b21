//! New files only: written under a temporary name, brought to the disk, and then given a name that is still free.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::error::{Error, ErrorKind, Result};
use crate::store::{Stream, begin_writing_out};

/// Bytes of a name that leave room for `_superres_cache_{timestamp}` and the like.
const LONGEST_NAME: usize = 180;

/// Bytes that an ordinary user may still write into `folder`; `None` where the file system does not say.
///
/// # Errors
/// When `folder` does not exist or may not be looked at.
fn free_bytes(folder: &Path) -> Result<Option<u64>> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let stat =
        rustix::fs::statvfs(folder).map_err(|e| Error::io(folder, "look for free space in the folder", e.into()))?;
    // Some network file systems report no blocks at all.
    Ok((stat.f_blocks > 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// Fails with [`ErrorKind::Disk`] when `folder` has less than `needed` bytes free.
pub(super) fn require_free(folder: &Path, needed: u64) -> Result<()> {
    match free_bytes(folder)? {
        Some(available) if available < needed => {
            Err(Error::new(ErrorKind::Disk { path: folder.to_owned(), needed, available })
                .with_hint("free some space or choose another folder with `--out FOLDER`"))
        }
        _ => Ok(()),
    }
}

/// The folder of `path`; `.` for a bare name.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// `stem.ext`, `stem_2.ext`, `stem_3.ext` …: the candidate with this number (from 1).
pub(super) fn numbered(path: &Path, number: usize) -> PathBuf {
    if number <= 1 {
        return path.to_owned();
    }
    let mut name = path.file_stem().map(OsString::from).unwrap_or_default();
    name.push(format!("_{number}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// A name under which `path` is written before it is complete; no two processes or threads get the same.
pub(super) fn part_of(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}-{count}.part", std::process::id()));
    path.with_file_name(name)
}

/// Gives the complete file `part` the name `target`, or the first numbered one that is free; never overwrites.
///
/// The file is brought to the disk before and the folder after, so that a name in the folder means a whole file.
pub(super) fn publish(part: &Path, target: &Path) -> Result<PathBuf> {
    let failed = |e| Error::io(target, "give the finished file its name", e);
    File::open(part).and_then(|file| file.sync_all()).map_err(|e| Error::io(part, "bring the file to the disk", e))?;
    for number in 1.. {
        let name = numbered(target, number);
        // A hard link fails when the name is taken; a rename would silently replace the other file.
        match fs::hard_link(part, &name) {
            Ok(()) => fs::remove_file(part).map_err(failed)?,
            Err(_) if name.symlink_metadata().is_ok() => continue,
            // File systems without hard links.
            Err(_) => fs::rename(part, &name).map_err(failed)?,
        }
        sync_folder(folder_of(&name));
        return Ok(name);
    }
    Err(Error::bug("ran out of numbers for file names"))
}

/// Gives the complete folder `part` the name `target`, or `target_2`, `target_3` … when that is taken; never replaces
/// anything that has something in it. Its files are on the disk; the names in it are brought there first.
pub(super) fn publish_folder(part: &Path, target: &Path) -> Result<PathBuf> {
    sync_folder(part);
    for number in 1.. {
        let mut name = target.as_os_str().to_owned();
        if number > 1 {
            name.push(format!("_{number}"));
        }
        let name = PathBuf::from(name);
        if name.symlink_metadata().is_ok() {
            continue;
        }
        match fs::rename(part, &name) {
            Ok(()) => {
                sync_folder(folder_of(&name));
                return Ok(name);
            }
            // Taken a moment ago: a folder with something in it is not replaced.
            Err(_) if name.symlink_metadata().is_ok() => {}
            Err(e) => return Err(Error::io(target, "give the finished folder its name", e)),
        }
    }
    Err(Error::bug("ran out of numbers for folder names"))
}

/// Brings a folder's list of names to the disk, where the file system can.
fn sync_folder(folder: &Path) {
    // Failure is no loss of data: the name merely appears later.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

/// Writes a new file through `write` and returns the name that it got: `path`, or with `_2` … when that was taken.
///
/// # Errors
/// When the folder cannot be written to or the disk is full; nothing is left behind then.
pub(super) fn write_new<F>(path: &Path, what: &str, write: F) -> Result<PathBuf>
where
    F: FnOnce(&mut Stream) -> io::Result<()>,
{
    let part = part_of(path);
    let failed = |e| Error::io(path, format!("write {what}"), e);
    // Truncates what a crashed process of the same number may have left.
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&part).map_err(failed)?;
    let mut out = Stream::new(&part, file);
    let written = write(&mut out).and_then(|()| out.finish().map(drop));
    let named = written.map_err(failed).and_then(|()| publish(&part, path));
    if named.is_err() {
        let _ = fs::remove_file(&part);
    }
    named
}

/// A folder that files of one run are written into, and how their names begin.
#[derive(Debug)]
pub(super) struct Place<'a> {
    folder: &'a Path,
    stem: &'a str,
    /// Of a hidden folder, the files that may not be on the disk yet.
    waiting: Option<Mutex<Vec<(PathBuf, File)>>>,
}

impl<'a> Place<'a> {
    /// A folder that is there for everybody: each file gets its name when it is whole.
    pub(super) fn shown(folder: &'a Path, stem: &'a str) -> Self {
        Self { folder, stem, waiting: None }
    }

    /// A folder that itself gets its name when all of its files are whole: until then nobody trusts their names, and only
    /// their contents need to be [on the disk](Self::settle).
    pub(super) fn hidden(folder: &'a Path, stem: &'a str) -> Self {
        Self { folder, stem, waiting: Some(Mutex::default()) }
    }

    /// Waits until all files of a hidden folder are on the disk: the system began with each when it was written, so that the
    /// first wait is about as long as all others together.
    ///
    /// # Errors
    /// When one of them cannot be brought there.
    pub(super) fn settle(&self) -> Result<()> {
        let Some(waiting) = &self.waiting else { return Ok(()) };
        sync_all(&std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Writes `{stem}_{name}` through `write` and returns the name that the file got, with `_2` … when that was taken.
    ///
    /// # Errors
    /// When the folder cannot be written to or the disk is full.
    pub(super) fn write<F>(&self, name: &str, what: &str, write: F) -> Result<PathBuf>
    where
        F: FnOnce(&mut Stream) -> io::Result<()>,
    {
        let path = self.folder.join(format!("{}_{name}", self.stem));
        let Some(waiting) = &self.waiting else { return write_new(&path, what, write) };
        for number in 1.. {
            let path = numbered(&path, number);
            let failed = |e| Error::io(&path, format!("write {what}"), e);
            let file = match File::create_new(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                file => file.map_err(failed)?,
            };
            let mut out = Stream::new(&path, file);
            let written = write(&mut out).and_then(|()| out.finish());
            let file = written.map_err(failed)?;
            begin_writing_out(&file);
            let enough = {
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.push((path.clone(), file));
                if waiting.len() >= MOST_WAITING { std::mem::take(&mut *waiting) } else { Vec::new() }
            };
            sync_all(&enough)?;
            return Ok(path);
        }
        Err(Error::bug("ran out of numbers for file names"))
    }
}

/// Files of a hidden folder that are open at once at most: systems usually allow 1024 to a process.
const MOST_WAITING: usize = 128;

fn sync_all(files: &[(PathBuf, File)]) -> Result<()> {
    let sync =
        |(path, file): &(PathBuf, File)| file.sync_all().map_err(|e| Error::io(path, "bring the file to the disk", e));
    files.par_iter().with_max_len(1).try_for_each(sync)
}

/// `text` as one part of a file name: separators and control characters become `_`, and what would leave no room
/// for the rest of the name (file systems allow 255 bytes) is cut off.
pub(super) fn safe_name(text: &str) -> String {
    let name: String = text.chars().map(|c| if c.is_control() || matches!(c, '/' | '\\') { '_' } else { c }).collect();
    let name = &name[..name.floor_char_boundary(LONGEST_NAME)];
    if name.is_empty() { "scan".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_taken_name_gets_a_number_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.b_1.npy");
        let names: Vec<_> = (0..3)
            .map(|i| write_new(&path, "it", |out| write!(out, "{i}")).unwrap().file_name().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["a.b_1.npy", "a.b_1_2.npy", "a.b_1_3.npy"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "0");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "no temporary file may stay");
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let full = |_: &mut Stream| Err(io::Error::from(io::ErrorKind::StorageFull));
        let error = write_new(&dir.path().join("a.npy"), "the array", full).unwrap_err();
        assert_eq!(error.exit_code(), 5);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_of_a_hidden_folder_never_replaces_another() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::hidden(dir.path(), "a");
        for (text, name) in [("one", "a_x.png"), ("two", "a_x_2.png")] {
            let path = place.write("x.png", "the picture", |out| out.write_all(text.as_bytes())).unwrap();
            assert_eq!(path, dir.path().join(name));
            assert_eq!(fs::read_to_string(path).unwrap(), text);
        }
        let waiting = || place.waiting.as_ref().map_or(0, |files| files.lock().unwrap().len());
        assert_eq!(waiting(), 2);
        for number in 0..MOST_WAITING {
            place.write(&format!("{number}.npy"), "the array", |out| out.write_all(b"x")).unwrap();
        }
        assert!((1..MOST_WAITING).contains(&waiting()), "not too many are open at once");
        place.settle().unwrap();
        assert_eq!(waiting(), 0);
        let full = |_: &mut Stream| Err(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(place.write("y.png", "the picture", full).unwrap_err().exit_code(), 5);
    }

    #[test]
    fn names_are_safe_and_leave_room() {
        assert_eq!(safe_name("a/b\\c\n"), "a_b_c_");
        assert_eq!(safe_name(""), "scan");
        assert_eq!(safe_name(&"漢".repeat(100)).len(), 180);
    }

    #[test]
    fn a_folder_without_room_says_how_much_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(require_free(dir.path(), u64::MAX).unwrap_err().exit_code(), 5);
        assert!(require_free(dir.path(), 1).is_ok());
    }
}
