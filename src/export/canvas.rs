//! A sheet of coloured pixels with the few things that are drawn on it: images, text, frames, circles and lines.

use std::io::{self, Write};

use rayon::prelude::*;

use super::colormap::Rgb;
use super::font;
use super::ink::Pixel;
use crate::memory::AlignedBytes;

/// Dark, so that images and not the paper are what one sees.
pub(super) const BACKGROUND: Rgb = [20, 21, 24];
/// Text that is to be read.
pub(super) const BRIGHT: Rgb = [232, 232, 228];
/// Text that may be read.
pub(super) const DIM: Rgb = [158, 160, 166];
/// Text that warns.
pub(super) const AMBER: Rgb = [240, 178, 70];

/// A place on the sheet, `[x, y]` in pixels; whole numbers are the corners of pixels.
pub(super) type Point = [f64; 2];

/// A sheet of pixels `[row][col]`.
#[derive(Debug)]
pub(super) struct Sheet<P: Pixel = Rgb> {
    width: usize,
    palette: P::Palette,
    /// In huge pages where they are many: a sheet takes longer to get than to fill else.
    pixels: AlignedBytes,
}

impl<P: Pixel> Sheet<P> {
    /// A sheet with nothing on it.
    pub(super) fn new(width: usize, height: usize, palette: P::Palette) -> Self {
        let mut sheet = Self::bare(width, height, palette);
        sheet.canvas().clear();
        sheet
    }

    /// A sheet without a background.
    pub(super) fn bare(width: usize, height: usize, palette: P::Palette) -> Self {
        Self { width, palette, pixels: AlignedBytes::zeroed(width * height * size_of::<P>()) }
    }

    fn height(&self) -> usize {
        self.pixels.len() / (size_of::<P>() * self.width).max(1)
    }

    /// All of the sheet, to draw on.
    pub(super) fn canvas(&mut self) -> Canvas<'_, P> {
        let (width, height) = (self.width, self.height());
        Canvas { width, height, palette: &self.palette, pixels: bytemuck::cast_slice_mut(&mut self.pixels) }
    }

    /// The sheet in parts of so many rows from above, as far as it goes: they can be drawn on side by side.
    pub(super) fn parts(&mut self, heights: impl Iterator<Item = usize>) -> Vec<Canvas<'_, P>> {
        let (width, palette) = (self.width, &self.palette);
        let mut rest: &mut [P] = bytemuck::cast_slice_mut(&mut self.pixels);
        heights
            .map(|height| {
                let height = height.min(rest.len() / width.max(1));
                Canvas { width, height, palette, pixels: rest.split_off_mut(..height * width).unwrap_or_default() }
            })
            .collect()
    }

    /// Writes the sheet as PNG.
    pub(super) fn png(&self, out: impl Write, title: &str) -> io::Result<()> {
        P::png(out, (self.width, self.height()), bytemuck::cast_slice(&self.pixels), &self.palette, title)
    }
}

/// A sheet or some rows of one, to draw on. Drawing beyond the edge is cut off.
#[derive(Debug)]
pub(super) struct Canvas<'s, P: Pixel = Rgb> {
    width: usize,
    height: usize,
    palette: &'s P::Palette,
    pixels: &'s mut [P],
}

impl<P: Pixel> Canvas<'_, P> {
    /// A pixel of this colour.
    pub(super) fn ink(&self, color: Rgb) -> P {
        P::of(color, self.palette)
    }

    /// Fills everything with the background.
    pub(super) fn clear(&mut self) {
        let background = self.ink(BACKGROUND);
        let (first, rest) = self.pixels.split_at_mut(self.width.min(self.pixels.len()));
        first.fill(background);
        rest.chunks_mut(self.width.max(1)).for_each(|row| row.copy_from_slice(first));
    }

    /// The pixels of row `y` from `x` on.
    pub(super) fn row_mut(&mut self, x: usize, y: usize) -> &mut [P] {
        if x < self.width && y < self.height {
            &mut self.pixels[y * self.width + x..(y + 1) * self.width]
        } else {
            &mut []
        }
    }

    /// Hands `rows` rows of pixels from `y` on, as far as there are so many, to `paint` in bands of at most `most`, side by
    /// side, with the number of the band's first row counted from `y`.
    pub(super) fn bands(&mut self, y: usize, rows: usize, most: usize, paint: impl Fn(usize, &mut Band<'_, P>) + Sync) {
        let width = self.width.max(1);
        let (first, last) = (y.min(self.height), (y + rows).min(self.height));
        let pixels = &mut self.pixels[first * self.width..last * self.width];
        pixels.par_chunks_mut(most * width).enumerate().for_each(|(number, pixels)| {
            paint(number * most, &mut Band { width, pixels });
        });
    }

    pub(super) fn fill(&mut self, x: usize, y: usize, width: usize, height: usize, color: Rgb) {
        self.fill_ink(x, y, (width, height), self.ink(color));
    }

    fn fill_ink(&mut self, x: usize, y: usize, (width, height): (usize, usize), ink: P) {
        for row in y..(y + height).min(self.height) {
            let line = self.row_mut(x, row);
            let width = width.min(line.len());
            line[..width].fill(ink);
        }
    }

    /// Writes `text` with the top of its capitals at `y`; each dot is `scale` pixels.
    pub(super) fn text(&mut self, x: usize, y: usize, scale: usize, color: Rgb, text: &str) {
        let ink = self.ink(color);
        for (number, letter) in text.chars().enumerate() {
            let left = x + number * font::ADVANCE * scale;
            for (row, dots) in font::glyph(letter).iter().enumerate() {
                for (col, _) in dots.iter().enumerate().filter(|(_, ink)| **ink) {
                    self.fill_ink(left + col * scale, y + row * scale, (scale, scale), ink);
                }
            }
        }
    }

    /// A frame two pixels wide just inside of `area`.
    pub(super) fn frame(&mut self, area: Area, color: Rgb) {
        let Area { x, y, width, height } = area;
        let thick = 2.min(width).min(height);
        self.fill(x, y, width, thick, color);
        self.fill(x, y + height - thick, width, thick, color);
        self.fill(x, y, thick, height, color);
        self.fill(x + width - thick, y, thick, height, color);
    }
}

impl Canvas<'_> {
    /// Replaces pixels of row `y` from `x` on.
    pub(super) fn set_row(&mut self, x: usize, y: usize, colors: impl Iterator<Item = Rgb>) {
        self.row_mut(x, y).iter_mut().zip(colors).for_each(|(pixel, color)| *pixel = color);
    }

    /// Mixes `color` into the pixel: 0 leaves it, 1 replaces it.
    fn blend(&mut self, x: i64, y: i64, color: Rgb, share: f64) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
        if x < self.width && y < self.height {
            for (old, new) in self.pixels[y * self.width + x].iter_mut().zip(color) {
                *old = (f64::from(*old) * (1.0 - share) + f64::from(new) * share).round() as u8;
            }
        }
    }

    /// A circle of `radius` pixels around (`x`, `y`), where whole numbers are the corners of pixels.
    pub(super) fn circle(&mut self, x: f64, y: f64, radius: f64, width: f64, color: Rgb, clip: Area) {
        if !(x.is_finite() && y.is_finite() && radius.is_finite() && radius > 0.0) {
            return;
        }
        // Square roots only where there may be ink.
        let reach = 0.5 * width + 1.0;
        let ring = (radius - reach).max(0.0).powi(2)..=(radius + reach).powi(2);
        let clip = clip.around([[x - radius, y - radius], [x + radius, y + radius]].iter(), width);
        for row in clip.y..clip.y + clip.height {
            for col in clip.x..clip.x + clip.width {
                let (across, down) = (col as f64 + 0.5 - x, row as f64 + 0.5 - y);
                if !ring.contains(&(across * across + down * down)) {
                    continue;
                }
                let off = across.hypot(down) - radius;
                let share = (0.5 * width + 0.5 - off.abs()).clamp(0.0, 1.0);
                if share > 0.0 {
                    self.blend(col as i64, row as i64, color, share);
                }
            }
        }
    }

    /// Lines of `width` pixels from point to point, smooth at the edges; a point that is no number ends a line.
    ///
    /// Where lines of one call cross or touch, the pixel takes the colour once: dense curves do not grow fat.
    pub(super) fn strokes(&mut self, lines: &[Vec<Point>], width: f64, color: Rgb, clip: Area) {
        // Most strokes are short: what they cannot reach needs no ink.
        let clip = clip.around(lines.iter().flatten(), width);
        // Written at once: a page that is first read and then written is given twice.
        let mut ink: Vec<f32> = std::iter::repeat_n(0.0, clip.width * clip.height).collect();
        for pair in lines.iter().flat_map(|line| line.windows(2)) {
            if let Some((a, b)) = clip.segment(pair[0], pair[1], width) {
                ink_segment(&mut ink, clip, a, b, width);
            }
        }
        for (at, &share) in ink.iter().enumerate().filter(|(_, share)| **share > 0.0) {
            let (x, y) = (clip.x + at % clip.width, clip.y + at / clip.width);
            self.blend(x as i64, y as i64, color, f64::from(share));
        }
    }
}

/// Some rows of a sheet, as wide as the sheet.
pub(super) struct Band<'a, P> {
    width: usize,
    pixels: &'a mut [P],
}

impl<P: Pixel> Band<'_, P> {
    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.pixels.len() / self.width
    }

    /// The pixels of a row from `x` on.
    pub(super) fn row_from(&mut self, row: usize, x: usize) -> &mut [P] {
        let row = &mut self.pixels[row * self.width..(row + 1) * self.width];
        row.get_mut(x..).unwrap_or_default()
    }

    /// Makes `count` pixels of a row from `x` on, or as many as there are, those of the row before.
    pub(super) fn repeat(&mut self, row: usize, x: usize, count: usize) {
        let (from, to) = (x.min(self.width), (x + count).min(self.width));
        let above = (row - 1) * self.width;
        self.pixels.copy_within(above + from..above + to, row * self.width + from);
    }
}

/// A rectangle of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

impl Area {
    /// What `self` and `other` have in common; of no size where that is nothing.
    pub(super) fn common(self, other: Self) -> Self {
        let (x, y) = (self.x.max(other.x), self.y.max(other.y));
        let width = (self.x + self.width).min(other.x + other.width).saturating_sub(x);
        let height = (self.y + self.height).min(other.y + other.height).saturating_sub(y);
        Self { x, y, width, height }
    }

    /// The part of the area that lines of `width` through these points can reach; points that are no numbers do not count.
    fn around<'p>(self, points: impl Iterator<Item = &'p Point>, width: f64) -> Self {
        let (mut low, mut high) = ([f64::INFINITY; 2], [f64::NEG_INFINITY; 2]);
        for point in points.filter(|p| p.iter().all(|v| v.is_finite())) {
            for axis in 0..2 {
                (low[axis], high[axis]) = (low[axis].min(point[axis]), high[axis].max(point[axis]));
            }
        }
        let reach = width + 2.0;
        let [x, y] = low.map(|v| (v - reach).floor().max(0.0) as usize);
        let [end_x, end_y] = high.map(|v| (v + reach).ceil().max(0.0) as usize);
        let reached = Self { x, y, width: end_x.saturating_sub(x), height: end_y.saturating_sub(y) };
        self.common(reached)
    }

    pub(super) fn is_empty(self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// Whether the point lies in the area.
    pub(super) fn holds(self, [x, y]: Point) -> bool {
        x >= self.x as f64
            && x < (self.x + self.width) as f64
            && y >= self.y as f64
            && y < (self.y + self.height) as f64
    }

    /// The part from `a` to `b` that lies within `margin` of the area (the method of Liang and Barsky).
    fn segment(self, a: Point, b: Point, margin: f64) -> Option<(Point, Point)> {
        let low = [self.x as f64 - margin, self.y as f64 - margin];
        let high = [(self.x + self.width) as f64 + margin, (self.y + self.height) as f64 + margin];
        let along = [b[0] - a[0], b[1] - a[1]];
        if !a.iter().chain(&b).chain(&along).all(|v| v.is_finite()) {
            return None;
        }
        let (mut start, mut end) = (0f64, 1f64);
        for axis in 0..2 {
            if along[axis] == 0.0 {
                if a[axis] < low[axis] || a[axis] > high[axis] {
                    return None;
                }
                continue;
            }
            let (to_low, to_high) = ((low[axis] - a[axis]) / along[axis], (high[axis] - a[axis]) / along[axis]);
            start = start.max(to_low.min(to_high));
            end = end.min(to_low.max(to_high));
        }
        let at = |t: f64| [a[0] + t * along[0], a[1] + t * along[1]];
        (start <= end).then(|| (at(start), at(end)))
    }
}

/// Covers the pixels of `clip` (their shares in `ink`) that a line of `width` from `a` to `b` touches.
fn ink_segment(ink: &mut [f32], clip: Area, a: Point, b: Point, width: f64) {
    let reach = 0.5 * width + 1.0;
    let range = |axis: usize, start: usize, length: usize| {
        let low = (a[axis].min(b[axis]) - reach - start as f64).floor().max(0.0) as usize;
        let high = (a[axis].max(b[axis]) + reach - start as f64).ceil().max(0.0) as usize;
        low.min(length)..high.min(length)
    };
    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
    let square = dx * dx + dy * dy;
    for row in range(1, clip.y, clip.height) {
        for col in range(0, clip.x, clip.width) {
            let (x, y) = ((clip.x + col) as f64 + 0.5 - a[0], (clip.y + row) as f64 + 0.5 - a[1]);
            let t = if square > 0.0 { ((x * dx + y * dy) / square).clamp(0.0, 1.0) } else { 0.0 };
            let off = (x - t * dx).hypot(y - t * dy);
            let share = (0.5 * width + 0.5 - off).clamp(0.0, 1.0) as f32;
            let pixel = &mut ink[row * clip.width + col];
            *pixel = pixel.max(share);
        }
    }
}

/// The pieces of a broken line from `a` to `b`.
pub(super) fn dashes(a: Point, b: Point, on: f64, off: f64) -> Vec<Vec<Point>> {
    let length = (b[0] - a[0]).hypot(b[1] - a[1]);
    if !(length.is_finite() && length > 0.0) {
        return Vec::new();
    }
    let at = |d: f64| [a[0] + (b[0] - a[0]) * d / length, a[1] + (b[1] - a[1]) * d / length];
    let count = (length / (on + off)).ceil() as usize;
    (0..count).map(|i| i as f64 * (on + off)).map(|d| vec![at(d), at((d + on).min(length))]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::colormap::{Colormap, NOT_A_NUMBER, paint};
    use super::super::ink::{Ink, Palette};
    use super::*;

    const SIZE: (usize, usize) = (300, 90);

    /// Draws a little of everything that can be drawn with inks.
    fn drawn<P: Pixel>(palette: P::Palette, map: &Colormap) -> Vec<u8> {
        let mut sheet = Sheet::<P>::new(SIZE.0, SIZE.1, palette);
        let mut canvas = sheet.canvas();
        let inks = map.inks(|color| canvas.ink(color));
        let numbers: Vec<f64> = (0..260).map(|i| if i % 50 == 7 { f64::NAN } else { f64::from(i) / 250.0 }).collect();
        canvas.bands(30, 50, 16, |first, band| {
            for row in 0..band.len() {
                if first + row > 0 && row % 3 > 0 {
                    band.repeat(row, 5, numbers.len());
                } else {
                    paint(&inks, &numbers, band.row_from(row, 5));
                }
            }
        });
        canvas.text(3, 4, 2, BRIGHT, "bright field");
        canvas.fill(280, 30, 16, 70, map.color(0.3));
        canvas.frame(Area { x: 4, y: 29, width: 262, height: 52 }, DIM);
        let mut bytes = Vec::new();
        sheet.png(&mut bytes, "a sheet").unwrap();
        let mut decoder = png::Decoder::new(io::Cursor::new(bytes));
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        pixels
    }

    #[test]
    fn inks_show_what_colours_show() {
        for map in [Colormap::grey(), Colormap::sequential(), Colormap::diverging()] {
            let colors = [map.all(), &[BACKGROUND, BRIGHT, DIM, NOT_A_NUMBER]].concat();
            let palette = Palette::of(colors).expect("few enough");
            let pixels = drawn::<Ink>(palette, &map);
            assert_eq!(pixels.len(), SIZE.0 * SIZE.1 * 3);
            assert!(pixels == drawn::<Rgb>((), &map));
        }
        assert!(Palette::of((0..257).map(|i| [(i % 256) as u8, (i / 256) as u8, 0]).collect()).is_none(), "too many");
    }
}
