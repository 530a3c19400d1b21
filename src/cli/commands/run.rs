//! `stemstream run`: all five steps for one scan after the other.

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use crate::cache::Step;
use crate::cli::args::RunArgs;
use crate::cli::commands::export::{self, Outcome};
use crate::cli::progress::Bars;
use crate::cli::report::{self, Talk};
use crate::config::{Config, Keep, Mode};
use crate::error::Result;
use crate::export::RunResults;
use crate::memory;
use crate::progress::CancelToken;
use crate::session::{self, Results, Session};
use crate::steps::AberrationFit;

/// Runs every input; failures are reported at once and do not stop the others. The exit code is that of the worst:
/// the largest, and 130 as soon as the user interrupts.
pub(in crate::cli) fn run(args: &RunArgs, talk: &Talk, cancel: &CancelToken) -> Result<u8> {
    let config = args.config.config()?;
    let mut worst = 0;
    for input in &args.inputs {
        if args.inputs.len() > 1 {
            talk.note(&format!("== {}", input.display()));
        }
        if let Err(error) = one(input, &config, args, talk, cancel) {
            talk.error(&error);
            if args.json {
                report::data(&export::failure(input, &error).to_string());
            }
            worst = worst.max(error.exit_code());
            if error.is_interrupted() {
                talk.note("what was done is kept; the same command goes on from there");
                break;
            }
        }
        talk.take_warnings();
    }
    Ok(worst)
}

fn one(input: &Path, config: &Config, args: &RunArgs, talk: &Talk, cancel: &CancelToken) -> Result<()> {
    let (start, timestamp) = (Instant::now(), session::timestamp());
    // The input before this one ended with its export.
    memory::give_large_buffers_back();
    let bars = Bars::new(talk);
    let mut session = Session::open(input, config.clone(), args.fresh, &bars, cancel)?;
    let cache = session.cache_path();
    let calibration = config.calibration.or(session.source().map(|s| s.info().calibration).unwrap_or_default());
    for warning in session.source().map(|s| s.info().warnings.clone()).unwrap_or_default() {
        talk.warn(&warning);
    }
    talk.note(&format!("{} {}", if session.is_resumed() { "continuing" } else { "cache" }, cache.display()));
    export::fill_in_place(&mut session);
    // Where results take long, the image is brought into the cache first; else beside them.
    let mut results = if config.run.mode == Mode::Documented {
        session.run_to(Step::Reconstruct)?;
        cancel.check()?;
        export::finish_in_place(&session)?;
        Results::read(&cache)?
    } else {
        session.make_image()?
    };
    // The library cannot add results to a file that this process still reads.
    session.close_source();
    results.config.calibration = calibration;
    if let Some(fit) = &results.fit {
        tell_fit(fit, talk);
    }
    tell_resolution(&results, talk);
    let existing = results.manifest.exports.get("hdf5").filter(|p| p.is_file() && config.export.hdf5).cloned();
    let (report, kept) = (results.report, results.kept);
    let keep = |run: &RunResults| {
        let images = [&run.superres_image, &run.weights, &run.virtual_bf];
        if kept { Ok(()) } else { session.keep_image(images, &report) }
    };
    let outcome = export::write(&cache, &mut results, (timestamp, existing), keep, (talk, cancel))?;
    if let Some(hdf5) = &outcome.hdf5
        && config.cache.keep != Keep::None
    {
        session.remember_export("hdf5", hdf5)?;
    }
    bottlenecks(&session, talk);
    let cache = session.apply_retention()?;
    let seconds = start.elapsed().as_secs_f64();
    finish(input, args, (&outcome, cache.as_deref(), seconds), talk);
    Ok(())
}

fn tell_fit(fit: &AberrationFit, talk: &Talk) {
    let size = if let (Some(c10), Some([a, b])) = (fit.c10_angstrom, fit.c12_angstrom) {
        format!("C10 {c10:.1} Å, C12 {:.1} Å", a.hypot(b))
    } else {
        let [c1, a, b, _] = fit.parameters;
        format!("no calibration: C10 {c1:.4}, C12 {:.4} scan pixels per detector pixel", a.hypot(b))
    };
    let detector = if fit.transposed { ", detector axes exchanged" } else { "" };
    let by_displacements = fit.kernel_trial.is_some_and(|t| t.by_displacements);
    let by = if by_displacements { ", aberrations from displacements alone" } else { "" };
    talk.note(&format!(
        "aberrations: {size}, rotation {:.2}°{detector} ({} kernel{by}, significance {:.0}); equally possible: {}",
        fit.rotation_deg, fit.kernel, fit.significance, fit.other_branch
    ));
}

fn tell_resolution(results: &Results, talk: &Talk) {
    let resolution = &results.report.resolution;
    if let Some(image) = resolution.image {
        talk.note(&format!("resolution {}", image.sentence()));
    }
    if let Some(ssb) = resolution.ssb {
        talk.note(&format!("resolution of the phase {}", ssb.sentence()));
    }
}

fn bottlenecks(session: &Session<'_>, talk: &Talk) {
    for sentence in session.reports().iter().filter_map(report::bottleneck) {
        talk.note(&sentence);
    }
}

fn finish(input: &Path, args: &RunArgs, (outcome, cache, seconds): (&Outcome, Option<&Path>, f64), talk: &Talk) {
    let written = &outcome.written;
    let peak = memory::peak_resident();
    if args.json {
        let json = json!({
            "input": input,
            "emd": written.emd,
            "run": written.run,
            "cache": cache,
            "hdf5_cache": outcome.hdf5,
            "pictures": written.pictures,
            "arrays": written.arrays,
            "seconds": seconds,
            "peak_memory_bytes": peak,
            "warnings": talk.take_warnings(),
        });
        report::data(&json.to_string());
        return;
    }
    export::show(outcome);
    talk.note(&format!("done in {seconds:.2} s, peak memory {}", memory::ByteSize(peak)));
}
