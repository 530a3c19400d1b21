//! Scans that are hard to align, each with what a right alignment must reach on it, given the calibration only.

#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]
#![expect(clippy::print_stdout, reason = "the measured errors are worth reading")]

mod common;

use std::sync::Mutex;

use stemstream::axes::{DetShape, ScanShape};
use stemstream::cache::Step;
use stemstream::config::Config;
use stemstream::error::{Error, ErrorKind};
use stemstream::kernel::aberrations::Aberrations;
use stemstream::progress::{CancelToken, Progress, Silent};
use stemstream::session::{Results, Session};
use stemstream::simulate::{HotPixel, ObjectKind, SimulationSpec, simulate};

/// 48×48 positions on 32×32 detector pixels, with a disk of 9 pixels.
fn plain() -> SimulationSpec {
    SimulationSpec {
        scan: ScanShape::new(48, 48),
        det: DetShape::new(32, 32),
        window: 64,
        disk_radius_px: 9.0,
        center_offset: [0.3, -0.4],
        c10_angstrom: -1200.0,
        c12_angstrom: 120.0,
        phi12_deg: 25.0,
        rotation_deg: 12.0,
        counts: 200.0,
        seed: 21,
        ..SimulationSpec::preset("small").unwrap()
    }
}

/// Keeps the warnings of a run.
#[derive(Default)]
struct Listener(Mutex<Vec<String>>);

impl Progress for Listener {
    fn warn(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_owned());
    }
}

/// What a run ends with: its results and warnings.
struct Outcome {
    results: Results,
    warnings: Vec<String>,
}

fn align(spec: &SimulationSpec) -> Result<Outcome, Error> {
    let folder = common::runs::folder();
    let shape = (spec.scan.rows, spec.scan.cols, spec.det.rows, spec.det.cols);
    let mut data = ndarray::Array4::<u16>::zeros(shape);
    let pixels = spec.det.len();
    simulate(spec, 2, &CancelToken::new(), &Silent, &mut |first, frames| {
        let place = first * pixels;
        data.as_slice_mut().unwrap()[place..place + frames.len()].copy_from_slice(frames);
        Ok(())
    })?;
    let input = folder.path().join("scan.npy");
    common::writers::write_npy(&input, &data, "<u2");
    let c = spec.calibration();
    let calibration = [
        format!("calibration.energy_ev={}", c.energy_ev.unwrap()),
        format!("calibration.scan_step_angstrom={}", c.scan_step_angstrom.unwrap()),
        format!("calibration.detector_mrad_per_px={}", c.detector_mrad_per_px.unwrap()),
    ];
    let base = ["align.method=parametric", "run.mode=lean", "run.memory=500 MiB", "run.workers=2"];
    let config = Config::default().with_settings(base.into_iter().chain(calibration.iter().map(String::as_str)))?;
    let (listener, cancel) = (Listener::default(), CancelToken::new());
    let cache = {
        let session = Session::open(&input, config, true, &listener, &cancel)?;
        session.run_to(Step::Reconstruct)?;
        session.cache_path()
    };
    let results = Results::read(&cache)?;
    Ok(Outcome { results, warnings: listener.0.into_inner().unwrap() })
}

/// RMS error of the shift maps inside 0.95 of the disk, in scan pixels, with the mean taken off.
fn shift_error(results: &Results, spec: &SimulationSpec) -> f64 {
    let (rows, cols) = spec.true_shifts();
    let [row, col] = spec.true_center();
    let (crop, none) = (results.disk.crop, [spec.scan.rows / 2, spec.scan.cols / 2].map(|n| n as f64));
    let mut errors = Vec::new();
    let mut expected = 0;
    for ((r, c), true_row) in rows.indexed_iter() {
        if (r as f64 - row).hypot(c as f64 - col) > 0.95 * spec.disk_radius_px {
            continue;
        }
        expected += 1;
        if (crop.row0..crop.row1).contains(&r) && (crop.col0..crop.col1).contains(&c) {
            let at = [r - crop.row0, c - crop.col0];
            errors.push([results.shift_y[at] - none[0] - true_row, results.shift_x[at] - none[1] - cols[[r, c]]]);
        }
    }
    assert!(errors.len() * 20 > expected * 19, "the crop {crop:?} misses the disk");
    let n = errors.len() as f64;
    let mean = [0, 1].map(|axis| errors.iter().map(|e| e[axis]).sum::<f64>() / n);
    (errors.iter().map(|e| (e[0] - mean[0]).powi(2) + (e[1] - mean[1]).powi(2)).sum::<f64>() / n).sqrt()
}

/// Aligns and holds the error below `bound` scan pixels.
fn must_align(spec: &SimulationSpec, bound: f64) -> Results {
    let results = align(spec).unwrap().results;
    let error = shift_error(&results, spec);
    println!("shift error {error:.4} scan pixels (bound {bound}), {:?}", results.fit);
    assert!(error < bound, "{error} scan pixels, {:?}", results.fit);
    results
}

#[test]
fn a_scan_that_is_not_square_is_aligned() {
    must_align(&SimulationSpec { scan: ScanShape::new(40, 56), ..plain() }, 0.06);
}

#[test]
fn a_detector_that_is_not_square_is_aligned() {
    let spec = SimulationSpec { det: DetShape::new(28, 40), center_offset: [-1.3, 4.6], ..plain() };
    must_align(&spec, 0.06);
}

#[test]
fn odd_sizes_are_aligned() {
    let spec = SimulationSpec { scan: ScanShape::new(49, 51), det: DetShape::new(33, 31), ..plain() };
    must_align(&spec, 0.06);
}

#[test]
fn a_large_rotation_with_much_astigmatism_is_found() {
    let spec = SimulationSpec { rotation_deg: 40.0, c12_angstrom: 400.0, ..plain() };
    let results = must_align(&spec, 0.06);
    let fit = results.fit.unwrap();
    assert!((fit.rotation_deg.abs() - 40.0).abs() < 1.0, "{fit:?}");
}

#[test]
fn a_detector_with_exchanged_axes_is_recognised() {
    let spec = SimulationSpec {
        transposed_detector: true,
        det: DetShape::new(32, 36),
        center_offset: [1.2, -0.7],
        rotation_deg: -25.0,
        ..plain()
    };
    let results = must_align(&spec, 0.06);
    assert!(results.fit.unwrap().transposed);
}

#[test]
fn either_sign_of_defocus_is_aligned() {
    for c10_angstrom in [1100.0, -1100.0] {
        must_align(&SimulationSpec { c10_angstrom, rotation_deg: -20.0, seed: 22, ..plain() }, 0.06);
    }
}

#[test]
fn little_defocus_is_aligned() {
    // At most 0.9 scan pixels at the edge of the disk.
    must_align(&SimulationSpec { c10_angstrom: -300.0, c12_angstrom: 40.0, ..plain() }, 0.06);
}

#[test]
fn less_than_a_pixel_of_displacement_is_not_taken_for_exchanged_axes() {
    for (c10_angstrom, rotation_deg, seed) in [(250.0, 20.0, 303), (-200.0, -35.0, 304), (220.0, 70.0, 305)] {
        let spec = SimulationSpec { c10_angstrom, rotation_deg, c12_angstrom: 40.0, phi12_deg: 70.0, seed, ..plain() };
        let results = must_align(&spec, 0.06);
        assert!(!results.fit.unwrap().transposed);
    }
}

#[test]
fn a_disk_far_from_the_middle_of_the_detector_is_aligned() {
    must_align(&SimulationSpec { center_offset: [4.6, -5.3], window: 80, ..plain() }, 0.06);
}

#[test]
fn a_hot_pixel_and_dead_ones_in_the_disk_do_no_harm() {
    let spec = SimulationSpec {
        hot_pixels: vec![HotPixel { at: [18, 13], counts: 20e3 }],
        dead_pixels: vec![[12, 17], [21, 16], [15, 22]],
        ..plain()
    };
    must_align(&spec, 0.06);
}

/// A wider beam with spherical aberration, coma and threefold astigmatism: they move the images of the edge by about
/// one, a third and a sixth of a scan pixel.
fn higher_orders() -> SimulationSpec {
    SimulationSpec {
        det: DetShape::new(40, 40),
        window: 80,
        disk_radius_px: 12.0,
        semiangle_mrad: 15.0,
        c10_angstrom: -500.0,
        c12_angstrom: 60.0,
        aberrations: Aberrations::parse(["C30=1.2e6", "C21=6e3@40", "C23=3e3@-20"]).unwrap(),
        ..plain()
    }
}

#[test]
fn higher_orders_are_found() {
    let spec = higher_orders();
    let (rows, cols) = spec.true_shifts();
    let quadratic = SimulationSpec { aberrations: Aberrations::default(), ..spec.clone() }.true_shifts();
    let most = |a: &ndarray::Array2<f64>, b: &ndarray::Array2<f64>| {
        (a - b).iter().filter(|d| !d.is_nan()).fold(0.0f64, |most, d| most.max(d.abs()))
    };
    assert!(
        (0.3..1.5).contains(&most(&rows, &quadratic.0).max(most(&cols, &quadratic.1))),
        "a set that means something"
    );
    must_align(&spec, 0.03);
}

#[test]
fn orders_above_astigmatism_are_recognised() {
    let Outcome { results, warnings } = align(&higher_orders()).unwrap();
    let fit = results.fit.unwrap();
    // Displacements are large enough to tell them.
    assert!(!warnings.iter().any(|w| w.contains("higher orders")), "{warnings:?}");
    assert!(["c21a", "c30"].iter().all(|name| fit.standard_deviations.contains_key(*name)), "{fit:?}");
    assert!(fit.orders.iter().any(|o| o.order == 2 && o.kept) && fit.orders.iter().any(|o| o.order == 3 && o.kept));
    let found = fit.aberrations().unwrap().rotated(fit.rotation_deg.to_radians());
    println!("{found}");
    assert!((found.get(1, 0)[0] + 500.0).abs() < 6.0, "{found}");
    assert!((found.get(3, 0)[0] - 1.2e6).abs() < 0.06e6, "{found}");
    // The standard deviations of C10 and C30, which do not depend on the axes, tell how far off they are.
    for (name, m, truth) in [("c10", 1, -500.0), ("c30", 3, 1.2e6)] {
        let off = (found.get(m, 0)[0] - truth).abs();
        assert!(off < 3.5 * fit.standard_deviations[name], "{name} {found} {:?}", fit.standard_deviations);
    }
    let [a, b] = found.get(2, 1);
    let (true_a, true_b) = (6e3 * 40f64.to_radians().cos(), 6e3 * 40f64.to_radians().sin());
    assert!((a - true_a).hypot(b - true_b) < 900.0, "{found}");
}

#[test]
fn an_absorbing_object_is_aligned_by_the_shift_kernel_and_a_phase_object_is_not() {
    for (c10_angstrom, bound) in [(-1200.0, 0.1), (900.0, 0.1)] {
        let spec = SimulationSpec { absorption: 1.0, c10_angstrom, ..plain() };
        let Outcome { results, warnings } = align(&spec).unwrap();
        let (error, fit) = (shift_error(&results, &spec), results.fit.unwrap());
        println!("absorbing, C10 {c10_angstrom}: {error:.4} scan pixels, {fit:?}");
        assert_eq!(fit.kernel, "shift", "{fit:?}");
        assert!(error < bound, "{error} {fit:?}");
        assert!(fit.kernel_trial.unwrap().lead < -3.0, "{fit:?}");
        assert!(warnings.iter().any(|w| w.contains("not to be trusted")), "{warnings:?}");
    }
    let fit = align(&plain()).unwrap().results.fit.unwrap();
    assert!(fit.kernel == "weak-phase" && fit.kernel_trial.unwrap().lead > 3.0, "{fit:?}");
}

/// A crystal is aligned rightly, refused as not determined, or aligned with a warning.
fn right_or_said(spacing_angstrom: f64, angle_deg: f64) {
    let spec = SimulationSpec { object: ObjectKind::Crystal { spacing_angstrom, angle_deg }, ..plain() };
    match align(&spec) {
        Err(error) => {
            println!("refused: {error}");
            assert!(matches!(error.kind(), ErrorKind::Unresolved { .. }), "{error}");
        }
        Ok(Outcome { results, warnings }) => {
            let error = shift_error(&results, &spec);
            println!("shift error {error:.3}, {warnings:?}, {:?}", results.fit);
            assert!(error < 0.15 || !warnings.is_empty(), "wrong by {error} and sure of it: {:?}", results.fit);
        }
    }
}

#[test]
fn a_perfect_crystal_that_the_scan_resolves_is_aligned_or_refused() {
    // Two positions for each unit cell, displacements of one and a half unit cells.
    right_or_said(8.2, 11.0);
}

#[test]
fn a_perfect_crystal_finer_than_the_scan_is_never_aligned_wrongly_without_a_word() {
    right_or_said(6.1, 30.0);
}

#[test]
fn vacuum_alone_is_said_to_determine_nothing() {
    let outcome = align(&SimulationSpec { object: ObjectKind::Vacuum, ..plain() });
    let error = outcome.map(|o| o.results.fit).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unresolved { .. }), "{error}");
    assert_eq!(error.exit_code(), 4);
}
