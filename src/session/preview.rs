//! What a run would do, without doing it.

use std::path::{Path, PathBuf};

use crate::cache::{Fingerprint, Manifest};
use crate::config::Config;
use crate::error::{ErrorKind, Result};
use crate::plan::{Plan, StepTime};
use crate::progress::CancelToken;
use crate::read::{self, DatasetInfo};
use crate::session::planning::{
    Budget, around, export_folder, fixed_layout, in_place, network_advice, request, stored_stack_in, timing,
};
use crate::session::{Found, base_name, cache_folder, choose, workers};
use crate::steps::{self, BrightDisk};
use crate::store::{disk_usage, rates_path, read_rates};

/// A look ahead: the disk, the plan and the cache that would be continued.
#[derive(Debug, Clone)]
pub struct Preview {
    /// What the headers say.
    pub info: DatasetInfo,
    /// The bright-field disk, found in a sample of frames.
    pub disk: BrightDisk,
    /// How the work would be cut: as in the cache that would be continued, where there is one.
    pub plan: Plan,
    /// What the steps of a fresh run are expected to take, and the steps whose rate was not measured; `None` on a machine
    /// that was not measured (`stemstream bench`).
    pub time: Option<(Vec<StepTime>, Vec<&'static str>)>,
    /// The cache that would be continued.
    pub cache: Option<PathBuf>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Preview {
    /// Looks at the headers and at a sample of frames, and plans. Writes nothing.
    ///
    /// # Errors
    /// As [`read::open`], [`steps::detect`] and [`Plan::make`].
    pub fn of(input: &Path, config: &Config, cancel: &CancelToken) -> Result<Self> {
        let budget = Budget::of(config)?;
        let source = read::open(input, &config.source)?;
        let info = source.info().clone();
        let mut config = config.clone();
        config.calibration = config.calibration.or(info.calibration);
        let detected = steps::detect(&*source, &config, &workers(&config)?, cancel)?;
        let folder = cache_folder(input, &config);
        let cache = match choose(&folder, &base_name(input), &Fingerprint::of(&*source)?, &config) {
            Ok(Found::Cache(path)) => Some(path),
            _ => None,
        };
        let shape = (info.scan, info.det, info.dtype);
        let mut request = request(&config, shape, &detected.disk, Some(&*source), budget);
        let manifest = cache.as_deref().and_then(|path| Manifest::read(path).ok());
        let existing = cache.as_deref().map_or(0, disk_usage);
        request.fixed_layout = manifest.as_ref().and_then(fixed_layout);
        request.counts = detected.counts;
        request.exports.in_place = in_place(&config, input, manifest.as_ref());
        request.stored_stack = cache.as_deref().and_then(stored_stack_in);
        request.around = around(budget, Some(&*source), (&folder, existing), &export_folder(input, &config));
        let unfinished = manifest.as_ref().and_then(Manifest::unfinished_file);
        request.around.folders.export_existing = unfinished.map_or(0, disk_usage);
        let plan = match Plan::make(&request) {
            // As the run will do: with so little memory the cache's tiles are made again.
            Err(e) if request.fixed_layout.is_some() && matches!(e.kind(), ErrorKind::Memory { .. }) => {
                request.fixed_layout = None;
                Plan::make(&request)?
            }
            other => other?,
        };
        let mut warnings = detected.warnings;
        warnings.extend(budget.advice());
        warnings.extend(network_advice(&folder, &plan));
        let rates = rates_path().and_then(|path| read_rates(&path));
        let time = rates.map(|rates| timing(&config, &detected.disk, &request).of(&plan, &rates));
        // A bench of a user's own scan measures the machine, but no step.
        let time = time.filter(|(steps, _)| !steps.is_empty());
        Ok(Self { info, disk: detected.disk, plan, cache, time, warnings })
    }
}
