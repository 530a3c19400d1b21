//! The Fourier merge: every image shifted exactly, by less than a pixel too, and averaged in the Fourier domain.

use rayon::prelude::*;

use crate::axes::{Image, Sample};
use crate::error::Result;
use crate::kernel::convert::pixel_sums;
use crate::kernel::fft2::Fft2;
use crate::kernel::merge::fourier::{FourierGrid, FourierMerge, ShiftedSpectrum};
use crate::pipeline::AlignedBytes;
use crate::steps::context::RunContext;
use crate::steps::parametric::pixels_per_frequency;
use crate::steps::stack::Stack;
use crate::steps::step1_detect::BrightDisk;

/// Merges the images of `parts` (crop index and shift to apply, `[row, col]` in scan pixels) into
/// `[scan rows * f, scan cols * f]`. Each image's weight is its mean, as for Poisson counts. With a calibration,
/// frequencies beyond twice the aperture, where a bright-field image has nothing, are left out.
///
/// Every band of the spectrum sees the images in the same order, whatever the number of workers.
pub(super) fn merge<S: Sample>(
    ctx: &RunContext<'_>,
    disk: &BrightDisk,
    stack: &Stack,
    parts: &[(usize, [f64; 2])],
) -> Result<Image> {
    let factor = ctx.config.reconstruct.upscale.factor();
    let reach = parts.iter().flat_map(|(_, s)| s).fold(0f64, |most, s| most.max(s.abs()));
    let grid = FourierGrid::new(ctx.scan, factor, reach);
    let fft = Fft2::<f32>::new(grid.padded());
    let (batch, n) = (2 * ctx.workers.count(), ctx.scan.len());
    let padded = grid.padded().len();
    let bytes = grid.lines() * grid.line_len() * 4
        + batch * (3 * padded * 8 + n * size_of::<S>())
        + 3 * n * factor * factor * 8;
    let _charge = ctx.budget.charge(bytes as u64, "the Fourier merge")?;
    let mut images = AlignedBytes::zeroed(batch * n * size_of::<S>());
    let mut spectra: Vec<_> = (0..batch).map(|_| ShiftedSpectrum::<f32>::new(grid, &fft)).collect();
    let mut sum = FourierMerge::<f32>::new(grid);
    let lines = grid.lines().div_ceil(4 * ctx.workers.count()).max(1);

    ctx.progress.begin("merge", (parts.len() * n * size_of::<S>()) as u64);
    for group in parts.chunks(batch) {
        ctx.cancel.check()?;
        let used: Vec<bool> = ctx.workers.install(|| {
            let jobs = images.cast_mut::<S>().par_chunks_mut(n).zip(&mut spectra).zip(group);
            jobs.map(|((image, spectrum), (pixel, shift))| {
                stack.copy_image(*pixel, image);
                let mean = pixel_sums(image).sum / n as f64;
                spectrum.load(image, *shift, mean)
            })
            .collect()
        });
        let ready: Vec<_> = spectra.iter().zip(&used).filter(|(_, used)| **used).map(|(s, _)| s).collect();
        for spectrum in &ready {
            sum.note(spectrum);
        }
        let mut bands: Vec<_> = sum.bands(lines).collect();
        ctx.workers.install(|| {
            bands.par_iter_mut().for_each(|band| {
                for spectrum in &ready {
                    band.add(spectrum);
                }
            });
        });
        ctx.progress.advance((group.len() * n * size_of::<S>()) as u64);
    }
    ctx.progress.end();
    let limit = pixels_per_frequency(ctx, disk).map(|g| 2.0 * disk.radius / g);
    Ok(sum.finish(limit))
}
