//! The numbers of a filter: all that distinguishes the kernels.

#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use num_complex::Complex;

use super::sums::{Counts, SIDES, Sums};
use super::{Kernel, LEAST_NORM, Model};

/// The numbers by which the pixels of the two sides are multiplied at one frequency: where both have a pixel, by their sum.
#[derive(Clone, Copy)]
pub(super) struct Weights {
    pub(super) factor: [Complex<f64>; SIDES],
    /// `χ(q)`; nothing for filters that do not know it.
    pub(super) chi: f64,
    /// `∂χ(q)/∂[c1, c2a, c2b]`, likewise.
    pub(super) chi_slope: [f64; 3],
    /// The frequency in detector pixels, on the detector's axes, and the aperture's radius.
    pub(super) overlap: Option<([f64; 2], f64)>,
}

impl Weights {
    /// Those of the only filter, or of both side bands.
    pub(super) fn new(model: &Model, kernel: Kernel, q: [f64; 2]) -> (Self, Option<Self>) {
        let (zero, one) = (Complex::default(), Complex::from(1.0));
        let constant = |factor: [Complex<f64>; SIDES], overlap| Self { factor, chi: 0.0, chi_slope: [0.0; 3], overlap };
        let at = |g: f64, rotation: Option<f64>| {
            let mut turned = *model;
            turned.parameters[3] = rotation.unwrap_or(turned.parameters[3]);
            turned.on_detector(q.map(|v| v * g))
        };
        let (g, radius, overlap_rotation) = match kernel {
            Kernel::Shift => return (constant([one, zero], None), None),
            Kernel::SideBands { pixels_per_frequency, radius, overlap_rotation } => {
                let overlap = Some((at(pixels_per_frequency, overlap_rotation), radius));
                return (constant([one, zero], overlap), Some(constant([zero, one], overlap)));
            }
            Kernel::WeakPhase { pixels_per_frequency, radius, overlap_rotation } => {
                (pixels_per_frequency, radius, overlap_rotation)
            }
        };
        let scale = std::f64::consts::PI * g;
        let slope = [q[0] * q[0] + q[1] * q[1], q[0] * q[0] - q[1] * q[1], 2.0 * q[0] * q[1]].map(|s| s * scale);
        let [c1, c2a, c2b, _] = model.parameters;
        let chi = c1 * slope[0] + c2a * slope[1] + c2b * slope[2];
        let i = Complex::<f64>::i();
        let factor = [i * Complex::cis(chi), -i * Complex::cis(-chi)];
        let overlap = Some((at(g, overlap_rotation), radius));
        (Self { factor, chi, chi_slope: slope, overlap }, None)
    }

    #[inline(always)]
    pub(super) fn apply(&self, sides: &[Sums; SIDES], of: impl Fn(&Sums) -> Complex<f64>) -> Complex<f64> {
        self.factor[0] * of(&sides[0]) + self.factor[1] * of(&sides[1])
    }

    /// `Σ_k |Γ|²` over the counted pixels.
    pub(super) fn norm(&self, counts: &Counts) -> f64 {
        let [minus, plus] = self.factor;
        let alone = minus.norm_sqr() * counts.sides[0] as f64 + plus.norm_sqr() * counts.sides[1] as f64;
        alone + 2.0 * (minus * plus.conj()).re * counts.both as f64 + LEAST_NORM
    }

    /// How the norm changes with a parameter, through `4 sin²χ(q)` where both sides have a pixel.
    pub(super) fn norm_derivative(&self, counts: &Counts, parameter: usize) -> f64 {
        let slope = self.chi_slope.get(parameter).copied().unwrap_or(0.0);
        4.0 * (2.0 * self.chi).sin() * slope * counts.both as f64
    }

    /// What changes through `χ(q)`.
    pub(super) fn derivative(&self, sides: &[Sums; SIDES], parameter: usize) -> Complex<f64> {
        let slope = self.chi_slope.get(parameter).copied().unwrap_or(0.0);
        let [minus, plus] = self.factor_slopes();
        slope * (minus * sides[0].plain + plus * sides[1].plain)
    }

    /// How the factors change with `χ(q)`: `iχ'` and `-iχ'` times themselves.
    pub(super) fn factor_slopes(&self) -> [Complex<f64>; SIDES] {
        let i = Complex::<f64>::i();
        [i * self.factor[0], -i * self.factor[1]]
    }
}
