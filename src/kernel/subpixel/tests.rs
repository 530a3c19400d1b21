use super::*;
use num_complex::Complex;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const N: usize = 32;

/// A number between −1 and 1.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    f64::from(rng.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0
}

/// Half of the frequencies of an N × N image below `limit` cycles per pixel.
fn frequencies(limit: f64) -> Vec<[f64; 2]> {
    let reach = (limit * N as f64) as i32;
    let all = (-reach..=reach).flat_map(|r| (0..=reach).map(move |c| [r, c]));
    let half = all.filter(|[r, c]| *c > 0 || (*c == 0 && *r > 0));
    half.map(|q| q.map(|v| f64::from(v) / N as f64)).filter(|q| q[0].hypot(q[1]) <= limit).collect()
}

/// Spectrum of a random object; the displaced one has noise of the given strength.
fn cross(q: &[[f64; 2]], shift: [f64; 2], noise: f64, seed: u64) -> Vec<Complex64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut number = || Complex::new(uniform(&mut rng), uniform(&mut rng));
    q.iter()
        .map(|q| {
            let object = number();
            let turn = Complex64::cis(-TAU * (q[0] * shift[0] + q[1] * shift[1]));
            (object * turn + number() * noise) * object.conj()
        })
        .collect()
}

/// The sum as it is defined.
fn naive(q: &[[f64; 2]], x: &[Complex64], w: &[f64], s: [f64; 2]) -> f64 {
    q.iter().zip(x).zip(w).map(|((q, x), w)| w * (x * Complex64::cis(TAU * (q[0] * s[0] + q[1] * s[1]))).re).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_planted_shift_is_found_exactly_without_noise(row in -1.4f64..1.4, col in -1.4f64..1.4, seed in any::<u64>()) {
        let q = frequencies(0.45);
        let x = cross(&q, [row, col], 0.0, seed);
        let peak = PeakSearch::new(&Waves::new(&q)).find(&x, &vec![1.0; q.len()]);
        prop_assert!(peak.converged, "{peak:?}");
        prop_assert!((peak.position[0] - row).hypot(peak.position[1] - col) < 1e-6, "{peak:?}");
    }

    #[test]
    fn noise_of_a_tenth_moves_it_by_less_than_a_hundredth(row in -1.2f64..1.2, col in -1.2f64..1.2, seed in any::<u64>()) {
        let q = frequencies(0.45);
        let x = cross(&q, [row, col], 0.1, seed);
        let peak = PeakSearch::new(&Waves::new(&q)).find(&x, &vec![1.0; q.len()]);
        prop_assert!((peak.position[0] - row).hypot(peak.position[1] - col) < 0.01, "{peak:?}");
    }

    #[test]
    fn value_gradient_and_curvature_are_those_of_the_sum(row in -1.0f64..1.0, col in -1.0f64..1.0, seed in any::<u64>()) {
        let q = frequencies(0.3);
        let x = cross(&q, [0.2, -0.1], 0.5, seed);
        let w: Vec<f64> = (0..q.len()).map(|i| (i % 4) as f64).collect();
        let at = PeakSearch::new(&Waves::new(&q)).local(&x, &w, [row, col]);
        let value = |dr: f64, dc: f64| naive(&q, &x, &w, [row + dr, col + dc]);
        let h = 1e-4;
        let scale: f64 = x.iter().zip(&w).map(|(x, w)| x.norm() * w).sum::<f64>() * TAU * TAU;
        prop_assert!((at.value - value(0.0, 0.0)).abs() < 1e-12 * scale);
        prop_assert!((at.gradient[0] - (value(h, 0.0) - value(-h, 0.0)) / (2.0 * h)).abs() < 1e-7 * scale);
        prop_assert!((at.gradient[1] - (value(0.0, h) - value(0.0, -h)) / (2.0 * h)).abs() < 1e-7 * scale);
        let second = |a: [f64; 2], b: [f64; 2]| {
            let v = |s: f64, t: f64| value(s * a[0] + t * b[0], s * a[1] + t * b[1]);
            (v(h, h) - v(h, -h) - v(-h, h) + v(-h, -h)) / (4.0 * h * h)
        };
        let (r, c) = ([1.0, 0.0], [0.0, 1.0]);
        for (found, expected) in at.hessian.iter().zip([second(r, r), second(r, c), second(c, c)]) {
            prop_assert!((found - expected).abs() < 1e-5 * scale, "{found} {expected}");
        }
    }

    #[test]
    fn the_grid_finds_the_highest_of_its_points(seed in any::<u64>()) {
        let q = frequencies(0.45);
        let x = cross(&q, [0.0, 0.0], 30.0, seed);
        let w: Vec<f64> = (0..q.len()).map(|i| 1.0 + (i % 3) as f64).collect();
        let mut search = PeakSearch::new(&Waves::new(&q));
        let start = search.highest_grid_point(&x, &w);
        let points = (0..POINTS).flat_map(|i| (0..POINTS).map(move |j| [grid_point(i), grid_point(j)]));
        let best = points.map(|s| naive(&q, &x, &w, s)).fold(f64::NEG_INFINITY, f64::max);
        prop_assert!((naive(&q, &x, &w, start) - best).abs() < 1e-9 * best.abs());
        prop_assert!(search.climb(&x, &w, start).height >= best - 1e-9 * best.abs());
    }
}

#[test]
fn a_shift_beyond_the_reach_and_an_empty_spectrum_do_not_converge() {
    let q = frequencies(0.1);
    let mut search = PeakSearch::new(&Waves::new(&q));
    let ones = vec![1.0; q.len()];
    assert!(!search.find(&cross(&q, [4.0, 0.0], 0.0, 1), &ones).converged);
    assert!(!search.find(&vec![Complex64::default(); q.len()], &ones).converged);
    assert!(!search.find(&cross(&q, [0.1, 0.0], 0.0, 1), &vec![0.0; q.len()]).converged);
    assert!(!PeakSearch::new(&Waves::default()).find(&[], &[]).converged);
}

#[test]
fn frequencies_of_one_direction_do_not_say_where_the_peak_is() {
    let q: Vec<_> = (1..10).map(|i| [f64::from(i) / 40.0, 0.0]).collect();
    let mut search = PeakSearch::new(&Waves::new(&q));
    assert!(!search.find(&cross(&q, [0.3, 0.0], 0.0, 2), &vec![1.0; q.len()]).converged);
}

#[test]
fn frequencies_beyond_nyquist_are_as_good_as_others() {
    let mut q = frequencies(0.4);
    let beyond: Vec<_> = q.iter().map(|q| [q[0] - 1.0, q[1] + 1.0]).collect();
    q.extend(beyond);
    let x = cross(&q, [-0.37, 0.61], 0.0, 3);
    let peak = PeakSearch::new(&Waves::new(&q)).find(&x, &vec![1.0; q.len()]);
    assert!((peak.position[0] + 0.37).hypot(peak.position[1] - 0.61) < 1e-6, "{peak:?}");
}
