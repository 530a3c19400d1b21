//! Which parameters each step depends on. A change invalidates the step and all later ones.

use serde_json::{Value, json};

use crate::cache::Step;
use crate::config::{Config, Merge};

/// The parameters that a step itself depends on (not those of earlier steps), with the names of the configuration.
pub(super) fn of(step: Step, config: &Config) -> Value {
    let c = config;
    match step {
        Step::Detect => json!({
            "source.scan": c.source.scan,
            "source.dataset": c.source.dataset,
            "source.incomplete": c.source.incomplete,
            "source.excess": c.source.excess,
            "source.skip_frames": c.source.skip_frames,
            "disk.center": c.disk.center,
            "disk.radius": c.disk.radius,
            "disk.crop_radius": c.disk.crop_radius,
            "disk.allow_clipped": c.disk.allow_clipped,
        }),
        Step::Stack => json!({"source.nan": c.source.nan}),
        Step::Fft => json!({"run.precision": c.run.precision}),
        Step::Correlate => json!({"align.reference_smoothing": c.align.reference_smoothing}),
        Step::Peaks => json!({}),
        Step::Shifts if c.is_parametric() => {
            json!({
                "align.method": "parametric",
                "align.refine": c.align.refine,
                "calibration": c.calibration,
                "disk.bad_pixels": c.disk.bad_pixels,
                "disk.exclude": c.disk.exclude,
                "align.max_order": c.align.max_order,
                "align.known": c.align.known,
            })
        }
        Step::Shifts => json!({"align.method": "classic"}),
        Step::Reconstruct => reconstruct(c),
    }
}

fn reconstruct(c: &Config) -> Value {
    let (r, merge) = (&c.reconstruct, c.merge());
    let mut keys = json!({
        "reconstruct.upscale": r.upscale,
        "reconstruct.merge": merge,
        "reconstruct.detector_radius": r.detector_radius,
        "reconstruct.quality_threshold": r.quality_threshold,
    });
    // What the nearest merge does not look at is not to make its images again.
    if merge != Merge::Nearest {
        keys["calibration"] = json!([
            c.calibration.energy_ev,
            c.calibration.semiangle_mrad,
            c.calibration.scan_step_angstrom,
            c.calibration.detector_mrad_per_px,
        ]);
        keys["reconstruct.contrast"] = json!(r.contrast);
        keys["reconstruct.depths_angstrom"] = json!(r.depths_angstrom);
    }
    if merge == Merge::Bilinear {
        keys["reconstruct.kde_sigma"] = json!(r.kde_sigma);
    }
    keys
}

/// Names of the parameters that differ.
pub(super) fn changed_keys(before: &Value, now: &Value) -> Vec<String> {
    let (Some(before), Some(now)) = (before.as_object(), now.as_object()) else { return vec!["parameters".to_owned()] };
    let mut keys: Vec<String> =
        now.iter().filter(|(key, value)| before.get(*key) != Some(value)).map(|(key, _)| key.clone()).collect();
    keys.extend(before.keys().filter(|key| !now.contains_key(*key)).cloned());
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Method;

    #[test]
    fn a_changed_parameter_is_named() {
        let before = of(Step::Reconstruct, &Config::default());
        let mut config = Config::default();
        config.reconstruct.detector_radius = 7;
        assert_eq!(changed_keys(&before, &of(Step::Reconstruct, &config)), ["reconstruct.detector_radius"]);
        config.align.method = Method::Classic;
        let classic = of(Step::Shifts, &config);
        config.disk.exclude.push([3, 4]);
        assert_eq!(of(Step::Shifts, &config), classic, "the classic method ignores it");
        config.align.method = Method::Parametric;
        assert_ne!(of(Step::Shifts, &config), of(Step::Shifts, &Config::default()));
        assert_eq!(of(Step::Correlate, &config), of(Step::Correlate, &Config::default()));
    }
}
