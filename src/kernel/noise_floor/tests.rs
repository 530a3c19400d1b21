use super::*;
use num_complex::Complex;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal, Poisson};

use crate::axes::ScanShape;
use crate::kernel::convert::{PixelSums, offset, pack_pair, pixel_sums};
use crate::kernel::correlate::{Normalisation, multiply_packed};
use crate::kernel::fft2::Fft2;
use crate::kernel::peak::{Peak, find_pair};
use crate::kernel::smooth::gaussian;

const SHAPE: ScanShape = ScanShape { rows: 64, cols: 48 };

/// An object of random waves whose power falls off over `width` cycles per pixel, shifted by `moved`: expected counts.
fn object(seed: u64, width: f64, counts: f64, moved: [f64; 2]) -> Image {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let normal = Normal::new(0.0, 1.0).expect("unit");
    let (rows, cols) = (SHAPE.rows as isize, SHAPE.cols as isize);
    let mut image = Image::zeros((SHAPE.rows, SHAPE.cols));
    let mut power = 0.0;
    for p in 0..=12 {
        for q in -12..=12 {
            if p == 0 && q <= 0 {
                continue;
            }
            let f = [p as f64 / rows as f64, f64::from(q) / cols as f64];
            let height = (-(f[0].hypot(f[1]) / width).powi(2)).exp();
            let (a, b) = (height * normal.sample(&mut rng), height * normal.sample(&mut rng));
            power += f64::midpoint(a * a, b * b);
            for ((r, c), v) in image.indexed_iter_mut() {
                let phase = std::f64::consts::TAU * (f[0] * (r as f64 - moved[0]) + f[1] * (c as f64 - moved[1]));
                *v += a * phase.cos() + b * phase.sin();
            }
        }
    }
    image.mapv(|v| counts * (1.0 + 0.3 * v / power.sqrt()).max(0.02))
}

fn counted(expected: &Image, rng: &mut ChaCha8Rng) -> Image {
    expected.mapv(|v| Poisson::new(v).expect("positive").sample(rng))
}

/// The peak of `image` against `reference`, as the steps find it.
fn peak(image: &Image, reference: &Image) -> Peak {
    let n = SHAPE.len();
    let fft = Fft2::<f64>::new(SHAPE);
    let mut scratch = vec![Complex::default(); fft.scratch_len()];
    let (mut work, mut g, mut f) =
        (vec![Complex::default(); n], vec![Complex::default(); n], vec![Complex::default(); n]);
    let slices = [image, reference].map(|i| i.iter().copied().collect::<Vec<f64>>());
    let sums: [PixelSums; 2] = [pixel_sums(&slices[0]), pixel_sums(&slices[1])];
    pack_pair((&slices[1], offset(sums[1], n)), None, &mut work);
    fft.forward(&mut work, &mut g, &mut scratch);
    for z in &mut g {
        *z = z.conj();
    }
    pack_pair((&slices[0], offset(sums[0], n)), None, &mut work);
    fft.forward(&mut work, &mut f, &mut scratch);
    multiply_packed(&mut f, &g, SHAPE);
    fft.inverse(&mut f, &mut work, &mut scratch);
    let norm = Normalisation::new(sums[1], sums[0], n);
    find_pair(&work, SHAPE, [&norm, &norm])[0]
}

#[test]
fn tails_of_the_normal_distribution_agree_with_the_tables() {
    for (u, expected) in [
        (0.0, 0.5),
        (1.0, 0.158_655_253_931_457),
        (2.999_999, 1.349_902_463e-3),
        (3.0, 1.349_898_031_630e-3),
        (5.0, 2.866_515_718_792e-7),
        (10.0, 7.619_853_024_161e-24),
    ] {
        assert!((tail(u) / expected - 1.0).abs() < 1e-8, "{u}: {}", tail(u));
        assert!((tail(-u) - 1.0 + expected).abs() < 1e-9);
    }
}

#[test]
fn conditional_probabilities_have_their_limits() {
    for u in [0.0, 1.5, 4.0] {
        assert!((continued(u, 0.0) - tail(u)).abs() < 1e-6, "{u}");
        assert!(continued(u, 1.0) > 0.97, "{u}");
    }
    // Two halves of a plane at an angle: 1/4 + asin(rho) / 2π.
    assert!((0.5 * continued(0.0, 0.5) - 1.0 / 3.0).abs() < 1e-4);
}

#[test]
fn without_correlation_all_positions_are_independent() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let normal = Normal::new(0.0, 1.0).expect("unit");
    let white = Image::from_shape_fn((256, 256), |_| normal.sample(&mut rng));
    let noise = NoiseFloor::of(&white);
    assert!((noise.independent_positions() / 65536.0 - 1.0).abs() < 0.02, "{}", noise.independent_positions());
    // The mean maximum of 65536 normal numbers, by integration of its distribution, is 4.2911 standard deviations.
    assert!((noise.floor() * 256.0 - 4.2911).abs() < 0.01, "{}", noise.floor() * 256.0);
}

#[test]
fn the_floor_is_the_mean_maximum_of_simulated_noise() {
    // Sharp and smooth references, few and many counts.
    for (seed, width, counts) in [(1, 0.15, 5.0), (2, 0.15, 100.0), (3, 0.06, 1000.0), (4, 0.2, 1.0)] {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let reference = gaussian(&counted(&object(seed, width, counts, [0.0; 2]), &mut rng), 0.5);
        let noise = NoiseFloor::of(&reference);
        let flat = Image::from_elem((SHAPE.rows, SHAPE.cols), counts);
        let heights: Vec<f64> = (0..80).map(|_| peak(&counted(&flat, &mut rng), &reference).zncc).collect();
        let mean = heights.iter().sum::<f64>() / 80.0;
        // The mean of 80 maxima is known to some 1.5 %.
        assert!((mean / noise.floor() - 1.0).abs() < 0.06, "{width} {counts}: {mean} {}", noise.floor());
        let significant = heights.iter().filter(|z| noise.significance(**z) > 2.0).count();
        assert!(significant <= 1, "{significant} of 80 noise images are significant");
        let below = heights.iter().filter(|z| noise.false_peak(**z) > 0.5).count();
        assert!((20..=60).contains(&below), "{below} of 80 have an even chance");
    }
}

#[test]
fn the_scatter_of_repeated_acquisitions_is_the_one_expected() {
    for (seed, width, counts, moved) in
        [(5, 0.15, 100.0, [2.0, -3.4]), (6, 0.08, 300.0, [0.3, 1.2]), (7, 0.15, 10.0, [1.0, -2.2])]
    {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (still, shifted) = (object(seed, width, counts, [0.0; 2]), object(seed, width, counts, moved));
        let (mut errors, mut variances) = ([Vec::new(), Vec::new()], [0.0; 2]);
        for _ in 0..120 {
            let reference = gaussian(&counted(&still, &mut rng), 0.5);
            let found = peak(&counted(&shifted, &mut rng), &reference);
            let noise = NoiseFloor::of(&reference);
            for (axis, at) in [found.y - 32.0, found.x - 24.0].into_iter().enumerate() {
                assert!((at - moved[axis]).abs() < 2.5, "{found:?}");
                errors[axis].push(at);
                let sigma = noise.shift_sigma(axis, found.zncc, at - at.round(), found.curvature[axis]);
                variances[axis] += sigma * sigma / 120.0;
            }
        }
        for axis in 0..2 {
            let mean = errors[axis].iter().sum::<f64>() / 120.0;
            let scatter = (errors[axis].iter().map(|e| (e - mean).powi(2)).sum::<f64>() / 119.0).sqrt();
            let expected = variances[axis].sqrt();
            // 120 repetitions know their scatter to 6 %; the bias of the parabola spreads it a little.
            assert!((0.75..1.3).contains(&(scatter / expected)), "{counts} axis {axis}: {scatter} {expected}");
        }
    }
}

#[test]
fn an_image_without_counts_or_with_noise_alone_may_lie_anywhere() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let noise = NoiseFloor::of(&counted(&Image::from_elem((SHAPE.rows, SHAPE.cols), 3.0), &mut rng));
    let dead = noise.shift_sigma(0, 0.0, 0.0, 0.0);
    assert!((dead - 64.0 / 12f64.sqrt()).abs() < 0.01 && noise.significance(0.0) < -3.0, "{dead}");
    assert!(noise.shift_sigma(1, noise.floor(), 0.1, 0.05) > 5.0);
    for tiny in [(1, 1), (1, 2), (2, 3)] {
        let noise = NoiseFloor::of(&Image::from_elem(tiny, 2.0));
        assert!(noise.floor().is_finite() && noise.floor() <= 1.0 && noise.significance(0.0).is_finite(), "{tiny:?}");
        assert!(noise.shift_sigma(0, 0.0, 0.0, 0.0).is_finite());
    }
}

/// The same, one number at a time.
fn one_tail(u: f64) -> f64 {
    if u < 0.0 {
        return 1.0 - one_tail(-u);
    }
    if u < 3.0 {
        let (mut term, mut sum) = (u, u);
        for k in 1..60 {
            term *= u * u / f64::from(2 * k + 1);
            sum += term;
        }
        return 0.5 - density(u) * sum;
    }
    density(u) / (1..60).rev().fold(u, |fraction, k| u + f64::from(k) / fraction)
}

#[test]
fn tails_of_many_heights_are_those_of_single_ones_to_the_last_bit() {
    for first in -40..40 {
        let heights = std::array::from_fn(|i| f64::from(first) * 0.37 + i as f64 * 0.61);
        for (u, tail) in heights.iter().zip(tails(heights)) {
            assert_eq!(tail.to_bits(), one_tail(*u).to_bits(), "{u}");
        }
    }
}
