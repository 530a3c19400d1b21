//! Parametric alignment: how well one small model of the aberrations explains all virtual images at once.
//!
//! The image of detector pixel `k` is the object displaced by `d(k) = M k` (scan pixels; `k` in detector pixels from the
//! disk's centre). Multiplying its spectrum `F_k(q)` by `exp(2πi q·d(k))` undoes that. The detector pixels are split
//! into the two colours of a checkerboard, each colour is summed to `S₀(q)` and `S₁(q)`, and
//!
//! ```text
//! J(M) = Σ_q Re(S₀(q) S₁*(q))
//! ```
//!
//! is the objective. The noise of the two halves is independent, so J has no noise floor: its maximum stands out at
//! doses at which no single pixel correlates with anything.
//!
//! With a calibration the filter is matched to what a weak phase object does instead: `Γ(q,k) = ψ(q-k)ψ*(k) - ψ*(q+k)ψ(k)`
//! (Yang et al. 2016), `S = Σ_k F_k iΓ* / sqrt(Σ_k |Γ|²)`. Dividing by the norm makes J the power that the model explains
//! per unit of noise, so that models with more contrast are not preferred. For aberrations up to second order,
//! `M = -C R(θ)` with the symmetric matrix `C` of defocus and astigmatism, `iΓ*` is the phase above times a number that
//! depends on `k` only through the overlap of the displaced disks: with `χ(q) = π g qᵀCq`,
//!
//! ```text
//! both q-k and q+k in the aperture:   -2 sin χ(q)
//! only q-k:                            i exp(iχ(q))
//! only q+k:                           -i exp(-iχ(q))
//! none:                                0
//! ```
//!
//! that is, the sum of `i exp(iχ(q))` over the pixels with `q-k` in the aperture and `-i exp(-iχ(q))` over those with `q+k`,
//! because `χ(q-k) - χ(k) = χ(q) + 2π q·d(k)` and `χ(q+k) - χ(k) = χ(q) - 2π q·d(k)` for a quadratic `χ`. So both
//! kernels cost one multiplication per number: the phase `q·Mk` is linear along a detector row, and its factors are
//! made once per frequency. Weighting by `sin χ`, instead of taking its sign only, matters: near its zeros what is left
//! of the image is not the phase object's, and taken at full weight it pulls the defocus by up to a percent.
//!
//! An object that absorbs, or that scatters strongly, still interferes the beams `k-q` and `k+q` with `k`, but its two side
//! bands have strengths of their own. The third kernel leaves both free: `F_k(q) = e^(-2πi q·d(k)) (A₋ [q-k inside] + A₊ [q+k
//! inside])`, by least squares over the pixels. `χ(q)` is then a part of `A₋` and `A₊`: only displacements are asked for, as by
//! the plain phase, but where one beam is missing nothing is taken for a displacement.
//!
//! A scan that is coarser than the images' resolution folds them. The factor of a frequency beyond the scan's Nyquist
//! frequency applies to the same folded spectrum, so such frequencies cost no memory, and they feel displacements more.
//! [`joint`] takes apart what such frequencies see of each other.

#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

pub mod general;
pub mod joint;
mod lattice;
mod model;
pub mod residual;
mod sums;
mod weights;

use std::sync::Arc;

use num_complex::Complex;

use super::simd::dispatch;
use lattice::{LANES, Lattice, Phases};
use model::{Matrix, gradient_of_phase};
pub use model::{Model, Parameters};
use sums::{Counts, Cuts, SIDES, Sums, half_sums};
use weights::Weights;

/// How the phase factors are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kernel {
    /// `exp(2πi q·d(k))`: needs no calibration; biased when displacements are small.
    Shift,
    /// The same for both side bands apart, each with a strength of its own.
    SideBands {
        /// Detector pixels per unit of scan frequency (cycle per scan pixel): `λ / (Δα · step)`.
        pixels_per_frequency: f64,
        /// Radius of the aperture in detector pixels.
        radius: f64,
        /// As for the weak phase object.
        overlap_rotation: Option<f64>,
    },
    /// The filter matched to a weak phase object.
    WeakPhase {
        /// Detector pixels per unit of scan frequency (cycle per scan pixel): `λ / (Δα · step)`.
        pixels_per_frequency: f64,
        /// Radius of the aperture in detector pixels.
        radius: f64,
        /// The rotation with which the overlap of the disks is looked up, in radians; the model's own when absent. A
        /// fixed one makes the objective smooth: no pixel changes sides on the way.
        overlap_rotation: Option<f64>,
    },
}

impl Kernel {
    /// The same kernel with the overlap of the disks fixed as it is for `model`.
    #[must_use]
    pub fn with_overlap(self, model: &Model) -> Self {
        let overlap_rotation = Some(model.parameters[3]);
        match self {
            Self::Shift => self,
            Self::SideBands { pixels_per_frequency, radius, .. } => {
                Self::SideBands { pixels_per_frequency, radius, overlap_rotation }
            }
            Self::WeakPhase { pixels_per_frequency, radius, .. } => {
                Self::WeakPhase { pixels_per_frequency, radius, overlap_rotation }
            }
        }
    }

    /// What is asked of the images: their `shift` alone, or also the contrast of a `weak-phase` object.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shift | Self::SideBands { .. } => "shift",
            Self::WeakPhase { .. } => "weak-phase",
        }
    }
}

/// A run of detector pixels of one colour in one detector row: columns `col, col + spacing, …`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Run {
    /// Row from the disk's centre, in detector pixels.
    pub row: f64,
    /// First column from the disk's centre.
    pub col: f64,
    /// Number of pixels.
    pub len: usize,
    /// Place of the first one among the colour's pixels.
    pub start: usize,
}

/// One colour of the checkerboard.
#[derive(Debug, Clone, Default)]
pub struct Half {
    /// Its detector pixels, row by row.
    pub runs: Vec<Run>,
    /// Number of detector pixels.
    pub pixels: usize,
    /// Row, first column and length of each run once more, side by side for the lanes.
    lines: [Vec<f64>; 3],
    /// Real and imaginary parts of the spectra, `[spectrum, pixel]`: apart, they fill the processor's lanes. Before the
    /// first one and behind the last one there is room for a block of lanes, so that no run needs a shorter loop at its
    /// ends.
    parts: [Vec<f32>; 2],
}

impl Half {
    /// One colour from its spectra, `[spectrum, pixel]`.
    pub fn new(runs: Vec<Run>, pixels: usize, spectra: &[Complex<f32>]) -> Self {
        let part = |of: fn(&Complex<f32>) -> f32| {
            [0.0; LANES].into_iter().chain(spectra.iter().map(of)).chain([0.0; LANES]).collect()
        };
        let line = |of: fn(&Run) -> f64| runs.iter().map(of).collect();
        let lines = [line(|r| r.row), line(|r| r.col), line(|r| r.len as f64)];
        Self { lines, pixels, parts: [part(|z| z.re), part(|z| z.im)], runs }
    }

    /// The real and the imaginary parts of one spectrum.
    ///
    /// # Panics
    /// When there is no such spectrum.
    pub fn spectrum(&self, index: usize) -> [&[f32]; 2] {
        self.with_lanes(index).map(|part| &part[LANES..][..self.pixels])
    }

    /// The same with a block of lanes before and behind it, which belong to other pixels.
    #[inline(always)]
    fn with_lanes(&self, index: usize) -> [&[f32]; 2] {
        self.parts.each_ref().map(|part| &part[index * self.pixels..][..self.pixels + 2 * LANES])
    }
}

/// Spectra of all virtual images at chosen frequencies.
#[derive(Debug, Clone, Default)]
pub struct HalfSets {
    /// Frequencies `[row, col]` in cycles per scan pixel.
    pub frequencies: Vec<[f64; 2]>,
    /// Which spectrum each of them reads: frequencies that the scan folds onto each other share one.
    pub spectrum_of: Vec<usize>,
    /// Distance of neighbouring pixels of a run in detector pixels.
    pub(crate) spacing: f64,
    /// The two colours.
    pub(crate) halves: Arc<[Half; 2]>,
    lattice: Arc<Lattice>,
}

impl HalfSets {
    /// From frequencies, the spectrum that each of them reads, and the two colours, whose runs have pixels `spacing` detector
    /// pixels apart.
    pub fn new(frequencies: Vec<[f64; 2]>, spectrum_of: Vec<usize>, spacing: f64, halves: [Half; 2]) -> Self {
        let lattice = Arc::new(Lattice::of(&halves, spacing));
        Self { frequencies, spectrum_of, spacing, halves: Arc::new(halves), lattice }
    }

    /// Bytes of the spectra.
    pub fn bytes(&self) -> usize {
        self.halves.iter().map(|half| half.parts.iter().map(Vec::len).sum::<usize>() * size_of::<f32>()).sum()
    }

    /// The same with the frequencies in `places` only; shares the spectra.
    #[must_use]
    pub fn with_frequencies(&self, places: impl Iterator<Item = usize>) -> Self {
        let (frequencies, spectrum_of) = places.map(|i| (self.frequencies[i], self.spectrum_of[i])).unzip();
        let (halves, lattice) = (Arc::clone(&self.halves), Arc::clone(&self.lattice));
        Self { frequencies, spectrum_of, spacing: self.spacing, halves, lattice }
    }
}

/// The objective, its gradient, and the power of the two sums that it is made of.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Objective {
    /// `J = Σ_q Re(S₀ S₁*)`.
    pub value: f64,
    /// `∂J/∂[c1, c2a, c2b, θ]`.
    pub gradient: Parameters,
    /// `Σ_q (|S₀|² + |S₁|²) / 2`.
    pub power: f64,
}

impl Objective {
    /// Adds the share of other frequencies.
    #[inline(always)]
    pub fn add(&mut self, other: &Self) {
        self.value += other.value;
        self.power += other.power;
        self.gradient.iter_mut().zip(other.gradient).for_each(|(a, b)| *a += b);
    }
}

/// Added to the filter's norm, in detector pixels: where the disks hardly overlap there is only noise.
const LEAST_NORM: f64 = 1.0;

/// The objective over the frequencies of `range`.
///
/// Shares of different ranges [add](Objective::add) up; a caller that cuts the frequencies in fixed pieces gets the
/// same bits for any number of threads.
///
/// # Panics
/// When `range` reaches beyond the frequencies.
pub fn objective(sets: &HalfSets, model: &Model, kernel: Kernel, range: std::ops::Range<usize>) -> Objective {
    let mut total = Objective::default();
    for_each(
        (sets, model, kernel, range),
        #[inline(always)]
        |share| total.add(&share),
    );
    total
}

/// The value of the [`objective`] of each frequency of `range` alone.
///
/// # Panics
/// When `range` reaches beyond the frequencies.
pub fn objective_of_each(sets: &HalfSets, model: &Model, kernel: Kernel, range: std::ops::Range<usize>) -> Vec<f64> {
    let mut values = Vec::with_capacity(range.len());
    for_each(
        (sets, model, kernel, range),
        #[inline(always)]
        |share| values.push(share.value),
    );
    values
}

type Job<'a> = (&'a HalfSets, &'a Model, Kernel, std::ops::Range<usize>);

/// Hands the share of each frequency over.
fn for_each(job: Job<'_>, enter: impl FnMut(Objective)) {
    dispatch(
        #[inline(always)]
        || compiled_for_each(job, enter),
    );
}

#[inline(always)]
fn compiled_for_each((sets, model, kernel, range): Job<'_>, mut enter: impl FnMut(Objective)) {
    let mut phases = Phases::of(sets);
    let mut cuts = Cuts::for_sets(sets);
    let matrix = model.matrix();
    let derivatives = model.derivatives();
    for index in range {
        let q = sets.frequencies[index];
        // Φ(k) = w·k
        let w = gradient_of_phase(&matrix, q);
        let (weights, other) = Weights::new(model, kernel, q);
        let mut counts = Counts::default();
        phases.fill(w);
        // Not a map: its closure would not be compiled for this processor.
        let mut sums = [[Sums::default(); SIDES]; 2];
        for (h, sums) in sums.iter_mut().enumerate() {
            half_sums(sets, h, index, &weights, (&phases, &mut cuts, &mut counts), sums);
        }
        if let Some(other) = other {
            enter(both_sides([&weights, &other], &sums, &counts, (&derivatives, q)));
            continue;
        }
        let norm = weights.norm(&counts);
        let s = sums.map(|sides| weights.apply(&sides, |s| s.plain));
        let value = (s[0] * s[1].conj()).re / norm;
        let power = 0.5 * (s[0].norm_sqr() + s[1].norm_sqr()) / norm;
        let mut share = Objective { value, power, ..Objective::default() };
        for (p, derivative) in derivatives.iter().enumerate() {
            let u = gradient_of_phase(derivative, q);
            let ds = sums.map(|sides| {
                let moved = weights.apply(&sides, |s| s.row * u[0] + s.col * u[1]);
                Complex::<f64>::i() * moved + weights.derivative(&sides, p)
            });
            let change = (ds[0] * s[1].conj() + s[0] * ds[1].conj()).re;
            share.gradient[p] = (change - value * weights.norm_derivative(&counts, p)) / norm;
        }
        enter(share);
    }
}

/// The objective of one frequency whose side bands have strengths of their own: `b₀ᴴ G⁻¹ b₁` with two sums each. `G` does not
/// change with the model.
#[inline(always)]
fn both_sides(
    weights: [&Weights; 2],
    sums: &[[Sums; SIDES]; 2],
    counts: &Counts,
    (derivatives, q): (&[Matrix; 4], [f64; 2]),
) -> Objective {
    let (a, c, b) = (weights[0].norm(counts), weights[1].norm(counts), counts.both as f64);
    let determinant = a * c - b * b;
    let inverse = [[c / determinant, -b / determinant], [-b / determinant, a / determinant]];
    let product = |x: &[Complex<f64>; 2], y: &[Complex<f64>; 2]| -> f64 {
        (0..4).map(|i| inverse[i / 2][i % 2] * (x[i / 2].conj() * y[i % 2]).re).sum()
    };
    let of = |h: usize, f: &dyn Fn(&Sums) -> Complex<f64>| weights.map(|w| w.apply(&sums[h], f));
    let s = [of(0, &|r| r.plain), of(1, &|r| r.plain)];
    let mut out = Objective { value: product(&s[0], &s[1]), ..Objective::default() };
    out.power = 0.5 * (product(&s[0], &s[0]) + product(&s[1], &s[1]));
    for (slope, derivative) in out.gradient.iter_mut().zip(derivatives) {
        let u = gradient_of_phase(derivative, q);
        let moved = [0, 1].map(|h| of(h, &|r| Complex::<f64>::i() * (r.row * u[0] + r.col * u[1])));
        *slope = product(&moved[0], &s[1]) + product(&s[0], &moved[1]);
    }
    out
}

#[cfg(test)]
mod tests;
