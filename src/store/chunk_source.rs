//! A stored chunk that is read piece by piece: through its map, or by positioned reads where maps are not to be trusted.

use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::store::chunk_bytes::{ChunkBytes, open_chunk};

/// A chunk whose bytes are fetched as they are asked for. Any number of threads may read at once.
#[derive(Debug)]
pub struct ChunkSource(Source);

#[derive(Debug)]
enum Source {
    Mapped(ChunkBytes),
    /// The file, unless there are too many of them to be open at once.
    File {
        file: Option<File>,
        path: PathBuf,
    },
}

impl ChunkSource {
    /// Opens a chunk file of exactly `len` bytes; without `map` its file stays open where `keep_open` says so.
    pub(super) fn open(path: &Path, len: usize, map: bool, keep_open: bool) -> Result<Self> {
        if map {
            return ChunkBytes::open(path, len, true).map(|chunk| Self(Source::Mapped(chunk)));
        }
        let file = open_chunk(path, len)?;
        Ok(Self(Source::File { file: keep_open.then_some(file), path: path.to_owned() }))
    }

    /// Copies the bytes from `start` on into `out`.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io) when the file cannot be read (never through a map).
    ///
    /// # Panics
    /// When they lie beyond the chunk's end (only through a map).
    pub fn copy(&self, start: usize, out: &mut [u8]) -> Result<()> {
        match &self.0 {
            Source::Mapped(chunk) => {
                out.copy_from_slice(&chunk.bytes()[start..start + out.len()]);
                Ok(())
            }
            Source::File { file: Some(file), path } => read(file, path, start, out),
            Source::File { file: None, path } => {
                let file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
                read(&file, path, start, out)
            }
        }
    }

    /// All bytes, where they are mapped.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.0 {
            Source::Mapped(chunk) => Some(chunk.bytes()),
            Source::File { .. } => None,
        }
    }

    /// Has the system fetch a range of bytes in the background. A hint: where it is not understood, nothing happens.
    pub fn will_read(&self, range: Range<usize>) {
        match &self.0 {
            Source::Mapped(chunk) => chunk.will_read(range),
            Source::File { file: Some(file), .. } => {
                let len = NonZeroU64::new(range.len() as u64);
                let _ = rustix::fs::fadvise(file, range.start as u64, len, rustix::fs::Advice::WillNeed);
            }
            Source::File { file: None, .. } => {}
        }
    }

    /// Says that nothing is read but what [`will_read`](Self::will_read) announces.
    pub fn read_as_announced(&self) {
        if let Source::Mapped(chunk) = &self.0 {
            chunk.read_as_announced();
        }
    }
}

fn read(file: &File, path: &Path, start: usize, out: &mut [u8]) -> Result<()> {
    file.read_exact_at(out, start as u64).map_err(|e| Error::io(path, "read", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_and_reads_give_the_same_bytes() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("chunk");
        let bytes: Vec<u8> = (0..100).collect();
        std::fs::write(&path, &bytes).expect("written");
        for (map, keep) in [(true, true), (false, true), (false, false)] {
            let chunk = ChunkSource::open(&path, 100, map, keep).expect("open");
            chunk.read_as_announced();
            chunk.will_read(10..50);
            let mut out = [0; 7];
            chunk.copy(93, &mut out).expect("read");
            assert_eq!(out, bytes[93..]);
            assert_eq!(chunk.bytes(), map.then_some(bytes.as_slice()));
            assert_eq!(ChunkSource::open(&path, 99, map, keep).map(|_| ()).map_err(|e| e.exit_code()), Err(6));
        }
        let chunk = ChunkSource::open(&path, 100, false, false).expect("open");
        std::fs::remove_file(&path).expect("removed");
        assert!(chunk.copy(0, &mut [0; 4]).is_err(), "what cannot be read is an error");
    }
}
