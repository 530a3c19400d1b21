//! Step 2: bigFT, the spectrum over the scan of every detector pixel's image.

use std::marker::PhantomData;
use std::sync::Arc;

use num_complex::Complex;

use crate::axes::{DetShape, ScanShape};
use crate::cache::{Step, TileSet};
use crate::config::Precision;
use crate::error::{Error, Result};
use crate::kernel::convert::PixelSums;
use crate::kernel::fft2::Fft2;
use crate::kernel::real::Real;
use crate::pipeline::{Block, Emitter, Graph, Pool, Pooled};
use crate::steps::commit::{Commit, Table, Written, sum_row};
use crate::steps::context::RunContext;
use crate::steps::engine::Engine;
use crate::steps::large::Large;
use crate::steps::stack::{CroppedStack, Stack};
use crate::steps::tile::{Pair, Tile};
use crate::store::{ArraySpec, StoredType};

/// The array's name in the cache.
pub(super) const ARRAY: &str = "bigFT";

/// The result of step 2: bigFT lies complete in the cache.
///
/// `F[q, d] = FFT2 over the scan of I[r, d]`, `[scan row, scan col, crop row, crop col]`, natural frequency order, no
/// factor; complex64 or complex128 by the configured precision.
#[derive(Debug, Clone, Copy)]
pub struct Spectra {
    pub(super) crop: DetShape,
}

impl Spectra {
    /// The spectra of a cache that holds all of them.
    pub fn finished(ctx: &RunContext<'_>) -> Option<Self> {
        ctx.is_done(Step::Fft).then(|| Self { crop: ctx.crop.shape() })
    }
}

/// How bigFT (or, with `complex = false`, the correlations) lie in the cache.
pub(super) fn tile_spec(name: &str, ctx: &RunContext<'_>, complex: bool) -> ArraySpec {
    let (scan, crop) = (ctx.scan, ctx.crop.shape());
    let stored = match (complex, ctx.config.run.precision) {
        (true, Precision::F32) => StoredType::Complex64,
        (true, Precision::F64) => StoredType::Complex128,
        (false, Precision::F32) => StoredType::Sample(f32::DTYPE),
        (false, Precision::F64) => StoredType::Sample(f64::DTYPE),
    };
    ArraySpec {
        name: name.to_owned(),
        shape: vec![scan.rows, scan.cols, crop.rows, crop.cols],
        chunk: vec![scan.rows, scan.cols, ctx.plan.tile_rows, ctx.plan.tile_cols],
        stored,
        memory_order: Some(vec![2, 3, 0, 1]),
        dims: ["scan_row", "scan_col", "det_row", "det_col"].map(str::to_owned).to_vec(),
    }
}

/// The spectra of one tile, in the places of its chunk.
#[derive(Debug)]
pub(super) struct SpectraTile {
    pub(super) tile: Tile,
    pub(super) buffer: Pooled,
    /// Sums of each pair.
    pub(super) sums: Vec<[PixelSums; 2]>,
    /// Whether the spectra were read from the cache, and so need not be written.
    pub(super) stored: bool,
}

/// Emits the tiles that have work left.
pub(super) struct Tiles(pub(super) Vec<Tile>);

impl Block for Tiles {
    type In = ();
    type Out = Tile;
    fn work(&mut self, (): (), out: &mut Emitter<'_, Tile>) -> Result<()> {
        self.0.drain(..).try_for_each(|tile| out.send(tile))
    }
}

/// Where the spectra of a tile come from.
pub(super) struct SpectraSource<'a> {
    pub(super) stack: Option<&'a Stack>,
    /// bigFT; absent when it is neither there nor wanted.
    pub(super) array: Option<&'a Large>,
    pub(super) done: TileSet,
    pub(super) sums: Table,
}

/// The FFT block: transforms a tile's images, or fetches spectra that the cache already holds.
pub(super) struct FftBlock<'a, T: Real> {
    pub(super) engine: Result<Engine<T>>,
    pub(super) source: &'a SpectraSource<'a>,
    pub(super) pool: Pool,
    pub(super) scan: ScanShape,
    pub(super) crop: DetShape,
}

impl<T: Real> Block for FftBlock<'_, T>
where
    Complex<T>: bytemuck::Pod,
{
    type In = Tile;
    type Out = Arc<SpectraTile>;

    fn work(&mut self, tile: Tile, out: &mut Emitter<'_, Arc<SpectraTile>>) -> Result<()> {
        let mut buffer = out.take(&self.pool)?;
        let stored = self.source.done.contains(tile.id);
        let sums = if stored { self.fetch(tile, &mut buffer)? } else { self.transform(tile, &mut buffer, out)? };
        out.count_bytes((tile.pixels() * self.scan.len() * size_of::<Complex<T>>()) as u64);
        out.send(Arc::new(SpectraTile { tile, buffer, sums, stored }))
    }
}

impl<T: Real> FftBlock<'_, T>
where
    Complex<T>: bytemuck::Pod,
{
    fn fetch(&self, tile: Tile, buffer: &mut Pooled) -> Result<Vec<[PixelSums; 2]>> {
        let array = self.source.array.ok_or_else(|| Error::bug("stored spectra without their array"))?;
        array.read(tile, buffer.cast_mut::<T>())?;
        let sums = &self.source.sums;
        tile.pairs(self.crop)
            .map(|pair| {
                let second = if pair.both { sums.sums_of(pair.pixel + 1) } else { Some(PixelSums::default()) };
                let both = sums.sums_of(pair.pixel).zip(second);
                both.map(|(a, b)| [a, b]).ok_or_else(|| Error::bug("a stored spectrum without its sums"))
            })
            .collect()
    }

    fn transform(
        &mut self,
        tile: Tile,
        buffer: &mut Pooled,
        out: &Emitter<'_, Arc<SpectraTile>>,
    ) -> Result<Vec<[PixelSums; 2]>> {
        let engine = borrow_engine(&mut self.engine)?;
        let stack = self.source.stack.ok_or_else(|| Error::bug("spectra were to be made without a stack"))?;
        let n = self.scan.len();
        let numbers = buffer.cast_mut::<Complex<T>>();
        let mut sums = Vec::with_capacity(tile.pixels().div_ceil(2));
        for pair in tile.pairs(self.crop) {
            out.check()?;
            let pair_sums = engine.load(stack, pair)?;
            let (a, b) = pair_places(numbers, pair, n);
            engine.spectra(&pair_sums, a, b);
            sums.push(pair_sums);
        }
        Ok(sums)
    }
}

/// The worker's engine, or why it could not be made.
pub(super) fn borrow_engine<E>(engine: &mut Result<E>) -> Result<&mut E> {
    match engine {
        Ok(engine) => Ok(engine),
        Err(error) => Err(std::mem::replace(error, Error::bug("a worker without its buffers"))),
    }
}

/// The places of a pair's images in a tile's buffer.
pub(super) fn pair_places<N>(numbers: &mut [N], pair: Pair, n: usize) -> (&mut [N], Option<&mut [N]>) {
    let (a, rest) = numbers[pair.slot * n..].split_at_mut(n);
    (a, pair.both.then(|| &mut rest[..n]))
}

/// Writes tiles of bigFT.
pub(super) struct WriteSpectra<'a, T> {
    pub(super) array: &'a Large,
    pub(super) scan: ScanShape,
    pub(super) crop: DetShape,
    pub(super) real: PhantomData<T>,
}

impl<T: Real> Block for WriteSpectra<'_, T> {
    type In = Arc<SpectraTile>;
    type Out = Written;

    fn work(&mut self, item: Arc<SpectraTile>, out: &mut Emitter<'_, Written>) -> Result<()> {
        if item.stored {
            return Ok(());
        }
        let tile = item.tile;
        let chunk = self.array.write(tile, item.buffer.cast::<T>())?;
        out.count_bytes((tile.pixels() * self.scan.len() * size_of::<Complex<T>>()) as u64);
        let pairs = tile.pairs(self.crop).zip(&item.sums);
        let rows = pairs.flat_map(|(pair, sums)| sums[..=usize::from(pair.both)].iter().map(sum_row)).collect();
        out.send(Written { tile, chunk: Some(chunk), rows })
    }
}

/// Computes bigFT tile by tile and keeps it in the cache; tiles that are there already are left alone.
///
/// # Errors
/// [`Memory`](crate::error::ErrorKind::Memory), [`Io`](crate::error::ErrorKind::Io),
/// [`Interrupted`](crate::error::ErrorKind::Interrupted); whatever is done then stays done.
pub fn fft(ctx: &RunContext<'_>, stack: &CroppedStack) -> Result<Spectra> {
    let crop = stack.crop.shape();
    let done = ctx.cache().tiles(Step::Fft, ctx.plan.tiles);
    if !done.is_full() {
        match ctx.config.run.precision {
            Precision::F32 => run::<f32>(ctx, &stack.stack, crop, done)?,
            Precision::F64 => run::<f64>(ctx, &stack.stack, crop, done)?,
        }
    }
    Ok(Spectra { crop })
}

fn run<T: Real>(ctx: &RunContext<'_>, stack: &Stack, crop: DetShape, done: TileSet) -> Result<()>
where
    Complex<T>: bytemuck::Pod,
{
    let spec = tile_spec(ARRAY, ctx, true);
    let pool = Pool::new(ctx.budget, "spectra of a tile", ctx.plan.spectra_buffers, spec.chunk_bytes())?;
    let array = Large::open::<T>(ctx, Step::Fft, spec, !done.is_empty())?;
    let mut sums = Table::sums(crop);
    if !done.is_empty() {
        sums.load(ctx.cache().group())?;
    }
    let tiles: Vec<_> = Tile::all(ctx.plan, crop).into_iter().filter(|t| !done.contains(t.id)).collect();
    let image_bytes = (ctx.scan.len() * stack.dtype().size()) as u64;
    let pixels: usize = tiles.iter().map(Tile::pixels).sum();
    let source = SpectraSource { stack: Some(stack), array: Some(&array), done: done.clone(), sums: sums.clone() };
    let plan_fft = Fft2::<T>::new(ctx.scan);

    ctx.progress.begin("fft", pixels as u64 * image_bytes);
    let mut graph = Graph::new("fft", ctx.cancel);
    let jobs = graph.source("tiles", ctx.plan.queue, Tiles(tiles));
    let spectra = graph.stage("fft", ctx.plan.fft_workers, ctx.plan.queue, jobs, || FftBlock::<T> {
        engine: Engine::new(&plan_fft, stack.dtype().size(), ctx.budget),
        source: &source,
        pool: pool.clone(),
        scan: ctx.scan,
        crop,
    });
    let mut write = Some(WriteSpectra { array: &array, scan: ctx.scan, crop, real: PhantomData::<T> });
    let written = graph.stage("write bigFT", 1, ctx.plan.tiles, spectra, || take_once(&mut write));
    graph.sink("commit bigFT", written, Commit::new(ctx, &mut sums, vec![(Step::Fft, done)], image_bytes));
    let report = graph.run()?;
    ctx.progress.end();
    ctx.report(report);
    Ok(())
}

/// The one block of a stage with one worker.
pub(super) fn take_once<B>(block: &mut Option<B>) -> B {
    block.take().unwrap_or_else(|| unreachable!("a stage with one worker asks once"))
}
