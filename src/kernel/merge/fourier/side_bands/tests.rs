use super::*;
use crate::axes::ScanShape;
use crate::kernel::merge::fourier::tests::{add, load};
use proptest::prelude::*;
use std::f64::consts::{PI, TAU};

proptest! {
    #[test]
    fn a_circle_adds_the_frequencies_inside_it_and_no_others(
        rows in 2usize..7, cols in 2usize..7, f in 1usize..5, lines in 1usize..9,
        center in (-1.5..1.5f64, -1.5..1.5f64), radius in 0.05..2.0f64, shift in (-3.0..3.0f64, -3.0..3.0f64),
    ) {
        let scan = ScanShape::new(rows, cols);
        let grid = FourierGrid::periodic(scan, f);
        let image: Vec<f64> = (0..scan.len()).map(|i| (1 + (i * 7) % 11) as f64).collect();
        let spectrum = load::<f64>(grid, &[(image, [shift.0, shift.1], 2.0)]).remove(0);
        let circle = Circle { center: [center.0, center.1], radius };
        let (mut whole, mut part) = (FourierMerge::new(grid), FourierMerge::new(grid));
        add(&mut whole, &spectrum, grid.lines(), None);
        add(&mut part, &spectrum, lines, Some(circle));
        for line in 0..grid.lines() {
            for row in 0..grid.fine().rows {
                let q = grid.at(row, line);
                let inside = (q[0] - center.0).hypot(q[1] - center.1) <= radius;
                for at in [row, row + grid.fine().rows] {
                    let at = line * grid.line_len() + at;
                    let expected: f64 = if inside { whole.sum[at] } else { 0.0 };
                    prop_assert_eq!(part.sum[at].to_bits(), expected.to_bits());
                }
            }
        }
    }

    #[test]
    fn the_transfer_is_the_sum_of_the_kernels_squares(
        circles in prop::collection::vec((0usize..2, 0.5..2.0f64, -0.4..0.4f64, -0.4..0.4f64), 1..6),
    ) {
        let grid = FourierGrid::periodic(ScanShape::new(9, 8), 3);
        let chi = |q: [f64; 2]| -7.0 * (q[0] * q[0] + q[1] * q[1]) + q[0] * q[1];
        let mut bands = SideBands::<f64>::new(grid);
        for &(half, weight, row, col) in &circles {
            bands.note(half, weight, Circle { center: [row, col], radius: 0.5 });
        }
        bands.combine(&chi, 9.0);
        for line in 0..grid.lines() {
            for row in 0..grid.fine().rows {
                let (q, found) = (grid.at(row, line), bands.sums[1][1].at(line, row).re);
                let expected: f64 = circles.iter().filter(|(half, ..)| *half == 1).map(|&(_, weight, kr, kc)| {
                    let inside = |sign: f64| f64::from((q[0] - sign * kr).hypot(q[1] - sign * kc) <= 0.5);
                    weight * gamma(chi(q), inside(1.0), inside(-1.0)).norm_sqr()
                }).sum();
                prop_assert!((found - expected).abs() < 1e-9, "{found} {expected}");
            }
        }
    }
}

/// `Γ` without the phase that the shift undoes.
fn gamma(chi: f64, minus: f64, plus: f64) -> Complex<f64> {
    Complex::cis(-chi) * minus - Complex::cis(chi) * plus
}

/// Images of a weak phase object, pixel by pixel of the disk, as the linear theory has them: each wave of the object
/// gives `i φ Γ(q,k)` at `q`, sampled at scan positions, with `Γ` straight from its definition.
#[test]
fn the_phase_of_a_weak_object_comes_back_in_radians() {
    let (scan, f) = (ScanShape::new(24, 20), 3);
    // Aperture radius and aberrations in cycles per scan pixel.
    let radius = 0.6;
    let chi = |q: [f64; 2]| PI * (-4.0 * (q[0] * q[0] + q[1] * q[1]) + 0.6 * (q[0] * q[0] - q[1] * q[1]));
    // Up to 1.1 cycles per scan pixel: half of what the scan itself samples would end at 0.5.
    let waves = [(3, 4, 0.3), (-9, 5, 1.9), (14, -3, 0.4), (5, 17, 2.2), (21, 10, 1.1), (-19, 13, 0.2)];
    let grid = FourierGrid::periodic(scan, f);
    let mut bands = SideBands::<f64>::new(grid);
    let mut number = 0;
    for i in -14i32..=14 {
        for j in -14i32..=14 {
            let k = [f64::from(i) * 0.0421, f64::from(j) * 0.0421];
            if k[0].hypot(k[1]) > radius {
                continue;
            }
            let psi = |q: [f64; 2]| {
                if q[0].hypot(q[1]) <= radius { Complex::cis(-chi(q)) } else { Complex::default() }
            };
            let mut image = vec![50.0; scan.len()];
            for (u, v, turn) in waves {
                let q = [f64::from(u) / scan.rows as f64, f64::from(v) / scan.cols as f64];
                let back = psi([q[0] - k[0], q[1] - k[1]]) * psi(k).conj();
                let forth = psi([q[0] + k[0], q[1] + k[1]]).conj() * psi(k);
                // Half of the amplitude at q, the conjugate at -q.
                let g = Complex::<f64>::i() * (back - forth) * Complex::cis(turn) * 0.01;
                for (at, value) in image.iter_mut().enumerate() {
                    let (y, x) = ((at / scan.cols) as f64, (at % scan.cols) as f64);
                    *value += 50.0 * (g * Complex::cis(TAU * (q[0] * y + q[1] * x))).re;
                }
            }
            // The gradient of χ over 2π is the shift to apply.
            let shift = [(-4.0 + 0.6) * k[0], (-4.0 - 0.6) * k[1]];
            let spectrum = load(grid, &[(image, shift, 50.0)]).remove(0);
            let (half, circle) = (number % 2, Circle { center: k, radius });
            number += 1;
            bands.note(half, spectrum.weight(), circle);
            for (side, circle) in [circle, circle.opposite()].into_iter().enumerate() {
                add(&mut bands.sums[half][side], &spectrum, grid.lines(), Some(circle));
            }
        }
    }
    let (phase, _) = bands.finish(&chi, 2.0 * radius);
    let truth = Image::from_shape_fn((scan.rows * f, scan.cols * f), |(r, c)| {
        let (y, x) = (r as f64 / f as f64, c as f64 / f as f64);
        let turns = |u: i32, v: i32| f64::from(u) * y / scan.rows as f64 + f64::from(v) * x / scan.cols as f64;
        waves.iter().map(|&(u, v, turn)| 0.01 * (TAU * turns(u, v) + turn).cos()).sum()
    });
    let product = (&phase * &truth).sum();
    let (pearson, slope) =
        (product / ((&phase * &phase).sum() * (&truth * &truth).sum()).sqrt(), product / (&truth * &truth).sum());
    // Aliases that few images unfold, and the floor of the damping.
    assert!(pearson > 0.95 && (0.75..1.1).contains(&slope), "{pearson} {slope}");
}
