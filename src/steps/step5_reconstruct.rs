//! Step 5: the super-resolved image.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::axes::{Image, Sample};
use crate::cache::{Step, WorkingCache};
use crate::config::Merge;
use crate::error::{Error, Result};
use crate::kernel::upsample::{Band, Counts, Grid, Pieces, Sum, Targets, deposit};
use crate::memory::AlignedBytes;
use crate::steps::context::RunContext;
use crate::steps::merge::{Job, Part, Resolutions, upscale_factor};
use crate::steps::parametric::from_center;
use crate::steps::selection::usable_pixels;
use crate::steps::stack::CroppedStack;
use crate::steps::step1_detect::BrightDisk;
use crate::steps::step4_shifts::ShiftMaps;
use crate::with_sample_type;

/// Pixels on the disk's edge are half lit and still carry the image's finest detail; each weighs as much as it is bright.
const EDGE: f64 = 0.5;

/// The result of step 5.
#[derive(Debug, Clone, PartialEq)]
pub struct Reconstruction {
    /// The merged image, `[scan rows * f, scan cols * f]`; 0 where there are no samples. Pixel `(f i, f j)` lies at scan
    /// position `(i, j)`.
    pub image: Image,
    /// What stands behind each output pixel: the number of samples (bilinear: after smoothing), or for the Fourier merge,
    /// in which every image reaches every pixel that it covers, the number of images.
    pub weights: Image,
    /// Sum over the detector pixels of the disk, `[scan rows, scan cols]`.
    pub virtual_bf: Image,
    /// Numbers about it.
    pub report: ImageReport,
}

/// What is kept about the image beside the image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ImageReport {
    /// Number of detector pixels that were used.
    pub pixels_used: usize,
    /// Output pixels per scan step.
    #[serde(default)]
    pub upscale: Option<usize>,
    /// What the half-sets of detector pixels resolve, for merges that make them.
    #[serde(default)]
    pub resolution: Resolutions,
}

/// Puts the samples of all used detector pixels together: each at the nearest pixel of a finer image, shared among the
/// four nearest, or in the Fourier domain. The latter two also make half-sets, and with fitted aberrations and a
/// calibration phase contrast and images of other depths. [`keep_image`] brings the image into the cache.
///
/// Used are, with fitted aberrations, the pixels of the disk; else the pixels of the crop at most
/// `reconstruct.detector_radius` rows and columns from its centre whose quality is above
/// `reconstruct.quality_threshold`.
///
/// # Errors
/// [`Unresolved`](crate::error::ErrorKind::Unresolved) when no detector pixel passes the threshold, or when something is
/// asked for that needs aberrations and a calibration; [`Memory`](crate::error::ErrorKind::Memory),
/// [`Io`](crate::error::ErrorKind::Io).
pub fn reconstruct(
    ctx: &RunContext<'_>,
    disk: &BrightDisk,
    stack: &CroppedStack,
    shifts: &ShiftMaps,
) -> Result<Reconstruction> {
    let parts = choose(ctx, disk, &usable_pixels(ctx, disk, &stack.bad_pixels, EDGE)?, shifts);
    let pixels_used = parts.iter().filter(|p| p.peak.is_some()).count();
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
    let factor = upscale_factor(ctx.config, disk);
    let job = Job { ctx, disk, stack: &stack.stack, parts: &parts, factor };
    with_sample_type!(stack.stack.dtype(), S => match ctx.config.merge() {
        Merge::Nearest | Merge::Auto => accumulate::<S>(&job),
        Merge::Bilinear | Merge::Fourier => merge::<S>(&job),
    })
}

/// Brings the image, its weights and the virtual bright field into the cache, side by side in the pool that this is called
/// in, and marks the step done.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io).
pub fn keep_image(cache: &mut WorkingCache, images: [&Image; 3], report: &ImageReport) -> Result<()> {
    let fine = ["row", "col"];
    let kept = [("superres_image", fine), ("weights", fine), ("virtual_bf", ["scan_row", "scan_col"])];
    let all: Vec<_> = kept.into_iter().zip(images).map(|((name, dims), image)| (name, image, dims)).collect();
    cache.group().write_images(&all)?;
    let report = serde_json::to_value(report).map_err(|e| Error::bug(e.to_string()))?;
    cache.mark_done(Step::Reconstruct, report, true)
}

/// The merges with half-sets.
fn merge<S: Sample>(job: &Job<'_>) -> Result<Reconstruction> {
    let made = job.run::<S>()?;
    let report = ImageReport { resolution: made.resolutions, ..report(job) };
    Ok(Reconstruction { image: made.image, weights: made.weights, virtual_bf: virtual_bf(job, made.bright)?, report })
}

fn report(job: &Job<'_>) -> ImageReport {
    let pixels_used = job.parts.iter().filter(|p| p.peak.is_some()).count();
    ImageReport { pixels_used, upscale: Some(job.factor), resolution: Resolutions::default() }
}

fn virtual_bf(job: &Job<'_>, bright: Vec<f64>) -> Result<Image> {
    let scan = job.ctx.scan;
    Image::from_shape_vec((scan.rows, scan.cols), bright).map_err(|e| Error::bug(e.to_string()))
}

/// The detector pixels that are used for the image, for the virtual bright field, or for both, in order.
fn choose(ctx: &RunContext<'_>, disk: &BrightDisk, usable: &[bool], shifts: &ShiftMaps) -> Vec<Part> {
    let settings = &ctx.config.reconstruct;
    let crop = disk.crop.shape();
    let parametric = ctx.config.is_parametric();
    let near = |i: usize, len: usize| i.abs_diff(len / 2) <= settings.detector_radius;
    let mut parts = Vec::new();
    for row in 0..crop.rows {
        for col in 0..crop.cols {
            let at = [row, col];
            let from_center = from_center(disk, row, col);
            let in_disk = from_center[0].hypot(from_center[1]) <= disk.radius;
            // A dose meter says nothing about a fitted model; the disk does.
            let used = if parametric {
                usable[row * crop.cols + col]
            } else {
                near(row, crop.rows) && near(col, crop.cols) && shifts.quality[at] > settings.quality_threshold
            };
            if used || in_disk {
                let peak = used.then(|| [shifts.y[at], shifts.x[at]]);
                let (pixel, half) = (row * crop.cols + col, (row + col) % 2);
                parts.push(Part { pixel, from_center, half, peak, in_disk });
            }
        }
    }
    parts
}

/// Bytes of images that are added to all bands before the next ones, where they are read where they lie. Workers fall asleep
/// between batches, so these are large, but there are several, so that a run can be watched and stopped.
const BATCH_BYTES: usize = 32 << 20;
const BATCHES: usize = 8;

fn accumulate<S: Sample>(job: &Job<'_>) -> Result<Reconstruction> {
    if S::DTYPE.sum_bytes(job.parts.len()) == size_of::<u32>() {
        accumulate_in::<S, u32>(job)
    } else {
        accumulate_in::<S, f64>(job)
    }
}

/// Goes through the detector pixels in batches: bands of output rows, and of the virtual bright field, are filled side by
/// side. Every output pixel sees the detector pixels in the same order, whatever the number of workers.
fn accumulate_in<S: Sample, A: Sum>(job: &Job<'_>) -> Result<Reconstruction> {
    let Job { ctx, stack, parts, factor, .. } = *job;
    let scan = ctx.scan;
    let (grid, n) = (Grid::new(scan, factor), scan.len());
    let (row_len, rows) = (grid.row_len(), grid.native_rows());
    let workers = ctx.workers.count();
    let image_bytes = n * size_of::<S>();
    let direct = stack.is_addressable();
    let batch =
        if direct { (BATCH_BYTES / image_bytes.max(1)).min(parts.len().div_ceil(BATCHES)) } else { 0 }.max(2 * workers);
    let copied = if direct { 0 } else { batch * image_bytes };
    let bytes = rows * row_len * (size_of::<A>() + size_of::<i32>()) + n * size_of::<A>() + copied;
    let _charge = ctx.budget.charge(bytes as u64, "the super-resolved image")?;
    let (mut value, mut counts) = (vec![A::default(); rows * row_len], Counts::new(grid));
    let mut bright = vec![A::default(); n];
    let mut images = AlignedBytes::zeroed(copied);
    let band_rows = rows.div_ceil(8 * workers);
    // No more bands of the bright field than of output rows.
    let bright_rows = scan.rows.div_ceil(rows.div_ceil(band_rows));

    ctx.progress.begin("reconstruct", (parts.len() * image_bytes) as u64);
    let mut targets = vec![Targets::default(); batch];
    // All batches inside the pool: from outside, each loop would wait until the system has woken this thread again.
    ctx.workers.install(|| -> Result<()> {
        for (number, group) in parts.chunks(batch).enumerate() {
            let first = number == 0;
            let images = images.cast_mut::<S>();
            if !direct {
                let copies = images.par_chunks_mut(n).zip(group);
                copies.try_for_each(|(image, part)| stack.copy_image(part.pixel, image))?;
            }
            targets.par_iter_mut().zip(group).for_each(|(targets, part)| {
                if let Some([y, x]) = part.peak {
                    grid.targets(y, x, targets);
                }
            });
            let (pieces, rows): (Vec<&[S]>, usize) = if direct {
                (group.iter().flat_map(|part| stack.pieces::<S>(part.pixel)).collect(), stack.rows_together())
            } else {
                (images.chunks_exact(n).take(group.len()).collect(), scan.rows)
            };
            let pieces = pieces.chunks_exact(scan.rows.div_ceil(rows)).map(|pieces| Pieces { pieces, rows });
            let images: Vec<_> = pieces.zip(group).zip(&targets).collect();
            // What a band of output rows takes samples from, and its part of the bright field, are about the same scan rows.
            let mut bright = bright.chunks_mut((bright_rows * scan.cols).max(1));
            let bands = value.chunks_mut(band_rows * row_len).map(|value| (value, bright.next().unwrap_or_default()));
            bands.collect::<Vec<_>>().into_par_iter().enumerate().for_each(|(i, (value, bright))| {
                let rows = i * band_rows..i * band_rows + value.len() / row_len;
                let bright_rows = i * bright_rows..i * bright_rows + bright.len() / scan.cols.max(1);
                if first {
                    // A page that is first read and then written is given twice.
                    value.fill(A::default());
                }
                let mut band = Band { rows, value };
                for ((image, part), targets) in &images {
                    if part.peak.is_some() {
                        deposit(grid, *image, targets, &mut band);
                    }
                    if part.in_disk {
                        image.add_rows(bright_rows.clone(), scan.cols, bright);
                    }
                }
            });
            for (_, targets) in group.iter().zip(&targets).filter(|(part, _)| part.peak.is_some()) {
                counts.add(targets);
            }
            ctx.progress.advance((group.len() * image_bytes) as u64);
            ctx.cancel.check()?;
        }
        Ok(())
    })?;
    ctx.progress.end();
    let (image, weights) = ctx.workers.install(|| grid.finish(&value, counts));
    let bright = bright.into_iter().map(Sum::total).collect();
    Ok(Reconstruction { image, weights, virtual_bf: virtual_bf(job, bright)?, report: report(job) })
}
