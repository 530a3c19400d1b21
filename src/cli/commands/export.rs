//! Writing the results of a finished run, after `run` and by `stemstream export`.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cache::Step;
use crate::cli::args::ExportArgs;
use crate::cli::report::{self, Talk};
use crate::config::{Config, EmdTarget};
use crate::error::{Error, Result};
#[cfg(feature = "hdf5")]
use crate::export::hdf5_cache::{CacheMeta, cache_file};
#[cfg(feature = "hdf5")]
use crate::export::hdf5_in_place;
use crate::export::{RunResults, Written, write_all};
use crate::memory;
use crate::progress::CancelToken;
use crate::session::{self, Results, Session};
use crate::steps::{AberrationFit, pixel_findings};

/// What was written for one run.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) written: Written,
    pub(super) hdf5: Option<PathBuf>,
}

pub(in crate::cli) fn run(args: &ExportArgs, talk: &Talk, cancel: &CancelToken) -> Result<()> {
    let mut results = Results::read(&args.cache)?;
    let settings = args.config.all_settings()?;
    let config = match &args.config.config {
        Some(_) => args.config.config()?,
        None => results.config.with_settings(settings.iter().map(String::as_str))?,
    };
    // What was computed stays as it was computed; only how it is written can be chosen now.
    results.config.export = config.export.clone();
    results.config.calibration = config.calibration.or(results.config.calibration);
    let exists = results.manifest.exports.get("hdf5").filter(|p| p.is_file()).cloned();
    let outcome = write(&args.cache, &mut results, (session::timestamp(), exists), |_| Ok(()), (talk, cancel))?;
    if args.json {
        let json = json!({
            "cache": args.cache,
            "emd": outcome.written.emd,
            "run": outcome.written.run,
            "hdf5_cache": outcome.hdf5,
            "pictures": outcome.written.pictures,
            "arrays": outcome.written.arrays,
            "warnings": talk.take_warnings(),
        });
        report::data(&json.to_string());
    } else {
        show(&outcome);
    }
    Ok(())
}

/// Names the files on stdout.
pub(super) fn show(outcome: &Outcome) {
    let written = &outcome.written;
    if let (Some(emd), Some(run)) = (&written.emd, &written.run) {
        report::data(&format!("EMD results   {} {run}", emd.display()));
    }
    if let Some(hdf5) = &outcome.hdf5 {
        report::data(&format!("HDF5 cache    {}", hdf5.display()));
    }
    if let Some(sheet) = written.pictures.first() {
        report::data(&format!("contact sheet {}", sheet.display()));
    }
    let folder = written.pictures.iter().chain(&written.arrays).next().and_then(|path| path.parent());
    if let Some(folder) = folder {
        let count = written.pictures.len() + written.arrays.len();
        report::data(&format!("{count} pictures and arrays in {}", folder.display()));
    }
}

fn same_folder(a: &Path, b: &Path) -> bool {
    let whole = |p: &Path| std::path::absolute(p).unwrap_or_else(|_| p.to_owned());
    whole(a) == whole(b)
}

/// Writes everything that the configuration asks for: the HDF5 cache first, because the EMD results name it. The images
/// of `results` move into what is written, so that they are in memory only once.
/// `timestamp` is when the run began; `existing` an HDF5 cache that was written from the same arrays before. `beside` is
/// done with the results while they are written, whether that succeeds or not.
pub(super) fn write(
    cache: &Path,
    results: &mut Results,
    (timestamp, existing): (String, Option<PathBuf>),
    beside: impl FnOnce(&RunResults) -> Result<()> + Send,
    (talk, cancel): (&Talk, &CancelToken),
) -> Result<Outcome> {
    let source = results.manifest.source.path.clone();
    let config = results.config.clone();
    let folder = results_folder(&source, &config);
    // One that lies elsewhere is not where the user wants it now.
    let here = |path: &PathBuf| path.parent().is_some_and(|p| same_folder(p, &folder));
    let hdf5 = crate::store::create_folder(&folder).and_then(|()| match existing.filter(here) {
        Some(path) => Ok(Some(path)),
        None => write_hdf5(cache, results, &folder, (talk, cancel)),
    });
    let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
    let cache_file = name(hdf5.as_ref().ok().and_then(Option::as_deref).unwrap_or(cache));
    let run = run_results(results, timestamp, cache_file);
    let embed = config.export.emd == EmdTarget::Embed && config.export.folder.is_none();
    let embed_into = (embed && results.manifest.source.may_grow).then_some(source.as_path());
    let workers = session::writers(&config)?;
    let write = || -> Result<Outcome> {
        let hdf5 = hdf5?;
        cancel.check()?;
        let written = write_all(&folder, embed_into, &run, &config.export, &workers)?;
        Ok(Outcome { written, hdf5 })
    };
    memory::reuse_large_buffers();
    let (outcome, done) = workers.install(|| rayon::join(write, || beside(&run)));
    let outcome = done.and(outcome)?;
    for warning in &outcome.written.warnings {
        talk.warn(warning);
    }
    Ok(outcome)
}

/// Where results go: `export.folder`, or the folder of the source.
fn results_folder(source: &Path, config: &Config) -> PathBuf {
    config.export.folder.clone().unwrap_or_else(|| {
        let parent = source.parent().filter(|p| !p.as_os_str().is_empty());
        parent.map_or_else(|| PathBuf::from("."), Path::to_owned)
    })
}

/// Has the session lay out the HDF5 cache before it aligns, and write bigFT and the correlations to it alone.
#[cfg(feature = "hdf5")]
pub(super) fn fill_in_place(session: &mut Session<'_>) {
    session.keep_large_arrays_in(Box::new(|m, config, disk| {
        let folder = results_folder(&m.source.path, config);
        crate::store::create_folder(&folder)?;
        hdf5_in_place::lay_out_run(&folder, &session::base_name(&m.source.path), (m, config, disk))
    }));
}

#[cfg(not(feature = "hdf5"))]
pub(super) fn fill_in_place(_: &mut Session<'_>) {}

/// Gives the HDF5 cache that the session has filled its name.
#[cfg(feature = "hdf5")]
pub(super) fn finish_in_place(session: &Session<'_>) -> Result<()> {
    let Some(file) = session.filled_file() else { return Ok(()) };
    let steps = session::steps_completed(&session.manifest());
    let named = hdf5_in_place::finish_in_place(&file, steps)?;
    session.finish_large_arrays(&named)
}

#[cfg(not(feature = "hdf5"))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature as with HDF5")]
pub(super) fn finish_in_place(_: &Session<'_>) -> Result<()> {
    Ok(())
}

#[cfg(feature = "hdf5")]
fn write_hdf5(
    cache: &Path,
    results: &Results,
    folder: &Path,
    (talk, cancel): (&Talk, &CancelToken),
) -> Result<Option<PathBuf>> {
    use crate::export::hdf5_cache::{CacheArray, Hdf5CacheWriter};
    use crate::export::hdf5_copy::{self, Feed};
    use crate::memory::MemoryBudget;
    if !results.config.export.hdf5 {
        return Ok(None);
    }
    if !results.has_large_arrays() {
        talk.note("no HDF5 cache: bigFT and correlations were not kept");
        return Ok(None);
    }
    let m = &results.manifest;
    let meta = CacheMeta::of(m, &results.config, &results.disk);
    let base = session::base_name(&m.source.path);
    let mut writer = Hdf5CacheWriter::create(&cache_file(folder, &base, &m.timestamp), &meta)?;
    let feed: Feed<'_> = Box::new(|take| {
        results.for_each_spectrum(cache, |row, col, image| {
            take(CacheArray::BigFt, row, col, bytemuck::cast_slice(image))
        })?;
        results.for_each_correlation(cache, |row, col, image| {
            take(CacheArray::Correlations, row, col, bytemuck::cast_slice(image))
        })
    });
    let workers = results.config.run.workers.unwrap_or_else(session::cores);
    let budget = MemoryBudget::new(session::memory_limit(&results.config)?);
    let report = hdf5_copy::fill(&mut writer, feed, (meta.compression, workers), &budget, cancel)?;
    talk.note(&report::bottleneck(&report).unwrap_or_default());
    writer.finish(session::steps_completed(m)).map(Some)
}

#[cfg(not(feature = "hdf5"))]
fn write_hdf5(_: &Path, results: &Results, _: &Path, (talk, _): (&Talk, &CancelToken)) -> Result<Option<PathBuf>> {
    if results.config.export.hdf5 && results.has_large_arrays() {
        talk.warn("this build has no HDF5 support: neither the HDF5 cache nor EMD results are written");
    }
    Ok(None)
}

fn run_results(results: &mut Results, timestamp: String, cache_file: Option<String>) -> RunResults {
    let (m, c, disk) = (&results.manifest, &results.config, &results.disk);
    let findings = findings(results);
    let pixels = pixel_findings(m.results.get(&Step::Shifts), m.results.get(&Step::Stack));
    RunResults {
        timestamp,
        base_name: session::base_name(&m.source.path),
        bf_center: disk.center,
        bf_radius: disk.radius,
        crop_radius: disk.crop_radius,
        crop: disk.crop,
        scan: m.scan,
        det: m.det,
        upscale: results.upscale(),
        reference_smoothing: c.align.reference_smoothing,
        detector_radius: c.reconstruct.detector_radius,
        quality_threshold: c.reconstruct.quality_threshold,
        method: results.fit.as_ref().map_or_else(|| "classic".to_owned(), |fit| format!("parametric, {}", fit.kernel)),
        fingerprint: m.source.content.clone(),
        calibration: c.calibration,
        cache_file,
        mean_pattern: std::mem::take(&mut results.mean_pattern),
        shift_y: std::mem::take(&mut results.shift_y),
        shift_x: std::mem::take(&mut results.shift_x),
        quality: std::mem::take(&mut results.quality),
        reference_image: std::mem::take(&mut results.reference_image),
        standard_bf: std::mem::take(&mut results.standard_bf),
        virtual_bf: std::mem::take(&mut results.virtual_bf),
        superres_image: std::mem::take(&mut results.superres_image),
        weights: std::mem::take(&mut results.weights),
        extras: std::mem::take(&mut results.extras),
        curves: m.curves.clone(),
        findings: findings.into_iter().chain(pixels).collect(),
        warnings: m.warnings.clone(),
    }
}

/// What the run found, as attributes of its parameters.
fn findings(results: &Results) -> Vec<(String, f64)> {
    let mut found = results.fit.as_ref().map(of_fit).unwrap_or_default();
    let r = &results.report.resolution;
    for (resolution, suffix) in [(r.image, ""), (r.ssb, "_ssb")] {
        let Some(resolution) = resolution else { continue };
        let unit = if resolution.scan_step_angstrom.is_some() { "_angstrom" } else { "" };
        for (name, period) in ["resolution_half_bit", "resolution_one_seventh"].into_iter().zip(resolution.periods()) {
            found.extend(period.map(|period| (format!("{name}{suffix}{unit}"), period)));
        }
    }
    found
}

fn of_fit(fit: &AberrationFit) -> Vec<(String, f64)> {
    let mut found = vec![
        ("fit_rotation_deg".to_owned(), fit.rotation_deg),
        ("fit_transposed".to_owned(), f64::from(u8::from(fit.transposed))),
        ("fit_coherence".to_owned(), fit.coherence),
        ("fit_significance".to_owned(), fit.significance),
    ];
    if let Some(trial) = fit.kernel_trial {
        found.push(("fit_kernel_lead".to_owned(), trial.lead));
        found.push(("fit_by_displacements".to_owned(), f64::from(u8::from(trial.by_displacements))));
    }
    let angstrom = fit.c10_angstrom.zip(fit.c12_angstrom);
    if let Some((c10, [c12a, c12b])) = angstrom {
        found.extend(
            [("c10_angstrom", c10), ("c12a_angstrom", c12a), ("c12b_angstrom", c12b)].map(|(n, v)| (n.to_owned(), v)),
        );
    }
    found
}

/// A failure of one input of a batch as JSON.
pub(super) fn failure(input: &Path, error: &Error) -> serde_json::Value {
    json!({"input": input, "error": error.to_string(), "hint": error.hint(), "exit_code": error.exit_code()})
}
