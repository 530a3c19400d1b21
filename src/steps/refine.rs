//! Refines the shift maps of a fit by what the detector pixels' own images say, where the dose allows it.
//!
//! The reference is the mean of all images, each moved back by its shift so far; a group of neighbouring detector pixels
//! is correlated with the mean of all the others, so that its noise correlates with nothing. Bins of detector pixels get
//! smaller from iteration to iteration, down to single ones, as long as their precision is better than what it has to
//! explain. The residual displacements are not believed one by one: they are fitted, with outliers left out, by the
//! slopes of aberrations, order by order.
//!
//! **The maps must never get worse.** An order is taken only when
//! 1. groups of one colour of a checkerboard are predicted better, and significantly so, by a fit to the other colour, and
//! 2. slow and fast frequencies, which err differently where the images are not displaced copies of one object, agree
//!    on the correction to a third of it, and
//! 3. it is larger than what strong scattering alone can fake.
//!
//! Otherwise the maps stay as they are, to the last bit. What is measured, and why only at some frequencies, stands in
//! `optics.rs`; without the calibration that this takes nothing is refined. Everything runs from spectra that are gathered
//! once from the unshifted stack; no shifted stack is made.

mod measure;
mod optics;
mod regress;
mod spectra;

use serde::{Deserialize, Serialize};

use crate::axes::{Image, Plane, ScanShape};
use crate::cache::{Extra, Step};
use crate::error::Result;
use crate::steps::context::RunContext;
use crate::steps::parametric::{from_center, pixels_per_frequency};
use crate::steps::selection::usable_pixels;
use crate::steps::stack::Stack;
use crate::steps::step1_detect::BrightDisk;
use measure::{Found, Group, Measurement, groups};
use optics::{Optics, aliases};
use regress::{Field, ORDERS, Residual, fit, outliers, validate};
use spectra::{Spectra, wanted_bins};

/// Part of the disk's radius that is used: the edge itself is half vacuum.
const USED_RADIUS: f64 = 0.95;
/// Fewer frequencies, or groups, say nothing.
const LEAST_FREQUENCIES: usize = 40;
const LEAST_GROUPS: usize = 24;
/// Median height of the groups' correlations over its noise.
const LEAST_SIGNIFICANCE: f64 = 6.0;
/// Standard deviations by which the error of held-out groups must fall.
const LEAST_FALL: f64 = 2.5;
/// A correction must be this many times what slow and fast frequencies differ by (half of their difference).
const LEAST_AGREEMENT: f64 = 3.0;
/// A correction below this (RMS, scan pixels) is not taken: from true maps strong scattering alone gave up to 0.008 in
/// simulations at doses that leave no noise.
const LEAST_CORRECTION: f64 = 0.01;
/// A change below this (RMS, scan pixels) ends the iteration.
const SMALL_CHANGE: f64 = 5e-4;
const MOST_ITERATIONS: usize = 8;

/// What the refinement did.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RefineReport {
    /// Why it ended, in words.
    pub outcome: String,
    /// Whether the maps were changed.
    pub changed: bool,
    /// RMS of the whole change over the used detector pixels, in scan pixels.
    pub rms_change: f64,
    /// RMS of the groups' residual displacements from the final maps, without outliers, in scan pixels.
    pub rms_residual: Option<f64>,
    /// Frequencies in use, beyond the scan's Nyquist frequency too.
    pub frequencies: usize,
    /// Detector pixels that were left out: without counts, or with a power that the object cannot have.
    pub pixels_left_out: usize,
    /// One after another.
    pub iterations: Vec<RefineIteration>,
}

/// One iteration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefineIteration {
    /// Detector pixels along the side of a group.
    pub bin: usize,
    /// Groups that were measured.
    pub groups: usize,
    /// Groups that could not be measured, and those that the fit took for outliers.
    pub rejected: [usize; 2],
    /// Median precision of a group from noise, in scan pixels (standard deviation of one component).
    pub precision: f64,
    /// Median height of the groups' correlations over its noise.
    pub significance: f64,
    /// Mean squared error of held-out groups in units of their noise, before the correction and with it.
    pub error: [f64; 2],
    /// The orders that were tried and how each one stood.
    pub orders: Vec<OrderTrial>,
    /// RMS of the correction over the used detector pixels, in scan pixels.
    pub rms_change: f64,
}

/// What one order of aberrations could explain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderTrial {
    /// 1: defocus, astigmatism and rotation; 2: coma and threefold astigmatism; ….
    pub order: u8,
    /// Fall of the held-out groups' error in standard deviations.
    pub significance: f64,
    /// RMS of this order's correction in scan pixels.
    pub rms: f64,
    /// Half of the difference between what slow and fast frequencies say, RMS in scan pixels.
    pub disagreement: f64,
    /// Whether it was taken.
    pub taken: bool,
}

/// Crop indices of the usable detector pixels inside the disk, in order.
///
/// # Errors
/// As [`usable_pixels`].
pub(super) fn pixels_in_disk(ctx: &RunContext<'_>, disk: &BrightDisk) -> Result<Vec<usize>> {
    let cols = disk.crop.shape().cols;
    let usable = usable_pixels(ctx, disk, 0.0)?;
    let inside = |p: &usize| {
        let [r, c] = from_center(disk, p / cols, p % cols);
        usable[*p] && r.hypot(c) <= USED_RADIUS * disk.radius
    };
    Ok((0..usable.len()).filter(inside).collect())
}

/// Memory in bytes that the refinement takes for its spectra and sums.
pub fn refine_bytes(disk: &BrightDisk, scan: ScanShape) -> u64 {
    let radius = USED_RADIUS * disk.radius;
    let pixels = (std::f64::consts::PI * radius * radius).min(disk.crop.shape().len() as f64).ceil();
    spectra::bytes(pixels as usize, scan)
}

/// Refines absolute shift maps (`y`, `x`: `[crop row, crop col]`, no shift is half of the scan) with the images of `used`,
/// crop indices in order. Publishes `residual_y` and `residual_x` when something was measured.
///
/// # Errors
/// [`Memory`](crate::error::ErrorKind::Memory), [`Interrupted`](crate::error::ErrorKind::Interrupted),
/// [`Io`](crate::error::ErrorKind::Io).
pub fn refine(
    ctx: &RunContext<'_>,
    disk: &BrightDisk,
    stack: &Stack,
    used: &[usize],
    y: &mut Image,
    x: &mut Image,
) -> Result<RefineReport> {
    let kept = |outcome: &str| Ok(RefineReport { outcome: outcome.to_owned(), ..RefineReport::default() });
    let Some(scale) = pixels_per_frequency(ctx, disk) else {
        return kept(
            "kept: without energy, scan step and detector angle it is unknown which frequencies are displaced copies",
        );
    };
    let cols = disk.crop.shape().cols;
    let none = [(ctx.scan.rows / 2) as f64, (ctx.scan.cols / 2) as f64];
    let shift = |pixel: usize| [y[[pixel / cols, pixel % cols]] - none[0], x[[pixel / cols, pixel % cols]] - none[1]];
    let places: Vec<_> = used.iter().map(|p| from_center(disk, p / cols, p % cols)).collect();
    let shifts: Vec<_> = used.iter().map(|p| shift(*p)).collect();
    let Some(optics) = Optics::new(&places, &shifts, scale, disk.radius) else {
        return kept("kept: the shifts are no linear map to begin with");
    };
    let wanted = |q: [f64; 2]| aliases(q).into_iter().any(|q| optics.is_useful(q));
    let bins = wanted_bins(ctx.scan, wanted);
    if bins.len() < LEAST_FREQUENCIES {
        return kept("kept: no frequencies at which the images are displaced copies of one object");
    }
    ctx.progress.begin("refine", (used.len() * ctx.scan.len()) as u64);
    let spectra = Spectra::gather(ctx, disk, stack, used, &bins)?;
    let displacements = spectra.pixels.iter().map(|p| shift(*p)).collect();
    let mut run = Run { ctx, disk, spectra: &spectra, scale, displacements, fields: Vec::new(), residuals: None };
    let mut report = run.iterate()?;
    ctx.progress.end();
    report.pixels_left_out = spectra.left_out;
    if report.changed {
        for row in 0..y.nrows() {
            for col in 0..y.ncols() {
                let [dy, dx] = run.correction(from_center(disk, row, col));
                y[[row, col]] += dy;
                x[[row, col]] += dx;
            }
        }
    }
    ctx.progress.note(&format!("refinement: {}", report.outcome));
    run.publish(y.dim())?;
    Ok(report)
}

/// The state of the iteration.
struct Run<'a> {
    ctx: &'a RunContext<'a>,
    disk: &'a BrightDisk,
    spectra: &'a Spectra,
    /// Detector pixels per cycle per scan pixel.
    scale: f64,
    /// So far, one for each of the spectra's pixels.
    displacements: Vec<[f64; 2]>,
    /// Corrections that were taken, with the optics whose axes they are written in.
    fields: Vec<(Optics, Field)>,
    /// What the last measurement leaves.
    residuals: Option<Vec<(Group, [f64; 2])>>,
}

/// A measurement of all groups of one size.
struct Level {
    optics: Optics,
    groups: Vec<Group>,
    found: Vec<Option<Found>>,
    frequencies: usize,
    bin: usize,
}

impl Level {
    /// The residuals of one band of frequencies (0 all, 1 slow, 2 fast), with the weights of all.
    fn residuals(&self, band: usize) -> Vec<Residual> {
        let measured = self.groups.iter().zip(&self.found).filter_map(|(group, found)| found.map(|f| (group, f)));
        measured
            .filter(|(_, found)| found.converged[band])
            .map(|(group, found)| Residual {
                place: self.optics.on_scan(group.place),
                shift: found.shifts[band],
                weight: inverse(found.covariance),
                colour: group.colour,
            })
            .collect()
    }

    fn median(&self, of: impl Fn(&Found) -> f64) -> f64 {
        let mut all: Vec<f64> = self.found.iter().flatten().map(of).collect();
        all.sort_unstable_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(0.0)
    }
}

impl Run<'_> {
    /// The whole correction at a place on the detector.
    fn correction(&self, place: [f64; 2]) -> [f64; 2] {
        self.fields.iter().fold([0.0; 2], |sum, (optics, field)| {
            let [row, col] = field.at(optics.on_scan(place));
            [sum[0] + row, sum[1] + col]
        })
    }

    fn iterate(&mut self) -> Result<RefineReport> {
        let outcome = |text: &str| text.to_owned();
        let mut report = RefineReport {
            outcome: outcome("kept: too few counts for groups of detector pixels"),
            ..RefineReport::default()
        };
        // The largest bins of which enough lie in the disk.
        let area = self.spectra.pixels.len() / (2 * LEAST_GROUPS);
        let mut bin = 1 << (area.max(1).ilog2() / 2);
        for _ in 0..MOST_ITERATIONS {
            let Some(level) = self.measure(bin)? else { break };
            report.frequencies = level.frequencies;
            if level.median(|f| f.significance) < LEAST_SIGNIFICANCE {
                break;
            }
            if level.found.iter().flatten().count() < LEAST_GROUPS {
                if bin == 1 {
                    break;
                }
                bin /= 2;
                continue;
            }
            let (iteration, spread) = self.improve(&level);
            self.ctx.progress.note(&iteration.to_string());
            let (change, precision) = (iteration.rms_change, iteration.precision);
            report.changed |= change > 0.0;
            report.rms_residual = Some(spread);
            report.iterations.push(iteration);
            report.outcome = outcome("kept: the groups agree with the maps as they are");
            if change > SMALL_CHANGE {
                continue;
            }
            // Half the bin has twice the noise; it must still be better than what there is to explain.
            if bin == 1 || 2.0 * precision > spread {
                break;
            }
            bin /= 2;
        }
        if report.changed {
            let places: Vec<_> = self.spectra.places.iter().map(|k| self.correction(*k)).collect();
            report.rms_change = rms(&places);
            report.outcome = format!("corrected by {:.4} scan pixels (RMS)", report.rms_change);
        }
        Ok(report)
    }

    fn measure(&self, bin: usize) -> Result<Option<Level>> {
        let spectra = self.spectra;
        let Some(optics) = Optics::new(&spectra.places, &self.displacements, self.scale, self.disk.radius) else {
            return Ok(None);
        };
        let measurement = Measurement::new(self.ctx, spectra, optics, &self.displacements)?;
        let groups = groups(spectra, self.disk.crop.shape().cols, bin);
        let found = measurement.measure(&groups)?;
        Ok(Some(Level { optics, groups, found, frequencies: measurement.frequencies(), bin }))
    }

    /// Takes what a level justifies. Returns also the RMS of what it leaves.
    fn improve(&mut self, level: &Level) -> (RefineIteration, f64) {
        let [all, slow, fast] = [0, 1, 2].map(|band| level.residuals(band));
        let places: Vec<[f64; 2]> = self.spectra.places.iter().map(|k| level.optics.on_scan(*k)).collect();
        let mut taken: Vec<u8> = Vec::new();
        let (mut trials, mut error) = (Vec::new(), [0.0; 2]);
        for order in ORDERS {
            let more: Vec<u8> = taken.iter().copied().chain([order]).collect();
            let fits = (fit(&all, &more), fit(&slow, &more), fit(&fast, &more), validate(&all, &taken, &more));
            let (Some(field), Some(slow), Some(fast), Some(validation)) = fits else { continue };
            if taken.is_empty() && order == ORDERS[0] {
                error = [validation.before; 2];
            }
            let difference = slow.minus(&fast);
            let part = |f: &Field| f.part(order).rms(&places);
            let (rms, disagreement) = (part(&field), part(&difference) / 2.0);
            let agrees = |rms: f64, disagreement: f64| rms > LEAST_AGREEMENT * disagreement;
            let ok = validation.significance > LEAST_FALL
                && validation.after < validation.before
                && rms > LEAST_CORRECTION
                && agrees(rms, disagreement)
                && agrees(field.rms(&places), difference.rms(&places) / 2.0);
            trials.push(OrderTrial { order, significance: validation.significance, rms, disagreement, taken: ok });
            if ok {
                taken = more;
                error[1] = validation.after;
            }
        }
        let field = fit(&all, &taken).unwrap_or_default();
        let rejected = [level.found.iter().filter(|f| f.is_none()).count(), outliers(&all, &field)];
        let rms_change = if taken.is_empty() { 0.0 } else { field.rms(&places) };
        let left: Vec<(Group, [f64; 2])> = level
            .groups
            .iter()
            .zip(&level.found)
            .filter_map(|(group, found)| found.map(|f| (group, f)))
            .map(|(group, found)| {
                let p = field.predict(level.optics.on_scan(group.place));
                (group.clone(), [found.shifts[0][0] - p[0], found.shifts[0][1] - p[1]])
            })
            .collect();
        let spread = robust_rms(&left.iter().map(|(_, r)| *r).collect::<Vec<_>>());
        self.residuals = Some(left);
        if !taken.is_empty() {
            for (d, k) in self.displacements.iter_mut().zip(&places) {
                let [row, col] = field.at(*k);
                *d = [d[0] + row, d[1] + col];
            }
            self.fields.push((level.optics, field));
        }
        let iteration = RefineIteration {
            bin: level.bin,
            groups: all.len(),
            rejected,
            precision: level.median(|f| (0.5 * (f.covariance[0] + f.covariance[2])).sqrt()),
            significance: level.median(|f| f.significance),
            error,
            orders: trials,
            rms_change,
        };
        (iteration, spread)
    }

    fn publish(&self, shape: (usize, usize)) -> Result<()> {
        let Some(residuals) = &self.residuals else { return Ok(()) };
        let cols = self.disk.crop.shape().cols;
        for (axis, (name, title)) in
            [("residual_y", "Residual shift, rows"), ("residual_x", "Residual shift, columns")].into_iter().enumerate()
        {
            let mut image = Image::from_elem(shape, f64::NAN);
            for (group, residual) in residuals {
                for &member in &group.members {
                    let pixel = self.spectra.pixels[member];
                    image[[pixel / cols, pixel % cols]] = residual[axis];
                }
            }
            let extra = Extra {
                name: name.to_owned(),
                title: title.to_owned(),
                units: "scan px".to_owned(),
                plane: Plane::Crop,
                step: Step::Shifts,
            };
            self.ctx.cache().publish(extra, &image)?;
        }
        Ok(())
    }
}

impl std::fmt::Display for RefineIteration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "refinement: {} groups of {bin}×{bin} pixels, {} + {} rejected, precision {:.4}, error of held-out groups {:.2} → {:.2}, change {:.4} scan pixels",
            self.groups,
            self.rejected[0],
            self.rejected[1],
            self.precision,
            self.error[0],
            self.error[1],
            self.rms_change,
            bin = self.bin,
        )
    }
}

/// Inverse of a symmetric matrix: row row, row col, col col.
fn inverse([a, b, d]: [f64; 3]) -> [f64; 3] {
    let det = a * d - b * b;
    if det > 0.0 { [d / det, -b / det, a / det] } else { [0.0; 3] }
}

fn rms(values: &[[f64; 2]]) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = [0, 1].map(|a| values.iter().map(|v| v[a]).sum::<f64>() / n);
    (values.iter().map(|v| (v[0] - mean[0]).powi(2) + (v[1] - mean[1]).powi(2)).sum::<f64>() / n).sqrt()
}

/// RMS length of two-dimensional residuals from their median: a normal distribution's squared lengths have the median
/// `2 ln 2` and the mean 2 variances.
fn robust_rms(values: &[[f64; 2]]) -> f64 {
    let mut squares: Vec<f64> = values.iter().map(|v| v[0] * v[0] + v[1] * v[1]).collect();
    squares.sort_unstable_by(f64::total_cmp);
    (squares.get(squares.len() / 2).copied().unwrap_or(0.0) / std::f64::consts::LN_2).sqrt()
}
