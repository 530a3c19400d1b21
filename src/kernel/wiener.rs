//! The Wiener filter of two half-sets: how much of each frequency is signal, measured ring by ring.
//!
//! For a signal `s(q)` both halves `h` give `N_h(q) = D_h(q) s(q) + noise` with a known `D_h` (the squared transfer,
//! times weights) and noise whose power is `σ² D_h`: what a matched filter leaves. Over the frequencies of a ring the
//! noise of the halves is independent, so that
//!
//! `|s|² = Σ Re(N₀ N₁*) / Σ D₀ D₁`,  `σ² = (Σ |N₀|² + |N₁|² - |s|² Σ (D₀² + D₁²)) / Σ (D₀ + D₁)`
//!
//! and the best estimate (least squared error) of `s(q)` is `(N₀ + N₁) / (D₀ + D₁ + σ²/|s|²)`. No model of the noise is
//! needed, and a frequency that the transfer leaves out stays out.

use num_complex::Complex;

/// Least `σ²/|s|²` as a part of the total weight. What both halves have in common but does not belong to the object
/// (the scan ends somewhere) counts as signal, and would be raised without bound where the transfer vanishes.
const FLOOR: f64 = 0.05;
/// A ring without any signal is suppressed by this many times the total weight.
const CEILING: f64 = 1e4;

#[derive(Debug, Clone, Copy, Default)]
struct Ring {
    cross: f64,
    power: f64,
    both: f64,
    squares: f64,
    transfer: f64,
}

/// Sums over the rings.
#[derive(Debug, Clone)]
pub struct Rings {
    width: f64,
    rings: Vec<Ring>,
}

impl Rings {
    /// Rings of `width` (in the unit of the frequencies) up to `limit`.
    ///
    /// # Panics
    /// When they are not above zero and finite.
    pub fn new(width: f64, limit: f64) -> Self {
        assert!(width > 0.0 && limit > 0.0 && (limit / width).is_finite(), "rings of {width} up to {limit}");
        Self { width, rings: vec![Ring::default(); (limit / width + 1.5) as usize] }
    }

    /// Adds a frequency with the numbers of both halves.
    pub fn add(&mut self, frequency: f64, n: [Complex<f64>; 2], d: [f64; 2]) {
        let Some(ring) = self.rings.get_mut((frequency / self.width + 0.5) as usize) else { return };
        ring.cross += (n[0] * n[1].conj()).re;
        ring.power += n[0].norm_sqr() + n[1].norm_sqr();
        ring.both += d[0] * d[1];
        ring.squares += d[0] * d[0] + d[1] * d[1];
        ring.transfer += d[0] + d[1];
    }

    /// Adds the sums over other frequencies, of the same rings.
    ///
    /// # Panics
    /// When the rings differ.
    pub fn absorb(&mut self, other: &Self) {
        assert!(self.rings.len() == other.rings.len() && self.width.total_cmp(&other.width).is_eq(), "other rings");
        for (ring, more) in self.rings.iter_mut().zip(&other.rings) {
            ring.cross += more.cross;
            ring.power += more.power;
            ring.both += more.both;
            ring.squares += more.squares;
            ring.transfer += more.transfer;
        }
    }

    /// The filter, for halves of this total weight (the largest that `D₀ + D₁` could be for a full transfer).
    pub fn finish(&self, weight: f64) -> Wiener {
        let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        let signal: Vec<f64> = self.rings.iter().map(|r| ratio(r.cross, r.both)).collect();
        let at = |i: usize| signal.get(i).copied().unwrap_or(0.0);
        let damping = self.rings.iter().enumerate().map(|(i, ring)| {
            let noise = ratio(ring.power - at(i).max(0.0) * ring.squares, ring.transfer);
            // Single rings jump.
            let smooth = 0.25 * at(i.saturating_sub(1)) + 0.5 * at(i) + 0.25 * at(i + 1);
            let damping = if smooth > 0.0 { noise / (smooth * weight) } else { CEILING };
            weight * damping.clamp(FLOOR, CEILING)
        });
        Wiener { width: self.width, damping: damping.collect(), ceiling: weight * CEILING }
    }
}

/// What to add to the transfer in each ring.
#[derive(Debug, Clone)]
pub struct Wiener {
    width: f64,
    damping: Vec<f64>,
    ceiling: f64,
}

impl Wiener {
    /// `σ²/|s|²` at a frequency.
    pub fn damping(&self, frequency: f64) -> f64 {
        self.damping.get((frequency / self.width + 0.5) as usize).copied().unwrap_or(self.ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};

    #[test]
    fn signal_and_noise_of_each_ring_are_found_and_empty_rings_suppressed() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        // Uniform in ±√3: variance 1.
        let mut number = |power: f64| {
            let mut part = || rng.random_range(-1.0..1.0) * (1.5 * power).sqrt();
            Complex::new(part(), part())
        };
        let mut rings = Rings::new(1.0, 3.0);
        for i in 0..40_000 {
            // Ring 1: signal 2, noise 0.5; ring 2: noise alone; ring 3: signal without noise.
            let (ring, signal, noise) = [(1.0, 2.0, 0.5), (2.0, 0.0, 1.0), (3.0, 1.0, 0.0)][i % 3];
            let s = number(signal);
            let d = [0.2 + 0.5 * ((i / 3) % 7) as f64 / 7.0, 0.4];
            let n = [0, 1].map(|h| s * d[h] + number(noise * d[h]));
            rings.add(ring, n, d);
        }
        let raw = rings.rings[1];
        let signal = raw.cross / raw.both;
        let noise = (raw.power - signal * raw.squares) / raw.transfer;
        assert!((signal - 2.0).abs() < 0.1 && (noise - 0.5).abs() < 0.02, "{signal} {noise}");
        let wiener = rings.finish(1.0);
        // The neighbours' signals take part: half of its own and a quarter of none.
        assert!((wiener.damping(1.2) - 0.5).abs() < 0.05, "{}", wiener.damping(1.2));
        assert!(wiener.damping(3.4) <= 0.06 && wiener.damping(2.0) > 1.0 && wiener.damping(9.0) >= CEILING);
    }
}
