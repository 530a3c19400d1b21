//! The last part of the search: all detector pixels, all frequencies, and those that the scan folds onto each other
//! taken together.
//!
//! Taken one by one they disturb each other (see [`joint`](crate::kernel::crosspower::joint)), and pull a model of small
//! displacements; the way there does not need this.

use std::ops::Range;

use rayon::prelude::*;

use crate::kernel::crosspower::joint::{Joint, groups};
use crate::kernel::crosspower::{HalfSets, Kernel, Model, Objective};
use crate::steps::parametric::climb::{Matrix, Summit, climb, curvature, dot, inverse, sandwich, times};

/// Groups of frequencies of one parallel piece: fixed, so that sums do not depend on the number of threads.
const PIECE: usize = 24;
const ITERATIONS: usize = 8;
/// How often which disks overlap is looked up anew.
const ROUNDS: usize = 2;
/// As many groups of frequencies know the curvature well enough.
const ENOUGH_GROUPS: usize = 200;
/// Step of the slopes' differences: displacements at the disk's edge in scan pixels, and radians.
const STEP: f64 = 1e-3;

/// A point of the search with its objective.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) model: Model,
    pub(super) value: f64,
}

/// The top of the objective.
pub(super) struct Polished {
    pub(super) best: Found,
    /// Standard deviations of the model's parameters, where the curvature determines them.
    pub(super) deviations: Option<[f64; 4]>,
    /// The coherence at the start and after each step.
    pub(super) coherence: Vec<f64>,
}

/// The objective of a model over all groups, in parameters that are displacements at the disk's edge and radians.
pub(super) struct Hill<'a> {
    sets: &'a HalfSets,
    groups: Vec<Range<usize>>,
    kernel: Kernel,
    scale: [f64; 4],
    transposed: bool,
}

impl<'a> Hill<'a> {
    /// Over some of the [`groups`] of a set.
    pub(super) fn new(
        sets: &'a HalfSets,
        groups: Vec<Range<usize>>,
        kernel: Kernel,
        radius: f64,
        transposed: bool,
    ) -> Self {
        Self { sets, groups, kernel, scale: [radius, radius, radius, 1.0], transposed }
    }

    /// The top that lies uphill of a model.
    pub(super) fn top(&self, start: &Model) -> Model {
        let x = self.parameters(start);
        let known = self.curvature_from_some(&x);
        self.model(&self.climb(&x, known).at)
    }

    /// The same with the covariance of its parameters, in displacements at the disk's edge (scan pixels) and radians; `None`
    /// where the curvature does not determine it.
    pub(super) fn top_and_covariance(&self, start: &Model) -> Option<(Model, Matrix)> {
        let x = self.parameters(start);
        let known = self.curvature_from_some(&x)?;
        let top = self.climb(&x, Some(known.clone())).at;
        Some((self.model(&top), self.covariance(&known, &top)))
    }

    fn covariance(&self, inverse: &Matrix, x: &[f64]) -> Matrix {
        sandwich(inverse, self.slopes(x).into_iter())
    }

    /// Standard deviations of the model's own parameters.
    pub(super) fn deviations(&self, covariance: &Matrix) -> [f64; 4] {
        std::array::from_fn(|p| covariance[p][p].sqrt() / self.scale[p])
    }

    /// How many standard deviations lie between two models, for the covariance of their difference; `None` when it is none.
    pub(super) fn apart(&self, a: &Model, b: &Model, covariance: &Matrix) -> Option<f64> {
        let difference: Vec<f64> = self.parameters(a).iter().zip(self.parameters(b)).map(|(a, b)| a - b).collect();
        Some(dot(&difference, &times(&inverse(covariance)?, &difference)).sqrt())
    }

    /// The objective of each group alone.
    pub(super) fn values(&self, model: &Model) -> Vec<f64> {
        let joint = Joint::new(self.sets, model, self.kernel);
        let one = |group: &Range<usize>| joint.objective(std::slice::from_ref(group)).value;
        let pieces: Vec<Vec<f64>> =
            self.groups.par_chunks(PIECE).map(|piece| piece.iter().map(one).collect()).collect();
        pieces.concat()
    }

    fn climb(&self, from: &[f64], inverse: Option<Matrix>) -> Summit {
        climb(from, inverse, ITERATIONS, |x| {
            let o = self.evaluate(x);
            (o.value, self.slope(&o))
        })
    }

    fn model(&self, x: &[f64]) -> Model {
        Model { parameters: std::array::from_fn(|p| x[p] / self.scale[p]), transposed: self.transposed }
    }

    fn parameters(&self, model: &Model) -> Vec<f64> {
        model.parameters.iter().zip(self.scale).map(|(p, s)| p * s).collect()
    }

    fn evaluate(&self, x: &[f64]) -> Objective {
        let joint = Joint::new(self.sets, &self.model(x), self.kernel);
        let pieces: Vec<Objective> = self.groups.par_chunks(PIECE).map(|piece| joint.objective(piece)).collect();
        let mut total = Objective::default();
        for piece in &pieces {
            total.add(piece);
        }
        total
    }

    fn slope(&self, o: &Objective) -> Vec<f64> {
        o.gradient.iter().zip(self.scale).map(|(g, s)| g / s).collect()
    }

    /// The slopes of each group alone.
    fn slopes(&self, x: &[f64]) -> Vec<Vec<f64>> {
        let joint = Joint::new(self.sets, &self.model(x), self.kernel);
        let one = |group: &Range<usize>| self.slope(&joint.objective(std::slice::from_ref(group)));
        let pieces: Vec<Vec<Vec<f64>>> =
            self.groups.par_chunks(PIECE).map(|piece| piece.iter().map(one).collect()).collect();
        pieces.concat()
    }
}

impl Hill<'_> {
    /// The inverse of the negative curvature, from some of the groups: it has to be known to a few percent only, and then
    /// spares the climb most evaluations with all of them. `None` where the objective does not bend down on all sides.
    fn curvature_from_some(&self, x: &[f64]) -> Option<Matrix> {
        let stride = (self.groups.len() / ENOUGH_GROUPS).clamp(1, 5);
        let groups: Vec<Range<usize>> = self.groups.iter().step_by(stride).cloned().collect();
        let part = self.groups.len() as f64 / groups.len().max(1) as f64;
        let some = Hill { groups, ..*self };
        let slope = |x: &[f64]| -> Vec<f64> { some.slope(&some.evaluate(x)).iter().map(|s| s * part).collect() };
        inverse(&curvature(x, STEP, &slope(x), slope))
    }
}

/// Climbs from a model near the top, and says how sharp the top is.
pub(super) fn polish(sets: &HalfSets, start: Model, kernel: Kernel, radius: f64) -> Polished {
    let mut hill = Hill::new(sets, groups(sets), kernel.with_overlap(&start), radius, start.transposed);
    let mut x = hill.parameters(&start);
    let known = hill.curvature_from_some(&x);
    let mut coherence = Vec::new();
    for _ in 0..ROUNDS {
        hill.kernel = kernel.with_overlap(&hill.model(&x));
        let summit = hill.climb(&x, known.clone());
        x = summit.at;
        coherence.extend(summit.values);
    }
    let top = hill.evaluate(&x);
    let power = top.power.max(f64::MIN_POSITIVE);
    for value in &mut coherence {
        *value /= power;
    }
    let deviations = known.map(|known| hill.deviations(&hill.covariance(&known, &x)));
    Polished { best: Found { model: hill.model(&x), value: top.value }, deviations, coherence }
}
