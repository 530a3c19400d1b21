//! `stemstream cache`: looking after working caches. Every deletion can be seen before it happens.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cache::{Candidate, Lock, Manifest, Step, StepState, WorkingCache, list};
use crate::cli::args::{CacheArgs, CacheCommand};
use crate::cli::report::{self, Talk};
use crate::error::{Error, Result};
use crate::memory::ByteSize;
use crate::session;
use crate::store;

pub(in crate::cli) fn run(args: &CacheArgs, talk: &Talk) -> Result<()> {
    match &args.command {
        CacheCommand::List { place, json } => list_caches(place, *json),
        CacheCommand::Show { cache, json } => show(cache, *json),
        CacheCommand::DropBigft { caches } => caches.iter().try_for_each(|cache| drop_bigft(cache, talk)),
        CacheCommand::Rm { caches, yes } => remove(caches, *yes, talk),
    }
}

fn list_caches(place: &Path, as_json: bool) -> Result<()> {
    let found = if place.is_dir() {
        list(place, None)?
    } else {
        let folder = place.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        list(folder, Some(&session::base_name(place)))?
    };
    if as_json {
        let rows: Vec<_> = found.iter().map(row).collect();
        report::data(&json!(rows).to_string());
        return Ok(());
    }
    for candidate in &found {
        let size = ByteSize(candidate.bytes()).to_string();
        let state = match &candidate.manifest {
            Ok(manifest) => format!("{} of 5 steps", session::steps_completed(manifest)),
            Err(error) => error.to_string(),
        };
        report::data(&format!("{size:>10}  {state:<14}  {}", candidate.path.display()));
    }
    Ok(())
}

fn row(candidate: &Candidate) -> serde_json::Value {
    json!({
        "cache": candidate.path,
        "bytes": candidate.bytes(),
        "steps_completed": candidate.manifest.as_ref().ok().map(session::steps_completed),
        "source": candidate.manifest.as_ref().ok().map(|m| &m.source.path),
        "error": candidate.manifest.as_ref().err().map(ToString::to_string),
    })
}

fn show(cache: &Path, as_json: bool) -> Result<()> {
    let manifest = Manifest::read(cache)?;
    if as_json {
        let json = serde_json::to_string(&manifest).map_err(|e| Error::bug(format!("manifest to JSON: {e}")))?;
        report::data(&json);
        return Ok(());
    }
    report::data(&format!("cache        {}", cache.display()));
    report::data(&format!("source       {}", manifest.source.path.display()));
    report::data(&format!("scan         {} positions of {} {} pixels", manifest.scan, manifest.det, manifest.dtype));
    report::data(&format!("written by   {} (format {})", manifest.software, manifest.format));
    report::data(&format!("on disk      {}", ByteSize(store::disk_usage(cache))));
    for step in Step::ALL {
        let state = match manifest.state(step) {
            _ if manifest.is_dropped(step) => "deleted by the user".to_owned(),
            StepState::Absent => "-".to_owned(),
            StepState::Partial(tiles) => format!("{} of {} tiles", tiles.len(), tiles.count()),
            StepState::Done { .. } => "done".to_owned(),
        };
        report::data(&format!("  {:<12} {state}", step.name()));
    }
    if let Some(file) = manifest.unfinished_file() {
        report::data(&format!("{:<12} {} (bigFT and correlations are written to it)", "unfinished", file.display()));
    }
    for (kind, path) in &manifest.exports {
        report::data(&format!("{kind:<12} {}", path.display()));
    }
    for warning in &manifest.warnings {
        report::data(&format!("warning      {warning}"));
    }
    Ok(())
}

fn drop_bigft(path: &Path, talk: &Talk) -> Result<()> {
    let before = store::disk_usage(path);
    let mut cache = WorkingCache::open(path)?;
    if let Some(placed) = cache.manifest().placed.get(&Step::Fft).filter(|placed| !placed.is_unfinished()) {
        let file = placed.locate(path);
        return Err(Error::cache(path, format!("bigFT is not in the working cache but in `{}`", file.display()))
            .with_hint("delete that file to free its space: the working cache goes on without it"));
    }
    cache.drop_array(Step::Fft)?;
    let freed = before.saturating_sub(store::disk_usage(path));
    talk.note(&format!("{}: bigFT deleted, {} freed", path.display(), ByteSize(freed)));
    Ok(())
}

/// Shows what would go, and deletes it when told to. Only folders that are caches, and none that is in use.
fn remove(caches: &[PathBuf], yes: bool, talk: &Talk) -> Result<()> {
    for path in caches {
        let is_cache = path.join(Manifest::FILE).is_file()
            || path.file_name().is_some_and(|n| n.to_string_lossy().contains("_superres_cache_"));
        if !path.is_dir() || !is_cache {
            return Err(Error::cache(path, "is not a working cache").with_hint("`stemstream cache list` shows caches"));
        }
        drop(Lock::acquire(path)?);
    }
    for path in caches {
        let size = ByteSize(store::disk_usage(path));
        if yes {
            let _lock = Lock::acquire(path)?;
            WorkingCache::delete(path)?;
            talk.note(&format!("deleted {} ({size})", path.display()));
        } else {
            report::data(&format!("would delete {} ({size})", path.display()));
        }
    }
    if !yes {
        talk.note("nothing was deleted; add `--yes` to delete");
    }
    Ok(())
}
