//! A sheet of coloured pixels with the few things that are drawn on it: images, text, frames and circles.

use std::io::{self, Write};

use super::colormap::Rgb;
use super::font;

/// Dark, so that images and not the paper are what one sees.
pub(super) const BACKGROUND: Rgb = [20, 21, 24];
/// Text that is to be read.
pub(super) const BRIGHT: Rgb = [232, 232, 228];
/// Text that may be read.
pub(super) const DIM: Rgb = [158, 160, 166];
/// Text that warns.
pub(super) const AMBER: Rgb = [240, 178, 70];

/// Pixels `[row][col]` of red, green, blue. Drawing beyond the edge is cut off.
#[derive(Debug, Clone)]
pub(super) struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    pub(super) fn new(width: usize, height: usize) -> Self {
        Self { width, height, pixels: BACKGROUND.repeat(width * height) }
    }

    pub(super) fn set(&mut self, x: usize, y: usize, color: Rgb) {
        if x < self.width && y < self.height {
            let at = (y * self.width + x) * 3;
            self.pixels[at..at + 3].copy_from_slice(&color);
        }
    }

    /// Mixes `color` into the pixel: 0 leaves it, 1 replaces it.
    fn blend(&mut self, x: i64, y: i64, color: Rgb, share: f64) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
        if x < self.width && y < self.height {
            let at = (y * self.width + x) * 3;
            for (old, new) in self.pixels[at..at + 3].iter_mut().zip(color) {
                *old = (f64::from(*old) * (1.0 - share) + f64::from(new) * share).round() as u8;
            }
        }
    }

    pub(super) fn fill(&mut self, x: usize, y: usize, width: usize, height: usize, color: Rgb) {
        for row in y..(y + height).min(self.height) {
            for col in x..(x + width).min(self.width) {
                self.set(col, row, color);
            }
        }
    }

    /// Writes `text` with the top of its capitals at `y`; each dot is `scale` pixels.
    pub(super) fn text(&mut self, x: usize, y: usize, scale: usize, color: Rgb, text: &str) {
        for (number, letter) in text.chars().enumerate() {
            let left = x + number * font::ADVANCE * scale;
            for (row, dots) in font::glyph(letter).iter().enumerate() {
                for (col, _) in dots.iter().enumerate().filter(|(_, ink)| **ink) {
                    self.fill(left + col * scale, y + row * scale, scale, scale, color);
                }
            }
        }
    }

    /// A circle of `radius` pixels around (`x`, `y`), where whole numbers are the corners of pixels.
    pub(super) fn circle(&mut self, x: f64, y: f64, radius: f64, width: f64, color: Rgb, clip: Area) {
        if !(x.is_finite() && y.is_finite() && radius.is_finite() && radius > 0.0) {
            return;
        }
        for row in clip.y..clip.y + clip.height {
            for col in clip.x..clip.x + clip.width {
                let off = (col as f64 + 0.5 - x).hypot(row as f64 + 0.5 - y) - radius;
                let share = (0.5 * width + 0.5 - off.abs()).clamp(0.0, 1.0);
                if share > 0.0 {
                    self.blend(col as i64, row as i64, color, share);
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

    /// Writes the sheet as PNG.
    pub(super) fn png(&self, out: impl Write, title: &str) -> io::Result<()> {
        let side = |n: usize| u32::try_from(n).map_err(io::Error::other);
        let mut encoder = png::Encoder::new(out, side(self.width)?, side(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        // Text chunks hold Latin-1 only.
        let title: String = title.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
        encoder.add_text_chunk("Title".into(), title)?;
        encoder.add_text_chunk("Software".into(), concat!("stemstream ", env!("CARGO_PKG_VERSION")).into())?;
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(())
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
