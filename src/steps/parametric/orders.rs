//! Aberrations of higher orders, one order after the other, as long as the data ask for them.
//!
//! An order is fitted to one half of the frequencies and judged by what it gains at the other half, and the other way
//! round: noise gains nothing there.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use crate::error::Result;
use crate::kernel::aberrations::{Aberrations, Term};
use crate::kernel::crosspower::general::{
    Aperture, Filter, GeneralModel, GeneralObjective, general_objective, unit_terms,
};
use crate::kernel::crosspower::joint::groups;
use crate::kernel::crosspower::{HalfSets, Kernel, Model};
use crate::steps::context::RunContext;
use crate::steps::parametric::climb::{climb, curvature, dot, inverse, sandwich, times};
use crate::steps::parametric::search::DISPLACED;
use crate::steps::parametric::{Sampling, TriedOrder};

/// Groups of one parallel piece.
const PIECE: usize = 8;
/// Gain at unseen frequencies, in standard errors, that keeps an order.
const CONVINCING: f64 = 4.0;
/// Slope along a coefficient, in standard errors, that makes the search begin.
const TILTED: f64 = 3.5;
const ITERATIONS: usize = 30;
/// Step of the slopes' differences, in radians.
const STEP: f64 = 1e-3;
/// Numbers that one evaluation goes through, at most.
const MOST_PRODUCTS: usize = 400_000;

/// The aberrations up to the highest order that the data show.
pub(super) struct Orders {
    /// All of them in Å on the scan's axes.
    pub(super) all: Aberrations,
    pub(super) rotation: f64,
    /// Standard deviations by name, in Å and degrees.
    pub(super) deviations: BTreeMap<String, f64>,
    /// Whether they come from displacements alone.
    pub(super) by_displacements: bool,
}

/// Looks for orders from 2 upwards, starting from the quadratic model; `None` when there is none to be kept. `known`
/// aberrations of higher orders are where the search starts, and are kept.
pub(super) fn higher_orders(
    ctx: &RunContext<'_>,
    sets: &HalfSets,
    (quadratic, kernel): (Model, Kernel),
    (sampling, radius): (Sampling, f64),
    known: &Aberrations,
) -> Result<(Option<Orders>, Vec<TriedOrder>)> {
    let highest = ctx.config.align.max_order;
    let unit = sampling.angstrom();
    let [c1, c2a, c2b, rotation] = quadratic.parameters;
    let start = Aberrations::quadratic(c1 * unit, [c2a * unit, c2b * unit]).plus(known);
    let scales = (radius, sampling.pixel_rad, sampling.wavelength_angstrom);
    let search = Search {
        sets,
        apart: !matches!(kernel, Kernel::WeakPhase { .. }),
        pixels_per_frequency: sampling.pixels_per_frequency(),
        radius,
        seen: thinned(sets),
    };
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
    // Which orders there are is seen best with contrast; how strong they are, by displacements, where these are large.
    let found = best.model.aberrations(radius, sampling.pixel_rad, sampling.wavelength_angstrom);
    let displaced = (found.get(1, 0)[0] / unit).abs() * radius > DISPLACED;
    let search = Search { apart: search.apart || displaced, ..search };
    let model = search.fit(&best.model, &search.seen);
    let all = model.aberrations(radius, sampling.pixel_rad, sampling.wavelength_angstrom);
    let deviations = search.deviations(&model, sampling);
    Ok((Some(Orders { all, rotation: model.rotation, deviations, by_displacements: search.apart }), tried))
}

/// The model with the terms of one more order.
fn widened(model: &GeneralModel, order: u8) -> GeneralModel {
    let mut wider = model.clone();
    let terms = unit_terms(order);
    wider.coefficients.extend(terms.iter().map(|_| 0.0));
    wider.basis.extend(terms);
    wider
}

/// So many groups of frequencies that an evaluation stays cheap, spread over all of them.
fn thinned(sets: &HalfSets) -> Vec<Range<usize>> {
    let pixels = sets.halves[0].pixels + sets.halves[1].pixels;
    let step = (sets.frequencies.len() * pixels).div_ceil(MOST_PRODUCTS).max(1);
    // An odd stride does not fall in step with the rows of the spectrum.
    let stride = if step.is_multiple_of(2) { step + 1 } else { step };
    groups(sets).into_iter().step_by(stride).collect()
}

struct Validated {
    model: GeneralModel,
    /// The objective of each group of frequencies under the model that did not see it.
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
    /// Whether both side bands have strengths of their own.
    apart: bool,
    pixels_per_frequency: f64,
    radius: f64,
    /// Groups of frequencies that share a spectrum.
    seen: Vec<Range<usize>>,
}

impl Search<'_> {
    fn aperture(&self, rotation: f64) -> Aperture {
        let filter = if self.apart {
            Filter::SideBands { overlap_rotation: rotation }
        } else {
            Filter::WeakPhase { overlap_rotation: rotation }
        };
        Aperture { pixels_per_frequency: self.pixels_per_frequency, radius: self.radius, filter }
    }

    fn each(&self, model: &GeneralModel, overlap: f64, places: &[Range<usize>]) -> Vec<GeneralObjective> {
        let parts: Vec<Vec<GeneralObjective>> = places
            .par_chunks(PIECE)
            .map(|piece| {
                let one =
                    |group: &Range<usize>| general_objective(self.sets, model, self.aperture(overlap), group.clone());
                piece.iter().map(one).collect()
            })
            .collect();
        parts.into_iter().flatten().collect()
    }

    fn total(&self, model: &GeneralModel, overlap: f64, places: &[Range<usize>]) -> GeneralObjective {
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
        let half = |h: usize| self.seen.iter().skip(h).step_by(2).cloned().collect();
        let halves: [Vec<Range<usize>>; 2] = [half(0), half(1)];
        let fits = [0, 1].map(|h| self.fit(start, &halves[h]));
        let unseen = [0, 1].map(|h| self.each(&fits[1 - h], start.rotation, &halves[h]));
        let unseen = unseen.iter().flatten().map(|o| o.value).collect();
        let mut model = start.clone();
        let mean = |i: usize| 0.5 * (fits[0].coefficients[i] + fits[1].coefficients[i]);
        model.coefficients = (0..model.coefficients.len()).map(mean).collect();
        model.rotation = 0.5 * (fits[0].rotation + fits[1].rotation);
        Validated { model, unseen }
    }

    /// The objective over some groups by the coefficients, which are phases at the disk's edge, and the rotation, all in
    /// radians.
    fn at(&self, start: &GeneralModel, x: &[f64], places: &[Range<usize>]) -> GeneralObjective {
        self.total(&moved(start, x), start.rotation, places)
    }

    fn fit(&self, start: &GeneralModel, places: &[Range<usize>]) -> GeneralModel {
        let objective = |x: &[f64]| {
            let o = self.at(start, x, places);
            (o.value, o.gradient)
        };
        moved(start, &climb(&parameters(start), None, ITERATIONS, objective).at)
    }

    /// Standard deviations in Å on the scan's axes, by name, and of the rotation in degrees.
    fn deviations(&self, model: &GeneralModel, sampling: Sampling) -> BTreeMap<String, f64> {
        let x = parameters(model);
        let here = self.at(model, &x, &self.seen).gradient;
        let bend = curvature(&x, STEP, &here, |x| self.at(model, x, &self.seen).gradient);
        let Some(inverse) = inverse(&bend) else { return BTreeMap::new() };
        let each = self.each(model, model.rotation, &self.seen);
        let covariance = sandwich(&inverse, each.into_iter().map(|o| o.gradient));
        // How the numbers on the scan's axes change with the parameters: these turn with the rotation.
        let named = |x: &[f64]| self.in_angstrom(&moved(model, x), sampling);
        let before = named(&x);
        let slopes: Vec<Vec<f64>> = (0..x.len())
            .map(|p| {
                let mut x = x.clone();
                x[p] += STEP;
                named(&x).iter().zip(&before).map(|((_, a), (_, b))| (a - b) / STEP).collect()
            })
            .collect();
        let variance = |i: usize| -> f64 {
            let row: Vec<f64> = slopes.iter().map(|of| of[i]).collect();
            dot(&row, &times(&covariance, &row))
        };
        let each = before.iter().enumerate().map(|(i, (name, _))| (name.clone(), variance(i).sqrt()));
        each.filter(|(_, s)| s.is_finite()).collect()
    }

    /// All numbers of a model by name: aberrations in Å on the scan's axes, and the rotation in degrees.
    fn in_angstrom(&self, model: &GeneralModel, sampling: Sampling) -> Vec<(String, f64)> {
        let all = model.aberrations(self.radius, sampling.pixel_rad, sampling.wavelength_angstrom);
        let coefficients = model.basis.iter().map(|t| {
            let [a, b] = all.get(t.m, t.n);
            let part = if t.n == 0 {
                ""
            } else if t.b == 0.0 {
                "a"
            } else {
                "b"
            };
            (format!("c{}{}{part}", t.m, t.n), if t.b == 0.0 { a } else { b })
        });
        coefficients.chain([("rotation".to_owned(), model.rotation.to_degrees())]).collect()
    }
}

/// The coefficients and, last, the rotation.
fn parameters(model: &GeneralModel) -> Vec<f64> {
    model.coefficients.iter().copied().chain([model.rotation]).collect()
}

/// The model with other [`parameters`].
fn moved(model: &GeneralModel, x: &[f64]) -> GeneralModel {
    let (coefficients, rotation) = (x[..x.len() - 1].to_vec(), x[x.len() - 1]);
    GeneralModel { coefficients, rotation, ..model.clone() }
}
