//! How much of the total weight each pixel of a merged image has behind it.
//!
//! Image `k`, applied with shift `s`, covers the scan from `s - 1/2` to `s + n - 1/2`. The sum of these rectangles
//! over all images falls off towards the edges, and value divided by it does not. A rectangle is the running sum of
//! four points at its corners, so that an image costs four additions however fine the output is.

use ndarray::s;

use crate::axes::{Image, ScanShape};

#[derive(Debug, Clone)]
pub(super) struct Coverage {
    scan: ScanShape,
    factor: usize,
    /// Second differences, two more than the output along each axis.
    corners: Image,
}

impl Coverage {
    pub(super) fn new(scan: ScanShape, factor: usize) -> Self {
        Self { scan, factor, corners: Image::zeros((scan.rows * factor + 2, scan.cols * factor + 2)) }
    }

    /// Adds the rectangle of one image.
    pub(super) fn add(&mut self, shift: [f64; 2], weight: f64) {
        let rows = ends(self.scan.rows, self.factor, shift[0]);
        let cols = ends(self.scan.cols, self.factor, shift[1]);
        for (r, along_rows) in rows {
            for (c, along_cols) in cols {
                self.corners[[r, c]] += weight * along_rows * along_cols;
            }
        }
    }

    /// The sum of weights over each output pixel, `[scan rows * f, scan cols * f]`.
    pub(super) fn finish(&self) -> Image {
        let mut sums = self.corners.clone();
        let (rows, cols) = sums.dim();
        for mut row in sums.rows_mut() {
            let mut sum = 0.0;
            row.iter_mut().for_each(|v| {
                sum += *v;
                *v = sum;
            });
        }
        for r in 1..rows {
            let (above, mut row) = sums.multi_slice_mut((s![r - 1, ..], s![r, ..]));
            row += &above;
        }
        sums.slice_move(s![..rows - 2, ..cols - 2])
    }
}

/// The differences of the profile of one axis: `(index, difference)` of the rising and of the falling end, each
/// shared between two pixels by its fraction. Output pixel `j` reaches from `j` to `j + 1` here.
fn ends(n: usize, factor: usize, shift: f64) -> [(usize, f64); 4] {
    let (f, n) = (factor as f64, n as f64);
    let place = |scan_position: f64| {
        let at = (f * scan_position + 0.5).clamp(0.0, f * n);
        (at as usize, at.fract())
    };
    let ((first, t), (last, u)) = (place(shift - 0.5), place(shift + n - 0.5));
    [(first, 1.0 - t), (first + 1, t), (last, u - 1.0), (last + 1, -u)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The overlap of two intervals.
    fn overlap(a: (f64, f64), b: (f64, f64)) -> f64 {
        (a.1.min(b.1) - a.0.max(b.0)).max(0.0)
    }

    proptest! {
        #[test]
        fn the_running_sum_of_corners_is_the_sum_of_rectangles(
            rows in 1usize..7, cols in 1usize..7, f in 1usize..5,
            shifts in prop::collection::vec((-9.0..9.0f64, -9.0..9.0f64), 1..6),
        ) {
            let scan = ScanShape::new(rows, cols);
            let mut coverage = Coverage::new(scan, f);
            let mut expected = Image::zeros((rows * f, cols * f));
            let part = |j: usize, n: usize, s: f64| {
                let (j, f) = (j as f64, f as f64);
                overlap((j - 0.5, j + 0.5), (f * (s - 0.5), f * (s + n as f64 - 0.5)))
            };
            for (k, (sy, sx)) in shifts.into_iter().enumerate() {
                let weight = 1.0 + k as f64;
                coverage.add([sy, sx], weight);
                for ((r, c), sum) in expected.indexed_iter_mut() {
                    *sum += weight * part(r, rows, sy) * part(c, cols, sx);
                }
            }
            let found = coverage.finish();
            prop_assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-11));
        }
    }
}
