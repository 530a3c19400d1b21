//! Power spectra of the standard and the super-resolved image on common axes.

use std::ops::Range;

use ndarray::ArrayView2;
use num_complex::Complex;
use rayon::prelude::*;

use super::canvas::Point;
use super::run::RunResults;
use crate::axes::{Image, ScanShape};
use crate::kernel::fft2::Fft2;
use crate::kernel::simd::dispatch;
use crate::memory::Numbers;

/// Pixels along a side at most that are transformed: a picture shows no more, and the memory stays small.
const MOST: usize = 1024;
const MOST_RINGS: usize = 160;
/// A central part of the scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) row: usize,
    pub(super) col: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Window {
    /// The middle of the scan, at most `most` positions along each side.
    pub(super) fn central(scan: ScanShape, most: usize) -> Self {
        let most = most.max(1);
        let (rows, cols) = (scan.rows.min(most), scan.cols.min(most));
        Self { row: (scan.rows - rows) / 2, col: (scan.cols - cols) / 2, rows, cols }
    }
}

/// Both spectra of one run.
#[derive(Debug)]
pub(super) struct Spectra {
    pub(super) standard: Spectrum,
    pub(super) superres: Spectrum,
}

impl Spectra {
    /// Of a run and its [`sampled`] image.
    pub(super) fn of(run: &RunResults, superres: &Sampled<'_>) -> Self {
        let window = Window::central(run.scan, MOST / run.upscale);
        let part = |image: &Sampled<'_>, times: usize| {
            let (row, col) = (window.row * times, window.col * times);
            let shape = ScanShape::new(window.rows * times, window.cols * times);
            Spectrum::of(shape, 1.0 / times as f64, |r, out| image.copy(row + r, col, out))
        };
        let standard = Sampled::whole(&run.standard_bf);
        let (superres, standard) = rayon::join(|| part(superres, run.upscale), || part(&standard, 1));
        Self { standard, superres }
    }
}

/// The super-resolved image, NaN where no sample fell.
#[derive(Debug)]
pub(super) struct Sampled<'a> {
    image: ArrayView2<'a, f64>,
    /// Where some pixels are empty.
    weights: Option<ArrayView2<'a, f64>>,
}

impl<'a> Sampled<'a> {
    /// Of a run; `None` where the image does not belong to the scan.
    pub(super) fn of(run: &'a RunResults) -> Option<Self> {
        let (scan, times) = (run.scan, run.upscale);
        let fits = run.standard_bf.dim() == (scan.rows, scan.cols)
            && times > 0
            && run.superres_image.dim() == (scan.rows * times, scan.cols * times)
            && !scan.is_empty();
        let some = || run.weights.dim() == run.superres_image.dim() && run.weights.iter().any(|w| *w > 0.0);
        let weights = (fits && some()).then(|| run.weights.view());
        fits.then(|| Self { image: run.superres_image.view(), weights })
    }

    /// All pixels, empty or not.
    pub(super) fn whole(image: &'a Image) -> Self {
        Self { image: image.view(), weights: None }
    }

    /// Rows and columns.
    pub(super) fn dim(&self) -> (usize, usize) {
        self.image.dim()
    }

    /// One pixel.
    pub(super) fn at(&self, row: usize, col: usize) -> f64 {
        let empty = self.weights.as_ref().is_some_and(|weights| weights[[row, col]] <= 0.0);
        if empty { f64::NAN } else { self.image[[row, col]] }
    }

    /// Pixels of a row from `col` on.
    fn copy(&self, row: usize, col: usize, out: &mut [f64]) {
        let range = ndarray::s![row, col..col + out.len()];
        let mut out = ndarray::aview_mut1(out);
        out.assign(&self.image.slice(range));
        if let Some(weights) = &self.weights {
            let known = |value: f64, weight: f64| if weight <= 0.0 { f64::NAN } else { value };
            out.zip_mut_with(&weights.slice(range), |value, weight| *value = known(*value, *weight));
        }
    }
}

/// Power density over the two frequencies: counts² per (cycle per scan pixel)², the same for any number of pixels per scan
/// position.
#[derive(Debug)]
pub(super) struct Spectrum {
    /// For each column frequency from 0 up, those of the rows, zero in the middle. An image is real: its power at the opposite
    /// of both frequencies is the same.
    half: Numbers<f64>,
    /// Rows and columns of the image.
    shape: ScanShape,
    /// Width of a pixel in scan pixels.
    step: f64,
}

impl Spectrum {
    /// Of an image less its mean, under a Hann window; what is no number counts as the mean. `copy` gives the values of a
    /// row.
    fn of(shape: ScanShape, step: f64, copy: impl Fn(usize, &mut [f64]) + Sync) -> Self {
        let ScanShape { rows, cols } = shape;
        let of_rows = (0..rows).into_par_iter().map_init(
            || vec![0.0; cols],
            |values, r| {
                copy(r, values);
                dispatch(
                    #[inline(always)]
                    || finite_sum(values),
                )
            },
        );
        let of_rows: Vec<_> = of_rows.collect();
        let (sum, count) = of_rows.iter().fold((0.0, 0), |(sum, count), row| (sum + row.0, count + row.1));
        let mean = sum / count.max(1) as f64;
        let (down, across) = (hann(rows), hann(cols));
        let weigh = |row: usize, values: &mut [f64]| {
            copy(row, values);
            dispatch(
                #[inline(always)]
                || {
                    for (value, across) in values.iter_mut().zip(&across) {
                        let weighted = (*value - mean) * down[row] * across;
                        *value = if value.is_finite() { weighted } else { 0.0 };
                    }
                },
            );
        };
        let squares = |window: &[f64]| window.iter().map(|w| w * w).sum::<f64>();
        let factor = step * step / (squares(&down) * squares(&across));
        let half = half_power(shape, weigh, factor);
        Self { half, shape, step }
    }

    /// The column frequency of the line with this number, and how many columns of the whole spectrum have its power.
    fn line(&self, number: usize) -> (f64, usize) {
        let cols = self.shape.cols;
        let alone = number == 0 || 2 * number == cols;
        (number as f64 / (cols as f64 * self.step), if alone { 1 } else { 2 })
    }

    /// Mean over rings of equal frequency (cycles per scan pixel), up to the lower of the two Nyquist frequencies.
    pub(super) fn rotational_mean(&self) -> Vec<Point> {
        let ScanShape { rows, cols } = self.shape;
        let rings = (rows.max(cols) / 2).clamp(1, MOST_RINGS);
        let width = 0.5 / self.step / rings as f64;
        let mut sums = vec![(0.0, 0usize); rings];
        let down: Vec<f64> = (0..rows).map(|row| self.frequency(row, rows).powi(2)).collect();
        let mut of_line = vec![0u32; rows];
        for (number, line) in self.half.chunks_exact(rows.max(1)).enumerate() {
            let (across, columns) = self.line(number);
            // A number beyond all rings for the zero frequency.
            dispatch(
                #[inline(always)]
                || {
                    for (ring, down) in of_line.iter_mut().zip(&down) {
                        let q = (down + across * across).sqrt();
                        *ring = if q > 0.0 { (q / width) as u32 } else { u32::MAX };
                    }
                },
            );
            for (power, ring) in line.iter().zip(&of_line) {
                if let Some((sum, count)) = sums.get_mut(*ring as usize) {
                    *sum += power * columns as f64;
                    *count += columns;
                }
            }
        }
        let filled = sums.into_iter().enumerate().filter(|(_, (_, count))| *count > 0);
        filled.map(|(ring, (sum, count))| [(ring as f64 + 0.5) * width, sum / count as f64]).collect()
    }

    fn frequency(&self, index: usize, length: usize) -> f64 {
        (index as f64 - (length / 2) as f64) / (length as f64 * self.step)
    }

    /// Logarithm of the power on `side` × `side` pixels from `-limit` to `limit` cycles per scan pixel on both axes;
    /// NaN where the image has no such frequency.
    pub(super) fn view(&self, side: usize, limit: f64) -> Image {
        let ScanShape { rows, cols } = self.shape;
        let (down, across) = (self.bins(rows, side, limit), self.bins(cols, side, limit));
        let line = |number: usize| &self.half[number * rows..(number + 1) * rows];
        let middle = cols / 2;
        // Column by column of the picture, along the lines.
        let mut turned = Image::from_elem((side, side), f64::NAN);
        let pixels = turned.as_slice_mut().unwrap_or_default().par_chunks_mut(side.max(1)).zip(&across);
        pixels.for_each_init(
            || [vec![0.0; rows], vec![0.0; rows]],
            |[sums, opposite], (pixels, across)| {
                let Some(across) = across else { return };
                sums.fill(0.0);
                opposite.fill(0.0);
                for col in across.clone() {
                    let (sums, number) =
                        if col >= middle { (&mut *sums, col - middle) } else { (&mut *opposite, middle - col) };
                    sums.iter_mut().zip(line(number)).for_each(|(sum, power)| *sum += power);
                }
                (0..rows).for_each(|row| sums[row] += opposite[opposite_row(row, rows)]);
                for (pixel, down) in pixels.iter_mut().zip(&down) {
                    let Some(down) = down else { continue };
                    let mean = sums[down.clone()].iter().sum::<f64>() / (down.len() * across.len()) as f64;
                    *pixel = mean.max(f64::MIN_POSITIVE).log10();
                }
            },
        );
        turned.reversed_axes()
    }

    /// Which of `length` frequencies each of `side` pixels shows.
    fn bins(&self, length: usize, side: usize, limit: f64) -> Vec<Option<Range<usize>>> {
        let place = |pixel: usize| {
            let frequency = (2.0 * pixel as f64 / side as f64 - 1.0) * limit;
            // Boundaries of bins lie half a bin beside their frequencies.
            frequency * length as f64 * self.step + (length / 2) as f64 + 0.5
        };
        (0..side)
            .map(|pixel| {
                let (low, high) = (place(pixel), place(pixel + 1));
                let middle = 0.5 * (low + high);
                if middle < 0.0 || middle >= length as f64 {
                    return None;
                }
                let first = (low.round().max(0.0) as usize).min(length);
                let last = (high.round().max(0.0) as usize).min(length);
                // Where a pixel is narrower than a bin: the bin that it lies in.
                let one = middle as usize;
                Some(if first < last && high - low > 1.0 { first..last } else { one..one + 1 })
            })
            .collect()
    }
}

/// Where in a line the opposite of a row's frequency lies. An even number of rows has the lowest one only once.
fn opposite_row(row: usize, rows: usize) -> usize {
    (2 * (rows / 2) + rows - row) % rows
}

/// The power of a real image times `factor`, for each column frequency from 0 up those of the rows, zero in the middle. `copy`
/// gives the values of a row.
///
/// Two neighbouring rows are the real and the imaginary part of one: half as much to transform, as if they were two images of
/// half the height, from which the spectrum of the whole one follows.
fn half_power(shape: ScanShape, copy: impl Fn(usize, &mut [f64]) + Sync, factor: f64) -> Numbers<f64> {
    let ScanShape { rows, cols } = shape;
    let together = if rows.is_multiple_of(2) { 2 } else { 1 };
    let height = rows / together;
    let mut work = Numbers::<Complex<f32>>::zeroed(height * cols);
    work.par_chunks_exact_mut(cols).enumerate().for_each_init(
        || [vec![0.0; cols], vec![0.0; cols]],
        |[even, odd], (row, work)| {
            copy(row * together, even);
            if together == 2 {
                copy(row * together + 1, odd);
            }
            work.iter_mut().zip(even.iter().zip(&*odd)).for_each(|(z, (a, b))| *z = Complex::new(*a as f32, *b as f32));
        },
    );
    let mut packed = Numbers::<Complex<f32>>::zeroed(work.len());
    Fft2::<f32>::new(ScanShape::new(height, cols)).forward_wide(&mut work, &mut packed);
    drop(work);
    let turn = -std::f64::consts::TAU / rows as f64;
    let turns: Vec<Complex<f32>> = (0..height).map(|k| Complex::from_polar(1.0, turn * k as f64)).map(narrow).collect();
    // The transform leaves rows and columns exchanged.
    let line = |col: usize| &packed[col * height..][..height];
    let mut half = Numbers::<f64>::zeroed((cols / 2 + 1) * rows);
    half.par_chunks_exact_mut(rows).enumerate().for_each(|(col, out)| {
        let (here, opposite) = (line(col), line((cols - col) % cols));
        // Zero frequency goes to N / 2.
        let power = |z: Complex<f32>| (f64::from(z.re).powi(2) + f64::from(z.im).powi(2)) * factor;
        if together == 1 {
            out.iter_mut().enumerate().for_each(|(row, out)| *out = power(here[(row + rows - rows / 2) % rows]));
            return;
        }
        let (first, second) = out.split_at_mut(height);
        // Row frequencies k and k + N / 2: N / 2 + k and k in the line.
        let mirrored = opposite[..1].iter().chain(opposite[1..].iter().rev());
        let numbers = here.iter().zip(mirrored).zip(&turns);
        for ((low, high), ((z, w), turn)) in second.iter_mut().zip(first).zip(numbers) {
            let even = (z + w.conj()) * 0.5;
            let odd = (z - w.conj()) * Complex::new(0.0, -0.5) * turn;
            (*low, *high) = (power(even + odd), power(even - odd));
        }
    });
    half
}

fn narrow(z: Complex<f64>) -> Complex<f32> {
    Complex::new(z.re as f32, z.im as f32)
}

/// Sum and number of the finite values, added up in as many parts as a register holds.
#[inline(always)]
#[expect(clippy::inline_always, reason = "what is not inlined is not compiled for this processor")]
fn finite_sum(values: &[f64]) -> (f64, usize) {
    let (mut sums, mut counts) = ([0.0; 8], [0u64; 8]);
    for values in values.chunks(8) {
        for ((sum, count), value) in sums.iter_mut().zip(&mut counts).zip(values) {
            let finite = value.is_finite();
            *sum += if finite { *value } else { 0.0 };
            *count += u64::from(finite);
        }
    }
    (sums.iter().sum(), counts.iter().sum::<u64>() as usize)
}

fn hann(length: usize) -> Vec<f64> {
    let turn = std::f64::consts::TAU / length as f64;
    (0..length).map(|i| 0.5 * (1.0 - (turn * (i as f64 + 0.5)).cos())).collect()
}

#[cfg(test)]
mod tests;
