//! Step 3: the correlation of every detector pixel's image with the reference, and its peak.
//!
//! ```text
//! documented:  tiles ──► fft ──┬──► write bigFT ──► commit
//!                              └──► correlate ──► write correlations ──► commit (with peaks)
//! lean:        tiles ──► align (fft, correlate, peaks in one) ──► commit (peaks)
//! ```

use std::marker::PhantomData;
use std::sync::Arc;

use num_complex::Complex;

use crate::axes::{DetShape, Image, ScanShape};
use crate::cache::{Step, TileSet};
use crate::config::{Mode, Precision};
use crate::error::{Error, Result};
use crate::kernel::fft2::Fft2;
use crate::kernel::real::Real;
use crate::kernel::smooth::gaussian;
use crate::pipeline::{Block, Emitter, Graph, Pool, Pooled, Port};
use crate::steps::commit::{Commit, Table, Written, peak_row};
use crate::steps::context::{RunContext, write_images};
use crate::steps::engine::{Engine, FindPeaks, PairEngine, Reference, WithReference};
use crate::steps::large::Large;
use crate::steps::stack::{CroppedStack, Stack};
use crate::steps::step2_fft::{
    self, FftBlock, Spectra, SpectraSource, SpectraTile, Tiles, WriteSpectra, borrow_engine, pair_places, take_once,
    tile_spec,
};
use crate::steps::tile::Tile;

/// The array's name in the cache.
const ARRAY: &str = "correlations";

/// The result of step 3: peaks of all correlations; in documented mode the correlations lie complete in the cache.
///
/// `C[r, d] = |IFFT2(F[q, d] conj(G[q]))²| / (Σ g² Σ I²)`, zero shift at index `[0, 0]`.
#[derive(Debug, Clone)]
pub struct Correlations {
    pub(super) peaks: Table,
    pub(super) crop: DetShape,
    /// The smoothed image of the central crop pixel, `[scan row, scan col]`.
    pub reference_image: Image,
}

/// The reference: the central crop pixel's image, smoothed by `align.reference_smoothing`.
fn reference_image(ctx: &RunContext<'_>, central_image: &Image) -> Image {
    let image = gaussian(central_image, ctx.config.align.reference_smoothing);
    let kept = image.clone();
    ctx.beside.later(move |cache| write_images(cache, &[("reference_image", &kept, ["scan_row", "scan_col"])]));
    image
}

struct CorrelationTile {
    tile: Tile,
    buffer: Pooled,
    rows: Vec<Vec<f64>>,
}

struct CorrelateBlock<'a, T: Real> {
    engine: Result<Engine<T>>,
    reference: &'a Reference<T>,
    pool: Pool,
    scan: ScanShape,
    crop: DetShape,
}

impl<T: Real> Block for CorrelateBlock<'_, T>
where
    Complex<T>: bytemuck::Pod,
{
    type In = Arc<SpectraTile>;
    type Out = CorrelationTile;

    fn work(&mut self, item: Arc<SpectraTile>, out: &mut Emitter<'_, CorrelationTile>) -> Result<()> {
        let engine = borrow_engine(&mut self.engine)?;
        let mut buffer = out.take(&self.pool)?;
        let n = self.scan.len();
        let spectra = item.buffer.cast::<Complex<T>>();
        let mut rows = Vec::with_capacity(item.tile.pixels());
        for (pair, sums) in item.tile.pairs(self.crop).zip(&item.sums) {
            out.check()?;
            let at = pair.slot * n;
            let second = pair.both.then(|| &spectra[at + n..at + 2 * n]);
            let peaks = engine.correlate_stored(&spectra[at..at + n], second, self.reference, sums);
            let (a, b) = pair_places(buffer.cast_mut::<T>(), pair, n);
            engine.correlations(self.reference, sums, a, b);
            rows.extend(peaks[..=usize::from(pair.both)].iter().map(peak_row));
        }
        out.count_bytes((item.tile.pixels() * n * size_of::<T>()) as u64);
        out.send(CorrelationTile { tile: item.tile, buffer, rows })
    }
}

struct WriteCorrelations<'a, T> {
    array: &'a Large,
    scan: ScanShape,
    real: PhantomData<T>,
}

impl<T: Real> Block for WriteCorrelations<'_, T> {
    type In = CorrelationTile;
    type Out = Written;

    fn work(&mut self, item: CorrelationTile, out: &mut Emitter<'_, Written>) -> Result<()> {
        let CorrelationTile { tile, buffer, rows } = item;
        let chunk = self.array.write(tile, buffer.cast::<T>())?;
        out.count_bytes((tile.pixels() * self.scan.len() * size_of::<T>()) as u64);
        out.send(Written { tile, chunk: Some(chunk), rows })
    }
}

/// Steps 2 to 4 up to the peaks, for one tile at a time, with nothing in between.
struct AlignBlock<'a, E> {
    engine: Result<E>,
    stack: &'a Stack,
    scan: ScanShape,
    crop: DetShape,
}

impl<E: FindPeaks + Send> Block for AlignBlock<'_, E> {
    type In = Tile;
    type Out = Written;

    fn work(&mut self, tile: Tile, out: &mut Emitter<'_, Written>) -> Result<()> {
        let engine = borrow_engine(&mut self.engine)?;
        let mut rows = Vec::with_capacity(tile.pixels());
        for pair in tile.pairs(self.crop) {
            out.check()?;
            let peaks = engine.peaks(self.stack, pair)?;
            rows.extend(peaks[..=usize::from(pair.both)].iter().map(peak_row));
        }
        out.count_bytes((tile.pixels() * self.scan.len() * self.stack.dtype().size()) as u64);
        out.send(Written { tile, chunk: None, rows })
    }
}

/// What is done and what is to be done.
struct Work {
    fft: TileSet,
    correlate: TileSet,
    peaks: TileSet,
    tiles: Vec<Tile>,
    keep_spectra: bool,
}

impl Work {
    fn of(ctx: &RunContext<'_>, crop: DetShape) -> Self {
        let cache = ctx.cache();
        let count = ctx.plan.tiles;
        let [fft, correlate, peaks] = [Step::Fft, Step::Correlate, Step::Peaks].map(|step| cache.tiles(step, count));
        // What the user threw away to save space is not made again unless it is needed for something else.
        let documented = ctx.config.run.mode == Mode::Documented;
        let (drop_fft, drop_correlate) =
            (cache.manifest().is_dropped(Step::Fft), cache.manifest().is_dropped(Step::Correlate));
        let complete = |id: usize| {
            let kept = (drop_fft || fft.contains(id)) && (drop_correlate || correlate.contains(id));
            peaks.contains(id) && (!documented || kept)
        };
        let tiles = Tile::all(ctx.plan, crop).into_iter().filter(|t| !complete(t.id)).collect();
        drop(cache);
        Self { fft, correlate, peaks, tiles, keep_spectra: documented && !drop_fft }
    }
}

/// Whether no tile is left to do in the configured mode.
pub(super) fn is_aligned(ctx: &RunContext<'_>) -> bool {
    Work::of(ctx, ctx.crop.shape()).tiles.is_empty()
}

/// Steps 2 and 3 in one pass over the stack: in documented mode bigFT and correlations are kept, in lean mode only the
/// peaks. Tiles that are done already are left alone.
///
/// # Errors
/// [`Memory`](crate::error::ErrorKind::Memory), [`Io`](crate::error::ErrorKind::Io),
/// [`Interrupted`](crate::error::ErrorKind::Interrupted); whatever is done then stays done.
pub fn align(ctx: &RunContext<'_>, stack: &CroppedStack) -> Result<Correlations> {
    let reference = reference_image(ctx, &stack.central_image);
    correlate_tiles(ctx, Some(&stack.stack), stack.crop.shape(), reference)
}

/// Step 3 alone, from the bigFT in the cache.
///
/// # Errors
/// As [`align`]; [`Cache`](crate::error::ErrorKind::Cache) when bigFT or the central image is missing or damaged.
pub fn correlate(ctx: &RunContext<'_>, spectra: &Spectra) -> Result<Correlations> {
    let central = ctx.cache().group().read_image("standard_bf")?;
    let reference = reference_image(ctx, &central);
    correlate_tiles(ctx, None, spectra.crop, reference)
}

fn correlate_tiles(
    ctx: &RunContext<'_>,
    stack: Option<&Stack>,
    crop: DetShape,
    reference_image: Image,
) -> Result<Correlations> {
    let mut peaks = Table::peaks(crop);
    let work = Work::of(ctx, crop);
    if !work.peaks.is_empty() {
        peaks.load(ctx.cache().group())?;
    }
    if !work.tiles.is_empty() {
        match (ctx.config.run.mode, ctx.config.run.precision) {
            (Mode::Lean, _) => {
                let stack = stack.ok_or_else(|| Error::bug("a lean run without a stack"))?;
                lean(ctx, (stack, crop), work, &reference_image, &mut peaks)?;
            }
            (Mode::Documented, Precision::F32) => {
                documented::<f32>(ctx, stack, crop, work, &reference_image, &mut peaks)?;
            }
            (Mode::Documented, Precision::F64) => {
                documented::<f64>(ctx, stack, crop, work, &reference_image, &mut peaks)?;
            }
        }
    }
    Ok(Correlations { peaks, crop, reference_image })
}

/// Peaks alone: the short way in single precision where the scan's sides allow it.
fn lean(
    ctx: &RunContext<'_>,
    (stack, crop): (&Stack, DetShape),
    work: Work,
    reference_image: &Image,
    peaks: &mut Table,
) -> Result<()> {
    if ctx.config.run.precision == Precision::F64 {
        return by_spectra(ctx, (stack, crop), work, &Reference::<f64>::new(reference_image, ctx.scan), peaks);
    }
    let reference = Reference::<f32>::new(reference_image, ctx.scan);
    let Some(plan) = reference.planned(ctx.scan) else {
        return by_spectra(ctx, (stack, crop), work, &reference, peaks);
    };
    let engine = || PairEngine::new(&plan, &reference, stack.dtype().size(), ctx.budget);
    align_tiles(ctx, (stack, crop), work, peaks, engine)
}

/// Peaks alone, with the transforms of documented runs.
fn by_spectra<T: Real>(
    ctx: &RunContext<'_>,
    (stack, crop): (&Stack, DetShape),
    work: Work,
    reference: &Reference<T>,
    peaks: &mut Table,
) -> Result<()> {
    let fft = Fft2::<T>::new(ctx.scan);
    let engine = || Ok(WithReference(Engine::new(&fft, stack.dtype().size(), ctx.budget)?, reference));
    align_tiles(ctx, (stack, crop), work, peaks, engine)
}

/// Finds the peaks of all tiles that are not done, each worker with an engine of its own.
fn align_tiles<E: FindPeaks + Send>(
    ctx: &RunContext<'_>,
    (stack, crop): (&Stack, DetShape),
    work: Work,
    peaks: &mut Table,
    engine: impl Fn() -> Result<E>,
) -> Result<()> {
    let image_bytes = (ctx.scan.len() * stack.dtype().size()) as u64;
    let pixels: usize = work.tiles.iter().map(Tile::pixels).sum();
    ctx.progress.begin("align", pixels as u64 * image_bytes);
    let mut graph = Graph::new("align", ctx.cancel);
    let jobs = graph.source("tiles", ctx.plan.queue, Tiles(work.tiles));
    let aligned = graph.stage("align", ctx.plan.fft_workers, ctx.plan.queue, jobs, || AlignBlock {
        engine: engine(),
        stack,
        scan: ctx.scan,
        crop,
    });
    graph.sink("commit", aligned, Commit::new(ctx, peaks, vec![(Step::Peaks, work.peaks)], image_bytes));
    let report = graph.run()?;
    ctx.progress.end();
    ctx.report(report);
    Ok(())
}

fn documented<T: Real>(
    ctx: &RunContext<'_>,
    stack: Option<&Stack>,
    crop: DetShape,
    work: Work,
    reference_image: &Image,
    peaks: &mut Table,
) -> Result<()>
where
    Complex<T>: bytemuck::Pod,
{
    let (plan, n) = (ctx.plan, ctx.scan.len());
    let reference = Reference::<T>::new(reference_image, ctx.scan);
    let plan_fft = Fft2::<T>::new(ctx.scan);
    let (fft_spec, corr_spec) = (tile_spec(step2_fft::ARRAY, ctx, true), tile_spec(ARRAY, ctx, false));
    let spectra_pool = Pool::new(ctx.budget, "spectra of a tile", plan.spectra_buffers, fft_spec.chunk_bytes())?;
    let corr_pool = Pool::new(ctx.budget, "correlations of a tile", plan.correlation_buffers, corr_spec.chunk_bytes())?;
    let mut sums = Table::sums(crop);
    let relied_on = !work.fft.is_empty();
    if relied_on {
        sums.load(ctx.cache().group())?;
    }
    let wanted = work.keep_spectra || relied_on;
    let fft_array = wanted.then(|| Large::open::<T>(ctx, Step::Fft, fft_spec, relied_on)).transpose()?;
    let corr_array = Large::open::<T>(ctx, Step::Correlate, corr_spec, !work.correlate.is_empty())?;
    let source = SpectraSource { stack, array: fft_array.as_ref(), done: work.fft.clone(), sums: sums.clone() };
    let sample_bytes = stack.map_or(1, |s| s.dtype().size());
    let pixels: usize = work.tiles.iter().map(Tile::pixels).sum();
    let per_pixel = (n * 3 * size_of::<T>()) as u64;

    ctx.progress.begin("align", pixels as u64 * per_pixel);
    let mut graph = Graph::new("align", ctx.cancel);
    let jobs = graph.source("tiles", plan.queue, Tiles(work.tiles));
    let spectra = graph.stage("fft", plan.fft_workers, plan.queue, jobs, || FftBlock::<T> {
        engine: Engine::new(&plan_fft, sample_bytes, ctx.budget),
        source: &source,
        pool: spectra_pool.clone(),
        scan: ctx.scan,
        crop,
    });
    let to_correlate: Port<Arc<SpectraTile>> = if let Some(array) = fft_array.as_ref().filter(|_| work.keep_spectra) {
        let (to_write, to_correlate) = spectra.split();
        let mut write = Some(WriteSpectra { array, scan: ctx.scan, crop, real: PhantomData::<T> });
        let written = graph.stage("write bigFT", 1, plan.tiles, to_write, || take_once(&mut write));
        graph.sink("commit bigFT", written, Commit::new(ctx, &mut sums, vec![(Step::Fft, work.fft)], 0));
        to_correlate
    } else {
        spectra
    };
    let correlated =
        graph.stage("correlate", plan.correlate_workers, plan.queue, to_correlate, || CorrelateBlock::<T> {
            engine: Engine::new(&plan_fft, 1, ctx.budget),
            reference: &reference,
            pool: corr_pool.clone(),
            scan: ctx.scan,
            crop,
        });
    let mut write = Some(WriteCorrelations { array: &corr_array, scan: ctx.scan, real: PhantomData::<T> });
    let written = graph.stage("write correlations", 1, plan.tiles, correlated, || take_once(&mut write));
    let sets = vec![(Step::Correlate, work.correlate), (Step::Peaks, work.peaks)];
    graph.sink("commit correlations", written, Commit::new(ctx, peaks, sets, per_pixel));
    let report = graph.run()?;
    ctx.progress.end();
    ctx.report(report);
    Ok(())
}
