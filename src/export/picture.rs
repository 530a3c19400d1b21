//! A PNG picture of every result, for looking at: contrast from percentiles, a colour bar and a scale bar; and of
//! every curve.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::canvas::{Area, DIM, Sheet};
use super::files::{Place, safe_name};
use super::ink::{Ink, Pixel};
use super::panel::{LINE, Panels, Shown, TEXT};
use super::run::RunResults;
use super::{charts, font};
use crate::cache::Curve;
use crate::error::Result;

const MARGIN: usize = 18;
/// Small images are magnified to this many pixels at least, large ones reduced to this many at most.
const LEAST: usize = 320;
const MOST: usize = 4096;
/// Width and height of a curve's plot.
const PLOT: (usize, usize) = (960, 600);

/// Writes a picture of every result and of every curve as `{stem}_{name}.png` and returns the files.
///
/// # Errors
/// A folder that cannot be written to, a full disk.
pub fn write_pictures(folder: &Path, stem: &str, run: &RunResults) -> Result<Vec<PathBuf>> {
    let (place, panels) = (Place::shown(folder, stem), Panels::of(run));
    let layers = (0..panels.layers.len()).into_par_iter().map(|number| write_layer(&place, &panels, number));
    let mut files = layers.collect::<Result<Vec<_>>>()?;
    let curves = run.curves.par_iter().map(|curve| write_curve(&place, run, curve));
    files.extend(curves.collect::<Result<Vec<_>>>()?);
    Ok(files)
}

/// The picture of the result with this number.
pub(super) fn write_layer(place: &Place<'_>, panels: &Panels<'_>, number: usize) -> Result<PathBuf> {
    let panel = panels.get(number);
    let shown = Shown::whole(panel.image(), LEAST, MOST);
    let (width, height) = panel.size(shown);
    let name = format!("{}.png", panels.layers[number].name);
    if let Some(palette) = panel.palette() {
        let (mut sheet, y) = with_origin::<Ink>(panels.run, (width, height), palette);
        panel.draw_plain(&mut sheet.canvas(), MARGIN, y, shown);
        return place.write(&name, "the picture", |out| sheet.png(out, panel.title()));
    }
    let (mut sheet, y) = with_origin(panels.run, (width, height), ());
    panel.draw(&mut sheet.canvas(), MARGIN, y, shown);
    place.write(&name, "the picture", |out| sheet.png(out, panel.title()))
}

pub(super) fn write_curve(place: &Place<'_>, run: &RunResults, curve: &Curve) -> Result<PathBuf> {
    let own = (curve.name == "frc").then(|| charts::ring_correlation(run)).flatten();
    let plot = own.unwrap_or_else(|| charts::columns(curve));
    let (width, height) = PLOT;
    let (mut sheet, y) = with_origin(run, PLOT, ());
    plot.draw(&mut sheet.canvas(), Area { x: MARGIN, y, width, height });
    place.write(&format!("{}.png", safe_name(&curve.name)), "the picture", |out| sheet.png(out, &plot.title))
}

/// A sheet with room for `size` (width × height) pixels at its margin and the run's name below; where the room begins.
fn with_origin<P: Pixel>(run: &RunResults, (width, height): (usize, usize), palette: P::Palette) -> (Sheet<P>, usize) {
    let origin = font::wrap(&format!("{} · {}", run.base_name, run.timestamp), TEXT, width);
    let mut sheet = Sheet::new(width + 2 * MARGIN, height + MARGIN / 2 + origin.len() * LINE + 2 * MARGIN, palette);
    let mut canvas = sheet.canvas();
    for (number, line) in origin.iter().enumerate() {
        canvas.text(MARGIN, MARGIN + height + MARGIN / 2 + number * LINE, TEXT, DIM, line);
    }
    (sheet, MARGIN)
}
