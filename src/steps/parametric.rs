//! Shift maps from one small model that is fitted to all virtual images at once, instead of from single peaks.
//!
//! The fit maximises the cross power of two half-sums of detector pixels (see [`crosspower`](crate::kernel::crosspower)):
//! first over a grid of defocus, rotation and orientation of the detector with binned detector pixels and the slow
//! frequencies, then with a quasi-Newton method over all of them. With a calibration the search uses the filter of a weak
//! phase object; the plain shift is tried as well, and taken where it explains more of what neither fit has seen.

mod climb;
mod describe;
mod kernels;
mod orders;
mod outcome;
mod polish;
mod samples;
mod search;
mod side_bands;

use std::collections::BTreeMap;

use num_complex::Complex;
use serde::{Deserialize, Serialize};

use crate::axes::{Image, ScanShape, wavelength_angstrom};
use crate::error::{Error, Result};
use crate::kernel::aberrations::Aberrations;
use crate::kernel::crosspower::residual::{Higher, Optics};
use crate::kernel::crosspower::{HalfSets, Model};
use crate::memory::Charge;
use crate::steps::context::RunContext;
use crate::steps::refine;
use crate::steps::selection::usable_pixels;
use crate::steps::stack::CroppedStack;
use crate::steps::step1_detect::BrightDisk;
use describe::{Guess, describe};
use samples::{Band, Samples};
use search::Fit;

/// Part of the disk's radius that is used: the edge itself is half vacuum.
const USED_RADIUS: f64 = 0.95;
/// Part of the information limit (twice the aperture) up to which the fit looks: beyond it the displaced disks hardly
/// overlap, and what is folded onto there is stronger than what is there.
const USED_BAND: f64 = 0.64;
/// Spectra of the fit at most, and of the grid.
const MOST_FREQUENCIES: usize = 2500;
/// Numbers that one evaluation of the fit goes through, at most, and spectra that it needs in any case.
const MOST_PRODUCTS: usize = 8 << 20;
const FEWEST_SPECTRA: usize = 300;
const GRID_FREQUENCIES: usize = 250;
/// Cycles per scan pixel beyond which the grid would have to be finer than it is.
const GRID_LIMIT: f64 = 0.25;

/// What the fit found. Aberrations are in Å on the scan's axes; without a calibration only what scan pixels and detector
/// pixels can say is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AberrationFit {
    /// `c1, c2a, c2b` in scan pixels per detector pixel and the rotation in radians, see
    /// [`Model`](crate::kernel::crosspower::Model).
    pub parameters: [f64; 4],
    /// Whether the detector's axes are exchanged.
    pub transposed: bool,
    /// `shift` or `weak-phase`.
    pub kernel: String,
    /// How the two kernels compare, with a calibration.
    #[serde(default)]
    pub kernel_trial: Option<KernelTrial>,
    /// Cross power over power of the half-sums (at most 1).
    pub coherence: f64,
    /// Height above wrong models in robust standard deviations.
    pub significance: f64,
    /// C10 (the negative of the defocus) in Å, with a calibration.
    pub c10_angstrom: Option<f64>,
    /// `[C12a, C12b]` in Å, with a calibration.
    pub c12_angstrom: Option<[f64; 2]>,
    /// Rotation from detector to scan axes in degrees, between −90 and 90 unless the user's guess says otherwise.
    pub rotation_deg: f64,
    /// The other solution: the same shifts with opposite contrast.
    pub other_branch: String,
    /// Why this branch and not the other.
    #[serde(default)]
    pub branch_reason: String,
    /// Standard deviations by the name of what they belong to: `c10`, `c12a`, `c12b` (Å; scan pixels per detector pixel
    /// without a calibration), `rotation` (degrees), and those of higher orders (Å).
    #[serde(default)]
    pub standard_deviations: BTreeMap<String, f64>,
    /// A model elsewhere that explains the data nearly as well, in words.
    #[serde(default)]
    pub rival: Option<String>,
    /// Aberrations of third and higher powers of the angle, where the data show them.
    #[serde(default)]
    pub higher: Aberrations,
    /// What each tried order gained.
    #[serde(default)]
    pub orders: Vec<TriedOrder>,
    /// The coherence at the start and after each step of the last part of the search, with all detector pixels and
    /// frequencies.
    #[serde(default)]
    pub convergence: Vec<f64>,
    /// Angles and lengths of the pixels, with a calibration.
    #[serde(default)]
    pub sampling: Option<Sampling>,
}

/// What the two kernels explain of frequencies that their fits did not see.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct KernelTrial {
    /// Cross power that the weak-phase kernel explains.
    pub weak_phase: f64,
    /// Cross power that the shift kernel explains, normalised the same.
    pub shift: f64,
    /// By how many standard errors of the frequencies' scatter the weak-phase kernel explains more (negative: the shift
    /// kernel), each group of frequencies counted by the root of its power.
    pub lead: f64,
    /// By how many standard deviations the aberrations from displacements alone differ from those with contrast, where
    /// displacements are large enough to say.
    #[serde(default)]
    pub contradiction: Option<f64>,
    /// Whether the aberrations are those from displacements alone.
    #[serde(default)]
    pub by_displacements: bool,
}

/// What an order of aberrations gained where it was not fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TriedOrder {
    /// The order `m` of `Cmn`.
    pub order: u8,
    /// Gain of the objective at frequencies that the fit did not see, in standard errors.
    pub gain: f64,
    /// Whether it was kept.
    pub kept: bool,
}

/// Sizes of the pixels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Angle of a detector pixel in radians.
    pub pixel_rad: f64,
    /// Scan step in Å.
    pub step_angstrom: f64,
    /// Wavelength in Å.
    pub wavelength_angstrom: f64,
}

impl Sampling {
    fn of(ctx: &RunContext<'_>, disk: &BrightDisk) -> Option<Self> {
        let c = &ctx.config.calibration;
        Some(Self {
            pixel_rad: c.pixel_mrad(disk.radius)? * 1e-3,
            step_angstrom: c.scan_step_angstrom?,
            wavelength_angstrom: wavelength_angstrom(c.energy_ev?),
        })
    }

    /// Detector pixels that one cycle per scan pixel scatters by.
    fn pixels_per_frequency(&self) -> f64 {
        self.wavelength_angstrom / (self.pixel_rad * self.step_angstrom)
    }

    /// Å of C10 or C12 per unit of the model's `c1`, `c2a`, `c2b`.
    fn angstrom(&self) -> f64 {
        self.step_angstrom / self.pixel_rad
    }
}

impl AberrationFit {
    /// The model up to second order.
    pub fn model(&self) -> Model {
        Model { parameters: self.parameters, transposed: self.transposed }
    }

    /// What measures residual displacements, for a disk of `radius` detector pixels, with a calibration.
    pub fn optics(&self, radius: f64) -> Option<Optics> {
        let s = self.sampling?;
        let higher = (!self.higher.is_empty()).then(|| Higher {
            aberrations: self.higher.clone(),
            pixel_rad: s.pixel_rad,
            frequency_rad: s.wavelength_angstrom / s.step_angstrom,
            wavelength_angstrom: s.wavelength_angstrom,
        });
        Some(Optics { model: self.model(), pixels_per_frequency: s.pixels_per_frequency(), radius, higher })
    }

    /// All aberrations in Å on the scan's axes, with a calibration.
    pub fn aberrations(&self) -> Option<Aberrations> {
        let [c1, c2a, c2b, _] = self.parameters;
        let unit = self.sampling?.angstrom();
        Some(Aberrations::quadratic(c1 * unit, [c2a * unit, c2b * unit]).plus(&self.higher))
    }

    /// Displacement of a detector pixel's image in scan pixels, for a pixel `[row, col]` from the disk's centre.
    pub fn displacement(&self, k: [f64; 2]) -> [f64; 2] {
        let d = self.model().displacement(k);
        let Some(sampling) = self.sampling.filter(|_| !self.higher.is_empty()) else { return d };
        let angle = self.model().on_scan(k).map(|k| k * sampling.pixel_rad);
        let s = self.higher.gradient(angle);
        [d[0] - s[0] / sampling.step_angstrom, d[1] - s[1] / sampling.step_angstrom]
    }

    /// The even and the odd part of the aberration function `χ` in radians, as a function of the frequency `[row, col]`
    /// in cycles per scan pixel; 0 for an unknown calibration.
    pub fn chi(&self) -> impl Fn([f64; 2]) -> (f64, f64) + Sync + use<> {
        let known = self.aberrations().zip(self.sampling);
        move |q| {
            let Some((all, s)) = &known else { return (0.0, 0.0) };
            let angle = q.map(|q| q / s.step_angstrom * s.wavelength_angstrom);
            (all.chi_even(angle, s.wavelength_angstrom), all.chi_odd(angle, s.wavelength_angstrom))
        }
    }
}

/// Spectra of the disk's images, which the fit and the refinement work on.
#[derive(Debug)]
pub struct FitSpectra {
    /// All detector pixels, all chosen frequencies.
    pub(super) fine: HalfSets,
    /// Binned detector pixels at slow frequencies.
    coarse: HalfSets,
    /// Binned detector pixels at all frequencies that the scan does not fold.
    wide: HalfSets,
    _charge: Charge,
}

/// Gathers the spectra of the disk's images at the strongest frequencies.
///
/// # Errors
/// [`Unresolved`](crate::error::ErrorKind::Unresolved) when there are too few detector pixels;
/// [`Memory`](crate::error::ErrorKind::Memory), [`Interrupted`](crate::error::ErrorKind::Interrupted).
pub fn fit_spectra(ctx: &RunContext<'_>, disk: &BrightDisk, stack: &CroppedStack) -> Result<FitSpectra> {
    let pixels = disk_pixels(disk, &usable_pixels(ctx, disk, &stack.bad_pixels, 0.0)?);
    if pixels.len() < 12 {
        return Err(Error::unresolved(format!(
            "only {} detector pixels lie inside the disk: too few to fit aberrations",
            pixels.len()
        ))
        .with_hint("use `--set align.method=classic`"));
    }
    ctx.progress.begin("fit", 4 * (pixels.len() * ctx.scan.len()) as u64);
    let limit = pixels_per_frequency(ctx, disk).map(|g| USED_BAND * 2.0 * disk.radius / g);
    let band = Band { limit: limit.unwrap_or(1.0), folded: limit.is_some() };
    let samples = Samples::gather(ctx, &stack.stack, disk, &pixels, band)?;
    let fine = samples.half_sets(disk, 1, MOST_FREQUENCIES, band);
    let bin = (disk.radius / 10.0).round().max(1.0) as usize;
    let coarse = samples.half_sets(disk, bin, GRID_FREQUENCIES, Band { limit: GRID_LIMIT, folded: false });
    let wide = samples.half_sets(disk, bin, 2 * GRID_FREQUENCIES, Band { folded: false, ..band });
    let kept: usize = [&fine, &coarse, &wide].into_iter().map(HalfSets::bytes).sum();
    let charge = ctx.budget.charge(kept as u64, "spectra of the fit")?;
    Ok(FitSpectra { fine, coarse, wide, _charge: charge })
}

/// Fits the model to the spectra of the disk's images.
///
/// # Errors
/// [`Unresolved`](crate::error::ErrorKind::Unresolved) when nothing significant is found;
/// [`Config`](crate::error::ErrorKind::Config) for guesses that contradict each other;
/// [`Interrupted`](crate::error::ErrorKind::Interrupted).
pub fn fit_aberrations(ctx: &RunContext<'_>, disk: &BrightDisk, spectra: &FitSpectra) -> Result<AberrationFit> {
    let guess = Guess::of(ctx, disk)?;
    let search = Fit { ctx, disk, fine: &spectra.fine, coarse: &spectra.coarse, wide: &spectra.wide };
    let fit = ctx.workers.install(|| -> Result<AberrationFit> {
        let found = search.run(&guess.models)?;
        describe(ctx, disk, &spectra.fine, &found, &guess)
    });
    ctx.progress.end();
    fit
}

/// Spectra that the fit works on, for so many detector pixels: the same for every budget, as the result must be.
fn spectra_for(pixels: usize) -> usize {
    // A folded spectrum serves about four frequencies.
    (MOST_PRODUCTS / (4 * pixels.max(1))).clamp(FEWEST_SPECTRA, MOST_FREQUENCIES)
}

/// Memory in bytes that fit and refinement take: spectra gathered, sorted by colours, and binned; or, before that, those that
/// say which frequencies are strong; or, after it, what the refinement adds to those that are kept.
pub fn fit_bytes(disk: &BrightDisk, scan: ScanShape) -> u64 {
    let radius = USED_RADIUS * disk.radius;
    let pixels = (std::f64::consts::PI * radius * radius).min(disk.crop.shape().len() as f64).ceil() as usize;
    let count = spectra_for(pixels).min(scan.len() / 2);
    let kept = 3 * size_of::<Complex<f32>>() * pixels * count;
    let probed = samples::PROBED_AT_ONCE * scan.len() / 2 * size_of::<f64>();
    // Frequencies, their order and strength.
    (kept.max(probed).max(kept / 3 * 2 + refine::bytes(pixels)) + 20 * scan.len()) as u64
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
    Sampling::of(ctx, disk).map(|sampling| sampling.pixels_per_frequency())
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
