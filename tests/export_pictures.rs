//! Arrays, pictures and everything together: readable by others, right side up, and never at the cost of a file.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

mod export_common;

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use export_common::{Picture, alone, check, run, run_of};
use stemstream::axes::{Calibration, Image};
use stemstream::config::ExportConfig;
use stemstream::export::{RunResults, arrays, contact_sheet, picture, write_all};
use stemstream::pipeline::Workers;

fn workers() -> Workers {
    Workers::new(2).unwrap()
}

const NOT_A_NUMBER: [u8; 3] = [150, 40, 110];

fn one_of(files: &[PathBuf], name: &str) -> PathBuf {
    files.iter().find(|path| path.to_string_lossy().contains(name)).unwrap().clone()
}

#[test]
fn numpy_reads_the_arrays() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let files = arrays::write_npy(dir.path(), "mydata_20250107_153045", &run()).unwrap();
    assert_eq!(files.len(), 9);
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(name(&files[0]), "mydata_20250107_153045_shift_y.npy");
    for (what, shape, start) in
        [("superres_image", ["12", "20"], "40"), ("mean_pattern", ["14", "16"], "1"), ("quality", ["9", "11"], "0.5")]
    {
        check(&["npy", one_of(&files, what).to_str().unwrap(), shape[0], shape[1], start]);
    }
}

#[test]
fn tiff_images_hold_the_numbers_row_by_row_in_32_bits() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = run();
    run.standard_bf[[2, 3]] = f64::NAN;
    let files = arrays::write_tiff(dir.path(), "a", &run).unwrap();
    let file = BufReader::new(File::open(one_of(&files, "standard_bf")).unwrap());
    let mut decoder = tiff::decoder::Decoder::new(file).unwrap();
    assert_eq!(decoder.dimensions().unwrap(), (10, 6), "width, height");
    let tiff::decoder::DecodingResult::F32(values) = decoder.read_image().unwrap() else { panic!("not 32-bit float") };
    for (value, expected) in values.iter().zip(&run.standard_bf) {
        assert!(
            value.to_bits() == (*expected as f32).to_bits() || (value.is_nan() && expected.is_nan()),
            "{value} {expected}"
        );
    }
}

#[test]
fn a_second_set_of_files_gets_numbers_and_the_first_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = run();
    let first = arrays::write_npy(dir.path(), "a", &run).unwrap();
    let before = fs::read(&first[0]).unwrap();
    run.shift_y.fill(0.0);
    let second = arrays::write_npy(dir.path(), "a", &run).unwrap();
    assert_eq!(second[0], dir.path().join("a_shift_y_2.npy"));
    assert_eq!(fs::read(&first[0]).unwrap(), before);
}

#[test]
fn the_picture_of_a_small_image_is_large_and_the_right_way_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = run();
    // Dark left, bright right; the first row stands out at its right end.
    run.standard_bf = Image::from_shape_fn((6, 10), |(_, c)| c as f64);
    run.standard_bf[[0, 9]] = f64::NAN;
    let files = picture::write_pictures(dir.path(), "a", &run).unwrap();
    let picture = Picture::read(&one_of(&files, "standard_bf"));
    assert!(picture.width >= 256 + 60 && picture.height >= 192, "{}×{}", picture.width, picture.height);
    // The magnified pixel is one square of 32 × 32, in the image's upper right corner.
    assert_eq!(picture.count(NOT_A_NUMBER), 32 * 32);
    let at = picture.rgb.chunks(3).position(|pixel| pixel == NOT_A_NUMBER).unwrap();
    let (x, y) = (at % picture.width, at / picture.width);
    assert_eq!(picture.at(x - 9 * 32, y), [0; 3], "the left edge is the darkest");
    assert_eq!(picture.at(x, y + 32), [255; 3], "below the first row the right edge is the brightest");
    assert!(y < picture.height / 2);
}

#[test]
fn shifts_are_shown_around_no_shift() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = run();
    // Odd sizes would be off by half a pixel with anything but the whole-number half.
    run.scan.rows = 7;
    run.shift_y.fill(3.0);
    let files = picture::write_pictures(dir.path(), "a", &run).unwrap();
    let picture = Picture::read(&one_of(&files, "shift_y"));
    let [r, g, b] = picture.at(30, 60);
    assert!(r > 225 && g > 225 && b > 225, "no shift is the light middle of the map, not {r} {g} {b}");
}

/// Scans and values that make careless drawing code divide by zero or run over the edge.
fn hard_cases() -> Vec<(&'static str, RunResults)> {
    let mut cases = vec![
        ("80 by 112", run_of(80, 112, 4)),
        ("tiny", run_of(8, 8, 1)),
        ("one pixel", run_of(1, 1, 1)),
        ("thin", run_of(400, 3, 1)),
        ("large", run_of(512, 512, 4)),
    ];
    for (name, value) in [("constant", 7.0), ("zero", 0.0), ("nan", f64::NAN), ("infinite", f64::INFINITY)] {
        let mut run = run_of(16, 24, 2);
        for image in [&mut run.mean_pattern, &mut run.shift_y, &mut run.quality, &mut run.superres_image] {
            image.fill(value);
        }
        run.weights.fill(0.0);
        cases.push((name, run));
    }
    let mut run = run_of(16, 24, 2);
    run.superres_image[[3, 3]] = f64::MAX;
    run.superres_image[[4, 3]] = -f64::MAX;
    run.standard_bf[[0, 0]] = f64::NEG_INFINITY;
    run.bf_center = [f64::NAN, -1e300];
    run.bf_radius = f64::INFINITY;
    run.calibration = Calibration {
        scan_step_angstrom: Some(f64::NAN),
        detector_mrad_per_px: Some(1e-300),
        energy_ev: Some(f64::INFINITY),
        ..Calibration::default()
    };
    run.base_name = "漢字 ".repeat(60);
    run.warnings = vec!["a very long word ".repeat(80), String::new()];
    cases.push(("nonsense", run));
    cases
}

#[test]
fn every_picture_can_be_drawn_whatever_the_numbers_and_shapes() {
    let dir = tempfile::tempdir().unwrap();
    for (number, (name, run)) in hard_cases().iter().enumerate() {
        let stem = number.to_string();
        let mut files = picture::write_pictures(dir.path(), &stem, run).unwrap();
        files.push(contact_sheet::write_contact_sheet(dir.path(), &stem, run).unwrap());
        assert_eq!(files.len(), 10, "{name}");
        for file in files {
            let picture = Picture::read(&file);
            assert!(picture.width.max(picture.height) >= 256, "{name}: {}", file.display());
            assert!(picture.width <= 4600 && picture.height <= 4600, "{name}: {}", file.display());
        }
    }
}

#[test]
fn empty_pixels_do_not_take_the_contrast_of_the_super_resolved_image() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = run_of(16, 16, 2);
    // Samples between 100 and 110; every second pixel is empty and holds zero.
    run.superres_image = Image::from_shape_fn((32, 32), |(r, c)| if c % 2 == 0 { 0.0 } else { 100.0 + r as f64 / 3.2 });
    run.weights = Image::from_shape_fn((32, 32), |(_, c)| (c % 2) as f64);
    let files = picture::write_pictures(dir.path(), "a", &run).unwrap();
    let picture = Picture::read(&one_of(&files, "superres"));
    // A pixel with samples in the middle row is a middle grey, which it would not be between 0 and 110.
    let [grey, ..] = picture.at(18 + 10 + 5, 18 + 26 + 160);
    assert!((100..160).contains(&grey), "{grey}");
}

#[test]
fn switches_choose_what_is_written_and_the_report_names_it() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let all = ExportConfig::default();
    let written = write_all(dir.path(), None, &run(), &all, &workers()).unwrap();
    assert_eq!((written.arrays.len(), written.pictures.len()), (18, 10));
    assert_eq!(
        written.pictures[0],
        dir.path().join("mydata_superres_20250107_153045/mydata_20250107_153045_sheet.png")
    );
    for file in written.arrays.iter().chain(&written.pictures).chain(&written.emd) {
        assert!(file.is_file(), "{}", file.display());
    }
    let names = |folder: &Path| fs::read_dir(folder).unwrap().count();
    let folder = written.pictures[0].parent().unwrap();
    assert_eq!(
        (names(folder), names(dir.path())),
        (28, 1 + usize::from(written.emd.is_some())),
        "no temporary file may stay"
    );

    let none = ExportConfig { pictures: false, npy: false, tiff: false, ..all };
    let dir = tempfile::tempdir().unwrap();
    let written = write_all(dir.path(), None, &run(), &none, &workers()).unwrap();
    assert!(written.arrays.is_empty() && written.pictures.is_empty());
}

#[test]
fn a_folder_that_cannot_be_written_to_is_named_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = write_all(&file, None, &run(), &ExportConfig::default(), &workers()).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(error.to_string().contains("file"), "{error}");
}

#[cfg(feature = "hdf5")]
mod with_hdf5 {
    use super::*;
    use stemstream::config::EmdTarget;

    #[test]
    fn the_files_of_a_second_run_in_the_same_second_bear_its_number() {
        let _alone = alone();
        let dir = tempfile::tempdir().unwrap();
        let all = ExportConfig::default();
        write_all(dir.path(), None, &run(), &all, &workers()).unwrap();
        let second = write_all(dir.path(), None, &run(), &all, &workers()).unwrap();
        assert_eq!(second.run.as_deref(), Some("/superres_results/run_20250107_153045_2"));
        assert_eq!(
            second.pictures[0],
            dir.path().join("mydata_superres_20250107_153045_2/mydata_20250107_153045_2_sheet.png")
        );
    }

    #[test]
    fn a_second_run_bears_its_number_also_where_the_files_of_the_first_are_gone() {
        let _alone = alone();
        let dir = tempfile::tempdir().unwrap();
        let all = ExportConfig::default();
        write_all(dir.path(), None, &run(), &all, &workers()).unwrap();
        let first = dir.path().join("mydata_superres_20250107_153045");
        fs::remove_dir_all(&first).unwrap();
        let second = write_all(dir.path(), None, &run(), &all, &workers()).unwrap();
        assert_eq!(second.run.as_deref(), Some("/superres_results/run_20250107_153045_2"));
        let stem = dir.path().join("mydata_superres_20250107_153045_2/mydata_20250107_153045_2_");
        let files: Vec<_> = second.pictures.iter().chain(&second.arrays).collect();
        assert!(files.len() > 10 && !first.exists());
        for file in files {
            assert!(file.to_str().unwrap().starts_with(stem.to_str().unwrap()) && file.is_file(), "{}", file.display());
        }
    }

    #[test]
    fn runs_that_end_in_the_same_moment_do_not_take_each_others_files() {
        let _alone = alone();
        for _ in 0..8 {
            let dir = tempfile::tempdir().unwrap();
            let start = std::sync::Barrier::new(3);
            let one = || {
                let workers = workers();
                start.wait();
                write_all(dir.path(), None, &run(), &ExportConfig::default(), &workers).unwrap()
            };
            let all: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..3).map(|_| scope.spawn(one)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let files: Vec<_> = all.iter().flat_map(|w| w.pictures.iter().chain(&w.arrays)).collect();
            for file in &files {
                assert!(file.is_file(), "{} was said to be written", file.display());
            }
            let mut folders: Vec<_> = all.iter().map(|w| w.pictures[0].parent().unwrap()).collect();
            folders.sort_unstable();
            folders.dedup();
            assert_eq!(folders.len(), 3, "each run has a folder of its own: {folders:?}");
            for written in &all {
                let folder = written.pictures[0].parent().unwrap();
                assert!(written.pictures.iter().chain(&written.arrays).all(|file| file.parent() == Some(folder)));
            }
        }
    }

    #[test]
    fn pictures_of_results_that_could_not_be_kept_are_not_kept_either() {
        let _alone = alone();
        let dir = tempfile::tempdir().unwrap();
        // No name that the results could have is free.
        fs::create_dir(dir.path().join("mydata_superres.emd")).unwrap();
        fs::create_dir(dir.path().join("mydata_superres_2.emd")).unwrap();
        assert!(write_all(dir.path(), None, &run(), &ExportConfig::default(), &workers()).is_err());
        assert!(!dir.path().join("mydata_superres_20250107_153045").exists());
    }

    #[test]
    fn results_that_the_users_file_refuses_are_kept_beside_it_with_a_warning() {
        let _alone = alone();
        let dir = tempfile::tempdir().unwrap();
        let user = dir.path().join("mydata.emd");
        fs::write(&user, "damaged").unwrap();
        // Our own file of an earlier run is damaged as well.
        fs::write(dir.path().join("mydata_superres.emd"), "damaged").unwrap();
        let switches = ExportConfig { pictures: false, npy: false, tiff: false, ..ExportConfig::default() };
        let written = write_all(dir.path(), Some(&user), &run(), &switches, &workers()).unwrap();
        assert_eq!(written.emd, Some(dir.path().join("mydata_superres_2.emd")));
        assert_eq!(written.warnings.len(), 2);
        assert!(written.warnings[0].contains("mydata.emd"), "{:?}", written.warnings);
        assert_eq!(fs::read(&user).unwrap(), b"damaged");
    }

    #[test]
    fn sidecar_leaves_the_users_file_alone() {
        let _alone = alone();
        let dir = tempfile::tempdir().unwrap();
        let user = dir.path().join("mydata.emd");
        hdf5::File::create(&user).unwrap().close().unwrap();
        let before = fs::read(&user).unwrap();
        let mut switches = ExportConfig { pictures: false, npy: false, tiff: false, ..ExportConfig::default() };
        switches.emd = EmdTarget::Sidecar;
        let written = write_all(dir.path(), Some(&user), &run(), &switches, &workers()).unwrap();
        assert_eq!(written.emd, Some(dir.path().join("mydata_superres.emd")));
        assert_eq!(fs::read(&user).unwrap(), before);
        switches.emd = EmdTarget::Embed;
        let written = write_all(dir.path(), Some(&user), &run(), &switches, &workers()).unwrap();
        assert_eq!(written.emd, Some(user));
    }
}
