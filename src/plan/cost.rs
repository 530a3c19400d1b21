//! What a plan costs in memory and on disk.

use serde::Serialize;

use crate::config::Mode;
use crate::plan::{PROGRAM_BYTES, Plan, Request};

/// Peak memory of each phase in bytes, the program itself included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct MemoryCost {
    /// Reading and turning the source.
    pub corner_turn: u64,
    /// Transforms, correlations, peaks, and the fit of the aberrations.
    pub alignment: u64,
    /// Putting the image together.
    pub reconstruction: u64,
}

impl MemoryCost {
    /// The largest.
    pub fn peak(&self) -> u64 {
        self.corner_turn.max(self.alignment).max(self.reconstruction)
    }

    pub(super) fn of(request: &Request<'_>, plan: &Plan) -> Self {
        let scan = request.scan.len() as u64;
        let (real, sample) = (request.precision.size() as u64, request.dtype.size() as u64);
        let workers = plan.workers as u64;
        let slab = request.crop.len() as u64 * (plan.slab_rows * request.scan.cols) as u64 * sample;
        let stack = if plan.in_memory { slab * plan.slabs as u64 } else { 0 };
        let sums = (request.det.len() + request.crop.len()) as u64 * 16;

        let block = plan.read_frames as u64 * request.frame_bytes as u64;
        let turned = request.crop.len() as u64 * plan.read_frames as u64 * sample;
        let slabs = if plan.in_memory { 0 } else { slab * plan.slab_buffers as u64 };
        let corner_turn = plan.read_buffers as u64 * (block + turned)
            + slabs
            + stack
            // The blocks', the total, and a few whole images of it.
            + sums * (plan.sum_buffers() as u64 + 4)
            + workers * request.det.len() as u64 * 4
            + request.held_bytes;

        // Two packed images, two images of counts and the library's scratch for each worker; the reference once.
        let engines = if request.mode == Mode::Documented { 2 } else { 1 };
        let engine =
            scan * 2 * real * 2 + 2 * scan * sample + (request.scan.rows + request.scan.cols) as u64 * 4 * real;
        let scratch = engines * workers * engine + 2 * scan * 2 * real;
        let tile = (plan.tile_rows * plan.tile_cols) as u64;
        let tiles = match request.mode {
            Mode::Lean => 0,
            Mode::Documented => {
                plan.spectra_buffers as u64 * tile * scan * 2 * real
                    + plan.correlation_buffers as u64 * tile * scan * real
            }
        };
        let alignment = stack + scratch + tiles.max(request.fit_bytes) + request.crop.len() as u64 * 64 + scan * 8 * 3;

        let output = scan * (request.upscale * request.upscale) as u64;
        let batch = plan.workers as u64 * 2 * scan * sample;
        // Half-sets: six images; four sums of 4 + 8 bytes and the work of one transform, on a grid with its pad; for
        // each image of a batch three transforms.
        let (pixel, image) = if request.half_sets { (6 * 8 + 2 * (4 * 12 + 16), 32) } else { (12 + 4 * 8 + 16, 0) };
        let batch = batch + workers * 2 * scan * image;
        let reconstruction = stack + output * pixel + batch + scan * 8 * 4 + (1 << 20);
        Self {
            corner_turn: corner_turn + PROGRAM_BYTES,
            alignment: alignment + PROGRAM_BYTES,
            reconstruction: reconstruction + PROGRAM_BYTES,
        }
    }
}

/// Bytes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct DiskCost {
    /// The source's frames, read once.
    pub source: u64,
    /// The cropped stack.
    pub stack: u64,
    /// bigFT in the working cache.
    pub bigft: u64,
    /// Correlations in the working cache.
    pub correlations: u64,
    /// Images and maps in the working cache.
    pub results: u64,
    /// The exported HDF5 cache.
    pub hdf5: u64,
}

impl DiskCost {
    /// Bytes of the whole working cache.
    pub fn cache(&self) -> u64 {
        self.stack + self.bigft + self.correlations + self.results
    }

    pub(super) fn of(request: &Request<'_>) -> Self {
        let samples = request.scan.len() as u64 * request.crop.len() as u64;
        let kept = if request.mode == Mode::Documented { samples } else { 0 };
        let real = request.precision.size() as u64;
        let images = request.scan.len() as u64 * 8 * (3 + 2 * (request.upscale * request.upscale) as u64);
        Self {
            source: request.scan.len() as u64 * request.det.len() as u64 * request.dtype.size() as u64,
            stack: request.stack_bytes(),
            bigft: kept * 2 * real,
            correlations: kept * real,
            results: images + request.crop.len() as u64 * 64 + request.det.len() as u64 * 8,
            hdf5: if request.export_hdf5 { kept * 24 } else { 0 },
        }
    }
}
