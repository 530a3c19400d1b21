//! Shift maps from one small model that is fitted to all virtual images at once, instead of from single peaks.
//!
//! The fit maximises the cross power of two half-sums of detector pixels (see [`crosspower`](crate::kernel::crosspower)):
//! first over a grid of defocus, rotation and orientation of the detector with binned detector pixels and the slow
//! frequencies, then with a quasi-Newton method over all of them. With a calibration the exact factor of a weak phase
//! object is tried as well, and kept where it explains the data better.

use std::collections::BTreeMap;

use num_complex::Complex;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::axes::{Calibration, DetShape, Image, wavelength_angstrom};
use crate::error::{Error, Result};
use crate::kernel::crosspower::{Half, HalfSets, Kernel, Model, Objective, Parameters, Run, objective};
use crate::kernel::fft2::Fft2;
use crate::steps::context::RunContext;
use crate::steps::engine::Engine;
use crate::steps::stack::Stack;
use crate::steps::step1_detect::BrightDisk;
use crate::steps::tile::Pair;

/// Part of the disk's radius that is used: the edge itself is half vacuum.
const USED_RADIUS: f64 = 0.95;
/// Frequencies of the fit at most, and of the grid.
const MOST_FREQUENCIES: usize = 2500;
const GRID_FREQUENCIES: usize = 400;
/// Cycles per scan pixel beyond which the grid would have to be finer than it is.
const GRID_LIMIT: f64 = 0.25;
/// Frequencies of one parallel piece: fixed, so that sums do not depend on the number of threads.
const PIECE: usize = 64;
/// Points of the grid from which the search goes on.
const CANDIDATES: usize = 5;
/// Iterations from each of them, and from the best.
const FIRST_ITERATIONS: usize = 8;
const ITERATIONS: usize = 40;
/// Points of the grid that say what wrong models get.
const NULL_MODELS: usize = 100;
/// The best fit must stand this many robust standard deviations above wrong ones.
const SIGNIFICANT: f64 = 8.0;
/// Scan pixels over which images are blended to their mean at the scan's edges.
const EDGE: f64 = 8.0;

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
    let pixels = disk_pixels(disk);
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

/// Crop indices of the detector pixels inside the disk, in order.
fn disk_pixels(disk: &BrightDisk) -> Vec<usize> {
    let shape = disk.crop.shape();
    (0..shape.len())
        .filter(|&p| {
            let [r, c] = from_center(disk, p / shape.cols, p % shape.cols);
            r.hypot(c) <= USED_RADIUS * disk.radius
        })
        .collect()
}

/// Position of a crop pixel from the disk's centre.
pub(super) fn from_center(disk: &BrightDisk, row: usize, col: usize) -> [f64; 2] {
    [(row + disk.crop.row0) as f64 - disk.center[0], (col + disk.crop.col0) as f64 - disk.center[1]]
}

/// Spectra of the disk's images at the strongest frequencies.
struct Samples {
    /// Crop index of each pixel.
    pixels: Vec<usize>,
    frequencies: Vec<[f64; 2]>,
    /// `[pixel, frequency]`, strongest frequency first.
    spectra: Vec<Complex<f32>>,
}

impl Samples {
    fn gather(ctx: &RunContext<'_>, stack: &Stack, disk: &BrightDisk, pixels: &[usize]) -> Result<Self> {
        let window = edge_window(ctx);
        let fft = Fft2::<f32>::new(ctx.scan);
        let crop = disk.crop.shape();
        let few: Vec<_> = pixels.iter().copied().step_by(pixels.len().div_ceil(96)).collect();
        let all = half_plane(ctx);
        let power = each_spectrum(ctx, stack, &fft, &window, (crop, &few), |spectrum, mirrored| {
            all.iter().map(|&(i, m)| f64::from(spectrum(i, m, mirrored).norm_sqr())).collect::<Vec<_>>()
        })?;
        let mut order: Vec<usize> = (0..all.len()).collect();
        let total = |i: &usize| power.iter().map(|p| p[*i]).sum::<f64>();
        let totals: Vec<f64> = order.iter().map(total).collect();
        order.sort_by(|a, b| totals[*b].total_cmp(&totals[*a]).then(a.cmp(b)));
        let room = ctx.budget.limit().saturating_sub(ctx.budget.used()) / 3;
        let bytes = 3 * size_of::<Complex<f32>>() as u64 * pixels.len() as u64;
        let count = ((room / bytes) as usize).clamp(64, MOST_FREQUENCIES).min(all.len());
        order.truncate(count);
        let _charge = ctx.budget.charge(bytes * count as u64, "spectra of the fit")?;
        let chosen: Vec<_> = order.iter().map(|&i| all[i]).collect();
        let rows = each_spectrum(ctx, stack, &fft, &window, (crop, pixels), |spectrum, mirrored| {
            chosen.iter().map(|&(i, m)| spectrum(i, m, mirrored)).collect::<Vec<_>>()
        })?;
        let frequencies = chosen.iter().map(|&(i, _)| frequency(ctx, i)).collect();
        Ok(Self { pixels: pixels.to_vec(), frequencies, spectra: rows.concat() })
    }

    /// The two colours of bins of `bin` × `bin` detector pixels, at the strongest frequencies that `take` accepts.
    fn half_sets(&self, disk: &BrightDisk, bin: usize, most: usize, take: impl Fn([f64; 2]) -> bool) -> HalfSets {
        let cols = disk.crop.shape().cols;
        let chosen: Vec<usize> =
            (0..self.frequencies.len()).filter(|&i| take(self.frequencies[i])).take(most).collect();
        // Bins in order of row and column; only whole ones.
        let mut bins: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (place, pixel) in self.pixels.iter().enumerate() {
            bins.entry((pixel / cols / bin, pixel % cols / bin)).or_default().push(place);
        }
        bins.retain(|_, members| members.len() == bin * bin);
        let halves = [0, 1].map(|colour| {
            let members: Vec<_> = bins.iter().filter(|((r, c), _)| (r + c) % 2 == colour).collect();
            let mut runs: Vec<Run> = Vec::new();
            let mut last = None;
            for (place, ((row, col), _)) in members.iter().enumerate() {
                if last == Some((*row, col.wrapping_sub(2)))
                    && let Some(run) = runs.last_mut()
                {
                    run.len += 1;
                } else {
                    let middle = (bin - 1) as f64 / 2.0;
                    let [r, c] = from_center(disk, row * bin, col * bin);
                    runs.push(Run { row: r + middle, col: c + middle, len: 1, start: place });
                }
                last = Some((*row, *col));
            }
            let mut spectra = Vec::with_capacity(chosen.len() * members.len());
            for &frequency in &chosen {
                for (_, places) in &members {
                    let all = places.iter().map(|&p| self.spectra[p * self.frequencies.len() + frequency]);
                    spectra.push(all.sum());
                }
            }
            Half { runs, pixels: members.len(), spectra }
        });
        let frequencies = chosen.iter().map(|&i| self.frequencies[i]).collect();
        HalfSets { frequencies, spacing: 2.0 * bin as f64, halves }
    }
}

/// `sin²` towards the scan's edges, so that the wrap-around correlates with nothing.
fn edge_window(ctx: &RunContext<'_>) -> Vec<f32> {
    let axis = |n: usize| -> Vec<f64> {
        let reach = EDGE.min(n as f64 / 4.0).max(0.5);
        let ramp = |i: usize| ((i as f64 + 0.5).min(n as f64 - 0.5 - i as f64) / reach).clamp(0.0, 1.0);
        (0..n).map(|i| (ramp(i) * std::f64::consts::FRAC_PI_2).sin().powi(2)).collect()
    };
    let (rows, cols) = (axis(ctx.scan.rows), axis(ctx.scan.cols));
    rows.iter().flat_map(|r| cols.iter().map(move |c| (r * c) as f32)).collect()
}

/// Indices into the transposed spectrum of one of each pair of mirrored frequencies, with the mirrored one's; neither
/// zero nor the Nyquist frequency, whose sign is ambiguous.
fn half_plane(ctx: &RunContext<'_>) -> Vec<(usize, usize)> {
    let (rows, cols) = (ctx.scan.rows, ctx.scan.cols);
    let mut all = Vec::new();
    for c in 0..cols.div_ceil(2) {
        for r in 0..rows {
            let nyquist = (rows.is_multiple_of(2) && r == rows / 2) || (c == 0 && r > rows / 2);
            if !(nyquist || (c == 0 && r == 0)) {
                all.push((c * rows + r, (cols - c) % cols * rows + (rows - r) % rows));
            }
        }
    }
    all
}

/// Frequency `[row, col]` in cycles per scan pixel of a place in the transposed spectrum.
fn frequency(ctx: &RunContext<'_>, index: usize) -> [f64; 2] {
    let signed = |i: usize, n: usize| if i > n / 2 { i as f64 - n as f64 } else { i as f64 } / n as f64;
    [signed(index % ctx.scan.rows, ctx.scan.rows), signed(index / ctx.scan.rows, ctx.scan.cols)]
}

/// Reads one number out of a packed spectrum: place, mirrored place, and whether of the second image of the pair.
type Pick<'p> = &'p dyn Fn(usize, usize, bool) -> Complex<f32>;

/// Transforms the images of `pixels` and lets `take` pick from each; results are in the order of the pixels.
fn each_spectrum<R: Send>(
    ctx: &RunContext<'_>,
    stack: &Stack,
    fft: &Fft2<f32>,
    window: &[f32],
    (crop, pixels): (DetShape, &[usize]),
    take: impl Fn(Pick<'_>, bool) -> R + Sync,
) -> Result<Vec<R>> {
    // Neighbours travel together wherever both are wanted.
    let pairs: Vec<(Pair, bool)> = pair_up(pixels, crop.cols);
    let make = || Engine::new(fft, stack.dtype().size(), ctx.budget);
    let piece = pairs.len().div_ceil(4 * ctx.workers.count()).max(1);
    let parts: Vec<Result<Vec<R>>> = ctx.workers.install(|| {
        pairs
            .par_chunks(piece)
            .map(|pairs| {
                let mut engine = make()?;
                let mut out = Vec::with_capacity(2 * pairs.len());
                for (pair, both) in pairs {
                    ctx.cancel.check()?;
                    let spectrum = engine.load_windowed(stack, *pair, window);
                    let pick = |i: usize, m: usize, second: bool| {
                        let (z, w) = (spectrum[i], spectrum[m].conj());
                        if second {
                            let d = z - w;
                            Complex::new(d.im * 0.5, -d.re * 0.5)
                        } else {
                            (z + w) * 0.5
                        }
                    };
                    out.push(take(&pick, false));
                    if *both {
                        out.push(take(&pick, true));
                    }
                    ctx.progress.advance((1 + u64::from(*both)) * ctx.scan.len() as u64);
                }
                Ok(out)
            })
            .collect()
    });
    let mut all = Vec::with_capacity(pixels.len());
    for part in parts {
        all.extend(part?);
    }
    Ok(all)
}

fn pair_up(pixels: &[usize], cols: usize) -> Vec<(Pair, bool)> {
    let mut pairs = Vec::new();
    let mut i = 0;
    while i < pixels.len() {
        let pixel = pixels[i];
        let both = pixels.get(i + 1) == Some(&(pixel + 1)) && !(pixel + 1).is_multiple_of(cols);
        pairs.push((Pair { pixel, slot: 0, both }, both));
        i += 1 + usize::from(both);
    }
    pairs
}

struct Fit<'a> {
    ctx: &'a RunContext<'a>,
    disk: &'a BrightDisk,
    fine: &'a HalfSets,
    /// Binned detector pixels at slow frequencies: for large displacements.
    coarse: &'a HalfSets,
    /// Binned detector pixels at all frequencies: for small displacements, which slow frequencies do not feel.
    wide: &'a HalfSets,
}

/// A point of the search with its normalised objective.
#[derive(Debug, Clone, Copy)]
struct Found {
    model: Model,
    value: f64,
    coherence: f64,
}

/// The objective of wrong models: what the best one has to stand out from.
struct Null {
    median: f64,
    /// Robust standard deviation.
    spread: f64,
}

impl Null {
    fn new(values: &[f64]) -> Self {
        let median = |mut v: Vec<f64>| {
            v.sort_unstable_by(f64::total_cmp);
            v.get(v.len() / 2).copied().unwrap_or(0.0)
        };
        let middle = median(values.to_vec());
        // 1.4826: a normal distribution's standard deviation over its median absolute deviation.
        let spread = 1.4826 * median(values.iter().map(|v| (v - middle).abs()).collect());
        Self { median: middle, spread }
    }

    fn significance(&self, value: f64) -> f64 {
        if self.spread > 0.0 { (value - self.median) / self.spread } else { 0.0 }
    }
}

impl Fit<'_> {
    fn run(&self) -> Result<AberrationFit> {
        let (starts, null) = self.grid();
        let shift = self.search(starts, Kernel::Shift)?;
        let significance = null.significance(shift.value);
        if significance < SIGNIFICANT {
            return Err(Error::unresolved(format!(
                "the scan does not determine its aberrations: the best fit stands {significance:.1} standard deviations above wrong ones, {SIGNIFICANT} are needed"
            ))
            .with_hint("too few counts, no contrast, or shifts beyond a quarter of the scan; `--set align.method=classic` shows the single shifts"));
        }
        let mut best = (shift, "shift");
        if let Some(kernel) = self.weak_phase() {
            let weak = self.search(self.fine_grid(shift.model, kernel), kernel)?;
            if weak.value > shift.value {
                best = (weak, "weak-phase");
            }
        }
        Ok(self.describe(best.0, best.1, significance))
    }

    /// The exact kernel, when the sampling is known.
    fn weak_phase(&self) -> Option<Kernel> {
        let pixels_per_frequency = pixels_per_frequency(self.ctx, self.disk)?;
        Some(Kernel::WeakPhase { pixels_per_frequency, radius: self.disk.radius })
    }

    fn reach(&self) -> f64 {
        self.ctx.scan.rows.min(self.ctx.scan.cols) as f64 / 4.0
    }

    /// Models without astigmatism whose displacements at the disk's edge are `spacing` scan pixels apart and at most
    /// `reach`, in all directions and both orientations.
    fn models(&self, spacing: f64, reach: f64) -> Vec<Model> {
        let n = (reach / spacing).floor() as i32;
        let edge = spacing / self.disk.radius;
        let mut models = Vec::new();
        for transposed in [false, true] {
            for a in -n..=n {
                // Half a plane of rotations, with both signs: the other half is the same.
                for b in 0..=n {
                    let (a, b) = (f64::from(a), f64::from(b));
                    if a.hypot(b) <= f64::from(n) && (b > 0.0 || a >= 0.0) {
                        let (c1, theta) = (a.hypot(b) * edge, b.atan2(a));
                        models.push(Model { parameters: [c1, 0.0, 0.0, theta], transposed });
                        models.push(Model { parameters: [-c1, 0.0, 0.0, theta], transposed });
                    }
                }
            }
        }
        models
    }

    /// The models with the highest objective over a set, best first, none near a better one.
    fn best_of(&self, set: &HalfSets, models: &[Model], kernel: Kernel) -> Vec<Model> {
        let all = set.frequencies.len();
        let values: Vec<f64> = models.par_iter().map(|m| objective(set, m, kernel, 0..all).value).collect();
        let mut order: Vec<usize> = (0..models.len()).collect();
        order.sort_by(|a, b| values[*b].total_cmp(&values[*a]).then(a.cmp(b)));
        // Neighbours lead to the same maximum: only models apart from all better ones.
        let mut starts: Vec<Model> = Vec::new();
        for i in order {
            if starts.len() == CANDIDATES {
                break;
            }
            if starts.iter().all(|s| self.distance(s, &models[i]) > 1.1) {
                starts.push(models[i]);
            }
        }
        starts
    }

    /// Largest difference of two models' displacements at the disk's edge, in scan pixels; with opposite signs of
    /// everything two models have the same displacements but another contrast, and are different.
    fn distance(&self, a: &Model, b: &Model) -> f64 {
        let (ma, mb) = (a.matrix(), b.matrix());
        let difference: f64 = (0..4).map(|i| (ma[i / 2][i % 2] - mb[i / 2][i % 2]).powi(2)).sum();
        difference.sqrt() * self.disk.radius
    }

    /// Starting points of the search with the shift kernel, and what wrong models get.
    fn grid(&self) -> (Vec<Model>, Null) {
        let models = self.models(1.0, self.reach());
        // Every so many points of the grid, whatever their value.
        let wrong = models.iter().step_by((models.len() / NULL_MODELS).max(1));
        let wrong: Vec<f64> = wrong.map(|m| self.evaluate(m, Kernel::Shift).value).collect();
        let null = Null::new(&wrong);
        (self.best_of(self.coarse, &models, Kernel::Shift), null)
    }

    /// Starting points for the exact kernel: where displacements are small the shift kernel's best is no guide.
    fn fine_grid(&self, shift: Model, kernel: Kernel) -> Vec<Model> {
        let mut flipped = shift;
        flipped.parameters[..3].iter_mut().for_each(|c| *c = -*c);
        let mut starts = self.best_of(self.wide, &self.models(0.5, self.reach().min(3.0)), kernel);
        starts.extend(self.best_of(self.coarse, &self.models(0.5, self.reach().min(6.0)), kernel));
        starts.extend([shift, flipped]);
        starts
    }

    /// The best of the searches from all starting points.
    fn search(&self, starts: Vec<Model>, kernel: Kernel) -> Result<Found> {
        let mut best: Option<Found> = None;
        for start in starts {
            self.ctx.cancel.check()?;
            let found = self.refine(start, kernel, FIRST_ITERATIONS);
            if best.is_none_or(|best| found.value > best.value) {
                best = Some(found);
            }
        }
        let best = best.ok_or_else(|| Error::bug("a grid without points"))?;
        Ok(self.refine(best.model, kernel, ITERATIONS))
    }

    fn evaluate(&self, model: &Model, kernel: Kernel) -> Objective {
        let all = self.fine.frequencies.len();
        let pieces: Vec<Objective> = (0..all.div_ceil(PIECE))
            .into_par_iter()
            .map(|i| objective(self.fine, model, kernel, i * PIECE..((i + 1) * PIECE).min(all)))
            .collect();
        let mut total = Objective::default();
        for piece in &pieces {
            total.add(piece);
        }
        total
    }

    /// BFGS with backtracking, in displacements at the disk's edge and radians.
    fn refine(&self, start: Model, kernel: Kernel, iterations: usize) -> Found {
        let scale = [self.disk.radius, self.disk.radius, self.disk.radius, 1.0];
        let mut model = start;
        let mut now = self.evaluate(&model, kernel);
        let power = now.power.max(f64::MIN_POSITIVE);
        let gradient = |o: &Objective| -> Parameters { std::array::from_fn(|i| o.gradient[i] / scale[i] / power) };
        let mut g = gradient(&now);
        let mut inverse = [[0.0; 4]; 4];
        (0..4).for_each(|i| inverse[i][i] = 0.05 / g.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12));
        for _ in 0..iterations {
            let step: Parameters = std::array::from_fn(|i| (0..4).map(|j| inverse[i][j] * g[j]).sum());
            let slope: f64 = step.iter().zip(g).map(|(s, g)| s * g).sum();
            let mut length = 1.0;
            let accepted = loop {
                let mut next = model;
                (0..4).for_each(|i| next.parameters[i] += length * step[i] / scale[i]);
                let value = self.evaluate(&next, kernel);
                if value.value >= now.value + 1e-4 * length * slope * power {
                    break Some((next, value));
                }
                length *= 0.4;
                if length < 1e-4 {
                    break None;
                }
            };
            let Some((next, value)) = accepted else { break };
            let new = gradient(&value);
            update_inverse(&mut inverse, step.map(|s| s * length), std::array::from_fn(|i| g[i] - new[i]));
            let gain = value.value - now.value;
            (model, now, g) = (next, value, new);
            let moved = step.iter().map(|s| (s * length).abs()).fold(0.0, f64::max);
            if gain < 1e-10 * now.value.abs() || moved < 1e-5 {
                break;
            }
        }
        Found { model, value: now.value, coherence: now.value / now.power.max(f64::MIN_POSITIVE) }
    }

    fn describe(&self, found: Found, kernel: &str, significance: f64) -> AberrationFit {
        let [mut c1, mut c2a, mut c2b, theta] = found.model.parameters;
        let mut degrees = (theta.to_degrees() + 180.0).rem_euclid(360.0) - 180.0;
        if degrees.abs() > 90.0 {
            degrees -= 180f64.copysign(degrees);
            (c1, c2a, c2b) = (-c1, -c2a, -c2b);
        }
        let c = &self.ctx.config.calibration;
        let angstrom = mrad_per_px(c, self.disk).zip(c.scan_step_angstrom).map(|(mrad, step)| step / (mrad * 1e-3));
        AberrationFit {
            parameters: [c1, c2a, c2b, degrees.to_radians()],
            transposed: found.model.transposed,
            kernel: kernel.to_owned(),
            coherence: found.coherence,
            significance,
            c10_angstrom: angstrom.map(|a| a * c1),
            c12_angstrom: angstrom.map(|a| [a * c2a, a * c2b]),
            rotation_deg: degrees,
            other_branch: format!(
                "rotation {:.3}° with all signs of the aberrations reversed",
                degrees - 180f64.copysign(degrees)
            ),
        }
    }
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

/// The BFGS update of the inverse Hessian of the negative objective: `s` the step, `y` the change of the gradient.
fn update_inverse(h: &mut [[f64; 4]; 4], s: Parameters, y: Parameters) {
    let sy: f64 = s.iter().zip(y).map(|(a, b)| a * b).sum();
    if sy <= 0.0 {
        return;
    }
    let hy: Parameters = std::array::from_fn(|i| (0..4).map(|j| h[i][j] * y[j]).sum());
    let yhy: f64 = y.iter().zip(hy).map(|(a, b)| a * b).sum();
    for i in 0..4 {
        for j in 0..4 {
            h[i][j] += (sy + yhy) * s[i] * s[j] / (sy * sy) - (hy[i] * s[j] + s[i] * hy[j]) / sy;
        }
    }
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
