//! Compares the shifts in an EMD results file with those of the simulation: `compare_with_truth TRUTH.json RESULT.emd`.
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::error::Error;

use ndarray::Array2;
use serde_json::{Value, to_value};
use stemstream::simulate::SimulationSpec;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [truth, result] = &arguments[..] else { return Err("usage: compare_with_truth TRUTH.json RESULT.emd".into()) };
    let spec = read_spec(&std::fs::read_to_string(truth)?)?;

    let runs = hdf5::File::open(result)?.group("superres_results")?;
    let last = runs.member_names()?.into_iter().filter(|name| name.starts_with("run_")).max().ok_or("no run in it")?;
    let run = runs.group(&last)?;
    let crop: Vec<usize> = run.group("parameters")?.attr("crop_bounds")?.read_raw()?;
    let maps: [Array2<f64>; 2] = [run.dataset("shift_y")?.read_2d()?, run.dataset("shift_x")?.read_2d()?];

    // Found and true shifts inside 0.95 of the disk; no shift is stored as half the scan.
    let none = [spec.scan.rows / 2, spec.scan.cols / 2].map(|half| half as f64);
    let (center, (true_rows, true_cols)) = (spec.true_center(), spec.true_shifts());
    let (mut at, mut found, mut errors, mut missing) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for ((row, col), &true_row) in true_rows.indexed_iter() {
        let position = [row as f64 - center[0], col as f64 - center[1]];
        if position[0].hypot(position[1]) > 0.95 * spec.disk_radius_px {
            continue;
        }
        if !((crop[0]..crop[1]).contains(&row) && (crop[2]..crop[3]).contains(&col)) {
            missing += 1;
            continue;
        }
        let shift = [0, 1].map(|axis| maps[axis][[row - crop[0], col - crop[2]]] - none[axis]);
        at.push(position);
        errors.push([shift[0] - true_row, shift[1] - true_cols[[row, col]]]);
        found.push(shift);
    }
    let mut distances: Vec<f64> = centred(&errors).iter().map(|[y, x]| y.hypot(*x)).collect();
    distances.sort_by(f64::total_cmp);
    let rms = (distances.iter().map(|d| d * d).sum::<f64>() / distances.len() as f64).sqrt();
    println!("{last}: {} detector pixels inside 0.95 of the disk, {missing} more outside the crop", at.len());
    println!("error of their shifts: RMS {rms:.3}, median {:.3} scan pixels\n", distances[distances.len() / 2]);

    let [c10, c12, rotation] = linear_fit(&spec, &at, &found);
    println!("{:<16}{:>10}{:>10}", "", "found", "true");
    println!("{:<16}{:>10.1}{:>10.1}", "defocus (Å)", -c10, -spec.c10_angstrom);
    println!("{:<16}{c12:>10.1}{:>10.1}", "astigmatism (Å)", spec.c12_angstrom);
    println!("{:<16}{rotation:>10.1}{:>10.1}", "rotation (°)", spec.rotation_deg);
    Ok(())
}

/// The specification, alone or under `spec`, whatever else there is.
fn read_spec(text: &str) -> Result<SimulationSpec, serde_json::Error> {
    let stored: Value = serde_json::from_str(text)?;
    let mut spec = stored.get("spec").unwrap_or(&stored).clone();
    let known = to_value(SimulationSpec::preset("small"))?;
    if let Some(keys) = spec.as_object_mut() {
        keys.retain(|key, _| known.get(key).is_some());
    }
    serde_json::from_value(spec)
}

fn centred(vectors: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let mean = [0, 1].map(|axis| vectors.iter().map(|v| v[axis]).sum::<f64>() / vectors.len() as f64);
    vectors.iter().map(|v| [v[0] - mean[0], v[1] - mean[1]]).collect()
}

/// C10 and C12 in Å and the rotation in degrees, from the plane that fits best: `shift = -R(-rotation) C angle / step`.
fn linear_fit(spec: &SimulationSpec, at: &[[f64; 2]], shifts: &[[f64; 2]]) -> [f64; 3] {
    let (at, shifts) = (centred(at), centred(shifts));
    let dot = |i: usize, j: usize, other: &[[f64; 2]]| at.iter().zip(other).map(|(a, b)| a[i] * b[j]).sum::<f64>();
    let (yy, yx, xx) = (dot(0, 0, &at), dot(0, 1, &at), dot(1, 1, &at));
    let unit = -spec.step_angstrom * spec.disk_radius_px / (spec.semiangle_mrad * 1e-3) / (yy * xx - yx * yx);
    let [[a, b], [c, d]] = [0, 1].map(|axis| {
        let (y, x) = (dot(0, axis, &shifts), dot(1, axis, &shifts));
        [unit * (xx * y - yx * x), unit * (yy * x - yx * y)]
    });
    // The rotation within ±90° that leaves a symmetric matrix: [[C10 + C12a, C12b], [C12b, C10 - C12a]].
    let angle = ((c - b) / (a + d)).atan();
    let (sin, cos) = angle.sin_cos();
    let [h00, h01, h11] = [cos * a + sin * c, cos * b + sin * d, cos * d - sin * b];
    [f64::midpoint(h00, h11), ((h00 - h11) / 2.0).hypot(h01), -angle.to_degrees()]
}
