//! What is made beside the image: half-sets and their resolution, phase contrast, depths, and the merges they come from.

#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

mod common;

use std::path::{Path, PathBuf};

use stemstream::axes::{DetShape, Image, ScanShape};
use stemstream::cache::Step;
use stemstream::config::Config;
use stemstream::progress::{CancelToken, Silent};
use stemstream::session::{Results, Session};
use stemstream::simulate::{SimulationSpec, simulate};

/// A small scan of a weak object, not square, astigmatic and rotated; its limit is 1.9 cycles per scan pixel.
fn spec() -> SimulationSpec {
    SimulationSpec {
        scan: ScanShape::new(44, 50),
        det: DetShape::new(32, 32),
        window: 64,
        disk_radius_px: 9.0,
        center_offset: [0.6, -0.8],
        c10_angstrom: -1200.0,
        c12_angstrom: 150.0,
        phi12_deg: 25.0,
        rotation_deg: 20.0,
        counts: 400.0,
        seed: 5,
        ..SimulationSpec::preset("small").unwrap()
    }
}

fn counts(spec: &SimulationSpec) -> ndarray::Array4<u16> {
    let mut data = ndarray::Array4::<u16>::zeros((spec.scan.rows, spec.scan.cols, spec.det.rows, spec.det.cols));
    simulate(spec, 2, &CancelToken::new(), &Silent, &mut |first, frames| {
        let place = first * spec.det.len();
        data.as_slice_mut().unwrap()[place..place + frames.len()].copy_from_slice(frames);
        Ok(())
    })
    .unwrap();
    data
}

fn write(spec: &SimulationSpec, folder: &Path) -> PathBuf {
    let input = folder.join("scan.npy");
    common::writers::write_npy(&input, &counts(spec), "<u2");
    input
}

/// The settings of a calibrated parametric run.
fn calibrated(spec: &SimulationSpec) -> Vec<String> {
    let c = spec.calibration();
    vec![
        "align.method=parametric".to_owned(),
        format!("calibration.energy_ev={}", c.energy_ev.unwrap()),
        format!("calibration.scan_step_angstrom={}", c.scan_step_angstrom.unwrap()),
        format!("calibration.detector_mrad_per_px={}", c.detector_mrad_per_px.unwrap()),
    ]
}

fn run(input: &Path, base: &[String], settings: &[&str]) -> Result<Results, u8> {
    let usual = ["run.mode=lean", "run.memory=500 MiB"];
    let all = usual.into_iter().chain(base.iter().map(String::as_str)).chain(settings.iter().copied());
    let config = Config::default().with_settings(all).map_err(|e| e.exit_code())?;
    let cancel = CancelToken::new();
    let session = Session::open(input, config, true, &Silent, &cancel).map_err(|e| e.exit_code())?;
    session.run_to(Step::Reconstruct).map_err(|e| e.exit_code())?;
    Ok(Results::read(&session.cache_path()).unwrap())
}

fn extra<'r>(results: &'r Results, name: &str) -> &'r Image {
    &results.extras.iter().find(|(extra, _)| extra.name == name).unwrap_or_else(|| panic!("no {name}")).1
}

/// Pearson correlation of the inner 80 %.
fn correlation(a: &Image, b: &Image) -> f64 {
    assert_eq!(a.dim(), b.dim());
    let (rows, cols) = a.dim();
    let inner = |image: &Image| {
        let cut = image.slice(ndarray::s![rows / 10..rows - rows / 10, cols / 10..cols - cols / 10]).to_owned();
        let mean = cut.mean().unwrap();
        cut - mean
    };
    let (a, b) = (inner(a), inner(b));
    (&a * &b).sum() / ((&a * &a).sum() * (&b * &b).sum()).sqrt()
}

#[test]
fn the_phase_is_the_same_for_both_signs_and_other_sizes_of_the_defocus() {
    let folder = common::runs::folder();
    let phases: Vec<Results> = [(-1200.0, 150.0), (1000.0, 60.0)]
        .into_iter()
        .map(|(c10_angstrom, c12_angstrom)| {
            let spec = SimulationSpec { c10_angstrom, c12_angstrom, ..spec() };
            let input = write(&spec, folder.path());
            run(&input, &calibrated(&spec), &[]).unwrap()
        })
        .collect();
    let [a, b] = [&phases[0], &phases[1]];
    // Rotation by less than 90° and the sign of the object decide which branch the fit takes; both are the true one here.
    assert!(a.fit.as_ref().unwrap().parameters[0] * b.fit.as_ref().unwrap().parameters[0] < 0.0);
    let plain = correlation(&a.superres_image, &b.superres_image);
    let ssb = correlation(extra(a, "superres_ssb"), extra(b, "superres_ssb"));
    assert!(plain < 0.2 && ssb > 0.8, "plain {plain}, phase {ssb}");
    for results in [a, b] {
        for name in ["superres_phase_flipped", "superres_wiener"] {
            let found = correlation(extra(results, "superres_ssb"), extra(results, name));
            assert!(found > 0.6, "{name}: {found}");
        }
        let [image, ssb] = [results.report.resolution.image, results.report.resolution.ssb].map(Option::unwrap);
        assert!(ssb.half_bit >= image.half_bit && ssb.half_bit > 1.0, "{image:?} {ssb:?}");
        assert!(image.sentence().contains('Å'));
    }
}

#[test]
fn exchanged_detector_axes_give_the_same_phase() {
    let (spec, folder) = (spec(), common::runs::folder());
    let data = counts(&spec);
    let usual = folder.path().join("usual.npy");
    common::writers::write_npy(&usual, &data, "<u2");
    let exchanged = folder.path().join("exchanged.npy");
    let turned = data.permuted_axes([0, 1, 3, 2]).as_standard_layout().into_owned();
    common::writers::write_npy(&exchanged, &turned, "<u2");
    let [a, b] = [&usual, &exchanged].map(|input| run(input, &calibrated(&spec), &[]).unwrap());
    assert!(b.fit.as_ref().unwrap().transposed);
    let found = correlation(extra(&a, "superres_ssb"), extra(&b, "superres_ssb"));
    assert!(found > 0.95, "{found}");
}

#[test]
fn resolution_falls_with_the_dose_and_curves_are_published() {
    let folder = common::runs::folder();
    let found: Vec<Results> = [400.0, 2.0]
        .into_iter()
        .map(|counts| {
            let spec = SimulationSpec { counts, ..spec() };
            run(&write(&spec, folder.path()), &calibrated(&spec), &[]).unwrap()
        })
        .collect();
    let half_bit = |results: &Results| results.report.resolution.image.unwrap().half_bit;
    assert!(half_bit(&found[0]) > 1.3 * half_bit(&found[1]), "{} {}", half_bit(&found[0]), half_bit(&found[1]));
    let curve = found[0].manifest.curves.iter().find(|c| c.name == "frc").unwrap();
    assert_eq!(curve.columns.iter().map(|c| c.0.as_str()).collect::<Vec<_>>(), ["frc", "ssnr", "half_bit"]);
    assert!(curve.columns.iter().all(|(_, values)| values.len() == curve.x.len()));
    // In 1/Å, up to twice the aperture (2 * 10 mrad / 0.0418 Å).
    assert_eq!(curve.axis.1, "1/Å");
    assert!((0.4..0.5).contains(curve.x.last().unwrap()), "{:?}", curve.x.last());
}

#[test]
fn workers_budget_and_passes_change_no_bit_of_any_image() {
    let (spec, folder) = (spec(), common::runs::folder());
    let input = write(&spec, folder.path());
    let base = calibrated(&spec);
    let depths = "reconstruct.depths_angstrom=[-300, 0, 150.5]";
    let bits = |results: &Results| {
        let mut all: Vec<(String, Vec<u64>)> = vec![
            ("image".into(), results.superres_image.iter().map(|v| v.to_bits()).collect()),
            ("weights".into(), results.weights.iter().map(|v| v.to_bits()).collect()),
            ("virtual_bf".into(), results.virtual_bf.iter().map(|v| v.to_bits()).collect()),
        ];
        all.extend(results.extras.iter().map(|(e, i)| (e.name.clone(), i.iter().map(|v| v.to_bits()).collect())));
        all
    };
    for merge in ["reconstruct.merge=fourier", "reconstruct.merge=bilinear"] {
        let expected = run(&input, &base, &[merge, depths, "run.workers=2"]).unwrap();
        for cut in [
            &["run.workers=1"][..],
            &["run.workers=3", "plan.in_memory=false", "plan.slab_rows=3"],
            &["run.workers=1", "run.memory=60 MiB", "plan.in_memory=false"],
        ] {
            let settings: Vec<_> = [merge, depths].into_iter().chain(cut.iter().copied()).collect();
            let found = run(&input, &base, &settings).unwrap_or_else(|code| panic!("{settings:?}: {code}"));
            assert_eq!(found.manifest.curves, expected.manifest.curves, "{settings:?}");
            assert_eq!(found.report, expected.report, "{settings:?}");
            for ((name, ours), (other, theirs)) in bits(&found).iter().zip(&bits(&expected)) {
                assert!(name == other && ours == theirs, "{name} differs with {settings:?}");
            }
        }
    }
}

#[test]
fn with_little_memory_there_are_several_passes_and_the_same_bits() {
    let (spec, folder) = (spec(), common::runs::folder());
    let input = write(&spec, folder.path());
    let depths = (1..=24).map(|i| format!("{}", i * 10)).collect::<Vec<_>>().join(", ");
    let depths = format!("reconstruct.depths_angstrom=[{depths}]");
    let passes = |memory: &str| {
        let base = calibrated(&spec);
        let settings = [depths.as_str(), "reconstruct.upscale=9", "run.workers=1", "export.pictures=false", memory];
        let all = base.iter().map(String::as_str).chain(["run.mode=lean", "plan.in_memory=false"]).chain(settings);
        let config = Config::default().with_settings(all).unwrap();
        let (watcher, cancel) = (common::runs::Watcher::default(), CancelToken::new());
        let session = Session::open(&input, config, true, &watcher, &cancel).unwrap();
        session.run_to(Step::Reconstruct).unwrap_or_else(|e| panic!("{memory}: {e}"));
        let passes = watcher.said().lines().filter(|line| *line == "begin merge").count();
        (passes, Results::read(&session.cache_path()).unwrap())
    };
    let ((once, expected), (often, found)) = (passes("run.memory=500 MiB"), passes("run.memory=72 MiB"));
    assert!(once == 1 && often > 1, "{once} {often}");
    assert!(found.superres_image == expected.superres_image && found.manifest.curves == expected.manifest.curves);
    assert!(
        bits(&found) == bits(&expected)
            && found.extras.iter().filter(|(e, _)| e.name.starts_with("depth_")).count() == 24
    );
}

#[test]
fn a_depth_at_no_offset_is_the_image_and_others_are_not() {
    let (spec, folder) = (spec(), common::runs::folder());
    let input = write(&spec, folder.path());
    let depths = "reconstruct.depths_angstrom=[0, 400]";
    let results = run(&input, &calibrated(&spec), &[depths, "reconstruct.contrast=false"]).unwrap();
    let made = results.extras.iter().map(|(e, _)| e).filter(|e| e.step == Step::Reconstruct);
    let made: Vec<_> = made.map(|e| (e.name.as_str(), e.title.contains("+400 Å"))).collect();
    assert_eq!(made, [("depth_00", false), ("depth_01", true)]);
    assert!(correlation(extra(&results, "depth_00"), &results.superres_image) > 1.0 - 1e-9);
    assert!(correlation(extra(&results, "depth_01"), &results.superres_image) < 0.9);
}

#[test]
fn an_offset_of_the_defocus_undoes_a_wrong_focus() {
    // Shifts that a model of another defocus gives, refocused by the difference: the image of the right model.
    let (spec, folder) = (spec(), common::runs::folder());
    let input = write(&spec, folder.path());
    let results = run(&input, &calibrated(&spec), &[]).unwrap();
    let c10 = results.fit.as_ref().unwrap().c10_angstrom.unwrap();
    // As much defocus off as there is: the images are not shifted by it at all, but by the astigmatism alone.
    let all = format!("reconstruct.depths_angstrom=[{c10}]");
    let unshifted = run(&input, &calibrated(&spec), &[&all, "reconstruct.upscale=1"]).unwrap();
    let blurred = extra(&unshifted, "depth_00");
    // The virtual bright field is the sum of images that are not shifted.
    assert!(correlation(blurred, &unshifted.virtual_bf) > 0.7, "{}", correlation(blurred, &unshifted.virtual_bf));
    assert!(correlation(&unshifted.superres_image, &unshifted.virtual_bf) < 0.7);
}

#[test]
fn the_factor_is_the_smallest_that_holds_the_information_and_every_export_says_it() {
    let folder = common::runs::folder();
    // Half the scan step: half the frequencies.
    for (step, factor) in [(4.0, 4), (2.0, 2), (1.0, 1)] {
        let spec = SimulationSpec { step_angstrom: step, ..spec() };
        let results = run(&write(&spec, folder.path()), &calibrated(&spec), &["reconstruct.contrast=false"]).unwrap();
        assert_eq!((results.upscale(), results.report.upscale), (factor, Some(factor)), "step {step}");
        assert_eq!(results.superres_image.dim(), (44 * factor, 50 * factor));
    }
    let spec = spec();
    let input = write(&spec, folder.path());
    let uncalibrated = run(&input, &[], &["align.method=parametric"]).unwrap();
    assert_eq!(uncalibrated.upscale(), 4);
    assert!(uncalibrated.extras.iter().all(|(e, _)| !e.name.starts_with("superres")));
    let sentence = uncalibrated.report.resolution.image.unwrap().sentence();
    assert!(sentence.contains("scan pixels"), "{sentence}");
    let classic =
        run(&input, &calibrated(&spec), &["align.method=classic", "reconstruct.quality_threshold=0.1"]).unwrap();
    assert_eq!((classic.upscale(), classic.report.resolution.image), (4, None));
}

#[test]
fn the_bilinear_merge_agrees_with_the_fourier_merge_and_its_weights_are_samples() {
    let (spec, folder) = (spec(), common::runs::folder());
    let input = write(&spec, folder.path());
    let base = calibrated(&spec);
    let fourier = run(&input, &base, &["reconstruct.contrast=false"]).unwrap();
    let bilinear = run(&input, &base, &["reconstruct.merge=bilinear", "reconstruct.contrast=false"]).unwrap();
    assert!(correlation(&fourier.superres_image, &bilinear.superres_image) > 0.95);
    let used = bilinear.report.pixels_used as f64;
    let middle = |image: &Image| image[[image.nrows() / 2, image.ncols() / 2]];
    // Every sample of every image, over 4 × 4 output pixels for each scan position.
    let mean = bilinear.weights.mean().unwrap();
    assert!(mean > 0.8 * used / 16.0 && mean <= used / 16.0 * 1.001, "{mean} of {}", used / 16.0);
    assert!((middle(&fourier.weights) - used).abs() < 1e-6 * used, "{}", middle(&fourier.weights));
    assert!(
        fourier.weights.iter().all(|&w| (0.0..=used * 1.000_001).contains(&w)) && fourier.weights[[0, 0]] < 0.7 * used
    );
}

#[test]
fn what_needs_a_calibration_is_refused_without_one_before_any_work() {
    let folder = common::runs::folder();
    let input = write(&SimulationSpec { scan: ScanShape::new(8, 8), ..spec() }, folder.path());
    for key in ["reconstruct.contrast=true", "reconstruct.depths_angstrom=[10]"] {
        assert_eq!(run(&input, &[], &["align.method=parametric", key]).map(|_| ()), Err(2), "{key}");
    }
}

/// The further images as bits: what was not measured is no number, which equals nothing.
fn bits(results: &Results) -> Vec<(&str, Vec<u64>)> {
    let each = results.extras.iter();
    each.map(|(e, image)| (e.name.as_str(), image.iter().map(|v| v.to_bits()).collect())).collect()
}
