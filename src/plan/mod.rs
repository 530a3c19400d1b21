//! How to cut the work so that it fits: a [`Plan`] can be made, printed and tested without running anything.
//!
//! The planner tries ways of working from the most comfortable to the most frugal and takes the first whose peak
//! memory fits the budget. If none does, the error names the smallest budget that would.

mod cost;
mod report;

use serde::Serialize;

use crate::axes::{DType, DetShape, ScanShape};
use crate::config::{Mode, PlanConfig, Precision};
use crate::error::{Error, ErrorKind, Result};

pub use cost::{DiskCost, MemoryCost};

/// Memory that the program itself takes, whatever the data: code, tables, the HDF5 library.
const PROGRAM_BYTES: u64 = 32 << 20;
/// Read this much at once unless told otherwise: enough for the disk's full speed, little enough for the cache.
const READ_BLOCK: usize = 8 << 20;
/// What a slab on disk should hold of one detector pixel: a disk reads pieces of this length at nearly its full speed.
const LINE_BYTES: usize = 64 << 10;
/// A tile's spectra should not be larger than this: chunk files that copy and sync in well under a second.
const TILE_BYTES: usize = 32 << 20;

/// What the planner needs to know.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Scan shape.
    pub scan: ScanShape,
    /// Detector shape.
    pub det: DetShape,
    /// Type of the samples.
    pub dtype: DType,
    /// Shape of the crop.
    pub crop: DetShape,
    /// Bytes of a buffer for one frame as it lies in the file.
    pub frame_bytes: usize,
    /// Frames that the source decodes together: scan rows of a slab should hold whole numbers of them.
    pub natural_frames: usize,
    /// Bytes that the source itself may hold.
    pub held_bytes: u64,
    /// Whether bigFT and correlations are kept.
    pub mode: Mode,
    /// Arithmetic.
    pub precision: Precision,
    /// Output pixels per scan step.
    pub upscale: usize,
    /// Whether half-sets, and what is made from them, are put together beside the image.
    pub half_sets: bool,
    /// Memory for the spectra of a fit of the aberrations; 0 without one.
    pub fit_bytes: u64,
    /// Memory budget in bytes.
    pub memory: u64,
    /// Worker threads.
    pub workers: usize,
    /// Free bytes where the cache goes, if known.
    pub free_disk: Option<u64>,
    /// Whether bigFT and correlations are exported to HDF5 as well.
    pub export_hdf5: bool,
    /// How an existing cache is cut: `(slab rows, tile rows, tile cols)`.
    pub fixed_layout: Option<(usize, usize, usize)>,
    /// The user's own choices.
    pub overrides: &'a PlanConfig,
}

impl Request<'_> {
    /// Bytes of the cropped stack.
    pub fn stack_bytes(&self) -> u64 {
        self.scan.len() as u64 * self.crop.len() as u64 * self.dtype.size() as u64
    }
}

/// How the work is cut.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Whether the cropped stack is held in memory.
    pub in_memory: bool,
    /// Worker threads.
    pub workers: usize,
    /// Scan rows in one slab of the stack.
    pub slab_rows: usize,
    /// Buffers for slabs that are written and not kept.
    pub slab_buffers: usize,
    /// Frames read at once.
    pub read_frames: usize,
    /// Buffers for frames as read.
    pub read_buffers: usize,
    /// Detector rows in one tile.
    pub tile_rows: usize,
    /// Detector columns in one tile.
    pub tile_cols: usize,
    /// Buffers for the spectra of one tile (documented mode).
    pub spectra_buffers: usize,
    /// Buffers for the correlations of one tile (documented mode).
    pub correlation_buffers: usize,
    /// Items that may wait between two blocks.
    pub queue: usize,
    /// Slabs of the stack.
    pub slabs: usize,
    /// Tiles of the crop.
    pub tiles: usize,
    /// The memory budget.
    pub memory: u64,
    /// Expected peak memory, phase by phase.
    pub memory_cost: MemoryCost,
    /// Expected disk.
    pub disk_cost: DiskCost,
    /// Why: choice and reason.
    pub reasons: Vec<(String, String)>,
}

/// One way of working, from comfortable to frugal.
#[derive(Debug, Clone, Copy)]
struct Way {
    in_memory: bool,
    workers: usize,
    spare_buffers: usize,
    read_block: usize,
    tile_bytes: usize,
    /// Out of core: bytes of a slab at most, where more than a read is wanted.
    slab_bytes: usize,
}

impl Plan {
    /// Chooses how to work.
    ///
    /// # Errors
    /// [`Memory`](ErrorKind::Memory) with the smallest budget that would do, [`Disk`](ErrorKind::Disk) when the cache
    /// does not fit on the disk, [`Config`](ErrorKind::Config) for overrides that cannot be.
    pub fn make(request: &Request<'_>) -> Result<Self> {
        check_overrides(request)?;
        let ways = ways(request);
        let mut smallest = u64::MAX;
        for way in &ways {
            let plan = Self::of_way(request, *way);
            let peak = plan.memory_cost.peak();
            if peak <= request.memory {
                plan.check_disk(request)?;
                return Ok(plan);
            }
            smallest = smallest.min(peak);
        }
        let error = ErrorKind::Memory {
            what: format!("a scan of {} with a crop of {} {}", request.scan, request.crop, request.dtype),
            needed: smallest,
            available: request.memory,
        };
        // Whole MiB: "1.2 GiB" would be rounded, and perhaps too little.
        let smallest = smallest.div_ceil(1 << 20);
        Err(Error::new(error).with_hint(format!("the smallest budget that works is `--memory \"{smallest} MiB\"`")))
    }

    fn of_way(request: &Request<'_>, way: Way) -> Self {
        let o = request.overrides;
        let read_block = o.read_block.map_or(way.read_block, |b| b.0 as usize);
        let slab_rows = request.fixed_layout.map(|l| l.0).or(o.slab_rows).unwrap_or_else(|| slab_rows(request, way));
        let slab_rows = slab_rows.min(request.scan.rows);
        let read_frames = (read_block / request.frame_bytes.max(1)).clamp(1, slab_rows * request.scan.cols);
        let (auto_rows, auto_cols) = tile_shape(request, way);
        let (tile_rows, tile_cols) = match request.fixed_layout {
            Some((_, rows, cols)) => (rows, cols),
            None => (o.tile_rows.unwrap_or(auto_rows), o.tile_cols.unwrap_or(auto_cols)),
        };
        let (tile_rows, tile_cols) = (tile_rows.min(request.crop.rows), tile_cols.min(request.crop.cols));
        let mut plan = Self {
            in_memory: way.in_memory,
            workers: way.workers,
            slab_rows,
            slab_buffers: 0,
            read_frames,
            read_buffers: way.workers + way.spare_buffers,
            tile_rows,
            tile_cols,
            spectra_buffers: way.workers + way.spare_buffers,
            correlation_buffers: way.workers + way.spare_buffers.min(1),
            queue: o.queue.unwrap_or(way.spare_buffers.max(1)),
            slabs: request.scan.rows.div_ceil(slab_rows),
            tiles: request.crop.rows.div_ceil(tile_rows) * request.crop.cols.div_ceil(tile_cols),
            memory: request.memory,
            memory_cost: MemoryCost::default(),
            disk_cost: DiskCost::of(request),
            reasons: Vec::new(),
        };
        plan.slab_buffers = plan.slab_buffers(request);
        plan.memory_cost = MemoryCost::of(request, &plan);
        plan.reasons = report::reasons(request, &plan);
        plan
    }

    /// Buffers for the sums of blocks: one for each block that is under way, or waits for an earlier one.
    pub fn sum_buffers(&self) -> usize {
        self.read_buffers + self.queue + 1
    }

    /// Slabs that may be under way at once. Fewer than blocks under way can belong to would stop everything.
    fn slab_buffers(&self, request: &Request<'_>) -> usize {
        let blocks = (self.slab_rows * request.scan.cols).div_ceil(self.read_frames);
        if blocks == 1 {
            return self.workers + 2;
        }
        // One more is written meanwhile.
        (self.sum_buffers() - 1).div_ceil(blocks) + 1 + 1
    }

    fn check_disk(&self, request: &Request<'_>) -> Result<()> {
        let needed = self.disk_cost.cache();
        match request.free_disk {
            Some(available) if available < needed => {
                Err(Error::new(ErrorKind::Disk { path: "the cache's folder".into(), needed, available })
                    .with_hint("choose another disk with `--set cache.folder=FOLDER`, or keep less with `--lean`"))
            }
            _ => Ok(()),
        }
    }

    /// Tiles in one row of tiles.
    pub fn tiles_per_row(&self, crop: DetShape) -> usize {
        crop.cols.div_ceil(self.tile_cols)
    }
}

fn check_overrides(request: &Request<'_>) -> Result<()> {
    if let Some(cols) = request.overrides.tile_cols
        && cols % 2 == 1
        && cols < request.crop.cols
    {
        return Err(Error::config(format!(
            "plan.tile_cols must be even or at least the crop's width ({}), because two images are transformed together; found {cols}",
            request.crop.cols
        )));
    }
    Ok(())
}

/// Ways of working, best first.
fn ways(request: &Request<'_>) -> Vec<Way> {
    let mut ways = Vec::new();
    for in_memory in [true, false] {
        if request.overrides.in_memory.is_some_and(|wanted| wanted != in_memory) {
            continue;
        }
        let mut workers = request.workers.max(1);
        loop {
            for (spare_buffers, shrink) in [(2, 1), (1, 1), (1, 4), (1, 16), (0, 1 << 20)] {
                let (read_block, tile_bytes) = (READ_BLOCK / shrink, TILE_BYTES / shrink);
                let slab_bytes = if in_memory { 0 } else { request.memory as usize / 8 / shrink };
                ways.push(Way { in_memory, workers, spare_buffers, read_block, tile_bytes, slab_bytes });
            }
            if workers == 1 {
                break;
            }
            workers /= 2;
        }
    }
    // Holding the stack is worth more than spare buffers, but all workers are worth more than the stack.
    ways.sort_by_key(|way| std::cmp::Reverse(way.workers));
    ways
}

/// As many scan rows as one read holds, so that a block is transposed straight into its slab; at least 256 samples of
/// each detector pixel side by side. On disk more, as far as memory goes: what a slab holds of one detector pixel is read
/// at once.
fn slab_rows(request: &Request<'_>, way: Way) -> usize {
    let (rows, cols) = (request.scan.rows.max(1), request.scan.cols.max(1));
    let for_read = way.read_block / (cols * request.frame_bytes.max(1));
    let for_runs = 256usize.div_ceil(cols);
    // Rows that the source decodes together are read together.
    let natural = (request.natural_frames / cols).max(1);
    let usual = for_read.max(for_runs).next_multiple_of(natural);
    let row_bytes = cols * request.dtype.size();
    let fitting = way.slab_bytes / (row_bytes * request.crop.len().max(1));
    let long = LINE_BYTES.div_ceil(row_bytes).min(fitting);
    if long <= usual {
        return usual.clamp(1, rows);
    }
    // Equal slabs, for the last one is stored as long as the others.
    rows.div_ceil(rows.div_ceil(long)).next_multiple_of(natural).clamp(1, rows)
}

/// Whole detector rows when they fit, else an even number of columns of one row.
fn tile_shape(request: &Request<'_>, way: Way) -> (usize, usize) {
    let image = request.scan.len() * 2 * request.precision.size();
    let row = image * request.crop.cols;
    if row > way.tile_bytes {
        let cols = (way.tile_bytes / image.max(1)) & !1;
        return (1, cols.max(2));
    }
    // Enough tiles that all workers stay busy to the end.
    let most = request.crop.rows.div_ceil(8 * request.workers.max(1));
    ((way.tile_bytes / row.max(1)).clamp(1, most.max(1)), request.crop.cols)
}

#[cfg(test)]
mod tests;
