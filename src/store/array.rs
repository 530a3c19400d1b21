//! Groups and chunked arrays.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use zarrs::array::{Array, ArrayMetadata};
use zarrs::filesystem::FilesystemStore;
use zarrs::group::GroupBuilder;
use zarrs::storage::StorageError;

use crate::axes::{DType, Image};
use crate::error::{Error, Result};
use crate::memory::write_window;
use crate::store::chunk_bytes::ChunkBytes;
use crate::store::chunk_source::ChunkSource;
use crate::store::file::{atomic_write, create_folder, is_network, remove_folder, write_out};

/// Bytes of one write call: large enough for the disk, small enough that an interrupt is noticed soon.
const WRITE_PIECE: usize = 8 << 20;

/// The type of stored numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredType {
    /// A real or integer sample.
    Sample(DType),
    /// Two `f32`: real and imaginary part.
    Complex64,
    /// Two `f64`.
    Complex128,
}

impl StoredType {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Self::Sample(dtype) => dtype.size(),
            Self::Complex64 => 8,
            Self::Complex128 => 16,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sample(dtype) => dtype.name(),
            Self::Complex64 => "complex64",
            Self::Complex128 => "complex128",
        }
    }

    fn fill_value(self) -> Value {
        match self {
            Self::Sample(dtype) if dtype.is_float() => json!(0.0),
            Self::Sample(_) => json!(0),
            Self::Complex64 | Self::Complex128 => json!([0.0, 0.0]),
        }
    }
}

/// A Zarr v3 group: a folder with arrays.
#[derive(Debug, Clone)]
pub struct Group {
    path: PathBuf,
    store: Arc<FilesystemStore>,
    io: Io,
}

/// How chunks are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Io {
    /// Whether they are mapped; else they are read by positioned reads.
    pub map: bool,
    /// Bytes of a file that may wait for the disk; `None`: as much as the system lets wait.
    pub window: Option<u64>,
    /// Whether large arrays outside of the cache are written past the page cache, where the system can.
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

    /// Stores a 2-D array of f64 as one chunk, replacing an earlier one of that name.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io).
    pub fn write_image(&self, name: &str, image: &Image, dims: [&str; 2]) -> Result<()> {
        let (rows, cols) = image.dim();
        let array = ChunkedArray::ensure(self, ArraySpec::plain(name, &[rows, cols], DType::F64, &dims))?;
        let image = image.as_standard_layout();
        let numbers = image.as_slice().ok_or_else(|| Error::bug("an image in standard layout has no slice"))?;
        array.replace_chunk(&[0, 0], bytemuck::cast_slice(numbers))
    }

    /// Reads a 2-D array that [`write_image`](Self::write_image) stored.
    ///
    /// # Errors
    /// [`Cache`](crate::error::ErrorKind::Cache) when it is missing or damaged.
    pub fn read_image(&self, name: &str) -> Result<Image> {
        let array = ChunkedArray::open(self, name)?;
        let spec = array.spec();
        let [rows, cols] = spec.shape[..] else {
            return Err(Error::cache(&self.path, format!("`{name}` is not two-dimensional")));
        };
        if spec.stored != StoredType::Sample(DType::F64) || spec.chunk != spec.shape {
            return Err(Error::cache(&self.path, format!("`{name}` is not a single chunk of float64")));
        }
        let chunk = array.chunk(&[0, 0])?;
        Image::from_shape_vec((rows, cols), chunk.cast::<f64>().to_vec()).map_err(|e| Error::bug(e.to_string()))
    }
}

/// What an array looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArraySpec {
    /// Name within the group.
    pub name: String,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Length of each axis in one chunk.
    pub chunk: Vec<usize>,
    /// Type of the numbers.
    pub stored: StoredType,
    /// The axes in the order in which they lie in a chunk file, slowest first, when not their own order.
    pub memory_order: Option<Vec<usize>>,
    /// Names of the axes.
    pub dims: Vec<String>,
}

impl ArraySpec {
    /// An array in one chunk, in its own axis order.
    pub fn plain(name: &str, shape: &[usize], dtype: DType, dims: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            shape: shape.to_vec(),
            chunk: shape.to_vec(),
            stored: StoredType::Sample(dtype),
            memory_order: None,
            dims: dims.iter().map(|&d| d.to_owned()).collect(),
        }
    }

    /// Bytes of one chunk file.
    pub fn chunk_bytes(&self) -> usize {
        // Saturating: the shape may come from a damaged cache, whose chunk files are compared with this length.
        self.chunk.iter().fold(self.stored.size(), |bytes, n| bytes.saturating_mul(*n))
    }

    /// Bytes of all chunk files.
    pub fn total_bytes(&self) -> u64 {
        let chunks: usize = self.shape.iter().zip(&self.chunk).map(|(n, c)| n.div_ceil(*c)).product();
        chunks as u64 * self.chunk_bytes() as u64
    }

    fn metadata(&self) -> Value {
        let mut codecs = Vec::new();
        if let Some(order) = &self.memory_order {
            codecs.push(json!({"name": "transpose", "configuration": {"order": order}}));
        }
        codecs.push(json!({"name": "bytes", "configuration": {"endian": "little"}}));
        json!({
            "zarr_format": 3,
            "node_type": "array",
            "shape": self.shape,
            "data_type": self.stored.name(),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": self.chunk}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": self.stored.fill_value(),
            "codecs": codecs,
            "dimension_names": self.dims,
        })
    }
}

/// An array whose chunk files are plain numbers.
#[derive(Debug, Clone)]
pub struct ChunkedArray {
    folder: PathBuf,
    spec: ArraySpec,
    map: bool,
    /// In a control group: how much may wait for the disk.
    window: Option<u64>,
    /// Whether pages stay in the page cache after they were brought to the disk.
    keep_pages: bool,
}

impl ChunkedArray {
    /// Writes the array's metadata (through zarrs, which also checks them). Chunks come later.
    ///
    /// # Errors
    /// [`Io`](crate::error::ErrorKind::Io).
    pub fn create(group: &Group, spec: ArraySpec) -> Result<Self> {
        let bug = |e: &dyn std::fmt::Display| Error::bug(format!("zarr metadata of `{}`: {e}", spec.name));
        let metadata: ArrayMetadata = serde_json::from_value(spec.metadata()).map_err(|e| bug(&e))?;
        Array::new_with_metadata(group.store.clone(), &format!("/{}", spec.name), metadata)
            .map_err(|e| bug(&e))?
            .store_metadata()
            .map_err(|e| storage_error(&group.path, "write array metadata", &e))?;
        Ok(Self::at(group, spec))
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
        let spec = Self::spec_from(name, &metadata).ok_or_else(|| bad(&"unexpected metadata"))?;
        Ok(Self::at(group, spec))
    }

    fn at(group: &Group, spec: ArraySpec) -> Self {
        Self {
            folder: group.path.join(&spec.name),
            map: group.io.map,
            window: group.io.window,
            keep_pages: false,
            spec,
        }
    }

    /// The same array for one whose chunks are read again soon: their pages stay in memory as long as nobody needs it.
    #[must_use]
    pub fn keeping_pages(self) -> Self {
        Self { keep_pages: true, ..self }
    }

    fn spec_from(name: &str, metadata: &Value) -> Option<ArraySpec> {
        let numbers = |value: &Value| -> Option<Vec<usize>> {
            value.as_array()?.iter().map(|n| n.as_u64().map(|n| n as usize)).collect()
        };
        let codecs = metadata["codecs"].as_array()?;
        let codec_name = |codec: &Value| codec["name"].as_str().or(codec.as_str()).map(str::to_owned);
        let memory_order = match codecs.len() {
            1 => None,
            2 if codec_name(&codecs[0])? == "transpose" => Some(numbers(&codecs[0]["configuration"]["order"])?),
            _ => return None,
        };
        if codec_name(codecs.last()?)? != "bytes" {
            return None;
        }
        let stored = match metadata["data_type"].as_str()? {
            "complex64" => StoredType::Complex64,
            "complex128" => StoredType::Complex128,
            other => StoredType::Sample(serde_json::from_value(json!(short_name(other)?)).ok()?),
        };
        let dims = metadata["dimension_names"].as_array()?.iter().map(|d| d.as_str().unwrap_or("").to_owned());
        Some(ArraySpec {
            name: name.to_owned(),
            shape: numbers(&metadata["shape"])?,
            chunk: numbers(&metadata["chunk_grid"]["configuration"]["chunk_shape"])?,
            stored,
            memory_order,
            dims: dims.collect(),
        })
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
        let mut path = self.folder.join("c");
        path.extend(index.iter().map(ToString::to_string));
        path
    }

    /// Writes one chunk (or the beginning of an edge chunk; the rest reads as zeros) and returns its file, which the
    /// caller flushes with [`sync_chunk`](crate::store::sync_chunk) before it counts on it.
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
            for (i, piece) in bytes.chunks(piece_bytes).enumerate() {
                file.write_all_at(piece, (i * piece_bytes) as u64)?;
                waiting += piece.len() as u64;
                let last = (i + 1) * piece_bytes >= bytes.len();
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

/// What zarrs says about the file system, with the kind of failure kept: a full disk has its own exit code and hint.
fn storage_error(path: &Path, action: &str, error: &StorageError) -> Error {
    let source = match error {
        StorageError::IOError(io) => std::io::Error::new(io.kind(), io.to_string()),
        other => std::io::Error::other(other.to_string()),
    };
    Error::io(path, action, source)
}

/// serde's name of a [`DType`] from Zarr's: `uint16` → `u16`.
fn short_name(name: &str) -> Option<String> {
    for (long, short) in [("uint", "u"), ("int", "i"), ("float", "f")] {
        if let Some(bits) = name.strip_prefix(long) {
            return Some(format!("{short}{bits}"));
        }
    }
    None
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the promise is equality to the last bit")]
mod tests {
    use super::*;
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

    #[test]
    fn a_full_disk_under_the_metadata_is_called_by_its_name() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = storage_error(Path::new("a"), "write array metadata", &StorageError::IOError(Arc::new(full)));
        assert_eq!(error.exit_code(), 5, "{error}");
    }

    #[test]
    fn images_come_back_and_are_replaced_whatever_their_size() {
        let folder = tempfile::tempdir().expect("tempdir");
        let group = Group::create(folder.path(), Map::new()).expect("group");
        for shape in [(3, 5), (2, 2)] {
            let image = Image::from_shape_fn(shape, |(r, c)| r as f64 - 0.25 * c as f64);
            group.write_image("x", &image, ["row", "col"]).expect("write");
            assert_eq!(group.read_image("x").expect("read"), image);
        }
        assert_eq!(group.read_image("y").map_err(|e| e.exit_code()), Err(6));
    }
}
