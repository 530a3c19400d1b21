//! Adding images to sums, some columns of the half spectrum at a time.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use std::ops::Range;

use super::{Circle, FourierGrid, Phases, ShiftedSpectrum};
use crate::kernel::real::Real;
use crate::kernel::simd::dispatch;

/// Up to two runs of output rows of one column: slow frequencies of either sign lie at both ends.
pub type Runs = [Range<usize>; 2];

/// A band of columns of the half spectrum, with its sums.
#[derive(Debug)]
pub struct Band<'a, T: Real> {
    pub(super) grid: FourierGrid,
    pub(super) limit: Option<Circle>,
    pub(super) lines: Range<usize>,
    pub(super) sum: &'a mut [T],
}

impl<T: Real> Band<'_, T> {
    /// Its columns.
    pub fn lines(&self) -> Range<usize> {
        self.lines.clone()
    }

    /// The rows of a column that are summed.
    pub fn runs(&self, line: usize) -> Runs {
        self.limit.map_or([0..self.grid.fine().rows, 0..0], |circle| circle.runs(self.grid, line))
    }

    /// Adds a column of an image. Every column must see the images in the same order, and each image must be
    /// [noted](super::FourierMerge::note) once.
    ///
    /// # Panics
    /// When the column is not in the band.
    pub fn add(&mut self, column: &Column<T>, runs: &Runs) {
        let len = self.grid.line_len();
        let at = (column.line - self.lines.start) * len;
        let (re, im) = self.sum[at..at + len].split_at_mut(len / 2);
        let [from_re, from_im] = &column.shifted;
        dispatch(
            #[inline(always)]
            || {
                for run in runs {
                    add_up(&mut re[run.clone()], &from_re[run.clone()]);
                    add_up(&mut im[run.clone()], &from_im[run.clone()]);
                }
            },
        );
    }
}

#[inline(always)]
fn add_up<T: Real>(sum: &mut [T], from: &[T]) {
    sum.iter_mut().zip(from).for_each(|(sum, value)| *sum = *sum + *value);
}

/// One column of an image's spectrum, shifted and tiled onto the finer grid: made once, added to several sums.
#[derive(Debug)]
pub struct Column<T: Real> {
    line: usize,
    /// Shifted across, one period.
    turned: [Vec<T>; 2],
    /// Shifted along as well, as far as it was asked for: real and imaginary parts for each output row.
    shifted: [Vec<T>; 2],
}

impl<T: Real> Column<T> {
    /// Buffers.
    pub fn new(grid: FourierGrid) -> Self {
        let turned = [(); 2].map(|()| vec![T::zero(); grid.padded.rows]);
        Self { line: 0, turned, shifted: [(); 2].map(|()| vec![T::zero(); grid.fine().rows]) }
    }

    /// Makes a column of an image at the rows of `runs`.
    pub fn load(&mut self, image: &ShiftedSpectrum<T>, phases: &Phases<T>, line: usize, runs: &Runs) {
        self.line = line;
        if runs.iter().any(|run| !run.is_empty()) {
            dispatch(
                #[inline(always)]
                || self.fill(image, phases, runs),
            );
        }
    }

    #[inline(always)]
    fn fill(&mut self, image: &ShiftedSpectrum<T>, phases: &Phases<T>, runs: &Runs) {
        let padded = image.grid.padded;
        let (rows, at) = (padded.rows, self.line % padded.cols * padded.rows);
        let phase = phases.cols[self.line];
        let [re, im] = &image.spectrum;
        let (re, im) = (&re[at..at + rows], &im[at..at + rows]);
        let [turned_re, turned_im] = &mut self.turned;
        let (turned_re, turned_im) = (&mut turned_re[..rows], &mut turned_im[..rows]);
        for i in 0..rows {
            turned_re[i] = re[i] * phase.re - im[i] * phase.im;
            turned_im[i] = re[i] * phase.im + im[i] * phase.re;
        }
        let [shifted_re, shifted_im] = &mut self.shifted;
        for run in runs {
            // The spectrum repeats itself every `rows` rows.
            let mut first = run.start;
            while first < run.end {
                let end = run.end.min((first / rows + 1) * rows);
                let (at, from) = (first..end, first % rows..first % rows + (end - first));
                multiply(
                    (&mut shifted_re[at.clone()], &mut shifted_im[at.clone()]),
                    (&turned_re[from.clone()], &turned_im[from]),
                    (&phases.rows[0][at.clone()], &phases.rows[1][at]),
                );
                first = end;
            }
        }
    }
}

/// `out = a b` for complex numbers in separate real and imaginary parts, which compilers vectorise.
#[inline(always)]
fn multiply<T: Real>((re, im): (&mut [T], &mut [T]), a: (&[T], &[T]), b: (&[T], &[T])) {
    let n = re.len();
    let (im, a, b) = (&mut im[..n], (&a.0[..n], &a.1[..n]), (&b.0[..n], &b.1[..n]));
    for i in 0..n {
        re[i] = a.0[i] * b.0[i] - a.1[i] * b.1[i];
        im[i] = a.0[i] * b.1[i] + a.1[i] * b.0[i];
    }
}

/// The runs that contain all of these.
pub fn hull<'a>(all: impl IntoIterator<Item = &'a Runs>) -> Runs {
    let mut hull = [0..0, 0..0];
    for runs in all {
        for (whole, run) in hull.iter_mut().zip(runs).filter(|(_, run)| !run.is_empty()) {
            let empty = whole.start == whole.end;
            *whole = if empty { run.clone() } else { whole.start.min(run.start)..whole.end.max(run.end) };
        }
    }
    hull
}
