//! Other programs open what a run leaves: zarr-python the working cache, h5py the exported HDF5 cache, and both see
//! the numbers that this program sees.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

mod common;
mod export_common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::runs::{folder, run, scan};
use common::writers::write_npy;
use export_common::python;
use stemstream::axes::Image;
use stemstream::cache::WorkingCache;
use stemstream::session::Results;

/// Neither scan nor crop are square, and the crop is odd where it is clipped.
const SHAPE: (usize, usize, usize, usize) = (14, 18, 20, 24);

fn save(folder: &Path, name: &str, numbers: &[f64]) {
    fs::write(folder.join(name), bytemuck::cast_slice(numbers)).unwrap();
}

/// Writes down, as plain float64, everything as this program reads it; returns the crop's bounds.
fn dump(cache: &Path, folder: &Path) -> [usize; 4] {
    let results = Results::read(cache).unwrap();
    let group = WorkingCache::open_for_reading(cache).unwrap();
    let image = |name: &str| -> Image { group.group().read_image(name).unwrap() };
    for name in [
        "shift_y",
        "shift_x",
        "quality",
        "zncc",
        "mean_pattern",
        "sampled_pattern",
        "reference_image",
        "standard_bf",
        "virtual_bf",
        "superres_image",
        "weights",
    ] {
        save(folder, name, image(name).as_slice().unwrap());
    }
    let crop = results.disk.crop;
    let (n, pixels, cols) = (results.manifest.scan.len(), crop.shape().len(), crop.shape().cols);
    let mut spectra = vec![0.0; 2 * n * pixels];
    let each = results.for_each_spectrum(cache, |row, col, spectrum| {
        for (i, z) in spectrum.iter().enumerate() {
            let at = 2 * (i * pixels + row * cols + col);
            spectra[at..at + 2].copy_from_slice(&[z.re, z.im]);
        }
        Ok(())
    });
    each.unwrap();
    save(folder, "bigFT", &spectra);
    let mut correlations = vec![0.0; n * pixels];
    let each = results.for_each_correlation(cache, |row, col, correlation| {
        for (i, c) in correlation.iter().enumerate() {
            correlations[i * pixels + row * cols + col] = *c;
        }
        Ok(())
    });
    each.unwrap();
    save(folder, "correlations", &correlations);
    crop.bounds()
}

fn check(arguments: &[&str], modules: &str) {
    let Some(python) = python(modules) else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/check_zarr.py");
    let out = Command::new(python).arg(script).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
}

#[test]
fn zarr_python_sees_the_same_numbers_in_the_working_cache() {
    for settings in [
        &["run.precision=f32"][..],
        &["run.precision=f64", "plan.tile_rows=2", "plan.tile_cols=4", "plan.slab_rows=5"],
        &["disk.center=[2.0, 20.0]", "disk.radius=3", "disk.crop_radius=5", "plan.tile_rows=3", "plan.tile_cols=2"],
    ] {
        let dir = folder();
        let input = dir.path().join("scan.npy");
        write_npy(&input, &scan(SHAPE), "<u2");
        let cache = run(&input, dir.path(), settings).unwrap();
        let ours = dir.path().join("ours");
        fs::create_dir(&ours).unwrap();
        let bounds = dump(&cache, &ours).map(|b| b.to_string());
        let mut arguments = vec!["zarr", cache.to_str().unwrap(), ours.to_str().unwrap(), input.to_str().unwrap()];
        arguments.extend(bounds.iter().map(String::as_str));
        check(&arguments, "zarr, numpy");
    }
}

/// A whole run of the command: the HDF5 cache against the working cache.
#[cfg(all(feature = "cli", feature = "hdf5"))]
#[test]
fn h5py_sees_the_same_numbers_in_the_exported_cache_of_a_run() {
    let dir = folder();
    let input = dir.path().join("scan.npy");
    write_npy(&input, &scan(SHAPE), "<u2");
    let out = Command::new(env!("CARGO_BIN_EXE_stemstream"))
        .args(["run", input.to_str().unwrap(), "--json", "--set", "reconstruct.quality_threshold=0.01"])
        .args(["--set", "align.method=classic"])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let (cache, hdf5) = (json["cache"].as_str().unwrap(), json["hdf5_cache"].as_str().unwrap());
    let (emd, group) = (json["emd"].as_str().unwrap(), json["run"].as_str().unwrap());
    let ours = dir.path().join("ours");
    fs::create_dir(&ours).unwrap();
    let bounds = dump(Path::new(cache), &ours).map(|b| b.to_string());
    let mut arguments = vec!["hdf5", hdf5, emd, group, ours.to_str().unwrap(), input.to_str().unwrap()];
    arguments.extend(bounds.iter().map(String::as_str));
    check(&arguments, "h5py, numpy");
}
