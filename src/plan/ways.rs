//! Ways of working from comfortable to frugal, and the shapes of slabs and tiles that follow from them.

use crate::plan::{Reads, Request};

/// Read this much at once unless told otherwise: enough for the disk's full speed, little enough for the cache.
pub(super) const READ_BLOCK: usize = 8 << 20;
/// What a slab on disk should hold of one detector pixel: a disk reads pieces of this length at nearly its full speed.
pub(super) const LINE_BYTES: usize = 64 << 10;
/// A tile's spectra should not be larger than this where a tile is a chunk file: they copy and sync in well under a second…
const CHUNK_BYTES: usize = 32 << 20;
/// …and than this where nothing depends on it: buffers are then filled and written in turns, and are soon full for the
/// first time, which costs more than filling them again.
const PLACED_BYTES: usize = 8 << 20;

/// Numbers that are written to places in an HDF5 cache are converted in pieces of this length at most: long enough for the
/// full speed of a disk, also where two arrays are written in turns.
pub(super) const STAGE_BYTES: usize = 4 << 20;

/// One way of working, from comfortable to frugal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) in_memory: bool,
    pub(super) workers: usize,
    pub(super) spare_buffers: usize,
    pub(super) read_block: usize,
    pub(super) tile_bytes: usize,
    /// Out of core: bytes of a slab at most, where more than a read is wanted.
    pub(super) slab_bytes: usize,
}

/// Threads that read where the system reads ahead: one waits for it while the other copies.
pub(super) const HANDS: usize = 2;
/// Nobody reads ahead of those that read past the page cache, and some disks are fast only with this much under way…
pub(super) const UNDER_WAY: usize = 64 << 20;
/// …by so many threads at most…
pub const MOST_READERS: usize = UNDER_WAY / READ_BLOCK;
/// …which may take this part of the budget.
const UNDER_WAY_SHARE: u64 = 16;

impl Way {
    /// Threads that read the source; 0 where those that turn read it themselves.
    pub(super) fn read_workers(&self, request: &Request<'_>, cut: Cut, reads: Reads) -> usize {
        // What lies in the page cache need not be waited for: who turns a piece copies it to a core's own cache just before.
        if reads == Reads::Kept && request.frames_in_line && request.around.source_cached == Some(true) {
            return 0;
        }
        if reads != Reads::Direct || self.spare_buffers < 2 {
            return HANDS;
        }
        let bytes = UNDER_WAY.min((request.memory / UNDER_WAY_SHARE) as usize);
        (bytes / (cut.read_frames * request.frame_bytes).max(1)).clamp(HANDS, MOST_READERS)
    }
}

/// What a tile's spectra should take at most.
pub(super) fn tile_bytes(request: &Request<'_>) -> usize {
    if request.in_place() { PLACED_BYTES } else { CHUNK_BYTES }
}

/// Ways of working, best first.
pub(super) fn ways(request: &Request<'_>) -> Vec<Way> {
    let mut ways = Vec::new();
    for in_memory in [true, false] {
        if request.overrides.in_memory.is_some_and(|wanted| wanted != in_memory) {
            continue;
        }
        let mut workers = request.workers.max(1);
        loop {
            for (spare_buffers, shrink) in [(2, 1), (1, 1), (1, 4), (1, 16), (0, 1 << 20)] {
                let (read_block, tile_bytes) = (READ_BLOCK / shrink, tile_bytes(request) / shrink);
                let slab_bytes = if in_memory { 0 } else { (request.memory / slab_share(request)) as usize / shrink };
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

/// The part of the budget that one slab may take out of core. A stack that is no larger than the budget can stay in the page
/// cache as long as the slabs under way leave it there; of a larger one long pieces will be read from the disk.
pub(super) fn slab_share(request: &Request<'_>) -> u64 {
    let stack = (request.scan.len() * request.crop.len() * request.dtype.size()) as u64;
    if stack <= request.memory { 32 } else { 8 }
}

/// The shapes of blocks, slabs and tiles: those of the user or of an existing cache, else those of a way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) slab_rows: usize,
    pub(super) slabs: usize,
    pub(super) read_frames: usize,
    /// Blocks of frames, about.
    pub(super) blocks: usize,
    pub(super) tile_rows: usize,
    pub(super) tile_cols: usize,
    pub(super) tiles: usize,
}

impl Cut {
    pub(super) fn of(request: &Request<'_>, way: Way) -> Self {
        let (o, scan, crop) = (request.overrides, request.scan, request.crop);
        let read_block = o.read_block.map_or(way.read_block, |b| b.0 as usize);
        let slab_rows = request.fixed_layout.map(|l| l.0).or(o.slab_rows).unwrap_or_else(|| slab_rows(request, way));
        let slab_rows = slab_rows.clamp(1, scan.rows.max(1));
        let slab = slab_rows * scan.cols;
        let most = (read_block / request.frame_bytes.max(1)).clamp(1, slab);
        // Equal blocks, for buffers are as long as the longest.
        let read_frames = slab.div_ceil(slab.div_ceil(most));
        let (auto_rows, auto_cols) = tile_shape(request, way);
        let (tile_rows, tile_cols) = match request.fixed_layout {
            Some((_, rows, cols)) => (rows, cols),
            None => (o.tile_rows.unwrap_or(auto_rows), o.tile_cols.unwrap_or(auto_cols)),
        };
        let (tile_rows, tile_cols) = (tile_rows.min(crop.rows), tile_cols.min(crop.cols));
        let slabs = scan.rows.div_ceil(slab_rows);
        Self {
            slab_rows,
            slabs,
            read_frames,
            blocks: slabs * (slab_rows * scan.cols).div_ceil(read_frames),
            tile_rows,
            tile_cols,
            tiles: crop.rows.div_ceil(tile_rows) * crop.cols.div_ceil(tile_cols),
        }
    }
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
    let wanted = usual.max(long).clamp(1, rows);
    // Equal slabs, for the last one is stored as long as the others.
    rows.div_ceil(rows.div_ceil(wanted)).next_multiple_of(natural).clamp(1, rows)
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
