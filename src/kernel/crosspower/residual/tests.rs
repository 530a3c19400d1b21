use super::super::joint::groups;
use super::super::joint::tests::folded;
use super::super::tests::factors;
use super::super::{Kernel, Run};
use super::*;
use num_complex::Complex;
use proptest::prelude::*;
use std::sync::Arc;

const PER_FREQUENCY: f64 = 9.0;
const RADIUS: f64 = 6.1;
const SIDES: Kernel = Kernel::SideBands { pixels_per_frequency: PER_FREQUENCY, radius: RADIUS, overlap_rotation: None };

fn optics(model: Model) -> Optics {
    Optics { model, pixels_per_frequency: PER_FREQUENCY, radius: RADIUS, higher: None }
}

/// Spectra of an object whose two side bands have strengths of their own at each frequency, with the images displaced by the
/// model and by `own(pixel)`, and `gain(pixel)` times as strong.
fn planted(model: &Model, own: impl Fn(usize) -> [f64; 2], gain: impl Fn(usize) -> f64) -> HalfSets {
    let mut sets = folded(5);
    sets.frequencies.clear();
    sets.spectrum_of.clear();
    for spectrum in 0..80 {
        let part = |step: f64| (f64::from(spectrum as u32) * step).fract();
        let q = [part(0.618_033_99) - 0.5, 0.03 + 0.4 * part(0.414_213_56)];
        for cycles in &[[0.0, 0.0], [0.0, -1.0]][..=spectrum % 2] {
            sets.frequencies.push([q[0] + cycles[0], q[1] + cycles[1]]);
            sets.spectrum_of.push(spectrum);
        }
    }
    let places = places(&sets);
    let first = sets.halves[0].pixels;
    let halves = [0, 1].map(|h| {
        let half = &sets.halves[h];
        let mut spectra = vec![Complex::<f32>::default(); half.pixels * (sets.spectrum_of.iter().max().unwrap() + 1)];
        for (index, q) in sets.frequencies.iter().enumerate() {
            let strength =
                [Complex64::from_polar(30.0, index as f64), Complex64::from_polar(20.0, 2.0 + 1.7 * index as f64)];
            for i in 0..half.pixels {
                let pixel = h * first + i;
                let [minus, plus] = factors(model, SIDES, *q, places[pixel]).map(|f| f.conj());
                // Factors of the kernel know χ(q); strengths are what is left when it is taken off.
                let d = own(pixel);
                let moved = Complex64::cis(-TAU * (q[0] * d[0] + q[1] * d[1])) * gain(pixel);
                let z = (strength[0] * minus + strength[1] * plus) * moved;
                spectra[sets.spectrum_of[index] * half.pixels + i] += Complex::new(z.re as f32, z.im as f32);
            }
        }
        let runs: Vec<Run> = half.runs.clone();
        Half::new(runs, half.pixels, &spectra)
    });
    sets.halves = Arc::new(halves);
    sets
}

fn solve_all(sets: &HalfSets, optics: &Optics, model: &Model) -> Vec<Option<Solution>> {
    let places = places(sets);
    let displacements: Vec<[f64; 2]> = places.iter().map(|k| model.displacement(*k)).collect();
    let used = vec![true; places.len()];
    let normals = Residuals::new(sets, optics, &displacements, &used).normals(&groups(sets));
    normals
        .iter()
        .map(|classes| {
            let mut sum = Normal::default();
            for class in classes {
                sum.add(class);
            }
            sum.solve()
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn one_displaced_image_is_found_for_any_fraction_of_a_pixel(
        c1 in 0.1..0.4f64, c2a in -0.05..0.05f64, theta in -3.0..3.0f64, transposed in any::<bool>(),
        row in -0.5..0.5f64, col in -0.5..0.5f64, gain in 0.8..1.2f64, which in 0usize..100,
    ) {
        let model = Model { parameters: [c1, c2a, 0.02, theta], transposed };
        let moved = |pixel: usize| if pixel == which { [row, col] } else { [0.0; 2] };
        let strong = |pixel: usize| if pixel == which { gain } else { 1.0 };
        let sets = planted(&model, moved, strong);
        let (optics, places) = (optics(model), places(&sets));
        // Towards the edge of so small a disk, a handful of pixels say how strong a side band is.
        prop_assume!(places[which][0].hypot(places[which][1]) < 3.0);
        let mut displacements: Vec<[f64; 2]> = places.iter().map(|k| model.displacement(*k)).collect();
        let mut total = [0.0; 2];
        let mut last = None;
        // Slow frequencies first: they see far. The others are predicted with the displaced image among them.
        for fastest in [2, 3, 4, SPEEDS, SPEEDS, SPEEDS, SPEEDS, SPEEDS] {
            let used = vec![true; places.len()];
            let normals = Residuals::new(&sets, &optics, &displacements, &used).normals(&groups(&sets));
            let mut sum = Normal::default();
            for class in &normals[which][..fastest] {
                sum.add(class);
            }
            let Some(found) = sum.solve() else { continue };
            let step = found.shift.map(|s| s.clamp(-0.2, 0.2));
            total = [total[0] + step[0], total[1] + step[1]];
            let from = &mut displacements[which];
            *from = [from[0] + step[0], from[1] + step[1]];
            last = Some(found);
        }
        let off = (total[0] - row).hypot(total[1] - col);
        // A disk of a hundred pixels knows the strengths to two per cent; `tests/refine.rs` has one of seven hundred.
        prop_assert!(off < 0.02, "{last:?} {total:?} {row} {col}");
        prop_assert!(last.is_some_and(|f| (f.gain - (gain - 1.0)).abs() < 0.12), "{last:?} {gain}");
    }
}

#[test]
fn images_that_lie_where_the_model_says_have_no_residual() {
    for transposed in [false, true] {
        let model = Model { parameters: [0.3, 0.02, -0.01, 0.4], transposed };
        let sets = planted(&model, |_| [0.0; 2], |_| 1.0);
        let found = solve_all(&sets, &optics(model), &model);
        assert!(found.iter().flatten().count() * 10 > found.len() * 9, "{found:?}");
        for found in found.iter().flatten() {
            assert!(found.shift[0].hypot(found.shift[1]) < 0.01 && found.gain.abs() < 0.1, "{found:?}");
        }
    }
}

#[test]
fn higher_orders_are_ahead_by_what_the_aberration_function_says() {
    let aberrations = Aberrations::parse(["C30=2e6", "C21=4e3@30"]).unwrap();
    let higher =
        Higher { aberrations: aberrations.clone(), pixel_rad: 1e-3, frequency_rad: 8e-3, wavelength_angstrom: 0.04 };
    let (k, q) = ([4.0, -3.0], [0.2, 0.35]);
    let (alpha, beta) = (k.map(|v| v * 1e-3), q.map(|v| v * 8e-3));
    let chi = |a: [f64; 2]| aberrations.chi(a, 0.04);
    // The slope from differences.
    let h = 1e-8;
    let slope = [0, 1].map(|i| {
        let (mut more, mut less) = (alpha, alpha);
        more[i] += h;
        less[i] -= h;
        (chi(more) - chi(less)) / (2.0 * h)
    });
    let linear = beta[0] * slope[0] + beta[1] * slope[1];
    let minus = chi([alpha[0] - beta[0], alpha[1] - beta[1]]) - chi(alpha) + linear;
    let plus = -(chi([alpha[0] + beta[0], alpha[1] + beta[1]]) - chi(alpha) - linear);
    let found = higher.ahead(k, q);
    assert!((found[0] - minus).abs() < 1e-4 && (found[1] - plus).abs() < 1e-4, "{found:?} {minus} {plus}");
    assert!(found[0].abs() > 1e-2);
}

#[test]
fn pixels_that_are_not_used_have_no_say_and_are_not_measured() {
    let model = Model { parameters: [0.3, 0.0, 0.0, 0.0], transposed: false };
    let sets = planted(
        &model,
        |pixel| if pixel == 3 { [0.4, -0.3] } else { [0.0; 2] },
        |pixel| if pixel == 3 { 50.0 } else { 1.0 },
    );
    let places = places(&sets);
    let displacements: Vec<[f64; 2]> = places.iter().map(|k| model.displacement(*k)).collect();
    let used: Vec<bool> = (0..places.len()).map(|pixel| pixel != 3).collect();
    let optics = optics(model);
    let normals = Residuals::new(&sets, &optics, &displacements, &used).normals(&groups(&sets));
    for (pixel, classes) in normals.iter().enumerate() {
        let mut sum = Normal::default();
        for class in classes {
            sum.add(class);
        }
        if pixel == 3 {
            assert_eq!(sum, Normal::default());
        } else if let Some(found) = sum.solve() {
            assert!(found.shift[0].hypot(found.shift[1]) < 0.01, "{pixel} {found:?}");
        }
    }
}
