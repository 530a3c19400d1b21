//! Two-dimensional transforms over the scan, with a transposed intermediate layout.
//!
//! The forward transform leaves the spectrum transposed (`[col, row]`) and the inverse starts from there, so that a
//! round trip needs two transposes instead of four. Everything between the two works on the transposed layout.

use std::sync::Arc;

use num_complex::Complex;
use rayon::prelude::*;
use rustfft::{Fft, FftPlanner};

use crate::axes::ScanShape;
use crate::kernel::real::Real;
use crate::kernel::transpose::{transpose, transpose_band};

/// Lines that one thread takes at a time when all work on one image.
const STRIP: usize = 32;

/// A planned transform of one scan shape. Clones share the tables; threads may share a plan.
#[derive(Clone)]
pub struct Fft2<T: Real> {
    shape: ScanShape,
    along_row: Arc<dyn Fft<T>>,
    along_col: Arc<dyn Fft<T>>,
    along_row_back: Arc<dyn Fft<T>>,
    along_col_back: Arc<dyn Fft<T>>,
}

impl<T: Real> std::fmt::Debug for Fft2<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fft2({}, {})", self.shape, T::DTYPE)
    }
}

impl<T: Real> Fft2<T> {
    /// Plans transforms of images of this shape.
    pub fn new(shape: ScanShape) -> Self {
        let mut planner = FftPlanner::new();
        Self {
            shape,
            along_row: planner.plan_fft_forward(shape.cols),
            along_col: planner.plan_fft_forward(shape.rows),
            along_row_back: planner.plan_fft_inverse(shape.cols),
            along_col_back: planner.plan_fft_inverse(shape.rows),
        }
    }

    /// The shape of the images.
    pub fn shape(&self) -> ScanShape {
        self.shape
    }

    /// Complex numbers of scratch that both directions need.
    pub fn scratch_len(&self) -> usize {
        [&self.along_row, &self.along_col, &self.along_row_back, &self.along_col_back]
            .map(|fft| fft.get_inplace_scratch_len())
            .into_iter()
            .max()
            .unwrap_or(0)
    }

    /// Transforms `image` (`[row, col]`, destroyed) into `spectrum` (transposed: `[col, row]`), without a factor.
    ///
    /// # Panics
    /// When a slice is shorter than the shape or the scratch shorter than [`scratch_len`](Self::scratch_len).
    pub fn forward(&self, image: &mut [Complex<T>], spectrum: &mut [Complex<T>], scratch: &mut [Complex<T>]) {
        self.forward_of_rows(self.shape.rows, image, spectrum, scratch);
    }

    /// As [`forward`](Self::forward), for an image whose rows from `rows` on are zero.
    ///
    /// # Panics
    /// As [`forward`](Self::forward), and when there are not so many rows.
    pub fn forward_of_rows(
        &self,
        rows: usize,
        image: &mut [Complex<T>],
        spectrum: &mut [Complex<T>],
        scratch: &mut [Complex<T>],
    ) {
        self.along_row.process_with_scratch(&mut image[..rows * self.shape.cols], scratch);
        transpose(image, spectrum, self.shape.rows, self.shape.cols);
        self.along_col.process_with_scratch(spectrum, scratch);
    }

    /// Transforms `spectrum` (transposed: `[col, row]`, destroyed) back into `image` (`[row, col]`), times `N`: the
    /// caller divides by `rows * cols` where it needs the number, which is cheaper than a pass over the image.
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn inverse(&self, spectrum: &mut [Complex<T>], image: &mut [Complex<T>], scratch: &mut [Complex<T>]) {
        self.along_col_back.process_with_scratch(spectrum, scratch);
        transpose(spectrum, image, self.shape.cols, self.shape.rows);
        self.along_row_back.process_with_scratch(image, scratch);
    }

    /// As [`forward`](Self::forward), by all threads of the pool that this is called in: for single large images. The
    /// numbers are the same.
    ///
    /// # Panics
    /// When a slice is shorter than the shape.
    pub fn forward_wide(&self, image: &mut [Complex<T>], spectrum: &mut [Complex<T>]) {
        let ScanShape { rows, cols } = self.shape;
        lines_wide(&*self.along_row, &mut image[..rows * cols], cols);
        transpose_wide(image, &mut spectrum[..rows * cols], (rows, cols));
        lines_wide(&*self.along_col, spectrum, rows);
    }

    /// As [`inverse`](Self::inverse), by all threads of the pool that this is called in.
    ///
    /// # Panics
    /// When a slice is shorter than the shape.
    pub fn inverse_wide(&self, spectrum: &mut [Complex<T>], image: &mut [Complex<T>]) {
        let ScanShape { rows, cols } = self.shape;
        lines_wide(&*self.along_col_back, &mut spectrum[..rows * cols], rows);
        transpose_wide(spectrum, &mut image[..rows * cols], (cols, rows));
        lines_wide(&*self.along_row_back, image, cols);
    }
}

fn lines_wide<T: Real>(fft: &dyn Fft<T>, lines: &mut [Complex<T>], len: usize) {
    let scratch = || vec![Complex::default(); fft.get_inplace_scratch_len()];
    lines
        .par_chunks_mut((STRIP * len).max(1))
        .for_each_init(scratch, |scratch, strip| fft.process_with_scratch(strip, scratch));
}

fn transpose_wide<T: Copy + Send + Sync>(input: &[T], out: &mut [T], (rows, cols): (usize, usize)) {
    let strips = out.par_chunks_mut((STRIP * rows).max(1)).enumerate();
    strips.for_each(|(i, strip)| transpose_band(&input[..rows * cols], strip, (rows, cols), i * STRIP));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The sum as it is defined.
    fn naive(image: &[Complex<f64>], shape: ScanShape) -> Vec<Complex<f64>> {
        let mut out = vec![Complex::default(); image.len()];
        for u in 0..shape.rows {
            for v in 0..shape.cols {
                for r in 0..shape.rows {
                    for c in 0..shape.cols {
                        let turns = (u * r) as f64 / shape.rows as f64 + (v * c) as f64 / shape.cols as f64;
                        out[u * shape.cols + v] +=
                            image[r * shape.cols + c] * Complex::cis(-std::f64::consts::TAU * turns);
                    }
                }
            }
        }
        out
    }

    proptest! {
        #[test]
        fn forward_is_the_definition_and_inverse_undoes_it(rows in 1usize..14, cols in 1usize..80, seed in any::<u32>()) {
            let shape = ScanShape::new(rows, cols);
            let n = shape.len();
            let image: Vec<Complex<f64>> = (0..n)
                .map(|i| Complex::new(((i * 37 + seed as usize) % 101) as f64, ((i * 53 + 5) % 89) as f64))
                .collect();
            let fft = Fft2::<f64>::new(shape);
            // A dirty scratch must not matter.
            let mut scratch = vec![Complex::new(1e9, -7.0); fft.scratch_len()];
            let (mut work, mut spectrum) = (image.clone(), vec![Complex::default(); n]);
            fft.forward(&mut work, &mut spectrum, &mut scratch);
            let expected = naive(&image, shape);
            let scale = expected.iter().map(|z| z.norm()).fold(1.0, f64::max);
            for u in 0..rows {
                for v in 0..cols {
                    prop_assert!((spectrum[v * rows + u] - expected[u * cols + v]).norm() < 1e-13 * scale * n as f64);
                }
            }
            let (mut wide, mut work_wide, mut packed) = (spectrum.clone(), image.clone(), spectrum.clone());
            fft.forward_wide(&mut work_wide, &mut wide);
            prop_assert_eq!(&wide, &spectrum);
            fft.inverse_wide(&mut wide, &mut work_wide);
            fft.inverse(&mut spectrum, &mut work, &mut scratch);
            prop_assert_eq!(&work_wide, &work);
            let filled = rows / 2;
            work_wide.copy_from_slice(&image);
            work_wide[filled * cols..].fill(Complex::default());
            let mut whole = work_wide.clone();
            fft.forward_of_rows(filled, &mut work_wide, &mut packed, &mut scratch);
            fft.forward(&mut whole, &mut wide, &mut scratch);
            prop_assert_eq!(&packed, &wide);
            for (z, z0) in work.iter().zip(&image) {
                prop_assert!((z / n as f64 - z0).norm() < 1e-11);
            }
        }
    }
}
