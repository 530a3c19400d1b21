//! Nearest deposit: every scan sample of every used detector pixel goes to the nearest pixel of a finer image.
//!
//! For a detector pixel with shift `s` (absolute, no shift = `n / 2`), sample `i` of an axis of `n` samples goes to
//! output index `round((i - (s - n/2 - pad/2/f)) f)`, ties to even, in a padded image of `n f + pad` pixels; samples
//! outside are dropped. The pad is cut off at the end, so that output pixel `(f i, f j)` lies at scan position `(i, j)`.
//!
//! Output rows are independent of each other: several callers may work on different bands of rows of one image, and
//! because each band takes the detector pixels in the same order, the result does not depend on the bands.

use std::ops::Range;

use crate::axes::{Image, Sample, ScanShape};
use crate::kernel::simd::dispatch;

/// Pixels of pad in the native output, as in the documented method.
const PAD: usize = 16;

/// The geometry of an upsampled image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    scan: ScanShape,
    factor: usize,
}

/// Where the samples of one detector pixel go: an output index (native, with pad) for each scan row and column.
/// Negative or too large indices are outside.
#[derive(Debug, Clone, Default)]
pub struct Targets {
    rows: Vec<i64>,
    cols: Vec<i64>,
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

    /// Fills `targets` for a detector pixel with this absolute shift.
    pub fn targets(self, shift_y: f64, shift_x: f64, targets: &mut Targets) {
        let f = self.factor as f64;
        let fill = |out: &mut Vec<i64>, n: usize, shift: f64| {
            let origin = shift - (n / 2) as f64 - PAD as f64 / 2.0 / f;
            out.clear();
            out.extend((0..n).map(|i| ((i as f64 - origin) * f).round_ties_even() as i64));
        };
        fill(&mut targets.rows, self.scan.rows, shift_y);
        fill(&mut targets.cols, self.scan.cols, shift_x);
    }

    /// Divides value by weight and cuts off the pad: the image and the number of samples in each pixel, both
    /// `[scan rows * f, scan cols * f]`. Pixels without samples are 0.
    ///
    /// # Panics
    /// When the buffers do not cover all native rows.
    pub fn finish(self, value: &[f64], weight: &[u32]) -> (Image, Image) {
        assert!(value.len() == self.native_rows() * self.row_len() && weight.len() == value.len(), "incomplete image");
        let shape = (self.scan.rows * self.factor, self.scan.cols * self.factor);
        let index = |r: usize, c: usize| {
            let (r, c) = (r + PAD / 2, c + PAD / 2);
            r * self.row_len() + c % self.factor * self.phase_len() + c / self.factor
        };
        let weights = Image::from_shape_fn(shape, |(r, c)| f64::from(weight[index(r, c)]));
        let image = Image::from_shape_fn(shape, |(r, c)| match weight[index(r, c)] {
            0 => 0.0,
            n => value[index(r, c)] / f64::from(n),
        });
        (image, weights)
    }
}

/// A band of native output rows, with its sums and numbers of samples.
///
/// A row is stored by column phase (`column % factor`), because the samples of one scan row all have the same phase
/// and so become one contiguous run.
#[derive(Debug)]
pub struct Band<'a> {
    /// The native rows of this band.
    pub rows: Range<usize>,
    /// Sums, `rows.len() * row_len`.
    pub value: &'a mut [f64],
    /// Numbers of samples, `rows.len() * row_len`.
    pub weight: &'a mut [u32],
}

/// Adds one detector pixel's image (`[scan row, scan col]`) to a band.
///
/// # Panics
/// When `image` or the band's buffers do not fit the grid.
pub fn deposit<S: Sample>(grid: Grid, image: &[S], targets: &Targets, band: &mut Band<'_>) {
    let (rows, cols) = (grid.scan.rows, grid.scan.cols);
    assert_eq!(image.len(), rows * cols, "image of a wrong size");
    let (factor, len, width) = (grid.factor as i64, grid.row_len(), grid.native_cols() as i64);
    // Rounding of equally spaced positions gives equal spacing except at exact ties of odd factors.
    let regular = targets.cols.windows(2).all(|pair| pair[1] - pair[0] == factor);
    let first = targets.cols[0];
    for (r, &row) in targets.rows.iter().enumerate() {
        let Some(row) = usize::try_from(row).ok().filter(|row| band.rows.contains(row)) else { continue };
        let samples = &image[r * cols..(r + 1) * cols];
        let start = (row - band.rows.start) * len;
        let value = &mut band.value[start..start + len];
        let weight = &mut band.weight[start..start + len];
        if regular {
            // The samples that fall inside: first + factor * c in [0, width).
            let skip = if first < 0 { (-first + factor - 1) / factor } else { 0 } as usize;
            let end = ((width - first + factor - 1).div_euclid(factor)).clamp(0, cols as i64) as usize;
            if skip >= end {
                continue;
            }
            let at = first + skip as i64 * factor;
            let start = (at % factor) as usize * grid.phase_len() + (at / factor) as usize;
            let run = start..start + end - skip;
            let (value, weight, samples) = (&mut value[run.clone()], &mut weight[run], &samples[skip..end]);
            dispatch(
                #[inline(always)]
                || {
                    value.iter_mut().zip(samples).for_each(|(v, s)| *v += s.to_f64());
                    for w in weight {
                        *w += 1;
                    }
                },
            );
        } else {
            for (sample, &col) in samples.iter().zip(&targets.cols).filter(|(_, col)| (0..width).contains(*col)) {
                let at = (col % factor) as usize * grid.phase_len() + (col / factor) as usize;
                value[at] += sample.to_f64();
                weight[at] += 1;
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the promise is equality to the last bit")]
mod tests {
    use super::*;
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

    proptest! {
        #[test]
        fn bands_of_deposits_equal_the_naive_image(
            rows in 1usize..9, cols in 1usize..9, f in 1usize..6, bands in 1usize..5,
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
            let len = grid.row_len();
            let (mut value, mut weight) = (vec![0.0; grid.native_rows() * len], vec![0; grid.native_rows() * len]);
            let per_band = grid.native_rows().div_ceil(bands);
            let mut targets = Targets::default();
            for (k, (v, w)) in value.chunks_mut(per_band * len).zip(weight.chunks_mut(per_band * len)).enumerate() {
                let rows = k * per_band..k * per_band + v.len() / len;
                let mut band = Band { rows, value: v, weight: w };
                for (image, y, x) in &pixels {
                    grid.targets(*y, *x, &mut targets);
                    deposit(grid, image, &targets, &mut band);
                }
            }
            let (image, weights) = grid.finish(&value, &weight);
            let (expected, counts) = naive(scan, f, &pixels);
            prop_assert_eq!(weights, counts);
            prop_assert_eq!(image, expected);
        }
    }

    #[test]
    fn without_a_shift_a_sample_lies_at_its_scan_position_for_even_and_odd_scans() {
        for n in [4, 5] {
            let scan = ScanShape::new(n, n);
            let grid = Grid::new(scan, 4);
            let image: Vec<u16> = (1..=scan.len() as u16).collect();
            let size = grid.native_rows() * grid.row_len();
            let (mut value, mut weight) = (vec![0.0; size], vec![0; size]);
            let mut targets = Targets::default();
            grid.targets((n / 2) as f64, (n / 2) as f64, &mut targets);
            let rows = 0..grid.native_rows();
            deposit(grid, &image, &targets, &mut Band { rows, value: &mut value, weight: &mut weight });
            let (out, weights) = grid.finish(&value, &weight);
            assert!((0..n * n).all(|i| out[[4 * (i / n), 4 * (i % n)]] == f64::from(image[i])));
            assert_eq!(weights.sum(), (n * n) as f64);
        }
    }
}
