use super::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// About normal, of variance 1.
fn noise(rng: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| f64::from(rng.next_u32()) / f64::from(u32::MAX)).sum::<f64>() - 6.0
}

/// Groups on a square grid inside the unit disk, with a planted field and noise of the given standard deviation.
fn planted(field: &Field, sigma: f64, seed: u64) -> Vec<Residual> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let grid = (-7i32..=7).flat_map(|r| (-7i32..=7).map(move |c| [r, c]));
    grid.filter(|[r, c]| r * r + c * c <= 49)
        .map(|[r, c]| {
            let place = [f64::from(r) / 7.0, f64::from(c) / 7.0];
            let [row, col] = field.at(place);
            Residual {
                place,
                shift: [row + 0.3 + sigma * noise(&mut rng), col - 0.1 + sigma * noise(&mut rng)],
                weight: [sigma.powi(-2), 0.0, sigma.powi(-2)],
                colour: (r + c).rem_euclid(2) as usize,
            }
        })
        .collect()
}

fn field(orders: &[u8]) -> Field {
    let n = basis(orders, [0.0; 2]).len();
    Field { orders: orders.to_vec(), coefficients: (0..n).map(|i| 0.1 - 0.03 * i as f64).collect() }
}

fn places() -> Vec<[f64; 2]> {
    planted(&Field::default(), 1.0, 0).iter().map(|r| r.place).collect()
}

#[test]
fn a_planted_field_comes_back_and_its_parts_add_up() {
    let truth = field(&[1, 2, 3]);
    let found = fit(&planted(&truth, 1e-3, 1), &[1, 2, 3]).unwrap();
    for place in places() {
        let (a, b) = (truth.at(place), found.at(place));
        assert!((a[0] - b[0]).hypot(a[1] - b[1]) < 2e-3);
        let parts = [1, 2, 3].map(|m| found.part(m).at(place));
        let sum = [0, 1].map(|i| parts.iter().map(|p| p[i]).sum::<f64>());
        assert!((b[0] - sum[0]).hypot(b[1] - sum[1]) < 1e-12);
        let common = found.predict(place);
        assert!((common[0] - b[0] - 0.3).abs() < 1e-3 && (common[1] - b[1] + 0.1).abs() < 1e-3);
    }
}

#[test]
fn a_tenth_of_outliers_is_found_and_moves_nothing() {
    let truth = field(&[1]);
    let mut residuals = planted(&truth, 0.01, 2);
    let outside = residuals.len().div_ceil(10);
    residuals.iter_mut().step_by(10).for_each(|r| r.shift = [1.2, -0.9]);
    let found = fit(&residuals, &[1]).unwrap();
    assert!(found.minus(&truth).rms(&places()) < 5e-3);
    assert_eq!(outliers(&residuals, &found), outside);
}

#[test]
fn noise_alone_justifies_no_order_and_a_planted_one_does() {
    for seed in 0..40 {
        let residuals = planted(&Field::default(), 0.02, 100 + seed);
        for order in ORDERS {
            let v = validate(&residuals, &[], &[order]).unwrap();
            assert!(v.significance < 2.5, "order {order}: {v:?}");
        }
    }
    let v = validate(&planted(&field(&[2]), 0.02, 3), &[], &[2]).unwrap();
    // What is left is noise: two variances, a little less with Tukey's loss.
    assert!(v.significance > 5.0 && v.before > 3.0 && v.after < 2.2, "{v:?}");
    let v = validate(&planted(&field(&[1]), 0.02, 4), &[1], &[1, 2]).unwrap();
    assert!(v.significance < 2.5, "{v:?}");
}

#[test]
fn too_few_groups_or_directions_fit_nothing() {
    let residuals = planted(&field(&[1]), 0.01, 5);
    assert!(fit(&residuals[..10], &[1]).is_none() && fit(&[], &[1]).is_none());
    let line: Vec<Residual> = residuals.iter().map(|r| Residual { place: [r.place[0], 0.0], ..*r }).collect();
    assert!(fit(&line, &[1]).is_none());
    assert!(validate(&residuals[..30], &[], &[1, 2, 3]).is_none());
}

#[test]
fn two_corrections_of_a_series_give_its_sum() {
    let (whole, places) = (field(&[1, 2]), places());
    let (mut last, mut sum) = (None, Vec::new());
    // Each time 0.6 of what is left is found: 0.6, 0.24, and from these two the rest.
    for part in [0.6, 0.24] {
        sum.push(whole.clone().times(part).continued(&mut last, &places));
    }
    let off = sum[0].at([0.3, -0.5])[0] + sum[1].at([0.3, -0.5])[0] - whole.at([0.3, -0.5])[0];
    assert!(off.abs() < 1e-12 && last.is_none(), "{off}");
    // Fields of other orders are no series.
    last = Some(field(&[1]));
    assert_eq!(whole.clone().continued(&mut last, &places), whole);
}
