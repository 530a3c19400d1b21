//! `stemstream simulate`: a scan with known aberrations, as a Merlin file.

use std::path::Path;

use serde_json::json;

use crate::axes::ScanShape;
use crate::cli::args::{SimulateArgs, parse_scan};
use crate::cli::progress::Bars;
use crate::cli::report::{self, Talk};
use crate::error::{Error, Result};
use crate::export::mib::{MibDepth, MibWriter};
use crate::pipeline::Workers;
use crate::progress::CancelToken;
use crate::simulate::{SimulationSpec, simulate};
use crate::store::atomic_write;

pub(in crate::cli) fn run(args: &SimulateArgs, talk: &Talk, cancel: &CancelToken) -> Result<()> {
    let spec = spec(args)?;
    spec.check()?;
    let [truth, config] = ["_truth.json", ".toml"].map(|suffix| beside(&args.output, suffix));
    for path in [&truth, &config] {
        if path.exists() {
            return Err(Error::config(format!("`{}` exists already", path.display()))
                .with_hint("choose another name: nothing is written over"));
        }
    }
    let workers = args.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let mut writer = MibWriter::create(&args.output, spec.scan, spec.det, MibDepth::U16)?;
    let bars = Bars::new(talk);
    Workers::new(workers)?.install(|| simulate(&spec, workers, cancel, &bars, &mut |_, frames| writer.push(frames)))?;
    let [mib, hdr] = writer.finish()?;
    let calibration = spec.calibration();
    let known = json!({"spec": spec, "calibration": calibration, "center": spec.true_center()});
    let known = serde_json::to_string_pretty(&known).map_err(|e| Error::bug(format!("truth to JSON: {e}")))?;
    atomic_write(&truth, known.as_bytes())?;
    // Merlin files say nothing of energy or steps; whoever recorded the scan knows. The truth stays out of it.
    let known = crate::axes::Calibration { rotation_deg: None, defocus_angstrom: None, ..calibration };
    let toml = toml::to_string(&known).map_err(|e| Error::bug(format!("calibration to TOML: {e}")))?;
    atomic_write(&config, format!("[calibration]\n{toml}").as_bytes())?;
    for path in [&mib, &hdr, &truth, &config] {
        report::data(&path.display().to_string());
    }
    Ok(())
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
    spec.seed = args.seed.unwrap_or(spec.seed);
    spec.c10_angstrom = args.c10.unwrap_or(spec.c10_angstrom);
    spec.c12_angstrom = args.c12.unwrap_or(spec.c12_angstrom);
    spec.rotation_deg = args.rotation.unwrap_or(spec.rotation_deg);
    spec.counts = args.counts.unwrap_or(spec.counts);
    Ok(spec)
}

/// `scan.mib` and `_truth.json` → `scan_truth.json`.
fn beside(path: &Path, suffix: &str) -> std::path::PathBuf {
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!("{stem}{suffix}"))
}
