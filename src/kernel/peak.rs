//! The highest point of a correlation, to a fraction of a pixel.

use num_complex::Complex;

use crate::axes::ScanShape;
use crate::kernel::correlate::Normalisation;
use crate::kernel::real::Real;
use crate::kernel::simd::dispatch;

/// The peak of one detector pixel's correlation.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Peak {
    /// Row of the peak in the shifted correlation, where no shift is `rows / 2`.
    pub y: f64,
    /// Column of the peak in the shifted correlation, where no shift is `cols / 2`.
    pub x: f64,
    /// The documented correlation at the highest sample.
    pub quality: f64,
    /// The zero-mean normalised correlation at the highest sample (−1…1).
    pub zncc: f64,
    /// How sharp the peak is along the axes of rows and columns: `2z₀ - z₊ - z₋` of the zero-mean normalised
    /// correlation at the highest sample and its neighbours; 0 where the position was not refined.
    pub curvature: [f64; 2],
}

/// Finds the peaks of the two correlations that an inverse transform holds in its real and imaginary part.
///
/// `image` is `[row, col]` with no shift at index 0 and still times `N`. The highest sample is refined by a parabola
/// through the documented correlation and its two neighbours in each axis, but not where the highest sample lies on
/// the border of the shifted array; among equal samples the first of the shifted array wins (as numpy's argmax).
///
/// # Panics
/// When `image` does not have the shape's length.
pub fn find_pair<T: Real>(image: &[Complex<T>], shape: ScanShape, norms: [&Normalisation; 2]) -> [Peak; 2] {
    assert_eq!(image.len(), shape.len(), "correlation of a wrong size");
    let extremes = dispatch(
        #[inline(always)]
        || extremes(image, shape),
    );
    std::array::from_fn(|part| {
        let value = |r: usize, c: usize| {
            let z = image[r * shape.cols + c];
            if part == 0 { z.re } else { z.im }
        };
        refine(shape, norms[part], &extremes[part], value)
    })
}

/// The largest and smallest value of one part and the first row (in shifted order) that holds each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extremes<T> {
    pub(super) max: (T, usize),
    pub(super) min: (T, usize),
}

/// One pass over the array; rows in shifted order, so that the first of equal values is found.
#[inline(always)]
fn extremes<T: Real>(image: &[Complex<T>], shape: ScanShape) -> [Extremes<T>; 2] {
    const LANES: usize = 8;
    let unshifted = |i: usize| (i + shape.rows - shape.rows / 2) % shape.rows;
    let first = unshifted(0);
    let z = image[first * shape.cols];
    let mut found = [z.re, z.im].map(|v| Extremes { max: (v, first), min: (v, first) });
    for i in 0..shape.rows {
        let row = unshifted(i);
        let line = &image[row * shape.cols..(row + 1) * shape.cols];
        // Interleaved real and imaginary parts: even lanes are one image, odd lanes the other.
        let numbers: &[T] = bytemuck::cast_slice(line);
        let start: [T; LANES] = std::array::from_fn(|lane| numbers[lane % 2]);
        let (mut max, mut min) = (start, start);
        let chunks = numbers.chunks_exact(LANES);
        for (lane, &v) in chunks.remainder().iter().enumerate() {
            max[lane] = max[lane].maximum(v);
            min[lane] = min[lane].minimum(v);
        }
        for chunk in chunks {
            for lane in 0..LANES {
                max[lane] = max[lane].maximum(chunk[lane]);
                min[lane] = min[lane].minimum(chunk[lane]);
            }
        }
        for (part, best) in found.iter_mut().enumerate() {
            let lanes = (part..LANES).step_by(2);
            let row_max = lanes.clone().map(|l| max[l]).fold(max[part], T::maximum);
            let row_min = lanes.map(|l| min[l]).fold(min[part], T::minimum);
            if row_max > best.max.0 {
                best.max = (row_max, row);
            }
            if row_min < best.min.0 {
                best.min = (row_min, row);
            }
        }
    }
    found
}

/// The peak, from the extremes and whatever gives the value at a row and a column.
pub(super) fn refine<T: Real>(
    shape: ScanShape,
    norm: &Normalisation,
    extremes: &Extremes<T>,
    value: impl Fn(usize, usize) -> T,
) -> Peak {
    let (rows, cols) = (shape.rows, shape.cols);
    // The documented correlation is a square: a very negative value of (float) data could win as well.
    let documented_max = norm.documented(extremes.max.0);
    let (best, row) = if norm.documented(extremes.min.0) > documented_max { extremes.min } else { extremes.max };
    let shifted_col = (0..cols).find(|&j| value(row, (j + cols - cols / 2) % cols) == best).unwrap_or(0);
    let (u, v) = ((row + rows / 2) % rows, shifted_col);
    let near = |du: usize, dv: usize| {
        // Neighbour offsets are 0, 1 or 2, meaning -1, 0, 1, so that indices stay unsigned.
        let r = (u + du + rows - 1 + rows - rows / 2) % rows;
        let c = (v + dv + cols - 1 + cols - cols / 2) % cols;
        value(r, c)
    };
    let at = |du: usize, dv: usize| norm.documented(near(du, dv));
    let (quality, zncc) = (norm.documented(best), norm.zncc(best));
    let mut curvature = [0.0; 2];
    let (mut y, mut x) = (u as f64, v as f64);
    if u >= 1 && u + 1 < rows && v >= 1 && v + 1 < cols {
        y -= parabola(at(0, 1), quality, at(2, 1));
        x -= parabola(at(1, 0), quality, at(1, 2));
        let sharpness = |before: T, after: T| 2.0 * zncc - norm.zncc(before) - norm.zncc(after);
        curvature = [sharpness(near(0, 1), near(2, 1)), sharpness(near(1, 0), near(1, 2))];
    }
    Peak { y, x, quality, zncc, curvature }
}

/// `(after - before) / (2 (after - 2 centre + before))`, or 0 where the curvature is not that of a maximum.
fn parabola(before: f64, centre: f64, after: f64) -> f64 {
    let curvature = after - 2.0 * centre + before;
    if curvature < 0.0 { (after - before) / (2.0 * curvature) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Normalisation = Normalisation { scale: 1.0, pedestal: 0.0, denominator: 1.0, zero_mean: 1.0 };

    /// Shift the array, look at every sample, refine: as the method is written.
    fn naive(image: &[f64], shape: ScanShape, norm: &Normalisation) -> (f64, f64, f64) {
        let (rows, cols) = (shape.rows, shape.cols);
        let c = |u: usize, v: usize| {
            let r = (u + rows.div_ceil(2)) % rows;
            norm.documented(image[r * cols + (v + cols.div_ceil(2)) % cols])
        };
        let (mut u, mut v) = (0, 0);
        for i in 0..rows {
            for j in 0..cols {
                if c(i, j) > c(u, v) {
                    (u, v) = (i, j);
                }
            }
        }
        let (mut y, mut x) = (u as f64, v as f64);
        if u >= 1 && u + 1 < rows && v >= 1 && v + 1 < cols {
            let hy = c(u + 1, v) - 2.0 * c(u, v) + c(u - 1, v);
            let hx = c(u, v + 1) - 2.0 * c(u, v) + c(u, v - 1);
            if hy < 0.0 {
                y -= (c(u + 1, v) - c(u - 1, v)) / (2.0 * hy);
            }
            if hx < 0.0 {
                x -= (c(u, v + 1) - c(u, v - 1)) / (2.0 * hx);
            }
        }
        (y, x, c(u, v))
    }

    proptest! {
        #[test]
        fn peaks_equal_their_naive_twin(
            rows in 1usize..20, cols in 1usize..20, values in prop::collection::vec(-40i32..40, 800), pedestal in -20.0..20f64,
        ) {
            let shape = ScanShape::new(rows, cols);
            let image: Vec<Complex<f64>> =
                (0..shape.len()).map(|i| Complex::new(f64::from(values[i]), f64::from(values[i + 400]))).collect();
            // A pedestal that is no multiple of 0.5 keeps +a and -a apart, whose order among equals is not defined.
            let norm = Normalisation { pedestal: pedestal + 0.123, ..PLAIN };
            let peaks = find_pair(&image, shape, [&norm, &norm]);
            for (part, peak) in peaks.iter().enumerate() {
                let plane: Vec<f64> = image.iter().map(|z| if part == 0 { z.re } else { z.im }).collect();
                prop_assert_eq!((peak.y, peak.x, peak.quality), naive(&plane, shape, &norm));
            }
        }
    }

    #[test]
    fn a_parabola_between_samples_is_found_exactly() {
        let shape = ScanShape::new(16, 16);
        // sqrt of a parabola, because the documented correlation squares it.
        let height = |r: f64, c: f64| (1000.0 - (r - 3.3).powi(2) - 2.0 * (c - 5.8).powi(2)).sqrt();
        let image: Vec<Complex<f64>> =
            (0..256).map(|i| Complex::new(height((i / 16) as f64, (i % 16) as f64), 0.0)).collect();
        let [peak, _] = find_pair(&image, shape, [&PLAIN, &PLAIN]);
        assert!((peak.y - 11.3).abs() < 1e-9 && (peak.x - 13.8).abs() < 1e-9, "{peak:?}");
        // The parabola of the square falls by 1 and 2 at a distance of 1, the root by half of that over the root.
        let root = height(3.0, 6.0);
        assert!((peak.curvature[0] * root - 1.0).abs() < 0.01 && (peak.curvature[1] * root - 2.0).abs() < 0.01);
    }

    #[test]
    fn a_dead_pixel_peaks_at_the_origin_with_no_quality() {
        let image = vec![Complex::<f32>::default(); 12];
        let norm = Normalisation { zero_mean: 0.0, ..PLAIN };
        let [peak, _] = find_pair(&image, ScanShape::new(3, 4), [&norm, &norm]);
        assert_eq!(peak, Peak::default());
    }
}
