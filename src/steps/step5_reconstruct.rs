//! Step 5: the super-resolved image.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::axes::{Image, Sample};
use crate::cache::Step;
use crate::config::Merge;
use crate::error::{Error, Result};
use crate::kernel::upsample::{Band, Grid, Targets, deposit};
use crate::pipeline::AlignedBytes;
use crate::steps::context::RunContext;
use crate::steps::merge::{Job, Part, Resolutions, add_bright, upscale_factor};
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
/// calibration phase contrast and images of other depths.
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
    let parts = choose(ctx, disk, &usable_pixels(ctx, disk, EDGE)?, shifts);
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
    let result = with_sample_type!(stack.stack.dtype(), S => match ctx.config.merge() {
        Merge::Nearest | Merge::Auto => accumulate::<S>(&job),
        Merge::Bilinear | Merge::Fourier => merge::<S>(&job),
    })?;
    let mut cache = ctx.cache();
    let fine = ["row", "col"];
    let group = cache.group();
    let write = |name: &str, image: &Image| group.write_image(name, image, fine);
    let image = || write("superres_image", &result.image);
    let (image, weights) = ctx.workers.install(|| rayon::join(image, || write("weights", &result.weights)));
    image.and(weights)?;
    cache.group().write_image("virtual_bf", &result.virtual_bf, ["scan_row", "scan_col"])?;
    let report = serde_json::to_value(result.report).map_err(|e| Error::bug(e.to_string()))?;
    cache.mark_done(Step::Reconstruct, report, true)?;
    Ok(result)
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

/// Goes through the detector pixels in batches: images are fetched side by side, then bands of output rows are filled
/// side by side. Every output pixel sees the detector pixels in the same order, whatever the number of workers.
fn accumulate<S: Sample>(job: &Job<'_>) -> Result<Reconstruction> {
    let Job { ctx, stack, parts, factor, .. } = *job;
    let scan = ctx.scan;
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
        ctx.workers.install(|| -> Result<()> {
            let jobs = images.par_chunks_mut(n).zip(&mut targets).zip(group);
            jobs.try_for_each(|((image, targets), part)| {
                stack.copy_image(part.pixel, image)?;
                if let Some([y, x]) = part.peak {
                    grid.targets(y, x, targets);
                }
                Ok::<(), Error>(())
            })?;
            let images = &*images;
            let bands = value.par_chunks_mut(band_rows * row_len).zip(weight.par_chunks_mut(band_rows * row_len));
            bands.enumerate().for_each(|(i, (value, weight))| {
                let rows = i * band_rows..i * band_rows + value.len() / row_len;
                let mut band = Band { rows, value, weight };
                for ((image, part), targets) in images.chunks_exact(n).zip(group).zip(&targets) {
                    if part.peak.is_some() {
                        deposit(grid, image, targets, &mut band);
                    }
                }
            });
            add_bright(images, group, &mut bright, 4 * workers);
            Ok(())
        })?;
        ctx.progress.advance((group.len() * image_bytes) as u64);
    }
    ctx.progress.end();
    let (image, weights) = grid.finish(&value, &weight);
    Ok(Reconstruction { image, weights, virtual_bf: virtual_bf(job, bright)?, report: report(job) })
}
