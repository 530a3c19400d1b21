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

mod pixels;
mod regress;

use std::collections::BTreeMap;
use std::ops::Range;

use num_complex::Complex64;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::axes::{Image, Plane};
use crate::cache::{Extra, Step};
use crate::error::Result;
use crate::kernel::crosspower::HalfSets;
use crate::kernel::crosspower::joint::{MOST_FILTERS, groups};
use crate::kernel::crosspower::residual::{self, Normal, Optics, Residuals, SPEEDS, Solution};
use crate::steps::context::RunContext;
use crate::steps::parametric::FitSpectra;
use crate::steps::step1_detect::BrightDisk;
use pixels::PixelResidual;
use regress::{Field, ORDERS, Residual, fit, outliers, validate};

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
/// Two corrections in a row of which the second is this part of the first, at least and at most, are continued as a series.
const SERIES: Range<f64> = 0.15..0.9;
/// Residuals beyond this (RMS, scan pixels) are not measured in one step.
const FAR: f64 = 0.12;
/// Parts of the disk's radius that are then looked at one after the other, and steps in each.
const RINGS: [f64; 3] = [0.45, 0.6, 0.8];
const RING_ITERATIONS: usize = 3;
/// Numbers that a measurement goes through, at most: what is found must not depend on the budget.
const MOST_PRODUCTS: usize = 3 << 20;
/// Steps of single pixels.
const PIXEL_ROUNDS: usize = 3;
/// Pieces of one measurement: a fixed number, so that sums do not depend on the number of threads.
const PIECES: usize = 8;
/// An image whose power lies elsewhere, as part of the median, is not one of the object: nothing is left of a dead pixel but
/// rounding.
const POWERS: Range<f64> = 0.01..4.0;
/// A group that is weaker or stronger than predicted by more is not one of the object either.
const GAINS: Range<f64> = -0.5..1.0;

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
    /// Spectra in use; each of them serves all frequencies that the scan folds there.
    pub frequencies: usize,
    /// Detector pixels that were left out: without counts, or with a power that the object cannot have.
    pub pixels_left_out: usize,
    /// One after another.
    pub iterations: Vec<RefineIteration>,
    /// What single pixels could explain beyond smooth fields, where it was asked.
    #[serde(default)]
    pub pixels: Option<PixelTrial>,
}

/// What corrections of single detector pixels could explain.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PixelTrial {
    /// Standard deviation in scan pixels (one component) of displacements that slow and fast frequencies agree on.
    pub spread: f64,
    /// The same over its standard error.
    pub significance: f64,
    /// Spreads of what slow and of what fast frequencies say alone, without noise.
    pub each: [f64; 2],
    /// Whether each pixel was moved by its own displacement, shortened by what noise has to do with it.
    pub taken: bool,
}

/// One iteration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefineIteration {
    /// Detector pixels along the side of a group.
    pub bin: usize,
    /// Part of the disk's radius that was looked at.
    #[serde(default)]
    pub reach: f64,
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

/// Memory in bytes beside the spectra, for so many detector pixels: normal equations and filters of each piece, and their
/// sums.
pub(super) fn bytes(pixels: usize) -> usize {
    let filters = MOST_FILTERS * size_of::<Complex64>();
    pixels * (PIECES * (size_of::<[Normal; SPEEDS]>() + filters) + 2 * size_of::<[Normal; SPEEDS]>())
}

/// Pixels with counts and a power that the object can have.
fn good_pixels(sets: &HalfSets, groups: &[Range<usize>], count: usize) -> Vec<bool> {
    let mut powers = Vec::with_capacity(count);
    for half in sets.halves.iter() {
        let mut sums = vec![0.0f64; half.pixels];
        for group in groups {
            let [re, im] = half.spectrum(sets.spectrum_of[group.start]);
            sums.iter_mut().zip(re.iter().zip(im)).for_each(|(s, (a, b))| *s += f64::from(a * a + b * b));
        }
        powers.extend(sums);
    }
    let mut sorted: Vec<f64> = powers.iter().copied().filter(|p| *p > 0.0).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    powers.into_iter().map(|p| p > 0.0 && POWERS.contains(&(p / middle))).collect()
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

/// A group of neighbouring detector pixels.
struct Group {
    /// Places in the list of pixels.
    members: Vec<usize>,
    /// Mean place on the scan's axes in disk radii.
    place: [f64; 2],
    /// Colour of the checkerboard.
    colour: usize,
    /// From all frequencies, from slow ones, from fast ones.
    found: [Option<Solution>; 3],
}

/// Normal equations of all pixels: of all frequencies, of slow ones, of fast ones.
struct Measured {
    normals: Vec<[Normal; 3]>,
    reach: f64,
}

/// A measurement cut into groups of one size.
struct Level {
    groups: Vec<Group>,
    bin: usize,
    reach: f64,
}

impl Level {
    /// The residuals of one band of frequencies (0 all, 1 slow, 2 fast), with the weights of all.
    fn residuals(&self, band: usize) -> Vec<Residual> {
        let each = self.groups.iter().filter_map(|group| Some((group, group.found[0]?, group.found[band]?)));
        each.map(|(group, all, found)| Residual {
            place: group.place,
            shift: found.shift,
            weight: inverse(all.covariance),
            colour: group.colour,
        })
        .collect()
    }

    fn found(&self) -> impl Iterator<Item = &Solution> {
        self.groups.iter().filter_map(|group| group.found[0].as_ref())
    }

    fn median(&self, of: impl Fn(&Solution) -> f64) -> f64 {
        let mut all: Vec<f64> = self.found().map(of).collect();
        all.sort_unstable_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(0.0)
    }

    fn spread(&self) -> f64 {
        robust_rms(&self.found().map(|f| f.shift).collect::<Vec<_>>())
    }
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
        let piece = self.groups.len().div_ceil(PIECES);
        let parts: Vec<Vec<[Normal; SPEEDS]>> = self.ctx.workers.install(|| {
            let one = |groups: &[Range<usize>]| {
                let normals = residuals.normals(groups);
                self.ctx.progress.advance(groups.len() as u64);
                normals
            };
            self.groups.par_chunks(piece).map(one).collect()
        });
        let mut classes = vec![[Normal::default(); SPEEDS]; self.places.len()];
        for part in &parts {
            for (sum, part) in classes.iter_mut().zip(part) {
                sum.iter_mut().zip(part).for_each(|(sum, part)| sum.add(part));
            }
        }
        // Slow frequencies are those that have half of what is known about displacements.
        let known: Vec<f64> = (0..SPEEDS).map(|s| classes.iter().map(|c| c[s].information()).sum::<f64>()).collect();
        let half = known.iter().sum::<f64>() / 2.0;
        let upto = |s: usize| known[..s].iter().sum::<f64>();
        let cut = (1..SPEEDS).min_by(|a, b| (upto(*a) - half).abs().total_cmp(&(upto(*b) - half).abs())).unwrap_or(1);
        let normals = classes
            .iter()
            .map(|classes| {
                let mut bands = [Normal::default(); 3];
                for (s, class) in classes.iter().enumerate() {
                    bands[0].add(class);
                    bands[if s < cut { 1 } else { 2 }].add(class);
                }
                bands
            })
            .collect();
        Ok(Measured { normals, reach })
    }

    /// Bins of `bin` × `bin` detector pixels, in order of row and column.
    fn level(&self, measured: &Measured, bin: usize) -> Level {
        let cols = self.disk.crop.shape().cols;
        let mut bins: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (index, pixel) in self.pixels.iter().enumerate() {
            if measured.normals[index][0] != Normal::default() {
                bins.entry((pixel / cols / bin, pixel % cols / bin)).or_default().push(index);
            }
        }
        let group = |((row, col), members): ((usize, usize), Vec<usize>)| {
            let mean = |a: usize| members.iter().map(|&i| self.places[i][a]).sum::<f64>() / members.len() as f64;
            let found = [0, 1, 2].map(|band| {
                let mut sum = Normal::default();
                for &i in &members {
                    sum.add(&measured.normals[i][band]);
                }
                sum.solve().filter(|f| GAINS.contains(&f.gain))
            });
            Group { place: self.on_scan([mean(0), mean(1)]), colour: (row + col) % 2, members, found }
        };
        Level { groups: bins.into_iter().map(group).collect(), bin, reach: measured.reach }
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
            let field = self.continued(field, &places);
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

    /// A smooth correction is found in part only, because the images that predict are displaced as well: what is left after
    /// it is a fixed part of it, and again. Two corrections in a row tell the sum of the series (Aitken 1926).
    fn continued(&mut self, field: Field, places: &[[f64; 2]]) -> Field {
        let part = self.last.take().and_then(|last| field.part_of(&last, places)).filter(|part| SERIES.contains(part));
        if let Some(part) = part {
            return field.times(1.0 / (1.0 - part));
        }
        self.last = Some(field.clone());
        field
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

/// What single pixels say, without what is common to all.
fn pixel_residuals(level: &Level) -> Vec<PixelResidual> {
    let common = fit(&level.residuals(0), &[]).unwrap_or_default();
    let each = level.groups.iter().filter_map(|group| {
        let [all, slow, fast] = group.found;
        let apart = |f: Solution| {
            let p = common.predict(group.place);
            PixelResidual::band([f.shift[0] - p[0], f.shift[1] - p[1]], f.covariance)
        };
        Some(PixelResidual { pixel: group.members[0], bands: [apart(all?), apart(slow?), apart(fast?)] })
    });
    each.collect()
}

/// What a field leaves of a level's residuals, with the pixels that they belong to.
fn left_by(level: &Level, field: &Field) -> Vec<(Vec<usize>, [f64; 2])> {
    let each = level.groups.iter().filter_map(|group| Some((group, group.found[0]?)));
    each.map(|(group, found)| {
        let p = field.predict(group.place);
        (group.members.clone(), [found.shift[0] - p[0], found.shift[1] - p[1]])
    })
    .collect()
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
