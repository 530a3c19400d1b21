//! How a pair of images lies in memory: cells of 16 neighbouring columns.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use crate::axes::{Sample, ScanShape};
use crate::kernel::convert::centred;

/// Columns of a cell: as many as the widest registers hold.
pub const LANES: usize = 16;

/// The numbers of 16 neighbouring places, real and imaginary parts apart: two cache lines.
#[derive(Debug, Clone, Copy, PartialEq, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct Cell {
    /// Real parts: the first image of a pair.
    pub re: [f32; LANES],
    /// Imaginary parts: the second image.
    pub im: [f32; LANES],
}

/// Where the samples of an image lie: column `c` of row `r` in lane `c % 16` of cell `c / 16 * stride + r`. What lies
/// beyond the image's edges means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    shape: ScanShape,
}

impl Layout {
    /// The layout of images of this shape.
    pub fn new(shape: ScanShape) -> Self {
        Self { shape }
    }

    /// Rows and columns of the images.
    pub fn shape(self) -> ScanShape {
        self.shape
    }

    /// Cells from one strip of 16 columns to the next: the rows and, because powers of two would compete for the same
    /// places of the cache, a few more.
    pub fn stride(self) -> usize {
        self.shape.rows.next_multiple_of(LANES) + LANES
    }

    /// Cells of an image.
    pub fn cells(self) -> usize {
        self.shape.cols.div_ceil(LANES) * self.stride()
    }

    /// The cell and the lane of a sample.
    #[inline]
    pub fn at(self, row: usize, col: usize) -> (usize, usize) {
        (col / LANES * self.stride() + row, col % LANES)
    }
}

/// Images (`[row, col]`) with the numbers that are taken off them: one for the real parts and one, or none, for the
/// imaginary parts.
pub type Images<'a, S> = ((&'a [S], f64), Option<(&'a [S], f64)>);

/// Packs one strip of the images.
#[inline(always)]
pub(super) fn pack_strip<S: Sample>(layout: Layout, images: Images<'_, S>, index: usize, strip: &mut [Cell]) {
    let cols = layout.shape.cols;
    let first = index * LANES;
    let width = LANES.min(cols - first);
    let (a, offset_a) = images.0;
    let (b, offset_b) = images.1.unwrap_or((&[], 0.0));
    if images.1.is_some() {
        let rows = a.chunks_exact(cols).zip(b.chunks_exact(cols));
        for (cell, (a, b)) in strip.iter_mut().zip(rows) {
            *cell =
                Cell { re: lanes(&a[first..first + width], offset_a), im: lanes(&b[first..first + width], offset_b) };
        }
    } else {
        for (cell, a) in strip.iter_mut().zip(a.chunks_exact(cols)) {
            *cell = Cell { re: lanes(&a[first..first + width], offset_a), im: [0.0; LANES] };
        }
    }
}

/// Sixteen samples, or those that there are and zeros.
#[inline(always)]
fn lanes<S: Sample>(samples: &[S], offset: f64) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    if let Ok(samples) = <&[S; LANES]>::try_from(samples) {
        for (lane, sample) in lanes.iter_mut().zip(samples) {
            *lane = centred(*sample, offset);
        }
    } else {
        for (lane, sample) in lanes.iter_mut().zip(samples) {
            *lane = centred(*sample, offset);
        }
    }
    lanes
}
