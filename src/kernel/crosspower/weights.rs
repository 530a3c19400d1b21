//! The numbers of a filter: all that distinguishes the kernels.

use num_complex::Complex;

use super::sums::{REGIONS, Sums};
use super::{Kernel, LEAST_NORM, Model};

/// The numbers by which the three regions are multiplied at one frequency.
#[derive(Clone, Copy)]
pub(super) struct Weights {
    pub(super) factor: [Complex<f64>; REGIONS],
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
        let constant =
            |factor: [Complex<f64>; REGIONS], overlap| Self { factor, chi: 0.0, chi_slope: [0.0; 3], overlap };
        let at = |g: f64, rotation: Option<f64>| {
            let mut turned = *model;
            turned.parameters[3] = rotation.unwrap_or(turned.parameters[3]);
            turned.on_detector(q.map(|v| v * g))
        };
        let (g, radius, overlap_rotation) = match kernel {
            Kernel::Shift => return (constant([one, zero, zero], None), None),
            Kernel::SideBands { pixels_per_frequency, radius, overlap_rotation } => {
                let overlap = Some((at(pixels_per_frequency, overlap_rotation), radius));
                return (constant([one, one, zero], overlap), Some(constant([one, zero, one], overlap)));
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
        let factor = [Complex::from(-2.0 * chi.sin()), i * Complex::cis(chi), -i * Complex::cis(-chi)];
        let overlap = Some((at(g, overlap_rotation), radius));
        (Self { factor, chi, chi_slope: slope, overlap }, None)
    }

    pub(super) fn apply(&self, regions: &[Sums; REGIONS], of: impl Fn(&Sums) -> Complex<f64>) -> Complex<f64> {
        self.factor.iter().zip(regions).map(|(f, r)| f * of(r)).sum()
    }

    /// `Σ_k |Γ|²` over the counted pixels.
    pub(super) fn norm(&self, counts: &[usize; REGIONS]) -> f64 {
        let pixels = self.factor.iter().zip(counts).map(|(f, &n)| f.norm_sqr() * n as f64);
        pixels.sum::<f64>() + LEAST_NORM
    }

    /// How the norm changes with a parameter, through `4 sin²χ(q)`.
    pub(super) fn norm_derivative(&self, counts: &[usize; REGIONS], parameter: usize) -> f64 {
        let slope = self.chi_slope.get(parameter).copied().unwrap_or(0.0);
        4.0 * (2.0 * self.chi).sin() * slope * counts[0] as f64
    }

    /// What changes through `χ(q)`: `-2 cos χ χ'` on the first region, `iχ'` on the second, `-iχ'` on the third.
    pub(super) fn derivative(&self, regions: &[Sums; REGIONS], parameter: usize) -> Complex<f64> {
        let Some(&slope) = self.chi_slope.get(parameter).filter(|_| self.overlap.is_some()) else {
            return Complex::default();
        };
        let crescents = self.factor[1] * regions[1].plain - self.factor[2] * regions[2].plain;
        slope * (Complex::<f64>::i() * crescents - 2.0 * self.chi.cos() * regions[0].plain)
    }

    /// How the factors change with `χ(q)`.
    pub(super) fn factor_slopes(&self) -> [Complex<f64>; REGIONS] {
        let i = Complex::<f64>::i();
        match self.overlap {
            None => [Complex::default(); REGIONS],
            Some(_) => [Complex::from(-2.0 * self.chi.cos()), i * self.factor[1], -i * self.factor[2]],
        }
    }
}
