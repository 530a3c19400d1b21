//! A run in words: what it was made with, and what the fit found.

use super::charts::{astigmatism_angle, resolution};
use super::font;
use super::panel::bad_pixels;
use super::run::RunResults;
use super::tone::number;

/// What the run was made with, in one line.
pub(super) fn parameters(run: &RunResults) -> String {
    let crop = run.crop.shape();
    let [row, col] = run.bf_center;
    let mut parts = vec![
        format!("scan {}", run.scan),
        format!("detector {}", run.det),
        format!("disk centre ({row:.2}, {col:.2}) radius {:.2} px", run.bf_radius),
        format!("crop {crop}"),
        format!("upscale ×{}", run.upscale),
        format!("method {}", run.method),
        format!("reference smoothing {}", number(run.reference_smoothing)),
        format!("detector radius {}", run.detector_radius),
        format!("quality > {}", number(run.quality_threshold)),
    ];
    let c = &run.calibration;
    let known = [
        (c.energy_ev.map(|e| e / 1e3), "", " keV"),
        (c.semiangle_mrad, "semi-angle ", " mrad"),
        (c.scan_step_angstrom, "step ", " Å"),
        (c.detector_mrad_per_px, "", " mrad/px"),
        (c.rotation_deg, "rotation ", "°"),
        (c.defocus_angstrom, "defocus ", " Å"),
    ];
    parts.extend(
        known
            .iter()
            .filter_map(|(value, before, after)| value.map(|value| format!("{before}{}{after}", number(value)))),
    );
    joined(parts)
}

/// What the alignment found, in one line; empty where it found nothing that has a name here.
pub(super) fn fit(run: &RunResults) -> String {
    let mut parts = Vec::new();
    if let Some(c10) = run.finding("c10_angstrom") {
        parts.push(format!("defocus {} Å", with_sign(-c10)));
    }
    if let Some((a, b)) = run.finding("c12a_angstrom").zip(run.finding("c12b_angstrom")) {
        parts.push(format!("astigmatism {} Å at {:.0}°", number(a.hypot(b)), astigmatism_angle([a, b])));
    }
    if let Some(rotation) = run.finding("fit_rotation_deg") {
        parts.push(format!("rotation {rotation:.1}°").replace('-', "−"));
    }
    if run.finding("fit_transposed").is_some_and(|v| v > 0.5) {
        parts.push("detector axes exchanged".to_owned());
    }
    for (finding, name, unit) in [("fit_significance", "significance", " σ"), ("fit_coherence", "coherence", "")] {
        if let Some(value) = run.finding(finding) {
            parts.push(format!("{name} {}{unit}", number(value)));
        }
    }
    for (finding, name) in [("resolution_half_bit", "half-bit"), ("resolution_one_seventh", "1/7")] {
        if let Some((_, length)) = resolution(run, finding, run.calibration.scan_step_angstrom.is_some()) {
            parts.push(format!("resolution {length} ({name})"));
        }
    }
    match bad_pixels(run).len() {
        0 => {}
        1 => parts.push("1 bad detector pixel".to_owned()),
        count => parts.push(format!("{count} bad detector pixels")),
    }
    if parts.is_empty() { String::new() } else { format!("found: {}", joined(parts)) }
}

fn with_sign(value: f64) -> String {
    if value < 0.0 { format!("−{}", number(-value)) } else { number(value) }
}

/// A line ends after a dot, never within what belongs together.
fn joined(parts: Vec<String>) -> String {
    let keep = |part: String| part.replace(' ', &font::NO_BREAK.to_string());
    parts.into_iter().map(keep).collect::<Vec<_>>().join(&format!("{}· ", font::NO_BREAK))
}
