//! Whether single detector pixels are displaced for themselves, beyond what smooth fields explain.
//!
//! Slow and fast frequencies measure each pixel's displacement with noise of their own. Their product, on average over the
//! pixels, is the variance of what both see: displacements, not noise. What an error of the model makes of slow frequencies it
//! does not make of fast ones, so that each of them alone must see the same variance.

use super::PixelTrial;

/// Fewer pixels say nothing.
const LEAST_PIXELS: usize = 100;
/// Standard errors by which the common variance must exceed nothing.
const LEAST_SIGNIFICANCE: f64 = 5.0;
/// The least spread (scan pixels) that is applied: below it is what second-order scattering leaves at doses without noise.
const LEAST_SPREAD: f64 = 0.02;
/// The variance that both bands see must be so much of what each one sees.
const LEAST_AGREEMENT: f64 = 0.7;
/// Residuals beyond so many standard deviations of the common ones are drawn to that: one pixel must not decide.
const FAR: f64 = 4.0;

/// Displacement and covariance (row row, row col, col col) from one band of frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Band {
    shift: [f64; 2],
    covariance: [f64; 3],
}

/// What one pixel says: with all frequencies, slow ones, fast ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PixelResidual {
    /// Place in the list of pixels.
    pub(super) pixel: usize,
    pub(super) bands: [Band; 3],
}

impl PixelResidual {
    pub(super) fn band(shift: [f64; 2], covariance: [f64; 3]) -> Band {
        Band { shift, covariance }
    }

    /// Counts all displacements from elsewhere.
    pub(super) fn add(&mut self, d: [f64; 2]) {
        for band in &mut self.bands {
            band.shift = [band.shift[0] + d[0], band.shift[1] + d[1]];
        }
    }

    /// The displacement that is to be expected, for displacements of this spread: that which was measured, times its part that is
    /// not noise (James and Stein 1961).
    pub(super) fn shortened(&self, spread: f64) -> [f64; 2] {
        let Band { shift, covariance: [a, b, d] } = self.bands[0];
        // spread² (spread² + covariance)⁻¹ shift
        let square = spread * spread;
        let (a, d) = (a + square, d + square);
        let determinant = a * d - b * b;
        let far = FAR * (square + a.max(d)).sqrt();
        let [row, col] = shift.map(|v| v.clamp(-far, far));
        [square * (d * row - b * col) / determinant, square * (a * col - b * row) / determinant]
    }
}

/// Judges all pixels together; `None` when they are too few.
pub(super) fn judge(pixels: &[PixelResidual]) -> Option<PixelTrial> {
    if pixels.len() < LEAST_PIXELS {
        return None;
    }
    // Where noise is large, pixels say little.
    let noise = |b: &Band| 0.5 * (b.covariance[0] + b.covariance[2]);
    let limit = |band: usize| {
        let mut all: Vec<f64> = pixels.iter().map(|p| noise(&p.bands[band])).collect();
        all.sort_unstable_by(f64::total_cmp);
        4.0 * all[all.len() / 2]
    };
    let limits = [limit(1), limit(2)];
    let clear: Vec<&PixelResidual> =
        pixels.iter().filter(|p| noise(&p.bands[1]) <= limits[0] && noise(&p.bands[2]) <= limits[1]).collect();
    let n = clear.len() as f64;
    let square = |band: usize| -> f64 {
        let mut all: Vec<f64> = clear.iter().map(|p| p.bands[band].shift.iter().map(|v| v * v).sum()).collect();
        all.sort_unstable_by(f64::total_cmp);
        // The median of a two-dimensional normal distribution's squared length is 2 ln 2 variances.
        all.get(all.len() / 2).copied().unwrap_or(0.0) / (2.0 * std::f64::consts::LN_2)
    };
    let far = [1, 2].map(|band| FAR * square(band).sqrt());
    let shift = |p: &PixelResidual, band: usize| p.bands[band].shift.map(|v| v.clamp(-far[band - 1], far[band - 1]));
    let products: Vec<f64> = clear
        .iter()
        .map(|p| {
            let (slow, fast) = (shift(p, 1), shift(p, 2));
            0.5 * (slow[0] * fast[0] + slow[1] * fast[1])
        })
        .collect();
    let mean = products.iter().sum::<f64>() / n;
    let error = (products.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / (n * n)).sqrt();
    let each = [1, 2].map(|band| {
        let seen =
            clear.iter().map(|p| 0.5 * shift(p, band).iter().map(|v| v * v).sum::<f64>() - noise(&p.bands[band]));
        (seen.sum::<f64>() / n).max(0.0).sqrt()
    });
    let spread = mean.max(0.0).sqrt();
    let significance = if error > 0.0 { mean / error } else { 0.0 };
    let taken = significance > LEAST_SIGNIFICANCE
        && spread > LEAST_SPREAD
        && each.iter().all(|e| mean > LEAST_AGREEMENT * e * e);
    Some(PixelTrial { spread, significance, each, taken })
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    use super::*;

    /// About normal, of variance 1.
    fn normal(rng: &mut ChaCha8Rng) -> f64 {
        (0..12).map(|_| f64::from(rng.next_u32()) / f64::from(u32::MAX)).sum::<f64>() - 6.0
    }

    /// Pixels whose true displacements have a `spread`, and that of `slow` frequencies only; noise of 0.03 and 0.02.
    fn planted(spread: f64, slow: f64, seed: u64) -> (Vec<PixelResidual>, Vec<[f64; 2]>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut truths = Vec::new();
        let pixels = (0..600).map(|pixel| {
            let mut pair = |s: f64| [s * normal(&mut rng), s * normal(&mut rng)];
            let (truth, only, noise) = (pair(spread), pair(slow), [pair(0.03), pair(0.02)]);
            truths.push(truth);
            let at = |i: usize| [0, 1].map(|a| truth[a] + noise[i][a] + if i == 0 { only[a] } else { 0.0 });
            let (slow, fast) = (at(0), at(1));
            let both = [0, 1].map(|a| (slow[a] * 4.0 + fast[a] * 9.0) / 13.0);
            let band = |shift, sigma: f64| PixelResidual::band(shift, [sigma * sigma, 0.0, sigma * sigma]);
            PixelResidual { pixel, bands: [band(both, 0.0166), band(slow, 0.03), band(fast, 0.02)] }
        });
        (pixels.collect(), truths)
    }

    #[test]
    fn displacements_that_both_bands_see_are_taken_and_make_the_maps_better() {
        let (pixels, truths) = planted(0.06, 0.0, 1);
        let trial = judge(&pixels).unwrap();
        assert!(trial.taken && (trial.spread - 0.06).abs() < 0.005, "{trial:?}");
        let error = |of: &dyn Fn(&PixelResidual) -> [f64; 2]| -> f64 {
            let each = pixels.iter().zip(&truths).map(|(p, t)| {
                let s = of(p);
                (s[0] - t[0]).powi(2) + (s[1] - t[1]).powi(2)
            });
            (each.sum::<f64>() / 600.0).sqrt()
        };
        let (before, as_measured) = (error(&|_| [0.0; 2]), error(&|p| p.bands[0].shift));
        let after = error(&|p| p.shortened(trial.spread));
        assert!(after < as_measured && after < 0.3 * before, "{before} {as_measured} {after}");
    }

    #[test]
    fn noise_and_what_only_one_band_sees_are_not_taken() {
        for seed in 0..20 {
            assert!(!judge(&planted(0.0, 0.0, seed).0).unwrap().taken);
            let trial = judge(&planted(0.0, 0.08, seed).0).unwrap();
            assert!(!trial.taken, "{trial:?}");
            let trial = judge(&planted(0.03, 0.08, seed).0).unwrap();
            assert!(!trial.taken, "{trial:?}");
        }
        assert!(judge(&planted(0.1, 0.0, 3).0[..50]).is_none());
    }
}
