//! Correlation of two real images at once with a reference, in lanes: the fast way of lean runs in `f32`.
//!
//! Two real images are one complex one, and because the reference `g` is real, `IFFT(FFT(a + ib) G*)` holds the
//! correlation of `a` in its real part and that of `b` in its imaginary part: nothing has to be taken apart in between.
//!
//! ```text
//! cells   16 neighbouring columns of one row: 16 real parts, then 16 imaginary ones; a strip of 16 columns lies together
//! down    each strip is packed and transformed along the rows, 16 columns side by side, in place
//! across  16 rows at once: turned block by block into a small buffer, along the columns forwards, times G*, and back
//! up      each strip along the rows backwards, in place; then its highest and lowest values are looked for
//! ```
//!
//! A register holds the same element of as many lines as it has places, so that no arithmetic is spent on moving numbers
//! about inside registers. Lines are transformed in place, which leaves frequencies in an order of their own (digits
//! reversed); since the reference lies in the same order and the way back undoes it, nobody sees it. Everything that one
//! pair needs is walked through three times, each time in pieces that fit in the fastest cache.
//!
//! Lengths must be products of 2, 3 and 5 ([`PairCorrelation::new`] says so); others go by [`fft2`](crate::kernel::fft2).
//! Here a multiplication may be fused with an addition, so that results differ between processors in the last bits, as
//! those of rustfft do.

mod arithmetic;
mod cell;
mod extremes;
mod line;
mod turn;

use num_complex::Complex;
use pulp::{Simd, WithSimd};

use self::arithmetic::multiply_cells;
use self::cell::pack_strip;
pub use self::cell::{Cell, Images, LANES, Layout};
use self::extremes::Search;
use self::line::Line;
use self::turn::{Plain, Turn};
use crate::axes::{Sample, ScanShape};
use crate::kernel::correlate::Normalisation;
use crate::kernel::peak::{Peak, refine};
use crate::kernel::simd::dispatch;

/// A planned correlation with one reference. Threads may share it.
#[derive(Debug, Clone)]
pub struct PairCorrelation {
    layout: Layout,
    /// Along the rows: as long as there are rows.
    down: Line,
    /// Along the columns.
    across: Line,
    /// The reference's conjugate spectrum: for each 16 rows of cells in the order that `down` leaves, the frequencies along
    /// the columns in the order that `across` leaves.
    reference: Vec<Cell>,
}

impl PairCorrelation {
    /// Plans correlations of images of this shape with the reference whose conjugate spectrum is `reference_conj`,
    /// transposed (`[col, row]`) as [`Fft2`](crate::kernel::fft2::Fft2) leaves it. The zero frequency is left out: images
    /// come without their means. `None` where a side is not a product of 2, 3 and 5.
    ///
    /// # Panics
    /// When the spectrum does not have the shape's length.
    pub fn new(shape: ScanShape, reference_conj: &[Complex<f32>]) -> Option<Self> {
        assert_eq!(reference_conj.len(), shape.len(), "spectrum of a wrong size");
        let (down, across) = (Line::new(shape.rows)?, Line::new(shape.cols)?);
        let layout = Layout::new(shape);
        let mut reference = vec![Cell::default(); shape.rows.div_ceil(LANES) * shape.cols];
        let rows: Vec<usize> = (0..shape.rows).map(|row| down.frequency(row)).collect();
        for col in 0..shape.cols {
            let v = across.frequency(col);
            // Of one column of the spectrum, whose numbers lie together.
            let column = &reference_conj[v * shape.rows..(v + 1) * shape.rows];
            for (strip, rows) in rows.chunks(LANES).enumerate() {
                let cell = &mut reference[strip * shape.cols + col];
                for (lane, u) in rows.iter().enumerate() {
                    (cell.re[lane], cell.im[lane]) = (column[*u].re, column[*u].im);
                }
            }
        }
        // Row and column 0 of a transform in place stay where they are.
        if let Some(cell) = reference.first_mut() {
            (cell.re[0], cell.im[0]) = (0.0, 0.0);
        }
        Some(Self { layout, down, across, reference })
    }

    /// Whether [`new`](Self::new) can plan this shape.
    pub fn can(shape: ScanShape) -> bool {
        Line::new(shape.rows).is_some() && Line::new(shape.cols).is_some()
    }

    /// Where the samples of an image lie in its cells.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Cells of scratch that [`peaks`](Self::peaks) needs.
    pub fn scratch_len(&self) -> usize {
        Self::scratch_for(self.layout.shape())
    }

    /// As [`scratch_len`](Self::scratch_len), for any shape.
    pub fn scratch_for(shape: ScanShape) -> usize {
        shape.cols.next_multiple_of(LANES)
    }

    /// The peaks of the circular correlations of one or two images with the reference; `norms` are theirs. Of a single
    /// image the second peak means nothing. `cells` holds the correlations afterwards, times the number of scan positions,
    /// no shift at row 0, column 0.
    ///
    /// # Panics
    /// When an image does not have the shape's length, or a slice is shorter than [`Layout::cells`] or
    /// [`scratch_len`](Self::scratch_len).
    pub fn peaks<S: Sample>(
        &self,
        images: Images<'_, S>,
        norms: [&Normalisation; 2],
        cells: &mut [Cell],
        scratch: &mut [Cell],
    ) -> [Peak; 2] {
        let shape = self.layout.shape();
        let right = |(image, _): (&[S], f64)| image.len() == shape.len();
        assert!(right(images.0) && images.1.is_none_or(right), "image of a wrong size");
        let cells = &mut cells[..self.layout.cells()];
        let scratch = &mut scratch[..self.scratch_len()];
        let [a, b] = self.walk(images, cells, scratch, |work| self.run(work));
        let of = |part: fn(&Cell) -> &[f32; LANES], norm: &Normalisation, search: Search| {
            let value = |row: usize, col: usize| {
                let (cell, lane) = self.layout.at(row, col);
                part(&cells[cell])[lane]
            };
            refine(shape, norm, &search.found(shape.rows), value)
        };
        [of(|cell| &cell.re, norms[0], a), of(|cell| &cell.im, norms[1], b)]
    }

    /// All passes over one pair, each by `run`.
    fn walk<S: Sample>(
        &self,
        images: Images<'_, S>,
        cells: &mut [Cell],
        scratch: &mut [Cell],
        run: impl Fn(Work<'_>),
    ) -> [Search; 2] {
        let (rows, stride) = (self.layout.shape().rows, self.layout.stride());
        for (i, strip) in cells.chunks_exact_mut(stride).enumerate() {
            let strip = &mut strip[..rows];
            dispatch(
                #[inline(always)]
                || pack_strip(self.layout, images, i, strip),
            );
            run(Work::Down(strip));
        }
        run(Work::Across(cells, scratch));
        let mut search = [Search::new(); 2];
        for (i, strip) in cells.chunks_exact_mut(stride).enumerate() {
            run(Work::Up(i, &mut strip[..rows], &mut search));
        }
        search
    }

    #[cfg(target_arch = "x86_64")]
    fn run(&self, work: Work<'_>) {
        use pulp::x86::Arch;
        match Arch::new() {
            Arch::V4(simd) => Simd::vectorize(simd, Pass { plan: self, work, turn: simd }),
            Arch::V3(simd) => Simd::vectorize(simd, Pass { plan: self, work, turn: simd }),
            _ => Simd::vectorize(pulp::Scalar::new(), Pass { plan: self, work, turn: Plain }),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn run(&self, work: Work<'_>) {
        pulp::Arch::new().dispatch(Pass { plan: self, work, turn: Plain });
    }
}

/// What one pass does. It is the same for all types of samples: much code, compiled for each kind of processor.
enum Work<'a> {
    /// A packed strip, along the rows.
    Down(&'a mut [Cell]),
    /// All cells, with the scratch: along the columns forwards, times the reference, and back.
    Across(&'a mut [Cell], &'a mut [Cell]),
    /// A strip with its number, along the rows backwards, and where to look for its extremes.
    Up(usize, &'a mut [Cell], &'a mut [Search; 2]),
}

/// One piece of a correlation, to be compiled for one kind of processor.
struct Pass<'a, T> {
    plan: &'a PairCorrelation,
    work: Work<'a>,
    turn: T,
}

impl<T: Turn> WithSimd for Pass<'_, T> {
    type Output = ();

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]
    fn with_simd<S: Simd>(self, simd: S) {
        let Pass { plan, work, turn } = self;
        let layout = plan.layout;
        match work {
            Work::Down(strip) => plan.down.forward(simd, strip),
            Work::Across(cells, scratch) => {
                let (cols, stride) = (layout.shape().cols, layout.stride());
                for (band, reference) in plan.reference.chunks_exact(cols).enumerate() {
                    let band = band * LANES..(band + 1) * LANES;
                    for (strip, columns) in cells.chunks_exact(stride).zip(scratch.chunks_exact_mut(LANES)) {
                        turn.turn(&strip[band.clone()], columns);
                    }
                    let line = &mut scratch[..cols];
                    plan.across.forward(simd, line);
                    multiply_cells(simd, line, reference);
                    plan.across.inverse(simd, line);
                    for (strip, columns) in cells.chunks_exact_mut(stride).zip(scratch.chunks_exact(LANES)) {
                        turn.turn(columns, &mut strip[band.clone()]);
                    }
                }
            }
            Work::Up(index, strip, [a, b]) => {
                plan.down.inverse(simd, strip);
                a.strip(simd, layout, (index, strip), |cell| &cell.re);
                b.strip(simd, layout, (index, strip), |cell| &cell.im);
            }
        }
    }
}

#[cfg(test)]
mod tests;
