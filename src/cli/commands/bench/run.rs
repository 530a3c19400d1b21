//! One run, measured.

use std::f64::consts::PI;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::axes::{Calibration, DType, DetShape, ScanShape};
use crate::cache::{Step, WorkingCache};
use crate::cli::commands::bench::roofline::{Roofline, Work};
use crate::cli::commands::bench::stages::{Recorder, Stage};
use crate::cli::commands::export;
use crate::cli::progress::Bars;
use crate::cli::report::Talk;
use crate::config::{Config, Merge, Mode};
use crate::error::{Error, Result};
use crate::machine::{FinishRates, MachineRates, StepRates};
use crate::pipeline::GraphReport;
use crate::progress::CancelToken;
use crate::session::{self, Results, Session};
use crate::steps;
use crate::store;

/// What is run on.
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// Made for this bench, with its calibration beside it.
    pub(super) generated: bool,
    /// Whether that one is to be used, for a scan that was made.
    pub(super) calibrated: bool,
    /// Whether it is to be in the system's memory.
    pub(super) warm: bool,
}

/// A run and what it took.
pub(super) struct Outcome {
    pub(super) config: Config,
    pub(super) input: PathBuf,
    pub(super) generated: bool,
    /// Whether it was in the system's memory.
    pub(super) warm: bool,
    /// Whether bigFT and the correlations were written to the HDF5 cache alone.
    pub(super) in_place: bool,
    /// Bytes of the stack in the type in which it was kept.
    pub(super) stack_bytes: f64,
    pub(super) shape: (ScanShape, DetShape, DType),
    pub(super) crop: DetShape,
    /// Detector pixels inside the disk, `π r²`.
    pub(super) disk_pixels: f64,
    /// Pixels of all upscaled images.
    pub(super) output: f64,
    pub(super) workers: usize,
    pub(super) seconds: f64,
    pub(super) peak_memory: u64,
    pub(super) stages: Vec<Stage>,
    pub(super) graphs: Vec<GraphReport>,
    pub(super) roofline: Roofline,
    /// Bytes/s at which the source can be read.
    read_rate: f64,
    /// Bytes of everything that was written.
    written: f64,
}

/// Runs all steps and exports on `source`, with everything that is written in a folder inside `place`, which is deleted.
pub(super) fn measure(
    source: &Source,
    config: &Config,
    place: &Path,
    rates: &MachineRates,
    (cancel, talk): (&CancelToken, &Talk),
) -> Result<Outcome> {
    let folder = place.join("run");
    store::create_folder(&folder)?;
    let config = config_for(source, config, &folder)?;
    // Whatever was read before: every bench of a file begins with a file that is on the disk only.
    store::write_out_path(&source.path)?;
    let read_rate = if source.warm { warmed(&source.path, cancel)? } else { rates.cold_read };
    talk.note(&format!("running on {} ({} mode)", source.path.display(), mode_name(&config)));
    let bars = Bars::new(talk);
    let recorder = Recorder::new(&bars);
    let mut session = Session::open(&source.path, config.clone(), true, &recorder, cancel)?;
    export::fill_in_place(&mut session);
    session.run_to(Step::Reconstruct)?;
    cancel.check()?;
    let info = session.source().map(|s| s.info().clone()).ok_or_else(|| Error::bug("a session without its source"))?;
    session.close_source();
    let in_place = session.filled_file().is_some();
    let cache = WorkingCache::open_for_reading(&session.cache_path())?;
    let stack_type = steps::stored_type(cache.group()).unwrap_or(info.dtype);
    let results = recorder.time("export", || -> Result<Results> {
        export::finish_in_place(&session)?;
        let mut results = Results::read(&session.cache_path())?;
        results.config.calibration = config.calibration.or(info.calibration);
        let existing = results.manifest.exports.get("hdf5").cloned();
        let times = (session::timestamp(), existing);
        export::write(&session.cache_path(), &mut results, times, |_| Ok(()), (talk, cancel))?;
        Ok(results)
    })?;
    let (graphs, workers) = (session.reports(), config.run.workers.unwrap_or_else(super::threads));
    drop(session);
    let seconds = recorder.now();
    let stages = recorder.finish();
    let written = store::disk_usage(&folder) as f64;
    store::remove_folder(&folder)?;
    let shape = (info.scan, info.det, info.dtype);
    let (crop, radius) = (results.disk.crop.shape(), results.disk.radius);
    let pixels = info.scan.len() * results.upscale() * results.upscale();
    let output = (pixels * steps::images_made(&results.config, &results.disk)) as f64;
    let stack_bytes = (crop.len() * info.scan.len() * stack_type.size()) as f64;
    let mut outcome = Outcome {
        input: source.path.clone(),
        generated: source.generated,
        warm: source.warm,
        in_place,
        stack_bytes,
        shape,
        crop,
        disk_pixels: (PI * radius * radius).min(crop.len() as f64),
        output,
        workers,
        seconds,
        peak_memory: crate::memory::peak_resident(),
        stages,
        graphs,
        roofline: Roofline::of(&Work::default(), rates, seconds),
        read_rate,
        written,
        config,
    };
    outcome.roofline = Roofline::of(&outcome.work(results.upscale()), rates, seconds);
    Ok(outcome)
}

/// Has the system hold a file in memory that is only on the disk, as far as it will; bytes/s at which it is read from there.
fn warmed(path: &Path, cancel: &CancelToken) -> Result<f64> {
    // In the large pieces in which the system reads ahead; what was written piece by piece would lie in small ones.
    store::time_reading(path, u64::MAX, cancel)?;
    let (seconds, bytes) = store::time_reading(path, u64::MAX, cancel)?;
    Ok(bytes as f64 / seconds)
}

/// The configuration with all results inside `folder`, and for a generated scan with the calibration beside it.
fn config_for(source: &Source, config: &Config, folder: &Path) -> Result<Config> {
    let mut config = config.clone();
    config.cache.folder = Some(folder.to_owned());
    config.export.folder = Some(folder.to_owned());
    if source.generated && !source.calibrated {
        config.calibration = Calibration::default();
    } else if source.generated {
        let beside = source.path.with_extension("toml");
        let known = Config::from_toml(&crate::read::read_text(&beside)?, &beside.display().to_string())?;
        config.calibration = config.calibration.or(known.calibration);
    }
    Ok(config)
}

pub(super) fn mode_name(config: &Config) -> &'static str {
    if config.run.mode == Mode::Lean { "lean" } else { "documented" }
}

impl Outcome {
    /// Bytes of the source's samples.
    fn source_bytes(&self) -> f64 {
        let (scan, det, dtype) = self.shape;
        (scan.len() * det.len() * dtype.size()) as f64
    }

    /// Detector pixels of the crop times scan positions; the same for those inside the disk.
    fn samples(&self) -> [f64; 2] {
        let positions = self.shape.0.len() as f64;
        [self.crop.len() as f64 * positions, self.disk_pixels * positions]
    }

    fn work(&self, upscale: usize) -> Work {
        let documented = self.config.run.mode == Mode::Documented;
        let [samples, _] = self.samples();
        let real = self.config.run.precision.size() as f64;
        let parametric = self.config.is_parametric();
        let fourier = self.config.merge() == Merge::Fourier;
        Work {
            positions: self.shape.0.len() as f64,
            crop: self.crop.len() as f64,
            disk: self.disk_pixels,
            passes: f64::from(u8::from(parametric) + u8::from(fourier)),
            fourier,
            upscale: upscale as f64,
            source: self.source_bytes(),
            kept: match (documented, self.config.export.hdf5 && cfg!(feature = "hdf5")) {
                (false, _) => 0.0,
                (true, true) => samples * 24.0,
                (true, false) => samples * 3.0 * real,
            },
            read_rate: self.read_rate,
            stack: self.stack_bytes,
            written: self.written,
        }
    }

    fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// The stage that took longest.
    pub(super) fn longest(&self) -> Option<&Stage> {
        self.stages.iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds))
    }

    /// Seconds of everything that no rate of a step covers.
    fn finish_seconds(&self) -> f64 {
        ["export", "other"].into_iter().filter_map(|name| self.stage(name)).map(|stage| stage.seconds).sum()
    }

    /// Takes the rates of the steps that this run had; of two measurements the mean counts, for runs are not always at
    /// their best either.
    fn update(&self, steps: &mut StepRates) {
        let [crop, disk] = self.samples();
        let seconds = |name: &str| self.stage(name).map(|stage| stage.seconds);
        let streaming = |name: &str| self.stage(name).map(|stage| stage.streaming_seconds);
        let rest = |name: &str| self.stage(name).map(|stage| stage.seconds - stage.streaming_seconds);
        steps.workers = self.workers;
        let mut set = |slot: fn(&mut StepRates) -> &mut f64, measured: Option<f64>, units: f64| {
            let slot = slot(steps);
            if let Some(rate) = measured.filter(|_| units > 0.0).map(|measured| measured / units) {
                *slot = if *slot > 0.0 { 0.5 * (*slot + rate) } else { rate };
            }
        };
        set(|s| &mut s.start, seconds("start"), 1.0);
        set(|s| &mut s.corner_turn, seconds("corner turn"), StepRates::turned(self.source_bytes(), self.stack_bytes));
        if self.config.run.mode == Mode::Lean {
            set(|s| &mut s.align_lean, seconds("align"), crop);
        } else {
            let slot: fn(&mut StepRates) -> &mut f64 =
                if self.in_place { |s| &mut s.align_in_place } else { |s| &mut s.align_documented };
            set(slot, seconds("align"), crop);
            let written = self.config.export.hdf5 && cfg!(feature = "hdf5") && !self.in_place;
            set(|s| &mut s.export_hdf5, seconds("export").filter(|_| written), crop);
        }
        set(|s| &mut s.fit, streaming("fit"), disk);
        set(|s| &mut s.search, rest("fit"), 1.0);
        set(|s| &mut s.refine_fixed, seconds("refine"), 1.0);
        set(|s| &mut s.merge, seconds("merge"), disk);
        let deposited = self.stage("reconstruct").map_or(0.0, |stage| stage.bytes as f64 / self.shape.2.size() as f64);
        set(|s| &mut s.deposit, seconds("reconstruct"), deposited);
    }

    /// Everything, as one object.
    pub(super) fn to_json(&self) -> Value {
        let (scan, det, dtype) = self.shape;
        let graphs: Vec<_> = self
            .graphs
            .iter()
            .map(|graph| {
                let bottleneck = graph.bottleneck().map(|block| block.name.as_str());
                json!({"name": graph.name, "seconds": graph.seconds, "bottleneck": bottleneck, "blocks": graph.blocks})
            })
            .collect();
        json!({
            "input": self.input,
            "generated": self.generated,
            "warm": self.warm,
            "mode": mode_name(&self.config),
            "method": if self.config.is_parametric() { "parametric" } else { "classic" },
            "calibrated": self.config.calibration.is_complete(),
            "workers": self.workers,
            "scan": [scan.rows, scan.cols],
            "det": [det.rows, det.cols],
            "dtype": dtype.name(),
            "crop": [self.crop.rows, self.crop.cols],
            "seconds": self.seconds,
            "source_bytes": self.source_bytes(),
            "bytes_per_second": self.source_bytes() / self.seconds,
            "peak_memory_bytes": self.peak_memory,
            "stages": self.stages,
            "graphs": graphs,
            "bottleneck": self.longest().map(|stage| stage.name.as_str()),
            "roofline": self.roofline,
        })
    }
}

/// What the steps take, from all runs on scans that were made for the purpose; zero where none says anything.
pub(super) fn step_rates(outcomes: &[Outcome]) -> StepRates {
    let positions = |outcome: &Outcome| outcome.shape.0.len() as f64;
    let mut runs: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.generated).collect();
    runs.sort_by(|a, b| positions(a).total_cmp(&positions(b)));
    let mut steps = StepRates::default();
    // Runs without a calibration are there for one rate.
    let uncalibrated = |run: &Outcome| run.config.is_parametric() && !run.config.calibration.is_complete();
    let plain = runs.extract_if(.., |run| uncalibrated(run)).last();
    let lean: Vec<_> = runs.iter().filter(|run| run.config.run.mode == Mode::Lean).collect();
    if let (Some(small), Some(large)) = (lean.first(), lean.last()) {
        let (at_small, at_large) = (small.finish_seconds(), large.finish_seconds());
        let more = large.output - small.output;
        let pixel = if more > 0.0 { ((at_large - at_small) / more).max(0.0) } else { 0.0 };
        let rates = FinishRates { fixed: (at_small - pixel * small.output).max(0.0), pixel };
        *(if large.config.is_parametric() { &mut steps.finish } else { &mut steps.finish_classic }) = rates;
    }
    // The rates are those of the larger scan: on a small one, fixed costs pass for slowness.
    let largest = runs.last().map_or(0.0, |run| positions(run));
    for run in runs.into_iter().filter(|run| positions(run) >= largest) {
        run.update(&mut steps);
    }
    if let Some(fit) = plain.and_then(|run| run.stage("fit")) {
        steps.search_uncalibrated = fit.seconds - fit.streaming_seconds;
    }
    steps
}
