//! What a run would do, without doing it.

use std::path::{Path, PathBuf};

use crate::cache::Fingerprint;
use crate::config::Config;
use crate::error::Result;
use crate::plan::Plan;
use crate::progress::CancelToken;
use crate::read::{self, DatasetInfo};
use crate::session::{Found, base_name, cache_folder, choose, request};
use crate::steps::{self, BrightDisk};
use crate::store::free_disk;

/// A look ahead: the disk, the plan and the cache that would be continued.
#[derive(Debug, Clone)]
pub struct Preview {
    /// What the headers say.
    pub info: DatasetInfo,
    /// The bright-field disk, found in a sample of frames.
    pub disk: BrightDisk,
    /// How the work would be cut, as for a fresh run.
    pub plan: Plan,
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
        let source = read::open(input, &config.source)?;
        let info = source.info().clone();
        let detected = steps::detect(&*source, config, cancel)?;
        let folder = cache_folder(input, config);
        let cache = match choose(&folder, &base_name(input), &Fingerprint::of(&*source)?, config) {
            Ok(Found::Cache(path)) => Some(path),
            _ => None,
        };
        let shape = (info.scan, info.det, info.dtype);
        let mut request = request(config, shape, &detected.disk, source.block_bytes(1), Some(&*source));
        request.free_disk = free_disk(&folder);
        let plan = Plan::make(&request)?;
        Ok(Self { info, disk: detected.disk, plan, cache, warnings: detected.warnings })
    }
}
