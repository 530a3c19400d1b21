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
/// Rows of a spectrum that are turned together: what they are read from lies in whole lines of the processor's cache.
const BAND: usize = 16;

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

/// Power density over the two frequencies, zero in the middle: counts² per (cycle per scan pixel)², the same for any
/// number of pixels per scan position.
#[derive(Debug)]
pub(super) struct Spectrum {
    power: Image,
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
        let mut work = Numbers::<Complex<f32>>::zeroed(rows * cols);
        work.par_chunks_exact_mut(cols).zip(&down).enumerate().for_each_init(
            || vec![0.0; cols],
            |values, (r, (work, down))| {
                copy(r, values);
                dispatch(
                    #[inline(always)]
                    || {
                        for ((work, value), across) in work.iter_mut().zip(&*values).zip(&across) {
                            let weighted = (value - mean) * down * across;
                            work.re = if value.is_finite() { weighted as f32 } else { 0.0 };
                        }
                    },
                );
            },
        );
        let mut spectrum = Numbers::zeroed(work.len());
        Fft2::<f32>::new(shape).forward_wide(&mut work, &mut spectrum);
        drop(work);
        let squares = |window: &[f64]| window.iter().map(|w| w * w).sum::<f64>();
        let factor = step * step / (squares(&down) * squares(&across));
        // The transform leaves rows and columns exchanged; zero frequency goes to N / 2.
        let from = |i: usize, n: usize| (i + n - n / 2) % n;
        let mut power = Image::zeros((rows, cols));
        let bands = power.as_slice_mut().unwrap_or_default();
        bands.par_chunks_mut(BAND * cols).enumerate().for_each(|(band, power)| {
            for c in 0..cols {
                let line = &spectrum[from(c, cols) * rows..][..rows];
                for (k, power) in power[c..].iter_mut().step_by(cols).enumerate() {
                    let value = line[from(band * BAND + k, rows)];
                    *power = (f64::from(value.re).powi(2) + f64::from(value.im).powi(2)) * factor;
                }
            }
        });
        Self { power, step }
    }

    /// Mean over rings of equal frequency (cycles per scan pixel), up to the lower of the two Nyquist frequencies.
    pub(super) fn rotational_mean(&self) -> Vec<Point> {
        let (rows, cols) = self.power.dim();
        let rings = (rows.max(cols) / 2).clamp(1, MOST_RINGS);
        let width = 0.5 / self.step / rings as f64;
        let mut sums = vec![(0.0, 0usize); rings];
        let squares = |length: usize| (0..length).map(|i| self.frequency(i, length).powi(2)).collect::<Vec<_>>();
        let (down, across) = (squares(rows), squares(cols));
        let mut of_line = vec![0u32; cols];
        for (line, down) in self.power.outer_iter().zip(&down) {
            // A number beyond all rings for the zero frequency.
            dispatch(
                #[inline(always)]
                || {
                    for (ring, across) in of_line.iter_mut().zip(&across) {
                        let q = (down + across).sqrt();
                        *ring = if q > 0.0 { (q / width) as u32 } else { u32::MAX };
                    }
                },
            );
            for (power, ring) in line.iter().zip(&of_line) {
                if let Some((sum, count)) = sums.get_mut(*ring as usize) {
                    *sum += power;
                    *count += 1;
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
        let (rows, cols) = self.power.dim();
        let (down, across) = (self.bins(rows, side, limit), self.bins(cols, side, limit));
        let mut view = Image::from_elem((side, side), f64::NAN);
        let lines = view.as_slice_mut().unwrap_or_default().par_chunks_mut(side.max(1)).zip(&down);
        lines.for_each_init(
            || vec![0.0; cols],
            |sums, (line, down)| {
                let Some(down) = down else { return };
                sums.fill(0.0);
                for power in self.power.slice(ndarray::s![down.clone(), ..]).outer_iter() {
                    sums.iter_mut().zip(power).for_each(|(sum, power)| *sum += power);
                }
                for (pixel, across) in line.iter_mut().zip(&across) {
                    let Some(across) = across else { continue };
                    let mean = sums[across.clone()].iter().sum::<f64>() / (down.len() * across.len()) as f64;
                    *pixel = mean.max(f64::MIN_POSITIVE).log10();
                }
            },
        );
        view
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
mod tests {
    use super::*;

    fn spectrum(image: &Image, step: f64) -> Spectrum {
        let (rows, cols) = image.dim();
        let image = Sampled::whole(image);
        Spectrum::of(ScanShape::new(rows, cols), step, |row, out| image.copy(row, 0, out))
    }

    /// A wave of `down` and `across` cycles per scan pixel, sampled every `step`.
    fn wave(rows: usize, cols: usize, step: f64, down: f64, across: f64) -> Image {
        let turn = std::f64::consts::TAU;
        Image::from_shape_fn((rows, cols), |(r, c)| 5.0 + (turn * step * (down * r as f64 + across * c as f64)).cos())
    }

    #[test]
    fn a_wave_is_bright_at_its_frequency_whatever_the_sampling() {
        for (rows, cols, step) in [(64, 64, 1.0), (256, 256, 0.25), (300, 120, 0.25), (60, 31, 1.0)] {
            let view = spectrum(&wave(rows, cols, step, 0.25, -0.125), step).view(160, 2.0);
            let brightest = view.indexed_iter().filter(|(_, v)| v.is_finite()).max_by(|a, b| a.1.total_cmp(b.1));
            let ((r, c), _) = brightest.unwrap();
            // 40 pixels per cycle; the spectrum of a real image is symmetric.
            let (r, c) = (r as f64 + 0.5 - 80.0, c as f64 + 0.5 - 80.0);
            let (r, c) = if r < 0.0 { (-r, -c) } else { (r, c) };
            assert!((r - 10.0).abs() < 2.0 && (c + 5.0).abs() < 2.0, "{rows}×{cols}: {r} {c}");
        }
    }

    #[test]
    fn frequencies_that_the_image_does_not_have_are_no_numbers() {
        let view = spectrum(&wave(32, 48, 1.0, 0.2, 0.2), 1.0).view(100, 2.0);
        let known = view.iter().filter(|v| v.is_finite()).count();
        assert!((20 * 20..=28 * 28).contains(&known), "a quarter of each side, not {known} pixels");
        assert!(view[[50, 50]].is_finite() && view[[50, 5]].is_nan());
    }

    #[test]
    fn the_density_of_white_noise_does_not_depend_on_the_sampling() {
        // A multiplicative generator is noise enough.
        let mut state = 1u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1u64 << 31) as f64 - 0.5
        };
        for step in [1.0, 0.25] {
            let spectrum = spectrum(&Image::from_shape_simple_fn((128, 96), &mut noise), step);
            let mean = spectrum.rotational_mean();
            assert!((mean[mean.len() - 1][0] * step - 0.5).abs() < 0.02);
            let average = mean.iter().map(|p| p[1]).sum::<f64>() / mean.len() as f64;
            let expected = step * step / 12.0;
            assert!((average / expected - 1.0).abs() < 0.15, "{average} {expected}");
        }
    }

    #[test]
    fn images_of_one_row_without_contrast_or_with_nan_have_spectra() {
        for (rows, cols, value) in [(1, 7, 1.0), (7, 1, 1.0), (1, 1, 3.0), (4, 4, f64::NAN), (4, 4, f64::MAX)] {
            let spectrum = spectrum(&Image::from_elem((rows, cols), value), 1.0);
            assert_eq!(spectrum.view(10, 0.5).dim(), (10, 10));
            assert!(spectrum.rotational_mean().len() <= MOST_RINGS);
        }
    }

    #[test]
    fn every_pixel_of_the_view_is_the_mean_of_its_frequencies() {
        let spectrum = spectrum(&wave(96, 70, 0.5, 0.3, 0.1), 0.5);
        let (view, limit) = (spectrum.view(50, 1.2), 1.2);
        let (down, across) = (spectrum.bins(96, 50, limit), spectrum.bins(70, 50, limit));
        for ((r, c), value) in view.indexed_iter() {
            let (Some(rows), Some(cols)) = (&down[r], &across[c]) else {
                assert!(value.is_nan());
                continue;
            };
            let mean = spectrum.power.slice(ndarray::s![rows.clone(), cols.clone()]).mean().unwrap();
            assert!((value - mean.max(f64::MIN_POSITIVE).log10()).abs() < 1e-9, "{r} {c}");
        }
    }
}
