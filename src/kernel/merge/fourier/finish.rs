//! From sums in the Fourier domain to images. Single large images: all threads of the pool work on each.

use ndarray::Zip;
use num_complex::Complex;
use rayon::prelude::*;

use super::{FourierGrid, FourierMerge, frequency};
use crate::axes::Image;
use crate::kernel::fft2::Fft2;
use crate::kernel::real::Real;
use crate::memory::Numbers;

/// Below this part of the total weight a pixel at the edge fades to the mean instead of being divided further up.
const LEAST_COVERAGE: f64 = 0.1;

/// The images of two half-sets of detector pixels, and of both together.
#[derive(Debug)]
pub struct Halves {
    /// Of all images.
    pub image: Image,
    /// How many images cover each output pixel, weighted: the number of images where all do, less towards the edges.
    pub weights: Image,
    /// Of each half alone.
    pub halves: [Image; 2],
}

impl<T: Real> FourierMerge<T> {
    /// The merged image `[scan rows * f, scan cols * f]`, in the units of the images: its mean is the mean of their
    /// means. Frequencies above `limit` (cycles per scan pixel) are left out. Without any image all is zero.
    pub fn finish(&self, limit: Option<f64>) -> Image {
        let [image, _] = self.grid.images(limit, |line, row| [self.at(line, row), Complex::default()]);
        self.levelled(image, &self.coverage.finish())
    }

    /// As [`finish`](Self::finish), of two sums over different images on one grid, and of both together. One transform
    /// makes them all, for the images are real and the sum of both is the sum of their images.
    ///
    /// # Panics
    /// When the grids differ.
    pub fn finish_halves(halves: &[Self; 2], limit: Option<f64>) -> Halves {
        let [a, b] = halves;
        assert_eq!(a.grid, b.grid, "sums of different grids");
        let [image_a, image_b] = a.grid.images(limit, |line, row| [a.at(line, row), b.at(line, row)]);
        let (cover_a, cover_b) = rayon::join(|| a.coverage.finish(), || b.coverage.finish());
        let cover = &cover_a + &cover_b;
        let all = Totals { weight: a.weight + b.weight, mean: a.mean + b.mean, images: a.images + b.images };
        let image = all.levelled(a.grid, &image_a + &image_b, &cover);
        let (half_a, half_b) = rayon::join(|| a.levelled(image_a, &cover_a), || b.levelled(image_b, &cover_b));
        let per_weight = if all.weight > 0.0 { all.images as f64 / all.weight } else { 0.0 };
        let weights = cover.mapv_into(|cover| cover.max(0.0) * per_weight);
        Halves { image, weights, halves: [half_a, half_b] }
    }

    pub(super) fn at(&self, line: usize, row: usize) -> Complex<T> {
        let at = line * self.grid.line_len() + row;
        Complex::new(self.sum[at], self.sum[at + self.grid.fine().rows])
    }

    fn levelled(&self, image: Image, cover: &Image) -> Image {
        Totals { weight: self.weight, mean: self.mean, images: self.images }.levelled(self.grid, image, cover)
    }
}

/// What a sum is made of.
struct Totals {
    weight: f64,
    mean: f64,
    images: usize,
}

impl Totals {
    /// The image of a sum in the units of the images.
    fn levelled(&self, grid: FourierGrid, mut image: Image, cover: &Image) -> Image {
        if self.images == 0 {
            image.fill(0.0);
            return image;
        }
        let scale = 1.0 / self.weight;
        if grid.max_shift.is_some() {
            uncover(&mut image, cover, self.weight);
        }
        image *= scale;
        let (offset, mean) = (image.sum() / image.len() as f64, self.mean / self.images as f64);
        image.mapv_into(|v| mean * (1.0 + v - offset))
    }
}

/// Divides by the part of the total weight that covers each pixel.
pub(super) fn uncover(image: &mut Image, cover: &Image, weight: f64) {
    Zip::from(image).and(cover).for_each(|v, cover| *v /= (cover / weight).max(LEAST_COVERAGE));
}

impl FourierGrid {
    /// The real images of two half spectra, without the pad: `of(line, row)` are the numbers of both at a place of the half
    /// spectrum. They travel through one transform as real and imaginary part. Frequencies above `limit` are left out.
    pub(super) fn images<T: Real>(
        self,
        limit: Option<f64>,
        of: impl Fn(usize, usize) -> [Complex<T>; 2] + Sync,
    ) -> [Image; 2] {
        let fine = self.fine();
        let mut spectrum = Numbers::<Complex<T>>::zeroed(fine.len());
        let squared = limit.map_or(f64::INFINITY, |limit| limit * limit);
        spectrum.par_chunks_mut(fine.rows).enumerate().for_each(|(col, column)| {
            let mirrored = col >= self.lines();
            let line = if mirrored { fine.cols - col } else { col };
            let q_col = frequency(col, self.padded.cols, self.factor);
            for (r, z) in column.iter_mut().enumerate() {
                let q_row = frequency(r, self.padded.rows, self.factor);
                if q_row * q_row + q_col * q_col <= squared {
                    let row = if mirrored { (fine.rows - r) % fine.rows } else { r };
                    let [a, b] = of(line, row);
                    let [a, b] = if mirrored { [a.conj(), b.conj()] } else { [a, b] };
                    *z = Complex::new(a.re - b.im, a.im + b.re);
                }
            }
        });
        let mut merged = Numbers::<Complex<T>>::zeroed(fine.len());
        Fft2::<T>::new(fine).inverse_wide(&mut spectrum, &mut merged);
        drop(spectrum);
        let shape = (self.scan.rows * self.factor, self.scan.cols * self.factor);
        // f² restores the level, as a sample now covers f² pixels.
        let scale = 1.0 / self.padded.len() as f64;
        let part = |of: fn(&Complex<T>) -> T| {
            let mut image = Image::zeros(shape);
            let rows = image.as_slice_mut().unwrap_or_default().par_chunks_mut(shape.1.max(1));
            rows.zip(merged.par_chunks(fine.cols)).for_each(|(out, row)| {
                out.iter_mut().zip(row).for_each(|(v, z)| *v = of(z).widen() * scale);
            });
            image
        };
        [part(|z| z.re), part(|z| z.im)]
    }
}
