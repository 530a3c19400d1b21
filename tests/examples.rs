//! The examples run and say what the documentation says that they say.

use std::path::PathBuf;
use std::process::Command;

/// Where cargo has put the examples: it builds all of them before it runs tests.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test's own path");
    let folder = test.parent().and_then(|deps| deps.parent()).expect("target folder").join("examples");
    let path = folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(path.is_file(), "`{}` is not built: run `cargo build --examples`", path.display());
    path
}

/// What the example prints, given these arguments and a folder of its own for temporary files.
fn output_of(name: &str, arguments: &[&str]) -> String {
    let temporary = tempfile::tempdir().expect("tempdir");
    let output = Command::new(example(name))
        .args(arguments)
        .current_dir(temporary.path())
        .env("TMPDIR", temporary.path())
        .output()
        .expect("the example starts");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{name}: {text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn number_after(text: &str, before: &str) -> f64 {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no `{before}` in\n{text}"));
    let number: String = rest.trim_start().chars().take_while(|c| "+-.0123456789".contains(*c)).collect();
    number.parse().unwrap_or_else(|_| panic!("no number after `{before}` in\n{text}"))
}

#[test]
fn a_scan_is_run_and_looked_at() {
    let text = output_of("01_run_a_scan", &[]);
    // The simulation's disk: centre (16.35, 15.80), radius 10.
    assert!((number_after(&text, "centre (") - 16.35).abs() < 0.1, "{text}");
    assert!((number_after(&text, "radius ") - 10.0).abs() < 0.4, "{text}");
    assert!(text.contains("bright field: (48, 48) pixels; super-resolved: (192, 192) pixels"), "{text}");
    assert!(text.contains("corner turn: ") && text.contains("align: "), "{text}");
}

#[test]
fn a_plan_is_made_for_every_budget_and_too_little_is_said() {
    let text = output_of("02_plan_before_you_run", &[]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("1 MiB: ") && lines[0].contains("the smallest budget that works is"), "{text}");
    assert!(lines[1].starts_with("28 MiB: stack "), "{text}");
    assert!(lines[2..].iter().all(|line| line.contains(": stack in memory, 2 workers")), "{text}");
    let peaks: Vec<f64> = lines[1..].iter().map(|line| number_after(line, "peak ")).collect();
    assert!(peaks.is_sorted() && peaks[0] <= 28.0, "{text}");
}

#[test]
fn a_cache_is_read_down_to_one_spectrum() {
    let text = output_of("03_read_the_cache", &[]);
    for step in ["detect", "stack", "fft", "correlate", "shifts", "reconstruct"] {
        assert!(text.lines().any(|line| line.starts_with(step) && line.ends_with(" done")), "{step}: {text}");
    }
    assert!(text.contains("bigFT: 2304 frequencies"), "{text}");
    // About 200 counts at each of 48 × 48 positions; the peak is the quality.
    assert!((number_after(&text, "frequencies, ") / (200.0 * 2304.0) - 1.0).abs() < 0.1, "{text}");
    assert!((number_after(&text, "quality ") - number_after(&text, "largest ")).abs() < 1e-9, "{text}");
}

#[test]
fn a_block_of_ones_own_makes_a_dark_field_image() {
    let text = output_of("04_own_block", &[]);
    assert!(text.starts_with("48 rows by 3 blocks, "), "{text}");
    // A few per cent of the electrons are scattered out of the disk.
    let share = number_after(&text, "blocks, ") / (std::f64::consts::PI * 100.0 * 200.0);
    assert!((0.001..0.1).contains(&share), "{share}: {text}");
}

#[test]
fn a_bad_file_does_not_stop_a_batch() {
    let text = output_of("05_batch", &[]);
    assert!(text.contains("2 of 3 scans done"), "{text}");
    assert!(text.contains("a_file_that_is_not_there.mib: exit code 3"), "{text}");
}

#[cfg(feature = "hdf5")]
#[test]
fn what_was_found_is_compared_with_the_truth() {
    use stemstream::axes::Crop;
    use stemstream::simulate::SimulationSpec;

    let folder = tempfile::tempdir().expect("tempdir");
    let (truth, result) = (folder.path().join("truth.json"), folder.path().join("result.emd"));
    let base = SimulationSpec::preset("rotated").expect("preset");
    let spec = SimulationSpec { rotation_deg: 25.0, ..base };
    let json = serde_json::json!({"spec": spec, "calibration": {"energy_ev": 80e3}, "more": 1});
    std::fs::write(&truth, json.to_string()).expect("write");

    // The true shifts, displaced as a whole (which is no error) and off by 0.1 in one direction.
    let (rows, cols) = spec.true_shifts();
    let crop = Crop { row0: 6, row1: 42, col0: 5, col1: 42 };
    let bounds = crop.bounds();
    let cut = |map: &stemstream::axes::Image, sign: f64| {
        let part = map.slice(ndarray::s![bounds[0]..bounds[1], bounds[2]..bounds[3]]).to_owned();
        let mut odd = false;
        part.mapv(|shift| {
            odd = !odd;
            let shift = if shift.is_nan() { 0.0 } else { shift };
            shift + 32.0 + 3.0 + if odd { sign } else { -sign }
        })
    };
    let file = hdf5::File::create(&result).expect("create");
    let run = file.create_group("superres_results/run_20260102_030405").expect("group");
    run.new_dataset_builder().with_data(&cut(&rows, 0.1)).create("shift_y").expect("shift_y");
    run.new_dataset_builder().with_data(&cut(&cols, 0.0)).create("shift_x").expect("shift_x");
    let parameters = run.create_group("parameters").expect("group");
    let bounds = bounds.map(|b| b as i64);
    parameters.new_attr_builder().with_data(&bounds).create("crop_bounds").expect("crop_bounds");
    // The library keeps the file open and locked as long as anything in it is.
    drop((parameters, run, file));

    let text = output_of("compare_with_truth", &[truth.to_str().expect("text"), result.to_str().expect("text")]);
    assert!(text.starts_with("run_20260102_030405: "), "{text}");
    assert!(text.contains(", 0 more outside the crop"), "{text}");
    assert!((number_after(&text, "RMS ") - 0.1).abs() < 0.002, "{text}");
    assert!((number_after(&text, "median ") - 0.1).abs() < 0.002, "{text}");
    for (name, expected) in [("defocus (Å)", 1500.0), ("astigmatism (Å)", 400.0)] {
        assert!((number_after(&text, name) - expected).abs() < 5.0, "{name}: {text}");
    }
    assert!((number_after(&text, "rotation (°)") - 25.0).abs() < 0.2, "{text}");
}
