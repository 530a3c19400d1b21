//! Images on their way into a sum: transformed, with the phase factors of their shifts.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use num_complex::Complex;

use super::{FourierGrid, frequency};
use crate::axes::{Sample, ScanShape};
use crate::kernel::fft2::Fft2;
use crate::kernel::merge::gain;
use crate::kernel::real::Real;
use crate::kernel::simd::dispatch;

/// The phase factors that shift an image, on the frequencies of the output.
#[derive(Debug, Clone)]
pub struct Phases<T: Real> {
    grid: FourierGrid,
    pub(super) shift: [f64; 2],
    /// Real and imaginary parts for each output row.
    pub(super) rows: [Vec<T>; 2],
    /// One for each summed output column.
    pub(super) cols: Vec<Complex<T>>,
}

impl<T: Real> Phases<T> {
    /// Buffers for the shifts of a grid.
    pub fn new(grid: FourierGrid) -> Self {
        let rows = [(); 2].map(|()| vec![T::zero(); grid.fine().rows]);
        Self { grid, shift: [0.0; 2], rows, cols: vec![Complex::default(); grid.lines()] }
    }

    /// Makes the factors of a shift to apply (`[row, col]`, scan pixels). `false`, and nothing changed, when it is beyond
    /// what the grid was made for.
    pub fn set(&mut self, shift: [f64; 2]) -> bool {
        if !self.grid.allows(shift) {
            return false;
        }
        self.shift = shift;
        let padded = self.grid.padded;
        for index in 0..self.rows[0].len() {
            let z = self.factor(index, padded.rows, shift[0]);
            (self.rows[0][index], self.rows[1][index]) = (z.re, z.im);
        }
        for index in 0..self.cols.len() {
            self.cols[index] = self.factor(index, padded.cols, shift[1]);
        }
        true
    }

    fn factor(&self, index: usize, padded: usize, shift: f64) -> Complex<T> {
        let (sin, cos) = (std::f64::consts::TAU * frequency(index, padded, self.grid.factor) * shift).sin_cos();
        let nyquist = 2 * index == padded * self.grid.factor;
        Complex::new(T::round_from(cos), T::round_from(if nyquist { 0.0 } else { -sin }))
    }
}

/// An image that is to be merged.
#[derive(Debug, Clone, Copy)]
pub struct Shifted<'a, S> {
    /// `[scan row, scan col]`.
    pub image: &'a [S],
    /// The shift to apply, `[row, col]` in scan pixels.
    pub shift: [f64; 2],
    /// Its statistical weight.
    pub weight: f64,
}

/// One detector pixel's image, transformed, with the phase factors of its shift. Its buffers are used again.
#[derive(Debug)]
pub struct ShiftedSpectrum<T: Real> {
    pub(super) grid: FourierGrid,
    pub(super) phases: Phases<T>,
    pub(super) weight: f64,
    pub(super) mean: f64,
    /// Real and imaginary parts, transposed: `[col, row]` of the padded scan.
    pub(super) spectrum: [Vec<T>; 2],
}

impl<T: Real> ShiftedSpectrum<T> {
    /// Buffers for images of the grid's scan.
    pub fn new(grid: FourierGrid) -> Self {
        let spectrum = [(); 2].map(|()| vec![T::zero(); grid.padded.len()]);
        Self { grid, phases: Phases::new(grid), weight: 0.0, mean: 0.0, spectrum }
    }

    /// The shape of the images.
    pub fn scan(&self) -> ScanShape {
        self.grid.scan
    }

    /// The statistical weight of the loaded image; 0 where nothing is to be added.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// The factors of the loaded image's shift.
    pub fn phases(&self) -> &Phases<T> {
        &self.phases
    }

    /// Notes an image, and says by which number its samples are to be multiplied. `None`, and nothing to be added, when its
    /// mean is not above zero, its weight not a positive number, or its shift beyond what the grid was made for.
    fn note<S: Sample>(&mut self, item: &Shifted<'_, S>) -> Option<f64> {
        self.weight = 0.0;
        let mean = gain(item.image).filter(|_| item.weight > 0.0 && item.weight.is_finite())?;
        if !self.phases.set(item.shift) {
            return None;
        }
        (self.weight, self.mean) = (item.weight, mean);
        Some(item.weight / mean)
    }
}

/// Transforms images, two at a time: one in the real part, the other in the imaginary part.
#[derive(Debug)]
pub struct Loader<T: Real> {
    grid: FourierGrid,
    fft: Fft2<T>,
    work: Vec<Complex<T>>,
    /// Transposed.
    packed: Vec<Complex<T>>,
    scratch: Vec<Complex<T>>,
}

impl<T: Real> Loader<T> {
    /// Buffers for images of the grid's scan; `fft` must be planned for [`FourierGrid::padded`].
    ///
    /// # Panics
    /// When `fft` has another shape.
    pub fn new(grid: FourierGrid, fft: &Fft2<T>) -> Self {
        assert_eq!(fft.shape(), grid.padded, "a transform of another shape");
        let zeros = || vec![Complex::default(); grid.padded.len()];
        let scratch = vec![Complex::default(); fft.scratch_len()];
        Self { grid, fft: fft.clone(), work: zeros(), packed: zeros(), scratch }
    }

    /// Loads a pair of images. One that cannot be used (`None`, a mean that is not above zero, a weight that is not a
    /// positive number, a shift beyond what the grid was made for) leaves a [weight](ShiftedSpectrum::weight) of 0.
    ///
    /// # Panics
    /// When an image has not the size of the scan.
    pub fn load<S: Sample>(&mut self, pair: [Option<Shifted<'_, S>>; 2], out: [&mut ShiftedSpectrum<T>; 2]) {
        let [a, b] = out;
        let Self { grid, fft, work, packed, scratch } = self;
        work.fill(Complex::default());
        for (part, (item, out)) in pair.into_iter().zip([&mut *a, &mut *b]).enumerate() {
            let Some(item) = item else {
                out.weight = 0.0;
                continue;
            };
            assert_eq!(item.image.len(), grid.scan.len(), "image of a wrong size");
            if let Some(scale) = out.note(&item) {
                dispatch(
                    #[inline(always)]
                    || fill(work, item.image, (grid.padded.cols, grid.scan.cols), part, (scale, item.weight)),
                );
            }
        }
        fft.forward_of_rows(grid.scan.rows, work, packed, scratch);
        dispatch(
            #[inline(always)]
            || unpack(packed, grid.padded, &mut a.spectrum, &mut b.spectrum),
        );
    }
}

/// `scale · sample - weight` into the real (`part` 0) or imaginary parts.
#[inline(always)]
fn fill<S: Sample, T: Real>(
    work: &mut [Complex<T>],
    image: &[S],
    (padded, cols): (usize, usize),
    part: usize,
    (scale, weight): (f64, f64),
) {
    for (to, from) in work.chunks_exact_mut(padded).zip(image.chunks_exact(cols)) {
        for (z, sample) in to.iter_mut().zip(from) {
            let value = T::round_from(scale * sample.to_f64() - weight);
            if part == 0 {
                z.re = value;
            } else {
                z.im = value;
            }
        }
    }
}

/// The spectra of the two images of a packed pair, `A(q) = (Z(q) + Z*(-q)) / 2` and `B(q) = (Z(q) - Z*(-q)) / 2i`.
#[inline(always)]
fn unpack<T: Real>(packed: &[Complex<T>], shape: ScanShape, a: &mut [Vec<T>; 2], b: &mut [Vec<T>; 2]) {
    let half = T::round_from(0.5);
    let rows = shape.rows;
    let ([a_re, a_im], [b_re, b_im]) = (a, b);
    for col in 0..shape.cols {
        let (at, mirrored) = (col * rows, (shape.cols - col) % shape.cols * rows);
        let (line, mirror) = (&packed[at..at + rows], &packed[mirrored..mirrored + rows]);
        let (a_re, a_im) = (&mut a_re[at..at + rows], &mut a_im[at..at + rows]);
        let (b_re, b_im) = (&mut b_re[at..at + rows], &mut b_im[at..at + rows]);
        let one = |z: Complex<T>, m: Complex<T>| {
            [half * (z.re + m.re), half * (z.im - m.im), half * (z.im + m.im), half * (m.re - z.re)]
        };
        [a_re[0], a_im[0], b_re[0], b_im[0]] = one(line[0], mirror[0]);
        // The others from the end, in a loop that compilers vectorise.
        let n = rows - 1;
        let (line, mirror) = (&line[1..][..n], &mirror[1..][..n]);
        let (a_re, a_im) = (&mut a_re[1..][..n], &mut a_im[1..][..n]);
        let (b_re, b_im) = (&mut b_re[1..][..n], &mut b_im[1..][..n]);
        for i in 0..n {
            [a_re[i], a_im[i], b_re[i], b_im[i]] = one(line[i], mirror[n - 1 - i]);
        }
    }
}
