//! Scans made at the speed of the disk: the truth comes back from them, and they are the same for any number of workers.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

use std::path::{Path, PathBuf};
use std::process::Output;

use stemstream::axes::{DetShape, ScanShape};
use stemstream::cache::Step;
use stemstream::config::{Config, SourceConfig};
use stemstream::progress::{CancelToken, Silent};
use stemstream::session::{Results, Session};
use stemstream::simulate::SimulationSpec;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn fast(output: &Path, more: &[&str]) -> Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_stemstream"))
        .args(["-q", "simulate", "--fast"])
        .arg(output)
        .args(more)
        .output()
        .unwrap()
}

fn made(output: &Path, more: &[&str]) -> serde_json::Value {
    let done = fast(output, more);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let truth = output.with_file_name(format!("{}_truth.json", output.file_stem().unwrap().to_string_lossy()));
    serde_json::from_slice(&std::fs::read(truth).unwrap()).unwrap()
}

/// RMS error of the shifts inside 0.95 of the disk, in scan pixels, with the mean taken off.
fn shift_error(results: &Results, spec: &SimulationSpec) -> f64 {
    let (rows, cols) = spec.true_shifts();
    let [row, col] = spec.true_center();
    let crop = results.disk.crop;
    let mut errors = Vec::new();
    for ((r, c), true_row) in rows.indexed_iter() {
        if (r as f64 - row).hypot(c as f64 - col) <= 0.95 * spec.disk_radius_px {
            let at = [r - crop.row0, c - crop.col0];
            errors.push([results.shift_y[at] - true_row, results.shift_x[at] - cols[[r, c]]]);
        }
    }
    let n = errors.len() as f64;
    let mean = [0, 1].map(|axis| errors.iter().map(|e| e[axis]).sum::<f64>() / n);
    (errors.iter().map(|e| (e[0] - mean[0]).powi(2) + (e[1] - mean[1]).powi(2)).sum::<f64>() / n).sqrt()
}

#[test]
fn the_default_method_finds_the_truth_in_a_fast_scan() {
    let folder = folder();
    let input = folder.path().join("scan.mib");
    // Two and a bit more than two periods, on a detector of which the disk takes a small part.
    let truth = made(
        &input,
        &["--scan=136,132", "--det=48,64", "--radius=9", "--rotation=15", "--counts=60", "--c10=-1200", "--seed=3"],
    );
    assert_eq!(truth["period"], serde_json::json!([68, 66]));
    let spec: SimulationSpec = serde_json::from_value(truth["spec"].clone()).unwrap();
    let config = Config::from_toml(
        &std::fs::read_to_string(input.with_extension("toml")).unwrap(),
        "the configuration beside the scan",
    );
    let settings = ["run.mode=lean", "run.memory=500 MiB", "run.workers=2"];
    let config = config.unwrap().with_settings(settings).unwrap();
    let cancel = CancelToken::new();
    let session = Session::open(&input, config, true, &Silent, &cancel).unwrap();
    session.run_to(Step::Reconstruct).unwrap();
    let results = Results::read(&session.cache_path()).unwrap();
    let error = shift_error(&results, &spec);
    assert!(error < 0.03, "{error} scan pixels, {:?}", results.fit);
    let c10 = results.fit.unwrap().c10_angstrom.unwrap();
    assert!((c10 + 1200.0).abs() < 8.0, "C10 {c10} Å");
}

#[test]
fn a_fast_scan_is_the_same_for_any_number_of_workers_and_has_the_headers_of_its_shape() {
    let folder = folder();
    let bytes = |name: &str, more: &[&str]| {
        let path = folder.path().join(name);
        let all = ["--scan=30,37", "--det=40,44", "--radius=8", "--c10=-600"].iter().chain(more).copied();
        made(&path, &all.collect::<Vec<_>>());
        std::fs::read(path).unwrap()
    };
    let one = bytes("one.mib", &["--workers=1"]);
    assert!(one == bytes("three.mib", &["--workers=3"]), "the workers' number changes the counts");
    assert!(one != bytes("other.mib", &["--workers=1", "--seed=5"]), "the seed changes nothing");
    let frame = 384 + 2 * 40 * 44;
    assert_eq!(one.len(), 30 * 37 * frame);
    for index in [0, 1, 36, 37, 1109] {
        let header = String::from_utf8_lossy(&one[index * frame..][..384]).into_owned();
        let fields: Vec<&str> = header.split(',').collect();
        assert_eq!(fields[..7], ["MQ1", &format!("{:06}", index + 1), "00384", "01", "0044", "0040", "U16"]);
    }
    // With the sidecar, and from the time stamps alone.
    for with_sidecar in [true, false] {
        let source = stemstream::read::open(&folder.path().join("one.mib"), &SourceConfig::default()).unwrap();
        let info = source.info();
        assert_eq!((info.scan, info.det), (ScanShape::new(30, 37), DetShape::new(40, 44)), "{with_sidecar}");
        let _ = std::fs::remove_file(folder.path().join("one.hdr"));
    }
}

fn names(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect()
}

#[test]
fn a_fast_scan_that_cannot_be_made_leaves_nothing_behind() {
    let folder = folder();
    let path = folder.path().join("scan.mib");
    // 9 PB.
    for (more, code) in [
        (vec!["--scan=65535,65535", "--det=1024,1024"], 5),
        (vec!["--object=crystal"], 2),
        (vec!["--scan=16,16", "--c10=-9000"], 2),
    ] {
        let refused = fast(&path, &more);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(code), "{said}");
        assert!(said.contains("hint: "), "{said}");
        assert_eq!(names(folder.path()), Vec::<PathBuf>::new());
    }
    std::fs::write(&path, "mine").unwrap();
    assert_eq!(fast(&path, &[]).status.code(), Some(2));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
}
