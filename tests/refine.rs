//! The refinement of shift maps: started from wrong maps it finds the true ones, from true maps it changes nothing.

#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

mod common;

use std::sync::Mutex;

use ndarray::{Array4, s};
use num_complex::Complex;
use stemstream::axes::{Image, ScanShape, wavelength_angstrom};
use stemstream::cache::{Step, WorkingCache};
use stemstream::config::Config;
use stemstream::kernel::crosspower::Model;
use stemstream::kernel::crosspower::residual::Optics;
use stemstream::kernel::fft2::Fft2;
use stemstream::memory::MemoryBudget;
use stemstream::pipeline::{Beside, Workers};
use stemstream::plan::{Around, Exports, Plan, Request};
use stemstream::progress::{CancelToken, Silent};
use stemstream::session::Session;
use stemstream::simulate::{SimulationSpec, simulate};
use stemstream::steps::{BrightDisk, RefineReport, RunContext, corner_turn, fit_spectra, refine};

/// 64 × 64 positions, 48 × 48 detector pixels, a disk of 16 pixels, shifts of up to 4 scan pixels.
fn spec(counts: f64) -> SimulationSpec {
    SimulationSpec { counts, rotation_deg: 15.0, ..SimulationSpec::preset("small").unwrap() }
}

fn counts(spec: &SimulationSpec) -> Array4<u16> {
    let mut data = Array4::zeros((spec.scan.rows, spec.scan.cols, spec.det.rows, spec.det.cols));
    let pixels = spec.det.len();
    simulate(spec, 2, &CancelToken::new(), &Silent, &mut |first, frames| {
        let place = first * pixels;
        data.as_slice_mut().unwrap()[place..place + frames.len()].copy_from_slice(frames);
        Ok(())
    })
    .unwrap();
    data
}

/// Absolute shift maps over the crop.
#[derive(Debug, Clone, PartialEq)]
struct Maps {
    y: Image,
    x: Image,
}

/// A scan whose stack lies in a cache.
struct Scan {
    spec: SimulationSpec,
    config: Config,
    cache: Mutex<WorkingCache>,
    disk: BrightDisk,
    _folder: tempfile::TempDir,
}

impl Scan {
    fn new(spec: SimulationSpec, data: &Array4<u16>) -> Self {
        let folder = common::runs::folder();
        let input = folder.path().join("scan.npy");
        common::writers::write_npy(&input, data, "<u2");
        let c = spec.calibration();
        let settings = [
            "align.method=parametric".to_owned(),
            "run.mode=lean".to_owned(),
            "plan.in_memory=false".to_owned(),
            "run.memory=300 MiB".to_owned(),
            // So that no pixel is taken for bad before the refinement sees it.
            "disk.bad_pixels=keep".to_owned(),
            format!("calibration.energy_ev={}", c.energy_ev.unwrap()),
            format!("calibration.scan_step_angstrom={}", c.scan_step_angstrom.unwrap()),
            format!("calibration.detector_mrad_per_px={}", c.detector_mrad_per_px.unwrap()),
        ];
        let config = Config::default().with_settings(settings.iter().map(String::as_str)).unwrap();
        let cancel = CancelToken::new();
        let path = {
            let session = Session::open(&input, config.clone(), true, &Silent, &cancel).unwrap();
            session.run_to(Step::Stack).unwrap();
            session.cache_path()
        };
        let cache = WorkingCache::open(&path).unwrap();
        let disk = serde_json::from_value(cache.manifest().results[&Step::Detect].clone()).unwrap();
        Self { spec, config, cache: Mutex::new(cache), disk, _folder: folder }
    }

    /// The true maps, and what is added to them at `[row, col]` detector pixels from the centre.
    fn maps(&self, added: impl Fn([f64; 2]) -> [f64; 2]) -> Maps {
        let (y, x) = self.spec.true_shifts();
        let (crop, [row, col]) = (self.disk.crop, self.spec.true_center());
        let center = self.spec.scan.rows as f64 / 2.0;
        let shape = (crop.shape().rows, crop.shape().cols);
        let map = |truth: &Image, axis: usize| {
            Image::from_shape_fn(shape, |(r, c)| {
                let at = [r + crop.row0, c + crop.col0];
                // Beyond the disk there is no truth.
                let truth = if truth[at].is_finite() { truth[at] } else { 0.0 };
                center + truth + added([at[0] as f64 - row, at[1] as f64 - col])[axis]
            })
        };
        Maps { y: map(&y, 0), x: map(&x, 1) }
    }

    /// True maps with all displacements `factor` times as long.
    fn stretched(&self, factor: f64) -> Maps {
        let center = self.spec.scan.rows as f64 / 2.0;
        let Maps { y, x } = self.maps(|_| [0.0; 2]);
        let stretch = |image: Image| image.mapv(|v| center + factor * (v - center));
        Maps { y: stretch(y), x: stretch(x) }
    }

    fn used(&self) -> Vec<usize> {
        let shape = self.disk.crop.shape();
        (0..shape.len()).filter(|p| self.distance(p / shape.cols, p % shape.cols) <= 0.95).collect()
    }

    /// In disk radii.
    fn distance(&self, row: usize, col: usize) -> f64 {
        let d = &self.disk;
        ((row + d.crop.row0) as f64 - d.center[0]).hypot((col + d.crop.col0) as f64 - d.center[1]) / d.radius
    }

    /// RMS error inside 0.95 of the disk in scan pixels, with the mean taken off.
    fn error(&self, maps: &Maps) -> f64 {
        let truth = self.maps(|_| [0.0; 2]);
        let cols = self.disk.crop.shape().cols;
        let errors: Vec<[f64; 2]> = self
            .used()
            .iter()
            .map(|p| [p / cols, p % cols])
            .map(|at| [maps.y[at] - truth.y[at], maps.x[at] - truth.x[at]])
            .collect();
        let n = errors.len() as f64;
        let mean = [0, 1].map(|a| errors.iter().map(|e| e[a]).sum::<f64>() / n);
        (errors.iter().map(|e| (e[0] - mean[0]).powi(2) + (e[1] - mean[1]).powi(2)).sum::<f64>() / n).sqrt()
    }

    fn refine(&self, maps: &mut Maps, workers: usize, memory: u64) -> RefineReport {
        let overrides = &self.config.plan;
        let plan = Plan::make(&Request {
            scan: self.spec.scan,
            det: self.spec.det,
            dtype: self.cache.lock().unwrap().manifest().dtype,
            crop: self.disk.crop.shape(),
            frame_bytes: 1,
            natural_frames: 1,
            frames_in_line: true,
            held_bytes: 0,
            mode: self.config.run.mode,
            precision: self.config.run.precision,
            upscale: 4,
            half_sets: false,
            images: 2,
            fit_bytes: 0,
            memory: 300 << 20,
            workers,
            exports: Exports::default(),
            around: Around::default(),
            fixed_layout: None,
            counts: None,
            stored_stack: None,
            overrides,
        })
        .unwrap();
        let (budget, workers) = (MemoryBudget::new(memory), Workers::new(workers).unwrap());
        let (cancel, reports) = (CancelToken::new(), Mutex::new(Vec::new()));
        let report = Beside::run(&self.cache, |beside| {
            let ctx = RunContext {
                source: None,
                config: &self.config,
                cache: &self.cache,
                beside,
                plan: &plan,
                budget: &budget,
                workers: &workers,
                cancel: &cancel,
                progress: &Silent,
                reports: &reports,
                scan: self.spec.scan,
                crop: self.disk.crop,
            };
            let stack = corner_turn(&ctx, &self.disk)?;
            let spectra = fit_spectra(&ctx, &self.disk, &stack)?;
            refine(&ctx, &self.disk, &spectra, Some(&self.optics()), (&mut maps.y, &mut maps.x))
        });
        let report = report.unwrap();
        assert_eq!(budget.used(), 0, "memory was not given back");
        report
    }

    /// The true orientation of the detector, and what the calibration says.
    fn optics(&self) -> Optics {
        let wavelength = wavelength_angstrom(self.spec.energy_ev);
        let pixel_rad = self.spec.semiangle_mrad * 1e-3 / self.spec.disk_radius_px;
        Optics {
            model: Model {
                // The simulator's rotation takes the scan's axes to the detector's: the opposite sense.
                parameters: [0.0, 0.0, 0.0, -self.spec.rotation_deg.to_radians()],
                transposed: false,
            },
            pixels_per_frequency: wavelength / (pixel_rad * self.spec.step_angstrom),
            radius: self.disk.radius,
            higher: None,
        }
    }

    fn published(&self, name: &str) -> Image {
        self.cache.lock().unwrap().group().read_image(name).unwrap()
    }
}

/// 0.05 scan pixels of coma at the disk's edge.
fn coma([row, col]: [f64; 2]) -> [f64; 2] {
    let (u, v) = (row / 16.0, col / 16.0);
    [0.05 * (3.0 * u * u + v * v) / 3.0, 0.05 * 2.0 * u * v / 3.0]
}

#[test]
fn from_a_wrong_defocus_and_a_planted_coma_the_true_maps_come_back() {
    let spec = spec(400.0);
    let scan = Scan::new(spec.clone(), &counts(&spec));
    let mut maps = scan.stretched(1.03);
    let before = scan.error(&maps);
    let report = scan.refine(&mut maps, 2, 300 << 20);
    println!("C10 3 % off: {before:.4} -> {:.4}, {report:?}", scan.error(&maps));
    assert!(before > 0.07 && scan.error(&maps) < 0.006, "{before} {}", scan.error(&maps));
    assert!(report.changed && report.iterations[0].orders[0].taken, "{report:?}");
    assert!(report.iterations[0].error[1] < report.iterations[0].error[0]);

    let mut maps = scan.maps(|k| coma(k).map(|v| 3.0 * v));
    let before = scan.error(&maps);
    let report = scan.refine(&mut maps, 2, 300 << 20);
    println!("coma: {before:.4} -> {:.4}, {report:?}", scan.error(&maps));
    assert!(scan.error(&maps) < 0.4 * before, "{before} {}", scan.error(&maps));

    // What is left is published: small where it was measured, not a number elsewhere.
    let left = scan.published("residual_y");
    assert_eq!(left.dim(), maps.y.dim());
    assert!(left[[0, 0]].is_nan() && left.iter().filter(|v| v.is_finite()).count() > 100);
    assert!(left.iter().filter(|v| v.is_finite()).all(|v| v.abs() < 1.6));
}

#[test]
fn displacements_too_large_for_one_step_are_found_from_the_middle_outwards() {
    // Spherical aberration that moves the images of the edge by 1.2 scan pixels.
    let spec = spec(400.0);
    let scan = Scan::new(spec.clone(), &counts(&spec));
    let round = |[row, col]: [f64; 2]| {
        let square = (row * row + col * col) / 256.0;
        [1.2 * square * row / 16.0, 1.2 * square * col / 16.0]
    };
    let mut maps = scan.maps(round);
    let before = scan.error(&maps);
    let report = scan.refine(&mut maps, 2, 300 << 20);
    println!("from the middle: {before:.4} -> {:.4}, {report:?}", scan.error(&maps));
    assert!(report.iterations.iter().any(|i| i.reach < 1.0 && i.rms_change > 0.0), "{report:?}");
    assert!(before > 0.45 && scan.error(&maps) < 0.02, "{before} {}", scan.error(&maps));
}

/// A scan in which the image of each detector pixel is displaced by `by(row, col)` scan pixels more than it should be. It is
/// made on a scan that is finer by `FINER`, because what a scan folds cannot be displaced afterwards.
fn displaced(spec: &SimulationSpec, by: impl Fn(usize, usize) -> [f64; 2]) -> Array4<u16> {
    const FINER: usize = 3;
    let fine = SimulationSpec {
        scan: ScanShape::new(FINER * spec.scan.rows, FINER * spec.scan.cols),
        step_angstrom: spec.step_angstrom / FINER as f64,
        ..spec.clone()
    };
    let mut data = counts(&fine);
    let by = |r: usize, c: usize| by(r, c).map(|d| FINER as f64 * d);
    move_images(&mut data, by);
    data.slice(s![..;FINER as isize, ..;FINER as isize, .., ..]).to_owned()
}

fn move_images(data: &mut Array4<u16>, by: impl Fn(usize, usize) -> [f64; 2]) {
    let (rows, cols, det_rows, det_cols) = data.dim();
    let fft = Fft2::<f64>::new(ScanShape::new(rows, cols));
    let mut scratch = vec![Complex::default(); fft.scratch_len()];
    for (r, c) in (0..det_rows).flat_map(|r| (0..det_cols).map(move |c| (r, c))) {
        let mut image: Vec<Complex<f64>> =
            data.slice(s![.., .., r, c]).iter().map(|v| Complex::from(f64::from(*v))).collect();
        let mut spectrum = vec![Complex::default(); image.len()];
        fft.forward(&mut image, &mut spectrum, &mut scratch);
        let d = by(r, c);
        let signed = |i: usize, n: usize| if 2 * i > n { i as f64 - n as f64 } else { i as f64 } / n as f64;
        for (at, z) in spectrum.iter_mut().enumerate() {
            // Transposed: a column of the spectrum after the other.
            let q = [signed(at % rows, rows), signed(at / rows, cols)];
            *z *= Complex::cis(-std::f64::consts::TAU * (q[0] * d[0] + q[1] * d[1]));
        }
        fft.inverse(&mut spectrum, &mut image, &mut scratch);
        for (to, z) in data.slice_mut(s![.., .., r, c]).iter_mut().zip(&image) {
            *to = (z.re / (rows * cols) as f64).round().max(0.0) as u16;
        }
    }
}

/// Between -1 and 1, for each pixel its own.
fn own(row: usize, col: usize, axis: usize) -> f64 {
    let hash = ((row * 64 + col) * 2 + axis + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((hash >> 20) % 2001) as f64 / 1000.0 - 1.0
}

#[test]
fn pixels_that_are_displaced_for_themselves_are_moved_back_where_the_dose_shows_it() {
    for (counts_each, gain) in [(1000.0, 0.5), (0.4, 1.0)] {
        let spec = spec(counts_each);
        let planted = |row: usize, col: usize| [0.2 * own(row, col, 0), 0.2 * own(row, col, 1)];
        let data = displaced(&spec, planted);
        let scan = Scan::new(spec, &data);
        let mut maps = scan.maps(|_| [0.0; 2]);
        let center = scan.spec.true_center();
        // What the maps should be now.
        let truth = scan.maps(|k| planted((k[0] + center[0]).round() as usize, (k[1] + center[1]).round() as usize));
        let error = |maps: &Maps| {
            let added = Maps { y: &maps.y - &truth.y, x: &maps.x - &truth.x };
            let middle = scan.maps(|_| [0.0; 2]);
            scan.error(&Maps { y: &added.y + &middle.y, x: &added.x + &middle.x })
        };
        let before = error(&maps);
        let report = scan.refine(&mut maps, 2, 300 << 20);
        println!("{counts_each} counts, pixel by pixel: {before:.4} -> {:.4}, {report:?}", error(&maps));
        assert!(before > 0.14 && error(&maps) <= gain * before, "{before} {}", error(&maps));
        assert_eq!(report.pixels.is_some_and(|p| p.taken), counts_each > 1.0);
        // What is published is what is left.
        if counts_each > 1.0 {
            assert!(report.rms_residual.unwrap() < 0.02, "{report:?}");
            assert!(scan.published("residual_y").iter().filter(|v| v.is_finite()).all(|v| v.abs() < 0.1));
        }
    }
}

#[test]
fn from_the_true_maps_nothing_is_changed_at_any_dose() {
    for dose in [20_000.0, 400.0, 4.0, 0.4] {
        let spec = spec(dose);
        let scan = Scan::new(spec.clone(), &counts(&spec));
        let truth = scan.maps(|_| [0.0; 2]);
        let mut maps = truth.clone();
        let report = scan.refine(&mut maps, 2, 300 << 20);
        println!("{dose} counts: {:.4}, {report:?}", scan.error(&maps));
        assert!(maps == truth && !report.changed, "{dose}: {} {report:?}", scan.error(&maps));
        if dose < 100.0 {
            // A small error that the dose does not show must not grow either.
            let mut maps = scan.stretched(1.01);
            let before = scan.error(&maps);
            let report = scan.refine(&mut maps, 2, 300 << 20);
            println!("{dose} counts: {before:.4} -> {:.4}, {}", scan.error(&maps), report.outcome);
            assert!(scan.error(&maps) <= before, "{dose}: {before} {} {report:?}", scan.error(&maps));
        }
    }
}

#[test]
fn displacements_below_a_pixel_are_left_to_the_fit() {
    // Single side bands would pull these maps to much larger displacements.
    let spec = SimulationSpec { c10_angstrom: -300.0, c12_angstrom: 30.0, ..spec(120.0) };
    let scan = Scan::new(spec.clone(), &counts(&spec));
    for factor in [1.0, 1.03] {
        let start = scan.stretched(factor);
        let mut maps = start.clone();
        let report = scan.refine(&mut maps, 2, 300 << 20);
        assert!(maps == start && !report.changed, "{report:?}");
    }
}

#[test]
fn workers_and_budget_change_no_bit() {
    let spec = spec(400.0);
    let scan = Scan::new(spec.clone(), &counts(&spec));
    let run = |workers: usize, memory: u64| {
        let mut maps = scan.stretched(1.03);
        let report = scan.refine(&mut maps, workers, memory);
        assert!(report.changed);
        let bits = |image: &Image| image.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let left = ["residual_y", "residual_x"].map(|name| bits(&scan.published(name)));
        (bits(&maps.y), bits(&maps.x), left, report)
    };
    let one = run(1, 300 << 20);
    assert!(one == run(3, 300 << 20), "workers");
    assert!(one == run(2, 60 << 20), "budget");
}

#[test]
fn a_detector_pixel_of_garbage_does_not_move_the_others() {
    let spec = spec(400.0);
    let mut data = counts(&spec);
    for i in 0..spec.scan.len() {
        let (row, col) = (i / spec.scan.cols, i % spec.scan.cols);
        // One that jumps, one that counts the same whatever happens, one that is dead.
        data[[row, col, 22, 25]] = ((i * 2_654_435_761) >> 8) as u16 % 3000;
        data[[row, col, 26, 20]] = 60_000;
        data[[row, col, 20, 21]] = 0;
    }
    let scan = Scan::new(spec, &data);
    let mut maps = scan.stretched(1.03);
    let report = scan.refine(&mut maps, 2, 300 << 20);
    println!("garbage: {:.4}, {report:?}", scan.error(&maps));
    assert!(scan.error(&maps) < 0.01 && report.pixels_left_out >= 2, "{report:?}");
}
