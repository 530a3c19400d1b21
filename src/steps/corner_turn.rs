//! The corner turn: frames in, images out. The source is read once, in file order.
//!
//! ```text
//! cut ──► read × readers ──► turn × workers ──► collect ──► write stack × 2 ──► keep
//! ```
//!
//! `cut` names the blocks of frames and has the system fetch them ahead; `read` reads them; `turn` crops and transposes
//! them and adds up the mean pattern and the crop's squares; `collect` puts blocks together into slabs (a block that is a
//! whole slab passes through) and adds up the sums in the order of the frames; `write stack` hands slabs to the system,
//! and `keep` keeps those that stay in memory.
//!
//! Counts that all fit in fewer bits than the source's are kept in those (`Plan::stack_type`). The plan knows a sample of the
//! frames; `turn` looks at every count, and where one does not fit, everything begins again with the source's own type.
//!
//! A stack that stays in memory is written past the page cache: it would be there a second time. One that does not is written
//! through it: what the system can keep of it need not be read again.

mod blocks;
mod collect;
mod slabs;
mod turn;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;

use self::blocks::{Cut, Read};
use self::collect::{Collect, Keep, Totals, Write};
use self::slabs::{Geometry, SlabMaker};
use self::turn::Turn;
use crate::axes::Image;
use crate::cache::Step;
use crate::config::NanPolicy;
use crate::error::{Error, Result};
use crate::kernel::transpose::Sum;
use crate::memory::{AlignedBytes, Charge, READ_SLACK};
use crate::pipeline::{Graph, Pool};
use crate::plan::{Pieces, Reads};
use crate::read::FrameSource;
use crate::steps::bad_pixels::{MAP, look_for_bad_pixels, squares_of_stack};
use crate::steps::context::{RunContext, locked, write_images};
use crate::steps::selection::excluded_pixels;
use crate::steps::stack::{CroppedStack, Stack, central_pixel, image_of, stack_spec};
use crate::steps::step1_detect::BrightDisk;
use crate::store::ChunkedArray;

/// Reads the source once and makes the cropped stack, or opens the one that the cache holds.
///
/// # Errors
/// [`Input`](crate::error::ErrorKind::Input) for a damaged source, NaN or infinite samples (unless `source.nan = "zero"`) or a scan
/// without counts; [`Memory`](crate::error::ErrorKind::Memory), [`Io`](crate::error::ErrorKind::Io).
pub fn corner_turn(ctx: &RunContext<'_>, disk: &BrightDisk) -> Result<CroppedStack> {
    let crop = disk.crop;
    excluded_pixels(ctx)?;
    if ctx.cache().manifest().is_done(Step::Stack) {
        return open_stack(ctx, disk);
    }
    let source = ctx.source()?;
    let info = source.info();
    let geometry = Geometry {
        scan: info.scan,
        det: info.det,
        crop,
        dtype: info.dtype,
        stored: ctx.plan.stack_type,
        slab_rows: ctx.plan.slab_rows,
        slabs: ctx.plan.slabs,
    };
    let (made, read_twice) = match make_stack(ctx, source, geometry)? {
        Some(made) => (made, false),
        None => (make_wide(ctx, source, geometry)?, true),
    };
    let Made { geometry, slabs, charge, totals } = made;
    check_unchanged(ctx, source)?;
    check_samples(ctx, source, &totals)?;

    let frames = info.scan.len() as f64;
    let mean = totals.counts().iter().map(|s| s.value() / frames).collect();
    let shape = (info.det.rows, info.det.cols);
    let mean_pattern = Image::from_shape_vec(shape, mean).map_err(|e| Error::bug(e.to_string()))?;
    let stack = match charge {
        Some(charge) => Stack::in_memory(slabs, charge, (geometry.stored, info.scan, geometry.slab_rows)),
        None => Stack::open(ctx.cache().group(), info.scan, crop.shape())?,
    };
    let stack = stack.with_sums(totals.of_crop(&geometry));
    let central_image = image_of(&stack, central_pixel(crop.shape()))?;
    let found = look_for_bad_pixels(ctx, disk, &mean_pattern, totals.squares());
    let bad_pixels = found.map.clone();
    let result = json!({
        "nan_samples": totals.nan,
        "bad_pixels": found.counts,
        "stack_type": geometry.stored.to_string(),
        "read_twice": read_twice,
    });
    let (mean, central) = (mean_pattern.clone(), central_image.clone());
    ctx.beside.later(move |cache| {
        let (det, scan) = (["det_row", "det_col"], ["scan_row", "scan_col"]);
        write_images(cache, &[("mean_pattern", &mean, det), ("standard_bf", &central, scan), (MAP, &found.map, det)])?;
        let mut cache = locked(cache);
        found.record(&mut cache)?;
        cache.mark_done(Step::Stack, result, false)
    });
    Ok(CroppedStack { stack, crop, mean_pattern, central_image, bad_pixels })
}

/// A stack that was written, and what was learnt from the frames.
struct Made {
    geometry: Geometry,
    /// Those that stay in memory.
    slabs: Vec<Arc<AlignedBytes>>,
    charge: Option<Charge>,
    totals: Totals,
}

/// Reads the source and writes the stack anew; `None` when a count does not fit in the stack's type.
fn make_stack(ctx: &RunContext<'_>, source: &dyn FrameSource, geometry: Geometry) -> Result<Option<Made>> {
    let array = {
        let cache = ctx.cache();
        let spec = stack_spec(geometry.scan, geometry.crop.shape(), geometry.slab_rows, geometry.stored);
        cache.group().remove("stack")?;
        let array = ChunkedArray::create(cache.group(), spec)?;
        if ctx.plan.in_memory { array } else { array.keeping_pages() }
    };
    let mut totals = Totals::zero(&geometry);
    let made = run_graph(ctx, source, geometry, &array, &mut totals)?;
    Ok(made.map(|(slabs, charge)| Made { geometry, slabs, charge, totals }))
}

/// The stack in the source's own type: the sampled frames knew nothing of larger counts.
fn make_wide(ctx: &RunContext<'_>, source: &dyn FrameSource, geometry: Geometry) -> Result<Made> {
    let (narrow, wide) = (geometry.stored, geometry.dtype);
    ctx.progress.note(&format!(
        "a count does not fit in {narrow}, though all of the sampled ones do: the source is read again, and the stack keeps \
         its type, {wide}"
    ));
    make_stack(ctx, source, Geometry { stored: wide, ..geometry })?
        .ok_or_else(|| Error::bug(format!("a count of {wide} does not fit in its own type")))
}

fn open_stack(ctx: &RunContext<'_>, disk: &BrightDisk) -> Result<CroppedStack> {
    let shape = disk.crop.shape();
    let (stack, mean_pattern, central_image, map) = {
        let cache = ctx.cache();
        let group = cache.group();
        let searched = cache.manifest().extras.iter().any(|extra| extra.name == MAP);
        let map = searched.then(|| group.read_image(MAP)).transpose()?;
        if map.as_ref().is_some_and(|map| map.dim() != (shape.rows, shape.cols)) {
            return Err(Error::cache(cache.path(), format!("its `{MAP}` are of another crop"))
                .with_hint("the cache is damaged; start over with `--fresh`"));
        }
        let stack = Stack::open(group, ctx.scan, shape)?;
        (stack, group.read_image("mean_pattern")?, group.read_image("standard_bf")?, map)
    };
    let bad_pixels = if let Some(map) = map {
        map
    } else {
        // Made by a program that did not look for bad pixels yet.
        let squares = squares_of_stack(ctx, &stack)?;
        let found = look_for_bad_pixels(ctx, disk, &mean_pattern, &squares);
        let (map, counts) = (found.map.clone(), found.counts.clone());
        ctx.beside.later(move |cache| {
            write_images(cache, &[(MAP, &found.map, ["det_row", "det_col"])])?;
            let mut cache = locked(cache);
            found.record(&mut cache)?;
            cache.update(|m| {
                let result = m.results.entry(Step::Stack).or_insert_with(|| json!({}));
                result["bad_pixels"] = counts;
            })
        });
        map
    };
    Ok(CroppedStack { stack, crop: disk.crop, mean_pattern, central_image, bad_pixels })
}

type Slabs = (Vec<Arc<AlignedBytes>>, Option<Charge>);

/// Writers: one waits for the system while the other copies.
const WRITERS: usize = 2;

fn run_graph(
    ctx: &RunContext<'_>,
    source: &dyn FrameSource,
    geometry: Geometry,
    array: &ChunkedArray,
    totals: &mut Totals,
) -> Result<Option<Slabs>> {
    let plan = ctx.plan;
    let part_bytes = geometry.crop.shape().len() * plan.read_frames * geometry.stored.size();
    let in_pieces = plan.read_workers == 0;
    let raw_bytes = source.block_bytes(plan.read_frames) + READ_SLACK;
    let raw =
        (!in_pieces).then(|| Pool::new(ctx.budget, "reading frames", plan.read_buffers, raw_bytes)).transpose()?;
    let samples = (geometry.dtype.size(), geometry.stored.size());
    let piece_bytes = Pieces::most_bytes(geometry.det, samples, plan.read_frames, source.block_bytes(1));
    let pieces = Pool::new(ctx.budget, "reading pieces", if in_pieces { plan.turn_workers } else { 0 }, piece_bytes)?;
    let sum_bytes = Totals::len(&geometry) * size_of::<Sum>();
    // A block's sums live on while it waits for an earlier one.
    let sums = Pool::new(ctx.budget, "sums over frames", plan.sum_buffers(), sum_bytes)?;
    let blocks_are_slabs = plan.read_frames >= geometry.line();
    let part_buffers = if blocks_are_slabs { 1 } else { plan.read_buffers };
    let parts = Pool::new(ctx.budget, "turning frames", part_buffers, part_bytes)?;
    let (maker, charge) = slab_maker(ctx, geometry)?;
    let mut kept: Vec<Option<Arc<AlignedBytes>>> = vec![None; geometry.slabs];
    let misfit = AtomicBool::new(false);
    source.begin_pass(plan.reads != Reads::Kept, plan.reads == Reads::Direct);

    ctx.progress.begin("corner turn", (geometry.scan.len() * geometry.frame_bytes()) as u64);
    let mut graph = Graph::new("corner turn", ctx.cancel);
    // A block that waits to be read holds a buffer in vain: one is enough.
    let jobs = graph.source("cut", 1, Cut { source, geometry, frames: plan.read_frames, raw, sums });
    let raw_blocks = if in_pieces {
        jobs
    } else {
        graph.stage("read", plan.read_workers, plan.queue, jobs, || Read { source, geometry })
    };
    let turned = graph.stage("turn", plan.turn_workers, plan.queue, raw_blocks, || Turn {
        source,
        geometry,
        piece: pieces.try_take(),
        slabs: maker.clone(),
        parts: parts.clone(),
        small: Vec::new(),
        misfit: &misfit,
        progress: ctx.progress,
    });
    let mut collect = Some(Collect::new(geometry, maker.clone(), totals));
    let finished = graph.stage("collect", 1, plan.queue, turned, || {
        // One worker: the factory is called once.
        collect.take().unwrap_or_else(|| unreachable!("a single worker"))
    });
    let written = graph.stage("write stack", WRITERS, plan.queue, finished, || Write { array });
    graph.sink("keep", written, Keep(&mut kept));
    let report = graph.run();
    if misfit.load(Ordering::Relaxed) {
        ctx.progress.end();
        return Ok(None);
    }
    let report = report?;
    ctx.progress.end();
    ctx.report(report);
    let slabs: Vec<_> = kept.into_iter().flatten().collect();
    if charge.is_some() && slabs.len() != geometry.slabs {
        return Err(Error::bug(format!("{} slabs of {} arrived", slabs.len(), geometry.slabs)));
    }
    Ok(Some((slabs, charge)))
}

/// Slabs that stay in memory, or that are only written.
fn slab_maker(ctx: &RunContext<'_>, geometry: Geometry) -> Result<(SlabMaker, Option<Charge>)> {
    let plan = ctx.plan;
    if plan.in_memory {
        let (slabs, bytes) = (geometry.slabs, geometry.slab_bytes());
        let charge = ctx.budget.charge(AlignedBytes::held_together(slabs, bytes) as u64, "the cropped stack")?;
        let free = Arc::new(Mutex::new(AlignedBytes::zeroed_together(slabs, bytes)));
        return Ok((SlabMaker::Memory(free), Some(charge)));
    }
    let pool = Pool::new(ctx.budget, "slabs of the stack", plan.slab_buffers, geometry.slab_bytes())?;
    Ok((SlabMaker::Written(pool), None))
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
    if totals.counts().iter().all(|s| s.value() == 0.0) {
        return Err(Error::input(path, "frames with counts", "only zeros")
            .with_hint("was the beam blanked? `stemstream info` shows what the file says about itself"));
    }
    Ok(())
}

/// A source that was changed while it was read makes everything that was learnt from it worthless, the disk included.
fn check_unchanged(ctx: &RunContext<'_>, source: &dyn FrameSource) -> Result<()> {
    source.check_unchanged().inspect_err(|error| {
        let mut cache = ctx.cache();
        // The error that matters is the one about the source.
        let _ = cache.invalidate_from(Step::Detect);
        let _ = cache.update(|m| m.warnings.push(format!("nothing in this cache is reliable: {error}")));
    })
}
