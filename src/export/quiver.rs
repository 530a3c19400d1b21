//! Arrows over the bright-field disk: how far each virtual image was shifted, and what is left of it.

use ndarray::{Array2, s};

use super::canvas::{AMBER, Point};
use super::colormap::{Colormap, Rgb};
use super::inset::{Drawing, Inset, SIDE};
use super::panel::Shown;
use super::run::RunResults;
use super::tone::{Tone, number, resample, round_length};
use crate::axes::{Image, Plane};

/// Arrows across the disk.
const ACROSS: f64 = 16.0;
/// The longest arrow as a part of the distance between two: no arrow reaches its neighbour.
const REACH: f64 = 0.95;
/// Brightness of the mean pattern under the arrows.
const DIMMED: f64 = 0.30;
const DARKEST: f64 = 0.11;
const DISK: Rgb = [64, 110, 124];
const CUT: Rgb = [240, 96, 88];
/// Colours of arrows by length.
const SHADES: usize = 24;

/// The vector of one detector pixel (crop coordinates), in scan pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Arrow {
    row: usize,
    col: usize,
    dy: f64,
    dx: f64,
}

impl Arrow {
    fn length(&self) -> f64 {
        self.dy.hypot(self.dx)
    }
}

/// The shift vectors of the pixels in the disk over the dimmed mean pattern.
pub(super) fn shifts(run: &RunResults) -> Option<Inset> {
    let [none_y, none_x] = run.no_shift();
    let (dy, dx) = (run.shift_y.mapv(|v| v - none_y), run.shift_x.mapv(|v| v - none_x));
    let field = Field::of(run, &dy, &dx)?;
    let (limit, cut) = longest(&field.arrows);
    let mut inset = field.inset(run, "shift vectors");
    inset.drawings.extend(field.draw(limit, |_| AMBER));
    inset.caption.push(format!("longest arrow = {} scan px", number(limit)));
    inset.caption.extend(cut);
    Some(inset)
}

/// What single pixels deviate from the model, magnified, coloured by length.
pub(super) fn residuals(run: &RunResults) -> Option<Inset> {
    let (dy, dx) = (run.extra("residual_y")?.1, run.extra("residual_x")?.1);
    let field = Field::of(run, dy, dx)?;
    let squares = dy.iter().zip(dx).map(|(y, x)| y * y + x * x).filter(|v| v.is_finite());
    let (count, sum) = squares.fold((0usize, 0.0), |(n, sum), v| (n + 1, sum + v));
    let rms = (sum / count.max(1) as f64).sqrt();
    let (limit, cut) = longest(&field.arrows);
    // The dark end of the map would be lost on the dark ground.
    let map = Colormap::sequential();
    let shade = |share: f64| map.color(0.35 + 0.65 * share);
    let mut inset = field.inset(run, "residual shifts");
    inset.drawings.extend(field.draw(limit, shade));
    inset.color_bar = Some((
        (0..SHADES * 4).map(|i| shade(i as f64 / (SHADES * 4 - 1) as f64)).collect(),
        ["0".into(), number(limit)],
    ));
    inset.caption.push(format!("RMS {}", length(run, rms)));
    inset.caption.push(format!("longest arrow = {} scan px", number(limit)));
    inset.caption.extend(cut);
    Some(inset)
}

/// In scan pixels, and in Å where the step is known.
fn length(run: &RunResults, pixels: f64) -> String {
    let angstrom = run.pixel_size(Plane::Scan).map(|step| format!(" = {} Å", number(pixels * step)));
    format!("{} scan px{}", number(pixels), angstrom.unwrap_or_default())
}

/// The length that the longest arrow stands for, and what to say about longer ones: a few stray peaks must not
/// shrink all others to dots.
fn longest(arrows: &[Arrow]) -> (f64, Option<String>) {
    let mut lengths: Vec<f64> = arrows.iter().map(Arrow::length).collect();
    lengths.sort_by(f64::total_cmp);
    let Some(&last) = lengths.last() else { return (0.0, None) };
    let usual = lengths[(lengths.len() - 1) * 9 / 10];
    if last <= 2.0 * usual || usual == 0.0 {
        return (last, None);
    }
    let limit = 1.25 * usual;
    let beyond = lengths.iter().filter(|l| **l > limit).count();
    let ones = if beyond == 1 { "one" } else { "ones" };
    (limit, Some(format!("{beyond} longer {ones} cut, in red")))
}

/// Arrows and the part of the sheet that they are drawn on.
struct Field {
    arrows: Vec<Arrow>,
    shape: (usize, usize),
    shown: Shown,
    /// Pixels of the sheet per detector pixel.
    scale: f64,
    /// Free pixels around the crop, so that no arrow is cut off.
    margin: usize,
    /// Detector pixels from one arrow to the next.
    stride: usize,
}

impl Field {
    /// `None` where there is no vector.
    fn of(run: &RunResults, dy: &Image, dx: &Image) -> Option<Self> {
        if dy.dim() != dx.dim() {
            return None;
        }
        let (rows, cols) = dy.dim();
        let side = rows.max(cols) as f64;
        let across = if run.bf_radius > 0.0 { (2.0 * run.bf_radius).min(side) } else { side };
        let stride = ((across / ACROSS).round() as usize).max(1);
        let known = |r: usize, c: usize| dy[[r, c]].is_finite() && dx[[r, c]].is_finite();
        let [row, col] = [run.bf_center[0] - run.crop.row0 as f64, run.bf_center[1] - run.crop.col0 as f64];
        let in_disk = |r: usize, c: usize| (r as f64 - row).hypot(c as f64 - col) <= run.bf_radius;
        let good = |r: usize, c: usize| run.quality.get([r, c]).is_some_and(|q| *q > run.quality_threshold);
        let mut arrows = thinned(dy, dx, stride, |r, c| known(r, c) && in_disk(r, c));
        if arrows.is_empty() {
            arrows = thinned(dy, dx, stride, |r, c| known(r, c) && good(r, c));
        }
        if arrows.is_empty() {
            return None;
        }
        let margin = (SIDE as f64 * REACH * stride as f64 / (side + 2.0 * REACH * stride as f64)).round() as usize;
        let shown = Shown::fit(dy, SIDE - 2 * margin);
        Some(Self { arrows, shape: (rows, cols), shown, scale: (SIDE - 2 * margin) as f64 / side, margin, stride })
    }

    /// The middle of a detector pixel.
    fn place(&self, row: f64, col: f64) -> Point {
        [col, row].map(|at| self.margin as f64 + (at + 0.5) * self.scale)
    }

    fn inset(&self, run: &RunResults, title: &str) -> Inset {
        let [row, col] = [run.bf_center[0] - run.crop.row0 as f64, run.bf_center[1] - run.crop.col0 as f64];
        let center = self.place(row, col);
        Inset {
            title: title.into(),
            colors: self.ground(run),
            drawings: vec![Drawing::Circle { center, radius: run.bf_radius * self.scale, color: DISK }],
            scale_bar: run.pixel_size(Plane::Crop).and_then(|size| angle_bar(size / self.scale)),
            color_bar: None,
            caption: Vec::new(),
        }
    }

    /// The crop of the mean pattern in dark grey; plain where it is not there.
    fn ground(&self, run: &RunResults) -> Array2<Rgb> {
        let (Shown { rows, cols }, margin) = (self.shown, self.margin);
        let map = Colormap::grey();
        let mut colors = Array2::from_elem((rows + 2 * margin, cols + 2 * margin), map.color(DARKEST));
        let (row0, col0) = (run.crop.row0, run.crop.col0);
        let (row1, col1) = (row0 + self.shape.0, col0 + self.shape.1);
        if row1 > run.mean_pattern.nrows() || col1 > run.mean_pattern.ncols() {
            return colors;
        }
        let crop = run.mean_pattern.slice(s![row0..row1, col0..col1]).to_owned();
        let tone = Tone::of(crop.iter().copied()).with_sqrt();
        for ((r, c), value) in resample(&crop, rows, cols).indexed_iter() {
            let at = if value.is_nan() { 0.0 } else { tone.position(*value).clamp(0.0, 1.0) };
            colors[[r + margin, c + margin]] = map.color(DARKEST + (DIMMED - DARKEST) * at);
        }
        colors
    }

    /// The arrows, `limit` as long as there is room, in the colour of their part of it (0–1).
    fn draw(&self, limit: f64, color: impl Fn(f64) -> Rgb) -> Vec<Drawing> {
        let reach = REACH * self.stride as f64 * self.scale;
        let mut shades: Vec<Vec<Vec<Point>>> = vec![Vec::new(); SHADES];
        let (mut beyond, mut still) = (Vec::new(), Vec::new());
        for arrow in &self.arrows {
            let tail = self.place(arrow.row as f64, arrow.col as f64);
            let size = arrow.length();
            let share = if limit > 0.0 { size / limit } else { 0.0 };
            let pixels = reach * share.min(1.0);
            if pixels < 1.5 {
                still.push(tail);
                continue;
            }
            let lines = arrow_lines(tail, [arrow.dx / size, arrow.dy / size], pixels);
            if share > 1.0 + 1e-9 {
                beyond.extend(lines);
            } else {
                shades[((share * SHADES as f64) as usize).min(SHADES - 1)].extend(lines);
            }
        }
        let mut drawings: Vec<Drawing> = shades
            .into_iter()
            .enumerate()
            .filter(|(_, lines)| !lines.is_empty())
            .map(|(i, lines)| Drawing::Lines { lines, width: 1.6, color: color((i as f64 + 0.5) / SHADES as f64) })
            .collect();
        drawings.push(Drawing::Lines { lines: beyond, width: 1.6, color: CUT });
        drawings.push(Drawing::Dots { points: still, radius: 1.5, color: color(0.0) });
        drawings
    }
}

/// Of every square of `stride` pixels, the pixel nearest to its middle that is `wanted`.
fn thinned(dy: &Image, dx: &Image, stride: usize, wanted: impl Fn(usize, usize) -> bool) -> Vec<Arrow> {
    let (rows, cols) = dy.dim();
    let middle = (stride as f64 - 1.0) / 2.0;
    let mut arrows = Vec::new();
    for row0 in (0..rows).step_by(stride) {
        for col0 in (0..cols).step_by(stride) {
            let inside =
                (row0..(row0 + stride).min(rows)).flat_map(|r| (col0..(col0 + stride).min(cols)).map(move |c| (r, c)));
            let from_middle = |(r, c): &(usize, usize)| ((r - row0) as f64 - middle).hypot((c - col0) as f64 - middle);
            let nearest =
                inside.filter(|(r, c)| wanted(*r, *c)).min_by(|a, b| from_middle(a).total_cmp(&from_middle(b)));
            arrows.extend(nearest.map(|(row, col)| Arrow { row, col, dy: dy[[row, col]], dx: dx[[row, col]] }));
        }
    }
    arrows
}

/// Shaft and head of an arrow of `length` pixels along `direction` (a unit vector).
fn arrow_lines([x, y]: Point, [dx, dy]: Point, length: f64) -> Vec<Vec<Point>> {
    let tip = [x + length * dx, y + length * dy];
    let head = (0.38 * length).clamp(2.0, 8.0);
    let (sin, cos) = 0.5f64.sin_cos();
    let barb = |sin: f64| [tip[0] - head * (cos * dx - sin * dy), tip[1] - head * (sin * dx + cos * dy)];
    vec![vec![[x, y], tip], vec![barb(sin), tip, barb(-sin)]]
}

/// A round angle of about a third of the width, for `size` mrad per pixel of the sheet.
fn angle_bar(size: f64) -> Option<(usize, String)> {
    let length = round_length(size * SIDE as f64 / 3.0);
    let pixels = (length / size).round() as usize;
    (1e-3..1e6).contains(&length).then(|| (pixels, format!("{} mrad", number(length))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_point_down_for_growing_rows_and_right_for_growing_columns() {
        let shaft = |direction| arrow_lines([10.0, 20.0], direction, 12.0)[0].clone();
        assert_eq!(shaft([1.0, 0.0]), [[10.0, 20.0], [22.0, 20.0]]);
        assert_eq!(shaft([0.0, 1.0]), [[10.0, 20.0], [10.0, 32.0]]);
        let head = &arrow_lines([10.0, 20.0], [1.0, 0.0], 12.0)[1];
        assert!(head[0][0] < 22.0 && head[2][0] < 22.0, "barbs lie behind the tip");
        assert!((head[0][1] + head[2][1] - 40.0).abs() < 1e-12, "on both sides of the shaft");
    }

    #[test]
    fn a_few_stray_vectors_do_not_shrink_all_others() {
        let arrow = |dy| Arrow { row: 0, col: 0, dy, dx: 0.0 };
        let mut arrows: Vec<Arrow> = (1..=20).map(|i| arrow(f64::from(i))).collect();
        assert_eq!(longest(&arrows), (20.0, None));
        arrows.push(arrow(900.0));
        let (limit, cut) = longest(&arrows);
        assert!(
            (20.0..30.0).contains(&limit) && cut.as_ref().is_some_and(|c| c.starts_with("1 longer")),
            "{limit} {cut:?}"
        );
        assert_eq!(longest(&[]), (0.0, None));
    }

    #[test]
    fn thinning_takes_a_known_pixel_of_every_square() {
        let mut dy = Image::zeros((9, 7));
        dy[[4, 4]] = f64::NAN;
        let dx = dy.clone();
        let arrows = thinned(&dy, &dx, 3, |r, c| dy[[r, c]].is_finite());
        assert_eq!(arrows.len(), 9);
        assert!(arrows.iter().any(|a| (a.row, a.col) == (1, 1)) && arrows.iter().all(|a| a.dy == 0.0));
    }
}
