//! The Fourier merge: every image shifted exactly, by less than a pixel too, and averaged in the Fourier domain. One
//! pass over the stack feeds several sums.

use rayon::prelude::*;

use super::{Part, add_bright};
use crate::axes::Sample;
use crate::error::Result;
use crate::kernel::convert::pixel_sums;
use crate::kernel::fft2::Fft2;
use crate::kernel::merge::fourier::{Band, Circle, FourierGrid, FourierMerge, Phases, ShiftedSpectrum, SideBands};
use crate::pipeline::AlignedBytes;
use crate::steps::context::RunContext;
use crate::steps::stack::Stack;

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
        let image = 3 * grid.padded().len() * 8 + ctx.scan.len() * size_of::<S>() + (1 + moved) * phases;
        (2 * ctx.workers.count() * image) as u64
    }

    fn bands(&mut self, lines: usize) -> Vec<(Target, Band<'_, f32>)> {
        let mut all = Vec::new();
        for (half, sum) in self.halves.iter_mut().flatten().enumerate() {
            all.extend(sum.bands(lines).map(|band| (Target::Half(half), band)));
        }
        for (half, sums) in self.sides.iter_mut().flat_map(|(bands, _)| &mut bands.sums).enumerate() {
            for (side, sum) in sums.iter_mut().enumerate() {
                all.extend(sum.bands(lines).map(|band| (Target::Side(half, side), band)));
            }
        }
        for (index, (sum, _)) in self.moved.iter_mut().enumerate() {
            all.extend(sum.bands(lines).map(|band| (Target::Moved(index), band)));
        }
        all
    }

    fn note(&mut self, item: &Loaded<'_>) {
        if let Some(halves) = &mut self.halves {
            halves[item.part.half].note(item.spectrum);
        }
        if let (Some((bands, _)), Some(circle)) = (&mut self.sides, item.circle) {
            bands.sums[item.part.half][0].note(item.spectrum);
            bands.note(item.part.half, item.spectrum.weight(), circle);
        }
        for ((sum, _), phases) in self.moved.iter_mut().zip(item.phases) {
            sum.note_at(item.spectrum, phases);
        }
    }
}

/// Which sum a band belongs to.
#[derive(Debug, Clone, Copy)]
enum Target {
    Half(usize),
    Side(usize, usize),
    Moved(usize),
}

/// An image that is ready to be added.
struct Loaded<'a> {
    part: &'a Part,
    spectrum: &'a ShiftedSpectrum<f32>,
    circle: Option<Circle>,
    phases: &'a [Phases<f32>],
}

impl Loaded<'_> {
    fn add_to(&self, target: Target, band: &mut Band<'_, f32>) {
        match target {
            Target::Half(half) if half == self.part.half => band.add(self.spectrum),
            Target::Side(half, side) if half == self.part.half => {
                if let Some(circle) = self.circle {
                    band.add_within(self.spectrum, &if side == 0 { circle } else { circle.opposite() });
                }
            }
            Target::Moved(index) => band.add_at(self.spectrum, &self.phases[index]),
            Target::Half(_) | Target::Side(..) => {}
        }
    }
}

/// Goes through the images of `parts` once and adds them to all sums; where `bright` is given (one number for each
/// scan position), those of the disk to it as well. Each image's weight is its mean, as for Poisson counts. The caller
/// has charged the [buffers](Sums::pass_bytes).
///
/// Every band of every sum sees the images in the same order, whatever the number of workers.
pub(in crate::steps) fn pass<S: Sample>(
    ctx: &RunContext<'_>,
    stack: &Stack,
    (parts, grid): (&[Part], FourierGrid),
    sums: &mut Sums,
    mut bright: Option<&mut [f64]>,
) -> Result<()> {
    let fft = Fft2::<f32>::new(grid.padded());
    let (workers, n) = (ctx.workers.count(), ctx.scan.len());
    let batch = 2 * workers;
    let mut images = AlignedBytes::zeroed(batch * n * size_of::<S>());
    let mut slots: Vec<_> =
        (0..batch).map(|_| (ShiftedSpectrum::new(grid, &fft), vec![Phases::new(grid); sums.moved.len()])).collect();
    let lines = grid.lines().div_ceil(4 * workers).max(1);
    let moved = std::mem::take(&mut sums.moved);
    let (merges, shifts): (Vec<_>, Vec<_>) = moved.into_iter().unzip();
    sums.moved = merges.into_iter().map(|merge| (merge, Vec::new())).collect();

    ctx.progress.begin("merge", (parts.len() * n * size_of::<S>()) as u64);
    for (number, group) in parts.chunks(batch).enumerate() {
        ctx.cancel.check()?;
        let images = &mut images.cast_mut::<S>()[..group.len() * n];
        let used: Vec<bool> = ctx.workers.install(|| -> Result<Vec<bool>> {
            let jobs = images.par_chunks_mut(n).zip(&mut slots).zip(group).enumerate();
            jobs.map(|(i, ((image, (spectrum, phases)), part))| {
                stack.copy_image(part.pixel, image)?;
                let Some(shift) = part.shift(ctx.scan) else { return Ok(false) };
                let moves = phases.iter_mut().zip(&shifts).all(|(p, shifts)| p.set(shifts[number * batch + i]));
                let mean = pixel_sums(image).sum / n as f64;
                Ok(moves && spectrum.load(image, shift, mean))
            })
            .collect()
        })?;
        let circles = sums.sides.as_ref().map(|(_, circles)| circles[number * batch..][..group.len()].to_vec());
        let all = slots.iter().zip(group).zip(&used).enumerate().filter(|(_, (_, used))| **used);
        let ready: Vec<_> = all
            .map(|(i, (((spectrum, phases), part), _))| {
                let circle = circles.as_ref().map(|circles| circles[i]);
                Loaded { part, spectrum, circle, phases }
            })
            .collect();
        for item in &ready {
            sums.note(item);
        }
        let mut bands = sums.bands(lines);
        ctx.workers.install(|| {
            bands.par_iter_mut().for_each(|(target, band)| ready.iter().for_each(|item| item.add_to(*target, band)));
            if let Some(bright) = bright.as_deref_mut() {
                add_bright(&*images, group, bright, 4 * workers);
            }
        });
        ctx.progress.advance((group.len() * n * size_of::<S>()) as u64);
    }
    ctx.progress.end();
    Ok(())
}
