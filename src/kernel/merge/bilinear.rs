//! Bilinear splat: each sample is shared among the four nearest output pixels, and value is divided by weight.
//!
//! Sample `n` of an image with shift `s` goes to `(n + s) f`. As `f` is a whole number, all samples of an image have
//! the same four shares. Afterwards value and weight are smoothed with the same narrow Gaussian, which closes the
//! holes between samples, and the image is value over weight where the weight is not negligible. Samples outside the
//! output are dropped, so that nothing piles up at its edges.
//!
//! Output rows are independent of each other: several callers may work on different bands of rows of one image, and
//! because each band takes the images in the same order, the result does not depend on the bands.

use std::ops::Range;

use super::gain;
use crate::axes::{Image, Sample, ScanShape};
use crate::kernel::smooth::gaussian;

/// Sigma of the Gaussian that is put over value and weight, in scan pixels.
pub const SMOOTHING: f64 = 0.125;
/// A pixel is empty below this part of the weight that a pixel has on average.
const LEAST_WEIGHT: f64 = 1e-3;

/// The geometry of a splat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplatGrid {
    scan: ScanShape,
    factor: usize,
}

/// What all images have in common: filled once for each image, whatever the number of bands.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    weight: f64,
    mean: f64,
    images: usize,
}

impl Totals {
    /// Adds those of other images.
    pub fn absorb(&mut self, other: &Self) {
        self.weight += other.weight;
        self.mean += other.mean;
        self.images += other.images;
    }

    /// Images counted so far.
    pub fn images(&self) -> usize {
        self.images
    }
}

/// Where one image goes and with which weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    /// Output index of sample 0 and the share of the pixel after it, for rows and columns.
    row: (i64, f64),
    col: (i64, f64),
    mean: f64,
    weight: f64,
}

impl SplatGrid {
    /// An output image `factor` times finer than the scan.
    ///
    /// # Panics
    /// When `factor` is 0 or the scan empty.
    pub fn new(scan: ScanShape, factor: usize) -> Self {
        assert!(factor > 0 && !scan.is_empty(), "a {scan} scan upscaled by {factor}");
        Self { scan, factor }
    }

    /// Rows of the output.
    pub fn rows(self) -> usize {
        self.scan.rows * self.factor
    }

    /// Numbers that one output row takes in a [`Band`]: its columns by phase (`column % factor`), because the samples
    /// of one scan row all have the same phase and so become one contiguous run.
    pub fn row_len(self) -> usize {
        self.scan.cols * self.factor
    }

    /// Where an image (`[scan row, scan col]`) with this shift to apply (`[row, col]`, scan pixels) and this
    /// statistical weight goes, counted in `totals`. `None`, and nothing counted, when the mean of the image is not
    /// above zero, the weight not a positive number or the shift not finite.
    pub fn place<S: Sample>(self, image: &[S], shift: [f64; 2], weight: f64, totals: &mut Totals) -> Option<Placement> {
        let usable = weight > 0.0 && weight.is_finite() && shift.iter().all(|s| s.is_finite());
        let mean = gain(image).filter(|_| usable)?;
        totals.weight += weight;
        totals.mean += mean;
        totals.images += 1;
        let place = |s: f64| {
            let at = s * self.factor as f64;
            // Far outside is outside: the bound keeps sums of indices from overflowing.
            (at.floor().clamp(-1e15, 1e15) as i64, at - at.floor())
        };
        Some(Placement { row: place(shift[0]), col: place(shift[1]), mean, weight })
    }

    /// Smooths value and weight with a Gaussian of `smoothing` scan pixels and divides: the image, in the units of the
    /// images, and the weight of each pixel relative to the average, both `[scan rows * f, scan cols * f]`. Pixels
    /// without weight are 0. Values and weights of several sets of images may be added up before, if their totals are.
    ///
    /// # Panics
    /// When the buffers do not cover all output rows.
    pub fn finish(self, value: &[f64], weight: &[f64], totals: &Totals, smoothing: f64) -> (Image, Image) {
        assert!(value.len() == self.rows() * self.row_len() && weight.len() == value.len(), "incomplete image");
        let smooth = |sums: &[f64]| {
            let index = |r: usize, c: usize| r * self.row_len() + c % self.factor * self.scan.cols + c / self.factor;
            let image = Image::from_shape_fn((self.rows(), self.row_len()), |(r, c)| sums[index(r, c)]);
            gaussian(&image, smoothing * self.factor as f64)
        };
        if totals.images == 0 {
            let empty = Image::zeros((self.rows(), self.row_len()));
            return (empty.clone(), empty);
        }
        let (mut image, mut weights) = (smooth(value), smooth(weight));
        let full = totals.weight / (self.factor * self.factor) as f64;
        let mean = totals.mean / totals.images as f64;
        weights.mapv_inplace(|w| w / full);
        let image_at = |v: f64, w: f64| if w > LEAST_WEIGHT { mean * v / (w * full) } else { 0.0 };
        image.zip_mut_with(&weights, |v, &w| *v = image_at(*v, w));
        (image, weights)
    }
}

/// A band of output rows, with its sums.
#[derive(Debug)]
pub struct Band<'a> {
    /// The output rows of this band.
    pub rows: Range<usize>,
    /// Sums of weighted samples, `rows.len() * row_len`.
    pub value: &'a mut [f64],
    /// Sums of weights, `rows.len() * row_len`.
    pub weight: &'a mut [f64],
}

/// Adds one image (`[scan row, scan col]`) to a band.
///
/// # Panics
/// When `image` or the band's buffers do not fit the grid.
pub fn deposit<S: Sample>(grid: SplatGrid, image: &[S], placement: &Placement, band: &mut Band<'_>) {
    let (cols, len) = (grid.scan.cols, grid.row_len());
    assert_eq!(image.len(), grid.scan.len(), "image of a wrong size");
    let shares = |(first, t): (i64, f64)| [(first, 1.0 - t), (first + 1, t)];
    for (r, samples) in image.chunks_exact(cols).enumerate() {
        for (first_row, row_share) in shares(placement.row) {
            let row = first_row + (r * grid.factor) as i64;
            let Some(row) = usize::try_from(row).ok().filter(|row| band.rows.contains(row)) else { continue };
            let start = (row - band.rows.start) * len;
            for (first_col, col_share) in shares(placement.col) {
                let weight = placement.weight * row_share * col_share;
                let (inside, at) = run(grid, first_col);
                let to = start + at..start + at + inside.len();
                let gain = weight / placement.mean;
                band.weight[to.clone()].iter_mut().for_each(|w| *w += weight);
                band.value[to].iter_mut().zip(&samples[inside]).for_each(|(v, s)| *v += gain * s.to_f64());
            }
        }
    }
}

/// The samples of a scan row that fall inside, when sample 0 goes to output column `first`, and the place of the first
/// of them in a row stored by phase.
fn run(grid: SplatGrid, first: i64) -> (Range<usize>, usize) {
    let (factor, cols) = (grid.factor as i64, grid.scan.cols as i64);
    let (phase, block) = (first.rem_euclid(factor), first.div_euclid(factor));
    // Sample c lies in block + c of this phase.
    let skip = (-block).clamp(0, cols);
    let end = (cols - block).clamp(skip, cols);
    (skip as usize..end as usize, (phase * cols + (block + skip).clamp(0, cols)) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Shifted = (Vec<f64>, [f64; 2], f64);

    fn splat(grid: SplatGrid, images: &[Shifted], bands: usize, smoothing: f64) -> (Image, Image) {
        let (len, rows) = (grid.row_len(), grid.rows());
        let (mut value, mut weight) = (vec![0.0; rows * len], vec![0.0; rows * len]);
        let per_band = rows.div_ceil(bands);
        let mut totals = Totals::default();
        let placements: Vec<_> =
            images.iter().map(|(image, s, w)| grid.place(image, *s, *w, &mut totals).unwrap()).collect();
        for (k, (v, w)) in value.chunks_mut(per_band * len).zip(weight.chunks_mut(per_band * len)).enumerate() {
            let rows = k * per_band..k * per_band + v.len() / len;
            let mut band = Band { rows, value: v, weight: w };
            images.iter().zip(&placements).for_each(|((image, ..), place)| deposit(grid, image, place, &mut band));
        }
        grid.finish(&value, &weight, &totals, smoothing)
    }

    /// Value and weight at each output pixel as sums over all samples of their triangles.
    fn naive(scan: ScanShape, f: usize, images: &[Shifted]) -> Image {
        let mean = |image: &[f64]| image.iter().sum::<f64>() / image.len() as f64;
        let level = images.iter().map(|(image, ..)| mean(image)).sum::<f64>() / images.len() as f64;
        let full = images.iter().map(|(.., w)| w).sum::<f64>() / (f * f) as f64;
        let triangle = |at: usize, n: usize, s: f64| (1.0 - (at as f64 - (n as f64 + s) * f as f64).abs()).max(0.0);
        Image::from_shape_fn((scan.rows * f, scan.cols * f), |(y, x)| {
            let (mut value, mut weight) = (0.0, 0.0);
            for (image, s, w) in images {
                for i in 0..scan.len() {
                    let share = w * triangle(y, i / scan.cols, s[0]) * triangle(x, i % scan.cols, s[1]);
                    value += share * image[i] / mean(image);
                    weight += share;
                }
            }
            if weight > 1e-3 * full { level * value / weight } else { 0.0 }
        })
    }

    proptest! {
        #[test]
        fn bands_of_deposits_equal_the_sum_over_all_samples(
            rows in 1usize..6, cols in 1usize..6, f in 1usize..5, bands in 1usize..5,
            shifts in prop::collection::vec((-60i32..60, -60i32..60, 1u8..4), 1..6),
        ) {
            let scan = ScanShape::new(rows, cols);
            // Eighths of a pixel: exact, so that both sums agree on what is empty.
            let images: Vec<Shifted> = shifts.iter().enumerate().map(|(k, &(y, x, w))| {
                let image = (0..scan.len()).map(|i| (1 + (i * 7 + k * 13) % 11) as f64).collect();
                (image, [f64::from(y) / 8.0, f64::from(x) / 8.0], f64::from(w))
            }).collect();
            let (found, _) = splat(SplatGrid::new(scan, f), &images, bands, 0.0);
            let expected = naive(scan, f, &images);
            prop_assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-9), "{found}\n{expected}");
            prop_assert_eq!(splat(SplatGrid::new(scan, f), &images, 1, 0.0).0, found);
        }
    }

    #[test]
    fn shifted_samples_of_a_smooth_object_give_it_back_within_a_few_percent() {
        let (scan, f) = (ScanShape::new(20, 24), 4);
        let object = |y: f64, x: f64| 10.0 + (0.9 * y + 0.4).sin() * 2.0 + (2.6 * x - 1.9 * y).cos();
        let images: Vec<Shifted> = (0..200)
            .map(|k| {
                let s = [(k as f64 * 0.754_877).fract() * 3.0 - 1.5, (k as f64 * 0.569_84).fract() * 3.0 - 1.5];
                let image = (0..scan.len())
                    .map(|i| object((i / scan.cols) as f64 + s[0], (i % scan.cols) as f64 + s[1]))
                    .collect();
                (image, s, 1.0)
            })
            .collect();
        let (image, weights) = splat(SplatGrid::new(scan, f), &images, 3, SMOOTHING);
        assert!(weights.iter().all(|&w| w > 0.1), "no holes");
        let error = image.indexed_iter().map(|((r, c), v)| v - object(r as f64 / f as f64, c as f64 / f as f64));
        let rms = (error.map(|e| e * e).sum::<f64>() / image.len() as f64).sqrt();
        // Of a contrast of 1.6 (RMS) at two thirds of a cycle per scan pixel.
        assert!(rms < 0.1, "{rms}");
    }
}
