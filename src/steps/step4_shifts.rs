//! Step 4: shift maps out of the peaks.

use serde_json::json;

use crate::axes::{DetShape, Image};
use crate::cache::Step;
use crate::config::Refine;
use crate::error::{Error, Result};
use crate::steps::context::RunContext;
use crate::steps::parametric::{AberrationFit, model_maps};
use crate::steps::refine::{pixels_in_disk, refine};
use crate::steps::stack::Stack;
use crate::steps::step1_detect::BrightDisk;
use crate::steps::step3_correlate::{Correlations, is_aligned};

/// The result of step 4, one number for each detector pixel of the crop, `[crop row, crop col]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ShiftMaps {
    /// Row of the correlation's peak in scan pixels, absolute: no shift is `scan rows / 2`.
    pub y: Image,
    /// Column of the correlation's peak in scan pixels, absolute: no shift is `scan cols / 2`.
    pub x: Image,
    /// The documented correlation at the peak: grows with the dose, see `zncc`.
    pub quality: Image,
    /// The zero-mean normalised correlation at the peak (−1…1).
    pub zncc: Image,
}

impl ShiftMaps {
    /// The maps of a cache in which nothing up to step 4 is left to do.
    ///
    /// # Errors
    /// [`Cache`](crate::error::ErrorKind::Cache) when the cache is damaged.
    pub fn finished(ctx: &RunContext<'_>) -> Result<Option<Self>> {
        if !ctx.is_done(Step::Shifts) || !is_aligned(ctx) {
            return Ok(None);
        }
        let cache = ctx.cache();
        let read = |name: &str| cache.group().read_image(name);
        Ok(Some(Self { y: read("shift_y")?, x: read("shift_x")?, quality: read("quality")?, zncc: read("zncc")? }))
    }
}

/// Collects the peaks into maps and keeps them in the cache. With a fitted model (and the stack that it was fitted to) the
/// shifts are the model's, refined; quality and `zncc` are those of the peaks all the same.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io).
pub fn find_shifts(
    ctx: &RunContext<'_>,
    correlations: &Correlations,
    disk: &BrightDisk,
    fit: Option<(&AberrationFit, &Stack)>,
) -> Result<ShiftMaps> {
    let DetShape { rows, cols } = correlations.crop;
    let map = |column: usize| Image::from_shape_fn((rows, cols), |(r, c)| correlations.peaks.row(r * cols + c)[column]);
    let (mut y, mut x) = fit.map_or_else(|| (map(0), map(1)), |(fit, _)| model_maps(ctx, disk, fit));
    let refined = match fit {
        Some((_, stack)) if ctx.config.align.refine == Refine::Auto => {
            Some(refine(ctx, disk, stack, &pixels_in_disk(disk), &mut y, &mut x)?)
        }
        _ => None,
    };
    let maps = ShiftMaps { y, x, quality: map(2), zncc: map(3) };
    let mut cache = ctx.cache();
    for (name, image) in [("shift_y", &maps.y), ("shift_x", &maps.x), ("quality", &maps.quality), ("zncc", &maps.zncc)]
    {
        cache.group().write_image(name, image, ["det_row", "det_col"])?;
    }
    let result = fit.map(|(fit, _)| serde_json::to_value(fit)).transpose().map_err(|e| Error::bug(e.to_string()))?;
    let mut result = result.unwrap_or_else(|| json!({}));
    if let Some(report) = refined {
        result["refine"] = serde_json::to_value(report).map_err(|e| Error::bug(e.to_string()))?;
    }
    cache.mark_done(Step::Shifts, result, true)?;
    Ok(maps)
}
