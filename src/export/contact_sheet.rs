//! All results of a run on one dark sheet: where the disk was found, how the images were aligned, what came out and
//! how good it is.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::canvas::{AMBER, Area, BRIGHT, Canvas, DIM, Sheet};
use super::colormap::Rgb;
use super::files::Place;
use super::inset::{Inset, SIDE};
use super::panel::{LINE, Panel, Panels, Shown, TEXT};
use super::plot::Plot;
use super::run::RunResults;
use super::spectrum::{Sampled, Spectra};
use super::{before_after, charts, font, quiver, summary};
use crate::error::Result;

const MARGIN: usize = 28;
const GAP: usize = 24;
/// Width of a panel when four stand in a row.
const COLUMN: usize = 390;
const WIDTH: usize = 4 * COLUMN + 3 * GAP + 2 * MARGIN;
const ROOM: usize = WIDTH - 2 * MARGIN;
const MAPS: [&str; 4] = ["mean_pattern", "shift_y", "shift_x", "quality"];
const IMAGES: [&str; 4] = ["standard_bf", "superres_image", "superres_ssb", "superres_phase_flipped"];
/// What the colour bar and its labels take beside an image.
const BAR: usize = 124;
/// Height of plots that stand alone.
const PLOT: usize = 440;

/// Writes the sheet as `{stem}_sheet.png` and returns the file.
///
/// # Errors
/// A folder that cannot be written to, a full disk.
pub fn write_contact_sheet(folder: &Path, stem: &str, run: &RunResults) -> Result<PathBuf> {
    write_drawn(&Place::shown(folder, stem), run, &draw(&Panels::of(run)))
}

/// Writes the sheet that was drawn.
pub(super) fn write_drawn(place: &Place<'_>, run: &RunResults, sheet: &Sheet) -> Result<PathBuf> {
    let title = format!("{} {}", run.base_name, run.timestamp);
    place.write("sheet.png", "the contact sheet", |out| sheet.png(out, &title))
}

/// One thing on the sheet and its place from the left.
enum Item<'a> {
    Panel(&'a Panel<'a>, Shown),
    Inset(Inset),
    /// As wide as this, and as high as the row.
    Plot(Plot, usize),
}

impl Item<'_> {
    fn width(&self) -> usize {
        match self {
            Self::Panel(..) => COLUMN,
            Self::Inset(_) => SIDE,
            Self::Plot(_, width) => *width,
        }
    }

    /// What it needs; nothing for what takes the height that there is.
    fn height(&self) -> usize {
        match self {
            Self::Panel(panel, shown) => panel.size(*shown).1,
            Self::Inset(inset) => inset.height(),
            Self::Plot(..) => 0,
        }
    }
}

/// Things side by side, each with its place from the left.
struct Row<'a> {
    items: Vec<(usize, Item<'a>)>,
}

impl<'a> Row<'a> {
    /// Places every item where the one before ends.
    fn packed(items: Vec<Item<'a>>) -> Self {
        let mut x = 0;
        let place = |item: Item<'a>| {
            let at = x;
            x += item.width() + GAP;
            (at, item)
        };
        Self { items: items.into_iter().map(place).collect() }
    }

    fn height(&self) -> usize {
        match self.items.iter().map(|(_, item)| item.height()).max() {
            Some(0) => PLOT,
            Some(height) => height,
            None => 0,
        }
    }

    /// Draws the row at the top of a canvas, which has room for it.
    fn draw(&self, canvas: &mut Canvas<'_>) {
        let height = self.height();
        for (x, item) in &self.items {
            let x = MARGIN + x;
            match item {
                Item::Panel(panel, shown) => panel.draw(canvas, x, 0, *shown),
                Item::Inset(inset) => inset.draw(canvas, x, 0),
                Item::Plot(plot, width) => plot.draw(canvas, Area { x, y: 0, width: *width, height }),
            }
        }
    }
}

/// Draws the sheet, on all threads of the pool that this is called in.
pub(super) fn draw(panels: &Panels<'_>) -> Sheet {
    let text = words(panels.run);
    let rows = rows(panels);
    // Below each row a gap: letters under a plot reach into it.
    let head = MARGIN + text.iter().map(|line| line.step).sum::<usize>() + GAP;
    let mut heights = vec![head];
    heights.extend(rows.iter().map(|row| row.height() + GAP));
    heights.push(MARGIN - GAP);
    let mut sheet = Sheet::bare(WIDTH, heights.iter().sum(), ());
    // Row by row on parts of the sheet, so that they can be drawn side by side.
    let mut parts = sheet.parts(heights.into_iter());
    parts.par_iter_mut().enumerate().with_max_len(1).for_each(|(number, part)| {
        part.clear();
        match number.checked_sub(1) {
            None => write_words(part, &text),
            Some(row) => rows.get(row).into_iter().for_each(|row| row.draw(part)),
        }
    });
    sheet
}

fn write_words(canvas: &mut Canvas<'_>, text: &[TextLine]) {
    let mut y = MARGIN;
    for line in text {
        canvas.text(MARGIN, y, line.scale, line.color, &line.text);
        y += line.step;
    }
}

/// A line of text above the images.
struct TextLine {
    text: String,
    scale: usize,
    color: Rgb,
    /// To the next line.
    step: usize,
}

fn words(run: &RunResults) -> Vec<TextLine> {
    let mut lines = Vec::new();
    let mut add = |text: &str, scale: usize, color: Rgb, step: usize| {
        let wrapped = font::wrap(text, scale, ROOM);
        lines.extend(wrapped.into_iter().map(|text| TextLine { text, scale, color, step }));
    };
    add(&format!("{} · {}", run.base_name, run.timestamp), TEXT + 1, BRIGHT, LINE + 10);
    add(&summary::parameters(run), TEXT, DIM, LINE);
    add(&summary::fit(run), TEXT, BRIGHT, LINE);
    for warning in &run.warnings {
        add(&format!("warning: {warning}"), TEXT, AMBER, LINE);
    }
    lines
}

/// Everything there is to show, in rows without holes.
fn rows<'a>(panels: &'a Panels<'_>) -> Vec<Row<'a>> {
    let run = panels.run;
    let gain = || {
        let Some(superres) = Sampled::of(run) else { return (Vec::new(), None) };
        let frequencies = || {
            let spectra = Spectra::of(run, &superres);
            rayon::join(|| before_after::spectra(run, &spectra), || charts::power(run, &spectra))
        };
        let ((insets, plot), details) = rayon::join(frequencies, || before_after::details(run, &superres));
        (details.into_iter().chain(insets).collect(), plot)
    };
    let (((gain, power), arrows), (maps, images)) = rayon::join(
        || rayon::join(gain, || rayon::join(|| quiver::shifts(run), || quiver::residuals(run))),
        || rayon::join(|| some(panels, &MAPS, 280), || images(panels)),
    );
    let mut rows = vec![Row::packed(maps)];
    rows.extend(images);
    rows.push(Row::packed(gain.into_iter().map(Item::Inset).collect()));
    let arrows = [arrows.0, arrows.1].into_iter().flatten().collect();
    let plots = [charts::ring_correlation(run), charts::contrast_transfer(run), power];
    rows.extend(quality(arrows, plots.into_iter().flatten().collect()));
    rows.retain(|row| !row.items.is_empty());
    rows
}

/// Insets, and the plots in what is left of the row; more than fit there stand below.
fn quality<'a>(insets: Vec<Inset>, mut plots: Vec<Plot>) -> Vec<Row<'a>> {
    let left = ROOM - insets.len() * (SIDE + GAP);
    let fit = (left + GAP) / (COLUMN + GAP);
    let below = if plots.len() > fit { plots.split_off(1.min(fit)) } else { Vec::new() };
    let mut first: Vec<Item> = insets.into_iter().map(Item::Inset).collect();
    first.extend(side_by_side(plots, left));
    vec![Row::packed(first), Row::packed(side_by_side(below, ROOM))]
}

/// Plots of equal width that fill `room`.
fn side_by_side<'a>(plots: Vec<Plot>, room: usize) -> Vec<Item<'a>> {
    let width = (room + GAP) / plots.len().max(1) - GAP;
    plots.into_iter().map(|plot| Item::Plot(plot, width)).collect()
}

/// The images that there are, as large as the sheet allows.
fn images<'a>(panels: &'a Panels<'_>) -> Vec<Row<'a>> {
    let there: Vec<&str> = IMAGES.into_iter().filter(|name| panels.layers.iter().any(|l| l.name == *name)).collect();
    let per_row = if there.len() == 4 { 2 } else { there.len().max(1) };
    let width = (ROOM + GAP) / per_row - GAP;
    there
        .chunks(per_row)
        .map(|names| {
            let items = some(panels, names, width - BAR).into_iter().enumerate();
            Row { items: items.map(|(number, item)| (number * (width + GAP), item)).collect() }
        })
        .collect()
}

/// Panels of these results, as far as there are any, with the longer side of the image `side` pixels.
fn some<'a>(panels: &'a Panels<'_>, names: &[&str], side: usize) -> Vec<Item<'a>> {
    let there = names.iter().filter_map(|name| panels.named(name));
    there.map(|panel| Item::Panel(panel, Shown::fit(panel.image(), side))).collect()
}
