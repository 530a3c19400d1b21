//! `stemstream info`: what the headers say. Reads no frames.

use std::fmt::Write as _;

use crate::cli::args::InfoArgs;
use crate::cli::report;
use crate::error::{Error, Result};
use crate::memory::ByteSize;
use crate::read::{self, DatasetInfo};

pub(in crate::cli) fn run(args: &InfoArgs) -> Result<()> {
    let mut config = args.config.config()?;
    config.source.unknown_scan_as_row = true;
    for input in &args.inputs {
        let source = read::open(input, &config.source)?;
        if args.json {
            let json = serde_json::to_string(source.info()).map_err(|e| Error::bug(format!("info to JSON: {e}")))?;
            report::data(&json);
        } else {
            report::text(&describe(source.info()));
        }
    }
    Ok(())
}

fn describe(info: &DatasetInfo) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<12} {value}");
    };
    line("file", info.path.display().to_string());
    line("format", info.format.clone());
    line("scan", format!("{} positions", info.scan));
    line("detector", format!("{} pixels", info.det));
    line("samples", format!("{}, {}", info.dtype, ByteSize(info.payload_bytes)));
    line("layout", info.layout.clone());
    for evidence in &info.scan_evidence {
        line("evidence", format!("scan {} from {} ({:?})", evidence.scan, evidence.source, evidence.confidence));
    }
    let c = &info.calibration;
    for (name, value, unit) in [
        ("energy", c.energy_ev, "eV"),
        ("semi-angle", c.semiangle_mrad, "mrad"),
        ("scan step", c.scan_step_angstrom, "Å"),
        ("detector px", c.detector_mrad_per_px, "mrad"),
        ("rotation", c.rotation_deg, "°"),
        ("defocus", c.defocus_angstrom, "Å"),
    ] {
        if let Some(value) = value {
            line(name, format!("{value} {unit}"));
        }
    }
    for (key, value) in &info.metadata {
        line(key, value.clone());
    }
    for warning in &info.warnings {
        line("warning", warning.clone());
    }
    text
}
