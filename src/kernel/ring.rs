//! Fourier ring correlation: how far out in frequency two images of one object agree.
//!
//! For the spectra `A`, `B` of two images with independent noise, over the frequencies of a ring
//!
//! `FRC = Σ Re(A B*) / sqrt(Σ |A|² Σ |B|²)`
//!
//! (Saxton and Baumeister, J. Microsc. 127, 1982). For the halves of one data set, the spectral signal-to-noise ratio
//! of their sum is `2 FRC / (1 - FRC)`.

use num_complex::Complex;
use rayon::prelude::*;

use crate::axes::{Image, ScanShape};
use crate::kernel::fft2::Fft2;
use crate::memory::Numbers;

/// How rings are formed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rings {
    /// Width of a ring in units of the frequency step, which is one cycle per image along the shorter axis.
    pub width: f64,
    /// Whether the images are multiplied by a Hann window, so that their edges do not correlate.
    pub window: bool,
}

impl Default for Rings {
    fn default() -> Self {
        Self { width: 1.0, window: true }
    }
}

/// The correlation as a function of frequency. Ring `i` of width `w` is centred at `i w`; the first is `i = 1` (the
/// mean says nothing about resolution), the last reaches no further than the Nyquist frequency of 1/2.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Curve {
    /// Centres of the rings in cycles per pixel.
    pub frequency: Vec<f64>,
    /// Correlation, -1 to 1; 0 where an image has no power.
    pub frc: Vec<f64>,
    /// Fourier samples in the ring, both of each pair `±q` counted.
    pub samples: Vec<usize>,
}

/// Where a correlation stops to be significant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Criterion {
    /// Half a bit of information in each Fourier sample, for half-sets: with `n` samples in the ring
    /// `(0.2071 + 1.9102/√n) / (1.2071 + 0.9102/√n)` (van Heel and Schatz, J. Struct. Biol. 151, 2005). It asks for
    /// more where a ring has few samples.
    HalfBit,
    /// The same value everywhere: 1/7 for half-sets (Rosenthal and Henderson, J. Mol. Biol. 333, 2003).
    Fixed(f64),
}

impl Criterion {
    /// The value 1/7.
    pub const ONE_SEVENTH: Self = Self::Fixed(1.0 / 7.0);

    /// The threshold in a ring of this many samples.
    pub fn threshold(self, samples: usize) -> f64 {
        match self {
            Self::HalfBit => {
                let root = (samples as f64).sqrt();
                (0.2071 * root + 1.9102) / (1.2071 * root + 0.9102)
            }
            Self::Fixed(value) => value,
        }
    }
}

impl Curve {
    /// Spectral signal-to-noise ratio of the two halves together; infinite where they are equal.
    pub fn ssnr(&self) -> Vec<f64> {
        self.frc.iter().map(|&frc| if frc < 1.0 { 2.0 * frc / (1.0 - frc) } else { f64::INFINITY }).collect()
    }

    /// The thresholds of a criterion in each ring.
    pub fn thresholds(&self, criterion: Criterion) -> Vec<f64> {
        self.samples.iter().map(|&n| criterion.threshold(n)).collect()
    }

    /// Frequencies in cycles per unit of length, for pixels of this size.
    pub fn frequency_per_length(&self, pixel_size: f64) -> Vec<f64> {
        self.frequency.iter().map(|frequency| frequency / pixel_size).collect()
    }
}

/// Columns whose sums are added up together, so that the result does not depend on the number of threads.
const STRIP: usize = 64;

/// Correlates two images of the same shape, which need not be square. Their means are removed first.
///
/// # Panics
/// When the shapes differ or the width of the rings is not above zero.
pub fn ring_correlation(a: &Image, b: &Image, rings: Rings) -> Curve {
    assert_eq!(a.dim(), b.dim(), "images of different shapes");
    assert!(rings.width > 0.0, "rings of width {}", rings.width);
    let (rows, cols) = a.dim();
    let shape = ScanShape::new(rows, cols);
    if shape.is_empty() {
        return Curve::default();
    }
    let width = rings.width / rows.min(cols) as f64;
    // A ring is told apart from the next by half a width on each side; the last centre is at most 1/2.
    let count = (0.5 / width + 1e-9) as usize;
    let packed = spectrum([a, b], shape, rings.window);
    let strip = |first: usize| {
        let mut sums = vec![(0.0, 0.0, 0.0, 0usize); count + 1];
        for col in first..(first + STRIP).min(cols) {
            let (line, mirror) = (col * rows, (cols - col) % cols * rows);
            let q_col = frequency(col, cols);
            for row in 0..rows {
                let q_row = frequency(row, rows);
                let ring = ((q_row * q_row + q_col * q_col).sqrt() / width + 0.5) as usize;
                if let Some((cross, power_a, power_b, samples)) = sums.get_mut(ring) {
                    let (z, m) = (packed[line + row], packed[mirror + (rows - row) % rows].conj());
                    let (za, zb) = ((z + m) * 0.5, (z - m) * Complex::new(0.0, -0.5));
                    *cross += (za * zb.conj()).re;
                    *power_a += za.norm_sqr();
                    *power_b += zb.norm_sqr();
                    *samples += 1;
                }
            }
        }
        sums
    };
    let firsts: Vec<usize> = (0..cols).step_by(STRIP).collect();
    let parts: Vec<_> = firsts.into_par_iter().map(strip).collect();
    let mut sums = vec![(0.0, 0.0, 0.0, 0usize); count + 1];
    for part in &parts {
        for (sum, part) in sums.iter_mut().zip(part) {
            *sum = (sum.0 + part.0, sum.1 + part.1, sum.2 + part.2, sum.3 + part.3);
        }
    }
    let mut curve = Curve::default();
    for (ring, (cross, power_a, power_b, samples)) in sums.into_iter().enumerate().skip(1).filter(|(_, s)| s.3 > 0) {
        let power = power_a.sqrt() * power_b.sqrt();
        curve.frequency.push(ring as f64 * width);
        curve.frc.push(if power > 0.0 { (cross / power).clamp(-1.0, 1.0) } else { 0.0 });
        curve.samples.push(samples);
    }
    curve
}

/// The frequency (cycles per pixel) at which the correlation first falls below the criterion, interpolated linearly
/// between rings; the first ring's where it lies below already. `None` where it never does: the images agree up to
/// their Nyquist frequency (or there are no rings). The resolution as a length is the pixel size divided by it.
pub fn resolution(curve: &Curve, criterion: Criterion) -> Option<f64> {
    let excess: Vec<f64> = curve.frc.iter().zip(&curve.samples).map(|(frc, &n)| frc - criterion.threshold(n)).collect();
    let below = excess.iter().position(|&e| e < 0.0)?;
    let Some(above) = below.checked_sub(1) else { return curve.frequency.first().copied() };
    let part = excess[above] / (excess[above] - excess[below]);
    Some(curve.frequency[above] + part * (curve.frequency[below] - curve.frequency[above]))
}

/// As [`resolution`], for curves with dips in between, as the zeros of a contrast transfer make them, and weak at the
/// slowest frequencies. The excess over the criterion is averaged over three rings (noise lifts single ones); from its
/// most significant ring on outwards, the resolution is where it falls below zero for good: for more than a twelfth of
/// all rings. `None` where it does not; 0 where no ring lies above.
pub fn resolution_beyond_dips(curve: &Curve, criterion: Criterion) -> Option<f64> {
    let excess: Vec<f64> = curve.frc.iter().zip(&curve.samples).map(|(frc, &n)| frc - criterion.threshold(n)).collect();
    let smooth: Vec<f64> = (0..excess.len())
        .map(|i| {
            let rings = i.saturating_sub(1)..(i + 2).min(excess.len());
            let samples = |range: std::ops::Range<usize>| curve.samples[range].iter().sum::<usize>() as f64;
            rings.clone().map(|j| excess[j] * curve.samples[j] as f64).sum::<f64>() / samples(rings)
        })
        .collect();
    let significance = |i: &usize| smooth[*i] * (curve.samples[*i] as f64).sqrt();
    let top = (0..smooth.len()).max_by(|a, b| significance(a).total_cmp(&significance(b)));
    let Some(top) = top.filter(|&i| smooth[i] >= 0.0) else { return Some(0.0) };
    let patience = (smooth.len() / 12).max(2);
    let mut last = top;
    while let Some(next) = (last + 1..smooth.len().min(last + patience + 2)).find(|&i| smooth[i] >= 0.0) {
        last = next;
    }
    let below = smooth.get(last + 1)?;
    let part = smooth[last] / (smooth[last] - below);
    Some(curve.frequency[last] + part * (curve.frequency[last + 1] - curve.frequency[last]))
}

/// Cycles per pixel at an index of an axis of `n` frequencies.
fn frequency(index: usize, n: usize) -> f64 {
    let signed = if 2 * index <= n { index as f64 } else { index as f64 - n as f64 };
    signed / n as f64
}

/// The spectrum of two images without their means as real and imaginary part, transposed: `[col, row]`.
fn spectrum(pair: [&Image; 2], shape: ScanShape, window: bool) -> Numbers<Complex<f64>> {
    let hann = |i: usize, n: usize| {
        if window { (std::f64::consts::PI * (i as f64 + 0.5) / n as f64).sin().powi(2) } else { 1.0 }
    };
    let (rows, cols): (Vec<_>, Vec<_>) = (
        (0..shape.rows).map(|r| hann(r, shape.rows)).collect(),
        (0..shape.cols).map(|c| hann(c, shape.cols)).collect(),
    );
    let [(a, mean_a), (b, mean_b)] = pair.map(|image| (image, image.sum() / image.len() as f64));
    let mut work = Numbers::<Complex<f64>>::zeroed(shape.len());
    work.par_chunks_mut(shape.cols).enumerate().for_each(|(r, line)| {
        for (c, z) in line.iter_mut().enumerate() {
            *z = Complex::new(a[[r, c]] - mean_a, b[[r, c]] - mean_b) * (rows[r] * cols[c]);
        }
    });
    let mut spectrum = Numbers::zeroed(shape.len());
    Fft2::<f64>::new(shape).forward_wide(&mut work, &mut spectrum);
    spectrum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};

    fn noise(rows: usize, cols: usize, seed: u64) -> Image {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        Image::from_shape_fn((rows, cols), |_| rng.random_range(-1.0..1.0))
    }

    /// The definition, with the sum of the transform written out.
    fn naive(a: &Image, b: &Image, ring: usize, width: f64) -> (f64, usize) {
        let (rows, cols) = a.dim();
        let transform = |image: &Image, u: i64, v: i64| -> Complex<f64> {
            let mean = image.sum() / image.len() as f64;
            let turns = |r: usize, c: usize| u as f64 * r as f64 / rows as f64 + v as f64 * c as f64 / cols as f64;
            image
                .indexed_iter()
                .map(|((r, c), s)| Complex::cis(-std::f64::consts::TAU * turns(r, c)) * (s - mean))
                .sum()
        };
        let (mut cross, mut power_a, mut power_b, mut n) = (0.0, 0.0, 0.0, 0);
        for u in -(rows as i64 - 1) / 2..=rows as i64 / 2 {
            for v in -(cols as i64 - 1) / 2..=cols as i64 / 2 {
                let q = (u as f64 / rows as f64).hypot(v as f64 / cols as f64) / width;
                if ((ring as f64 - 0.5)..(ring as f64 + 0.5)).contains(&q) {
                    let (x, y) = (transform(a, u, v), transform(b, u, v));
                    cross += (x * y.conj()).re;
                    power_a += x.norm_sqr();
                    power_b += y.norm_sqr();
                    n += 1;
                }
            }
        }
        (cross / (power_a * power_b).sqrt(), n)
    }

    proptest! {
        #[test]
        fn each_ring_is_the_definition(rows in 4usize..9, cols in 4usize..9, width in 1.05..2.45f64, seed in any::<u64>()) {
            let (a, b) = (noise(rows, cols, seed), noise(rows, cols, seed ^ 1));
            let curve = ring_correlation(&a, &b, Rings { width, window: false });
            let step = width / rows.min(cols) as f64;
            for (i, frequency) in curve.frequency.iter().enumerate() {
                let (frc, samples) = naive(&a, &b, i + 1, step);
                prop_assert!((frequency - (i + 1) as f64 * step).abs() < 1e-12);
                prop_assert_eq!(curve.samples[i], samples);
                prop_assert!((curve.frc[i] - frc).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn equal_images_correlate_fully_and_independent_noise_not_at_all() {
        let (a, b) = (noise(64, 48, 1), noise(64, 48, 2));
        let same = ring_correlation(&a, &a.mapv(|v| 3.0 * v + 7.0), Rings::default());
        assert_eq!(same.frequency.len(), 24);
        assert!(same.frc.iter().all(|frc| (frc - 1.0).abs() < 1e-12));
        assert_eq!(resolution(&same, Criterion::HalfBit), None);
        let different = ring_correlation(&a, &b, Rings { window: false, ..Rings::default() });
        // The standard deviation of a ring of n samples in pairs is sqrt(2 / n).
        assert!(
            different.frc.iter().zip(&different.samples).all(|(frc, &n)| frc.abs() < 4.0 * (2.0 / n as f64).sqrt())
        );
    }

    #[test]
    fn signal_in_noise_gives_the_signal_to_noise_ratio_of_the_sum() {
        // White signal of variance 1 and noise of variance 1/4 in each half: 1 / (1/8) of the mean of both.
        let signal = noise(128, 128, 3);
        let half = |seed| &signal + noise(128, 128, seed) * 0.5;
        let curve = ring_correlation(&half(4), &half(5), Rings { width: 4.0, window: false });
        let ssnr = curve.ssnr();
        let mean = ssnr.iter().skip(4).sum::<f64>() / (ssnr.len() - 4) as f64;
        assert!((mean - 8.0).abs() < 0.5, "{mean}");
    }

    #[test]
    fn dips_do_not_end_the_resolution_and_single_rings_do_not_extend_it() {
        let curve = |frc: &[f64]| Curve {
            frequency: (1..=frc.len()).map(|i| i as f64 / 10.0).collect(),
            frc: frc.to_vec(),
            samples: vec![100; frc.len()],
        };
        let half = Criterion::Fixed(0.5);
        // Weak at first, a dip of one ring (0.57, 0.57 on the average of three), then a fall; the ring at 1.2 is chance.
        let dipped = [0.1, 0.9, 0.9, -0.1, 0.9, 0.9, 0.9, 0.0, 0.1, 0.0, 0.1, 0.6, 0.1, 0.0];
        let found = resolution_beyond_dips(&curve(&dipped), half).unwrap();
        // Averages 0.6 at 0.7 and 0.3333 at 0.8.
        assert!((found - (0.7 + 0.1 * 0.1 / (0.1 + 0.166_666_7))).abs() < 1e-6, "{found}");
        assert_eq!(resolution_beyond_dips(&curve(&[0.9, 0.1, 0.9, 0.8]), half), None);
        assert_eq!(resolution_beyond_dips(&curve(&[0.1, 0.6, 0.1, 0.1]), half), Some(0.0));
        assert_eq!(resolution_beyond_dips(&Curve::default(), half), Some(0.0));
    }

    #[test]
    fn the_first_crossing_is_interpolated() {
        let curve = Curve { frequency: vec![0.1, 0.2, 0.3, 0.4], frc: vec![0.9, 0.6, 0.2, 0.8], samples: vec![100; 4] };
        let found = resolution(&curve, Criterion::Fixed(0.5)).unwrap();
        assert!((found - 0.225).abs() < 1e-12);
        assert_eq!(resolution(&curve, Criterion::Fixed(0.95)), Some(0.1));
        assert_eq!(resolution(&curve, Criterion::ONE_SEVENTH), None);
        assert!((curve.frequency_per_length(0.5)[1] - 0.4).abs() < 1e-12);
        // Half a bit: (0.2071 + 0.19102) / (1.2071 + 0.09102).
        assert!((curve.thresholds(Criterion::HalfBit)[0] - 0.398_12 / 1.298_12).abs() < 1e-12);
    }
}
