//! A data file that is read by positioned reads: several threads may read at once, nothing is mapped.

use std::fs::{File, Metadata};
#[cfg(target_os = "linux")]
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, fadvise};

use crate::error::{Error, Result};
use crate::memory::{BLOCK, ByteSize, READ_SLACK};

/// An open data file and its length at the time of opening.
#[derive(Debug)]
pub(super) struct DataFile {
    file: File,
    path: PathBuf,
    state: FileState,
    /// Whether most of it lay in the page cache when that was asked first.
    cached: OnceLock<Option<bool>>,
    /// Whether the page cache need not keep what was read.
    forget: AtomicBool,
    /// The same file, past the page cache: opened for a pass over a file that does not lie there.
    past: OnceLock<Option<File>>,
    refused: AtomicBool,
}

/// Shorter reads, of headers, leave their pages where they are.
const FORGOTTEN_READ: usize = 64 << 10;
/// What the system is asked to fetch at once: less than most disks' limits.
const FETCHED: u64 = 512 << 10;

impl DataFile {
    /// Opens an existing regular file for reading.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| unreadable(path, &e))?;
        let state = FileState::of(&file.metadata().map_err(|e| unreadable(path, &e))?);
        Ok(Self {
            file,
            path: path.to_owned(),
            state,
            cached: OnceLock::new(),
            forget: AtomicBool::new(false),
            past: OnceLock::new(),
            refused: AtomicBool::new(false),
        })
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

    /// Whether most of the file lay in the page cache when this was asked first; `None` where the system does not say.
    pub(super) fn is_cached(&self) -> Option<bool> {
        *self.cached.get_or_init(|| is_cached(&self.path, self.state.len))
    }

    /// Says that the file is now read once from front to back, whether the page cache need not hold it, and whether it is to be
    /// read past that, unless it lies there already or the system cannot. All hints: the bytes are the same.
    pub(super) fn begin_pass(&self, forget: bool, direct: bool) {
        self.forget.store(forget, Ordering::Relaxed);
        if direct {
            self.past.get_or_init(|| if self.is_cached() == Some(true) { None } else { open_past(&self.path) });
        }
        let _ = fadvise(&self.file, 0, None, Advice::Sequential);
    }

    /// Asks the system to fetch the bytes `[offset, offset + len)` in the background, unless they are read past the page cache.
    ///
    /// Of what one call asks for, Linux takes no more than the disk's `read_ahead_kb` or `max_sectors_kb`.
    pub(super) fn will_read(&self, offset: u64, len: u64) {
        if self.past().is_some() {
            return;
        }
        let end = offset.saturating_add(len);
        for at in (offset..end).step_by(FETCHED as usize) {
            let _ = fadvise(&self.file, at, NonZeroU64::new(FETCHED.min(end - at)), Advice::WillNeed);
        }
    }

    fn past(&self) -> Option<&File> {
        self.past.get().filter(|_| !self.refused.load(Ordering::Relaxed))?.as_ref()
    }

    /// Reads `count` bytes from byte `offset` on to where it suits in `buffer`, and says where: past the page cache in a
    /// pass that goes that way, if the buffer is longer by [`READ_SLACK`] than what is read.
    pub(super) fn read_in_pass(&self, offset: u64, count: usize, buffer: &mut [u8]) -> Result<Range<usize>> {
        if let Some(past) = self.past().filter(|_| buffer.len() >= count + READ_SLACK) {
            match read_blocks(past, offset, count, buffer) {
                Ok(Some(range)) => return Ok(range),
                // The file has become shorter: the usual way says so.
                Ok(None) => {}
                Err(_) => self.refused.store(true, Ordering::Relaxed),
            }
        }
        self.read_at(offset, &mut buffer[..count])?;
        Ok(0..count)
    }

    /// Fills `buffer` from byte `offset` on.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.fill(offset, buffer)?;
        self.forget(offset, buffer.len());
        Ok(())
    }

    /// Says that `count` bytes from byte `offset` on were read, in a pass after which the page cache need not keep them.
    pub(super) fn forget(&self, offset: u64, count: usize) {
        if count >= FORGOTTEN_READ && self.forget.load(Ordering::Relaxed) {
            let _ = fadvise(&self.file, offset, NonZeroU64::new(count as u64), Advice::DontNeed);
        }
    }

    /// As [`read_at`](Self::read_at), for who says later what the page cache need not keep.
    pub(super) fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
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

/// Whether most of a file lies in the page cache, by spots that are read only if they do; `None` where the system does not
/// say.
#[cfg(target_os = "linux")]
fn is_cached(path: &Path, len: u64) -> Option<bool> {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    const SPOTS: u64 = 32;
    // Newer systems begin to fetch what they say is not there: a page each, opened like this, and other ones next time.
    let file = File::open(path).ok()?;
    fadvise(&file, 0, None, Advice::Random).ok()?;
    let random = RandomState::new();
    let mut there = 0;
    for spot in 0..SPOTS {
        let at = len / SPOTS * spot + random.hash_one(spot) % (len / SPOTS).max(1);
        match preadv2(&file, &mut [io::IoSliceMut::new(&mut [0])], at, ReadWriteFlags::NOWAIT) {
            Ok(_) => there += 1,
            Err(Errno::AGAIN) => {}
            Err(_) => return None,
        }
    }
    Some(2 * there >= SPOTS)
}

#[cfg(not(target_os = "linux"))]
fn is_cached(_: &Path, _: u64) -> Option<bool> {
    None
}

/// Reads the blocks around `[offset, offset + count)` to the first block of `buffer`'s memory: where in it these bytes are;
/// `None` when the file ends before.
fn read_blocks(past: &File, offset: u64, count: usize, buffer: &mut [u8]) -> io::Result<Option<Range<usize>>> {
    let begin = buffer.as_ptr().align_offset(BLOCK);
    let before = (offset % BLOCK as u64) as usize;
    let area = &mut buffer[begin..begin + (before + count).next_multiple_of(BLOCK)];
    let mut filled = 0;
    while filled < before + count {
        match past.read_at(&mut area[filled..], offset - before as u64 + filled as u64) {
            Ok(0) => return Ok(None),
            Ok(read) => filled += read,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Some(begin + before..begin + before + count))
}

#[cfg(target_os = "linux")]
fn open_past(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    File::options().read(true).custom_flags(flags).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_past(_: &Path) -> Option<File> {
    None
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("file");
        file.as_file().write_all_at(bytes, 0).expect("written");
        file.as_file().sync_all().expect("synced");
        file
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
    }

    /// What is read past the page cache, whether or not the file lies there.
    fn past(path: &Path) -> DataFile {
        let file = DataFile::open(path).expect("open");
        file.begin_pass(true, false);
        let _ = file.past.set(open_past(path));
        file
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn past_the_page_cache_and_through_it_the_bytes_are_the_same(
            len in 1usize..40_000, from in 0.0f64..1.0, part in 0.0f64..1.0, skip in 0usize..BLOCK
        ) {
            let expected = bytes(len);
            let file = file(&expected);
            let data = past(file.path());
            let offset = ((len - 1) as f64 * from) as usize;
            let count = 1 + ((len - offset - 1) as f64 * part) as usize;
            // A buffer that begins anywhere in a block, with the slack and without.
            for slack in [READ_SLACK, READ_SLACK - 1, 0] {
                let mut buffer = vec![0; skip + count + slack];
                let range = data.read_in_pass(offset as u64, count, &mut buffer[skip..]).expect("read");
                prop_assert_eq!(&buffer[skip..][range], &expected[offset..offset + count], "slack {}", slack);
            }
        }
    }

    #[test]
    fn a_file_that_ends_early_is_an_error_either_way() {
        let file = file(&bytes(10_000));
        for data in [past(file.path()), DataFile::open(file.path()).expect("open")] {
            for (offset, count) in [(9_000, 1_001), (0, 10_001), (20_480, 1)] {
                let error = data.read_in_pass(offset, count, &mut vec![0; count + READ_SLACK]).expect_err("too much");
                assert_eq!(error.exit_code(), 3);
                assert!(error.to_string().contains("10000 bytes"), "{error}");
            }
            let mut buffer = vec![0; 10_000 + READ_SLACK];
            assert!(data.read_in_pass(0, 10_000, &mut buffer).is_ok(), "and what is there can still be read");
        }
    }

    #[test]
    fn what_lies_in_the_page_cache_is_read_from_there() {
        let file = file(&bytes(1 << 20));
        let data = DataFile::open(file.path()).expect("open");
        if data.is_cached() != Some(true) {
            eprintln!("skipped: this file system does not say whether a file that was just written lies in memory");
            return;
        }
        data.begin_pass(true, true);
        assert!(data.past().is_none());
        // Now let it go, where the system does that when it is asked.
        file.as_file().sync_all().expect("synced");
        let _ = fadvise(file.as_file(), 0, None, Advice::DontNeed);
        let again = DataFile::open(file.path()).expect("open");
        if again.is_cached() == Some(false) {
            again.begin_pass(true, true);
            assert_eq!(again.past().is_some(), open_past(file.path()).is_some());
            again.refused.store(true, Ordering::Relaxed);
            assert!(again.past().is_none(), "a system that refused is not asked again");
        }
        let large = self::file(&bytes(16 << 20));
        large.as_file().sync_all().expect("synced");
        let _ = fadvise(large.as_file(), 0, None, Advice::DontNeed);
        let asked: Vec<_> = (0..5).map(|_| DataFile::open(large.path()).expect("open").is_cached()).collect();
        assert!(asked.iter().all(|said| *said == asked[0]), "asking brings nothing there: {asked:?}");
        let kept = DataFile::open(file.path()).expect("open");
        kept.begin_pass(false, false);
        assert!(kept.past().is_none());
    }
}
