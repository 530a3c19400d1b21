//! What the search found, in physical units: which of the two branches, how certain, and what it cannot tell apart.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use crate::error::{Error, Result};
use crate::kernel::aberrations::Aberrations;
use crate::kernel::crosspower::{HalfSets, Kernel, Model};
use crate::steps::context::RunContext;
use crate::steps::parametric::orders::higher_orders;
use crate::steps::parametric::outcome::{Outcome, Rival};
use crate::steps::parametric::{AberrationFit, Sampling};
use crate::steps::step1_detect::BrightDisk;

/// Where displacements are too small to tell them, contrast does, whose errors no standard deviation knows.
const ORDERS_MAY_BE_OFF: &str = "aberrations of higher orders were found, but displacements are too small to tell them from contrast: they and the defocus may be wrong by several of their standard deviations (by up to 7 % in simulations); a larger defocus or more detector pixels in the disk determine them better";

/// Shifts hold for any object that scatters each beam once; the contrast does not.
const NOT_WEAK_PHASE: &str = "displacements alone explain the data better than the contrast of a weak phase object does (an absorbing or strongly scattering sample): shifts and plain image do not depend on that, but the phase images (phase flip, Wiener, SSB) are not to be trusted";

/// What the user knows already.
pub(super) struct Guess {
    /// Starting points of the search.
    pub(super) models: Vec<Model>,
    /// Aberrations of higher orders that are known.
    pub(super) known: Aberrations,
    rotation_deg: Option<f64>,
    c10_angstrom: Option<f64>,
}

impl Guess {
    pub(super) fn of(ctx: &RunContext<'_>, disk: &BrightDisk) -> Result<Self> {
        let c = &ctx.config.calibration;
        let c10_angstrom = c.defocus_angstrom.map(|defocus| -defocus);
        let sampling = Sampling::of(ctx, disk);
        if c10_angstrom.is_some() && sampling.is_none() {
            return Err(Error::config(
                "calibration.defocus_angstrom says nothing without the beam energy, the scan step and the angle of a detector pixel",
            )
            .with_hint("give calibration.energy_ev, scan_step_angstrom and detector_mrad_per_px (or semiangle_mrad)"));
        }
        let known = Aberrations::from_named(c_known(ctx))?;
        if let Some(low) = known.terms().iter().find(|t| t.m == 1) {
            return Err(Error::config(format!("align.known names {}, which is always fitted", low.name()))
                .with_hint("give the defocus as calibration.defocus_angstrom"));
        }
        if !known.is_empty() && sampling.is_none() {
            return Err(Error::config(
                "align.known says nothing without the beam energy, the scan step and the angle of a detector pixel",
            )
            .with_hint("give calibration.energy_ev, scan_step_angstrom and detector_mrad_per_px (or semiangle_mrad)"));
        }
        let mut models = Vec::new();
        if let Some((c10, sampling)) = c10_angstrom.zip(sampling) {
            let c1 = c10 / sampling.angstrom();
            // Without a rotation, all directions in steps that the search can bridge.
            let turns: Vec<f64> =
                c.rotation_deg.map_or_else(|| (0..12).map(|i| 30.0 * f64::from(i)).collect(), |r| vec![r]);
            for transposed in [false, true] {
                let model = |degrees: &f64| Model { parameters: [c1, 0.0, 0.0, degrees.to_radians()], transposed };
                models.extend(turns.iter().map(model));
            }
        }
        Ok(Self { models, known, rotation_deg: c.rotation_deg, c10_angstrom })
    }

    /// Whether the user's rotation, else the user's defocus, speaks for the other branch, and what said so.
    fn branch(&self, degrees: f64, c10: Option<f64>) -> Result<(bool, String)> {
        let by_rotation = self.rotation_deg.map(|guess| {
            let apart = (degrees - guess + 180.0).rem_euclid(360.0) - 180.0;
            apart.abs() > 90.0
        });
        let by_defocus = self.c10_angstrom.filter(|guess| *guess != 0.0).zip(c10).map(|(guess, c10)| guess * c10 < 0.0);
        match (by_rotation, by_defocus) {
            (Some(a), Some(b)) if a != b => Err(Error::config(format!(
                "the given rotation ({}°) and the given defocus ({} Å) contradict each other: the data allow a rotation of {degrees:.1}° with a defocus of {:.0} Å, or {:.1}° with {:.0} Å",
                self.rotation_deg.unwrap_or(0.0),
                -self.c10_angstrom.unwrap_or(0.0),
                -c10.unwrap_or(0.0),
                degrees - 180f64.copysign(degrees),
                c10.unwrap_or(0.0),
            ))
            .with_hint("leave one of calibration.rotation_deg and calibration.defocus_angstrom out, or turn one of them round")),
            (Some(flip), _) => Ok((flip, "nearer to the given rotation".to_owned())),
            (None, Some(flip)) => Ok((flip, "sign of the given defocus".to_owned())),
            (None, None) => Ok((degrees.abs() > 90.0, "convention: a rotation between -90° and 90°; give calibration.rotation_deg or calibration.defocus_angstrom to choose".to_owned())),
        }
    }
}

fn c_known<'c>(ctx: &'c RunContext<'_>) -> impl Iterator<Item = (&'c str, f64)> {
    ctx.config.align.known.iter().map(|(name, value)| (name.as_str(), *value))
}

/// Brings an angle between -180° and 180°.
fn wrapped(degrees: f64) -> f64 {
    (degrees + 180.0).rem_euclid(360.0) - 180.0
}

pub(super) fn describe(
    ctx: &RunContext<'_>,
    disk: &BrightDisk,
    fine: &HalfSets,
    found: &Outcome,
    guess: &Guess,
) -> Result<AberrationFit> {
    let sampling = Sampling::of(ctx, disk);
    let unit = sampling.map(|s| s.angstrom());
    let (mut best, mut higher, mut orders) = (found.best.model, Aberrations::default(), Vec::new());
    let mut deviations = standard_deviations(found.deviations, unit.unwrap_or(1.0));
    let mut orders_by_contrast = false;
    if let Some(sampling) = sampling {
        let (wider, tried) = higher_orders(ctx, fine, (best, found.kernel), (sampling, disk.radius), &guess.known)?;
        if let Some(wider) = wider {
            let [[c10, _], [c12a, c12b]] = [wider.all.get(1, 0), wider.all.get(1, 2)];
            best.parameters = [c10, c12a, c12b, 0.0].map(|c| c / sampling.angstrom());
            best.parameters[3] = wider.rotation;
            higher = wider.all.above(1);
            deviations = wider.deviations;
            orders_by_contrast = !wider.by_displacements;
        }
        orders = tried;
    }
    let [mut c1, mut c2a, mut c2b, theta] = best.parameters;
    let mut degrees = wrapped(theta.to_degrees());
    let (flip, branch_reason) = guess.branch(degrees, unit.map(|u| u * c1))?;
    if flip {
        degrees = wrapped(degrees + 180.0);
        (c1, c2a, c2b) = (-c1, -c2a, -c2b);
        higher = higher.other_branch();
    }
    let transposed = found.best.model.transposed;
    let model = Model { parameters: [c1, c2a, c2b, degrees.to_radians()], transposed };
    let rival = found.rival.map(|r| rival_in_words(&r, unit));
    let mut warnings = Vec::new();
    if orders_by_contrast {
        warnings.push(ORDERS_MAY_BE_OFF.to_owned());
    }
    if matches!(found.kernel, Kernel::SideBands { .. }) {
        warnings.push(NOT_WEAK_PHASE.to_owned());
    }
    if let Some(rival) = &rival {
        warnings.push(format!("the data do not determine the aberrations alone: {rival}"));
    }
    for warning in warnings {
        ctx.progress.warn(&warning);
        ctx.cache().update(|manifest| manifest.warnings.push(warning))?;
    }
    Ok(AberrationFit {
        parameters: model.parameters,
        transposed,
        kernel: found.kernel.name().to_owned(),
        kernel_trial: found.trial,
        coherence: found.convergence.last().copied().unwrap_or(0.0),
        significance: found.significance,
        c10_angstrom: unit.map(|u| u * c1),
        c12_angstrom: unit.map(|u| [u * c2a, u * c2b]),
        rotation_deg: degrees,
        other_branch: format!("rotation {:.3}° with all signs of the aberrations reversed", wrapped(degrees + 180.0)),
        branch_reason,
        standard_deviations: deviations,
        rival,
        higher,
        orders,
        convergence: found.convergence.clone(),
        sampling,
    })
}

fn rival_in_words(rival: &Rival, unit: Option<f64>) -> String {
    let [c1, c2a, c2b, theta] = rival.model.parameters;
    let axes = if rival.model.transposed { ", exchanged detector axes" } else { "" };
    let (scale, name) = unit.map_or((1.0, "scan px per detector px"), |u| (u, "Å"));
    format!(
        "C10 {:.4} {name}, C12 {:.4} {name}, rotation {:.1}°{axes} explains them as well within {:.1} standard errors (a crystal, or too little contrast)",
        c1 * scale,
        c2a.hypot(c2b) * scale,
        wrapped(theta.to_degrees()),
        rival.distance.max(0.0)
    )
}

/// Standard deviations by name: of the aberrations in units of `unit`, of the rotation in degrees.
fn standard_deviations(deviations: Option<[f64; 4]>, unit: f64) -> BTreeMap<String, f64> {
    let names = [("c10", unit), ("c12a", unit), ("c12b", unit), ("rotation", 180.0 / PI)];
    let each =
        names.iter().zip(deviations.unwrap_or([f64::NAN; 4])).map(|((name, scale), d)| ((*name).to_owned(), scale * d));
    each.filter(|(_, s)| s.is_finite()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(rotation_deg: Option<f64>, c10_angstrom: Option<f64>) -> Guess {
        Guess { models: Vec::new(), known: Aberrations::default(), rotation_deg, c10_angstrom }
    }

    #[test]
    fn the_users_rotation_or_defocus_chooses_the_branch() {
        let flips = |guess: Guess, degrees: f64, c10: f64| guess.branch(degrees, Some(c10)).unwrap().0;
        assert!(!flips(guess(None, None), 30.0, -1500.0) && flips(guess(None, None), 120.0, -1500.0));
        assert!(flips(guess(Some(-150.0), None), 30.0, -1500.0) && !flips(guess(Some(100.0), None), 30.0, -1500.0));
        assert!(flips(guess(None, Some(1200.0)), 30.0, -1500.0) && !flips(guess(None, Some(-900.0)), 30.0, -1500.0));
        assert!(!flips(guess(Some(20.0), Some(-900.0)), 30.0, -1500.0));
    }

    #[test]
    fn guesses_that_contradict_each_other_are_refused_with_both_answers() {
        let error = guess(Some(20.0), Some(900.0)).branch(30.0, Some(-1500.0)).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(
            ["20°", "-900 Å", "30.0°", "1500 Å", "-150.0°", "-1500 Å"].iter().all(|word| text.contains(word)),
            "{text}"
        );
    }
}
