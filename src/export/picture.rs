//! A PNG picture of every result, for looking at: contrast from percentiles, a colour bar and a scale bar; and of
//! every curve.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::arrays::each;
use super::canvas::{Area, Canvas, DIM};
use super::files::{safe_name, write_new};
use super::panel::{LINE, Panel, Shown, TEXT};
use super::run::{Layer, RunResults};
use super::{charts, font};
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
    let mut files = each(folder, stem, "png", run, |layer, path| {
        let (canvas, title) = draw(run, layer);
        write_new(path, "the picture", |out| canvas.png(out, &title))
    })?;
    let curves = run.curves.par_iter().map(|curve| {
        let own = (curve.name == "frc").then(|| charts::ring_correlation(run)).flatten();
        let plot = own.unwrap_or_else(|| charts::columns(curve));
        let (width, height) = PLOT;
        let (mut canvas, y) = with_origin(run, width, height);
        plot.draw(&mut canvas, Area { x: MARGIN, y, width, height });
        let path = folder.join(format!("{stem}_{}.png", safe_name(&curve.name)));
        write_new(&path, "the picture", |out| canvas.png(out, &plot.title))
    });
    files.extend(curves.collect::<Result<Vec<_>>>()?);
    Ok(files)
}

fn draw(run: &RunResults, layer: &Layer<'_>) -> (Canvas, String) {
    let panel = Panel::of(run, layer);
    let shown = Shown::whole(panel.image(), LEAST, MOST);
    let (width, height) = panel.size(shown);
    let (mut canvas, y) = with_origin(run, width, height);
    panel.draw(&mut canvas, MARGIN, y, shown);
    (canvas, panel.title().to_owned())
}

/// A canvas with room for `width` × `height` pixels at its margin and the run's name below; where the room begins.
fn with_origin(run: &RunResults, width: usize, height: usize) -> (Canvas, usize) {
    let origin = font::wrap(&format!("{} · {}", run.base_name, run.timestamp), TEXT, width);
    let mut canvas = Canvas::new(width + 2 * MARGIN, height + MARGIN / 2 + origin.len() * LINE + 2 * MARGIN);
    for (number, line) in origin.iter().enumerate() {
        canvas.text(MARGIN, MARGIN + height + MARGIN / 2 + number * LINE, TEXT, DIM, line);
    }
    (canvas, MARGIN)
}
