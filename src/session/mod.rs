//! One dataset, its cache and its configuration: open, run to a step, resume, look at the results.

mod find;
mod image;
mod large;
mod parameters;
mod planning;
mod preview;
mod results;
mod run;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::json;

pub use find::{base_name, cache_folder, timestamp, workers, writers};
pub use large::LayOut;
pub(crate) use planning::cores;
#[cfg(feature = "hdf5")]
pub(crate) use planning::memory_limit;
pub use preview::Preview;
pub use results::Results;

use find::{Found, choose};
use planning::{Budget, around, export_folder, fixed_layout, in_place, network_advice, request, stored_stack};

use crate::cache::{Fingerprint, Layout, Manifest, Step, StepState, WorkingCache};
use crate::config::{Config, Mode};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::MemoryBudget;
use crate::pipeline::{Beside, GraphReport, Workers};
use crate::plan::Plan;
use crate::progress::{CancelToken, Progress};
use crate::read::{self, FrameSource};
use crate::steps::{self, BrightDisk, Detected, Reconstruction, RunContext};
use crate::store::Io;

/// A dataset with its working cache, ready to run.
pub struct Session<'a> {
    source: Option<Box<dyn FrameSource>>,
    input: PathBuf,
    config: Config,
    cache: Mutex<WorkingCache>,
    cancel: &'a CancelToken,
    progress: &'a dyn Progress,
    reports: Mutex<Vec<GraphReport>>,
    budget: MemoryBudget,
    planned: Budget,
    resumed: bool,
    lay_out: Option<Box<LayOut>>,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("input", &self.input).finish_non_exhaustive()
    }
}

impl<'a> Session<'a> {
    /// Opens a dataset and the cache that fits it best, or makes a new cache.
    ///
    /// A cache of the same source is resumed: what was computed with other parameters is forgotten, from the first
    /// step whose parameters changed. With `fresh`, existing caches are left alone and a new one is made.
    ///
    /// # Errors
    /// Whatever [`read::open`] says; [`Cache`](ErrorKind::Cache) when the source has changed since its cache was made,
    /// or when the cache is locked, damaged or newer.
    pub fn open(
        input: &Path,
        config: Config,
        fresh: bool,
        progress: &'a dyn Progress,
        cancel: &'a CancelToken,
    ) -> Result<Self> {
        let budget = Budget::of(&config)?;
        let source = read::open(input, &config.source)?;
        let mut config = config;
        config.calibration = config.calibration.or(source.info().calibration);
        config.check_calibration()?;
        let fingerprint = Fingerprint::of(&*source)?;
        let folder = cache_folder(input, &config);
        let found = if fresh { Found::Nothing } else { choose(&folder, &base_name(input), &fingerprint, &config)? };
        let found = match found {
            Found::Cache(path) => Some(path),
            Found::Nothing => None,
            Found::Other(path, keys) => {
                let path = path.display();
                progress.note(&format!(
                    "{keys} changed, so that nothing in {path} can be used; it stays, and a new cache is made"
                ));
                None
            }
        };
        let resumed = found.is_some();
        let cache = if let Some(path) = found {
            WorkingCache::open(&path)?
        } else {
            let info = source.info();
            let shape = (info.scan, info.det, info.dtype);
            WorkingCache::create(&folder, &base_name(input), &timestamp(), fingerprint, shape, stored_config(&config)?)?
        };
        let session =
            Self::assemble(Some(source), input.to_owned(), config, cache, (progress, cancel), (budget, resumed))?;
        session.forget_what_changed()?;
        Ok(session)
    }

    /// Opens a cache without its source, with the configuration that it was made with and `settings`
    /// (`section.key=value`) on top.
    ///
    /// # Errors
    /// [`Cache`](ErrorKind::Cache), [`Config`](ErrorKind::Config).
    pub fn from_cache(
        path: &Path,
        settings: &[String],
        progress: &'a dyn Progress,
        cancel: &'a CancelToken,
    ) -> Result<Self> {
        let cache = WorkingCache::open(path)?;
        let stored: Config = serde_json::from_value(cache.manifest().config.clone())
            .map_err(|e| Error::cache(path, format!("its configuration is damaged: {e}")))?;
        let config = stored.with_settings(settings.iter().map(String::as_str))?;
        config.check_calibration()?;
        let budget = Budget::of(&config)?;
        let input = cache.manifest().source.path.clone();
        let session = Self::assemble(None, input, config, cache, (progress, cancel), (budget, true))?;
        session.forget_what_changed()?;
        Ok(session)
    }

    fn assemble(
        source: Option<Box<dyn FrameSource>>,
        input: PathBuf,
        config: Config,
        mut cache: WorkingCache,
        (progress, cancel): (&'a dyn Progress, &'a CancelToken),
        (planned, resumed): (Budget, bool),
    ) -> Result<Self> {
        let stored = stored_config(&config)?;
        if cache.manifest().config != stored {
            cache.update(|m| m.config = stored)?;
        }
        if let Some(file) = cache.forget_lost()? {
            progress.warn(&format!(
                "`{}` was deleted or changed: its bigFT and correlations are not used any more",
                file.display()
            ));
        }
        let budget = MemoryBudget::new(planned.bytes);
        Ok(Self {
            source,
            input,
            config,
            cache: Mutex::new(cache),
            cancel,
            progress,
            reports: Mutex::default(),
            budget,
            planned,
            resumed,
            lay_out: None,
        })
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, WorkingCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The input file.
    pub fn input(&self) -> &Path {
        &self.input
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The cache's folder.
    pub fn cache_path(&self) -> PathBuf {
        self.cache().path().to_owned()
    }

    /// A copy of the cache's manifest as it is now.
    pub fn manifest(&self) -> Manifest {
        self.cache().manifest().clone()
    }

    /// The dataset, unless the session was opened from a cache alone.
    pub fn source(&self) -> Option<&dyn FrameSource> {
        self.source.as_deref()
    }

    /// Whether an existing cache is continued.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// The reports of all graphs that ran in this session.
    pub fn reports(&self) -> Vec<GraphReport> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The most memory that was charged to the budget at any moment.
    pub fn peak_charged(&self) -> u64 {
        self.budget.peak()
    }

    /// Compares the parameters of every step with those that the cache was made with, and forgets the first step that
    /// differs and all later ones.
    fn forget_what_changed(&self) -> Result<()> {
        let mut cache = self.cache();
        for step in Step::ALL {
            let wanted = parameters::of(step, &self.config);
            let Some(stored) = cache.manifest().parameters.get(&step) else { continue };
            if *stored == wanted {
                continue;
            }
            if self.source.is_none() && step <= Step::Stack {
                let keys = parameters::changed_keys(stored, &wanted).join(", ");
                drop(cache);
                return Err(self.needs_source(&format!("use another {keys}")));
            }
            let redone: Vec<_> = Step::ALL.into_iter().filter(|s| *s >= step).collect();
            let lost = redone.iter().any(|s| cache.manifest().state(*s) != StepState::Absent);
            if lost {
                let names: Vec<_> = redone.iter().map(|s| s.name()).collect();
                let changed = parameters::changed_keys(stored, &wanted).join(", ");
                self.progress.note(&format!("{changed} changed: {} will be done again", names.join(", ")));
            }
            cache.invalidate_from(step)?;
            break;
        }
        Ok(())
    }

    /// Step 1, or what the cache knows of it; the manifest on the disk does not say yet that it is done.
    fn detect(&self) -> Result<BrightDisk> {
        let stored = {
            let cache = self.cache();
            let manifest = cache.manifest();
            manifest.is_done(Step::Detect).then(|| manifest.results.get(&Step::Detect).cloned()).flatten()
        };
        if let Some(stored) = stored {
            return serde_json::from_value(stored)
                .map_err(|e| Error::cache(&self.cache_path(), format!("its disk is damaged: {e}")));
        }
        let source = self.source().ok_or_else(|| self.needs_source("detect the disk"))?;
        let Detected { disk, sampled_pattern, counts, warnings } =
            steps::detect(source, &self.config, &workers(&self.config)?, self.cancel)?;
        for warning in &warnings {
            self.progress.warn(warning);
        }
        let mut cache = self.cache();
        cache.group().write_image("sampled_pattern", &sampled_pattern, ["det_row", "det_col"])?;
        let result = serde_json::to_value(disk).map_err(|e| Error::bug(e.to_string()))?;
        cache.update_soon(|m| {
            // Earlier ones are about results that are not there any more.
            m.warnings = warnings;
            m.counts = counts;
            m.parameters.insert(Step::Detect, parameters::of(Step::Detect, &self.config));
            m.steps.insert(Step::Detect, StepState::Done { unsynced_boot: None });
            m.results.insert(Step::Detect, result);
        });
        Ok(disk)
    }

    fn needs_source(&self, what: &str) -> Error {
        Error::unresolved(format!("to {what}, the source `{}` is needed", self.input.display()))
            .with_hint("give the input file instead of the cache")
    }

    /// Runs everything that is not done yet, up to and including `target`.
    ///
    /// # Errors
    /// Whatever the steps say. What is done stays done: run again to go on.
    pub fn run_to(&self, target: Step) -> Result<()> {
        let Some(made) = self.steps_to(target)? else { return Ok(()) };
        workers(&self.config)?.install(|| self.keep_image([&made.image, &made.weights, &made.virtual_bf], &made.report))
    }

    /// Runs what is not done yet up to `target`; returns the image if it was made.
    fn steps_to(&self, target: Step) -> Result<Option<Reconstruction>> {
        if target <= Step::Correlate && target >= Step::Fft && self.config.run.mode == Mode::Lean {
            return Err(Error::config(format!("lean mode keeps no result of step `{target}`"))
                .with_hint("use `--set run.mode=documented`, or run to a later step"));
        }
        let disk = self.detect()?;
        if target == Step::Detect || (self.is_complete(target) && self.cache().manifest().is_done(target)) {
            return self.cache().write_down().map(|()| None);
        }
        let plan = match self.plan(&disk) {
            Ok(plan) => plan,
            Err(error) => {
                self.cache().write_down()?;
                return Err(error);
            }
        };
        if let Some(advice) = self.planned.advice() {
            self.progress.warn(&advice);
        }
        self.progress.note(&plan.summary(self.config.run.mode));
        if let Some(advice) = network_advice(&self.cache_path(), &plan) {
            self.progress.note(&advice);
        }
        self.cache().set_io(Io { map: plan.mapped, window: plan.write_window, direct: plan.direct });
        let workers = Workers::new(plan.workers)?;
        let scan = self.cache().manifest().scan;
        self.record_parameters(&plan)?;
        self.place_large_arrays(&plan, &disk)?;
        Beside::run(&self.cache, |beside| {
            let ctx = RunContext {
                source: self.source(),
                config: &self.config,
                cache: &self.cache,
                beside,
                plan: &plan,
                budget: &self.budget,
                workers: &workers,
                cancel: self.cancel,
                progress: self.progress,
                reports: &self.reports,
                scan,
                crop: disk.crop,
            };
            run::run_steps(&ctx, &disk, target)
        })
    }

    /// Whether nothing is left to do up to `target`, in the configured mode.
    fn is_complete(&self, target: Step) -> bool {
        let cache = self.cache();
        let manifest = cache.manifest();
        let kept = |step: Step| manifest.is_done(step) || manifest.is_dropped(step);
        let documented = self.config.run.mode == Mode::Lean || (kept(Step::Fft) && kept(Step::Correlate));
        manifest.is_done(target) && (target < Step::Shifts || documented)
    }

    /// Writes down how the arrays are cut and with which parameters, before the first of them is written.
    fn record_parameters(&self, plan: &Plan) -> Result<()> {
        let layout = Layout {
            slab_rows: plan.slab_rows,
            tile_rows: plan.tile_rows,
            tile_cols: plan.tile_cols,
            precision: self.config.run.precision,
        };
        self.cache().update(|m| {
            m.layout = Some(layout);
            for step in Step::ALL {
                m.parameters.insert(step, parameters::of(step, &self.config));
            }
        })
    }

    /// How the rest of the work would be cut.
    ///
    /// # Errors
    /// As [`Plan::make`].
    fn plan(&self, disk: &BrightDisk) -> Result<Plan> {
        let (shape, layout, existing, folder, exported, counts, stored, placed, unfinished) = {
            let cache = self.cache();
            let m = cache.manifest();
            let existing = crate::store::disk_usage(cache.path());
            let exported = m.exports.get("hdf5").is_some_and(|path| path.is_file());
            let stored = stored_stack(m, cache.group());
            let mut placed = in_place(&self.config, &self.input, Some(m));
            if m.placed.is_empty() && self.lay_out.is_none() {
                placed = [false; 2];
            }
            let unfinished = m.unfinished_file().map_or(0, crate::store::disk_usage);
            let path = cache.path().to_owned();
            let shape = (m.scan, m.det, m.dtype);
            (shape, fixed_layout(m), existing, path, exported, m.counts, stored, placed, unfinished)
        };
        let mut request = request(&self.config, shape, disk, self.source(), self.planned);
        request.fixed_layout = layout;
        (request.counts, request.stored_stack) = (counts, stored);
        // What was exported is not written again, and what the cache already holds is written in place.
        request.exports.hdf5 &= !exported;
        request.exports.in_place = placed;
        request.around =
            around(self.planned, self.source(), (&folder, existing), &export_folder(&self.input, &self.config));
        request.around.folders.export_existing = unfinished;
        let plan = match Plan::make(&request) {
            Err(e) if request.fixed_layout.is_some() && matches!(e.kind(), ErrorKind::Memory { .. }) => {
                request.fixed_layout = None;
                let plan = Plan::make(&request)?;
                self.progress.note(
                    "the memory budget is too small for the cache's tiles: fft and later steps will be done again",
                );
                self.cache().invalidate_from(Step::Fft)?;
                plan
            }
            other => other?,
        };
        let needed = plan.most_cache;
        match self.config.cache.quota {
            Some(quota) if quota.0 < needed => {
                Err(Error::new(ErrorKind::Disk { path: folder, needed, available: quota.0 })
                    .with_hint(format!("raise `cache.quota`, or {}", plan.disk_cost.keep_less())))
            }
            _ => Ok(plan),
        }
    }

    /// Remembers a file that was exported from the large arrays, so that it is not written again while they stay.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io).
    pub fn remember_export(&self, kind: &str, path: &Path) -> Result<()> {
        self.cache().update(|m| {
            m.exports.insert(kind.to_owned(), path.to_owned());
        })
    }

    /// Closes the source file, so that results can be added to it.
    pub fn close_source(&mut self) {
        self.source = None;
    }

    /// Deletes what `config.cache.keep` says is not to stay; `None` when the whole cache is gone.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io).
    pub fn apply_retention(self) -> Result<Option<PathBuf>> {
        use crate::config::Keep;
        let keep = self.config.cache.keep;
        let mut cache = self.cache.into_inner().unwrap_or_else(PoisonError::into_inner);
        match keep {
            Keep::All => {}
            Keep::Stack => {
                for step in [Step::Fft, Step::Correlate] {
                    if cache.manifest().is_done(step) {
                        cache.drop_array(step)?;
                    }
                }
            }
            Keep::None => {
                WorkingCache::delete(cache.path())?;
                return Ok(None);
            }
        }
        Ok(Some(cache.path().to_owned()))
    }
}

/// A configuration as manifests hold it.
fn stored_config(config: &Config) -> Result<serde_json::Value> {
    serde_json::to_value(config).map_err(|e| Error::bug(format!("configuration to JSON: {e}")))
}

/// The number of documented steps that a cache has completed (1–5), as the documented HDF5 cache counts them.
pub fn steps_completed(manifest: &Manifest) -> usize {
    let done = |step: Step| {
        manifest.is_done(step) || manifest.results.get(&step).is_some_and(|r| *r == json!({"dropped": true}))
    };
    if manifest.is_done(Step::Reconstruct) {
        return 5;
    }
    if manifest.is_done(Step::Shifts) {
        return 4;
    }
    [Step::Detect, Step::Fft, Step::Correlate].into_iter().take_while(|s| done(*s)).count()
}
