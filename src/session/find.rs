//! Names, folders, and the cache to resume.

use std::path::{Path, PathBuf};

use crate::cache::{Candidate, Fingerprint, Manifest, Step};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::pipeline::Workers;
use crate::session::{cores, parameters};
use crate::store::local_time;

/// The stem of the input's name, from which all names of results are made.
pub fn base_name(input: &Path) -> String {
    input.file_stem().map_or_else(|| "scan".to_owned(), |s| s.to_string_lossy().into_owned())
}

/// Where caches of this input go: `cache.folder`, or the input's own folder.
pub fn cache_folder(input: &Path, config: &Config) -> PathBuf {
    config.cache.folder.clone().unwrap_or_else(|| {
        let parent = input.parent().filter(|p| !p.as_os_str().is_empty());
        parent.map_or_else(|| PathBuf::from("."), Path::to_owned)
    })
}

/// The local time as `YYYYMMDD_HHMMSS`.
pub fn timestamp() -> String {
    local_time().strftime("%Y%m%d_%H%M%S").to_string()
}

/// What there is for this source in the cache folder.
pub(super) enum Found {
    /// A cache to continue.
    Cache(PathBuf),
    /// Caches of this very source, but made with another disk or reading, so that nothing in them can be used; the
    /// newest, and what differs.
    Other(PathBuf, String),
    Nothing,
}

/// The cache to resume: of those made from this very source, the one with the most steps of the same parameters, the
/// newest among equals.
pub(super) fn choose(folder: &Path, base: &str, source: &Fingerprint, config: &Config) -> Result<Found> {
    let mut best: Option<(usize, PathBuf)> = None;
    let (mut other, mut stale, mut unreadable) = (None, None, None);
    for Candidate { path, manifest } in crate::cache::find(folder, base, &source.path)? {
        match manifest {
            // A run that was stopped in its first moment leaves a folder in which nothing is done.
            Err(_) if !path.join(Manifest::FILE).exists() => {}
            Err(error) => unreadable = Some(error),
            Ok(manifest) if manifest.source.matches(source) => {
                let wanted = parameters::of(Step::Detect, config);
                if let Some(stored) = manifest.parameters.get(&Step::Detect).filter(|stored| **stored != wanted) {
                    other = Some((path, parameters::changed_keys(stored, &wanted).join(", ")));
                    continue;
                }
                let same = |s: &&Step| manifest.parameters.get(s) == Some(&parameters::of(**s, config));
                let score = Step::ALL.iter().take_while(same).count();
                if best.as_ref().is_none_or(|(most, _)| score >= *most) {
                    best = Some((score, path));
                }
            }
            // Another dataset of the same name, whose cache happens to lie in the same folder, is none of ours.
            Ok(manifest) if manifest.source.path != source.path => {}
            Ok(manifest) => stale = Some((path, manifest.source.difference(source))),
        }
    }
    if let Some((_, path)) = best {
        return Ok(Found::Cache(path));
    }
    if let Some((path, keys)) = other {
        return Ok(Found::Other(path, keys));
    }
    if let Some((path, difference)) = stale {
        return Err(Error::cache(&path, format!("its source has changed: {difference}")).with_hint(
            "make a new cache with `--fresh`; the old one stays until you delete it with `stemstream cache rm`",
        ));
    }
    unreadable.map_or(Ok(Found::Nothing), Err)
}

/// As many threads as the configuration says, one for each core when it does not: for work beside the steps, such as
/// writing results.
///
/// # Errors
/// As [`Workers::new`].
pub fn workers(config: &Config) -> Result<Workers> {
    Workers::new(config.run.workers.unwrap_or_else(cores))
}

/// Threads for writing results: more than there are workers, because those that bring files to the disk wait for it.
///
/// # Errors
/// As [`Workers::new`].
pub fn writers(config: &Config) -> Result<Workers> {
    const WAITING: usize = 2;
    Workers::new(config.run.workers.unwrap_or_else(cores) + WAITING)
}
