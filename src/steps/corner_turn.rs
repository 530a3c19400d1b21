//! The corner turn: frames in, images out. The source is read once, in file order.
//!
//! ```text
//! read ──► turn × workers ──► collect ──► write stack
//! ```
//!
//! `read` fetches blocks of frames; `turn` crops and transposes them and adds up the mean pattern and the crop's
//! squares; `collect` puts blocks together into slabs (a block that is a whole slab passes through) and adds up the sums
//! in the order of the frames; `write stack` keeps slabs in memory or lets them go once they are in the cache.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use crate::axes::{Crop, DType, DetShape, Endian, Image, ScanShape};
use crate::cache::Step;
use crate::config::NanPolicy;
use crate::error::{Error, Result};
use crate::kernel::transpose::{BadSamples, RawFrames, Sum, square_sum, sum_frames, turn};
use crate::memory::Charge;
use crate::pipeline::{AlignedBytes, Block, Emitter, Graph, Pool, Pooled};
use crate::progress::Progress;
use crate::read::{FrameSource, size_on_disk};
use crate::steps::bad_pixels::{MAP, look_for_bad_pixels, squares_of_stack};
use crate::steps::context::RunContext;
use crate::steps::selection::excluded_pixels;
use crate::steps::stack::{CroppedStack, Stack, central_pixel, image_of, stack_spec};
use crate::steps::step1_detect::{BrightDisk, Detected};
use crate::store::ChunkedArray;
use crate::with_sample_type;

/// What all blocks know about the geometry.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    scan: ScanShape,
    det: DetShape,
    crop: Crop,
    dtype: DType,
    slab_rows: usize,
    slabs: usize,
}

impl Geometry {
    fn slab_bytes(&self) -> usize {
        self.crop.shape().len() * self.line() * self.dtype.size()
    }

    /// Samples of one detector pixel in a slab, padding included.
    fn line(&self) -> usize {
        self.slab_rows * self.scan.cols
    }

    /// Frames of one slab; the last may have fewer.
    fn frames_in(&self, slab: usize) -> usize {
        self.slab_rows.min(self.scan.rows - slab * self.slab_rows) * self.scan.cols
    }
}

/// A slab's buffer: from the pool (out of core), or its own piece of the charged stack.
#[derive(Debug)]
enum SlabBuffer {
    Owned(Arc<AlignedBytes>),
    Pooled(Pooled),
}

impl SlabBuffer {
    fn bytes_mut(&mut self) -> Result<&mut AlignedBytes> {
        match self {
            Self::Owned(bytes) => Arc::get_mut(bytes).ok_or_else(|| Error::bug("an unfinished slab is shared")),
            Self::Pooled(buffer) => Ok(buffer),
        }
    }
}

/// Where slabs come from.
#[derive(Clone)]
enum SlabMaker {
    Memory(usize),
    Disk(Pool),
}

impl SlabMaker {
    fn make<T>(&self, out: &mut Emitter<'_, T>) -> Result<SlabBuffer> {
        match self {
            Self::Memory(len) => Ok(SlabBuffer::Owned(Arc::new(AlignedBytes::zeroed(*len)))),
            Self::Disk(pool) => out.take(pool).map(SlabBuffer::Pooled),
        }
    }
}

struct RawBlock {
    id: usize,
    slab: usize,
    /// Frame of the slab at which the block begins.
    start: usize,
    frames: usize,
    first_frame: usize,
    buffer: Pooled,
    offset: usize,
    stride: usize,
    endian: Endian,
}

struct Turned {
    id: usize,
    slab: usize,
    start: usize,
    frames: usize,
    samples: TurnedSamples,
    sums: BlockSums,
    bad: BadSamples,
    first_frame: usize,
}

/// What is added up over the frames.
#[derive(Clone)]
struct BlockSums {
    /// Σ I of each pixel of the whole detector.
    counts: Vec<Sum>,
    /// Σ I² of each pixel of the crop.
    squares: Vec<Sum>,
}

impl BlockSums {
    fn zero(geometry: &Geometry) -> Self {
        let zeros = |len: usize| vec![Sum::default(); len];
        Self { counts: zeros(geometry.det.len()), squares: zeros(geometry.crop.shape().len()) }
    }

    fn merge(&mut self, other: Self) {
        let both = self.counts.iter_mut().zip(other.counts).chain(self.squares.iter_mut().zip(other.squares));
        both.for_each(|(total, sum)| total.merge(sum));
    }
}

enum TurnedSamples {
    WholeSlab(SlabBuffer),
    Part(Pooled),
}

struct Finished {
    slab: usize,
    buffer: SlabBuffer,
}

struct Read<'a> {
    source: &'a dyn FrameSource,
    geometry: Geometry,
    frames: usize,
    pool: Pool,
}

impl Block for Read<'_> {
    type In = ();
    type Out = RawBlock;

    fn work(&mut self, (): (), out: &mut Emitter<'_, RawBlock>) -> Result<()> {
        let mut id = 0;
        let mut first_frame = 0;
        for slab in 0..self.geometry.slabs {
            let in_slab = self.geometry.frames_in(slab);
            let mut start = 0;
            while start < in_slab {
                let frames = self.frames.min(in_slab - start);
                let mut buffer = out.take(&self.pool)?;
                let base = buffer.as_ptr() as usize;
                let block = self.source.read_block(first_frame, frames, &mut buffer)?;
                // The view becomes an offset, so that the buffer can travel to another thread.
                let offset = block.bytes.as_ptr() as usize - base + block.offset;
                let (stride, endian) = (block.stride, block.endian);
                out.count_bytes((frames * self.geometry.det.len() * self.geometry.dtype.size()) as u64);
                out.send(RawBlock { id, slab, start, frames, first_frame, buffer, offset, stride, endian })?;
                id += 1;
                start += frames;
                first_frame += frames;
            }
        }
        Ok(())
    }
}

struct Turn<'a> {
    geometry: Geometry,
    slabs: SlabMaker,
    parts: Pool,
    small: Vec<i32>,
    progress: &'a dyn Progress,
}

impl Block for Turn<'_> {
    type In = RawBlock;
    type Out = Turned;

    fn work(&mut self, block: RawBlock, out: &mut Emitter<'_, Turned>) -> Result<()> {
        let g = self.geometry;
        let raw = RawFrames {
            bytes: &block.buffer,
            offset: block.offset,
            stride: block.stride,
            frames: block.frames,
            det: g.det,
            swap: block.endian == Endian::Big,
        };
        let mut sums = BlockSums::zero(&g);
        let whole = block.start == 0 && block.frames == g.frames_in(block.slab);
        let (samples, bad) = if whole {
            let mut slab = self.slabs.make(out)?;
            let bytes = slab.bytes_mut()?;
            if block.frames < g.line() {
                bytes.fill(0);
            }
            let bad = self.turn_into(&raw, bytes, g.line(), &mut sums);
            (TurnedSamples::WholeSlab(slab), bad)
        } else {
            let mut part = out.take(&self.parts)?;
            let bad = self.turn_into(&raw, &mut part, block.frames, &mut sums);
            (TurnedSamples::Part(part), bad)
        };
        let bytes = (block.frames * g.det.len() * g.dtype.size()) as u64;
        out.count_bytes(bytes);
        self.progress.advance(bytes);
        let RawBlock { id, slab, start, frames, first_frame, .. } = block;
        out.send(Turned { id, slab, start, frames, samples, sums, bad, first_frame })
    }
}

impl Turn<'_> {
    fn turn_into(
        &mut self,
        raw: &RawFrames<'_>,
        out: &mut AlignedBytes,
        line: usize,
        sums: &mut BlockSums,
    ) -> BadSamples {
        let crop = self.geometry.crop;
        with_sample_type!(self.geometry.dtype, S => {
            let samples = &mut out.cast_mut::<S>()[..crop.shape().len() * line];
            turn::<S>(raw, crop, samples, line, 0);
            for (square, image) in sums.squares.iter_mut().zip(samples.chunks_exact(line)) {
                *square = square_sum(&image[..raw.frames]);
            }
            sum_frames::<S>(raw, &mut sums.counts, &mut self.small)
        })
    }
}

/// Sums over all frames so far.
struct Totals {
    sums: BlockSums,
    nan: u64,
    first_nan_frame: Option<usize>,
}

struct Collect<'a> {
    geometry: Geometry,
    slabs: SlabMaker,
    /// Slabs that still lack frames, with the number of frames that they have.
    open: BTreeMap<usize, (SlabBuffer, usize)>,
    /// Sums that wait for an earlier block, so that floats are added in the order of the frames.
    waiting: BTreeMap<usize, BlockSums>,
    next: usize,
    totals: &'a mut Totals,
}

impl Block for Collect<'_> {
    type In = Turned;
    type Out = Finished;

    fn work(&mut self, block: Turned, out: &mut Emitter<'_, Finished>) -> Result<()> {
        self.totals.nan += block.bad.nan;
        if let Some(frame) = block.bad.first_frame {
            let frame = block.first_frame + frame;
            self.totals.first_nan_frame = Some(self.totals.first_nan_frame.map_or(frame, |f| f.min(frame)));
        }
        self.waiting.insert(block.id, block.sums);
        while let Some(sums) = self.waiting.remove(&self.next) {
            self.totals.sums.merge(sums);
            self.next += 1;
        }
        let slab = block.slab;
        match block.samples {
            TurnedSamples::WholeSlab(buffer) => out.send(Finished { slab, buffer }),
            TurnedSamples::Part(part) => {
                if !self.open.contains_key(&slab) {
                    let mut buffer = self.slabs.make(out)?;
                    if self.geometry.frames_in(slab) < self.geometry.line() {
                        buffer.bytes_mut()?.fill(0);
                    }
                    self.open.insert(slab, (buffer, 0));
                }
                let Some((mut buffer, have)) = self.open.remove(&slab) else { return Ok(()) };
                self.copy_part(&part, block.start, block.frames, buffer.bytes_mut()?);
                drop(part);
                if have + block.frames == self.geometry.frames_in(slab) {
                    out.send(Finished { slab, buffer })
                } else {
                    self.open.insert(slab, (buffer, have + block.frames));
                    Ok(())
                }
            }
        }
    }
}

impl Collect<'_> {
    fn copy_part(&self, part: &[u8], start: usize, frames: usize, slab: &mut [u8]) {
        let size = self.geometry.dtype.size();
        let (line, run) = (self.geometry.line() * size, frames * size);
        for (pixel, to) in slab.chunks_exact_mut(line).enumerate() {
            to[start * size..start * size + run].copy_from_slice(&part[pixel * run..(pixel + 1) * run]);
        }
    }
}

struct WriteStack<'a> {
    array: &'a ChunkedArray,
    kept: &'a mut Vec<Option<Arc<AlignedBytes>>>,
}

impl Block for WriteStack<'_> {
    type In = Finished;
    type Out = ();

    fn work(&mut self, item: Finished, out: &mut Emitter<'_, ()>) -> Result<()> {
        let bytes: &[u8] = match &item.buffer {
            SlabBuffer::Owned(bytes) => bytes,
            SlabBuffer::Pooled(buffer) => buffer,
        };
        self.array.write_chunk(&[item.slab, 0, 0, 0], bytes)?;
        out.count_bytes(bytes.len() as u64);
        if let SlabBuffer::Owned(bytes) = item.buffer {
            self.kept[item.slab] = Some(bytes);
        }
        Ok(())
    }
}

/// Reads the source once and makes the cropped stack, or opens the one that the cache holds.
///
/// # Errors
/// [`Input`](crate::error::ErrorKind::Input) for a damaged source, NaN or infinite samples (unless `source.nan = "zero"`) or a scan
/// without counts; [`Memory`](crate::error::ErrorKind::Memory), [`Io`](crate::error::ErrorKind::Io).
pub fn corner_turn(ctx: &RunContext<'_>, detected: &Detected) -> Result<CroppedStack> {
    let crop = detected.disk.crop;
    excluded_pixels(ctx)?;
    if ctx.cache().manifest().is_done(Step::Stack) {
        return open_stack(ctx, &detected.disk);
    }
    let source = ctx.source()?;
    let info = source.info();
    let size = size_on_disk(&source.info().path);
    let geometry = Geometry {
        scan: info.scan,
        det: info.det,
        crop,
        dtype: info.dtype,
        slab_rows: ctx.plan.slab_rows,
        slabs: ctx.plan.slabs,
    };
    let array = {
        let cache = ctx.cache();
        let spec = stack_spec(info.scan, crop.shape(), geometry.slab_rows, info.dtype);
        cache.group().remove("stack")?;
        ChunkedArray::create(cache.group(), spec)?
    };
    let mut totals = Totals { sums: BlockSums::zero(&geometry), nan: 0, first_nan_frame: None };
    let (slabs, charge) = run_graph(ctx, source, geometry, &array, &mut totals)?;
    check_samples(ctx, source, &totals)?;
    check_unchanged(source, size)?;

    let frames = info.scan.len() as f64;
    let mean = totals.sums.counts.iter().map(|s| s.value() / frames).collect();
    let shape = (info.det.rows, info.det.cols);
    let mean_pattern = Image::from_shape_vec(shape, mean).map_err(|e| Error::bug(e.to_string()))?;
    let stack = match charge {
        Some(charge) => Stack::in_memory(slabs, charge, (info.dtype, info.scan, geometry.slab_rows)),
        None => Stack::open(ctx.cache().group(), info.scan, crop.shape())?,
    };
    let central_image = image_of(&stack, central_pixel(crop.shape()));
    let bad_pixels = look_for_bad_pixels(ctx, &detected.disk, &mean_pattern, &totals.sums.squares)?;
    let mut cache = ctx.cache();
    cache.group().write_image("mean_pattern", &mean_pattern, ["det_row", "det_col"])?;
    cache.group().write_image("standard_bf", &central_image, ["scan_row", "scan_col"])?;
    cache.mark_done(Step::Stack, json!({"nan_samples": totals.nan, "bad_pixels": bad_pixels}), false)?;
    Ok(CroppedStack { stack, crop, mean_pattern, central_image })
}

fn open_stack(ctx: &RunContext<'_>, disk: &BrightDisk) -> Result<CroppedStack> {
    let (stack, mean_pattern, central_image, searched) = {
        let cache = ctx.cache();
        let searched = cache.manifest().extras.iter().any(|extra| extra.name == MAP);
        let stack = Stack::open(cache.group(), ctx.scan, disk.crop.shape())?;
        (stack, cache.group().read_image("mean_pattern")?, cache.group().read_image("standard_bf")?, searched)
    };
    if !searched {
        // Made by a program that did not look for bad pixels yet.
        let squares = squares_of_stack(ctx, &stack)?;
        let found = look_for_bad_pixels(ctx, disk, &mean_pattern, &squares)?;
        ctx.cache().update(|m| {
            let result = m.results.entry(Step::Stack).or_insert_with(|| json!({}));
            result["bad_pixels"] = found;
        })?;
    }
    Ok(CroppedStack { stack, crop: disk.crop, mean_pattern, central_image })
}

type Slabs = (Vec<Arc<AlignedBytes>>, Option<Charge>);

fn run_graph(
    ctx: &RunContext<'_>,
    source: &dyn FrameSource,
    geometry: Geometry,
    array: &ChunkedArray,
    totals: &mut Totals,
) -> Result<Slabs> {
    let plan = ctx.plan;
    let frame_payload = geometry.det.len() * geometry.dtype.size();
    let part_bytes = geometry.crop.shape().len() * plan.read_frames * geometry.dtype.size();
    let raw = Pool::new(ctx.budget, "reading frames", plan.read_buffers, source.block_bytes(plan.read_frames))?;
    let blocks_are_slabs = plan.read_frames >= geometry.line();
    let part_buffers = if blocks_are_slabs { 1 } else { plan.read_buffers };
    let parts = Pool::new(ctx.budget, "turning frames", part_buffers, part_bytes)?;
    let (maker, charge) = if plan.in_memory {
        let stack_bytes = geometry.slab_bytes() as u64 * geometry.slabs as u64;
        (SlabMaker::Memory(geometry.slab_bytes()), Some(ctx.budget.charge(stack_bytes, "the cropped stack")?))
    } else {
        let pool = Pool::new(ctx.budget, "slabs of the stack", plan.workers + 2, geometry.slab_bytes())?;
        (SlabMaker::Disk(pool), None)
    };
    let mut kept: Vec<Option<Arc<AlignedBytes>>> = vec![None; geometry.slabs];

    ctx.progress.begin("corner turn", (geometry.scan.len() * frame_payload) as u64);
    let mut graph = Graph::new("corner turn", ctx.cancel);
    let read = Read { source, geometry, frames: plan.read_frames, pool: raw };
    let raw_blocks = graph.source("read", plan.queue, read);
    let turned = graph.stage("turn", plan.workers, plan.queue, raw_blocks, || Turn {
        geometry,
        slabs: maker.clone(),
        parts: parts.clone(),
        small: Vec::new(),
        progress: ctx.progress,
    });
    let mut collect = Some(Collect {
        geometry,
        slabs: maker.clone(),
        open: BTreeMap::new(),
        waiting: BTreeMap::new(),
        next: 0,
        totals,
    });
    let finished = graph.stage("collect", 1, plan.queue, turned, || {
        // One worker: the factory is called once.
        collect.take().unwrap_or_else(|| unreachable!("a single worker"))
    });
    graph.sink("write stack", finished, WriteStack { array, kept: &mut kept });
    let report = graph.run()?;
    ctx.progress.end();
    ctx.report(report);
    let slabs: Vec<_> = kept.into_iter().flatten().collect();
    if charge.is_some() && slabs.len() != geometry.slabs {
        return Err(Error::bug(format!("{} slabs of {} arrived", slabs.len(), geometry.slabs)));
    }
    Ok((slabs, charge))
}

fn check_samples(ctx: &RunContext<'_>, source: &dyn FrameSource, totals: &Totals) -> Result<()> {
    let path = &source.info().path;
    if totals.nan > 0 {
        let first = totals.first_nan_frame.unwrap_or(0);
        let message =
            format!("{} samples that are not finite numbers (NaN or infinite), the first in frame {first}", totals.nan);
        if ctx.config.source.nan == NanPolicy::Error {
            return Err(Error::input(path, "finite numbers", message)
                .with_hint("use zero in their place with `--set source.nan=zero`"));
        }
        let warning = format!("{message}; zero was used in their place");
        ctx.progress.warn(&warning);
        ctx.cache().update(|manifest| manifest.warnings.push(warning))?;
    }
    if totals.sums.counts.iter().all(|s| s.value() == 0.0) {
        return Err(Error::input(path, "frames with counts", "only zeros")
            .with_hint("was the beam blanked? `stemstream info` shows what the file says about itself"));
    }
    Ok(())
}

/// An acquisition that still writes, or another program, may change the file under our hands.
fn check_unchanged(source: &dyn FrameSource, before: u64) -> Result<()> {
    let now = size_on_disk(&source.info().path);
    if now == before {
        return Ok(());
    }
    Err(Error::input(&source.info().path, format!("{before} bytes, as when the run began"), format!("{now} bytes now"))
        .with_hint("the file changed while it was read: wait until the acquisition has finished, then run again"))
}
