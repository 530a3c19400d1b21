//! Step 4: shift maps out of the peaks.

use std::sync::Mutex;

use serde_json::{Value, json};

use crate::axes::{DetShape, Image, Plane};
use crate::cache::{Curve, Extra, Step, WorkingCache};
use crate::config::Refine;
use crate::error::{Error, Result};
use crate::kernel::noise_floor::NoiseFloor;
use crate::steps::context::{RunContext, locked, write_images};
use crate::steps::parametric::{AberrationFit, FitSpectra, model_maps};
use crate::steps::refine::{RefineIteration, RefineReport, refine};
use crate::steps::step1_detect::BrightDisk;
use crate::steps::step3_correlate::{Correlations, is_aligned};

/// The result of step 4, one number for each detector pixel of the crop, `[crop row, crop col]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ShiftMaps {
    /// Row of the correlation's peak in scan pixels, absolute: no shift is `scan rows / 2`.
    pub y: Image,
    /// Column of the correlation's peak in scan pixels, absolute: no shift is `scan cols / 2`.
    pub x: Image,
    /// The documented correlation at the peak: grows with the dose, see `zncc`.
    pub quality: Image,
    /// The zero-mean normalised correlation at the peak (−1…1).
    pub zncc: Image,
}

impl ShiftMaps {
    /// The maps of a cache in which nothing up to step 4 is left to do.
    ///
    /// # Errors
    /// [`Cache`](crate::error::ErrorKind::Cache) when the cache is damaged.
    pub fn finished(ctx: &RunContext<'_>) -> Result<Option<Self>> {
        if !ctx.is_done(Step::Shifts) || !is_aligned(ctx) {
            return Ok(None);
        }
        let cache = ctx.cache();
        let read = |name: &str| cache.group().read_image(name);
        Ok(Some(Self { y: read("shift_y")?, x: read("shift_x")?, quality: read("quality")?, zncc: read("zncc")? }))
    }
}

/// Collects the peaks into maps and keeps them in the cache. With a fitted model (and the spectra that it was fitted to) the
/// shifts are the model's, refined; quality, `zncc`, significance and uncertainties are those of the single peaks all the
/// same.
///
/// # Errors
/// [`Io`](crate::error::ErrorKind::Io).
pub fn find_shifts(
    ctx: &RunContext<'_>,
    correlations: &Correlations,
    disk: &BrightDisk,
    fit: Option<(&AberrationFit, &FitSpectra)>,
) -> Result<ShiftMaps> {
    let DetShape { rows, cols } = correlations.crop;
    let map = |column: usize| Image::from_shape_fn((rows, cols), |(r, c)| correlations.peaks.row(r * cols + c)[column]);
    let (mut y, mut x) = fit.map_or_else(|| (map(0), map(1)), |(fit, _)| model_maps(ctx, disk, fit));
    let refined = match fit {
        Some((fit, spectra)) if ctx.config.align.refine == Refine::Auto => {
            Some(refine(ctx, disk, spectra, fit.optics(disk.radius).as_ref(), (&mut y, &mut x))?)
        }
        _ => None,
    };
    let maps = ShiftMaps { y, x, quality: map(2), zncc: map(3) };
    let mut curves = Vec::from_iter(fit.map(|(fit, _)| convergence(fit)));
    // One round that changed nothing is no course.
    curves.extend(refined.as_ref().filter(|report| report.iterations.len() > 1).map(rounds));
    let fit = fit.map(|(fit, _)| serde_json::to_value(fit)).transpose().map_err(|e| Error::bug(e.to_string()))?;
    let mut result = fit.unwrap_or_else(|| json!({}));
    if let Some(report) = refined {
        result["refine"] = serde_json::to_value(report).map_err(|e| Error::bug(e.to_string()))?;
    }
    let (correlations, kept) = (correlations.clone(), maps.clone());
    ctx.beside.later(move |cache| keep(cache, &correlations, &kept, curves, result));
    Ok(maps)
}

/// Writes the maps into the cache, and how far each peak stands above noise and how sure its position is.
fn keep(
    cache: &Mutex<WorkingCache>,
    correlations: &Correlations,
    maps: &ShiftMaps,
    curves: Vec<Curve>,
    mut result: Value,
) -> Result<()> {
    let zncc = &maps.zncc;
    let noise = NoiseFloor::of(&correlations.reference_image);
    let cols = correlations.crop.cols;
    let sigma = |axis: usize| {
        Image::from_shape_fn(zncc.dim(), |(r, c)| {
            let peak = correlations.peaks.row(r * cols + c);
            noise.shift_sigma(axis, peak[3], peak[axis] - peak[axis].round(), peak[4 + axis])
        })
    };
    let (significance, sigma) = (zncc.mapv(|z| noise.significance(z)), [sigma(0), sigma(1)]);
    let further = [
        ("zncc", "Zero-mean normalised correlation with the reference", "", zncc),
        ("significance", "Standard deviations of the correlation above noise", "", &significance),
        ("shift_sigma_y", "Noise of the single row shift", "scan pixels", &sigma[0]),
        ("shift_sigma_x", "Noise of the single column shift", "scan pixels", &sigma[1]),
    ];
    let documented = [("shift_y", &maps.y), ("shift_x", &maps.x), ("quality", &maps.quality)];
    let all = documented.into_iter().chain(further.map(|(name, .., image)| (name, image)));
    write_images(cache, &all.map(|(name, image)| (name, image, ["det_row", "det_col"])).collect::<Vec<_>>())?;
    let extra = |(name, title, units, _): (&str, &str, &str, &Image)| {
        let (name, title, units) = (name.to_owned(), title.to_owned(), units.to_owned());
        Extra { name, title, units, plane: Plane::Crop, step: Step::Shifts }
    };
    result["zncc_noise_floor"] = json!(noise.floor());
    result["independent_positions"] = json!(noise.independent_positions());
    let mut cache = locked(cache);
    cache.record(further.map(extra).into())?;
    curves.into_iter().try_for_each(|curve| cache.publish_curve(curve))?;
    cache.mark_done(Step::Shifts, result, true)
}

/// What step 4 and the search for bad pixels remember in the manifest as plain numbers, by name.
pub fn pixel_findings(shifts: Option<&Value>, stack: Option<&Value>) -> Vec<(String, f64)> {
    let number = |value: Option<&Value>, name: &str| value.and_then(|v| v[name].as_f64());
    let bad = stack.map(|s| &s["bad_pixels"]);
    [
        ("zncc_noise_floor", number(shifts, "zncc_noise_floor")),
        ("independent_positions", number(shifts, "independent_positions")),
        ("dead_pixels", number(bad, "dead")),
        ("hot_pixels", number(bad, "hot")),
        ("outlier_pixels", number(bad, "outlier")),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect()
}

/// The refinement, round by round.
fn rounds(report: &RefineReport) -> Curve {
    let column = |name: &str, of: fn(&RefineIteration) -> f64| {
        (name.to_owned(), report.iterations.iter().map(of).collect::<Vec<f64>>())
    };
    Curve {
        name: "refinement".to_owned(),
        title: "error of held-out groups in units of their noise, before and after each round of the refinement"
            .to_owned(),
        axis: ("round".to_owned(), String::new()),
        x: (0..report.iterations.len()).map(|i| i as f64).collect(),
        columns: vec![column("before", |i| i.error[0]), column("after", |i| i.error[1])],
        step: Step::Shifts,
    }
}

/// The last part of the search, step by step.
fn convergence(fit: &AberrationFit) -> Curve {
    Curve {
        name: "convergence".to_owned(),
        title: "coherence of the fit after each step of its last part".to_owned(),
        axis: ("step".to_owned(), String::new()),
        x: (0..fit.convergence.len()).map(|i| i as f64).collect(),
        columns: vec![("coherence".to_owned(), fit.convergence.clone())],
        step: Step::Shifts,
    }
}
