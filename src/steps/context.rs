//! What every step needs around it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::axes::{Crop, Image, ScanShape};
use crate::cache::{Step, WorkingCache};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::memory::MemoryBudget;
use crate::pipeline::{Beside, GraphReport, Workers};
use crate::plan::Plan;
use crate::progress::{CancelToken, Progress};
use crate::read::FrameSource;

/// The surroundings of a running step.
pub struct RunContext<'a> {
    /// The dataset; `None` when a cache is worked on without its source.
    pub source: Option<&'a dyn FrameSource>,
    /// Parameters.
    pub config: &'a Config,
    /// The working cache, locked for short moments by the blocks that mark their tiles.
    pub cache: &'a Mutex<WorkingCache>,
    /// Brings small results into the cache while the run goes on. What it was given is not in the cache, nor marked there,
    /// before it is [settled](Beside::settle).
    pub beside: &'a Beside<Mutex<WorkingCache>>,
    /// How to cut the work.
    pub plan: &'a Plan,
    /// The account of all large buffers.
    pub budget: &'a MemoryBudget,
    /// Threads for data-parallel loops.
    pub workers: &'a Workers,
    /// Asks the step to stop.
    pub cancel: &'a CancelToken,
    /// Who watches.
    pub progress: &'a dyn Progress,
    /// Where the graphs that ran leave their reports.
    pub reports: &'a Mutex<Vec<GraphReport>>,
    /// The scan's shape.
    pub scan: ScanShape,
    /// The crop.
    pub crop: Crop,
}

impl std::fmt::Debug for RunContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunContext").field("scan", &self.scan).field("crop", &self.crop).finish_non_exhaustive()
    }
}

/// The cache, for a short moment.
pub(super) fn locked(cache: &Mutex<WorkingCache>) -> MutexGuard<'_, WorkingCache> {
    // A panicking holder leaves the manifest as it was last written, which is consistent.
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes images with the names of their axes into the cache. The cache is not locked meanwhile.
pub(super) fn write_images(cache: &Mutex<WorkingCache>, images: &[(&str, &Image, [&str; 2])]) -> Result<()> {
    let group = locked(cache).group().clone();
    group.write_images(images)
}

impl RunContext<'_> {
    /// The cache, for a short moment.
    pub(super) fn cache(&self) -> MutexGuard<'_, WorkingCache> {
        locked(self.cache)
    }

    /// Whether a step is complete in the cache.
    pub fn is_done(&self, step: Step) -> bool {
        self.cache().manifest().is_done(step)
    }

    /// The dataset.
    pub(super) fn source(&self) -> Result<&dyn FrameSource> {
        self.source.ok_or_else(|| {
            Error::unresolved("this needs the source file, which was not given")
                .with_hint("give the input file as an argument")
        })
    }

    /// Keeps a graph's report for the summary.
    pub(super) fn report(&self, report: GraphReport) {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).push(report);
    }
}
