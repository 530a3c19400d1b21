use super::super::tests::{factors, sets};
use super::super::{Half, objective};
use super::*;
use num_complex::Complex;
use proptest::prelude::*;
use std::sync::Arc;

const SIDES: Kernel = Kernel::SideBands { pixels_per_frequency: 9.0, radius: 6.1, overlap_rotation: None };
const WEAK: Kernel = Kernel::WeakPhase { pixels_per_frequency: 9.0, radius: 6.1, overlap_rotation: None };

/// Spectra that up to four frequencies share.
pub(in super::super) fn folded(seed: u64) -> HalfSets {
    let mut sets = sets(6.0, seed);
    let base = std::mem::take(&mut sets.frequencies);
    sets.spectrum_of.clear();
    for (spectrum, q) in base.iter().enumerate() {
        for cycles in &[[0.0, 0.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 1.0]][..=spectrum % 4] {
            sets.frequencies.push([q[0] + cycles[0], q[1] + cycles[1]]);
            sets.spectrum_of.push(spectrum);
        }
    }
    sets
}

/// Every pixel's filter, and the data, `[half][pixel]`, of the only filter or of one of the sides.
fn filters(
    sets: &HalfSets,
    model: &Model,
    kernel: Kernel,
    (index, side): (usize, usize),
) -> [Vec<(Complex64, Complex64)>; 2] {
    [0, 1].map(|h| {
        let half = &sets.halves[h];
        let pixels = half.runs.iter().flat_map(|run| (0..run.len).map(move |i| (run, i)));
        let each = pixels.map(|(run, i)| {
            let [re, im] = half.spectrum(sets.spectrum_of[index]).map(|part| f64::from(part[run.start + i]));
            let k = [run.row, run.col + sets.spacing * i as f64];
            (Complex::new(re, im), factors(model, kernel, sets.frequencies[index], k)[side])
        });
        each.collect()
    })
}

/// J of a group from its definition, with the matrix inverted by Gauss and Jordan.
fn naive(sets: &HalfSets, model: &Model, kernel: Kernel, group: Range<usize>) -> f64 {
    let sides = if matches!(kernel, Kernel::SideBands { .. }) { 2 } else { 1 };
    let places = group.flat_map(|index| (0..sides).map(move |side| (index, side)));
    let all: Vec<_> = places.map(|place| filters(sets, model, kernel, place)).collect();
    let n = all.len();
    let mut rows: Vec<Vec<Complex64>> = vec![vec![Complex64::default(); n + 1]; n];
    let mut first = vec![Complex64::default(); n];
    for a in 0..n {
        for b in 0..n {
            let products = (0..2).flat_map(|h| all[a][h].iter().zip(&all[b][h])).map(|((_, f), (_, g))| f * g.conj());
            rows[a][b] = products.sum::<Complex64>() + f64::from(u8::from(a == b));
        }
        let sum = |h: usize| all[a][h].iter().map(|(z, f)| z * f).sum::<Complex64>();
        (first[a], rows[a][n]) = (sum(0), sum(1));
    }
    for c in 0..n {
        let pivot = rows[c].clone();
        for (i, row) in rows.iter_mut().enumerate() {
            let f = row[c] / pivot[c];
            for j in 0..=n {
                row[j] = if i == c { pivot[j] / pivot[c] } else { row[j] - f * pivot[j] };
            }
        }
    }
    (0..n).map(|a| (first[a].conj() * rows[a][n]).re).sum()
}

proptest! {
    #[test]
    fn the_objective_of_folded_frequencies_is_its_definition(
        c1 in -0.4..0.4f64, c2a in -0.1..0.1f64, c2b in -0.1..0.1f64, theta in -3.0..3.0f64,
        transposed in any::<bool>(), seed in any::<u64>(),
    ) {
        let sets = folded(seed);
        let model = Model { parameters: [c1, c2a, c2b, theta], transposed };
        for kernel in [WEAK, SIDES, Kernel::Shift] {
            let joint = Joint::new(&sets, &model, kernel);
            for group in groups(&sets) {
                let found = joint.objective(std::slice::from_ref(&group));
                let expected = naive(&sets, &model, kernel, group.clone());
                prop_assert!((found.value - expected).abs() < 1e-4 * found.power.max(1.0), "{kernel:?} {group:?} {found:?} {expected}");
            }
        }
    }

    #[test]
    fn the_gradient_of_folded_frequencies_is_that_of_their_objective(
        c1 in 0.05..0.4f64, c2a in -0.1..0.1f64, c2b in -0.1..0.1f64, theta in -3.0..3.0f64,
        transposed in any::<bool>(), apart in any::<bool>(), seed in any::<u64>(),
    ) {
        let sets = folded(seed);
        let model = Model { parameters: [c1, c2a, c2b, theta], transposed };
        let all = groups(&sets);
        let kernel = if apart { SIDES } else { WEAK }.with_overlap(&model);
        let found = Joint::new(&sets, &model, kernel).objective(&all);
        for p in 0..4 {
            let h = 1e-5;
            let at = |step: f64| {
                let mut moved = model;
                moved.parameters[p] += step;
                all.iter().map(|group| naive(&sets, &moved, kernel, group.clone())).sum::<f64>()
            };
            let expected = (at(h) - at(-h)) / (2.0 * h);
            prop_assert!((found.gradient[p] - expected).abs() < 1e-4 * 40.0 * found.power, "{p} {found:?} {expected}");
        }
    }

    #[test]
    fn frequencies_alone_have_the_plain_objective(
        c1 in -0.4..0.4f64, theta in -3.0..3.0f64, transposed in any::<bool>(), seed in any::<u64>(),
    ) {
        let sets = sets(6.0, seed);
        let model = Model { parameters: [c1, 0.03, -0.02, theta], transposed };
        for kernel in [WEAK, SIDES] {
            let (plain, joint) = (objective(&sets, &model, kernel, 0..7), Joint::new(&sets, &model, kernel).objective(&groups(&sets)));
            prop_assert!((plain.value - joint.value).abs() < 1e-9 * plain.power && (plain.power - joint.power).abs() < 1e-9 * plain.power);
            for (a, b) in plain.gradient.iter().zip(joint.gradient) {
                prop_assert!((a - b).abs() < 1e-9 * 40.0 * plain.power);
            }
        }
    }
}

#[test]
fn frequencies_that_share_a_spectrum_make_a_group() {
    let sets = folded(3);
    let found = groups(&sets);
    assert_eq!(found[..4], [0..1, 1..3, 3..6, 6..10]);
    assert_eq!(found.last().map(|g| g.end), Some(sets.frequencies.len()));
}

#[test]
fn without_noise_the_objective_of_folded_frequencies_is_highest_at_the_truth() {
    // Two objects at frequencies that fold onto each other: one by one, each disturbs the other's maximum.
    let mut sets = folded(1);
    let truth = Model { parameters: [0.04, 0.01, -0.005, 0.3], transposed: false };
    let kernel = WEAK.with_overlap(&truth);
    let planted = [0, 1].map(|h| {
        let half = &sets.halves[h];
        let mut spectra = vec![Complex::default(); half.pixels * 7];
        for (index, spectrum) in sets.spectrum_of.iter().enumerate() {
            let strength = Complex64::cis(index as f64) * if index % 2 == 0 { 3.0 } else { 1.0 };
            for (pixel, (_, f)) in filters(&sets, &truth, kernel, (index, 0))[h].iter().enumerate() {
                let z = strength * f.conj();
                spectra[spectrum * half.pixels + pixel] += Complex::new(z.re as f32, z.im as f32);
            }
        }
        Half::new(half.runs.clone(), half.pixels, &spectra)
    });
    sets.halves = Arc::new(planted);
    let all = sets.frequencies.len();
    let joint = Joint::new(&sets, &truth, kernel).objective(&groups(&sets));
    let alone = objective(&sets, &truth, kernel, 0..all);
    let tilt = |o: &Objective| o.gradient[1].hypot(o.gradient[2]) / o.power;
    assert!(tilt(&joint) < 0.2 * tilt(&alone), "{joint:?} {alone:?}");
}
