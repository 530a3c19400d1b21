//! What a plan costs on disk, and whether the disks have it.

use std::path::PathBuf;

use serde::Serialize;

use crate::config::Mode;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::ByteSize;
use crate::plan::{Plan, Request};

/// Two-dimensional results with one number for each detector pixel of the crop, and with one for each scan position.
const MAPS: u64 = 12;
const SCAN_IMAGES: u64 = 3;
/// Metadata, manifest, and the blocks of the HDF5 library.
const SMALL_FILES: u64 = 1 << 20;
/// The contact sheet and the pictures' labels.
const SHEETS: u64 = 1 << 19;

/// Bytes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct DiskCost {
    /// The source's frames, read once.
    pub source: u64,
    /// The cropped stack.
    pub stack: u64,
    /// bigFT in the working cache; nothing where it lies in the HDF5 cache.
    pub bigft: u64,
    /// Correlations in the working cache; nothing where they lie in the HDF5 cache.
    pub correlations: u64,
    /// Images and maps in the working cache.
    pub results: u64,
    /// The HDF5 cache.
    pub hdf5: u64,
    /// EMD results, arrays and pictures.
    pub exports: u64,
}

impl DiskCost {
    /// Bytes of the whole working cache.
    pub fn cache(&self) -> u64 {
        self.stack + self.bigft + self.correlations + self.results
    }

    /// What a user can do for it to become less.
    pub fn keep_less(&self) -> &'static str {
        match (self.bigft + self.correlations, self.hdf5) {
            (0, 0) => "keep less with a smaller `disk.crop_radius`",
            (_, 0) => "keep less with `--lean`",
            _ => "keep less with `--lean` or `--set export.hdf5=false`",
        }
    }

    /// Bytes of everything that a run writes.
    pub fn total(&self) -> u64 {
        self.cache() + self.hdf5 + self.exports
    }

    /// The last slab of the stack is stored as long as the others.
    pub(super) fn of(request: &Request<'_>, plan: &Plan) -> Self {
        let (scan, crop) = (request.scan.len() as u64, request.crop.len() as u64);
        let kept = if request.mode == Mode::Documented { scan * crop } else { 0 };
        let real = request.precision.size() as u64;
        let stored = (request.scan.rows.next_multiple_of(plan.slab_rows.max(1)) * request.scan.cols) as u64;
        let images = 8
            * (scan * (SCAN_IMAGES + request.images as u64 * (request.upscale * request.upscale) as u64)
                + crop * MAPS
                + request.det.len() as u64);
        let export = &request.exports;
        let when = |wanted: bool, bytes: u64| if wanted { bytes } else { 0 };
        Self {
            source: scan * request.det.len() as u64 * request.dtype.size() as u64,
            stack: stored * crop * plan.stack_type.size() as u64,
            bigft: when(!export.in_place[0], kept * 2 * real),
            correlations: when(!export.in_place[1], kept * real),
            results: images + SMALL_FILES,
            hdf5: when(export.hdf5, kept * 24),
            exports: when(export.emd, images + SMALL_FILES)
                + when(export.npy, images)
                + when(export.tiff, images / 2)
                + when(export.pictures, images / 7 + SHEETS),
        }
    }
}

/// What of a run is written besides the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exports {
    /// The HDF5 cache (documented mode).
    pub hdf5: bool,
    /// Whether its arrays are compressed.
    pub gzip: bool,
    /// Whether bigFT, and whether the correlations, lie in it from the beginning, and not in the working cache.
    pub in_place: [bool; 2],
    /// EMD results.
    pub emd: bool,
    /// Arrays.
    pub npy: bool,
    /// Images.
    pub tiff: bool,
    /// Pictures and the contact sheet.
    pub pictures: bool,
}

/// A folder that a run writes to, and what its file system has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// The folder.
    pub path: PathBuf,
    /// The file system's device number: folders with the same one share their space.
    pub device: u64,
    /// Free bytes.
    pub free: u64,
}

/// Where a run writes to. What is not known is not checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folders {
    /// Where the working cache is.
    pub cache: Option<Folder>,
    /// Bytes of the cache that exist already and are used or written over.
    pub existing: u64,
    /// Where the HDF5 cache and the results go.
    pub export: Option<Folder>,
    /// Bytes of an unfinished HDF5 cache that exist already and are used or written over.
    pub export_existing: u64,
}

impl Folders {
    /// Compares each file system's free space with all that goes there, before anything is written.
    pub(super) fn check(&self, cost: &DiskCost) -> Result<()> {
        let cache = cost.cache().saturating_sub(self.existing);
        let hdf5 = cost.hdf5.saturating_sub(self.export_existing);
        let export = hdf5 + cost.exports;
        let shared = match (&self.cache, &self.export) {
            (Some(a), Some(b)) => a.device == b.device,
            _ => false,
        };
        let cache_parts = format!("{} for the working cache", ByteSize(cache));
        let export_parts = format!("{} for the HDF5 cache and {} for results", ByteSize(hdf5), ByteSize(cost.exports));
        let require = |folder: Option<&Folder>, needed: u64, parts: &str, option: &str| {
            let Some(folder) = folder.filter(|folder| folder.free < needed) else { return Ok(()) };
            let path = folder.path.clone();
            let less = cost.keep_less();
            Err(Error::new(ErrorKind::Disk { path, needed, available: folder.free })
                .with_hint(format!("that is {parts}: choose another disk with `{option}FOLDER`, or {less}")))
        };
        if shared {
            return require(self.cache.as_ref(), cache + export, &format!("{cache_parts}, {export_parts}"), "--out ");
        }
        require(self.cache.as_ref(), cache, &cache_parts, "--set cache.folder=")?;
        require(self.export.as_ref(), export, &export_parts, "--set export.folder=")
    }
}
