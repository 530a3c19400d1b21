//! That a fast scan is the scan of a periodic object, with independent noise.

use super::*;
use crate::progress::Silent;

fn spec() -> SimulationSpec {
    let small = SimulationSpec::preset("small").expect("a preset");
    SimulationSpec { scan: ScanShape::new(140, 20), det: DetShape::new(64, 60), disk_radius_px: 9.0, ..small }
}

fn frame(scan: &FastScan, index: usize) -> Vec<u16> {
    let mut out = vec![0xAA; 2 * scan.spec().det.len()];
    scan.fill_be(index, &mut out);
    out.as_chunks::<2>().0.iter().map(|b| u16::from_be_bytes(*b)).collect()
}

fn prepare(spec: &SimulationSpec) -> FastScan {
    FastScan::prepare(spec, &CancelToken::new(), &Silent).expect("a scan")
}

/// The expectation of every pixel of one frame, straight from the forward model: an object of 3 × 3 periods.
#[test]
fn frames_a_period_apart_expect_the_same_and_none_has_a_seam() {
    let spec = SimulationSpec { rotation_deg: 20.0, ..spec() };
    let scan = prepare(&spec);
    assert_eq!(scan.period(), ScanShape::new(70, 20));
    let lit = scan.lit;
    let small = small_spec(&spec, scan.period, lit);
    // The large scan over the same cell: an object for all of it, of whose middle the cell is a part.
    let geometry = ObjectGeometry::new(&small).expect("a geometry");
    let object = geometry.periodic_film(&small);
    let plan = ForwardPlan::new(&small.beam(), small.optical_det(), small.window);
    let mut bench = Bench::new(&plan, small.det.len());
    let mut pattern = |point: [f64; 2]| {
        plan.pattern(&object, point, &mut bench.pattern, &mut bench.scratch);
        bench.pattern.clone()
    };
    // Positions at both ends of the cell, and the ones that follow behind its last and before its first row.
    let (first, last) = (geometry.position(&small, 0), geometry.position(&small, 69 * 20));
    let step = [(last[0] - first[0]) / 69.0, (last[1] - first[1]) / 69.0];
    let near = pattern([first[0] + 0.5 * step[0], first[1] + 0.5 * step[1]]);
    let far = pattern([last[0] + 1.5 * step[0], last[1] + 1.5 * step[1]]);
    let other = pattern([first[0] + 3.0 * step[0], first[1] + 3.0 * step[1]]);
    let difference = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
    // Atoms are shared among the pixels of the grid, at another place of which the copy lies.
    assert!(difference(&near, &far) < 0.02 * difference(&near, &other), "a seam between two periods");
}

#[test]
fn noise_is_poisson_and_independent_between_the_copies() {
    let spec = SimulationSpec { scan: ScanShape::new(140, 140), ..spec() };
    let scan = prepare(&spec);
    assert_eq!(scan.period(), ScanShape::new(70, 70));
    let (mut covariance, mut variance, mut mean) = (0.0, 0.0, 0.0);
    for (row, col) in (0..30).flat_map(|r| (0..30).map(move |c| (r, c))) {
        let copies = [[0, 0], [70, 0], [0, 70], [70, 70]];
        let frames = copies.map(|[r, c]| frame(&scan, (row + r) * 140 + col + c));
        for pixel in [32 * 60 + 30, 30 * 60 + 33, 36 * 60 + 28] {
            let values = frames.each_ref().map(|frame| f64::from(frame[pixel]));
            let (a, b) = (values[0] - values[1], values[2] - values[3]);
            // Differences of copies: the expectation is gone, the noise of two frames is left.
            (covariance, variance, mean) =
                (covariance + a * b, variance + a * a + b * b, mean + values.iter().sum::<f64>());
        }
    }
    let ratio = variance / mean;
    assert!((0.93..1.07).contains(&ratio), "variance {ratio} of the mean");
    // 2700 pairs of differences.
    assert!(covariance.abs() < 4.0 * (variance / 2.0) / 2700f64.sqrt(), "{covariance} of {variance}");
}

#[test]
fn the_rest_of_a_large_detector_is_dark_and_faulty_pixels_are_as_told() {
    let spec = SimulationSpec {
        hot_pixels: vec![HotPixel { at: [1, 2], counts: 40.0 }, HotPixel { at: [32, 30], counts: 65e3 }],
        dead_pixels: vec![[33, 31], [0, 0]],
        ..spec()
    };
    let scan = prepare(&spec);
    assert_eq!((scan.lit.row0, scan.lit.row1, scan.lit.col0, scan.lit.col1), (16, 48, 14, 46));
    let mean = |pixel: usize| (0..300).map(|i| f64::from(frame(&scan, i)[pixel])).sum::<f64>() / 300.0;
    assert!((mean(60 + 2) - 40.0).abs() < 2.0);
    assert!(mean(32 * 60 + 30) > 65e3);
    for dark in [33 * 60 + 31, 0, 15 * 60 + 30, 32 * 60 + 46, 63 * 60 + 59] {
        assert!(mean(dark) <= 0.0, "pixel {dark}");
    }
    let centre = mean(34 * 60 + 30);
    assert!((0.7..1.3).contains(&(centre / spec.counts)), "{centre}");
}

#[test]
fn what_the_period_is_too_short_for_is_refused() {
    for spec in [
        SimulationSpec { c10_angstrom: -2e4, ..spec() },
        SimulationSpec { object: ObjectKind::Crystal { spacing_angstrom: 5.0, angle_deg: 0.0 }, ..spec() },
        SimulationSpec { counts: f64::NAN, ..spec() },
    ] {
        let refused = FastScan::prepare(&spec, &CancelToken::new(), &Silent).map(|_| ());
        assert_eq!(refused.map_err(|e| (e.exit_code(), e.hint().is_some())), Err((2, true)));
    }
    let cancel = CancelToken::new();
    cancel.cancel();
    assert_eq!(FastScan::prepare(&spec(), &cancel, &Silent).map(|_| ()).map_err(|e| e.exit_code()), Err(130));
}

#[test]
fn periods_are_short_enough_for_memory() {
    let spec = SimulationSpec { scan: ScanShape::new(512, 300), det: DetShape::new(1024, 1024), ..spec() };
    assert_eq!(period_of(&spec), ScanShape::new(128, 100));
    let wide = SimulationSpec { disk_radius_px: 200.0, window: 1024, ..spec };
    let period = period_of(&wide);
    assert!(period.len() * lit_part(&wide).shape().len() <= MOST_BYTES && period.rows > 15, "{period}");
}
