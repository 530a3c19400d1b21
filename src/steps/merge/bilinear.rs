//! The bilinear merge of two half-sets, in one pass over the stack.

use rayon::prelude::*;

use super::{Merged, Part, add_bright};
use crate::axes::Sample;
use crate::error::Result;
use crate::kernel::convert::pixel_sums;
use crate::kernel::merge::bilinear::{Band, Placement, SplatGrid, Totals, deposit};
use crate::memory::AlignedBytes;
use crate::steps::context::RunContext;
use crate::steps::stack::Stack;

/// Merges the images of `parts` into `[scan rows * f, scan cols * f]`, the weights as samples in each output pixel, and
/// adds the images of the disk to `bright`. Each image's weight is its mean, as for Poisson counts.
///
/// Every band of output rows sees the images in the same order, whatever the number of workers.
pub(in crate::steps) fn merge<S: Sample>(
    ctx: &RunContext<'_>,
    stack: &Stack,
    (parts, factor): (&[Part], usize),
    bright: &mut [f64],
) -> Result<Merged> {
    let grid = SplatGrid::new(ctx.scan, factor);
    let (n, workers) = (ctx.scan.len(), ctx.workers.count());
    let (batch, len) = (2 * workers, grid.rows() * grid.row_len());
    let charged = batch * n * size_of::<S>() + len * 8 * (4 + 6);
    let _charge = ctx.budget.charge(charged as u64, "the bilinear merge")?;
    let mut images = AlignedBytes::zeroed(batch * n * size_of::<S>());
    let mut sums = [(); 2].map(|()| (vec![0.0; len], vec![0.0; len]));
    let mut totals = [Totals::default(); 2];
    let band_rows = grid.rows().div_ceil(4 * workers);
    let band_len = band_rows * grid.row_len();

    ctx.progress.begin("merge", (parts.len() * n * size_of::<S>()) as u64);
    for group in parts.chunks(batch) {
        ctx.cancel.check()?;
        let images = &mut images.cast_mut::<S>()[..group.len() * n];
        let means: Vec<f64> = ctx.workers.install(|| -> Result<Vec<f64>> {
            let jobs = images.par_chunks_mut(n).zip(group);
            jobs.map(|(image, part)| {
                stack.copy_image(part.pixel, image)?;
                Ok(pixel_sums(image).sum / n as f64)
            })
            .collect()
        })?;
        let images = &*images;
        let places: Vec<(usize, usize, Placement)> = (group.iter().zip(&means).enumerate())
            .filter_map(|(i, (part, &mean))| {
                let (image, shift) = (&images[i * n..(i + 1) * n], part.shift(ctx.scan)?);
                Some((i, part.half, grid.place(image, shift, mean, &mut totals[part.half])?))
            })
            .collect();
        ctx.workers.install(|| {
            for (half, (value, weight)) in sums.iter_mut().enumerate() {
                let bands = value.par_chunks_mut(band_len).zip(weight.par_chunks_mut(band_len)).enumerate();
                bands.for_each(|(index, (value, weight))| {
                    let rows = index * band_rows..index * band_rows + value.len() / grid.row_len();
                    let mut band = Band { rows, value, weight };
                    for (i, _, place) in places.iter().filter(|(_, h, _)| *h == half) {
                        deposit(grid, &images[i * n..(i + 1) * n], place, &mut band);
                    }
                });
            }
            add_bright(images, group, bright, 4 * workers);
        });
        ctx.progress.advance((group.len() * n * size_of::<S>()) as u64);
    }
    ctx.progress.end();
    let smoothing = ctx.config.reconstruct.kde_sigma;
    let halves = [0, 1].map(|half| grid.finish(&sums[half].0, &sums[half].1, &totals[half], smoothing).0);
    let [(mut value, mut weight), other] = sums;
    value.iter_mut().zip(&other.0).for_each(|(a, b)| *a += b);
    weight.iter_mut().zip(&other.1).for_each(|(a, b)| *a += b);
    let mut total = totals[0];
    total.absorb(&totals[1]);
    let (image, weights) = grid.finish(&value, &weight, &total, smoothing);
    let samples = total.images() as f64 / (factor * factor) as f64;
    Ok(Merged { image, weights: weights.mapv_into(|w| w * samples), halves })
}
