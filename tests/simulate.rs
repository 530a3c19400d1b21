//! The simulator: reproducible, with the dose that was asked for and the shifts that it says it has.

use std::path::Path;

use stemstream::axes::{DetShape, ScanShape};
use stemstream::config::SourceConfig;
use stemstream::error::Error;
use stemstream::export::mib::{MibDepth, MibWriter};
use stemstream::kernel::aberrations::{Aberrations, Term};
use stemstream::progress::{CancelToken, Silent};
use stemstream::simulate::{HotPixel, ObjectKind, SimulationSpec, simulate};

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
fn coma_and_threefold_astigmatism_displace_images_the_way_the_true_shifts_say() {
    let odd = |signs: [f64; 2]| {
        Aberrations::new([
            Term::polar(2, 1, signs[0] * 6e4, 1.2).expect("valid"),
            Term::polar(2, 3, signs[1] * 4e4, 0.2).expect("valid"),
        ])
        .expect("valid")
    };
    let spec = SimulationSpec {
        scan: ScanShape::new(64, 56),
        counts: 400.0,
        aberrations: odd([1.0, 1.0]),
        transposed_detector: true,
        ..preset("rotated")
    };
    let data = counts(&spec, 2);
    let axial = spec.true_center().map(|c| c.round() as usize);
    let around = [[13, 0], [9, 9], [0, 13], [-9, 9], [-13, 0], [-9, -9], [0, -13], [9, -9]];
    let pixels = around.map(|[r, c]| [axial[0].wrapping_add_signed(r), axial[1].wrapping_add_signed(c)]);
    let found = pixels.map(|pixel| measured(&data, &spec, axial, pixel));
    // Whole scan pixels, and contrast that differs between the images: half a scan pixel is as good as it gets.
    let error = |aberrations: Aberrations, transposed_detector: bool| {
        let (rows, cols) = SimulationSpec { aberrations, transposed_detector, ..spec.clone() }.true_shifts();
        let squares = pixels.iter().zip(&found).map(|(&pixel, found)| {
            (found[0] - rows[pixel] + rows[axial]).powi(2) + (found[1] - cols[pixel] + cols[axial]).powi(2)
        });
        (squares.sum::<f64>() / pixels.len() as f64).sqrt()
    };
    let right = error(odd([1.0, 1.0]), true);
    let wrong = [[-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]].map(|signs| error(odd(signs), true));
    let straight = error(odd([1.0, 1.0]), false);
    assert!(right < 0.8 && wrong.iter().all(|w| *w > 1.4 * right), "{right} against {wrong:?}");
    assert!(straight > 2.0 * right, "{right} against {straight}");
}

/// Mean and variance of a detector pixel's counts.
fn moments(data: &[u16], spec: &SimulationSpec, at: [usize; 2]) -> [f64; 2] {
    let pixel = at[0] * spec.det.cols + at[1];
    let values: Vec<f64> = data.chunks_exact(spec.det.len()).map(|frame| frame[pixel].into()).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    [mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64]
}

#[test]
fn faulty_pixels_count_what_they_were_told_and_the_others_what_they_did() {
    let base = SimulationSpec { scan: ScanShape::new(20, 20), ..preset("small") };
    let spec = SimulationSpec {
        hot_pixels: vec![HotPixel { at: [3, 40], counts: 50.0 }, HotPixel { at: [24, 20], counts: 35e3 }],
        dead_pixels: vec![[26, 27]],
        ..base.clone()
    };
    let (with, without) = (counts(&spec, 2), counts(&base, 2));
    assert!((moments(&with, &spec, [3, 40])[0] - moments(&without, &base, [3, 40])[0] - 50.0).abs() < 2.0);
    assert!((moments(&with, &spec, [24, 20])[0] - 35e3 - moments(&without, &base, [24, 20])[0]).abs() < 50.0);
    assert!(moments(&with, &spec, [26, 27])[0] < f64::MIN_POSITIVE);
    let [here, there] = [&with, &without].map(|data| moments(data, &spec, [20, 28])[0]);
    assert!((here - there).abs() < 0.05 * there, "{here} against {there}");
}

#[test]
fn vacuum_has_no_contrast_and_a_crystal_repeats_itself() {
    let base = SimulationSpec { scan: ScanShape::new(20, 24), counts: 1000.0, ..preset("small") };
    let vacuum = SimulationSpec { object: ObjectKind::Vacuum, ..base.clone() };
    let [mean, variance] = moments(&counts(&vacuum, 2), &vacuum, [22, 25]);
    assert!((mean - 1000.0).abs() < 8.0 && (0.75..1.25).contains(&(variance / mean)), "{mean} and {variance}");

    // Three positions for each unit cell.
    let object = ObjectKind::Crystal { spacing_angstrom: 12.0, angle_deg: 0.0 };
    let crystal = SimulationSpec { object, rotation_deg: 33.0, ..base };
    let data = counts(&crystal, 2);
    let image: Vec<f64> =
        (0..crystal.scan.len()).map(|f| f64::from(data[(f * crystal.det.rows + 22) * crystal.det.cols + 25])).collect();
    let difference = |dr: usize, dc: usize| {
        let pairs = (0..17).flat_map(|r| (0..21).map(move |c| (r * 24 + c, (r + dr) * 24 + c + dc)));
        pairs.map(|(a, b)| (image[a] - image[b]).powi(2)).sum::<f64>() / (17.0 * 21.0 * 1000.0)
    };
    // Two independent counts differ by twice their variance.
    for (dr, dc) in [(3, 0), (0, 3), (3, 3)] {
        assert!((1.3..2.5).contains(&difference(dr, dc)), "{dr}, {dc}: {}", difference(dr, dc));
    }
    assert!(difference(1, 0) > 5.0 && difference(1, 1) > 5.0, "{} and {}", difference(1, 0), difference(1, 1));
}

#[test]
fn an_exchanged_detector_shows_the_same_patterns_with_exchanged_axes() {
    let straight = SimulationSpec { scan: ScanShape::new(16, 18), counts: 3000.0, ..preset("rotated") };
    let straight = SimulationSpec { det: DetShape::new(40, 46), ..straight };
    let [row, col] = straight.center_offset;
    let exchanged = SimulationSpec {
        det: DetShape::new(46, 40),
        center_offset: [col, row],
        transposed_detector: true,
        ..straight.clone()
    };
    let ((y, x), (ty, tx)) = (straight.true_shifts(), exchanged.true_shifts());
    assert!(y.iter().zip(ty.t()).all(|(a, b)| (a - b).abs() < 1e-12 || a.is_nan() && b.is_nan()));
    assert!(x.iter().zip(tx.t()).all(|(a, b)| (a - b).abs() < 1e-12 || a.is_nan() && b.is_nan()));
    let (one, other) = (counts(&straight, 2), counts(&exchanged, 2));
    for frame in [0, 100, 287] {
        for (r, c) in [(12, 20), (20, 12), (28, 30), (25, 22), (2, 3)] {
            let here = f64::from(one[(frame * 40 + r) * 46 + c]);
            let there = f64::from(other[(frame * 46 + c) * 40 + r]);
            // Six standard deviations of the difference.
            assert!((here - there).abs() <= 6.0 * (here + there + 1.0).sqrt(), "{frame} {r} {c}: {here}, {there}");
        }
    }
}

#[test]
fn a_specification_survives_json_and_older_ones_are_read() {
    let spec = SimulationSpec {
        aberrations: Aberrations::parse(["C21=5e3@30", "C30=-1e7"]).expect("valid"),
        object: ObjectKind::Crystal { spacing_angstrom: 5.0, angle_deg: 3.0 },
        hot_pixels: vec![HotPixel { at: [1, 2], counts: 3.0 }],
        ..preset("medium")
    };
    let text = serde_json::to_string(&spec).expect("JSON");
    assert_eq!(serde_json::from_str::<SimulationSpec>(&text).expect("own JSON"), spec);
    assert!(text.contains(r#""C30":-10000000.0"#) && text.contains(r#""crystal":{"spacing"#), "{text}");
    let mut older = serde_json::to_value(preset("low")).expect("JSON");
    let keys = older.as_object_mut().expect("a table");
    for key in ["aberrations", "object", "absorption", "transposed_detector", "hot_pixels", "dead_pixels"] {
        assert!(keys.remove(key).is_some(), "{key}");
    }
    assert_eq!(serde_json::from_value::<SimulationSpec>(older).expect("older JSON"), preset("low"));
}

#[cfg(feature = "cli")]
#[test]
fn the_command_writes_the_true_shifts_of_all_orders() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("scan.mib");
    let command = |more: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_stemstream"))
            .args(["-q", "simulate"])
            .arg(&output)
            .args(["--scan=4,6", "--det=40,44", "--transposed", "--semiangle=12", "--step=3", "--c10=-700"])
            .args(["--aberration=C30=2e6", "--aberration", "C21=6e3@40", "--hot-pixel=3,4,500", "--dead-pixel=39,43"])
            .args(more)
            .output()
            .expect("the command")
    };
    for bad in [["--hot-pixel=1,2"], ["--dead-pixel=40,0"], ["--aberration=C11=5"], ["--det=4x4x4"]] {
        let refused = command(&bad);
        assert_eq!(refused.status.code(), Some(2), "{bad:?}");
        assert!(!output.exists());
    }
    let done = command(&[]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let names = String::from_utf8_lossy(&done.stdout).lines().count();
    let truth = std::fs::read_to_string(folder.path().join("scan_truth.json")).expect("the truth");
    let truth: serde_json::Value = serde_json::from_str(&truth).expect("JSON");
    let spec: SimulationSpec = serde_json::from_value(truth["spec"].clone()).expect("a specification");
    assert_eq!((names, spec.det, spec.aberrations.get(3, 0)[0]), (5, DetShape::new(40, 44), 2e6));
    assert_eq!(truth["aberrations"]["C10"], -700.0);

    let bytes = std::fs::read(folder.path().join("scan_shift_truth.npy")).expect("the shifts");
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]])) + 10;
    assert!(String::from_utf8_lossy(&bytes[10..header]).contains("(2, 40, 44)"));
    let found = bytes[header..].chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes")));
    let (rows, cols) = spec.true_shifts();
    assert!(found.zip(rows.iter().chain(&cols)).all(|(a, b)| (a - b).abs() < 1e-9 || a.is_nan() && b.is_nan()));
    let largest = rows.iter().zip(&cols).map(|(r, c)| r.hypot(*c)).fold(0.0, f64::max);
    // 700 Å and 12 mrad less 2e6 Å, with coma.
    assert!((truth["max_shift_scan_px"].as_f64().expect("a number") - largest).abs() < 1e-9 && largest > 1.5);
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
        SimulationSpec { absorption: 1.1, ..small.clone() },
        SimulationSpec { center_offset: [f64::INFINITY, 0.0], ..small.clone() },
        SimulationSpec { step_angstrom: 1e5, ..small.clone() },
        SimulationSpec { window: usize::MAX, ..small.clone() },
        SimulationSpec { dead_pixels: vec![[48, 0]], ..small.clone() },
        SimulationSpec { hot_pixels: vec![HotPixel { at: [0, 0], counts: f64::NAN }], ..small.clone() },
        SimulationSpec { aberrations: Aberrations::parse(["C30=1e13"]).expect("finite"), ..small.clone() },
        SimulationSpec { object: ObjectKind::Crystal { spacing_angstrom: 0.0, angle_deg: 0.0 }, ..small.clone() },
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
