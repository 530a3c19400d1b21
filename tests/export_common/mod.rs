//! A small run with known numbers, and the Python interpreter that checks what was written.
#![allow(dead_code, missing_docs, reason = "each test file uses a part of this")]

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ndarray::Array2;
use stemstream::axes::{Calibration, Crop, DetShape, Image, ScanShape};
use stemstream::export::RunResults;

/// Values that are unlike in every row and column, so that a transposed or shifted array is noticed.
pub(crate) fn ramp(rows: usize, cols: usize, start: f64) -> Image {
    Array2::from_shape_fn((rows, cols), |(r, c)| start + r as f64 + c as f64 / 64.0)
}

/// A run on a scan of `rows` × `cols` with a 14 × 16 detector and factor `upscale`.
pub(crate) fn run_of(rows: usize, cols: usize, upscale: usize) -> RunResults {
    let crop = Crop { row0: 2, row1: 11, col0: 3, col1: 14 };
    let shape = crop.shape();
    RunResults {
        timestamp: "20250107_153045".into(),
        base_name: "mydata".into(),
        bf_center: [6.25, 8.5],
        bf_radius: 3.75,
        crop_radius: 5,
        crop,
        scan: ScanShape::new(rows, cols),
        det: DetShape::new(14, 16),
        upscale,
        reference_smoothing: 0.5,
        detector_radius: 16,
        quality_threshold: 0.8,
        method: "classic".into(),
        fingerprint: "sha256:0123abcd".into(),
        calibration: Calibration {
            energy_ev: Some(8e4),
            scan_step_angstrom: Some(4.0),
            detector_mrad_per_px: Some(0.625),
            ..Calibration::default()
        },
        cache_file: Some("mydata_superres_cache_20250107_153045.h5".into()),
        mean_pattern: ramp(14, 16, 1.0),
        shift_y: ramp(shape.rows, shape.cols, (rows / 2) as f64 - 4.0),
        shift_x: ramp(shape.rows, shape.cols, (cols / 2) as f64 - 4.0),
        quality: ramp(shape.rows, shape.cols, 0.5),
        reference_image: ramp(rows, cols, 10.0),
        standard_bf: ramp(rows, cols, 20.0),
        virtual_bf: ramp(rows, cols, 30.0),
        superres_image: ramp(rows * upscale, cols * upscale, 40.0),
        weights: ramp(rows * upscale, cols * upscale, 50.0),
        extras: Vec::new(),
        curves: Vec::new(),
        findings: vec![("c10_angstrom".into(), -1500.5)],
        warnings: vec!["the disk touches the edge".into(), "Å and µ survive".into()],
    }
}

pub(crate) fn run() -> RunResults {
    run_of(6, 10, 2)
}

/// A decoded picture: width, height, and red, green, blue of each pixel.
pub(crate) struct Picture {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) rgb: Vec<u8>,
}

impl Picture {
    pub(crate) fn read(path: &Path) -> Self {
        let mut decoder = png::Decoder::new(BufReader::new(File::open(path).unwrap()));
        // Colours of a palette as red, green, blue.
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut rgb).unwrap();
        Self { width: info.width as usize, height: info.height as usize, rgb }
    }

    pub(crate) fn at(&self, x: usize, y: usize) -> [u8; 3] {
        let start = (y * self.width + x) * 3;
        [self.rgb[start], self.rgb[start + 1], self.rgb[start + 2]]
    }

    pub(crate) fn count(&self, color: [u8; 3]) -> usize {
        self.rgb.chunks(3).filter(|pixel| *pixel == color).count()
    }
}

/// Lets one test at a time work with HDF5 files: a process that another test starts would inherit their locks.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A Python that has the named modules, or `None` with the reason printed.
pub(crate) fn python(modules: &str) -> Option<PathBuf> {
    let named = std::env::var_os("STEMSTREAM_PYTHON").map(PathBuf::from);
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    let candidates = [named, local.exists().then_some(local), Some("python3".into())];
    let found = candidates.into_iter().flatten().find(|p| {
        Command::new(p).args(["-c", &format!("import {modules}")]).output().is_ok_and(|out| out.status.success())
    });
    if found.is_none() {
        println!("skipped: no Python with {modules} (name one in STEMSTREAM_PYTHON)");
    }
    found
}

/// Runs `tests/python/check_outputs.py` and fails with its words. Skips without h5py.
pub(crate) fn check(arguments: &[&str]) {
    let Some(python) = python("h5py, numpy") else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/check_outputs.py");
    let out = Command::new(python).arg(script).args(arguments).output().expect("Python was found and must start");
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}
