//! What the pixels of a sheet are: any colour, or the number of one of a few.

use std::io::{self, Write};

use super::colormap::Rgb;
use super::encode;

/// What a sheet holds for each of its pixels.
pub(super) trait Pixel: bytemuck::Pod + Send + Sync {
    /// What tells the colours of such pixels.
    type Palette: Send + Sync;
    /// A pixel of this colour.
    fn of(color: Rgb, palette: &Self::Palette) -> Self;
    /// The sheet as PNG.
    fn png(
        out: impl Write,
        size: (usize, usize),
        pixels: &[Self],
        palette: &Self::Palette,
        title: &str,
    ) -> io::Result<()>;
}

/// Any colour.
impl Pixel for Rgb {
    type Palette = ();

    fn of(color: Rgb, (): &()) -> Self {
        color
    }

    fn png(out: impl Write, size: (usize, usize), pixels: &[Self], (): &(), title: &str) -> io::Result<()> {
        encode::png(out, size, bytemuck::cast_slice(pixels), title)
    }
}

/// The number of a colour of a [`Palette`]: a third of the bytes, and as it is what a PNG file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub(super) struct Ink(u8);

impl Pixel for Ink {
    type Palette = Palette;

    fn of(color: Rgb, palette: &Palette) -> Self {
        Self(palette.number(color))
    }

    fn png(out: impl Write, size: (usize, usize), pixels: &[Self], palette: &Palette, title: &str) -> io::Result<()> {
        encode::indexed_png(out, size, bytemuck::cast_slice(pixels), &palette.0, title)
    }
}

/// The few colours of a sheet, from dark to light: see [`encode::order`].
#[derive(Debug)]
pub(super) struct Palette(Vec<Rgb>);

impl Palette {
    /// Of these colours, each of which may come several times; `None` where they are too many for one byte.
    pub(super) fn of(mut colors: Vec<Rgb>) -> Option<Self> {
        colors.sort_unstable_by_key(|color| (encode::order(*color), *color));
        colors.dedup();
        (colors.len() <= encode::MOST).then_some(Self(colors))
    }

    /// The number of a colour, or of one that is about as bright.
    fn number(&self, color: Rgb) -> u8 {
        let key = |color: Rgb| (encode::order(color), color);
        let at = self.0.partition_point(|other| key(*other) < key(color));
        at.min(self.0.len().saturating_sub(1)) as u8
    }
}
