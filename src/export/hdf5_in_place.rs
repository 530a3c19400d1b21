//! An HDF5 cache that is laid out before anything is computed, and then filled in place by whoever knows where its images
//! lie: all groups, attributes and the index of the chunks are written first, so that the file is a whole HDF5 file from
//! the beginning, of which only the numbers are missing.
//!
//! It is called `….h5.unfinished` until it is complete. A run that is killed leaves it, and the next one goes on filling.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use hdf5::Dataset;
use hdf5::plist::dataset_create::AllocTime;

use super::files::{folder_of, publish, require_free};
use super::h5::{self, H5Result, failed};
use super::hdf5_cache::{CacheMeta, cache_file, first_free, lay_out};
use crate::cache::{Manifest, Placed, Step};
use crate::config::{Compression, Config};
use crate::error::{Error, Result};
use crate::memory::BLOCK;
use crate::steps::BrightDisk;
use crate::store::Place;

/// Bytes of the index for each chunk, generously; the library keeps it in one piece of this size.
const INDEX_PER_CHUNK: u64 = 512;
/// Chunks whose places are looked up; the library takes about the square of it in steps.
const LOOKED_UP: usize = 1024;
const ENDING: &str = "unfinished";

/// A file that waits to be filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaidOut {
    /// The file, under its temporary name.
    pub file: PathBuf,
    /// Where the images of bigFT lie, one for each detector pixel of the crop in row order: `complex128`, C order.
    pub bigft: Place,
    /// The same for the correlations: `float64`.
    pub correlations: Place,
}

/// Lays out the cache that will be called `path` (or, when that name is taken, `…_2.h5` and so on). `None` where the
/// images cannot be written without the library: with compression, or where it does not put them one after the other.
///
/// # Errors
/// Disk (exit code 5) when the folder has not the room for the whole cache; a folder that cannot be written to.
pub fn lay_out_in_place(path: &Path, meta: &CacheMeta) -> Result<Option<LaidOut>> {
    meta.check()?;
    if meta.compression != Compression::None {
        return Ok(None);
    }
    require_free(folder_of(path), meta.file_bytes())?;
    let action = "create the HDF5 cache";
    let file = loop {
        let free = first_free(path, |name| [name.to_owned(), unfinished(name)]);
        let file = unfinished(&free);
        // Claimed by the operating system, for another process may want the same name in the same moment.
        match fs::OpenOptions::new().write(true).create_new(true).open(&file) {
            Ok(_) => break file,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io(path, action, e)),
        }
    };
    let laid_out = write_layout(&file, meta).map_err(failed(path, action));
    let remove = || fs::remove_file(&file).map_err(|e| Error::io(&file, "delete", e));
    match laid_out {
        Ok(Some([bigft, correlations])) => {
            h5::sync_chunk(&file)?;
            Ok(Some(LaidOut { file, bigft, correlations }))
        }
        Ok(None) => remove().map(|()| None),
        Err(error) => {
            let _ = remove();
            Err(error)
        }
    }
}

/// Lays out the cache of a run in `folder`, for a session that fills it as it goes.
///
/// # Errors
/// As [`lay_out_in_place`].
pub fn lay_out_run(
    folder: &Path,
    base_name: &str,
    (manifest, config, disk): (&Manifest, &Config, &BrightDisk),
) -> Result<Option<BTreeMap<Step, Placed>>> {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let path = cache_file(&folder, base_name, &manifest.timestamp);
    let laid_out = lay_out_in_place(&path, &CacheMeta::of(manifest, config, disk))?;
    Ok(laid_out.map(|LaidOut { file, bigft, correlations }| {
        let placed = |place| Placed { file: file.clone(), place, spots: None };
        [(Step::Fft, placed(bigft)), (Step::Correlate, placed(correlations))].into()
    }))
}

/// Says which step is complete (1–5) in a file that has been filled, gives it its name, and returns that.
///
/// # Errors
/// A full or failing disk; a file that is not there any more, or that the library does not open.
pub fn finish_in_place(file: &Path, step_completed: usize) -> Result<PathBuf> {
    let named = file.with_extension("");
    let close = || -> H5Result<()> {
        let file = h5::files().open_rw(file)?;
        let at = file.group("metadata")?;
        // A run that was killed at this very place has said so already.
        if at.attr_names()?.iter().all(|name| name != "step_completed") {
            h5::int(&at, "step_completed", step_completed)?;
        }
        file.flush()?;
        file.close()
    };
    close().map_err(failed(&named, "finish the HDF5 cache"))?;
    publish(file, &named)
}

/// Everything but the numbers.
fn write_layout(file: &Path, meta: &CacheMeta) -> H5Result<Option<[Place; 2]>> {
    let chunks = meta.crop.shape().len();
    // The index grows by small pieces; without room of its own they would lie between the images.
    let index = (chunks as u64).saturating_mul(INDEX_PER_CHUNK).max(1 << 16);
    let mut builder = h5::files();
    let (image_bytes, block) = ((meta.scan.len() * size_of::<f64>()) as u64, BLOCK as u64);
    builder.with_fapl(|access| {
        access.meta_block_size(index);
        // Images of whole blocks begin with one, so that they can be written past the page cache; others would have gaps.
        if image_bytes.is_multiple_of(block) { access.alignment(image_bytes, block) } else { access }
    });
    let file = builder.create(file)?;
    let (bigft, correlations) = lay_out(&file, meta, AllocTime::Early)?;
    file.flush()?;
    let places = place_of(&bigft, meta).zip(place_of(&correlations, meta)).map(|(a, b)| [a, b]);
    drop((bigft, correlations));
    file.close()?;
    Ok(places)
}

/// Where an array's images lie, if they lie one after the other.
fn place_of(data: &Dataset, meta: &CacheMeta) -> Option<Place> {
    let (crop, images) = (meta.crop.shape(), meta.crop.shape().len());
    if data.num_chunks()? != images {
        return None;
    }
    let first = data.chunk_info(0)?;
    let place = Place { start: first.addr, image_bytes: first.size, images: images as u64 };
    let steps = images.div_ceil(LOOKED_UP).max(1);
    let looked_up = (0..images).step_by(steps).chain([images - 1]);
    let mut all = looked_up.map(|image| {
        let chunk = data.chunk_info(image)?;
        let offset = [0, 0, (image / crop.cols) as u64, (image % crop.cols) as u64];
        let expected = place.start.checked_add(place.image_bytes.checked_mul(image as u64)?)?;
        (chunk.offset[..] == offset && chunk.size == place.image_bytes && chunk.addr == expected).then_some(())
    });
    all.all(|found| found.is_some()).then_some(place)
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_added_extension(ENDING)
}
