//! All results of a run on one dark sheet: where the disk was found, how the images were aligned, what came out.

use std::path::{Path, PathBuf};

use super::canvas::{AMBER, BRIGHT, Canvas, DIM};
use super::files::write_new;
use super::font;
use super::panel::{LINE, Panel, Shown, TEXT};
use super::run::RunResults;
use super::tone::number;
use crate::error::Result;

const MARGIN: usize = 28;
const GAP: usize = 24;
/// Two rows of panels: names, longer side of the images, and width of a panel.
const ROWS: [(&[&str], usize, usize); 2] =
    [(&["mean_pattern", "shift_y", "shift_x", "quality"], 280, 390), (&["standard_bf", "superres_image"], 680, 804)];
const WIDTH: usize = 4 * 390 + 3 * GAP + 2 * MARGIN;

/// Writes the sheet as `{stem}_sheet.png` and returns the file.
///
/// # Errors
/// A folder that cannot be written to, a full disk.
pub fn write_contact_sheet(folder: &Path, stem: &str, run: &RunResults) -> Result<PathBuf> {
    let canvas = draw(run);
    let title = format!("{} {}", run.base_name, run.timestamp);
    write_new(&folder.join(format!("{stem}_sheet.png")), "the contact sheet", |out| canvas.png(out, &title))
}

fn draw(run: &RunResults) -> Canvas {
    let room = WIDTH - 2 * MARGIN;
    let name = font::wrap(&format!("{} · {}", run.base_name, run.timestamp), TEXT + 1, room);
    let parameters = font::wrap(&parameters(run), TEXT, room);
    let warnings: Vec<String> =
        run.warnings.iter().flat_map(|w| font::wrap(&format!("warning: {w}"), TEXT, room)).collect();
    let rows: Vec<Vec<(Panel, Shown)>> = ROWS.iter().map(|(names, side, _)| panels(run, names, *side)).collect();
    let heights: Vec<usize> =
        rows.iter().map(|row| row.iter().map(|(panel, shown)| panel.size(*shown).1).max().unwrap_or(0)).collect();

    let text = name.len() * (LINE + 10) + (parameters.len() + warnings.len()) * LINE;
    let height = 2 * MARGIN + text + heights.iter().map(|h| h + GAP).sum::<usize>();
    let mut canvas = Canvas::new(WIDTH, height);
    let mut y = MARGIN;
    for (lines, scale, color, step) in
        [(&name, TEXT + 1, BRIGHT, LINE + 10), (&parameters, TEXT, DIM, LINE), (&warnings, TEXT, AMBER, LINE)]
    {
        for line in lines {
            canvas.text(MARGIN, y, scale, color, line);
            y += step;
        }
    }
    for ((row, height), (_, _, width)) in rows.iter().zip(heights).zip(ROWS) {
        y += GAP;
        for (number, (panel, shown)) in row.iter().enumerate() {
            panel.draw(&mut canvas, MARGIN + number * (width + GAP), y, *shown);
        }
        y += height;
    }
    canvas
}

fn panels(run: &RunResults, names: &[&str], side: usize) -> Vec<(Panel, Shown)> {
    let layers = run.layers();
    names
        .iter()
        .filter_map(|name| layers.iter().find(|layer| layer.name == *name))
        .map(|layer| {
            let panel = Panel::of(run, layer);
            let shown = Shown::fit(panel.image(), side);
            (panel, shown)
        })
        .collect()
}

/// What the run was made with, in one line.
fn parameters(run: &RunResults) -> String {
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
    // A line ends after a dot, never within what belongs together.
    let keep = |part: String| part.replace(' ', &font::NO_BREAK.to_string());
    parts.into_iter().map(keep).collect::<Vec<_>>().join(&format!("{}· ", font::NO_BREAK))
}
