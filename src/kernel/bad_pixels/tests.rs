use super::*;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal, Poisson};

const DET: usize = 36;
const CENTER: [f64; 2] = [17.4, 18.2];
const CROP: Crop = Crop { row0: 2, row1: 34, col0: 3, col1: 35 };

/// A simulated acquisition: what each pixel expects in each frame, and what it makes of it.
struct Detector {
    radius: f64,
    frames: usize,
    seed: u64,
    /// Mean over the scan of each pixel.
    expected: Image,
}

impl Detector {
    /// A disk of `counts` per pixel and frame with a hundredth of that around it.
    fn flat(counts: f64, frames: usize, seed: u64) -> Self {
        let radius = 12.0;
        let expected = Image::from_shape_fn((DET, DET), |(r, c)| {
            let distance = (r as f64 - CENTER[0]).hypot(c as f64 - CENTER[1]);
            counts * (0.01 + (radius - distance + 0.5).clamp(0.0, 1.0))
        });
        Self { radius, frames, seed, expected }
    }

    /// Finds bad pixels in counts that `respond(pixel, frame, counts)` made of Poisson counts.
    fn find(&self, mut respond: impl FnMut([usize; 2], usize, f64) -> f64) -> BadPixels {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let (mut mean, mut square) = (Image::zeros((DET, DET)), Image::zeros((DET, DET)));
        for ((r, c), &expected) in self.expected.indexed_iter() {
            let poisson = Poisson::new(expected).ok();
            for frame in 0..self.frames {
                let count = respond([r, c], frame, poisson.map_or(0.0, |p| p.sample(&mut rng)));
                mean[[r, c]] += count / self.frames as f64;
                square[[r, c]] += count * count / self.frames as f64;
            }
        }
        let shape = CROP.shape();
        let dispersion = Image::from_shape_fn((shape.rows, shape.cols), |(r, c)| {
            let at = [r + CROP.row0, c + CROP.col0];
            (square[at] - mean[at] * mean[at]).max(0.0) / mean[at]
        });
        find(&Statistics {
            mean: &mean,
            dispersion: &dispersion,
            crop: CROP,
            center: CENTER,
            radius: self.radius,
            frames: self.frames,
        })
    }
}

fn gains(seed: u64, spread: f64) -> Image {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let normal = Normal::new(1.0, spread).expect("a spread");
    Image::from_shape_fn((DET, DET), |_| normal.sample(&mut rng))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_honest_detector_has_no_bad_pixels(
        log_counts in 0.05f64.ln()..400f64.ln(), side in 16usize..30, unit in prop::sample::select(vec![1.0, 60.0, 1e-3]),
        seed in any::<u64>(),
    ) {
        let detector = Detector::flat(log_counts.exp(), side * side, seed);
        let gain = gains(seed, 0.03);
        let result = detector.find(|at, _, count| unit * count * gain[at]);
        prop_assert_eq!(result.found, []);
        prop_assert_eq!(result.unbelievable, None);
    }

    #[test]
    fn planted_pixels_are_found_and_no_others(
        log_counts in 0.5f64.ln()..400f64.ln(), side in 16usize..30, unit in prop::sample::select(vec![1.0, 60.0, 1e-3]),
        seed in any::<u64>(), hot in 3.0..1000.0f64, row in 10usize..25, col in 11usize..25,
    ) {
        let detector = Detector::flat(log_counts.exp(), side * side, seed);
        let dead = [row, col];
        let bright = [35 - row, 36 - col];
        prop_assume!(dead != bright);
        let result = detector.find(|at, _, count| {
            unit * if at == dead { 0.0 } else if at == bright { hot * count } else { count }
        });
        let mut expected = vec![(dead, Flaw::Dead), (bright, Flaw::Hot)];
        expected.sort_by_key(|(at, _)| *at);
        prop_assert_eq!(&result.found, &expected);
        let marked = result.map.indexed_iter().filter(|(_, v)| **v != 0.0);
        let marked: Vec<_> = marked.map(|((r, c), v)| ([r + CROP.row0, c + CROP.col0], *v as u8)).collect();
        prop_assert_eq!(marked, expected.iter().map(|(at, flaw)| (*at, *flaw as u8)).collect::<Vec<_>>());
    }

    #[test]
    fn pixels_that_flicker_or_are_stuck_are_found_by_their_variance(
        log_counts in 1f64.ln()..400f64.ln(), side in 16usize..30, seed in any::<u64>(),
    ) {
        let detector = Detector::flat(log_counts.exp(), side * side, seed);
        // Nothing in three of four frames, then four times as much; and always the mean.
        let (flickers, stuck) = ([12, 15], [22, 20]);
        let mean = detector.expected[stuck];
        let result = detector.find(|at, frame, count| match at {
            _ if at == flickers => if frame % 4 == 0 { 4.0 * count } else { 0.0 },
            _ if at == stuck => mean,
            _ => count,
        });
        prop_assert_eq!(result.found, [(flickers, Flaw::Outlier), (stuck, Flaw::Outlier)]);
    }
}

#[test]
fn fringes_and_gains_of_the_disk_are_no_flaws() {
    for (period, contrast) in [(2.0, 0.6), (3.1, 0.8), (5.3, 0.9), (9.0, 0.95)] {
        let mut detector = Detector::flat(50.0, 400, 3);
        for ((r, c), v) in detector.expected.indexed_iter_mut() {
            *v *= 1.0 + contrast * (std::f64::consts::TAU * (0.8 * r as f64 + 0.6 * c as f64) / period).sin();
        }
        let gain = gains(8, 0.04);
        assert_eq!(detector.find(|at, _, count| count * gain[at]).found, [], "period {period}");
    }
}

#[test]
fn a_sample_that_varies_over_the_scan_is_no_flaw() {
    let detector = Detector::flat(30.0, 900, 4);
    let result = detector.find(|at, frame, count| {
        // The same object, seen from another side by every pixel, with a contrast that falls towards one side.
        let phase = 0.21 * frame as f64 + 0.3 * at[0] as f64 - 0.2 * at[1] as f64;
        (count * (1.0 + 0.6 * phase.sin() * (at[1] as f64 / DET as f64))).round()
    });
    assert_eq!(result.found, []);
}

#[test]
fn a_dead_row_a_dead_pair_and_bloomed_pixels_are_found() {
    let detector = Detector::flat(20.0, 400, 5);
    let result = detector.find(|at, _, count| match at {
        [14, _] | [22, 18 | 19] => 0.0,
        [19, 12] => 1000.0 * count,
        [19, 11 | 13] | [18 | 20, 12] => 60.0 * count,
        _ => count,
    });
    let dead_row = (3..35).filter(|&c| (14.0 - CENTER[0]).hypot(c as f64 - CENTER[1]) <= 11.5).collect::<Vec<_>>();
    let of = |flaw| result.found.iter().filter(move |(_, f)| *f == flaw).map(|(at, _)| *at).collect::<Vec<_>>();
    let mut expected: Vec<_> = dead_row.into_iter().map(|c| [14, c]).collect();
    expected.extend([[22, 18], [22, 19]]);
    assert_eq!(of(Flaw::Dead), expected);
    assert_eq!(of(Flaw::Hot), [[18, 12], [19, 11], [19, 12], [19, 13], [20, 12]]);
    assert_eq!(of(Flaw::Outlier), [[0; 2]; 0]);
}

#[test]
fn hot_pixels_on_the_edge_and_outside_are_found() {
    let detector = Detector::flat(20.0, 400, 6);
    let result = detector.find(|at, _, count| match at {
        [4, 5] => count + 2.0,
        [17, 30] => 80.0 + count,
        [29, 18] => 0.0,
        _ => count,
    });
    let expected = [([4, 5], Flaw::Hot), ([17, 30], Flaw::Hot)];
    // 11.6 pixels from the centre: half of it may lie outside.
    assert_eq!(result.found, expected);
}

#[test]
fn too_many_are_not_believed() {
    let detector = Detector::flat(20.0, 400, 7);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let bad = Image::from_shape_fn((DET, DET), |_| f64::from(u8::from(rng.random_bool(0.25))));
    let result = detector.find(|at, _, count| if bad[at] > 0.0 { 0.0 } else { count });
    assert!(result.unbelievable.is_some_and(|n| n > 50), "{result:?}");
    assert!(result.found.is_empty() && result.map.iter().all(|v| *v == 0.0));
}

#[test]
fn too_few_frames_or_counts_or_a_tiny_disk_say_nothing() {
    let none = |detector: &Detector| detector.find(|at, _, count| if at == [17, 18] { 0.0 } else { count }).found;
    assert_eq!(none(&Detector::flat(20.0, 49, 8)), []);
    assert_eq!(none(&Detector::flat(0.02, 256, 8)), []);
    let empty = Image::zeros((DET, DET));
    let shape = CROP.shape();
    let undefined = Image::from_elem((shape.rows, shape.cols), f64::NAN);
    let statistics =
        Statistics { mean: &empty, dispersion: &undefined, crop: CROP, center: CENTER, radius: 1.0, frames: 400 };
    assert_eq!(find(&statistics).found, []);
}

proptest! {
    #[test]
    fn the_median_is_that_of_the_sorted_numbers(numbers in prop::collection::vec(-9i32..9, 1..40)) {
        let mut values: Vec<f64> = numbers.iter().copied().map(f64::from).collect();
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let half = sorted.len() / 2;
        let expected = if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) };
        prop_assert!((median(&mut values) - expected).abs() < 1e-12);
    }
}
