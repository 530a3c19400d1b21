//! One image as it is shown: its title above, a colour bar beside and a scale bar below, nothing on top of the data.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::OnceLock;

use super::canvas::{AMBER, Area, BACKGROUND, BRIGHT, Canvas, DIM, Point};
use super::colormap::{Colormap, NOT_A_NUMBER, Rgb, paint};
use super::font;
use super::ink::{Palette, Pixel};
use super::run::{Layer, RunResults};
use super::tone::{Resampling, Tone, number, round_length, spread};
use crate::axes::{Image, Plane};

/// Dots of letters are two pixels wide: readable where a picture is shown at its own size.
pub(super) const TEXT: usize = 2;
/// From a line of text to the next.
pub(super) const LINE: usize = 26;
const GAP: usize = 10;
const BAR_WIDTH: usize = 16;
/// A colour bar shorter than this would have no room for its labels.
const BAR_HEIGHT: usize = 96;
const SCALE_BAR: usize = 34;
/// Rows of an image that are painted one after the other.
const BAND: usize = 64;
const DISK: Rgb = [70, 205, 235];
const ON_LIGHT: Rgb = [60, 62, 70];
const BAD: Rgb = [255, 84, 84];

/// An image with all that is needed to show it.
pub(super) struct Panel<'a> {
    title: String,
    image: Cow<'a, Image>,
    tone: Tone,
    map: Colormap,
    plane: Plane,
    pixel_size: Option<f64>,
    marks: Vec<Mark>,
}

/// The panels of all results of a run, each made when it is first asked for: the sheet and the pictures show the same.
pub(super) struct Panels<'a> {
    pub(super) run: &'a RunResults,
    pub(super) layers: Vec<Layer<'a>>,
    made: Vec<OnceLock<Panel<'a>>>,
}

impl<'a> Panels<'a> {
    pub(super) fn of(run: &'a RunResults) -> Self {
        let layers = run.layers();
        let made = layers.iter().map(|_| OnceLock::new()).collect();
        Self { run, layers, made }
    }

    /// The panel of the result with this number.
    pub(super) fn get(&self, number: usize) -> &Panel<'a> {
        self.made[number].get_or_init(|| Panel::of(self.run, &self.layers[number]))
    }

    /// The panel of the result of this name, where there is one.
    pub(super) fn named(&self, name: &str) -> Option<&Panel<'a>> {
        self.layers.iter().position(|layer| layer.name == name).map(|number| self.get(number))
    }
}

/// Something drawn on the image, in its own pixels; whole numbers are the centres of pixels.
enum Mark {
    Circle {
        row: f64,
        col: f64,
        radius: f64,
        color: Rgb,
    },
    Frame {
        row0: f64,
        row1: f64,
        col0: f64,
        col1: f64,
        color: Rgb,
    },
    /// Crosses on these pixels, `[row, col]`.
    Crosses {
        at: Vec<[f64; 2]>,
        color: Rgb,
    },
}

/// Rows and columns of pixels on the sheet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Shown {
    /// As large as possible with the longer side `side`.
    pub(super) fn fit(image: &Image, side: usize) -> Self {
        let (rows, cols) = image.dim();
        let scale = side as f64 / rows.max(cols).max(1) as f64;
        let pixels = |n: usize| ((n as f64 * scale).round() as usize).max(1);
        Self { rows: pixels(rows), cols: pixels(cols) }
    }

    /// Every pixel of the image as a square of whole pixels, so that the longer side has at least `least` of them
    /// and, where that does not contradict, at most `most`; reduced where it is longer than that.
    pub(super) fn whole(image: &Image, least: usize, most: usize) -> Self {
        let (rows, cols) = image.dim();
        let side = rows.max(cols).max(1);
        if side > most {
            return Self::fit(image, most);
        }
        let scale = least.div_ceil(side);
        Self { rows: (rows * scale).max(1), cols: (cols * scale).max(1) }
    }
}

impl<'a> Panel<'a> {
    /// How this program shows a result: shifts in blue and red around no shift, qualities and counts of samples in
    /// colours from dark to light, images in grey.
    pub(super) fn of(run: &RunResults, layer: &Layer<'a>) -> Self {
        let mut image = Cow::Borrowed(layer.image);
        let mut units = layer.units.to_owned();
        let mut marks = Vec::new();
        let (tone, map) = match layer.name {
            "shift_y" | "shift_x" => {
                let none = run.no_shift()[usize::from(layer.name == "shift_x")];
                image.to_mut().mapv_inplace(|shift| shift - none);
                marks.push(disk(run, layer.plane, ON_LIGHT));
                (shift_tone(run, &image), Colormap::diverging())
            }
            "superres_image" => {
                let tone = sampled_tone(run, &mut image, &mut units);
                (tone, Colormap::grey())
            }
            "quality" | "weights" => (Tone::of_image(&image), Colormap::sequential()),
            "mean_pattern" => {
                units.push_str(", sqrt");
                marks.push(disk(run, layer.plane, DISK));
                marks.push(crop_frame(run));
                let bad = bad_pixels(run);
                if !bad.is_empty() {
                    marks.push(Mark::Crosses { at: bad, color: BAD });
                }
                (Tone::of_image(&image).with_sqrt(), Colormap::grey())
            }
            _ => (Tone::of_image(&image), Colormap::grey()),
        };
        let title = if units.is_empty() { layer.title.to_owned() } else { format!("{} ({units})", layer.title) };
        Self { title, image, tone, map, plane: layer.plane, pixel_size: run.pixel_size(layer.plane), marks }
    }

    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// Width and height of the whole panel when the image is `shown`.
    pub(super) fn size(&self, shown: Shown) -> (usize, usize) {
        let labels = self.labels().iter().map(|(_, text)| font::width(text, TEXT)).max().unwrap_or(0);
        let below = self.scale_bar(shown).map_or(0, |(_, text)| font::width(&text, TEXT));
        let width = shown.cols.max(below) + GAP + BAR_WIDTH + GAP + labels;
        let height = LINE + shown.rows.max(BAR_HEIGHT) + if below > 0 { SCALE_BAR } else { 0 };
        (width.max(font::width(&self.title, TEXT)), height)
    }

    /// Every colour of the panel and of what may be written around it; `None` where these are too many for a palette.
    pub(super) fn palette(&self) -> Option<Palette> {
        // The edges of marks are mixed with what they lie on.
        let plain = self.marks.is_empty();
        let around = [BACKGROUND, BRIGHT, DIM, NOT_A_NUMBER];
        plain.then(|| Palette::of([self.map.all(), &around].concat())).flatten()
    }

    /// Draws the panel with its upper left corner at (`x`, `y`).
    pub(super) fn draw(&self, canvas: &mut Canvas<'_>, x: usize, y: usize, shown: Shown) {
        let area = self.draw_plain(canvas, x, y, shown);
        for mark in &self.marks {
            self.draw_mark(canvas, mark, area);
        }
    }

    /// As [`draw`](Self::draw), without marks; returns where the image is.
    pub(super) fn draw_plain<P: Pixel>(&self, canvas: &mut Canvas<'_, P>, x: usize, y: usize, shown: Shown) -> Area {
        canvas.text(x, y, TEXT, BRIGHT, &self.title);
        let area = Area { x, y: y + LINE, width: shown.cols, height: shown.rows };
        let resampling = Resampling::new(&self.image, shown.rows, shown.cols);
        let inks = self.map.inks(|color| canvas.ink(color));
        // Side by side, because the largest image of a sheet takes as long as all others together.
        canvas.bands(area.y, shown.rows, BAND, |first, band| {
            let mut places = vec![0.0; shown.cols];
            resampling.rows(first..first + band.len(), |row, values| {
                let Some(values) = values else { return band.repeat(row - first, area.x, shown.cols) };
                self.tone.positions(values, &mut places);
                paint(&inks, &places, band.row_from(row - first, area.x));
            });
        });
        self.draw_color_bar(canvas, x + shown.cols + GAP, area.y, shown.rows.max(BAR_HEIGHT));
        if let Some((length, text)) = self.scale_bar(shown) {
            let top = area.y + shown.rows.max(BAR_HEIGHT) + 8;
            canvas.fill(x, top, length, 5, BRIGHT);
            canvas.text(x, top + 10, TEXT, BRIGHT, &text);
        }
        area
    }

    fn draw_mark(&self, canvas: &mut Canvas<'_>, mark: &Mark, area: Area) {
        let scale = area.width as f64 / self.image.ncols().max(1) as f64;
        let (left, top) = (area.x as f64, area.y as f64);
        match mark {
            Mark::Crosses { at, color } => {
                let arm = (0.5 * scale).max(4.0);
                let lines: Vec<Vec<Point>> = at
                    .iter()
                    .map(|[row, col]| [left + (col + 0.5) * scale, top + (row + 0.5) * scale])
                    .flat_map(|[x, y]| {
                        [[[x - arm, y - arm], [x + arm, y + arm]], [[x - arm, y + arm], [x + arm, y - arm]]]
                    })
                    .map(Vec::from)
                    .collect();
                canvas.strokes(&lines, 2.0, *color, area);
            }
            &Mark::Circle { row, col, radius, color } => {
                let (x, y) = (left + (col + 0.5) * scale, top + (row + 0.5) * scale);
                canvas.circle(x, y, radius * scale, 2.0, color, area);
            }
            &Mark::Frame { row0, row1, col0, col1, color } => {
                let at = |v: f64| (v * scale).round().max(0.0) as usize;
                let (x0, x1) = (at(col0).min(area.width), at(col1).min(area.width));
                let (y0, y1) = (at(row0).min(area.height), at(row1).min(area.height));
                canvas.frame(
                    Area {
                        x: area.x + x0,
                        y: area.y + y0,
                        width: x1.saturating_sub(x0),
                        height: y1.saturating_sub(y0),
                    },
                    color,
                );
            }
        }
    }

    fn draw_color_bar<P: Pixel>(&self, canvas: &mut Canvas<'_, P>, x: usize, y: usize, height: usize) {
        for row in 0..height {
            let share = 1.0 - row as f64 / (height - 1) as f64;
            // One colour where all numbers are the same, that of NaN where there are none.
            let position = if self.tone.is_flat() { self.tone.position(self.tone.low) } else { share };
            canvas.fill(x, y + row, BAR_WIDTH, 1, self.map.color(position));
        }
        let tall = font::CAP_HEIGHT * TEXT;
        for (share, text) in self.labels() {
            let top = y + ((1.0 - share) * (height - tall) as f64).round() as usize;
            canvas.text(x + BAR_WIDTH + GAP, top, TEXT, DIM, &text);
        }
    }

    /// Heights on the colour bar (0–1) and the numbers there.
    fn labels(&self) -> Vec<(f64, String)> {
        if self.tone.low.is_nan() {
            vec![(0.5, "no data".to_owned())]
        } else if self.tone.is_flat() {
            vec![(0.5, number(self.tone.low))]
        } else {
            vec![(0.0, number(self.tone.low)), (0.5, number(self.tone.middle())), (1.0, number(self.tone.high))]
        }
    }

    /// Pixels on the sheet and the label, about a third of the image's width.
    fn scale_bar(&self, shown: Shown) -> Option<(usize, String)> {
        let size = self.pixel_size?;
        let width = self.image.ncols() as f64 * size;
        let (unit, name) = match self.plane {
            Plane::Detector | Plane::Crop => (1.0, "mrad"),
            _ if width < 30.0 => (1.0, "Å"),
            _ if width < 3e4 => (10.0, "nm"),
            _ => (1e4, "µm"),
        };
        let length = round_length(width / 3.0 / unit);
        let pixels = (length * unit / width * shown.cols as f64).round() as usize;
        // Exact for every 1, 2 or 5 times a power of ten that an instrument can mean.
        let text = if (1e-3..1e6).contains(&length) { format!("{} {name}", number(length)) } else { return None };
        (pixels > 0).then_some((pixels, text))
    }
}

/// Contrast of a shift map from the pixels well inside the disk: outside, shifts are chance.
fn shift_tone(run: &RunResults, image: &Image) -> Tone {
    let [row, col] = center(run, Plane::Crop);
    let inside: Vec<f64> = image
        .indexed_iter()
        .filter(|((r, c), _)| (*r as f64 - row).hypot(*c as f64 - col) <= 0.95 * run.bf_radius)
        .map(|(_, shift)| *shift)
        .filter(|shift| shift.is_finite())
        .collect();
    if inside.is_empty() { Tone::around_zero(image.iter().copied()) } else { Tone::around_zero(inside.iter().copied()) }
}

/// Contrast of the super-resolved image from the pixels that received samples. The others, which hold zero and
/// would swallow the contrast, become as dark as the darkest, and the title says how many they are.
fn sampled_tone(run: &RunResults, image: &mut Cow<'_, Image>, units: &mut String) -> Tone {
    if run.weights.dim() != image.dim() {
        return Tone::of_image(image);
    }
    let weights = run.weights.as_standard_layout();
    let weights = weights.as_slice().unwrap_or_default();
    let empty = weights.iter().filter(|weight| **weight <= 0.0).count();
    let whole = image.as_standard_layout();
    let values = whole.as_slice().unwrap_or_default();
    let tone = Tone::of(spread(values.len()).filter(|i| weights[*i] > 0.0).map(|i| values[i]));
    if empty > 0 {
        let mut filled = whole.into_owned();
        filled.iter_mut().zip(weights).filter(|(_, weight)| **weight <= 0.0).for_each(|(value, _)| *value = tone.low);
        *image = Cow::Owned(filled);
    }
    let share = 100.0 * empty as f64 / image.len().max(1) as f64;
    if share >= 0.1 {
        let _ = write!(units, ", {} % empty", number(share));
    }
    tone
}

/// Centre of the disk in pixels of `plane`.
fn center(run: &RunResults, plane: Plane) -> [f64; 2] {
    let [row, col] = run.bf_center;
    if plane == Plane::Crop { [row - run.crop.row0 as f64, col - run.crop.col0 as f64] } else { [row, col] }
}

fn disk(run: &RunResults, plane: Plane, color: Rgb) -> Mark {
    let [row, col] = center(run, plane);
    Mark::Circle { row, col, radius: run.bf_radius, color }
}

fn crop_frame(run: &RunResults) -> Mark {
    let [row0, row1, col0, col1] = run.crop.bounds().map(|v| v as f64);
    Mark::Frame { row0, row1, col0, col1, color: AMBER }
}

/// Detector pixels that were found bad (not zero in the extra `bad_pixels`), `[row, col]` on the whole detector.
pub(super) fn bad_pixels(run: &RunResults) -> Vec<[f64; 2]> {
    let Some((extra, image)) = run.extra("bad_pixels") else { return Vec::new() };
    let [row0, col0] = if extra.plane == Plane::Crop { [run.crop.row0, run.crop.col0] } else { [0, 0] };
    let bad = image.indexed_iter().filter(|(_, value)| **value != 0.0);
    bad.map(|((r, c), _)| [(r + row0) as f64, (c + col0) as f64]).collect()
}
