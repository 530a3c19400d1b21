//! Chunked arrays: one file of plain numbers for each chunk.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use zarrs::array::{Array, ArrayMetadata};
use zarrs::storage::store::MemoryStore;
use zarrs::storage::{ReadableStorageTraits, ReadableWritableStorageTraits, StorageError, StoreKey};

use crate::error::{Error, Result};
use crate::memory::BLOCK;
use crate::store::batch::Batch;
use crate::store::chunk_bytes::ChunkBytes;
use crate::store::chunk_source::ChunkSource;
use crate::store::direct::open_past;
use crate::store::file::{atomic_write, create_folder, write_out};
use crate::store::group::{Group, storage_error};
use crate::store::pace::Pace;
use crate::store::spec::{ArraySpec, FLAT, separator};

/// The file with an array's metadata, in its folder.
const METADATA: &str = "zarr.json";
/// Bytes of one write call: large enough for the disk, small enough that an interrupt is noticed soon.
const WRITE_PIECE: usize = 8 << 20;

/// An array whose chunk files are plain numbers.
#[derive(Debug, Clone)]
pub struct ChunkedArray {
    folder: PathBuf,
    spec: ArraySpec,
    /// Between the indices in the name of a chunk file.
    separator: char,
    map: bool,
    /// In a control group: how much may wait for the disk.
    window: Option<u64>,
    /// Whether pages stay in the page cache after they were brought to the disk.
    keep_pages: bool,
    /// Whether chunks are written past the page cache: until the system refuses, or the disk turns out to be slow.
    direct: Arc<AtomicBool>,
    /// What was written like this.
    pace: Arc<Pace>,
}

impl ChunkedArray {
    /// Writes the array's metadata (through zarrs, which also checks them). Chunks come later.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io).
    pub fn create(group: &Group, spec: ArraySpec) -> Result<Self> {
        metadata_in(&group.store, &spec, |e| storage_error(&group.path, "write array metadata", &e))?;
        Ok(Self::at(group, spec, FLAT))
    }

    /// As [`ensure`](Self::ensure), with what has to be written for it in a batch.
    pub(super) fn ensure_in(group: &Group, spec: ArraySpec, batch: &mut Batch) -> Result<Self> {
        match Self::open(group, &spec.name) {
            Ok(array) if array.spec == spec => return Ok(array),
            _ => group.remove(&spec.name)?,
        }
        let memory = Arc::new(MemoryStore::new());
        let bug = |e: StorageError| Error::bug(format!("zarr metadata in memory: {e}"));
        metadata_in(&memory, &spec, bug)?;
        let key = StoreKey::new(format!("{}/{METADATA}", spec.name)).map_err(|e| Error::bug(e.to_string()))?;
        let metadata =
            memory.get(&key).map_err(bug)?.ok_or_else(|| Error::bug("zarr metadata are not where they belong"))?;
        let array = Self::at(group, spec, FLAT);
        create_folder(&array.folder)?;
        batch.write(&array.folder.join(METADATA), &metadata)?;
        Ok(array)
    }

    /// Opens the array if it is there and looks like this, else makes it anew. What is there is never touched: a run
    /// may be killed, or the disk be full, at any moment.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io).
    pub fn ensure(group: &Group, spec: ArraySpec) -> Result<Self> {
        match Self::open(group, &spec.name) {
            Ok(array) if array.spec == spec => Ok(array),
            _ => {
                group.remove(&spec.name)?;
                Self::create(group, spec)
            }
        }
    }

    /// Opens an array of a group.
    ///
    /// # Errors
    /// [`Cache`](crate::error::ErrorKind::Cache) when it is missing or not laid out as this module writes it.
    pub fn open(group: &Group, name: &str) -> Result<Self> {
        let bad = |e: &dyn std::fmt::Display| {
            Error::cache(&group.path, format!("array `{name}`: {e}"))
                .with_hint("the cache is damaged; start over with `--fresh`, or delete it with `stemstream cache rm`")
        };
        let array = Array::open(group.store.clone(), &format!("/{name}")).map_err(|e| bad(&e))?;
        let metadata = serde_json::to_value(array.metadata()).map_err(|e| bad(&e))?;
        let known = ArraySpec::from_metadata(name, &metadata).zip(separator(&metadata));
        let (spec, separator) = known.ok_or_else(|| bad(&"unexpected metadata"))?;
        Ok(Self::at(group, spec, separator))
    }

    fn at(group: &Group, spec: ArraySpec, separator: char) -> Self {
        Self {
            folder: group.path.join(&spec.name),
            separator,
            map: group.io.map,
            window: group.io.window,
            keep_pages: false,
            direct: Arc::new(AtomicBool::new(group.io.direct)),
            pace: Arc::default(),
            spec,
        }
    }

    /// The same array for one whose chunks are read again soon: they are written to the page cache, and their pages stay
    /// there as long as nobody needs the memory.
    #[must_use]
    pub fn keeping_pages(self) -> Self {
        Self { keep_pages: true, direct: Arc::default(), ..self }
    }

    /// Whether chunks are read through memory maps; on a network they are not.
    pub fn is_mapped(&self) -> bool {
        self.map
    }

    /// What the array looks like.
    pub fn spec(&self) -> &ArraySpec {
        &self.spec
    }

    fn chunk_path(&self, index: &[usize]) -> PathBuf {
        let mut name = "c".to_owned();
        for number in index {
            name.push(self.separator);
            name.push_str(&number.to_string());
        }
        self.folder.join(name)
    }

    /// Writes one chunk (or the beginning of an edge chunk; the rest reads as zeros) and returns its file, which the
    /// caller flushes with [`sync_chunk`](crate::store::sync_chunk) before it counts on it.
    ///
    /// Bytes that begin with a block in memory ([`AlignedBytes`](crate::memory::AlignedBytes)) go past the page cache, where
    /// the group's [`Io`](crate::store::Io) says so, the system can, and the disk is fast enough to be waited for.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io); a full disk has its own hint.
    ///
    /// # Panics
    /// When `bytes` is longer than a chunk.
    pub fn write_chunk(&self, index: &[usize], bytes: &[u8]) -> Result<PathBuf> {
        let len = self.spec.chunk_bytes();
        assert!(bytes.len() <= len, "chunk of {} bytes for a place of {len}", bytes.len());
        let path = self.chunk_path(index);
        if let Some(folder) = path.parent() {
            create_folder(folder)?;
        }
        let piece_bytes = self.window.map_or(WRITE_PIECE, |window| WRITE_PIECE.min(window as usize));
        let write = |file: &File| -> std::io::Result<()> {
            let mut waiting = 0;
            let mut at = self.write_past(&path, bytes)?;
            for piece in bytes[at..].chunks(piece_bytes) {
                file.write_all_at(piece, at as u64)?;
                (at, waiting) = (at + piece.len(), waiting + piece.len() as u64);
                let last = at == bytes.len();
                if self.window.is_some_and(|window| waiting >= window || last) {
                    if self.keep_pages { file.sync_data() } else { write_out(file) }?;
                    waiting = 0;
                }
            }
            // Never shorter than before: somebody may have it mapped.
            if file.metadata()?.len() < len as u64 { file.set_len(len as u64) } else { Ok(()) }
        };
        OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .and_then(|file| write(&file))
            .map_err(|e| Error::io(&path, "write", e))?;
        Ok(path)
    }

    /// Writes the chunk's whole blocks past the page cache; bytes that are written so, none where it cannot be.
    fn write_past(&self, path: &Path, bytes: &[u8]) -> std::io::Result<usize> {
        let whole = bytes.len() / BLOCK * BLOCK;
        if whole == 0 || !(bytes.as_ptr() as usize).is_multiple_of(BLOCK) || !self.direct.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let begin = Instant::now();
        let refused = || {
            self.direct.store(false, Ordering::Relaxed);
            Ok(0)
        };
        let Some(file) = open_past(path, true) else { return refused() };
        for (i, piece) in bytes[..whole].chunks(WRITE_PIECE).enumerate() {
            match file.write_all_at(piece, (i * WRITE_PIECE) as u64) {
                Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => return refused(),
                done => done?,
            }
        }
        // In a control group what waits for the disk would have to be waited for all the same.
        if self.window.is_none() && self.pace.after(whole, begin.elapsed()).is_slow() {
            self.direct.store(false, Ordering::Relaxed);
        }
        Ok(whole)
    }

    /// As [`replace_chunk`](Self::replace_chunk), in a batch.
    pub(super) fn replace_chunk_in(&self, index: &[usize], bytes: &[u8], batch: &mut Batch) -> Result<()> {
        let path = self.chunk_path(index);
        if let Some(folder) = path.parent() {
            create_folder(folder)?;
        }
        batch.write(&path, bytes)
    }

    /// Writes one small chunk so that a reader, or a run after a crash, sees the old or the new one, never a part.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io); the old chunk is then still there.
    pub fn replace_chunk(&self, index: &[usize], bytes: &[u8]) -> Result<()> {
        let path = self.chunk_path(index);
        if let Some(folder) = path.parent() {
            create_folder(folder)?;
        }
        atomic_write(&path, bytes)
    }

    /// One chunk for reading.
    ///
    /// # Errors
    /// [`Cache`](crate::error::ErrorKind::Cache) when it is missing or has a wrong length.
    pub fn chunk(&self, index: &[usize]) -> Result<ChunkBytes> {
        ChunkBytes::open(&self.chunk_path(index), self.spec.chunk_bytes(), self.map)
    }

    /// One chunk for reading piece by piece; a file that is not mapped stays open where `keep_open` says so.
    ///
    /// # Errors
    /// As [`chunk`](Self::chunk).
    pub fn chunk_source(&self, index: &[usize], keep_open: bool) -> Result<ChunkSource> {
        ChunkSource::open(&self.chunk_path(index), self.spec.chunk_bytes(), self.map, keep_open)
    }
}

/// Has zarrs, which also checks them, write an array's metadata to a store.
fn metadata_in<T>(store: &Arc<T>, spec: &ArraySpec, failed: impl Fn(StorageError) -> Error) -> Result<()>
where
    T: ReadableWritableStorageTraits + 'static,
{
    let bug = |e: &dyn std::fmt::Display| Error::bug(format!("zarr metadata of `{}`: {e}", spec.name));
    let metadata: ArrayMetadata = serde_json::from_value(spec.metadata()).map_err(|e| bug(&e))?;
    let array =
        Array::new_with_metadata(Arc::clone(store), &format!("/{}", spec.name), metadata).map_err(|e| bug(&e))?;
    array.store_metadata().map_err(failed)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the promise is equality to the last bit")]
mod tests {
    use super::*;
    use crate::axes::DType;
    use crate::memory::AlignedBytes;
    use crate::store::{Io, StoredType};
    use serde_json::{Map, Value, json};
    use zarrs::array::ArraySubset;

    #[test]
    fn zarrs_reads_what_was_written_directly_in_the_documented_axis_order() {
        let folder = tempfile::tempdir().expect("tempdir");
        let group = Group::create(folder.path(), Map::new()).expect("group");
        // [scan row, scan col, det row, det col] in tiles of [3, 4, 1, 2], detector pixels contiguous.
        let spec = ArraySpec {
            name: "tiles".into(),
            shape: vec![3, 4, 2, 3],
            chunk: vec![3, 4, 1, 2],
            stored: StoredType::Sample(DType::F32),
            memory_order: Some(vec![2, 3, 0, 1]),
            dims: ["scan_row", "scan_col", "det_row", "det_col"].map(str::to_owned).to_vec(),
        };
        let array = ChunkedArray::create(&group, spec.clone()).expect("array");
        let value = |r: usize, c: usize, i: usize, j: usize| (r * 1000 + c * 100 + i * 10 + j) as f32;
        for (i, j0) in [(0, 0), (0, 2), (1, 0), (1, 2)] {
            let width = 2.min(3 - j0);
            let tile: Vec<f32> =
                (0..width).flat_map(|dj| (0..12).map(move |p| value(p / 4, p % 4, i, j0 + dj))).collect();
            array.write_chunk(&[0, 0, i, j0 / 2], bytemuck::cast_slice(&tile)).expect("write");
        }
        let read = Array::open(group.store.clone(), "/tiles").expect("zarrs opens it");
        let all: Vec<f32> = read.retrieve_array_subset(&ArraySubset::new_with_shape(vec![3, 4, 2, 3])).expect("read");
        for (k, &v) in all.iter().enumerate() {
            assert_eq!(v, value(k / 24, k / 6 % 4, k / 3 % 2, k % 3), "{k}");
        }
        let reopened = ChunkedArray::open(&group, "tiles").expect("open");
        assert_eq!(reopened.spec(), &spec);
        assert_eq!(reopened.chunk(&[0, 0, 1, 0]).expect("chunk").cast::<f32>()[12], value(0, 0, 1, 1));
    }

    #[test]
    fn a_damaged_chunk_is_noticed() {
        let folder = tempfile::tempdir().expect("tempdir");
        let group = Group::create(folder.path(), Map::new()).expect("group");
        let array = ChunkedArray::create(&group, ArraySpec::plain("a", &[4], DType::U16, &["n"])).expect("array");
        assert_eq!(array.chunk(&[0]).map(|_| ()).map_err(|e| e.exit_code()), Err(6), "missing");
        let path = array.write_chunk(&[0], &[1, 0, 2, 0, 3, 0, 4, 0]).expect("write");
        File::options().write(true).open(&path).and_then(|f| f.set_len(5)).expect("truncate");
        let error = array.chunk(&[0]).map(|_| ()).expect_err("short");
        assert!(error.to_string().contains("expected a chunk of 8 bytes, found 5"), "{error}");
    }

    #[test]
    fn metadata_that_are_right_are_not_written_again() {
        let folder = tempfile::tempdir().expect("tempdir");
        let group = Group::create(folder.path(), Map::new()).expect("group");
        let metadata = folder.path().join("a/zarr.json");
        let time = || std::fs::metadata(&metadata).and_then(|m| m.modified()).expect("time");
        let spec = ArraySpec::plain("a", &[4], DType::U16, &["n"]);
        ChunkedArray::ensure(&group, spec.clone()).expect("made");
        let old = std::time::SystemTime::UNIX_EPOCH;
        File::options().write(true).open(&metadata).and_then(|f| f.set_modified(old)).expect("set the time");
        ChunkedArray::ensure(&group, spec).expect("opened");
        assert_eq!(time(), old);
        ChunkedArray::ensure(&group, ArraySpec::plain("a", &[5], DType::U16, &["n"])).expect("made anew");
        assert_ne!(time(), old);
    }

    fn group_of(folder: &Path, io: Io) -> Group {
        let mut group = Group::create(folder, Map::new()).expect("group");
        group.set_io(io);
        group
    }

    #[test]
    fn chunks_are_the_same_past_the_page_cache_and_through_it() {
        let io = Io { map: false, window: None, direct: true };
        let ways = [io, Io { direct: false, ..io }, Io { window: Some(1 << 20), ..io }];
        for (way, len) in ways.into_iter().flat_map(|way| [5, BLOCK, 3 * BLOCK + 1, (9 << 20) + 77].map(|n| (way, n))) {
            let folder = tempfile::tempdir().expect("tempdir");
            let group = group_of(folder.path(), way);
            let array = ChunkedArray::create(&group, ArraySpec::plain("a", &[len], DType::U8, &["n"])).expect("array");
            let mut bytes = AlignedBytes::zeroed(len);
            bytes.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i % 251) as u8);
            // A longer chunk is written over by a shorter one: its end stays.
            array.write_chunk(&[0], &vec![9; len]).expect("written");
            array.write_chunk(&[0], &bytes[..len - len / 4]).expect("written over");
            let found = array.chunk(&[0]).expect("there");
            assert!(found.cast::<u8>()[..len - len / 4] == bytes[..len - len / 4], "{way:?} {len}");
            assert!(found.cast::<u8>()[len - len / 4..].iter().all(|byte| *byte == 9), "{way:?} {len}");
            assert!(array.keeping_pages().write_chunk(&[0], &bytes).is_ok());
        }
    }

    #[test]
    fn whole_blocks_go_past_the_page_cache_or_nobody_tries_again() {
        let folder = tempfile::tempdir().expect("tempdir");
        let group = group_of(folder.path(), Io { map: false, window: None, direct: true });
        let len = 2 * BLOCK + 5;
        let array = ChunkedArray::create(&group, ArraySpec::plain("a", &[len], DType::U8, &["n"])).expect("array");
        let (path, bytes) = (folder.path().join("chunk"), AlignedBytes::zeroed(len));
        std::fs::write(&path, b"").expect("made");
        assert_eq!(array.write_past(&path, &bytes[1..]).expect("as usual"), 0, "memory that begins anywhere");
        assert!(array.direct.load(Ordering::Relaxed), "which says nothing about the file system");
        let written = array.write_past(&path, &bytes).expect("written or refused");
        assert_eq!(written, if array.direct.load(Ordering::Relaxed) { 2 * BLOCK } else { 0 });
        let kept = array.keeping_pages();
        assert_eq!(kept.write_past(&path, &bytes).expect("as usual"), 0, "what is read again soon stays in memory");
    }

    #[test]
    fn caches_whose_chunks_lie_in_folders_are_read_and_written_on() {
        let folder = tempfile::tempdir().expect("tempdir");
        let group = group_of(folder.path(), Io::LOOK);
        let spec = ArraySpec::plain("a", &[2, 2], DType::U8, &["y", "x"]);
        ChunkedArray::create(&group, spec.clone()).expect("array");
        let path = folder.path().join("a/zarr.json");
        for encoding in [json!({"name": "default", "configuration": {"separator": "/"}}), json!("default")] {
            let mut metadata: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
            metadata["chunk_key_encoding"] = encoding;
            std::fs::write(&path, metadata.to_string()).expect("written");
            let old = ChunkedArray::ensure(&group, spec.clone()).expect("opened");
            old.replace_chunk(&[0, 0], &[1, 2, 3, 4]).expect("written");
            assert_eq!(std::fs::read(folder.path().join("a/c/0/0")).expect("in its folder"), [1, 2, 3, 4]);
            assert_eq!(old.chunk(&[0, 0]).expect("read").cast::<u8>(), [1, 2, 3, 4]);
        }
        let v2 = json!({"name": "v2", "configuration": {"separator": "."}});
        let mut metadata: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
        metadata["chunk_key_encoding"] = v2;
        std::fs::write(&path, metadata.to_string()).expect("written");
        assert_eq!(ChunkedArray::open(&group, "a").map(|_| ()).map_err(|e| e.exit_code()), Err(6), "names not known");
    }
}
