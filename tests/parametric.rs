//! The parametric alignment on simulated scans whose aberrations are known.

#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

mod common;

use stemstream::axes::{DetShape, ScanShape};
use stemstream::cache::Step;
use stemstream::config::Config;
use stemstream::progress::{CancelToken, Silent};
use stemstream::session::{Results, Session};
use stemstream::simulate::{SimulationSpec, simulate};

/// A small scan of a weak object: 48×56 positions, 32×32 detector pixels, a disk of 9 pixels off the centre.
fn spec() -> SimulationSpec {
    let preset = SimulationSpec::preset("small").unwrap();
    SimulationSpec {
        scan: ScanShape::new(48, 56),
        det: DetShape::new(32, 32),
        window: 64,
        disk_radius_px: 9.0,
        center_offset: [0.6, -0.8],
        c10_angstrom: -1200.0,
        c12_angstrom: 150.0,
        phi12_deg: 25.0,
        rotation_deg: 20.0,
        counts: 300.0,
        seed: 5,
        ..preset
    }
}

/// Simulates, optionally exchanges the detector's axes, and runs; the results, or the exit code.
fn run(spec: &SimulationSpec, transposed: bool, settings: &[&str]) -> Result<Results, u8> {
    let folder = common::runs::folder();
    let mut data = ndarray::Array4::<u16>::zeros((spec.scan.rows, spec.scan.cols, spec.det.rows, spec.det.cols));
    let pixels = spec.det.len();
    simulate(spec, 2, &CancelToken::new(), &Silent, &mut |first, frames| {
        let place = first * pixels;
        data.as_slice_mut().unwrap()[place..place + frames.len()].copy_from_slice(frames);
        Ok(())
    })
    .unwrap();
    if transposed {
        data = data.permuted_axes([0, 1, 3, 2]).as_standard_layout().into_owned();
    }
    let input = folder.path().join("scan.npy");
    common::writers::write_npy(&input, &data, "<u2");
    let c = spec.calibration();
    let calibration = [
        format!("calibration.energy_ev={}", c.energy_ev.unwrap()),
        format!("calibration.scan_step_angstrom={}", c.scan_step_angstrom.unwrap()),
        format!("calibration.detector_mrad_per_px={}", c.detector_mrad_per_px.unwrap()),
    ];
    let base = ["align.method=parametric", "run.mode=lean", "run.memory=500 MiB"];
    let all = base.iter().chain(settings).copied().chain(calibration.iter().map(String::as_str));
    let all = all.filter(|s| !(settings.contains(&"uncalibrated") && s.starts_with("calibration")));
    let config = Config::default().with_settings(all.filter(|s| *s != "uncalibrated")).unwrap();
    let cancel = CancelToken::new();
    let session = Session::open(&input, config, true, &Silent, &cancel).unwrap();
    session.run_to(Step::Reconstruct).map_err(|e| e.exit_code())?;
    Ok(Results::read(&session.cache_path()).unwrap())
}

/// RMS error of the shift maps inside 0.95 of the disk, in scan pixels, with the mean taken off.
fn shift_error(results: &Results, spec: &SimulationSpec, transposed: bool) -> f64 {
    let (y, x) = spec.true_shifts();
    let [row, col] = spec.true_center();
    let crop = results.disk.crop;
    let mut errors = Vec::new();
    for ((r, c), &found) in results.shift_y.indexed_iter() {
        let at = [r + crop.row0, c + crop.col0];
        let at = if transposed { [at[1], at[0]] } else { at };
        let inside = (at[0] as f64 - row).hypot(at[1] as f64 - col) <= 0.95 * spec.disk_radius_px;
        if inside {
            let found = [found - (spec.scan.rows / 2) as f64, results.shift_x[[r, c]] - (spec.scan.cols / 2) as f64];
            errors.push([found[0] - y[at], found[1] - x[at]]);
        }
    }
    let n = errors.len() as f64;
    let mean = [0, 1].map(|a| errors.iter().map(|e| e[a]).sum::<f64>() / n);
    (errors.iter().map(|e| (e[0] - mean[0]).powi(2) + (e[1] - mean[1]).powi(2)).sum::<f64>() / n).sqrt()
}

#[test]
fn defocus_astigmatism_and_rotation_are_found_on_a_non_square_scan() {
    let spec = spec();
    let results = run(&spec, false, &[]).unwrap();
    let fit = results.fit.as_ref().unwrap();
    assert!(shift_error(&results, &spec, false) < 0.06, "{fit:?}");
    assert!((fit.c10_angstrom.unwrap() + 1200.0).abs() < 40.0 && !fit.transposed, "{fit:?}");
    // The simulator's rotation takes the scan's axes to the detector's: the opposite sense.
    assert!((fit.rotation_deg + 20.0).abs() < 1.0, "{fit:?}");
    assert!(fit.significance > 50.0);
    // Every step of the last part of the search rises, but for one, where the overlap of the disks is looked up anew; the
    // last one is the result.
    let (first, last) = (fit.convergence[0], fit.convergence[fit.convergence.len() - 1]);
    let falls = fit.convergence.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!(fit.convergence.len() > 1 && first < last && falls <= 1, "{:?}", fit.convergence);
    assert_eq!(fit.convergence.last(), Some(&fit.coherence));
    assert_eq!(results.superres_image.dim(), (48 * 4, 56 * 4));
    // The Fourier merge leaves no holes.
    assert!(results.superres_image.iter().all(|v| *v > 0.0));
}

#[test]
fn a_detector_with_exchanged_axes_and_the_other_sign_of_defocus_are_found() {
    let spec = SimulationSpec { c10_angstrom: 1000.0, rotation_deg: -35.0, ..spec() };
    let results = run(&spec, true, &[]).unwrap();
    let fit = results.fit.as_ref().unwrap();
    assert!(fit.transposed && shift_error(&results, &spec, true) < 0.08, "{fit:?}");
}

#[test]
fn a_hundredth_of_the_dose_is_enough_where_single_peaks_are_random() {
    let spec = SimulationSpec { counts: 3.0, ..spec() };
    let results = run(&spec, false, &[]).unwrap();
    let parametric = shift_error(&results, &spec, false);
    let single = run(&spec, false, &["align.method=classic", "reconstruct.quality_threshold=0.1"]).unwrap();
    assert!(parametric < 0.25 && shift_error(&single, &spec, false) > 3.0, "{parametric}");
}

#[test]
fn without_a_calibration_the_shift_kernel_still_finds_the_shifts() {
    let spec = spec();
    let results = run(&spec, false, &["uncalibrated"]).unwrap();
    let fit = results.fit.as_ref().unwrap();
    assert_eq!((fit.kernel.as_str(), fit.c10_angstrom), ("shift", None));
    assert!(shift_error(&results, &spec, false) < 0.1, "{fit:?}");
}

#[test]
fn vacuum_is_said_to_determine_nothing() {
    // One electron in a hundred frames: nothing to correlate.
    let spec = SimulationSpec { counts: 0.02, ..spec() };
    assert_eq!(run(&spec, false, &["disk.center=[16.6, 15.2]", "disk.radius=9"]).map(|r| r.fit), Err(4));
}

#[test]
fn the_fit_does_not_depend_on_workers() {
    let spec = spec();
    let one = run(&spec, false, &["run.workers=1"]).unwrap();
    let three = run(&spec, false, &["run.workers=3", "plan.tile_cols=4", "plan.tile_rows=1"]).unwrap();
    assert!(one.fit == three.fit && one.superres_image == three.superres_image && one.shift_y == three.shift_y);
}
