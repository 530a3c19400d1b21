//! The search: a grid, a quasi-Newton method from its best points, and the decision between the two kernels.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::kernel::crosspower::{HalfSets, Kernel, Model, Objective, Parameters, objective};
use crate::steps::context::RunContext;
use crate::steps::parametric::{AberrationFit, mrad_per_px, pixels_per_frequency};
use crate::steps::step1_detect::BrightDisk;

/// Frequencies of one parallel piece: fixed, so that sums do not depend on the number of threads.
const PIECE: usize = 64;
/// The best fit must stand this many robust standard deviations above wrong ones.
const SIGNIFICANT: f64 = 8.0;
/// Points of the grid from which the search goes on.
const CANDIDATES: usize = 5;
/// Iterations from each of them, and from the best.
const FIRST_ITERATIONS: usize = 8;
const ITERATIONS: usize = 40;
/// Points of the grid that say what wrong models get.
const NULL_MODELS: usize = 100;

/// The search for the model that explains the images best.
pub(super) struct Fit<'a> {
    pub(super) ctx: &'a RunContext<'a>,
    pub(super) disk: &'a BrightDisk,
    /// All detector pixels, all chosen frequencies.
    pub(super) fine: &'a HalfSets,
    /// Binned detector pixels at slow frequencies: for large displacements.
    pub(super) coarse: &'a HalfSets,
    /// Binned detector pixels at all frequencies: for small displacements, which slow frequencies do not feel.
    pub(super) wide: &'a HalfSets,
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
    pub(super) fn run(&self) -> Result<AberrationFit> {
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
