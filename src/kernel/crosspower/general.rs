//! The objective for aberrations of any order.
//!
//! With `a = χ(k-q) - χ(k)` and `b = χ(k+q) - χ(k)` the matched filter is `Γ* = m₋ e^(ia) - m₊ e^(-ib)`, with `m∓` whether
//! `k∓q` lies in the aperture: `Γ = ψ(k-q)ψ*(k) - ψ*(k+q)ψ(k)`. (With `q-k` in place of `k-q`, as it is often written, it
//! holds for even aberrations only.) Everything is on the detector's axes, where the aberrations are sought too: the rotation
//! then moves only the frequencies, not the pixels. Where the side bands have strengths of their own, both terms are filters by
//! themselves. Filters without the phase `χ(q)` of their own differ by a constant factor, which least squares do not see.

use num_complex::Complex64;

use super::joint::{MOST_FILTERS, MOST_FOLDED, Square, Vector, cholesky, solve};
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
    /// What the images are compared with.
    pub filter: Filter,
}

/// The filter of one image at one frequency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Filter {
    /// Both side bands apart.
    SideBands {
        /// The rotation with which the overlap of the disks is looked up, in radians.
        overlap_rotation: f64,
    },
    /// What a weak phase object does.
    WeakPhase {
        /// The rotation with which the overlap of the disks is looked up, in radians.
        overlap_rotation: f64,
    },
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

/// The objective over the frequencies of `range`; shares of ranges [add](GeneralObjective::add) up. Frequencies of the
/// range that share a spectrum are taken together, as in [`joint`](super::joint), with
///
/// ```text
/// ∂J = Re Σ_k Σ_a ∂f_a(k) · [(F_k - r_h(k)) x*_h',a - x*_h,a r_h'(k)],   r_h(k) = Σ_a f_a*(k) x_h,a
/// ```
///
/// for the colour `h` of the pixel and the other one, `h'`.
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
    let mut total = GeneralObjective { value: 0.0, gradient: vec![0.0; n + 1] };
    let halves: Vec<Vec<Own>> =
        sets.halves.iter().map(|half| own_values(half, sets.spacing, model, aperture.radius)).collect();
    let mut sides = Sides { each: Vec::new(), slopes: Vec::new(), width: n + 1 };
    let mut first = range.start;
    while first < range.end {
        let spectrum = sets.spectrum_of[first];
        let together = (first..range.end.min(first + MOST_FOLDED)).take_while(|&i| sets.spectrum_of[i] == spectrum);
        let apart: &[Option<usize>] = match aperture.filter {
            Filter::SideBands { .. } => &[Some(0), Some(1)],
            Filter::WeakPhase { .. } => &[None],
        };
        let members: Vec<Place> = together
            .flat_map(|i| apart.iter().map(move |only| Place::new(model, aperture, sets.frequencies[i], *only)))
            .collect();
        first += members.len() / apart.len();
        let data = sets.halves.each_ref().map(|half| half.spectrum(spectrum));
        sides.fill(model, aperture.radius, &halves, &members);
        add_group(&halves, &data, &sides, members.len(), &mut total);
    }
    total
}

/// A frequency on the detector's axes, in detector pixels.
struct Place {
    q: [f64; 2],
    /// Where the overlap is looked up.
    overlap: [f64; 2],
    /// The only side that this filter has.
    only: Option<usize>,
    /// How `q` moves with the rotation.
    turn: [f64; 2],
}

impl Place {
    fn new(model: &GeneralModel, aperture: Aperture, frequency: [f64; 2], only: Option<usize>) -> Self {
        let at = |rotation: f64| model.on_detector(frequency, rotation, aperture.pixels_per_frequency);
        let turn = at(model.rotation + std::f64::consts::FRAC_PI_2);
        let (Filter::SideBands { overlap_rotation } | Filter::WeakPhase { overlap_rotation }) = aperture.filter;
        Self { q: at(model.rotation), overlap: at(overlap_rotation), only, turn }
    }
}

/// The two terms of the filters, `e^(ia)` and `-e^(-ib)`, of all pixels and frequencies of a group; 0 outside the
/// aperture. Each of them changes by `i` times its slope times itself.
struct Sides {
    /// `[pixel, frequency]` of both colours one after the other.
    each: Vec<[Complex64; 2]>,
    /// `[pixel, frequency, side, parameter]`: slopes of `a` and of `-b`.
    slopes: Vec<f64>,
    width: usize,
}

impl Sides {
    fn fill(&mut self, model: &GeneralModel, radius: f64, halves: &[Vec<Own>], members: &[Place]) {
        let n = self.width - 1;
        self.each.clear();
        self.slopes.clear();
        for own in halves.iter().flatten() {
            for member in members {
                let mut both = [Complex64::default(); 2];
                for (side, (sign, out)) in [-1.0, 1.0].into_iter().zip(&mut both).enumerate() {
                    let from = self.slopes.len();
                    self.slopes.resize(from + self.width, 0.0);
                    let [row, col] = [0, 1].map(|i| member.overlap[i] + sign * own.k[i]);
                    if row.hypot(col) > radius || member.only.is_some_and(|only| only != side) {
                        continue;
                    }
                    let slopes = &mut self.slopes[from..];
                    let at = [0, 1].map(|i| own.k[i] + sign * member.q[i]);
                    let moved = model.evaluate(at, radius, &mut slopes[..n]);
                    slopes[n] = sign * (moved[0] * member.turn[0] + moved[1] * member.turn[1]);
                    let phase = model.phase(&slopes[..n]) - own.phase;
                    slopes[..n].iter_mut().zip(&own.basis).for_each(|(s, o)| *s -= o);
                    for slope in slopes.iter_mut() {
                        *slope *= -sign;
                    }
                    *out = -sign * Complex64::cis(-sign * phase);
                }
                self.each.push(both);
            }
        }
    }

    /// The filters of a pixel.
    fn filters(&self, pixel: usize, members: usize) -> impl Iterator<Item = Complex64> {
        self.each[pixel * members..][..members].iter().map(|[minus, plus]| minus + plus)
    }
}

/// Adds the objective of the frequencies of one spectrum, `members` of them.
fn add_group(
    halves: &[Vec<Own>],
    data: &[[&[f32]; 2]; 2],
    sides: &Sides,
    members: usize,
    total: &mut GeneralObjective,
) {
    let starts = [0, halves[0].len()];
    let sample = |h: usize, i: usize| Complex64::new(f64::from(data[h][0][i]), f64::from(data[h][1][i]));
    let mut gram: Square = [Vector::default(); MOST_FILTERS];
    let mut sums = [Vector::default(); 2];
    for h in 0..2 {
        for i in 0..halves[h].len() {
            let z = sample(h, i);
            for (a, f) in sides.filters(starts[h] + i, members).enumerate() {
                sums[h][a] += z * f;
                for (b, g) in sides.filters(starts[h] + i, members).enumerate().take(a + 1) {
                    gram[a][b] += f * g.conj();
                }
            }
        }
    }
    (0..members).for_each(|a| gram[a][a] += LEAST_NORM);
    let Some(factor) = cholesky(&gram, members) else { return };
    let x = sums.map(|b| solve(&factor, b, members));
    total.value += (0..members).map(|a| (sums[0][a].conj() * x[1][a]).re).sum::<f64>();
    for h in 0..2 {
        for i in 0..halves[h].len() {
            let pixel = starts[h] + i;
            let explained =
                x.map(|x| sides.filters(pixel, members).zip(x).map(|(f, x)| f.conj() * x).sum::<Complex64>());
            let left = sample(h, i) - explained[h];
            for (a, (here, there)) in x[h].iter().zip(&x[1 - h]).take(members).enumerate() {
                let weight = left * there.conj() - here.conj() * explained[1 - h];
                for (side, f) in sides.each[pixel * members + a].into_iter().enumerate() {
                    let change = -(f * weight).im;
                    let slopes = &sides.slopes[((pixel * members + a) * 2 + side) * sides.width..][..sides.width];
                    total.gradient.iter_mut().zip(slopes).for_each(|(g, s)| *g += change * s);
                }
            }
        }
    }
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

#[cfg(test)]
mod tests;
