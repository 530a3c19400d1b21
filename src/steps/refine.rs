//! Refines the shift maps of a fit by what the detector pixels' own images say, where the dose allows it.
//!
//! Every image is compared with what the images of the other colour of the checkerboard predict for it, with all shifts as
//! they are so far, and the displacement that is left is measured (`kernel/crosspower/residual.rs`). The prediction knows
//! which side bands reach a pixel and which frequencies the scan folds, so that a displacement is all that is left for a
//! displacement to explain. Groups of neighbouring detector pixels get smaller from iteration to iteration, down to single
//! ones, as long as their precision is better than what it has to explain. Where displacements are too large to be measured
//! in one step, the middle of the disk comes first, and what it says is continued outwards, ring by ring.
//!
//! The residual displacements are not believed one by one: they are fitted, with outliers left out, by the slopes of
//! aberrations, order by order. What is then left of single pixels is applied, shortened by the part that noise has in it,
//! only if slow and fast frequencies agree on it.
//!
//! **The maps must never get worse.** An order is taken only when
//! 1. groups of one colour of a checkerboard are predicted better, and significantly so, by a fit to the other colour, and
//! 2. slow and fast frequencies, which err differently where the model of the images is wrong, agree on the correction to a
//!    third of it, and
//! 3. it is larger than what strong scattering alone can fake.
//!
//! Otherwise the maps stay as they are, to the last bit. Without a calibration nothing is refined. Everything runs from the
//! spectra that the fit has used; no shifted stack is made.

mod measure;
mod pixels;
mod regress;
mod report;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::axes::{Image, Plane};
use crate::cache::{Extra, Step};
use crate::error::Result;
use crate::kernel::crosspower::HalfSets;
use crate::kernel::crosspower::joint::groups;
use crate::kernel::crosspower::residual::{self, Optics, Residuals};
use crate::steps::context::RunContext;
use crate::steps::parametric::FitSpectra;
use crate::steps::step1_detect::BrightDisk;
pub(super) use measure::bytes;
use measure::{Level, Measured, good_pixels, left_by, pixel_residuals, robust_rms};
use regress::{Field, ORDERS, fit, outliers, validate};
pub use report::{OrderTrial, PixelTrial, RefineIteration, RefineReport};

/// Fewer spectra, or groups, say nothing.
const LEAST_SPECTRA: usize = 40;
const LEAST_GROUPS: usize = 24;
/// Median height of the groups' predictions over what is left, in standard deviations.
const LEAST_SIGNIFICANCE: f64 = 6.0;
/// Standard deviations by which the error of held-out groups must fall.
const LEAST_FALL: f64 = 3.0;
/// A correction must be this many times what slow and fast frequencies differ by (half of their difference).
const LEAST_AGREEMENT: f64 = 3.0;
/// A correction below this (RMS, scan pixels) is not taken: from true maps strong scattering alone gave up to 0.008 in
/// simulations at doses that leave no noise.
const LEAST_CORRECTION: f64 = 0.01;
/// A change below this (RMS, scan pixels) ends the iteration.
const SMALL_CHANGE: f64 = 5e-4;
const MOST_ITERATIONS: usize = 14;
/// Residuals beyond this (RMS, scan pixels) are not measured in one step.
const FAR: f64 = 0.12;
/// Parts of the disk's radius that are then looked at one after the other, and steps in each.
const RINGS: [f64; 3] = [0.45, 0.6, 0.8];
const RING_ITERATIONS: usize = 3;
/// Numbers that a measurement goes through, at most: what is found must not depend on the budget.
const MOST_PRODUCTS: usize = 3 << 20;
/// Steps of single pixels.
const PIXEL_ROUNDS: usize = 3;

/// Refines absolute shift maps (`y`, `x`: `[crop row, crop col]`, no shift is half of the scan) by the spectra of the fit.
/// Publishes `residual_y` and `residual_x` when something was measured.
///
/// # Errors
/// [`Memory`](crate::error::ErrorKind::Memory), [`Interrupted`](crate::error::ErrorKind::Interrupted),
/// [`Io`](crate::error::ErrorKind::Io).
pub fn refine(
    ctx: &RunContext<'_>,
    disk: &BrightDisk,
    spectra: &FitSpectra,
    optics: Option<&Optics>,
    (y, x): (&mut Image, &mut Image),
) -> Result<RefineReport> {
    let kept = |outcome: &str| Ok(RefineReport { outcome: outcome.to_owned(), ..RefineReport::default() });
    let Some(optics) = optics else {
        return kept("kept: without energy, scan step and detector angle it is unknown what the images should be");
    };
    let sets = &spectra.fine;
    let places = residual::places(sets);
    let all = groups(sets);
    let stride = (sets.frequencies.len() * places.len()).div_ceil(MOST_PRODUCTS) | 1;
    let groups: Vec<Range<usize>> = all.into_iter().step_by(stride).collect();
    if groups.len() < LEAST_SPECTRA {
        return kept("kept: too few frequencies");
    }
    let cols = disk.crop.shape().cols;
    let crop_index = |k: &[f64; 2]| {
        let [row, col] = [k[0] + disk.center[0], k[1] + disk.center[1]].map(|v| v.round() as usize);
        (row - disk.crop.row0) * cols + col - disk.crop.col0
    };
    let pixels: Vec<usize> = places.iter().map(crop_index).collect();
    let none = [(ctx.scan.rows / 2) as f64, (ctx.scan.cols / 2) as f64];
    let shift = |p: &usize| [y[[p / cols, p % cols]] - none[0], x[[p / cols, p % cols]] - none[1]];
    let displacements = pixels.iter().map(shift).collect();
    let _charge = ctx.budget.charge(bytes(places.len()) as u64, "the normal equations of the refinement")?;
    ctx.progress.begin("refine", groups.len() as u64);
    let good = good_pixels(sets, &groups, places.len());
    let left_out = good.iter().filter(|good| !**good).count();
    let frequencies = groups.len();
    let mut run = Run {
        ctx,
        disk,
        sets,
        optics,
        groups,
        places,
        pixels,
        good,
        displacements,
        fields: Vec::new(),
        last: None,
        single: None,
        residuals: None,
    };
    let mut report = run.iterate()?;
    ctx.progress.end();
    report.pixels_left_out = left_out;
    report.frequencies = frequencies;
    if report.changed {
        for row in 0..y.nrows() {
            for col in 0..y.ncols() {
                let place =
                    [(row + disk.crop.row0) as f64 - disk.center[0], (col + disk.crop.col0) as f64 - disk.center[1]];
                let [dy, dx] = run.correction(place);
                y[[row, col]] += dy;
                x[[row, col]] += dx;
            }
        }
        for (pixel, [dy, dx]) in run.single.iter().flatten() {
            y[[pixel / cols, pixel % cols]] += dy;
            x[[pixel / cols, pixel % cols]] += dx;
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
    sets: &'a HalfSets,
    optics: &'a Optics,
    groups: Vec<Range<usize>>,
    /// Detector pixels from the disk's centre, and their crop indices.
    places: Vec<[f64; 2]>,
    pixels: Vec<usize>,
    good: Vec<bool>,
    /// So far, one for each pixel.
    displacements: Vec<[f64; 2]>,
    /// Corrections that were taken.
    fields: Vec<Field>,
    /// The last one, if it was not continued as a series.
    last: Option<Field>,
    /// Corrections of single pixels, by crop index.
    single: Option<Vec<(usize, [f64; 2])>>,
    /// What the last measurement leaves.
    residuals: Option<Vec<(Vec<usize>, [f64; 2])>>,
}

impl Run<'_> {
    fn on_scan(&self, place: [f64; 2]) -> [f64; 2] {
        self.optics.model.on_scan(place).map(|v| v / self.optics.radius)
    }

    /// The whole smooth correction at a place on the detector.
    fn correction(&self, place: [f64; 2]) -> [f64; 2] {
        let place = self.on_scan(place);
        self.fields.iter().fold([0.0; 2], |sum, field| {
            let [row, col] = field.at(place);
            [sum[0] + row, sum[1] + col]
        })
    }

    fn iterate(&mut self) -> Result<RefineReport> {
        let mut report = RefineReport {
            outcome: "kept: too few counts for groups of detector pixels".to_owned(),
            ..RefineReport::default()
        };
        // The largest bins of which enough lie in the disk.
        let area = self.places.len() / (2 * LEAST_GROUPS);
        let mut bin = 1 << (area.max(1).ilog2() / 2);
        let mut measured = self.measure(1.0)?;
        let first = self.level(&measured, bin);
        if first.median(|f| f.significance) >= LEAST_SIGNIFICANCE && first.spread() > FAR {
            self.centre_out(&mut report)?;
            measured = self.measure(1.0)?;
        }
        for _ in 0..MOST_ITERATIONS {
            let level = self.level(&measured, bin);
            if level.median(|f| f.significance) < LEAST_SIGNIFICANCE || level.found().count() < LEAST_GROUPS {
                break;
            }
            let (iteration, spread) = self.improve(&level);
            let (change, precision) = (iteration.rms_change, iteration.precision);
            self.keep(iteration, spread, &mut report);
            if change > SMALL_CHANGE {
                measured = self.measure(1.0)?;
                continue;
            }
            if bin == 1 {
                self.pixel_by_pixel(&level, &mut report)?;
                break;
            }
            // Half the bin has twice the noise; it must still be better than what there is to explain.
            if 2.0 * precision > spread {
                break;
            }
            bin /= 2;
        }
        if report.changed {
            let mut all: Vec<_> = self.places.iter().map(|k| self.correction(*k)).collect();
            let single: BTreeMap<usize, [f64; 2]> = self.single.iter().flatten().copied().collect();
            for (sum, pixel) in all.iter_mut().zip(&self.pixels) {
                let [dy, dx] = single.get(pixel).copied().unwrap_or_default();
                *sum = [sum[0] + dy, sum[1] + dx];
            }
            report.rms_change = rms(&all);
            report.outcome = format!("corrected by {:.4} scan pixels (RMS)", report.rms_change);
        }
        Ok(report)
    }

    /// Centre-out: in the middle of the disk displacements differ little, and what is found there tells what to expect
    /// further out.
    fn centre_out(&mut self, report: &mut RefineReport) -> Result<()> {
        for reach in RINGS {
            for _ in 0..RING_ITERATIONS {
                let level = self.level(&self.measure(reach)?, 1);
                if level.found().count() < LEAST_GROUPS {
                    break;
                }
                let (iteration, spread) = self.improve(&level);
                let change = iteration.rms_change;
                self.keep(iteration, spread, report);
                if change < SMALL_CHANGE {
                    break;
                }
            }
        }
        Ok(())
    }

    fn keep(&self, iteration: RefineIteration, spread: f64, report: &mut RefineReport) {
        self.ctx.progress.note(&iteration.to_string());
        report.changed |= iteration.rms_change > 0.0;
        report.rms_residual = Some(spread);
        report.iterations.push(iteration);
        "kept: the groups agree with the maps as they are".clone_into(&mut report.outcome);
    }

    /// Measures the pixels within a part of the disk's radius, against each other.
    fn measure(&self, reach: f64) -> Result<Measured> {
        self.ctx.cancel.check()?;
        let used: Vec<bool> = self
            .places
            .iter()
            .zip(&self.good)
            .map(|(k, good)| *good && k[0].hypot(k[1]) <= reach * self.optics.radius)
            .collect();
        let residuals = Residuals::new(self.sets, self.optics, &self.displacements, &used);
        Ok(Measured::new(self.ctx, &residuals, (&self.groups, self.places.len()), reach))
    }

    fn level(&self, measured: &Measured, bin: usize) -> Level {
        let mean = |members: &[usize], a: usize| {
            members.iter().map(|&i| self.places[i][a]).sum::<f64>() / members.len() as f64
        };
        let place = |members: &[usize]| self.on_scan([mean(members, 0), mean(members, 1)]);
        Level::new(measured, bin, (&self.pixels, self.disk.crop.shape().cols), place)
    }

    /// Takes what a level justifies. Returns also the RMS of what it leaves.
    fn improve(&mut self, level: &Level) -> (RefineIteration, f64) {
        let [all, slow, fast] = [0, 1, 2].map(|band| level.residuals(band));
        let places: Vec<[f64; 2]> = self.places.iter().map(|k| self.on_scan(*k)).collect();
        let mut taken: Vec<u8> = Vec::new();
        let (mut trials, mut error) = (Vec::new(), [0.0; 2]);
        let before: Vec<u8> = self.fields.iter().flat_map(Field::orders).copied().collect();
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
                && rms > if before.contains(&order) { SMALL_CHANGE } else { LEAST_CORRECTION }
                && agrees(rms, disagreement)
                && agrees(field.rms(&places), difference.rms(&places) / 2.0);
            trials.push(OrderTrial { order, significance: validation.significance, rms, disagreement, taken: ok });
            if ok {
                taken = more;
                error[1] = validation.after;
            }
        }
        let field = fit(&all, &taken).unwrap_or_default();
        let rejected = [level.groups.len() - level.found().count(), outliers(&all, &field)];
        let mut rms_change = 0.0;
        let left = left_by(level, &field);
        let spread = robust_rms(&left.iter().map(|(_, r)| *r).collect::<Vec<_>>());
        self.residuals = Some(left);
        if !taken.is_empty() {
            let field = field.continued(&mut self.last, &places);
            for (d, k) in self.displacements.iter_mut().zip(&places) {
                let [row, col] = field.at(*k);
                *d = [d[0] + row, d[1] + col];
            }
            rms_change = field.rms(&places);
            self.fields.push(field);
        }
        let iteration = RefineIteration {
            bin: level.bin,
            reach: level.reach,
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

    /// Moves each pixel by its own displacement where slow and fast frequencies agree on them.
    fn pixel_by_pixel(&mut self, level: &Level, report: &mut RefineReport) -> Result<()> {
        let mut each = pixel_residuals(level);
        let Some(trial) = pixels::judge(&each) else { return Ok(()) };
        report.pixels = Some(trial);
        if !trial.taken {
            return Ok(());
        }
        report.changed = true;
        let smooth = self.displacements.clone();
        // One step is right to first order only.
        for _ in 0..PIXEL_ROUNDS {
            for r in &each {
                let (own, from) = (r.shortened(trial.spread), smooth[r.pixel]);
                self.displacements[r.pixel] = [from[0] + own[0], from[1] + own[1]];
            }
            let level = self.level(&self.measure(1.0)?, 1);
            each = pixel_residuals(&level);
            for r in &mut each {
                let (now, from) = (self.displacements[r.pixel], smooth[r.pixel]);
                r.add([now[0] - from[0], now[1] - from[1]]);
            }
            let left = left_by(&level, &fit(&level.residuals(0), &[]).unwrap_or_default());
            report.rms_residual = Some(robust_rms(&left.iter().map(|(_, r)| *r).collect::<Vec<_>>()));
            self.residuals = Some(left);
        }
        let own = self.displacements.iter().zip(&smooth).map(|(d, s)| [d[0] - s[0], d[1] - s[1]]);
        self.single = Some(self.pixels.iter().copied().zip(own).collect());
        Ok(())
    }

    fn publish(&self, shape: (usize, usize)) -> Result<()> {
        let Some(residuals) = &self.residuals else { return Ok(()) };
        let cols = self.disk.crop.shape().cols;
        for (axis, (name, title)) in
            [("residual_y", "Residual shift, rows"), ("residual_x", "Residual shift, columns")].into_iter().enumerate()
        {
            let mut image = Image::from_elem(shape, f64::NAN);
            for (members, residual) in residuals {
                for &member in members {
                    let pixel = self.pixels[member];
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

fn rms(values: &[[f64; 2]]) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = [0, 1].map(|a| values.iter().map(|v| v[a]).sum::<f64>() / n);
    (values.iter().map(|v| (v[0] - mean[0]).powi(2) + (v[1] - mean[1]).powi(2)).sum::<f64>() / n).sqrt()
}
