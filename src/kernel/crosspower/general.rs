//! The objective for aberrations of any order.
//!
//! With `a = χ(k-q) - χ(k)` and `b = χ(k+q) - χ(k)` the matched filter is `Γ* = m₋ e^(ia) - m₊ e^(-ib)`, with `m∓` whether
//! `k∓q` lies in the aperture: `Γ = ψ(k-q)ψ*(k) - ψ*(k+q)ψ(k)`. (With `q-k` in place of `k-q`, as it is often written, it
//! holds for even aberrations only.) Everything is on the detector's axes, where the aberrations are sought too: the rotation
//! then moves only the frequencies, not the pixels.

use num_complex::Complex64;

use super::{HalfSets, LEAST_NORM, Model};
use crate::kernel::aberrations::{Aberrations, Powers, Term};

/// The most coefficients: all terms up to fifth order.
pub const MOST_COEFFICIENTS: usize = 25;

/// A model of any order on the detector's axes.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneralModel {
    /// The terms, with unit parts: `Term { a: 1, b: 0 }` or `Term { a: 0, b: 1 }`.
    pub basis: Vec<Term>,
    /// Their coefficients: the path [`Term::path`] of `k / radius` times this is a phase in radians.
    pub coefficients: Vec<f64>,
    /// Rotation in radians and whether the detector's axes are exchanged.
    pub rotation: f64,
    /// Whether the detector's axes are exchanged.
    pub transposed: bool,
}

/// The aperture and the scan's sampling, in detector pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Aperture {
    /// Detector pixels per cycle per scan pixel.
    pub pixels_per_frequency: f64,
    /// Radius in detector pixels.
    pub radius: f64,
    /// The rotation with which the overlap of the disks is looked up, in radians.
    pub overlap_rotation: f64,
}

/// The objective and its gradient by the coefficients and, last, the rotation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GeneralObjective {
    /// `J`.
    pub value: f64,
    /// `∂J/∂[coefficients, rotation]`.
    pub gradient: Vec<f64>,
}

impl GeneralObjective {
    /// Adds the share of other frequencies.
    pub fn add(&mut self, other: &Self) {
        self.value += other.value;
        if self.gradient.len() < other.gradient.len() {
            self.gradient.resize(other.gradient.len(), 0.0);
        }
        self.gradient.iter_mut().zip(&other.gradient).for_each(|(a, b)| *a += b);
    }
}

/// All terms of one order with unit parts.
pub fn unit_terms(order: u8) -> Vec<Term> {
    let symmetries = (0..=order + 1).filter(|n| (order + 1 - n).is_multiple_of(2));
    let parts = symmetries.flat_map(|n| {
        let cosine = Term { m: order, n, a: 1.0, b: 0.0 };
        let sine = Term { m: order, n, a: 0.0, b: 1.0 };
        if n == 0 { vec![cosine] } else { vec![cosine, sine] }
    });
    parts.collect()
}

impl GeneralModel {
    /// A frequency in cycles per scan pixel as a place on the detector's axes, in detector pixels.
    fn on_detector(&self, q: [f64; 2], rotation: f64, pixels_per_frequency: f64) -> [f64; 2] {
        let model = Model { parameters: [0.0, 0.0, 0.0, rotation], transposed: self.transposed };
        model.on_detector(q.map(|v| v * pixels_per_frequency))
    }

    /// Puts the basis at `k / radius` into `into`, and returns the slope of the whole phase.
    fn evaluate(&self, k: [f64; 2], radius: f64, into: &mut [f64]) -> [f64; 2] {
        let at = Powers::new(k.map(|v| v / radius), self.basis.iter().map(|t| t.m).max().unwrap_or(1));
        let mut slope = [0.0; 2];
        for ((term, c), value) in self.basis.iter().zip(&self.coefficients).zip(into) {
            *value = term.path_at(&at);
            let g = term.gradient_at(&at);
            slope = [slope[0] + c * g[0] / radius, slope[1] + c * g[1] / radius];
        }
        slope
    }

    fn phase(&self, values: &[f64]) -> f64 {
        self.coefficients.iter().zip(values).map(|(c, v)| c * v).sum()
    }

    /// The aberrations in Å on the scan's axes, for detector pixels of `pixel_rad`.
    pub fn aberrations(&self, radius: f64, pixel_rad: f64, wavelength_angstrom: f64) -> Aberrations {
        let edge = radius * pixel_rad;
        let scale = |m: u8| wavelength_angstrom / std::f64::consts::TAU / edge.powi(i32::from(m) + 1);
        let each = self.basis.iter().zip(&self.coefficients).map(|(t, c)| {
            let factor = c * scale(t.m);
            Aberrations::of_term(Term { a: t.a * factor, b: t.b * factor, ..*t })
        });
        let here = each.fold(Aberrations::default(), |sum, one| sum.plus(&one));
        // here(k_det) = scan(R T k_det), so scan = here turned back, then exchanged.
        let here = if self.transposed { here.transposed() } else { here };
        here.rotated(-self.rotation)
    }

    /// The inverse of [`aberrations`](Self::aberrations), for a given basis.
    pub fn from_aberrations(
        scan: &Aberrations,
        basis: Vec<Term>,
        (rotation, transposed): (f64, bool),
        (radius, pixel_rad, wavelength_angstrom): (f64, f64, f64),
    ) -> Self {
        let edge = radius * pixel_rad;
        let here = scan.rotated(rotation);
        let here = if transposed { here.transposed() } else { here };
        let coefficient = |t: &Term| {
            let [a, b] = here.get(t.m, t.n);
            (a * t.a + b * t.b) * std::f64::consts::TAU / wavelength_angstrom * edge.powi(i32::from(t.m) + 1)
        };
        let coefficients = basis.iter().map(coefficient).collect();
        Self { basis, coefficients, rotation, transposed }
    }
}

/// The objective over the frequencies of `range`; shares of ranges [add](GeneralObjective::add) up.
///
/// # Panics
/// When `range` reaches beyond the frequencies, or the model has more than [`MOST_COEFFICIENTS`].
pub fn general_objective(
    sets: &HalfSets,
    model: &GeneralModel,
    aperture: Aperture,
    range: std::ops::Range<usize>,
) -> GeneralObjective {
    let n = model.basis.len();
    assert!(n <= MOST_COEFFICIENTS, "{n} coefficients");
    let Aperture { pixels_per_frequency: g, radius, overlap_rotation } = aperture;
    let mut total = GeneralObjective { value: 0.0, gradient: vec![0.0; n + 1] };
    let own: Vec<Vec<Own>> = sets.halves.iter().map(|half| own_values(half, sets.spacing, model, radius)).collect();
    for index in range {
        let frequency = sets.frequencies[index];
        let q = model.on_detector(frequency, model.rotation, g);
        let place = model.on_detector(frequency, overlap_rotation, g);
        // How q moves with the rotation.
        let turn = model.on_detector(frequency, model.rotation + std::f64::consts::FRAC_PI_2, g);
        let mut sums = [Sum::default(); 2];
        let mut norm = LEAST_NORM;
        let mut norm_slope = [0.0; MOST_COEFFICIENTS + 1];
        for ((half, own), sum) in sets.halves.iter().zip(&own).zip(&mut sums) {
            let [re, im] = half.spectrum(sets.spectrum_of[index]);
            for (own, (re, im)) in own.iter().zip(re.iter().zip(im)) {
                let z = Complex64::new(f64::from(*re), f64::from(*im));
                let inside = |sign: f64| (place[0] + sign * own.k[0]).hypot(place[1] + sign * own.k[1]) <= radius;
                let side = |sign: f64| {
                    let mut slopes = [0.0; MOST_COEFFICIENTS + 1];
                    let moved = model.evaluate([own.k[0] + sign * q[0], own.k[1] + sign * q[1]], radius, &mut slopes);
                    slopes[n] = sign * (moved[0] * turn[0] + moved[1] * turn[1]);
                    let phase = model.phase(&slopes[..n]) - own.phase;
                    slopes[..n].iter_mut().zip(&own.basis).for_each(|(s, o)| *s -= o);
                    (phase, slopes)
                };
                let (minus, plus) = (inside(-1.0).then(|| side(-1.0)), inside(1.0).then(|| side(1.0)));
                if let Some((a, slopes)) = &minus {
                    sum.add(z * Complex64::cis(*a), slopes, n);
                    norm += 1.0;
                }
                if let Some((b, slopes)) = &plus {
                    sum.subtract(z * Complex64::cis(-b), slopes, n);
                    norm += 1.0;
                }
                if let (Some((a, of_a)), Some((b, of_b))) = (minus, plus) {
                    norm -= 2.0 * (a + b).cos();
                    let s = 2.0 * (a + b).sin();
                    (0..=n).for_each(|j| norm_slope[j] += s * (of_a[j] + of_b[j]));
                }
            }
        }
        let value = (sums[0].plain * sums[1].plain.conj()).re / norm;
        total.value += value;
        for (j, slope) in total.gradient.iter_mut().enumerate() {
            let i = Complex64::i();
            let change = i * sums[0].moved[j] * sums[1].plain.conj() + sums[0].plain * (i * sums[1].moved[j]).conj();
            *slope += (change.re - value * norm_slope[j]) / norm;
        }
    }
    total
}

/// What a detector pixel has without any frequency.
struct Own {
    k: [f64; 2],
    phase: f64,
    basis: [f64; MOST_COEFFICIENTS],
}

fn own_values(half: &super::Half, spacing: f64, model: &GeneralModel, radius: f64) -> Vec<Own> {
    let pixels = half.runs.iter().flat_map(|run| (0..run.len).map(|i| [run.row, run.col + spacing * i as f64]));
    pixels
        .map(|k| {
            let mut basis = [0.0; MOST_COEFFICIENTS];
            model.evaluate(k, radius, &mut basis);
            Own { k, phase: model.phase(&basis), basis }
        })
        .collect()
}

/// `Σ F Γ*`, and the same with the phases' slopes as weights.
#[derive(Clone, Copy)]
struct Sum {
    plain: Complex64,
    moved: [Complex64; MOST_COEFFICIENTS + 1],
}

impl Default for Sum {
    fn default() -> Self {
        Self { plain: Complex64::default(), moved: [Complex64::default(); MOST_COEFFICIENTS + 1] }
    }
}

impl Sum {
    fn add(&mut self, z: Complex64, slopes: &[f64], n: usize) {
        self.plain += z;
        self.moved[..=n].iter_mut().zip(slopes).for_each(|(m, s)| *m += z * s);
    }

    /// The term `-e^(-ib)`: its phase runs backwards, so that its slope has the other sign once more.
    fn subtract(&mut self, z: Complex64, slopes: &[f64], n: usize) {
        self.plain -= z;
        self.moved[..=n].iter_mut().zip(slopes).for_each(|(m, s)| *m += z * s);
    }
}

#[cfg(test)]
mod tests;
