//! Files that are written from front to end: small ones as usual, long ones past the page cache.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::memory::{AlignedBytes, BLOCK};
use crate::store::direct::DirectFile;

/// Bytes that are gathered before they are written. A file of fewer goes through the page cache: bringing it to the disk is
/// waited for together with others.
const STAGE: usize = 1 << 20;
/// What most files need.
const FIRST: usize = 128 << 10;

/// A new file with a buffer before it.
///
/// Results of some MiB cost more processor time in the page cache than in the buffer, where they are small enough for the
/// processor's own cache: the system has to find new pages for them, which on a virtual machine takes several times as long as
/// copying, and takes them from the scan that may lie there.
pub struct Stream {
    path: PathBuf,
    file: File,
    /// The way past the page cache, once the file is long.
    direct: Option<DirectFile>,
    stage: AlignedBytes,
    filled: usize,
    /// Where in the file the stage belongs.
    at: u64,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("path", &self.path).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Stream {
    /// Of the empty file at `path`, open for writing.
    pub fn new(path: &Path, file: File) -> Self {
        Self { path: path.to_owned(), file, direct: None, stage: AlignedBytes::zeroed(FIRST), filled: 0, at: 0 }
    }

    /// Writes what is left in the buffer, and returns the file. What was written need not be on the disk yet.
    ///
    /// # Errors
    /// Those of writing to a file.
    pub fn finish(mut self) -> io::Result<File> {
        self.put()?;
        Ok(self.file)
    }

    fn put(&mut self) -> io::Result<()> {
        if self.filled == STAGE && self.direct.is_none() {
            self.direct = Some(DirectFile::new(&self.path, self.file.try_clone()?, true, None));
        }
        let bytes = &self.stage[..self.filled];
        match &self.direct {
            Some(direct) => {
                let (whole, rest) = bytes.split_at(self.filled / BLOCK * BLOCK);
                direct.write(whole, self.at)?;
                direct.write(rest, self.at + whole.len() as u64)?;
            }
            None => self.file.write_all_at(bytes, self.at)?,
        }
        self.at += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    /// Bytes that the buffer still takes: the one after it begins with a block of the file.
    fn room(&self) -> usize {
        STAGE - (self.at % BLOCK as u64) as usize - self.filled
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.filled == self.stage.len() {
            let mut longer = AlignedBytes::zeroed(STAGE);
            longer[..self.filled].copy_from_slice(&self.stage);
            self.stage = longer;
        }
        let count = bytes.len().min(self.room()).min(self.stage.len() - self.filled);
        self.stage[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        if self.room() == 0 {
            self.put()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.put()
    }
}

impl Seek for Stream {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let now = self.at + self.filled as u64;
        let to = match to {
            SeekFrom::Start(to) => Some(to),
            SeekFrom::Current(by) => now.checked_add_signed(by),
            SeekFrom::End(by) => {
                self.put()?;
                self.file.metadata()?.len().checked_add_signed(by)
            }
        };
        let to = to.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        if to != now {
            self.put()?;
            self.at = to;
        }
        Ok(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_file_holds_what_was_written_to_it(
            pieces in prop::collection::vec(
                prop_oneof![1usize..5000, (FIRST - 10)..(FIRST + 10), (STAGE - 2 * BLOCK)..(STAGE + BLOCK), Just(BLOCK), Just(2 * STAGE)], 1..8,
            ),
            back in prop::collection::vec((any::<prop::sample::Index>(), 1usize..20), 0..3), flushes in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().expect("tempdir");
            let path = folder.path().join("file");
            let mut stream = Stream::new(&path, File::create_new(&path).expect("create"));
            let mut expected = Vec::new();
            for (number, length) in pieces.into_iter().enumerate() {
                let piece: Vec<u8> = (0..length).map(|i| (i * 31 + number * 7) as u8).collect();
                stream.write_all(&piece).expect("write");
                expected.extend(piece);
                if flushes {
                    stream.flush().expect("flush");
                }
                prop_assert_eq!(stream.stream_position().expect("known"), expected.len() as u64);
            }
            for (place, length) in back {
                let at = place.index(expected.len());
                let length = length.min(expected.len() - at);
                stream.seek(SeekFrom::Start(at as u64)).expect("back");
                stream.write_all(&vec![b'x'; length]).expect("write");
                expected[at..at + length].fill(b'x');
                prop_assert_eq!(stream.seek(SeekFrom::End(0)).expect("to the end"), expected.len() as u64);
            }
            stream.write_all(b"end").expect("write");
            expected.extend(b"end");
            stream.finish().expect("finish");
            prop_assert!(std::fs::read(&path).expect("read") == expected);
        }
    }
}
