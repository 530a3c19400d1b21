use proptest::prelude::*;

use super::*;
use crate::kernel::crosspower::Model;

const WAVELENGTH: f64 = 0.0418;

/// All terms up to the highest order, with coefficients that make every order matter at some 20 mrad.
fn all_terms() -> impl Strategy<Value = Aberrations> {
    let kinds: Vec<(u8, u8)> = (1..=HIGHEST_ORDER)
        .flat_map(|m| (0..=m + 1).filter(move |n| (m + 1 - n).is_multiple_of(2)).map(move |n| (m, n)))
        .collect();
    proptest::collection::vec((-1.0..1.0, -1.0..1.0), kinds.len()).prop_map(move |parts| {
        let size = |m: u8| 1000.0 * 50f64.powi(i32::from(m) - 1);
        let term = |(&(m, n), (a, b)): (&(u8, u8), (f64, f64))| Term {
            m,
            n,
            a: a * size(m),
            b: if n == 0 { 0.0 } else { b * size(m) },
        };
        Aberrations::new(kinds.iter().zip(parts).map(term)).expect("valid terms")
    })
}

fn angle() -> impl Strategy<Value = [f64; 2]> {
    [-0.03..0.03, -0.03..0.03]
}

fn turned(v: [f64; 2], angle: f64) -> [f64; 2] {
    crate::kernel::forward::rotate(v, angle)
}

/// Two phases of some hundred radians, equal up to rounding.
fn same(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-8
}

proptest! {
    #[test]
    fn the_phase_is_its_definition(all in all_terms(), alpha in angle()) {
        let (size, phi) = (alpha[0].hypot(alpha[1]), alpha[1].atan2(alpha[0]));
        let sum: f64 = all.terms().iter().map(|t| {
            let (sin, cos) = (f64::from(t.n) * phi).sin_cos();
            size.powi(i32::from(t.m) + 1) / f64::from(t.m + 1) * (t.a * cos + t.b * sin)
        }).sum();
        prop_assert!(same(all.chi(alpha, WAVELENGTH), TAU / WAVELENGTH * sum));
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_phase(all in all_terms(), alpha in angle()) {
        let h = 1e-6;
        let slope = |d: [f64; 2]| {
            let chi = |s: f64| all.chi([alpha[0] + s * d[0], alpha[1] + s * d[1]], WAVELENGTH);
            // By k = alpha / λ, over 2π.
            (chi(h) - chi(-h)) / (2.0 * h) * WAVELENGTH / TAU
        };
        let found = all.gradient(alpha);
        prop_assert!((found[0] - slope([1.0, 0.0])).abs() < 1e-3, "{found:?}");
        prop_assert!((found[1] - slope([0.0, 1.0])).abs() < 1e-3, "{found:?}");
    }

    #[test]
    fn even_and_odd_parts_add_up(all in all_terms(), alpha in angle()) {
        let minus = alpha.map(|v| -v);
        let (even, odd) = (all.chi_even(alpha, WAVELENGTH), all.chi_odd(alpha, WAVELENGTH));
        prop_assert!(same(even + odd, all.chi(alpha, WAVELENGTH)));
        prop_assert!(same(even, all.chi_even(minus, WAVELENGTH)));
        prop_assert!(same(odd, -all.chi_odd(minus, WAVELENGTH)));
    }

    #[test]
    fn rotated_axes_see_the_same_phase(all in all_terms(), alpha in angle(), by in -4.0..4.0) {
        let there = turned(alpha, by);
        prop_assert!(same(all.rotated(by).chi(alpha, WAVELENGTH), all.chi(there, WAVELENGTH)));
        let (here, there) = (turned(all.rotated(by).gradient(alpha), by), all.gradient(there));
        prop_assert!((here[0] - there[0]).hypot(here[1] - there[1]) < 1e-8);
    }

    #[test]
    fn exchanged_axes_see_the_same_phase_and_twice_is_nothing(all in all_terms(), alpha in angle()) {
        prop_assert!(same(all.transposed().chi(alpha, WAVELENGTH), all.chi([alpha[1], alpha[0]], WAVELENGTH)));
        prop_assert_eq!(&all.transposed().transposed(), &all);
    }

    #[test]
    fn names_and_texts_keep_every_bit(all in all_terms()) {
        let named: std::collections::BTreeMap<String, f64> = all.clone().into();
        prop_assert_eq!(&Aberrations::try_from(named.clone()).expect("own names"), &all);
        let texts = named.iter().map(|(name, value)| format!("{name}={value:e}"));
        prop_assert_eq!(Aberrations::parse(texts).expect("own texts"), all);
    }

    #[test]
    fn the_quadratic_terms_are_the_matrix_of_the_alignment(
        p in [-2.0..2.0, -1.0..1.0, -1.0..1.0, -3.0..3.0], k in [-9.0..9.0, -9.0..9.0], transposed: bool,
    ) {
        let all = Aberrations::quadratic(p[0], [p[1], p[2]]);
        let model = Model { parameters: p, transposed };
        // Aberrations in the scan's axes, then the same in the detector's.
        let there = if transposed { [k[1], k[0]] } else { k };
        let (in_scan, expected) = (all.gradient(turned(there, p[3])), model.displacement(k));
        prop_assert!((in_scan[0] + expected[0]).hypot(in_scan[1] + expected[1]) < 1e-12);
        let on_detector = all.rotated(p[3]);
        let on_detector = if transposed { on_detector.transposed() } else { on_detector };
        let slope = on_detector.gradient(k);
        let slope = turned(if transposed { [slope[1], slope[0]] } else { slope }, p[3]);
        prop_assert!((slope[0] + expected[0]).hypot(slope[1] + expected[1]) < 1e-12);
    }
}

#[test]
fn on_the_axis_only_what_is_finite_is_left() {
    let all = Aberrations::parse(["C10=-1500", "C21a=1e5", "C23=2e5@10", "C30=1e7", "C56=3e9@5"]).expect("valid");
    assert_eq!((all.gradient([0.0; 2]), all.chi([0.0; 2], WAVELENGTH)), ([0.0; 2], 0.0));
}

#[test]
fn terms_are_sorted_and_say_what_they_are() {
    let all = Aberrations::parse(["C30=1.2e7", "C12=120@30", "C21b=-5e4", "C10=-1500"]).expect("valid");
    let names: Vec<String> = all.terms().iter().map(Term::name).collect();
    assert_eq!(names, ["C10", "C12", "C21", "C30"]);
    assert_eq!(all.to_string(), "C10 = -1500 Å, C12 = 120 Å at 30.0°, C21 = 5.00 µm at -90.0°, C30 = 1.20 mm");
    assert_eq!((all.get(2, 1), all.get(3, 4)), ([0.0, -5e4], [0.0; 2]));
    let more = all.plus(&Aberrations::parse(["C30=-1.2e7", "C34a=9"]).expect("valid"));
    assert_eq!((more.get(3, 0), more.get(3, 4), more.terms().len()), ([0.0; 2], [9.0, 0.0], 5));
    assert_eq!(Aberrations::default().to_string(), "none");
}

#[test]
fn what_is_no_aberration_is_refused() {
    for texts in [
        &["C11=5"][..],
        &["C80=1"],
        &["C14a=1"],
        &["C12=120"],
        &["C10a=1"],
        &["C10=5", "C10=5"],
        &["C12=120@30", "C12a=5"],
        &["C12a=120@30"],
        &["C30=nan"],
        &["C30=1e7@x"],
        &["C30"],
        &["C300=1"],
        &["D10=1"],
        &["Ĉ10=1"],
        &[""],
    ] {
        assert_eq!(Aberrations::parse(texts).map_err(|e| e.exit_code()), Err(2), "{texts:?}");
    }
    assert!(Term::new(1, 0, 5.0, 1.0).is_err() && Aberrations::new([Term { m: 9, n: 0, a: 1.0, b: 0.0 }]).is_err());
}
