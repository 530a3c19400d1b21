//! Curves over a common axis, in the look of the other panels: title and legend above, axes with round numbers,
//! lines that mark a place or a level, and their names where no curve runs.

use super::canvas::{Area, BRIGHT, Canvas, DIM, Point, dashes};
use super::colormap::Rgb;
use super::font;
use super::panel::{LINE, TEXT};
use super::ticks::{Scale, Tick};

const FIELD: Rgb = [26, 27, 31];
const GRID: Rgb = [46, 48, 54];
const EDGE: Rgb = [92, 95, 104];
const GAP: usize = 8;
const TALL: usize = font::CAP_HEIGHT * TEXT;
/// Length of the piece of line before a name in the legend.
const SAMPLE: usize = 26;

/// Colours of curves, apart in hue and in lightness, all readable on the dark sheet.
pub(super) const COLORS: [Rgb; 5] = [[70, 205, 235], [240, 178, 70], [232, 120, 175], [150, 214, 120], [186, 160, 250]];

/// Curves with their axes.
#[derive(Debug, Clone)]
pub(super) struct Plot {
    pub(super) title: String,
    /// What the horizontal axis is, with its unit.
    pub(super) x_name: String,
    pub(super) x: Scale,
    pub(super) y: Scale,
    pub(super) curves: Vec<PlotCurve>,
    /// Horizontal lines.
    pub(super) levels: Vec<Guide>,
    /// Vertical lines.
    pub(super) places: Vec<Guide>,
    /// Single points, in the colour of the curve that they belong to.
    pub(super) dots: Vec<(Point, Rgb)>,
}

/// One curve: points in the units of the axes. A number that is none leaves a gap.
#[derive(Debug, Clone)]
pub(super) struct PlotCurve {
    pub(super) name: String,
    pub(super) color: Rgb,
    pub(super) points: Vec<Point>,
}

/// A broken line across the plot with its name.
#[derive(Debug, Clone)]
pub(super) struct Guide {
    pub(super) at: f64,
    pub(super) name: String,
    pub(super) color: Rgb,
}

impl Plot {
    /// Draws the plot so that it fills `area`.
    pub(super) fn draw(&self, canvas: &mut Canvas<'_>, area: Area) {
        canvas.text(area.x, area.y, TEXT, BRIGHT, &self.title);
        let top = self.draw_legend(canvas, area);
        let field = self.field(area, top);
        if field.width < 20 || field.height < 20 {
            return;
        }
        self.draw_axes(canvas, area, field);
        let place = |[x, y]: Point| self.place(field, [x, y]);
        for guide in &self.levels {
            let ends = [0.0, 1.0].map(|share| [field.x as f64 + share * field.width as f64, self.level(field, guide)]);
            canvas.strokes(&dashes(ends[0], ends[1], 8.0, 6.0), 2.0, guide.color, field);
        }
        for guide in &self.places {
            let ends =
                [0.0, 1.0].map(|share| [self.across(field, guide), field.y as f64 + share * field.height as f64]);
            canvas.strokes(&dashes(ends[0], ends[1], 8.0, 6.0), 2.0, guide.color, field);
        }
        let lines: Vec<Vec<Point>> =
            self.curves.iter().map(|curve| curve.points.iter().map(|p| place(*p)).collect()).collect();
        for (curve, line) in self.curves.iter().zip(&lines) {
            canvas.strokes(std::slice::from_ref(line), 2.0, curve.color, field);
        }
        for curve in &self.curves {
            let dots: Vec<Vec<Point>> =
                self.dots.iter().filter(|(_, c)| *c == curve.color).map(|(p, _)| vec![place(*p); 2]).collect();
            canvas.strokes(&dots, 7.0, curve.color, field);
        }
        self.draw_names(canvas, field, &lines);
    }

    /// Where a point lies on the sheet.
    fn place(&self, field: Area, [x, y]: Point) -> Point {
        [
            field.x as f64 + self.x.position(x) * field.width as f64,
            (field.y + field.height) as f64 - self.y.position(y) * field.height as f64,
        ]
    }

    /// Sharp where it lies: on a corner between pixels.
    fn level(&self, field: Area, guide: &Guide) -> f64 {
        ((field.y + field.height) as f64 - self.y.position(guide.at) * field.height as f64).round()
    }

    fn across(&self, field: Area, guide: &Guide) -> f64 {
        (field.x as f64 + self.x.position(guide.at) * field.width as f64).round()
    }

    /// The names of the curves: right of the title where there is room, else below. Returns where the field begins.
    fn draw_legend(&self, canvas: &mut Canvas<'_>, area: Area) -> usize {
        let named: Vec<&PlotCurve> = self.curves.iter().filter(|curve| !curve.name.is_empty()).collect();
        let widths: Vec<usize> = named.iter().map(|c| SAMPLE + GAP + font::width(&c.name, TEXT)).collect();
        let all = widths.iter().map(|w| w + 3 * GAP).sum::<usize>();
        let beside = font::width(&self.title, TEXT) + all <= area.width;
        let (mut x, mut y) =
            if beside { (area.x + area.width + 3 * GAP - all, area.y) } else { (area.x, area.y + LINE) };
        for (curve, width) in named.iter().zip(widths) {
            if x > area.x && x + width > area.x + area.width {
                (x, y) = (area.x, y + LINE);
            }
            canvas.fill(x, y + TALL / 2 - 1, SAMPLE, 3, curve.color);
            canvas.text(x + SAMPLE + GAP, y, TEXT, DIM, &curve.name);
            x += width + 3 * GAP;
        }
        y + LINE
    }

    /// The part of `area` below `top` that the curves have for themselves.
    fn field(&self, area: Area, top: usize) -> Area {
        let below = GAP + TALL + LINE;
        let height = (area.y + area.height).saturating_sub(top + below);
        let labels = self.y_ticks(height).iter().map(|(_, text)| font::width(text, TEXT)).max().unwrap_or(0);
        let left = labels + GAP;
        Area { x: area.x + left, y: top, width: area.width.saturating_sub(left), height }
    }

    fn y_ticks(&self, height: usize) -> Vec<Tick> {
        self.y.ticks(height / (TALL + 34))
    }

    fn x_ticks(&self, width: usize) -> Vec<Tick> {
        let widest = self.x.ticks(6).iter().map(|(_, text)| font::width(text, TEXT)).max().unwrap_or(0);
        self.x.ticks(width / (widest + 34))
    }

    fn draw_axes(&self, canvas: &mut Canvas<'_>, area: Area, field: Area) {
        let (right, bottom) = (field.x + field.width, field.y + field.height);
        canvas.fill(field.x, field.y, field.width, field.height, FIELD);
        for (at, text) in self.y_ticks(field.height) {
            let y = bottom - ((at * field.height as f64).round() as usize).min(field.height);
            canvas.fill(field.x, y.min(bottom - 1), field.width, 1, GRID);
            let top = (y.saturating_sub(TALL / 2)).clamp(field.y, bottom - TALL);
            canvas.text(field.x - GAP - font::width(&text, TEXT), top, TEXT, DIM, &text);
        }
        let mut end = 0;
        for (at, text) in self.x_ticks(field.width) {
            let x = field.x + ((at * field.width as f64).round() as usize).min(field.width);
            canvas.fill(x.min(right - 1), field.y, 1, field.height, GRID);
            canvas.fill(x.min(right - 1), bottom, 1, 5, EDGE);
            let width = font::width(&text, TEXT);
            let left = x.saturating_sub(width / 2).min((area.x + area.width).saturating_sub(width)).max(area.x);
            // The last number is pushed inwards and may come too near to the one before.
            if left >= end {
                canvas.text(left, bottom + GAP, TEXT, DIM, &text);
                end = left + width + 2 * GAP;
            }
        }
        canvas.fill(field.x, field.y, 1, field.height, EDGE);
        canvas.fill(field.x, bottom, field.width, 1, EDGE);
        let width = font::width(&self.x_name, TEXT);
        let left = (field.x + field.width / 2).saturating_sub(width / 2).min((right).saturating_sub(width)).max(area.x);
        canvas.text(left, bottom + GAP + TALL + (LINE - TALL), TEXT, DIM, &self.x_name);
    }

    /// Names of the guides, each where the fewest points of curves and no other names lie.
    fn draw_names(&self, canvas: &mut Canvas<'_>, field: Area, lines: &[Vec<Point>]) {
        let mut taken: Vec<Area> = Vec::new();
        let places =
            self.places.iter().map(|guide| (guide, name_places(field, self.across(field, guide), &guide.name)));
        let levels =
            self.levels.iter().map(|guide| (guide, level_places(field, self.level(field, guide), &guide.name)));
        for (guide, candidates) in places.chain(levels) {
            let within = |area: &Area| area.common(field) == *area;
            let free = |area: &Area| taken.iter().all(|other| other.common(*area).is_empty());
            let crossed = |area: &Area| {
                let at = |other: &&Guide| area.holds([self.across(field, other), area.y as f64]);
                let level = |other: &&Guide| area.holds([area.x as f64, self.level(field, other)]);
                self.places.iter().filter(at).count() + self.levels.iter().filter(level).count()
            };
            let covered = |area: &Area| lines.iter().flatten().filter(|p| area.holds(**p)).count();
            let cost = |area: &Area| covered(area) + 4 * crossed(area);
            let best = candidates.into_iter().filter(|a| within(a) && free(a)).min_by_key(cost);
            if let Some(area) = best {
                canvas.fill(area.x, area.y, area.width, area.height, FIELD);
                canvas.text(area.x + PAD, area.y + PAD, TEXT, guide.color, &guide.name);
                taken.push(area);
            }
        }
    }
}

/// Free pixels around a name.
const PAD: usize = 4;

fn name_box(name: &str) -> (usize, usize) {
    (font::width(name, TEXT) + 2 * PAD, TALL + 2 * PAD + 2)
}

/// Right and left of a vertical line, from the top down.
fn name_places(field: Area, at: f64, name: &str) -> Vec<Area> {
    let (width, height) = name_box(name);
    if name.is_empty() || !at.is_finite() || at < field.x as f64 || at > (field.x + field.width) as f64 {
        return Vec::new();
    }
    let at = at as usize;
    let sides = [Some(at + 4), (at).checked_sub(width + 3)];
    let rows = (field.y + 4..(field.y + field.height).saturating_sub(height)).step_by(height);
    rows.flat_map(|y| sides.into_iter().flatten().map(move |x| Area { x, y, width, height })).collect()
}

/// Above and below a horizontal line, from the right to the left.
fn level_places(field: Area, at: f64, name: &str) -> Vec<Area> {
    let (width, height) = name_box(name);
    if name.is_empty() || !at.is_finite() || at < field.y as f64 || at > (field.y + field.height) as f64 {
        return Vec::new();
    }
    let at = at as usize;
    let sides = [at.checked_sub(height + 1), Some(at + 2)];
    let columns = (0..4).filter_map(|i| (field.x + field.width).checked_sub(width + 4 + i * (width + 20)));
    columns.flat_map(|x| sides.into_iter().flatten().map(move |y| Area { x, y, width, height })).collect()
}
