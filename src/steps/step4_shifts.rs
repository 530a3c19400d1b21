//! Step 4: shift maps out of the peaks.

use serde_json::json;

use crate::axes::{DetShape, Image};
use crate::cache::Step;
use crate::error::Result;
use crate::steps::context::RunContext;
use crate::steps::step3_correlate::Correlations;

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

/// Collects the peaks into maps and keeps them in the cache.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io).
pub fn find_shifts(ctx: &RunContext<'_>, correlations: &Correlations) -> Result<ShiftMaps> {
    let DetShape { rows, cols } = correlations.crop;
    let map = |column: usize| {
        Image::from_shape_fn((rows, cols), |(r, c)| correlations.peaks.row(r * cols + c)[column])
    };
    let maps = ShiftMaps { y: map(0), x: map(1), quality: map(2), zncc: map(3) };
    let mut cache = ctx.cache();
    for (name, image) in [("shift_y", &maps.y), ("shift_x", &maps.x), ("quality", &maps.quality), ("zncc", &maps.zncc)] {
        cache.group().write_image(name, image, ["det_row", "det_col"])?;
    }
    cache.mark_done(Step::Shifts, json!({}), true)?;
    Ok(maps)
}
