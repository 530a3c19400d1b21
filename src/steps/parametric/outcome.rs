//! What a search ends with: the best model, how far it stands above chance, and what explains the data as well.

use crate::error::{Error, Result};
use crate::kernel::crosspower::{Kernel, Model};
use crate::steps::parametric::KernelTrial;
use crate::steps::parametric::polish::{Found, Polished};

/// The best fit must stand this many robust standard deviations above wrong ones.
pub(super) const SIGNIFICANT: f64 = 8.0;
/// A rival is worse when its share of the frequencies' objective is lower by so many standard errors.
const CLEARLY_WORSE: f64 = 4.0;

/// Another model that explains the data nearly as well.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rival {
    pub(super) model: Model,
    /// By how many standard errors it is worse.
    pub(super) distance: f64,
}

/// What the search found.
pub(super) struct Outcome {
    pub(super) best: Found,
    pub(super) kernel: Kernel,
    /// Both kernels compared, where there is a choice.
    pub(super) trial: Option<KernelTrial>,
    pub(super) significance: f64,
    /// The best of the models elsewhere, if it is not clearly worse.
    pub(super) rival: Option<Rival>,
    /// Standard deviations of the best model's parameters.
    pub(super) deviations: Option<[f64; 4]>,
    /// The coherence after each step of the last part.
    pub(super) convergence: Vec<f64>,
}

/// The objective of wrong models: what the best one has to stand out from.
pub(super) struct Null {
    median: f64,
    /// Robust standard deviation.
    spread: f64,
}

impl Null {
    pub(super) fn new(values: &[f64]) -> Self {
        let median = |mut v: Vec<f64>| {
            v.sort_unstable_by(f64::total_cmp);
            v.get(v.len() / 2).copied().unwrap_or(0.0)
        };
        let middle = median(values.to_vec());
        // 1.4826: a normal distribution's standard deviation over its median absolute deviation.
        let spread = 1.4826 * median(values.iter().map(|v| (v - middle).abs()).collect());
        Self { median: middle, spread }
    }

    pub(super) fn significance(&self, value: f64) -> f64 {
        if self.spread > 0.0 { (value - self.median) / self.spread } else { 0.0 }
    }
}

/// What was found, unless chance does as well.
pub(super) fn outcome(
    polished: Polished,
    (kernel, trial): (Kernel, Option<KernelTrial>),
    significance: f64,
    rival: Option<Rival>,
) -> Result<Outcome> {
    if significance < SIGNIFICANT {
        return Err(Error::unresolved(format!(
            "the scan does not determine its aberrations: the best fit stands {significance:.1} standard deviations above wrong ones, {SIGNIFICANT} are needed"
        ))
        .with_hint("too few counts, no contrast, or shifts beyond a quarter of the scan; `--set align.method=classic` shows the single shifts"));
    }
    let Polished { best, deviations, coherence } = polished;
    Ok(Outcome { best, kernel, trial, significance, rival, deviations, convergence: coherence })
}

/// The closest of the rivals, if it is not clearly worse.
pub(super) fn closest(rivals: impl Iterator<Item = Rival>) -> Option<Rival> {
    rivals.min_by(|a, b| a.distance.total_cmp(&b.distance)).filter(|r| r.distance < CLEARLY_WORSE)
}
