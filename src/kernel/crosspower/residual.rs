//! Where each image lies, against what all the others say.
//!
//! The other colour's pixels tell how strong the two side bands are at each frequency, `x` (least squares over the
//! frequencies that the scan folds onto each other, as in [`joint`](super::joint)), and with them what the image of a pixel
//! should be: `P_k = Σ_a x_a f_a*(k)`. The noise of the image itself has no part in that. If it lies `δ` further on and is
//! `1 + γ` times as strong, then to first order
//!
//! ```text
//! F_k(q) - P_k(q) = γ P_k(q) + (1 + γ) δ·∂P_k(q),   ∂P_k(q) = Σ_a -2πi q_a x_a f_a*(k)
//! ```
//!
//! which is a least-squares problem of three numbers for each pixel. Its normal equations of neighbouring pixels add up to
//! those of a group that moves together, so coarser groups cost nothing. There are no samples in it, so nothing locks to
//! them, and single side bands and folded frequencies are what they are instead of pulling a correlation.

use std::f64::consts::TAU;
use std::ops::Range;

use num_complex::Complex64;

use super::joint::{MOST_FILTERS, Square, Vector, cholesky, solve};
use super::{Half, HalfSets, LEAST_NORM, Model};
use crate::kernel::aberrations::Aberrations;

/// Frequencies are kept apart in so many classes, slow ones first.
pub const SPEEDS: usize = 6;

/// What the filters need beside the displacements.
#[derive(Debug, Clone)]
pub struct Optics {
    /// Rotation and orientation of the detector; its displacements are not used.
    pub model: Model,
    /// Detector pixels per cycle per scan pixel.
    pub pixels_per_frequency: f64,
    /// Radius of the aperture in detector pixels.
    pub radius: f64,
    /// Aberrations above second order: their phases differ from those of displacements.
    pub higher: Option<Higher>,
}

/// Aberrations above second order on the scan's axes, and what measures them.
#[derive(Debug, Clone)]
pub struct Higher {
    /// In Å.
    pub aberrations: Aberrations,
    /// Angle of a detector pixel in radians.
    pub pixel_rad: f64,
    /// Angle of one cycle per scan pixel in radians.
    pub frequency_rad: f64,
    /// In Å.
    pub wavelength_angstrom: f64,
}

impl Higher {
    /// By how much the phases of the two filters are ahead of those of the displacement, for a pixel on the scan's axes.
    fn ahead(&self, on_scan: [f64; 2], q: [f64; 2]) -> [f64; 2] {
        let (alpha, beta) = (on_scan.map(|k| k * self.pixel_rad), q.map(|q| q * self.frequency_rad));
        let chi = |sign: f64| {
            self.aberrations.chi([0, 1].map(|i| alpha[i] + sign * beta[i]), self.wavelength_angstrom)
                - self.aberrations.chi(alpha, self.wavelength_angstrom)
        };
        let slope = self.aberrations.gradient(alpha);
        let linear = TAU / self.wavelength_angstrom * (beta[0] * slope[0] + beta[1] * slope[1]);
        [chi(-1.0) + linear, -(chi(1.0) - linear)]
    }
}

/// Normal equations of the gain `γ` and the displacement `δ` of one image or a group.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Normal {
    /// `00, 01, 02, 11, 12, 22` of `Re(JᴴJ)`, `J = [P, ∂P/∂row, ∂P/∂col]`.
    matrix: [f64; 6],
    /// `Re(Jᴴ(F - P))`.
    right: [f64; 3],
    /// `Σ |F - P|²`.
    square: f64,
    /// Real numbers that entered.
    count: f64,
}

/// What the normal equations say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Solution {
    /// `γ`.
    pub gain: f64,
    /// `δ` in scan pixels, `[row, col]`.
    pub shift: [f64; 2],
    /// Its covariance from what is left: row row, row col, col col.
    pub covariance: [f64; 3],
    /// Height of the prediction over what is left, in standard deviations.
    pub significance: f64,
}

impl Normal {
    /// The sum with those of other frequencies or pixels.
    pub fn add(&mut self, other: &Self) {
        self.matrix.iter_mut().zip(other.matrix).for_each(|(a, b)| *a += b);
        self.right.iter_mut().zip(other.right).for_each(|(a, b)| *a += b);
        self.square += other.square;
        self.count += other.count;
    }

    fn enter(&mut self, data: Complex64, p: Complex64, slopes: [Complex64; 2]) {
        let left = data - p;
        let j = [p, slopes[0], slopes[1]];
        let dot = |a: Complex64, b: Complex64| a.re * b.re + a.im * b.im;
        let mut at = 0;
        for a in 0..3 {
            self.right[a] += dot(j[a], left);
            for b in a..3 {
                self.matrix[at] += dot(j[a], j[b]);
                at += 1;
            }
        }
        self.square += left.norm_sqr();
        self.count += 2.0;
    }

    /// What is known about the displacement.
    pub fn information(&self) -> f64 {
        self.matrix[3] + self.matrix[5]
    }

    /// The gain and the displacement; `None` where they are not determined, or the image is upside down.
    pub fn solve(&self) -> Option<Solution> {
        let [a, b, c, d, e, f] = self.matrix;
        // The gain is eliminated first.
        let (s11, s12, s22) = (d - b * b / a, e - b * c / a, f - c * c / a);
        let (t1, t2) = (self.right[1] - b / a * self.right[0], self.right[2] - c / a * self.right[0]);
        let determinant = s11 * s22 - s12 * s12;
        if !(a > 0.0 && s11 > 0.0 && determinant > 1e-6 * s11 * s22 && self.count > 6.0) {
            return None;
        }
        let shift = [(s22 * t1 - s12 * t2) / determinant, (s11 * t2 - s12 * t1) / determinant];
        let gain = (self.right[0] - b * shift[0] - c * shift[1]) / a;
        let explained = gain * self.right[0] + shift[0] * self.right[1] + shift[1] * self.right[2];
        let noise = ((self.square - explained) / (self.count - 3.0)).max(f64::MIN_POSITIVE);
        // What multiplies the slopes is the displacement of an image of this strength.
        let strength = 1.0 + gain;
        if strength <= 0.0 {
            return None;
        }
        Some(Solution {
            gain,
            shift: shift.map(|s| s / strength),
            covariance: [s22, -s12, s11].map(|v| v * noise / determinant / (strength * strength)),
            significance: (a / noise).sqrt(),
        })
    }
}

/// Places of all pixels of a set on the detector from the disk's centre: those of the first colour, then the second's.
pub fn places(sets: &HalfSets) -> Vec<[f64; 2]> {
    let of = |half: &Half| -> Vec<[f64; 2]> {
        let each = |run: &super::Run| {
            let (row, col, len) = (run.row, run.col, run.len);
            (0..len).map(move |i| [row, col + sets.spacing * i as f64])
        };
        half.runs.iter().flat_map(each).collect()
    };
    sets.halves.iter().flat_map(of).collect()
}

/// What is measured against what.
pub struct Residuals<'a> {
    sets: &'a HalfSets,
    optics: &'a Optics,
    pixels: Vec<Pixel>,
    /// Pixels of the first colour.
    first: usize,
    /// The fastest frequency.
    fastest: f64,
}

struct Pixel {
    used: bool,
    /// On the detector's and on the scan's axes.
    k: [f64; 2],
    on_scan: [f64; 2],
    displacement: [f64; 2],
    /// `exp(2πi D)` of a whole cycle in each direction.
    cycle: [Complex64; 2],
}

impl<'a> Residuals<'a> {
    /// Prepares what all frequencies share: `displacements` so far in scan pixels and which pixels count, in the order of
    /// [`places`].
    ///
    /// # Panics
    /// When there is not one of each for every pixel.
    pub fn new(sets: &'a HalfSets, optics: &'a Optics, displacements: &[[f64; 2]], used: &[bool]) -> Self {
        let places = places(sets);
        assert!(places.len() == displacements.len() && places.len() == used.len(), "not one for each pixel");
        let pixels = places.iter().zip(displacements).zip(used).map(|((k, d), used)| Pixel {
            used: *used,
            k: *k,
            on_scan: optics.model.on_scan(*k),
            displacement: *d,
            cycle: d.map(|d| Complex64::cis(TAU * d)),
        });
        let fastest = sets.frequencies.iter().map(|q| q[0].hypot(q[1])).fold(f64::MIN_POSITIVE, f64::max);
        Self { sets, optics, pixels: pixels.collect(), first: sets.halves[0].pixels, fastest }
    }

    /// The normal equations of every pixel from some [`groups`](super::joint::groups), by class of speed; shares of other
    /// groups [add](Normal::add) up.
    pub fn normals(&self, groups: &[Range<usize>]) -> Vec<[Normal; SPEEDS]> {
        let mut out = vec![[Normal::default(); SPEEDS]; self.pixels.len()];
        let mut filters = Vec::new();
        for group in groups {
            self.enter(group, &mut filters, &mut out);
        }
        out
    }

    fn enter(&self, group: &Range<usize>, filters: &mut Vec<Complex64>, out: &mut [[Normal; SPEEDS]]) {
        let frequencies = &self.sets.frequencies[group.clone()];
        let n = 2 * frequencies.len();
        self.fill(frequencies, filters);
        let spectrum = self.sets.spectrum_of[group.start];
        let data = self.sets.halves.each_ref().map(|half| half.spectrum(spectrum));
        let sample = |pixel: usize| {
            let (h, i) = if pixel < self.first { (0, pixel) } else { (1, pixel - self.first) };
            Complex64::new(f64::from(data[h][0][i]), f64::from(data[h][1][i]))
        };
        let mut strengths = [Vector::default(); 2];
        for (h, strengths) in strengths.iter_mut().enumerate() {
            let mut gram: Square = [Vector::default(); MOST_FILTERS];
            let mut sums = Vector::default();
            for pixel in if h == 0 { 0..self.first } else { self.first..self.pixels.len() } {
                if !self.pixels[pixel].used {
                    continue;
                }
                let (z, f) = (sample(pixel), &filters[pixel * n..][..n]);
                for a in 0..n {
                    sums[a] += z * f[a];
                    for b in 0..=a {
                        gram[a][b] += f[a] * f[b].conj();
                    }
                }
            }
            (0..n).for_each(|a| gram[a][a] += LEAST_NORM);
            let Some(factor) = cholesky(&gram, n) else { return };
            *strengths = solve(&factor, sums, n);
        }
        let turns: Vec<[f64; 2]> = frequencies.iter().map(|q| q.map(|q| TAU * q)).collect();
        let speed = self.speed(frequencies, &strengths);
        for (pixel, out) in out.iter_mut().enumerate() {
            let (f, x) = (&filters[pixel * n..][..n], &strengths[usize::from(pixel < self.first)]);
            let (mut p, mut slopes) = (Complex64::default(), [Complex64::default(); 2]);
            for (turn, (f, x)) in turns.iter().zip(f.chunks_exact(2).zip(x.chunks_exact(2))) {
                let here = x[0] * f[0].conj() + x[1] * f[1].conj();
                p += here;
                // -i here
                let turned = Complex64::new(here.im, -here.re);
                slopes = [slopes[0] + turned * turn[0], slopes[1] + turned * turn[1]];
            }
            if self.pixels[pixel].used && p.norm_sqr() > 0.0 {
                out[speed].enter(sample(pixel), p, slopes);
            }
        }
    }

    /// The filters of both side bands, `[pixel, frequency, side]`; 0 outside the aperture.
    fn fill(&self, frequencies: &[[f64; 2]], filters: &mut Vec<Complex64>) {
        filters.clear();
        let optics = self.optics;
        let base = frequencies[0];
        let on_detector: Vec<[f64; 2]> =
            frequencies.iter().map(|q| optics.model.on_detector(q.map(|q| q * optics.pixels_per_frequency))).collect();
        let square = optics.radius * optics.radius;
        for pixel in &self.pixels {
            let d = pixel.displacement;
            let turn = Complex64::cis(TAU * (base[0] * d[0] + base[1] * d[1]));
            for (q, at) in frequencies.iter().zip(&on_detector) {
                let mut phase = turn;
                for axis in 0..2 {
                    // Frequencies of a group are whole cycles apart.
                    match (q[axis] - base[axis]).round() as i32 {
                        0 => {}
                        cycles => phase *= pixel.cycle[axis].powi(cycles),
                    }
                }
                let inside = |sign: f64| {
                    let [row, col] = [0, 1].map(|i| at[i] + sign * pixel.k[i]);
                    row * row + col * col <= square
                };
                let mut sides = [-1.0, 1.0].map(|sign| if inside(sign) { phase } else { Complex64::default() });
                if let Some(higher) = &optics.higher {
                    let ahead = higher.ahead(pixel.on_scan, *q);
                    sides.iter_mut().zip(ahead).for_each(|(f, ahead)| *f *= Complex64::cis(ahead));
                }
                filters.extend(sides);
            }
        }
    }

    /// The class of the frequencies that are strong.
    fn speed(&self, frequencies: &[[f64; 2]], strengths: &[Vector; 2]) -> usize {
        let (mut sum, mut weight) = (0.0, f64::MIN_POSITIVE);
        for (i, q) in frequencies.iter().enumerate() {
            let strength: f64 = strengths.iter().flat_map(|x| &x[2 * i..2 * i + 2]).map(Complex64::norm_sqr).sum();
            sum += strength * q[0].hypot(q[1]);
            weight += strength;
        }
        ((sum / weight / self.fastest * SPEEDS as f64) as usize).min(SPEEDS - 1)
    }
}

#[cfg(test)]
mod tests;
