//! The Fourier merge: every image shifted exactly, by less than a pixel too, and averaged in the Fourier domain. One
//! pass over the stack feeds several sums.

use rayon::prelude::*;

use super::{Part, add_bright};
use crate::axes::Sample;
use crate::error::Result;
use crate::kernel::convert::pixel_sums;
use crate::kernel::fft2::Fft2;
use crate::kernel::merge::fourier::{
    Band, Circle, Column, FourierGrid, FourierMerge, Loader, Phases, Runs, Shifted, ShiftedSpectrum, SideBands, hull,
};
use crate::memory::AlignedBytes;
use crate::steps::context::RunContext;
use crate::steps::stack::Stack;

/// Images that each worker loads before all are added: an even number. A column of the sums comes from memory once for all
/// images of a batch.
const SLOTS: usize = 6;

/// What one pass sums up.
#[derive(Debug, Default)]
pub(in crate::steps) struct Sums {
    /// The two half-sets.
    pub(in crate::steps) halves: Option<[FourierMerge<f32>; 2]>,
    /// Their side bands, with the aperture of each part.
    pub(in crate::steps) sides: Option<(SideBands<f32>, Vec<Circle>)>,
    /// Images of all pixels with other shifts: one for each part.
    pub(in crate::steps) moved: Vec<(FourierMerge<f32>, Vec<[f64; 2]>)>,
}

impl Sums {
    /// Bytes of one sum on this grid, and of making an image out of it.
    pub(in crate::steps) fn bytes(grid: FourierGrid, scan_len: usize, factor: usize) -> (u64, u64) {
        let spectrum = grid.lines() * grid.line_len() * size_of::<f32>();
        let image = scan_len * factor * factor * size_of::<f64>();
        ((spectrum + image) as u64, (4 * spectrum + 2 * image) as u64)
    }

    /// Bytes of the buffers of a pass for each of these many moved images.
    pub(in crate::steps) fn pass_bytes<S: Sample>(ctx: &RunContext<'_>, grid: FourierGrid, moved: usize) -> u64 {
        let phases = 4 * grid.line_len() + 8 * grid.lines();
        let spectrum = grid.padded().len() * 8;
        let image = ctx.scan.len() * size_of::<S>();
        (ctx.workers.count() * (2 * spectrum + SLOTS * (image + spectrum + (1 + moved) * phases))) as u64
    }

    /// All sums, cut into strips of the same columns.
    fn strips(&mut self, lines: usize) -> Vec<Strip<'_>> {
        let mut strips: Vec<Strip<'_>> = Vec::new();
        for (half, sum) in self.halves.iter_mut().flatten().enumerate() {
            put(&mut strips, sum.bands(lines), |strip| &mut strip.halves[half].plain);
        }
        for (half, sums) in self.sides.iter_mut().flat_map(|(bands, _)| &mut bands.sums).enumerate() {
            for (side, sum) in sums.iter_mut().enumerate() {
                put(&mut strips, sum.bands(lines), |strip| &mut strip.halves[half].sides[side]);
            }
        }
        for (index, (sum, _)) in self.moved.iter_mut().enumerate() {
            put(&mut strips, sum.bands(lines), |strip| {
                strip.moved.resize_with(index + 1, || None);
                &mut strip.moved[index]
            });
        }
        strips
    }

    fn note(&mut self, item: &Loaded<'_>) {
        if let Some(halves) = &mut self.halves {
            halves[item.half].note(item.spectrum);
        }
        if let (Some((bands, _)), Some([circle, _])) = (&mut self.sides, item.circles) {
            bands.sums[item.half][0].note(item.spectrum);
            bands.note(item.half, item.spectrum.weight(), circle);
        }
        for ((sum, _), phases) in self.moved.iter_mut().zip(item.phases) {
            sum.note_at(item.spectrum, phases);
        }
    }
}

/// The same columns of all sums: one worker's work at a time.
#[derive(Default)]
struct Strip<'a> {
    halves: [HalfStrip<'a>; 2],
    moved: Vec<Option<Band<'a, f32>>>,
}

/// The columns of one half-set's sums.
#[derive(Default)]
struct HalfStrip<'a> {
    plain: Option<Band<'a, f32>>,
    sides: [Option<Band<'a, f32>>; 2],
}

/// Adds the bands of one sum to the strips.
fn put<'a>(
    strips: &mut Vec<Strip<'a>>,
    bands: impl Iterator<Item = Band<'a, f32>>,
    place: impl for<'s> Fn(&'s mut Strip<'a>) -> &'s mut Option<Band<'a, f32>>,
) {
    for (index, band) in bands.enumerate() {
        if strips.len() == index {
            strips.push(Strip::default());
        }
        *place(&mut strips[index]) = Some(band);
    }
}

/// An image that is ready to be added.
struct Loaded<'a> {
    half: usize,
    spectrum: &'a ShiftedSpectrum<f32>,
    /// The aperture and its opposite.
    circles: Option<[Circle; 2]>,
    phases: &'a [Phases<f32>],
}

impl Strip<'_> {
    /// Adds the images to all bands, column by column: the sums of a column stay in the processor's cache meanwhile.
    fn add(&mut self, images: &[Loaded<'_>], grid: FourierGrid) {
        let bands = self.halves.iter().flat_map(|half| [&half.plain, &half.sides[0]]).chain(&self.moved);
        let Some(lines) = bands.flatten().map(Band::lines).next() else { return };
        let mut column = Column::new(grid);
        for line in lines {
            // One half after the other: the sums of both would not stay in the fastest cache. Their order is not touched.
            for (half, sums) in self.halves.iter_mut().enumerate() {
                for image in images.iter().filter(|image| image.half == half) {
                    sums.add(&mut column, image, line, grid);
                }
            }
            for image in images {
                for (band, phases) in self.moved.iter_mut().flatten().zip(image.phases) {
                    let runs = band.runs(line);
                    column.load(image.spectrum, phases, line, &runs);
                    band.add(&column, &runs);
                }
            }
        }
    }
}

impl HalfStrip<'_> {
    fn add(&mut self, column: &mut Column<f32>, image: &Loaded<'_>, line: usize, grid: FourierGrid) {
        let Self { plain, sides } = self;
        let mut targets: Vec<(&mut Band<'_, f32>, Runs)> = Vec::with_capacity(3);
        if let Some(band) = plain {
            let runs = band.runs(line);
            targets.push((band, runs));
        }
        for (side, circle) in sides.iter_mut().zip(image.circles.iter().flatten()) {
            if let Some(band) = side {
                targets.push((band, circle.runs(grid, line)));
            }
        }
        column.load(image.spectrum, image.spectrum.phases(), line, &hull(targets.iter().map(|t| &t.1)));
        for (band, runs) in &mut targets {
            band.add(column, runs);
        }
    }
}

/// One worker's share of a batch: what loads images, and where they go.
struct Share {
    loader: Loader<f32>,
    slots: Vec<(ShiftedSpectrum<f32>, Vec<Phases<f32>>)>,
}

impl Share {
    fn new(grid: FourierGrid, fft: &Fft2<f32>, moved: usize) -> Self {
        let slot = || (ShiftedSpectrum::new(grid), vec![Phases::new(grid); moved]);
        Self { loader: Loader::new(grid, fft), slots: (0..SLOTS).map(|_| slot()).collect() }
    }
}

/// Goes through the images of `parts` once and adds them to all sums; where `bright` is given (one number for each
/// scan position), those of the disk to it as well. Each image's weight is its mean, as for Poisson counts. The caller
/// has charged the [buffers](Sums::pass_bytes).
///
/// Every column of every sum sees the images in the same order, and the same two are transformed together, whatever the
/// number of workers.
pub(in crate::steps) fn pass<S: Sample>(
    ctx: &RunContext<'_>,
    stack: &Stack,
    (parts, grid): (&[Part], FourierGrid),
    sums: &mut Sums,
    mut bright: Option<&mut [f64]>,
) -> Result<()> {
    let fft = Fft2::<f32>::new(grid.padded());
    let (workers, n) = (ctx.workers.count(), ctx.scan.len());
    let batch = SLOTS * workers;
    let mut images = AlignedBytes::zeroed(batch * n * size_of::<S>());
    let mut shares: Vec<Share> = (0..workers).map(|_| Share::new(grid, &fft, sums.moved.len())).collect();
    // Several strips for each worker, so that none waits long for the others.
    let lines = grid.lines().div_ceil(16 * workers).max(1);
    let moved = std::mem::take(&mut sums.moved);
    let (merges, shifts): (Vec<_>, Vec<_>) = moved.into_iter().unzip();
    sums.moved = merges.into_iter().map(|merge| (merge, Vec::new())).collect();

    ctx.progress.begin("merge", (parts.len() * n * size_of::<S>()) as u64);
    // All batches inside the pool: from outside, each loop would wait until the system has woken this thread again.
    ctx.workers.install(|| -> Result<()> {
        for (number, group) in parts.chunks(batch).enumerate() {
            ctx.cancel.check()?;
            let images = &mut images.cast_mut::<S>()[..group.len() * n];
            let first = number * batch;
            let jobs = shares.par_iter_mut().zip(images.par_chunks_mut(SLOTS * n)).zip(group.par_chunks(SLOTS));
            jobs.enumerate().try_for_each(|(share_number, ((share, images), parts))| {
                let first = first + share_number * SLOTS;
                for (pair, (images, parts)) in images.chunks_mut(2 * n).zip(parts.chunks(2)).enumerate() {
                    for (image, part) in images.chunks_exact_mut(n).zip(parts) {
                        stack.copy_image(part.pixel, image)?;
                    }
                    let at = |i: usize| first + 2 * pair + i;
                    load(share, pair, (images, n), parts, |i, moved| shifts[moved][at(i)]);
                }
                Ok(())
            })?;
            let slots = shares.iter().flat_map(|share| &share.slots);
            let circles = sums.sides.as_ref().map(|(_, circles)| circles[first..first + group.len()].to_vec());
            let ready: Vec<_> = slots
                .zip(group)
                .enumerate()
                .filter(|(_, ((spectrum, _), _))| spectrum.weight() > 0.0)
                .map(|(i, ((spectrum, phases), part))| {
                    let circles = circles.as_ref().map(|circles| [circles[i], circles[i].opposite()]);
                    Loaded { half: part.half, spectrum, circles, phases }
                })
                .collect();
            for item in &ready {
                sums.note(item);
            }
            let mut strips = sums.strips(lines);
            strips.par_iter_mut().for_each(|strip| strip.add(&ready, grid));
            if let Some(bright) = bright.as_deref_mut() {
                add_bright(&*images, group, bright, 4 * workers);
            }
            ctx.progress.advance((group.len() * n * size_of::<S>()) as u64);
        }
        Ok(())
    })?;
    ctx.progress.end();
    Ok(())
}

/// Loads a pair of images into the slots of a share; `shift(i, moved)` is where the pair's image `i` goes in a moved sum.
fn load<S: Sample>(
    share: &mut Share,
    pair: usize,
    (images, n): (&[S], usize),
    parts: &[Part],
    shift: impl Fn(usize, usize) -> [f64; 2],
) {
    let mut slots = share.slots[2 * pair..2 * pair + 2].iter_mut();
    let (Some(a), Some(b)) = (slots.next(), slots.next()) else { return };
    let scan = a.0.scan();
    let mut items = [None, None];
    for (i, (slot, (image, part))) in [&mut *a, &mut *b].into_iter().zip(images.chunks_exact(n).zip(parts)).enumerate()
    {
        let moves = slot.1.iter_mut().enumerate().all(|(index, phases)| phases.set(shift(i, index)));
        items[i] = part.shift(scan).filter(|_| moves).map(|shift| {
            let weight = pixel_sums(image).sum / n as f64;
            Shifted { image, shift, weight }
        });
    }
    share.loader.load(items, [&mut a.0, &mut b.0]);
}
