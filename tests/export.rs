//! What users get out: EMD results in the documented layout, and files of others that stay as they were.
#![cfg(feature = "hdf5")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

mod export_common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use export_common::{alone, check, python, ramp, run, run_of};
use ndarray::Array2;
use stemstream::axes::{Crop, DetShape};
use stemstream::export::emd::{EmdPath, own_file, write_run};

/// A user's file: a dataset that must stay as it is.
fn users_file(folder: &Path) -> PathBuf {
    let path = folder.join("users.emd");
    let file = hdf5::File::create(&path).unwrap();
    let data = file.create_group("version_1/data/datacubes/datacube_000").unwrap();
    data.new_dataset_builder().with_data(&[1u16, 2, 3, 40_000]).create("data").unwrap();
    file.close().unwrap();
    path
}

fn users_data(path: &Path) -> Vec<u16> {
    let file = hdf5::File::open(path).unwrap();
    file.dataset("version_1/data/datacubes/datacube_000/data").unwrap().read_raw().unwrap()
}

#[test]
fn a_new_results_file_has_the_documented_layout() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = own_file(dir.path(), "mydata");
    let name = write_run(&EmdPath::Own(&path), &run()).unwrap();
    assert_eq!(name, "/superres_results/run_20250107_153045");
    assert_eq!(path.file_name().unwrap(), "mydata_superres.emd");
    check(&["emd", path.to_str().unwrap(), &name, "own"]);
    assert_eq!(fs::read(&path).unwrap()[8], 0, "the superblock of the oldest format, which every version reads");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file may stay");
}

#[test]
fn results_in_a_users_file_leave_everything_else_as_it_was() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = users_file(dir.path());
    let name = write_run(&EmdPath::Embed(&path), &run()).unwrap();
    check(&["emd", path.to_str().unwrap(), &name, "embed"]);
    assert_eq!(users_data(&path), [1, 2, 3, 40_000]);
    let file = hdf5::File::open(&path).unwrap();
    // In which order depends on the format of the user's file.
    let mut names = file.member_names().unwrap();
    names.sort_unstable();
    assert_eq!(names, ["superres_results", "version_1"]);
    assert_eq!(file.attr_names().unwrap(), Vec::<String>::new(), "a second EMD root would confuse other readers");
}

#[test]
fn runs_of_the_same_second_get_numbers_and_earlier_ones_stay() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = own_file(dir.path(), "mydata");
    let names: Vec<String> = (0..3).map(|_| write_run(&EmdPath::Own(&path), &run()).unwrap()).collect();
    let first = "/superres_results/run_20250107_153045";
    assert_eq!(names, [first.to_owned(), format!("{first}_2"), format!("{first}_3")]);
    for name in &names {
        check(&["emd", path.to_str().unwrap(), name, "own"]);
    }
}

#[test]
fn what_a_crash_left_behind_is_removed_by_the_next_run() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = users_file(dir.path());
    let file = hdf5::File::open_rw(&path).unwrap();
    file.create_group("superres_results/.run_20240101_000000.partial/parameters").unwrap();
    file.close().unwrap();
    write_run(&EmdPath::Embed(&path), &run()).unwrap();
    let file = hdf5::File::open(&path).unwrap();
    assert_eq!(file.group("superres_results").unwrap().member_names().unwrap(), ["run_20250107_153045"]);
}

#[test]
fn a_file_that_cannot_take_results_is_refused_with_the_way_out() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = users_file(dir.path());
    let whole = fs::read(&path).unwrap();

    let refused = |what: &str, code: u8| {
        let before = fs::read(&path).unwrap();
        let error = write_run(&EmdPath::Embed(&path), &run()).expect_err(what);
        assert_eq!(error.exit_code(), code, "{what}: {error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("export.emd=sidecar")), "{what}: {error}");
        assert_eq!(fs::read(&path).unwrap(), before, "{what}: the file must not change");
    };

    let mut mode = fs::metadata(&path).unwrap().permissions();
    mode.set_readonly(true);
    fs::set_permissions(&path, mode.clone()).unwrap();
    refused("read-only", 2);
    #[expect(clippy::permissions_set_readonly_false, reason = "a file in the test's own folder")]
    mode.set_readonly(false);
    fs::set_permissions(&path, mode).unwrap();

    let reader = hdf5::File::open(&path).unwrap();
    refused("open for reading in this process", 2);
    reader.close().unwrap();

    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    refused("truncated", 3);
    fs::write(&path, b"not an HDF5 file at all").unwrap();
    refused("no HDF5 file", 3);
    fs::remove_file(&path).unwrap();
    let error = write_run(&EmdPath::Embed(&path), &run()).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
}

#[test]
fn a_file_that_another_program_has_open_is_refused_with_the_way_out() {
    let _alone = alone();
    let Some(python) = python("h5py") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = users_file(dir.path());
    let hold = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()";
    let mut other = std::process::Command::new(python)
        .args(["-c", hold, path.to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    BufReader::new(other.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let error = write_run(&EmdPath::Embed(&path), &run()).unwrap_err();
    drop(other.stdin.take());
    other.wait().unwrap();
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("close the other program")), "{error}: {:?}", error.hint());
}

#[test]
fn a_folder_that_does_not_exist_is_named() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = own_file(&dir.path().join("nowhere"), "mydata");
    let error = write_run(&EmdPath::Own(&path), &run()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("nowhere"), "{error}");
}

/// The score program judges any program's results: it must find ours, with the axes in the right order.
#[test]
fn the_score_program_reads_the_results_and_finds_the_defocus_that_is_in_them() {
    let _alone = alone();
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/reference");
    if !shared.join("A_small.json").exists() {
        println!("skipped: no reference data");
        return;
    }
    let Some(python) = python("h5py, numpy, scipy") else { return };
    let mut run = run_of(64, 64, 4);
    run.crop = Crop { row0: 5, row1: 44, col0: 4, col1: 43 };
    run.det = DetShape::new(48, 48);
    // The scan moves by -C10 times the angle: 1500 Å × 0.625 mrad ÷ 4 Å per detector pixel, more along the rows.
    let slope = 1500.0 * 0.625e-3 / 4.0;
    let at = |crop0: usize, center: f64| move |i: usize| slope * ((crop0 + i) as f64 - center);
    let (dy, dx) = (at(5, 24.35), at(4, 23.8));
    run.shift_y = Array2::from_shape_fn((39, 39), |(r, _)| 32.0 + dy(r));
    run.shift_x = Array2::from_shape_fn((39, 39), |(_, c)| 32.0 + 0.9 * dx(c));
    run.quality = ramp(39, 39, 0.5);
    run.superres_image = Array2::from_shape_fn((256, 256), |(r, c)| ((r * 31 + c * 17) % 101) as f64);
    let dir = tempfile::tempdir().unwrap();
    let path = own_file(dir.path(), "A_small");
    write_run(&EmdPath::Own(&path), &run).unwrap();
    let out = std::process::Command::new(python)
        .arg(shared.join("score.py"))
        .args([&path, &shared.join("A_small.json")])
        .arg("--json")
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let score: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(score["missing"], 0);
    // Rows with the full slope, columns with 0.9 of it: mean -0.95 × 1500, and half the difference astigmatism.
    let fit = &score["linear_fit"];
    assert!((fit["C10_A"].as_f64().unwrap() + 1425.0).abs() < 1.0, "{fit}");
    assert!((fit["C12_A"].as_f64().unwrap() - 75.0).abs() < 1.0, "{fit}");
    assert!(score["image"]["pearson"].is_number(), "{score}");
}
