//! Aberrations of higher orders, one order after the other, as long as the data ask for them.
//!
//! An order is fitted to one half of the frequencies and judged by what it gains at the other half, and the other way
//! round: noise gains nothing there.

use rayon::prelude::*;

use crate::error::Result;
use crate::kernel::aberrations::{Aberrations, Term};
use crate::kernel::crosspower::general::{Aperture, GeneralModel, GeneralObjective, general_objective, unit_terms};
use crate::kernel::crosspower::{HalfSets, Kernel, Model};
use crate::steps::context::RunContext;
use crate::steps::parametric::{Sampling, TriedOrder};

/// Frequencies of one parallel piece.
const PIECE: usize = 16;
/// Gain at unseen frequencies, in standard errors, that keeps an order.
const CONVINCING: f64 = 4.0;
/// Slope along a coefficient, in standard errors, that makes the search begin.
const TILTED: f64 = 3.5;
const ITERATIONS: usize = 30;
/// Numbers that one evaluation goes through, at most.
const MOST_PRODUCTS: usize = 400_000;

/// The aberrations up to the highest order that the data show.
pub(super) struct Orders {
    /// All of them in Å on the scan's axes.
    pub(super) all: Aberrations,
    pub(super) rotation: f64,
}

/// Looks for orders from 2 upwards, starting from the quadratic model; `None` when there is none to be kept. `known`
/// aberrations of higher orders are where the search starts, and are kept.
pub(super) fn higher_orders(
    ctx: &RunContext<'_>,
    sets: &HalfSets,
    (quadratic, kernel): (Model, Kernel),
    sampling: Sampling,
    known: &Aberrations,
) -> Result<(Option<Orders>, Vec<TriedOrder>)> {
    let Kernel::WeakPhase { pixels_per_frequency, radius, .. } = kernel else { return Ok((None, Vec::new())) };
    let highest = ctx.config.align.max_order;
    let unit = sampling.angstrom();
    let [c1, c2a, c2b, rotation] = quadratic.parameters;
    let start = Aberrations::quadratic(c1 * unit, [c2a * unit, c2b * unit]).plus(known);
    let scales = (radius, sampling.pixel_rad, sampling.wavelength_angstrom);
    let search = Search { sets, pixels_per_frequency, radius, seen: thinned(sets) };
    let model =
        |basis: Vec<Term>| GeneralModel::from_aberrations(&start, basis, (rotation, quadratic.transposed), scales);

    if known.is_empty() && highest > 1 && !search.is_tilted(&model((1..=highest).flat_map(unit_terms).collect())) {
        return Ok((None, Vec::new()));
    }
    let mut basis = unit_terms(1);
    let kept_from_start = known.terms().iter().map(|t| t.m).max().unwrap_or(1);
    (2..=kept_from_start).for_each(|order| basis.extend(unit_terms(order)));
    let mut best = search.cross_validated(&model(basis));
    let mut tried = Vec::new();
    let mut found = kept_from_start > 1;
    let mut pending: Vec<u8> = (kept_from_start.max(1) + 1..=highest).collect();
    // An order may show only once another is in the model.
    for _ in 0..2 {
        let mut kept_now = false;
        for order in std::mem::take(&mut pending) {
            ctx.cancel.check()?;
            let next = search.cross_validated(&widened(&best.model, order));
            let gain = gain(&next.unseen, &best.unseen);
            let kept = gain > CONVINCING;
            tried.push(TriedOrder { order, gain, kept });
            if kept {
                (best, found, kept_now) = (next, true, true);
            } else {
                pending.push(order);
            }
        }
        if !kept_now {
            break;
        }
    }
    if !found {
        return Ok((None, tried));
    }
    let model = search.fit(&best.model, &search.seen);
    let all = model.aberrations(radius, sampling.pixel_rad, sampling.wavelength_angstrom);
    Ok((Some(Orders { all, rotation: model.rotation }), tried))
}

/// The model with the terms of one more order.
fn widened(model: &GeneralModel, order: u8) -> GeneralModel {
    let mut wider = model.clone();
    let terms = unit_terms(order);
    wider.coefficients.extend(terms.iter().map(|_| 0.0));
    wider.basis.extend(terms);
    wider
}

/// Places of so many frequencies that an evaluation stays cheap, spread over all of them.
fn thinned(sets: &HalfSets) -> Vec<usize> {
    let pixels = sets.halves[0].pixels + sets.halves[1].pixels;
    let step = (sets.frequencies.len() * pixels).div_ceil(MOST_PRODUCTS).max(1);
    // A prime stride does not fall in step with the rows of the spectrum or with what is folded onto each other.
    let stride = if step.is_multiple_of(2) { step + 1 } else { step };
    (0..sets.frequencies.len()).step_by(stride).collect()
}

struct Validated {
    model: GeneralModel,
    /// The objective of each frequency under the model that did not see it.
    unseen: Vec<f64>,
}

/// The gain in standard errors of its frequencies' scatter.
fn gain(now: &[f64], before: &[f64]) -> f64 {
    let differences: Vec<f64> = now.iter().zip(before).map(|(a, b)| a - b).collect();
    let spread = differences.iter().map(|d| d * d).sum::<f64>().sqrt();
    if spread > 0.0 { differences.iter().sum::<f64>() / spread } else { 0.0 }
}

struct Search<'a> {
    sets: &'a HalfSets,
    pixels_per_frequency: f64,
    radius: f64,
    seen: Vec<usize>,
}

impl Search<'_> {
    fn aperture(&self, rotation: f64) -> Aperture {
        Aperture { pixels_per_frequency: self.pixels_per_frequency, radius: self.radius, overlap_rotation: rotation }
    }

    fn each(&self, model: &GeneralModel, overlap: f64, places: &[usize]) -> Vec<GeneralObjective> {
        let parts: Vec<Vec<GeneralObjective>> = places
            .par_chunks(PIECE)
            .map(|piece| {
                let one = |&i: &usize| general_objective(self.sets, model, self.aperture(overlap), i..i + 1);
                piece.iter().map(one).collect()
            })
            .collect();
        parts.into_iter().flatten().collect()
    }

    fn total(&self, model: &GeneralModel, overlap: f64, places: &[usize]) -> GeneralObjective {
        let mut total = GeneralObjective::default();
        for one in self.each(model, overlap, places) {
            total.add(&one);
        }
        total
    }

    /// Whether the objective still rises along a coefficient, beyond what the frequencies' scatter explains (a score
    /// test, Rao 1948): one evaluation that spares most data the search.
    fn is_tilted(&self, model: &GeneralModel) -> bool {
        let each = self.each(model, model.rotation, &self.seen);
        (unit_terms(1).len()..model.coefficients.len()).any(|j| {
            let sum: f64 = each.iter().map(|o| o.gradient[j]).sum();
            let spread = each.iter().map(|o| o.gradient[j] * o.gradient[j]).sum::<f64>().sqrt();
            sum.abs() > TILTED * spread
        })
    }

    /// Fits twice, each time to every other frequency, and judges each fit by the other frequencies.
    fn cross_validated(&self, start: &GeneralModel) -> Validated {
        let halves: [Vec<usize>; 2] =
            [0, 1].map(|h| self.seen.iter().enumerate().filter(|(i, _)| i % 2 == h).map(|(_, &p)| p).collect());
        let fits = [0, 1].map(|h| self.fit(start, &halves[h]));
        let unseen = [0, 1].map(|h| self.each(&fits[1 - h], start.rotation, &halves[h]));
        let unseen = unseen.iter().flatten().map(|o| o.value).collect();
        let mut model = start.clone();
        let mean = |i: usize| 0.5 * (fits[0].coefficients[i] + fits[1].coefficients[i]);
        model.coefficients = (0..model.coefficients.len()).map(mean).collect();
        model.rotation = 0.5 * (fits[0].rotation + fits[1].rotation);
        Validated { model, unseen }
    }

    /// BFGS with backtracking; all coefficients are phases at the disk's edge, in radians.
    fn fit(&self, start: &GeneralModel, places: &[usize]) -> GeneralModel {
        let n = start.coefficients.len() + 1;
        let overlap = start.rotation;
        let mut model = start.clone();
        let mut now = self.total(&model, overlap, places);
        let size = now.value.abs().max(f64::MIN_POSITIVE);
        let slope_of = |o: &GeneralObjective| -> Vec<f64> { o.gradient.iter().map(|g| g / size).collect() };
        let mut g = slope_of(&now);
        let steepness = g.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
        let mut inverse: Vec<Vec<f64>> =
            (0..n).map(|i| (0..n).map(|j| if i == j { 0.05 / steepness } else { 0.0 }).collect()).collect();
        for _ in 0..ITERATIONS {
            let step: Vec<f64> = inverse.iter().map(|row| row.iter().zip(&g).map(|(h, g)| h * g).sum()).collect();
            let rise: f64 = step.iter().zip(&g).map(|(s, g)| s * g).sum();
            let mut length = 1.0;
            let accepted = loop {
                let mut next = model.clone();
                next.coefficients.iter_mut().zip(&step).for_each(|(c, s)| *c += length * s);
                next.rotation += length * step[n - 1];
                let value = self.total(&next, overlap, places);
                if value.value >= now.value + 1e-4 * length * rise * size {
                    break Some((next, value));
                }
                length *= 0.4;
                if length < 1e-3 {
                    break None;
                }
            };
            let Some((next, value)) = accepted else { break };
            let new = slope_of(&value);
            let s: Vec<f64> = step.iter().map(|s| s * length).collect();
            let y: Vec<f64> = g.iter().zip(&new).map(|(a, b)| a - b).collect();
            update_inverse(&mut inverse, &s, &y);
            let gained = value.value - now.value;
            (model, now, g) = (next, value, new);
            if gained < 1e-7 * size {
                break;
            }
        }
        model
    }
}

/// The BFGS update of the inverse Hessian of the negative objective: `s` the step, `y` the change of the gradient.
fn update_inverse(h: &mut [Vec<f64>], s: &[f64], y: &[f64]) {
    let sy: f64 = s.iter().zip(y).map(|(a, b)| a * b).sum();
    if sy <= 0.0 {
        return;
    }
    let hy: Vec<f64> = h.iter().map(|row| row.iter().zip(y).map(|(h, y)| h * y).sum()).collect();
    let yhy: f64 = y.iter().zip(&hy).map(|(a, b)| a * b).sum();
    for (i, row) in h.iter_mut().enumerate() {
        for (j, h) in row.iter_mut().enumerate() {
            *h += (sy + yhy) * s[i] * s[j] / (sy * sy) - (hy[i] * s[j] + s[i] * hy[j]) / sy;
        }
    }
}
