//! What a correlation peak is worth: the height that noise alone reaches, and how far a peak may lie from the truth.
//!
//! **Floor.** Let an image be white noise that has nothing to do with the reference `g`. Its zero-mean normalised
//! correlation at one shift is a normal number of variance `1 / (N - 1)`, and as a field over the `N` shifts it has the
//! reference's own autocorrelation `ρ`. How high its maximum is follows from the expected number of its excursions
//! above a height `u` (in standard deviations), which for a field sampled on a grid is
//!
//! ```text
//! E(u) = N Q(u) (1 - c_row(u)) (1 - c_col(u)),     c_axis(u) = P(Z₁ > u | Z₀ > u),  corr(Z₀, Z₁) = ρ_axis(1)
//! ```
//!
//! with `Q` the tail of the normal distribution: vertices less edges plus faces of the excursion set, where the
//! probability of a face is taken as that of its edges' product. Without correlation this is `N Q(u)`; for a smooth
//! field it is the Euler characteristic of Gaussian random fields (Adler 1981; Worsley 1996). Excursions are rare, so
//! `P(max ≤ u) = exp(-E(u))`, whose mean is the floor; `E(u) / Q(u)` at the floor is the number of independent
//! positions. The image's noise being white, it does not matter what its distribution is, unless the image holds fewer
//! than some hundred counts. Structure that two images share by chance reaches higher than noise.
//!
//! **Uncertainty.** The position is that of a parabola through the highest sample and its neighbours,
//! `δ = (z₊ - z₋) / 2h` with the curvature `h = 2z₀ - z₊ - z₋`. What of an image the reference does not explain has the
//! variance `1 - z₀²` (in units of the image's); as white noise it goes through the reference like above, so that with
//! `ρ₁, ρ₂` the autocorrelation at lags 1 and 2
//!
//! ```text
//! var δ = (1 - z₀²) / N · [(1 - ρ₂) / 2 + δ² (6 - 8ρ₁ + 2ρ₂)] / h²
//! ```
//!
//! which contains the noise of the reference, too, because that is part of what does not agree. It is the Cramér–Rao
//! bound of a matched filter up to the sampling. With the probability that the peak is one of noise, the true position
//! is anywhere: that is added. Close to the floor the curvature is noise as well, and the result up to twice too small;
//! the bias of a parabola (below 0.1 pixels) and what is systematic in the images — differing contrast of different
//! detector pixels — are not contained: two acquisitions of the same object differ by this much, not an acquisition
//! from the truth.

use crate::axes::Image;
use crate::kernel::simd::dispatch;

/// Step and end of the table of excursions, in standard deviations.
const STEP: f64 = 0.05;
const STEPS: usize = 280;

/// The noise of correlations with one reference.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseFloor {
    shape: [usize; 2],
    /// Autocorrelation of the reference at lags 1 and 2 along rows' and columns' axis.
    lags: [[f64; 2]; 2],
    /// Expected excursions above `i * STEP` standard deviations.
    excursions: Vec<f64>,
    floor: f64,
    independent: f64,
}

impl NoiseFloor {
    /// For correlations with `reference` (`[scan row, scan col]`).
    pub fn of(reference: &Image) -> Self {
        let (rows, cols) = reference.dim();
        let lags = [autocorrelations(reference, 0), autocorrelations(reference, 1)];
        let n = (rows * cols) as f64;
        let mut excursions: Vec<f64> = (0..=STEPS)
            .map(|i| {
                let u = i as f64 * STEP;
                n * tail(u) * (1.0 - continued(u, lags[0][0])) * (1.0 - continued(u, lags[1][0]))
            })
            .collect();
        // For low heights, where excursions merge, the formula falls again; the maximum's distribution does not.
        for i in (0..STEPS).rev() {
            excursions[i] = excursions[i].max(excursions[i + 1]);
        }
        let exceeded = |e: &f64| -(-e).exp_m1();
        let height: f64 = STEP * (excursions.iter().map(exceeded).sum::<f64>() - 0.5 * exceeded(&excursions[0]));
        let mut noise =
            Self { shape: [rows, cols], lags, excursions, floor: (height / scale(n)).min(1.0), independent: 0.0 };
        noise.independent = noise.excursions_above(height) / tail(height);
        noise
    }

    /// The mean of the highest zero-mean normalised correlation of the reference with white noise.
    pub fn floor(&self) -> f64 {
        self.floor
    }

    /// The number of independent shifts that have such a maximum.
    pub fn independent_positions(&self) -> f64 {
        self.independent
    }

    /// Standard deviations (of the correlation with noise at one shift) by which a peak is above the floor. Noise
    /// itself is rarely above 1, and all but never above 3.
    pub fn significance(&self, zncc: f64) -> f64 {
        (zncc - self.floor) * scale(self.positions())
    }

    /// The probability that noise alone has a peak of at least this height.
    pub fn false_peak(&self, zncc: f64) -> f64 {
        -(-self.excursions_above(zncc * scale(self.positions()))).exp_m1()
    }

    /// Standard deviation of a peak's position along `axis` (0: rows, 1: columns) in scan pixels, from its height, its
    /// refined `offset` from the highest sample and its `curvature` `2z₀ - z₊ - z₋` (0 where it was not refined).
    ///
    /// # Panics
    /// When `axis` is neither 0 nor 1.
    pub fn shift_sigma(&self, axis: usize, zncc: f64, offset: f64, curvature: f64) -> f64 {
        let [one, two] = self.lags[axis];
        let anywhere = (self.shape[axis] as f64).powi(2) / 12.0;
        let near = if curvature > 0.0 {
            let noise = (1.0 - zncc * zncc).max(0.0) / self.positions();
            let shape = (1.0 - two) / 2.0 + offset * offset * (6.0 - 8.0 * one + 2.0 * two);
            (noise * shape.max(0.0) / (curvature * curvature)).min(anywhere)
        } else {
            1.0 / 12.0
        };
        let wrong = self.false_peak(zncc);
        ((1.0 - wrong) * near + wrong * anywhere).sqrt()
    }

    fn positions(&self) -> f64 {
        (self.shape[0] * self.shape[1]) as f64
    }

    /// The table between its entries, where its logarithm is nearly straight; nothing beyond its end.
    fn excursions_above(&self, height: f64) -> f64 {
        let place = (height / STEP).max(0.0);
        let i = place as usize;
        if i >= STEPS {
            return 0.0;
        }
        let (low, high) = (self.excursions[i], self.excursions[i + 1]);
        if high <= 0.0 { high } else { (low.ln() + (place - i as f64) * (high.ln() - low.ln())).exp() }
    }
}

/// Correlations with noise times this are of variance 1.
fn scale(positions: f64) -> f64 {
    (positions - 1.0).max(1.0).sqrt()
}

/// Normalised autocorrelation at lags 1 and 2 along an axis, with wrap-around as in the correlations.
fn autocorrelations(image: &Image, axis: usize) -> [f64; 2] {
    let (rows, cols) = image.dim();
    let mean = image.iter().sum::<f64>() / image.len() as f64;
    let power: f64 = image.iter().map(|v| (v - mean).powi(2)).sum();
    [1, 2].map(|lag| {
        let next = |r: usize, c: usize| if axis == 0 { [(r + lag) % rows, c] } else { [r, (c + lag) % cols] };
        let product: f64 = image.indexed_iter().map(|((r, c), v)| (v - mean) * (image[next(r, c)] - mean)).sum();
        if power > 0.0 { product / power } else { 0.0 }
    })
}

/// The standard normal density.
fn density(u: f64) -> f64 {
    (-0.5 * u * u).exp() / std::f64::consts::TAU.sqrt()
}

/// Below, the tail is that of a series.
const SMALL: f64 = 3.0;
/// Heights whose tails are taken together.
const LANES: usize = 16;

/// The probability of more than `u` standard deviations.
fn tail(u: f64) -> f64 {
    tails([u; LANES])[0]
}

/// The probability of more than `u` standard deviations, for several `u`: the series of the distribution for small `u`,
/// Laplace's continued fraction for large (Abramowitz & Stegun 26.2.11, 26.2.14). Several, because one number
/// alone would wait for every division.
fn tails(heights: [f64; LANES]) -> [f64; LANES] {
    let (mut term, mut sum, mut fraction) = (heights.map(f64::abs), heights.map(f64::abs), heights.map(f64::abs));
    dispatch(
        #[inline(always)]
        || {
            let u = heights.map(f64::abs);
            for k in if u.iter().any(|u| *u < SMALL) { 1..60 } else { 0..0 } {
                for i in 0..LANES {
                    term[i] *= u[i] * u[i] / f64::from(2 * k + 1);
                    sum[i] += term[i];
                }
            }
            for k in if u.iter().all(|u| *u < SMALL) { 0..0 } else { 1..60 }.rev() {
                for i in 0..LANES {
                    fraction[i] = u[i] + f64::from(k) / fraction[i];
                }
            }
        },
    );
    std::array::from_fn(|i| {
        let u = heights[i].abs();
        let tail = if u < SMALL { 0.5 - density(u) * sum[i] } else { density(u) / fraction[i] };
        if heights[i] < 0.0 { 1.0 - tail } else { tail }
    })
}

/// `P(Z₁ > u | Z₀ > u)` for two normal numbers of correlation `rho`, by Simpson's rule over `Z₀`.
fn continued(u: f64, rho: f64) -> f64 {
    const INTERVALS: usize = 64;
    let rho = rho.clamp(-0.999_999, 0.999_999);
    let across = (1.0 - rho * rho).sqrt();
    // The density falls off over 1 / u beyond u.
    let step = 8.0 / u.max(1.0) / INTERVALS as f64;
    let place = |i: usize| u + i as f64 * step;
    let beyond = (0..=INTERVALS)
        .step_by(LANES)
        .flat_map(|first| tails(std::array::from_fn(|lane| (u - rho * place(first + lane)) / across)));
    let both: f64 = (0..=INTERVALS)
        .zip(beyond)
        .map(|(i, tail)| {
            let weight = if i == 0 || i == INTERVALS { 1.0 } else { 2.0 + 2.0 * (i % 2) as f64 };
            weight * density(place(i)) * tail
        })
        .sum();
    (both * step / 3.0 / tail(u)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests;
