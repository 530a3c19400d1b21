//! A small simulated scan for the examples to work on.

use std::path::PathBuf;

use stemstream::axes::{DetShape, ScanShape};
use stemstream::export::mib::{MibDepth, MibWriter};
use stemstream::pipeline::Workers;
use stemstream::progress::{CancelToken, Silent};
use stemstream::simulate::{SimulationSpec, simulate};
use stemstream::{Result, store};

/// A scan of 48×48 positions on 32×32 detector pixels (5 MB), 1500 Å underfocused.
pub(crate) fn small_scan() -> SimulationSpec {
    let small = SimulationSpec::preset("small").expect("a preset of that name");
    SimulationSpec {
        scan: ScanShape::new(48, 48),
        det: DetShape::new(32, 32),
        window: 64,
        disk_radius_px: 10.0,
        counts: 200.0,
        ..small
    }
}

/// Simulates the scan as a Merlin file in a new folder for temporary files.
pub(crate) fn write_scan(example: &str, spec: &SimulationSpec) -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("stemstream_example_{example}"));
    if folder.exists() {
        store::remove_folder(&folder)?;
    }
    store::create_folder(&folder)?;
    let path = folder.join("scan.mib");
    let mut file = MibWriter::create(&path, spec.scan, spec.det, MibDepth::U16)?;
    let workers = Workers::new(2)?;
    workers.install(|| {
        simulate(spec, workers.count(), &CancelToken::new(), &Silent, &mut |_, frames| file.push(frames))
    })?;
    file.finish()?;
    Ok(path)
}
