//! `stemstream simulate`: a scan with known aberrations, as a Merlin file.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::axes::{Calibration, DetShape, Image, ScanShape};
use crate::cli::args::{SimulateArgs, parse_scan};
use crate::cli::progress::Bars;
use crate::cli::report::{self, Talk};
use crate::error::{Error, Result};
use crate::export::arrays::write_npy_pair;
use crate::export::mib::{MibDepth, MibWriter, ParallelMib};
use crate::kernel::aberrations::Aberrations;
use crate::memory::MemoryBudget;
use crate::pipeline::Workers;
use crate::progress::{CancelToken, Progress};
use crate::simulate::{FastScan, HotPixel, ObjectKind, SimulationSpec, simulate};
use crate::store::atomic_write;

pub(in crate::cli) fn run(args: &SimulateArgs, talk: &Talk, cancel: &CancelToken) -> Result<()> {
    let spec = spec(args)?;
    spec.check()?;
    let [truth, shifts, config] =
        ["_truth.json", "_shift_truth.npy", ".toml"].map(|suffix| beside(&args.output, suffix));
    for path in [&truth, &shifts, &config] {
        if path.exists() {
            return Err(Error::config(format!("`{}` exists already", path.display()))
                .with_hint("choose another name: nothing is written over"));
        }
    }
    let workers = args.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let bars = Bars::new(talk);
    let pool = Workers::new(workers)?;
    let ([mib, hdr], period) = if args.fast {
        let (files, period) = write_fast(&args.output, &spec, &pool, (cancel, &bars))?;
        (files, Some(period))
    } else {
        let mut writer = MibWriter::create(&args.output, spec.scan, spec.det, MibDepth::U16)?;
        pool.install(|| simulate(&spec, workers, cancel, &bars, &mut |_, frames| writer.push(frames)))?;
        (writer.finish()?, None)
    };
    let (rows, cols) = spec.true_shifts();
    atomic_write(&truth, known(&spec, [&rows, &cols], period)?.as_bytes())?;
    let shifts = write_npy_pair(&shifts, [&rows, &cols])?;
    write_calibration(&config, &spec)?;
    for path in [&mib, &hdr, &truth, &shifts, &config] {
        report::data(&path.display().to_string());
    }
    Ok(())
}

/// Writes a configuration with the calibration of a scan.
///
/// Merlin files say nothing of energy or steps; whoever recorded the scan knows. The truth stays out of it.
pub(super) fn write_calibration(path: &Path, spec: &SimulationSpec) -> Result<()> {
    let calibration = Calibration { rotation_deg: None, defocus_angstrom: None, ..spec.calibration() };
    let toml = toml::to_string(&calibration).map_err(|e| Error::bug(format!("calibration to TOML: {e}")))?;
    atomic_write(path, format!("[calibration]\n{toml}").as_bytes())
}

/// Writes a fast scan; its two files, and the period of its object.
pub(super) fn write_fast(
    output: &Path,
    spec: &SimulationSpec,
    pool: &Workers,
    (cancel, progress): (&CancelToken, &dyn Progress),
) -> Result<([PathBuf; 2], ScanShape)> {
    FastScan::check(spec)?;
    let writer = ParallelMib::create(output, spec.scan, spec.det)?;
    let budget = MemoryBudget::new(writer.buffer_bytes(pool.count()));
    let scan = pool.install(|| FastScan::prepare(spec, cancel, progress))?;
    let fill = |index: usize, out: &mut [u8]| {
        scan.fill_be(index, out);
        Ok(())
    };
    let (files, _) = writer.write(pool.count(), &budget, (cancel, progress), &fill)?;
    Ok((files, scan.period()))
}

/// What is true of the scan, as JSON; the period of the object, where it has one, in scan positions.
fn known(spec: &SimulationSpec, shifts: [&Image; 2], period: Option<ScanShape>) -> Result<String> {
    let largest = shifts[0].iter().zip(shifts[1]).map(|(r, c)| r.hypot(*c)).fold(0.0, f64::max);
    let known = json!({
        "spec": spec,
        "calibration": spec.calibration(),
        "center": spec.true_center(),
        "aberrations": spec.all_aberrations(),
        "max_shift_scan_px": largest,
        "period": period.map(|p| [p.rows, p.cols]),
    });
    serde_json::to_string_pretty(&known).map_err(|e| Error::bug(format!("truth to JSON: {e}")))
}

fn spec(args: &SimulateArgs) -> Result<SimulationSpec> {
    let mut spec = SimulationSpec::preset(&args.preset).ok_or_else(|| {
        Error::config(format!("unknown preset `{}`", args.preset))
            .with_hint(format!("presets are {}", SimulationSpec::PRESETS.join(", ")))
    })?;
    if let Some(scan) = &args.scan {
        let [rows, cols] = parse_scan(scan)?;
        spec.scan = ScanShape::new(rows, cols);
    }
    if let Some(det) = &args.det {
        let [rows, cols] = numbers("--det", "ROWS,COLS", det)?;
        spec.det = DetShape::new(rows, cols);
        spec.window = spec.window.max(rows).max(cols);
    }
    for (value, given) in [
        (&mut spec.disk_radius_px, args.radius),
        (&mut spec.semiangle_mrad, args.semiangle),
        (&mut spec.step_angstrom, args.step),
        (&mut spec.c10_angstrom, args.c10),
        (&mut spec.c12_angstrom, args.c12),
        (&mut spec.phi12_deg, args.phi12),
        (&mut spec.rotation_deg, args.rotation),
        (&mut spec.counts, args.counts),
        (&mut spec.absorption, args.absorption),
    ] {
        *value = given.unwrap_or(*value);
    }
    spec.seed = args.seed.unwrap_or(spec.seed);
    spec.aberrations = Aberrations::parse(&args.aberrations)?;
    spec.transposed_detector = args.transposed;
    spec.object = match args.object.as_str() {
        "vacuum" => ObjectKind::Vacuum,
        "crystal" => ObjectKind::Crystal { spacing_angstrom: args.spacing, angle_deg: 0.0 },
        _ => ObjectKind::Film,
    };
    for text in &args.hot_pixels {
        let [row, col, counts] = numbers("--hot-pixel", "ROW,COL,COUNTS", text)?;
        spec.hot_pixels.push(HotPixel { at: [row, col], counts: counts as f64 });
    }
    for text in &args.dead_pixels {
        spec.dead_pixels.push(numbers("--dead-pixel", "ROW,COL", text)?);
    }
    Ok(spec)
}

/// Whole numbers with commas between them.
fn numbers<const N: usize>(option: &str, expected: &str, text: &str) -> Result<[usize; N]> {
    let parsed: Option<Vec<usize>> = text.split(',').map(|n| n.trim().parse().ok()).collect();
    parsed
        .and_then(|numbers| numbers.try_into().ok())
        .ok_or_else(|| Error::config(format!("`{option} {text}`: expected {expected} (whole numbers)")))
}

/// `scan.mib` and `_truth.json` → `scan_truth.json`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!("{stem}{suffix}"))
}
