//! `stemstream bench`: how fast this machine is, and how near a run comes to that.

mod machine;
mod roofline;
mod run;
mod stages;
mod text;

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::axes::ScanShape;
use crate::cli::args::BenchArgs;
use crate::cli::commands::simulate::{write_calibration, write_fast};
use crate::cli::progress::Bars;
use crate::cli::report::{self, Talk};
use crate::config::{Config, Mode};
use crate::error::{Error, ErrorKind, Result};
use crate::machine::MachineRates;
use crate::pipeline::Workers;
use crate::progress::CancelToken;
use crate::simulate::SimulationSpec;
use crate::store;
use run::{Outcome, Source};

/// Bytes of the generated scan, and of one that is quick.
const SIZE: u64 = 512 << 20;
const QUICK_SIZE: u64 = 64 << 20;
/// Bytes of a second scan, which tells what grows with the scan from what does not.
const SMALL_SIZE: u64 = 32 << 20;
/// Fewest rows and columns of a generated scan: less says nothing about any method.
const LEAST_SIDE: usize = 48;

pub(in crate::cli) fn run(args: &BenchArgs, talk: &Talk, cancel: &CancelToken) -> Result<()> {
    let config = args.config.config()?;
    if let Some(input) = &args.input {
        // A file that cannot be read is found out before anything is measured.
        crate::read::open(input, &config.source)?;
    }
    let size = args.size.map_or(if args.quick { QUICK_SIZE } else { SIZE }, |size| size.0);
    let place = args.folder.clone().unwrap_or_else(std::env::temp_dir);
    require_free(&place, if args.input.is_some() { 0 } else { size }, size)?;
    let folder = Scratch::new(&place)?;
    let bars = Bars::new(talk);
    let workers = Workers::new(config.run.workers.unwrap_or_else(threads))?;

    talk.note("measuring the disk, the memory and the transforms");
    let mut rates = MachineRates::of_this_machine();
    machine::measure(&mut rates, &folder.0, (size, args.quick), &workers, cancel)?;
    let measure = |source: &Source, config: &Config| run::measure(source, config, &folder.0, &rates, (cancel, talk));
    // The quicker one of two: what a run finds of a machine that has just done something else is a matter of chance, above
    // all how much new memory costs, and makes it slower only.
    let quicker = |source: &Source, config: &Config| -> Result<Outcome> {
        let (first, second) = (measure(source, config)?, measure(source, config)?);
        Ok(if second.seconds < first.seconds { second } else { first })
    };
    let made = |name: &str, size: u64| generated(&folder.0.join(name), size, &workers, (cancel, &bars), talk);
    let mut outcomes = Vec::new();
    if let Some(input) = &args.input {
        outcomes.push(measure(
            &Source { path: input.clone(), generated: false, calibrated: true, warm: args.warm },
            &config,
        )?);
    } else {
        let source = made("scan.mib", size)?;
        let lean = config.with_settings(["run.mode=lean"])?;
        // Everything that a prediction needs: what does not grow with the scan, and both modes. Documented mode comes
        // last, since the disk is busy long after it.
        if !args.quick {
            let small = made("small.mib", SMALL_SIZE.min(size / 4))?;
            outcomes.push(quicker(&small, &lean)?);
            if config.is_parametric() {
                outcomes.push(quicker(&Source { calibrated: false, ..small }, &lean)?);
            }
            outcomes.push(quicker(&source, &lean)?);
        }
        if args.quick {
            outcomes.push(measure(&source, &config)?);
        } else if config.run.mode == Mode::Documented {
            outcomes.push(quicker(&source, &config)?);
        }
    }
    let saved = save(&mut rates, &outcomes, talk);
    folder.remove()?;
    if args.json {
        let runs: Vec<_> = outcomes.iter().map(Outcome::to_json).collect();
        report::data(
            &json!({"machine": rates, "saved": saved, "runs": runs, "warnings": talk.take_warnings()}).to_string(),
        );
    } else {
        report::text(&text::report(&rates, saved.as_deref(), &outcomes));
    }
    Ok(())
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A folder of its own for everything that a bench writes; it goes whatever happens, except to a killed process.
struct Scratch(PathBuf);

impl Scratch {
    fn new(place: &Path) -> Result<Self> {
        if !place.is_dir() {
            return Err(Error::config(format!("`{}` is no folder", place.display()))
                .with_hint("`--folder` takes a folder that is there; a new one is made in it"));
        }
        let folder = place.join(format!("stemstream_bench_{}", std::process::id()));
        if folder.symlink_metadata().is_ok() {
            return Err(Error::config(format!("`{}` is there already", folder.display())).with_hint(
                "it is what a killed bench left behind: remove it, or choose another place with `--folder`",
            ));
        }
        store::create_folder(&folder)?;
        Ok(Self(folder))
    }

    fn remove(&self) -> Result<()> {
        store::remove_folder(&self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After an error there is a better one to report.
        let _ = self.remove();
    }
}

/// The file that measures the disk and the scan lie there one after the other, with the caches of one run beside it.
fn require_free(place: &Path, scan: u64, probe: u64) -> Result<()> {
    let needed = scan.max(probe).saturating_add(64 << 20);
    match store::free_disk(place) {
        Some(available) if available < needed => {
            Err(Error::new(ErrorKind::Disk { path: place.to_owned(), needed, available })
                .with_hint("choose another place with `--folder DIR`, or less with `--size`"))
        }
        _ => Ok(()),
    }
}

/// A scan of about `size` bytes with known aberrations.
fn generated(
    path: &Path,
    size: u64,
    workers: &Workers,
    (cancel, bars): (&CancelToken, &Bars<'_>),
    talk: &Talk,
) -> Result<Source> {
    let base = SimulationSpec::preset("large").ok_or_else(|| Error::bug("no preset `large`"))?;
    let frame = 2 * base.det.len() as u64;
    // Whole multiples of 16: transforms of such lengths are fast, as those of real scans are.
    let side = (((size / frame) as f64).sqrt() / 16.0).round() as usize * 16;
    let side = side.max(LEAST_SIDE);
    let spec = SimulationSpec { scan: ScanShape::new(side, side), ..base };
    talk.note(&format!("making a scan of {} positions with {} detector pixels", spec.scan, spec.det));
    write_fast(path, &spec, workers, (cancel, bars))?;
    write_calibration(&path.with_extension("toml"), &spec)?;
    Ok(Source { path: path.to_owned(), generated: true, calibrated: true, warm: true })
}

/// Saves the rates; the ones of steps that this bench did not run stay as they were. Where they are; `None` when they
/// could not be saved, which is worth a warning and no failure.
fn save(rates: &mut MachineRates, outcomes: &[Outcome], talk: &Talk) -> Option<PathBuf> {
    let path = store::rates_path();
    let before = path.as_deref().and_then(store::read_rates).map(|rates| rates.steps).unwrap_or_default();
    rates.steps = run::step_rates(outcomes).or(&before);
    let Some(path) = path else {
        talk.warn("the rates of this machine are not saved: neither XDG_CACHE_HOME nor HOME is set");
        return None;
    };
    match store::write_rates(&path, rates) {
        Ok(()) => Some(path),
        Err(error) => {
            talk.warn(&format!("the rates of this machine are not saved: {error}"));
            None
        }
    }
}
