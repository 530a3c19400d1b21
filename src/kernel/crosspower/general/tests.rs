use super::*;
use crate::kernel::crosspower::joint::tests::folded;
use crate::kernel::crosspower::joint::{Joint, groups};
use crate::kernel::crosspower::tests::sets;
use crate::kernel::crosspower::{Kernel, objective};
use proptest::prelude::*;

const PER_FREQUENCY: f64 = 40.0;
const RADIUS: f64 = 6.1;

fn basis() -> Vec<Term> {
    (1..=3).flat_map(unit_terms).collect()
}

fn aperture(rotation: f64) -> Aperture {
    Aperture {
        pixels_per_frequency: PER_FREQUENCY,
        radius: RADIUS,
        filter: Filter::WeakPhase { overlap_rotation: rotation },
    }
}

#[test]
fn there_are_as_many_terms_as_the_orders_have() {
    assert_eq!((1..=5).map(|m| unit_terms(m).len()).collect::<Vec<_>>(), [3, 4, 5, 6, 7]);
    assert_eq!((1..=5).map(|m| unit_terms(m).len()).sum::<usize>(), MOST_COEFFICIENTS);
}

proptest! {
    #[test]
    fn without_higher_orders_it_is_the_quadratic_objective(
        c1 in -0.4..0.4f64, c2a in -0.1..0.1f64, c2b in -0.1..0.1f64, theta in -3.0..3.0f64,
        transposed in any::<bool>(), seed in any::<u64>(),
    ) {
        let sets = sets(6.0, seed);
        let quadratic = Model { parameters: [c1, c2a, c2b, theta], transposed };
        let kernel = Kernel::WeakPhase { pixels_per_frequency: PER_FREQUENCY, radius: RADIUS, overlap_rotation: None };
        let expected = objective(&sets, &quadratic, kernel, 0..7);
        // With a step of 1 Å per radian of pixel, c1 is C10 in Å; λ = per_frequency · pixel · step.
        let scan = Aberrations::quadratic(c1, [c2a, c2b]);
        let general = GeneralModel::from_aberrations(&scan, basis(), (theta, transposed), (RADIUS, 1.0, PER_FREQUENCY));
        let found = general_objective(&sets, &general, aperture(theta), 0..7);
        prop_assert!((found.value - expected.value).abs() < 1e-4 * expected.power.max(1.0), "{found:?} {expected:?}");
        let back = general.aberrations(RADIUS, 1.0, PER_FREQUENCY);
        prop_assert!((back.get(1, 0)[0] - c1).abs() < 1e-9 && (back.get(1, 2)[1] - c2b).abs() < 1e-9);
    }

    #[test]
    fn without_higher_orders_both_side_bands_apart_have_the_quadratic_joint_objective(
        c1 in -0.4..0.4f64, c2a in -0.1..0.1f64, c2b in -0.1..0.1f64, theta in -3.0..3.0f64,
        transposed in any::<bool>(), seed in any::<u64>(),
    ) {
        let sets = folded(seed);
        let quadratic = Model { parameters: [c1, c2a, c2b, theta], transposed };
        let kernel = Kernel::SideBands { pixels_per_frequency: 9.0, radius: RADIUS, overlap_rotation: None };
        let expected = Joint::new(&sets, &quadratic, kernel).objective(&groups(&sets));
        let scan = Aberrations::quadratic(c1, [c2a, c2b]);
        let general = GeneralModel::from_aberrations(&scan, basis(), (theta, transposed), (RADIUS, 1.0, 9.0));
        let filter = Filter::SideBands { overlap_rotation: theta };
        let all = sets.frequencies.len();
        let found = general_objective(&sets, &general, Aperture { pixels_per_frequency: 9.0, radius: RADIUS, filter }, 0..all);
        prop_assert!((found.value - expected.value).abs() < 1e-4 * expected.power.max(1.0), "{found:?} {expected:?}");
    }

    #[test]
    fn without_higher_orders_folded_frequencies_have_the_quadratic_joint_objective(
        c1 in -0.4..0.4f64, c2a in -0.1..0.1f64, theta in -3.0..3.0f64, transposed in any::<bool>(), seed in any::<u64>(),
    ) {
        let sets = folded(seed);
        let model = Model { parameters: [c1, c2a, 0.02, theta], transposed };
        let kernel = Kernel::WeakPhase { pixels_per_frequency: 9.0, radius: RADIUS, overlap_rotation: None };
        let expected = Joint::new(&sets, &model, kernel).objective(&groups(&sets));
        let scan = Aberrations::quadratic(c1, [c2a, 0.02]);
        let general = GeneralModel::from_aberrations(&scan, basis(), (theta, transposed), (RADIUS, 1.0, 9.0));
        let all = sets.frequencies.len();
        let found = general_objective(&sets, &general, Aperture { pixels_per_frequency: 9.0, ..aperture(theta) }, 0..all);
        prop_assert!((found.value - expected.value).abs() < 1e-4 * expected.power.max(1.0), "{found:?} {expected:?}");
        // The gradients by defocus and by rotation.
        let per_angstrom = std::f64::consts::TAU / 9.0 * RADIUS * RADIUS;
        let place = general.basis.iter().position(|t| t.m == 1 && t.n == 0).unwrap();
        prop_assert!((found.gradient[place] * per_angstrom - expected.gradient[0]).abs() < 4e-3 * expected.power, "{found:?} {expected:?}");
    }

    #[test]
    fn the_gradient_of_folded_frequencies_is_that_of_their_objective(
        coefficients in prop::collection::vec(-2.0..2.0f64, 12), theta in -3.0..3.0f64,
        transposed in any::<bool>(), apart in any::<bool>(), seed in any::<u64>(),
    ) {
        let sets = folded(seed);
        let model = GeneralModel { basis: basis(), coefficients, rotation: theta, transposed };
        let mut aperture = Aperture { pixels_per_frequency: 9.0, ..aperture(theta) };
        if apart {
            aperture.filter = Filter::SideBands { overlap_rotation: theta };
        }
        let all = sets.frequencies.len();
        let found = general_objective(&sets, &model, aperture, 0..all);
        for p in 0..=12 {
            let at = |step: f64| {
                let mut moved = model.clone();
                if p == 12 { moved.rotation += step } else { moved.coefficients[p] += step }
                general_objective(&sets, &moved, aperture, 0..all).value
            };
            let expected = (at(1e-6) - at(-1e-6)) / 2e-6;
            prop_assert!((found.gradient[p] - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{p} {} {expected}", found.gradient[p]);
        }
    }

    #[test]
    fn the_gradient_is_that_of_the_objective(
        coefficients in prop::collection::vec(-2.0..2.0f64, 12), theta in -3.0..3.0f64,
        transposed in any::<bool>(), seed in any::<u64>(),
    ) {
        let sets = sets(6.0, seed);
        let model = GeneralModel { basis: basis(), coefficients, rotation: theta, transposed };
        let found = general_objective(&sets, &model, aperture(theta), 0..7);
        for p in 0..=12 {
            let at = |step: f64| {
                let mut moved = model.clone();
                if p == 12 { moved.rotation += step } else { moved.coefficients[p] += step }
                general_objective(&sets, &moved, aperture(theta), 0..7).value
            };
            let expected = (at(1e-6) - at(-1e-6)) / 2e-6;
            prop_assert!((found.gradient[p] - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{p} {} {expected}", found.gradient[p]);
        }
    }
}
