//! How to cut the work so that it fits: a [`Plan`] can be made, printed and tested without running anything.
//!
//! The planner tries ways of working from the most comfortable to the most frugal and takes the first whose peak
//! memory fits the budget. If none does, the error names the smallest budget that would.
//!
//! ```text
//! ways     ways of working, and the shapes that follow from them
//! cost     memory
//! disk     disk, and whether the disks have it
//! explain  for each choice: the value, and which limit decided it
//! time     what the steps will take on a machine that was measured
//! report   the plan in words
//! pieces   what of a block is turned at once
//! ```

mod cost;
mod disk;
mod explain;
mod pieces;
mod report;
mod time;
mod ways;

use serde::Serialize;

use crate::axes::{CountRange, DType, DetShape, ScanShape};
use crate::config::{Access, Mode, PlanConfig, Precision, bad_value};
use crate::error::{Error, ErrorKind, Result};

pub use cost::MemoryCost;
pub use disk::{DiskCost, Exports, Folder, Folders};
pub use explain::{BudgetFrom, Choice};
pub use pieces::Pieces;
pub use time::{StepTime, Timing};
pub use ways::MOST_READERS;
use ways::{Cut, HANDS, STAGE_BYTES, Way, ways};

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
    /// Whether frames lie one after the other in the file, so that they can be read past the page cache.
    pub frames_in_line: bool,
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
    /// Upscaled images that are made: the image, its weights, those of the phase, depths.
    pub images: usize,
    /// Memory for the spectra of a fit of the aberrations; 0 without one.
    pub fit_bytes: u64,
    /// Memory budget in bytes.
    pub memory: u64,
    /// Worker threads.
    pub workers: usize,
    /// What is written besides the cache.
    pub exports: Exports,
    /// The machine and the folders.
    pub around: Around,
    /// How an existing cache is cut: `(slab rows, tile rows, tile cols)`.
    pub fixed_layout: Option<(usize, usize, usize)>,
    /// The smallest and the largest sample of some frames, where they are whole numbers.
    pub counts: Option<CountRange>,
    /// Type of the stack that an existing cache holds.
    pub stored_stack: Option<DType>,
    /// The user's own choices.
    pub overrides: &'a PlanConfig,
}

/// What the planner needs to know of the machine and the folders. What is absent is unknown and decides nothing.
#[derive(Debug, Clone, Default)]
pub struct Around {
    /// Why the budget is what it is.
    pub budget: BudgetFrom,
    /// Whether the source lies in the page cache.
    pub source_cached: Option<bool>,
    /// Free memory in bytes, where the page cache may be counted on: not in a memory control group.
    pub free_memory: Option<u64>,
    /// Bytes that may wait for the disk in a memory control group.
    pub group_window: Option<u64>,
    /// The kind of network file system that the cache is on.
    pub network: Option<&'static str>,
    /// Where a run writes to.
    pub folders: Folders,
}

impl Request<'_> {
    /// Whether bigFT and the correlations are written to the HDF5 cache alone.
    fn in_place(&self) -> bool {
        self.mode == Mode::Documented && self.exports.in_place == [true, true]
    }

    /// The type of fewer bits than the source's that the sampled counts fit in.
    pub fn narrow_type(&self) -> Option<DType> {
        self.counts.and_then(|counts| counts.narrow_type(self.dtype))
    }
}

/// How the source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reads {
    /// Through the page cache, which keeps it for the next time.
    Kept,
    /// Through the page cache, which need not hold what was read.
    Forgotten,
    /// Past the page cache, unless it lies there already or the system cannot.
    Direct,
}

/// How the work is cut.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Whether the cropped stack is held in memory.
    pub in_memory: bool,
    /// Whether the cache's chunks are mapped; else they are read by positioned reads.
    pub mapped: bool,
    /// Bytes of a written file that may wait for the disk; `None`: as much as the system lets wait.
    pub write_window: Option<u64>,
    /// Whether large arrays are written past the page cache, where the system can: all but a stack that is read from the disk.
    pub direct: bool,
    /// Worker threads.
    pub workers: usize,
    /// How the source is read.
    pub reads: Reads,
    /// Threads that read the source; 0 where those that turn read it themselves, piece by piece.
    pub read_workers: usize,
    /// Threads that crop and transpose.
    pub turn_workers: usize,
    /// Threads that transform (and correlate, in lean mode).
    pub fft_workers: usize,
    /// Threads that correlate (documented mode).
    pub correlate_workers: usize,
    /// Type of the stack's samples: the source's, or one of fewer bits that the counts are expected to fit in.
    pub stack_type: DType,
    /// Whether bigFT and the correlations are written to the HDF5 cache alone, and not to the working cache first.
    pub in_place: bool,
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
    /// Bytes of the working cache at most: with a stack of the source's type, should the counts not fit in fewer bits.
    pub most_cache: u64,
    /// For each choice: the value, and which limit decided it.
    #[serde(skip)]
    pub explain: Vec<Choice>,
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
        let mut plans = ways.iter().map(|way| Self::of_way(request, *way)).peekable();
        let best = plans.peek().cloned();
        let (mut smallest, mut refused) = (u64::MAX, None);
        for mut plan in plans {
            let peak = plan.memory_cost.required(request, &plan);
            if peak <= request.memory {
                request.around.folders.check(&plan.disk_cost)?;
                plan.narrow(request);
                let best = best.as_ref().unwrap_or(&plan).clone();
                plan.explain = explain::choices(request, &plan, &best, refused);
                return Ok(plan);
            }
            refused = Some(peak);
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
        let cut = Cut::of(request, way);
        let reads = reads(request);
        let read_workers = o.read_workers.unwrap_or_else(|| way.read_workers(request, cut, reads));
        // Each block that is under way waits in a buffer.
        let waiting = read_workers.saturating_sub(HANDS);
        // More buffers than there is to hold would only cost memory.
        let buffers = |user: Option<usize>, spare: usize, all: usize| user.unwrap_or((way.workers + spare).min(all));
        let mut plan = Self {
            in_memory: way.in_memory,
            stack_type: request.stored_stack.unwrap_or(request.dtype),
            mapped: match o.access {
                Access::Auto => request.around.network.is_none(),
                access => access == Access::Map,
            },
            write_window: o.write_window.map(|window| window.0).or(request.around.group_window),
            direct: o.direct_writes.unwrap_or(true),
            workers: way.workers,
            reads,
            read_workers,
            turn_workers: o.turn_workers.unwrap_or(way.workers),
            fft_workers: o.fft_workers.unwrap_or(way.workers),
            correlate_workers: o.correlate_workers.unwrap_or(way.workers),
            in_place: request.in_place(),
            slab_rows: cut.slab_rows,
            slab_buffers: 0,
            read_frames: cut.read_frames,
            read_buffers: buffers(o.read_buffers, way.spare_buffers + waiting, cut.blocks),
            tile_rows: cut.tile_rows,
            tile_cols: cut.tile_cols,
            spectra_buffers: buffers(o.spectra_buffers, way.spare_buffers, cut.tiles),
            correlation_buffers: buffers(o.correlation_buffers, way.spare_buffers.min(1), cut.tiles),
            queue: o.queue.unwrap_or(way.spare_buffers.max(1)),
            slabs: cut.slabs,
            tiles: cut.tiles,
            memory: request.memory,
            memory_cost: MemoryCost::default(),
            disk_cost: DiskCost::default(),
            most_cache: 0,
            explain: Vec::new(),
        };
        plan.disk_cost = DiskCost::of(request, &plan);
        plan.most_cache = plan.disk_cost.cache();
        plan.slab_buffers = plan.slab_buffers(request);
        plan.memory_cost = MemoryCost::of(request, &plan);
        plan
    }

    /// Keeps counts in fewer bits where that is wanted. The plan was made for the source's type, and has room for it: should
    /// the counts not fit after all, the corner turn starts again with that. Nobody is made to read a disk twice unasked.
    fn narrow(&mut self, request: &Request<'_>) {
        let wanted = request.overrides.narrow_stack.unwrap_or_else(|| self.second_look_is_cheap(request));
        let new = request.stored_stack.is_none();
        let Some(narrow) = request.narrow_type().filter(|_| wanted && new) else { return };
        self.stack_type = narrow;
        self.disk_cost = DiskCost::of(request, self);
        self.memory_cost = MemoryCost::of(request, self);
    }

    /// Whether the source lies in the page cache, or goes there, and fits in the free memory twice together with the stack, so
    /// that the system has no reason to give up what it read of it. In a control group it has to.
    fn second_look_is_cheap(&self, request: &Request<'_>) -> bool {
        let both = self.disk_cost.source + self.disk_cost.stack;
        let cached = self.reads == Reads::Kept || request.around.source_cached == Some(true);
        self.in_memory && cached && request.around.free_memory.is_some_and(|free| both.saturating_mul(2) <= free)
    }

    /// Bytes in which each of the two writers of an HDF5 cache that is filled in place converts numbers: those of a tile's
    /// correlations at most.
    pub fn stage_bytes(&self, scan: ScanShape) -> usize {
        (self.tile_rows * self.tile_cols * scan.len() * size_of::<f64>()).clamp(1, STAGE_BYTES)
    }

    /// Buffers for the sums of blocks: one for each block that is under way, or waits for an earlier one.
    pub fn sum_buffers(&self) -> usize {
        self.read_buffers + self.queue + 1
    }

    /// Slabs that may be under way at once. Fewer than blocks under way can belong to would stop everything.
    fn slab_buffers(&self, request: &Request<'_>) -> usize {
        let blocks = (self.slab_rows * request.scan.cols).div_ceil(self.read_frames);
        // Several blocks of a slab: one more is open, and one more is written meanwhile.
        let under_way = if blocks == 1 { self.turn_workers + 2 } else { (self.sum_buffers() - 1).div_ceil(blocks) + 2 };
        under_way.min(self.slabs)
    }

    /// Tiles in one row of tiles.
    pub fn tiles_per_row(&self, crop: DetShape) -> usize {
        crop.cols.div_ceil(self.tile_cols)
    }
}

/// A source that does not lie in the page cache is not brought there: it is read once, past it that is faster, and a large one
/// would push everything else out. In a control group, what the page cache holds of it counts as this process's memory.
fn reads(request: &Request<'_>) -> Reads {
    let (around, wanted) = (&request.around, request.overrides.direct_reads);
    let source = (request.scan.len() * request.det.len() * request.dtype.size()) as u64;
    let large = around.free_memory.is_some_and(|free| source > free / 2);
    let forgotten = large || around.group_window.is_some() || wanted == Some(true);
    let absent = around.source_cached == Some(false);
    // Those that turn read through the page cache only.
    let possible = request.frames_in_line && request.overrides.read_workers != Some(0);
    match (forgotten, possible && wanted != Some(false)) {
        (false, true) if absent => Reads::Direct,
        (false, _) => Reads::Kept,
        (true, false) => Reads::Forgotten,
        (true, true) => Reads::Direct,
    }
}

/// Values that cannot be with this scan and crop.
fn check_overrides(request: &Request<'_>) -> Result<()> {
    let o = request.overrides;
    for (value, key, most, of) in [
        (o.slab_rows, "slab_rows", request.scan.rows, "the scan's rows"),
        (o.tile_rows, "tile_rows", request.crop.rows, "the crop's rows"),
        (o.tile_cols, "tile_cols", request.crop.cols, "the crop's width"),
    ] {
        if let Some(value) = value.filter(|value| *value > most) {
            return Err(bad_value(key, &format!("at most {of} ({most})"), &value, &most));
        }
    }
    if o.read_workers == Some(0) && (!request.frames_in_line || o.direct_reads == Some(true)) {
        let must = if request.frames_in_line {
            "at least 1 where the source is read past the page cache (plan.direct_reads)"
        } else {
            "at least 1 for a source whose frames do not lie one after the other in the file"
        };
        return Err(bad_value("read_workers", must, &0, &1));
    }
    match o.tile_cols {
        Some(cols) if cols % 2 == 1 && cols < request.crop.cols => {
            let must = format!(
                "even or the crop's width ({}), because two images are transformed together",
                request.crop.cols
            );
            Err(bad_value("tile_cols", &must, &cols, &(cols + 1)))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
