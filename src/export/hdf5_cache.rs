//! The HDF5 cache: bigFT and the correlations of every detector pixel in the documented layout, for h5py and others.
//!
//! One detector pixel's image over the whole scan is one chunk, so that the pipeline, which works by detector
//! pixels, writes whole chunks and never transposes. The file is called `….h5.part` until it is complete.

use std::fs;
use std::path::{Path, PathBuf};

use hdf5::plist::DatasetCreate;
use hdf5::plist::dataset_create::{AllocTime, FillTime};
use hdf5::{Dataset, File, Group, H5Type};
use num_complex::Complex;

use super::chunk_write;
use super::files::{folder_of, numbered, publish, require_free, safe_name};
use super::h5::{self, H5Result, failed};
use crate::axes::{Crop, DetShape, ScanShape};
use crate::cache::Manifest;
use crate::config::{Compression, Config};
use crate::error::{Error, Result};
use crate::steps::BrightDisk;
use crate::store::local_time;

/// Group headers, attributes, and the index with an entry for each chunk.
const OVERHEAD: u64 = 4 << 20;
const OVERHEAD_PER_CHUNK: u64 = 128;

/// What the cache says about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheMeta {
    /// The data file that the cache belongs to.
    pub linked_emd_path: String,
    /// When the run began, `YYYYMMDD_HHMMSS`.
    pub timestamp: String,
    /// The scan.
    pub scan: ScanShape,
    /// The whole detector.
    pub det: DetShape,
    /// The detector pixels in the cache.
    pub crop: Crop,
    /// Centre of the bright-field disk, `[row, col]` in pixels of the whole detector.
    pub bf_center: [f64; 2],
    /// Half-width of the crop: what the documented layout calls `bf_radius`.
    pub crop_radius: usize,
    /// Sigma of the Gaussian on the reference image in scan pixels.
    pub reference_smoothing: f64,
    /// Whether the correlations are divided by the images' sums of squares.
    pub normalization_applied: bool,
    /// How the two large arrays are stored.
    pub compression: Compression,
}

impl CacheMeta {
    /// Of the run whose cache has this manifest.
    pub fn of(manifest: &Manifest, config: &Config, disk: &BrightDisk) -> Self {
        Self {
            linked_emd_path: manifest.source.path.display().to_string(),
            timestamp: manifest.timestamp.clone(),
            scan: manifest.scan,
            det: manifest.det,
            crop: disk.crop,
            bf_center: disk.center,
            crop_radius: disk.crop_radius,
            reference_smoothing: config.align.reference_smoothing,
            normalization_applied: true,
            compression: config.export.compression,
        }
    }

    /// Bytes that the finished cache takes, generously.
    pub fn file_bytes(&self) -> u64 {
        let pixels = self.crop.shape().len() as u64;
        let samples = (self.scan.len() as u64).saturating_mul(pixels);
        samples.saturating_mul(16 + 8).saturating_add(OVERHEAD + 2 * OVERHEAD_PER_CHUNK * pixels)
    }

    pub(super) fn check(&self) -> Result<()> {
        let Crop { row0, row1, col0, col1 } = self.crop;
        let good = row0 < row1 && row1 <= self.det.rows && col0 < col1 && col1 <= self.det.cols;
        if good && !self.scan.is_empty() {
            Ok(())
        } else {
            Err(Error::bug(format!("crop {:?} of a {} detector, scan {}", self.crop.bounds(), self.det, self.scan)))
        }
    }
}

/// Name of the HDF5 cache of a run: `{base_name}_superres_cache_{timestamp}.h5` in `folder`.
pub fn cache_file(folder: &Path, base_name: &str, timestamp: &str) -> PathBuf {
    folder.join(format!("{}_superres_cache_{}.h5", safe_name(base_name), safe_name(timestamp)))
}

/// The two large arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheArray {
    /// Spectra over the scan, `complex128`.
    BigFt,
    /// Correlations with the reference, `float64`.
    Correlations,
}

impl CacheArray {
    /// Bytes of one number.
    pub fn number_bytes(self) -> usize {
        match self {
            Self::BigFt => size_of::<Complex<f64>>(),
            Self::Correlations => size_of::<f64>(),
        }
    }
}

/// Writes one HDF5 cache, detector pixel by detector pixel in any order, from one thread.
///
/// Dropped before [`finish`](Self::finish), it removes what it has written.
#[derive(Debug)]
pub struct Hdf5CacheWriter {
    file: Option<File>,
    bigft: Array,
    correlations: Array,
    part: PathBuf,
    path: PathBuf,
    scan: ScanShape,
    compression: Compression,
}

/// One of the two 4-D arrays, and which of its chunks are written.
#[derive(Debug)]
struct Array {
    name: &'static str,
    data: Option<Dataset>,
    crop: DetShape,
    written: Vec<bool>,
}

impl Hdf5CacheWriter {
    /// Begins the cache `path`, or, when that name is taken, `…_2.h5` and so on; [`path`](Self::path) tells.
    ///
    /// # Errors
    /// Disk (exit code 5) when the folder has not the room for the whole cache; a folder that cannot be written to.
    pub fn create(path: &Path, meta: &CacheMeta) -> Result<Self> {
        meta.check()?;
        require_free(folder_of(path), meta.file_bytes())?;
        let path = first_free(path, |path| [path.to_owned()]);
        let part = PathBuf::from(format!("{}.part", path.display()));
        // Tried first by the operating system, whose errors are clearer than the library's.
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&part)
            .map_err(|e| Error::io(&path, "create the HDF5 cache", e))?;
        let action = "create the HDF5 cache";
        // When this fails, the file may be another process's, which holds its lock: it stays.
        let file = h5::files().create(&part).map_err(failed(&path, action))?;
        let (bigft, correlations) = lay_out(&file, meta, AllocTime::Incr).map_err(|e| {
            let _ = fs::remove_file(&part);
            h5::write_error(&path, action, &e)
        })?;
        let crop = meta.crop.shape();
        let array = |name, data| Array { name, data: Some(data), crop, written: vec![false; crop.len()] };
        Ok(Self {
            file: Some(file),
            bigft: array("bigFT", bigft),
            correlations: array("correlations", correlations),
            scan: meta.scan,
            compression: meta.compression,
            part,
            path,
        })
    }

    /// The name that the cache will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the larger array's image of one pixel.
    pub fn image_bytes(&self) -> usize {
        self.scan.len() * CacheArray::BigFt.number_bytes()
    }

    /// Where the cache is while it grows, for those who have to bring it to the disk bit by bit.
    pub fn growing_path(&self) -> &Path {
        &self.part
    }

    /// Writes the spectrum over the scan axes (`[scan rows, scan cols]`, C order) of the crop's pixel (`row`, `col`).
    ///
    /// # Errors
    /// A full or failing disk; a pixel outside the crop or an image of another size (a bug in the caller).
    pub fn write_bigft_pixel(&mut self, row: usize, col: usize, spectrum: &[Complex<f64>]) -> Result<()> {
        self.bigft.write(self.scan, row, col, spectrum, &self.path)
    }

    /// Writes the correlation image (`[scan rows, scan cols]`, C order) of the crop's pixel (`row`, `col`).
    ///
    /// # Errors
    /// Those of [`write_bigft_pixel`](Self::write_bigft_pixel).
    pub fn write_correlation_pixel(&mut self, row: usize, col: usize, image: &[f64]) -> Result<()> {
        self.correlations.write(self.scan, row, col, image, &self.path)
    }

    /// Writes the image of one pixel of a cache with compression, already [`packed`].
    ///
    /// # Errors
    /// Those of [`write_bigft_pixel`](Self::write_bigft_pixel).
    pub fn write_packed_pixel(&mut self, array: CacheArray, row: usize, col: usize, bytes: &[u8]) -> Result<()> {
        let array = match array {
            CacheArray::BigFt => &mut self.bigft,
            CacheArray::Correlations => &mut self.correlations,
        };
        let place = array.place(row, col).filter(|_| self.compression != Compression::None);
        let (Some(data), Some(index)) = (&array.data, place) else {
            return Err(Error::bug(format!("packed pixel ({row}, {col}) of `{}`", array.name)));
        };
        chunk_write::write_chunk(data, [0, 0, row, col], bytes).map_err(failed(&self.path, WRITING))?;
        array.written[index] = true;
        Ok(())
    }

    /// Says which step is complete (1–5), brings all data to the disk and gives the file its name, which is
    /// returned.
    ///
    /// # Errors
    /// A full or failing disk; pixels that a step should have written and did not (a bug in the caller).
    pub fn finish(mut self, step_completed: usize) -> Result<PathBuf> {
        for (array, step) in [(&self.bigft, 2), (&self.correlations, 3)] {
            let missing = array.written.iter().filter(|&&done| !done).count();
            if step_completed >= step && missing > 0 {
                let all = array.written.len();
                return Err(Error::bug(format!("{missing} of {all} pixels of `{}` were not written", array.name)));
            }
        }
        let Some(file) = self.file.take() else { return Err(Error::bug("the HDF5 cache is closed")) };
        let close = || {
            let at = file.group("metadata")?;
            h5::int(&at, "step_completed", step_completed)?;
            file.flush()
        };
        let closed: H5Result<()> = close();
        (self.bigft.data, self.correlations.data) = (None, None);
        closed.and_then(|()| file.close()).map_err(failed(&self.path, "finish the HDF5 cache"))?;
        publish(&self.part, &self.path)
    }
}

impl Drop for Hdf5CacheWriter {
    fn drop(&mut self) {
        // After `finish` the file has another name and this does nothing.
        (self.bigft.data, self.correlations.data) = (None, None);
        drop(self.file.take());
        let _ = fs::remove_file(&self.part);
    }
}

/// The bytes of one pixel's image as a cache with compression stores them. Any number of threads may pack at once.
pub fn packed(array: CacheArray, image: &[u8]) -> Vec<u8> {
    chunk_write::compressed(image, array.number_bytes())
}

const WRITING: &str = "write the HDF5 cache";

impl Array {
    /// The number of a pixel that lies in the crop.
    fn place(&self, row: usize, col: usize) -> Option<usize> {
        (row < self.crop.rows && col < self.crop.cols).then_some(row * self.crop.cols + col)
    }

    fn write<T: H5Type>(&mut self, scan: ScanShape, row: usize, col: usize, image: &[T], path: &Path) -> Result<()> {
        let place = self.place(row, col).filter(|_| image.len() == scan.len());
        let (Some(data), Some(index)) = (&self.data, place) else {
            return Err(Error::bug(format!(
                "{} values for pixel ({row}, {col}) of `{}`, which has {} pixels of {scan} values",
                image.len(),
                self.name,
                self.crop
            )));
        };
        // The same shape in memory as in the file: the library then sees one whole chunk and copies it at once.
        // Measured on 2.8 GB (256×256×52×52, into the page cache): 0.37 s, through its unsafe chunk writer 0.27 s,
        // both far above the speed of a disk; with a two-dimensional view 6 s.
        let shape = (scan.rows, scan.cols, 1, 1);
        let view = ndarray::ArrayView4::from_shape(shape, image).map_err(|e| Error::bug(e.to_string()))?;
        data.write_slice(view, (.., .., row..=row, col..=col)).map_err(failed(path, WRITING))?;
        self.written[index] = true;
        Ok(())
    }
}

/// The first of the numbered candidates of which none of the `names` that go with it is taken.
pub(super) fn first_free<const N: usize>(path: &Path, names: impl Fn(&Path) -> [PathBuf; N]) -> PathBuf {
    let free = |p: &PathBuf| names(p).iter().all(|name| name.symlink_metadata().is_err());
    (1..=u16::MAX as usize).map(|n| numbered(path, n)).find(free).unwrap_or_else(|| path.to_owned())
}

/// All groups, attributes and (empty) arrays of the documented layout.
pub(super) fn lay_out(file: &File, meta: &CacheMeta, places: AllocTime) -> H5Result<(Dataset, Dataset)> {
    let bounds = meta.crop.bounds();
    let crop = meta.crop.shape();
    let [sy, sx, dy, dx] = [meta.scan.rows, meta.scan.cols, crop.rows, crop.cols];

    let group = file.create_group("bigFT")?;
    let bigft = array::<Complex<f64>>(&group, meta, places)?;
    let at = group.create_group("metadata")?;
    h5::ints(&at, "crop_bounds", &bounds)?;
    h5::list(&at, "bf_center", &meta.bf_center)?;
    h5::int(&at, "bf_radius", meta.crop_radius)?;
    h5::text(&at, "computation_date", &local_time().strftime("%Y-%m-%d %H:%M:%S").to_string())?;
    h5::scalar(&at, "reference_smoothing", &meta.reference_smoothing)?;

    let group = file.create_group("correlations")?;
    let correlations = array::<f64>(&group, meta, places)?;
    let at = group.create_group("metadata")?;
    // In pixels of the crop: its centre, as the method defines the reference.
    h5::ints(&at, "reference_pixel", &[dy / 2, dx / 2])?;
    h5::scalar(&at, "normalization_applied", &meta.normalization_applied)?;

    let at = file.create_group("metadata")?;
    h5::text(&at, "linked_emd_path", &meta.linked_emd_path)?;
    h5::text(&at, "timestamp", &meta.timestamp)?;
    h5::ints(&at, "original_data_shape", &[sy, sx, meta.det.rows, meta.det.cols])?;
    h5::ints(&at, "cropped_data_shape", &[sy, sx, dy, dx])?;
    h5::ints(&at, "crop_bounds", &bounds)?;
    h5::list(&at, "bf_center", &meta.bf_center)?;
    h5::int(&at, "bf_radius", meta.crop_radius)?;
    h5::scalar(&at, "reference_smoothing", &meta.reference_smoothing)?;
    h5::text(&at, "version", "1.0")?;
    Ok((bigft, correlations))
}

/// An array `data` `[scan rows, scan cols, crop rows, crop cols]` whose chunks are single detector pixels.
fn array<T: H5Type>(group: &Group, meta: &CacheMeta, places: AllocTime) -> H5Result<Dataset> {
    let (scan, crop) = (meta.scan, meta.crop.shape());
    let mut layout = DatasetCreate::build();
    // Chunks are written whole: zeros first would be written twice.
    layout.chunk((scan.rows, scan.cols, 1, 1)).alloc_time(Some(places)).fill_time(FillTime::Never);
    if meta.compression == Compression::Gzip {
        layout.shuffle().deflate(chunk_write::LEVEL);
    }
    group
        .new_dataset_builder()
        .empty::<T>()
        .shape((scan.rows, scan.cols, crop.rows, crop.cols))
        // Said here too: the builder would choose chunks of its own with filters, and would fill them all.
        .chunk((scan.rows, scan.cols, 1, 1))
        .fill_time(FillTime::Never)
        .set_create_plist(&layout.finish()?)
        // No chunk is written twice or read back, so none is worth keeping.
        .with_access_plist(|access| access.chunk_cache(1, 0, 1.0))
        .create("data")
}
