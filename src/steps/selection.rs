//! Which detector pixels the parametric method uses, for its fit and for its merge.

use crate::axes::Image;
use crate::config::BadPixelPolicy;
use crate::error::{Error, Result};
use crate::steps::context::RunContext;
use crate::steps::step1_detect::BrightDisk;

/// A mask over the crop, `[crop row, crop col]` in C order: pixels inside the disk and up to `margin` detector pixels
/// beyond its edge that are neither `bad` (unless `disk.bad_pixels = "keep"`) nor in `disk.exclude`. The same for every
/// step of a run.
///
/// # Errors
/// [`Config`](crate::error::ErrorKind::Config) for an excluded pixel outside the detector.
pub fn usable_pixels(ctx: &RunContext<'_>, disk: &BrightDisk, bad: &Image, margin: f64) -> Result<Vec<bool>> {
    let (crop, shape) = (disk.crop, disk.crop.shape());
    let mut usable: Vec<bool> = (0..shape.len())
        .map(|p| {
            let (row, col) = (p / shape.cols + crop.row0, p % shape.cols + crop.col0);
            (row as f64 - disk.center[0]).hypot(col as f64 - disk.center[1]) <= disk.radius + margin
        })
        .collect();
    if ctx.config.disk.bad_pixels == BadPixelPolicy::Auto {
        usable.iter_mut().zip(bad).for_each(|(usable, flaw)| *usable &= *flaw == 0.0);
    }
    for [row, col] in excluded_pixels(ctx)? {
        if (crop.row0..crop.row1).contains(&row) && (crop.col0..crop.col1).contains(&col) {
            usable[(row - crop.row0) * shape.cols + col - crop.col0] = false;
        }
    }
    Ok(usable)
}

/// The user's own list, in pixels of the whole detector.
///
/// # Errors
/// [`Config`](crate::error::ErrorKind::Config) for a pixel outside the detector.
pub(super) fn excluded_pixels(ctx: &RunContext<'_>) -> Result<Vec<[usize; 2]>> {
    let det = ctx.cache().manifest().det;
    let excluded = &ctx.config.disk.exclude;
    if let Some([row, col]) = excluded.iter().find(|[row, col]| *row >= det.rows || *col >= det.cols) {
        return Err(Error::config(format!("disk.exclude names the pixel [{row}, {col}], outside the {det} detector"))
            .with_hint("pixels are [row, col] of the whole detector, from 0"));
    }
    Ok(excluded.clone())
}
