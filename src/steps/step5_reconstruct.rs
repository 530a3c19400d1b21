//! Step 5: the super-resolved image.

use rayon::prelude::*;
use serde_json::json;

use crate::axes::{Image, Sample};
use crate::cache::Step;
use crate::config::Method;
use crate::error::{Error, Result};
use crate::kernel::upsample::{Band, Grid, Targets, deposit};
use crate::pipeline::AlignedBytes;
use crate::steps::context::RunContext;
use crate::steps::merge_fourier::merge;
use crate::steps::selection::usable_pixels;
use crate::steps::stack::{CroppedStack, Stack};
use crate::steps::step1_detect::BrightDisk;
use crate::steps::step4_shifts::ShiftMaps;
use crate::with_sample_type;

/// The result of step 5.
#[derive(Debug, Clone, PartialEq)]
pub struct Reconstruction {
    /// Mean of the samples in each output pixel, `[scan rows * f, scan cols * f]`; 0 where there are none. Pixel
    /// `(f i, f j)` lies at scan position `(i, j)`.
    pub image: Image,
    /// Number of samples in each output pixel.
    pub weights: Image,
    /// Sum over the detector pixels of the disk, `[scan rows, scan cols]`.
    pub virtual_bf: Image,
    /// Number of detector pixels that were used.
    pub pixels_used: usize,
}

/// A detector pixel that takes part.
#[derive(Debug, Clone, Copy)]
struct Part {
    pixel: usize,
    shift: Option<[f64; 2]>,
    in_disk: bool,
}

/// Puts every sample of every used detector pixel at the nearest pixel of a finer image, or merges the images in the
/// Fourier domain (`weights` are then still the numbers of samples nearest to each pixel).
///
/// Used are the pixels of the crop at most `reconstruct.detector_radius` rows and columns from its centre whose
/// quality is above `reconstruct.quality_threshold`.
///
/// # Errors
/// [`Unresolved`](crate::error::ErrorKind::Unresolved) when no detector pixel passes the threshold;
/// [`Memory`](crate::error::ErrorKind::Memory), [`Io`](crate::error::ErrorKind::Io).
pub fn reconstruct(
    ctx: &RunContext<'_>,
    disk: &BrightDisk,
    stack: &CroppedStack,
    shifts: &ShiftMaps,
) -> Result<Reconstruction> {
    let parts = choose(ctx, disk, &usable_pixels(ctx, disk)?, shifts);
    let pixels_used = parts.iter().filter(|p| p.shift.is_some()).count();
    if pixels_used == 0 {
        let best = shifts.quality.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let threshold = ctx.config.reconstruct.quality_threshold;
        return Err(Error::unresolved(format!(
            "no detector pixel has a quality above {threshold}; the best one has {best:.3}"
        ))
        .with_hint(format!(
            "lower the threshold, for example `--set reconstruct.quality_threshold={:.2}`",
            0.9 * best
        )));
    }
    let mut result = with_sample_type!(stack.stack.dtype(), S => accumulate::<S>(ctx, &stack.stack, &parts))?;
    if ctx.config.merges_in_fourier_domain() {
        let used = shifts_to_apply(ctx, &parts);
        result.image = with_sample_type!(stack.stack.dtype(), S => merge::<S>(ctx, disk, &stack.stack, &used))?;
    }
    let mut cache = ctx.cache();
    let fine = ["row", "col"];
    cache.group().write_image("superres_image", &result.image, fine)?;
    cache.group().write_image("weights", &result.weights, fine)?;
    cache.group().write_image("virtual_bf", &result.virtual_bf, ["scan_row", "scan_col"])?;
    cache.mark_done(Step::Reconstruct, json!({"pixels_used": pixels_used}), true)?;
    Ok(result)
}

/// Crop index of each used detector pixel and the shift that brings its image onto the axial one: the negative of where
/// its correlation peaks.
fn shifts_to_apply(ctx: &RunContext<'_>, parts: &[Part]) -> Vec<(usize, [f64; 2])> {
    let none = [(ctx.scan.rows / 2) as f64, (ctx.scan.cols / 2) as f64];
    let used = parts.iter().filter_map(|part| part.shift.map(|shift| (part.pixel, shift)));
    used.map(|(pixel, [y, x])| (pixel, [none[0] - y, none[1] - x])).collect()
}

/// The detector pixels that are used for the image, for the virtual bright field, or for both, in order.
fn choose(ctx: &RunContext<'_>, disk: &BrightDisk, usable: &[bool], shifts: &ShiftMaps) -> Vec<Part> {
    let crop = disk.crop.shape();
    let settings = &ctx.config.reconstruct;
    let parametric = ctx.config.align.method == Method::Parametric;
    let near = |i: usize, len: usize| i.abs_diff(len / 2) <= settings.detector_radius;
    let mut parts = Vec::new();
    for row in 0..crop.rows {
        for col in 0..crop.cols {
            let at = [row, col];
            let (dr, dc) =
                ((row + disk.crop.row0) as f64 - disk.center[0], (col + disk.crop.col0) as f64 - disk.center[1]);
            let in_disk = dr.hypot(dc) <= disk.radius;
            // A dose meter says nothing about a fitted model; the disk does.
            let used = if parametric {
                usable[row * crop.cols + col]
            } else {
                near(row, crop.rows) && near(col, crop.cols) && shifts.quality[at] > settings.quality_threshold
            };
            if used || in_disk {
                let shift = used.then(|| [shifts.y[at], shifts.x[at]]);
                parts.push(Part { pixel: row * crop.cols + col, shift, in_disk });
            }
        }
    }
    parts
}

/// Goes through the detector pixels in batches: images are fetched side by side, then bands of output rows are filled
/// side by side. Every output pixel sees the detector pixels in the same order, whatever the number of workers.
fn accumulate<S: Sample>(ctx: &RunContext<'_>, stack: &Stack, parts: &[Part]) -> Result<Reconstruction> {
    let (scan, factor) = (ctx.scan, ctx.config.reconstruct.upscale.factor());
    let (grid, n) = (Grid::new(scan, factor), scan.len());
    let (row_len, rows) = (grid.row_len(), grid.native_rows());
    let workers = ctx.workers.count();
    let batch = 2 * workers;
    let image_bytes = n * size_of::<S>();
    let bytes = rows * row_len * 12 + n * 8 + batch * image_bytes;
    let _charge = ctx.budget.charge(bytes as u64, "the super-resolved image")?;
    let (mut value, mut weight) = (vec![0.0; rows * row_len], vec![0u32; rows * row_len]);
    let mut bright = vec![0.0; n];
    let mut images = AlignedBytes::zeroed(batch * image_bytes);
    let band_rows = rows.div_ceil(4 * workers);

    ctx.progress.begin("reconstruct", (parts.len() * image_bytes) as u64);
    let mut targets = vec![Targets::default(); batch];
    for group in parts.chunks(batch) {
        ctx.cancel.check()?;
        let images = &mut images.cast_mut::<S>()[..group.len() * n];
        ctx.workers.install(|| {
            let jobs = images.par_chunks_mut(n).zip(&mut targets).zip(group);
            jobs.for_each(|((image, targets), part)| {
                stack.copy_image(part.pixel, image);
                if let Some([y, x]) = part.shift {
                    grid.targets(y, x, targets);
                }
            });
            let images = &*images;
            let bands = value.par_chunks_mut(band_rows * row_len).zip(weight.par_chunks_mut(band_rows * row_len));
            bands.enumerate().for_each(|(i, (value, weight))| {
                let rows = i * band_rows..i * band_rows + value.len() / row_len;
                let mut band = Band { rows, value, weight };
                for ((image, part), targets) in images.chunks_exact(n).zip(group).zip(&targets) {
                    if part.shift.is_some() {
                        deposit(grid, image, targets, &mut band);
                    }
                }
            });
            let piece = n.div_ceil(4 * workers);
            bright.par_chunks_mut(piece).enumerate().for_each(|(i, bright)| {
                for (image, _) in images.chunks_exact(n).zip(group).filter(|(_, part)| part.in_disk) {
                    let samples = &image[i * piece..i * piece + bright.len()];
                    bright.iter_mut().zip(samples).for_each(|(sum, s)| *sum += s.to_f64());
                }
            });
        });
        ctx.progress.advance((group.len() * image_bytes) as u64);
    }
    ctx.progress.end();
    let (image, weights) = grid.finish(&value, &weight);
    let virtual_bf = Image::from_shape_vec((scan.rows, scan.cols), bright).map_err(|e| Error::bug(e.to_string()))?;
    let pixels_used = parts.iter().filter(|p| p.shift.is_some()).count();
    Ok(Reconstruction { image, weights, virtual_bf, pixels_used })
}
