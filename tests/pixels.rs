//! Bad detector pixels through the whole program: found, named, left out by the parametric method and by it alone.

#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::case::change_manifest;
use common::runs::{Watcher, config, manifest, refused};
use ndarray::{Array4, s};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution};
use stemstream::axes::{DetShape, Image, ScanShape};
use stemstream::cache::{Step, WorkingCache};
use stemstream::progress::{CancelToken, Silent};
use stemstream::session::{Results, Session};
use stemstream::simulate::{SimulationSpec, simulate};

/// A weak object on 32×36 positions; a disk of 9 pixels on 28×28.
fn spec() -> SimulationSpec {
    SimulationSpec {
        scan: ScanShape::new(32, 36),
        det: DetShape::new(28, 28),
        window: 64,
        disk_radius_px: 9.0,
        center_offset: [0.6, -0.8],
        c10_angstrom: -1200.0,
        c12_angstrom: 150.0,
        phi12_deg: 25.0,
        rotation_deg: 20.0,
        counts: 100.0,
        seed: 5,
        ..SimulationSpec::preset("small").unwrap()
    }
}

/// The simulated scan; all tests share it.
fn clean() -> Array4<u16> {
    static SCAN: OnceLock<Array4<u16>> = OnceLock::new();
    let make = || {
        let spec = spec();
        let mut data = Array4::<u16>::zeros((spec.scan.rows, spec.scan.cols, spec.det.rows, spec.det.cols));
        let pixels = spec.det.len();
        simulate(&spec, 2, &CancelToken::new(), &Silent, &mut |first, frames| {
            let place = first * pixels;
            data.as_slice_mut().unwrap()[place..place + frames.len()].copy_from_slice(frames);
            Ok(())
        })
        .unwrap();
        data
    };
    SCAN.get_or_init(make).clone()
}

const DEAD: [usize; 2] = [11, 16];
const HOT: [usize; 2] = [17, 10];
/// Looks like all others and is none of the user's.
const UNWANTED: [usize; 2] = [14, 18];

/// The scan with a dead and a hot pixel; `noise` changes what the hot and the unwanted one count.
fn flawed(noise: u16) -> Array4<u16> {
    let mut data = clean();
    data.slice_mut(s![.., .., DEAD[0], DEAD[1]]).fill(0);
    for (i, sample) in data.slice_mut(s![.., .., HOT[0], HOT[1]]).iter_mut().enumerate() {
        *sample = 20_000 + noise * (i % 7) as u16;
    }
    for (i, sample) in data.slice_mut(s![.., .., UNWANTED[0], UNWANTED[1]]).iter_mut().enumerate() {
        *sample += noise * u16::from(i % 5 == 0);
    }
    data
}

fn write(folder: &Path, data: &Array4<u16>) -> PathBuf {
    let input = folder.join("scan.npy");
    common::writers::write_npy(&input, data, "<u2");
    input
}

/// A parametric run that resumes what is there: results, and what was said.
fn run(input: &Path, folder: &Path, settings: &[&str]) -> (Results, String, PathBuf) {
    let c = spec().calibration();
    let own = [
        format!("calibration.energy_ev={}", c.energy_ev.unwrap()),
        format!("calibration.scan_step_angstrom={}", c.scan_step_angstrom.unwrap()),
        format!("calibration.detector_mrad_per_px={}", c.detector_mrad_per_px.unwrap()),
        "align.method=parametric".to_owned(),
        "run.mode=lean".to_owned(),
    ];
    let all: Vec<&str> = own.iter().map(String::as_str).chain(settings.iter().copied()).collect();
    let watcher = Watcher::default();
    let session = Session::open(input, config(folder, &all), false, &watcher, &watcher.cancel).unwrap();
    session.run_to(Step::Reconstruct).unwrap();
    (Results::read(&session.cache_path()).unwrap(), watcher.said(), session.cache_path())
}

fn extra<'r>(results: &'r Results, name: &str) -> &'r Image {
    &results.extras.iter().find(|(extra, _)| extra.name == name).expect("published").1
}

fn map(results: &Results) -> &Image {
    extra(results, "bad_pixels")
}

/// RMS error of the shift maps inside 0.95 of the disk, in scan pixels, with the mean taken off.
fn shift_error(results: &Results) -> f64 {
    let spec = spec();
    let (y, x) = spec.true_shifts();
    let [row, col] = spec.true_center();
    let crop = results.disk.crop;
    let mut errors = Vec::new();
    for ((r, c), &found) in results.shift_y.indexed_iter() {
        let at = [r + crop.row0, c + crop.col0];
        if (at[0] as f64 - row).hypot(at[1] as f64 - col) <= 0.95 * spec.disk_radius_px {
            let found = [found - (spec.scan.rows / 2) as f64, results.shift_x[[r, c]] - (spec.scan.cols / 2) as f64];
            errors.push([found[0] - y[at], found[1] - x[at]]);
        }
    }
    let n = errors.len() as f64;
    let mean = [0, 1].map(|a| errors.iter().map(|e| e[a]).sum::<f64>() / n);
    (errors.iter().map(|e| (e[0] - mean[0]).powi(2) + (e[1] - mean[1]).powi(2)).sum::<f64>() / n).sqrt()
}

#[test]
fn a_scan_without_flaws_has_no_bad_pixels_and_no_warning() {
    let folder = common::runs::folder();
    let (results, said, _) = run(&write(folder.path(), &clean()), folder.path(), &[]);
    assert!(map(&results).iter().all(|v| *v == 0.0));
    assert!(!said.contains("warn"), "{said}");
    assert_eq!(results.manifest.results[&Step::Stack]["bad_pixels"]["hot"], 0);
}

#[test]
fn a_dead_and_a_hot_pixel_in_the_disk_are_found_named_and_do_no_harm() {
    let folder = common::runs::folder();
    let (results, said, _) = run(&write(folder.path(), &flawed(0)), folder.path(), &[]);
    let crop = results.disk.crop;
    for ((r, c), &flaw) in map(&results).indexed_iter() {
        let expected = match [r + crop.row0, c + crop.col0] {
            DEAD => 1,
            HOT => 2,
            _ => 0,
        };
        assert_eq!(flaw as u8, expected, "({r}, {c})");
    }
    let message = "2 bad detector pixels: [11, 16] dead, [17, 10] hot; the parametric method leaves them out";
    assert!(said.contains(&format!("warn {message}")), "{said}");
    assert!(results.manifest.warnings.iter().any(|w| w == message));
    let counts = &results.manifest.results[&Step::Stack]["bad_pixels"];
    assert_eq!((&counts["dead"], &counts["hot"], &counts["outlier"]), (&1.into(), &1.into(), &0.into()));
    assert!(shift_error(&results) < 0.1, "{}", shift_error(&results));
}

#[test]
fn what_bad_and_excluded_pixels_count_changes_no_bit_of_the_parametric_image() {
    // The disk is given, because its edge is found in all pixels.
    let spec = spec();
    let center = format!("disk.center={:?}", spec.true_center());
    let exclude = format!("disk.exclude=[{UNWANTED:?}]");
    let settings = [center.as_str(), "disk.radius=9", exclude.as_str()];
    let images = [0, 30].map(|noise| {
        let folder = common::runs::folder();
        let (results, _, _) = run(&write(folder.path(), &flawed(noise)), folder.path(), &settings);
        (results.fit.unwrap(), results.superres_image, results.shift_y)
    });
    assert!(images[0] == images[1]);
    let folder = common::runs::folder();
    let (results, _, _) = run(&write(folder.path(), &flawed(30)), folder.path(), &settings[..2]);
    assert!(results.superres_image != images[1].1, "the unwanted pixel is used unless the user excludes it");
}

#[test]
fn another_selection_repeats_the_fit_but_not_the_corner_turn_nor_the_peaks() {
    let folder = common::runs::folder();
    let input = write(folder.path(), &flawed(0));
    let (first, _, cache) = run(&input, folder.path(), &[]);
    for settings in [&["disk.bad_pixels=keep"][..], &["disk.exclude=[[14, 18], [3, 3]]"]] {
        let (second, said, again) = run(&input, folder.path(), settings);
        assert_eq!(cache, again);
        assert!(!said.contains("begin corner turn") && !said.contains("begin align"), "{said}");
        assert!(said.contains("begin fit") && said.contains("disk."), "{said}");
        assert!(first.superres_image != second.superres_image);
        assert_eq!(map(&first), map(&second));
    }
    // However the work is cut.
    let other = common::runs::folder();
    let cut = ["run.workers=3", "plan.in_memory=false", "plan.slab_rows=3", "plan.read_block=\"7 KiB\""];
    let (second, _, _) = run(&input, other.path(), &cut);
    assert!(map(&first) == map(&second) && first.superres_image == second.superres_image);
}

#[test]
fn the_classic_method_does_not_look_at_the_selection() {
    let folder = common::runs::folder();
    let input = write(folder.path(), &flawed(0));
    let classic = ["align.method=classic", "reconstruct.quality_threshold=0.5"];
    let (first, _, _) = run(&input, folder.path(), &classic);
    let settings = [classic[0], classic[1], "disk.bad_pixels=keep", "disk.exclude=[[14, 18]]"];
    let (second, said, _) = run(&input, folder.path(), &settings);
    assert!(!said.contains("begin"), "{said}");
    assert!(first.superres_image == second.superres_image);
}

#[test]
fn an_excluded_pixel_outside_the_detector_is_refused_before_anything_is_read() {
    let folder = common::runs::folder();
    let input = write(folder.path(), &clean());
    let cancel = CancelToken::new();
    let wrong = config(folder.path(), &["disk.exclude=[[3, 4], [28, 0]]"]);
    let session = Session::open(&input, wrong, false, &Silent, &cancel).unwrap();
    let error = refused(session.run_to(Step::Reconstruct), 2);
    assert!(error.to_string().contains("[28, 0]") && error.to_string().contains("28×28"), "{error}");
    assert!(!session.manifest().is_done(Step::Stack));
}

#[test]
fn a_cache_of_a_program_that_did_not_look_is_looked_through_without_the_corner_turn() {
    let folder = common::runs::folder();
    let input = write(folder.path(), &flawed(0));
    let (first, _, cache) = run(&input, folder.path(), &[]);
    change_manifest(&cache, |m| {
        m["extras"] = serde_json::json!([]);
        m["results"]["stack"] = serde_json::json!({"nan_samples": 0});
        m["warnings"] = serde_json::json!([]);
    });
    WorkingCache::open(&cache).unwrap().group().remove("bad_pixels").unwrap();
    let (second, said, again) = run(&input, folder.path(), &["reconstruct.upscale=2"]);
    assert_eq!(cache, again);
    assert!(!said.contains("begin corner turn") && said.contains("2 bad detector pixels"), "{said}");
    assert_eq!(map(&first), map(&second));
    assert_eq!(manifest(&cache).results[&Step::Stack]["bad_pixels"]["dead"], 1);
}

/// Two acquisitions of the same object with independent noise: each electron goes to one of them.
fn halves() -> [Array4<u16>; 2] {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let all = clean();
    let first = all.mapv(|n| Binomial::new(u64::from(n), 0.5).unwrap().sample(&mut rng) as u16);
    let second = &all - &first;
    [first, second]
}

#[test]
fn significance_tells_the_disk_from_its_surroundings_and_uncertainty_how_two_acquisitions_differ() {
    let settings = ["align.method=classic", "disk.crop_radius=13", "reconstruct.quality_threshold=0.5"];
    let center = format!("disk.center={:?}", spec().true_center());
    let settings = [settings[0], settings[1], settings[2], center.as_str(), "disk.radius=9"];
    let [first, second] = halves().map(|data| {
        let folder = common::runs::folder();
        run(&write(folder.path(), &data), folder.path(), &settings).0
    });
    let (crop, [row, col]) = (first.disk.crop, spec().true_center());
    let (mut pulls, mut inside, mut outside) = (Vec::new(), Vec::new(), Vec::new());
    for ((r, c), &significance) in extra(&first, "significance").indexed_iter() {
        let of = |results: &Results, name: &str| extra(results, name)[[r, c]];
        assert!(of(&first, "zncc").abs() < 1.0 + 1e-6 && significance.is_finite());
        assert!(of(&first, "shift_sigma_y") <= 32.0 / 12f64.sqrt());
        assert!(of(&first, "shift_sigma_x") <= 36.0 / 12f64.sqrt());
        let distance = ((r + crop.row0) as f64 - row).hypot((c + crop.col0) as f64 - col);
        if distance > 11.0 {
            outside.push(significance);
        } else if distance < 8.0 && distance > 1.5 {
            inside.push(significance);
            if significance > 2.0 && of(&second, "significance") > 2.0 {
                let pull = |a: f64, b: f64, name: &str| (a - b) / of(&first, name).hypot(of(&second, name));
                pulls.push(pull(first.shift_y[[r, c]], second.shift_y[[r, c]], "shift_sigma_y").abs());
                pulls.push(pull(first.shift_x[[r, c]], second.shift_x[[r, c]], "shift_sigma_x").abs());
            }
        }
    }
    let middle = |mut v: Vec<f64>| {
        v.sort_by(f64::total_cmp);
        v[v.len() / 2]
    };
    let floor = first.manifest.results[&Step::Shifts]["zncc_noise_floor"].as_f64().unwrap();
    assert!((0.08..0.12).contains(&floor), "{floor}");
    let (count, pull) = (pulls.len(), 1.4826 * middle(pulls));
    let (inside, outside) = (middle(inside), middle(outside));
    assert!(inside > 1.5 && outside.abs() < 0.5, "{inside} {outside}");
    // Near the floor the uncertainty is known to be too small by up to a factor of two.
    assert!(count > 60 && (0.7..2.0).contains(&pull), "{count} {pull} {inside} {outside}");
}
