//! The forward model of one diffraction pattern: aberrations, probe, a thin phase object, and the pattern behind it.
//!
//! Conventions: vectors are `[row, col]`, angles run from the row axis towards the column axis, lengths are Å and
//! reciprocal lengths 1/Å, everything in the detector's frame. The probe is `ψ(k) = A(k) exp(-iχ(k))` with the phase
//! `χ` of its [`Aberrations`]. The pattern of a probe at `r0` behind an object `O` is `|FFT(O(r) ψ(r - r0))|²`; without
//! an object it is 1 inside the bright-field disk.

use std::f64::consts::{PI, TAU};
use std::ops::Range;
use std::sync::Arc;

use num_complex::Complex32;
use rustfft::{Fft, FftPlanner};

use crate::axes::DetShape;
use crate::kernel::aberrations::Aberrations;
use crate::kernel::transpose::transpose;

/// `[row, col]` turned by `angle`: `R = [[cos, -sin], [sin, cos]]`.
pub fn rotate(vector: [f64; 2], angle_rad: f64) -> [f64; 2] {
    let (sin, cos) = angle_rad.sin_cos();
    [cos * vector[0] - sin * vector[1], sin * vector[0] + cos * vector[1]]
}

/// The smallest number `>= n` whose only prime factors are 2, 3 and 5: transforms of such lengths are fast.
pub fn fast_len(n: usize) -> usize {
    let smooth = |mut m: usize| {
        for prime in [2, 3, 5] {
            while m.is_multiple_of(prime) {
                m /= prime;
            }
        }
        m == 1
    };
    // There is a power of two below 2n.
    (n.max(1)..=n.saturating_mul(2).max(1)).find(|&m| smooth(m)).unwrap_or(n)
}

/// The largest number `<= n` whose only prime factors are 2, 3 and 5.
pub fn fast_len_within(n: usize) -> usize {
    (1..=n).rev().find(|&m| fast_len(m) == m).unwrap_or(n)
}

/// A periodic grid on which atoms are collected and turned into the object's transmission function.
///
/// `[row, col]`, C order; positions are in grid pixels. First [`deposit`](Self::deposit) all atoms, then
/// [`blur`](Self::blur) them to their width, then [`into_transmission`](Self::into_transmission).
#[derive(Debug, Clone)]
pub struct PhaseGrid {
    rows: usize,
    cols: usize,
    values: Vec<Complex32>,
}

impl PhaseGrid {
    /// An empty grid (phase 0 everywhere).
    pub fn new(rows: usize, cols: usize) -> Self {
        Self { rows, cols, values: vec![Complex32::default(); rows * cols] }
    }

    /// Adds `weight` at `position`, shared among the four nearest pixels (bilinear), periodic at the borders.
    /// Positions that are not finite are ignored.
    pub fn deposit(&mut self, position: [f64; 2], weight: f64) {
        if !(position[0].is_finite() && position[1].is_finite()) {
            return;
        }
        let floor = [position[0].floor(), position[1].floor()];
        let part = [position[0] - floor[0], position[1] - floor[1]];
        let wrap = |value: f64, n: usize| (value as i64).rem_euclid(n as i64) as usize;
        for (dr, wr) in [(0.0, 1.0 - part[0]), (1.0, part[0])] {
            for (dc, wc) in [(0.0, 1.0 - part[1]), (1.0, part[1])] {
                let at = wrap(floor[0] + dr, self.rows) * self.cols + wrap(floor[1] + dc, self.cols);
                self.values[at].re += (weight * wr * wc) as f32;
            }
        }
    }

    /// Convolves the grid with a Gaussian of `sigma_px` pixels and integral 1, in Fourier space. The Gaussian is
    /// separable, so that one line at a time suffices.
    pub fn blur(&mut self, sigma_px: f64) {
        let mut line = vec![Complex32::default(); self.rows.max(self.cols)];
        let rows = LineBlur::new(self.cols, sigma_px);
        let mut scratch = vec![Complex32::default(); rows.scratch_len()];
        for row in self.values.chunks_exact_mut(self.cols) {
            rows.apply(row, &mut scratch);
        }
        let cols = LineBlur::new(self.rows, sigma_px);
        scratch.resize(cols.scratch_len(), Complex32::default());
        for col in 0..self.cols {
            let line = &mut line[..self.rows];
            for (slot, row) in line.iter_mut().zip(0..) {
                *slot = self.values[row * self.cols + col];
            }
            cols.apply(line, &mut scratch);
            for (value, row) in line.iter().zip(0..) {
                self.values[row * self.cols + col] = *value;
            }
        }
    }

    /// The object that these phases (radians) describe: `exp(i phase)`.
    ///
    /// A phase `φ` becomes `exp(φ (i (1 - absorption) - absorption))`: 0 is a pure phase object, 1 one that only absorbs.
    pub fn into_transmission(mut self, absorption: f64) -> Transmission {
        let (phase, absorption) = ((1.0 - absorption) as f32, absorption as f32);
        for value in &mut self.values {
            let passed = Complex32::cis(value.re * phase);
            *value = if absorption > 0.0 { passed * (-value.re * absorption).exp() } else { passed };
        }
        Transmission { rows: self.rows, cols: self.cols, values: self.values }
    }
}

/// A Gaussian along one line of a grid.
struct LineBlur {
    forward: Arc<dyn Fft<f32>>,
    inverse: Arc<dyn Fft<f32>>,
    /// Fourier transform of the Gaussian over the line's length.
    factors: Vec<f32>,
}

impl LineBlur {
    fn new(len: usize, sigma_px: f64) -> Self {
        let mut planner = FftPlanner::new();
        let factors = (0..len)
            .map(|i| {
                let k = signed(i, len) as f64 / len as f64;
                ((-2.0 * PI * PI * sigma_px * sigma_px * k * k).exp() / len as f64) as f32
            })
            .collect();
        Self { forward: planner.plan_fft_forward(len), inverse: planner.plan_fft_inverse(len), factors }
    }

    fn scratch_len(&self) -> usize {
        self.forward.get_inplace_scratch_len().max(self.inverse.get_inplace_scratch_len())
    }

    fn apply(&self, line: &mut [Complex32], scratch: &mut [Complex32]) {
        self.forward.process_with_scratch(line, scratch);
        for (value, factor) in line.iter_mut().zip(&self.factors) {
            *value *= factor;
        }
        self.inverse.process_with_scratch(line, scratch);
    }
}

/// What a thin object does to the wave that passes it: one complex factor per pixel, `[row, col]`.
#[derive(Debug, Clone)]
pub struct Transmission {
    rows: usize,
    cols: usize,
    values: Vec<Complex32>,
}

impl Transmission {
    /// An object that does nothing.
    pub fn vacuum(rows: usize, cols: usize) -> Self {
        Self { rows, cols, values: vec![Complex32::new(1.0, 0.0); rows * cols] }
    }

    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }
}

/// The beam that makes the patterns.
#[derive(Debug, Clone)]
pub struct Beam {
    /// Electron wavelength in Å.
    pub wavelength_angstrom: f64,
    /// Aberrations of the probe.
    pub aberrations: Aberrations,
    /// Radius of the bright-field disk in detector pixels.
    pub disk_radius_px: f64,
    /// Reciprocal length of one detector pixel in 1/Å.
    pub k_step: f64,
    /// Where the beam hits the detector, in pixels from pixel `[rows / 2, cols / 2]`.
    pub center_offset: [f64; 2],
}

impl Beam {
    /// The angle `λk` in radians of a point given in detector pixels from the beam.
    pub fn angle(&self, from_center: [f64; 2]) -> [f64; 2] {
        from_center.map(|px| px * self.k_step * self.wavelength_angstrom)
    }
}

/// Everything about a pattern that does not depend on the probe's position. Threads may share a plan.
///
/// A pattern is a pair of transforms of `window` × `window` pixels, of which only the parts that can be non-zero
/// (the probe) or that are looked at (the detector) are computed.
pub struct ForwardPlan {
    window: usize,
    det: DetShape,
    /// `ψ(k) / window²`, transposed: `[k col, k row]`, zero frequency at index 0.
    probe: Vec<Complex32>,
    /// Columns of `k` in which the probe is not zero.
    support: [Range<usize>; 2],
    /// Columns of `k` that the detector sees.
    seen: [Range<usize>; 2],
    forward: Arc<dyn Fft<f32>>,
    inverse: Arc<dyn Fft<f32>>,
}

impl ForwardPlan {
    /// Plans patterns on `det` from transforms of `window` × `window` pixels.
    ///
    /// # Panics
    /// When the detector is empty or wider than the window.
    pub fn new(beam: &Beam, det: DetShape, window: usize) -> Self {
        assert!(!det.is_empty() && det.rows <= window && det.cols <= window, "a detector wider than the window");
        let mut planner = FftPlanner::new();
        let scale = 1.0 / (window * window) as f64;
        let mut probe = Vec::with_capacity(window * window);
        for col in 0..window {
            for row in 0..window {
                probe.push(probe_at(beam, [signed(row, window), signed(col, window)], scale));
            }
        }
        let lit = |col: usize| probe[col * window..][..window].iter().any(|value| *value != Complex32::default());
        let half = window.div_ceil(2);
        let end = (0..half).rev().find(|&col| lit(col)).map_or(0, |col| col + 1);
        let start = (half..window).find(|&col| lit(col)).unwrap_or(window);
        let left = det.cols / 2;
        Self {
            support: [0..end, start..window],
            seen: [0..det.cols - left, window - left..window],
            forward: planner.plan_fft_forward(window),
            inverse: planner.plan_fft_inverse(window),
            window,
            det,
            probe,
        }
    }

    /// Complex numbers of scratch that [`pattern`](Self::pattern) needs.
    pub fn scratch_len(&self) -> usize {
        let fft = self.forward.get_inplace_scratch_len().max(self.inverse.get_inplace_scratch_len());
        2 * self.window * self.window + self.window + fft
    }

    /// The expected pattern of a probe at `position` (object pixels, `[row, col]`), `[det row, det col]` into `out`,
    /// in units of the bright-field disk's intensity without an object.
    ///
    /// # Panics
    /// When the window around the position leaves the object, `out` is not one detector, or the scratch is short.
    pub fn pattern(&self, object: &Transmission, position: [f64; 2], out: &mut [f32], scratch: &mut [Complex32]) {
        assert_eq!(out.len(), self.det.len(), "a pattern of a wrong size");
        let n = self.window;
        let (wave, rest) = scratch.split_at_mut(n * n);
        let (turned, rest) = rest.split_at_mut(n * n);
        let (ramp, fft) = rest.split_at_mut(n);
        let base = [position[0].round(), position[1].round()];
        let centre = (n / 2) as f64;
        self.place_probe(turned, ramp, [position[0] - base[0] + centre, position[1] - base[1] + centre]);
        for columns in &self.support {
            self.inverse.process_with_scratch(&mut turned[columns.start * n..columns.end * n], fft);
        }
        transpose(turned, wave, n, n);
        self.inverse.process_with_scratch(wave, fft);
        multiply_window(object, base, wave, n);
        self.forward.process_with_scratch(wave, fft);
        transpose(wave, turned, n, n);
        for columns in &self.seen {
            self.forward.process_with_scratch(&mut turned[columns.start * n..columns.end * n], fft);
        }
        self.detect(turned, out);
    }

    /// Writes the probe with its centre at `at` (window pixels) into `turned` (`[k col, k row]`), zeros elsewhere.
    fn place_probe(&self, turned: &mut [Complex32], ramp: &mut [Complex32], at: [f64; 2]) {
        let n = self.window;
        let factor = |k: usize, at: f64| {
            let (sin, cos) = (-TAU * signed(k, n) as f64 * at / n as f64).sin_cos();
            Complex32::new(cos as f32, sin as f32)
        };
        for (row, slot) in ramp.iter_mut().enumerate() {
            *slot = factor(row, at[0]);
        }
        turned.fill(Complex32::default());
        for col in self.support.iter().cloned().flatten() {
            let across = factor(col, at[1]);
            let column = &mut turned[col * n..][..n];
            for ((slot, &probe), &along) in column.iter_mut().zip(&self.probe[col * n..]).zip(ramp.iter()) {
                *slot = probe * along * across;
            }
        }
    }

    /// Intensities of the part of the far field that the detector sees.
    fn detect(&self, turned: &[Complex32], out: &mut [f32]) {
        let n = self.window;
        let (top, left) = (self.det.rows / 2, self.det.cols / 2);
        for (row, line) in out.chunks_exact_mut(self.det.cols).enumerate() {
            let k_row = (row + n - top) % n;
            for (col, slot) in line.iter_mut().enumerate() {
                *slot = turned[(col + n - left) % n * n + k_row].norm_sqr();
            }
        }
    }
}

/// `ψ` at an index of the detector, times `scale`. The edge of the aperture is one pixel wide.
fn probe_at(beam: &Beam, index: [isize; 2], scale: f64) -> Complex32 {
    let px = [index[0] as f64 - beam.center_offset[0], index[1] as f64 - beam.center_offset[1]];
    let amplitude = (beam.disk_radius_px - px[0].hypot(px[1]) + 0.5).clamp(0.0, 1.0);
    let chi = beam.aberrations.chi(beam.angle(px), beam.wavelength_angstrom);
    let (sin, cos) = chi.sin_cos();
    Complex32::new((amplitude * scale * cos) as f32, (-amplitude * scale * sin) as f32)
}

fn multiply_window(object: &Transmission, base: [f64; 2], wave: &mut [Complex32], n: usize) {
    let (first_row, first_col) = (base[0] - (n / 2) as f64, base[1] - (n / 2) as f64);
    assert!(first_row >= 0.0 && first_col >= 0.0, "a window that leaves the object");
    let (first_row, first_col) = (first_row as usize, first_col as usize);
    assert!(first_row + n <= object.rows && first_col + n <= object.cols, "a window that leaves the object");
    for (line, row) in wave.chunks_exact_mut(n).zip(first_row..) {
        let factors = &object.values[row * object.cols + first_col..][..n];
        for (value, factor) in line.iter_mut().zip(factors) {
            *value *= factor;
        }
    }
}

/// The signed frequency at `index` of a transform of `n` samples.
fn signed(index: usize, n: usize) -> isize {
    if index < n.div_ceil(2) { index as isize } else { index as isize - n as isize }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beam(c10: f64) -> Beam {
        Beam {
            wavelength_angstrom: 0.04,
            aberrations: Aberrations::parse([
                format!("C10={c10}"),
                "C12=90@23".into(),
                "C21a=2e3".into(),
                "C30=-4e4".into(),
            ])
            .expect("valid"),
            disk_radius_px: 5.0,
            k_step: 0.05,
            center_offset: [0.3, -0.4],
        }
    }

    fn pattern(plan: &ForwardPlan, object: &Transmission, position: [f64; 2], det: DetShape) -> Vec<f32> {
        let mut out = vec![0.0; det.len()];
        // Dirty scratch: nothing may depend on what an earlier pattern left.
        let mut scratch = vec![Complex32::new(7.0, f32::NAN); plan.scratch_len()];
        plan.pattern(object, position, &mut out, &mut scratch);
        out
    }

    /// The pattern by its definition: a sum over all pixels and frequencies.
    fn naive(beam: &Beam, object: &Transmission, position: [f64; 2], det: DetShape, n: usize) -> Vec<f64> {
        use num_complex::Complex64;
        let first = [position[0].round() - (n / 2) as f64, position[1].round() - (n / 2) as f64];
        let mut wave = vec![Complex64::default(); n * n];
        for (at, value) in wave.iter_mut().enumerate() {
            let r = [first[0] + (at / n) as f64, first[1] + (at % n) as f64];
            for k in 0..n * n {
                let k = [signed(k / n, n), signed(k % n, n)];
                let turn = TAU * (k[0] as f64 * (r[0] - position[0]) + k[1] as f64 * (r[1] - position[1])) / n as f64;
                let probe = probe_at(beam, k, 1.0);
                *value += Complex64::new(probe.re.into(), probe.im.into()) * Complex64::cis(turn);
            }
            let factor = object.values[r[0] as usize * object.cols + r[1] as usize];
            *value *= Complex64::new(factor.re.into(), factor.im.into()) / (n * n) as f64;
        }
        (0..det.len())
            .map(|at| {
                let k =
                    [(at / det.cols) as f64 - (det.rows / 2) as f64, (at % det.cols) as f64 - (det.cols / 2) as f64];
                let far: Complex64 = (0..n * n)
                    .map(|r| {
                        wave[r] * Complex64::cis(-TAU * (k[0] * (r / n) as f64 + k[1] * (r % n) as f64) / n as f64)
                    })
                    .sum();
                far.norm_sqr()
            })
            .collect()
    }

    #[test]
    fn a_pattern_is_what_its_definition_says() {
        for (n, det) in [(16, DetShape::new(14, 12)), (15, DetShape::new(9, 14)), (16, DetShape::new(16, 16))] {
            let mut grid = PhaseGrid::new(30, 32);
            for i in 0..40 {
                grid.deposit([f64::from(i * 7 % 30) + 0.3, f64::from(i * 13 % 32) + 0.6], 0.8);
            }
            grid.blur(0.8);
            let object = grid.into_transmission(0.0);
            let beam = beam(-400.0);
            let fast = pattern(&ForwardPlan::new(&beam, det, n), &object, [13.7, 15.2], det);
            let slow = naive(&beam, &object, [13.7, 15.2], det, n);
            for (a, b) in fast.iter().zip(&slow) {
                assert!((f64::from(*a) - b).abs() < 2e-5, "window {n}: {a} against {b}");
            }
        }
    }

    #[test]
    fn without_an_object_the_pattern_is_the_disk() {
        let (det, beam) = (DetShape::new(20, 18), beam(-1500.0));
        let out = pattern(&ForwardPlan::new(&beam, det, 24), &Transmission::vacuum(40, 40), [20.2, 19.9], det);
        for (at, &value) in out.iter().enumerate() {
            let radius = ((at / 18) as f64 - 10.3).hypot((at % 18) as f64 - 8.6);
            let expected = if radius < 4.5 { 1.0 } else { 0.0 };
            assert!((4.5..5.5).contains(&radius) || (f64::from(value) - expected).abs() < 1e-4, "{at}: {value}");
        }
    }

    #[test]
    fn a_blurred_atom_is_a_gaussian_with_its_weight() {
        let mut grid = PhaseGrid::new(30, 36);
        grid.deposit([12.0, 20.0], 2.5);
        grid.blur(1.5);
        let total: f32 = grid.values.iter().map(|v| v.re).sum();
        assert!((total - 2.5).abs() < 1e-4);
        let at = |r: usize, c: usize| f64::from(grid.values[r * 36 + c].re);
        let peak = 2.5 / (TAU * 1.5 * 1.5);
        assert!((at(12, 20) - peak).abs() < 1e-4);
        assert!((at(14, 19) - peak * (-5.0f64 / 4.5).exp()).abs() < 1e-4);
    }

    #[test]
    fn fast_lengths_have_small_factors_only() {
        assert_eq!([1, 7, 11, 121, 3001].map(fast_len), [1, 8, 12, 125, 3072]);
        assert_eq!([0, 1, 7, 11, 121, 3001].map(fast_len_within), [0, 1, 6, 10, 120, 3000]);
    }
}
