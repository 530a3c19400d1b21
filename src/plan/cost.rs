//! What a plan costs in memory.
//!
//! Predicted is the most *anonymous* memory that the process holds at any moment (`RssAnon` of `/proc/PID/status`): what
//! it allocates, the program's own tables and stacks, but neither its code nor pages of files that are mapped, which the
//! system takes back when it needs them. The large buffers are counted one by one, as the steps charge them.

use serde::Serialize;

use crate::config::Mode;
use crate::memory::{AlignedBytes, READ_SLACK};
use crate::plan::{Pieces, Plan, Request};

/// What the process holds whatever the data: tables of the libraries, stacks, small allocations.
pub(super) const PROGRAM_BYTES: u64 = 4 << 20;
/// The contact sheet with its plots: with the classic method's few panels, and with all of them.
const SHEET_BYTES: [u64; 2] = [17 << 20, 40 << 20];
/// Scan pixels by which a merge in the Fourier domain pads each axis, which only the fit will tell: usually, and with shifts
/// that are large.
const PADS: [usize; 2] = [12, 32];

/// Peak memory of each phase in bytes, the program itself included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct MemoryCost {
    /// Reading and turning the source.
    pub corner_turn: u64,
    /// Transforms, correlations and peaks.
    pub alignment: u64,
    /// The fit of the aberrations, and the refinement of its shifts.
    pub fit: u64,
    /// Putting the image together.
    pub reconstruction: u64,
    /// Writing the results.
    pub export: u64,
}

impl MemoryCost {
    /// The largest.
    pub fn peak(&self) -> u64 {
        self.phases().into_iter().map(|(_, bytes)| bytes).max().unwrap_or(0)
    }

    /// The phases by name, in order.
    pub fn phases(&self) -> [(&'static str, u64); 5] {
        [
            ("corner turn", self.corner_turn),
            ("alignment", self.alignment),
            ("fit", self.fit),
            ("image", self.reconstruction),
            ("export", self.export),
        ]
    }

    /// The least that the budget must be: what will be held, and what buffers are charged with that are never full.
    pub(super) fn required(&self, request: &Request<'_>, plan: &Plan) -> u64 {
        let sizes = Sizes::of(request, plan);
        let charged = sizes.corner_turn_charge(request, plan).max(sizes.reconstruction_charge(request, plan));
        (sizes.stack(plan) + PROGRAM_BYTES + charged).max(self.peak())
    }

    pub(super) fn of(request: &Request<'_>, plan: &Plan) -> Self {
        let sizes = Sizes::of(request, plan);
        let stack = sizes.stack(plan);
        let held = stack + PROGRAM_BYTES;
        let optional = |bytes: u64| if bytes > 0 { held + bytes + sizes.engines(plan.workers) } else { 0 };
        Self {
            corner_turn: PROGRAM_BYTES + sizes.corner_turn(request, plan, stack),
            alignment: held + sizes.alignment(request, plan),
            fit: optional(request.fit_bytes),
            reconstruction: held + sizes.reconstruction(request, plan, held),
            export: PROGRAM_BYTES + sizes.export(request),
        }
    }
}

/// What a merge in the Fourier domain takes, in bytes.
struct Merge {
    /// The images of a batch, and those that are made.
    fixed: u64,
    /// One sum and its image.
    sum: u64,
    /// To make an image out of a sum.
    finish: u64,
    /// The filters of phase contrast.
    filter: u64,
}

impl Merge {
    fn charge(&self, sums: u64) -> u64 {
        self.fixed + sums * self.sum + self.finish + self.filter
    }
}

/// Sizes in bytes that several phases share.
struct Sizes {
    scan: u64,
    sample: u64,
    real: u64,
    slab: u64,
    crop: u64,
    output: u64,
    /// A sum over all detector pixels.
    sum: u64,
    rows_and_cols: u64,
}

impl Sizes {
    fn of(request: &Request<'_>, plan: &Plan) -> Self {
        let (sample, crop) = (plan.stack_type.size() as u64, request.crop.len() as u64);
        Self {
            scan: request.scan.len() as u64,
            sample,
            real: request.precision.size() as u64,
            slab: crop * (plan.slab_rows * request.scan.cols) as u64 * sample,
            crop,
            output: request.scan.len() as u64 * (request.upscale * request.upscale) as u64,
            sum: request.dtype.sum_bytes(request.crop.len()) as u64,
            rows_and_cols: (request.scan.rows + request.scan.cols) as u64,
        }
    }

    /// The stack, where it is held in memory.
    fn stack(&self, plan: &Plan) -> u64 {
        let together = AlignedBytes::held_together(plan.slabs, self.slab as usize) as u64;
        if plan.in_memory { together } else { 0 }
    }

    /// What the corner turn is charged with, beside the stack.
    fn corner_turn_charge(&self, request: &Request<'_>, plan: &Plan) -> u64 {
        let parts = if blocks_are_slabs(request, plan) { 1 } else { plan.read_buffers };
        let raw = match piece_buffers(request, plan) {
            Some(pieces) => pieces,
            None => pool(plan.read_buffers, (plan.read_frames * request.frame_bytes + READ_SLACK) as u64),
        };
        raw + pool(parts, self.turned(plan)) + self.fixed(request, plan)
    }

    /// What the corner turn will hold, `stack` included. Buffers that are never filled take no memory, and those for
    /// frames go when the last block is read: before the stack is complete.
    fn corner_turn(&self, request: &Request<'_>, plan: &Plan, stack: u64) -> u64 {
        let block = (plan.read_frames * request.frame_bytes) as u64;
        let blocks = self.scan.div_ceil(plan.read_frames as u64).max(1);
        let buffers = (plan.read_buffers as u64).min(blocks);
        let under_way = buffers.min(plan.turn_workers as u64);
        let raw = (buffers * block).min(self.scan * request.frame_bytes as u64);
        let last_read = raw + stack * (blocks + 1 - buffers) / blocks;
        let last_turned = under_way * block + stack;
        let most = piece_buffers(request, plan).map_or(last_read.max(last_turned), |pieces| pieces + stack);
        let parts = if blocks_are_slabs(request, plan) { 0 } else { buffers.min(under_way + 1) };
        most + parts * self.turned(plan) + self.fixed(request, plan)
    }

    /// One block of frames, turned.
    fn turned(&self, plan: &Plan) -> u64 {
        plan.read_frames as u64 * self.crop * self.sample
    }

    /// Slabs that are written, and sums.
    fn fixed(&self, request: &Request<'_>, plan: &Plan) -> u64 {
        let slabs = if plan.in_memory { 0 } else { plan.slab_buffers };
        let sums = (request.det.len() as u64 + self.crop) * 16;
        pool(slabs, self.slab)
            // The blocks', the total, and a few whole images of it.
            + pool(plan.sum_buffers(), sums) + 4 * sums
            + (plan.turn_workers * request.det.len()) as u64 * 4
            + request.held_bytes
    }

    /// Two packed images, two images of counts and the library's scratch for each worker.
    fn engine(&self, sample: u64) -> u64 {
        self.scan * 2 * self.real * 2 + 2 * self.scan * sample + self.rows_and_cols * 4 * self.real
    }

    fn engines(&self, workers: usize) -> u64 {
        workers as u64 * self.engine(self.sample)
    }

    /// The same for a worker that correlates pairs in lanes (lean runs in `f32`): a pair in cells of 16 columns, with some
    /// rows to spare, and the cells of one line.
    fn pair_engine(&self, request: &Request<'_>) -> u64 {
        const LANES: usize = 16;
        let (rows, cols) = (request.scan.rows, request.scan.cols);
        let cells = cols.div_ceil(LANES) * (rows.next_multiple_of(LANES) + LANES) + cols.next_multiple_of(LANES);
        (cells * LANES * 8) as u64 + 2 * self.scan * self.sample
    }

    fn alignment(&self, request: &Request<'_>, plan: &Plan) -> u64 {
        // The reference's spectrum; the central image and the smoothed one.
        let reference = self.scan * (2 * self.real + 3 * 8) + self.crop * 64;
        let transform = self.engines(plan.fft_workers);
        if request.mode == Mode::Lean {
            // Which way is taken depends on the prime factors of the scan's sides; in lanes there is a second spectrum.
            let in_lanes = plan.fft_workers as u64 * self.pair_engine(request) + self.scan * 8;
            let most = if self.real == 4 { transform.max(in_lanes) } else { transform };
            return reference + most;
        }
        let tile = (plan.tile_rows * plan.tile_cols) as u64 * self.scan * self.real;
        let tiles = pool(plan.spectra_buffers, 2 * tile) + pool(plan.correlation_buffers, tile);
        let stages = if plan.in_place { 2 * plan.stage_bytes(request.scan) as u64 } else { 0 };
        reference + transform + plan.correlate_workers as u64 * self.engine(1) + tiles + stages
    }

    /// `held` is what stays in memory meanwhile.
    fn reconstruction(&self, request: &Request<'_>, plan: &Plan, held: u64) -> u64 {
        let common = self.batch(plan);
        if !request.half_sets {
            // Sum, number of samples, and what is made of them.
            return common + self.output * (self.sum + 4 + 8 + 8);
        }
        // A pass makes as many sums at once as there is memory for, the two half-sets at least.
        let merge = self.merge(request, plan, PADS[0]);
        let most = 2 + 4 * u64::from(request.images > 2) + request.images.saturating_sub(5) as u64;
        let room = request.memory.saturating_sub(held + common);
        let sums = (2..=most).rev().find(|sums| merge.charge(*sums) <= room).unwrap_or(2);
        // The images are made, and then filtered.
        common + merge.charge(sums) - merge.finish.min(merge.filter)
    }

    /// The least that putting the image together is charged with.
    fn reconstruction_charge(&self, request: &Request<'_>, plan: &Plan) -> u64 {
        let merge =
            if request.half_sets { self.merge(request, plan, PADS[1]).charge(2) } else { self.output * (self.sum + 4) };
        self.batch(plan) + merge
    }

    fn batch(&self, plan: &Plan) -> u64 {
        plan.workers as u64 * 2 * self.scan * self.sample + self.scan * 8 * 4
    }

    fn merge(&self, request: &Request<'_>, plan: &Plan, pad: usize) -> Merge {
        let (rows, cols) = (request.scan.rows + pad, request.scan.cols + pad);
        let (fine_rows, lines) = ((rows * request.upscale) as u64, (cols * request.upscale / 2 + 1) as u64);
        let spectrum = lines * 2 * fine_rows * 4;
        // Each worker transforms two images at once, and holds six with the factors of their shifts; two of the images as
        // they are were counted already.
        let (padded, phases) = ((rows * cols) as u64 * 8, 8 * (fine_rows + lines));
        let images = plan.workers as u64 * (2 * padded + 6 * (padded + phases) + 4 * self.scan * self.sample);
        Merge {
            fixed: images + 6 * 8 * self.output,
            sum: spectrum + 8 * self.output,
            finish: 4 * spectrum + 2 * 8 * self.output,
            filter: if request.images > 2 { 3 * 8 * fine_rows * (cols * request.upscale) as u64 } else { 0 },
        }
    }

    /// The results are held while they are written and drawn, and each image that is drawn takes work of its own.
    fn export(&self, request: &Request<'_>) -> u64 {
        let images = request.images as u64;
        let sheet = if request.exports.pictures { SHEET_BYTES[usize::from(images > 2)] } else { 0 };
        self.output * 8 * (3 + 3 * images / 2) + self.scan * 8 * 6 + sheet
    }
}

/// Buffers for the pieces of blocks, where those that turn read them themselves.
fn piece_buffers(request: &Request<'_>, plan: &Plan) -> Option<u64> {
    let samples = (request.dtype.size(), plan.stack_type.size());
    let bytes = Pieces::most_bytes(request.det, samples, plan.read_frames, request.frame_bytes);
    (plan.read_workers == 0).then(|| pool(plan.turn_workers, bytes as u64))
}

/// What so many buffers of so many bytes take in memory.
fn pool(count: usize, bytes: u64) -> u64 {
    AlignedBytes::held_together(count, bytes as usize) as u64
}

/// Whether a block of frames is turned straight into its slab.
fn blocks_are_slabs(request: &Request<'_>, plan: &Plan) -> bool {
    plan.read_frames >= plan.slab_rows * request.scan.cols
}
