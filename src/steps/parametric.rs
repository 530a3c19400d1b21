//! Shift maps from one small model that is fitted to all virtual images at once, instead of from single peaks.
//!
//! The fit maximises the cross power of two half-sums of detector pixels (see [`crosspower`](crate::kernel::crosspower)):
//! first over a grid of defocus, rotation and orientation of the detector with binned detector pixels and the slow
//! frequencies, then with a quasi-Newton method over all of them. With a calibration the exact factor of a weak phase
//! object is tried as well, and kept where it explains the data better.

mod samples;
mod search;

use serde::{Deserialize, Serialize};

use crate::axes::{Calibration, Image, wavelength_angstrom};
use crate::error::{Error, Result};
use crate::kernel::crosspower::Model;
use crate::steps::context::RunContext;
use crate::steps::selection::usable_pixels;
use crate::steps::stack::Stack;
use crate::steps::step1_detect::BrightDisk;
use samples::Samples;
use search::Fit;

/// Part of the disk's radius that is used: the edge itself is half vacuum.
const USED_RADIUS: f64 = 0.95;
/// Frequencies of the fit at most, and of the grid.
const MOST_FREQUENCIES: usize = 2500;
const GRID_FREQUENCIES: usize = 400;
/// Cycles per scan pixel beyond which the grid would have to be finer than it is.
const GRID_LIMIT: f64 = 0.25;

/// What the fit found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AberrationFit {
    /// `c1, c2a, c2b` in scan pixels per detector pixel and the rotation in radians, see
    /// [`Model`](crate::kernel::crosspower::Model).
    pub parameters: [f64; 4],
    /// Whether the detector's axes are exchanged.
    pub transposed: bool,
    /// `shift` or `weak-phase`.
    pub kernel: String,
    /// Cross power over power of the half-sums (at most 1).
    pub coherence: f64,
    /// Height above the grid's median in robust standard deviations.
    pub significance: f64,
    /// C10 (the negative of the defocus) in Å, with a calibration.
    pub c10_angstrom: Option<f64>,
    /// `[C12a, C12b]` in Å, with a calibration.
    pub c12_angstrom: Option<[f64; 2]>,
    /// Rotation from detector to scan axes in degrees, between −90 and 90.
    pub rotation_deg: f64,
    /// The other solution: the same shifts with opposite contrast.
    pub other_branch: String,
}

impl AberrationFit {
    /// Displacement of a detector pixel's image in scan pixels, for a pixel `[row, col]` from the disk's centre.
    pub fn displacement(&self, k: [f64; 2]) -> [f64; 2] {
        Model { parameters: self.parameters, transposed: self.transposed }.displacement(k)
    }
}

/// Fits the model to the images of the disk's detector pixels.
///
/// # Errors
/// [`Unresolved`](crate::error::ErrorKind::Unresolved) when nothing significant is found or there are too few detector
/// pixels; [`Memory`](crate::error::ErrorKind::Memory).
pub fn fit_aberrations(ctx: &RunContext<'_>, disk: &BrightDisk, stack: &Stack) -> Result<AberrationFit> {
    let pixels = disk_pixels(disk, &usable_pixels(ctx, disk)?);
    if pixels.len() < 12 {
        return Err(Error::unresolved(format!(
            "only {} detector pixels lie inside the disk: too few to fit aberrations",
            pixels.len()
        ))
        .with_hint("use `--set align.method=classic`"));
    }
    ctx.progress.begin("fit", 4 * (pixels.len() * ctx.scan.len()) as u64);
    let samples = Samples::gather(ctx, stack, disk, &pixels)?;
    let fine = samples.half_sets(disk, 1, MOST_FREQUENCIES, |_| true);
    let bin = (disk.radius / 10.0).round().max(1.0) as usize;
    let slow = |q: [f64; 2]| q[0].hypot(q[1]) <= GRID_LIMIT;
    let coarse = samples.half_sets(disk, bin, GRID_FREQUENCIES, slow);
    let wide = samples.half_sets(disk, bin, 2 * GRID_FREQUENCIES, |_| true);
    let fit = ctx.workers.install(|| Fit { ctx, disk, fine: &fine, coarse: &coarse, wide: &wide }.run());
    ctx.progress.end();
    fit
}

/// Crop indices of the usable detector pixels inside the disk, in order.
fn disk_pixels(disk: &BrightDisk, usable: &[bool]) -> Vec<usize> {
    let shape = disk.crop.shape();
    (0..shape.len())
        .filter(|&p| {
            let [r, c] = from_center(disk, p / shape.cols, p % shape.cols);
            usable[p] && r.hypot(c) <= USED_RADIUS * disk.radius
        })
        .collect()
}

/// Position of a crop pixel from the disk's centre.
pub(super) fn from_center(disk: &BrightDisk, row: usize, col: usize) -> [f64; 2] {
    [(row + disk.crop.row0) as f64 - disk.center[0], (col + disk.crop.col0) as f64 - disk.center[1]]
}

/// Detector pixels that one cycle per scan pixel scatters by, `λ / (Δα · step)`, with a calibration.
pub(super) fn pixels_per_frequency(ctx: &RunContext<'_>, disk: &BrightDisk) -> Option<f64> {
    let c = &ctx.config.calibration;
    let per_pixel = mrad_per_px(c, disk)? * 1e-3;
    Some(wavelength_angstrom(c.energy_ev?) / (per_pixel * c.scan_step_angstrom?))
}

/// Angle per detector pixel: given, or from the semi-angle and the disk's radius.
fn mrad_per_px(c: &Calibration, disk: &BrightDisk) -> Option<f64> {
    c.detector_mrad_per_px.or_else(|| c.semiangle_mrad.map(|a| a / disk.radius))
}

/// Absolute shift maps of the whole crop from the fitted model.
pub(super) fn model_maps(ctx: &RunContext<'_>, disk: &BrightDisk, fit: &AberrationFit) -> (Image, Image) {
    let shape = disk.crop.shape();
    let none = [(ctx.scan.rows / 2) as f64, (ctx.scan.cols / 2) as f64];
    let map = |axis: usize| {
        Image::from_shape_fn((shape.rows, shape.cols), |(r, c)| {
            none[axis] + fit.displacement(from_center(disk, r, c))[axis]
        })
    };
    (map(0), map(1))
}
