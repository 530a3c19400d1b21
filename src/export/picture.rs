//! A PNG picture of every result, for looking at: contrast from percentiles, a colour bar and a scale bar.

use std::path::{Path, PathBuf};

use super::arrays::each;
use super::canvas::{Canvas, DIM};
use super::files::write_new;
use super::font;
use super::panel::{LINE, Panel, Shown, TEXT};
use super::run::{Layer, RunResults};
use crate::error::Result;

const MARGIN: usize = 18;
/// Small images are magnified to this many pixels at least, large ones reduced to this many at most.
const LEAST: usize = 320;
const MOST: usize = 4096;

/// Writes a picture of every result as `{stem}_{name}.png` and returns the files.
///
/// # Errors
/// A folder that cannot be written to, a full disk.
pub fn write_pictures(folder: &Path, stem: &str, run: &RunResults) -> Result<Vec<PathBuf>> {
    each(folder, stem, "png", run, |layer, path| {
        let (canvas, title) = draw(run, layer);
        write_new(path, "the picture", |out| canvas.png(out, &title))
    })
}

fn draw(run: &RunResults, layer: &Layer<'_>) -> (Canvas, String) {
    let panel = Panel::of(run, layer);
    let shown = Shown::whole(panel.image(), LEAST, MOST);
    let (width, height) = panel.size(shown);
    let origin = font::wrap(&format!("{} · {}", run.base_name, run.timestamp), TEXT, width);
    let mut canvas = Canvas::new(width + 2 * MARGIN, height + MARGIN / 2 + origin.len() * LINE + 2 * MARGIN);
    panel.draw(&mut canvas, MARGIN, MARGIN, shown);
    for (number, line) in origin.iter().enumerate() {
        canvas.text(MARGIN, MARGIN + height + MARGIN / 2 + number * LINE, TEXT, DIM, line);
    }
    (canvas, panel.title().to_owned())
}
