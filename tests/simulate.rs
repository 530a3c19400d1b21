//! The simulator: reproducible, with the dose that was asked for and the shifts that it says it has.

use std::path::Path;

use stemstream::axes::{DetShape, ScanShape};
use stemstream::config::SourceConfig;
use stemstream::error::Error;
use stemstream::export::mib::{MibDepth, MibWriter};
use stemstream::progress::{CancelToken, Silent};
use stemstream::simulate::{SimulationSpec, simulate};

fn counts(spec: &SimulationSpec, workers: usize) -> Vec<u16> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(workers).build().expect("a pool");
    let mut all = Vec::new();
    pool.install(|| {
        simulate(spec, workers, &CancelToken::new(), &Silent, &mut |first, frames| {
            assert_eq!(first * spec.det.len(), all.len(), "frames come in scan order");
            all.extend_from_slice(frames);
            Ok(())
        })
    })
    .expect("a simulation");
    assert_eq!(all.len(), spec.scan.len() * spec.det.len());
    all
}

fn preset(name: &str) -> SimulationSpec {
    SimulationSpec::preset(name).expect("a preset")
}

#[test]
fn the_same_seed_gives_the_same_counts_for_any_number_of_workers() {
    let spec = SimulationSpec { scan: ScanShape::new(9, 17), det: DetShape::new(40, 48), ..preset("small") };
    let one = counts(&spec, 1);
    assert_eq!(one, counts(&spec, 2));
    assert_eq!(one, counts(&spec, 3));
    assert_ne!(one, counts(&SimulationSpec { seed: 12, ..spec }, 1));
}

#[test]
fn the_disk_has_the_dose_that_was_asked_for_and_the_rest_is_dark() {
    let spec = SimulationSpec { scan: ScanShape::new(24, 16), ..preset("small") };
    let data = counts(&spec, 2);
    let (center, pixels) = (spec.true_center(), spec.det.len());
    let (mut inside, mut outside, mut lit, mut dark) = (0.0, 0.0, 0.0, 0.0);
    for (at, &count) in data.iter().enumerate() {
        let (row, col) = (at % pixels / spec.det.cols, at % spec.det.cols);
        let radius = (row as f64 - center[0]).hypot(col as f64 - center[1]);
        if radius < spec.disk_radius_px - 1.0 {
            (inside, lit) = (inside + f64::from(count), lit + 1.0);
        } else if radius > spec.disk_radius_px + 1.0 {
            (outside, dark) = (outside + f64::from(count), dark + 1.0);
        }
    }
    // A few per cent of the electrons are scattered out of the disk.
    let mean = inside / lit;
    assert!((0.88 * spec.counts..spec.counts).contains(&mean), "mean inside the disk {mean}");
    assert!(outside / dark < 0.1 * spec.counts, "mean outside the disk {}", outside / dark);
}

#[test]
fn the_true_shifts_have_the_documented_sign() {
    // No astigmatism: displacement = -C10 α, turned by -rotation.
    let spec = SimulationSpec { c12_angstrom: 0.0, rotation_deg: 90.0, ..preset("small") };
    let (rows, cols) = spec.true_shifts();
    let center = spec.true_center();
    let alpha = (30.0 - center[0]) * spec.semiangle_mrad * 1e-3 / spec.disk_radius_px;
    // One row off the axis in the detector is, turned by -90°, one column less in the scan.
    let expected = -(-spec.c10_angstrom * alpha / spec.step_angstrom);
    assert!((cols[[30, 24]] - expected).abs() < 1e-9);
    assert!(rows[[30, 24]].abs() < 0.05 && rows[[0, 0]].is_nan());
}

#[test]
fn the_true_shifts_are_those_of_the_reference_implementation() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/reference/A_small_shift_truth.npy");
    let Ok(bytes) = std::fs::read(&path) else {
        println!("skipped: `{}` is not there", path.display());
        return;
    };
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]])) + 10;
    let reference: Vec<f64> =
        bytes[header..].chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes"))).collect();
    let (rows, cols) = preset("small").true_shifts();
    assert_eq!(reference.len(), rows.len() + cols.len());
    for (found, expected) in rows.iter().chain(&cols).zip(reference) {
        assert!(found.is_nan() == expected.is_nan(), "inside and outside agree");
        assert!(found.is_nan() || (found - expected).abs() < 1e-9, "{found} against {expected}");
    }
}

/// Displacement of the virtual image of `pixel` against that of `axial`: the integer maximum of their correlation.
fn measured(data: &[u16], spec: &SimulationSpec, axial: [usize; 2], pixel: [usize; 2]) -> [f64; 2] {
    let (n, m) = (spec.scan.rows as isize, spec.scan.cols as isize);
    let image = |at: [usize; 2]| -> Vec<f64> {
        let values: Vec<f64> =
            (0..spec.scan.len()).map(|f| data[(f * spec.det.rows + at[0]) * spec.det.cols + at[1]].into()).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter().map(|v| v - mean).collect()
    };
    let (still, moved) = (image(axial), image(pixel));
    let mut best = (f64::MIN, [0.0, 0.0]);
    for (dr, dc) in (-8..=8).flat_map(|dr| (-8..=8).map(move |dc| (dr, dc))) {
        let (mut sum, mut terms) = (0.0, 0.0);
        for (r, c) in (0..n).flat_map(|r| (0..m).map(move |c| (r, c))) {
            if (0..n).contains(&(r + dr)) && (0..m).contains(&(c + dc)) {
                sum += still[(r * m + c) as usize] * moved[((r + dr) * m + c + dc) as usize];
                terms += 1.0;
            }
        }
        if sum / terms > best.0 {
            best = (sum / terms, [dr as f64, dc as f64]);
        }
    }
    best.1
}

#[test]
fn off_axis_images_are_displaced_by_the_true_shifts() {
    for name in ["small", "rotated"] {
        let spec = SimulationSpec { scan: ScanShape::new(64, 56), counts: 400.0, ..preset(name) };
        let data = counts(&spec, 2);
        let (rows, cols) = spec.true_shifts();
        let axial = spec.true_center().map(|c| c.round() as usize);
        for off in [[9, 0], [0, 9], [-9, 0], [0, -9], [7, 7], [-7, 6]] {
            let pixel = [axial[0].wrapping_add_signed(off[0]), axial[1].wrapping_add_signed(off[1])];
            let found = measured(&data, &spec, axial, pixel);
            let expected = [rows[pixel] - rows[axial], cols[pixel] - cols[axial]];
            let error = (found[0] - expected[0]).hypot(found[1] - expected[1]);
            assert!(error < 1.0, "{name}: pixel {pixel:?} is displaced by {found:?}, not {expected:?}");
        }
    }
}

#[test]
fn a_specification_out_of_range_is_refused_before_any_work() {
    let small = preset("small");
    let silent = |spec: &SimulationSpec| {
        simulate(spec, 1, &CancelToken::new(), &Silent, &mut |_, _| panic!("no frame may be made"))
            .map_err(|e| (e.exit_code(), e.hint().is_some()))
    };
    for spec in [
        SimulationSpec { scan: ScanShape::new(0, 4), ..small.clone() },
        SimulationSpec { det: DetShape::new(48, 97), ..small.clone() },
        SimulationSpec { disk_radius_px: f64::NAN, ..small.clone() },
        SimulationSpec { disk_radius_px: 60.0, ..small.clone() },
        SimulationSpec { counts: -1.0, ..small.clone() },
        SimulationSpec { center_offset: [f64::INFINITY, 0.0], ..small.clone() },
        SimulationSpec { step_angstrom: 1e5, ..small.clone() },
        SimulationSpec { window: usize::MAX, ..small.clone() },
    ] {
        assert_eq!(silent(&spec), Err((2, true)), "{spec:?}");
    }
    assert!(SimulationSpec::preset("tiny").is_none());
    assert!(SimulationSpec::PRESETS.iter().all(|name| preset(name).check().is_ok()));
}

#[test]
fn a_cancelled_simulation_stops_and_the_failure_of_the_sink_is_passed_on() {
    let spec = SimulationSpec { scan: ScanShape::new(40, 40), ..preset("small") };
    let cancel = CancelToken::new();
    let mut batches = 0;
    let stopped = simulate(&spec, 1, &cancel, &Silent, &mut |_, _| {
        batches += 1;
        cancel.cancel();
        Ok(())
    });
    assert_eq!((stopped.map_err(|e| e.exit_code()), batches), (Err(130), 1));
    let failed = simulate(&spec, 1, &CancelToken::new(), &Silent, &mut |_, _| Err(Error::bug("full")));
    assert_eq!(failed.map_err(|e| e.exit_code()), Err(1));
}

#[test]
fn a_simulated_scan_comes_back_from_a_merlin_file_with_and_without_its_sidecar() {
    let spec = SimulationSpec { scan: ScanShape::new(5, 7), det: DetShape::new(32, 40), ..preset("small") };
    let data = counts(&spec, 2);
    let dir = tempfile::tempdir().expect("a folder");
    let mut writer =
        MibWriter::create(&dir.path().join("scan.mib"), spec.scan, spec.det, MibDepth::U16).expect("a writer");
    data.chunks(3 * spec.det.len()).try_for_each(|frames| writer.push(frames)).expect("written frames");
    let [mib, sidecar] = writer.finish().expect("a file");
    for evidence in ["ScanX and ScanY", "time stamps"] {
        let source = stemstream::read::open(&mib, &SourceConfig::default()).expect("a readable file");
        let info = source.info();
        assert_eq!((info.scan, info.det, info.warnings.len()), (spec.scan, spec.det, 0));
        assert!(info.scan_evidence[0].source.contains(evidence), "{:?}", info.scan_evidence);
        let mut buffer = vec![0; source.block_bytes(spec.scan.len())];
        let block = source.read_block(0, spec.scan.len(), &mut buffer).expect("frames");
        let bytes = (0..spec.scan.len()).flat_map(|frame| block.frame(frame).chunks_exact(2));
        assert!(bytes.map(|b| u16::from_be_bytes([b[0], b[1]])).eq(data.iter().copied()));
        // The second time, only the clock can tell the shape.
        let _ = std::fs::remove_file(&sidecar);
    }
}
