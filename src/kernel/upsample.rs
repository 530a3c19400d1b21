//! Nearest deposit: every scan sample of every used detector pixel goes to the nearest pixel of a finer image.
//!
//! For a detector pixel with shift `s` (absolute, no shift = `n / 2`), sample `i` of an axis of `n` samples goes to
//! output index `round((i - (s - n/2 - pad/2/f)) f)`, ties to even, in a padded image of `n f + pad` pixels; samples
//! outside are dropped. The pad is cut off at the end, so that output pixel `(f i, f j)` lies at scan position `(i, j)`.
//!
//! Samples that follow each other go to pixels `f` apart, except at exact ties of odd factors. So an image falls into few
//! rectangles of samples, usually one. A native row is stored by column phase (`column % f`), which makes the samples of
//! one of its rows one contiguous run; and how many samples a pixel has received needs no addition for each of them:
//! [`Counts`] notes the corners of every rectangle and sums them up at the end.
//!
//! Output rows are independent of each other: several callers may work on different bands of rows of one image, and
//! because each band takes the detector pixels in the same order, the result does not depend on the bands.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use std::ops::Range;

use rayon::prelude::*;

use crate::axes::{Image, Sample, ScanShape};
use crate::kernel::simd::dispatch;

/// Pixels of pad in the native output, as in the documented method.
const PAD: usize = 16;

/// A number that samples are added up in.
///
/// Whole numbers are added several times as fast as `f64` and give exactly the same sums, as long as they fit: where
/// [`DType::sum_bytes`](crate::axes::DType::sum_bytes) says 4.
pub trait Sum: Copy + Default + Send + Sync + 'static {
    /// This and one more sample.
    #[must_use]
    fn plus<S: Sample>(self, sample: S) -> Self;
    /// The sum.
    fn total(self) -> f64;
}

impl Sum for f64 {
    #[inline(always)]
    fn plus<S: Sample>(self, sample: S) -> Self {
        self + sample.to_f64()
    }

    #[inline(always)]
    fn total(self) -> f64 {
        self
    }
}

impl Sum for u32 {
    #[inline(always)]
    fn plus<S: Sample>(self, sample: S) -> Self {
        self.wrapping_add(sample.to_i32() as u32)
    }

    #[inline(always)]
    fn total(self) -> f64 {
        f64::from(self)
    }
}

/// Adds samples to as many sums.
///
/// # Panics
/// When there are more samples than sums.
pub fn add<S: Sample, A: Sum>(sums: &mut [A], samples: &[S]) {
    dispatch(
        #[inline(always)]
        || add_run(&mut sums[..samples.len()], samples),
    );
}

#[inline(always)]
fn add_run<S: Sample, A: Sum>(sums: &mut [A], samples: &[S]) {
    sums.iter_mut().zip(samples).for_each(|(sum, sample)| *sum = sum.plus(*sample));
}

/// The geometry of an upsampled image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    scan: ScanShape,
    factor: usize,
}

/// Samples of one axis that go to pixels one scan step apart.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// The first one's scan index.
    source: usize,
    /// Its native output index.
    at: usize,
    len: usize,
}

impl Run {
    /// Which of the run's samples go to these output indices.
    fn within(self, indices: &Range<usize>, factor: usize) -> Range<usize> {
        let before = |index: usize| index.saturating_sub(self.at).div_ceil(factor).min(self.len);
        before(indices.start)..before(indices.end)
    }
}

/// Where the samples of one detector pixel go, as far as they fall inside.
#[derive(Debug, Clone, Default)]
pub struct Targets {
    rows: Vec<Run>,
    cols: Vec<Run>,
}

impl Grid {
    /// An output image `factor` times finer than the scan.
    ///
    /// # Panics
    /// When `factor` is 0.
    pub fn new(scan: ScanShape, factor: usize) -> Self {
        assert!(factor > 0, "upscale factor 0");
        Self { scan, factor }
    }

    /// Rows of the native (padded) output.
    pub fn native_rows(self) -> usize {
        self.scan.rows * self.factor + PAD
    }

    fn native_cols(self) -> usize {
        self.scan.cols * self.factor + PAD
    }

    /// Samples of one column phase in a native row.
    fn phase_len(self) -> usize {
        self.native_cols().div_ceil(self.factor)
    }

    /// Numbers that one native row takes in a [`Band`].
    pub fn row_len(self) -> usize {
        self.phase_len() * self.factor
    }

    /// Where a native column lies in its row.
    fn place(self, col: usize) -> usize {
        col % self.factor * self.phase_len() + col / self.factor
    }

    /// Fills `targets` for a detector pixel with this absolute shift.
    pub fn targets(self, shift_y: f64, shift_x: f64, targets: &mut Targets) {
        let f = self.factor as f64;
        let fill = |runs: &mut Vec<Run>, n: usize, shift: f64, limit: usize| {
            let origin = shift - (n / 2) as f64 - PAD as f64 / 2.0 / f;
            runs.clear();
            for source in 0..n {
                let at = ((source as f64 - origin) * f).round_ties_even() as i64;
                let Some(at) = usize::try_from(at).ok().filter(|at| *at < limit) else { continue };
                match runs.last_mut() {
                    Some(run) if run.source + run.len == source && run.at + run.len * self.factor == at => run.len += 1,
                    _ => runs.push(Run { source, at, len: 1 }),
                }
            }
        };
        fill(&mut targets.rows, self.scan.rows, shift_y, self.native_rows());
        fill(&mut targets.cols, self.scan.cols, shift_x, self.native_cols());
    }

    /// Divides sums by numbers of samples and cuts off the pad: the image and the number of samples in each pixel, both
    /// `[scan rows * f, scan cols * f]`. Pixels without samples are 0.
    ///
    /// # Panics
    /// When the sums do not cover all native rows, or the counts are of another grid.
    pub fn finish<A: Sum>(self, value: &[A], counts: Counts) -> (Image, Image) {
        let (len, counts) = (self.row_len(), counts.summed());
        assert!(value.len() == self.native_rows() * len && counts.len() == value.len(), "incomplete image");
        let shape = (self.scan.rows * self.factor, self.scan.cols * self.factor);
        let (mut image, mut weights) = (Image::zeros(shape), Image::zeros(shape));
        let rows = image.as_slice_mut().into_iter().flat_map(|s| s.chunks_exact_mut(shape.1.max(1)));
        let weight_rows = weights.as_slice_mut().into_iter().flat_map(|s| s.chunks_exact_mut(shape.1.max(1)));
        let from = value.chunks_exact(len).zip(counts.chunks_exact(len)).skip(PAD / 2);
        let rows: Vec<_> = rows.zip(weight_rows).zip(from).collect();
        rows.into_par_iter().for_each(|((image, weights), (value, count))| {
            dispatch(
                #[inline(always)]
                || self.finish_row(value, count, image, weights),
            );
        });
        (image, weights)
    }

    #[inline(always)]
    fn finish_row<A: Sum>(self, value: &[A], count: &[i32], image: &mut [f64], weights: &mut [f64]) {
        for col in 0..self.factor.min(image.len()) {
            let start = self.place(col + PAD / 2);
            let out = image[col..].iter_mut().zip(&mut weights[col..]).step_by(self.factor);
            for ((image, weight), (value, count)) in out.zip(value[start..].iter().zip(&count[start..])) {
                *weight = f64::from(*count);
                *image = if *count == 0 { 0.0 } else { value.total() / f64::from(*count) };
            }
        }
    }
}

/// One detector pixel's image, `[scan row, scan col]`, where it lies.
#[derive(Debug, Clone, Copy)]
pub struct Pieces<'a, S> {
    /// Consecutive scan rows, `rows` of them in every piece but the last.
    pub pieces: &'a [&'a [S]],
    /// Scan rows in a piece.
    pub rows: usize,
}

impl<'a, S: Sample> Pieces<'a, S> {
    #[inline(always)]
    fn row(self, row: usize, cols: usize) -> &'a [S] {
        let start = row % self.rows * cols;
        &self.pieces[row / self.rows][start..start + cols]
    }

    /// Adds some scan rows of the image to as many sums, `[row, col]` with `cols` columns.
    ///
    /// # Panics
    /// When the image does not have these rows or there are fewer sums.
    pub fn add_rows<A: Sum>(self, rows: Range<usize>, cols: usize, sums: &mut [A]) {
        for (row, sums) in rows.zip(sums.chunks_exact_mut(cols.max(1))) {
            add(sums, self.row(row, cols));
        }
    }
}

/// A band of native output rows with its sums. Each row is stored by column phase.
#[derive(Debug)]
pub struct Band<'a, A> {
    /// The native rows of this band.
    pub rows: Range<usize>,
    /// Sums, `rows.len() * row_len`.
    pub value: &'a mut [A],
}

/// Adds one detector pixel's image to a band.
///
/// # Panics
/// When the image or the band's buffer do not fit the grid.
pub fn deposit<S: Sample, A: Sum>(grid: Grid, image: Pieces<'_, S>, targets: &Targets, band: &mut Band<'_, A>) {
    let (len, factor) = (grid.row_len(), grid.factor);
    dispatch(
        #[inline(always)]
        || {
            for run in &targets.rows {
                for i in run.within(&band.rows, factor) {
                    let samples = image.row(run.source + i, grid.scan.cols);
                    let value = &mut band.value[(run.at + i * factor - band.rows.start) * len..][..len];
                    for col in &targets.cols {
                        let sums = &mut value[grid.place(col.at)..][..col.len];
                        add_run(sums, &samples[col.source..col.source + col.len]);
                    }
                }
            }
        },
    );
}

/// Numbers of samples in the pixels of a whole native output.
#[derive(Debug)]
pub struct Counts {
    grid: Grid,
    /// What the counts change by from each pixel to the next of its phase on both axes, laid out as the sums are.
    steps: Vec<i32>,
}

impl Counts {
    /// No samples anywhere.
    pub fn new(grid: Grid) -> Self {
        Self { grid, steps: vec![0; grid.native_rows() * grid.row_len()] }
    }

    /// Counts the samples of one detector pixel.
    pub fn add(&mut self, targets: &Targets) {
        let (factor, phase) = (self.grid.factor, self.grid.phase_len());
        for row in &targets.rows {
            for col in &targets.cols {
                let start = self.grid.place(col.at);
                // Where the rectangle reaches the end of its phase nothing comes after it.
                let end = (col.at / factor + col.len < phase).then_some(start + col.len);
                for (row, step) in [(row.at, 1), (row.at + row.len * factor, -1)] {
                    let Some(line) = self.steps.chunks_exact_mut(self.grid.row_len()).nth(row) else { continue };
                    line[start] += step;
                    if let Some(end) = end {
                        line[end] -= step;
                    }
                }
            }
        }
    }

    /// The number of samples of every native pixel, laid out as the sums are.
    fn summed(self) -> Vec<i32> {
        let Self { grid, steps: mut counts } = self;
        let len = grid.row_len();
        for start in (grid.factor * len..counts.len()).step_by(len) {
            let (before, line) = counts[..start + len].split_at_mut(start);
            let before = &before[start - grid.factor * len..][..len];
            line.iter_mut().zip(before).for_each(|(count, before)| *count += before);
        }
        counts.par_chunks_mut(grid.phase_len()).for_each(|phase| {
            let mut count = 0;
            for step in phase {
                count += *step;
                *step = count;
            }
        });
        counts
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the promise is equality to the last bit")]
mod tests {
    use super::*;
    use crate::axes::DType;
    use proptest::prelude::*;

    fn naive(scan: ScanShape, f: usize, pixels: &[(Vec<u16>, f64, f64)]) -> (Image, Image) {
        let (h, w) = (scan.rows * f + PAD, scan.cols * f + PAD);
        let (mut sum, mut count) = (Image::zeros((h, w)), Image::zeros((h, w)));
        let place = |i: usize, n: usize, shift: f64| {
            let pad = PAD as f64;
            ((i as f64 - (shift - (n / 2) as f64 - pad / 2.0 / f as f64)) * f as f64).round_ties_even()
        };
        for (image, sy, sx) in pixels {
            for r in 0..scan.rows {
                for c in 0..scan.cols {
                    let (y, x) = (place(r, scan.rows, *sy), place(c, scan.cols, *sx));
                    if y >= 0.0 && x >= 0.0 && y < h as f64 && x < w as f64 {
                        sum[[y as usize, x as usize]] += f64::from(image[r * scan.cols + c]);
                        count[[y as usize, x as usize]] += 1.0;
                    }
                }
            }
        }
        let cut = |a: Image| {
            let p = PAD / 2;
            a.slice(ndarray::s![p..h - p, p..w - p]).to_owned()
        };
        let mean = Image::from_shape_fn((h, w), |i| if count[i] > 0.0 { sum[i] / count[i] } else { 0.0 });
        (cut(mean), cut(count))
    }

    /// The image by bands of so many native rows, from images in pieces of so many scan rows.
    fn merged<A: Sum>(grid: Grid, pixels: &[(Vec<u16>, f64, f64)], per_band: usize, piece: usize) -> (Image, Image) {
        let (len, mut targets, mut counts) = (grid.row_len(), Targets::default(), Counts::new(grid));
        let mut value = vec![A::default(); grid.native_rows() * len];
        for (image, y, x) in pixels {
            let pieces: Vec<&[u16]> = image.chunks(piece * grid.scan.cols).collect();
            grid.targets(*y, *x, &mut targets);
            counts.add(&targets);
            for (k, value) in value.chunks_mut(per_band * len).enumerate() {
                let rows = k * per_band..k * per_band + value.len() / len;
                deposit(grid, Pieces { pieces: &pieces, rows: piece }, &targets, &mut Band { rows, value });
            }
        }
        grid.finish(&value, counts)
    }

    proptest! {
        #[test]
        fn bands_of_deposits_equal_the_naive_image(
            rows in 1usize..9, cols in 1usize..9, f in 1usize..6, bands in 1usize..5, piece in 1usize..10,
            shifts in prop::collection::vec((-12i32..24, -12i32..24), 1..6),
        ) {
            let scan = ScanShape::new(rows, cols);
            // Eighths of a pixel: many samples lie exactly on ties.
            let pixels: Vec<_> = shifts
                .iter()
                .enumerate()
                .map(|(k, &(y, x))| {
                    let image = (0..scan.len()).map(|i| (i * 7 + k * 13) as u16).collect::<Vec<_>>();
                    (image, f64::from(y) / 8.0 + (rows / 2) as f64, f64::from(x) / 8.0 + (cols / 2) as f64)
                })
                .collect();
            let grid = Grid::new(scan, f);
            let per_band = grid.native_rows().div_ceil(bands);
            let (expected, counts) = naive(scan, f, &pixels);
            for (image, weights) in [merged::<f64>(grid, &pixels, per_band, 1), merged::<u32>(grid, &pixels, per_band, piece)] {
                prop_assert_eq!(&weights, &counts);
                prop_assert_eq!(&image, &expected);
            }
        }
    }

    #[test]
    fn without_a_shift_a_sample_lies_at_its_scan_position_for_even_and_odd_scans() {
        for n in [4, 5] {
            let scan = ScanShape::new(n, n);
            let grid = Grid::new(scan, 4);
            let image: Vec<u16> = (1..=scan.len() as u16).collect();
            let none = (n / 2) as f64;
            let (out, weights) = merged::<u32>(grid, &[(image.clone(), none, none)], grid.native_rows(), n);
            assert!((0..n * n).all(|i| out[[4 * (i / n), 4 * (i % n)]] == f64::from(image[i])));
            assert_eq!(weights.sum(), (n * n) as f64);
        }
    }

    #[test]
    fn the_largest_sums_that_fit_are_exact() {
        let (scan, image) = (ScanShape::new(3, 5), vec![u16::MAX; 15]);
        let mut sums = vec![0u32; 15];
        let images = (0..1 << 17).find(|n| DType::U16.sum_bytes(n + 1) > 4).unwrap();
        for _ in 0..images {
            Pieces { pieces: &[image.as_slice()], rows: 3 }.add_rows(0..scan.rows, scan.cols, &mut sums);
        }
        assert!(sums.iter().all(|sum| sum.total() == images as f64 * 65535.0), "{images} images");
    }
}
