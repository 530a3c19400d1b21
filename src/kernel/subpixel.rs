//! The peak of a correlation between the samples, from its cross spectrum at any set of frequencies.
//!
//! For the spectrum `F` of an image and `R` of a reference, with `X(q) = F(q) R*(q)`,
//!
//! ```text
//! c(s) = Σ_q w(q) Re(X(q) exp(2πi q·s))
//! ```
//!
//! is their correlation at the displacement `s` (scan pixels): an image that is the reference displaced by `δ` has its
//! maximum at `δ`. The sum knows no samples, so nothing locks to them as a parabola does. It is evaluated on a small grid
//! around zero by two products with matrices of phase factors (columns first, then rows: Guizar-Sicairos et al. 2008),
//! and from its highest point on with Newton's method, for which gradient and curvature are sums of the same kind.
//!
//! Frequencies may lie beyond the scan's Nyquist frequency, and only one of `q` and `-q` is needed.

use std::f64::consts::TAU;

use num_complex::Complex64;

/// The search reaches this far from zero in each axis, in scan pixels.
pub const REACH: f64 = 1.5;
/// Spacing of the grid in scan pixels.
const SPACING: f64 = 0.25;
/// Grid points along one axis.
const POINTS: usize = (2.0 * REACH / SPACING) as usize + 1;
const ITERATIONS: usize = 20;
/// A step below this (scan pixels) ends the iteration.
const SMALL: f64 = 1e-9;

/// The highest point of a correlation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SubpixelPeak {
    /// Displacement `[row, col]` in scan pixels.
    pub position: [f64; 2],
    /// `c` there.
    pub height: f64,
    /// The negative Hessian `-∂²c/∂s²`: row row, row col, col col.
    pub curvature: [f64; 3],
    /// Whether it is a maximum inside of [`REACH`].
    pub converged: bool,
}

/// Frequencies `[row, col]` in cycles per scan pixel, with each row and column frequency kept once.
#[derive(Debug, Clone, Default)]
pub struct Waves {
    rows: Vec<f64>,
    cols: Vec<f64>,
    places: Vec<[u32; 2]>,
}

impl Waves {
    /// Collects the frequencies, in this order.
    pub fn new(frequencies: &[[f64; 2]]) -> Self {
        let axis = |a: usize| {
            let mut all: Vec<f64> = frequencies.iter().map(|q| q[a]).collect();
            all.sort_unstable_by(f64::total_cmp);
            all.dedup();
            all
        };
        let (rows, cols) = (axis(0), axis(1));
        let place = |all: &[f64], q: f64| all.partition_point(|v| v.total_cmp(&q).is_lt()) as u32;
        let places = frequencies.iter().map(|q| [place(&rows, q[0]), place(&cols, q[1])]).collect();
        Self { rows, cols, places }
    }

    /// Number of frequencies.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// One frequency.
    ///
    /// # Panics
    /// When there is no such frequency.
    pub fn frequency(&self, index: usize) -> [f64; 2] {
        let [r, c] = self.places[index];
        [self.rows[r as usize], self.cols[c as usize]]
    }

    /// Phase factors for displacements; made once, filled for each.
    pub fn phases(&self) -> Phases {
        let ones = |n: usize| vec![Complex64::from(1.0); n];
        Phases { rows: ones(self.rows.len()), cols: ones(self.cols.len()) }
    }
}

/// `exp(2πi q·s)` of all frequencies for one displacement, as a product of a row and a column factor.
#[derive(Debug, Clone)]
pub struct Phases {
    rows: Vec<Complex64>,
    cols: Vec<Complex64>,
}

impl Phases {
    /// Fills in the factors of a displacement `[row, col]` in scan pixels.
    pub fn set(&mut self, waves: &Waves, displacement: [f64; 2]) {
        let fill = |to: &mut [Complex64], from: &[f64], s: f64| {
            to.iter_mut().zip(from).for_each(|(z, q)| *z = Complex64::cis(TAU * q * s));
        };
        fill(&mut self.rows, &waves.rows, displacement[0]);
        fill(&mut self.cols, &waves.cols, displacement[1]);
    }

    /// The factor of one frequency.
    #[inline]
    pub fn get(&self, waves: &Waves, index: usize) -> Complex64 {
        let [r, c] = waves.places[index];
        self.rows[r as usize] * self.cols[c as usize]
    }
}

/// Value, gradient and Hessian (row row, row col, col col) at one displacement.
#[derive(Debug, Clone, Copy, Default)]
struct Local {
    value: f64,
    gradient: [f64; 2],
    hessian: [f64; 3],
}

/// A search over a fixed set of frequencies. Nothing is allocated after it is made.
#[derive(Debug, Clone)]
pub struct PeakSearch {
    waves: Waves,
    phases: Phases,
    /// `[grid point, row or column frequency]`.
    row_factors: Vec<Complex64>,
    col_factors: Vec<Complex64>,
    /// `[grid point of the columns, row frequency]`.
    partial: Vec<Complex64>,
}

impl PeakSearch {
    /// Plans a search.
    pub fn new(waves: &Waves) -> Self {
        let factors = |all: &[f64]| {
            (0..POINTS).flat_map(|i| all.iter().map(move |q| Complex64::cis(TAU * q * grid_point(i)))).collect()
        };
        Self {
            phases: waves.phases(),
            row_factors: factors(&waves.rows),
            col_factors: factors(&waves.cols),
            partial: vec![Complex64::default(); POINTS * waves.rows.len()],
            waves: waves.clone(),
        }
    }

    /// The highest maximum within [`REACH`]: on the grid first, then exactly.
    ///
    /// # Panics
    /// When there is not one number for each frequency.
    pub fn find(&mut self, cross: &[Complex64], weights: &[f64]) -> SubpixelPeak {
        let start = self.highest_grid_point(cross, weights);
        self.climb(cross, weights, start)
    }

    fn highest_grid_point(&mut self, cross: &[Complex64], weights: &[f64]) -> [f64; 2] {
        assert!(cross.len() == self.waves.len() && weights.len() == cross.len(), "not one number for each frequency");
        let (rows, cols) = (self.waves.rows.len(), self.waves.cols.len());
        self.partial.fill(Complex64::default());
        for ((&[r, c], x), w) in self.waves.places.iter().zip(cross).zip(weights) {
            if *w != 0.0 {
                let x = x * w;
                for point in 0..POINTS {
                    self.partial[point * rows + r as usize] += x * self.col_factors[point * cols + c as usize];
                }
            }
        }
        let mut best = (f64::NEG_INFINITY, [0.0; 2]);
        for i in 0..POINTS {
            let factors = &self.row_factors[i * rows..(i + 1) * rows];
            for j in 0..POINTS {
                let sums = &self.partial[j * rows..(j + 1) * rows];
                let value: f64 = factors.iter().zip(sums).map(|(f, s)| f.re * s.re - f.im * s.im).sum();
                if value > best.0 {
                    best = (value, [grid_point(i), grid_point(j)]);
                }
            }
        }
        best.1
    }

    /// The maximum that lies uphill of `start`.
    ///
    /// # Panics
    /// When there is not one number for each frequency.
    pub fn climb(&mut self, cross: &[Complex64], weights: &[f64], start: [f64; 2]) -> SubpixelPeak {
        let mut at = start;
        let mut now = self.local(cross, weights, at);
        let mut done = false;
        for _ in 0..ITERATIONS {
            let mut step = uphill(&now);
            let length = step[0].hypot(step[1]);
            if length < SMALL {
                done = true;
                break;
            }
            // Far from the maximum the curvature says little.
            let mut scale = (SPACING / length).min(1.0);
            let next = loop {
                let to = [at[0] + scale * step[0], at[1] + scale * step[1]];
                let value = self.local(cross, weights, to);
                if value.value >= now.value || scale * length < SMALL {
                    break (to, value);
                }
                scale *= 0.5;
            };
            step = [next.0[0] - at[0], next.0[1] - at[1]];
            (at, now) = next;
            if step[0].hypot(step[1]) < SMALL {
                done = true;
                break;
            }
            if at[0].abs().max(at[1].abs()) > REACH {
                break;
            }
        }
        let curvature = now.hessian.map(|h| -h);
        let inside = at[0].abs().max(at[1].abs()) <= REACH;
        SubpixelPeak {
            position: at,
            height: now.value,
            curvature,
            converged: done && inside && is_positive(curvature) && now.value > 0.0,
        }
    }

    fn local(&mut self, cross: &[Complex64], weights: &[f64], at: [f64; 2]) -> Local {
        assert!(cross.len() == self.waves.len() && weights.len() == cross.len(), "not one number for each frequency");
        self.phases.set(&self.waves, at);
        let mut sum = Local::default();
        for (index, (x, w)) in cross.iter().zip(weights).enumerate() {
            if *w != 0.0 {
                let [r, c] = self.waves.frequency(index);
                let z = x * self.phases.get(&self.waves, index) * w;
                sum.value += z.re;
                sum.gradient[0] -= r * z.im;
                sum.gradient[1] -= c * z.im;
                sum.hessian[0] -= r * r * z.re;
                sum.hessian[1] -= r * c * z.re;
                sum.hessian[2] -= c * c * z.re;
            }
        }
        sum.gradient = sum.gradient.map(|g| g * TAU);
        sum.hessian = sum.hessian.map(|h| h * TAU * TAU);
        sum
    }
}

fn grid_point(index: usize) -> f64 {
    index as f64 * SPACING - REACH
}

/// Whether the symmetric matrix (row row, row col, col col) is positive definite, and not by rounding only.
fn is_positive(m: [f64; 3]) -> bool {
    m[0] > 0.0 && m[2] > 0.0 && m[0] * m[2] - m[1] * m[1] > 1e-6 * m[0] * m[2]
}

/// Newton's step, or a grid spacing along the gradient where the correlation is not curved like a maximum.
fn uphill(at: &Local) -> [f64; 2] {
    let ([a, b, d], [g, h]) = (at.hessian, at.gradient);
    if is_positive([-a, -b, -d]) {
        let det = a * d - b * b;
        return [-(d * g - b * h) / det, -(a * h - b * g) / det];
    }
    let length = g.hypot(h);
    if length > 0.0 { [SPACING * g / length, SPACING * h / length] } else { [0.0; 2] }
}

#[cfg(test)]
mod tests;
