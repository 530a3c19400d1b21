//! Fourier tile merge: every sample is spread with the ideal interpolating kernel of the finer grid.
//!
//! With `I_k[n]` a sample of the object `O` at `n + s_k` and `F_k(q)` the spectrum of `I_k` on the `N` frequencies of
//! the scan, continued periodically (tiled) to the `f N` frequencies `Q` of the output, `-f/2 <= Q < f/2` in cycles
//! per scan pixel, the merged spectrum is the plain average over the `K` images
//!
//! `G(Q) = 1/K Σ_k F_k(Q mod 1) exp(-2πi Q·s_k)`.
//!
//! `F_k(Q) = Σ_m O(Q + m) exp(2πi (Q + m)·s_k)` with whole numbers `m` (the aliases), therefore
//!
//! `G(Q) = Σ_m O(Q + m) w(m)`, `w(m) = 1/K Σ_k exp(2πi m·s_k)`, `w(0) = 1`:
//!
//! the aliases unfold as far as the sub-pixel parts of the shifts are spread evenly. `w(m)` vanishes exactly when they
//! cover a regular `f × f` raster of phases; for the disk of a defocused probe it is below a percent, so that solving
//! the `f² × f²` system of `w` instead of averaging changes nothing that can be measured. In real space the average is
//! `1/K Σ_k Σ_n I_k[n] D(r - n - s_k)` with the Dirichlet kernel `D(x) = 1/N Σ_Q cos 2πQx` along each axis (so the
//! factor at the Nyquist frequency of an even grid is the real `cos πfs`).
//!
//! **Mean.** Means are removed before, hence a detail of the object whose period is exactly one scan pixel, which is
//! an alias of the mean, is lost. **Edges.** Transforms are periodic. The grid is padded with zeros so that no sample
//! wraps around to the opposite edge, and the result is divided by the weight that covers each pixel. Measured against a
//! known object, this keeps more of the outermost tenth of the image (Pearson correlation 0.97) than fading the images
//! out over 2, 4 or 8 pixels (0.96, 0.94, 0.91) and is as good inside. **Noise.** Beyond the information limit
//! `2 k_max` (in cycles per scan pixel: scan step times `2 α / λ`) the result is noise only: see
//! [`finish`](FourierMerge::finish).
//!
//! The spectrum of a real image is Hermitian, so only output columns `0 ..= f N/2` are summed. They are independent of
//! each other: several callers may work on different [bands](FourierMerge::bands) of them, and the result does not
//! depend on the bands. Sums may be single precision: over 800 images that changed no pixel by more than 4e-7 of
//! the brightness.

#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]

use std::ops::Range;

use num_complex::Complex;

use super::coverage::Coverage;
use super::gain;
use crate::axes::{Image, Sample, ScanShape};
use crate::kernel::fft2::Fft2;
use crate::kernel::forward::fast_len;
use crate::kernel::real::Real;
use crate::kernel::simd::dispatch;

mod side_bands;

pub use side_bands::{Circle, SideBands};

/// Below this part of the total weight a pixel at the edge fades to the mean instead of being divided further up.
const LEAST_COVERAGE: f64 = 0.1;
/// Scan pixels of pad beyond the largest shift, in which the ringing of the edges decays.
const RINGING: f64 = 2.0;

/// The geometry of a Fourier merge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FourierGrid {
    scan: ScanShape,
    factor: usize,
    padded: ScanShape,
    /// `None`: the object itself is periodic.
    max_shift: Option<f64>,
}

impl FourierGrid {
    /// An output `factor` times finer than the scan, for shifts of at most `max_shift` scan pixels along each axis.
    ///
    /// # Panics
    /// When `factor` is 0, the scan empty or `max_shift` not a finite number.
    pub fn new(scan: ScanShape, factor: usize, max_shift: f64) -> Self {
        assert!(max_shift.is_finite(), "a largest shift of {max_shift}");
        let pad = (max_shift.abs() + RINGING).ceil() as usize;
        let padded = ScanShape::new(fast_len(scan.rows + pad), fast_len(scan.cols + pad));
        Self { padded, max_shift: Some(max_shift.abs()), ..Self::periodic(scan, factor) }
    }

    /// The same for an object that repeats itself beyond the scan: no pad, any shift.
    ///
    /// # Panics
    /// When `factor` is 0 or the scan empty.
    pub fn periodic(scan: ScanShape, factor: usize) -> Self {
        assert!(factor > 0 && !scan.is_empty(), "a {scan} scan upscaled by {factor}");
        Self { scan, factor, padded: scan, max_shift: None }
    }

    /// The scan with its pad at the end of each axis.
    pub fn padded(self) -> ScanShape {
        self.padded
    }

    /// The padded scan on the output's grid.
    fn fine(self) -> ScanShape {
        ScanShape::new(self.padded.rows * self.factor, self.padded.cols * self.factor)
    }

    /// Columns of the half spectrum that is summed.
    pub fn lines(self) -> usize {
        self.fine().cols / 2 + 1
    }

    /// Numbers that one column of the half spectrum takes: all real parts, then all imaginary parts.
    pub fn line_len(self) -> usize {
        2 * self.fine().rows
    }

    /// Whether images with this shift can be merged.
    fn allows(self, shift: [f64; 2]) -> bool {
        shift.iter().all(|s| s.is_finite() && self.max_shift.is_none_or(|max| s.abs() <= max))
    }
}

/// `Q` in cycles per scan pixel at an index of an axis of `padded * factor` frequencies.
fn frequency(index: usize, padded: usize, factor: usize) -> f64 {
    let n = padded * factor;
    let signed = if 2 * index < n { index as f64 } else { index as f64 - n as f64 };
    signed / padded as f64
}

/// The phase factors that shift an image, on the frequencies of the output.
#[derive(Debug, Clone)]
pub struct Phases<T: Real> {
    grid: FourierGrid,
    shift: [f64; 2],
    /// Real and imaginary parts for each output row.
    rows: [Vec<T>; 2],
    /// One for each summed output column.
    cols: Vec<Complex<T>>,
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

/// One detector pixel's image, transformed, with the phase factors of its shift. Its buffers are used again.
#[derive(Debug)]
pub struct ShiftedSpectrum<T: Real> {
    grid: FourierGrid,
    fft: Fft2<T>,
    phases: Phases<T>,
    weight: f64,
    mean: f64,
    /// Transposed: `[col, row]` of the padded scan.
    spectrum: Vec<Complex<T>>,
    work: Vec<Complex<T>>,
    scratch: Vec<Complex<T>>,
}

impl<T: Real> ShiftedSpectrum<T> {
    /// Buffers for images of the grid's scan; `fft` must be planned for [`FourierGrid::padded`].
    ///
    /// # Panics
    /// When `fft` has another shape.
    pub fn new(grid: FourierGrid, fft: &Fft2<T>) -> Self {
        assert_eq!(fft.shape(), grid.padded, "a transform of another shape");
        let zeros = || vec![Complex::default(); grid.padded.len()];
        Self {
            grid,
            fft: fft.clone(),
            phases: Phases::new(grid),
            weight: 0.0,
            mean: 0.0,
            spectrum: zeros(),
            work: zeros(),
            scratch: vec![Complex::default(); fft.scratch_len()],
        }
    }

    /// Takes an image (`[scan row, scan col]`), the shift to apply to it (`[row, col]`, scan pixels) and its
    /// statistical weight. `false`, and nothing to be added, when its mean is not above zero, its weight not a positive
    /// number, or its shift beyond what the grid was made for.
    ///
    /// # Panics
    /// When the image has not the size of the scan.
    pub fn load<S: Sample>(&mut self, image: &[S], shift: [f64; 2], weight: f64) -> bool {
        let (scan, padded) = (self.grid.scan, self.grid.padded);
        assert_eq!(image.len(), scan.len(), "image of a wrong size");
        self.weight = 0.0;
        let Some(mean) = gain(image).filter(|_| weight > 0.0 && weight.is_finite()) else { return false };
        if !self.phases.set(shift) {
            return false;
        }
        (self.weight, self.mean) = (weight, mean);
        self.work.fill(Complex::default());
        let work = &mut self.work;
        dispatch(
            #[inline(always)]
            || {
                for (to, from) in work.chunks_exact_mut(padded.cols).zip(image.chunks_exact(scan.cols)) {
                    for (z, sample) in to.iter_mut().zip(from) {
                        z.re = T::round_from(weight * (sample.to_f64() / mean - 1.0));
                    }
                }
            },
        );
        self.fft.forward(&mut self.work, &mut self.spectrum, &mut self.scratch);
        true
    }

    /// The statistical weight of the loaded image; 0 where nothing is to be added.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// The factors of the loaded image's shift.
    pub fn phases(&self) -> &Phases<T> {
        &self.phases
    }
}

/// A band of columns of the half spectrum, with its sums.
#[derive(Debug)]
pub struct Band<'a, T: Real> {
    grid: FourierGrid,
    limit: Option<Circle>,
    lines: Range<usize>,
    sum: &'a mut [T],
    turned: [Vec<T>; 2],
}

impl<T: Real> Band<'_, T> {
    /// Adds one image to this band. Every image must be added to every band in the same order, and
    /// [noted](FourierMerge::note) once.
    pub fn add(&mut self, image: &ShiftedSpectrum<T>) {
        self.add_at(image, &image.phases);
    }

    /// As [`add`](Self::add), with another shift than the image was loaded with.
    pub fn add_at(&mut self, image: &ShiftedSpectrum<T>, phases: &Phases<T>) {
        let (grid, limit) = (self.grid, self.limit);
        let whole = 0..self.grid.line_len() / 2;
        self.add_rows(image, phases, |line| limit.map_or([whole.clone(), 0..0], |circle| circle.runs(grid, line)));
    }

    /// As [`add`](Self::add), only the frequencies within a circle.
    pub fn add_within(&mut self, image: &ShiftedSpectrum<T>, circle: &Circle) {
        let grid = self.grid;
        self.add_rows(image, &image.phases, |line| circle.runs(grid, line));
    }

    /// Adds the rows that `runs` says for each line.
    fn add_rows(&mut self, image: &ShiftedSpectrum<T>, phases: &Phases<T>, runs: impl Fn(usize) -> [Range<usize>; 2]) {
        if image.weight > 0.0 {
            dispatch(
                #[inline(always)]
                || self.add_lines(image, phases, runs),
            );
        }
    }

    #[inline(always)]
    fn add_lines(&mut self, image: &ShiftedSpectrum<T>, phases: &Phases<T>, runs: impl Fn(usize) -> [Range<usize>; 2]) {
        let (rows, len) = (self.grid.padded.rows, self.grid.line_len());
        let [turned_re, turned_im] = &mut self.turned;
        for (line, sum) in self.lines.clone().zip(self.sum.chunks_exact_mut(len)) {
            let runs = runs(line);
            if runs.iter().all(Range::is_empty) {
                continue;
            }
            let col = line % self.grid.padded.cols;
            let phase = phases.cols[line];
            let from = &image.spectrum[col * rows..][..rows];
            let (turned_re, turned_im) = (&mut turned_re[..rows], &mut turned_im[..rows]);
            for i in 0..rows {
                turned_re[i] = from[i].re * phase.re - from[i].im * phase.im;
                turned_im[i] = from[i].re * phase.im + from[i].im * phase.re;
            }
            let (sum_re, sum_im) = sum.split_at_mut(len / 2);
            for run in runs {
                // The spectrum repeats itself every `rows` rows.
                let mut first = run.start;
                while first < run.end {
                    let end = run.end.min((first / rows + 1) * rows);
                    let (at, from) = (first..end, first % rows..first % rows + (end - first));
                    add_product(
                        &mut sum_re[at.clone()],
                        &mut sum_im[at.clone()],
                        (&turned_re[from.clone()], &turned_im[from]),
                        (&phases.rows[0][at.clone()], &phases.rows[1][at]),
                    );
                    first = end;
                }
            }
        }
    }
}

/// `sum += a b` for complex numbers in separate real and imaginary parts, which compilers vectorise.
#[inline(always)]
fn add_product<T: Real>(re: &mut [T], im: &mut [T], a: (&[T], &[T]), b: (&[T], &[T])) {
    let n = re.len();
    let (im, a, b) = (&mut im[..n], (&a.0[..n], &a.1[..n]), (&b.0[..n], &b.1[..n]));
    for i in 0..n {
        re[i] = re[i] + (a.0[i] * b.0[i] - a.1[i] * b.1[i]);
        im[i] = im[i] + (a.0[i] * b.1[i] + a.1[i] * b.0[i]);
    }
}

/// The sum over all images, in the Fourier domain.
#[derive(Debug)]
pub struct FourierMerge<T: Real> {
    grid: FourierGrid,
    /// Only frequencies in here are summed.
    limit: Option<Circle>,
    sum: Vec<T>,
    coverage: Coverage,
    weight: f64,
    mean: f64,
    images: usize,
}

impl<T: Real> FourierMerge<T> {
    /// An empty sum of `lines * line_len` numbers.
    pub fn new(grid: FourierGrid) -> Self {
        let sum = vec![T::zero(); grid.lines() * grid.line_len()];
        let coverage = Coverage::new(grid.scan, grid.factor);
        Self { grid, limit: None, sum, coverage, weight: 0.0, mean: 0.0, images: 0 }
    }

    /// An empty sum of only the frequencies up to `limit` (cycles per scan pixel), for a
    /// [`finish`](Self::finish) with no higher limit.
    pub fn within(grid: FourierGrid, limit: Option<f64>) -> Self {
        // A little more, so that rounding leaves nothing out.
        let limit = limit.map(|limit| Circle { center: [0.0; 2], radius: limit * (1.0 + 1e-9) });
        Self { limit, ..Self::new(grid) }
    }

    /// Adds one image: [`note`](Self::note) and all bands.
    pub fn add(&mut self, image: &ShiftedSpectrum<T>) {
        self.note(image);
        self.bands(self.grid.lines()).for_each(|mut band| band.add(image));
    }

    /// Counts an image that is added to the bands one by one.
    pub fn note(&mut self, image: &ShiftedSpectrum<T>) {
        self.note_at(image, &image.phases);
    }

    /// As [`note`](Self::note), for an image that is added with [another shift](Band::add_at).
    pub fn note_at(&mut self, image: &ShiftedSpectrum<T>, phases: &Phases<T>) {
        if image.weight > 0.0 {
            self.weight += image.weight;
            self.mean += image.mean;
            self.images += 1;
            self.coverage.add(phases.shift, image.weight);
        }
    }

    /// Adds the sum over other images on the same grid.
    ///
    /// # Panics
    /// When the grids differ.
    pub fn absorb(&mut self, other: &Self) {
        assert_eq!(self.grid, other.grid, "sums of different grids");
        self.sum.iter_mut().zip(&other.sum).for_each(|(a, b)| *a = *a + *b);
        self.coverage.absorb(&other.coverage);
        self.weight += other.weight;
        self.mean += other.mean;
        self.images += other.images;
    }

    /// The sums as bands of `lines` columns (the last may have less), which may be filled at once.
    ///
    /// # Panics
    /// When `lines` is 0.
    pub fn bands(&mut self, lines: usize) -> impl Iterator<Item = Band<'_, T>> {
        let (grid, limit) = (self.grid, self.limit);
        self.sum.chunks_mut(lines * grid.line_len()).enumerate().map(move |(k, sum)| Band {
            grid,
            limit,
            lines: k * lines..k * lines + sum.len() / grid.line_len(),
            sum,
            turned: [(); 2].map(|()| vec![T::zero(); grid.padded.rows]),
        })
    }

    /// Images added so far.
    pub fn images(&self) -> usize {
        self.images
    }

    /// How many images cover each output pixel, weighted: the number of images where all do, less towards the edges.
    /// `[scan rows * f, scan cols * f]`.
    pub fn effective_images(&self) -> Image {
        let per_weight = if self.weight > 0.0 { self.images as f64 / self.weight } else { 0.0 };
        self.coverage.finish().mapv_into(|cover| cover.max(0.0) * per_weight)
    }

    /// The merged image `[scan rows * f, scan cols * f]`, in the units of the images: its mean is the mean of their
    /// means. Frequencies above `limit` (cycles per scan pixel) are left out. Without any image all is zero.
    pub fn finish(&self, limit: Option<f64>) -> Image {
        let grid = self.grid;
        if self.images == 0 {
            return Image::zeros((grid.scan.rows * grid.factor, grid.scan.cols * grid.factor));
        }
        // f² restores the level, as a sample now covers f² pixels.
        let mut image = grid.image(&self.sum, limit, 1.0 / (grid.padded.len() as f64 * self.weight));
        if grid.max_shift.is_some() {
            let coverage = self.coverage.finish();
            image.zip_mut_with(&coverage, |v, cover| *v /= (cover / self.weight).max(LEAST_COVERAGE));
        }
        let (offset, mean) = (image.sum() / image.len() as f64, self.mean / self.images as f64);
        image.mapv_into(|v| mean * (1.0 + v - offset))
    }
}

impl FourierGrid {
    /// The real image of a half spectrum times `scale`, without the pad.
    fn image<T: Real>(self, half: &[T], limit: Option<f64>, scale: f64) -> Image {
        let fine = self.fine();
        let shape = (self.scan.rows * self.factor, self.scan.cols * self.factor);
        let fft = Fft2::<T>::new(fine);
        let mut spectrum = self.spectrum(half, limit);
        let mut merged = vec![Complex::default(); fine.len()];
        fft.inverse(&mut spectrum, &mut merged, &mut vec![Complex::default(); fft.scratch_len()]);
        drop(spectrum);
        Image::from_shape_fn(shape, |(r, c)| merged[r * fine.cols + c].re.widen() * scale)
    }

    /// The whole spectrum from its half, transposed: `[col, row]`.
    fn spectrum<T: Real>(self, half: &[T], limit: Option<f64>) -> Vec<Complex<T>> {
        let fine = self.fine();
        let mut spectrum = vec![Complex::default(); fine.len()];
        for (c, line) in spectrum.chunks_exact_mut(fine.rows).enumerate() {
            let mirrored = c >= self.lines();
            let from = if mirrored { fine.cols - c } else { c };
            let (re, im) = half[from * self.line_len()..][..self.line_len()].split_at(fine.rows);
            let q_col = frequency(c, self.padded.cols, self.factor);
            for (r, z) in line.iter_mut().enumerate() {
                let q_row = frequency(r, self.padded.rows, self.factor);
                if limit.is_none_or(|limit| q_row.hypot(q_col) <= limit) {
                    let at = if mirrored { (fine.rows - r) % fine.rows } else { r };
                    *z = Complex::new(re[at], if mirrored { -im[at] } else { im[at] });
                }
            }
        }
        spectrum
    }
}

#[cfg(test)]
mod tests;
