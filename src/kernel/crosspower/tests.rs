use super::*;
use proptest::prelude::*;

/// A round detector of both colours with made-up spectra.
pub(super) fn sets(radius: f64, seed: u64) -> HalfSets {
    sets_without(radius, seed, |_, _| false)
}

/// The same without some pixels, which may cut rows in pieces.
fn sets_without(radius: f64, seed: u64, missing: impl Fn(i32, i32) -> bool) -> HalfSets {
    let frequencies: Vec<[f64; 2]> =
        (0..7).map(|i| [0.03 * f64::from(i) - 0.08, 0.05 * f64::from(i % 4) - 0.06]).collect();
    let mut state = seed;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32) / 1e7 - 0.8
    };
    let reach = radius as i32;
    let halves = [0i32, 1].map(|colour| {
        let (mut runs, mut pixels) = (Vec::<Run>::new(), 0);
        for row in -reach..=reach {
            let mut last = None;
            for col in -reach..=reach {
                let inside = f64::from(row * row + col * col) <= radius * radius;
                if !inside || (row + col).rem_euclid(2) != colour || missing(row, col) {
                    continue;
                }
                match runs.last_mut().filter(|_| last == Some(col - 2)) {
                    Some(run) => run.len += 1,
                    None => {
                        runs.push(Run { row: f64::from(row) + 0.2, col: f64::from(col) - 0.3, len: 1, start: pixels });
                    }
                }
                last = Some(col);
                pixels += 1;
            }
        }
        let spectra: Vec<_> = (0..pixels * frequencies.len()).map(|_| Complex::new(random(), random())).collect();
        Half::new(runs, pixels, &spectra)
    });
    HalfSets::new(frequencies, (0..7).collect(), 2.0, halves)
}

/// J from the definition of the factors, with the aberration function itself.
fn naive(sets: &HalfSets, model: &Model, kernel: Kernel) -> f64 {
    let mut j = 0.0;
    for (index, q) in sets.frequencies.iter().enumerate() {
        let mut norm = 1.0;
        let s = [0, 1].map(|h| {
            let half = &sets.halves[h];
            let mut sum = Complex::<f64>::default();
            for run in &half.runs {
                for i in 0..run.len {
                    let k = [run.row, run.col + sets.spacing * i as f64];
                    let [re, im] = half.spectrum(index).map(|part| f64::from(part[run.start + i]));
                    let [factor, _] = factors(model, kernel, *q, k);
                    norm += factor.norm_sqr();
                    sum += Complex::new(re, im) * factor;
                }
            }
            sum
        });
        j += (s[0] * s[1].conj()).re / norm;
    }
    j
}

/// The only filter, or those of both side bands.
pub(super) fn factors(model: &Model, kernel: Kernel, q: [f64; 2], k: [f64; 2]) -> [Complex<f64>; 2] {
    let (Kernel::WeakPhase { pixels_per_frequency: g, radius, overlap_rotation }
    | Kernel::SideBands { pixels_per_frequency: g, radius, overlap_rotation }) = kernel
    else {
        let d = model.displacement(k);
        return [Complex::cis(std::f64::consts::TAU * (q[0] * d[0] + q[1] * d[1])), Complex::default()];
    };
    // Everything in detector pixels on the scan's axes: χ(k) = (π / g) kᵀ C k.
    let [c1, c2a, c2b, theta] = model.parameters;
    let k = if model.transposed { [k[1], k[0]] } else { k };
    let turn = |theta: f64| [theta.cos() * k[0] - theta.sin() * k[1], theta.sin() * k[0] + theta.cos() * k[1]];
    // Where the overlap is looked up, and where the phase is.
    let (place, k) = (turn(overlap_rotation.unwrap_or(theta)), turn(theta));
    let q = q.map(|v| v * g);
    let chi = |v: [f64; 2]| {
        std::f64::consts::PI / g * ((c1 + c2a) * v[0] * v[0] + 2.0 * c2b * v[0] * v[1] + (c1 - c2a) * v[1] * v[1])
    };
    let (minus, plus) = ([q[0] - k[0], q[1] - k[1]], [q[0] + k[0], q[1] + k[1]]);
    let inside = |sign: f64| (q[0] + sign * place[0]).hypot(q[1] + sign * place[1]) <= radius;
    let mut gamma = [Complex::<f64>::default(); 2];
    if inside(-1.0) {
        gamma[0] = Complex::cis(-(chi(minus) - chi(k)));
    }
    if inside(1.0) {
        gamma[1] = -Complex::cis(chi(plus) - chi(k));
    }
    let gamma = gamma.map(|g| Complex::<f64>::i() * g.conj());
    if matches!(kernel, Kernel::SideBands { .. }) { gamma } else { [gamma[0] + gamma[1], Complex::default()] }
}

const WEAK: Kernel = Kernel::WeakPhase { pixels_per_frequency: 40.0, radius: 6.1, overlap_rotation: None };

proptest! {
    #[test]
    fn the_objective_is_its_definition(
        c1 in -0.4..0.4f64, c2a in -0.1..0.1f64, c2b in -0.1..0.1f64, theta in -3.0..3.0f64,
        transposed in any::<bool>(), seed in any::<u64>(),
    ) {
        let sets = sets(6.0, seed);
        let model = Model { parameters: [c1, c2a, c2b, theta], transposed };
        for kernel in [Kernel::Shift, WEAK] {
            let found = objective(&sets, &model, kernel, 0..7);
            let expected = naive(&sets, &model, kernel);
            prop_assert!((found.value - expected).abs() < 1e-4 * found.power.max(1.0), "{kernel:?} {found:?} {expected}");
            let mut parts = objective(&sets, &model, kernel, 0..3);
            parts.add(&objective(&sets, &model, kernel, 3..7));
            prop_assert!((parts.value - found.value).abs() < 1e-9 * found.power);
        }
    }

    // Rows of several blocks of lanes, cut in pieces that begin anywhere, some of them empty after a displacement.
    #[test]
    fn the_objective_of_a_large_disk_with_gaps_is_its_definition(
        c1 in -0.1..0.1f64, theta in -3.0..3.0f64, radius in 7.0..26.0f64, per_frequency in 20.0..200.0f64,
        holes in prop::collection::vec((-26i32..26, -26i32..26, 1i32..9), 0..6), seed in any::<u64>(),
    ) {
        let missing = |row: i32, col: i32| holes.iter().any(|(r, c, n)| (row - r).abs() < *n && (col - c).abs() < *n);
        let sets = sets_without(radius, seed, missing);
        let model = Model { parameters: [c1, 0.02, -0.01, theta], transposed: false };
        let weak = Kernel::WeakPhase { pixels_per_frequency: per_frequency, radius, overlap_rotation: None };
        for kernel in [Kernel::Shift, weak] {
            let found = objective(&sets, &model, kernel, 0..7);
            let expected = naive(&sets, &model, kernel);
            prop_assert!((found.value - expected).abs() < 1e-4 * found.power.max(1.0), "{kernel:?} {found:?} {expected}");
            let each = objective_of_each(&sets, &model, kernel, 0..7);
            prop_assert!((each.iter().sum::<f64>() - found.value).abs() <= 1e-9 * found.power);
            let h = 1e-6;
            let at = |step: f64| {
                let mut moved = model;
                moved.parameters[0] += step;
                naive(&sets, &moved, kernel)
            };
            let expected = (at(h) - at(-h)) / (2.0 * h);
            prop_assert!((found.gradient[0] - expected).abs() < 1e-4 * 40.0 * found.power.max(1.0), "{kernel:?} {found:?} {expected}");
        }
    }

    #[test]
    fn the_gradient_is_that_of_the_objective(
        c1 in 0.05..0.4f64, c2a in -0.1..0.1f64, c2b in -0.1..0.1f64, theta in -3.0..3.0f64,
        transposed in any::<bool>(), seed in any::<u64>(),
    ) {
        let sets = sets(6.0, seed);
        let model = Model { parameters: [c1, c2a, c2b, theta], transposed };
        // With the weak-phase kernel a turn moves pixels between regions, a jump that no gradient knows.
        let Kernel::WeakPhase { pixels_per_frequency, radius, .. } = WEAK else { unreachable!() };
        let fixed = Kernel::WeakPhase { pixels_per_frequency, radius, overlap_rotation: Some(theta) };
        for (kernel, parameters) in [(Kernel::Shift, 4), (WEAK, 3), (fixed, 4)] {
            let found = objective(&sets, &model, kernel, 0..7);
            for p in 0..parameters {
                let h = 1e-5;
                let at = |step: f64| {
                    let mut moved = model;
                    moved.parameters[p] += step;
                    naive(&sets, &moved, kernel)
                };
                let expected = (at(h) - at(-h)) / (2.0 * h);
                let scale = found.power * 40.0;
                prop_assert!((found.gradient[p] - expected).abs() < 1e-4 * scale, "{p} {kernel:?} {found:?} {expected}");
            }
        }
    }
}

#[test]
fn planted_displacements_have_the_highest_objective() {
    let mut sets = sets(6.0, 3);
    let truth = Model { parameters: [0.3, 0.05, -0.02, 0.6], transposed: true };
    let planted = sets.halves.each_ref().map(|half| {
        let mut spectra = vec![Complex::default(); half.pixels * 7];
        for (index, q) in sets.frequencies.iter().enumerate() {
            for run in &half.runs {
                for i in 0..run.len {
                    let d = truth.displacement([run.row, run.col + sets.spacing * i as f64]);
                    let z = Complex::cis(-std::f64::consts::TAU * (q[0] * d[0] + q[1] * d[1]));
                    spectra[index * half.pixels + run.start + i] = Complex::new(z.re as f32, z.im as f32);
                }
            }
        }
        Half::new(half.runs.clone(), half.pixels, &spectra)
    });
    sets.halves = Arc::new(planted);
    let best = objective(&sets, &truth, Kernel::Shift, 0..7);
    // The colours have different numbers of pixels, so that the ratio stays a little below one.
    assert!(best.value / best.power > 0.98, "{best:?}");
    assert!(best.gradient.iter().all(|g| g.abs() < 1e-2 * best.power), "{best:?}");
    for p in 0..4 {
        let mut moved = truth;
        moved.parameters[p] += 0.05;
        assert!(objective(&sets, &moved, Kernel::Shift, 0..7).value < best.value);
    }
}
